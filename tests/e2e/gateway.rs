//! What holds for every request, whatever it asks for.

use harness::{
    Answer, Certificate, LIMIT, Process, Set, Socket, TestHub, TestUser, both_sets, free_port, raw_request,
    temporary_directory, wait_until,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

both_sets!([
    every_response_carries_a_request_id,
    without_a_token_only_joining_and_logging_in_are_possible,
    published_paths_called_bare_ask_for_what_they_need,
    the_internal_api_is_not_there,
    paths_that_nobody_serves_are_a_json_404,
    a_known_path_with_another_method_is_405,
    a_token_of_the_wrong_kind_is_refused,
    a_user_may_show_the_token_in_a_cookie_and_a_device_may_not,
    headers_about_groups_from_outside_have_no_effect,
    management_answers_carry_security_headers,
    the_third_call_in_a_window_of_two_has_to_wait_for_the_next,
]);

const DEVICES: &str = "/api/management/v2/devauth/devices";
const REPORTS: &str = "/api/devices/v1/inventory/device/attributes";
const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

/// What anybody may ask: all else below these prefixes needs a token. A new route needs one, or stands here.
const PUBLIC: &[&str] = &[
    "/api/devices/v1/authentication/auth_requests",
    "/api/management/v1/useradm/auth/login",
    // What opens these stands in the address itself.
    "/api/devices/v1/deployments/download/objects/{id}",
    "/api/devices/v1/deployments/download/uploads/{id}",
    "/api/devices/v1/deployments/download/configuration/{deployment}/{device_type}/{device}",
];

/// Method and a path of every route with this prefix that needs a token.
fn served(prefix: &str) -> Vec<(&'static str, String)> {
    let [routes, _] = hub::Hub::routes();
    let secured = routes.into_iter().filter(|(_, pattern)| pattern.starts_with(prefix) && !PUBLIC.contains(pattern));
    secured.map(|(method, pattern)| (method, path_of(pattern))).collect()
}

/// A path that a pattern fits: an unknown id in place of each name, and of the tenant's nothing, for it has none.
pub(crate) fn path_of(pattern: &str) -> String {
    let mut path = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap();
        path += before;
        path += if name.starts_with("tenant:") { "" } else { UNKNOWN };
        rest = after;
    }
    path + rest
}

/// Paths that need a user's token, served or not.
pub(crate) fn users_only() -> Vec<(&'static str, String)> {
    let mut all = served("/api/management/");
    for (method, path) in [
        ("POST", "/api/management/v1/deployments/deployments"),
        ("GET", "/api/management/v1/deviceconfig/configurations/device/x"),
        ("GET", "/api/management/v1/iot-manager/integrations"),
        ("GET", "/api/management/v1/useradm/roles"),
    ] {
        all.push((method, path.to_owned()));
    }
    all
}

/// Paths that need a device's token, served or not.
pub(crate) fn devices_only() -> Vec<(&'static str, String)> {
    let mut all = served("/api/devices/");
    for (method, path) in [
        ("POST", "/api/devices/v2/deployments/device/deployments/next"),
        ("GET", "/api/devices/v1/deviceconfig/configuration"),
    ] {
        all.push((method, path.to_owned()));
    }
    all
}

async fn bare(hub: &TestHub, method: &str, path: &str) -> Answer {
    Answer::to(hub.request(method, path)).await
}

async fn every_response_carries_a_request_id(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let requests = || {
        [
            (200, user.request("GET", DEVICES)),
            (404, user.request("GET", &format!("{DEVICES}/{UNKNOWN}"))),
            (401, hub.request("GET", DEVICES)),
            (404, hub.request("GET", "/api/unknown")),
            (405, user.request("PATCH", DEVICES)),
            (400, hub.request("POST", "/api/devices/v1/authentication/auth_requests")),
            (200, hub.request("GET", "/health/live")),
        ]
    };

    for (status, request) in requests() {
        let answer = Answer::to(request).await.expect(status);
        assert_eq!(answer.header("x-men-requestid").len(), 36, "a fresh id: {answer}");
    }
    for (status, request) in requests() {
        let answer = Answer::to(request.header("X-MEN-RequestID", "mine-17")).await.expect(status);
        assert_eq!(answer.header("x-men-requestid"), "mine-17", "{answer}");
        if status >= 400 {
            // Compares the body's id with the header's.
            answer.error();
        }
    }

    let refusal =
        Socket::connect(&hub, "/api/devices/v1/deviceconnect/connect", &[("X-MEN-RequestID", "mine-18")]).await;
    let refusal = refusal.err().unwrap().expect(401);
    assert_eq!(refusal.header("x-men-requestid"), "mine-18");
    refusal.error();
}

async fn without_a_token_only_joining_and_logging_in_are_possible(set: Set) {
    let hub = set.hub().await;
    for (method, path) in users_only() {
        bare(&hub, method, &path).await.refuses_token();
    }
    for (method, path) in devices_only() {
        bare(&hub, method, &path).await.refuses_token();
    }
    // These get as far as the decision itself.
    assert_eq!(hub.device().ask().await.expect(401).error(), "dev auth: unauthorized");
    let refused = TestUser::try_log_in(&hub, "nobody@example.com", "wrong password").await.expect(401);
    assert_eq!(refused.error(), "unauthorized");
}

async fn published_paths_called_bare_ask_for_what_they_need(set: Set) {
    let hub = set.hub().await;
    for (method, path) in users_only().into_iter().chain(devices_only()) {
        bare(&hub, method, &path).await.refuses_token();
    }
    bare(&hub, "POST", "/api/management/v1/useradm/auth/login").await.expect(401).error();
    bare(&hub, "POST", "/api/devices/v1/authentication/auth_requests").await.expect(400).error();
    for path in ["/health/live", "/health/ready", "/ui/env.js", "/tags.json"] {
        bare(&hub, "GET", path).await.expect(200);
    }
}

async fn the_internal_api_is_not_there(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let [_, internal] = hub::Hub::routes();
    let mut paths: BTreeSet<String> = internal.into_iter().map(|(_, pattern)| path_of(pattern)).collect();
    assert!(paths.len() > 10, "{paths:?}");
    paths.extend(["/api/internal/".to_owned(), "/api/internal/v1/inventory/tenants".to_owned()]);
    for path in &paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            bare(&hub, method, path).await.expect(404).error();
            Answer::to(user.request(method, path)).await.expect(404).error();
            Answer::to(device.request(method, path)).await.expect(404).error();
        }
    }
}

async fn paths_that_nobody_serves_are_a_json_404(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for path in [
        // Recent web UIs take anything but a 404 here for another edition, or for a dead session.
        "/api/management/v2/tenantadm/tenants/me?tiers=true",
        "/api/management/v1/tenantadm/user/tenant",
        "/api/management/v1/auditlogs/logs",
        "/api/management/v1/useradm/roles",
        "/api/unknown",
        "/api",
    ] {
        assert_eq!(user.get(path).await.expect(404).error(), "not found", "{path}");
    }
    assert_eq!(hub.get("/api/unknown").await.expect(404).error(), "not found");
}

async fn a_known_path_with_another_method_is_405(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let answer = Answer::to(user.request("PATCH", DEVICES)).await.expect(405);
    assert_eq!(answer.error(), "method not allowed");
}

async fn a_token_of_the_wrong_kind_is_refused(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    for (method, path) in users_only() {
        Answer::to(device.request(method, &path)).await.refuses_token();
    }
    for (method, path) in devices_only() {
        Answer::to(user.request(method, &path)).await.refuses_token();
    }
}

async fn a_user_may_show_the_token_in_a_cookie_and_a_device_may_not(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let _connected = device.connect().await;
    let cookie = format!("other=1; JWT={}", user.token);
    let session = TestUser::session_path(&device.id);
    let with_cookie = |path: &str| hub.request("GET", path).header("Cookie", &cookie);

    Answer::to(with_cookie(DEVICES)).await.expect(200);
    let opened = Socket::connect(&hub, &session, &[("Cookie", &cookie)]).await;
    opened.unwrap_or_else(|refusal| panic!("{refusal}")).close(1000).await;
    // A header that is there wins, however good the cookie is; an empty one is not there.
    let both = [("Cookie", cookie.as_str()), ("Authorization", "Bearer nonsense")];
    Answer::to(with_cookie(DEVICES).header("Authorization", "Bearer nonsense")).await.refuses_token();
    Socket::connect(&hub, &session, &both).await.err().unwrap().refuses_token();
    Answer::to(with_cookie(DEVICES).header("Authorization", "")).await.expect(200);

    let cookie = format!("JWT={}", device.token);
    Answer::to(hub.request("PATCH", REPORTS).header("Cookie", &cookie).json(&json!([]))).await.refuses_token();
    let refused = Socket::connect(&hub, "/api/devices/v1/deviceconnect/connect", &[("Cookie", &cookie)]).await;
    refused.err().unwrap().refuses_token();
}

async fn headers_about_groups_from_outside_have_no_effect(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let inventory = format!("/api/management/v1/inventory/devices/{}", device.id);
    for path in [DEVICES, "/api/management/v1/inventory/devices", &inventory] {
        let plain = user.get(path).await.expect(200);
        let forged = user
            .request("GET", path)
            .header("X-MEN-RBAC-Inventory-Groups", "no-such-group")
            .header("X-MEN-RBAC-Deployments-Groups", "no-such-group");
        assert_eq!(Answer::to(forged).await.expect(200).body, plain.body, "{path}");
    }
    let report = device.request("PATCH", REPORTS).header("X-MEN-RBAC-Inventory-Groups", "no-such-group");
    Answer::to(report.json(&json!([{"name": "a", "value": "1"}]))).await.expect(200);
}

async fn management_answers_carry_security_headers(set: Set) {
    let plain = set.hub().await;
    check_security_headers(&plain, "").await;
    let secure = set.site().await.tls_hub(&Certificate::new()).await;
    check_security_headers(&secure, "max-age=31536000; includeSubDomains; preload").await;
}

async fn check_security_headers(hub: &TestHub, transport: &str) {
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let foreign = |request: reqwest::RequestBuilder| Answer::to(request.header("Origin", "https://evil.example.com"));
    let answers = [
        foreign(user.request("GET", DEVICES)).await.expect(200),
        foreign(user.request("GET", &format!("{DEVICES}/{UNKNOWN}"))).await.expect(404),
        foreign(hub.request("GET", DEVICES)).await.expect(401),
        foreign(hub.request("POST", "/api/management/v1/useradm/auth/login")).await.expect(401),
    ];
    for answer in &answers {
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{answer}");
        assert_eq!(answer.header("x-xss-protection"), "1; mode=block", "{answer}");
        assert_eq!(answer.header("strict-transport-security"), transport, "{answer}");
    }
    let report = foreign(device.request("PATCH", REPORTS).json(&json!([]))).await.expect(200);
    let preflight = foreign(hub.request("OPTIONS", DEVICES)).await;
    for answer in answers.iter().chain([&report, &preflight]) {
        let shared = answer.headers.keys().find(|name| name.as_str().starts_with("access-control-"));
        assert_eq!(shared, None, "{answer}");
    }
}

async fn the_third_call_in_a_window_of_two_has_to_wait_for_the_next(set: Set) {
    let interval = Duration::from_secs(3);
    let hub = set
        .hub_with(|config| {
            let limits = &mut config.api.rate_limits;
            limits.enable = true;
            for group in &mut limits.groups {
                group.quota = 2;
                group.interval = interval;
            }
        })
        .await;
    let user = hub.user().await;
    let window = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / interval.as_secs();

    // Windows start when the clock says so; three calls are only tried until they have fallen into one.
    let refused = wait_until(LIMIT, "three calls within one window", async || {
        let before = window();
        let answers = [user.get(DEVICES).await, user.get(DEVICES).await, user.get(DEVICES).await];
        let [first, second, third] = answers;
        let fresh = first.status == 200 && second.status == 200;
        (fresh && window() == before).then_some(third)
    })
    .await;
    assert_eq!(refused.clone().expect(429).error(), "too many requests");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=interval.as_secs()).contains(&wait), "{wait} s");
    wait_until(interval + Duration::from_secs(1), "the next window", async || {
        (user.get(DEVICES).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_web_ui_is_served_from_a_folder() {
    let folder = harness::temporary_directory();
    std::fs::write(folder.join("index.html"), "<html>the index</html>").unwrap();
    std::fs::write(folder.join("main.js"), "let it = 'be';").unwrap();
    let hub = Set::Embedded.hub_with(|config| config.api.ui_dir = Some(folder)).await;

    // Relative, so that scheme, host and port stay what the browser knows.
    for path in ["/", "/ui"] {
        let answer = hub.get(path).await.expect(301);
        assert_eq!(answer.header("location"), "/ui/", "{answer}");
    }
    assert_eq!(hub.get("/devices").await.expect(301).header("location"), "/ui/devices");
    for path in ["/ui/", "/ui/devices/accepted"] {
        let answer = hub.get(path).await.expect(200);
        assert_eq!(answer.text(), "<html>the index</html>");
        assert!(answer.header("content-type").starts_with("text/html"), "{answer}");
        assert!(answer.header("cache-control").contains("no-store"), "{answer}");
        assert_eq!(answer.header("x-frame-options"), "SAMEORIGIN");
        assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    }
    assert_eq!(hub.get("/ui/main.js").await.expect(200).text(), "let it = 'be';");

    let script = hub.get("/ui/env.js").await.expect(200).text();
    let members = script.split_once("mender_environment").unwrap().1;
    let members = &members[members.find('{').unwrap()..=members.rfind('}').unwrap()];
    let members: serde_json::Value = serde_json::from_str(members).unwrap();
    for name in ["version", "integrationVersion", "menderVersion"] {
        assert!(members[name].as_str().is_some_and(|text| !text.is_empty()), "{name} in {members}");
    }
    for (feature, on) in [("hasDeviceConnect", "1"), ("hasMultitenancy", "0"), ("isEnterprise", "0")] {
        assert_eq!(members["features"][feature].as_str(), Some(on), "{feature} in {members}");
    }
}

#[tokio::test]
async fn every_backend_is_named_by_the_readiness_check() {
    for (set, wanted) in [
        (Set::Embedded, vec!["bus", "database", "objects"]),
        (Set::Production, vec!["database", "nats", "objects", "redis"]),
    ] {
        let hub = set.hub().await;
        let report = hub.get("/health/ready").await.expect(200).json();
        assert_eq!(report["status"], "up");
        let backends = report["backends"].as_array().unwrap();
        let mut names: Vec<&str> = backends.iter().map(|backend| backend["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert!(wanted.iter().all(|name| names.contains(name)), "{names:?}");
    }
}

#[tokio::test]
async fn a_backend_that_is_down_is_named_until_it_is_back() {
    let port = free_port();
    let start_nats = || {
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        Process::start(&command, &temporary_directory().join("nats.log"))
    };
    let nats = start_nats();
    wait_until(LIMIT, "nats-server", async || TcpStream::connect(("127.0.0.1", port)).ok()).await;
    let url = format!("nats://127.0.0.1:{port}");
    let hub = Set::Production.hub_with(move |config| config.actors.nats_url = Some(url.as_str().into())).await;
    hub.get("/health/ready").await.expect(200);

    drop(nats);
    wait_until(LIMIT, "a 503 that names it", async || {
        let answer = hub.get("/health/ready").await;
        let backends = answer.json()["backends"].as_array().cloned().unwrap_or_default();
        let is_named = backends.iter().any(|backend| backend["name"] == "nats" && backend["state"] == "down");
        (answer.status == 503 && is_named).then_some(())
    })
    .await;
    hub.get("/health/live").await.expect(200);

    let _nats = start_nats();
    wait_until(LIMIT, "a 200", async || (hub.get("/health/ready").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn metrics_need_a_token_or_a_listener_of_their_own() {
    let hub = Set::Embedded.hub().await;
    hub.get("/metrics").await.expect(404);

    let hub = Set::Embedded.hub_with(|config| config.api.metrics_token = Some("open-sesame".into())).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let _connected = device.connect().await;
    hub.get("/metrics").await.expect(401);
    Answer::to(user.request("GET", "/metrics")).await.expect(401);
    wait_until(LIMIT, "a metric of the connected device", async || {
        let answer = Answer::to(hub.request("GET", "/metrics").bearer_auth("open-sesame")).await.expect(200);
        answer.text().contains("devices_connected").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_no_http_hurts_nobody() {
    let hub = Set::Embedded.hub().await;
    let answer = raw_request(hub.address(), b"\x16\x03\x01 hello\r\n\r\n").await;
    assert_eq!(answer.status, 400);
    // A path with a stray slash, as typed by people whose server name ends in one.
    let user = hub.user().await;
    let doubled = format!("GET /{DEVICES} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
    raw_request(hub.address(), doubled.as_bytes()).await.expect(200);
}
