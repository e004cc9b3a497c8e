//! Deployments are made, found and ended; devices go through them in order, and are counted where they stand.

use std::time::Duration;

use harness::{
    ARTIFACTS, Answer, ArtifactRecipe, DEPLOYMENTS, LIMIT, Set, TestDevice, TestUser, both_sets, id_of, wait_until,
};
use serde_json::{Value, json};

both_sets!([
    a_deployment_counts_its_devices,
    a_wish_against_the_rules_makes_nothing,
    a_group_gets_what_its_accepted_members_are_to_have,
    a_device_is_told_and_fetches_it,
    the_smallest_artifact_of_its_kind_is_offered,
    a_device_that_has_it_needs_it_only_if_forced,
    a_deployment_ends_with_its_last_device,
    what_a_device_may_say_is_bounded,
    a_device_that_turns_into_another_has_failed,
    an_aborted_deployment_is_over_for_everybody,
    what_is_deployed_cannot_be_removed,
    a_log_is_kept_line_by_line,
    devices_of_a_deployment_are_paged,
    deployments_are_listed_by_what_they_are,
    the_oldest_is_offered_before_the_newer,
    a_removed_device_is_counted_as_such,
    a_device_may_be_made_to_forget,
    a_filter_chooses_when_devices_ask,
    work_is_remembered_through_a_crash_and_a_restart,
]);

const V2: &str = "/api/management/v2/deployments/deployments";
const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

async fn upload(user: &TestUser, name: &str, device_type: &str) -> String {
    user.has_uploaded(&ArtifactRecipe::module(name, device_type).make()).await
}

/// Which deployment a device is told of.
fn told(answer: &Answer) -> Value {
    answer.json()["id"].clone()
}

async fn status(user: &TestUser, deployment: &str) -> Value {
    user.deployment(deployment).await["status"].clone()
}

async fn group(user: &TestUser, device: &TestDevice, name: &str) {
    let path = format!("/api/management/v1/inventory/devices/{}/group", device.id);
    user.put(&path, &json!({"group": name})).await.expect(204);
}

async fn a_deployment_counts_its_devices(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let artifact = upload(&user, "app-2.1", "rpi4").await;
    let (one, other) = (hub.accepted_by(&user).await.id, "no id at all".to_owned());
    group(&user, &hub.accepted_by(&user).await, "unrelated").await;
    let answer = user.deploy("app-2.1", &[&one, &other]).await.expect(201);
    let id = id_of(&answer);
    assert_eq!(answer.header("location"), format!("{DEPLOYMENTS}/{id}"));
    assert_eq!(user.counts(&id).await, json!({"pending": 2}));
    let deployment = user.deployment(&id).await;
    assert_eq!((&deployment["id"], &deployment["status"]), (&json!(id), &json!("pending")));
    assert_eq!((&deployment["name"], &deployment["artifact_name"]), (&json!("fleet-7"), &json!("app-2.1")));
    assert_eq!((&deployment["type"], &deployment["artifacts"]), (&json!("software"), &json!([artifact])));
    assert_eq!((&deployment["max_devices"], &deployment["device_count"]), (&json!(2), &json!(0)));
    let term = json!({"scope": "identity", "attribute": "id", "type": "$in", "value": [one, other]});
    assert_eq!(deployment["filter"], json!({"id": "", "name": "", "terms": [term]}));
    assert_eq!(deployment["statistics"]["total_size"], 0);
    for absent in ["finished", "force_installation", "groups", "configuration"] {
        assert_eq!(deployment.get(absent), None, "{absent}");
    }
    let mut members = vec![json!(one), json!(other)];
    members.sort_by_key(Value::to_string);
    let listed = user.get(&format!("{DEPLOYMENTS}/{id}/device_list")).await.expect(200).json();
    assert_eq!(listed, json!(members));
    for path in ["devices", "devices/list"] {
        assert_eq!(
            user.get(&format!("{DEPLOYMENTS}/{id}/{path}")).await.expect(200).json(),
            json!([]),
            "none was told"
        );
    }
}

async fn a_wish_against_the_rules_makes_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let make = async |body: &Value| user.post(DEPLOYMENTS, body).await;
    let long = "ä".repeat(257);
    for wrong in [
        json!({"name": "a", "artifact_name": "app-1", "devices": []}),
        json!({"name": "a", "artifact_name": "app-1"}),
        json!({"name": "a", "artifact_name": "app-1", "devices": ["x"], "all_devices": true}),
        json!({"name": "a", "artifact_name": "app-1", "devices": [""]}),
        json!({"name": "a", "artifact_name": "app-1", "devices": [long]}),
        json!({"name": "a", "artifact_name": "app-1", "all_devices": true}),
        json!({"name": "", "artifact_name": "app-1", "devices": ["x"]}),
        json!({"name": long, "artifact_name": "app-1", "devices": ["x"]}),
        json!({"name": "a", "artifact_name": "", "devices": ["x"]}),
        json!({"name": "a", "artifact_name": "a\0b", "devices": ["x"]}),
        json!([]),
    ] {
        make(&wrong).await.expect(400).error();
    }
    let error = make(&json!({"name": "a", "artifact_name": "app-0", "devices": ["x"]})).await.expect(422).error();
    assert_eq!(error, "No artifact for the deployment");
    // What belongs to other editions does no harm.
    let mut wish = json!({
        "name": &long[2..], "artifact_name": "app-1", "devices": ["x", "y"], "phases": [{"batch_size": 20}], "retries": 3,
        "update_control_map": {"states": {}}, "autogenerate_delta": true, "group": "", "max_devices": 5,
    });
    let first = id_of(&make(&wish).await.expect(201));
    let error = make(&wish).await.expect(409).error();
    assert!(error.starts_with("Invalid deployment definition"), "{error}");
    wish["devices"] = json!(["y", "x"]);
    make(&wish).await.expect(201);
    wish["devices"] = json!(["x", "y"]);
    user.abort(&first).await.expect(204);
    make(&wish).await.expect(201);
    for (path, status) in [("x", 400), (UNKNOWN, 404)] {
        for below in ["", "/statistics", "/devices", "/devices/list", "/device_list", "/devices/x/log"] {
            user.get(&format!("{DEPLOYMENTS}/{path}{below}")).await.expect(status).error();
        }
        user.abort(path).await.expect(status).error();
    }
    let many: Vec<&str> = std::iter::repeat_n(UNKNOWN, 101).collect();
    let statistics = format!("{DEPLOYMENTS}/statistics/list");
    for (ids, status) in [(json!(many), 400), (json!([]), 400), (json!(["x"]), 400), (json!(many[1..]), 404)] {
        user.post(&statistics, &json!({"deployment_ids": ids})).await.expect(status).error();
    }
    let found = user.post(&statistics, &json!({"deployment_ids": [first, UNKNOWN]})).await.expect(200).json();
    assert_eq!((found.as_array().unwrap().len(), &found[0]["id"]), (1, &json!(first)));
    assert_eq!(found[0]["stats"].as_object().unwrap().len(), 13);
}

async fn a_group_gets_what_its_accepted_members_are_to_have(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let (member, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let waiting = hub.device();
    waiting.ask().await.expect(401);
    let pending = user.device_with(&waiting.identity).await.unwrap()["id"].as_str().unwrap().to_owned();
    group(&user, &member, "hall").await;
    let path = format!("/api/management/v1/inventory/devices/{pending}/group");
    user.put(&path, &json!({"group": "hall"})).await.expect(204);
    let wish = json!({"name": "hall", "artifact_name": "app-1"});
    let error = user.post(&format!("{DEPLOYMENTS}/group/nobody"), &wish).await.expect(400).error();
    assert_eq!(error, "No devices for the deployment");
    let with_devices = json!({"name": "hall", "artifact_name": "app-1", "devices": ["x"]});
    user.post(&format!("{DEPLOYMENTS}/group/hall"), &with_devices).await.expect(400).error();
    let id = id_of(&user.post(&format!("{DEPLOYMENTS}/group/hall"), &wish).await.expect(201));
    let deployment = user.deployment(&id).await;
    assert_eq!((&deployment["groups"], &deployment["max_devices"]), (&json!(["hall"]), &json!(1)));
    let term = json!({"scope": "system", "attribute": "group", "type": "$eq", "value": "hall"});
    assert_eq!(deployment["filter"]["terms"], json!([term]));
    assert_eq!(told(&member.polls("old", "rpi4").await.expect(200)), id);
    other.polls("old", "rpi4").await.expect(204);

    let wish = json!({"name": "All devices", "artifact_name": "app-1", "all_devices": true});
    let id = id_of(&user.post(DEPLOYMENTS, &wish).await.expect(201));
    let deployment = user.deployment(&id).await;
    assert_eq!((&deployment["max_devices"], deployment.get("groups")), (&json!(2), None));
    assert_eq!(told(&other.polls("old", "rpi4").await.expect(200)), id);
}

async fn a_device_is_told_and_fetches_it(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let file = ArtifactRecipe::module("app 2+ü", "rpi4").make();
    let artifact = user.has_uploaded(&file).await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    device.polls("old", "rpi4").await.expect(204);
    let id = user.has_deployed("app 2+ü", &[&device.id]).await;
    other.polls("old", "rpi4").await.expect(204);

    let v1 = "/api/devices/v1/deployments/device/deployments/next";
    let body = json!({"artifact_name": "old", "device_type": "rpi4", "artifact_provides": {"a": "b"}, "more": [1]});
    let v2_body = json!({"device_provides": {"artifact_name": "old", "device_type": "rpi4", "a": "b"}, "more": 1});
    for answer in [
        device.polls("old", "rpi4").await,
        Answer::to(device.request("POST", v1).json(&body)).await,
        Answer::to(device.request("POST", &v1.replace("v1", "v2")).json(&v2_body)).await,
    ] {
        let answer = answer.expect(200).json();
        assert_eq!((&answer["id"], &answer["artifact"]["id"]), (&json!(id), &json!(artifact)));
        assert_eq!(answer["artifact"]["artifact_name"], "app 2+ü");
        assert_eq!(answer["artifact"]["device_types_compatible"], json!(["rpi4"]));
        let source = &answer["artifact"]["source"];
        assert_eq!(source["method"], "GET");
        // Neither token nor anything else is sent along.
        let uri = source["uri"].as_str().unwrap();
        let fetched = Answer::to(reqwest::Client::new().get(uri)).await.expect(200);
        assert!(fetched.body == file);
        assert_eq!(fetched.header("content-length"), file.len().to_string());
        let range = format!("bytes=100-{}", file.len() - 1);
        let rest = Answer::to(reqwest::Client::new().get(uri).header("range", range)).await.expect(206);
        assert!(rest.body[..] == file[100..]);
        assert_eq!(rest.header("content-range"), format!("bytes 100-{}/{}", file.len() - 1, file.len()));
    }
    let deployment = user.deployment(&id).await;
    assert_eq!(deployment["statistics"]["total_size"], file.len());
    assert_eq!((&deployment["device_count"], &deployment["status"]), (&json!(1), &json!("pending")));

    let v2 = v1.replace("v1", "v2");
    for (path, wrong) in [
        (v1, json!({"artifact_name": "old"})),
        (v1, json!({"artifact_name": "", "device_type": "rpi4"})),
        (v2.as_str(), json!({"device_provides": {"device_type": "rpi4"}})),
        (v2.as_str(), json!({})),
    ] {
        Answer::to(device.request("POST", path).json(&wrong)).await.expect(400).error();
    }
    Answer::to(device.request("GET", v1)).await.expect(400).error();
    Answer::to(hub.door().request("GET", v1)).await.refuses_token();
    Answer::to(user.request("GET", v1)).await.refuses_token();
    Answer::to(device.request("GET", DEPLOYMENTS)).await.refuses_token();
}

async fn the_smallest_artifact_of_its_kind_is_offered(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let large =
        ArtifactRecipe::module("app", "rpi4").with_content(vec![7; 20_000]).with(&["--compression", "none"]).make();
    let small = ArtifactRecipe::module("app", "rpi4").with(&["--depends", "needs:what-nobody-has"]).make();
    user.has_uploaded(&large).await;
    let small_id = user.has_uploaded(&small).await;
    let (one, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let id = user.has_deployed("app", &[&one.id, &other.id]).await;
    assert_eq!(one.polls("old", "rpi4").await.expect(200).json()["artifact"]["id"], json!(small_id));
    other.polls("old", "rpi9").await.expect(204);
    assert_eq!(user.counts(&id).await, json!({"pending": 1, "noartifact": 1}));
    assert_eq!(user.deployment(&id).await["statistics"]["total_size"], small.len());
    let devices = user.deployed(&id).await;
    assert_eq!((&devices[1]["id"], &devices[1]["status"]), (&json!(other.id), &json!("noartifact")));
    assert_eq!(devices[1].get("image"), None);
    // A deployment that goes on takes in what comes later; who was told that there is nothing stays so.
    let third = hub.accepted_by(&user).await;
    let next = user.has_deployed("app", &[&third.id, &other.id]).await;
    let late = upload(&user, "app", "rpi9").await;
    assert_eq!(third.polls("old", "rpi9").await.expect(200).json()["artifact"]["id"], json!(late));
    assert_eq!(told(&other.polls("old", "rpi9").await.expect(200)), next);
}

async fn a_device_that_has_it_needs_it_only_if_forced(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let artifact = upload(&user, "app-1", "rpi4").await;
    let device = hub.accepted_by(&user).await;
    let id = user.has_deployed("app-1", &[&device.id]).await;
    device.polls("app-1", "rpi4").await.expect(204);
    assert_eq!(user.counts(&id).await, json!({"already-installed": 1}));
    let deployment = user.deployment(&id).await;
    assert_eq!((&deployment["status"], &deployment["statistics"]["total_size"]), (&json!("finished"), &json!(0)));
    assert!(deployment["finished"].is_string());
    assert_eq!(user.deployed(&id).await[0]["image"]["id"], json!(artifact));
    let wish = json!({"name": "again", "artifact_name": "app-1", "devices": [device.id], "force_installation": true});
    let id = id_of(&user.post(DEPLOYMENTS, &wish).await.expect(201));
    assert_eq!(user.deployment(&id).await["force_installation"], true);
    assert_eq!(told(&device.polls("app-1", "rpi4").await.expect(200)), id);
}

async fn a_deployment_ends_with_its_last_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let (one, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let id = user.has_deployed("app-1", &[&one.id, &other.id]).await;
    one.polls("old", "rpi4").await.expect(200);
    for said in ["downloading", "installing", "rebooting", "downloading", "pause_before_committing", "success"] {
        assert!(one.says(&id, said).await.expect(204).body.is_empty());
        assert_eq!(user.counts(&id).await, json!({"pending": 1, (said): 1}));
        assert_eq!(status(&user, &id).await, "inprogress");
    }
    // A second thought counts.
    one.says(&id, "failure").await.expect(204);
    other.polls("old", "rpi4").await.expect(200);
    let in_full = json!({"status": "installing", "substate": "unpacking"});
    other.says_in_full(&id, &in_full).await.expect(204);
    other.says(&id, "success").await.expect(204);
    let deployment = user.deployment(&id).await;
    assert_eq!(deployment["status"], "finished");
    assert_eq!(user.counts(&id).await, json!({"failure": 1, "success": 1}));
    let devices = user.deployed(&id).await;
    assert_eq!((&devices[0]["status"], devices[0].get("substate")), (&json!("failure"), None));
    assert_eq!((&devices[1]["status"], &devices[1]["substate"]), (&json!("success"), &json!("unpacking")));
    for member in ["created", "started", "finished"] {
        assert!(devices[1][member].is_string(), "{member}");
    }
    assert_eq!(devices[1]["created"], deployment["created"]);
    assert_eq!((&devices[1]["log"], &devices[1]["image"]["name"]), (&json!(false), &json!("app-1")));
    one.polls("old", "rpi4").await.expect(204);
}

async fn what_a_device_may_say_is_bounded(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let id = user.has_deployed("app-1", &[&device.id, &other.id]).await;
    device.says(&id, "downloading").await.expect(404).error();
    device.polls("old", "rpi4").await.expect(200);
    for wrong in ["foo", "pending", "aborted", "noartifact", "decommissioned", ""] {
        device.says(&id, wrong).await.expect(400).error();
    }
    device.says("x", "success").await.expect(400).error();
    device.says(UNKNOWN, "success").await.expect(404).error();
    other.says(&id, "success").await.expect(404).error();
    let with = |length: usize| json!({"status": "installing", "substate": "ä".repeat(length)});
    device.says_in_full(&id, &with(201)).await.expect(400).error();
    device.says_in_full(&id, &json!({})).await.expect(400).error();
    assert_eq!(user.counts(&id).await, json!({"pending": 2}));
    device.says_in_full(&id, &with(200)).await.expect(204);
    // Where it stands already nothing changes.
    device.says_in_full(&id, &json!({"status": "installing", "substate": "other"})).await.expect(204);
    assert_eq!(user.deployed(&id).await[0]["substate"], "ä".repeat(200));
}

async fn a_device_that_turns_into_another_has_failed(set: Set) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let device = hub.accepted_by(&user).await;
    let id = user.has_deployed("app-1", &[&device.id]).await;
    device.polls("old", "rpi4").await.expect(200);
    let error = device.polls("old", "rpi5").await.expect(409).error();
    assert_eq!(error, "Device provided conflicting request data");
    assert_eq!(user.counts(&id).await, json!({"failure": 1}));
    assert_eq!(status(&user, &id).await, "finished");
    let door = hub.internal_door();
    let last = "/api/internal/v1/deployments/tenants//devices/deployments/last";
    let ask =
        async |devices: &Value| Answer::to(door.request("POST", last).json(&json!({"device_ids": devices}))).await;
    let found = ask(&json!([device.id, "nobody"])).await.expect(200).json();
    let found = found["device_deployment_last_statuses"].as_array().unwrap().clone();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0]["device_id"], &found[0]["deployment_id"]), (&json!(device.id), &json!(id)));
    assert_eq!(found[0]["device_deployment_status"], "failure");
    let history = user.get(&format!("{DEPLOYMENTS}/devices/{}", device.id)).await.expect(200).json();
    assert_eq!(found[0]["device_deployment_id"], history[0]["id"]);
    let many: Vec<&str> = std::iter::repeat_n("x", 1025).collect();
    for wrong in [json!([]), json!(many), json!([""])] {
        ask(&wrong).await.expect(400).error();
    }
    let internal = async |method: &str, path: &str| Answer::to(door.request(method, path)).await;
    let listed = internal("GET", "/api/internal/v1/deployments/tenants//deployments").await.expect(200);
    assert_eq!((&listed.json()[0]["id"], listed.header("x-total-count")), (&json!(id), "1"));
    let of_device = format!("/api/internal/v1/deployments/tenants//deployments/devices/{}", device.id);
    assert_eq!(internal("GET", &of_device).await.expect(200).json(), history);
    internal("DELETE", &of_device).await.expect(204);
    internal("GET", "/api/internal/v1/deployments/tenants/other/deployments").await.expect(404);
    internal("GET", "/api/internal/v1/deployments/alive").await.expect(204);
    internal("GET", "/api/internal/v1/deployments/health").await.expect(204);
    let tenants = "/api/internal/v1/deployments/tenants";
    for _ in 0..2 {
        Answer::to(door.request("POST", tenants).json(&json!({"tenant_id": "one"}))).await.expect(201);
    }
    Answer::to(door.request("POST", tenants).json(&json!({}))).await.expect(400);
}

async fn an_aborted_deployment_is_over_for_everybody(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let id = user.has_deployed("app-1", &[&device.id, &other.id]).await;
    device.polls("old", "rpi4").await.expect(200);
    device.says(&id, "downloading").await.expect(204);
    let path = format!("{DEPLOYMENTS}/{id}/status");
    user.put(&path, &json!({"status": "success"})).await.expect(400).error();
    assert_eq!(status(&user, &id).await, "inprogress");
    assert!(user.abort(&id).await.expect(204).body.is_empty());
    assert_eq!(user.counts(&id).await, json!({"aborted": 2}));
    assert_eq!(status(&user, &id).await, "finished");
    assert_eq!(device.says(&id, "installing").await.expect(409).error(), "Deployment aborted");
    user.abort(&id).await.expect(422).error();
    for device in [&device, &other] {
        device.polls("old", "rpi4").await.expect(204);
    }
    // One device may be stopped alone.
    let ids =
        [user.has_deployed("app-1", &[&device.id, &other.id]).await, user.has_deployed("app-1", &[&device.id]).await];
    device.polls("old", "rpi4").await.expect(200);
    user.delete(&format!("{DEPLOYMENTS}/devices/{}", device.id)).await.expect(204);
    assert_eq!(user.counts(&ids[0]).await, json!({"aborted": 1, "pending": 1}));
    assert_eq!(user.counts(&ids[1]).await, json!({"aborted": 1}));
    assert_eq!(device.says(&ids[0], "success").await.expect(409).error(), "Deployment aborted");
    assert_eq!(told(&other.polls("old", "rpi4").await.expect(200)), ids[0]);
}

async fn what_is_deployed_cannot_be_removed(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let artifact = upload(&user, "app-1", "rpi4").await;
    let path = format!("{ARTIFACTS}/{artifact}");
    user.put(&path, &json!({"description": "new"})).await.expect(204);
    let id = user.has_deployed("app-1", &["x"]).await;
    assert_eq!(user.delete(&path).await.expect(409).error(), "Artifact used in active deployment");
    let release = format!("{V2}/releases?name=app-1");
    let refused = user.delete(&release).await.expect(409).json();
    assert_eq!(refused["active_deployments"], json!([id]));
    user.abort(&id).await.expect(204);
    user.put(&path, &json!({"description": "newer"})).await.expect(422).error();
    assert_eq!(hub.objects().await.len(), 1);
    user.delete(&path).await.expect(204);
    assert_eq!(hub.objects().await, Vec::<String>::new());
    upload(&user, "app-1", "rpi4").await;
    let id = user.has_deployed("app-1", &["x"]).await;
    user.delete(&release).await.expect(409);
    user.abort(&id).await.expect(204);
    user.delete(&release).await.expect(204);
    user.get(&format!("{V2}/releases/app-1")).await.expect(404);
    assert_eq!(hub.objects().await, Vec::<String>::new());
}

async fn a_log_is_kept_line_by_line(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let device = hub.accepted_by(&user).await;
    let id = user.has_deployed("app-1", &[&device.id]).await;
    let message = |text: &str| json!({"timestamp": "2026-01-02T03:04:05.5Z", "level": "error", "message": text});
    device.logs(&id, &json!({"messages": [message("early")]})).await.expect(404).error();
    device.polls("old", "rpi4").await.expect(200);
    let path = format!("{DEPLOYMENTS}/{id}/devices/{}/log", device.id);
    user.get(&path).await.expect(404).error();
    let mut incomplete = message("x");
    incomplete.as_object_mut().unwrap().remove("level");
    for wrong in
        [json!({"messages": []}), json!({}), json!({"messages": [incomplete]}), json!({"messages": [message("")]})]
    {
        device.logs(&id, &wrong).await.expect(400).error();
    }
    device.logs(&id, &json!({"messages": [message("first")]})).await.expect(204);
    device.logs(&id, &json!({"messages": [message("boom"), message("bäng")]})).await.expect(204);
    let log = user.get(&path).await.expect(200);
    assert!(log.header("content-type").starts_with("text/plain"));
    let line = |text| format!("2026-01-02 03:04:05.5 +0000 UTC error: {text}\n");
    assert_eq!(log.text(), line("boom") + &line("bäng"));
    assert_eq!(user.deployed(&id).await[0]["log"], true);
    // Clients send up to a million bytes.
    let endless = "x".repeat(1_000_000 - 400);
    device.logs(&id, &json!({"messages": [message(&endless)]})).await.expect(204);
    assert_eq!(user.get(&path).await.expect(200).text(), line(&endless));
}

async fn devices_of_a_deployment_are_paged(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let mut devices = vec![];
    for _ in 0..21 {
        devices.push(hub.accepted_by(&user).await);
    }
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    let id = user.has_deployed("app-1", &ids).await;
    for device in &devices {
        device.polls("old", "rpi4").await.expect(200);
    }
    devices[7].says(&id, "pause_before_installing").await.expect(204);
    devices[3].says(&id, "success").await.expect(204);
    let list = async |query: &str| user.get(&format!("{DEPLOYMENTS}/{id}/devices/list{query}")).await;
    let first = list("").await.expect(200);
    assert_eq!((first.json().as_array().unwrap().len(), first.header("x-total-count")), (20, "21"));
    let second = list("?page=2").await.expect(200).json();
    let mut seen: Vec<Value> = first.json().as_array().unwrap().clone();
    seen.extend(second.as_array().unwrap().clone());
    let mut expected: Vec<&str> = ids.clone();
    expected.sort_by_key(|&id| {
        (
            if id == ids[7] {
                0
            } else if id == ids[3] {
                2
            } else {
                1
            },
            id.to_owned(),
        )
    });
    let order: Vec<&str> = seen.iter().map(|device| device["id"].as_str().unwrap()).collect();
    assert_eq!(order, expected);
    for (status, count) in [("pause", 1), ("active", 20), ("finished", 1), ("pending", 19), ("failure", 0)] {
        assert_eq!(list(&format!("?status={status}")).await.expect(200).header("x-total-count"), count.to_string());
    }
    for wrong in ["?status=foo", "?page=0", "?per_page=501"] {
        list(wrong).await.expect(400).error();
    }
    let all = user.get(&format!("{DEPLOYMENTS}/{id}/devices")).await.expect(200).json();
    assert_eq!(all.as_array().unwrap().len(), 21);
    let history = format!("{DEPLOYMENTS}/devices/{}", ids[3]);
    user.get(&format!("{history}?per_page=21")).await.expect(400).error();
    let found = user.get(&format!("{history}?per_page=20&status=success")).await.expect(200);
    assert_eq!(found.header("x-total-count"), "1");
    assert_eq!(found.json()[0]["deployment"]["id"], json!(id));
    assert_eq!(found.json()[0]["device"]["status"], "success");
}

async fn deployments_are_listed_by_what_they_are(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    upload(&user, "tool", "rpi4").await;
    let device = hub.accepted_by(&user).await;
    let named = async |name: &str, release: &str, device: &str| {
        let wish = json!({"name": name, "artifact_name": release, "devices": [device]});
        id_of(&user.post(DEPLOYMENTS, &wish).await.expect(201))
    };
    let ids = [
        named("first", "app-1", &device.id).await,
        named("second", "tool", "x").await,
        named("third", "app-1", "y").await,
    ];
    user.abort(&ids[1]).await.expect(204);
    let list = async |path: &str, query: &str| user.get(&format!("{path}?{query}")).await;
    let found = async |path: &str, query: &str| -> Vec<usize> {
        let answer = list(path, query).await.expect(200);
        let place = |found: &Value| ids.iter().position(|id| found["id"] == *id).unwrap();
        answer.json().as_array().unwrap().iter().map(place).collect()
    };
    for path in [DEPLOYMENTS, V2] {
        assert_eq!(found(path, "").await, [2, 1, 0]);
        assert_eq!(found(path, "sort=asc").await, [0, 1, 2]);
        assert_eq!(found(path, "status=pending&sort=asc").await, [0, 2]);
        assert_eq!(found(path, "status=finished").await, [1]);
        assert_eq!(found(path, "status=aborted").await, [1]);
        assert_eq!(found(path, "type=software&per_page=1&page=2").await, [1]);
        assert_eq!(found(path, "type=configuration").await, Vec::<usize>::new());
        let past = list(path, "page=4&per_page=1").await.expect(200);
        assert_eq!((past.json(), past.header("x-total-count")), (json!([]), "3"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let (soon, before) = (now + 1, now - 600);
        assert_eq!(found(path, &format!("created_after={before}&created_before={soon}")).await, [2, 1, 0]);
        assert_eq!(found(path, &format!("created_before={before}")).await, Vec::<usize>::new());
        assert_eq!(found(path, &format!("created_after={soon}")).await, Vec::<usize>::new());
        for wrong in
            ["page=18446744073709551617", "per_page=18446744073709551617", "status=x", "created_after=x", "sort=x"]
        {
            list(path, wrong).await.expect(400).error();
        }
    }
    assert_eq!(found(DEPLOYMENTS, "search=APP").await, [2, 0]);
    assert_eq!(found(DEPLOYMENTS, "search=econ").await, [1]);
    assert_eq!(found(V2, "name=first&name=third&name=none").await, [2, 0]);
    assert_eq!(found(V2, &format!("id={}&id={UNKNOWN}&id={}", ids[0], ids[1])).await, [1, 0]);
    list(V2, "id=x").await.expect(400).error();
    // A name may be a device's.
    let mac = device.identity["mac"].as_str().unwrap();
    assert_eq!(found(V2, &format!("name={mac}&id_attribute=mac")).await, [0]);
    assert_eq!(found(V2, "name=first&id_attribute=mac").await, [0]);
    assert_eq!(found(V2, "name=none&id_attribute=mac").await, Vec::<usize>::new());
    for wrong in ["id_scope=tags", "id_attribute=mac&id_scope=tags"] {
        list(V2, wrong).await.expect(400).error();
    }
}

async fn the_oldest_is_offered_before_the_newer(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    upload(&user, "app-2", "rpi4").await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let first = user.has_deployed("app-1", &[&device.id, &other.id]).await;
    let second = user.has_deployed("app-2", &[&device.id]).await;
    for (deployment, runs) in [(&first, "old"), (&second, "app-1")] {
        assert_eq!(told(&device.polls(runs, "rpi4").await.expect(200)), *deployment);
        device.says(deployment, "success").await.expect(204);
    }
    device.polls("app-2", "rpi4").await.expect(204);
    // The first goes on for the other, and is not offered again to who has gone through a newer one.
    assert_eq!(user.counts(&first).await, json!({"success": 1, "pending": 1}));
    device.polls("app-2", "rpi4").await.expect(204);
    let path = format!("{DEPLOYMENTS}/devices/{}", device.id);
    let history = user.get(&path).await.expect(200).json();
    assert_eq!((&history[0]["deployment"]["id"], &history[1]["deployment"]["id"]), (&json!(second), &json!(first)));
}

async fn a_removed_device_is_counted_as_such(set: Set) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let first = user.has_deployed("app-1", &[&device.id]).await;
    let second = user.has_deployed("app-1", &[&device.id, &other.id]).await;
    device.polls("old", "rpi4").await.expect(200);
    // Told by another service first, its token still counts.
    let path = format!("/api/internal/v1/deployments/tenants//deployments/devices/{}", device.id);
    Answer::to(hub.internal_door().request("DELETE", &path)).await.expect(204);
    assert_eq!(device.says(&first, "success").await.expect(409).error(), "Device decommissioned");
    assert_eq!(user.counts(&first).await, json!({"decommissioned": 1}));
    assert_eq!(status(&user, &first).await, "finished");
    assert_eq!(user.counts(&second).await, json!({"decommissioned": 1, "pending": 1}));
    user.delete(&format!("/api/management/v2/devauth/devices/{}", other.id)).await.expect(204);
    assert_eq!(user.counts(&second).await, json!({"decommissioned": 2}));
    assert_eq!(status(&user, &second).await, "finished");
    other.polls("old", "rpi4").await.refuses_token();
}

async fn a_device_may_be_made_to_forget(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let id = user.has_deployed("app-1", &[&device.id, &other.id]).await;
    device.polls("old", "rpi4").await.expect(200);
    device.says(&id, "failure").await.expect(204);
    device.polls("old", "rpi4").await.expect(204);
    let path = format!("{DEPLOYMENTS}/devices/{}", device.id);
    assert_eq!(user.get(&path).await.expect(200).json()[0]["device"].get("deleted"), None);
    user.delete(&format!("{path}/history")).await.expect(204);
    let history = user.get(&path).await.expect(200).json();
    assert!(history[0]["device"]["deleted"].is_string());
    assert_eq!(user.deployed(&id).await, Vec::<Value>::new());
    assert_eq!(user.counts(&id).await, json!({"failure": 1, "pending": 1}));
    // It may be told again, as long as not everybody was.
    assert_eq!(told(&device.polls("old", "rpi4").await.expect(200)), id);
    assert_eq!(user.counts(&id).await, json!({"pending": 2}));
    assert_eq!(user.get(&path).await.expect(200).header("x-total-count"), "2");
}

async fn a_filter_chooses_when_devices_ask(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let filters = "/api/management/v2/inventory/filters";
    let term = json!({"scope": "system", "attribute": "group", "type": "$eq", "value": "hall"});
    let filter = id_of(&user.post(filters, &json!({"name": "hall", "terms": [term]})).await.expect(201));
    let wish = |filter: &str| json!({"name": "hall", "artifact_name": "app-1", "filter_id": filter, "max_devices": 1});
    user.post(V2, &wish(UNKNOWN)).await.expect(400).error();
    user.post(V2, &json!({"name": "hall", "artifact_name": "app-1"})).await.expect(400).error();
    let id = id_of(&user.post(V2, &wish(&filter)).await.expect(201));
    user.post(V2, &wish(&filter)).await.expect(409).error();
    assert_eq!(user.counts(&id).await, json!({}));
    assert_eq!(user.deployment(&id).await["filter"]["terms"], json!([term]));
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    device.polls("old", "rpi4").await.expect(204);
    group(&user, &device, "hall").await;
    let passes = async || device.polls("old", "rpi4").await.status == 200;
    wait_until(LIMIT, "the device passes", async || passes().await.then_some(())).await;
    assert_eq!(user.counts(&id).await, json!({"pending": 1}));
    other.polls("old", "rpi4").await.expect(204);
    device.says(&id, "success").await.expect(204);
    assert_eq!(status(&user, &id).await, "finished");
    group(&user, &other, "hall").await;
    other.polls("old", "rpi4").await.expect(204);
}

async fn work_is_remembered_through_a_crash_and_a_restart(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let (mut device, idle) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let id = user.has_deployed("app-1", &[&device.id]).await;
    hub.crash_service("rollout");
    wait_until(LIMIT, "the service is back", async || (hub.restarts("rollout") == 1).then_some(())).await;
    assert_eq!(told(&device.polls("old", "rpi4").await.expect(200)), id);
    idle.polls("old", "rpi4").await.expect(204);
    let site = hub.stop().await;
    let hub = site.hub().await;
    device.go_to(hub.door());
    assert_eq!(told(&device.polls("old", "rpi4").await.expect(200)), id);
    device.says(&id, "success").await.expect(204);
    device.polls("app-1", "rpi4").await.expect(204);
}

#[tokio::test]
async fn one_node_s_deployment_is_every_node_s() {
    let site = Set::Production.site().await;
    let (one, two) = (site.hub().await, site.hub().await);
    let user = one.user().await;
    upload(&user, "app-1", "rpi4").await;
    let mut device = one.accepted_by(&user).await;
    device.go_to(two.door());
    device.polls("old", "rpi4").await.expect(204);
    let id = user.has_deployed("app-1", &[&device.id]).await;
    let heard = async || (device.polls("old", "rpi4").await.status == 200).then_some(());
    wait_until(Duration::from_secs(2), "the other node has heard", heard).await;
    device.says(&id, "success").await.expect(204);
    assert_eq!(user.counts(&id).await, json!({"success": 1}));
}
