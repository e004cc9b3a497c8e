//! What devices report about themselves.

use harness::{Answer, Set, TestDevice, TestUser, both_sets, raw_request};
use serde_json::{Value, json};

both_sets!([
    a_report_is_stored_and_shown,
    a_whole_report_replaces_and_a_part_merges,
    one_wrong_attribute_leaves_nothing_of_the_report,
    a_report_in_chunks_is_a_report,
    devices_are_listed_with_their_number,
    a_device_writes_only_its_own_scope,
    a_hundred_attributes_are_enough,
    an_accepted_device_shows_nine_attributes,
    an_empty_text_is_a_value,
]);

const DEVICES: &str = "/api/management/v1/inventory/devices";

/// The attributes of one scope as `{name: value}`.
async fn scope(user: &TestUser, device: &str, scope: &str) -> Value {
    let answer = user.get(&format!("{DEVICES}/{device}")).await.expect(200).json();
    let attributes = answer["attributes"].as_array().unwrap().iter();
    let entries = attributes.filter(|attribute| attribute["scope"] == scope);
    entries.map(|attribute| (attribute["name"].as_str().unwrap().to_owned(), attribute["value"].clone())).collect()
}

async fn a_report_is_stored_and_shown(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let report = json!([
        {"name": "device_type", "value": "e2e"},
        {"name": "list", "value": ["a", "b"]},
        {"name": "number", "value": 3.5, "description": "half of seven"},
        {"name": "ünïcode", "value": "✓"},
    ]);

    let answer = device.report(&report).await.expect(200);

    assert!(answer.body.is_empty(), "clients take anything else for a failure");
    let wanted = json!({"device_type": "e2e", "list": ["a", "b"], "number": 3.5, "ünïcode": "✓"});
    assert_eq!(scope(&user, &device.id, "inventory").await, wanted);
    let identity = scope(&user, &device.id, "identity").await;
    assert_eq!(identity, json!({"mac": device.identity["mac"], "status": "accepted"}));
    assert!(scope(&user, &device.id, "system").await["created_ts"].is_string());
    user.get(&format!("{DEVICES}/3f8f5c8e-0000-4000-8000-000000000000")).await.expect(404).error();
    user.get(&format!("{DEVICES}/malformed")).await.expect(404).error();
}

async fn a_whole_report_replaces_and_a_part_merges(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let merge = async |attributes: Value| {
        let request = device.request("PATCH", TestDevice::ATTRIBUTES).json(&attributes);
        Answer::to(request).await.expect(200);
        scope(&user, &device.id, "inventory").await
    };
    device.report(&json!([{"name": "a", "value": "1"}, {"name": "b", "value": "2"}])).await.expect(200);
    assert_eq!(merge(json!([{"name": "b", "value": "3"}])).await, json!({"a": "1", "b": "3"}));
    assert_eq!(merge(json!([])).await, json!({"a": "1", "b": "3"}));
    device.report(&json!([{"name": "c", "value": "4"}])).await.expect(200);
    assert_eq!(merge(json!([])).await, json!({"c": "4"}));
    device.report(&json!([])).await.expect(200);
    assert_eq!(merge(json!([])).await, json!({}));
}

async fn one_wrong_attribute_leaves_nothing_of_the_report(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    device.report(&json!([{"name": "kept", "value": "1"}])).await.expect(200);
    let many: Vec<Value> = (0..101).map(|number| json!({"name": format!("n{number}"), "value": "x"})).collect();
    for wrong in [
        json!([{"name": "good", "value": "1"}, {"name": "bad", "value": true}]),
        json!([{"name": "good", "value": "1"}, {"name": "bad", "value": {"deep": 1}}]),
        json!([{"name": "good", "value": "1"}, {"name": "bad", "value": null}]),
        json!([{"name": "good", "value": "1"}, {"name": "bad", "value": ["a", 1]}]),
        json!([{"name": "good", "value": "1"}, {"value": "nameless"}]),
        json!(many),
        json!({"name": "good", "value": "1"}),
    ] {
        device.report(&wrong).await.expect(400).error();
        assert_eq!(scope(&user, &device.id, "inventory").await, json!({"kept": "1"}), "after {wrong}");
    }
}

async fn a_report_in_chunks_is_a_report(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    // Everything from a real device comes so: the proxy inside its client does not know lengths.
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        TestDevice::ATTRIBUTES,
        device.token,
    );
    let body = json!([{"name": "a", "value": "some longer value to be cut into pieces"}]).to_string();
    let pieces = body.as_bytes().chunks(25);
    let pieces: Vec<_> =
        pieces.map(|piece| format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece))).collect();
    let request = format!("{head}{}0\r\n\r\n", pieces.concat());
    raw_request(hub.address(), request.as_bytes()).await.expect(200);
    let wanted = json!({"a": "some longer value to be cut into pieces"});
    assert_eq!(scope(&user, &device.id, "inventory").await, wanted);
}

async fn devices_are_listed_with_their_number(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut ids = vec![];
    for _ in 0..3 {
        ids.push(hub.accepted_by(&user).await.id);
    }
    let first = user.get(&format!("{DEVICES}?page=1&per_page=2")).await.expect(200);
    let second = user.get(&format!("{DEVICES}?page=2&per_page=2")).await.expect(200);
    assert_eq!(first.header("x-total-count"), "3");
    let mut listed: Vec<String> = [first, second]
        .iter()
        .flat_map(|answer| answer.json().as_array().unwrap().clone())
        .map(|device| device["id"].as_str().unwrap().to_owned())
        .collect();
    listed.sort();
    ids.sort();
    assert_eq!(listed, ids, "each exactly once");
}

async fn a_device_writes_only_its_own_scope(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let path = format!("{DEVICES}/{}", device.id);
    user.put(&format!("{path}/tags"), &json!([{"name": "name", "value": "lamp"}])).await.expect(200);
    user.put(&format!("{path}/group"), &json!({"group": "hall"})).await.expect(204);
    let before = (scope(&user, &device.id, "identity").await, scope(&user, &device.id, "tags").await);
    let forged = json!([
        {"name": "name", "scope": "tags", "value": "mine"},
        {"name": "status", "scope": "identity", "value": "mine"},
        {"name": "group", "scope": "system", "value": "mine"},
    ]);
    for method in ["PATCH", "PUT"] {
        Answer::to(device.request(method, TestDevice::ATTRIBUTES).json(&forged)).await.expect(200);
        let own = scope(&user, &device.id, "inventory").await;
        assert_eq!(own, json!({"name": "mine", "status": "mine", "group": "mine"}), "{method}");
        let after = (scope(&user, &device.id, "identity").await, scope(&user, &device.id, "tags").await);
        assert_eq!(after, before, "{method}");
        assert_eq!(scope(&user, &device.id, "system").await["group"], "hall");
    }
}

async fn a_hundred_attributes_are_enough(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let many = |number: usize| {
        let attributes = (0..number).map(|number| json!({"name": format!("n{number}"), "value": "x"}));
        Value::Array(attributes.collect())
    };
    let merge =
        async |attributes: Value| Answer::to(device.request("PATCH", TestDevice::ATTRIBUTES).json(&attributes)).await;
    let refusal = device.report(&many(101)).await.expect(400).error();
    assert_eq!(refusal, "the number of attributes in the scope is above the limit");
    assert_eq!(scope(&user, &device.id, "inventory").await, json!({}));
    device.report(&many(100)).await.expect(200);
    merge(json!([{"name": "one more", "value": "x"}])).await.expect(400).error();
    // A name that is there in another scope only is new in this one.
    merge(json!([{"name": "mac", "value": "x"}])).await.expect(400).error();
    merge(json!([{"name": "n7", "value": "y"}])).await.expect(200);
    assert_eq!(scope(&user, &device.id, "inventory").await["n7"], "y");
    let large = json!([{"name": "n7", "value": vec![1; 3000]}]);
    merge(large).await.expect(400).error();
}

async fn an_accepted_device_shows_nine_attributes(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut device = hub.device();
    device.identity = json!({"mac": device.identity["mac"], "sku": "lamp"});
    device.join(&user).await;
    let three = json!([{"name": "a", "value": "1"}, {"name": "b", "value": 2}, {"name": "c", "value": ["3"]}]);
    Answer::to(device.request("PATCH", TestDevice::ATTRIBUTES).json(&three)).await.expect(200);
    for name in ["inventory", "identity", "system"] {
        harness::wait_until(harness::LIMIT, "three attributes of each scope", async || {
            (scope(&user, &device.id, name).await.as_object()?.len() == 3).then_some(())
        })
        .await;
    }
    let shown = user.get(&format!("{DEVICES}/{}", device.id)).await.expect(200).json();
    assert_eq!(shown["attributes"].as_array().unwrap().len(), 9, "{shown}");
}

async fn an_empty_text_is_a_value(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let empty = json!([{"name": "a", "value": ""}, {"name": "b", "value": []}]);
    let answer = Answer::to(device.request("PATCH", TestDevice::ATTRIBUTES).json(&empty)).await.expect(200);
    assert!(answer.body.is_empty());
    assert_eq!(scope(&user, &device.id, "inventory").await, json!({"a": "", "b": []}));
}
