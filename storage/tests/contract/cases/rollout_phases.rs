//! Deployments that begin on some devices first, that are paused, and whose devices try again.

use storage::{
    AlertLevel, ConnectionChange, Deployment, DeploymentFilter, DeploymentId, DeploymentState, DeviceId, DeviceState,
    Direction, Epoch, GoingOn, NewDeployment, NewPhase, NodeId, Offer, Plan, Poll, Safety, SetStatus, StateReported,
    Steered, Storage, Targets, Timestamp,
};

use super::alerts::{alert, report};
use super::artifacts::kept;
use super::connections::change;
use super::deployments::{NOW, counted, found, ids, make, new, offered, poll, says, told};
use crate::backends::{TestDatabase, stored_device};
use crate::random::Random;

fn of(devices: u64) -> NewPhase {
    NewPhase { devices: Some(devices), ..NewPhase::default() }
}

fn at(devices: u64, starts: Timestamp) -> NewPhase {
    NewPhase { starts: Some(starts), ..of(devices) }
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1_000_000)
}

fn planned(devices: &[DeviceId], plan: Plan) -> NewDeployment {
    NewDeployment { plan, ..new("app-1", Targets::Devices(ids(devices))) }
}

async fn phased(storage: &Storage, devices: &[DeviceId], phases: Vec<NewPhase>) -> DeploymentId {
    make(&storage.deployments, &planned(devices, Plan { phases, ..Plan::default() })).await
}

async fn some_devices(storage: &Storage, count: usize) -> Vec<DeviceId> {
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    (0..count).map(|_| DeviceId::random()).collect()
}

async fn opened(storage: &Storage, now: Timestamp) -> Vec<DeploymentId> {
    storage.deployments.open_due(now).await.expect("an answer")
}

async fn going_on(storage: &Storage, id: DeploymentId) -> GoingOn {
    let all = storage.deployments.going_on().await.expect("an answer");
    all.into_iter().find(|one| one.id == id).expect("it goes on")
}

/// How many devices of each phase were told.
fn told_in_phases(deployment: &Deployment) -> Vec<u64> {
    deployment.phases.iter().map(|phase| phase.counts.all()).collect()
}

pub async fn a_phase_opens_when_the_one_before_is_over(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = some_devices(storage, 5).await;
    let id = phased(storage, &devices, vec![of(2), of(1), of(2)]).await;
    assert_eq!(told(storage, devices[4]).await, Some(id));
    assert_eq!(told(storage, devices[1]).await, Some(id));
    // The places are taken; who has one keeps it.
    assert_eq!(told(storage, devices[2]).await, None);
    assert_eq!(told(storage, devices[4]).await, Some(id));
    let before = going_on(storage, id).await;
    assert!(!before.is_open && before.has_more_phases);

    says(storage, id, devices[4], DeviceState::Success).await;
    assert_eq!(opened(storage, NOW).await, []);
    says(storage, id, devices[1], DeviceState::Failure).await;
    assert_eq!(opened(storage, NOW).await, [id]);
    assert_eq!(opened(storage, NOW).await, []);
    let after = going_on(storage, id).await;
    assert!(after.is_open && after.openings == before.openings + 1, "{after:?}");
    assert_eq!(told(storage, devices[2]).await, Some(id));
    assert_eq!(told(storage, devices[0]).await, None);
    says(storage, id, devices[2], DeviceState::AlreadyInstalled).await;
    assert_eq!(opened(storage, NOW).await, [id]);
    assert!(!going_on(storage, id).await.has_more_phases);
    for device in [devices[0], devices[3]] {
        assert_eq!(told(storage, device).await, Some(id));
    }
    let now = found(storage, id).await;
    assert_eq!((told_in_phases(&now), now.state), (vec![2, 1, 2], DeploymentState::InProgress));
    assert!(now.phases.iter().all(|phase| phase.opened == Some(NOW)));
    for device in [devices[0], devices[3]] {
        says(storage, id, device, DeviceState::Success).await;
    }
    let now = found(storage, id).await;
    assert_eq!(now.state, DeploymentState::Finished);
    assert_eq!(counted(&now.phases[0].counts), [(DeviceState::Failure, 1), (DeviceState::Success, 1)]);
    assert_eq!(opened(storage, seconds(1000)).await, []);
}

pub async fn a_phase_opens_at_its_time(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = some_devices(storage, 4).await;
    let phases = vec![at(1, seconds(10)), at(1, seconds(20)), at(1, seconds(20)), of(1)];
    let id = phased(storage, &devices, phases).await;
    let listed = async |state| {
        let filter = DeploymentFilter { state: Some(state), ..DeploymentFilter::default() };
        let (found, _) = storage.deployments.list(&filter, Direction::Ascending, 0, 9).await.expect("a list");
        found.into_iter().any(|deployment| deployment.id == id)
    };
    assert!(listed(DeploymentState::Scheduled).await && !listed(DeploymentState::Pending).await);
    assert_eq!(told(storage, devices[0]).await, None);
    assert_eq!(opened(storage, seconds(9)).await, []);
    assert_eq!(opened(storage, seconds(10)).await, [id]);
    assert!(listed(DeploymentState::Pending).await);
    assert_eq!(told(storage, devices[0]).await, Some(id));
    assert_eq!(told(storage, devices[1]).await, None);
    // A time that has come opens a phase though the one before is not over; who was late opens all that is due.
    assert_eq!(opened(storage, seconds(30)).await, [id, id]);
    assert_eq!(told(storage, devices[1]).await, Some(id));
    assert_eq!(told(storage, devices[2]).await, Some(id));
    assert_eq!(told(storage, devices[3]).await, None);
    // What has no time waits for the one before, and for nothing else.
    says(storage, id, devices[2], DeviceState::Success).await;
    assert_eq!(opened(storage, seconds(30)).await, [id]);
    assert_eq!(told(storage, devices[3]).await, Some(id));
    // One that is aborted before its time never begins.
    let never = phased(storage, &devices, vec![at(4, seconds(50))]).await;
    storage.deployments.abort(never, seconds(40)).await.expect("an answer");
    assert_eq!(opened(storage, seconds(60)).await, []);
    assert_eq!(found(storage, never).await.state, DeploymentState::Finished);
}

pub async fn too_many_failures_pause_a_deployment(database: &TestDatabase) {
    use DeviceState::{Downloading, Failure, Success};
    let storage = &database.storage;
    let devices = some_devices(storage, 9).await;
    let safety = Safety { max_failed_percent: Some(25), ..Safety::default() };
    let plan = Plan { phases: vec![of(8), of(1)], safety, ..Plan::default() };
    let id = make(&storage.deployments, &planned(&devices, plan)).await;
    for device in &devices[..7] {
        assert_eq!(told(storage, *device).await, Some(id));
    }
    says(storage, id, devices[6], Downloading).await;
    for device in &devices[..2] {
        says(storage, id, *device, Failure).await;
    }
    assert_eq!(found(storage, id).await.paused, None);
    says(storage, id, devices[2], Failure).await;
    let pause = found(storage, id).await.paused.expect("paused");
    assert_eq!(pause.since, NOW);
    assert_eq!(pause.reason, "in phase 1, more than 25 % (3 of 8 devices) failed");
    // Nobody is told anything new, also nobody who was told and has not begun; who has begun goes on.
    for device in [devices[3], devices[7]] {
        assert_eq!(told(storage, device).await, None);
    }
    assert_eq!(told(storage, devices[6]).await, Some(id));
    assert_eq!(says(storage, id, devices[6], Success).await, StateReported::Written);
    assert!(!going_on(storage, id).await.is_open);

    // Who resumes it has seen three failures: there may be two more.
    assert_eq!(storage.deployments.resume(id, seconds(1)).await.expect("an answer"), Steered::Done);
    for device in [devices[3], devices[7]] {
        assert_eq!(told(storage, device).await, Some(id));
        says(storage, id, device, Failure).await;
    }
    assert_eq!(found(storage, id).await.paused, None);
    says(storage, id, devices[4], Failure).await;
    assert!(found(storage, id).await.paused.is_some());
    // A phase that is over does not open the next while it is paused.
    says(storage, id, devices[5], Success).await;
    assert_eq!(opened(storage, NOW).await, []);
    assert_eq!(storage.deployments.resume(id, seconds(2)).await.expect("an answer"), Steered::Done);
    assert_eq!(opened(storage, NOW).await, [id]);
    assert_eq!(told(storage, devices[8]).await, Some(id));
    says(storage, id, devices[8], Success).await;
    let now = found(storage, id).await;
    assert_eq!((now.state, now.paused), (DeploymentState::Finished, None));
}

pub async fn failures_count_without_phases_too(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = some_devices(storage, 3).await;
    let safety = Safety { max_failed: Some(0), ..Safety::default() };
    let plan = Plan { safety, ..Plan::default() };
    let named = make(&storage.deployments, &planned(&devices, plan.clone())).await;
    assert_eq!(told(storage, devices[0]).await, Some(named));
    says(storage, named, devices[0], DeviceState::Failure).await;
    let pause = found(storage, named).await.paused.expect("paused");
    assert_eq!(pause.reason, "in the deployment, more than 0 devices (1) failed");
    assert_eq!(found(storage, named).await.safety, safety);
    storage.deployments.abort(named, NOW).await.expect("an answer");

    let dynamic = NewDeployment { plan, ..new("app-1", Targets::Dynamic { max_devices: 0 }) };
    let dynamic = make(&storage.deployments, &dynamic).await;
    let other = stored_device(storage, 100, SetStatus::Accepted).await.id;
    let passes = [dynamic];
    assert!(matches!(offered(storage, Poll { passes: &passes, ..poll(other) }).await, Offer::Artifact(..)));
    says(storage, dynamic, other, DeviceState::Failure).await;
    assert!(found(storage, dynamic).await.paused.is_some());
    let another = Poll { passes: &passes, ..poll(stored_device(storage, 101, SetStatus::Accepted).await.id) };
    assert_eq!(offered(storage, another).await, Offer::Nothing);
    storage.deployments.resume(dynamic, NOW).await.expect("an answer");
    assert!(matches!(offered(storage, another).await, Offer::Artifact(..)));
}

pub async fn who_failed_may_try_again(database: &TestDatabase) {
    use DeviceState::{Failure, Pending};
    let storage = &database.storage;
    let devices = some_devices(storage, 1).await;
    let safety = Safety { max_failed: Some(0), ..Safety::default() };
    let id = make(&storage.deployments, &planned(&devices, Plan { retries: 1, safety, ..Plan::default() })).await;
    let one = devices[0];
    let attempts = async || {
        let (rows, _) = storage.deployments.devices(id, &[], 0, 9).await.expect("devices");
        (rows[0].attempts, rows[0].state, rows[0].finished)
    };
    assert_eq!(told(storage, one).await, Some(id));
    says(storage, id, one, DeviceState::Installing).await;
    assert_eq!(says(storage, id, one, Failure).await, StateReported::Written);
    assert_eq!(attempts().await, (1, Pending, None));
    // That it says so again is no second failure.
    assert_eq!(says(storage, id, one, Failure).await, StateReported::Written);
    assert_eq!(attempts().await, (1, Pending, None));
    assert_eq!(counted(&found(storage, id).await.counts), [(Pending, 1)]);
    // It may have changed since; what it says then is what counts.
    let changed = Poll { artifact_name: "older", provides: Some([3; 32]), ..poll(one) };
    assert!(matches!(offered(storage, changed).await, Offer::Artifact(told, _) if told == id));
    assert!(matches!(offered(storage, changed).await, Offer::Artifact(..)));
    says(storage, id, one, Failure).await;
    assert_eq!(attempts().await, (1, Failure, Some(NOW)));
    let now = found(storage, id).await;
    assert_eq!((now.state, now.total_size), (DeploymentState::Finished, 100));
    // A device that contradicts itself does not try again.
    let id = make(&storage.deployments, &planned(&devices, Plan { retries: 5, ..Plan::default() })).await;
    assert_eq!(told(storage, one).await, Some(id));
    assert_eq!(offered(storage, changed).await, Offer::Contradiction);
    assert_eq!(found(storage, id).await.state, DeploymentState::Finished);
}

pub async fn an_operator_pauses_and_resumes(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = some_devices(storage, 2).await;
    let deployments = &storage.deployments;
    let pause = async |id| deployments.pause(id, "to look", NOW).await.expect("an answer");
    let resume = async |id| deployments.resume(id, NOW).await.expect("an answer");
    let unknown = DeploymentId::random();
    assert_eq!((pause(unknown).await, resume(unknown).await), (Steered::Unknown, Steered::Unknown));
    let id = phased(storage, &devices, vec![]).await;
    assert_eq!(resume(id).await, Steered::Unchanged);
    assert_eq!((pause(id).await, pause(id).await), (Steered::Done, Steered::Unchanged));
    assert_eq!(found(storage, id).await.paused.expect("paused").reason, "to look");
    assert_eq!(told(storage, devices[0]).await, None);
    let openings = going_on(storage, id).await.openings;
    assert_eq!(resume(id).await, Steered::Done);
    assert_eq!(going_on(storage, id).await.openings, openings + 1);
    assert_eq!(told(storage, devices[0]).await, Some(id));
    pause(id).await;
    deployments.abort(id, NOW).await.expect("an answer");
    assert_eq!((pause(id).await, resume(id).await), (Steered::Finished, Steered::Finished));
    assert_eq!(found(storage, id).await.paused, None);
}

pub async fn a_newer_deployment_does_not_wait_for_a_phase(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = some_devices(storage, 2).await;
    kept(storage, "app-2", &["rpi4"], &[2]).await;
    let old = phased(storage, &devices, vec![of(1), of(1)]).await;
    assert_eq!(told(storage, devices[0]).await, Some(old));
    let newer = make(&storage.deployments, &new("app-2", Targets::Devices(ids(&devices)))).await;
    assert_eq!(told(storage, devices[1]).await, Some(newer));
    says(storage, newer, devices[1], DeviceState::Success).await;
    // It does not go back to the old one, which does not wait for it either.
    assert_eq!(told(storage, devices[1]).await, None);
    let now = found(storage, old).await;
    assert_eq!(counted(&now.counts), [(DeviceState::Aborted, 1), (DeviceState::Pending, 1)]);
    let (rows, _) = storage.deployments.devices(old, &[DeviceState::Aborted], 0, 9).await.expect("devices");
    assert_eq!(rows[0].substate, "a newer deployment came first");
    let last = storage.deployments.last_statuses(&ids(&devices[1..])).await.expect("statuses");
    assert_eq!((last[0].deployment, last[0].state), (newer, DeviceState::Success));
    says(storage, old, devices[0], DeviceState::Success).await;
    assert_eq!(found(storage, old).await.state, DeploymentState::Finished);
    assert_eq!(told(storage, devices[0]).await, Some(newer));
}

pub async fn a_newer_deployment_does_not_wait_for_a_paused_one(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = some_devices(storage, 2).await;
    kept(storage, "app-2", &["rpi4"], &[2]).await;
    let old = phased(storage, &devices, vec![]).await;
    for device in &devices {
        assert_eq!(told(storage, *device).await, Some(old));
    }
    says(storage, old, devices[0], DeviceState::Installing).await;
    storage.deployments.pause(old, "it is no good", NOW).await.expect("an answer");
    let newer = make(&storage.deployments, &new("app-2", Targets::Devices(ids(&devices)))).await;
    // Who has begun goes on; who has not need not begin.
    assert_eq!(told(storage, devices[0]).await, Some(old));
    assert_eq!(told(storage, devices[1]).await, Some(newer));
    says(storage, newer, devices[1], DeviceState::Success).await;
    storage.deployments.resume(old, NOW).await.expect("an answer");
    assert_eq!(told(storage, devices[1]).await, None);
    says(storage, old, devices[0], DeviceState::Success).await;
    let now = found(storage, old).await;
    assert_eq!(counted(&now.counts), [(DeviceState::Aborted, 1), (DeviceState::Success, 1)]);
    assert_eq!(now.state, DeploymentState::Finished);
}

pub async fn a_device_that_is_removed_before_a_phase_opens_keeps_no_other_waiting(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = some_devices(storage, 3).await;
    let id = phased(storage, &devices, vec![at(2, seconds(10)), of(1)]).await;
    storage.deployments.decommission(&devices[0].to_string(), NOW).await.expect("an answer");
    assert_eq!(opened(storage, seconds(10)).await, [id]);
    assert_eq!(told(storage, devices[1]).await, Some(id));
    assert_eq!(told(storage, devices[2]).await, None);
    says(storage, id, devices[1], DeviceState::Success).await;
    assert_eq!(opened(storage, seconds(11)).await, [id]);
    assert_eq!(told(storage, devices[2]).await, Some(id));
}

pub async fn what_happens_to_a_deployment_is_told(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = some_devices(storage, 2).await;
    let safety = Safety { max_failed: Some(0), ..Safety::default() };
    let plan = Plan { phases: vec![of(1), of(1)], safety, ..Plan::default() };
    let id = make(&storage.deployments, &planned(&devices, plan)).await;
    told(storage, devices[0]).await;
    says(storage, id, devices[0], DeviceState::Failure).await;
    storage.deployments.resume(id, NOW).await.expect("an answer");
    opened(storage, NOW).await;
    told(storage, devices[1]).await;
    says(storage, id, devices[1], DeviceState::Success).await;
    let events = storage.events.after(0, 1000).await.expect("events");
    let of_this = events.iter().filter(|event| event.body["deployment"] == id.to_string());
    let kinds: Vec<&str> = of_this.clone().map(|event| event.kind.as_str()).collect();
    let expected = ["created", "paused", "resumed", "phase-opened", "finished"];
    assert_eq!(kinds, expected.map(|kind| format!("deployment-{kind}")));
    assert!(of_this.clone().all(|event| event.body["name"] == "To app-1"));
    assert!(of_this.clone().any(|event| event.body["reason"] == "in phase 1, more than 0 devices (1) failed"));
}

pub async fn phases_are_filled_whatever_happens(database: &TestDatabase) {
    let storage = &database.storage;
    let mut random = Random::seeded();
    let devices = some_devices(storage, 6).await;
    let mut deployments = vec![];
    let reportable: Vec<DeviceState> = DeviceState::ALL.into_iter().filter(|state| state.may_be_reported()).collect();
    let deployment = &storage.deployments;
    for step in 0..200 {
        let now = seconds(step);
        let device = *random.pick(&devices);
        let random_one = (!deployments.is_empty()).then(|| *random.pick(&deployments));
        match (random.below(14), random_one) {
            (0, _) | (_, None) => {
                let phases = vec![of(1), at(2, seconds(step + 5)), NewPhase::default()];
                let safety = Safety { max_failed: Some(1), ..Safety::default() };
                let plan = Plan { phases, safety, retries: 1 };
                deployments.push(make(deployment, &planned(&devices, plan)).await);
            }
            (1, Some(id)) if random.below(4) == 0 => drop(deployment.abort(id, now).await.expect("an answer")),
            (2, Some(id)) => drop(deployment.pause(id, "perhaps", now).await.expect("an answer")),
            (3 | 4, Some(id)) => drop(deployment.resume(id, now).await.expect("an answer")),
            (5, _) => drop(opened(storage, now).await),
            (6, _) if random.below(4) == 0 => {
                deployment.abort_device(&device.to_string(), now).await.expect("an answer");
            }
            (7, _) if random.below(4) == 0 => {
                deployment.delete_history(&device.to_string(), now).await.expect("an answer");
            }
            (8..=10, Some(id)) => drop(says(storage, id, device, *random.pick(&reportable)).await),
            _ => drop(offered(storage, poll(device)).await),
        }
    }
    for id in deployments {
        let now = found(storage, id).await;
        let sum: u64 = now.counts.all();
        assert!(sum == now.max_devices || now.state == DeploymentState::Finished, "{random}");
        for phase in now.phases {
            assert!(phase.devices.is_none_or(|most| phase.counts.all() <= most), "{random}");
            let told = [DeviceState::Aborted, DeviceState::Decommissioned].map(|state| phase.counts.of(state));
            assert!(phase.opened.is_some() || phase.counts.all() == told.iter().sum::<u64>(), "{random}");
        }
    }
}

async fn stored_devices(storage: &Storage, count: u64) -> Vec<DeviceId> {
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    super::deployments::stored_devices(storage, count).await
}

pub async fn alerts_pause_a_deployment(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = stored_devices(storage, 4).await;
    let safety = Safety { max_alerting: Some(1), ..Safety::default() };
    let plan = Plan { phases: vec![of(3), of(1)], safety, ..Plan::default() };
    // Before it was told.
    report(storage, devices[0], vec![alert(AlertLevel::Critical, "disk", NOW)], NOW).await;
    let id = make(&storage.deployments, &planned(&devices, plan)).await;
    for device in &devices[..3] {
        assert_eq!(told(storage, *device).await, Some(id));
    }
    let watch = async |now| storage.deployments.watch(now).await.expect("an answer");
    assert_eq!(watch(seconds(1)).await, []);
    let at = seconds(2);
    report(storage, devices[0], vec![alert(AlertLevel::Critical, "disk", at)], at).await;
    report(storage, devices[1], vec![alert(AlertLevel::Warning, "disk", at)], at).await;
    report(storage, devices[3], vec![alert(AlertLevel::Critical, "disk", at)], at).await;
    assert_eq!(watch(seconds(3)).await, []);
    // However often one of them says so.
    report(storage, devices[0], vec![alert(AlertLevel::Critical, "heat", seconds(4))], seconds(4)).await;
    assert_eq!(watch(seconds(5)).await, []);
    report(storage, devices[2], vec![alert(AlertLevel::CriticalFlapping, "heat", seconds(5))], seconds(5)).await;
    assert_eq!(watch(seconds(6)).await, [id]);
    assert_eq!(watch(seconds(6)).await, []);
    let pause = found(storage, id).await.paused.expect("paused");
    assert_eq!(pause.reason, "in phase 1, more than 1 devices (2) raised alerts");
    // What an operator has seen does not pause it again.
    storage.deployments.resume(id, seconds(7)).await.expect("an answer");
    report(storage, devices[1], vec![alert(AlertLevel::Critical, "heat", seconds(8))], seconds(8)).await;
    assert_eq!(watch(seconds(9)).await, []);
    assert_eq!(found(storage, id).await.paused, None);
}

pub async fn devices_that_stay_away_pause_a_deployment(database: &TestDatabase) {
    let storage = &database.storage;
    let devices = stored_devices(storage, 3).await;
    let node = NodeId::random();
    let connection = async |device: DeviceId, connected: bool, at: Timestamp| {
        let change = change(device, node, 1, connected, at.0);
        storage.connections.record(&[change]).await.expect("recorded");
    };
    let safety = Safety { max_away: Some(0), away_minutes: Some(10), ..Safety::default() };
    let id = make(&storage.deployments, &planned(&devices, Plan { safety, ..Plan::default() })).await;
    let watch = async |now| storage.deployments.watch(now).await.expect("an answer");
    for device in &devices {
        told(storage, *device).await;
    }
    // One goes before it has begun, one comes back, one is never connected at all.
    for device in &devices[..2] {
        connection(*device, true, NOW).await;
    }
    connection(devices[0], false, seconds(1)).await;
    says(storage, id, devices[1], DeviceState::Rebooting).await;
    says(storage, id, devices[2], DeviceState::Rebooting).await;
    connection(devices[1], false, seconds(2)).await;
    assert_eq!(watch(seconds(601)).await, []);
    assert_eq!(watch(seconds(602)).await, [id]);
    let pause = found(storage, id).await.paused.expect("paused");
    assert_eq!(pause.reason, "in the deployment, more than 0 devices (1) have been away for 10 minutes");
    // What an operator has seen does not pause it again; what goes away later does.
    storage.deployments.resume(id, seconds(700)).await.expect("an answer");
    assert_eq!(watch(seconds(2000)).await, []);
    says(storage, id, devices[0], DeviceState::Installing).await;
    assert_eq!(watch(seconds(2000)).await, []);
    let again = ConnectionChange { epoch: Epoch(2), ..change(devices[0], node, 1, true, seconds(2000).0) };
    storage.connections.record(&[again]).await.expect("recorded");
    let gone = ConnectionChange { connected: false, at: seconds(2001), ..again };
    storage.connections.record(&[gone]).await.expect("recorded");
    assert_eq!(watch(seconds(2600)).await, []);
    assert_eq!(watch(seconds(2601)).await, [id]);
}
