//! Groups of devices.

use harness::{Answer, Set, TestUser, both_sets};
use serde_json::{Value, json};

use crate::device_list::{DEVICES, UNKNOWN};

both_sets!([
    a_device_is_in_one_group_at_most,
    a_group_is_listed_while_it_has_a_member,
    many_devices_join_and_leave_at_once,
    a_device_leaves_only_the_group_it_is_in,
]);

const GROUPS: &str = "/api/management/v1/inventory/groups";

async fn join(user: &TestUser, device: &str, group: &str) -> Answer {
    user.put(&format!("{DEVICES}/{device}/group"), &json!({"group": group})).await
}

async fn group(user: &TestUser, device: &str) -> Value {
    user.get(&format!("{DEVICES}/{device}/group")).await.expect(200).json()["group"].clone()
}

async fn a_device_is_in_one_group_at_most(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await.id;
    assert_eq!(group(&user, &device).await, json!(null));
    let long = "x".repeat(257);
    let mut texts = vec![];
    for wrong in ["a b", "", &long] {
        texts.push(join(&user, &device, wrong).await.expect(400).error());
    }
    texts.dedup();
    assert_eq!(texts.len(), 3, "{texts:?}");
    join(&user, UNKNOWN, "hall").await.expect(404).error();
    user.get(&format!("{DEVICES}/{UNKNOWN}/group")).await.expect(404).error();

    for name in ["hall", "Kitchen-2_b.c", &"x".repeat(256)] {
        assert!(join(&user, &device, name).await.expect(204).body.is_empty());
        assert_eq!(group(&user, &device).await, json!(name));
        assert_eq!(user.get(GROUPS).await.expect(200).json(), json!([name]));
    }
}

async fn a_group_is_listed_while_it_has_a_member(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let groups = async |query: &str| user.get(&format!("{GROUPS}{query}")).await.expect(200).json();
    assert_eq!(groups("").await, json!([]));
    let waiting = hub.device();
    waiting.ask().await.expect(401);
    let pending = user.device_with(&waiting.identity).await.unwrap()["id"].as_str().unwrap().to_owned();
    let accepted = hub.accepted_by(&user).await.id;
    join(&user, &accepted, "hall").await.expect(204);
    join(&user, &pending, "kitchen").await.expect(204);
    assert_eq!(groups("").await, json!(["hall", "kitchen"]));
    assert_eq!(groups("?status=accepted").await, json!(["hall"]));
    assert_eq!(groups("?status=pending").await, json!(["kitchen"]));
    user.accept(&waiting.identity).await;
    assert_eq!(groups("?status=accepted").await, json!(["hall", "kitchen"]));
    user.delete(&format!("{DEVICES}/{accepted}/group/hall")).await.expect(204);
    assert_eq!(groups("").await, json!(["kitchen"]));
    user.get(&format!("{GROUPS}/hall/devices")).await.expect(404).error();
}

async fn many_devices_join_and_leave_at_once(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut known = vec![hub.accepted_by(&user).await.id, hub.accepted_by(&user).await.id];
    known.sort();
    let members = format!("{GROUPS}/hall/devices");
    let send = async |method: &str, body: Value| Answer::to(user.request(method, &members).json(&body)).await;
    for method in ["PATCH", "DELETE"] {
        send(method, json!([])).await.expect(400).error();
        send(method, json!({})).await.expect(400).error();
    }
    let wrong = user.request("PATCH", &format!("{GROUPS}/a%20b/devices")).json(&known);
    Answer::to(wrong).await.expect(400).error();

    let counts = send("PATCH", json!([known[0], known[1], UNKNOWN, "malformed"])).await.expect(200).json();
    assert_eq!(counts, json!({"matched_count": 2, "updated_count": 2}));
    let counts = send("PATCH", json!([known[0]])).await.expect(200).json();
    assert_eq!(counts, json!({"matched_count": 1, "updated_count": 0}));
    let listed = user.get(&format!("{members}?per_page=1&page=2")).await.expect(200);
    assert_eq!((listed.json(), listed.header("x-total-count")), (json!([known[1]]), "2"));
    assert!(listed.headers.get_all("link").iter().any(|line| line.to_str().unwrap().contains("rel=\"prev\"")));
    user.get(&format!("{members}?per_page=0")).await.expect(400).error();

    // The web UI's way: a body, whatever its type is said to be.
    let request = user.request("DELETE", &members).body(json!([known[0], UNKNOWN]).to_string());
    let counts = Answer::to(request).await.expect(200).json();
    assert_eq!(counts, json!({"matched_count": 1, "updated_count": 1}));
    let counts = user.delete(&format!("{GROUPS}/hall")).await.expect(200).json();
    assert_eq!(counts, json!({"matched_count": 1, "updated_count": 1}));
    for device in &known {
        assert_eq!(group(&user, device).await, json!(null));
    }
    let counts = user.delete(&format!("{GROUPS}/hall")).await.expect(200).json();
    assert_eq!(counts, json!({"matched_count": 0, "updated_count": 0}));
}

async fn a_device_leaves_only_the_group_it_is_in(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await.id;
    join(&user, &device, "hall").await.expect(204);
    user.delete(&format!("{DEVICES}/{device}/group/kitchen")).await.expect(404).error();
    user.delete(&format!("{DEVICES}/{UNKNOWN}/group/hall")).await.expect(404).error();
    assert_eq!(group(&user, &device).await, json!("hall"));
    user.delete(&format!("{DEVICES}/{device}/group/hall")).await.expect(204);
    user.delete(&format!("{DEVICES}/{device}/group/hall")).await.expect(404).error();
}
