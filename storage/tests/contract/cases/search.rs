//! Finding devices: both databases answer as the definitions of the questions say, whatever is asked.

use std::cmp::Ordering;

use serde_json::{Value, json};
use storage::inventory::aggregate::Aggregation;
use storage::inventory::filter::{Condition, Filter, Grammar};
use storage::inventory::order::SortKey;
use storage::inventory::place::Area;
use storage::inventory::search::{FreeText, Search};
use storage::inventory::{Precondition, TAGS};
use storage::{Attribute, DeviceId, InventoryDevice, Report, SetStatus, Storage, StorageError, Timestamp};

use crate::backends::{TestDatabase, accept, remove, stored_device};
use crate::random::Random;

const DAY: i64 = 86_400_000_000;
const LIMIT: usize = 100;

/// Devices of the random fleet, how often it changes, and questions asked in between.
const DEVICES: u64 = 40;
const ROUNDS: u64 = 10;
const QUESTIONS: u64 = 1_000;

fn attribute(scope: &str, name: &str, value: Value) -> Attribute {
    Attribute { scope: scope.to_owned(), name: name.to_owned(), value, description: None, timestamp: None }
}

fn condition(scope: &str, name: &str, operator: &str, value: &Value) -> Condition {
    Condition::parse(Grammar::Inventory, scope, name, operator, value).expect("a good question")
}

pub(super) fn filter(conditions: &[(&str, &str, &str, Value)]) -> Filter {
    let conditions = conditions.iter();
    Filter::new(conditions.map(|(scope, name, operator, value)| condition(scope, name, operator, value)).collect())
        .expect("not too many")
}

/// The ids of the first thousand that pass.
pub(super) async fn found(storage: &Storage, search: Search) -> Vec<DeviceId> {
    let found = storage.inventory.search(&Search { limit: 1000, ..search }).await.expect("an answer");
    assert_eq!(found.total, found.devices.len() as u64);
    found.devices.into_iter().map(|device| device.id).collect()
}

async fn report(storage: &Storage, device: DeviceId, attributes: &[(&str, Value)]) {
    let attributes = attributes.iter().map(|(name, value)| attribute("inventory", name, value.clone())).collect();
    let inventory = &storage.inventory;
    inventory.report(device, attributes, Report::Replace, LIMIT, Timestamp(DAY)).await.expect("an answer");
}

async fn everything(storage: &Storage, ids: &[DeviceId]) -> Vec<InventoryDevice> {
    let mut devices = Vec::new();
    for id in ids {
        devices.push(storage.inventory.find(*id).await.expect("an answer").expect("the device"));
    }
    devices
}

pub async fn whoever_passes_is_read_by_id_while_others_go(database: &TestDatabase) {
    let storage = &database.storage;
    let mut devices = vec![];
    for serial in 1..=7 {
        devices.push(stored_device(storage, serial, SetStatus::Accepted).await.id);
    }
    stored_device(storage, 8, SetStatus::Pending).await;
    devices.sort_unstable();
    let accepted = filter(&[("identity", "status", "$eq", json!("accepted"))]);
    let read = async |after, limit| storage.inventory.passing(&accepted, after, limit).await.expect("an answer");
    assert_eq!(read(None, 100).await, devices);
    let first = read(None, 3).await;
    assert_eq!(first, devices[..3]);
    // By number, one of the others would be passed over now.
    remove(storage, devices[0]).await;
    remove(storage, devices[2]).await;
    assert_eq!(read(Some(devices[2]), 3).await, devices[3..6]);
    assert_eq!(read(Some(devices[5]), 3).await, devices[6..]);
    assert_eq!(read(Some(devices[6]), 3).await, []);
    let search = Search { filter: accepted.clone(), after: Some(devices[4]), ..Search::default() };
    assert_eq!(found(storage, search).await, devices[5..]);
}

/// Ten thousand questions about fleets that change in between.
pub async fn random_questions_are_answered_as_defined(database: &TestDatabase) {
    let mut random = Random::seeded();
    let storage = &database.storage;
    let mut ids = Vec::new();
    for serial in 0..DEVICES {
        ids.push(stored_device(storage, serial, SetStatus::Pending).await.id);
    }
    for round in 0..ROUNDS {
        for id in &ids {
            change(storage, *id, &mut random).await;
        }
        let fleet = everything(storage, &ids).await;
        let mut asked = 0;
        while asked < QUESTIONS {
            let Some(filter) = question(&mut random) else { continue };
            asked += 1;
            let order: Vec<SortKey> = (0..random.below(3)).map(|_| key(&mut random)).collect();
            let (offset, limit) = (random.below(DEVICES + 5), u32::try_from(random.below(20)).unwrap_or(1) + 1);
            let passing = in_order(fleet.iter().filter(|device| filter.matches(device)).collect(), &order);
            let page = passing.iter().skip(usize::try_from(offset).unwrap_or(0)).take(limit as usize);
            let expected: Vec<DeviceId> = page.map(|device| device.id).collect();

            let search = Search { filter, order, offset, limit, ..Search::default() };
            let found = storage.inventory.search(&search).await;

            let found = found.unwrap_or_else(|error| panic!("{error:?}: {search:?}, {random}"));
            assert_eq!(found.total, passing.len() as u64, "round {round}, {random}: {search:#?}");
            let ids: Vec<DeviceId> = found.devices.iter().map(|device| device.id).collect();
            assert_eq!(ids, expected, "round {round}, {random}: {search:#?}");
            for device in &found.devices {
                assert!(fleet.contains(device), "round {round}, {random}");
            }
        }
    }
}

fn in_order<'a>(mut devices: Vec<&'a InventoryDevice>, order: &[SortKey]) -> Vec<&'a InventoryDevice> {
    let descending = order.last().is_some_and(|key| key.descending);
    devices.sort_by(|one, other| {
        let by_keys = order.iter().map(|key| key.compare(one, other)).find(|ordering| *ordering != Ordering::Equal);
        let by_id = if descending { other.id.cmp(&one.id) } else { one.id.cmp(&other.id) };
        by_keys.unwrap_or(by_id)
    });
    devices
}

const NAMES: [&str; 4] = ["a", "b", "rootfs-image.version", "$set"];

fn scalar(random: &mut Random) -> Value {
    let long = |end: &str| json!("x".repeat(1500) + end);
    match random.below(16) {
        0 => json!(-1),
        1 => json!(0),
        2 => json!(5),
        3 => json!(5.5),
        4 => json!(1e300),
        5 => json!(""),
        6 => json!("a"),
        7 => json!("ab"),
        8 => json!("b"),
        9 => json!("é"),
        10 => json!("5"),
        11 => json!("10"),
        12 => json!("a%b_c"),
        13 => long("1"),
        14 => long("2"),
        _ => json!("v1.2"),
    }
}

fn value(random: &mut Random) -> Value {
    if random.below(4) > 0 {
        return scalar(random);
    }
    let is_text = random.below(2) == 0;
    let mut items = Vec::new();
    let wanted = random.below(4);
    while (items.len() as u64) < wanted {
        let item = scalar(random);
        if item.is_string() == is_text {
            items.push(item);
        }
    }
    Value::Array(items)
}

/// Lets everything about a device be something else.
async fn change(storage: &Storage, device: DeviceId, random: &mut Random) {
    let inventory = &storage.inventory;
    let mut some = |scope: &str| -> Vec<Attribute> {
        (0..random.below(5))
            .map(|_| {
                let name = random.pick::<&str>(&NAMES);
                attribute(scope, name, value(random))
            })
            .collect()
    };
    let (reported, tags) = (some("inventory"), some(TAGS));
    let kind = if random.below(2) == 0 { Report::Merge } else { Report::Replace };
    let now = Timestamp(DAY + i64::try_from(random.below(5)).unwrap_or(0) * DAY);
    inventory.report(device, reported, kind, LIMIT, now).await.expect("an answer");
    inventory.write_tags(device, tags, kind, &Precondition::None, LIMIT, now).await.expect("an answer");
    match random.below(4) {
        0 => drop(inventory.join_group(&[device], "kitchen").await.expect("an answer")),
        1 => drop(inventory.join_group(&[device], "hall").await.expect("an answer")),
        2 => drop(inventory.leave_group(&[device], "hall").await.expect("an answer")),
        _ => {}
    }
    if random.below(3) == 0 {
        let alerts = vec![attribute("monitor", "alerts", json!(random.below(2) == 0))];
        inventory.write_attributes(device, alerts, None).await.expect("an answer");
    }
    if random.below(3) == 0 {
        storage.devices.record_check_ins(&[(device, now)]).await.expect("an answer");
    }
    if random.below(5) == 0 {
        accept(storage, device, Timestamp(9)).await;
    }
}

fn question(random: &mut Random) -> Option<Filter> {
    let mut conditions = Vec::new();
    for _ in 0..=random.below(3) {
        let (scope, name) = place(random);
        let operator =
            *random.pick(&["$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$ltne", "$exists", "$regex"]);
        let is_time = name.ends_with("_ts") || name == "check_in_time";
        let one = |random: &mut Random| {
            if is_time {
                return json!(Timestamp(i64::try_from(random.below(7)).unwrap_or(0) * DAY).rfc3339());
            }
            match (scope, name) {
                ("identity", "status") => json!(*random.pick(&["accepted", "pending", "b"])),
                ("system", "group") => json!(*random.pick(&["kitchen", "hall", "attic", ""])),
                ("monitor", "alerts") => json!(random.below(2) == 0),
                _ => value(random),
            }
        };
        let value = match operator {
            "$in" | "$nin" => (0..random.below(4)).map(|_| one(random)).collect(),
            "$exists" => json!(random.below(2) == 0),
            "$regex" => json!(*random.pick(&[
                "", "a", "^a", "a|b", ".*b", "/A/i", "v1", "(a+)+$", "[", "5*", "x{3}", "kit", "acc", "é?", "[0-9]",
            ])),
            _ => one(random),
        };
        conditions.push(Condition::parse(Grammar::Inventory, scope, name, operator, &value).ok()?);
    }
    Filter::new(conditions).ok()
}

fn place(random: &mut Random) -> (&'static str, &'static str) {
    match random.below(12) {
        0 => ("identity", "status"),
        1 => ("identity", "id"),
        2 => ("identity", "serial"),
        3 => ("system", "group"),
        4 => ("system", *random.pick(&["created_ts", "updated_ts", "check_in_time"])),
        5 => ("monitor", "alerts"),
        6 | 7 => (TAGS, *random.pick(&NAMES)),
        _ => ("inventory", *random.pick(&NAMES)),
    }
}

fn key(random: &mut Random) -> SortKey {
    let (scope, name) = place(random);
    SortKey { scope: scope.to_owned(), name: name.to_owned(), descending: random.below(2) == 0 }
}

pub async fn devices_are_found_by_what_they_are_and_leave_with_it(database: &TestDatabase) {
    let storage = &database.storage;
    let one = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let two = stored_device(storage, 2, SetStatus::Pending).await.id;
    report(storage, one, &[("kernel", json!("6.1")), ("modules", json!(["a", "b"]))]).await;
    report(storage, two, &[("kernel", json!("6.2"))]).await;
    let by = |name: &str, value: &str| Search {
        filter: filter(&[("inventory", name, "$eq", json!(value))]),
        ..Search::default()
    };
    assert_eq!(found(storage, by("kernel", "6.1")).await, [one]);
    assert_eq!(found(storage, by("modules", "b")).await, [one]);
    report(storage, one, &[("kernel", json!("6.2"))]).await;
    assert_eq!(found(storage, by("kernel", "6.1")).await, []);
    assert_eq!(found(storage, by("modules", "b")).await, []);
    assert_eq!(found(storage, by("kernel", "6.2")).await.len(), 2);
    let accepted =
        || Search { filter: filter(&[("identity", "status", "$eq", json!("accepted"))]), ..Search::default() };
    assert_eq!(found(storage, accepted()).await, [one]);
    accept(storage, two, Timestamp(9)).await;
    assert_eq!(found(storage, accepted()).await.len(), 2);

    remove(storage, one).await;
    assert_eq!(found(storage, by("kernel", "6.2")).await, [two]);
    assert_eq!(found(storage, accepted()).await, [two]);
    assert_eq!(found(storage, Search::default()).await, [two]);
    let text = Search { text: FreeText::new(&one.to_string()), ..Search::default() };
    assert!(!found(storage, text).await.contains(&one));
    remove(storage, two).await;
    assert_eq!(storage.inventory.known_attributes(500).await.expect("an answer"), []);
    assert_eq!(storage.inventory.statistics().await.expect("an answer").accepted.standard, 0);
}

pub async fn only_the_devices_asked_about_are_found(database: &TestDatabase) {
    let storage = &database.storage;
    let one = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let two = stored_device(storage, 2, SetStatus::Pending).await.id;
    let among = |devices: Vec<DeviceId>| Search { devices: Some(devices), ..Search::default() };
    assert_eq!(found(storage, among(vec![two, DeviceId::random()])).await, [two]);
    assert_eq!(found(storage, among(vec![])).await, []);
    assert_eq!(found(storage, among(vec![one, two, one])).await.len(), 2);
}

pub async fn free_text_finds_beginnings_and_parts_of_names(database: &TestDatabase) {
    let storage = &database.storage;
    let lamp = stored_device(storage, 7_654_321, SetStatus::Accepted).await.id;
    let oven = stored_device(storage, 2, SetStatus::Accepted).await.id;
    report(storage, lamp, &[("artifact_name", json!("Release-4.1")), ("numbers", json!(998_877_665_544_u64))]).await;
    report(storage, oven, &[("artifact_name", json!("release-4.2 größer"))]).await;
    let tag = vec![attribute(TAGS, "name", json!("Kitchen lamp"))];
    let written = storage.inventory.write_tags(lamp, tag, Report::Merge, &Precondition::None, 20, Timestamp(DAY)).await;
    written.expect("an answer");
    storage.inventory.join_group(&[oven], "hall").await.expect("an answer");
    let text = async |text: &str| found(storage, Search { text: FreeText::new(text), ..Search::default() }).await;

    assert_eq!(text("kitch").await, [lamp]);
    assert_eq!(text("KITCHEN").await, [lamp]);
    assert_eq!(text("tchen").await, [lamp], "a part of the name");
    // Long enough that no random id has it by chance.
    assert_eq!(text("54321").await, [lamp], "a part of the identity");
    assert_eq!(text("ha").await, [oven], "the group");
    assert_eq!(text("größ").await, [oven]);
    assert_eq!(text(&oven.to_string()[..8]).await, [oven], "the beginning of the id");
    assert_eq!(text("eleas").await, [], "inside a word that is no name");
    assert_eq!(text("998877665544").await, [], "a number");
    assert_eq!(text("release").await.len(), 2);
    assert_eq!(text("release kitchen").await, [lamp, oven], "first what holds both");
    assert_eq!(text("release hall").await, [oven, lamp], "first what holds both");
    assert_eq!(text("%").await, []);
    assert_eq!(text(" ").await.len(), 2, "nothing is asked");
    for asked in ["kitch", "release hall", "54321", "eleas", "größ"] {
        let fleet = everything(storage, &[lamp, oven]).await;
        let wanted = FreeText::new(asked).expect("words");
        let expected = fleet.iter().filter(|device| wanted.found_in(device) > 0).count();
        assert_eq!(text(asked).await.len(), expected, "{asked}");
    }
}

pub async fn what_a_device_is_known_by_comes_before_its_words(database: &TestDatabase) {
    let storage = &database.storage;
    let mut ids = Vec::new();
    for (serial, name) in [(1, "Kitchen lamp"), (2, "Lamp kitchen"), (3, "100%_lamp"), (4, "lamp 100")] {
        let id = stored_device(storage, serial, SetStatus::Accepted).await.id;
        let tag = vec![attribute(TAGS, "name", json!(name))];
        let written =
            storage.inventory.write_tags(id, tag, Report::Merge, &Precondition::None, 20, Timestamp(DAY)).await;
        written.expect("an answer");
        ids.push(id);
    }
    // All hold both words, so without a preference their random ids would decide, the same way for either question.
    for (asked, first) in
        [("kitchen LAMP", ids[0]), (" lamp kitchen ", ids[1]), ("100%_lamp", ids[2]), ("Lamp 100", ids[3])]
    {
        let search = Search { text: FreeText::new(asked), ..Search::default() };
        assert_eq!(found(storage, search).await[0], first, "{asked}");
    }
    let strange = Search { text: FreeText::new("kitchen\0lamp"), ..Search::default() };
    assert_eq!(found(storage, strange).await.len(), 4);
}

pub async fn devices_are_found_by_where_they_are(database: &TestDatabase) {
    let storage = &database.storage;
    let mut ids = Vec::new();
    let places = [(json!("59.91"), json!("10.75")), (json!(59.95), json!(10.8)), (json!(-18.1), json!(178.4))];
    for (serial, (latitude, longitude)) in (0_u64..).zip(places) {
        let id = stored_device(storage, serial, SetStatus::Accepted).await.id;
        report(storage, id, &[("geo-lat", latitude), ("geo-lon", longitude)]).await;
        ids.push(id);
    }
    let nowhere = stored_device(storage, 9, SetStatus::Accepted).await.id;
    let fleet = everything(storage, &[ids.clone(), vec![nowhere]].concat()).await;
    for (area, expected) in [
        (Area::around(59.91, 10.75, 1.0), vec![0]),
        (Area::around(59.91, 10.75, 6_000.0), vec![0, 1]),
        (Area::around(59.91, 10.75, 30_000_000.0), vec![0, 1, 2]),
        (Area::between((60.0, 10.0), (59.92, 11.0)), vec![1]),
        (Area::between((0.0, 170.0), (-30.0, -170.0)), vec![2]),
    ] {
        let area = area.expect("an area");
        let mut expected: Vec<DeviceId> = expected.into_iter().map(|place| ids[place]).collect();
        expected.sort();
        let holding: Vec<DeviceId> = fleet.iter().filter(|device| area.holds(device)).map(|device| device.id).collect();
        assert_eq!(holding.len(), expected.len(), "{area:?}");
        let search = Search { areas: vec![area], ..Search::default() };
        assert_eq!(found(storage, search).await, expected, "{area:?}");
    }
}

pub async fn an_expression_on_too_many_values_is_refused(database: &TestDatabase) {
    let storage = &database.storage;
    let id = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let values: Vec<String> = (0..1_500).map(|number| format!("v{number}")).collect();
    report(storage, id, &[("many", json!(values))]).await;
    let by = |expression: &str| Search {
        filter: filter(&[("inventory", "many", "$regex", json!(expression))]),
        ..Search::default()
    };
    for expression in ["v", "v14.*", ".*99$", "/V7/i"] {
        assert_eq!(found(storage, by(expression)).await, [id], "{expression}");
    }
    for expression in ["w", "(", "(a+)+$", r"(v)\1"] {
        assert_eq!(found(storage, by(expression)).await, [], "{expression}");
    }
}

pub async fn the_values_that_one_question_matches_are_bounded(database: &TestDatabase) {
    if database.is_private() {
        return;
    }
    let patient = |config: &mut storage::Config| config.search_limit = std::time::Duration::from_mins(1);
    let storage = &database.another_node_with(patient).await;
    for serial in 0..11 {
        let id = stored_device(storage, serial, SetStatus::Accepted).await.id;
        let values: Vec<String> = (0..1_000).map(|number| format!("{serial} {number}")).collect();
        report(storage, id, &[("serial", json!(serial)), ("many", json!(values))]).await;
    }
    let question = |expressions: &[&str]| {
        let conditions = expressions.iter().map(|one| ("inventory", "many", "$regex", json!(one)));
        Search { filter: filter(&conditions.collect::<Vec<_>>()), ..Search::default() }
    };
    // Half of what is allowed.
    let half = "[0-4] .*";
    assert_eq!(found(storage, question(&[half, "4 1"])).await.len(), 1);
    for expressions in [&["[0-9]+ .*"][..], &[half, "[0-5] .*"]] {
        let refused = storage.inventory.search(&question(expressions)).await;
        assert!(matches!(refused, Err(StorageError::TooExpensive(_))), "{expressions:?}: {refused:?}");
    }

    let by = |attribute: &str, within| Aggregation {
        name: attribute.to_owned(),
        scope: "inventory".to_owned(),
        attribute: attribute.to_owned(),
        limit: 1_000,
        within,
    };
    let below = by("serial", vec![by("many", vec![])]);
    let counted = storage.inventory.aggregate(&Search::default(), &[below]).await.expect("an answer");
    assert_eq!(counted[0].items.len(), 11);
    let deeper = by("serial", vec![by("many", vec![by("serial", vec![])])]);
    let refused = storage.inventory.aggregate(&Search::default(), &[deeper]).await;
    assert!(matches!(refused, Err(StorageError::TooExpensive(_))), "{refused:?}");
}

pub async fn a_search_ends_at_its_limit(database: &TestDatabase) {
    for serial in 0..200 {
        stored_device(&database.storage, serial, SetStatus::Accepted).await;
    }
    if database.is_private() {
        return;
    }
    let hasty = database.another_node_with(|config| config.search_limit = std::time::Duration::from_millis(1)).await;
    // Every pair of devices that does not have what is asked for is looked at again for each condition.
    let conditions = vec![condition("inventory", "a", "$ne", &json!("b")); 100];
    let order = (0..10).map(|number| SortKey {
        scope: "inventory".to_owned(),
        name: format!("n{number}"),
        descending: number % 2 == 0,
    });
    let search = Search {
        filter: Filter::new(conditions).expect("not too many"),
        order: order.collect(),
        limit: 500,
        ..Search::default()
    };
    let mut refused = false;
    for _ in 0..200 {
        match hasty.inventory.search(&search).await {
            Ok(found) => assert_eq!(found.total, 200),
            Err(StorageError::TooExpensive(why)) => {
                assert!(why.contains("narrow it"), "{why}");
                refused = true;
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused, "no search was too long");
    // The limit is of the search alone: the connection serves others as before.
    assert_eq!(hasty.inventory.groups(None).await.expect("an answer"), Vec::<String>::new());
}

pub async fn pages_of_any_order_meet_each_device_once(database: &TestDatabase) {
    let storage = &database.storage;
    for serial in 0..45 {
        let id = stored_device(storage, serial, SetStatus::Accepted).await.id;
        report(storage, id, &[("third", json!(serial % 3))]).await;
    }
    for descending in [false, true] {
        let mut met = Vec::new();
        for page in 0..7 {
            let order = vec![SortKey { scope: "inventory".to_owned(), name: "third".to_owned(), descending }];
            let search = Search { order, offset: page * 7, limit: 7, ..Search::default() };
            let found = storage.inventory.search(&search).await.expect("a page");
            assert_eq!(found.total, 45);
            met.extend(found.devices.into_iter().map(|device| device.id));
        }
        assert_eq!(met.len(), 45);
        met.sort();
        met.dedup();
        assert_eq!(met.len(), 45);
    }
    let beyond = Search { offset: 45, limit: 7, ..Search::default() };
    let found = storage.inventory.search(&beyond).await.expect("a page");
    assert_eq!((found.devices.len(), found.total), (0, 45));
}

pub async fn a_device_that_calls_every_hour_is_never_called_offline(database: &TestDatabase) {
    let storage = &database.storage;
    let busy = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let silent = stored_device(storage, 2, SetStatus::Accepted).await.id;
    storage.devices.record_check_ins(&[(silent, Timestamp(100 * DAY))]).await.expect("an answer");
    for hour in 0..72 {
        let now = Timestamp(100 * DAY + hour * 3_600_000_000);
        storage.devices.record_check_ins(&[(busy, now)]).await.expect("an answer");
        let yesterday = json!(Timestamp(now.0 - DAY).rfc3339());
        let offline =
            Search { filter: filter(&[("system", "check_in_time", "$ltne", yesterday)]), ..Search::default() };
        let expected = if hour > 24 { vec![silent] } else { vec![] };
        assert_eq!(found(storage, offline).await, expected, "after {hour} hours");
        let shown = storage.inventory.find(busy).await.expect("an answer").expect("the device");
        let shown = shown.attributes.iter().find(|attribute| attribute.name == "check_in_time").cloned();
        assert_eq!(shown.map(|attribute| attribute.value), Some(json!(now.rfc3339())));
    }
    // What comes a moment later does not rewrite the place in the indexes, and neither does what comes late.
    for moved in [60_000_000, -60_000_000] {
        let last = 100 * DAY + 71 * 3_600_000_000;
        storage.devices.record_check_ins(&[(busy, Timestamp(last + moved))]).await.expect("an answer");
        let since = json!(Timestamp(last).rfc3339());
        let exactly = filter(&[("system", "check_in_time", "$eq", since)]);
        assert_eq!(found(storage, Search { filter: exactly, ..Search::default() }).await, [busy]);
    }
}

pub async fn paging_while_devices_report_meets_each_once(database: &TestDatabase) {
    let storage = database.storage.clone();
    let mut ids = Vec::new();
    for serial in 0..60 {
        let id = stored_device(&storage, serial, SetStatus::Accepted).await.id;
        report(&storage, id, &[("version", json!("v1")), ("n", json!(0))]).await;
        ids.push(id);
    }
    let node = database.another_node().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let reporting = {
        let ids = ids.clone();
        tokio::spawn(async move {
            for round in 1_u64.. {
                for id in &ids {
                    report(&node, *id, &[("version", json!("v1")), ("n", json!(round))]).await;
                }
                if stopped.try_recv().is_ok() {
                    return;
                }
            }
        })
    };
    for _ in 0..5 {
        let mut met = Vec::new();
        for page in 0..9 {
            let search = Search {
                filter: filter(&[("inventory", "version", "$eq", json!("v1"))]),
                offset: page * 7,
                limit: 7,
                ..Search::default()
            };
            let found = storage.inventory.search(&search).await.expect("a page");
            assert_eq!(found.total, 60);
            met.extend(found.devices.into_iter().map(|device| device.id));
        }
        met.sort();
        let mut expected = ids.clone();
        expected.sort();
        assert_eq!(met, expected);
    }
    stop.send(()).expect("it still reports");
    reporting.await.expect("reports are taken");
}
