//! A simulated device against a hub of a few lines: what it asks, in which order, and that it comes back.

mod file_transfer;
mod port_forward;
mod sessions;
mod small_hub;

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use loadtest::{
    Leave, PtyCommand, Services, Shell,
    message::{Message, SHELL},
};
use small_hub::{Device, PATIENCE, SmallHub, device_of, next};
use std::time::Duration;
use tokio_tungstenite::tungstenite::{Message as Frame, protocol::frame::coding::CloseCode};

#[tokio::test]
async fn a_device_asks_until_it_is_let_in_then_reports_and_connects() {
    let mut hub = SmallHub::start().await;
    let (device, settings) = device_of(&hub);
    let pem = device.public_pem();
    let _running = device.start();

    for _ in 0..2 {
        let join = hub.request().await;
        let body: serde_json::Value = serde_json::from_slice(&join.body).expect("JSON");
        assert_eq!((body["id_data"].as_str(), body["pubkey"].as_str()), (Some(r#"{"mac":"02:01"}"#), Some(&*pem)));
        let signature = STANDARD.decode(join.header("x-men-signature").expect("a signature")).expect("base64");
        assert_eq!(signature.len(), 64);
    }
    let inventory = hub.request().await;
    assert!(inventory.head.starts_with("PUT /api/devices/v1/inventory/device/attributes "), "{}", inventory.head);
    assert_eq!(inventory.header("authorization"), Some("Bearer the-token"));
    assert!(hub.request().await.head.starts_with("POST /api/devices/v2/deployments/device/deployments/next "));
    assert!(hub.request().await.head.starts_with("GET /api/devices/v1/deviceconnect/connect "));
    settings.progress.wait_until(|progress| progress.connected() == 1).await;
}

#[tokio::test]
async fn a_shell_survives_a_lost_websocket() {
    let mut hub = SmallHub::start().await;
    let (device, settings) = device_of(&hub);
    let _running = device.start();
    let say = |kind| Message::new(SHELL, kind).session("s");

    let mut socket = hub.socket().await;
    socket.send(Frame::Binary(say("new").encode())).await.expect("sent");
    assert_eq!(next(&mut socket).await.body(), b"Shell started");
    drop(socket);

    let mut socket = hub.socket().await;
    socket.send(Frame::Ping("60".into())).await.expect("sent");
    let pong = tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").expect("open").expect("a frame");
    assert_eq!(pong, Frame::Pong("60".into()));
    socket.send(Frame::Binary(say("shell").with_body("x").encode())).await.expect("sent");
    let echo = next(&mut socket).await;
    assert_eq!((echo.kind(), echo.body()), ("shell", &b"x"[..]));
    assert_eq!((settings.progress.connections(), settings.progress.losses()), (2, 1));
}

#[tokio::test]
async fn a_message_larger_than_8192_bytes_makes_the_device_leave_and_return() {
    let mut hub = SmallHub::start().await;
    let (device, settings) = device_of(&hub);
    let _running = device.start();

    let mut socket = hub.socket().await;
    let fitting = Message::new(SHELL, "shell").session("s").with_body(vec![b'x'; 8100]);
    socket.send(Frame::Binary(fitting.encode())).await.expect("sent");
    assert_eq!(next(&mut socket).await.body(), b"session not found");
    socket.send(Frame::Binary(vec![0; 8193].into())).await.expect("sent");

    hub.socket().await;
    assert!(settings.progress.losses() >= 1);
}

#[tokio::test]
async fn a_device_leaves_as_with_a_new_token_and_its_shell_goes_on() {
    let mut device = Device::with(Services::none()).await;
    let say = |kind| Message::new(SHELL, kind).session("s");
    device.say(say("new")).await;
    assert_eq!(device.hear().await.body(), b"Shell started");

    device.handle.reconnect(Leave::Close, Duration::ZERO);
    let frame = tokio::time::timeout(PATIENCE, device.socket.next()).await.expect("in time").expect("open");
    let Ok(Frame::Close(Some(close))) = frame else { panic!("{frame:?} instead of a Close") };
    assert_eq!(close.code, CloseCode::Normal);
    device.socket = device.hub.socket().await;
    device.say(say("shell").with_body("x")).await;
    assert_eq!(device.hear().await.body(), b"x");

    device.handle.reconnect(Leave::Cut, Duration::from_millis(5));
    let frame = tokio::time::timeout(PATIENCE, device.socket.next()).await.expect("in time");
    assert!(matches!(frame, None | Some(Err(_))), "{frame:?} instead of nothing");
    device.socket = device.hub.socket().await;
    device.settings.progress.wait_until(|progress| progress.connections() == 3).await;
    assert_eq!(device.settings.progress.faults(), 0);
}

#[tokio::test]
async fn what_a_shell_prints_while_no_socket_is_up_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    // Prints once at the start, once while the device is away, once when it is back.
    let script = format!(
        "echo start; while [ ! -e {0} ]; do sleep 0.01; done; echo lost; touch {1}; while [ ! -e {2} ]; do sleep 0.01; done; \
         echo back; sleep 60",
        path("away"),
        path("printed"),
        path("returned"),
    );
    let mut hub = SmallHub::start().await;
    let command =
        PtyCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], directory: None };
    let (device, settings) = small_hub::device_with(&hub, Services::none(), Shell::Pty(command));
    let handle = device.start();
    let mut socket = hub.socket().await;
    socket.send(Frame::Binary(Message::new(SHELL, "new").session("s").encode())).await.expect("sent");
    let mut printed = Vec::new();
    while !String::from_utf8_lossy(&printed).contains("start") {
        printed.extend(next(&mut socket).await.body());
    }

    // It is away for as long as the next socket is not accepted; the hub accepts at once, so it stays away for a while.
    handle.reconnect(Leave::Cut, Duration::from_secs(2));
    settings.progress.wait_until(|progress| progress.connected() == 0).await;
    std::fs::write(path("away"), "").expect("written");
    small_hub::wait_for(|| std::path::Path::new(&path("printed")).exists()).await;
    let mut socket = hub.socket().await;
    std::fs::write(path("returned"), "").expect("written");

    let mut printed = Vec::new();
    while !String::from_utf8_lossy(&printed).contains("back") {
        printed.extend(next(&mut socket).await.body());
    }
    assert!(!String::from_utf8_lossy(&printed).contains("lost"), "{}", String::from_utf8_lossy(&printed));
}
