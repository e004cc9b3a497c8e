//! Users say what devices are to be, and devices what they are.

use harness::{ADMIN_EMAIL, ADMIN_PASSWORD, Answer, Mooring, Set, TestDevice, TestUser, both_sets};
use serde_json::{Value, json};

both_sets!([
    every_known_device_has_a_configuration,
    what_is_wanted_goes_to_the_device_and_what_it_reports_to_the_user,
    a_configuration_against_the_rules_changes_nothing,
    values_are_in_no_log,
    a_decommissioned_device_leaves_no_configuration,
    other_services_change_and_empty_configurations,
    the_command_shows_and_changes_what_a_device_is_told_to_be,
]);

pub const CONFIGURATION: &str = "/api/devices/v1/deviceconfig/configuration";
const INTERNAL: &str = "/api/internal/v1/deviceconfig/tenants//";
const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

pub fn path_of(device: &str) -> String {
    format!("/api/management/v1/deviceconfig/configurations/device/{device}")
}

async fn told(device: &TestDevice) -> Value {
    let answer = Answer::to(device.request("GET", CONFIGURATION)).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    answer.json()
}

pub async fn report(device: &TestDevice, configuration: &Value) -> Answer {
    Answer::to(device.request("PUT", CONFIGURATION).json(configuration)).await
}

pub async fn record(user: &TestUser, device: &str) -> Value {
    user.get(&path_of(device)).await.expect(200).json()
}

async fn every_known_device_has_a_configuration(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    assert_eq!(told(&device).await, json!({}));
    let record = record(&user, &device.id).await;
    assert_eq!((&record["configured"], &record["reported"]), (&json!({}), &json!({})));
    assert_eq!(record["id"], json!(device.id));
    let updated = record["updated_ts"].as_str().unwrap();
    assert_eq!((updated.len(), updated.ends_with('Z')), (24, true), "{updated}");
    // Members without a value are not there.
    assert_eq!(record.as_object().unwrap().len(), 4, "{record}");

    // Nobody has decided about this one yet.
    let pending = TestDevice::new(hub.door());
    pending.ask().await.expect(401);
    let id = user.device_with(&pending.identity).await.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(user.get(&path_of(&id)).await.expect(200).json()["configured"], json!({}));

    for unknown in [UNKNOWN, "nonsense"] {
        user.get(&path_of(unknown)).await.expect(404).error();
        user.put(&path_of(unknown), &json!({"a": "b"})).await.expect(404).error();
        user.get(&path_of(unknown)).await.expect(404).error();
    }
    for method in ["GET", "PUT"] {
        Answer::to(user.request(method, CONFIGURATION).json(&json!({}))).await.refuses_token();
        Answer::to(device.request(method, &path_of(&device.id)).json(&json!({}))).await.refuses_token();
        Answer::to(hub.request(method, CONFIGURATION)).await.refuses_token();
    }
    Answer::to(user.request("DELETE", &path_of(&device.id))).await.expect(405).error();
}

async fn what_is_wanted_goes_to_the_device_and_what_it_reports_to_the_user(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let before = record(&user, &device.id).await["updated_ts"].clone();
    let wanted = json!({"timezone": "Europe/Oslo", "lamp": "", "na\u{ef}ve \"key\"": "\u{0}\n\u{1f600}"});
    assert!(user.put(&path_of(&device.id), &wanted).await.expect(204).body.is_empty());
    assert_eq!(told(&device).await, wanted);
    let written = record(&user, &device.id).await;
    assert_eq!((&written["configured"], &written["reported"]), (&wanted, &json!({})));
    assert!(written["updated_ts"].as_str() >= before.as_str(), "{written}");
    assert_eq!(told(&other).await, json!({}));

    assert!(report(&device, &wanted).await.expect(204).body.is_empty());
    let reported = record(&user, &device.id).await;
    assert_eq!((&reported["configured"], &reported["reported"]), (&wanted, &wanted));
    // What a device says does not change when it was told.
    assert_eq!(reported["updated_ts"], written["updated_ts"]);
    assert_eq!(reported["reported_ts"].as_str().unwrap().len(), 24);

    // The whole of it each time, and `null` is how a device says that it has nothing.
    user.put(&path_of(&device.id), &json!({"lamp": "on"})).await.expect(204);
    assert_eq!(told(&device).await, json!({"lamp": "on"}));
    report(&device, &Value::Null).await.expect(204);
    let emptied = record(&user, &device.id).await;
    assert_eq!((&emptied["configured"], &emptied["reported"]), (&json!({"lamp": "on"}), &json!({})));
    assert!(emptied["reported_ts"].as_str() >= reported["reported_ts"].as_str(), "{emptied}");
    user.put(&path_of(&device.id), &json!({})).await.expect(204);
    assert_eq!(told(&device).await, json!({}));
}

async fn a_configuration_against_the_rules_changes_nothing(set: Set) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let (user, door) = (hub.user().await, hub.internal_door());
    let device = hub.accepted_by(&user).await;
    let keys = |count: usize| Value::Object((0..count).map(|key| (key.to_string(), json!("v"))).collect());
    let (most, longest) = (keys(100), "x".repeat(4096));
    user.put(&path_of(&device.id), &most).await.expect(204);
    report(&device, &most).await.expect(204);
    let before = record(&user, &device.id).await;

    let merge = format!("{INTERNAL}configurations/device/{}", device.id);
    for wrong in [
        json!({"a": 1}),
        json!({"a": null}),
        json!({"a": true}),
        json!({"a": {"b": "c"}}),
        json!({"a": ["b"]}),
        json!({"": "empty"}),
        json!({"a": format!("{longest}x")}),
        json!({format!("{longest}x"): "a"}),
        keys(101),
        json!([]),
        json!("a"),
        json!(7),
    ] {
        user.put(&path_of(&device.id), &wrong).await.expect(400).error();
        report(&device, &wrong).await.expect(400).error();
        Answer::to(door.request("PATCH", &merge).json(&wrong)).await.expect(400).error();
    }
    Answer::to(user.request("PUT", &path_of(&device.id))).await.expect(400).error();
    Answer::to(device.request("PUT", CONFIGURATION).header("Content-Type", "application/json").body("{"))
        .await
        .expect(400)
        .error();
    // One more beside the hundred that are there.
    Answer::to(door.request("PATCH", &merge).json(&json!({"one more": "v"}))).await.expect(400).error();
    assert_eq!(record(&user, &device.id).await, before);

    user.put(&path_of(&device.id), &json!({longest.as_str(): longest})).await.expect(204);
    assert_eq!(told(&device).await, json!({longest.as_str(): longest}));
}

async fn values_are_in_no_log(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    user.put(&path_of(&device.id), &json!({"password": "hunter2", "name": "æøåæøå"})).await.expect(204);
    let refused = user.put(&path_of(&device.id), &json!({"password": ["hunter2"]})).await.expect(400);
    assert!(!refused.text().contains("hunter2"), "{refused}");

    let log = format!("/api/management/v1/mooring/auditlog?object={}&action=PUT", device.id);
    let log = user.get(&log).await.expect(200);
    assert!(!log.text().contains("hunter2"), "{log}");
    let entries = log.json();
    let (refused, set) = (&entries[0], &entries[1]);
    assert_eq!((&refused["status"], &refused["details"]), (&json!(400), &Value::Null));
    assert_eq!(set["action"], "PUT /api/management/v1/deviceconfig/configurations/device/{id}");
    let masked = json!({"password": "hun...<omitted>", "name": "æøå...<omitted>"});
    assert_eq!((&set["status"], &set["details"]["configuration"]), (&json!(204), &masked));
}

async fn a_decommissioned_device_leaves_no_configuration(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    user.put(&path_of(&device.id), &json!({"lamp": "on"})).await.expect(204);
    report(&device, &json!({"lamp": "on"})).await.expect(204);
    user.delete(&format!("/api/management/v2/devauth/devices/{}", device.id)).await.expect(204);
    report(&device, &json!({"lamp": "on"})).await.refuses_token();
    harness::wait_until(harness::LIMIT, "the configuration to go", async || {
        (user.get(&path_of(&device.id)).await.status == 404).then_some(())
    })
    .await;
    user.put(&path_of(&device.id), &json!({"lamp": "on"})).await.expect(404).error();

    // The same device is another one when it comes back, and is told nothing.
    let mut again = device.with_key(harness::Key::ed25519());
    again.join(&user).await;
    assert_ne!(again.id, device.id);
    assert_eq!(told(&again).await, json!({}));
}

async fn other_services_change_and_empty_configurations(set: Set) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let (user, door) = (hub.user().await, hub.internal_door());
    let (one, two) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let ask = async |method: &str, path: &str, body: &Value| {
        let path = format!("/api/internal/v1/deviceconfig/{path}");
        Answer::to(door.request(method, &path).json(body)).await
    };
    for path in ["alive", "health"] {
        ask("GET", path, &json!({})).await.expect(204);
    }
    ask("POST", "tenants", &json!({"tenant_id": ""})).await.expect(201);

    // A record is made once; that of a device that nobody has written to is as good as none.
    let device = |id: &str| json!({"device_id": id});
    ask("POST", "tenants//devices", &device(&one.id)).await.expect(201);
    ask("POST", "tenants//devices", &device(&one.id)).await.expect(409).error();
    ask("POST", "tenants//devices", &device(UNKNOWN)).await.expect(404).error();
    for wrong in [json!({}), device(""), device("nonsense"), json!([])] {
        ask("POST", "tenants//devices", &wrong).await.expect(400).error();
    }

    user.put(&path_of(&one.id), &json!({"lamp": "off", "timezone": "UTC"})).await.expect(204);
    let merge = |id: &str| format!("tenants//configurations/device/{id}");
    ask("PATCH", &merge(&one.id), &json!({"lamp": "on", "key": "hunter2"})).await.expect(204);
    assert_eq!(told(&one).await, json!({"lamp": "on", "timezone": "UTC", "key": "hunter2"}));
    ask("PATCH", &merge(&two.id), &json!({"lamp": "on"})).await.expect(204);
    assert_eq!(told(&two).await, json!({"lamp": "on"}));
    ask("PATCH", &merge(UNKNOWN), &json!({"lamp": "on"})).await.expect(404).error();
    let log =
        user.get(&format!("/api/management/v1/mooring/auditlog?object={}&action=PATCH", one.id)).await.expect(200);
    assert_eq!(log.json()[0]["details"]["configuration"]["key"], "hun...<omitted>", "{log}");

    ask("DELETE", &format!("tenants//devices/{}", one.id), &json!({})).await.expect(204);
    ask("DELETE", &format!("tenants//devices/{}", one.id), &json!({})).await.expect(404).error();
    assert_eq!((told(&one).await, told(&two).await), (json!({}), json!({"lamp": "on"})));
    ask("DELETE", "tenants/", &json!({})).await.expect(204);
    assert_eq!(told(&two).await, json!({}));

    for (method, path) in [
        ("POST", "tenants/acme/devices".to_owned()),
        ("DELETE", format!("tenants/acme/devices/{}", one.id)),
        ("PATCH", format!("tenants/acme/configurations/device/{}", one.id)),
        ("DELETE", "tenants/acme".to_owned()),
    ] {
        ask(method, &path, &device(&one.id)).await.expect(404).error();
    }
}

async fn the_command_shows_and_changes_what_a_device_is_told_to_be(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mooring = Mooring::alone();
    let server = hub.door().url();
    let run = async |arguments: &[&str]| {
        let all = [&["config"], arguments, &["--server", &server, "--user", ADMIN_EMAIL, "--password-stdin"]].concat();
        mooring.run(&all, &format!("{ADMIN_PASSWORD}\n")).await
    };
    let said = run(&["get", &device.id]).await;
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(0), "no configuration\nnever reported\n"), "{said:?}");

    // By a value of its identity, as every command takes it.
    let name = device.identity["mac"].as_str().unwrap();
    let said = run(&["set", name, "lamp=on", "formula=a=b", "empty="]).await;
    assert!(said.status.success() && said.stdout.contains("3 keys"), "{said:?}");
    assert_eq!(told(&device).await, json!({"lamp": "on", "formula": "a=b", "empty": ""}));
    let said = run(&["set", &device.id, "lamp=off", "--unset", "empty"]).await;
    assert!(said.status.success(), "{said:?}");
    assert_eq!(told(&device).await, json!({"lamp": "off", "formula": "a=b"}));
    report(&device, &json!({"lamp": "on"})).await.expect(204);
    let said = run(&["get", name]).await;
    for line in [["lamp", "off", "on"], ["formula", "a=b", "-"]] {
        let shown = said.stdout.lines().any(|shown| shown.split_whitespace().eq(line));
        assert!(shown, "{line:?} is not in {said:?}");
    }
    assert!(said.stdout.contains("reported at 20"), "{said:?}");
    let said = run(&["deploy", name, "--retries", "2"]).await;
    let deployment = record(&user, &device.id).await["deployment_id"].clone();
    assert_eq!((said.status.code(), json!(said.stdout.trim())), (Some(0), deployment), "{said:?}");
    assert_eq!(user.deployment(said.stdout.trim()).await["retries"], 2);
    run(&["set", &device.id, "--replace"]).await;
    assert_eq!(told(&device).await, json!({}));

    for (wrong, code, why) in [
        (vec!["get", "nobody"], 1, "no device \"nobody\""),
        (vec!["set", &device.id], 2, "KEY=VALUE"),
        (vec!["set", &device.id, "lamp"], 2, "expected KEY=VALUE"),
        (vec!["set", &device.id, "--unset", "lamp"], 1, "no key \"lamp\""),
    ] {
        let said = run(&wrong).await;
        assert_eq!(said.status.code(), Some(code), "{said:?}");
        assert!(said.stderr.contains(why), "{said:?}");
    }
    assert_eq!(told(&device).await, json!({}));
}
