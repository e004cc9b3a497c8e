//! The hub raises alerts itself: a device that is away for too long, a number beyond its bound.

use std::time::Duration;

use harness::{EventStream, LIMIT, Receiver, Set, TestDevice, TestHub, TestUser, both_sets, wait_until};
use serde_json::{Value, json};

both_sets!([
    a_device_that_is_away_for_too_long_is_an_alert_until_it_is_back,
    a_number_that_wavers_about_its_bound_is_one_alert,
    a_rule_that_is_switched_off_or_removed_closes_its_alerts,
    rules_that_make_no_sense_are_refused,
]);

const RULES: &str = "/api/management/v1/mooring/alert-rules";

async fn hub(set: Set) -> TestHub {
    set.hub_with(|config| config.actors.alert_rules_period = Duration::from_millis(100)).await
}

async fn rule(user: &TestUser, body: &Value) -> String {
    let made = user.post(RULES, body).await.expect(201).json();
    format!("{RULES}/{}", made["id"].as_str().unwrap())
}

fn hot() -> Value {
    json!({"name": "hot", "level": "WARNING", "condition":
        {"kind": "attribute", "attribute": "temperature", "comparison": "above", "threshold": 80, "clear": 70}})
}

async fn reports(device: &TestDevice, temperature: Value) {
    device.report(&json!([{"name": "temperature", "value": temperature}])).await.expect(200);
}

async fn open(user: &TestUser, device: &TestDevice) -> Vec<Value> {
    let path = format!("/api/management/v1/devicemonitor/devices/{}/alerts/latest", device.id);
    user.get(&path).await.expect(200).json().as_array().unwrap().clone()
}

async fn history(user: &TestUser, device: &TestDevice) -> Vec<String> {
    let path = format!("/api/management/v1/devicemonitor/devices/{}/alerts?sort_ascending=true", device.id);
    let alerts = user.get(&path).await.expect(200).json();
    alerts.as_array().unwrap().iter().map(|alert| alert["level"].as_str().unwrap().to_owned()).collect()
}

async fn has_open(user: &TestUser, device: &TestDevice, count: usize) -> Vec<Value> {
    wait_until(LIMIT, &format!("{count} open alerts"), async || {
        let open = open(user, device).await;
        (open.len() == count).then_some(open)
    })
    .await
}

async fn a_device_that_is_away_for_too_long_is_an_alert_until_it_is_back(set: Set) {
    let receiver = Receiver::start().await;
    let hub = set
        .hub_with(|config| {
            config.actors.alert_rules_period = Duration::from_millis(100);
            config.actors.notifications.webhook_private_networks = true;
        })
        .await;
    let user = hub.user().await;
    let hook = json!({"kind": "webhook", "name": "ops", "url": receiver.url()});
    user.post("/api/management/v1/mooring/channels", &hook).await.expect(201);
    let device = hub.accepted_by(&user).await;
    let socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    let mut stream = EventStream::open(&user, "kind=alert", None).await;
    rule(&user, &json!({"name": "away", "condition": {"kind": "offline", "for": "1s", "clear_after": "500ms"}})).await;
    // One that asked for something only a moment ago is not away, whatever became of its socket.
    socket.reset();

    let alert = has_open(&user, &device, 1).await.remove(0);
    assert_eq!((&alert["name"], &alert["level"]), (&json!("away"), &json!("CRITICAL")));
    assert_eq!((&alert["subject"]["type"], &alert["subject"]["status"]), (&json!("mooring.rule"), &json!("offline")));
    assert_eq!(stream.hear().await.data["change"], "opened");
    let inventory = user.get(&format!("/api/management/v1/inventory/devices/{}", device.id)).await.json();
    let attributes = inventory["attributes"].as_array().unwrap();
    assert!(attributes.contains(&json!({"scope": "monitor", "name": "alerts", "value": true})), "{inventory}");

    let _socket = device.connect_soon().await;
    has_open(&user, &device, 0).await;
    assert_eq!(history(&user, &device).await, ["CRITICAL", "OK"]);
    let said = receiver.receives(2).await;
    assert_eq!(said[0].json()["data"]["alert"]["subject"]["status"], "offline");
}

async fn a_number_that_wavers_about_its_bound_is_one_alert(set: Set) {
    let hub = hub(set).await;
    let user = hub.user().await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    reports(&device, json!(81)).await;
    rule(&user, &hot()).await;
    // What was reported before there was a rule counts too.
    let alert = has_open(&user, &device, 1).await.remove(0);
    assert_eq!((&alert["level"], &alert["subject"]["status"]), (&json!("WARNING"), &json!("above")));
    assert_eq!(alert["subject"]["details"]["description"], "temperature is 81, above 80");
    for wavering in [json!("79.5"), json!(85), json!(70.5)] {
        reports(&device, wavering).await;
        // Another device's alert shows that the rule has looked since.
        reports(&other, json!("90")).await;
        has_open(&user, &other, 1).await;
        reports(&other, json!("1")).await;
        has_open(&user, &other, 0).await;
    }
    assert_eq!(history(&user, &device).await, ["WARNING"]);
    reports(&device, json!(70)).await;
    has_open(&user, &device, 0).await;
    assert_eq!(history(&user, &device).await, ["WARNING", "OK"]);
    reports(&device, json!("unknown")).await;
    reports(&device, json!(80.1)).await;
    has_open(&user, &device, 1).await;
}

async fn a_rule_that_is_switched_off_or_removed_closes_its_alerts(set: Set) {
    let hub = hub(set).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    reports(&device, json!(99)).await;
    let path = rule(&user, &hot()).await;
    let change = async |body: Value| harness::Answer::to(user.request("PATCH", &path).json(&body)).await;
    has_open(&user, &device, 1).await;
    change(json!({"enabled": false})).await.expect(204);
    has_open(&user, &device, 0).await;
    assert_eq!(user.get(&path).await.expect(200).json()["enabled"], false);
    change(json!({"enabled": true, "level": "CRITICAL"})).await.expect(204);
    assert_eq!(has_open(&user, &device, 1).await[0]["level"], "CRITICAL");
    // Another bound is looked at anew, although nothing is reported.
    let mut condition = hot()["condition"].clone();
    condition["threshold"] = json!(200);
    condition["clear"] = json!(150);
    change(json!({"condition": condition})).await.expect(204);
    has_open(&user, &device, 0).await;
    change(json!({"condition": hot()["condition"]})).await.expect(204);
    has_open(&user, &device, 1).await;
    user.delete(&path).await.expect(204);
    user.get(&path).await.expect(404).error();
    has_open(&user, &device, 0).await;
    let again = async || (user.post(RULES, &hot()).await.status == 201).then_some(());
    wait_until(LIMIT, "the name to be free", again).await;
}

async fn rules_that_make_no_sense_are_refused(set: Set) {
    let hub = hub(set).await;
    let user = hub.user().await;
    let path = rule(&user, &hot()).await;
    user.post(RULES, &hot()).await.expect(409).error();
    user.post(RULES, &json!({"name": "x"})).await.expect(400).error();
    user.post(RULES, &json!({"name": "x", "condition": {"kind": "offline", "for": "soon"}})).await.expect(400).error();
    let rename = user.request("PATCH", &path).json(&json!({"name": "cold"}));
    harness::Answer::to(rename).await.expect(400).error();
    user.delete(&format!("{RULES}/nonsense")).await.expect(404).error();
    assert_eq!(user.get(RULES).await.expect(200).json().as_array().unwrap().len(), 1);
}
