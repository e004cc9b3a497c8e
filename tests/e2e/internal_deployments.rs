//! What other services of an installation ask about artifacts and deployments, on a listener of its own.

use harness::{
    ACCESS_KEY, ARTIFACTS, Answer, ArtifactRecipe, Door, Parts, S3Server, SECRET_KEY, Set, TestHub, both_sets,
    temporary_directory,
};
use serde_json::{Value, json};

both_sets!([
    an_artifact_of_a_service_is_like_any_other,
    parts_of_deployments_are_found_by_their_ids,
    artifacts_go_to_the_store_that_was_set,
]);

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

async fn artifacts_go_to_the_store_that_was_set(set: Set) {
    const SETTINGS: &str = "/tenants//storage/settings";
    let hub = set
        .hub_with(|config| {
            config.api.internal_listen = Some(([127, 0, 0, 1], 0).into());
            config.actors.artifacts.direct_upload = true;
        })
        .await;
    let door = hub.internal_door();
    let directory = temporary_directory();
    let server = S3Server::start(&directory.join("another-s3"));
    server.make_bucket("elsewhere");
    let there = || server.files("elsewhere", &[""]);
    let put =
        async |settings: &Value| Answer::to(door.request("PUT", &format!("{BASE}{SETTINGS}")).json(settings)).await;
    let fetch = async |uri: &str| Answer::to(reqwest::Client::builder().no_proxy().build().unwrap().get(uri)).await;
    let good = json!({
        "type": "s3", "region": "eu-west-1", "bucket": "elsewhere", "key": ACCESS_KEY, "secret": SECRET_KEY,
        "uri": server.endpoint(), "force_path_style": true,
    });
    let with = |member: &str, value: Value| {
        let mut settings = good.clone();
        settings[member] = value;
        settings
    };
    assert_eq!(ask(&door, SETTINGS).await.expect(200).json(), Value::Null);
    for (settings, status, what) in [
        (with("key", json!("four")), 400, "Validating request body: key: the length must be between 5 and 50."),
        (with("bucket", Value::Null), 400, "Validating request body: bucket: cannot be blank."),
        (with("region", json!("")), 400, "Validating request body: region: cannot be blank."),
        (with("type", json!("azure")), 400, "Validating request body: type: Azure is not supported"),
        (with("uri", json!("http://192.0.2.1")), 400, "Validating request body: uri: must be the address"),
        (
            with("force_path_style", json!("yes")),
            400,
            "Validating request body: force_path_style: must be true or false.",
        ),
        (json!(["s3"]), 400, "Validating request body: expected an object"),
        (with("secret", json!("hunter3")), 500, "cannot use this store: it refuses"),
        (with("bucket", json!("nowhere")), 500, "cannot use this store: it refuses"),
    ] {
        let error = put(&settings).await.expect(status).error();
        assert!(error.starts_with(what) && !error.contains("hunter"), "{error}");
        assert_eq!(ask(&door, SETTINGS).await.expect(200).json(), Value::Null);
    }

    let user = hub.user().await;
    let file = |name: &str| ArtifactRecipe::module(name, "rpi4").make();
    let first = user.has_uploaded(&file("app-1")).await;
    put(&good).await.expect(204);
    assert_eq!(ask(&door, SETTINGS).await.expect(200).json(), good);
    assert!(there().is_empty(), "nothing stays of the trial");
    let second_file = file("app-2");
    let second = user.has_uploaded(&second_file).await;
    assert_eq!((there().len(), hub.objects().await.len()), (1, 1));
    // What a client brings by itself goes there, too.
    let announced = user.post(&format!("{ARTIFACTS}/directupload"), &json!({})).await.expect(200).json();
    let uri = announced["uri"].as_str().unwrap();
    assert!(uri.starts_with(&server.endpoint()), "{uri}");

    // A device fetches it where it is.
    let device = hub.accepted_by(&user).await;
    let deployment = user.has_deployed("app-2", &[&device.id]).await;
    let offered = device.polls("old", "rpi4").await.expect(200).json();
    let uri = offered["artifact"]["source"]["uri"].as_str().unwrap();
    assert!(uri.starts_with(&server.endpoint()), "{uri}");
    assert_eq!(fetch(uri).await.expect(200).body, second_file);
    device.says(&deployment, "success").await.expect(204);

    // Back at the hub's own store, everything is found where it was.
    put(&json!({})).await.expect(204);
    assert_eq!(ask(&door, SETTINGS).await.expect(200).json(), Value::Null);
    let third = user.has_uploaded(&file("app-3")).await;
    assert_eq!((there().len(), hub.objects().await.len()), (1, 2));
    for (id, is_there) in [(&first, false), (&second, true), (&third, false)] {
        let link = user.get(&format!("{ARTIFACTS}/{id}/download")).await.expect(200).json();
        let uri = link["uri"].as_str().unwrap();
        assert_eq!(uri.starts_with(&server.endpoint()), is_there, "{uri}");
        fetch(uri).await.expect(200);
    }
    user.delete(&format!("{ARTIFACTS}/{second}")).await.expect(204);
    assert_eq!((there().len(), hub.objects().await.len()), (0, 2));
    for path in ["/tenants/acme/storage/settings", "/tenants/acme/limits/storage"] {
        ask(&door, path).await.expect(404);
    }
}
