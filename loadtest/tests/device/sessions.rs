//! Session control, commands to the update client, and how sessions share a device.

use crate::small_hub::{Device, PATIENCE, packed, unpacked};
use loadtest::{
    Services,
    message::{CONTROL, Message, UPDATE_CLIENT},
    sessions::SESSIONS_PER_DEVICE,
};
use serde_json::json;
use std::time::Duration;

fn control(kind: &str, session: &str) -> Message {
    Message::new(CONTROL, kind).session(session)
}

#[tokio::test]
async fn a_session_says_what_is_on_offer() {
    let mut device = Device::with(Services { ports: false, ..Services::of_this_machine() }).await;
    device.say(control("open", "s").with_body(packed(&json!({ "versions": [1] })))).await;

    let accept = device.hear().await;
    assert_eq!((accept.kind(), accept.session_id()), ("accept", "s"));
    assert_eq!(unpacked(&accept), json!({ "version": 1, "protocols": [1, 2, 4] }));
}

#[tokio::test]
async fn what_nobody_serves_is_named_in_an_error() {
    let mut device = Device::with(Services::none()).await;
    device.say(Message::new(12345, "x").session("s").text("msgid", "7")).await;

    let error = device.hear().await;
    assert_eq!((error.header.proto, error.kind(), error.session_id()), (CONTROL, "error", "s"));
    let expected = json!({
        "err": "no handler registered for protocol: 0x3039", "close": false,
        "msgproto": 12345, "msgtype": "x", "msgid": "7",
    });
    assert_eq!(unpacked(&error), expected);
}

#[tokio::test]
async fn a_silent_session_is_asked_and_then_ended_and_an_answer_keeps_it() {
    let services = Services { session_timeout: Duration::from_millis(250), ..Services::none() };
    let mut device = Device::with(services).await;
    device.say(control("ping", "s")).await;
    assert_eq!(device.hear().await.kind(), "pong");

    for _ in 0..2 {
        assert_eq!(device.hear().await.kind(), "ping");
        device.say(control("pong", "s")).await;
    }
    assert_eq!(device.hear().await.kind(), "ping");
    let error = device.hear().await;
    assert_eq!(unpacked(&error), json!({ "err": "session timeout", "close": true }));
}

#[tokio::test]
async fn the_update_client_reports_to_the_hub_and_the_hub_is_told() {
    let mut device = Device::with(Services::of_this_machine()).await;
    for (kind, request) in [
        ("send-inventory", "PUT /api/devices/v1/inventory/device/attributes "),
        ("check-update", "POST /api/devices/v2/deployments/device/deployments/next "),
    ] {
        device.say(Message::new(UPDATE_CLIENT, kind).session("s").text("user_id", "u")).await;
        let reply = device.hear().await;
        assert_eq!((reply.kind(), reply.integer_property("status"), reply.body()), (kind, Some(1), &b""[..]));
        while !device.hub.request().await.head.starts_with(request) {}
    }

    device.say(Message::new(UPDATE_CLIENT, "reboot").session("s")).await;
    let reply = device.hear().await;
    assert_eq!((reply.integer_property("status"), reply.body()), (Some(2), &b"unknown message type"[..]));
}

#[tokio::test]
async fn a_session_survives_a_lost_websocket() {
    let mut device = Device::with(Services::of_this_machine()).await;
    device.say(control("ping", "s")).await;
    assert_eq!(device.hear().await.kind(), "pong");

    device.socket = {
        drop(device.socket);
        device.hub.socket().await
    };
    device.say(control("close", "s")).await;
    device.say(control("ping", "t")).await;
    assert_eq!(device.hear().await.session_id(), "t");
    tokio::time::timeout(PATIENCE, device.settings.progress.wait_until(|progress| progress.losses() == 1))
        .await
        .expect("one loss");
}

#[tokio::test]
async fn a_hub_that_opens_sessions_without_end_is_on_record() {
    let mut device = Device::with(Services::none()).await;
    for number in 0..SESSIONS_PER_DEVICE {
        device.say(control("ping", &number.to_string())).await;
        assert_eq!(device.hear().await.kind(), "pong");
    }
    device.say(control("close", "0")).await;
    device.say(control("ping", "1")).await;
    assert_eq!(device.hear().await.kind(), "pong");
    device.say(control("ping", "in its place")).await;
    assert_eq!(device.hear().await.kind(), "pong");
    assert_eq!(device.settings.progress.faults(), 0);

    device.say(control("ping", "one more")).await;
    device.socket = device.hub.socket().await;
    assert_eq!(device.settings.progress.latest_faults(), ["the hub opened too many sessions"]);
}
