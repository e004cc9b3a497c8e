//! The log of events: one order for everybody, nothing twice, nothing missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use storage::{DeviceId, Event, NewEvent, Storage, Timestamp};

use crate::backends::TestDatabase;

fn event(key: impl Into<String>, at: i64) -> NewEvent {
    NewEvent { key: key.into(), at: Timestamp(at), kind: "connected".to_owned(), device: None, body: Value::Null }
}

async fn after(storage: &Storage, id: i64) -> Vec<Event> {
    storage.events.after(id, 10_000).await.expect("a list")
}

async fn ids(storage: &Storage) -> Vec<i64> {
    after(storage, 0).await.iter().map(|event| event.id).collect()
}

pub async fn events_come_back_in_order(database: &TestDatabase) {
    let events = &database.storage.events;
    assert_eq!((events.newest().await.expect("a number"), events.whole_from().await.expect("a number")), (0, 1));
    assert!(events.append(&[]).await.expect("appended").is_empty());
    let (device, body) = (DeviceId::random(), json!({"reason": "a \0 and \"quotes\"", "epoch": i64::MAX}));
    let first = NewEvent { device: Some(device), body: body.clone(), ..event("a\0", 200) };
    let appended = events.append(&[first, event("b", 100)]).await.expect("appended");
    assert_eq!(appended, [1, 2]);
    let kind = "connected".to_owned();
    let all = [
        Event { id: 1, at: Timestamp(200), kind: kind.clone(), device: Some(device), body },
        Event { id: 2, at: Timestamp(100), kind, device: None, body: Value::Null },
    ];
    assert_eq!(after(&database.storage, 0).await, all);
    assert_eq!(after(&database.storage, 1).await, all[1..]);
    assert_eq!(events.after(0, 1).await.expect("a list"), all[..1]);
    assert!(after(&database.storage, 2).await.is_empty());
    assert_eq!(events.newest().await.expect("a number"), 2);
}

pub async fn an_event_is_appended_once(database: &TestDatabase) {
    let events = &database.storage.events;
    let batch = [event("a", 1), event("b", 1), event("a\0", 1), event("b", 2)];
    assert_eq!(events.append(&batch).await.expect("appended"), [1, 2, 3, 2]);
    // A batch whose commit was uncertain comes again, with more behind it; no number is lost to that.
    let again = [event("c", 1), event("a\0", 1), event("a", 1), event("d", 1)];
    assert_eq!(events.append(&again).await.expect("appended"), [4, 3, 1, 5]);
    assert_eq!(events.append(&again).await.expect("appended"), [4, 3, 1, 5]);
    assert_eq!(ids(&database.storage).await, [1, 2, 3, 4, 5]);
    assert_eq!(events.newest().await.expect("a number"), 5);
}

pub async fn a_reader_misses_nothing_while_many_append(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let is_done = Arc::new(AtomicBool::new(false));
    let (reader, end) = (database.another_node().await, is_done.clone());
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let was_done = end.load(Ordering::Acquire);
            let last = seen.last().copied().unwrap_or(0);
            let new = reader.events.after(last, 7).await.expect("a list");
            if new.is_empty() && was_done {
                return seen;
            }
            seen.extend(new.iter().map(|event| event.id));
            tokio::task::yield_now().await;
        }
    });
    let mut work = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let storage = nodes[writer % 2].clone();
        work.spawn(async move {
            for round in 0..10 {
                // Half of each batch is what another writer appends too.
                let batch: Vec<NewEvent> = (0..5)
                    .map(|number| event(format!("{writer} {round} {number}"), 1))
                    .chain((0..5).map(|number| event(format!("shared {round} {number}"), 1)))
                    .collect();
                storage.events.append(&batch).await.expect("appended");
            }
        });
    }
    work.join_all().await;
    is_done.store(true, Ordering::Release);
    let expected: Vec<i64> = (1..=8 * 10 * 5 + 10 * 5).collect();
    assert_eq!(reading.await.expect("it ends"), expected);
}

pub async fn old_events_go_and_a_reader_can_tell(database: &TestDatabase) {
    let (storage, events) = (&database.storage, &database.storage.events);
    // More than are appended or removed at a time, and one written by a node with a wrong clock.
    let mut batch: Vec<NewEvent> = (1..=2_500).map(|number| event(number.to_string(), number)).collect();
    batch[9].at = Timestamp(i64::MAX);
    let appended = events.append(&batch).await.expect("appended");
    assert_eq!(appended, (1..=2_500).collect::<Vec<i64>>());
    assert_eq!(events.expire(Timestamp(1)).await.expect("expired"), 0);
    assert_eq!(events.whole_from().await.expect("a number"), 1);

    assert_eq!(events.expire(Timestamp(2_400)).await.expect("expired"), 2_398);
    assert_eq!(events.whole_from().await.expect("a number"), 2_400);
    let left = ids(storage).await;
    assert_eq!((left.len(), left[0], left[1]), (102, 10, 2_400));

    // Numbers go on when nothing is left, and a reader that saw everything has missed nothing.
    assert_eq!(events.expire(Timestamp(i64::MAX)).await.expect("expired"), 101);
    let newest = events.newest().await.expect("a number");
    assert_eq!((newest, events.whole_from().await.expect("a number")), (2_500, 2_501));
    assert_eq!(events.append(&[event("next", 1)]).await.expect("appended"), [2_501]);
    assert_eq!(after(storage, 2_500).await.len(), 1);
}
