//! Configurations: wanted and reported, one record for each device, gone with it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use storage::device_configs::KEYS;
use storage::{
    Configuration, ConfigurationFault, Deployed, DeploymentId, DeploymentKind, DeploymentState, DeviceConfig, DeviceId,
    DeviceState, Merged, Offer, Poll, Provisioned, Secret, SetStatus, StateReport, Storage, Timestamp, clock,
};

use crate::backends::{TestDatabase, remove, stored_device};

fn configuration(pairs: &[(&str, &str)]) -> Configuration {
    let settings = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Configuration::new(settings.collect()).expect("within the bounds")
}

async fn find(storage: &Storage, device: DeviceId) -> DeviceConfig {
    storage.device_configs.find(device).await.expect("an answer").expect("a record")
}

pub async fn a_record_begins_and_ends_with_its_device(database: &TestDatabase) {
    let storage = &database.storage;
    let device = stored_device(storage, 1, SetStatus::Pending).await;
    let empty = DeviceConfig {
        device: device.id,
        configured: Configuration::default(),
        reported: Configuration::default(),
        deployment: None,
        updated: device.created,
        reported_at: None,
    };
    assert_eq!(find(storage, device.id).await, empty);

    let wanted = configuration(&[("timezone", "UTC")]);
    assert!(storage.device_configs.configure(device.id, &wanted, clock::now()).await.expect("written"));
    remove(storage, device.id).await;
    assert_eq!(storage.device_configs.find(device.id).await.expect("an answer"), None);
    assert!(!storage.device_configs.forget(device.id).await.expect("an answer"));
}

pub async fn what_is_wanted_and_what_is_reported_keep_apart(database: &TestDatabase) {
    let storage = &database.storage;
    let device = stored_device(storage, 1, SetStatus::Accepted).await;
    let (first, second) = (clock::now(), clock::now().after(clock::now()));
    let reported = configuration(&[("nul", "a\0b"), ("\0", ""), ("quote\"", "é")]);
    assert!(storage.device_configs.report(device.id, &reported, first).await.expect("written"));
    let record = find(storage, device.id).await;
    assert_eq!((&record.reported, &record.configured), (&reported, &Configuration::default()));
    // A report says nothing about when it was last told what to be.
    assert_eq!((record.updated, record.reported_at), (device.created, Some(first)));

    let wanted = configuration(&[("timezone", "UTC"), ("lamp", "on")]);
    assert!(storage.device_configs.configure(device.id, &wanted, second).await.expect("written"));
    let record = find(storage, device.id).await;
    assert_eq!((&record.reported, &record.configured), (&reported, &wanted));
    assert_eq!((record.updated, record.reported_at), (second, Some(first)));

    assert!(storage.device_configs.report(device.id, &Configuration::default(), second).await.expect("written"));
    assert!(
        storage.device_configs.configure(device.id, &configuration(&[("lamp", "off")]), second).await.expect("written")
    );
    let record = find(storage, device.id).await;
    assert_eq!((record.reported, record.configured), (Configuration::default(), configuration(&[("lamp", "off")])));
    assert_eq!(record.reported_at, Some(second));
}

pub async fn changes_of_one_device_at_once_lose_nothing(database: &TestDatabase) {
    let storage = &database.storage;
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let changes: Vec<_> = (0..8)
        .map(|number| {
            let storage = storage.clone();
            tokio::spawn(async move {
                let change = configuration(&[(&format!("key {number}"), "v")]);
                storage.device_configs.merge(device, &change, clock::now()).await
            })
        })
        .collect();
    for change in changes {
        let merged = change.await.expect("no panic").expect("an answer");
        assert!(matches!(merged, Merged::Stored(_)), "{merged:?}");
    }
    assert_eq!(find(storage, device).await.configured.settings().len(), 8);
}

pub async fn changes_beyond_the_room_write_nothing(database: &TestDatabase) {
    let storage = &database.storage;
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let full: BTreeMap<String, String> = (0..KEYS).map(|number| (number.to_string(), String::new())).collect();
    let full = Configuration::new(full).expect("within the bounds");
    let (first, second) = (clock::now(), clock::now().after(clock::now()));
    assert!(storage.device_configs.configure(device, &full, first).await.expect("written"));
    let merged = storage.device_configs.merge(device, &configuration(&[("one more", "")]), second).await;
    assert_eq!(merged.expect("an answer"), Merged::Refused(ConfigurationFault::TooMany));
    let record = find(storage, device).await;
    assert_eq!((&record.configured, record.updated), (&full, first));

    let change = configuration(&[("7", "new")]);
    let Merged::Stored(now) = storage.device_configs.merge(device, &change, second).await.expect("an answer") else {
        panic!("a setting that is there may change");
    };
    let record = find(storage, device).await;
    assert_eq!((record.configured.settings()["7"].as_str(), record.updated), ("new", second));
    assert_eq!(record.configured, now);
}

pub async fn of_a_device_that_is_not_there_nothing_is_written(database: &TestDatabase) {
    let storage = &database.storage;
    let (nobody, wanted, now) = (DeviceId::random(), configuration(&[("a", "b")]), clock::now());
    let configs = &storage.device_configs;
    assert_eq!(configs.find(nobody).await.expect("an answer"), None);
    assert!(!configs.configure(nobody, &wanted, now).await.expect("an answer"));
    assert!(!configs.report(nobody, &wanted, now).await.expect("an answer"));
    assert_eq!(configs.merge(nobody, &wanted, now).await.expect("an answer"), Merged::NoDevice);
    assert_eq!(configs.provision(nobody, now).await.expect("an answer"), Provisioned::NoDevice);
    assert_eq!(configs.find(nobody).await.expect("an answer"), None);

    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    if !database.execute(&["UPDATE devices SET decommissioning = TRUE"]).await {
        return;
    }
    assert!(!configs.configure(device, &wanted, now).await.expect("an answer"));
    assert!(!configs.report(device, &wanted, now).await.expect("an answer"));
    assert_eq!(configs.merge(device, &wanted, now).await.expect("an answer"), Merged::NoDevice);
    assert_eq!(configs.provision(device, now).await.expect("an answer"), Provisioned::NoDevice);
    assert_eq!(find(storage, device).await.configured, Configuration::default());
}

pub async fn a_row_is_made_once_and_forgotten(database: &TestDatabase) {
    let storage = &database.storage;
    let device = stored_device(storage, 1, SetStatus::Accepted).await;
    let (configs, now) = (&storage.device_configs, clock::now());
    assert_eq!(configs.provision(device.id, now).await.expect("an answer"), Provisioned::Made);
    assert_eq!(configs.provision(device.id, now).await.expect("an answer"), Provisioned::WasThere);
    assert!(configs.configure(device.id, &configuration(&[("a", "b")]), now).await.expect("written"));
    assert_eq!(configs.provision(device.id, now).await.expect("an answer"), Provisioned::WasThere);
    assert_eq!(find(storage, device.id).await.configured, configuration(&[("a", "b")]));

    assert!(configs.forget(device.id).await.expect("an answer"));
    assert!(!configs.forget(device.id).await.expect("an answer"));
    let record = find(storage, device.id).await;
    assert_eq!((record.configured, record.updated), (Configuration::default(), device.created));
}

pub async fn all_records_are_emptied(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let mut devices = Vec::new();
    for serial in 1..=3 {
        let device = stored_device(storage, serial, SetStatus::Accepted).await.id;
        assert!(storage.device_configs.configure(device, &configuration(&[("a", "b")]), now).await.expect("written"));
        devices.push(device);
    }
    storage.device_configs.clear().await.expect("cleared");
    for device in devices {
        assert_eq!(find(storage, device).await.configured, Configuration::default());
    }
}

async fn deploy(storage: &Storage, device: DeviceId, now: Timestamp) -> (DeploymentId, Vec<DeploymentId>) {
    let deployment = DeploymentId::random();
    let deployed = storage.device_configs.deploy(device, deployment, vec!["blue".to_owned()], 2, now).await;
    let Deployed::Made { superseded } = deployed.expect("an answer") else { panic!("it is made") };
    (deployment, superseded)
}

async fn offered(storage: &Storage, device: DeviceId) -> Offer {
    let poll = Poll { device, artifact_name: "a", device_type: "t", provides: None, passes: &[], at: clock::now() };
    storage.deployments.offer(poll).await.expect("an answer")
}

pub async fn a_deployment_keeps_what_was_wanted_then(database: &TestDatabase) {
    // Told by a node whose clock is ahead.
    let (storage, now) = (&database.storage, clock::now());
    let told = now.plus(Duration::from_secs(3));
    let configs = &storage.device_configs;
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let other = stored_device(storage, 2, SetStatus::Accepted).await;
    assert!(configs.configure(device, &configuration(&[("lamp", "on\0")]), told).await.expect("written"));
    let (first, _) = deploy(storage, device, now).await;
    let deployment = storage.deployments.find(first).await.expect("an answer").expect("a deployment");
    assert_eq!((deployment.kind, deployment.max_devices), (DeploymentKind::Configuration, 1));
    assert_eq!((&deployment.name, &deployment.name), (&deployment.artifact_name, &format!("configuration-{first}")));
    assert_eq!((deployment.groups, deployment.retries), (vec!["blue".to_owned()], 2));
    // Clients compare the two as texts with milliseconds.
    assert!(deployment.created.rfc3339() > told.rfc3339());
    let record = find(storage, device).await;
    assert_eq!((record.deployment, record.updated), (Some(first), told));

    assert!(configs.configure(device, &configuration(&[("lamp", "off")]), now).await.expect("written"));
    let brought = configs.deployed(first, device).await.expect("an answer").expect("a configuration");
    assert_eq!((brought.artifact_name, Value::from(brought.configuration)), (deployment.name, json!({"lamp": "on\0"})));
    assert_eq!(configs.deployed(first, other.id).await.expect("an answer"), None);
    assert_eq!(configs.deployed(DeploymentId::random(), device).await.expect("an answer"), None);
    assert_eq!(offered(storage, other.id).await, Offer::Nothing);
    assert_eq!(offered(storage, device).await, Offer::Configuration(first));

    // Of a device that nobody has told anything.
    let (empty, _) = deploy(storage, other.id, now).await;
    let brought = configs.deployed(empty, other.id).await.expect("an answer").expect("a configuration");
    assert!(brought.configuration.is_empty());
    let record = find(storage, other.id).await;
    assert_eq!((record.deployment, record.updated), (Some(empty), other.created));

    let again = configs.deploy(device, first, Vec::new(), 0, now).await.expect("an answer");
    assert_eq!(again, Deployed::IdTaken);
    let nobody = configs.deploy(DeviceId::random(), DeploymentId::random(), Vec::new(), 0, now).await;
    assert_eq!(nobody.expect("an answer"), Deployed::NoDevice);
    assert_eq!(find(storage, device).await.deployment, Some(first));

    // That it was deployed stays known, what it was does not.
    remove(storage, device).await;
    assert_eq!(configs.deployed(first, device).await.expect("an answer"), None);
    let deployment = storage.deployments.find(first).await.expect("an answer").expect("a deployment");
    assert_eq!(
        (deployment.configuration.as_ref().map(Secret::expose), deployment.state),
        (Some("{}"), DeploymentState::Finished)
    );
    let others = storage.deployments.find(empty).await.expect("an answer").expect("a deployment");
    assert_eq!(others.state, DeploymentState::Pending);
}

pub async fn what_is_over_keeps_no_secret(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let configs = &storage.device_configs;
    let secret = configuration(&[("password", "hunter2"), ("name", "æ")]);
    assert!(configs.configure(device, &secret, now).await.expect("written"));
    let (deployment, _) = deploy(storage, device, now).await;
    assert_eq!(offered(storage, device).await, Offer::Configuration(deployment));
    let shown = async || {
        let found = storage.deployments.find(deployment).await.expect("an answer").expect("a deployment");
        assert!(!format!("{found:?}").contains("hunter2"));
        found.configuration.expect("a configuration").expose().to_owned()
    };
    assert!(shown().await.contains("hunter2"));
    let report = StateReport { state: DeviceState::Success, substate: "", at: now };
    storage.deployments.report(deployment, device, report).await.expect("an answer");
    let left: Value = serde_json::from_str(&shown().await).expect("JSON");
    assert_eq!(left, json!({"password": "hun", "name": "æ"}));
    // What is left of it must not be installed.
    assert_eq!(configs.deployed(deployment, device).await.expect("an answer"), None);
}

pub async fn a_newer_configuration_takes_the_place_of_those_nobody_was_told_of(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let other = stored_device(storage, 2, SetStatus::Accepted).await.id;
    let (first, superseded) = deploy(storage, device, now).await;
    assert_eq!(superseded, []);
    deploy(storage, other, now).await;
    // It is told of the first; the second it is not told of before there is a third.
    assert_eq!(offered(storage, device).await, Offer::Configuration(first));
    let (second, superseded) = deploy(storage, device, now).await;
    assert_eq!(superseded, []);
    let (_, superseded) = deploy(storage, device, now).await;
    assert_eq!(superseded, [second]);
    // Which of them end is for others to say.
    let second = storage.deployments.find(second).await.expect("an answer").expect("a deployment");
    assert_eq!(second.state, DeploymentState::Pending);
}
