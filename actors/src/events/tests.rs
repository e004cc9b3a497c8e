use actix::Arbiter;
use storage::{Epoch, Presence, Storage};
use tokio::time::timeout;

use super::*;
use crate::status_writer::{SessionQueue, StatusQueue};
use crate::supervisor::{Crash, Service};

const LIMIT: Duration = Duration::from_secs(20);

async fn storage() -> Storage {
    Storage::open(&storage::Config::in_memory()).await.unwrap()
}

/// A tail with its service.
fn tail(storage: &Storage) -> (EventTail, Service<EventReader>) {
    let tail = EventTail::new(storage.events.clone(), &EventStreams { per_user: 2, per_node: 3 });
    let shared = tail.clone();
    let reader =
        Service::start("event_reader", &Arbiter::current(), move |alive| EventReader::new(shared.clone(), alive));
    (tail, reader)
}

fn event(number: i64) -> NewEvent {
    NewEvent {
        key: number.to_string(),
        at: Timestamp(number),
        kind: Kind::Connected.as_str().to_owned(),
        device: None,
        body: json!({}),
    }
}

async fn append(tail: &EventTail, numbers: std::ops::RangeInclusive<i64>) {
    tail.append(&numbers.map(event).collect::<Vec<_>>()).await.unwrap();
}

fn user() -> UserId {
    UserId::new("u")
}

/// What is heard until the event with this number.
async fn hear_until(listener: &mut Listener, last: i64) -> Vec<i64> {
    let mut heard = vec![];
    while heard.last() != Some(&last) {
        match timeout(LIMIT, listener.next()).await.expect("something is heard in time") {
            Heard::Events(events) => heard.extend(events.iter().map(|event| event.id)),
            other => panic!("{other:?} after {heard:?}"),
        }
    }
    heard
}

#[actix::test]
async fn listeners_hear_everything_once_in_order_however_slow_they_are() {
    let storage = storage().await;
    let (tail, _reader) = tail(&storage);
    append(&tail, 1..=3).await;
    let mut quick = tail.listen(user(), None).await.unwrap();
    let mut slow = tail.listen(user(), Some(0)).await.unwrap();
    append(&tail, 4..=500).await;
    assert_eq!(hear_until(&mut quick, 500).await, (4..=500).collect::<Vec<_>>());
    // More than memory holds, and more than is read at once.
    append(&tail, 501..=6000).await;
    assert_eq!(hear_until(&mut quick, 6000).await, (501..=6000).collect::<Vec<_>>());
    assert_eq!(hear_until(&mut slow, 6000).await, (1..=6000).collect::<Vec<_>>());
    assert_eq!((quick.position(), slow.position()), (6000, 6000));
}

#[actix::test]
async fn events_written_elsewhere_and_while_nobody_listens_are_heard() {
    let storage = storage().await;
    let (tail, _reader) = tail(&storage);
    let mut first = tail.listen(user(), None).await.unwrap();
    // Past the tail, as another node writes them.
    storage.events.append(&[event(1), event(2)]).await.unwrap();
    assert_eq!(hear_until(&mut first, 2).await, [1, 2]);
    drop(first);
    storage.events.append(&[event(3)]).await.unwrap();
    let mut again = tail.listen(user(), Some(2)).await.unwrap();
    storage.events.append(&[event(4)]).await.unwrap();
    assert_eq!(hear_until(&mut again, 4).await, [3, 4]);
}

#[actix::test]
async fn the_reader_comes_back_after_a_panic_and_nothing_is_missed() {
    let storage = storage().await;
    let (tail, reader) = tail(&storage);
    let mut listener = tail.listen(user(), None).await.unwrap();
    for round in 1..=3 {
        while reader.address().is_none_or(|address| address.try_send(Crash).is_err()) {
            tokio::task::yield_now().await;
        }
        append(&tail, round..=round).await;
        assert_eq!(hear_until(&mut listener, round).await, [round]);
    }
}

#[actix::test]
async fn what_is_no_longer_kept_is_a_gap() {
    let storage = storage().await;
    let (tail, _reader) = tail(&storage);
    append(&tail, 1..=10).await;
    storage.events.expire(Timestamp(5)).await.unwrap();
    let mut late = tail.listen(user(), Some(2)).await.unwrap();
    assert!(matches!(timeout(LIMIT, late.next()).await.unwrap(), Heard::Gap { from: 5 }));
    assert_eq!(hear_until(&mut late, 10).await, [5, 6, 7, 8, 9, 10]);
    drop(late);
    // Who has heard the last one that was removed misses nothing, nor does who asks for whatever there is.
    let mut just_in_time = tail.listen(user(), Some(4)).await.unwrap();
    assert_eq!(hear_until(&mut just_in_time, 10).await.first(), Some(&5));
    drop(just_in_time);
    let mut anything = tail.listen(user(), Some(0)).await.unwrap();
    assert_eq!(hear_until(&mut anything, 10).await.first(), Some(&5));
    drop(anything);
    // All of it is gone, and something new happens.
    storage.events.expire(Timestamp(11)).await.unwrap();
    let mut late = tail.listen(user(), Some(7)).await.unwrap();
    assert!(matches!(timeout(LIMIT, late.next()).await.unwrap(), Heard::Gap { from: 11 }));
    append(&tail, 11..=11).await;
    assert_eq!(hear_until(&mut late, 11).await, [11]);
}

#[test]
fn a_number_that_was_never_given_out_is_a_gap_too() {
    assert_eq!(start(None, 7), (7, None));
    assert_eq!(start(Some(3), 7), (3, None));
    assert_eq!(start(Some(7), 7), (7, None));
    assert_eq!(start(Some(8), 7), (7, Some(8)));
    assert_eq!((gap(0, 5), gap(4, 5), gap(3, 5)), (None, None, Some(5)));
}

#[actix::test]
async fn listeners_are_counted_and_sent_away_at_the_end() {
    let storage = storage().await;
    let (tail, _reader) = tail(&storage);
    let mut one = tail.listen(user(), None).await.unwrap();
    let two = tail.listen(user(), None).await.unwrap();
    assert!(matches!(tail.listen(user(), None).await, Err(ListenError::TooMany)));
    let other = tail.listen(UserId::new("v"), None).await.unwrap();
    assert!(matches!(tail.listen(UserId::new("w"), None).await, Err(ListenError::TooMany)));
    drop((two, other));
    assert_eq!(tail.listener_count(), 1);
    tail.close();
    assert!(matches!(timeout(LIMIT, one.next()).await.unwrap(), Heard::Closed));
    assert!(matches!(tail.listen(UserId::new("v"), None).await, Err(ListenError::Closed)));
}

fn change(device: DeviceId, epoch: i64, connected: bool, at: i64) -> ConnectionChange {
    ConnectionChange {
        device,
        node: NodeId::random(),
        epoch: Epoch(epoch),
        connected,
        at: Timestamp(at),
        reason: (!connected).then_some("silent"),
        address: None,
        bytes_in: 0,
        bytes_out: 0,
        round_trip: None,
    }
}

#[test]
fn ends_are_told_before_they_are_written_and_beginnings_after() {
    let device = DeviceId::random();
    let changes = [
        change(device, 3, true, 30),
        change(device, 2, true, 20),
        change(device, 2, false, 31),
        change(device, 1, false, 21),
    ];
    let telling = Telling::of_connections(&changes);
    let keys = |events: &[NewEvent]| -> Vec<String> {
        events.iter().map(|event| event.key.rsplit_once(&device.to_string()).unwrap().1.to_owned()).collect()
    };
    assert_eq!(keys(&telling.before), ["/2/+", "/1/-", "/2/-"]);
    assert_eq!(keys(&telling.after), ["/3/+"]);
    assert_eq!(telling.before[2].body["reason"], "silent");
}

#[actix::test]
async fn a_batch_that_is_written_twice_is_told_once() {
    let storage = storage().await;
    let (tail, _reader) = tail(&storage);
    let device = DeviceId::random();
    let statuses = StatusQueue::default();
    let presence: &Presence = &storage.presence;
    for _ in 0..2 {
        statuses.note(change(device, 1, true, 10));
        statuses.flush(&storage.connections, presence, &tail).await.unwrap();
        statuses.note(change(device, 1, false, 11));
        statuses.flush(&storage.connections, presence, &tail).await.unwrap();
    }
    let told: Vec<String> = storage.events.after(0, 10).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(told, ["connected", "disconnected"]);
}

#[actix::test]
async fn sessions_are_told_with_what_is_known_of_them() {
    let storage = storage().await;
    let (tail, _reader) = tail(&storage);
    let (session, device) = (SessionId::random(), DeviceId::random());
    let opened = OpenedSession {
        session,
        device,
        user: user(),
        node: NodeId::random(),
        kind: SessionKind::Unknown,
        at: Timestamp(1),
        address: None,
        kept: false,
        recorded: false,
    };
    let figures = SessionFigures { kind: SessionKind::Terminal, bytes_to_device: 5, ..SessionFigures::default() };
    let ended = |generation| SessionChange::Ended {
        session,
        generation,
        at: Timestamp(2),
        reason: "left".to_owned(),
        figures: figures.clone(),
    };
    let queue = SessionQueue::default();
    queue.note(SessionChange::Opened(opened));
    queue.flush(&storage.sessions, &tail, &storage.audit).await.unwrap();
    // Another node has taken it over: its former home has nothing to say about its end.
    let generation = storage.sessions.adopt(session, 0, NodeId::random()).await.unwrap().unwrap();
    queue.note(ended(0));
    queue.flush(&storage.sessions, &tail, &storage.audit).await.unwrap();
    assert_eq!(storage.events.after(0, 10).await.unwrap().len(), 1);
    queue.note(ended(generation));
    queue.flush(&storage.sessions, &tail, &storage.audit).await.unwrap();
    queue.note(ended(generation));
    queue.flush(&storage.sessions, &tail, &storage.audit).await.unwrap();

    let told = storage.events.after(0, 10).await.unwrap();
    let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["session-opened", "session-closed"]);
    assert!(told.iter().all(|event| event.device == Some(device)));
    assert_eq!(told[1].body["user"], "u");
    assert_eq!((&told[1].body["session_kind"], &told[1].body["reason"]), (&json!("terminal"), &json!("left")));
}
