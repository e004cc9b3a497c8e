//! Websockets of devices and operators: the handshake, liveness, limits, the end.

use harness::{
    Answer, LIMIT, Packet, Set, Shell, Socket, TestDevice, TestHub, TestUser, answer_like_a_shell, both_sets,
    wait_until,
};
use std::time::{Duration, Instant};

both_sets!([
    a_device_gets_a_plain_101,
    the_known_sub_protocol_is_echoed_and_others_are_not,
    a_socket_without_a_good_token_is_a_401,
    a_session_needs_a_connected_device_and_a_handshake,
    a_page_of_another_origin_cannot_use_the_cookie,
    a_ping_of_the_device_is_answered_at_once,
    a_silent_device_is_pinged,
    a_device_that_answers_nothing_is_gone_after_the_limit,
    an_operator_that_answers_nothing_is_gone_after_the_limit,
    a_message_in_fragments_is_one_message,
    a_message_beyond_the_limit_closes_only_its_sender,
    garbage_from_an_operator_ends_only_that_session,
    garbage_from_a_device_ends_only_that_device,
    a_second_connection_replaces_the_first,
    the_status_changes_only_when_the_connection_does,
    a_reserved_close_code_is_a_close_like_any_other,
    a_connection_is_written_down_with_what_was_measured,
]);

const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

async fn a_device_gets_a_plain_101(set: Set) {
    let hub = set.hub().await;
    let device = hub.accepted_device().await;
    let socket = device.connect().await;
    for name in ["sec-websocket-protocol", "sec-websocket-extensions", "content-length", "transfer-encoding"] {
        // The forwarder on the device takes a 101 with a body for a failure.
        assert_eq!(socket.handshake.headers.get(name), None, "{name}");
    }
    assert_eq!(socket.handshake.header("upgrade").to_lowercase(), "websocket");
}

async fn the_known_sub_protocol_is_echoed_and_others_are_not(set: Set) {
    let hub = set.hub().await;
    let device = hub.accepted_device().await;
    for (offered, echoed) in
        [("protomsg/msgpack", "protomsg/msgpack"), ("other, protomsg/msgpack", "protomsg/msgpack"), ("other", "")]
    {
        // By hand: the websocket library refuses an answer that takes none of its offers.
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {offered}\r\n\
             Authorization: Bearer {}\r\n\r\n",
            TestDevice::SOCKET,
            device.token,
        );
        let answer = harness::raw_request(hub.address(), request.as_bytes()).await.expect(101);
        assert_eq!(answer.header("sec-websocket-protocol"), echoed, "{offered}");
        assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

async fn a_socket_without_a_good_token_is_a_401(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let _connected = device.connect().await;
    let session = TestUser::session_path(&device.id);
    let (of_user, of_device) = (format!("Bearer {}", user.token), format!("Bearer {}", device.token));
    for (path, authorization) in [
        (TestDevice::SOCKET, None),
        (TestDevice::SOCKET, Some("Bearer nonsense")),
        (TestDevice::SOCKET, Some(of_user.as_str())),
        (session.as_str(), None),
        (session.as_str(), Some("Bearer nonsense")),
        (session.as_str(), Some(of_device.as_str())),
    ] {
        let headers: Vec<_> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
        let refused = Socket::connect(&hub, path, &headers).await.err();
        refused.unwrap_or_else(|| panic!("{path} was opened with {authorization:?}")).refuses_token();
        let mut plain = hub.request("GET", path);
        if let Some(value) = authorization {
            plain = plain.header("Authorization", value);
        }
        Answer::to(plain).await.refuses_token();
    }
}

async fn a_session_needs_a_connected_device_and_a_handshake(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    for id in [device.id.as_str(), UNKNOWN, "malformed"] {
        let refused = user.try_open(id).await.err().unwrap().expect(404);
        assert_eq!(refused.error(), "failed to connect to device: device disconnected", "{id}");
        let refused = user.get(&TestUser::session_path(id)).await.expect(404);
        assert_eq!(refused.error(), "failed to connect to device: device disconnected", "{id}");
    }
    user.connection(UNKNOWN).await.expect(404).error();

    let _connected = device.connect().await;
    let refused = user.get(&TestUser::session_path(&device.id)).await.expect(400);
    assert!(refused.error().contains("the client is not using the websocket protocol"), "{refused}");
    assert_eq!(refused.header("sec-websocket-version"), "13");
    // An upgrade that is not one.
    for (headers, statuses) in [("h2c", [426, 400]), ("websocket", [400, 400])] {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: {headers}\r\nAuthorization: Bearer {}\r\n\r\n",
            TestUser::session_path(&device.id),
            user.token
        );
        let refused = harness::raw_request(hub.address(), request.as_bytes()).await;
        assert!(statuses.contains(&refused.status), "{refused}");
        refused.error();
    }
    user.open(&device.id).await.close(1000).await;
}

async fn a_page_of_another_origin_cannot_use_the_cookie(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let _connected = device.connect().await;
    let session = TestUser::session_path(&device.id);
    let cookie = format!("JWT={}", user.token);
    let own = format!("http://{}", hub.address());

    let evil = [("Cookie", cookie.as_str()), ("Origin", "https://evil.example.com")];
    Socket::connect(&hub, &session, &evil).await.err().unwrap().expect(403).error();
    let ours = Socket::connect(&hub, &session, &[("Cookie", cookie.as_str()), ("Origin", own.as_str())]).await;
    ours.unwrap_or_else(|refusal| panic!("{refusal}")).close(1000).await;
}

async fn a_ping_of_the_device_is_answered_at_once(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    for end in [&mut socket, &mut session] {
        end.ping(b"60").await;
        assert_eq!(end.hear_pong(Duration::from_secs(5)).await, b"60");
    }
}

async fn a_silent_device_is_pinged(set: Set) {
    assert!(hub_defaults().api.sockets.ping_every <= Duration::from_secs(30), "agents give up after 60 s");
    let hub = set.hub_with(|config| config.api.sockets.ping_every = Duration::from_millis(200)).await;
    let device = hub.accepted_device().await;
    let mut socket = device.connect().await;
    // Traffic does not put the pings off.
    let busy = async {
        loop {
            socket.ping(b"busy").await;
            socket.hear_pong(LIMIT).await;
            if socket.pings.len() >= 3 {
                return;
            }
        }
    };
    harness::within(Duration::from_secs(10), "three pings", busy).await;

    // One that says nothing at all but its pongs; a round of its own would pass for traffic.
    let quiet = hub.accepted_device().await;
    let mut socket = quiet.connect().await;
    let listening = tokio::time::timeout(Duration::from_secs(2), socket.next()).await;
    assert!(listening.is_err(), "a quiet device heard {listening:?}");
    assert!(socket.pings.len() >= 3, "{} pings in two seconds", socket.pings.len());
}

async fn a_connection_is_written_down_with_what_was_measured(set: Set) {
    let hub = set.hub_with(|config| config.api.sockets.ping_every = Duration::from_millis(200)).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    let sid = socket.hear().await.sid().to_owned();
    socket.say(&Packet::shell("new").sid(&sid).prop("status", 1).body("Shell started")).await;
    session.hear().await;
    let answered = async {
        // The library answers a ping while it reads; the second one comes after the first answer.
        while socket.pings.len() < 2 {
            socket.ping(b"60").await;
            socket.hear_pong(LIMIT).await;
        }
    };
    harness::within(LIMIT, "two pings", answered).await;
    socket.close(1000).await;

    let written = wait_until(LIMIT, "the end to be written down", async || {
        hub.written_connections(&device.id).await.pop().filter(|connection| connection.reason.is_some())
    })
    .await;
    assert_eq!(written.reason.as_deref(), Some("closed-by-device"));
    assert_eq!(written.address.map(|address| address.to_string()).as_deref(), Some("127.0.0.1"));
    assert!(written.bytes.0 > 0 && written.bytes.1 > 0 && written.has_round_trip, "{written:?}");

    let path = format!("/api/management/v2/devauth/devices/{}", device.id);
    user.delete(&path).await.expect(204);
    assert_eq!(hub.written_connections(&device.id).await, []);
}

fn hub_defaults() -> hub::Config {
    hub::Config::default()
}

/// A hub whose patience is that of the default, divided by thirty.
async fn impatient(set: Set) -> TestHub {
    assert_eq!(hub_defaults().api.sockets.silence_limit, Duration::from_mins(1));
    set.hub_with(|config| {
        config.api.sockets.ping_every = Duration::from_millis(500);
        config.api.sockets.silence_limit = Duration::from_secs(2);
    })
    .await
}

async fn a_device_that_answers_nothing_is_gone_after_the_limit(set: Set) {
    let hub = impatient(set).await;
    let user = hub.user().await;
    let (device, lively) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let mut lively_socket = lively.connect().await;
    let lively_end = tokio::spawn(async move { lively_socket.serve(answer_like_a_shell).await });
    // Read by nobody, so that pings are not answered either.
    let _silent = device.connect().await;
    let connected = Instant::now();
    user.sees(&device.id, "connected", Duration::from_secs(2)).await;

    user.sees(&device.id, "disconnected", Duration::from_secs(10)).await;

    // Twice the limit, since other tests want the processor too; the hub's own timer is not in question.
    assert!(connected.elapsed() <= Duration::from_secs(4), "{:?}", connected.elapsed());
    assert!(connected.elapsed() > Duration::from_millis(1_900), "{:?}", connected.elapsed());
    assert!(!lively_end.is_finished());
    assert_eq!(user.status(&lively.id).await, "connected");
}

async fn an_operator_that_answers_nothing_is_gone_after_the_limit(set: Set) {
    let hub = impatient(set).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut silent = user.open(&device.id).await;
    silent.say(&Packet::shell("new")).await;
    socket.hear_for(1, "new", LIMIT).await;
    let stop = socket.hear_for(1, "stop", Duration::from_secs(10)).await;
    assert_eq!(stop.body(), b"user disconnected");
}

async fn a_message_in_fragments_is_one_message(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let mut session = user.open(&device.id).await;
    let packet = Packet::shell("shell").body([b'x'; 1000]).bytes();
    session.send_in_fragments(&packet, 300).await;
    assert_eq!(socket.hear().await.body(), [b'x'; 1000]);
    // The library of some clients labels frames as text; the bytes are what counts.
    session.send_text("\u{1}").await;
    assert!(session.end(LIMIT).await.code().is_some(), "one byte is no message");
}

async fn a_message_beyond_the_limit_closes_only_its_sender(set: Set) {
    const LIMIT_OF_MESSAGES: usize = 8 * 1024 * 1024;
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let device_task = tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut other = Shell::start(user.open(&device.id).await).await;
    let mut session = user.open(&device.id).await;

    let huge = Packet::shell("shell").body(vec![0; LIMIT_OF_MESSAGES]).bytes();
    // The hub may close before it has taken all of it.
    let _ = session.try_send(huge).await;

    assert_eq!(session.end(LIMIT).await.code(), Some(1009));
    other.echoes("still here").await;
    assert!(!device_task.is_finished());

    let greedy = hub.accepted_by(&user).await;
    let mut socket = greedy.connect().await;
    let _ = socket.try_send(Packet::shell("shell").body(vec![0; LIMIT_OF_MESSAGES]).bytes()).await;
    assert_eq!(socket.end(LIMIT).await.code(), Some(1009));
    other.echoes("still here").await;
}

/// Bytes that are no message.
fn garbage() -> Vec<Vec<u8>> {
    ["", "c0", "93010203", "81a368647280", "81a4626f6479c40161", "82a368647281a570726f746f01a4626f647907", "81a3686472"]
        .map(harness::msgpack::hex)
        .to_vec()
}

async fn garbage_from_an_operator_ends_only_that_session(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let device_task = tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut other = Shell::start(user.open(&device.id).await).await;
    for bytes in garbage() {
        let mut session = user.open(&device.id).await;
        session.send(bytes.clone()).await;
        let end = session.end(LIMIT).await;
        assert!(end.code().is_some(), "{bytes:02x?} was answered by {end:?}");
        other.echoes("still here").await;
    }
    assert!(!device_task.is_finished());
}

async fn garbage_from_a_device_ends_only_that_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let mut other_socket = other.connect().await;
    tokio::spawn(async move { other_socket.serve(answer_like_a_shell).await });
    let mut shell = Shell::start(user.open(&other.id).await).await;
    for bytes in garbage() {
        let mut socket = device.connect().await;
        socket.send(bytes.clone()).await;
        let end = socket.end(LIMIT).await;
        assert!(end.code().is_some(), "{bytes:02x?} was answered by {end:?}");
        shell.echoes("still here").await;
    }
    user.sees(&device.id, "disconnected", LIMIT).await;
    assert_eq!(user.status(&other.id).await, "connected");
}

async fn a_second_connection_replaces_the_first(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut first = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;

    let mut second = device.connect().await;

    assert!(first.end(LIMIT).await.code().is_some(), "the first is told");
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    assert!(second.hear().await.is(1, "new"));
    assert_eq!(user.status(&device.id).await, "connected");
}

async fn the_status_changes_only_when_the_connection_does(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let changed = async || user.connection(&device.id).await.expect(200).json()["updated_ts"].clone();

    let mut first = device.connect().await;
    user.sees(&device.id, "connected", Duration::from_secs(1)).await;
    let mut second = device.connect().await;
    first.end(LIMIT).await;
    // The end of the first has been noted, or will be; either way the second is the connection now.
    harness::wait_until(LIMIT, "a settled status", async || {
        let before = changed().await;
        second.ping(b"").await;
        second.hear_pong(LIMIT).await;
        (changed().await == before).then_some(())
    })
    .await;
    let since = changed().await;
    for _ in 0..10 {
        second.ping(b"60").await;
        second.hear_pong(LIMIT).await;
        second.say(&Packet::shell("shell").sid("nobody's").body("x")).await;
        assert_eq!(user.status(&device.id).await, "connected");
        assert_eq!(changed().await, since, "traffic is no transition");
    }

    second.close(1000).await;
    user.sees(&device.id, "disconnected", LIMIT).await;
    // The time is that of the written row, which may follow the status by a moment.
    let ended =
        harness::wait_until(LIMIT, "the time of the end", async || Some(changed().await).filter(|time| *time != since))
            .await;
    assert_eq!(changed().await, ended);
    let answer = user.connection(&device.id).await.expect(200).json();
    assert_eq!(answer["device_id"], device.id.as_str());
    assert!(answer["created_ts"].as_str() <= answer["updated_ts"].as_str());
}

async fn a_reserved_close_code_is_a_close_like_any_other(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    // What mender-connect leaves behind when it is killed: code 1006, "unexpected EOF", masked with zeros.
    socket.write_raw(&[&[0x88, 0x80 | 16, 0, 0, 0, 0, 0x03, 0xee][..], b"unexpected EOF"].concat()).await;
    socket.end(LIMIT).await;
    user.sees(&device.id, "disconnected", LIMIT).await;
    let _again = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
}
