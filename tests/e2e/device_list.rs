//! The list of devices, page by page, with filters and order in its query.

use std::collections::BTreeSet;

use harness::{Answer, Set, TestDevice, TestHub, TestUser, both_sets};
use serde_json::{Value, json};

both_sets!([
    pages_are_numbered_and_linked,
    paging_against_the_rules_is_refused,
    a_filter_in_the_query_is_equality,
    having_a_group_divides_the_fleet,
    an_order_is_descending_unless_it_says_otherwise,
    a_cleared_device_keeps_what_it_did_not_report,
    times_have_three_fraction_digits,
    errors_have_a_text_and_an_id,
]);

pub(crate) const DEVICES: &str = "/api/management/v1/inventory/devices";
pub(crate) const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

/// An accepted device that has said these things about itself.
pub(crate) async fn device_with(hub: &TestHub, user: &TestUser, attributes: &[(&str, Value)]) -> TestDevice {
    let device = hub.accepted_by(user).await;
    let report: Vec<Value> = attributes.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    device.report(&json!(report)).await.expect(200);
    device
}

/// The ids in an answer, in its order.
pub(crate) fn ids(answer: &Answer) -> Vec<String> {
    let devices = answer.json();
    devices.as_array().unwrap().iter().map(|device| device["id"].as_str().unwrap().to_owned()).collect()
}

/// A list of one.
pub(crate) fn only(id: &str) -> Vec<String> {
    vec![id.to_owned()]
}

/// `{name: value}` of one scope of a device.
pub(crate) async fn scope(user: &TestUser, device: &str, scope: &str) -> Value {
    let answer = user.get(&format!("{DEVICES}/{device}")).await.expect(200).json();
    let attributes = answer["attributes"].as_array().unwrap().iter();
    let entries = attributes.filter(|attribute| attribute["scope"] == scope);
    entries.map(|attribute| (attribute["name"].as_str().unwrap().to_owned(), attribute["value"].clone())).collect()
}

/// Relation and path of each `Link` line.
fn links(answer: &Answer) -> Vec<(String, String)> {
    let lines = answer.headers.get_all("link").iter().map(|line| line.to_str().unwrap().to_owned());
    lines
        .map(|line| {
            let (path, relation) = line.split_once(">; rel=").unwrap();
            (relation.trim_matches('"').to_owned(), path.trim_start_matches('<').to_owned())
        })
        .collect()
}

async fn pages_are_numbered_and_linked(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    // Devices that wait for a decision are devices.
    for _ in 0..45 {
        hub.device().ask().await.expect(401);
    }
    let mut answer = user.get(DEVICES).await.expect(200);
    let relations: Vec<String> = links(&answer).into_iter().map(|(relation, _)| relation).collect();
    assert_eq!(relations, ["first", "next", "last"]);
    let mut met = BTreeSet::new();
    for page in 1..=3 {
        assert_eq!(answer.header("x-total-count"), "45");
        let found = ids(&answer);
        assert_eq!(found.len(), if page < 3 { 20 } else { 5 });
        met.extend(found);
        let next = links(&answer).into_iter().find(|(relation, _)| relation == "next");
        match next {
            Some((_, path)) => answer = user.get(&path).await.expect(200),
            None => assert_eq!(page, 3),
        }
    }
    assert_eq!(met.len(), 45);
    let beyond = user.get(&format!("{DEVICES}?page=9")).await.expect(200);
    assert_eq!((beyond.header("x-total-count"), beyond.json()), ("45", json!([])));
}

async fn paging_against_the_rules_is_refused(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for query in ["per_page=501", "per_page=0", "page=abc", "page=0"] {
        let text = user.get(&format!("{DEVICES}?{query}")).await.expect(400).error();
        assert!(text.contains(query.split('=').next().unwrap()), "{text}");
    }
}

async fn a_filter_in_the_query_is_equality(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let lamp = device_with(&hub, &user, &[("mac", json!("de:ad:be:ef:06:07")), ("idx", json!(5))]).await;
    let oven = device_with(&hub, &user, &[("mac", json!("de:ad")), ("idx", json!("5")), ("list", json!(["a"]))]).await;
    let found = async |query: &str| {
        let answer = user.get(&format!("{DEVICES}?{query}")).await.expect(200);
        assert_eq!(answer.header("x-total-count"), ids(&answer).len().to_string());
        let mut found = ids(&answer);
        found.sort();
        found
    };
    let mut both = vec![lamp.id.clone(), oven.id.clone()];
    both.sort();
    assert_eq!(found("mac=de:ad:be:ef:06:07").await, only(&lamp.id));
    assert_eq!(found("mac=de%3Aad%3Abe%3Aef%3A06%3A07").await, only(&lamp.id));
    assert_eq!(found("inventory/mac=eq:de:ad").await, only(&oven.id));
    assert_eq!(found("idx=eq:5").await, both);
    assert_eq!(found("idx=5&mac=de:ad").await, only(&oven.id));
    assert_eq!(found("list=a").await, only(&oven.id));
    assert_eq!(found("identity/status=accepted").await, both);
    assert_eq!(found("nonsense/mac=de:ad").await, Vec::<String>::new());
}

async fn having_a_group_divides_the_fleet(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let (grouped, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    user.put(&format!("{DEVICES}/{}/group", grouped.id), &json!({"group": "hall"})).await.expect(204);
    for (query, expected) in
        [("has_group=true", &grouped.id), ("has_group=false", &other.id), ("group=hall", &grouped.id)]
    {
        let answer = user.get(&format!("{DEVICES}?{query}")).await.expect(200);
        assert_eq!(ids(&answer), only(expected), "{query}");
    }
    user.get(&format!("{DEVICES}?has_group=maybe")).await.expect(400).error();
}

async fn an_order_is_descending_unless_it_says_otherwise(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut by_number = vec![];
    for number in [9, 10, 100] {
        by_number.push(device_with(&hub, &user, &[("x", json!(number)), ("same", json!("a"))]).await.id);
    }
    let sorted = async |query: &str| ids(&user.get(&format!("{DEVICES}?sort={query}")).await.expect(200));
    assert_eq!(sorted("inventory/x:asc").await, by_number);
    assert_eq!(sorted("same:asc,x:asc").await, by_number);
    by_number.reverse();
    for query in ["inventory/x:desc", "x", "same,x:desc"] {
        assert_eq!(sorted(query).await, by_number, "{query}");
    }
    user.get(&format!("{DEVICES}?sort=x:up")).await.expect(400).error();
}

async fn a_cleared_device_keeps_what_it_did_not_report(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("kernel", json!("6.1"))]).await;
    let path = format!("{DEVICES}/{}", device.id);
    user.put(&format!("{path}/tags"), &json!([{"name": "name", "value": "lamp"}])).await.expect(200);
    user.put(&format!("{path}/group"), &json!({"group": "hall"})).await.expect(204);

    assert!(user.delete(&path).await.expect(204).body.is_empty());

    assert_eq!(scope(&user, &device.id, "inventory").await, json!({}));
    assert_eq!(scope(&user, &device.id, "tags").await, json!({"name": "lamp"}));
    assert_eq!(scope(&user, &device.id, "system").await["group"], "hall");
    assert_eq!(scope(&user, &device.id, "identity").await["status"], "accepted");
    for id in [UNKNOWN, "malformed"] {
        let unknown = format!("{DEVICES}/{id}");
        user.get(&unknown).await.expect(404).error();
        user.delete(&unknown).await.expect(204);
        user.get(&unknown).await.expect(404).error();
    }
}

async fn times_have_three_fraction_digits(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("a", json!("b"))]).await;
    let path = format!("{DEVICES}/{}", device.id);
    user.put(&format!("{path}/tags"), &json!([{"name": "name", "value": "lamp"}])).await.expect(200);
    harness::wait_until(harness::LIMIT, "the check-in", async || {
        scope(&user, &device.id, "system").await["check_in_time"].is_string().then_some(())
    })
    .await;
    let shown = user.get(&path).await.expect(200).json();
    let attributes = shown["attributes"].as_array().unwrap().clone();
    let system = attributes.iter().filter(|attribute| attribute["scope"] == "system");
    let mut times: Vec<Value> = system.map(|attribute| attribute["value"].clone()).collect();
    times
        .extend(attributes.iter().filter(|attribute| attribute["scope"] == "tags").map(|tag| tag["timestamp"].clone()));
    times.push(shown["updated_ts"].clone());
    assert_eq!(times.len(), 5, "{times:?}");
    for time in times {
        let time = time.as_str().unwrap().to_owned();
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    }
}

async fn errors_have_a_text_and_an_id(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for (method, path, status) in [
        ("GET", format!("{DEVICES}?page=x"), 400),
        ("GET", format!("{DEVICES}/{UNKNOWN}"), 404),
        ("GET", "/api/management/v1/inventory/nothing".to_owned(), 404),
        ("POST", DEVICES.to_owned(), 405),
        ("GET", "/api/management/v2/inventory/filters/x".to_owned(), 404),
        ("GET", "/api/management/v1/reporting/devices/search".to_owned(), 405),
        ("GET", format!("/api/management/v1/devicemonitor/devices/{UNKNOWN}/alerts?page=x"), 400),
        ("GET", "/api/management/v1/devicemonitor/nothing".to_owned(), 404),
        ("GET", format!("/api/management/v1/deviceconfig/configurations/device/{UNKNOWN}"), 404),
        ("GET", "/api/management/v1/deviceconfig/nothing".to_owned(), 404),
        ("POST", format!("/api/management/v1/deviceconfig/configurations/device/{UNKNOWN}"), 405),
        ("POST", format!("/api/management/v1/devicemonitor/devices/{UNKNOWN}/alerts"), 405),
    ] {
        // Compares the body's id with the header's.
        Answer::to(user.request(method, &path)).await.expect(status).error();
    }
    let large = "x".repeat(1024 * 1024 + 1);
    let request = user.request("PATCH", &format!("{DEVICES}/{UNKNOWN}/tags"));
    Answer::to(request.header("Content-Type", "application/json").body(large)).await.expect(413).error();
    let request = user.request("PATCH", &format!("{DEVICES}/{UNKNOWN}/tags"));
    Answer::to(request.header("Content-Type", "text/plain").body("[]")).await.expect(415).error();
}
