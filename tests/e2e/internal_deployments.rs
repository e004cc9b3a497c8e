//! What other services of an installation ask about artifacts and deployments, on a listener of its own.

use harness::{ARTIFACTS, Answer, ArtifactRecipe, Door, Parts, Set, TestHub, both_sets};
use serde_json::{Value, json};

both_sets!([an_artifact_of_a_service_is_like_any_other, parts_of_deployments_are_found_by_their_ids,]);

const BASE: &str = "/api/internal/v1/deployments";
const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

async fn hub(set: Set) -> (TestHub, Door) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let door = hub.internal_door();
    (hub, door)
}

async fn ask(door: &Door, path: &str) -> Answer {
    Answer::to(door.request("GET", &format!("{BASE}{path}"))).await
}

async fn an_artifact_of_a_service_is_like_any_other(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    let upload = async |tenant: &str, name: &str| {
        let parts = Parts::default().file("artifact", &ArtifactRecipe::module(name, "rpi4").make());
        let request = door.request("POST", &format!("{BASE}/tenants/{tenant}/artifacts"));
        Answer::to(request.header("content-type", Parts::content_type()).body(parts.end())).await
    };
    upload("", "app-1").await.expect(201);
    upload("default", "app-2").await.expect(201);
    upload("acme", "app-3").await.expect(404).error();
    let listed = user.get(ARTIFACTS).await.expect(200).json();
    let names: Vec<&Value> = listed.as_array().unwrap().iter().map(|artifact| &artifact["name"]).collect();
    assert_eq!(names, ["app-1", "app-2"]);
}

async fn parts_of_deployments_are_found_by_their_ids(set: Set) {
    let (hub, door) = hub(set).await;
    let user = hub.user().await;
    user.has_uploaded(&ArtifactRecipe::module("app-1", "rpi4").make()).await;
    let device = hub.accepted_by(&user).await;
    let deployment = user.has_deployed("app-1", &[&device.id]).await;
    device.polls("old", "rpi4").await.expect(200);
    let history = ask(&door, &format!("/tenants//deployments/devices/{}", device.id)).await.expect(200).json();
    let part = history[0]["id"].as_str().unwrap();
    let found = ask(&door, &format!("/tenants//deployments/devices?id={part}&id={UNKNOWN}")).await.expect(200).json();
    assert_eq!(found, history);
    assert_eq!((&found[0]["deployment"]["id"], &found[0]["device"]["status"]), (&json!(deployment), &json!("pending")));
    let none = ask(&door, &format!("/tenants//deployments/devices?id={UNKNOWN}")).await.expect(200).json();
    assert_eq!(none, json!([]));
    for (query, status, what) in [
        ("", 400, "id: cannot be blank"),
        ("?id=", 400, "id: cannot be blank"),
        ("?id=x", 400, "ID is not a valid UUID"),
        (&format!("?{}", format!("id={UNKNOWN}&").repeat(1025)), 400, "id: at most 1024"),
    ] {
        let error = ask(&door, &format!("/tenants//deployments/devices{query}")).await.expect(status).error();
        assert!(error.starts_with(what), "{error}");
    }
    ask(&door, &format!("/tenants/acme/deployments/devices?id={UNKNOWN}")).await.expect(404).error();
}
