//! Deployments: each device gets what it is to have, in order and once, and the counts are those of the devices.

use storage::{
    Abortion, Alteration, Counts, Creation, Deployment, DeploymentFilter, DeploymentId, DeploymentKind,
    DeploymentState, Deployments, DeviceId, DeviceLog, DeviceState, Direction, NewDeployment, Offer, Plan, Poll,
    Secret, SetStatus, StateReport, StateReported, Storage, Targets, Timestamp,
};

use super::artifacts::kept;
use crate::backends::{TestDatabase, remove, stored_device};
use crate::random::Random;

pub const NOW: Timestamp = Timestamp(5_000_000);

pub fn ids(devices: &[DeviceId]) -> Vec<String> {
    devices.iter().map(ToString::to_string).collect()
}

/// A deployment of a release, equal to none other.
pub fn new(artifact_name: &str, targets: Targets) -> NewDeployment {
    let id = DeploymentId::random();
    let mut fingerprint = [0; 32];
    fingerprint[..16].copy_from_slice(id.uuid().as_bytes());
    NewDeployment {
        id,
        name: format!("To {artifact_name}"),
        artifact_name: artifact_name.to_owned(),
        forced: false,
        targets,
        chosen_by: "[]".to_owned(),
        groups: vec![],
        configuration: None,
        plan: Plan::default(),
        fingerprint,
        at: NOW,
    }
}

pub async fn make(deployments: &Deployments, new: &NewDeployment) -> DeploymentId {
    assert!(matches!(deployments.create(new).await.expect("an answer"), Creation::Made(_)));
    new.id
}

async fn made(storage: &Storage, artifact_name: &str, devices: &[DeviceId]) -> DeploymentId {
    make(&storage.deployments, &new(artifact_name, Targets::Devices(ids(devices)))).await
}

pub fn poll(device: DeviceId) -> Poll<'static> {
    Poll { device, artifact_name: "old", device_type: "rpi4", provides: None, passes: &[], at: NOW }
}

pub async fn offered(storage: &Storage, poll: Poll<'_>) -> Offer {
    storage.deployments.offer(poll).await.expect("an answer")
}

/// Which deployment a device is told of now.
pub async fn told(storage: &Storage, device: DeviceId) -> Option<DeploymentId> {
    match offered(storage, poll(device)).await {
        Offer::Artifact(deployment, _) | Offer::Configuration(deployment) => Some(deployment),
        Offer::Nothing | Offer::Settled | Offer::Contradiction => None,
    }
}

pub async fn says(storage: &Storage, deployment: DeploymentId, device: DeviceId, state: DeviceState) -> StateReported {
    let report = StateReport { state, substate: "", at: NOW };
    storage.deployments.report(deployment, device, report).await.expect("an answer")
}

/// A deployment, whose counts are those of its rows.
pub async fn found(storage: &Storage, id: DeploymentId) -> Deployment {
    let deployment = storage.deployments.find(id).await.expect("an answer").expect("known");
    assert_eq!(deployment.counts, storage.deployments.counted(id, None).await.expect("counts"));
    for phase in &deployment.phases {
        let counted = storage.deployments.counted(id, Some(phase.number)).await.expect("counts");
        assert_eq!(phase.counts, counted, "phase {}", phase.number);
    }
    deployment
}

pub fn counted(counts: &Counts) -> Vec<(DeviceState, u64)> {
    DeviceState::ALL.into_iter().map(|state| (state, counts.of(state))).filter(|(_, count)| *count > 0).collect()
}

pub async fn an_equal_deployment_goes_on_once(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let one = DeviceId::random();
    let nothing = new("app-0", Targets::Devices(ids(&[one])));
    assert_eq!(storage.deployments.create(&nothing).await.expect("an answer"), Creation::NoArtifact);
    assert_eq!(storage.deployments.find(nothing.id).await.expect("an answer"), None);

    let first = new("app-1", Targets::Devices(vec![one.to_string(), "no id".to_owned(), one.to_string()]));
    make(&storage.deployments, &first).await;
    let deployment = found(storage, first.id).await;
    assert_eq!((deployment.max_devices, deployment.device_count, deployment.total_size), (2, 0, 0));
    assert_eq!((deployment.state, deployment.kind), (DeploymentState::Pending, DeploymentKind::Software));
    assert_eq!(counted(&deployment.counts), [(DeviceState::Pending, 2)]);
    assert_eq!(deployment.artifacts.len(), 1);
    let members = storage.deployments.members(first.id, "", 10).await.expect("members");
    assert_eq!(members.len(), 2);
    let rest = storage.deployments.members(first.id, &members[0], 10).await.expect("members");
    assert_eq!(rest, members[1..]);

    let equal = NewDeployment { id: DeploymentId::random(), ..first.clone() };
    assert_eq!(storage.deployments.create(&equal).await.expect("an answer"), Creation::Equal);
    let same_id = NewDeployment { fingerprint: [9; 32], ..first.clone() };
    assert_eq!(storage.deployments.create(&same_id).await.expect("an answer"), Creation::IdTaken);
    assert_eq!(storage.deployments.abort(first.id, NOW).await.expect("an answer"), Abortion::Aborted);
    make(&storage.deployments, &equal).await;
    // Made in the same moment, and still one after the other.
    assert!(found(storage, equal.id).await.created > deployment.created);
}

pub async fn asking_again_changes_nothing(database: &TestDatabase) {
    let storage = &database.storage;
    let artifact = kept(storage, "app-1", &["rpi4"], &[1]).await;
    let (one, other) = (DeviceId::random(), DeviceId::random());
    assert_eq!(offered(storage, poll(one)).await, Offer::Nothing);
    let deployment = made(storage, "app-1", &[one]).await;
    assert_eq!(offered(storage, poll(other)).await, Offer::Nothing);
    for _ in 0..3 {
        let Offer::Artifact(told, given) = offered(storage, poll(one)).await else { panic!("nothing to do") };
        assert_eq!((told, given.id), (deployment, artifact));
        let now = found(storage, deployment).await;
        assert_eq!((now.device_count, now.total_size, now.state), (1, 100, DeploymentState::Pending));
    }
    // One way of asking says more than the other.
    let with_provides = Poll { provides: Some([1; 32]), ..poll(one) };
    assert!(matches!(offered(storage, with_provides).await, Offer::Artifact(..)));
    assert_eq!(says(storage, deployment, one, DeviceState::Success).await, StateReported::Written);
    assert_eq!(offered(storage, poll(one)).await, Offer::Nothing);
    let now = found(storage, deployment).await;
    assert_eq!((now.state, now.finished), (DeploymentState::Finished, Some(NOW)));
    assert_eq!(counted(&now.counts), [(DeviceState::Success, 1)]);
    assert!(matches!(storage.artifacts.remove(artifact, NOW).await.expect("an answer"), Alteration::Done(_)));
    let (devices, total) = storage.deployments.devices(deployment, &[], 0, 10).await.expect("devices");
    assert_eq!(total, 1);
    assert_eq!(devices[0].artifact.as_ref().map(|image| image.id), Some(artifact), "shown for longer than it is there");
}

pub async fn the_oldest_deployment_comes_first(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let (one, two) = (DeviceId::random(), DeviceId::random());
    let first = made(storage, "app-1", &[one, two]).await;
    let second = made(storage, "app-1", &[one, two]).await;
    assert_eq!(told(storage, one).await, Some(first));
    let mut both = ids(&[one, two]);
    both.sort_unstable();
    assert_eq!(storage.deployments.devices_with_work(first, "", 10).await.expect("devices"), both);
    assert_eq!(storage.deployments.devices_with_work(first, &both[0], 1).await.expect("devices"), both[1..]);
    let third = made(storage, "app-1", &[one]).await;
    assert_eq!(told(storage, one).await, Some(first));
    says(storage, first, one, DeviceState::Failure).await;
    assert_eq!(told(storage, one).await, Some(second));
    assert_eq!(storage.deployments.devices_with_work(first, "", 10).await.expect("devices"), ids(&[two]));
    // While the other is at the second, the first is aborted and comes no more.
    storage.deployments.abort(first, NOW).await.expect("an answer");
    assert_eq!(told(storage, two).await, Some(second));
    says(storage, second, one, DeviceState::Success).await;
    assert_eq!(told(storage, one).await, Some(third));
    says(storage, third, one, DeviceState::Success).await;
    assert_eq!(told(storage, one).await, None);
    // What has been gone through last bounds what comes next.
    let last = storage.deployments.last_statuses(&ids(&[one, two])).await.expect("last statuses");
    assert_eq!(last.len(), 1);
    assert_eq!((last[0].deployment, last[0].state), (third, DeviceState::Success));
}

pub async fn a_device_gets_the_smallest_of_its_kind(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let mut small = super::artifacts::new(storage, "app-1", &["rpi4", "rpi5"], &[2]).await;
    small.size = 60;
    storage.artifacts.insert(&small, 0).await.expect("an answer");
    let [one, two, three] = [DeviceId::random(), DeviceId::random(), DeviceId::random()];
    let deployment = made(storage, "app-1", &[one, two, three]).await;
    let Offer::Artifact(_, given) = offered(storage, poll(one)).await else { panic!("nothing to do") };
    assert_eq!(given.id, small.id);
    let of_another_kind = |device| Poll { device_type: "rpi6", ..poll(device) };
    assert_eq!(offered(storage, of_another_kind(two)).await, Offer::Settled);
    assert_eq!(offered(storage, of_another_kind(two)).await, Offer::Nothing);
    // Who asks after it came gets what came later, and who was told that there is nothing does not.
    let late = kept(storage, "app-1", &["rpi6"], &[3]).await;
    let Offer::Artifact(_, given) = offered(storage, of_another_kind(three)).await else { panic!("nothing to do") };
    assert_eq!(given.id, late);
    assert_eq!(offered(storage, of_another_kind(two)).await, Offer::Nothing);
    let now = found(storage, deployment).await;
    assert_eq!((now.total_size, now.device_count), (160, 3));
    assert_eq!(counted(&now.counts), [(DeviceState::Pending, 2), (DeviceState::NoArtifact, 1)]);
    let (devices, _) =
        storage.deployments.devices(deployment, &[DeviceState::NoArtifact], 0, 10).await.expect("a list");
    assert_eq!((devices.len(), &devices[0].artifact), (1, &None));
}

pub async fn a_device_that_has_it_is_left_alone_unless_forced(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let one = DeviceId::random();
    let has_it = Poll { artifact_name: "app-1", ..poll(one) };
    let deployment = made(storage, "app-1", &[one]).await;
    assert_eq!(offered(storage, has_it).await, Offer::Settled);
    let now = found(storage, deployment).await;
    assert_eq!((now.total_size, now.state), (0, DeploymentState::Finished));
    let (devices, _) = storage.deployments.devices(deployment, &[], 0, 10).await.expect("a list");
    assert_eq!(devices[0].state, DeviceState::AlreadyInstalled);
    assert!(devices[0].artifact.is_some() && devices[0].finished.is_some());
    let forced = NewDeployment { forced: true, ..new("app-1", Targets::Devices(ids(&[one]))) };
    make(&storage.deployments, &forced).await;
    assert!(matches!(offered(storage, has_it).await, Offer::Artifact(..)));
}

pub async fn a_device_that_contradicts_itself_has_failed(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4", "rpi5"], &[1]).await;
    let (one, two) = (DeviceId::random(), DeviceId::random());
    let deployment = made(storage, "app-1", &[one, two]).await;
    assert_eq!(told(storage, one).await, Some(deployment));
    let other_kind = Poll { device_type: "rpi5", ..poll(one) };
    assert_eq!(offered(storage, other_kind).await, Offer::Contradiction);
    let provides = |number: u8| Poll { provides: Some([number; 32]), ..poll(two) };
    assert!(matches!(offered(storage, provides(1)).await, Offer::Artifact(..)));
    assert!(matches!(offered(storage, provides(1)).await, Offer::Artifact(..)));
    assert_eq!(offered(storage, provides(2)).await, Offer::Contradiction);
    let now = found(storage, deployment).await;
    assert_eq!((counted(&now.counts), now.state), (vec![(DeviceState::Failure, 2)], DeploymentState::Finished));
    let last = storage.deployments.last_statuses(&ids(&[one])).await.expect("last statuses");
    assert_eq!(last[0].state, DeviceState::Failure);
}

pub async fn devices_move_as_they_say(database: &TestDatabase) {
    use DeviceState::{Downloading, Failure, Installing, PauseBeforeCommitting, Rebooting, Success};
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let (one, two) = (DeviceId::random(), DeviceId::random());
    let deployment = made(storage, "app-1", &[one, two]).await;
    assert_eq!(says(storage, deployment, one, Downloading).await, StateReported::Unknown, "it was never told");
    told(storage, one).await;
    assert_eq!(says(storage, deployment, DeviceId::random(), Downloading).await, StateReported::Unknown);
    assert_eq!(says(storage, DeploymentId::random(), one, Downloading).await, StateReported::Unknown);
    for state in [Downloading, Installing, Rebooting, Downloading, PauseBeforeCommitting] {
        assert_eq!(says(storage, deployment, one, state).await, StateReported::Written);
        let now = found(storage, deployment).await;
        assert_eq!(now.state, DeploymentState::InProgress);
        assert_eq!((now.counts.of(state), now.counts.of(DeviceState::Pending)), (1, 1));
    }
    let device = async || storage.deployments.devices(deployment, &[], 0, 10).await.expect("devices").0.remove(0);
    let with = |substate, state| StateReport { state, substate, at: NOW.after(NOW) };
    let report = async |substate, state| {
        storage.deployments.report(deployment, one, with(substate, state)).await.expect("an answer")
    };
    report("half", Installing).await;
    report("not this, it stands there already", Installing).await;
    assert_eq!((device().await.substate, device().await.started), ("half".to_owned(), Some(NOW)));
    report("", Success).await;
    assert_eq!((device().await.substate, device().await.finished), ("half".to_owned(), Some(NOW.after(NOW))));
    assert_eq!(says(storage, deployment, one, Failure).await, StateReported::Written);
    assert_eq!(device().await.state, Failure);
    assert_eq!(found(storage, deployment).await.state, DeploymentState::InProgress);
    told(storage, two).await;
    says(storage, deployment, two, Success).await;
    assert_eq!(found(storage, deployment).await.state, DeploymentState::Finished);
    // What comes after the end is counted, and opens nothing again.
    says(storage, deployment, two, Installing).await;
    let now = found(storage, deployment).await;
    assert_eq!((now.state, now.counts.of(Installing), now.finished), (DeploymentState::Finished, 1, Some(NOW)));
    assert_eq!(told(storage, two).await, Some(deployment));
    assert_eq!(storage.deployments.with_devices_behind().await.expect("deployments"), [deployment]);
}

pub async fn an_aborted_deployment_stops_its_devices(database: &TestDatabase) {
    let storage = &database.storage;
    let artifact = kept(storage, "app-1", &["rpi4"], &[1]).await;
    let [one, two, three] = [DeviceId::random(), DeviceId::random(), DeviceId::random()];
    let deployment = made(storage, "app-1", &[one, two, three]).await;
    told(storage, one).await;
    told(storage, two).await;
    says(storage, deployment, two, DeviceState::Success).await;
    let used = Alteration::InUse(vec![deployment]);
    assert_eq!(storage.artifacts.remove(artifact, NOW).await.expect("an answer"), used);
    assert_eq!(storage.deployments.abort(DeploymentId::random(), NOW).await.expect("an answer"), Abortion::Unknown);
    assert_eq!(storage.deployments.abort(deployment, NOW).await.expect("an answer"), Abortion::Aborted);
    assert_eq!(storage.deployments.abort(deployment, NOW).await.expect("an answer"), Abortion::Finished);
    let now = found(storage, deployment).await;
    // Also who was never told is counted, so that no device is missing.
    assert_eq!(counted(&now.counts), [(DeviceState::Aborted, 2), (DeviceState::Success, 1)]);
    assert_eq!((now.state, now.finished), (DeploymentState::Finished, Some(NOW)));
    let stopped = StateReported::Stopped(DeviceState::Aborted);
    assert_eq!(says(storage, deployment, one, DeviceState::Installing).await, stopped);
    assert_eq!(told(storage, three).await, None);
    assert_eq!(storage.deployments.members(deployment, "", 10).await.expect("members").len(), 3);
    assert!(matches!(storage.artifacts.remove(artifact, NOW).await.expect("an answer"), Alteration::Done(_)));
}

pub async fn a_removed_device_is_over_with_everything(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let one = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let two = DeviceId::random();
    let first = made(storage, "app-1", &[one]).await;
    let second = made(storage, "app-1", &[one, two]).await;
    assert_eq!(told(storage, one).await, Some(first));
    says(storage, first, one, DeviceState::Installing).await;
    remove(storage, one).await;
    let now = found(storage, first).await;
    assert_eq!((counted(&now.counts), now.state), (vec![(DeviceState::Decommissioned, 1)], DeploymentState::Finished));
    let now = found(storage, second).await;
    let both = [(DeviceState::Pending, 1), (DeviceState::Decommissioned, 1)];
    assert_eq!((&counted(&now.counts)[..], now.state), (&both[..], DeploymentState::Pending));
    let stopped = StateReported::Stopped(DeviceState::Decommissioned);
    assert_eq!(says(storage, first, one, DeviceState::Success).await, stopped);
    // The other is only stopped, by somebody who may.
    let third = made(storage, "app-1", &[two]).await;
    storage.deployments.abort_device(&two.to_string(), NOW).await.expect("an answer");
    for deployment in [second, third] {
        let now = found(storage, deployment).await;
        assert_eq!((now.counts.of(DeviceState::Aborted), now.state), (1, DeploymentState::Finished));
    }
    assert_eq!(told(storage, two).await, None);
}

pub async fn what_a_device_forgot_may_be_offered_again(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let (one, two) = (DeviceId::random(), DeviceId::random());
    let deployment = made(storage, "app-1", &[one, two]).await;
    told(storage, one).await;
    storage.deployments.delete_history(&one.to_string(), NOW).await.expect("an answer");
    assert_eq!(told(storage, one).await, Some(deployment), "what it is at is not history");
    says(storage, deployment, one, DeviceState::Failure).await;
    assert!(storage.deployments.delete_history(&one.to_string(), NOW).await.expect("an answer"));
    assert!(!storage.deployments.delete_history(&DeviceId::random().to_string(), NOW).await.expect("an answer"));
    let devices = async || storage.deployments.devices(deployment, &[], 0, 10).await.expect("devices").1;
    let history = async || storage.deployments.history(&one.to_string(), &[], 0, 10).await.expect("a history");
    assert_eq!((devices().await, history().await.1), (0, 1));
    assert_eq!(history().await.0[0].1.deleted, Some(NOW));
    assert_eq!(says(storage, deployment, one, DeviceState::Success).await, StateReported::Unknown);
    assert_eq!(
        counted(&found(storage, deployment).await.counts),
        [(DeviceState::Failure, 1), (DeviceState::Pending, 1)]
    );
    // Not all have been told yet, so there is room for it once more.
    assert_eq!(told(storage, one).await, Some(deployment));
    let now = found(storage, deployment).await;
    assert_eq!((counted(&now.counts), now.device_count), (vec![(DeviceState::Pending, 2)], 1));
    assert_eq!((devices().await, history().await.1), (1, 2));
    says(storage, deployment, one, DeviceState::Failure).await;
    assert_eq!(told(storage, two).await, Some(deployment));
    storage.deployments.delete_history(&one.to_string(), NOW).await.expect("an answer");
    assert_eq!(told(storage, one).await, None, "all have been told");
    says(storage, deployment, two, DeviceState::Success).await;
    assert_eq!(found(storage, deployment).await.state, DeploymentState::Finished);
    let (failed, total) =
        storage.deployments.history(&one.to_string(), &[DeviceState::Success], 0, 10).await.expect("it");
    assert_eq!((failed.len(), total), (0, 0));
}

pub async fn a_log_is_replaced_by_the_next(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let one = DeviceId::random();
    let deployment = made(storage, "app-1", &[one]).await;
    let log = async || storage.deployments.log(deployment, &one.to_string()).await.expect("an answer");
    let keep = async |text| storage.deployments.keep_log(deployment, one, text).await.expect("an answer");
    assert!(!keep("too early").await);
    assert_eq!(log().await, DeviceLog::NoDevice);
    told(storage, one).await;
    assert_eq!(log().await, DeviceLog::Nothing);
    for text in ["first", "sec\0nd"] {
        assert!(keep(text).await);
    }
    assert_eq!(log().await, DeviceLog::Messages("sec\u{fffd}nd".to_owned()));
    let (devices, _) = storage.deployments.devices(deployment, &[], 0, 10).await.expect("devices");
    assert!(devices[0].has_log);
}

pub async fn deployments_are_found_by_what_they_are(database: &TestDatabase) {
    let storage = &database.storage;
    let deployments = &storage.deployments;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    kept(storage, "App%2", &["rpi4"], &[1]).await;
    let (one, two) = (DeviceId::random(), DeviceId::random());
    let mut all = vec![made(storage, "app-1", &[one]).await, made(storage, "App%2", &[two]).await];
    let configuration = NewDeployment {
        name: one.to_string(),
        configuration: Some(r#"{"key":"value"}"#.into()),
        ..new("a name of its own", Targets::Devices(ids(&[two])))
    };
    all.push(make(deployments, &configuration).await);
    assert_eq!(told(storage, one).await, Some(all[0]));
    let list = async |filter: &DeploymentFilter| -> Vec<DeploymentId> {
        let (page, total) = deployments.list(filter, Direction::Ascending, 0, 10).await.expect("a list");
        assert_eq!(total, page.len() as u64);
        page.into_iter().map(|deployment| deployment.id).collect()
    };
    let any = DeploymentFilter::default();
    assert_eq!(list(&any).await, all);
    let (page, total) = deployments.list(&any, Direction::Descending, 1, 1).await.expect("a list");
    assert_eq!((page[0].id, total), (all[1], 3));
    assert!(deployments.list(&any, Direction::Descending, 3, 1).await.expect("a list").0.is_empty());
    says(storage, all[0], one, DeviceState::Success).await;
    for (state, expected) in [
        (DeploymentState::Finished, &all[..1]),
        (DeploymentState::Pending, &all[1..]),
        (DeploymentState::InProgress, &[]),
    ] {
        assert_eq!(list(&DeploymentFilter { state: Some(state), ..any.clone() }).await, expected);
    }
    let kind = |kind| DeploymentFilter { kind: Some(kind), ..DeploymentFilter::default() };
    assert_eq!(list(&kind(DeploymentKind::Configuration)).await, all[2..]);
    assert_eq!(list(&kind(DeploymentKind::Software)).await, all[..2]);
    for (text, expected) in [("APP", &all[..2]), ("p%2", &all[1..2]), ("of its own", &all[2..]), ("_", &[])] {
        let filter = DeploymentFilter { text: Some(text.to_owned()), ..any.clone() };
        assert_eq!(list(&filter).await, expected, "{text}");
    }
    let named = DeploymentFilter { names: vec!["To app-1".to_owned(), "nothing".to_owned()], ..any.clone() };
    assert_eq!(list(&named).await, all[..1]);
    let by_id = DeploymentFilter { ids: vec![all[2], all[0], DeploymentId::random()], ..any.clone() };
    assert_eq!(list(&by_id).await, [all[0], all[2]]);
    let of_device = DeploymentFilter { devices: ids(&[one]), ..any.clone() };
    assert_eq!(list(&of_device).await, [all[0], all[2]], "by name, or as one of its devices");
    let middle = found(storage, all[1]).await.created;
    assert_eq!(list(&DeploymentFilter { from: Some(middle), until: Some(middle), ..any.clone() }).await, [all[1]]);

    assert_eq!(told(storage, two).await, Some(all[1]));
    let found = found(storage, all[2]).await;
    assert_eq!(found.configuration.as_ref().map(Secret::expose), Some(r#"{"key":"value"}"#));
    assert_eq!((found.artifacts.len(), found.max_devices), (0, 1));
    says(storage, all[1], two, DeviceState::Success).await;
    assert_eq!(offered(storage, poll(two)).await, Offer::Configuration(all[2]));
    let going_on = deployments.going_on().await.expect("a list");
    assert_eq!(going_on.iter().map(|one| one.id).collect::<Vec<_>>(), [all[2]]);
}

pub async fn whoever_passes_a_filter_is_told(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let [one, two, three, four] = &stored_devices(storage, 4).await[..] else { panic!("so many") };
    let (one, two, three, four) = (*one, *two, *three, *four);
    let deployment = make(&storage.deployments, &new("app-1", Targets::Dynamic { max_devices: 2 })).await;
    let going_on = storage.deployments.going_on().await.expect("a list");
    assert_eq!(going_on[0].terms.as_deref(), Some("[]"));
    let passes = [deployment];
    let passing = |device| Poll { passes: &passes, ..poll(device) };
    assert_eq!(told(storage, one).await, None);
    for device in [one, two] {
        assert!(matches!(offered(storage, passing(device)).await, Offer::Artifact(..)));
        // It stays the device's, whether it still passes or not.
        assert_eq!(told(storage, device).await, Some(deployment));
    }
    says(storage, deployment, one, DeviceState::Failure).await;
    assert_eq!(offered(storage, passing(one)).await, Offer::Nothing);
    says(storage, deployment, two, DeviceState::Success).await;
    assert_eq!(found(storage, deployment).await.state, DeploymentState::InProgress);
    offered(storage, passing(three)).await;
    says(storage, deployment, three, DeviceState::Success).await;
    let now = found(storage, deployment).await;
    assert_eq!((now.state, now.device_count, now.max_devices), (DeploymentState::Finished, 3, 2));
    assert_eq!(offered(storage, passing(four)).await, Offer::Nothing);
}

pub async fn a_device_that_is_removed_while_it_asks_stays_in_nothing(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let deployment = make(&storage.deployments, &new("app-1", Targets::Dynamic { max_devices: 0 })).await;
    let passes = [deployment];
    for device in stored_devices(storage, 8).await {
        let poll = Poll { passes: &passes, ..poll(device) };
        futures_util::future::join3(offered(storage, poll), remove(storage, device), offered(storage, poll)).await;
        assert_eq!(offered(storage, poll).await, Offer::Nothing);
        let counts = found(storage, deployment).await.counts;
        assert_eq!(counts.of(DeviceState::Pending), 0, "a device that is gone is waited for");
    }
}

pub async fn whoever_was_told_is_read_by_id(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let mut devices: Vec<DeviceId> = (0..5).map(|_| DeviceId::random()).collect();
    let deployment = made(storage, "app-1", &devices).await;
    let read = async |after: &str, limit| -> Vec<String> {
        let told = storage.deployments.told_after(deployment, after, limit).await.expect("an answer");
        told.into_iter().map(|one| one.device).collect()
    };
    assert_eq!(read("", 10).await, Vec::<String>::new(), "nobody was told");
    let untold = devices.pop().expect("a device");
    for device in &devices {
        told(storage, *device).await;
    }
    devices.sort_unstable();
    let told = ids(&devices);
    assert_eq!(read("", 10).await, told);
    assert_eq!(read("", 2).await, told[..2]);
    assert_eq!(read(&told[1], 10).await, told[2..]);
    assert!(!read("", 10).await.contains(&untold.to_string()));
    says(storage, deployment, devices[0], DeviceState::Success).await;
    assert_eq!(read("", 10).await, told, "whatever their status");
}

/// Devices that are accepted.
pub async fn stored_devices(storage: &Storage, count: u64) -> Vec<DeviceId> {
    let mut devices = vec![];
    for serial in 1..=count {
        devices.push(stored_device(storage, serial, SetStatus::Accepted).await.id);
    }
    devices
}

pub async fn counts_are_those_of_the_rows_whatever_happens(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let mut random = Random::seeded();
    let devices = stored_devices(storage, 5).await;
    let mut deployments = vec![];
    let reportable: Vec<DeviceState> = DeviceState::ALL.into_iter().filter(|state| state.may_be_reported()).collect();
    for _ in 0..150 {
        let device = *random.pick(&devices);
        match random.below(12) {
            0 => deployments.push(made(storage, "app-1", &devices).await),
            1 => deployments.push(make(&storage.deployments, &new("app-1", Targets::Dynamic { max_devices: 3 })).await),
            2 if random.below(4) == 0 && !deployments.is_empty() => {
                storage.deployments.abort(*random.pick(&deployments), NOW).await.expect("an answer");
            }
            3 => drop(storage.deployments.delete_history(&device.to_string(), NOW).await.expect("an answer")),
            4 if random.below(4) == 0 => {
                storage.deployments.abort_device(&device.to_string(), NOW).await.expect("an answer");
            }
            5..=8 if !deployments.is_empty() => {
                says(storage, *random.pick(&deployments), device, *random.pick(&reportable)).await;
            }
            _ => {
                let artifact_name = *random.pick(&["old", "old", "app-1"]);
                let device_type = *random.pick(&["rpi4", "rpi4", "rpi5"]);
                offered(storage, Poll { artifact_name, device_type, passes: &deployments, ..poll(device) }).await;
            }
        }
    }
    for id in deployments {
        let now = found(storage, id).await;
        let sum: u64 = DeviceState::ALL.into_iter().map(|state| now.counts.of(state)).sum();
        if now.is_dynamic {
            assert_eq!(sum, now.device_count, "{random}");
        } else {
            assert!(sum == now.max_devices || now.state == DeploymentState::Finished, "{random}");
        }
        assert_eq!(now.state == DeploymentState::Finished, now.finished.is_some(), "{random}");
    }
}

pub async fn parallel_polls_of_one_device_tell_it_once(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let one = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let deployment = make(&storage.deployments, &new("app-1", Targets::Dynamic { max_devices: 0 })).await;
    let passes = [deployment];
    let asking = (0..8).map(|_| offered(storage, Poll { passes: &passes, ..poll(one) }));
    for offer in futures_util::future::join_all(asking).await {
        assert!(matches!(offer, Offer::Artifact(told, _) if told == deployment), "{offer:?}");
    }
    let now = found(storage, deployment).await;
    assert_eq!((now.device_count, now.total_size, now.counts.of(DeviceState::Pending)), (1, 100, 1));
    // Reports and an end that comes between them leave the counts right.
    let reports = (0..8).map(|number| {
        let state = if number % 2 == 0 { DeviceState::Downloading } else { DeviceState::Installing };
        says(storage, deployment, one, state)
    });
    let ended = storage.deployments.abort(deployment, NOW);
    let (_, ended) = futures_util::future::join(futures_util::future::join_all(reports), ended).await;
    assert_eq!(ended.expect("an answer"), Abortion::Aborted);
    assert_eq!(counted(&found(storage, deployment).await.counts), [(DeviceState::Aborted, 1)]);
}
