//! The fleet in the words of reporting.

use harness::{ArtifactRecipe, Set, TestUser, both_sets};
use serde_json::{Value, json};

use crate::device_list::{DEVICES, device_with, ids, only};

both_sets!([
    reporting_finds_what_the_inventory_finds_at_once,
    reporting_is_strict_about_lists_and_whole_values,
    counts_add_up,
    devices_are_found_by_where_they_are,
    devices_of_deployments_are_rows_that_can_be_searched,
]);

const SEARCH: &str = "/api/management/v1/reporting/devices/search";
const AGGREGATE: &str = "/api/management/v1/reporting/devices/aggregate";

const ROWS: &str = "/api/management/v1/reporting/deployments/devices/search";
const COUNTS: &str = "/api/management/v1/reporting/deployments/devices/aggregate";

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
            let timing = reported.header("server-timing");
            assert!(timing.starts_with("total;dur="), "how long the number took: {timing}");
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

/// Every field of the row of a device on which the deployment failed.
async fn says_all_of_the_failed(row: &Value, user: &TestUser, artifact: &str, first: &str, failed: &str) {
    let device = user.deployed(first).await.into_iter().find(|device| device["id"] == json!(failed)).unwrap();
    let deployment = user.deployment(first).await;
    for (name, value) in [
        ("tenant_id", json!("")),
        ("device_id", json!(failed)),
        ("deployment_id", json!(first)),
        ("deployment_name", deployment["name"].clone()),
        ("deployment_artifact_name", json!("app-1")),
        ("deployment_type", json!("software")),
        ("deployment_created", deployment["created"].clone()),
        ("deployment_filter_id", json!("")),
        ("deployment_all_devices", json!(false)),
        ("deployment_force_installation", json!(false)),
        ("deployment_groups", json!([])),
        ("deployment_phased", json!(false)),
        ("deployment_retries", json!(0)),
        ("deployment_max_devices", json!(3)),
        ("deployment_autogenerate_deta", json!(false)),
        ("device_created", device["created"].clone()),
        ("device_finished", device["finished"].clone()),
        ("device_status", json!("failure")),
        ("device_is_log_available", json!(true)),
        ("device_retries", json!(0)),
        ("device_attempts", json!(0)),
        ("image_id", json!(artifact)),
        ("image_artifact_name", json!("app-1")),
        ("image_description", device["image"]["description"].clone()),
        ("image_device_types", json!(["rpi4"])),
        ("image_signed", json!(false)),
        ("image_artifact_info_format", json!("mender")),
        ("image_artifact_info_version", json!(3)),
        ("image_provides", device["image"]["artifact_provides"].clone()),
        ("image_depends", device["image"]["artifact_depends"].clone()),
        ("image_clears_provides", device["image"]["clears_artifact_provides"].clone()),
        ("image_size", device["image"]["size"].clone()),
    ] {
        assert_eq!(row[name], value, "{name}");
    }
    assert!(row["id"].is_string() && row["device_elapsed_seconds"].is_u64());
    assert_eq!((row.get("device_deleted"), row.get("deployment_phase_id")), (None, None));
}

async fn devices_of_deployments_are_rows_that_can_be_searched(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let artifact = user.has_uploaded(&ArtifactRecipe::module("app-1", "rpi4").make()).await;
    user.has_uploaded(&ArtifactRecipe::module("app-2", "rpi4").make()).await;
    let (one, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let untold = hub.accepted_by(&user).await;
    let first = user.has_deployed("app-1", &[&one.id, &other.id, &untold.id]).await;
    let second = user.has_deployed("app-2", &[&one.id]).await;
    assert_eq!(user.post(ROWS, &json!({})).await.expect(200).json(), json!([]), "none was told");
    one.polls("old", "rpi4").await.expect(200);
    other.polls("old", "rpi4").await.expect(200);
    one.says(&first, "success").await.expect(204);
    other.says(&first, "failure").await.expect(204);
    other
        .logs(
            &first,
            &json!({"messages": [{"timestamp": "2026-01-02T03:04:05Z", "level": "error", "message": "boom"}]}),
        )
        .await
        .expect(204);
    one.polls("app-1", "rpi4").await.expect(200);
    one.says(&second, "success").await.expect(204);

    let rows = async |body: Value| user.post(ROWS, &body).await.expect(200);
    let by = |name: &str, value: &str| json!({"attribute": name, "type": "$eq", "value": value});
    let pairs = async |body: Value| -> Vec<(String, String)> {
        let answer = rows(body).await;
        let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
        let list = answer.json();
        let mut pairs: Vec<_> =
            list.as_array().unwrap().iter().map(|row| (text(row, "deployment_id"), text(row, "device_id"))).collect();
        assert_eq!(answer.header("x-total-count"), pairs.len().to_string());
        pairs.sort();
        pairs
    };
    let pair = |deployment: &str, device: &str| (deployment.to_owned(), device.to_owned());
    let mut succeeded = vec![pair(&first, &one.id), pair(&second, &one.id)];
    succeeded.sort();
    assert_eq!(pairs(json!({"filters": [by("device_status", "success")]})).await, succeeded);
    let both = json!([by("device_status", "success"), by("deployment_id", &first)]);
    assert_eq!(pairs(json!({"filters": both})).await, [pair(&first, &one.id)]);
    let ids = json!({"deployment_ids": [first], "device_ids": [other.id, untold.id]});
    assert_eq!(pairs(ids).await, [pair(&first, &other.id)]);

    let row = rows(json!({"filters": [by("device_status", "failure")]})).await.json()[0].clone();
    says_all_of_the_failed(&row, &user, &artifact, &first, &other.id).await;

    let projection = json!([{"attribute": "device_status"}]);
    let sort =
        json!([{"attribute": "device_status", "order": "desc"}, {"attribute": "deployment_created", "order": "asc"}]);
    let page = rows(json!({"attributes": projection, "sort": sort, "page": 3, "per_page": 1})).await;
    assert_eq!(page.header("x-total-count"), "3");
    assert_eq!(page.json()[0]["device_status"], "failure");
    assert_eq!(page.json()[0].as_object().unwrap().len(), 2, "the id, and what was asked for");
    let types = json!({"filters": [{"attribute": "image_device_types", "type": "$regex", "value": "rpi."}]});
    assert_eq!(pairs(types).await.len(), 3);
    for wrong in [
        json!({"filters": 1}),
        json!({"filters": [by("no_such_field", "x")]}),
        json!({"filters": [{"attribute": "device_status", "type": "$in", "value": "success"}]}),
        json!({"per_page": 501}),
        json!([]),
    ] {
        user.post(ROWS, &wrong).await.expect(400).error();
    }

    let term = |attribute: &str, within: Value| json!({"name": "by", "attribute": attribute, "aggregations": within});
    let asked = json!({
        "aggregations": [term("device_status", json!([term("deployment_artifact_name", json!([]))]))],
        "device_ids": [one.id],
    });
    let counted = user.post(COUNTS, &asked).await.expect(200).json();
    let within = json!([{"name": "by", "items": [{"key": "app-1", "count": 1}, {"key": "app-2", "count": 1}], "other_count": 0}]);
    let items = json!([{"key": "success", "count": 2, "aggregations": within}]);
    assert_eq!(counted, json!([{"name": "by", "items": items, "other_count": 0}]));
    for wrong in [
        json!({}),
        json!({"aggregations": [term("no_such_field", json!([]))]}),
        json!({"aggregations": [{"attribute": "device_status"}]}),
        json!({"aggregations": [term("device_status", json!([]))], "filters": [by("no_such_field", "x")]}),
        json!([]),
    ] {
        user.post(COUNTS, &wrong).await.expect(400).error();
    }
}
