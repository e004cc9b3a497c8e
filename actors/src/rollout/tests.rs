use actix::Arbiter;
use storage::{NodeId, StorageError};

use super::*;

async fn storage() -> Storage {
    Storage::open(&storage::Config::in_memory()).await.unwrap()
}

fn rollout(storage: &Storage) -> Rollout {
    Rollout::new(storage, Bus::alone(NodeId::random()))
}

fn asking() -> Asking {
    Asking { artifact_name: "old".to_owned(), device_type: "rpi4".to_owned(), provides: None }
}

async fn configuration_for(rollout: &Rollout, device: DeviceId) -> DeploymentId {
    let id = DeploymentId::random();
    rollout.make_configuration(id, device, "configuration", "{}".to_owned(), 0).await.unwrap()
}

#[actix::test]
async fn who_has_nothing_to_do_needs_no_database() {
    let storage = storage().await;
    let rollout = rollout(&storage);
    let (one, other) = (DeviceId::random(), DeviceId::random());
    // Before anything is read everybody is looked up.
    assert!(!rollout.0.memory.lock().is_idle(other));
    rollout.look().await.unwrap();
    let deployment = configuration_for(&rollout, one).await;
    assert_eq!(rollout.next(one, &asking()).await.unwrap(), Offer::Configuration(deployment));
    storage.close().await;
    assert_eq!(rollout.next(other, &asking()).await.unwrap(), Offer::Nothing);
    assert!(matches!(rollout.next(one, &asking()).await, Err(StorageError::Unavailable(_))));
}

#[actix::test]
async fn who_has_done_everything_is_forgotten() {
    let storage = storage().await;
    let rollout = rollout(&storage);
    rollout.look().await.unwrap();
    let one = DeviceId::random();
    let first = configuration_for(&rollout, one).await;
    let second = configuration_for(&rollout, one).await;
    for deployment in [first, second] {
        assert_eq!(rollout.next(one, &asking()).await.unwrap(), Offer::Configuration(deployment));
        let reported = rollout.report(deployment, one, DeviceState::Success, "").await.unwrap();
        assert_eq!(reported, StateReported::Written);
    }
    assert!(!rollout.0.memory.lock().is_idle(one));
    assert_eq!(rollout.next(one, &asking()).await.unwrap(), Offer::Nothing);
    assert!(rollout.0.memory.lock().is_idle(one));
    // Until it is made to forget it, by whoever may.
    rollout.delete_history(&one.to_string()).await.unwrap();
    assert!(!rollout.0.memory.lock().is_idle(one));
}

#[test]
fn who_came_in_meanwhile_is_not_forgotten() {
    let mut memory = Memory { is_whole: true, ..Memory::default() };
    let one = DeviceId::random();
    memory.take_in([one]);
    let asked_at = memory.generation;
    memory.take_in([one]);
    memory.forget(one, asked_at);
    assert!(!memory.is_idle(one));
    let asked_at = memory.generation;
    memory.forget(one, asked_at);
    assert!(memory.is_idle(one));
}

#[actix::test]
async fn another_node_hears_of_work_or_finds_it() {
    let storage = storage().await;
    let (here, there) = (rollout(&storage), rollout(&storage));
    let one = DeviceId::random();
    there.look().await.unwrap();
    assert!(there.0.memory.lock().is_idle(one));
    let deployment = configuration_for(&here, one).await;
    there.look().await.unwrap();
    assert_eq!(there.next(one, &asking()).await.unwrap(), Offer::Configuration(deployment));
    here.report(deployment, one, DeviceState::Success, "").await.unwrap();
    assert_eq!(there.next(one, &asking()).await.unwrap(), Offer::Nothing);
    assert!(there.0.memory.lock().is_idle(one));
    // What was over goes on, which only the other has heard. Who doubts reads it.
    here.report(deployment, one, DeviceState::Installing, "").await.unwrap();
    there.doubt();
    assert!(!there.0.memory.lock().is_idle(DeviceId::random()));
    there.look().await.unwrap();
    assert_eq!(there.next(one, &asking()).await.unwrap(), Offer::Configuration(deployment));
    there.hear_of(one);
    assert!(!there.0.memory.lock().is_idle(one));
}

#[actix::test]
async fn a_device_that_asks_before_a_deployment_of_another_node_is_read_is_looked_up() {
    let storage = storage().await;
    let (here, there) = (rollout(&storage), rollout(&storage));
    let one = DeviceId::random();
    there.look().await.unwrap();
    let deployment = configuration_for(&here, one).await;
    // As the other node says; the look that follows takes its time.
    there.hear_of_deployments();
    assert_eq!(there.next(one, &asking()).await.unwrap(), Offer::Configuration(deployment));
    assert!(!there.0.memory.lock().is_idle(DeviceId::random()));
    there.look().await.unwrap();
    assert!(there.0.memory.lock().is_idle(DeviceId::random()));
}

#[actix::test]
async fn the_devices_of_a_new_deployment_are_woken() {
    let storage = storage().await;
    let rollout = rollout(&storage);
    let one = DeviceId::random();
    configuration_for(&rollout, one).await;
    assert_eq!(rollout.wake_ups().waiting(), [one]);
}

#[actix::test]
async fn a_service_that_is_back_reads_everything() {
    let storage = storage().await;
    let rollout = rollout(&storage);
    let one = DeviceId::random();
    let deployment = configuration_for(&rollout, one).await;
    // As if all of it had been lost.
    *rollout.0.memory.lock() = Memory {
        is_whole: true,
        going_on: HashMap::from([(deployment, Seen { openings: 0, has_more_phases: false })]),
        ..Memory::default()
    };
    let watched = rollout.clone();
    let service =
        Service::start("rollout", &Arbiter::current(), move |alive| RolloutWatcher::new(watched.clone(), alive));
    let reading = async {
        while rollout.0.memory.lock().busy.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading).await.expect("it reads");
    service.retire();
    assert_eq!(rollout.next(one, &asking()).await.unwrap(), Offer::Configuration(deployment));
}

#[test]
fn equal_maps_have_one_hash() {
    let map = |pairs: &[(&str, &str)]| -> std::collections::BTreeMap<String, String> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    assert_eq!(hash(&map(&[("a", "1"), ("b", "2")])), hash(&map(&[("b", "2"), ("a", "1")])));
    assert_ne!(hash(&map(&[("a", "1b")])), hash(&map(&[("a1", "b")])));
}
