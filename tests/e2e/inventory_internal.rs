//! What other services of an installation ask and write about devices.

use harness::{Answer, Door, Set, TestHub, both_sets};
use serde_json::{Value, json};

use crate::device_list::{DEVICES, UNKNOWN, device_with, ids, only, scope};

both_sets!([
    services_write_attributes_of_any_scope,
    services_make_and_forget_records,
    services_ask_about_groups_and_devices,
    another_tenant_has_no_inventory,
]);

const V1: &str = "/api/internal/v1/inventory";
const V2: &str = "/api/internal/v2/inventory";

async fn hub(set: Set) -> (TestHub, Door) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let door = hub.internal_door();
    (hub, door)
}

async fn send(door: &Door, method: &str, path: &str, body: Value) -> Answer {
    Answer::to(door.request(method, path).json(&body)).await
}

async fn services_write_attributes_of_any_scope(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("a", json!("b"))]).await.id;
    let before = user.get(&format!("{DEVICES}/{device}")).await.expect(200).json()["updated_ts"].clone();
    let path = format!("{V1}/tenants//device/{device}");
    let alerts = json!([{"name": "alerts", "value": true}, {"name": "alert_count", "value": 2}]);
    send(&door, "PATCH", &format!("{path}/attribute/scope/monitor"), alerts).await.expect(200);
    let mixed = json!([
        {"name": "tier", "scope": "system", "value": "micro"},
        {"name": "note", "scope": "tags", "value": "x"},
        {"name": "plain", "value": "y"},
    ]);
    send(&door, "PATCH", &format!("{path}/attributes"), mixed).await.expect(200);
    assert_eq!(scope(&user, &device, "monitor").await, json!({"alerts": true, "alert_count": 2}));
    assert_eq!(scope(&user, &device, "inventory").await, json!({"a": "b", "plain": "y"}));
    assert_eq!(user.get(&format!("{DEVICES}/{device}")).await.expect(200).json()["updated_ts"], before);
    let statistics = Answer::to(door.request("GET", &format!("{V2}/tenants//statistics"))).await.expect(200).json();
    assert_eq!(statistics["devices_by_status"]["accepted"]["micro"], json!(1));

    for (scope, body) in [
        ("cellar", json!([{"name": "a", "value": "b"}])),
        ("system", json!([{"name": "group", "value": 7}])),
        ("system", json!([{"name": "check_in_time", "value": "yesterday"}])),
        ("system", json!([{"name": "created_ts", "value": 5}])),
        ("monitor", json!([{"name": "a", "value": null}])),
    ] {
        send(&door, "PATCH", &format!("{path}/attribute/scope/{scope}"), body).await.expect(400).error();
    }
    let since = |time: &str| {
        let request = door.request("PATCH", &format!("{path}/attributes")).header("If-Unmodified-Since", time);
        Answer::to(request.json(&json!([{"name": "late", "value": "x"}])))
    };
    since("Mon, 01 Jan 2001 00:00:00 GMT").await.expect(412).error();
    since("never").await.expect(400).error();
    since("Wed, 01 Jan 2070 00:00:00 GMT").await.expect(200);
    let unknown = format!("{V1}/tenants//device/{UNKNOWN}/attributes");
    send(&door, "PATCH", &unknown, json!([{"name": "a", "value": "b"}])).await.expect(404).error();
}

async fn services_make_and_forget_records(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    let devices = format!("{V1}/tenants//devices");
    for value in ["x", "y"] {
        let body = json!({"id": UNKNOWN, "attributes": [{"name": "a", "scope": "inventory", "value": value}]});
        let created = send(&door, "POST", &devices, body).await.expect(201);
        assert_eq!(created.header("location"), format!("devices/{UNKNOWN}"));
        assert_eq!(scope(&user, UNKNOWN, "inventory").await, json!({"a": value}));
    }
    send(&door, "POST", &devices, json!({"id": ""})).await.expect(400).error();
    for _ in 0..2 {
        Answer::to(door.request("DELETE", &format!("{devices}/{UNKNOWN}"))).await.expect(204);
    }
    user.get(&format!("{DEVICES}/{UNKNOWN}")).await.expect(404);
}

async fn services_ask_about_groups_and_devices(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await.id;
    let groups = async || {
        let answer = Answer::to(door.request("GET", &format!("{V1}/tenants//devices/{device}/groups"))).await;
        answer.expect(200).json()
    };
    assert_eq!(groups().await, json!({"groups": []}));
    user.put(&format!("{DEVICES}/{device}/group"), &json!({"group": "hall"})).await.expect(204);
    assert_eq!(groups().await, json!({"groups": ["hall"]}));
    Answer::to(door.request("GET", &format!("{V1}/tenants//devices/{UNKNOWN}/groups"))).await.expect(404);
    let test = format!("{V1}/tenants//test/devices/groups");
    send(&door, "POST", &test, json!({"devices": [device], "groups": ["hall", "x"]})).await.expect(200);
    send(&door, "POST", &test, json!({"devices": [device], "groups": ["x"]})).await.expect(404);
    send(&door, "POST", &test, json!({"devices": [device, UNKNOWN], "groups": ["hall"]})).await.expect(404);
    let filter = json!({"filters": [{"scope": "system", "attribute": "group", "type": "$eq", "value": "hall"}]});
    for path in [format!("{V2}/tenants//filters/search"), "/api/internal/v1/reporting/tenants//devices/search".into()] {
        assert_eq!(ids(&send(&door, "POST", &path, filter.clone()).await.expect(200)), only(&device));
    }
    for path in ["alive", "health"] {
        Answer::to(door.request("GET", &format!("{V1}/{path}"))).await.expect(204);
        Answer::to(door.request("GET", &format!("/api/internal/v1/reporting/{path}"))).await.expect(204);
    }
}

async fn another_tenant_has_no_inventory(set: Set) {
    let (_hub, door) = hub(set).await;
    for (method, path) in [
        ("POST", format!("{V1}/tenants/acme/devices")),
        ("DELETE", format!("{V1}/tenants/acme/devices/{UNKNOWN}")),
        ("PATCH", format!("{V1}/tenants/acme/device/{UNKNOWN}/attribute/scope/tags")),
        ("PATCH", format!("{V1}/tenants/acme/device/{UNKNOWN}/attributes")),
        ("GET", format!("{V1}/tenants/acme/devices/{UNKNOWN}/groups")),
        ("POST", format!("{V1}/tenants/acme/test/devices/groups")),
        ("POST", format!("{V2}/tenants/acme/filters/search")),
        ("GET", format!("{V2}/tenants/acme/statistics")),
        ("POST", "/api/internal/v1/reporting/tenants/acme/devices/search".to_owned()),
    ] {
        send(&door, method, &path, json!([])).await.expect(404).error();
    }
}
