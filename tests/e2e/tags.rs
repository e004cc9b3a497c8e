//! What users note about devices.

use harness::{Answer, Set, TestUser, both_sets};
use serde_json::{Value, json};

use crate::device_list::{DEVICES, UNKNOWN, scope};

both_sets!([
    tags_are_guarded_against_being_overwritten_unseen,
    too_many_tags_store_nothing,
    tags_are_written_at_a_time_and_are_no_report,
    tags_of_an_unknown_device_are_not_found,
]);

async fn write(user: &TestUser, method: &str, device: &str, seen: Option<&str>, tags: &Value) -> Answer {
    let mut request = user.request(method, &format!("{DEVICES}/{device}/tags")).json(tags);
    if let Some(seen) = seen {
        request = request.header("If-Match", seen);
    }
    Answer::to(request).await
}

fn tag(name: &str, value: &str) -> Value {
    json!([{"name": name, "value": value, "scope": "inventory"}])
}

async fn tags_are_guarded_against_being_overwritten_unseen(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await.id;
    let version = async || user.get(&format!("{DEVICES}/{device}")).await.expect(200).header("etag").to_owned();
    assert_eq!(version().await, "");

    let answer = write(&user, "PUT", &device, None, &tag("a", "1")).await.expect(200);
    assert!(answer.body.is_empty());
    let first = version().await;
    assert!(!first.is_empty());
    assert_eq!(answer.header("etag"), first);
    write(&user, "PUT", &device, Some(&first), &tag("a", "2")).await.expect(200);
    let second = version().await;
    assert_ne!(first, second);
    let refusal = write(&user, "PUT", &device, Some(&first), &tag("a", "3")).await.expect(412);
    assert_eq!(refusal.error(), "ETag does not match");
    write(&user, "PUT", &device, Some(&first), &json!([])).await.expect(412);
    assert_eq!(scope(&user, &device, "tags").await, json!({"a": "2"}));

    write(&user, "PATCH", &device, Some(&format!("\"{second}\"")), &tag("b", "1")).await.expect(200);
    write(&user, "PATCH", &device, Some("*"), &tag("b", "2")).await.expect(200);
    assert_eq!(scope(&user, &device, "tags").await, json!({"a": "2", "b": "2"}));
    // Nobody is told that nothing has changed: the version is that of the tags alone.
    let third = version().await;
    let request = user.request("GET", &format!("{DEVICES}/{device}")).header("If-None-Match", &third);
    assert_eq!(Answer::to(request).await.expect(200).header("cache-control"), "no-cache");
}

async fn too_many_tags_store_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await.id;
    let tags = |number: usize| {
        let tags = (0..number).map(|number| json!({"name": format!("t{number}"), "value": "x"}));
        Value::Array(tags.collect())
    };
    write(&user, "PUT", &device, None, &tags(21)).await.expect(400).error();
    assert_eq!(scope(&user, &device, "tags").await, json!({}));
    write(&user, "PUT", &device, None, &tags(20)).await.expect(200);
    write(&user, "PATCH", &device, None, &tag("one more", "x")).await.expect(400).error();
    write(&user, "PATCH", &device, None, &tag("t0", "y")).await.expect(200);
    for wrong in [json!([{"name": "a"}]), json!([{"name": "a", "value": true}]), json!({}), json!([{"value": "x"}])] {
        write(&user, "PATCH", &device, None, &wrong).await.expect(400).error();
    }
    assert_eq!(scope(&user, &device, "tags").await.as_object().unwrap().len(), 20);
}

async fn tags_are_written_at_a_time_and_are_no_report(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    device.report(&json!([{"name": "a", "value": "b"}])).await.expect(200);
    let path = format!("{DEVICES}/{}", device.id);
    let before = user.get(&path).await.expect(200).json();
    let forged = json!([{"name": "name", "value": "lamp", "timestamp": "2001-01-01T00:00:00.000Z"}]);
    write(&user, "PUT", &device.id, None, &forged).await.expect(200);
    let after = user.get(&path).await.expect(200).json();
    assert_eq!(after["updated_ts"], before["updated_ts"]);
    let attributes = after["attributes"].as_array().unwrap();
    let tag = attributes.iter().find(|attribute| attribute["scope"] == "tags").unwrap();
    assert!(tag["timestamp"].as_str().unwrap() > "2020", "{tag}");
    assert!(after["identities"].as_array().unwrap().contains(&json!("lamp")));
}

async fn tags_of_an_unknown_device_are_not_found(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for seen in [None, Some("x"), Some("*")] {
        for method in ["PUT", "PATCH"] {
            write(&user, method, UNKNOWN, seen, &tag("a", "1")).await.expect(404).error();
        }
    }
    user.get(&format!("{DEVICES}/{UNKNOWN}")).await.expect(404);
}
