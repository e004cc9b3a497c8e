//! Where and when a device was connected, and why each connection ended; who worked on it, and why that ended.

use harness::{EventStream, LIMIT, Packet, Set, TestHub, TestUser, both_sets, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

both_sets!([
    every_end_of_a_connection_has_its_reason,
    a_removed_device_is_told_and_its_history_goes_with_it,
    a_history_is_read_in_pages,
    sessions_are_listed_while_they_last_and_afterwards,
    a_node_that_stops_says_so_in_every_history,
]);

async fn history(user: &TestUser, device: &str) -> Vec<Value> {
    let path = format!("/api/management/v1/mooring/devices/{device}/connections");
    user.get(&path).await.expect(200).json().as_array().unwrap().clone()
}

/// The latest connection, once it has ended.
async fn last_ended(user: &TestUser, device: &str, count: usize) -> Value {
    wait_until(LIMIT, &format!("connection {count} of {device} to be written down as ended"), async || {
        let history = history(user, device).await;
        let ended: Vec<&Value> = history.iter().filter(|past| !past["until"].is_null()).collect();
        (ended.len() == count).then(|| ended[0].clone())
    })
    .await
}

async fn every_end_of_a_connection_has_its_reason(set: Set) {
    let hub = set
        .hub_with(|config| {
            config.api.sockets.ping_every = Duration::from_millis(500);
            config.api.sockets.silence_limit = Duration::from_secs(2);
        })
        .await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    assert_eq!(history(&user, &device.id).await, Vec::<Value>::new());
    let unknown = "/api/management/v1/mooring/devices/3f8f5c8e-0000-4000-8000-000000000000/connections";
    assert_eq!(user.get(unknown).await.expect(404).error(), "device not found");
    user.get("/api/management/v1/mooring/devices/malformed/connections").await.expect(404).error();

    device.connect().await.close(1000).await;
    let past = last_ended(&user, &device.id, 1).await;
    assert_eq!(past["reason"], "closed-by-device");
    assert!(past["since"].as_str().unwrap() <= past["until"].as_str().unwrap(), "{past}");
    assert!(past["node"].as_str().is_some_and(|node| node.len() == 36), "{past}");
    assert_eq!(past["address"], "127.0.0.1");
    for figure in ["bytes_in", "bytes_out", "connection"] {
        assert!(past[figure].is_i64(), "{figure} in {past}");
    }

    device.connect().await.reset();
    assert_eq!(last_ended(&user, &device.id, 2).await["reason"], "connection-lost");

    // It says nothing more, not even to pings.
    let silent = device.connect().await;
    assert_eq!(last_ended(&user, &device.id, 3).await["reason"], "silent");
    drop(silent);

    let first = device.connect().await;
    let mut second = device.connect().await;
    assert_eq!(last_ended(&user, &device.id, 4).await["reason"], "replaced");
    drop(first);
    let listed = history(&user, &device.id).await;
    assert!(listed[0]["until"].is_null() && listed[0]["reason"].is_null(), "the one that lasts is first: {listed:?}");
    assert!(listed[0]["connection"].as_i64() > listed[1]["connection"].as_i64());

    user.decide(&device.id, &device.set(), "rejected").await.expect(204);
    second.end(LIMIT).await;
    assert_eq!(last_ended(&user, &device.id, 5).await["reason"], "access-withdrawn");

    user.decide(&device.id, &device.set(), "accepted").await.expect(204);
    let mut device = device;
    device.take_token().await;
    let mut socket = device.connect().await;
    socket.send(vec![0xc1]).await;
    socket.end(LIMIT).await;
    assert_eq!(last_ended(&user, &device.id, 6).await["reason"], "protocol-error");
}

async fn a_removed_device_is_told_and_its_history_goes_with_it(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut stream = EventStream::open(&user, &format!("device={}", device.id), None).await;
    let mut socket = device.connect().await;
    // Written down before it is told, so that its end is written down too.
    stream.hear_of("connected", &device.id).await;

    user.delete(&format!("/api/management/v2/devauth/devices/{}", device.id)).await.expect(204);

    socket.end(LIMIT).await;
    assert_eq!(stream.hear_of("disconnected", &device.id).await.data["reason"], "decommissioned");
    let path = format!("/api/management/v1/mooring/devices/{}/connections", device.id);
    wait_until(LIMIT, "the history to be forgotten", async || (user.get(&path).await.status == 404).then_some(()))
        .await;
    user.connection(&device.id).await.expect(404);
}

async fn a_history_is_read_in_pages(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    for count in 1..=5 {
        device.connect().await.close(1000).await;
        last_ended(&user, &device.id, count).await;
    }
    let whole = history(&user, &device.id).await;
    assert!(whole.is_sorted_by(|one, next| one["connection"].as_i64() > next["connection"].as_i64()));

    let path = format!("/api/management/v1/mooring/devices/{}/connections", device.id);
    let page = user.get(&format!("{path}?page=2&per_page=2")).await.expect(200);
    assert_eq!(page.json(), json!([whole[2], whole[3]]));
    assert_eq!(page.header("x-total-count"), "5");
    let links: Vec<&str> = page.headers.get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
    assert_eq!(links.len(), 4, "{links:?}");
    user.get(&format!("{path}?page=0")).await.expect(400).error();
    let beyond = user.get(&format!("{path}?page=9")).await.expect(200);
    assert_eq!(beyond.json(), json!([]));
}

async fn sessions_are_listed_while_they_last_and_afterwards(set: Set) {
    const SESSIONS: &str = "/api/management/v1/mooring/sessions";
    let hub = set.hub_with(|config| config.actors.sessions.device_grace = Duration::from_secs(1)).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    let mut sids = vec![];
    let mut open = vec![];
    for _ in 0..2 {
        let mut session = user.open(&device.id).await;
        session.say(&Packet::shell("new")).await;
        sids.push(socket.hear().await.sid().to_owned());
        open.push(session);
    }

    let listed = async |query: &str| -> Vec<Value> {
        user.get(&format!("{SESSIONS}?{query}")).await.expect(200).json().as_array().unwrap().clone()
    };
    let both = wait_until(LIMIT, "two open sessions", async || {
        let listed = listed("open=true").await;
        (listed.len() == 2).then_some(listed)
    })
    .await;
    assert_eq!([&both[0]["id"], &both[1]["id"]], [&json!(sids[1]), &json!(sids[0])], "newest first");
    for session in &both {
        assert_eq!((&session["device_id"], &session["user_id"]), (&json!(device.id), &json!(user.id)));
        assert_eq!(session["user_email"], harness::ADMIN_EMAIL);
        assert!(session["ended"].is_null() && session["reason"].is_null() && session["duration_s"].is_number());
    }

    open.remove(0).close(1000).await;
    wait_until(LIMIT, "one of them to end", async || (listed("open=false").await.len() == 1).then_some(())).await;
    let ended = user.get(&format!("{SESSIONS}/{}", sids[0])).await.expect(200).json();
    assert!(ended["ended"].as_str() >= ended["opened"].as_str() && ended["reason"].is_string(), "{ended}");
    socket.reset();
    wait_until(LIMIT, "the other to end", async || (listed("open=false").await.len() == 2).then_some(())).await;
    let ended = user.get(&format!("{SESSIONS}/{}", sids[1])).await.expect(200).json();
    assert_eq!((&ended["reason"], &ended["kind"]), (&json!("device-gone"), &json!("terminal")));

    let page = user.get(&format!("{SESSIONS}?per_page=1&page=2")).await.expect(200);
    assert_eq!((page.json()[0]["id"].as_str(), page.header("x-total-count")), (Some(sids[0].as_str()), "2"));
    assert_eq!(listed(&format!("device={}&user={}", device.id, user.id)).await.len(), 2);
    for none in ["user=nobody", "device=malformed", "device=3f8f5c8e-0000-4000-8000-000000000000", "open=true"] {
        assert_eq!(listed(none).await.len(), 0, "{none}");
    }
    user.get(&format!("{SESSIONS}?open=maybe")).await.expect(400).error();
    for unknown in ["3f8f5c8e-0000-4000-8000-000000000000", "malformed"] {
        assert_eq!(user.get(&format!("{SESSIONS}/{unknown}")).await.expect(404).error(), "session not found");
    }
}

async fn a_node_that_stops_says_so_in_every_history(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    socket.hear().await;

    let site = hub.stop().await;

    let hub: TestHub = site.hub().await;
    let user = user.at(&hub);
    assert_eq!(history(&user, &device.id).await[0]["reason"], "node-shutdown");
    let sessions = user.get("/api/management/v1/mooring/sessions").await.expect(200).json();
    assert_eq!(sessions[0]["reason"], "node-shutdown", "{sessions}");
}

#[tokio::test]
async fn what_a_killed_node_left_open_is_closed_by_another() {
    let site = Set::Production.site().await;
    let lease = [("MOORING_ACTORS__LEASE", "3s"), ("MOORING_ACTORS__SESSIONS__DEVICE_GRACE", "4s")];
    let (mut one, two) = (site.process(&lease).await, site.process(&lease).await);
    let user = one.user().await.at(&two);
    let (stays_away, mut moves) = (one.accepted_by(&user).await, one.accepted_by(&user).await);
    let mut stream = EventStream::open(&user, "", None).await;
    let mut socket = stays_away.connect().await;
    let _other = moves.connect().await;
    for device in [&stays_away, &moves] {
        user.sees(&device.id, "connected", LIMIT).await;
    }
    // Its operator is on the node that dies, too.
    let mut session = user.at(&one).open(&stays_away.id).await;
    session.say(&Packet::shell("new")).await;
    let sid = socket.hear().await.sid().to_owned();
    let session_record = format!("/api/management/v1/mooring/sessions/{sid}");
    wait_until(LIMIT, "the session to be written down", async || {
        (user.get(&session_record).await.status == 200).then_some(())
    })
    .await;

    one.kill();
    moves.go_to(&two);
    let _again = moves.connect().await;

    // In any order.
    let mut missing = vec![stays_away.id.clone(), moves.id.clone()];
    while !missing.is_empty() {
        let event = stream.hear().await;
        if event.kind == "disconnected" {
            assert_eq!(event.data["reason"], "node-lost", "{event:?}");
            missing.retain(|id| event.data["device"] != *id);
        }
    }
    assert_eq!(last_ended(&user, &stays_away.id, 1).await["reason"], "node-lost");
    // The device that came back is connected, and its former connection has an end all the same.
    assert_eq!(last_ended(&user, &moves.id, 1).await["reason"], "node-lost");
    assert_eq!(user.status(&moves.id).await, "connected");
    assert_eq!(user.status(&stays_away.id).await, "disconnected");
    let ended = wait_until(LIMIT, "the session to end", async || {
        let record = user.get(&session_record).await.expect(200).json();
        (!record["ended"].is_null()).then_some(record)
    })
    .await;
    assert_eq!(ended["reason"], "node-lost");
    assert_eq!(stream.hear_of("session-closed", &stays_away.id).await.data["session"], json!(sid));
}

#[tokio::test]
async fn a_hub_that_was_killed_finds_what_it_left_open() {
    let site = Set::Embedded.site().await;
    let mut hub = site.process(&[("MOORING_ACTORS__LEASE", "3s")]).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut stream = EventStream::open(&user, "", None).await;
    let _socket = device.connect().await;
    let connected = stream.hear_of("connected", &device.id).await;
    hub.kill();

    let hub = site.process(&[("MOORING_ACTORS__LEASE", "3s")]).await;

    let user = user.at(&hub);
    let mut stream = EventStream::open(&user, "", Some(connected.id)).await;
    let lost = stream.hear().await;
    assert_eq!((lost.kind.as_str(), &lost.data["reason"]), ("disconnected", &json!("node-lost")));
    assert_eq!(lost.data["connection"], connected.data["connection"]);
    assert_eq!(last_ended(&user, &device.id, 1).await["reason"], "node-lost");
}
