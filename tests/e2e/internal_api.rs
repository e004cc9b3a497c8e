//! The internal API: other services of an installation, on a listener of its own.

use harness::{Answer, Door, LIMIT, Packet, Set, TestHub, both_sets, within};
use serde_json::json;

both_sets!([
    a_device_is_provisioned_once_and_forgotten,
    a_wiped_tenant_leaves_nothing,
    commands_of_services_name_no_user,
    another_tenant_is_not_found,
    a_body_without_a_device_is_refused,
]);

const BASE: &str = "/api/internal/v1/deviceconnect";
const DEVICE: &str = "3f8f5c8e-0000-4000-8000-000000000001";

async fn hub(set: Set) -> (TestHub, Door) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let door = hub.internal_door();
    (hub, door)
}

async fn ask(door: &Door, method: &str, path: &str) -> Answer {
    Answer::to(door.request(method, &format!("{BASE}{path}"))).await
}

async fn provision(door: &Door, device: &str) -> Answer {
    let body = json!({"device_id": device});
    Answer::to(door.request("POST", &format!("{BASE}/tenants//devices")).json(&body)).await
}

async fn a_device_is_provisioned_once_and_forgotten(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    user.connection(DEVICE).await.expect(404);

    for _ in 0..2 {
        let answer = provision(&door, DEVICE).await.expect(201);
        assert!(answer.body.is_empty(), "{answer}");
    }
    let status = user.connection(DEVICE).await.expect(200).json();
    assert_eq!((&status["device_id"], &status["status"]), (&json!(DEVICE), &json!("disconnected")));

    for _ in 0..2 {
        let answer = ask(&door, "DELETE", &format!("/tenants//devices/{DEVICE}")).await.expect(202);
        assert!(answer.body.is_empty(), "{answer}");
    }
    ask(&door, "DELETE", "/tenants//devices/malformed").await.expect(202);
    user.connection(DEVICE).await.expect(404);
}

async fn a_wiped_tenant_leaves_nothing(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    socket.hear().await;
    session.close(1000).await;
    socket.close(1000).await;
    user.sees(&device.id, "disconnected", LIMIT).await;
    let history = format!("/api/management/v1/mooring/devices/{}/connections", device.id);
    harness::wait_until(LIMIT, "the history to be written", async || {
        let sessions = user.get("/api/management/v1/mooring/sessions?open=false").await.expect(200).json();
        let connections = user.get(&history).await.expect(200).json();
        (sessions.as_array()?.len() == 1 && !connections.as_array()?.first()?["until"].is_null()).then_some(())
    })
    .await;

    // With and without the slash at the end: the tenant's name is empty.
    for path in ["/tenants/", "/tenants"] {
        let answer = ask(&door, "DELETE", path).await.expect(204);
        assert!(answer.body.is_empty(), "{answer}");
    }

    user.connection(&device.id).await.expect(404);
    assert_eq!(user.get("/api/management/v1/mooring/sessions").await.expect(200).json(), json!([]));
    assert_eq!(user.get(&history).await.expect(200).json(), json!([]));
    // The device itself is not ours to remove.
    assert!(device.has_access().await);
}

async fn commands_of_services_name_no_user(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let path = |command: &str| format!("/tenants//devices/{}/{command}", device.id);
    for command in ["check-update", "send-inventory"] {
        assert_eq!(ask(&door, "POST", &path(command)).await.expect(404).error(), "device not connected");
    }
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    for command in ["check-update", "send-inventory"] {
        assert_eq!(ask(&door, "POST", &path(command)).await.expect(202).text(), "null");
        let heard = socket.hear().await;
        assert!(heard.is(4, command) && heard.text("user_id").is_none(), "{heard:?}");
    }
}

async fn another_tenant_is_not_found(set: Set) {
    let (_hub, door) = hub(set).await;
    for (method, path) in [
        ("POST", "/tenants/acme/devices".to_owned()),
        ("DELETE", format!("/tenants/acme/devices/{DEVICE}")),
        ("POST", format!("/tenants/acme/devices/{DEVICE}/check-update")),
        ("POST", format!("/tenants/acme/devices/{DEVICE}/send-inventory")),
        ("DELETE", "/tenants/acme".to_owned()),
    ] {
        let request = door.request(method, &format!("{BASE}{path}")).json(&json!({"device_id": DEVICE}));
        assert_eq!(Answer::to(request).await.expect(404).error(), "not found", "{method} {path}");
    }
}

async fn a_body_without_a_device_is_refused(set: Set) {
    let (_hub, door) = hub(set).await;
    assert_eq!(provision(&door, "").await.expect(400).error(), "device_id is empty");
    for body in ["{}", "[]", "null", "{", r#"{"device_id":7}"#, r#"{"device_id":"not an id"}"#] {
        let request = door.request("POST", &format!("{BASE}/tenants//devices"));
        let request = request.header("Content-Type", "application/json").body(body);
        Answer::to(request).await.expect(400).error();
    }
}

#[tokio::test]
async fn only_the_internal_api_is_served_there() {
    let (hub, door) = hub(Set::Embedded).await;
    ask(&door, "GET", "/alive").await.expect(204);
    ask(&door, "GET", "/health").await.expect(204);
    ask(&door, "POST", "/alive").await.expect(405).error();
    let user = hub.user().await.at(&door);
    for path in ["/api/management/v2/devauth/devices", "/health/live", "/metrics", "/", "/ui/", "/api/internal/v1/x"] {
        user.get(path).await.expect(404).error();
    }
}

#[tokio::test]
async fn a_token_opens_the_internal_api_if_one_is_set() {
    let hub = Set::Embedded
        .hub_with(|config| {
            config.api.internal_listen = Some(([127, 0, 0, 1], 0).into());
            config.api.internal_token = Some("open-sesame".into());
        })
        .await;
    let door = hub.internal_door();
    let user = hub.user().await;
    ask(&door, "GET", "/alive").await.expect(204);
    ask(&door, "GET", "/health").await.expect(204);
    let wrong = [None, Some("wrong".to_owned()), Some(String::new()), Some(user.token.clone())];
    for (method, path) in [
        ("GET", "/shutdown".to_owned()),
        ("POST", "/tenants//devices".to_owned()),
        ("DELETE", format!("/tenants//devices/{DEVICE}")),
        ("POST", format!("/tenants//devices/{DEVICE}/check-update")),
        ("POST", format!("/tenants//devices/{DEVICE}/send-inventory")),
        ("DELETE", "/tenants".to_owned()),
    ] {
        for token in &wrong {
            let mut request = door.request(method, &format!("{BASE}{path}"));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            Answer::to(request).await.refuses_token();
        }
    }
    let request = door.request("DELETE", &format!("{BASE}/tenants//devices/{DEVICE}"));
    Answer::to(request.bearer_auth("open-sesame")).await.expect(202);
}

#[tokio::test]
async fn a_hub_that_is_asked_to_shut_down_does_so_in_good_order() {
    let port = harness::free_port();
    let listen: &'static str = Box::leak(format!("127.0.0.1:{port}").into_boxed_str());
    let mut hub = Set::Embedded.process(&[("MOORING_INTERNAL_LISTEN", listen)]).await;
    let device = hub.accepted_device().await;
    let mut socket = device.connect().await;
    let door = Door::plain(([127, 0, 0, 1], port).into());

    let asked = within(LIMIT, "an answer", ask(&door, "GET", "/shutdown")).await;

    asked.expect(202);
    assert_eq!(socket.end(LIMIT).await.code(), Some(1012));
    assert!(hub.end(LIMIT).await.success());
}

#[tokio::test]
async fn an_open_internal_api_needs_a_token() {
    let mut command = harness::Mooring::alone().command(&["serve"]);
    command.env("MOORING_INTERNAL_LISTEN", "0.0.0.0:0");
    let mut process = harness::Process::start(&command, &harness::temporary_directory().join("log"));
    assert!(!process.end(LIMIT).await.success());
    assert!(process.log().contains("api.internal_listen is 0.0.0.0:0 but internal_token"), "{}", process.log());
}
