//! Configurations come to devices as deployments, and devices say that they have them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use harness::{Answer, LIMIT, RealDevice, Set, TestDevice, TestUser, both_sets, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

use crate::device_config::{path_of, record, report};

both_sets!([
    a_deployed_configuration_is_a_deployment_at_once,
    a_configuration_goes_to_its_device_alone_and_comes_back_as_reported,
    an_empty_configuration_is_brought_as_an_object,
    a_link_to_a_configuration_opens_one_thing_for_a_while,
    a_connected_device_is_told_to_look,
    a_newer_configuration_takes_the_place_of_one_that_nobody_was_told_of,
    other_services_deploy_configurations,
    a_real_device_installs_its_configuration_and_reports_it,
]);

const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";
const DEPLOYMENTS: &str = "/api/management/v1/deployments/deployments";

async fn try_deploy(user: &TestUser, device: &str, body: &Value) -> Answer {
    user.post(&format!("{}/deploy", path_of(device)), body).await
}

/// Sets and deploys; the deployment's id.
async fn deploy(user: &TestUser, device: &str, configuration: &Value) -> String {
    user.put(&path_of(device), configuration).await.expect(204);
    let answer = try_deploy(user, device, &json!({"retries": 0})).await.expect(200).json();
    answer["deployment_id"].as_str().unwrap().to_owned()
}

async fn deployment(user: &TestUser, id: &str) -> Value {
    user.get(&format!("{DEPLOYMENTS}/{id}")).await.expect(200).json()
}

async fn poll_as(device: &TestDevice, device_type: &str) -> Answer {
    let path = "/api/devices/v1/deployments/device/deployments/next";
    let query = [("artifact_name", "base-1"), ("device_type", device_type)];
    Answer::to(device.request("GET", path).query(&query)).await
}

/// The link that a device is given for its configuration.
async fn link(device: &TestDevice, device_type: &str) -> String {
    let offer = poll_as(device, device_type).await.expect(200).json();
    offer["artifact"]["source"]["uri"].as_str().unwrap().to_owned()
}

/// Follows a link as devices do, without a token.
async fn fetch(link: &str) -> Answer {
    Answer::to(reqwest::Client::new().get(link)).await
}

async fn say(device: &TestDevice, deployment: &str, status: &str) -> Answer {
    let path = format!("/api/devices/v1/deployments/device/deployments/{deployment}/status");
    Answer::to(device.request("PUT", &path).json(&json!({"status": status}))).await
}

/// Whether the artifact, which is not packed, has this text in it.
fn holds(artifact: &Answer, text: &str) -> bool {
    artifact.body.windows(text.len()).any(|part| part == text.as_bytes())
}

async fn a_deployed_configuration_is_a_deployment_at_once(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    user.put(&path_of(&device.id), &json!({"password": "hunter2", "name": "æøåæ", "a": ""})).await.expect(204);
    let before = record(&user, &device.id).await;

    let map = json!({"states": {"ArtifactInstall_Enter": {"action": "pause"}}});
    let answer = try_deploy(&user, &device.id, &json!({"retries": 3, "update_control_map": map})).await.expect(200);
    let id = answer.json()["deployment_id"].as_str().unwrap().to_owned();
    assert_ne!(id, "00000000-0000-0000-0000-000000000000");
    let made = deployment(&user, &id).await;
    assert_eq!(
        (&made["type"], &made["status"], &made["retries"]),
        (&json!("configuration"), &json!("pending"), &json!(3))
    );
    let name = json!(format!("configuration-{id}"));
    assert_eq!((&made["name"], &made["artifact_name"], &made["max_devices"]), (&name, &name, &json!(1)));
    assert_eq!(made["statistics"]["status"]["pending"], 1);
    let shown = BASE64_STANDARD.decode(made["configuration"].as_str().unwrap()).unwrap();
    let masked = json!({"password": "hun...<omitted>", "name": "æøå...<omitted>", "a": "...<omitted>"});
    assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap(), masked);

    // A web UI takes a deployment for the last change if it was made after it, as texts.
    let after = record(&user, &device.id).await;
    assert_eq!((&after["deployment_id"], &after["updated_ts"]), (&json!(id), &before["updated_ts"]));
    assert!(made["created"].as_str() > after["updated_ts"].as_str(), "{made} {after}");
    let log = user.get(&format!("/api/management/v1/mooring/auditlog?object={}&action=POST", device.id)).await;
    assert_eq!(log.json()[0]["details"]["deployment_id"], id);

    for (target, body, status) in [
        (&*device.id, json!([]), 400),
        (&device.id, json!({"retries": "many"}), 400),
        (&device.id, json!({"retries": 101}), 400),
        (&device.id, json!({"update_control_map": 1}), 400),
        (UNKNOWN, json!({"retries": 0}), 404),
        (UNKNOWN, json!([]), 404),
        ("nonsense", json!({}), 404),
    ] {
        try_deploy(&user, target, &body).await.expect(status).error();
    }
    let bare = |id: &str| user.request("POST", &format!("{}/deploy", path_of(id)));
    Answer::to(bare(&device.id)).await.expect(400).error();
    Answer::to(bare(UNKNOWN)).await.expect(404).error();
    assert_eq!(record(&user, &device.id).await, after);
}

async fn a_configuration_goes_to_its_device_alone_and_comes_back_as_reported(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let wanted = json!({"lamp": "on", "quote": "\"\u{e9}\""});
    let id = deploy(&user, &device.id, &wanted).await;
    // What is wanted later is for a later deployment.
    user.put(&path_of(&device.id), &json!({"lamp": "off"})).await.expect(204);

    poll_as(&other, "rpi4").await.expect(204);
    let offer = poll_as(&device, "rpi4").await.expect(200).json();
    assert_eq!(offer["id"], id.as_str());
    let artifact = &offer["artifact"];
    assert_eq!(artifact["artifact_name"], format!("configuration-{id}"));
    assert_eq!(
        (&artifact["device_types_compatible"], &artifact["id"]),
        (&json!(["rpi4"]), &json!(format!("{id}{}", device.id)))
    );
    let link = artifact["source"]["uri"].as_str().unwrap();
    let fetched = fetch(link).await.expect(200);
    assert_eq!(fetched.header("content-type"), "application/vnd.mender-artifact");
    assert_eq!(fetched.header("content-length"), fetched.body.len().to_string());
    assert_eq!(fetched.header("content-disposition"), "attachment; filename=\"artifact.mender\"");
    for part in [r#"{"type":"mender-configure""#, &wanted.to_string(), r#""device_type":["rpi4"]"#] {
        assert!(holds(&fetched, part), "{part} is not in {}", fetched.text());
    }

    for status in ["downloading", "installing", "success"] {
        say(&device, &id, status).await.expect(204);
    }
    assert_eq!(deployment(&user, &id).await["status"], "finished");
    report(&device, &wanted).await.expect(204);
    let record = record(&user, &device.id).await;
    assert_eq!((&record["reported"], &record["configured"]), (&wanted, &json!({"lamp": "off"})));
    assert!(record["reported_ts"].is_string());
    poll_as(&device, "rpi4").await.expect(204);
}

async fn an_empty_configuration_is_brought_as_an_object(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let id = deploy(&user, &device.id, &json!({})).await;
    let fetched = fetch(&link(&device, "rpi4").await).await.expect(200);
    assert!(holds(&fetched, "headers/0000/meta-data") && holds(&fetched, "{}"), "{}", fetched.text());
    say(&device, &id, "success").await.expect(204);
    // What older servers brought was stored, and is reported, as this.
    report(&device, &Value::Null).await.expect(204);
    assert_eq!(record(&user, &device.id).await["reported"], json!({}));
    assert_eq!(deployment(&user, &id).await["statistics"]["status"]["success"], 1);
}

async fn a_link_to_a_configuration_opens_one_thing_for_a_while(set: Set) {
    let lifetime = Duration::from_secs(3);
    let hub = set.hub_with(|config| config.actors.artifacts.configuration_link = lifetime).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let id = deploy(&user, &device.id, &json!({"lamp": "on"})).await;
    // A type that has to be escaped, so that what is signed is not what is sent.
    let strange = "my board/2 é%";
    let link = link(&device, strange).await;
    let whole = fetch(&link).await.expect(200);
    assert!(holds(&whole, &json!([strange]).to_string()), "{}", whole.text());
    assert_eq!(fetch(&link).await.expect(200).body, whole.body);
    let resumed =
        Answer::to(reqwest::Client::new().get(&link).header("Range", format!("bytes=512-{}", whole.body.len() - 1)));
    let resumed = resumed.await.expect(206);
    assert_eq!(resumed.body, whole.body.slice(512..));
    let length = whole.body.len();
    assert_eq!(resumed.header("content-range"), format!("bytes 512-{}/{length}", length - 1));
    let beyond = Answer::to(reqwest::Client::new().get(&link).header("Range", format!("bytes={length}-"))).await;
    assert_eq!(beyond.expect(416).header("content-range"), format!("bytes */{length}"));
    assert!(Answer::to(reqwest::Client::new().head(&link)).await.expect(200).body.is_empty());

    let (path, query) = link.split_once('?').unwrap();
    let (expire, signature) = query.split_once('&').unwrap();
    for (wrong, status) in [
        (format!("{path}?{expire}"), 400),
        (format!("{path}?{signature}"), 400),
        (path.to_owned(), 400),
        (format!("{path}?x-men-expire=soon&{signature}"), 400),
        (link.replace("x-men-expire=2", "x-men-expire=3"), 403),
        (flipped(&link), 403),
        (link.replace("my%20board", "your%20board"), 403),
        (link.replace(&device.id, UNKNOWN), 403),
        (link.replace(&id, UNKNOWN), 403),
        (format!("{link}&tenant_id=acme"), 403),
    ] {
        assert_ne!(wrong, link);
        fetch(&wrong).await.expect(status).error();
    }
    wait_until(LIMIT, "the link to run out", async || (fetch(&link).await.status == 403).then_some(())).await;
    assert_eq!(fetch(&link).await.error(), "URL expired");
    // Asking again gives another.
    let another = self::link(&device, strange).await;
    assert_eq!(fetch(&another).await.expect(200).body, whole.body);
}

/// The link with another signature of the same length.
fn flipped(link: &str) -> String {
    let (rest, signature) = link.split_once("x-men-signature=").unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{rest}x-men-signature={first}{}", &signature[1..])
}

async fn a_connected_device_is_told_to_look(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    user.put(&path_of(&device.id), &json!({"lamp": "on"})).await.expect(204);
    // Writing it does not touch the device.
    socket.hears_nothing().await;
    try_deploy(&user, &device.id, &json!({})).await.expect(200);
    let heard = socket.hear().await;
    assert!(heard.is(4, "check-update") && heard.text("user_id") == Some(user.id.as_str()), "{heard:?}");
    poll_as(&device, "rpi4").await.expect(200);
}

async fn a_newer_configuration_takes_the_place_of_one_that_nobody_was_told_of(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let first = deploy(&user, &device.id, &json!({"lamp": "on"})).await;
    let second = deploy(&user, &device.id, &json!({"lamp": "off"})).await;
    assert_eq!(deployment(&user, &first).await["status"], "finished");
    assert_eq!(poll_as(&device, "rpi4").await.expect(200).json()["id"], second.as_str());
    // This one it is at.
    let third = deploy(&user, &device.id, &json!({"lamp": "dim"})).await;
    assert_eq!(deployment(&user, &second).await["status"], "pending");
    say(&device, &second, "success").await.expect(204);
    assert_eq!(poll_as(&device, "rpi4").await.expect(200).json()["id"], third.as_str());
}

async fn other_services_deploy_configurations(set: Set) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let (user, door) = (hub.user().await, hub.internal_door());
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let bring = async |deployment: &str, device: &str, body: &Value| {
        let base = "/api/internal/v1/deployments/tenants//configuration/deployments";
        Answer::to(door.request("POST", &format!("{base}/{deployment}/devices/{device}")).json(body)).await
    };
    let id = "3f8f5c8e-0000-4000-8000-0000000000aa";
    let body = json!({"name": "by hand", "configuration": {"lamp": {"brightness": 7}}, "retries": 0});
    let made = bring(id, &device.id, &body).await.expect(201);
    assert_eq!(made.header("location"), format!("./deployments/{id}"));
    bring(id, &device.id, &body).await.expect(409).error();
    let text = json!({"name": "by hand", "configuration": "{\"lamp\":\"on\"}"});
    for (id, body) in [
        ("nonsense", &body),
        (UNKNOWN, &json!({"configuration": {}})),
        (UNKNOWN, &json!({"name": "", "configuration": {}})),
        (UNKNOWN, &json!({"name": "x".repeat(2001), "configuration": {}})),
        (UNKNOWN, &json!({"name": "a"})),
        (UNKNOWN, &json!({"name": "a", "configuration": 7})),
        (UNKNOWN, &json!({"name": "a", "configuration": "seven"})),
        (UNKNOWN, &json!({"name": "a", "configuration": "[]"})),
        (UNKNOWN, &json!([])),
    ] {
        bring(id, &device.id, body).await.expect(400).error();
    }
    poll_as(&other, "rpi4").await.expect(204);
    let offer = poll_as(&device, "rpi4").await.expect(200).json();
    assert_eq!((&offer["id"], &offer["artifact"]["artifact_name"]), (&json!(id), &json!("by hand")));
    let fetched = fetch(offer["artifact"]["source"]["uri"].as_str().unwrap()).await.expect(200);
    assert!(holds(&fetched, r#"{"lamp":{"brightness":7}}"#), "{}", fetched.text());
    // There is nothing to show of values that are no texts.
    assert_eq!(deployment(&user, id).await.get("configuration"), None);
    say(&device, id, "success").await.expect(204);

    bring(UNKNOWN, &device.id, &text).await.expect(201);
    let fetched = fetch(&link(&device, "rpi4").await).await.expect(200);
    assert!(holds(&fetched, r#"{"lamp":"on"}"#), "{}", fetched.text());
    say(&device, UNKNOWN, "success").await.expect(204);

    user.put(&path_of(&device.id), &json!({"lamp": "off"})).await.expect(204);
    let path = format!("/api/internal/v1/deviceconfig/tenants//configurations/device/{}/deploy", device.id);
    let deployed = Answer::to(door.request("POST", &path).json(&json!({"retries": 0}))).await.expect(200).json();
    assert_eq!(poll_as(&device, "rpi4").await.expect(200).json()["id"], deployed["deployment_id"]);
    let elsewhere = path.replace("tenants//", "tenants/acme/");
    Answer::to(door.request("POST", &elsewhere).json(&json!({}))).await.expect(404).error();
}

async fn a_real_device_installs_its_configuration_and_reports_it(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    for wanted in [json!({"timezone": "Europe/Oslo", "quote": "\"'\u{e9}\n"}), json!({"lamp": "on"}), json!({})] {
        let deployment_id = deploy(&user, &id, &wanted).await;
        // It does not wait for its next time to ask: the hub has told it to look.
        wait_until(LIMIT * 2, "a real device to install its configuration", async || {
            let deployment = deployment(&user, &deployment_id).await;
            let failed = deployment["statistics"]["status"]["failure"] != 0;
            assert!(!failed, "{deployment}\n{}", device.client_log());
            (deployment["status"] == "finished").then_some(())
        })
        .await;
        assert_eq!(device.configuration(), Some(wanted.clone()));
        assert_eq!(deployment(&user, &deployment_id).await["statistics"]["status"]["success"], 1);
        wait_until(LIMIT * 2, "a real device to report its configuration", async || {
            let record = record(&user, &id).await;
            (record["reported"] == wanted && record["reported_ts"].is_string()).then_some(())
        })
        .await;
    }
}
