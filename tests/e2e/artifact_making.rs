//! Artifacts that appear some time after they were asked for: made by the hub, or brought to its store by the client.

use std::process::Command;
use std::time::Duration;

use harness::{
    ARTIFACTS, Answer, ArtifactRecipe, LIMIT, Parts, Set, TestHub, TestUser, both_sets, id_of, temporary_directory,
    wait_until,
};
use serde_json::{Value, json};

both_sets!([
    the_hub_makes_an_artifact_of_a_file,
    what_would_not_become_an_artifact_is_refused_at_once,
    a_file_that_breaks_off_becomes_nothing,
    a_large_file_that_is_too_short_leaves_nothing,
    a_client_brings_a_file_by_itself,
    a_bad_file_that_was_brought_is_told,
    direct_uploads_are_off_unless_switched_on,
    what_was_announced_and_never_brought_is_forgotten,
]);

const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";
const ARGS: &str = r#"{"filename":"app.bin","dest_dir":"/opt/app","software_filesystem":"data-partition","software_name":"app","software_version":"2.1"}"#;

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn asked(name: &str, args: &str) -> Parts {
    Parts::default()
        .text("name", name)
        .text("description", "made by the hub")
        .text("device_types_compatible", "rpi4,rpi5")
        .text("type", "single_file")
        .text("args", args)
}

async fn generate(user: &TestUser, parts: Parts) -> Answer {
    parts.post(user, &format!("{ARTIFACTS}/generate")).await
}

async fn appears(user: &TestUser, id: &str) -> Value {
    let path = format!("{ARTIFACTS}/{id}");
    wait_until(LIMIT, "the artifact", async || {
        let answer = user.get(&path).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await
}

async fn status(user: &TestUser, id: &str) -> Value {
    user.get(&format!("/api/management/v1/mooring/artifacts/uploads/{id}")).await.expect(200).json()
}

/// The file of an artifact, by its link.
async fn file_of(user: &TestUser, id: &str) -> Vec<u8> {
    let link = user.get(&format!("{ARTIFACTS}/{id}/download")).await.expect(200).json();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Answer::to(client.get(text(&link["uri"]))).await.expect(200).body.to_vec()
}

async fn the_hub_makes_an_artifact_of_a_file(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let content: Vec<u8> =
        (0..2_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let parts = asked("app-2.1", ARGS).text("size", &content.len().to_string()).file("file", &content);
    let answer = generate(&user, parts).await.expect(201);
    assert!(answer.body.is_empty());
    let id = id_of(&answer);
    assert_eq!(answer.header("location"), format!("{ARTIFACTS}/{id}"));
    let artifact = appears(&user, &id).await;
    assert_eq!((&artifact["name"], &artifact["description"]), (&json!("app-2.1"), &json!("made by the hub")));
    assert_eq!(artifact["device_types_compatible"], json!(["rpi4", "rpi5"]));
    assert_eq!((&artifact["signed"], &artifact["info"]["version"]), (&json!(false), &json!(3)));
    assert_eq!(artifact["updates"].as_array().unwrap().len(), 1);
    assert_eq!(artifact["updates"][0]["type_info"]["type"], "single-file");
    assert_eq!(artifact["artifact_provides"], json!({"artifact_name": "app-2.1", "data-partition.app.version": "2.1"}));
    assert_eq!(artifact["clears_artifact_provides"], json!(["data-partition.app.*"]));
    wait_until(LIMIT, "its end to be known", async || (status(&user, &id).await["state"] == "completed").then_some(()))
        .await;
    // The raw file goes once it is no longer needed.
    wait_until(LIMIT, "the raw file to go", async || (hub.objects().await.len() == 1).then_some(())).await;

    let directory = temporary_directory();
    let file = file_of(&user, &id).await;
    assert_eq!(artifact["size"], file.len());
    std::fs::write(directory.join("app.mender"), &file).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let run = Command::new(program).args(arguments).current_dir(&directory).output().unwrap();
        assert!(run.status.success(), "{program} {arguments:?}: {run:?}");
        run.stdout
    };
    run("mender-artifact", &["validate", "app.mender"]);
    run("tar", &["-xf", "app.mender"]);
    let names = String::from_utf8(run("tar", &["-tf", "data/0000.tar.gz"])).unwrap();
    assert_eq!(names.lines().collect::<Vec<_>>(), ["dest_dir", "filename", "permissions", "app.bin"]);
    let inside = |name: &str| run("tar", &["-xOf", "data/0000.tar.gz", name]);
    assert_eq!(inside("dest_dir"), b"/opt/app\n");
    assert_eq!(inside("filename"), b"app.bin\n");
    assert_eq!(inside("permissions"), b"644\n");
    assert!(inside("app.bin") == content);
}

async fn what_would_not_become_an_artifact_is_refused_at_once(set: Set) {
    let hub = set.hub_with(|config| config.actors.artifacts.generate_limit = 1_000_000).await;
    let user = hub.user().await;
    let full = || asked("app-1", ARGS);
    let content = b"content";
    for parts in [
        Parts::default().file("file", content),
        full(),
        asked("", ARGS).file("file", content),
        asked(&"n".repeat(257), ARGS).file("file", content),
        asked("app-1", "").file("file", content),
        asked("app-1", &ARGS.replace("/opt/app", "opt")).file("file", content),
        asked("app-1", &ARGS.replace("app.bin", "dest_dir")).file("file", content),
        full().text("type", "docker").file("file", content),
        full().text("device_types_compatible", "").file("file", content),
        full().text("size", "8").file("file", content),
        full().text("size", "1000001").file("file", content),
    ] {
        generate(&user, parts).await.expect(400).error();
    }
    generate(&user, full().text("size", "6").file("file", content)).await.expect(413).error();
    generate(&user, full().file("file", &vec![7; 1_000_001])).await.expect(413).error();
    let json = user.post(&format!("{ARTIFACTS}/generate"), &json!({})).await;
    json.expect(415).error();
    assert_eq!(hub.objects().await, Vec::<String>::new());

    let id = id_of(&generate(&user, full().file("file", content)).await.expect(201));
    appears(&user, &id).await;
    let error = generate(&user, full().file("file", content)).await.expect(422).error();
    assert_eq!(error, "Artifact not unique");
    let other = full().text("device_types_compatible", "toaster").file("file", content);
    appears(&user, &id_of(&generate(&user, other).await.expect(201))).await;
}

async fn a_file_that_breaks_off_becomes_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let body = asked("app-1", ARGS).file("file", &vec![7; 9_000_000]).end();
    let begun = bytes::Bytes::copy_from_slice(&body[..8_000_000]);
    let pieces = futures_util::stream::iter([Ok(begun), Err(std::io::Error::other("the client goes away"))]);
    let request = user.request("POST", &format!("{ARTIFACTS}/generate")).header("content-type", Parts::content_type());
    Answer::try_to(request.body(reqwest::Body::wrap_stream(pieces))).await.expect_err("there is no answer");
    // Whoever receives it goes on to its end without the client.
    wait_until(LIMIT, "the rest to be removed", async || hub.objects().await.is_empty().then_some(())).await;
    assert_eq!(user.get(ARTIFACTS).await.expect(200).json(), json!([]));
}

async fn a_large_file_that_is_too_short_leaves_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    // Large enough to be parts when its end comes.
    let parts = asked("app-1", ARGS).text("size", "12000001").file("file", &vec![7; 12_000_000]);
    generate(&user, parts).await.expect(400).error();
    assert_eq!(hub.objects().await, Vec::<String>::new());
}

async fn with_direct_uploads(set: Set) -> TestHub {
    set.hub_with(|config| config.actors.artifacts.direct_upload = true).await
}

async fn announce(user: &TestUser) -> Value {
    user.post(&format!("{ARTIFACTS}/directupload"), &json!({})).await.expect(200).json()
}

async fn bring(link: &Value, file: Vec<u8>) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.put(text(&link["uri"])).header("content-type", "application/vnd.mender-artifact");
    request.body(file).send().await.unwrap().status().as_u16()
}

async fn complete(user: &TestUser, id: &str) -> Answer {
    Answer::to(user.request("POST", &format!("{ARTIFACTS}/directupload/{id}/complete"))).await
}

async fn a_client_brings_a_file_by_itself(set: Set) {
    let hub = with_direct_uploads(set).await;
    let user = hub.user().await;
    let link = announce(&user).await;
    assert_eq!((&link["method"], &link["header"]), (&json!("PUT"), &json!({})));
    let id = text(&link["id"]).to_owned();
    assert_eq!(complete(&user, &id).await.expect(404).error(), "Resource not found");
    let noise: Vec<u8> =
        (0..3_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let file = ArtifactRecipe::module("app-1", "rpi4").with_content(noise).make();
    assert_eq!(bring(&link, file.clone()).await, 200);
    user.get(&format!("{ARTIFACTS}/{id}")).await.expect(404);
    assert_eq!(status(&user, &id).await["state"], "pending");
    assert!(complete(&user, &id).await.expect(202).body.is_empty());
    let artifact = appears(&user, &id).await;
    assert_eq!((&artifact["name"], &artifact["size"]), (&json!("app-1"), &json!(file.len())));
    complete(&user, &id).await.expect(404).error();
    assert!(file_of(&user, &id).await == file);
    wait_until(LIMIT, "its end to be known", async || (status(&user, &id).await["state"] == "completed").then_some(()))
        .await;
    complete(&user, UNKNOWN).await.expect(404).error();
    complete(&user, "foo").await.expect(400).error();
    // What was brought goes when the link has run out; the artifact stays.
    hub.clean_uploads(Duration::from_hours(48)).await;
    assert_eq!(hub.objects().await.len(), 1);
    assert_eq!(status(&user, &id).await["state"], "completed");
    if set == Set::Embedded {
        assert_eq!(bring(&link, b"x".to_vec()).await, 404, "nothing is pending");
    }
}

async fn a_bad_file_that_was_brought_is_told(set: Set) {
    let hub = with_direct_uploads(set).await;
    let user = hub.user().await;
    let link = announce(&user).await;
    let id = text(&link["id"]).to_owned();
    assert_eq!(bring(&link, vec![7; 6_000_000]).await, 200);
    complete(&user, &id).await.expect(202);
    let said = wait_until(LIMIT, "the end of it", async || {
        let said = status(&user, &id).await;
        (said["state"] == "aborted").then_some(said)
    })
    .await;
    assert_eq!(said["reason"], "not an artifact: the bytes are no archive");
    user.get(&format!("{ARTIFACTS}/{id}")).await.expect(404);
    complete(&user, &id).await.expect(404).error();
    hub.clean_uploads(Duration::from_hours(48)).await;
    assert_eq!(hub.objects().await, Vec::<String>::new());
}

async fn direct_uploads_are_off_unless_switched_on(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    user.post(&format!("{ARTIFACTS}/directupload"), &json!({})).await.expect(404).error();
    complete(&user, UNKNOWN).await.expect(404).error();
}

async fn what_was_announced_and_never_brought_is_forgotten(set: Set) {
    let hub = with_direct_uploads(set).await;
    let user = hub.user().await;
    let (brought, never) = (announce(&user).await, announce(&user).await);
    assert_eq!(bring(&brought, b"something".to_vec()).await, 200);
    assert_eq!(hub.objects().await.len(), 1);
    hub.clean_uploads(Duration::from_mins(30)).await;
    assert_eq!(hub.objects().await.len(), 1, "its time has not come");
    hub.clean_uploads(Duration::from_hours(48)).await;
    assert_eq!(hub.objects().await, Vec::<String>::new());
    for link in [brought, never] {
        let id = text(&link["id"]).to_owned();
        user.get(&format!("/api/management/v1/mooring/artifacts/uploads/{id}")).await.expect(404);
        complete(&user, &id).await.expect(404);
    }
}
