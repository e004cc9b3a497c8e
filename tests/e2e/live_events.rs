//! What happens to devices and sessions, heard live: in order, without a gap, each thing once.

use harness::{
    Answer, EventStream, LIMIT, Packet, ServerEvent, Set, Site, TestDevice, TestHub, TestUser, both_sets, wait_until,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

both_sets!([
    a_device_s_day_is_heard_as_it_happens,
    a_stream_can_be_narrowed_to_devices_and_kinds,
    a_listener_that_comes_back_after_a_restart_goes_on_where_it_was,
    events_that_are_no_longer_kept_are_told_as_a_gap,
    a_stream_ends_with_its_token,
    streams_have_a_limit_per_user,
    a_wrong_question_is_refused,
]);

async fn a_device_s_day_is_heard_as_it_happens(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut stream = EventStream::open(&user, "", None).await;

    let mut socket = device.connect().await;
    let connected = stream.hear().await;
    assert_eq!((connected.kind.as_str(), &connected.data["kind"]), ("connected", &json!("connected")));
    assert_eq!((&connected.data["device"], &connected.data["id"]), (&json!(device.id), &json!(connected.id)));
    assert!(connected.data["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{connected:?}");

    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    let sid = socket.hear().await.sid().to_owned();
    let opened = stream.hear().await;
    assert_eq!((opened.kind.as_str(), &opened.data["session"]), ("session-opened", &json!(sid)));
    assert_eq!((&opened.data["user"], &opened.data["device"]), (&json!(user.id), &json!(device.id)));

    session.close(1000).await;
    let closed = stream.hear().await;
    assert_eq!((closed.kind.as_str(), &closed.data["session"]), ("session-closed", &json!(sid)));
    assert!(closed.data["reason"].is_string() && closed.data["user"] == json!(user.id), "{closed:?}");

    socket.close(1000).await;
    let disconnected = stream.hear().await;
    assert_eq!(
        (disconnected.kind.as_str(), &disconnected.data["reason"]),
        ("disconnected", &json!("closed-by-device"))
    );
    assert_eq!(disconnected.data["connection"], connected.data["connection"]);

    // Whoever asks later hears the same, word for word.
    let mut again = EventStream::open(&user, "after=0", None).await;
    for event in [connected, opened, closed, disconnected] {
        assert_eq!(again.hear().await, event);
    }
}

async fn a_stream_can_be_narrowed_to_devices_and_kinds(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (one, two) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let mut of_one = EventStream::open(&user, &format!("device={}", one.id), None).await;
    let mut ends = EventStream::open(&user, "kind=disconnected&kind=session-closed", None).await;
    let mut everything = EventStream::open(&user, "", None).await;

    two.connect().await.close(1000).await;
    one.connect().await.close(1000).await;

    let heard = [of_one.hear().await, of_one.hear().await];
    assert!(heard.iter().all(|event| event.data["device"] == json!(one.id)), "{heard:?}");
    assert_eq!([heard[0].kind.as_str(), heard[1].kind.as_str()], ["connected", "disconnected"]);
    let heard = [ends.hear().await, ends.hear().await];
    assert!(heard.iter().all(|event| event.kind == "disconnected"), "{heard:?}");
    for _ in 0..4 {
        everything.hear().await;
    }
    // A stream that is silent says that it lives, and moves on although nothing was for it.
    let mut of_nobody = EventStream::open(&user, "device=nobody-of-ours", None).await;
    let last = everything.position;
    two.connect().await.close(1000).await;
    everything.hear_of("disconnected", &two.id).await;
    of_nobody.comment(LIMIT).await;
    assert!(of_nobody.position > last, "{} is not after {last}", of_nobody.position);
}

/// Devices that come and go: some say goodbye, some are cut, some are replaced.
async fn churn(devices: Vec<TestDevice>, rounds: usize) {
    for round in 0..rounds {
        for (number, device) in devices.iter().enumerate() {
            let socket = device.connect().await;
            match (round + number) % 3 {
                0 => socket.close(1000).await,
                1 => socket.reset(),
                _ => {
                    let second = device.connect().await;
                    drop(socket);
                    second.reset();
                }
            }
        }
    }
}

/// Every event from the first to the last, with the number of each connection's beginnings and ends.
async fn everything_since(user: &TestUser, first: i64, last: i64) -> Vec<ServerEvent> {
    let mut all = vec![];
    let mut stream = EventStream::open(user, "", Some(first)).await;
    while stream.position < last {
        all.push(stream.hear().await);
    }
    all
}

/// Every connection that was made is there with its beginning and its end, each once.
fn connections(events: &[ServerEvent]) -> BTreeMap<i64, (usize, usize)> {
    let mut found = BTreeMap::new();
    for event in events {
        let counts: &mut (usize, usize) = found.entry(event.data["connection"].as_i64().unwrap()).or_default();
        match event.kind.as_str() {
            "connected" => counts.0 += 1,
            "disconnected" => counts.1 += 1,
            other => panic!("{other}"),
        }
    }
    found
}

#[tokio::test]
async fn a_listener_that_hops_between_nodes_misses_nothing_and_hears_nothing_twice() {
    const ROUNDS: usize = 12;
    let site = Set::Production.site().await;
    // A hub learns of a listener that is gone when it next has something to say.
    let many = |config: &mut hub::Config| config.actors.events.per_user = 1000;
    let hubs = [site.hub_with(many).await, site.hub_with(many).await];
    let user = hubs[0].user().await;
    let mut devices = vec![];
    for number in 0..6 {
        let mut device = hubs[0].accepted_by(&user).await;
        device.go_to(&hubs[number % 2]);
        devices.push(device);
    }
    let first = EventStream::open(&user, "", None).await.position;
    // Of every three turns one makes two connections.
    let made = devices.len() * ROUNDS / 3 * 4;
    let rest = devices.split_off(3);
    let churning = [tokio::spawn(churn(devices, ROUNDS)), tokio::spawn(churn(rest, ROUNDS))];

    // Cut off after every few events, it goes on at the other node.
    let (mut heard, mut position, mut hop): (Vec<ServerEvent>, i64, usize) = (vec![], first, 0);
    let is_complete = |heard: &[ServerEvent]| {
        let found = connections(heard);
        found.len() >= made && found.values().all(|counts| *counts == (1, 1))
    };
    while !is_complete(&heard) {
        let mut stream = EventStream::open(&user.at(&hubs[hop % 2]), "", Some(position)).await;
        for _ in 0..=hop % 9 {
            let event = stream.hear().await;
            position = event.id;
            heard.push(event);
            if is_complete(&heard) {
                break;
            }
        }
        hop += 1;
    }
    for churning in churning {
        churning.await.unwrap();
    }

    let ids: Vec<i64> = heard.iter().map(|event| event.id).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert!(hop > 10, "{hop} streams");
    assert_eq!(everything_since(&user, first, position).await, heard);
    // The order of a device's own connections is told too: no end comes before its beginning.
    for (connection, _) in connections(&heard) {
        let of_it = |kind: &str| {
            heard.iter().position(|event| event.data["connection"] == json!(connection) && event.kind == kind).unwrap()
        };
        assert!(of_it("connected") < of_it("disconnected"));
    }
}

async fn a_listener_that_comes_back_after_a_restart_goes_on_where_it_was(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut stream = EventStream::open(&user, "", None).await;
    let _socket = device.connect().await;
    let connected = stream.hear().await;

    let site: Site = hub.stop().await;
    // A hub that stops lets its listeners go.
    stream.end(LIMIT).await;
    let hub: TestHub = site.hub().await;

    let mut stream = EventStream::open(&user.at(&hub), "", Some(connected.id)).await;
    let disconnected = stream.hear().await;
    assert_eq!((disconnected.kind.as_str(), &disconnected.data["reason"]), ("disconnected", &json!("node-shutdown")));
    assert_eq!(disconnected.data["connection"], connected.data["connection"]);
}

async fn events_that_are_no_longer_kept_are_told_as_a_gap(set: Set) {
    let hub = set.hub_with(|config| config.actors.retention.events = Duration::from_secs(1)).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut stream = EventStream::open(&user, "", None).await;
    device.connect().await.close(1000).await;
    let first = stream.hear().await;
    stream.hear().await;
    drop(stream);

    let gap = wait_until(LIMIT, "a gap", async || {
        let mut late = EventStream::open(&user, "", Some(first.id)).await;
        device.connect().await.close(1000).await;
        let event = late.hear().await;
        (event.kind == "gap").then_some((event, late))
    })
    .await;

    let (gap, mut late) = gap;
    let from = gap.data["from"].as_i64().unwrap();
    assert!(from > first.id + 1, "{gap:?}");
    // It says where it goes on, and goes on there; who is cut off right after it hears of no other.
    assert_eq!(late.hear().await.id, from);
    let mut again = EventStream::open(&user, "", Some(gap.id)).await;
    assert_eq!(again.hear().await.id, from);
    // A number from another life of the database.
    let mut stranger = EventStream::open(&user, "", Some(1_000_000)).await;
    assert_eq!(stranger.hear().await.kind, "gap");
}

async fn a_stream_ends_with_its_token(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut stream = EventStream::open(&user, "", None).await;
    Answer::to(user.request("POST", "/api/management/v1/useradm/auth/logout")).await.expect(202);
    stream.end(Duration::from_secs(10)).await;
    EventStream::try_open(&user, "", None).await.err().unwrap().refuses_token();

    let hub = set.hub_with(|config| config.actors.user_token_lifetime = Duration::from_secs(3)).await;
    let mut stream = EventStream::open(&hub.user().await, "", None).await;
    stream.end(Duration::from_secs(10)).await;
}

async fn streams_have_a_limit_per_user(set: Set) {
    let hub = set.hub_with(|config| config.actors.events.per_user = 2).await;
    let user = hub.user().await;
    let (first, _second) = (EventStream::open(&user, "", None).await, EventStream::open(&user, "", None).await);
    let refused = EventStream::try_open(&user, "", None).await.err().unwrap().expect(429);
    assert_eq!(refused.error(), "too many event streams");
    assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{refused}");
    // Somebody else is not held up.
    let other = hub.another_user("other@example.com").await;
    EventStream::open(&other, "", None).await;

    drop(first);
    wait_until(LIMIT, "room for another stream", async || EventStream::try_open(&user, "", None).await.ok()).await;
}

async fn a_wrong_question_is_refused(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for query in ["after=yesterday", "after=-1", "kind=exploded"] {
        EventStream::try_open(&user, query, None).await.err().unwrap().expect(400).error();
    }
}
