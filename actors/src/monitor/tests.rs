use actix::Arbiter;
use std::time::Duration;

use serde_json::json;
use storage::{
    AlertLevel, AuthSet, AuthSetId, Decision, Device, DeviceChange, DeviceKey, NodeId, SetStatus, Storage, Timestamp,
};

use super::*;
use crate::bus::Bus;
use crate::config::EventStreams;
use crate::supervisor::Service;
use crate::{jobs, notifications};

fn alert(subject: &str) -> NewAlert {
    NewAlert {
        name: "down".to_owned(),
        level: AlertLevel::Critical,
        subject_type: "service".to_owned(),
        subject_name: subject.to_owned(),
        status: "stopped".to_owned(),
        details: None,
        at: clock::now(),
    }
}

pub(crate) fn monitor(storage: &Storage, config: &Config) -> Monitor {
    let jobs = JobQueue::new(storage.jobs.clone(), Bus::alone(NodeId::random()), &jobs::Config::default());
    let tail = EventTail::new(storage.events.clone(), &EventStreams::default());
    let notifications = Notifications::new(storage, &notifications::Config::default()).unwrap();
    Monitor::new(storage.alerts.clone(), tail, jobs, notifications, config)
}

pub(crate) fn start(monitor: &Monitor) -> Service<AlertWriter> {
    let monitor = monitor.clone();
    Service::start("alert_writer", &Arbiter::current(), move |alive| AlertWriter::new(monitor.clone(), alive))
}

pub(crate) async fn device(storage: &Storage, serial: u8) -> DeviceId {
    let hash = [serial; 32];
    let set = AuthSet {
        id: AuthSetId::random(),
        pubkey: serial.to_string(),
        status: SetStatus::Accepted,
        created: Timestamp(1),
    };
    let device = Device {
        id: DeviceId::random(),
        identity: "{}".to_owned(),
        identity_hash: hash,
        decommissioning: false,
        created: Timestamp(1),
        updated: Timestamp(1),
        checked_in: None,
        revision: 0,
        auth_sets: vec![set],
    };
    let id = device.id;
    let write = |_: Option<&Device>, _: &storage::Fleet| {
        Decision::Write(DeviceChange { after: Some(device.clone()), revoked: vec![], issued: None }, ())
    };
    storage.devices.change(DeviceKey::Identity(&hash), write).await.unwrap();
    id
}

#[actix::test]
async fn what_is_acknowledged_is_stored() {
    let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
    let monitor = monitor(&storage, &Config::default());
    let _writer = start(&monitor);
    let mut devices = vec![];
    for serial in 0..20 {
        devices.push(device(&storage, serial).await);
    }
    let reports = devices.iter().map(|device| monitor.report(*device, vec![alert("a"), alert("b")]));
    for outcome in futures_util::future::join_all(reports).await {
        outcome.unwrap();
    }
    for device in devices {
        assert_eq!(storage.alerts.counts(device).await.unwrap().open, 2);
    }
    let nobody = monitor.report(DeviceId::random(), vec![alert("a")]).await;
    assert!(matches!(nobody, Err(ReportError::NoDevice)), "{nobody:?}");
    assert_eq!(monitor.0.waiting.lock().bytes, 0);
}

#[actix::test]
async fn a_crash_loses_no_room_and_those_who_wait_are_told() {
    let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
    let monitor = monitor(&storage, &Config::default());
    let device = device(&storage, 1).await;
    let writer = start(&monitor);
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let reporting = monitor.report(device, vec![alert("a")]);
            if let Some(address) = writer.address() {
                address.do_send(Crash);
            }
            match reporting.await {
                Ok(()) => {}
                Err(ReportError::Storage(error)) => assert!(error.is_unavailable(), "{error}"),
                Err(other) => panic!("{other}"),
            }
            if writer.restarts() > 2 {
                break;
            }
        }
        monitor.report(device, vec![alert("b")]).await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(monitor.0.waiting.lock().bytes, 0);
}

#[actix::test]
async fn a_long_report_is_stored_in_order_and_in_slices() {
    let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
    let config = Config { alerts_waiting_limit: usize::MAX, ..Config::default() };
    let monitor = monitor(&storage, &config);
    let _writer = start(&monitor);
    let device = device(&storage, 1).await;
    let at = clock::now();
    let mut alerts = vec![NewAlert { at, ..alert("the same") }; 2 * BATCH + 1];
    for (number, alert) in alerts.iter_mut().enumerate() {
        alert.name = number.to_string();
    }
    // What is repeated after a failure half-way adds nothing.
    for _ in 0..2 {
        monitor.report(device, alerts.clone()).await.unwrap();
    }
    let (stored, total) = storage.alerts.list(device, storage::AlertFilter::default(), true, 0, 10_000).await.unwrap();
    assert_eq!(total, alerts.len() as u64);
    assert!(stored.iter().map(|alert| &alert.said.name).eq(alerts.iter().map(|alert| &alert.name)));
    let mut transactions: Vec<Timestamp> = stored.iter().map(|alert| alert.received).collect();
    transactions.dedup();
    assert_eq!(transactions.len(), 3);
}

#[test]
fn more_than_the_limit_is_refused_and_batches_are_bounded() {
    let mut waiting = Waiting::default();
    let pending = |alerts: usize| {
        let report = AlertReport { device: DeviceId::random(), alerts: vec![alert("a"); alerts] };
        Pending { bytes: size(&report), report, answer: oneshot::channel().0 }
    };
    let limit = pending(1).bytes * 3;
    for _ in 0..3 {
        waiting.enter(pending(1), limit).unwrap();
    }
    assert!(matches!(waiting.enter(pending(1), limit), Err(ReportError::TooMuch)));
    assert_eq!(waiting.batch(2).len(), 2);
    waiting.enter(pending(9), usize::MAX).unwrap();
    assert_eq!(waiting.batch(2).len(), 1, "the large one is left for the next");
    assert_eq!(waiting.batch(2)[0].report.alerts.len(), 9, "and then goes alone");
    assert!(waiting.batch(2).is_empty());
}

#[test]
fn an_alert_without_details_shows_none() {
    let stored =
        Alert { id: storage::AlertId::random(), device: DeviceId::random(), said: alert("a"), received: Timestamp(0) };
    let body = json!(AlertBody(&stored));
    assert_eq!(body["subject"], json!({ "name": "a", "type": "service", "status": "stopped" }));
    assert_eq!(body["level"], "CRITICAL");
}

#[test]
fn details_are_shown_as_the_text_that_is_stored() {
    let details = r#"{"description":"d","lines_before":[]}"#;
    let said = NewAlert { details: Some(json!({"description": "d", "lines_before": []}).into()), ..alert("a") };
    let stored = Alert { id: storage::AlertId::random(), device: DeviceId::random(), said, received: Timestamp(0) };
    let text = serde_json::to_string(&AlertBody(stored)).unwrap();
    assert!(text.ends_with(&format!(r#""status":"stopped","details":{details}}}}}"#)), "{text}");
}
