//! Everything that can be wrong with a request, on every route, and that nothing of it is kept.

use crate::gateway::{devices_only, users_only};
use harness::{Answer, Issuer, Set, Socket, TestDevice, TestHub, TestUser, both_sets, raw_request};
use serde_json::{Value, json};

both_sets!([
    a_body_that_is_not_what_it_should_be_is_refused_on_every_route,
    unknown_members_are_passed_over_on_every_route,
    a_token_that_is_not_good_is_refused_on_every_route,
]);

/// Who may use a route.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Anybody,
    Device,
    User,
}

/// A route that takes JSON, with a body that it accepts.
struct Route {
    role: Role,
    method: &'static str,
    path: String,
    good: Value,
    /// Status of the good body.
    status: u16,
}

const LOGIN: &str = "/api/management/v1/useradm/auth/login";
const DEVICES: &str = "/api/management/v2/devauth/devices";
const USERS: &str = "/api/management/v1/useradm/users";

const SETTINGS: &str = "/api/management/v1/useradm/settings";

struct Scene {
    hub: TestHub,
    user: TestUser,
    device: TestDevice,
    routes: Vec<Route>,
}

impl Scene {
    async fn new(set: Set, issuer: &Issuer) -> Self {
        let hub = set
            .hub_with(|config| {
                config.actors.device_key_file = Some(issuer.file());
                config.actors.user_key_file = Some(issuer.file());
            })
            .await;
        let user = hub.user().await;
        let device = hub.accepted_by(&user).await;
        let stranger = hub.device();
        let route = |role, method, path: &str, good, status| Route { role, method, path: path.into(), good, status };
        let routes = vec![
            route(Role::Device, "PUT", TestDevice::ATTRIBUTES, json!([{"name": "a", "value": "1"}]), 200),
            route(Role::Device, "PATCH", TestDevice::ATTRIBUTES, json!([{"name": "a", "value": "1"}]), 200),
            route(
                Role::User,
                "POST",
                DEVICES,
                json!({"identity_data": stranger.identity, "pubkey": stranger.key.public_pem()}),
                201,
            ),
            route(Role::User, "POST", &format!("{DEVICES}/search"), json!({"status": "accepted"}), 200),
            route(
                Role::User,
                "PUT",
                &format!("{DEVICES}/{}/auth/{}/status", device.id, device.set()),
                json!({"status": "accepted"}),
                204,
            ),
            route(Role::User, "POST", USERS, json!({"email": "new@example.com", "password": "a long password"}), 201),
            route(Role::User, "PUT", &format!("{USERS}/me"), json!({"email": harness::ADMIN_EMAIL}), 204),
            route(Role::User, "PUT", &format!("{USERS}/{}", user.id), json!({"email": harness::ADMIN_EMAIL}), 204),
            route(Role::User, "PUT", "/api/management/v2/useradm/users/me", json!({"current_password": "x"}), 204),
            route(Role::User, "POST", &format!("{SETTINGS}/tokens"), json!({"name": "ci"}), 200),
            route(Role::User, "POST", SETTINGS, json!({"a": 1}), 201),
            route(Role::User, "POST", &format!("{SETTINGS}/me"), json!({"a": 1}), 201),
            // The password comes in a header, so that this one gets as far as its body.
            route(Role::Anybody, "POST", LOGIN, json!({"no_expiry": false}), 200),
        ];
        Self { hub, user, device, routes }
    }

    /// The request with whatever its role has to show.
    fn request(&self, route: &Route) -> reqwest::RequestBuilder {
        match route.role {
            Role::Device => self.device.request(route.method, &route.path),
            Role::User => self.user.request(route.method, &route.path),
            Role::Anybody => self
                .hub
                .request(route.method, &route.path)
                .header("Authorization", TestUser::basic(harness::ADMIN_EMAIL, harness::ADMIN_PASSWORD)),
        }
    }

    /// All that is stored, as far as anybody can ask for it.
    async fn everything(&self) -> String {
        let mut all = String::new();
        for path in [format!("{DEVICES}?per_page=500"), USERS.to_owned(), "/api/management/v1/inventory/devices".into()]
        {
            let mut answer = self.user.get(&path).await.expect(200).json();
            for object in answer.as_array_mut().unwrap() {
                // These move by looking.
                for name in ["check_in_time", "login_ts", "updated_ts"] {
                    object.as_object_mut().unwrap().remove(name);
                }
                if let Some(attributes) = object["attributes"].as_array_mut() {
                    attributes.retain(|attribute| attribute["name"] != "check_in_time");
                }
            }
            all += &answer.to_string();
        }
        for path in ["", "/me", "/tokens"] {
            all += &self.user.get(&format!("{SETTINGS}{path}")).await.expect(200).text();
        }
        all
    }
}

async fn a_body_that_is_not_what_it_should_be_is_refused_on_every_route(set: Set) {
    let scene = Scene::new(set, &Issuer::new()).await;
    let before = scene.everything().await;
    for route in &scene.routes {
        let what = format!("{} {}", route.method, route.path);
        let typed = |kind: &str| scene.request(route).header("Content-Type", kind.to_owned());
        let json = || typed("application/json");
        let good = route.good.to_string();

        for bad in ["{", "{\"a\":", "nonsense", "\u{0}", "[1,", "\"text\"", "17"] {
            let refused = Answer::to(json().body(bad)).await;
            assert_eq!(refused.status, 400, "{what} with {bad:?}: {refused}");
            refused.error();
        }
        let other_kind = Answer::to(typed("text/plain").body(good.clone())).await;
        assert_eq!(other_kind.status, 415, "{what}: {other_kind}");
        assert_eq!(other_kind.error(), "Bad Content-Type, expected 'application/json'");
        for unparsable in [None, Some("json")] {
            let request = scene.request(route).body(good.clone());
            let request = match unparsable {
                Some(kind) => request.header("Content-Type", kind),
                None => request,
            };
            let refused = Answer::to(request).await;
            assert_eq!(refused.status, 400, "{what} with type {unparsable:?}: {refused}");
            assert!(refused.error().starts_with("Invalid value for Content-Type header"), "{refused}");
        }
        let head = head(&scene, route);
        announced_too_large(&scene, &head).await;
        chunked_too_large(&scene, &head).await;
    }
    a_bad_request_to_join(&scene).await;
    assert_eq!(scene.everything().await, before, "nothing was kept");
}

fn head(scene: &Scene, route: &Route) -> String {
    let authorization = match route.role {
        Role::Device => format!("Bearer {}", scene.device.token),
        Role::User => format!("Bearer {}", scene.user.token),
        Role::Anybody => TestUser::basic(harness::ADMIN_EMAIL, harness::ADMIN_PASSWORD),
    };
    format!(
        "{} {} HTTP/1.1\r\nHost: hub\r\nAuthorization: {authorization}\r\nContent-Type: application/json\r\n",
        route.method, route.path
    )
}

const TWO_MEBIBYTES: usize = 2 * 1024 * 1024;

/// Refused before a byte of it is read, so none is sent.
async fn announced_too_large(scene: &Scene, head: &str) {
    let request = format!("{head}Content-Length: {TWO_MEBIBYTES}\r\n\r\n");
    let refused = raw_request(scene.hub.address(), request.as_bytes()).await.expect(413);
    assert_eq!(refused.error(), "http: request body too large");
}

async fn chunked_too_large(scene: &Scene, head: &str) {
    let mut request = format!("{head}Transfer-Encoding: chunked\r\n\r\n{TWO_MEBIBYTES:x}\r\n").into_bytes();
    request.extend(long_text());
    request.extend(b"\r\n0\r\n\r\n");
    let refused = raw_request(scene.hub.address(), &request).await;
    assert_eq!(refused.status, 413, "{refused}");
    refused.error();
}

/// JSON as far as it goes: one very long text.
fn long_text() -> Vec<u8> {
    [&b"\""[..], &vec![b'x'; TWO_MEBIBYTES - 2], b"\""].concat()
}

/// The same for requests to join, each properly signed: it is the body alone that is wrong.
async fn a_bad_request_to_join(scene: &Scene) {
    let device = scene.hub.device();
    for bad in ["{", "{\"id_data\":", "nonsense", "[1,", "\"text\"", "17"] {
        let refused = device.sign(bad.as_bytes().to_vec()).send().await;
        assert_eq!(refused.status, 400, "joining with {bad:?}: {refused}");
        refused.error();
    }
    for (kind, status) in [(Some("text/plain"), 415), (None, 400)] {
        let mut request = device.auth_request();
        request.content_type = kind;
        let refused = request.send().await;
        assert_eq!(refused.status, status, "joining with type {kind:?}: {refused}");
        refused.error();
    }
    let signature = device.key.sign(&long_text());
    let head = format!(
        "POST /api/devices/v1/authentication/auth_requests HTTP/1.1\r\nHost: hub\r\nX-MEN-Signature: {signature}\r\n\
         Content-Type: application/json\r\n"
    );
    announced_too_large(scene, &head).await;
    chunked_too_large(scene, &head).await;
}

async fn unknown_members_are_passed_over_on_every_route(set: Set) {
    let scene = Scene::new(set, &Issuer::new()).await;
    for route in &scene.routes {
        let mut body = route.good.clone();
        let object = if body.is_array() { &mut body[0] } else { &mut body };
        object["surprise"] = json!({"deep": [1, null, {"er": true}]});
        let request = scene.request(route).header("Content-Type", "application/json; charset=UTF-8");
        let answer = Answer::to(request.body(body.to_string())).await;
        assert_eq!(answer.status, route.status, "{} {}: {answer}", route.method, route.path);
    }
}

async fn a_token_that_is_not_good_is_refused_on_every_route(set: Set) {
    let (ours, foreign) = (Issuer::new(), Issuer::new());
    let scene = Scene::new(set, &ours).await;
    let before = scene.everything().await;
    for (routes, good, other_kind) in [
        (users_only(), &scene.user.token, &scene.device.token),
        (devices_only(), &scene.device.token, &scene.user.token),
    ] {
        let expired = ours.reissue(good, |_, claims| {
            claims["exp"] = json!(claims["iat"].as_i64().unwrap() - 60);
        });
        let of_a_tenant = ours.reissue(good, |_, claims| claims["mender.tenant"] = json!("5f0e2f7a"));
        let unknown = ours.reissue(good, |_, claims| claims["jti"] = json!("3f8f5c8e-0000-4000-8000-000000000000"));
        let tampered = foreign.reissue(good, |_, claims| claims["exp"] = json!(4_000_000_000_i64));
        for (what, authorization) in [
            ("none", String::new()),
            ("expired", format!("Bearer {expired}")),
            ("foreign", format!("Bearer {}", foreign.reissue(good, |_, _| ()))),
            ("tampered", format!("Bearer {tampered}")),
            ("of a tenant", format!("Bearer {of_a_tenant}")),
            ("unknown", format!("Bearer {unknown}")),
            ("of the wrong kind", format!("Bearer {other_kind}")),
            ("empty", "Bearer ".to_owned()),
            ("two", format!("Bearer {good} {good}")),
            ("of another scheme", format!("Basic {good}")),
            ("without scheme", good.clone()),
        ] {
            for (method, path) in &routes {
                let request = scene.hub.request(method, path).json(&json!({}));
                let refused = Answer::to(request.header("Authorization", &authorization)).await;
                assert_eq!(refused.status, 401, "{what} on {method} {path}: {refused}");
                refused.refuses_token();
                if path.ends_with("/connect") {
                    let upgrade = Socket::connect(&scene.hub, path, &[("Authorization", &authorization)]).await;
                    upgrade.err().unwrap_or_else(|| panic!("{what} opened {path}")).refuses_token();
                }
            }
        }
    }
    assert_eq!(scene.everything().await, before, "nothing was done");
}
