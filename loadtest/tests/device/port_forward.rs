//! Port forwards, message by message.

use crate::small_hub::{Device, PATIENCE, packed, unpacked, wait_for};
use loadtest::{
    Services,
    message::{CONTROL, Message, PORT_FORWARD, SHELL},
    sessions::CONNECTIONS_PER_SESSION,
};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

fn message(kind: &str, connection: &str) -> Message {
    Message::new(PORT_FORWARD, kind).session("s").text("connection_id", connection)
}

fn new(connection: &str, protocol: &str, port: u16) -> Message {
    let body = json!({ "remote_host": "127.0.0.1", "remote_port": port, "protocol": protocol });
    message("new", connection).with_body(packed(&body))
}

fn told(message: &Message) -> (&str, Option<&str>, &[u8]) {
    (message.kind(), message.text_property("connection_id"), message.body())
}

async fn connected() -> (Device, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut device = Device::with(Services::of_this_machine()).await;
    device.say(new("c", "tcp", listener.local_addr().expect("an address").port())).await;
    assert_eq!(told(&device.hear().await), ("new", Some("c"), &b""[..]));
    let (stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.expect("in time").expect("accepted");
    (device, stream)
}

#[tokio::test]
async fn one_message_waits_for_its_ack_in_each_direction() {
    let (mut device, mut remote) = connected().await;
    device.say(message("forward", "c").with_body("to the port")).await;
    assert_eq!(told(&device.hear().await), ("ack", Some("c"), &b""[..]));
    let mut read = [0; 11];
    remote.read_exact(&mut read).await.expect("read");
    assert_eq!(&read, b"to the port");

    remote.write_all(&[b'x'; 10_000]).await.expect("written");
    let mut received = 0;
    while received < 10_000 {
        let forward = device.hear().await;
        assert_eq!(forward.kind(), "forward");
        assert!(forward.body().len() <= 4096);
        assert!(device.is_quiet().await, "nothing more before the ack");
        received += forward.body().len();
        device.say(message("ack", "c")).await;
    }
    remote.shutdown().await.expect("closed");
    assert_eq!(told(&device.hear().await), ("stop", Some("c"), &b""[..]));

    device.say(message("forward", "c").with_body("late")).await;
    assert_eq!(device.hear().await.kind(), "ack");
    assert_eq!(unpacked(&device.hear().await)["err"], "use of closed network connection");
    device.say(message("stop", "c")).await;
    assert_eq!(told(&device.hear().await), ("stop", Some("c"), &b""[..]));
    assert_eq!(device.settings.progress.faults(), 0);
}

#[tokio::test]
async fn a_stop_closes_the_connection_and_is_returned() {
    let (mut device, mut remote) = connected().await;
    device.say(message("stop", "c")).await;
    assert_eq!(told(&device.hear().await), ("stop", Some("c"), &b""[..]));
    assert_eq!(remote.read(&mut [0]).await.expect("the end"), 0);

    for kind in ["forward", "ack", "stop"] {
        device.say(message(kind, "c")).await;
        let error = device.hear().await;
        assert_eq!(told(&error).1, None, "an error does not say whose");
        assert_eq!(unpacked(&error), json!({ "err": "unknown connection", "msgtype": kind }));
    }
}

#[tokio::test]
async fn a_closed_session_closes_its_connections_in_silence() {
    let (mut device, mut remote) = connected().await;
    device.say(Message::new(CONTROL, "close").session("s")).await;
    assert_eq!(remote.read(&mut [0]).await.expect("the end"), 0);
    assert!(device.is_quiet().await);
}

#[tokio::test]
async fn a_refused_connection_is_an_error_without_its_id() {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("an address").port();
    let mut device = Device::with(Services::of_this_machine()).await;
    device.say(new("c", "tcp", port)).await;
    let error = device.hear().await;
    assert_eq!((error.kind(), error.text_property("connection_id")), ("error", None));
    let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(unpacked(&error), json!({ "err": expected, "msgtype": "new" }));

    device.say(new("c", "sctp", 1)).await;
    assert_eq!(unpacked(&device.hear().await)["err"], "unknown protocol: sctp");
    device.say(message("new", "c").with_body(packed(&json!({ "remote_port": 22 })))).await;
    assert!(
        unpacked(&device.hear().await)["err"].as_str().expect("a text").starts_with("invalid port-forward message")
    );
}

#[tokio::test]
async fn datagrams_go_both_ways_and_long_ones_lose_their_end() {
    let remote = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let mut device = Device::with(Services::of_this_machine()).await;
    device.say(new("c", "udp", remote.local_addr().expect("an address").port())).await;
    assert_eq!(device.hear().await.kind(), "new");
    device.say(message("forward", "c").with_body("there")).await;
    assert_eq!(device.hear().await.kind(), "ack");
    let mut read = [0; 100];
    let (length, from) =
        tokio::time::timeout(PATIENCE, remote.recv_from(&mut read)).await.expect("in time").expect("read");
    assert_eq!(&read[..length], b"there");

    remote.send_to(&[b'y'; 5000], from).await.expect("sent");
    assert_eq!(told(&device.hear().await), ("forward", Some("c"), &[b'y'; 4096][..]));
}

#[tokio::test]
async fn a_session_has_so_many_connections_and_no_more() {
    let remote = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let port = remote.local_addr().expect("an address").port();
    let mut device = Device::with(Services::of_this_machine()).await;
    for number in 0..CONNECTIONS_PER_SESSION {
        device.say(new(&number.to_string(), "udp", port)).await;
        assert_eq!(device.hear().await.kind(), "new");
    }
    device.say(new("more", "udp", port)).await;
    assert_eq!(unpacked(&device.hear().await)["err"], "too many connections");

    device.say(message("stop", "0")).await;
    assert_eq!(device.hear().await.kind(), "stop");
    device.say(new("more", "udp", port)).await;
    assert_eq!(device.hear().await.kind(), "new");
}

#[tokio::test]
async fn a_connection_whose_far_end_is_silent_is_stopped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let services = Services { port_timeout: Duration::from_millis(50), ..Services::of_this_machine() };
    let mut device = Device::with(services).await;
    device.say(new("c", "tcp", listener.local_addr().expect("an address").port())).await;
    assert_eq!(device.hear().await.kind(), "new");
    assert_eq!(device.hear().await.kind(), "stop");
}

#[tokio::test]
async fn a_surplus_ack_ends_the_agent_and_is_on_record() {
    let (mut device, mut remote) = connected().await;
    device.say(Message::new(SHELL, "new").session("shell")).await;
    assert_eq!(device.hear().await.body(), b"Shell started");
    remote.write_all(b"x").await.expect("written");
    assert_eq!(device.hear().await.kind(), "forward");
    device.say(message("ack", "c")).await;
    device.say(message("ack", "c")).await;

    device.socket = device.hub.socket().await;
    assert_eq!(device.settings.progress.faults(), 1);
    assert!(
        device.settings.progress.latest_faults()[0].contains("ack"),
        "{:?}",
        device.settings.progress.latest_faults()
    );
    assert_eq!(remote.read(&mut [0]).await.expect("the end"), 0, "a new agent has no connections");
    device.say(Message::new(SHELL, "shell").session("shell").with_body("x")).await;
    assert_eq!(device.hear().await.body(), b"session not found", "and no shells");
}

#[tokio::test]
async fn a_message_for_a_busy_session_holds_up_the_whole_device() {
    // Nobody reads at the far end, so a write of the session's worker takes as long as nobody does.
    let (mut device, mut remote) = connected().await;
    let mut unacknowledged = 0;
    let big = vec![b'z'; 4096];
    let mut sent = 0;
    while unacknowledged == 0 {
        device.say(message("forward", "c").with_body(&*big)).await;
        sent += big.len();
        match tokio::time::timeout(Duration::from_millis(300), device.hear()).await {
            Ok(ack) => assert_eq!(ack.kind(), "ack"),
            Err(_no_ack) => unacknowledged = 1,
        }
    }
    // The worker is busy; the reading is not, until another message for this session comes.
    device.say(Message::new(CONTROL, "ping").session("other")).await;
    assert_eq!(device.hear().await.kind(), "pong");
    device.say(Message::new(CONTROL, "ping").session("s")).await;
    device.say(Message::new(CONTROL, "ping").session("other")).await;
    let held_up = tokio::time::timeout(Duration::from_millis(200), device.hear()).await.is_err();
    assert!(held_up, "the other session's ping waits too");

    let mut left = sent;
    let mut piece = vec![0; 65536];
    while left > 0 {
        left -= remote.read(&mut piece).await.expect("read");
    }
    for expected in ["ack", "pong", "pong"] {
        assert_eq!(device.hear().await.kind(), expected);
    }
    let longest = device.settings.progress.longest_wait();
    assert!(longest >= Duration::from_millis(200), "{longest:?}");
    wait_for(|| device.settings.progress.faults() == 0).await;
}
