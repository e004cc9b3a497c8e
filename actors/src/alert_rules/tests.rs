use storage::{Attribute, Report, RuleId};

use super::*;
use crate::Config;
use crate::monitor::tests::{device, monitor, start};

const PERIOD: Duration = Duration::from_mins(5);

fn rule(name: &str, attribute: &str, created: i64) -> AlertRule {
    AlertRule {
        id: RuleId::random(),
        name: name.to_owned(),
        state: RuleState::Active,
        level: AlertLevel::Critical,
        condition: Condition::Attribute {
            attribute: attribute.to_owned(),
            comparison: Comparison::Above,
            threshold: 90.0,
            clear: 80.0,
        },
        evaluated: None,
        created: Timestamp(created),
        updated: Timestamp(created),
    }
}

async fn storage() -> Storage {
    Storage::open(&storage::Config::in_memory()).await.unwrap()
}

/// The device says this of itself and nothing else.
async fn says(storage: &Storage, device: DeviceId, name: &str, value: u32) {
    let attribute = Attribute {
        scope: "inventory".to_owned(),
        name: name.to_owned(),
        value: json!(value),
        description: None,
        timestamp: None,
    };
    storage.inventory.report(device, vec![attribute], Report::Replace, 9, clock::now()).await.unwrap();
}

async fn open(storage: &Storage, device: DeviceId) -> u64 {
    storage.alerts.counts(device).await.unwrap().open
}

#[actix::test]
async fn a_rule_that_was_settled_by_another_node_leaves_nothing_open() {
    let storage = storage().await;
    let monitor = monitor(&storage, &Config::default());
    let _writer = start(&monitor);
    let parts = Parts::new(&storage, monitor, PERIOD);
    let device = device(&storage, 1).await;
    says(&storage, device, "disk", 95).await;
    storage.alert_rules.add(&rule("full", "disk", 5)).await.unwrap();
    let now = clock::now();
    let taken = storage.alert_rules.take_due(now, now).await.unwrap().unwrap();
    assert_eq!(parts.apply(&taken, now).await.unwrap(), 1);
    assert_eq!(open(&storage, device).await, 1, "as long as the rule is looked at");

    let disabled = AlertRule { state: RuleState::Disabled, ..taken.clone() };
    assert!(storage.alert_rules.update(&disabled, now).await.unwrap());
    parts.look().await.unwrap();
    assert_eq!(open(&storage, device).await, 0);
    // A node that had taken it before goes on all the same.
    parts.apply(&taken, now).await.unwrap();
    assert_eq!(open(&storage, device).await, 0);

    storage.alert_rules.remove(taken.id, now).await.unwrap();
    parts.look().await.unwrap();
    parts.apply(&taken, now).await.unwrap();
    assert_eq!(open(&storage, device).await, 0);
}

#[actix::test]
async fn a_rule_that_fails_does_not_keep_others_waiting() {
    let storage = storage().await;
    // Too little for any report.
    let parts =
        Parts::new(&storage, monitor(&storage, &Config { alerts_waiting_limit: 1, ..Config::default() }), PERIOD);
    says(&storage, device(&storage, 1).await, "disk", 95).await;
    let (fails, works) = (rule("full", "disk", 5), rule("hot", "temperature", 6));
    for rule in [&fails, &works] {
        storage.alert_rules.add(rule).await.unwrap();
    }
    parts.look().await.unwrap();
    let evaluated = async |id| storage.alert_rules.find(id).await.unwrap().unwrap().evaluated;
    assert_eq!(evaluated(fails.id).await, None);
    assert!(evaluated(works.id).await.is_some());
}

#[actix::test]
async fn an_attribute_that_is_gone_closes_what_it_opened() {
    let storage = storage().await;
    let monitor = monitor(&storage, &Config::default());
    let _writer = start(&monitor);
    let parts = Parts::new(&storage, monitor, Duration::ZERO);
    let [device, other] = [device(&storage, 1).await, device(&storage, 2).await];
    storage.alert_rules.add(&rule("full", "disk", 5)).await.unwrap();
    says(&storage, device, "disk", 95).await;
    says(&storage, other, "temperature", 20).await;
    parts.look().await.unwrap();
    assert_eq!(open(&storage, device).await, 1);
    says(&storage, device, "temperature", 20).await;
    parts.look().await.unwrap();
    assert_eq!(open(&storage, device).await, 0);
    assert_eq!(storage.alerts.counts(other).await.unwrap().total, 0, "nothing is said of what was never open");
}
