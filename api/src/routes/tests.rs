//! The routes with everything behind them: what a client sees.

use actix_http::Request;
use actix_web::Error;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap};
use actix_web::http::{Method, StatusCode};
use actix_web::test::{TestRequest, init_service, read_body};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::config::{AddressLimit, Config, Secret};
use crate::headers::REQUEST_ID;
use crate::state::{ApiState, testing};

/// What a client sees.
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn error(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["request_id"], self.header(REQUEST_ID.as_str()), "{body}");
        body["error"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn see<S, B>(app: &S, request: TestRequest) -> Seen
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    match app.call(request.to_request()).await {
        Ok(response) => Seen {
            status: response.status(),
            headers: response.headers().clone(),
            body: read_body(response.map_into_boxed_body()).await,
        },
        Err(error) => {
            let response = error.as_response_error().error_response();
            let (status, headers) = (response.status(), response.headers().clone());
            let body: BoxBody = response.into_body();
            Seen { status, headers, body: actix_web::body::to_bytes(body).await.unwrap() }
        }
    }
}

fn ask(method: &str, path: &str) -> TestRequest {
    TestRequest::default().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path)
}

fn bearer(token: &str) -> (actix_web::http::header::HeaderName, String) {
    (AUTHORIZATION, format!("Bearer {token}"))
}

const PASSWORD: &str = "correct horse";

fn log_in(email: &str, password: &str) -> TestRequest {
    let credentials = BASE64_STANDARD.encode(format!("{email}:{password}"));
    ask("POST", "/api/management/v1/useradm/auth/login").insert_header((AUTHORIZATION, format!("Basic {credentials}")))
}

/// A state with one user, and the user's token.
async fn with_user(config: Config) -> (ApiState, String) {
    let state = Box::pin(testing::state(config)).await;
    state.accounts.add_user("admin@example.com", PASSWORD, None).await.unwrap();
    let app = init_service(crate::app(state.clone(), routes)).await;
    let seen = see(&app, log_in("Admin@Example.com", PASSWORD)).await;
    (state, String::from_utf8(seen.body.to_vec()).unwrap())
}

/// What anybody may ask without a token. A new route stands here, or its path calls for a token.
const OPEN: &[(&str, &str)] = &[
    ("POST", "/api/devices/v1/authentication/auth_requests"),
    ("POST", "/api/management/v1/useradm/auth/login"),
    // What opens these stands in the address itself.
    ("GET", "/api/devices/v1/deployments/download/objects/{id}"),
    ("HEAD", "/api/devices/v1/deployments/download/objects/{id}"),
    ("PUT", "/api/devices/v1/deployments/download/uploads/{id}"),
    ("GET", "/api/devices/v1/deployments/download/configuration/{deployment}/{device_type}/{device}"),
    ("HEAD", "/api/devices/v1/deployments/download/configuration/{deployment}/{device_type}/{device}"),
    ("GET", "/health/live"),
    ("HEAD", "/health/live"),
    ("GET", "/health/ready"),
    ("HEAD", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/ui"),
    ("HEAD", "/ui"),
    ("GET", "/ui/{path:.*}"),
    ("HEAD", "/ui/{path:.*}"),
    ("GET", "/tags.json"),
    ("GET", "/versions.json"),
    ("GET", "/{page:[A-Za-z0-9]+}"),
    ("HEAD", "/{page:[A-Za-z0-9]+}"),
];

/// What anybody who reaches the internal listener may ask without its token.
const OPEN_INSIDE: &[(&str, &str)] = &[
    ("GET", "/api/internal/v1/deviceconnect/alive"),
    ("GET", "/api/internal/v1/deviceconnect/health"),
    ("GET", "/api/internal/v1/devauth/alive"),
    ("GET", "/api/internal/v1/devauth/health"),
    ("GET", "/api/internal/v1/devauth/tokens/verify"),
    ("POST", "/api/internal/v1/devauth/tokens/verify"),
    ("GET", "/api/internal/v1/useradm/alive"),
    ("GET", "/api/internal/v1/useradm/health"),
    ("GET", "/api/internal/v1/useradm/auth/verify"),
    ("POST", "/api/internal/v1/useradm/auth/verify"),
    ("GET", "/api/internal/v1/inventory/alive"),
    ("GET", "/api/internal/v1/inventory/health"),
    ("GET", "/api/internal/v1/reporting/alive"),
    ("GET", "/api/internal/v1/reporting/health"),
    ("GET", "/api/internal/v1/deviceconfig/alive"),
    ("GET", "/api/internal/v1/deviceconfig/health"),
    ("GET", "/api/internal/v1/devicemonitor/alive"),
    ("GET", "/api/internal/v1/devicemonitor/health"),
    ("GET", "/api/internal/v1/deployments/alive"),
    ("GET", "/api/internal/v1/deployments/health"),
];

/// Not served yet, and asked for the same tokens all the same.
const LATER: &[(&str, &str)] = &[("GET", "/api/management/v1/iot-manager/integrations")];

/// A path that the pattern fits.
fn sample(pattern: &str) -> String {
    let mut path = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap();
        path.push_str(before);
        // The tenant of an installation has no name.
        path.push_str(if name.starts_with("tenant:") { "" } else { "x" });
        rest = after;
    }
    path + rest
}

#[test]
fn every_route_asks_for_the_token_of_its_audience() {
    use crate::gateway::{Access, access, internal_access};
    for route in crate::endpoint::list(routes) {
        let path = sample(route.pattern);
        let wanted = if OPEN.contains(&(route.method, route.pattern)) {
            Access::Public
        } else if path.starts_with("/api/devices/") {
            Access::Device
        } else if path.starts_with("/api/management/") {
            Access::User
        } else {
            panic!("{} {} asks nobody who they are, and is not named here", route.method, route.pattern)
        };
        assert_eq!(access(&path), wanted, "{} {path}", route.method);
        assert_eq!(internal_access(&path), Access::Nowhere, "{path} is served on the internal listener");
    }
    for route in crate::endpoint::list(internal_routes) {
        let path = sample(route.pattern);
        let is_open = OPEN_INSIDE.contains(&(route.method, route.pattern));
        let wanted = if is_open { Access::Public } else { Access::Internal };
        assert_eq!(internal_access(&path), wanted, "{} {path}", route.method);
        assert_eq!(access(&path), Access::Nowhere, "{path} is reached from outside");
    }
}

#[actix_web::test]
async fn every_secured_route_called_bare_is_401_with_name_and_reason() {
    let app = init_service(crate::app(testing::state(Config::default()).await, routes)).await;
    let served = crate::endpoint::list(routes);
    let secured: Vec<(&str, String)> = served
        .iter()
        .map(|route| (route.method, route.pattern))
        .chain(LATER.iter().copied())
        .filter(|route| !OPEN.contains(route))
        .map(|(method, pattern)| (method, sample(pattern)))
        .collect();
    assert!(secured.len() > 40, "{secured:?}");
    for (method, path) in secured {
        let seen = see(&app, ask(method, &path)).await;
        assert_eq!(seen.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert!(!seen.error().is_empty());
        assert_eq!(seen.header("x-content-type-options"), "nosniff");
    }
    for (method, pattern) in OPEN {
        let seen = see(&app, ask(method, &sample(pattern))).await;
        let is_login = pattern.ends_with("/auth/login");
        assert_eq!(seen.status == StatusCode::UNAUTHORIZED, is_login, "{method} {pattern}");
        assert!(seen.status.as_u16() < 500 && seen.status != StatusCode::METHOD_NOT_ALLOWED, "{method} {pattern}");
    }
    let seen = see(&app, ask("POST", "/api/devices/v1/authentication/auth_requests")).await;
    assert_eq!(seen.status, StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn paths_that_are_not_ours_are_404_whoever_asks() {
    let (state, token) = with_user(Config::default()).await;
    let app = init_service(crate::app(state, routes)).await;
    for path in [
        "/api/internal/v1/devauth/tokens/verify",
        "/api/management/v2/tenantadm/tenants/me?tiers=true",
        "/api/unknown",
        "/api",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            for request in [ask(method, path), ask(method, path).insert_header(bearer(&token))] {
                let seen = see(&app, request).await;
                assert_eq!((seen.status, seen.error().as_str()), (StatusCode::NOT_FOUND, "not found"), "{path}");
            }
        }
    }
}

#[actix_web::test]
async fn a_user_logs_in_works_and_logs_out() {
    let (state, token) = with_user(Config::default()).await;
    let app = init_service(crate::app(state, routes)).await;
    let me = || ask("GET", "/api/management/v1/useradm/users/me");

    let seen = see(&app, log_in("admin@example.com", PASSWORD)).await;
    assert_eq!((seen.status, seen.header("content-type")), (StatusCode::OK, "application/jwt"));
    assert_eq!(seen.header("set-cookie"), "");

    assert_eq!(see(&app, me().insert_header(bearer(&token))).await.status, StatusCode::OK);
    let by_cookie = me().insert_header((COOKIE, format!("JWT={token}")));
    assert_eq!(see(&app, by_cookie).await.status, StatusCode::OK);

    let log_out = || ask("POST", "/api/management/v1/useradm/auth/logout").insert_header(bearer(&token));
    assert_eq!(see(&app, log_out()).await.status, StatusCode::ACCEPTED);
    assert_eq!(see(&app, me().insert_header(bearer(&token))).await.status, StatusCode::UNAUTHORIZED);
}

#[actix_web::test]
async fn a_refused_login_has_no_challenge_and_never_hints_at_a_second_factor() {
    let (state, _) = with_user(Config::default()).await;
    let app = init_service(crate::app(state, routes)).await;
    for (email, password) in [("admin@example.com", "wrong"), ("admin@example.com", ""), ("nobody@example.com", "x")] {
        let seen = see(&app, log_in(email, password)).await;
        assert_eq!((seen.status, seen.error().as_str()), (StatusCode::UNAUTHORIZED, "unauthorized"));
        assert_eq!(seen.header("www-authenticate"), "");
        assert!(!seen.error().contains("2fa"));
    }
    let bare = see(&app, ask("POST", "/api/management/v1/useradm/auth/login")).await;
    assert_eq!(bare.error(), "invalid or missing auth header");
}

#[actix_web::test]
async fn a_token_of_the_wrong_kind_is_refused() {
    let (state, token) = with_user(Config::default()).await;
    let app = init_service(crate::app(state, routes)).await;
    for request in [
        ask("PUT", "/api/devices/v1/inventory/device/attributes").insert_header(bearer(&token)),
        ask("GET", "/api/devices/v1/deviceconnect/connect").insert_header((COOKIE, format!("JWT={token}"))),
    ] {
        assert_eq!(see(&app, request).await.status, StatusCode::UNAUTHORIZED);
    }
}

#[actix_web::test]
async fn a_body_is_checked_before_it_is_believed() {
    let (state, token) = with_user(Config::default()).await;
    let app = init_service(crate::app(state.clone(), routes)).await;
    let post = |kind: &str, body: String| {
        let request = ask("POST", "/api/management/v2/devauth/devices").insert_header(bearer(&token));
        let request = if kind.is_empty() { request } else { request.insert_header((CONTENT_TYPE, kind)) };
        request.set_payload(body)
    };
    let json = "application/json";
    let huge = "x".repeat(1024 * 1024 + 1);
    for (kind, body, status, text) in [
        ("text/plain", "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Bad Content-Type, expected 'application/json'"),
        ("", "{}", StatusCode::BAD_REQUEST, "Invalid value for Content-Type header"),
        (json, "{", StatusCode::BAD_REQUEST, "failed to decode preauth request: "),
        (json, "", StatusCode::BAD_REQUEST, "failed to decode preauth request: "),
        (json, r#"{"identity_data":"{}","pubkey":"x"}"#, StatusCode::BAD_REQUEST, "failed to decode preauth request: "),
        (
            json,
            r#"{"identity_data":{"a":"b"},"pubkey":"x"}"#,
            StatusCode::BAD_REQUEST,
            "failed to decode preauth request: ",
        ),
        (json, &huge, StatusCode::PAYLOAD_TOO_LARGE, "http: request body too large"),
    ] {
        let seen = see(&app, post(kind, body.to_owned())).await;
        assert_eq!(seen.status, status, "{kind} {}", seen.error());
        assert!(seen.error().starts_with(text), "{}", seen.error());
    }
    assert_eq!(state.storage.devices.count(None).await.unwrap(), 0);
}

#[actix_web::test]
async fn a_known_path_says_which_methods_it_has() {
    let (state, token) = with_user(Config::default()).await;
    let app = init_service(crate::app(state, routes)).await;
    let path = "/api/management/v2/devauth/devices/";
    let seen = see(&app, ask("PATCH", path).insert_header(bearer(&token))).await;
    assert_eq!((seen.status, seen.error().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "method not allowed"));
    let seen = see(&app, ask("OPTIONS", path).insert_header(bearer(&token))).await;
    let allowed: Vec<&str> = seen.headers.get_all("allow").map(|value| value.to_str().unwrap()).collect();
    assert_eq!((seen.status, allowed.as_slice()), (StatusCode::OK, &["GET", "POST", "OPTIONS"][..]));
}

#[actix_web::test]
async fn the_call_past_the_quota_is_told_when_to_come_back() {
    let mut config = Config::default();
    config.rate_limits.enable = true;
    config.rate_limits.groups.iter_mut().for_each(|group| group.quota = 2);
    // Longer than any test, so that its calls fall into one window.
    config.rate_limits.groups.iter_mut().for_each(|group| group.interval = std::time::Duration::from_hours(24 * 365));
    let (state, token) = with_user(config).await;
    let app = init_service(crate::app(state, routes)).await;
    let count = || ask("GET", "/api/management/v2/devauth/devices/count");
    for _ in 0..5 {
        // Not verified, so not counted.
        assert_eq!(see(&app, count().insert_header(bearer("a.b.c"))).await.status, StatusCode::UNAUTHORIZED);
    }
    for _ in 0..2 {
        assert_eq!(see(&app, count().insert_header(bearer(&token))).await.status, StatusCode::OK);
    }
    let seen = see(&app, count().insert_header(bearer(&token))).await;
    assert_eq!((seen.status, seen.error().as_str()), (StatusCode::TOO_MANY_REQUESTS, "too many requests"));
    assert!(seen.header("retry-after").parse::<u64>().unwrap() > 0);
}

#[actix_web::test]
async fn an_address_that_knocks_too_often_waits() {
    let limit = AddressLimit { quota: 1, interval: std::time::Duration::from_hours(1) };
    let config = Config { login_limit: limit, auth_request_limit: limit, ..Config::default() };
    let app = init_service(crate::app(testing::state(config).await, routes)).await;
    for path in ["/api/management/v1/useradm/auth/login", "/api/devices/v1/authentication/auth_requests"] {
        assert!(see(&app, ask("POST", path)).await.status.is_client_error());
        let seen = see(&app, ask("POST", path)).await;
        assert_eq!(seen.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
        assert!(seen.header("retry-after").parse::<u64>().unwrap() > 0);
    }
}

#[actix_web::test]
async fn requests_keep_their_name_and_lose_forged_headers() {
    let (state, token) = with_user(Config::default()).await;
    let app = init_service(crate::app(state, routes)).await;
    let request = ask("GET", "//api/management/v2/devauth/devices")
        .insert_header(bearer(&token))
        .insert_header((REQUEST_ID, "my-request"))
        .insert_header(("x-men-rbac-inventory-groups", "kitchen"));
    let seen = see(&app, request).await;
    assert_eq!((seen.status, seen.header(REQUEST_ID.as_str())), (StatusCode::OK, "my-request"));
    assert_eq!(seen.body, "[]");
    assert!(!seen.headers.keys().any(|name| name.as_str().starts_with("access-control")));
}

#[actix_web::test]
async fn an_offline_device_is_404_to_who_would_connect() {
    let (state, token) = with_user(Config::default()).await;
    let app = init_service(crate::app(state, routes)).await;
    for device in ["nonsense", "0c5b8a0e-8d6e-4d1f-9c55-1a8f7c1d2e3f"] {
        let status = ask("GET", &format!("/api/management/v1/deviceconnect/devices/{device}"));
        let seen = see(&app, status.insert_header(bearer(&token))).await;
        assert_eq!((seen.status, seen.error().as_str()), (StatusCode::NOT_FOUND, "device not found"));
        let connect = ask("GET", &format!("/api/management/v1/deviceconnect/devices/{device}/connect"));
        let seen = see(&app, connect.insert_header(bearer(&token))).await;
        assert_eq!(seen.error(), "failed to connect to device: device disconnected");
    }
}

#[actix_web::test]
async fn metrics_open_to_their_token_alone() {
    let closed = init_service(crate::app(testing::state(Config::default()).await, routes)).await;
    assert_eq!(see(&closed, ask("GET", "/metrics")).await.status, StatusCode::NOT_FOUND);

    let config = Config { metrics_token: Some(Secret::from("s3cret")), ..Config::default() };
    let open = init_service(crate::app(testing::state(config).await, routes)).await;
    assert_eq!(see(&open, ask("GET", "/metrics")).await.status, StatusCode::UNAUTHORIZED);
    let seen = see(&open, ask("GET", "/metrics").insert_header(bearer("s3cret"))).await;
    assert_eq!((seen.status, seen.body.as_ref()), (StatusCode::OK, &b"up 1\n"[..]));
}

#[actix_web::test]
async fn a_hub_with_all_its_backends_is_ready() {
    let app = init_service(crate::app(testing::state(Config::default()).await, private_routes)).await;
    let seen = see(&app, ask("GET", "/health/ready")).await;
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!((seen.status, &body["status"]), (StatusCode::OK, &Value::from("up")));
    assert!(body["backends"].as_array().unwrap().iter().any(|backend| backend["name"] == "database"));
}

#[actix_web::test]
async fn the_way_into_the_web_ui_is_relative() {
    let app = init_service(crate::app(testing::state(Config::default()).await, routes)).await;
    for (path, location) in [("/", "/ui/"), ("/ui", "/ui/"), ("/devices?id=1", "/ui/devices?id=1"), ("//", "/ui/")] {
        let seen = see(&app, ask("GET", path)).await;
        assert_eq!((seen.status, seen.header("location")), (StatusCode::MOVED_PERMANENTLY, location), "{path}");
    }
    let seen = see(&app, ask("GET", "/ui/env.js")).await;
    assert!(seen.body.starts_with(b"var mender_environment = {"));
    assert!(seen.header("cache-control").contains("no-store"));
}

#[test]
fn questions_are_routes_that_there_are() {
    let served = [crate::endpoint::list(routes), crate::endpoint::list(internal_routes)].concat();
    for pattern in super::QUESTIONS {
        assert!(served.iter().any(|route| (route.method, route.pattern) == ("POST", pattern)), "{pattern}");
    }
}

/// A search that nobody names a question would be a row of the audit log each time.
#[test]
fn searches_are_questions() {
    for route in [crate::endpoint::list(routes), crate::endpoint::list(internal_routes)].concat() {
        let asks = ["/search", "/aggregate"].iter().any(|end| route.pattern.ends_with(end));
        if asks && route.method != "GET" {
            assert!(super::QUESTIONS.contains(&route.pattern), "{} {}", route.method, route.pattern);
        }
    }
}
