//! What other services of an installation ask about devices' and users' tokens, and about both.

use harness::{ADMIN_EMAIL, ADMIN_PASSWORD, Answer, Door, Issuer, Set, TestHub, TestUser, both_sets};
use serde_json::{Value, json};

use crate::gateway::path_of;

both_sets!([
    services_verify_tokens_of_devices_and_users,
    verified_calls_count_against_the_quota_of_what_was_called,
    services_set_the_limit_of_devices_and_settings_leave_it_alone,
    services_list_and_remove_devices,
    services_import_and_remove_users,
    a_tenant_with_a_name_is_not_here,
]);

const DEVAUTH: &str = "/api/internal/v1/devauth";
const USERADM: &str = "/api/internal/v1/useradm";
const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

async fn hub(set: Set) -> (TestHub, Door) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let door = hub.internal_door();
    (hub, door)
}

async fn ask(door: &Door, method: &str, path: &str) -> Answer {
    Answer::to(door.request(method, path)).await
}

async fn say(door: &Door, method: &str, path: &str, body: &Value) -> Answer {
    Answer::to(door.request(method, path).json(body)).await
}

/// Asks whether a token is good, as a gateway does.
async fn verify(door: &Door, service: &str, token: &str) -> Answer {
    let path = if service == DEVAUTH { "/tokens/verify" } else { "/auth/verify" };
    let request = door
        .request("GET", &format!("{service}{path}"))
        .header("X-Forwarded-Method", "POST")
        .header("X-Forwarded-Uri", "/api/management/v1/inventory/devices?x=y");
    Answer::to(request.bearer_auth(token)).await
}

async fn services_verify_tokens_of_devices_and_users(set: Set) {
    let issuer = Issuer::new();
    let hub = set
        .hub_with(|config| {
            config.api.internal_listen = Some(([127, 0, 0, 1], 0).into());
            // The header that carries this one elsewhere carries the token in question here.
            config.api.internal_token = Some("open-sesame".into());
            config.actors.user_key_file = Some(issuer.file());
        })
        .await;
    let door = hub.internal_door();
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;

    assert!(verify(&door, DEVAUTH, &device.token).await.expect(200).body.is_empty());
    assert!(verify(&door, USERADM, &user.token).await.expect(200).body.is_empty());
    for (service, path, token) in [(DEVAUTH, "/tokens/verify", &device.token), (USERADM, "/auth/verify", &user.token)] {
        let posted = door.request("POST", &format!("{service}{path}")).bearer_auth(token);
        let posted = posted.header("X-Forwarded-Method", "GET").header("X-Forwarded-Uri", "/api/management/v1/x");
        Answer::to(posted).await.expect(200);
        ask(&door, "GET", &format!("{service}{path}")).await.refuses_token();
    }
    let cookie = door
        .request("GET", &format!("{USERADM}/auth/verify"))
        .header("Cookie", format!("JWT={}", user.token))
        .header("X-Forwarded-Method", "GET")
        .header("X-Forwarded-Uri", "/api/management/v1/x");
    Answer::to(cookie).await.expect(200);
    let bare = door.request("GET", &format!("{USERADM}/auth/verify")).bearer_auth(&user.token);
    Answer::to(bare).await.expect(400).error();

    verify(&door, DEVAUTH, &user.token).await.refuses_token();
    verify(&door, USERADM, &device.token).await.refuses_token();
    verify(&door, DEVAUTH, "nonsense").await.refuses_token();
    verify(&door, USERADM, "open-sesame").await.refuses_token();
    let narrow = issuer.reissue(&user.token, |_, claims| claims["scp"] = json!("mender.users.initial.create"));
    assert_eq!(verify(&door, USERADM, &narrow).await.expect(403).error(), "unauthorized");

    user.decide(&device.id, &device.set(), "rejected").await.expect(204);
    verify(&door, DEVAUTH, &device.token).await.refuses_token();
    Answer::to(user.request("POST", "/api/management/v1/useradm/auth/logout")).await.expect(202);
    verify(&door, USERADM, &user.token).await.refuses_token();
}

async fn verified_calls_count_against_the_quota_of_what_was_called(set: Set) {
    let hub = set
        .hub_with(|config| {
            config.api.internal_listen = Some(([127, 0, 0, 1], 0).into());
            config.api.rate_limits.enable = true;
            for group in &mut config.api.rate_limits.groups {
                group.quota = 2;
                // So long that the whole story falls into one window, or there are two of them at the most.
                group.interval = std::time::Duration::from_hours(24 * 365);
            }
        })
        .await;
    let door = hub.internal_door();
    let user = hub.user().await;
    for _ in 0..5 {
        verify(&door, USERADM, &format!("{}x", user.token)).await.refuses_token();
    }
    let refused = harness::wait_until(harness::LIMIT, "the quota to be used up", async || {
        let answer = verify(&door, USERADM, &user.token).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(refused.clone().expect(429).error(), "too many requests");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    // What belongs to no group is not counted, and what cannot be read is said to be so.
    let request = |uri: &str| {
        let request = door.request("GET", &format!("{USERADM}/auth/verify")).bearer_auth(&user.token);
        request.header("X-Forwarded-Method", "GET").header("X-Forwarded-Uri", uri.to_owned())
    };
    Answer::to(request("/elsewhere")).await.expect(200);
    Answer::to(request("a b")).await.expect(400).error();
}

async fn services_set_the_limit_of_devices_and_settings_leave_it_alone(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    let path = format!("{DEVAUTH}/tenant//limits/max_devices");
    let seen = async |user: &TestUser| {
        user.get("/api/management/v2/devauth/limits/max_devices").await.expect(200).json()["limit"].clone()
    };
    assert_eq!(ask(&door, "GET", &path).await.expect(200).json(), json!({"limit": -1}));

    say(&door, "PUT", &path, &json!({"limit": 0})).await.expect(204);
    assert_eq!(ask(&door, "GET", &path).await.expect(200).json(), json!({"limit": 0}));
    let device = hub.device();
    device.ask().await.expect(401);
    let found = user.device_with(&device.identity).await.unwrap();
    let (id, auth_set) = (found["id"].as_str().unwrap(), found["auth_sets"][0]["id"].as_str().unwrap());
    user.decide(id, auth_set, "accepted").await.expect(422);
    for bad in [json!({"limit": "7"}), json!({"limit": -2}), json!({}), json!([]), json!({"limit": 1.5})] {
        say(&door, "PUT", &path, &bad).await.expect(400).error();
    }
    let other = format!("{DEVAUTH}/tenant//limits/max_users");
    assert_eq!(ask(&door, "GET", &other).await.expect(400).error(), "unsupported limit max_users");
    assert_eq!(seen(&user).await, 0);

    let hub = hub.stop().await.hub().await;
    let user = hub.user().await;
    assert_eq!(seen(&user).await, 0, "a hub without a setting leaves it alone");
    let site = hub.stop().await;
    let hub = site.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let (user, door) = (hub.user().await, hub.internal_door());
    ask(&door, "DELETE", &path).await.expect(204);
    assert_eq!(seen(&user).await, -1);
    user.decide(id, auth_set, "accepted").await.expect(204);
    say(&door, "PUT", &path, &json!({"limit": 1})).await.expect(204);
    assert_eq!(seen(&user).await, 1);
    say(&door, "PUT", &path, &json!({"limit": -1})).await.expect(204);
    assert_eq!(seen(&user).await, -1);
}

async fn services_list_and_remove_devices(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let pending = hub.device();
    pending.ask().await.expect(401);
    let devices = format!("{DEVAUTH}/tenants//devices");
    let path = format!("{devices}/{}", device.id);

    let listed = ask(&door, "GET", &devices).await.expect(200).json();
    assert_eq!(listed, json!(user.devices().await));
    let accepted = ask(&door, "GET", &format!("{devices}?status=accepted")).await.expect(200);
    assert_eq!(accepted.json()[0]["id"], device.id.as_str());
    assert!(accepted.header("link").contains(&format!("<{devices}?page=1")), "{}", accepted.header("link"));
    ask(&door, "GET", &format!("{devices}?status=lost")).await.expect(400).error();
    let counted = ask(&door, "GET", &format!("{devices}/count?status=pending")).await.expect(200);
    assert_eq!(counted.json(), json!({"count": 1}));
    let status = ask(&door, "GET", &format!("{path}/status")).await.expect(200);
    assert_eq!(status.json(), json!({"status": "accepted"}));
    for unknown in [UNKNOWN, "malformed"] {
        ask(&door, "GET", &format!("{devices}/{unknown}/status")).await.expect(404).error();
        ask(&door, "DELETE", &format!("{devices}/{unknown}")).await.expect(404).error();
        say(&door, "PATCH", &format!("{devices}/{unknown}"), &json!({"provisioned": true})).await.expect(404).error();
    }
    say(&door, "PATCH", &path, &json!({"provisioned": true})).await.expect(204);
    for bad in [json!({}), json!({"provisioned": "yes"}), json!([])] {
        say(&door, "PATCH", &path, &bad).await.expect(400).error();
    }
    say(&door, "PUT", &format!("{path}/external"), &json!({})).await.expect(404).error();

    assert!(ask(&door, "DELETE", &path).await.expect(204).body.is_empty());
    assert!(!device.has_access().await, "at once");
    user.get(&format!("/api/management/v2/devauth/devices/{}", device.id)).await.expect(404);
    ask(&door, "DELETE", &path).await.expect(404);

    assert!(
        say(&door, "POST", &format!("{DEVAUTH}/tenants"), &json!({"tenant_id": "x"})).await.expect(201).body.is_empty()
    );
    for service in [DEVAUTH, USERADM] {
        for query in ["", "?tenant_id=", "?device_id=x"] {
            let refused = ask(&door, "DELETE", &format!("{service}/tokens{query}")).await.expect(400);
            assert_eq!(refused.error(), "tenant_id must be provided");
        }
        ask(&door, "DELETE", &format!("{service}/tokens?tenant_id=acme")).await.expect(204);
    }
    user.get("/api/management/v1/useradm/users/me").await.expect(200);
}

async fn services_import_and_remove_users(set: Set) {
    let (hub, door) = hub(set).await;
    let admin = hub.user().await;
    let users = format!("{USERADM}/tenants//users");
    let add = async |body: Value| say(&door, "POST", &users, &body).await;
    // Of the user's own password.
    let hash = hub.password_hash(ADMIN_EMAIL).await;

    let password = "a long password";
    add(json!({"id": "old-7", "email": "old@example.com", "password_hash": hash})).await.expect(201);
    let new = add(json!({"email": "New@example.com", "password": password})).await.expect(201);
    assert!(new.body.is_empty());
    assert_eq!(TestUser::log_in(&hub, "old@example.com", ADMIN_PASSWORD).await.id, "old-7");
    let new = TestUser::log_in(&hub, "new@example.com", password).await;
    for (body, status) in [
        (json!({"email": "x@example.com"}), 400),
        (json!({"email": "x@example.com", "password": password, "password_hash": hash}), 400),
        (json!({"email": "x@example.com", "password_hash": "plain"}), 400),
        (
            json!({"email": "x@example.com", "password_hash": "$2a$31$wxCPLQ6bXbVfmv7gxKOXv.3d45h52dL7mAQJYCPIu3oKUMlea9qyW"}),
            400,
        ),
        (json!({"email": "no address", "password": password}), 400),
        (json!({"id": "me", "email": "x@example.com", "password": password}), 400),
        (json!({"id": "a/b", "email": "x@example.com", "password": password}), 400),
        (json!({"email": "old@example.com", "password": password}), 422),
        (json!({"id": "old-7", "email": "x@example.com", "password": password}), 422),
    ] {
        let refused = add(body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {refused}");
        refused.error();
    }
    let listed = ask(&door, "GET", &users).await.expect(200).json();
    assert_eq!(listed, admin.get("/api/management/v1/useradm/users").await.expect(200).json());
    assert_eq!(listed.as_array().unwrap().len(), 3);

    for _ in 0..2 {
        ask(&door, "DELETE", &format!("{users}/{}", new.id)).await.expect(204);
    }
    new.get("/api/management/v1/useradm/users/me").await.refuses_token();
    say(&door, "POST", &format!("{USERADM}/tenants"), &json!({"tenant_id": "x"})).await.expect(201);
    for bad in [json!({"tenant_id": ""}), json!({}), json!([])] {
        say(&door, "POST", &format!("{USERADM}/tenants"), &bad).await.expect(400).error();
    }
}

async fn a_tenant_with_a_name_is_not_here(set: Set) {
    let (_hub, door) = hub(set).await;
    let [_, internal] = hub::Hub::routes();
    let named: Vec<_> = internal.into_iter().filter(|(_, pattern)| pattern.contains("{tenant:")).collect();
    assert!(named.len() > 10, "{named:?}");
    for (method, pattern) in named {
        let path = path_of(&pattern.replace("{tenant:[^/]*}", "acme"));
        // Bodies that any of them would take.
        let body = json!({"device_id": UNKNOWN, "limit": 1, "provisioned": true, "email": "x@example.com",
                          "password": "a long password"});
        say(&door, method, &path, &body).await.expect(404).error();
    }
}

#[tokio::test]
async fn every_internal_route_asks_for_the_token_unless_it_gives_nothing_away() {
    let hub = Set::Embedded
        .hub_with(|config| {
            config.api.internal_listen = Some(([127, 0, 0, 1], 0).into());
            config.api.internal_token = Some("open-sesame".into());
        })
        .await;
    let door = hub.internal_door();
    let user = hub.user().await;
    let [_, internal] = hub::Hub::routes();
    for (method, pattern) in internal {
        let path = path_of(pattern);
        if pattern.ends_with("/alive") || pattern.ends_with("/health") {
            ask(&door, method, &path).await.expect(204);
            continue;
        }
        ask(&door, method, &path).await.refuses_token();
        if !pattern.ends_with("/verify") {
            Answer::to(door.request(method, &path).bearer_auth(&user.token)).await.refuses_token();
        }
    }
}
