//! Alerts: folded by subject, stored once, shown in the inventory, with all that follows in one transaction.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use storage::inventory::search::Search;
use storage::{
    AlertFilter, AlertLevel, AlertReport, DeviceId, FollowUp, JobFilter, MailCount, NewAlert, NewEvent, NewJob,
    Recorded, SetStatus, Storage, SubjectsOf, Timestamp, clock,
};

use super::search::{filter, found};
use crate::backends::{TestDatabase, remove, stored_device};

const ALL: AlertFilter = AlertFilter { issued_after: None, issued_before: None };

pub fn alert(level: AlertLevel, subject: &str, at: Timestamp) -> NewAlert {
    NewAlert {
        name: format!("{subject} \0 speaks"),
        level,
        subject_type: "service".to_owned(),
        subject_name: subject.to_owned(),
        status: "x".to_owned(),
        details: Some(json!({"lines_before": [{"line_number": 1, "data": ""}], "description": "nul \0"}).into()),
        at,
    }
}

async fn record(storage: &Storage, reports: &[AlertReport], now: Timestamp) -> Vec<bool> {
    storage.alerts.record(reports, now, |_| FollowUp::default()).await.expect("recorded")
}

pub async fn report(storage: &Storage, device: DeviceId, alerts: Vec<NewAlert>, now: Timestamp) {
    assert_eq!(record(storage, &[AlertReport { device, alerts }], now).await, [true]);
}

async fn monitored(storage: &Storage, device: DeviceId) -> Vec<(String, Value)> {
    let device = storage.inventory.find(device).await.expect("an answer").expect("a device");
    let monitor = device.attributes.into_iter().filter(|attribute| attribute.scope == "monitor");
    monitor.map(|attribute| (attribute.name, attribute.value)).collect()
}

fn shown(count: u64) -> Vec<(String, Value)> {
    vec![("alert_count".to_owned(), json!(count)), ("alerts".to_owned(), json!(count > 0))]
}

async fn latest(storage: &Storage, device: DeviceId, subjects: SubjectsOf) -> Vec<String> {
    let (alerts, total) = storage.alerts.latest(device, subjects, ALL, 0, 100).await.expect("a list");
    assert_eq!(alerts.len() as u64, total);
    alerts.into_iter().map(|alert| alert.said.subject_name).collect()
}

fn seconds(now: Timestamp, later: i64) -> Timestamp {
    Timestamp(now.0 + later * 1_000_000)
}

pub async fn open_subjects_show_in_the_inventory(database: &TestDatabase) {
    use AlertLevel::{Critical, CriticalFlapping, Ok};
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    assert_eq!(monitored(storage, device).await, []);

    report(storage, device, vec![alert(Critical, "sshd", now)], now).await;
    assert_eq!(monitored(storage, device).await, shown(1));
    report(storage, device, vec![alert(CriticalFlapping, "sshd", seconds(now, 1))], now).await;
    assert_eq!(monitored(storage, device).await, shown(1));
    let batch = vec![
        alert(Ok, "never seen", seconds(now, 2)),
        alert(Critical, "cron", seconds(now, 2)),
        alert(Ok, "sshd", seconds(now, 2)),
        alert(Critical, "syslog", seconds(now, 1)),
    ];
    report(storage, device, batch, now).await;
    assert_eq!(monitored(storage, device).await, shown(2));
    assert_eq!(latest(storage, device, SubjectsOf::Open).await, ["syslog", "cron"]);
    assert_eq!(latest(storage, device, SubjectsOf::AtLeast(Critical)).await, ["syslog", "cron"]);
    let every = latest(storage, device, SubjectsOf::AtLeast(Ok)).await;
    assert_eq!(every, ["syslog", "never seen", "cron", "sshd"]);
    let closing = vec![alert(Ok, "cron", seconds(now, 3)), alert(Ok, "syslog", seconds(now, 3))];
    report(storage, device, closing, now).await;
    assert_eq!(monitored(storage, device).await, shown(0));
    let counts = storage.alerts.counts(device).await.expect("counts");
    assert_eq!((counts.open, counts.total), (0, 8));
    assert_eq!(storage.alerts.devices(0, 9).await.expect("a list"), [device]);
}

pub async fn devices_are_found_by_their_open_subjects(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let mut devices = Vec::new();
    for serial in 1..=3 {
        devices.push(stored_device(storage, serial, SetStatus::Accepted).await.id);
    }
    let in_trouble = async || {
        let filter = filter(&[("monitor", "alert_count", "$gt", json!(0))]);
        found(storage, Search { filter, ..Search::default() }).await
    };
    let of = |device: usize, level, at: i64| AlertReport {
        device: devices[device],
        alerts: vec![alert(level, "sshd", seconds(now, at))],
    };
    record(storage, &[of(0, AlertLevel::Critical, 0), of(2, AlertLevel::Critical, 0)], now).await;
    let mut wanted = vec![devices[0], devices[2]];
    wanted.sort_unstable();
    assert_eq!(in_trouble().await, wanted);
    record(storage, &[of(0, AlertLevel::Ok, 1), of(2, AlertLevel::Critical, 1)], now).await;
    assert_eq!(in_trouble().await, [devices[2]]);
    let calm = filter(&[("monitor", "alerts", "$eq", json!(false))]);
    assert_eq!(found(storage, Search { filter: calm, ..Search::default() }).await, [devices[0]]);
    storage.alerts.forget(devices[2]).await.expect("forgotten");
    assert_eq!(in_trouble().await, []);
}

pub async fn an_alert_that_comes_again_is_stored_once(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let batch = || vec![alert(AlertLevel::Critical, "sshd", now), alert(AlertLevel::Ok, "sshd", now)];
    report(storage, device, batch(), now).await;
    report(storage, device, [batch(), batch()].concat(), now.plus(Duration::from_hours(23))).await;
    let (alerts, total) = storage.alerts.list(device, ALL, true, 0, 10).await.expect("a list");
    assert_eq!(total, 2);
    // What came last among equals counts, also for the order.
    assert_eq!(alerts[1].said.level, AlertLevel::Ok);
    let stored = storage.alerts.find(alerts[0].id).await.expect("an answer").expect("an alert");
    assert_eq!(stored.said.name, "sshd \u{fffd} speaks");
    assert_eq!(stored.said.details, alert(AlertLevel::Ok, "", now).details);
    assert_eq!((stored.said.at, stored.received), (now, now));
    report(storage, device, batch(), now.plus(Duration::from_hours(25))).await;
    assert_eq!(storage.alerts.counts(device).await.expect("counts").total, 4);
}

pub async fn alerts_are_listed_by_the_time_they_were_issued(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let batch = (0..5).map(|at| alert(AlertLevel::Critical, &at.to_string(), seconds(now, at))).rev().collect();
    report(storage, device, batch, now).await;
    let list = async |filter, oldest_first, offset, limit| {
        let (alerts, total) = storage.alerts.list(device, filter, oldest_first, offset, limit).await.expect("a list");
        (alerts.into_iter().map(|alert| alert.said.subject_name).collect::<Vec<_>>().join(" "), total)
    };
    assert_eq!(list(ALL, false, 0, 3).await, ("4 3 2".to_owned(), 5));
    assert_eq!(list(ALL, false, 3, 3).await, ("1 0".to_owned(), 5));
    assert_eq!(list(ALL, true, 0, 9).await, ("0 1 2 3 4".to_owned(), 5));
    let within = AlertFilter { issued_after: Some(seconds(now, 1)), issued_before: Some(seconds(now, 3)) };
    assert_eq!(list(within, false, 0, 9).await, ("3 2 1".to_owned(), 3));
    let (open, total) = storage.alerts.latest(device, SubjectsOf::Open, within, 1, 1).await.expect("a list");
    assert_eq!((open[0].said.subject_name.as_str(), total), ("2", 3));
    assert!(storage.alerts.list(DeviceId::random(), ALL, false, 0, 9).await.expect("a list").0.is_empty());
}

pub async fn alerts_of_devices_that_are_not_there_leave_nothing(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let of = |device| AlertReport { device, alerts: vec![alert(AlertLevel::Critical, "sshd", now)] };
    let nobody = DeviceId::random();
    assert_eq!(record(storage, &[of(nobody), of(device), of(nobody)], now).await, [false, true, false]);
    assert_eq!(storage.alerts.counts(nobody).await.expect("counts").total, 0);
    assert!(!storage.alerts.set_checks(nobody, "[]", now).await.expect("an answer"));
    assert!(storage.alerts.set_checks(device, r#"[{"name":"a"}]"#, now).await.expect("an answer"));
    assert!(storage.alerts.set_checks(device, r#"[{"name":"b"}]"#, now).await.expect("an answer"));
    assert_eq!(storage.alerts.checks(device).await.expect("an answer").as_deref(), Some(r#"[{"name":"b"}]"#));

    remove(storage, device).await;
    assert_eq!(storage.alerts.counts(device).await.expect("counts"), storage::AlertCounts::default());
    assert_eq!(storage.alerts.checks(device).await.expect("an answer"), None);
    assert_eq!(record(storage, &[of(device)], now).await, [false]);
    assert!(storage.alerts.devices(0, 9).await.expect("a list").is_empty());
}

pub async fn what_follows_from_alerts_is_written_with_them(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let follow = |recorded: &Recorded| FollowUp {
        events: recorded
            .alerts
            .iter()
            .map(|new| NewEvent {
                key: format!("a/{}", new.alert.id),
                at: now,
                kind: "alert".to_owned(),
                device: Some(device),
                body: json!({"open": new.open, "mails": recorded.mails[&device].mails}),
            })
            .collect(),
        jobs: recorded.alerts.iter().map(|new| NewJob::now("letter", json!({"alert": new.alert.id}), now)).collect(),
        mails: HashMap::from([(device, MailCount { hour: 7, mails: recorded.mails[&device].mails + 1 })]),
    };
    let batch = |name| vec![AlertReport { device, alerts: vec![alert(AlertLevel::Critical, name, now)] }];
    for name in ["a", "b", "b"] {
        storage.alerts.record(&batch(name), now, follow).await.expect("recorded");
    }
    let events = storage.events.after(0, 10).await.expect("events");
    let bodies: Vec<&Value> = events.iter().map(|event| &event.body).collect();
    assert_eq!(bodies, [&json!({"open": 1, "mails": 0}), &json!({"open": 2, "mails": 1})]);
    assert_eq!(storage.jobs.list(&JobFilter::default(), 0, 10).await.expect("jobs").1, 2);

    // A job that cannot be stored takes everything along.
    let too_large = |_: &Recorded| FollowUp {
        jobs: vec![NewJob::now("letter", Value::String("x".repeat(storage::jobs::INPUT_LIMIT)), now)],
        ..FollowUp::default()
    };
    assert!(storage.alerts.record(&batch("c"), now, too_large).await.is_err());
    assert_eq!(storage.alerts.counts(device).await.expect("counts").open, 2);
    assert_eq!(monitored(storage, device).await, shown(2));
}

pub async fn nodes_that_record_at_once_lose_nothing(database: &TestDatabase) {
    const ROUNDS: i64 = 12;
    let (now, mut devices) = (clock::now(), Vec::new());
    for serial in 0..6 {
        devices.push(stored_device(&database.storage, serial, SetStatus::Accepted).await.id);
    }
    let nodes = [database.storage.clone(), database.another_node().await];
    let mut work = tokio::task::JoinSet::new();
    for writer in 0..4_usize {
        let (storage, mut devices) = (nodes[writer % 2].clone(), devices.clone());
        if writer > 1 {
            devices.reverse();
        }
        work.spawn(async move {
            for round in 0..ROUNDS {
                // Half of what each says another says too.
                let names = [format!("{writer} {round}"), format!("shared {round}")];
                let of = |device: &DeviceId| AlertReport {
                    device: *device,
                    alerts: names.iter().map(|name| alert(AlertLevel::Critical, name, now)).collect(),
                };
                let reports: Vec<AlertReport> = devices.iter().map(of).collect();
                assert!(record(&storage, &reports, now).await.into_iter().all(|known| known));
            }
        });
    }
    work.join_all().await;
    let expected = (4 * ROUNDS + ROUNDS).unsigned_abs();
    for device in devices {
        let counts = database.storage.alerts.counts(device).await.expect("counts");
        assert_eq!((counts.open, counts.total), (expected, expected));
        assert_eq!(monitored(&database.storage, device).await, shown(expected));
    }
}

pub async fn a_device_keeps_no_more_than_it_may(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let open = storage::alerts::SUBJECTS_PER_DEVICE;
    report(storage, device, vec![alert(AlertLevel::Critical, "the first", now)], now).await;
    // Closed ones, all at the same time, and more open ones than may be.
    let closed = (0..open + 500).map(|name| alert(AlertLevel::Ok, &format!("closed {name}"), now)).collect();
    report(storage, device, closed, now).await;
    let every = SubjectsOf::AtLeast(AlertLevel::Ok);
    let (_, total) = storage.alerts.latest(device, every, ALL, 0, 1).await.expect("a list");
    assert_eq!(total, open.unsigned_abs() + 1);
    let many = (0..open + 10).map(|name| alert(AlertLevel::Critical, &format!("open {name}"), now)).collect();
    report(storage, device, many, now).await;
    assert_eq!(storage.alerts.counts(device).await.expect("counts").open, open.unsigned_abs());
    assert_eq!(monitored(storage, device).await, shown(open.unsigned_abs()));

    let most = storage::alerts::ALERTS_PER_DEVICE;
    for batch in 0..4 {
        let alerts = (0..most / 4)
            .map(|name| alert(AlertLevel::Warning, "open 1", Timestamp(now.0 + batch * most + name)))
            .collect();
        report(storage, device, alerts, now).await;
    }
    // The latest alerts of open subjects stay: all of them but the one of the subject that went on talking.
    let counts = storage.alerts.counts(device).await.expect("counts");
    assert_eq!(counts.total, most.unsigned_abs() + open.unsigned_abs() - 1);
    assert_eq!(latest_names(storage, device).await[0], "the first");
}

pub async fn checks_are_forgotten_with_and_without_alerts(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    for serial in 0..3 {
        let device = stored_device(storage, serial, SetStatus::Accepted).await.id;
        assert!(storage.alerts.set_checks(device, "[]", now).await.expect("an answer"));
        storage.alerts.forget_checks().await.expect("forgotten");
        assert_eq!(storage.alerts.checks(device).await.expect("an answer"), None);
    }
}

async fn latest_names(storage: &Storage, device: DeviceId) -> Vec<String> {
    let (alerts, _) = storage.alerts.latest(device, SubjectsOf::Open, ALL, 0, 5).await.expect("a list");
    alerts.into_iter().map(|alert| alert.said.subject_name).collect()
}

pub async fn old_alerts_go_and_open_subjects_keep_their_latest(database: &TestDatabase) {
    use AlertLevel::{Critical, Ok};
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let long_ago = now.minus(Duration::from_hours(24 * 100));
    let old =
        vec![alert(Critical, "closed", long_ago), alert(Ok, "closed", long_ago), alert(Critical, "open", long_ago)];
    report(storage, device, old, long_ago).await;
    report(storage, device, vec![alert(Critical, "new", now)], now).await;
    assert_eq!(storage.alerts.expire(now).await.expect("removed"), 2);
    assert_eq!(storage.alerts.counts(device).await.expect("counts").total, 2);
    assert_eq!(latest(storage, device, SubjectsOf::AtLeast(Ok)).await, ["open", "new"]);
    let open = storage.alerts.devices_with_open("service", "open", None, 9).await.expect("a list");
    assert_eq!(open, [device]);
    assert!(storage.alerts.devices_with_open("service", "open", Some(device), 9).await.expect("a list").is_empty());
    assert!(storage.alerts.devices_with_open("service", "closed", None, 9).await.expect("a list").is_empty());
    let (arrived, total) = storage.alerts.arrived(device, now, seconds(now, 1), 9).await.expect("a list");
    assert_eq!((arrived.len(), total), (1, 1));

    storage.alerts.forget(device).await.expect("forgotten");
    assert_eq!(monitored(storage, device).await, []);
    assert_eq!(storage.alerts.counts(device).await.expect("counts").total, 0);
}
