//! The requests of clients that are not on this machine, as they send them: device clients from 3.4 to 5.1 from their first
//! request to their removal, and the web UI of two generations.

use harness::{ARTIFACTS, Answer, ArtifactRecipe, Key, Set, TestDevice, TestHub, TestUser, both_sets, part};
use serde_json::{Value, json};

both_sets!([
    device_clients_of_every_generation_live_their_whole_life,
    the_newest_updater_completes_an_update,
    the_newest_cli_lists_and_downloads_artifacts,
    a_web_ui_starts_and_keeps_its_settings,
    the_web_ui_of_4_1_shows_its_accept_buttons,
]);

const DEVICES: &str = "/api/management/v2/devauth/devices";
const USERADM: &str = "/api/management/v1/useradm";

/// How one kind of client asks to join.
struct Client {
    name: &'static str,
    key: fn() -> Key,
    authorization: &'static str,
    /// What its body has beside identity and key.
    more: Value,
    /// The Go client ends its body with a line end, and signs that too.
    ending: &'static str,
}

fn clients() -> [Client; 4] {
    [
        Client {
            name: "mender-auth 5.1",
            key: Key::ed25519,
            authorization: "API_KEY",
            more: json!({"tier": "standard"}),
            ending: "",
        },
        Client {
            name: "mender-auth 4.0",
            key: || Key::rsa(3072),
            authorization: "API_KEY",
            more: json!({"tenant_token": "left-over-from-another-server"}),
            ending: "",
        },
        Client {
            name: "mender-client 3.4",
            key: || Key::rsa(3072),
            authorization: "Bearer ",
            more: json!({"tenant_token": ""}),
            ending: "\n",
        },
        Client {
            name: "a microcontroller",
            key: || Key::ec("prime256v1"),
            authorization: "API_KEY",
            more: json!({"tier": "micro"}),
            ending: "",
        },
    ]
}

impl Client {
    async fn ask(&self, device: &TestDevice) -> Answer {
        let mut body = json!({"id_data": device.identity.to_string(), "pubkey": device.key.public_pem()});
        for (name, value) in self.more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let request = device.sign(format!("{body}{}", self.ending).into_bytes());
        request.header("Accept", "application/json").header("Authorization", self.authorization).send().await
    }

    async fn is_refused(&self, device: &TestDevice) {
        let refused = self.ask(device).await;
        assert_eq!(refused.status, 401, "{}: {refused}", self.name);
        assert_eq!(refused.error(), "dev auth: unauthorized", "{}", self.name);
    }

    /// Takes the whole body for the token, as they all do.
    async fn takes_token(&self, device: &mut TestDevice) {
        let answer = self.ask(device).await;
        assert_eq!(answer.status, 200, "{}: {answer}", self.name);
        assert_eq!(answer.header("content-type"), "application/jwt", "{}", self.name);
        device.token = answer.text();
        harness::claims(&device.token)["sub"].as_str().unwrap().clone_into(&mut device.id);
    }

    /// Whether its polls for updates and its reports are let through; a 401 is what makes it ask for another token.
    async fn gets_through(&self, device: &TestDevice) -> bool {
        let poll = device.request("POST", "/api/devices/v2/deployments/device/deployments/next");
        let body = json!({"device_provides": {"device_type": "qemu", "artifact_name": "a-1"}});
        let poll = Answer::to(poll.json(&body)).await;
        let reported = device.has_access().await;
        assert_eq!(poll.status != 401, reported, "{}: {poll}", self.name);
        reported
    }
}

/// The table row of a device as the web UI gets it: from the list of a status, then by id.
async fn row(user: &TestUser, status: &str, identity: &Value) -> Value {
    let listed = user.get(&format!("{DEVICES}?status={status}&page=1&per_page=50")).await.expect(200).json();
    let found = listed.as_array().unwrap().iter().find(|device| device["identity_data"] == *identity);
    let id = found.unwrap_or_else(|| panic!("no {status} device {identity}: {listed}"))["id"].as_str().unwrap();
    let by_id = user.get(&format!("{DEVICES}?id={id}")).await.expect(200).json();
    assert_eq!(by_id[0]["id"], id);
    by_id[0].clone()
}

/// Clicks on the button of the set with this status.
async fn decide(user: &TestUser, row: &Value, of: &str, status: &str) {
    let sets = row["auth_sets"].as_array().unwrap();
    let auth_set = sets.iter().find(|set| set["status"] == of).unwrap_or_else(|| panic!("no {of} set: {row}"));
    user.decide(row["id"].as_str().unwrap(), auth_set["id"].as_str().unwrap(), status).await.expect(204);
}

async fn device_clients_of_every_generation_live_their_whole_life(set: Set) {
    let hub = set.hub().await;
    let user = ui_logs_in(&hub, &json!({})).await;
    for client in clients() {
        let mut device = hub.device().with_key((client.key)());
        // Repeated keys of an identity script become arrays.
        let mac = device.identity["mac"].clone();
        device.identity = json!({"mac": [mac, "second"], "sn": "1"});
        let identity = device.identity.clone();

        client.is_refused(&device).await;
        client.is_refused(&device).await;
        let pending = row(&user, "pending", &identity).await;
        decide(&user, &pending, "pending", "accepted").await;
        client.takes_token(&mut device).await;
        assert_eq!(device.id, pending["id"].as_str().unwrap());
        assert!(client.gets_through(&device).await, "{}", client.name);

        decide(&user, &row(&user, "accepted", &identity).await, "accepted", "rejected").await;
        assert!(!client.gets_through(&device).await, "{}", client.name);
        client.is_refused(&device).await;
        decide(&user, &row(&user, "rejected", &identity).await, "rejected", "accepted").await;
        client.takes_token(&mut device).await;
        assert!(client.gets_through(&device).await, "{}", client.name);

        let mut rotated = device.with_key((client.key)());
        client.is_refused(&rotated).await;
        assert!(client.gets_through(&device).await, "{}: the old key works until then", client.name);
        decide(&user, &row(&user, "accepted", &identity).await, "pending", "accepted").await;
        assert!(!client.gets_through(&device).await, "{}", client.name);
        client.is_refused(&device).await;
        client.takes_token(&mut rotated).await;
        assert_eq!(rotated.id, device.id);
        assert!(client.gets_through(&rotated).await, "{}", client.name);

        user.delete(&format!("{DEVICES}/{}", device.id)).await.expect(204);
        assert!(!client.gets_through(&rotated).await, "{}", client.name);
        client.is_refused(&rotated).await;
        assert_ne!(row(&user, "pending", &identity).await["id"], device.id.as_str(), "{}", client.name);
    }
}

/// A request of `mender-update`: on a connection of its own, with what its library sends.
async fn updater_asks(device: &TestDevice, method: &str, path: &str, body: &Value) -> Answer {
    let request = device.request(method, &format!("/api/devices/{path}"));
    let request = request.header("Accept", "application/json").header("User-Agent", "Mender/5.1.0");
    Answer::to(request.header("Connection", "close").json(body)).await
}

async fn the_newest_updater_completes_an_update(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let [newest, ..] = clients();
    let mut device = hub.accepted_by(&user).await;
    let content: Vec<u8> =
        (0..200_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let file = ArtifactRecipe::module("app-2.1", "rpi4").with_content(content).make();
    user.has_uploaded(&file).await;
    let next = "v2/deployments/device/deployments/next";
    // Before its first installation it does not know what it runs.
    let asks = json!({"device_provides": {"artifact_name": "unknown", "device_type": "rpi4"}});
    updater_asks(&device, "POST", next, &asks).await.expect(204);
    let id = user.has_deployed("app-2.1", &[&device.id]).await;

    let offer = updater_asks(&device, "POST", next, &asks).await.expect(200).json();

    assert_eq!(offer["id"], id.as_str());
    assert_eq!(offer["artifact"]["artifact_name"], "app-2.1");
    assert_eq!(offer["artifact"]["device_types_compatible"], json!(["rpi4"]));
    let status = format!("v1/deployments/device/deployments/{id}/status");
    let says = async |device: &TestDevice, word: &str| {
        updater_asks(device, "PUT", &status, &json!({"status": word})).await.expect(204);
    };
    says(&device, "downloading").await;
    // Straight from where the link leads, without a token; the rest of it after a loss.
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let uri = offer["artifact"]["source"]["uri"].as_str().unwrap();
    let (length, half) = (file.len(), file.len() / 2);
    let whole = Answer::to(http.get(uri)).await.expect(200);
    assert_eq!(whole.header("content-length"), length.to_string());
    let rest = Answer::to(http.get(uri).header("Range", format!("bytes={half}-{}", length - 1))).await.expect(206);
    assert_eq!(rest.header("content-range"), format!("bytes {half}-{}/{length}", length - 1));
    assert!(whole.body == file && rest.body == whole.body.slice(half..));
    says(&device, "installing").await;
    newest.takes_token(&mut device).await;
    says(&device, "installing").await;
    says(&device, "success").await;
    let asks = json!({"device_provides": {
        "artifact_name": "app-2.1", "device_type": "rpi4", "rootfs-image.demo.version": "app-2.1",
    }});
    updater_asks(&device, "POST", next, &asks).await.expect(204);
    assert_eq!(user.counts(&id).await, json!({"success": 1}));
    // Older ones take exactly 404 for a server without this version; anything else has to be the whole of it.
    updater_asks(&device, "POST", next, &json!({"device_provides": {"device_type": "rpi4"}})).await.expect(400).error();
}

async fn the_newest_cli_lists_and_downloads_artifacts(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let file = ArtifactRecipe::module("app-2.1", "rpi4").make();
    let id = user.has_uploaded(&file).await;
    let listed = user.get(&format!("{ARTIFACTS}/list?page=1&per_page=20")).await.expect(200).json();
    assert_eq!(listed[0]["id"], id.as_str());
    // An object would stop it; a list is what it reads.
    assert!(listed[0]["updates"][0]["meta_data"].is_array());
    let link = user.get(&format!("{ARTIFACTS}/{id}/download")).await.expect(200).json();
    assert_eq!(link["method"], "GET");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let fetched = Answer::to(http.get(link["uri"].as_str().unwrap())).await.expect(200);
    assert!(fetched.body == file);
    assert!(fetched.header("content-disposition").contains("app-2.1.mender"), "{fetched}");
}

/// The login page: a token only if the answer is exactly what the UI compares with.
async fn ui_logs_in(hub: &TestHub, body: &Value) -> TestUser {
    let request = hub
        .request("POST", &format!("{USERADM}/auth/login"))
        .header("Authorization", TestUser::basic(harness::ADMIN_EMAIL, harness::ADMIN_PASSWORD))
        .header("Accept", "application/json, text/plain, */*")
        .header("Content-Type", "application/json");
    let answer = Answer::to(request.body(body.to_string())).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/jwt");
    let token = answer.text();
    assert_eq!(part(&token, 0)["typ"], "JWT");
    TestUser::with_token(hub, &token)
}

/// What the UI does with its settings: reads, merges, and writes back under the tag it got.
async fn ui_keeps_settings(user: &TestUser, path: &str, member: Value) {
    let read = user.get(path).await.expect(200);
    let mut settings = read.json();
    settings["column_selection"] = member.clone();
    let mut request = user.request("POST", path).json(&settings);
    if !read.header("etag").is_empty() {
        request = request.header("If-Match", read.header("etag"));
    }
    Answer::to(request).await.expect(201);
    assert_eq!(user.get(path).await.expect(200).json()["column_selection"], member);
}

async fn a_web_ui_starts_and_keeps_its_settings(set: Set) {
    let hub = set.hub().await;
    for body in [json!({}), json!({"no_expiry": true})] {
        let user = ui_logs_in(&hub, &body).await;
        let me = user.get(&format!("{USERADM}/users/me")).await.expect(200).json();
        assert_eq!(me["id"], user.id.as_str());
        // Any 2xx would make it another edition, and a 401 would log its user out.
        user.get("/api/management/v2/tenantadm/tenants/me?tiers=true").await.expect(404).error();
        for path in ["/settings/me", "/settings"] {
            let path = format!("{USERADM}{path}");
            ui_keeps_settings(&user, &path, json!([{"key": "mac"}])).await;
            ui_keeps_settings(&user, &path, json!([])).await;
        }
        for status in ["pending", "accepted", "rejected", "preauthorized"] {
            user.get(&format!("{DEVICES}/count?status={status}")).await.expect(200);
        }
        user.get(&format!("{USERADM}/users")).await.expect(200);
        user.get(&format!("{USERADM}/settings/tokens")).await.expect(200);
        Answer::to(user.request("POST", &format!("{USERADM}/auth/logout"))).await.expect(202);
        user.get(&format!("{USERADM}/users/me")).await.refuses_token();
    }
}

/// Whether that UI shows its Accept buttons.
fn may_accept(limit: i64, accepted: i64) -> bool {
    limit == 0 || limit > accepted
}

async fn the_web_ui_of_4_1_shows_its_accept_buttons(set: Set) {
    for (reported_as, shown) in [(0, true), (-1, false)] {
        let hub = set.hub_with(|config| config.api.unlimited_reported_as = reported_as).await;
        let user = ui_logs_in(&hub, &json!({"no_expiry": true})).await;
        hub.accepted_by(&user).await;

        // A failure of this one stops its start; those of the others it takes for another edition's.
        let limit = user.get("/api/management/v2/devauth/limits/max_devices").await.expect(200).json();
        for path in ["/api/management/v2/useradm/roles", "/api/management/v2/useradm/permission_sets"] {
            user.get(path).await.expect(404).error();
        }
        user.get("/api/management/v1/tenantadm/user/tenant").await.expect(404).error();
        assert_eq!(limit, json!({"limit": reported_as}));
        assert_eq!(may_accept(limit["limit"].as_i64().unwrap(), 1), shown);

        // However it is told, any number may be accepted.
        hub.accepted_by(&user).await;
        let script = hub.get("/ui/env.js").await.expect(200).text();
        assert_eq!(script.contains("\"menderVersion\":\"4.1.0\""), reported_as == 0, "{script}");
    }
}
