//! What devices say about themselves, and what the hub says about them.

use std::time::Duration;

use serde_json::{Value, json};
use storage::{Attribute, DeviceId, DeviceKey, InventoryDevice, Report, Reported, SetStatus, Storage, Timestamp};

use crate::backends::{TestDatabase, accept, device, stored_device, write};

const DAY: i64 = 86_400_000_000;
const LIMIT: usize = 100;

fn attribute(name: &str, value: Value) -> Attribute {
    Attribute { scope: "whatever".to_owned(), name: name.to_owned(), value, description: None, timestamp: None }
}

fn values(device: &InventoryDevice, scope: &str) -> Vec<(String, Value)> {
    let in_scope = device.attributes.iter().filter(|attribute| attribute.scope == scope);
    in_scope.map(|attribute| (attribute.name.clone(), attribute.value.clone())).collect()
}

async fn shown(storage: &Storage, id: DeviceId) -> InventoryDevice {
    storage.inventory.find(id).await.expect("an answer").expect("the device")
}

pub async fn a_new_device_shows_its_identity_and_status(database: &TestDatabase) {
    let identity = r#"{"mac":"02:00","list":["a","b"],"mixed":["a",1],"no":null,"on":true,"status":"x","v":7}"#;
    let new = storage::Device { identity: identity.to_owned(), ..device(1, SetStatus::Pending) };
    let (id, hash) = (new.id, new.identity_hash);
    let written = database.storage.devices.change(DeviceKey::Identity(&hash), |_, _| write(new.clone()));
    written.await.expect("the device is written");

    let before = shown(&database.storage, id).await;
    let expected = [
        ("list", json!(["a", "b"])),
        ("mac", json!("02:00")),
        ("mixed", json!("[\"a\",1]")),
        ("no", json!("null")),
        ("on", json!("true")),
        ("status", json!("pending")),
        ("v", json!(7)),
    ];
    assert_eq!(values(&before, "identity"), expected.map(|(name, value)| (name.to_owned(), value)));
    let created = ("created_ts".to_owned(), json!("1970-01-01T00:00:01.000Z"));
    assert_eq!(values(&before, "system"), vec![created.clone()]);
    assert_eq!((before.updated, before.tags_etag), (None, None));

    accept(&database.storage, id, Timestamp(9)).await;
    database.storage.devices.record_check_ins(&[(id, Timestamp(2_500_000))]).await.expect("a check-in");
    let after = shown(&database.storage, id).await;
    assert!(values(&after, "identity").contains(&("status".to_owned(), json!("accepted"))));
    let seen = ("check_in_time".to_owned(), json!("1970-01-01T00:00:02.500Z"));
    assert_eq!(values(&after, "system"), vec![seen, created]);
}

pub async fn long_lists_in_an_identity_are_shown_as_text(database: &TestDatabase) {
    let list = |length: u32| -> Vec<u32> { (0..length).collect() };
    let identity = json!({"a": list(60), "b": list(3_300), "c": list(4), "d": list(1), "e": "x"});
    let new = storage::Device { identity: identity.to_string(), ..device(1, SetStatus::Pending) };
    let (id, hash) = (new.id, new.identity_hash);
    let written = database.storage.devices.change(DeviceKey::Identity(&hash), |_, _| write(new.clone()));
    written.await.expect("the device is written");

    let shown = values(&shown(&database.storage, id).await, "identity");
    let expected = [
        ("a", json!(list(60))),
        ("b", json!(json!(list(3_300)).to_string())),
        ("c", json!(list(4))),
        ("d", json!("[0]")),
        ("e", json!("x")),
        ("status", json!("pending")),
    ];
    assert_eq!(shown, expected.map(|(name, value)| (name.to_owned(), value)));
}

pub async fn reports_merge_or_replace_their_own_scope_only(database: &TestDatabase) {
    let inventory = &database.storage.inventory;
    let id = stored_device(&database.storage, 1, SetStatus::Accepted).await.id;
    let identity = values(&shown(&database.storage, id).await, "identity");

    let mut kernel = attribute("kernel", json!("6.1"));
    kernel.description = Some("version".to_owned());
    let first = vec![kernel, attribute("mem", json!(1)), attribute("mem", json!(2.5))];
    let stored = inventory.report(id, first, Report::Merge, LIMIT, Timestamp(DAY)).await;
    assert_eq!(stored.expect("an answer"), Reported::Stored);
    let second = vec![attribute("status", json!("mine")), attribute("kernel", json!("6.2"))];
    let stored = inventory.report(id, second, Report::Merge, LIMIT, Timestamp(DAY + 1_000)).await;
    assert_eq!(stored.expect("an answer"), Reported::Stored);
    let device = shown(&database.storage, id).await;
    let expected = [("kernel", json!("6.2")), ("mem", json!(2.5)), ("status", json!("mine"))];
    assert_eq!(values(&device, "inventory"), expected.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(device.updated, Some(Timestamp(DAY + 1_000)));
    let kernel = device.attributes.iter().find(|attribute| attribute.name == "kernel").expect("the attribute");
    assert_eq!(kernel.description.as_deref(), Some("version"));

    let third = vec![attribute("mem", json!(["a", "b"]))];
    let stored = inventory.report(id, third, Report::Replace, LIMIT, Timestamp(DAY + 2)).await;
    assert_eq!(stored.expect("an answer"), Reported::Stored);
    let device = shown(&database.storage, id).await;
    assert_eq!(values(&device, "inventory"), vec![("mem".to_owned(), json!(["a", "b"]))]);
    let stored = inventory.report(id, vec![], Report::Replace, LIMIT, Timestamp(DAY + 3)).await;
    assert_eq!(stored.expect("an answer"), Reported::Stored);
    let device = shown(&database.storage, id).await;
    assert_eq!(values(&device, "inventory"), vec![]);
    assert_eq!(values(&device, "identity"), identity);
}

pub async fn repeating_a_report_writes_once_a_day(database: &TestDatabase) {
    let inventory = &database.storage.inventory;
    let id = stored_device(&database.storage, 1, SetStatus::Accepted).await.id;
    let report = || vec![attribute("a", json!("x")), attribute("b", json!([1.0, 2e3, 1e300, 0.1]))];
    let outcomes = [
        (DAY, Reported::Stored),
        (DAY + 1, Reported::Unchanged),
        (2 * DAY - 1, Reported::Unchanged),
        (2 * DAY, Reported::Stored),
        (2 * DAY + 1, Reported::Unchanged),
    ];
    for (now, expected) in outcomes {
        for kind in [Report::Merge, Report::Replace] {
            let before = shown(&database.storage, id).await.revision;
            let outcome = inventory.report(id, report(), kind, LIMIT, Timestamp(now)).await.expect("an answer");
            let expected = if kind == Report::Merge { expected } else { Reported::Unchanged };
            assert_eq!(outcome, expected, "{kind:?} at {now}");
            let writes = shown(&database.storage, id).await.revision - before;
            assert_eq!(writes, i64::from(expected == Reported::Stored));
        }
    }
    let nothing = inventory.report(id, vec![], Report::Merge, LIMIT, Timestamp(9 * DAY)).await;
    assert_eq!(nothing.expect("an answer"), Reported::Unchanged);
    assert_eq!(shown(&database.storage, id).await.updated, Some(Timestamp(2 * DAY)));
}

pub async fn too_many_attributes_store_nothing(database: &TestDatabase) {
    let inventory = &database.storage.inventory;
    let id = stored_device(&database.storage, 1, SetStatus::Accepted).await.id;
    let three = || ["a", "b", "c"].map(|name| attribute(name, json!(1))).to_vec();
    let stored = inventory.report(id, three(), Report::Merge, 3, Timestamp(DAY)).await;
    assert_eq!(stored.expect("an answer"), Reported::Stored);
    let more = inventory.report(id, vec![attribute("d", json!(1))], Report::Merge, 3, Timestamp(DAY)).await;
    assert_eq!(more.expect("an answer"), Reported::TooMany);
    let other = inventory.report(id, vec![attribute("d", json!(1))], Report::Replace, 3, Timestamp(DAY)).await;
    assert_eq!(other.expect("an answer"), Reported::Stored);
    let device = shown(&database.storage, id).await;
    assert_eq!(values(&device, "inventory"), vec![("d".to_owned(), json!(1))]);
}

pub async fn reports_of_unknown_devices_store_nothing(database: &TestDatabase) {
    let storage = &database.storage;
    let report = || vec![attribute("a", json!(1))];
    let unknown = DeviceId::random();
    let outcome = storage.inventory.report(unknown, report(), Report::Merge, LIMIT, Timestamp(DAY)).await;
    assert_eq!(outcome.expect("an answer"), Reported::NoDevice);
    assert_eq!(storage.inventory.find(unknown).await.expect("an answer"), None);

    let leaving = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let marked = storage.devices.change(DeviceKey::Id(leaving), |before, _| {
        let mut after = before.cloned().expect("the device");
        after.decommissioning = true;
        write(after)
    });
    marked.await.expect("the change is written");
    let outcome = storage.inventory.report(leaving, report(), Report::Replace, LIMIT, Timestamp(DAY)).await;
    assert_eq!(outcome.expect("an answer"), Reported::NoDevice);
    assert_eq!(values(&shown(storage, leaving).await, "inventory"), vec![]);
}

pub async fn characters_of_every_kind_come_back(database: &TestDatabase) {
    let id = stored_device(&database.storage, 1, SetStatus::Accepted).await.id;
    let names = ["rootfs-image.version", "$set", "a\"b\\c", "ключ", "", "🦊", "'; DROP TABLE devices; --"];
    let report = names.iter().map(|name| attribute(name, json!(format!("<{name}>")))).collect();
    let inventory = &database.storage.inventory;
    inventory.report(id, report, Report::Merge, LIMIT, Timestamp(DAY)).await.expect("an answer");
    let mut expected: Vec<(String, Value)> =
        names.iter().map(|name| ((*name).to_owned(), json!(format!("<{name}>")))).collect();
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(values(&shown(&database.storage, id).await, "inventory"), expected);

    // No database keeps this character everywhere; it must not fail the report.
    let nul = vec![attribute("n\0l", json!(["a\0b"]))];
    let stored = inventory.report(id, nul.clone(), Report::Replace, LIMIT, Timestamp(DAY)).await;
    assert_eq!(stored.expect("an answer"), Reported::Stored);
    let replaced = ("n\u{fffd}l".to_owned(), json!(["a\u{fffd}b"]));
    assert_eq!(values(&shown(&database.storage, id).await, "inventory"), vec![replaced]);
    let again = inventory.report(id, nul, Report::Replace, LIMIT, Timestamp(DAY)).await;
    assert_eq!(again.expect("an answer"), Reported::Unchanged);
}

pub async fn parallel_reports_and_decisions_lose_nothing(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let id = stored_device(&database.storage, 1, SetStatus::Pending).await.id;
    let mut work = tokio::task::JoinSet::new();
    for number in 0..10_i64 {
        let storage = nodes[usize::from(number % 2 == 0)].clone();
        work.spawn(async move {
            let report = vec![attribute(&format!("name {number}"), json!(number))];
            let outcome = storage.inventory.report(id, report, Report::Merge, LIMIT, Timestamp(DAY)).await;
            assert_eq!(outcome.expect("an answer"), Reported::Stored);
            let status = if number % 2 == 0 { SetStatus::Accepted } else { SetStatus::Rejected };
            let decided = storage.devices.change(DeviceKey::Id(id), |before, _| {
                let mut after = before.cloned().expect("the device");
                after.auth_sets[0].status = status;
                after.updated = after.updated.plus(Duration::from_secs(1));
                write(after)
            });
            decided.await.expect("the decision is written");
        });
    }
    work.join_all().await;
    let device = shown(&database.storage, id).await;
    assert_eq!(values(&device, "inventory").len(), 10);
    let status = database.storage.devices.find(id).await.expect("an answer").expect("the device").status();
    assert!(values(&device, "identity").contains(&("status".to_owned(), json!(status.as_str()))));
}
