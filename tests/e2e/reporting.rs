//! The fleet in the words of reporting.

use harness::{Set, both_sets};
use serde_json::{Value, json};

use crate::device_list::{DEVICES, device_with, ids, only};

both_sets!([
    reporting_finds_what_the_inventory_finds_at_once,
    reporting_is_strict_about_lists_and_whole_values,
    counts_add_up,
    devices_are_found_by_where_they_are,
]);

const SEARCH: &str = "/api/management/v1/reporting/devices/search";
const AGGREGATE: &str = "/api/management/v1/reporting/devices/aggregate";

fn predicate(name: &str, operator: &str, value: impl Into<Value>) -> Value {
    let value: Value = value.into();
    json!({"scope": "inventory", "attribute": name, "type": operator, "value": value})
}

async fn reporting_finds_what_the_inventory_finds_at_once(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("version", json!("v1"))]).await;
    for version in ["v2", "v3"] {
        device.report(&json!([{"name": "version", "value": version}])).await.expect(200);
        for operator in ["$eq", "$ne", "$gte", "$lt"] {
            let search = json!({"filters": [predicate("version", operator, json!("v2"))], "text": "ignored"});
            let reported = user.post(SEARCH, &search).await.expect(200);
            let search = json!({"filters": [predicate("version", operator, json!("v2"))]});
            let found = user.post("/api/management/v2/inventory/filters/search", &search).await.expect(200);
            assert_eq!(reported.json(), found.json(), "{operator} {version}");
            assert_eq!(reported.header("x-total-count"), found.header("x-total-count"));
        }
    }
    let known = user.get("/api/management/v1/reporting/devices/search/attributes").await.expect(200).json();
    assert!(known.as_array().unwrap().contains(&json!({"scope": "inventory", "name": "version", "count": 1})));
    let budget = user.get("/api/management/v1/reporting/devices/attributes").await.expect(200).json();
    assert_eq!(budget["count"].as_u64().unwrap(), known.as_array().unwrap().len() as u64);
}

async fn reporting_is_strict_about_lists_and_whole_values(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("version", json!("v1.2"))]).await;
    for (operator, value) in [
        ("$eq", json!(["v1"])),
        ("$ne", json!(["v1"])),
        ("$gt", json!(["v1"])),
        ("$regex", json!(["v1"])),
        ("$in", json!("v1")),
        ("$nin", json!("v1")),
        ("$exists", json!("true")),
        ("$ltne", json!("v1")),
    ] {
        user.post(SEARCH, &json!({"filters": [predicate("version", operator, value)]})).await.expect(400).error();
    }
    let by = async |expression: &str| {
        ids(&user
            .post(SEARCH, &json!({"filters": [predicate("version", "$regex", json!(expression))]}))
            .await
            .expect(200))
    };
    assert_eq!(by("v1").await, Vec::<String>::new());
    assert_eq!(by("v1.*").await, [device.id]);
    user.post(SEARCH, &json!({"filters": 1})).await.expect(400).error();
}

async fn counts_add_up(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for (place, version) in ["v1", "v1", "v1", "v2", "v2", "v3"].into_iter().enumerate() {
        let device = device_with(&hub, &user, &[("version", json!(version)), ("floor", json!(place % 2))]).await;
        if version == "v1" {
            user.put(&format!("{DEVICES}/{}/group", device.id), &json!({"group": "hall"})).await.expect(204);
        }
    }
    let term = |attribute: &str, limit: u32, within: Value| {
        json!({
            "name": attribute, "scope": "inventory", "attribute": attribute, "limit": limit, "aggregations": within,
        })
    };
    let asked = json!({"aggregations": [term("version", 2, json!([term("floor", 0, json!([]))]))]});
    let counted = user.post(AGGREGATE, &asked).await.expect(200).json();
    let items = counted[0]["items"].as_array().unwrap();
    let keys: Vec<(&str, u64)> =
        items.iter().map(|item| (item["key"].as_str().unwrap(), item["count"].as_u64().unwrap())).collect();
    assert_eq!((counted[0]["name"].as_str(), keys), (Some("version"), vec![("v1", 3), ("v2", 2)]));
    assert_eq!(counted[0]["other_count"], json!(1));
    for item in items {
        let within = &item["aggregations"][0];
        let inner: u64 = within["items"].as_array().unwrap().iter().map(|item| item["count"].as_u64().unwrap()).sum();
        assert_eq!(inner + within["other_count"].as_u64().unwrap(), item["count"].as_u64().unwrap());
    }
    let filter = json!([{"scope": "system", "attribute": "group", "type": "$eq", "value": "hall"}]);
    let asked = json!({"aggregations": [term("version", 0, json!([]))], "filters": filter});
    let counted = user.post(AGGREGATE, &asked).await.expect(200).json();
    assert_eq!(counted, json!([{"name": "version", "items": [{"key": "v1", "count": 3}], "other_count": 0}]));

    let mut deep = term("floor", 0, json!([]));
    for _ in 0..6 {
        deep = term("floor", 0, json!([deep]));
    }
    for wrong in [
        json!({"aggregations": [deep]}),
        json!({"aggregations": []}),
        json!({}),
        json!({"aggregations": [{"name": "a"}]}),
    ] {
        user.post(AGGREGATE, &wrong).await.expect(400).error();
    }
}

async fn devices_are_found_by_where_they_are(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let near = device_with(&hub, &user, &[("geo-lat", json!("59.91")), ("geo-lon", json!("10.75"))]).await.id;
    let _far = device_with(&hub, &user, &[("geo-lat", json!(48.1)), ("geo-lon", json!(11.5))]).await;
    let around = |distance: &str| {
        let location = json!({"lat": 59.9, "lon": 10.7});
        json!({"geo_distance_filter": {"geo_distance": {"distance": distance, "location": location}}})
    };
    assert_eq!(ids(&user.post(SEARCH, &around("10km")).await.expect(200)), only(&near));
    assert_eq!(ids(&user.post(SEARCH, &around("1m")).await.expect(200)), Vec::<String>::new());
    let corners = json!({"top_left": {"lat": 60.0, "lon": 10.0}, "bottom_right": {"lat": 59.0, "lon": 11.0}});
    let inside = json!({"geo_bounding_box_filter": {"geo_bounding_box": {"location": corners}}});
    assert_eq!(ids(&user.post(SEARCH, &inside).await.expect(200)), [near]);
    user.post(SEARCH, &around("far")).await.expect(400).error();
}
