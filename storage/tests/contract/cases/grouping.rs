//! What users and the hub note about devices, and the fleet at a glance.

use serde_json::{Value, json};
use storage::inventory::aggregate::{Aggregation, Buckets};
use storage::inventory::filter::{Condition, Filter};
use storage::inventory::groups::Moved;
use storage::inventory::search::Search;
use storage::inventory::{AttributesWritten, Precondition, TAGS, TagsWritten};
use storage::{
    Attribute, DeviceId, FilterId, FilterSaved, InventoryDevice, Report, Reported, SavedFilter, SetStatus, Storage,
    StorageError, Timestamp,
};

use crate::backends::{TestDatabase, accept, remove, stored_device};

const DAY: i64 = 86_400_000_000;

fn attribute(scope: &str, name: &str, value: Value) -> Attribute {
    Attribute { scope: scope.to_owned(), name: name.to_owned(), value, description: None, timestamp: None }
}

async fn shown(storage: &Storage, id: DeviceId) -> InventoryDevice {
    storage.inventory.find(id).await.expect("an answer").expect("the device")
}

fn value(device: &InventoryDevice, scope: &str, name: &str) -> Option<Value> {
    let is_it = |attribute: &&Attribute| attribute.scope == scope && attribute.name == name;
    device.attributes.iter().find(is_it).map(|attribute| attribute.value.clone())
}

pub async fn tags_have_versions(database: &TestDatabase) {
    let storage = &database.storage;
    let id = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let write = async |tags: &[(&str, &str)], kind: Report, seen: Precondition| {
        let tags = tags.iter().map(|(name, text)| attribute("whatever", name, json!(text))).collect();
        storage.inventory.write_tags(id, tags, kind, &seen, 2, Timestamp(DAY)).await.expect("an answer")
    };
    let one = |version: &str| Precondition::OneOf(vec![version.to_owned()]);
    assert_eq!(write(&[("a", "1")], Report::Merge, Precondition::Any).await, TagsWritten::Stale);
    assert_eq!(write(&[("a", "1")], Report::Merge, one("x")).await, TagsWritten::Stale);
    let TagsWritten::Stored(first) = write(&[("a", "1")], Report::Merge, Precondition::None).await else {
        panic!("not stored");
    };
    assert_eq!(shown(storage, id).await.tags_etag.as_ref(), Some(&first));
    let TagsWritten::Stored(second) = write(&[("b", "2")], Report::Merge, one(&first)).await else {
        panic!("not stored");
    };
    assert_ne!(first, second);
    assert_eq!(write(&[], Report::Replace, one(&first)).await, TagsWritten::Stale);
    assert_eq!(write(&[("c", "3")], Report::Merge, one(&second)).await, TagsWritten::TooMany);
    let device = shown(storage, id).await;
    assert_eq!(value(&device, TAGS, "a"), Some(json!("1")));
    assert!(device.attributes.iter().all(|attribute| (attribute.scope == TAGS) == attribute.timestamp.is_some()));
    assert_eq!((device.updated, device.tags_etag.as_ref()), (None, Some(&second)));
    let TagsWritten::Stored(_) = write(&[], Report::Replace, Precondition::Any).await else { panic!("not stored") };
    assert_eq!(value(&shown(storage, id).await, TAGS, "a"), None);
    let nobody = DeviceId::random();
    let unknown = storage.inventory.write_tags(nobody, vec![], Report::Merge, &Precondition::None, 2, Timestamp(DAY));
    assert_eq!(unknown.await.expect("an answer"), TagsWritten::NoDevice);
    assert_eq!(storage.inventory.find(nobody).await.expect("an answer"), None);
}

pub async fn a_group_is_there_while_it_has_a_member(database: &TestDatabase) {
    let storage = &database.storage;
    let inventory = &storage.inventory;
    let accepted = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let pending = stored_device(storage, 2, SetStatus::Pending).await.id;
    let groups = async |status: Option<&str>| inventory.groups(status).await.expect("an answer");
    assert_eq!(groups(None).await, Vec::<String>::new());

    let joined = inventory.join_group(&[accepted, pending, DeviceId::random(), accepted], "hall").await;
    assert_eq!(joined.expect("an answer"), Moved { matched: 2, updated: 2 });
    let again = inventory.join_group(&[accepted], "hall").await;
    assert_eq!(again.expect("an answer"), Moved { matched: 1, updated: 0 });
    let moved = inventory.join_group(&[accepted], "kitchen").await;
    assert_eq!(moved.expect("an answer"), Moved { matched: 1, updated: 1 });
    assert_eq!(groups(None).await, ["hall", "kitchen"]);
    assert_eq!(groups(Some("accepted")).await, ["kitchen"]);
    assert_eq!(inventory.group_of(accepted).await.expect("an answer"), Some(Some("kitchen".to_owned())));
    assert_eq!(inventory.members("hall", 0, 10).await.expect("an answer"), (vec![pending], 1));
    assert!(
        inventory.are_all_in(&[accepted, pending], vec!["hall".into(), "kitchen".into()]).await.expect("an answer")
    );
    assert!(!inventory.are_all_in(&[accepted, pending], vec!["hall".into()]).await.expect("an answer"));

    accept(storage, pending, Timestamp(9)).await;
    assert_eq!(groups(Some("accepted")).await, ["hall", "kitchen"]);
    let left = inventory.leave_group(&[accepted, pending], "hall").await;
    assert_eq!(left.expect("an answer"), Moved { matched: 1, updated: 1 });
    assert_eq!(groups(None).await, ["kitchen"]);
    assert_eq!(inventory.group_of(pending).await.expect("an answer"), Some(None));
    assert_eq!(inventory.group_of(DeviceId::random()).await.expect("an answer"), None);
    remove(storage, accepted).await;
    assert_eq!(groups(None).await, Vec::<String>::new());
}

pub async fn a_dissolved_group_lets_go_of_all_its_members_and_no_other(database: &TestDatabase) {
    let storage = &database.storage;
    let mut ids = Vec::new();
    for serial in 0..5 {
        ids.push(stored_device(storage, serial, SetStatus::Accepted).await.id);
    }
    storage.inventory.join_group(&ids[..3], "hall").await.expect("an answer");
    storage.inventory.join_group(&ids[3..], "kitchen").await.expect("an answer");
    let dissolved = storage.inventory.dissolve_group("hall").await.expect("an answer");
    assert_eq!(dissolved, Moved { matched: 3, updated: 3 });
    assert_eq!(storage.inventory.dissolve_group("hall").await.expect("an answer"), Moved::default());
    assert_eq!(storage.inventory.groups(None).await.expect("an answer"), ["kitchen"]);
}

pub async fn counts_are_true_after_changes_in_parallel(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let mut ids = Vec::new();
    for serial in 0..20 {
        ids.push(stored_device(&database.storage, serial, SetStatus::Pending).await.id);
    }
    let mut work = tokio::task::JoinSet::new();
    for worker in 0..6_usize {
        let (storage, mut ids) = (nodes[worker % 2].clone(), ids.clone());
        work.spawn(async move {
            ids.rotate_left(worker * 3);
            for round in 0..5 {
                let group = ["hall", "kitchen", "attic"][(worker + round) % 3];
                storage.inventory.join_group(&ids[..10], group).await.expect("an answer");
                storage.inventory.leave_group(&ids[5..], group).await.expect("an answer");
                let name = format!("n{}", (worker + round) % 4);
                let reports = ids.iter().map(|id| storage::DeviceReport {
                    device: *id,
                    attributes: vec![attribute("inventory", &name, json!(worker))],
                    report: if round % 2 == 0 { Report::Replace } else { Report::Merge },
                    limit: 100,
                    now: Timestamp(DAY),
                });
                storage.inventory.report_all(&reports.collect::<Vec<_>>()).await.expect("an answer");
                if worker < 2 {
                    accept(&storage, ids[round], Timestamp(9)).await;
                }
            }
        });
    }
    work.join_all().await;

    let storage = &database.storage;
    let mut fleet = Vec::new();
    for id in &ids {
        fleet.push(shown(storage, *id).await);
    }
    for group in ["hall", "kitchen", "attic"] {
        let filter = || Filter::new(vec![Condition::equals("system", "group", group)]).expect("one");
        let members = fleet.iter().filter(|device| filter().matches(device)).count() as u64;
        let found = storage.inventory.search(&Search { filter: filter(), limit: 100, ..Search::default() }).await;
        let found = found.expect("an answer");
        assert_eq!((found.total, found.devices.len() as u64), (members, members), "{group}");
    }
    for known in storage.inventory.known_attributes(500).await.expect("an answer") {
        if known.name != "updated_ts" {
            let having = fleet.iter().filter(|device| value(device, &known.scope, &known.name).is_some()).count();
            assert_eq!(known.devices, having as u64, "{known:?}");
        }
    }
    let statistics = storage.inventory.statistics().await.expect("an answer");
    assert_eq!(statistics.accepted.standard + statistics.pending.standard, 20);
}

pub async fn the_hub_writes_attributes_of_any_scope(database: &TestDatabase) {
    let storage = &database.storage;
    let inventory = &storage.inventory;
    let id = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let tier = async |tier: &str| {
        let written = inventory.write_attributes(id, vec![attribute("system", "tier", json!(tier))], None).await;
        assert_eq!(written.expect("an answer"), AttributesWritten::Stored);
        inventory.statistics().await.expect("an answer").accepted
    };
    assert_eq!(inventory.statistics().await.expect("an answer").accepted.standard, 1);
    assert_eq!(tier("micro").await.micro, 1);
    assert_eq!(tier("system").await.system, 1);
    let alerts = vec![
        attribute("monitor", "alerts", json!(true)),
        attribute("monitor", "alert_count", json!(2)),
        attribute("system", "check_in_time", json!("2031-05-04T10:00:00.100Z")),
    ];
    inventory.write_attributes(id, alerts, None).await.expect("an answer");
    let device = shown(storage, id).await;
    assert_eq!(value(&device, "monitor", "alerts"), Some(json!(true)));
    assert_eq!(value(&device, "system", "check_in_time"), Some(json!("2031-05-04T10:00:00.100Z")));
    assert_eq!(device.updated, None);
    inventory.remove_attributes(id, "monitor", &["alerts", "alert_count"]).await.expect("an answer");
    assert_eq!(value(&shown(storage, id).await, "monitor", "alerts"), None);

    let reported = inventory.report(id, vec![attribute("", "a", json!(1))], Report::Merge, 100, Timestamp(DAY)).await;
    assert_eq!(reported.expect("an answer"), Reported::Stored);
    let write = async |since: i64| {
        let tag = vec![attribute(TAGS, "a", json!("x"))];
        inventory.write_attributes(id, tag, Some(Timestamp(since))).await.expect("an answer")
    };
    assert_eq!(write(DAY - 1).await, AttributesWritten::Modified);
    assert_eq!(write(DAY).await, AttributesWritten::Stored);

    let other = DeviceId::random();
    let unknown = inventory.write_attributes(other, vec![attribute(TAGS, "a", json!("x"))], None).await;
    assert_eq!(unknown.expect("an answer"), AttributesWritten::NoDevice);
    for text in ["x", "y"] {
        inventory.create(other, vec![attribute(TAGS, "a", json!(text))], Timestamp(DAY)).await.expect("an answer");
        assert_eq!(value(&shown(storage, other).await, TAGS, "a"), Some(json!(text)));
    }
    assert_eq!(value(&shown(storage, other).await, "system", "created_ts"), Some(json!("1970-01-02T00:00:00.000Z")));
    assert!(inventory.remove(other).await.expect("an answer"));
    assert!(!inventory.remove(other).await.expect("an answer"));
}

pub async fn what_one_scope_holds_is_bounded(database: &TestDatabase) {
    let inventory = &database.storage.inventory;
    let id = stored_device(&database.storage, 1, SetStatus::Accepted).await.id;
    let report = async |name: &str, value: Value| {
        let attributes = vec![attribute("", name, value)];
        inventory.report(id, attributes, Report::Merge, 100, Timestamp(DAY)).await.expect("an answer")
    };
    assert_eq!(report("many", json!(vec![1; 2_000])).await, Reported::Stored);
    assert_eq!(report("more", json!(1)).await, Reported::TooLarge);
    assert_eq!(report("many", json!(["a"])).await, Reported::Stored);
    assert_eq!(report("long", json!("x".repeat(1 << 20))).await, Reported::TooLarge);
    let half = "x".repeat(1 << 19);
    assert_eq!(report("long", json!(half)).await, Reported::Stored);
    assert_eq!(report("longer", json!(half)).await, Reported::TooLarge);
}

pub async fn reports_of_many_devices_are_one_transaction_and_keep_their_order(database: &TestDatabase) {
    let storage = &database.storage;
    let mut ids = Vec::new();
    for serial in 0..30 {
        ids.push(stored_device(storage, serial, SetStatus::Accepted).await.id);
    }
    let report = |device: DeviceId, text: &str, limit: usize| storage::DeviceReport {
        device,
        attributes: vec![attribute("", text, json!(text)), attribute("", "last", json!(text))],
        report: Report::Merge,
        limit,
        now: Timestamp(DAY),
    };
    let mut reports: Vec<_> = ids.iter().map(|id| report(*id, "first", 3)).collect();
    reports.extend(ids.iter().rev().map(|id| report(*id, "second", 3)));
    reports.push(report(DeviceId::random(), "first", 3));
    reports.push(report(ids[0], "third", 3));
    reports.push(report(ids[1], "second", 3));
    let outcomes = storage.inventory.report_all(&reports).await.expect("an answer");
    assert_eq!(outcomes[..60], [Reported::Stored; 60]);
    assert_eq!(outcomes[60..], [Reported::NoDevice, Reported::TooMany, Reported::Unchanged]);
    for id in ids {
        let device = shown(storage, id).await;
        assert_eq!(value(&device, "inventory", "last"), Some(json!("second")));
        assert_eq!(device.revision, 2, "written once for both");
    }
}

pub async fn documents_from_before_there_were_searches_are_found(database: &TestDatabase) {
    let storage = &database.storage;
    let id = stored_device(storage, 1, SetStatus::Accepted).await.id;
    if database.is_private() {
        return;
    }
    database.forget_indexes().await;
    let by = || Search {
        filter: Filter::new(vec![Condition::equals("identity", "serial", "1")]).expect("one"),
        limit: 5,
        ..Search::default()
    };
    assert_eq!(storage.inventory.search(&by()).await.expect("an answer").total, 0);
    let node = database.another_node().await;
    let found = node.inventory.search(&by()).await.expect("an answer");
    assert_eq!((found.total, found.devices[0].id), (1, id));
    assert_eq!(node.inventory.search(&Search::default()).await.expect("an answer").total, 1);
}

fn aggregation(attribute: &str, limit: u32, within: Vec<Aggregation>) -> Aggregation {
    Aggregation {
        name: format!("by {attribute}"),
        scope: "inventory".into(),
        attribute: attribute.into(),
        limit,
        within,
    }
}

fn counts(buckets: &Buckets) -> Vec<(&str, u64)> {
    buckets.items.iter().map(|bucket| (bucket.key.as_str(), bucket.count)).collect()
}

pub async fn devices_are_counted_by_their_values(database: &TestDatabase) {
    let storage = &database.storage;
    for serial in 0..12_u64 {
        let id = stored_device(storage, serial, SetStatus::Accepted).await.id;
        let mut attributes = vec![
            attribute(
                "",
                "version",
                json!(format!("v{}", [0, 0, 0, 1, 1, 2][usize::try_from(serial % 6).unwrap_or(0)])),
            ),
            attribute("", "floor", json!(serial % 2)),
        ];
        if serial == 0 {
            attributes.pop();
        }
        storage.inventory.report(id, attributes, Report::Merge, 100, Timestamp(DAY)).await.expect("an answer");
        if serial % 3 == 0 {
            storage.inventory.join_group(&[id], "hall").await.expect("an answer");
        }
    }
    let count = async |search: Search, aggregations: Vec<Aggregation>| {
        storage.inventory.aggregate(&search, &aggregations).await.expect("an answer")
    };
    let buckets =
        count(Search::default(), vec![aggregation("version", 2, vec![aggregation("floor", 5, vec![])])]).await;
    assert_eq!((buckets[0].name.as_str(), counts(&buckets[0])), ("by version", vec![("v0", 6), ("v1", 4)]));
    assert_eq!(buckets[0].other, 2);
    let within: Vec<_> =
        buckets[0].items.iter().map(|bucket| (counts(&bucket.within[0]), bucket.within[0].other)).collect();
    assert_eq!(within, [(vec![("0", 3), ("1", 2)], 0), (vec![("0", 2), ("1", 2)], 0)]);

    let group = Aggregation { scope: "system".into(), ..aggregation("group", 5, vec![]) };
    let status = Aggregation { scope: "identity".into(), ..aggregation("status", 5, vec![group]) };
    let buckets = count(Search::default(), vec![status, aggregation("nothing", 5, vec![])]).await;
    assert_eq!(counts(&buckets[0]), [("accepted", 12)]);
    assert_eq!(counts(&buckets[0].items[0].within[0]), [("hall", 4)]);
    assert_eq!((buckets[1].items.len(), buckets[1].other), (0, 0));

    let filter = Filter::new(vec![Condition::equals("system", "group", "hall")]).expect("one");
    let buckets = count(Search { filter, ..Search::default() }, vec![aggregation("version", 1, vec![])]).await;
    assert_eq!(buckets[0].items.iter().map(|bucket| bucket.count).sum::<u64>() + buckets[0].other, 4);
}

pub async fn no_group_has_a_name_with_nul(database: &TestDatabase) {
    let storage = &database.storage;
    let id = stored_device(storage, 1, SetStatus::Accepted).await.id;
    storage.inventory.join_group(&[id], "hall").await.expect("an answer");
    assert_eq!(storage.inventory.groups(Some("\0")).await.expect("an answer"), Vec::<String>::new());
    assert_eq!(storage.inventory.dissolve_group("hall\0").await.expect("an answer"), Moved::default());
    assert_eq!(storage.inventory.leave_group(&[id], "hall\0").await.expect("an answer"), Moved::default());
    assert_eq!(storage.inventory.members("hall\0", 0, 10).await.expect("an answer"), (Vec::new(), 0));
    for (operator, value, expected) in [
        ("$eq", json!("hall\0"), vec![]),
        ("$in", json!(["\0", "hall"]), vec![id]),
        ("$nin", json!(["\0"]), vec![id]),
        ("$lt", json!("hall\0"), vec![id]),
        ("$gte", json!("hall\0"), vec![]),
        ("$ltne", json!("hall\0"), vec![id]),
        ("$regex", json!("hall\0"), vec![]),
    ] {
        let filter = super::search::filter(&[("system", "group", operator, value)]);
        let found = super::search::found(storage, Search { filter, ..Search::default() }).await;
        assert_eq!(found, expected, "{operator}");
    }
}

pub async fn saved_filters_have_names_of_their_own(database: &TestDatabase) {
    let filters = &database.storage.filters;
    let filter = |name: &str| SavedFilter { id: FilterId::random(), name: name.into(), terms: "[]".into() };
    let (one, two) = (filter("b"), filter("a"));
    assert_eq!(filters.add(&one, Timestamp(1)).await.expect("an answer"), FilterSaved::Saved);
    assert_eq!(filters.add(&two, Timestamp(2)).await.expect("an answer"), FilterSaved::Saved);
    assert!(matches!(filters.add(&filter("a"), Timestamp(3)).await, Err(StorageError::Conflict("name"))));
    assert_eq!(filters.list(0, 1).await.expect("an answer"), (vec![two.clone()], 2));
    assert_eq!(filters.find(one.id).await.expect("an answer"), Some(one.clone()));
    let renamed = SavedFilter { name: "a".into(), ..one.clone() };
    assert!(matches!(filters.change(&renamed).await, Err(StorageError::Conflict("name"))));
    let renamed = SavedFilter { name: "c".into(), terms: "[1]".into(), ..one.clone() };
    assert_eq!(filters.change(&renamed).await.expect("an answer"), FilterSaved::Saved);
    assert_eq!(filters.find(one.id).await.expect("an answer"), Some(renamed));
    assert_eq!(filters.change(&filter("d")).await.expect("an answer"), FilterSaved::Unknown);
    assert!(filters.remove(one.id).await.expect("an answer"));
    assert!(!filters.remove(one.id).await.expect("an answer"));
}
