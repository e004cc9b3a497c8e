//! Searches whose question is in the body, filters with a name, and the fleet at a glance.

use harness::{Answer, Set, TestUser, both_sets};
use serde_json::{Value, json};

use crate::device_list::{DEVICES, UNKNOWN, device_with, ids, only};

both_sets!([
    a_text_never_equals_a_number_and_an_array_is_what_it_holds,
    what_is_not_there_passes_what_denies,
    numbers_are_sorted_as_numbers,
    a_search_against_the_rules_is_refused,
    devices_that_were_not_heard_of_are_older_than_any_time,
    presence_divides_the_fleet_and_expressions_begin_at_the_start,
    an_answer_shows_what_is_asked_for,
    free_text_finds_a_device_as_soon_as_it_is_so,
    names_with_dots_and_dollars_are_names,
    the_fleet_at_a_glance_adds_up,
    a_saved_filter_is_a_group_that_changes_by_itself,
    a_decommissioned_device_is_found_no_more,
    numbers_in_an_identity_break_no_list,
    identities_are_found_by_their_beginning,
]);

const SEARCH: &str = "/api/management/v2/inventory/filters/search";
const FILTERS: &str = "/api/management/v2/inventory/filters";

async fn ask(user: &TestUser, body: Value) -> Answer {
    let answer = user.post(SEARCH, &body).await.expect(200);
    assert!(!answer.header("x-total-count").is_empty());
    answer
}

fn predicate(name: &str, operator: &str, value: impl Into<Value>) -> Value {
    let value: Value = value.into();
    json!({"scope": "inventory", "attribute": name, "type": operator, "value": value})
}

/// The devices that pass, by their places in `among`.
async fn passing(user: &TestUser, among: &[&str], filter: Value) -> Vec<usize> {
    let answer = ask(user, json!({"filters": [filter], "per_page": 500})).await;
    let found = ids(&answer);
    assert_eq!(answer.header("x-total-count"), found.len().to_string());
    (0..among.len()).filter(|place| found.contains(&among[*place].to_owned())).collect()
}

async fn a_text_never_equals_a_number_and_an_array_is_what_it_holds(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let number = device_with(&hub, &user, &[("x", json!(5))]).await.id;
    let text = device_with(&hub, &user, &[("x", json!("5"))]).await.id;
    let list = device_with(&hub, &user, &[("x", json!(["5", "6"]))]).await.id;
    let all = [number.as_str(), &text, &list];
    let by = async |operator: &str, value: Value| passing(&user, &all, predicate("x", operator, value)).await;
    assert_eq!(by("$eq", json!(5)).await, [0]);
    assert_eq!(by("$eq", json!("5")).await, [1, 2]);
    assert_eq!(by("$eq", json!("6")).await, [2]);
    assert_eq!(by("$eq", json!(["5", "6"])).await, [2]);
    assert_eq!(by("$in", json!([5, "6"])).await, [0, 2]);
    assert_eq!(by("$gt", json!(4)).await, [0]);
    assert_eq!(by("$gte", json!("5")).await, [1, 2]);
    assert_eq!(by("$lt", json!("6")).await, [1, 2]);
    assert_eq!(by("$lte", json!(5)).await, [0]);
    assert_eq!(by("$gt", json!("5")).await, [2]);
}

async fn what_is_not_there_passes_what_denies(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let with = device_with(&hub, &user, &[("x", json!("a"))]).await.id;
    let without = hub.accepted_by(&user).await.id;
    let all = [with.as_str(), &without];
    let by = async |operator: &str, value: Value| passing(&user, &all, predicate("x", operator, value)).await;
    assert_eq!(by("$ne", json!("a")).await, [1]);
    assert_eq!(by("$ne", json!("b")).await, [0, 1]);
    assert_eq!(by("$nin", json!(["a", "b"])).await, [1]);
    assert_eq!(by("$nin", json!([])).await, [0, 1]);
    assert_eq!(by("$in", json!([])).await, Vec::<usize>::new());
    // The web UI's "not in any group".
    user.put(&format!("{DEVICES}/{with}/group"), &json!({"group": "hall"})).await.expect(204);
    let ungrouped = json!({"scope": "system", "attribute": "group", "type": "$nin", "value": ["hall"]});
    assert_eq!(passing(&user, &all, ungrouped).await, [1]);
}

async fn numbers_are_sorted_as_numbers(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut expected = vec![];
    for number in [1, 9, 10, 80, 100] {
        expected.push(
            device_with(&hub, &user, &[("x", json!(number)), ("odd", json!(number % 2 == 1).to_string().into())])
                .await
                .id,
        );
    }
    let search = json!({
        "filters": [predicate("x", "$nin", json!([9, 80]))],
        "sort": [{"scope": "inventory", "attribute": "x", "order": "desc"}],
    });
    let expected: Vec<String> = [4, 2, 0].iter().map(|place: &usize| expected[*place].clone()).collect();
    assert_eq!(ids(&ask(&user, search).await), expected);
}

async fn a_search_against_the_rules_is_refused(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let filter = |filter: Value| json!({"filters": [filter]});
    for body in [
        filter(json!({"scope": "inventory", "attribute": "x", "value": 1})),
        filter(json!({"scope": "inventory", "type": "$eq", "value": 1})),
        filter(json!({"attribute": "x", "type": "$eq", "value": 1})),
        filter(json!({"scope": "inventory", "attribute": "x", "type": "$eq"})),
        filter(json!({"scope": "inventory", "attribute": "x", "type": "$eq", "value": null})),
        filter(json!({"scope": "../../etc", "attribute": "x", "type": "$eq", "value": 1})),
        filter(json!({"scope": "inventory", "attribute": "x", "type": "$type", "value": 1})),
        filter(json!({"scope": "inventory", "attribute": "x", "type": "$in", "value": "scalar"})),
        filter(json!({"scope": "inventory", "attribute": "x", "type": "$exists", "value": 7})),
        filter(json!({"scope": "system", "attribute": "created_ts", "type": "$gt", "value": "garbage"})),
        json!({"sort": [{"scope": "inventory", "attribute": "x"}]}),
        json!({"sort": [{"scope": "inventory", "attribute": "x", "order": "up"}]}),
        json!({"sort": [{"scope": "cellar", "attribute": "x", "order": "asc"}]}),
        json!({"attributes": [{"scope": "cellar", "attribute": "x"}]}),
        json!({"per_page": 501}),
        json!({"filters": "all"}),
    ] {
        user.post(SEARCH, &body).await.expect(400).error();
    }
    let malformed = user.request("POST", SEARCH).header("Content-Type", "application/json").body("{");
    Answer::to(malformed).await.expect(400).error();
    ask(&user, json!({"page": 0, "per_page": -1, "unknown": true})).await;
}

async fn devices_that_were_not_heard_of_are_older_than_any_time(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let heard = hub.accepted_by(&user).await.id;
    let waiting = hub.device();
    waiting.ask().await.expect(401);
    let unheard = user.device_with(&waiting.identity).await.unwrap()["id"].as_str().unwrap().to_owned();
    let all = [heard.as_str(), &unheard];
    let by = |name: &str, operator: &str, time: &str| json!({"scope": "system", "attribute": name, "type": operator, "value": time});
    harness::wait_until(harness::LIMIT, "the check-in", async || {
        let old = passing(&user, &all, by("check_in_time", "$ltne", "2020-01-01T00:00:00Z")).await;
        (old == [1]).then_some(())
    })
    .await;
    assert_eq!(passing(&user, &all, by("check_in_time", "$ltne", "2099-01-01T00:00:00.000Z")).await, [0, 1]);
    assert_eq!(passing(&user, &all, by("created_ts", "$gt", "2020-01-01T00:00:00Z")).await, [0, 1]);
    assert_eq!(passing(&user, &all, by("created_ts", "$lt", "2020-01-01")).await, Vec::<usize>::new());
    user.post(SEARCH, &json!({"filters": [by("check_in_time", "$ltne", "long ago")]})).await.expect(400).error();
}

async fn presence_divides_the_fleet_and_expressions_begin_at_the_start(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let one = device_with(&hub, &user, &[("version", json!("v1.2"))]).await.id;
    let two = device_with(&hub, &user, &[("version", json!("rev1"))]).await.id;
    let none = hub.accepted_by(&user).await.id;
    let all = [one.as_str(), &two, &none];
    let by = async |operator: &str, value: Value| passing(&user, &all, predicate("version", operator, value)).await;
    assert_eq!(by("$exists", json!(true)).await, [0, 1]);
    assert_eq!(by("$exists", json!(false)).await, [2]);
    assert_eq!(by("$exists", json!("false")).await, [2]);
    for expression in ["v1", "^v1", "/V1/i", "v1.*", r"v\d"] {
        assert_eq!(by("$regex", json!(expression)).await, [0], "{expression}");
    }
    assert_eq!(by("$regex", json!(".*v1")).await, [0, 1]);
    for wrong in ["(", "(?=v)", r"(v)\1", "V1", "(a+)+$"] {
        assert_eq!(by("$regex", json!(wrong)).await, Vec::<usize>::new(), "{wrong}");
    }
    user.post(SEARCH, &json!({"filters": [predicate("version", "$regex", json!(1))]})).await.expect(400).error();
}

async fn an_answer_shows_what_is_asked_for(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("a", json!("1")), ("b", json!("2"))]).await.id;
    let other = device_with(&hub, &user, &[("a", json!("3"))]).await.id;
    let search = json!({"device_ids": [device, UNKNOWN], "attributes": [{"scope": "inventory", "attribute": "a"}]});
    let answer = ask(&user, search).await.json();
    assert_eq!(answer.as_array().unwrap().len(), 1);
    let shown = answer[0].as_object().unwrap();
    let mut members: Vec<&str> = shown.keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["attributes", "id", "updated_ts"]);
    let mut attributes: Vec<&str> = answer[0]["attributes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attribute| attribute["name"].as_str().unwrap())
        .collect();
    attributes.sort_unstable();
    assert_eq!(attributes, ["a", "updated_ts"]);

    let by_id = json!({"filters": [{"scope": "identity", "attribute": "id", "type": "$eq", "value": other}]});
    assert_eq!(ids(&ask(&user, by_id).await), only(&other));
    let mut both = [device, other];
    both.sort();
    let sorted = json!({"sort": [{"scope": "identity", "attribute": "id", "order": "asc"}]});
    assert_eq!(ids(&ask(&user, sorted).await), both);
    assert_eq!(ids(&ask(&user, json!({"device_ids": ["nonsense"]})).await), Vec::<String>::new());
}

async fn free_text_finds_a_device_as_soon_as_it_is_so(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("artifact_name", json!("release-v4"))]).await;
    let _other = hub.accepted_by(&user).await;
    let text = async |text: &str| ids(&ask(&user, json!({"text": text, "filters": []})).await);
    assert_eq!(text("releas").await, only(&device.id));
    assert_eq!(text(&device.id[..8]).await, only(&device.id));
    let mac = device.identity["mac"].as_str().unwrap();
    assert_eq!(text(mac).await[0], device.id, "what is known by it comes first");
    assert_eq!(text("hallwa").await, Vec::<String>::new());
    let tag = json!([{"name": "name", "value": "Hallway lamp"}]);
    user.put(&format!("{DEVICES}/{}/tags", device.id), &tag).await.expect(200);
    assert_eq!(text("HALLWA").await, only(&device.id));
    user.put(&format!("{DEVICES}/{}/group", device.id), &json!({"group": "cellar"})).await.expect(204);
    assert_eq!(text("cella").await, only(&device.id));
    user.delete(&format!("{DEVICES}/{}/group/cellar", device.id)).await.expect(204);
    assert_eq!(text("cella").await, Vec::<String>::new());
}

async fn names_with_dots_and_dollars_are_names(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let names = ["rootfs-image.version", "$set", "a.$b"];
    let report: Vec<(&str, Value)> = names.iter().map(|name| (*name, json!("v1"))).collect();
    let device = device_with(&hub, &user, &report).await.id;
    for name in names {
        let search = json!({
            "filters": [predicate(name, "$eq", json!("v1"))],
            "sort": [{"scope": "inventory", "attribute": name, "order": "desc"}],
            "attributes": [{"scope": "inventory", "attribute": name}],
        });
        let answer = ask(&user, search).await.json();
        assert_eq!(answer[0]["id"], json!(device), "{name}");
        assert!(answer[0]["attributes"].as_array().unwrap().iter().any(|attribute| attribute["name"] == name));
        let shown = crate::device_list::scope(&user, &device, "inventory").await;
        assert_eq!(shown[name], "v1");
    }
}

async fn the_fleet_at_a_glance_adds_up(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let statistics = async || user.get("/api/management/v2/inventory/statistics").await.expect(200).json();
    let none = json!({"standard": 0, "micro": 0, "system": 0});
    assert_eq!(statistics().await, json!({"devices_by_status": {"accepted": none, "pending": none}}));
    assert_eq!(user.get(&format!("{FILTERS}/attributes")).await.expect(200).json(), json!([]));

    device_with(&hub, &user, &[("often", json!("1")), ("seldom", json!("1"))]).await;
    device_with(&hub, &user, &[("often", json!("2"))]).await;
    hub.device().ask().await.expect(401);
    let counted = statistics().await["devices_by_status"].clone();
    assert_eq!((&counted["accepted"]["standard"], &counted["pending"]["standard"]), (&json!(2), &json!(1)));

    let known = user.get(&format!("{FILTERS}/attributes")).await.expect(200).json();
    let known = known.as_array().unwrap().clone();
    let count = |scope: &str, name: &str| {
        let found = known.iter().find(|known| known["scope"] == scope && known["name"] == name);
        found.map_or(0, |found| found["count"].as_u64().unwrap())
    };
    assert_eq!((count("identity", "status"), count("inventory", "often"), count("inventory", "seldom")), (3, 2, 1));
    let order: Vec<_> = known
        .iter()
        .map(|known| {
            (u64::MAX - known["count"].as_u64().unwrap(), known["scope"].to_string(), known["name"].to_string())
        })
        .collect();
    assert!(order.is_sorted(), "{known:?}");
}

async fn a_saved_filter_is_a_group_that_changes_by_itself(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("version", json!("v1"))]).await;
    let terms = json!([predicate("version", "$eq", json!("v1")), predicate("nothing", "$exists", json!(false))]);
    let filter = json!({"name": "old ones", "terms": terms});
    let created = user.post(FILTERS, &filter).await.expect(201);
    let id = created.header("location").rsplit('/').next().unwrap().to_owned();
    assert_eq!(user.post(FILTERS, &filter).await.expect(409).error(), "a filter with this name exists already");
    for wrong in [
        json!({"name": "x", "terms": []}),
        json!({"name": "x"}),
        json!({"terms": terms}),
        json!({"name": "x", "terms": [{"scope": "inventory", "attribute": "a"}]}),
    ] {
        user.post(FILTERS, &wrong).await.expect(400).error();
        user.put(&format!("{FILTERS}/{id}"), &wrong).await.expect(400).error();
    }
    let shown = json!({"id": id, "name": "old ones", "terms": terms});
    assert_eq!(user.get(&format!("{FILTERS}/{id}")).await.expect(200).json(), shown);
    let listed = user.get(&format!("{FILTERS}?per_page=500")).await.expect(200);
    assert_eq!((listed.json(), listed.header("x-total-count")), (json!([shown]), "1"));

    let members = async || user.get(&format!("{FILTERS}/{id}/search")).await.expect(200);
    assert_eq!(ids(&members().await), only(&device.id));
    device.report(&json!([{"name": "version", "value": "v2"}])).await.expect(200);
    let nobody = members().await;
    assert_eq!((nobody.json(), nobody.header("x-total-count")), (json!([]), "0"));
    let newer = json!({"name": "new ones", "terms": [predicate("version", "$regex", json!("v2"))]});
    user.put(&format!("{FILTERS}/{id}"), &newer).await.expect(204);
    assert_eq!(ids(&members().await), only(&device.id));

    user.delete(&format!("{FILTERS}/{id}")).await.expect(204);
    for answer in [
        user.delete(&format!("{FILTERS}/{id}")).await,
        user.get(&format!("{FILTERS}/{id}")).await,
        user.get(&format!("{FILTERS}/{id}/search")).await,
        user.put(&format!("{FILTERS}/{id}"), &newer).await,
    ] {
        answer.expect(404).error();
    }
}

async fn a_decommissioned_device_is_found_no_more(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = device_with(&hub, &user, &[("artifact_name", json!("release"))]).await;
    user.put(&format!("{DEVICES}/{}/group", device.id), &json!({"group": "hall"})).await.expect(204);
    user.delete(&format!("/api/management/v2/devauth/devices/{}", device.id)).await.expect(204);
    harness::wait_until(harness::LIMIT, "the device to be gone", async || {
        (user.get(&format!("{DEVICES}/{}", device.id)).await.status == 404).then_some(())
    })
    .await;
    device.report(&json!([{"name": "late", "value": "1"}])).await.refuses_token();
    user.get(&format!("{DEVICES}/{}", device.id)).await.expect(404);
    assert_eq!(user.get(DEVICES).await.expect(200).json(), json!([]));
    assert_eq!(user.get("/api/management/v1/inventory/groups").await.expect(200).json(), json!([]));
    assert_eq!(ids(&ask(&user, json!({"text": "release"})).await), Vec::<String>::new());
    assert_eq!(user.get(&format!("{FILTERS}/attributes")).await.expect(200).json(), json!([]));
}

async fn numbers_in_an_identity_break_no_list(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut device = hub.device();
    device.identity = json!({"serial": 4711, "list": [1, 2], "deep": {"a": true}});
    device.join(&user).await;
    let path = format!("{DEVICES}/{}", device.id);
    user.put(&format!("{path}/tags"), &json!([{"name": "name", "value": 7}])).await.expect(200);
    let shown = user.get(&path).await.expect(200).json();
    let identities = shown["identities"].as_array().unwrap();
    assert!(identities.contains(&json!("4711")) && identities.contains(&json!("7")), "{identities:?}");
    for answer in [user.get(DEVICES).await, ask(&user, json!({})).await, ask(&user, json!({"text": "4711"})).await] {
        assert_eq!(ids(&answer.expect(200)), only(&device.id));
    }
}

async fn identities_are_found_by_their_beginning(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let path = "/api/management/v2alpha1/inventory/identities/search";
    let (one, two) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let tag = json!([{"name": "name", "value": "Kitchen lamp"}]);
    user.put(&format!("{DEVICES}/{}/tags", two.id), &tag).await.expect(200);
    for (scope, name, prefix, expected) in [
        ("identity", "id", &one.id[..13], &one.id),
        ("identity", "mac", one.identity["mac"].as_str().unwrap(), &one.id),
        ("tags", "name", "Kitchen", &two.id),
    ] {
        let answer = user.post(path, &json!({"scope": scope, "name": name, "value_prefix": prefix})).await.expect(200);
        assert_eq!((ids(&answer), answer.header("x-total-count")), (vec![expected.clone()], "1"), "{scope} {name}");
    }
    for wrong in [json!({}), json!({"scope": "inventory", "name": "a", "value_prefix": "b"})] {
        user.post(path, &wrong).await.expect(400).error();
    }
    let components = |id: &str| format!("/api/management/v2alpha1/inventory/devices/{id}/components");
    assert_eq!(user.get(&components(&one.id)).await.expect(200).json(), json!({}));
    user.get(&components(UNKNOWN)).await.expect(404).error();
}
