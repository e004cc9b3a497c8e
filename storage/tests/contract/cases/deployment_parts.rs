//! Devices' parts in deployments, searched like a table.

use serde_json::{Value, json};
use storage::deployments::parts::{Part, PartAggregation, PartField, PartSearch};
use storage::inventory::aggregate::Buckets;
use storage::inventory::filter::Filter;
use storage::{DeploymentId, DeviceId, DeviceState, NewDeployment, NewPhase, Plan, Storage, StorageError, Targets};

use super::artifacts::kept;
use super::deployments::{NOW, ids, make, new, offered, poll, says, told};
use crate::backends::TestDatabase;

fn conditions(conditions: &[(&str, &str, Value)]) -> Filter {
    let condition = |(name, operator, value): &(&str, &str, Value)| PartField::condition(name, operator, value);
    Filter::of_each(conditions.iter().map(condition)).expect("a filter")
}

fn all() -> PartSearch {
    PartSearch { limit: 100, ..PartSearch::default() }
}

async fn found(storage: &Storage, search: &PartSearch) -> Vec<Part> {
    let (parts, total) = storage.deployments.search_parts(search).await.expect("an answer");
    assert_eq!(total, parts.len() as u64);
    parts
}

/// The devices that pass these conditions, in order.
async fn devices(storage: &Storage, filter: &[(&str, &str, Value)]) -> Vec<String> {
    let search = PartSearch { filter: conditions(filter), ..all() };
    let mut devices: Vec<String> = found(storage, &search).await.into_iter().map(|part| part.device).collect();
    devices.sort_unstable();
    devices
}

fn sorted(devices: &[DeviceId]) -> Vec<String> {
    let mut ids = ids(devices);
    ids.sort_unstable();
    ids
}

/// A deployment in two phases of which four devices were told; the first has failed, the second has succeeded, the third is
/// on its way, the fourth has nothing to say yet. A fifth was not told.
async fn a_rollout(storage: &Storage) -> (DeploymentId, Vec<DeviceId>) {
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let devices: Vec<DeviceId> = (0..5).map(|_| DeviceId::random()).collect();
    let phases = vec![NewPhase { devices: Some(4), ..NewPhase::default() }, NewPhase::default()];
    let deployment = NewDeployment {
        plan: Plan { phases, retries: 0, ..Plan::default() },
        groups: vec!["hall, \"east\"".to_owned(), "hall".to_owned()],
        ..new("app-1", Targets::Devices(ids(&devices)))
    };
    let id = make(&storage.deployments, &deployment).await;
    for device in &devices[..4] {
        assert_eq!(told(storage, *device).await, Some(id));
    }
    says(storage, id, devices[0], DeviceState::Failure).await;
    says(storage, id, devices[1], DeviceState::Success).await;
    says(storage, id, devices[2], DeviceState::Installing).await;
    (id, devices)
}

pub async fn a_part_is_one_row_that_is_found_by_what_it_is(database: &TestDatabase) {
    let storage = &database.storage;
    let (id, told_devices) = a_rollout(storage).await;
    let told_devices = &told_devices[..4];
    // Another deployment has rows of its own for the same device.
    kept(storage, "app-2", &["rpi4"], &[2]).await;
    let other = make(&storage.deployments, &new("app-2", Targets::Devices(ids(&told_devices[..1])))).await;
    assert_eq!(told(storage, told_devices[0]).await, Some(other));
    offered(storage, poll(told_devices[0])).await;

    let parts = found(storage, &all()).await;
    assert_eq!(parts.len(), 5);
    let search = PartSearch { deployments: Some(vec![id]), devices: Some(ids(&told_devices[..1])), ..all() };
    let [part] = &found(storage, &search).await[..] else { panic!("one row") };
    assert_eq!((part.deployment, &part.device), (id, &told_devices[0].to_string()));
    assert_eq!((part.deployment_name.as_str(), part.artifact_name.as_str()), ("To app-1", "app-1"));
    assert_eq!((part.state, part.is_phased, part.phase.is_some()), (DeviceState::Failure, true, true));
    assert_eq!((part.max_devices, part.retries, part.attempts, part.forced), (5, 0, 0, false));
    assert!(part.finished.is_some() && part.deleted.is_none() && !part.has_log);
    let artifact = part.artifact.as_ref().expect("what it was given");
    assert_eq!((artifact.name.as_str(), artifact.size), ("app-1", 100));
    for nothing in [
        PartSearch { deployments: Some(vec![]), ..all() },
        PartSearch { devices: Some(vec![]), ..all() },
        PartSearch { devices: Some(vec!["nul \0".to_owned()]), ..all() },
    ] {
        assert_eq!(found(storage, &nothing).await, []);
    }

    let first = sorted(&told_devices[..1]);
    let of_first = ("deployment_id", "$eq", json!(id.to_string()));
    for (asked, wanted) in [
        (vec![("device_status", "$eq", json!("failure")), of_first.clone()], &told_devices[..1]),
        (vec![("device_status", "$in", json!(["failure", "success", "no such"]))], &told_devices[..2]),
        (vec![("device_status", "$nin", json!(["failure", "success"])), of_first.clone()], &told_devices[2..]),
        (vec![("device_status", "$regex", json!("inst.*"))], &told_devices[2..3]),
        (vec![("device_status", "$regex", json!("inst"))], &[]),
        (vec![("device_status", "$gt", json!("pending"))], &told_devices[1..2]),
        (vec![("device_status", "$eq", json!(256))], &[]),
        (vec![("device_status", "$exists", json!(true)), of_first.clone()], told_devices),
        (vec![("device_status", "$eq", json!("success")), ("deployment_id", "$eq", json!(other.to_string()))], &[]),
        (vec![("deployment_id", "$eq", json!("no id"))], &[]),
        (vec![("deployment_id", "$ne", json!(other.to_string()))], told_devices),
        (vec![("device_id", "$regex", json!(first[0])), of_first.clone()], &told_devices[..1]),
        (vec![("device_finished", "$exists", json!(true))], &told_devices[..2]),
        (vec![("device_finished", "$exists", json!(false)), of_first.clone()], &told_devices[2..]),
        (vec![("device_created", "$eq", json!("1970-01-01T00:00:05Z")), of_first.clone()], told_devices),
        (vec![("deployment_created", "$lt", json!("1970-01-01"))], &[]),
        (vec![("device_elapsed_seconds", "$gte", json!(0.0))], &told_devices[..2]),
        (vec![("device_elapsed_seconds", "$ne", json!(0)), of_first.clone()], &told_devices[2..]),
        (vec![("deployment_max_devices", "$in", json!([5, "5"]))], told_devices),
        (vec![("image_size", "$lte", json!(100)), of_first.clone()], told_devices),
        (vec![("deployment_phased", "$eq", json!(true))], told_devices),
        (vec![("deployment_phased", "$eq", json!(false))], &told_devices[..1]),
        (vec![("deployment_phased", "$in", json!([true, false])), of_first.clone()], told_devices),
        (vec![("deployment_phased", "$ne", json!("true")), of_first.clone()], told_devices),
        (vec![("deployment_force_installation", "$eq", json!(true))], &[]),
        (vec![("deployment_groups", "$eq", json!("hall"))], told_devices),
        (vec![("deployment_groups", "$eq", json!("hall, "))], &[]),
        (vec![("deployment_groups", "$eq", json!("hall, \"east\""))], told_devices),
        (vec![("deployment_groups", "$ne", json!("hall"))], &told_devices[..1]),
        (vec![("deployment_groups", "$regex", json!(".*east."))], told_devices),
        (vec![("deployment_groups", "$gt", json!("hall"))], told_devices),
        (vec![("deployment_groups", "$exists", json!(false))], &told_devices[..1]),
        (vec![("image_device_types", "$exists", json!(false)), of_first.clone()], told_devices),
        (vec![("image_device_types", "$regex", json!("rpi.*"))], &[]),
        (vec![("deployment_name", "$regex", json!("To .*-1"))], told_devices),
        (vec![("deployment_type", "$regex", json!("soft.*")), of_first.clone()], told_devices),
        (vec![("deployment_artifact_name", "$gt", json!("app-1"))], &told_devices[..1]),
        (vec![("image_description", "$gte", json!("About app-2"))], &told_devices[..1]),
        (vec![("image_description", "$nin", json!([])), of_first.clone()], told_devices),
    ] {
        assert_eq!(devices(storage, &asked).await, sorted(wanted), "{asked:?}");
    }

    // Live: what has just changed is found at once.
    storage.deployments.abort(id, NOW).await.expect("an answer");
    assert_eq!(devices(storage, &[("device_status", "$eq", json!("aborted"))]).await, sorted(&told_devices[2..]));
}

pub async fn parts_are_paged_in_any_order(database: &TestDatabase) {
    let storage = &database.storage;
    let (id, _) = a_rollout(storage).await;
    let named = |name: &str| PartField::named(name).expect("a field");
    let by_status = PartSearch { order: vec![(named("device_status"), false)], ..all() };
    let words: Vec<&str> = found(storage, &by_status).await.iter().map(|part| part.state.as_str()).collect();
    assert_eq!(words, ["failure", "installing", "pending", "success"]);
    for name in [
        "id",
        "deployment_id",
        "deployment_phase_id",
        "image_id",
        "device_id",
        "deployment_name",
        "image_description",
        "deployment_phased",
        "device_finished",
        "device_elapsed_seconds",
        "image_size",
    ] {
        for is_descending in [false, true] {
            let whole = PartSearch { order: vec![(named(name), is_descending)], ..all() };
            let whole = found(storage, &whole).await;
            let mut paged = Vec::new();
            for offset in 0..5 {
                let order = vec![(named(name), is_descending)];
                let page = PartSearch { order, offset, limit: 1, ..PartSearch::default() };
                let (parts, total) = storage.deployments.search_parts(&page).await.expect("an answer");
                assert_eq!(total, 4);
                paged.extend(parts);
            }
            assert_eq!(paged, whole, "{name}");
            let finished: Vec<bool> = whole.iter().map(|part| part.finished.is_some()).collect();
            if name == "device_finished" {
                assert!(finished.is_sorted_by(|one, other| if is_descending { one >= other } else { one <= other }));
            }
        }
    }
    let lists = PartSearch { order: vec![(named("deployment_groups"), false)], ..all() };
    assert!(!lists.is_sortable() && by_status.is_sortable());
    assert!(found(storage, &all()).await.iter().all(|part| part.deployment == id));
}

pub async fn a_search_of_parts_is_bounded_in_time(database: &TestDatabase) {
    let (_, devices) = a_rollout(&database.storage).await;
    let hasty = database.another_node_with(|config| config.search_limit = std::time::Duration::ZERO).await;
    let search = PartSearch { filter: conditions(&[("device_id", "$regex", json!(".*"))]), ..all() };
    let refused = hasty.deployments.search_parts(&search).await;
    // A database in memory has no node with other settings.
    let is_refused = matches!(refused, Err(StorageError::TooExpensive(_)));
    assert!(is_refused || database.url() == "sqlite::memory:", "{refused:?}");
    assert_eq!(found(&database.storage, &search).await.len(), devices.len() - 1);
}

fn by(name: &str, within: Vec<PartAggregation>) -> PartAggregation {
    let field = PartField::named(name).expect("a field");
    PartAggregation { name: name.to_owned(), field, limit: 10, within }
}

/// The values of a level with their numbers.
fn numbers(buckets: &Buckets) -> Vec<(&str, u64)> {
    buckets.items.iter().map(|bucket| (bucket.key.as_str(), bucket.count)).collect()
}

pub async fn parts_are_counted_by_their_fields(database: &TestDatabase) {
    let storage = &database.storage;
    let (id, told_devices) = a_rollout(storage).await;
    let count = async |search: &PartSearch, wanted: Vec<PartAggregation>| {
        storage.deployments.aggregate_parts(search, &wanted).await.expect("an answer")
    };
    let text = id.to_string();
    for (name, wanted) in [
        ("device_status", vec![("failure", 1), ("installing", 1), ("pending", 1), ("success", 1)]),
        ("deployment_id", vec![(text.as_str(), 4)]),
        ("deployment_artifact_name", vec![("app-1", 4)]),
        ("deployment_type", vec![("software", 4)]),
        ("deployment_phased", vec![("true", 4)]),
        ("device_is_log_available", vec![("false", 4)]),
        ("deployment_max_devices", vec![("5", 4)]),
        ("deployment_created", vec![("1970-01-01T00:00:05.000Z", 4)]),
        // Of a list each element counts, and what is not there does not.
        ("deployment_groups", vec![("hall", 4), ("hall, \"east\"", 4)]),
        ("image_device_types", vec![]),
        ("device_deleted", vec![]),
    ] {
        let counted = count(&all(), vec![by(name, vec![])]).await;
        let mut found = numbers(&counted[0]);
        found.sort_unstable();
        assert_eq!((found, counted[0].other), (wanted, 0), "{name}");
    }
    // Every field can be counted by, and no part is counted twice.
    for name in [
        "id",
        "device_id",
        "deployment_phase_id",
        "image_id",
        "image_size",
        "device_elapsed_seconds",
        "device_finished",
    ] {
        let counted = count(&all(), vec![by(name, vec![])]).await;
        let total: u64 = counted[0].items.iter().map(|bucket| bucket.count).sum();
        let is_of_finished = matches!(name, "device_elapsed_seconds" | "device_finished");
        assert_eq!(total, if is_of_finished { 2 } else { 4 }, "{name}");
    }
    // Times are told apart as they are shown.
    database.execute(&["UPDATE device_deployments SET created = created + 7 WHERE finished IS NOT NULL"]).await;
    let counted = count(&all(), vec![by("device_created", vec![])]).await;
    assert_eq!(numbers(&counted[0]), [("1970-01-01T00:00:05.000Z", 4)]);
    // Levels within levels, of a question.
    let first_two = PartSearch { devices: Some(ids(&told_devices[..2])), ..all() };
    let wanted = by("deployment_groups", vec![by("device_status", vec![by("deployment_groups", vec![])])]);
    let counted = count(&first_two, vec![wanted, by("device_status", vec![])]).await;
    for group in &counted[0].items {
        let mut states = numbers(&group.within[0]);
        states.sort_unstable();
        assert_eq!((states, group.count), (vec![("failure", 1), ("success", 1)], 2));
        assert!(group.within[0].items.iter().all(|state| state.within[0].items.len() == 2));
    }
    assert_eq!(counted[1].items.len(), 2);
    let one = PartAggregation { limit: 1, ..by("device_status", vec![]) };
    let counted = count(&all(), vec![one]).await;
    assert_eq!((counted[0].items.len(), counted[0].other), (1, 3));
}
