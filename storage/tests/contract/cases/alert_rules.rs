//! Rules by which the hub raises alerts itself.

use std::time::Duration;

use serde_json::json;
use storage::alert_rules::SUBJECT_TYPE;
use storage::{
    Added, AlertLevel, AlertReport, AlertRule, Attribute, Comparison, Condition, ConnectionChange, DeviceId, Epoch,
    FollowUp, NewAlert, NodeId, Report, RuleId, RuleState, SetStatus, Storage, StorageError, Timestamp, clock,
};

use crate::backends::{TestDatabase, accept, stored_device};

fn rule(name: &str) -> AlertRule {
    AlertRule {
        id: RuleId::random(),
        name: name.to_owned(),
        state: RuleState::Active,
        level: AlertLevel::Warning,
        condition: Condition::Attribute {
            attribute: "disk \"used\"".to_owned(),
            comparison: Comparison::Above,
            threshold: 90.5,
            clear: 80.0,
        },
        evaluated: None,
        created: Timestamp(5),
        updated: Timestamp(5),
    }
}

/// Takes every rule that is due, one after the other.
async fn take_all(storage: &Storage, now: i64, next: i64) -> Vec<AlertRule> {
    let mut taken = Vec::new();
    while let Some(rule) = storage.alert_rules.take_due(Timestamp(now), Timestamp(next)).await.expect("an answer") {
        taken.push(rule);
    }
    taken
}

async fn accepted(storage: &Storage, serial: u64) -> DeviceId {
    let device = stored_device(storage, serial, SetStatus::Pending).await.id;
    accept(storage, device, clock::now().plus(Duration::from_hours(1))).await;
    device
}

async fn open(storage: &Storage, rule: &AlertRule, device: DeviceId, now: Timestamp) {
    let alert = NewAlert {
        name: rule.name.clone(),
        level: rule.level,
        subject_type: SUBJECT_TYPE.to_owned(),
        subject_name: rule.name.clone(),
        status: "broken".to_owned(),
        details: None,
        at: now,
    };
    let reports = [AlertReport { device, alerts: vec![alert] }];
    storage.alerts.record(&reports, now, |_| FollowUp::default()).await.expect("recorded");
}

pub async fn a_rule_is_made_changed_and_removed(database: &TestDatabase) {
    let rules = &database.storage.alert_rules;
    let first = rule("full disk");
    assert_eq!(rules.add(&first).await.expect("added"), Added::Added);
    assert_eq!(rules.find(first.id).await.expect("an answer").as_ref(), Some(&first));
    let taken = rules.add(&rule("full disk")).await;
    assert!(matches!(taken, Err(StorageError::Conflict("name"))), "{taken:?}");

    let offline = Condition::Offline { lasting: Duration::from_mins(10), clear_after: Duration::from_secs(30) };
    let changed = AlertRule { condition: offline, level: AlertLevel::Critical, ..first.clone() };
    rules.note_evaluated(&first, Timestamp(7)).await.expect("noted");
    assert_eq!(rules.find(first.id).await.expect("an answer").expect("a rule").evaluated, Some(Timestamp(7)));
    assert!(rules.update(&changed, Timestamp(9)).await.expect("written"));
    let found = rules.list().await.expect("a list").remove(0);
    assert_eq!(found, AlertRule { updated: Timestamp(9), ..changed.clone() }, "it is looked at anew");
    // Whoever still works on the rule as it was has nothing to say about it.
    rules.note_evaluated(&first, Timestamp(8)).await.expect("an answer");
    assert_eq!(rules.find(first.id).await.expect("an answer").expect("a rule").evaluated, None);

    assert!(!rules.update(&first, Timestamp(10)).await.expect("an answer"), "whoever read it before does not undo it");
    assert_eq!(rules.list().await.expect("a list"), std::slice::from_ref(&found));

    assert!(rules.remove(first.id, Timestamp(9)).await.expect("an answer"));
    assert!(!rules.remove(first.id, Timestamp(10)).await.expect("an answer"));
    assert_eq!(rules.find(first.id).await.expect("an answer"), None);
    assert!(!rules.update(&found, Timestamp(11)).await.expect("an answer"));
    assert!(matches!(rules.add(&rule("full disk")).await, Err(StorageError::Conflict("name"))));
    let due = take_all(&database.storage, 11, 20).await.remove(0);
    rules.settle(&due).await.expect("settled");
    assert_eq!(rules.add(&rule("full disk")).await.expect("added"), Added::Added);
    for number in 1..storage::alert_rules::RULES {
        assert_eq!(rules.add(&rule(&number.to_string())).await.expect("added"), Added::Added);
    }
    assert_eq!(rules.add(&rule("one more")).await.expect("an answer"), Added::TooMany);
}

pub async fn a_rule_is_looked_at_by_one_node_at_a_time(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    for number in 0..10 {
        nodes[0].alert_rules.add(&rule(&number.to_string())).await.expect("added");
    }
    let mut work = tokio::task::JoinSet::new();
    for number in 0..4 {
        let storage = nodes[number % 2].clone();
        work.spawn(async move { take_all(&storage, 10, 20).await.len() });
    }
    assert_eq!(work.join_all().await.into_iter().sum::<usize>(), 10);
    assert!(take_all(&nodes[0], 19, 30).await.is_empty());
    assert_eq!(take_all(&nodes[1], 20, 30).await.len(), 10);

    let disabled =
        AlertRule { state: RuleState::Disabled, ..nodes[0].alert_rules.list().await.expect("a list").remove(0) };
    nodes[0].alert_rules.update(&disabled, Timestamp(21)).await.expect("written");
    let due = take_all(&nodes[0], 21, 40).await;
    assert_eq!((due.len(), due[0].id), (1, disabled.id));
    nodes[0].alert_rules.settle(&due[0]).await.expect("settled");
    let later = take_all(&nodes[0], 50, 60).await;
    assert_eq!(later.len(), 9, "it is not looked at any more");
    assert_eq!(nodes[0].alert_rules.list().await.expect("a list").len(), 10);
}

pub async fn a_rule_is_held_as_long_as_it_is_as_it_was(database: &TestDatabase) {
    let rules = &database.storage.alert_rules;
    rules.add(&rule("held")).await.expect("added");
    rules.add(&AlertRule { created: Timestamp(6), ..rule("next") }).await.expect("added");
    let held = rules.take_due(Timestamp(10), Timestamp(20)).await.expect("an answer").expect("a rule");
    assert_eq!(held.name, "held", "what is due for longest comes first");
    assert!(rules.hold(&held, Timestamp(90)).await.expect("an answer"));
    assert_eq!(take_all(&database.storage, 89, 95).await.len(), 1, "the other one");

    let disabled = AlertRule { state: RuleState::Disabled, ..held.clone() };
    assert!(rules.update(&disabled, Timestamp(30)).await.expect("written"));
    assert!(!rules.hold(&held, Timestamp(200)).await.expect("an answer"));
    let disabled = rules.find(held.id).await.expect("an answer").expect("a rule");
    let due = rules.take_due(Timestamp(30), Timestamp(40)).await.expect("an answer");
    assert_eq!(due.as_ref(), Some(&disabled), "who holds what was does not keep others from what is");
    assert!(rules.hold(&disabled, Timestamp(50)).await.expect("an answer"));
    rules.remove(held.id, Timestamp(60)).await.expect("an answer");
    assert!(!rules.hold(&disabled, Timestamp(70)).await.expect("an answer"));
}

pub async fn devices_that_are_away_and_back_are_found(database: &TestDatabase) {
    let (storage, rules, now) = (&database.storage, &database.storage.alert_rules, clock::now());
    let rule = rule("offline");
    let at = |seconds: u64| now.plus(Duration::from_secs(seconds));
    let change = |device, epoch, connected, at| ConnectionChange {
        device,
        node: NodeId::random(),
        epoch: Epoch(epoch),
        connected,
        at,
        reason: None,
        address: None,
        bytes_in: 0,
        bytes_out: 0,
        round_trip: None,
    };
    let [away, here, polls] = [accepted(storage, 1).await, accepted(storage, 2).await, accepted(storage, 3).await];
    stored_device(storage, 4, SetStatus::Pending).await;
    let changes = [
        change(away, 1, true, at(10)),
        change(away, 1, false, at(20)),
        change(here, 1, true, at(10)),
        change(polls, 1, true, at(10)),
        change(polls, 1, false, at(15)),
    ];
    storage.connections.record(&changes).await.expect("recorded");
    storage.devices.record_check_ins(&[(polls, at(40))]).await.expect("recorded");

    let offline = async |since| rules.offline_since(&rule, at(since), None, 10).await.expect("a list");
    assert!(offline(19).await.is_empty());
    assert_eq!(offline(20).await, [away]);
    let mut both = vec![away, polls];
    both.sort();
    assert_eq!(offline(40).await, both);
    assert_eq!(rules.offline_since(&rule, at(40), Some(both[0]), 10).await.expect("a list"), both[1..]);
    for device in [away, polls] {
        open(storage, &rule, device, at(50)).await;
    }
    assert!(offline(60).await.is_empty(), "what is known is not found again");
    assert_eq!(rules.broken_by(&rule, &[away, here]).await.expect("a set").len(), 1);

    let back =
        async |connected, heard| rules.back_since(&rule, at(connected), at(heard), None, 10).await.expect("a list");
    assert!(back(70, 50).await.is_empty());
    storage.connections.record(&[change(away, 2, true, at(60))]).await.expect("recorded");
    assert!(back(59, 50).await.is_empty(), "not for long enough");
    assert_eq!(back(60, 50).await, [away]);
    // It never connects, but it asks for updates.
    storage.devices.record_check_ins(&[(polls, at(65))]).await.expect("recorded");
    assert_eq!(back(0, 60).await, [polls]);
    assert!(back(0, 65).await.is_empty());
    // One that connected for a moment only has to stay.
    storage.connections.record(&[change(away, 2, false, at(61))]).await.expect("recorded");
    storage.devices.record_check_ins(&[(away, at(70))]).await.expect("recorded");
    assert_eq!(back(100, 60).await, [polls]);
}

pub async fn reported_numbers_are_read(database: &TestDatabase) {
    let (storage, rules, now) = (&database.storage, &database.storage.alert_rules, clock::now());
    let later = now.plus(Duration::from_secs(10));
    let mut devices = Vec::new();
    let values = [json!(95.5), json!(" 42 "), json!("full"), json!([1]), json!("inf")];
    for (serial, value) in values.into_iter().enumerate() {
        let device = accepted(storage, serial as u64).await;
        let attribute = Attribute {
            scope: "inventory".to_owned(),
            name: "disk \"used\"".to_owned(),
            value,
            description: None,
            timestamp: None,
        };
        let at = if serial == 1 { later } else { now };
        storage.inventory.report(device, vec![attribute], Report::Merge, 9, at).await.expect("reported");
        devices.push(device);
    }
    accepted(storage, 99).await;
    let numbers = async |name: &str, since, after| rules.numbers(name, since, after, 10).await.expect("a list");
    let all = numbers("disk \"used\"", None, None).await;
    let of = |device: DeviceId| all.iter().find(|(other, _)| *other == device).expect("it reported").1;
    assert_eq!(
        devices.iter().map(|device| of(*device)).collect::<Vec<_>>(),
        [Some(95.5), Some(42.0), None, None, None]
    );
    assert_eq!(numbers("disk \"used\"", Some(later), None).await, [(devices[1], Some(42.0))]);
    assert!(numbers("disk", None, None).await.iter().all(|(_, number)| number.is_none()));
    assert_eq!(numbers("disk", None, Some(all[3].0)).await.len(), 1);
}
