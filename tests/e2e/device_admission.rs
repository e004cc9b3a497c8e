//! A device asks to join, and users decide.

use harness::{Key, LIMIT, Set, TestDevice, TestUser, both_sets, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;

both_sets!([
    a_first_request_is_refused_and_makes_a_pending_device,
    a_repeated_request_makes_nothing_new,
    every_kind_of_key_gets_a_token,
    the_order_of_identity_members_does_not_matter,
    the_signature_covers_the_bytes_as_they_were_sent,
    a_request_that_lacks_something_is_told_what_and_leaves_nothing,
    members_and_headers_that_mean_nothing_here_change_nothing,
    a_new_key_is_a_second_set_of_the_same_device,
    accepting_the_new_key_ends_the_old_one,
    rejecting_the_accepted_set_ends_access_and_accepting_it_restores_it,
    the_strongest_set_decides_the_status_of_the_device,
    a_rejected_set_can_be_pending_again,
    decisions_that_make_no_sense_are_refused,
    a_deleted_set_is_gone_and_others_are_untouched,
    the_inventory_follows_the_decisions,
    identical_first_requests_at_once_make_one_device,
    a_preauthorized_device_is_in_at_its_first_request,
    a_decommissioned_device_comes_back_as_another,
]);

const DEVICES: &str = "/api/management/v2/devauth/devices";

fn sets(device: &Value) -> &Vec<Value> {
    device["auth_sets"].as_array().unwrap()
}

fn id_of(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// The set with this key.
fn set_of(device: &Value, key: &Key) -> Value {
    let pem = key.public_pem();
    sets(device).iter().find(|set| set["pubkey"] == pem.as_str()).cloned().unwrap()
}

async fn count(user: &TestUser) -> u64 {
    user.get(&format!("{DEVICES}/count")).await.expect(200).json()["count"].as_u64().unwrap()
}

async fn a_first_request_is_refused_and_makes_a_pending_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.device();

    assert_eq!(device.ask().await.expect(401).error(), "dev auth: unauthorized");

    let [found] = user.devices().await.try_into().unwrap();
    assert_eq!(found["status"], "pending");
    assert_eq!(found["identity_data"], device.identity);
    assert_eq!(found["decommissioning"], false);
    let [auth_set] = sets(&found).as_slice() else { panic!("one set: {found}") };
    assert_eq!(auth_set["status"], "pending");
    assert_eq!(auth_set["pubkey"], device.key.public_pem());
    assert_eq!(auth_set["identity_data"], device.identity);
    for time in [&found["created_ts"], &found["updated_ts"], &auth_set["ts"]] {
        let time = time.as_str().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    }
}

async fn a_repeated_request_makes_nothing_new(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.device();
    for _ in 0..3 {
        device.ask().await.expect(401);
    }
    let found = user.devices().await;
    assert_eq!((found.len(), sets(&found[0]).len()), (1, 1));
}

async fn every_kind_of_key_gets_a_token(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for (kind, key) in [
        ("RSA 1024", Key::rsa(1024)),
        ("RSA 2048", Key::rsa(2048)),
        ("RSA 3072", Key::rsa(3072)),
        ("P-224", Key::ec("secp224r1")),
        ("P-256", Key::ec("prime256v1")),
        ("P-384", Key::ec("secp384r1")),
        ("P-521", Key::ec("secp521r1")),
        ("Ed25519", Key::ed25519()),
    ] {
        let mut device = hub.device().with_key(key);
        let refused = device.ask().await;
        assert_eq!(refused.status, 401, "{kind}: {refused}");
        assert_eq!(refused.error(), "dev auth: unauthorized", "{kind}");
        user.accept(&device.identity).await;
        device.take_token().await;
        assert!(device.has_access().await, "{kind}");
    }
}

async fn the_order_of_identity_members_does_not_matter(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.device();
    for identity in [r#"{"sn":"1","mac":"a"}"#, r#"{ "mac":"a", "sn":"1" }"#] {
        let body = json!({"id_data": identity, "pubkey": device.key.public_pem()}).to_string();
        device.sign(body.into_bytes()).send().await.expect(401);
    }
    let found = user.devices().await;
    assert_eq!((found.len(), sets(&found[0]).len()), (1, 1), "{found:?}");
    assert_eq!(found[0]["identity_data"], json!({"mac": "a", "sn": "1"}));
}

async fn the_signature_covers_the_bytes_as_they_were_sent(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.device();
    let body = String::from_utf8(device.auth_request().body).unwrap();

    // As the Go client does it: a line end at the end, signed too.
    let with_line_end = device.sign(format!("{body}\n").into_bytes()).send().await.expect(401);
    assert_eq!(with_line_end.error(), "dev auth: unauthorized");

    let spaced = body.replacen(':', ": ", 1).into_bytes();
    let stranger = device.with_key(Key::ed25519());
    for forged in [
        device.auth_request().body(spaced),
        device.auth_request().body(format!("{body}\n").into_bytes()),
        device.auth_request().signature(Some(b"nonsense")),
        device.auth_request().signature(Some(&[0; 64])),
        stranger.sign(body.into_bytes()),
    ] {
        let refused = forged.send().await.expect(401);
        assert_eq!(refused.error(), "signature verification failed");
    }
    let mut not_base64 = device.auth_request();
    not_base64.signature = Some("!!!".to_owned());
    assert_eq!(not_base64.send().await.expect(401).error(), "signature verification failed");
    assert_eq!(count(&user).await, 1, "nothing forged left a trace");
}

async fn a_request_that_lacks_something_is_told_what_and_leaves_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.device();
    let pem = device.key.public_pem();
    let x25519 = Key::file(&["X25519"]).public_pem();
    for (body, text) in [
        (json!({"pubkey": pem}).to_string(), "invalid auth request: id_data must be provided"),
        (json!({"id_data": "", "pubkey": pem}).to_string(), "invalid auth request: id_data must be provided"),
        (json!({"id_data": "{\"mac\":\"a\"}"}).to_string(), "invalid auth request: pubkey must be provided"),
        (
            json!({"id_data": "{\"mac\":\"a\"}", "pubkey": ""}).to_string(),
            "invalid auth request: pubkey must be provided",
        ),
        (
            json!({"id_data": "{\"mac\":\"a\"}", "pubkey": "garbage"}).to_string(),
            "invalid auth request: cannot decode public key",
        ),
        (
            json!({"id_data": "{\"mac\":\"a\"}", "pubkey": x25519}).to_string(),
            "invalid auth request: unrecognized public key type",
        ),
        (json!({"id_data": "[]", "pubkey": pem}).to_string(), "invalid auth request: "),
        (json!({"id_data": "null", "pubkey": pem}).to_string(), "invalid auth request: "),
        (json!({"id_data": "no JSON", "pubkey": pem}).to_string(), "invalid auth request: "),
        (json!({"id_data": {"mac": "a"}, "pubkey": pem}).to_string(), "failed to decode auth request: "),
        (
            json!({"id_data": "{\"mac\":\"a\"}", "pubkey": pem, "tenant_token": 7}).to_string(),
            "failed to decode auth request: ",
        ),
        ("no JSON".to_owned(), "failed to decode auth request: "),
        ("[]".to_owned(), "failed to decode auth request: "),
        (String::new(), "failed to decode auth request: "),
    ] {
        let refused = device.sign(body.clone().into_bytes()).send().await;
        assert_eq!(refused.status, 400, "{body}: {refused}");
        assert!(refused.error().starts_with(text), "{body}: {refused}");
    }
    let unsigned = device.auth_request().signature(None).send().await.expect(400);
    assert_eq!(unsigned.error(), "missing request signature header");
    assert_eq!(count(&user).await, 0);
}

async fn members_and_headers_that_mean_nothing_here_change_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut device = hub.device();
    device.join(&user).await;
    let plain = json!({"id_data": device.identity.to_string(), "pubkey": device.key.public_pem()});
    let with = |name: &str, value: Value| {
        let mut body = plain.clone();
        body[name] = value;
        device.sign(body.to_string().into_bytes())
    };
    for request in [
        device.auth_request().header("Authorization", "API_KEY"),
        device.auth_request().header("Authorization", "Bearer "),
        device.auth_request().header("Authorization", "Bearer some-tenant-token"),
        device.auth_request().header("Accept", "application/json"),
        with("tenant_token", json!("")),
        with("tenant_token", json!("nonsense")),
        with("tier", json!("micro")),
        with("surprise", json!({"deep": [1, 2]})),
    ] {
        assert_eq!(request.send().await.expect(200).header("content-type"), "application/jwt");
    }
    assert_eq!(count(&user).await, 1);
}

/// A device with an accepted and a pending key.
async fn with_two_keys(user: &TestUser, mut old: TestDevice) -> (TestDevice, TestDevice) {
    old.join(user).await;
    let new = old.with_key(Key::ed25519());
    new.ask().await.expect(401);
    (old, new)
}

async fn a_new_key_is_a_second_set_of_the_same_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (old, new) = with_two_keys(&user, hub.device()).await;

    let found = user.devices().await;
    assert_eq!(found.len(), 1);
    assert_eq!((id_of(&found[0]), sets(&found[0]).len()), (old.id.clone(), 2));
    assert_eq!(set_of(&found[0], &old.key)["status"], "accepted");
    assert_eq!(set_of(&found[0], &new.key)["status"], "pending");
    assert_eq!(found[0]["status"], "accepted");
    assert_eq!(count(&user).await, 1);
    assert!(old.has_access().await);
}

async fn accepting_the_new_key_ends_the_old_one(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (old, mut new) = with_two_keys(&user, hub.device()).await;
    assert!(old.has_access().await);

    assert_eq!(user.accept(&old.identity).await, old.id);

    assert!(!old.has_access().await, "at once");
    assert_eq!(set_of(&user.device(&old.id).await, &old.key)["status"], "rejected");
    old.ask().await.expect(401);
    new.take_token().await;
    assert_eq!(new.id, old.id);
    assert!(new.has_access().await);
}

async fn rejecting_the_accepted_set_ends_access_and_accepting_it_restores_it(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut device = hub.accepted_by(&user).await;
    let (id, auth_set, old_token) = (device.id.clone(), device.set(), device.token.clone());
    assert!(device.has_access().await);

    user.decide(&id, &auth_set, "rejected").await.expect(204);
    assert!(!device.has_access().await, "at once");
    device.ask().await.expect(401);
    assert_eq!(user.device(&id).await["status"], "rejected");

    user.decide(&id, &auth_set, "accepted").await.expect(204);
    device.take_token().await;
    assert_eq!((&device.id, device.set()), (&id, auth_set));
    assert!(device.has_access().await);
    device.token = old_token;
    assert!(!device.has_access().await, "the token from before stays dead, though its set is accepted again");
}

async fn the_strongest_set_decides_the_status_of_the_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let first = hub.device();
    let second = first.with_key(Key::ed25519());
    first.ask().await.expect(401);
    second.ask().await.expect(401);
    let device = user.device_with(&first.identity).await.unwrap();
    let id = id_of(&device);
    let [one, two] = [&first, &second].map(|key| id_of(&set_of(&device, &key.key)));
    let status = async || user.device(&id).await["status"].as_str().unwrap().to_owned();
    let delete = async |set: &str| user.delete(&format!("{DEVICES}/{id}/auth/{set}")).await.expect(204);

    user.decide(&id, &one, "rejected").await.expect(204);
    assert_eq!(status().await, "pending", "one of two was rejected");
    user.decide(&id, &two, "rejected").await.expect(204);
    assert_eq!(status().await, "rejected", "both were rejected");
    user.decide(&id, &one, "accepted").await.expect(204);
    assert_eq!(status().await, "accepted", "one was accepted");
    user.decide(&id, &two, "pending").await.expect(204);
    delete(&one).await;
    assert_eq!(status().await, "pending", "the accepted one was deleted, a pending one is left");
    delete(&two).await;
    assert_eq!(status().await, "noauth", "none is left");

    // It is still there, and comes back by asking.
    first.ask().await.expect(401);
    assert_eq!(status().await, "pending");
    assert_eq!(count(&user).await, 1);
}

async fn a_rejected_set_can_be_pending_again(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.device();
    device.ask().await.expect(401);
    let found = user.device_with(&device.identity).await.unwrap();
    let (id, auth_set) = (id_of(&found), id_of(&sets(&found)[0]));
    for (wanted, then) in
        [("rejected", "rejected"), ("rejected", "rejected"), ("pending", "pending"), ("pending", "pending")]
    {
        user.decide(&id, &auth_set, wanted).await.expect(204);
        assert_eq!(user.device(&id).await["status"], then);
        let asked = user.get(&format!("{DEVICES}/{id}/auth/{auth_set}/status")).await.expect(200);
        assert_eq!(asked.json(), json!({"status": then}));
    }
}

async fn decisions_that_make_no_sense_are_refused(set: Set) {
    const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let other = hub.accepted_by(&user).await;
    let path = format!("{DEVICES}/{}/auth/{}/status", device.id, device.set());

    let wrong = user.put(&path, &json!({"status": "invalid"})).await.expect(400);
    assert_eq!(wrong.error(), "incorrect device status");
    for body in [json!({}), json!({"status": 1}), json!([])] {
        let refused = user.put(&path, &body).await.expect(400);
        assert!(refused.error().starts_with("failed to decode status data"), "{refused}");
    }
    for unknown in [UNKNOWN, "malformed"] {
        let refused = user.decide(&device.id, unknown, "rejected").await.expect(404);
        assert_eq!(refused.error(), "authorization set not found");
        user.decide(unknown, &device.set(), "rejected").await.expect(404).error();
    }
    let refused = user.decide(&device.id, &other.set(), "rejected").await.expect(400);
    assert_eq!(refused.error(), "dev auth: dev ID and auth ID mismatch");
    assert_eq!(user.device(&other.id).await["status"], "accepted");

    let stranger = hub.device();
    let body = json!({"identity_data": stranger.identity, "pubkey": stranger.key.public_pem()});
    user.post(DEVICES, &body).await.expect(201);
    let found = user.device_with(&stranger.identity).await.unwrap();
    for wanted in ["accepted", "rejected", "pending"] {
        let refused = user.decide(&id_of(&found), &id_of(&sets(&found)[0]), wanted).await.expect(400);
        assert_eq!(refused.error(), "dev auth: bad request");
    }
}

async fn a_deleted_set_is_gone_and_others_are_untouched(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let other = hub.accepted_by(&user).await;
    let path = |device: &str, set: &str| format!("{DEVICES}/{device}/auth/{set}");

    user.delete(&path(&device.id, &other.set())).await.expect(404);
    assert!(other.has_access().await, "the path named another device");
    user.delete(&path(&device.id, &device.set())).await.expect(204);
    assert!(!device.has_access().await);
    let again = user.delete(&path(&device.id, &device.set())).await.expect(404);
    assert!(again.body.is_empty());
}

async fn the_inventory_follows_the_decisions(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut device = hub.device();
    device.identity = json!({"mac": device.identity["mac"], "status": "x", "flag": true, "list": ["a", "b"]});
    device.ask().await.expect(401);
    let found = user.device_with(&device.identity).await.unwrap();
    let (id, auth_set) = (id_of(&found), id_of(&sets(&found)[0]));
    let identity = async |name: &str| {
        let answer = user.get(&format!("/api/management/v1/inventory/devices/{id}")).await.expect(200).json();
        let attributes = answer["attributes"].as_array().unwrap().clone();
        attributes.into_iter().find(|found| found["scope"] == "identity" && found["name"] == name).unwrap()["value"]
            .take()
    };

    assert_eq!(identity("mac").await, device.identity["mac"]);
    assert_eq!(identity("flag").await, "true");
    assert_eq!(identity("list").await, json!(["a", "b"]));
    assert_eq!(identity("status").await, "pending", "the device's own word for it is passed over");
    for wanted in ["accepted", "rejected", "pending", "accepted"] {
        user.decide(&id, &auth_set, wanted).await.expect(204);
        assert_eq!(identity("status").await, wanted);
    }
}

async fn identical_first_requests_at_once_make_one_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.device();
    let asking = (0..20).map(|_| device.ask());
    for answer in futures_util::future::join_all(asking).await {
        answer.expect(401);
    }
    let found = user.devices().await;
    assert_eq!((found.len(), sets(&found[0]).len()), (1, 1));
}

async fn a_preauthorized_device_is_in_at_its_first_request(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut device = hub.device();
    let body = json!({"identity_data": device.identity, "pubkey": device.key.public_pem()});

    let made = user.post(DEVICES, &body).await.expect(201);
    let again = user.post(DEVICES, &body).await.expect(409);
    assert_eq!(again.json()["identity_data"], device.identity, "the answer is the device");
    device.take_token().await;

    assert_eq!(made.header("location"), format!("devices/{}", device.id));
    assert_eq!(user.device(&device.id).await["status"], "accepted");
    assert!(device.has_access().await);
}

async fn a_decommissioned_device_comes_back_as_another(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let path = format!("{DEVICES}/{}", device.id);

    user.delete(&path).await.expect(204);

    assert!(!device.has_access().await, "at once");
    wait_until(LIMIT, "the device to be gone", async || {
        let inventory = user.get(&format!("/api/management/v1/inventory/devices/{}", device.id)).await;
        (user.get(&path).await.status == 404 && inventory.status == 404).then_some(())
    })
    .await;
    assert!(user.delete(&path).await.expect(404).body.is_empty());
    device.ask().await.expect(401);
    let back = user.device_with(&device.identity).await.unwrap();
    assert_ne!(id_of(&back), device.id);
    let ids: BTreeSet<String> = user.devices().await.iter().map(id_of).collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn beyond_the_limit_of_devices_nobody_is_accepted() {
    let hub = Set::Embedded.hub_with(|config| config.actors.max_devices = Some(1)).await;
    let user = hub.user().await;
    let limit = user.get("/api/management/v2/devauth/limits/max_devices").await.expect(200);
    assert_eq!(limit.json(), json!({"limit": 1}));
    let (mut first, second, third) = (hub.device(), hub.device(), hub.device());
    first.join(&user).await;

    second.ask().await.expect(401);
    let waiting = user.device_with(&second.identity).await.expect("it has asked");
    let (Some(id), Some(set)) = (waiting["id"].as_str(), waiting["auth_sets"][0]["id"].as_str()) else {
        panic!("a device without ids: {waiting}")
    };
    let refused = user.decide(id, set, "accepted").await.expect(422);
    assert_eq!(refused.error(), "maximum number of accepted devices reached");

    let body = json!({"identity_data": third.identity, "pubkey": third.key.public_pem()});
    user.post("/api/management/v2/devauth/devices", &body).await.expect(201);
    assert_eq!(third.ask().await.expect(401).error(), "unauthorized");
}
