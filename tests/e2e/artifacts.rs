//! Artifacts are uploaded, found, fetched and removed; of one that is bad nothing stays.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, ARTIFACTS, Answer, ArtifactRecipe, LIMIT, MenderCli, Mooring, Parts, Set, TestHub,
    TestUser, both_sets, id_of, raw_request, wait_until,
};
use serde_json::{Value, json};

both_sets!([
    an_artifact_is_uploaded_and_described,
    every_compression_is_described_alike,
    what_is_no_artifact_leaves_nothing,
    a_large_artifact_comes_back_as_it_was,
    an_artifact_without_payload_is_told_by_its_nulls,
    provides_and_depends_are_those_of_the_file,
    one_artifact_of_a_name_fits_a_device,
    ids_that_are_none_and_unknown_ones_are_told_apart,
    an_artifact_that_is_deployed_stays,
    parts_are_taken_in_their_order,
    an_id_may_be_wished_for_once,
    a_wrong_size_is_noticed,
    a_link_is_all_it_takes,
    a_broken_off_download_goes_on,
    artifacts_are_found_by_whole_names_and_prefixes,
    old_lists_pass_over_pages_without_sense,
    an_upload_that_breaks_off_leaves_nothing,
    parallel_uploads_of_one_artifact_make_one,
    artifacts_have_a_limit_in_all,
    what_is_too_large_is_cut_off,
    mender_cli_uploads_lists_and_deletes,
    the_operator_s_command_uploads_and_lists,
    signatures_are_checked_if_keys_are_set,
]);

const UNKNOWN: &str = "3f8f5c8e-0000-4000-8000-000000000000";

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

async fn an_artifact_is_uploaded_and_described(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    assert_eq!(user.get(ARTIFACTS).await.expect(200).json(), json!([]));
    let file = ArtifactRecipe::module("app-2.1", "rpi4").with(&["-t", "rpi5"]).make();
    let answer = user.upload_artifact(&file).await.expect(201);
    assert!(answer.body.is_empty());
    let id = id_of(&answer);
    assert_eq!(answer.header("location"), format!("{ARTIFACTS}/{id}"));

    let artifact = user.artifact(&id).await;
    assert_eq!(artifact["id"], id);
    assert_eq!(artifact["name"], "app-2.1");
    assert_eq!(artifact["description"], "made by a test");
    assert_eq!(artifact["device_types_compatible"], json!(["rpi4", "rpi5"]));
    assert_eq!(artifact["info"], json!({"format": "mender", "version": 3}));
    assert_eq!(artifact["signed"], false);
    assert_eq!(artifact["size"], file.len());
    let update = &artifact["updates"][0];
    assert_eq!(update["type_info"], json!({"type": "demo"}));
    assert_eq!((&update["metadata"], &update["meta_data"]), (&json!({}), &json!([])));
    let payload = &update["files"][0];
    assert_eq!(payload["name"], "app.bin");
    assert_eq!(payload["checksum"], "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    assert_eq!(payload["size"], 6);
    assert!(text(&payload["date"]).ends_with('Z') && text(&artifact["modified"]).ends_with('Z'));
    assert_eq!(user.get(ARTIFACTS).await.expect(200).json(), json!([artifact]));
    let limit = user.get("/api/management/v1/deployments/limits/storage").await.expect(200).json();
    assert_eq!(limit, json!({"limit": 0, "usage": file.len()}));
    let error = user.get("/api/management/v1/deployments/limits/other").await.expect(400).error();
    assert_eq!(error, "unsupported limit other");
}

async fn every_compression_is_described_alike(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let mut described = vec![];
    for (number, compression) in ["none", "gzip", "lzma"].into_iter().enumerate() {
        let recipe = ArtifactRecipe::module("app", &format!("type-{number}")).with(&["--compression", compression]);
        let mut artifact = user.artifact(&user.has_uploaded(&recipe.make()).await).await;
        for differs in ["id", "size", "modified", "device_types_compatible", "artifact_depends"] {
            artifact.as_object_mut().unwrap().remove(differs);
        }
        artifact["updates"][0]["files"][0].as_object_mut().unwrap().remove("date");
        described.push(artifact);
    }
    assert_eq!(described[0], described[1]);
    assert_eq!(described[0], described[2]);
}

async fn what_is_no_artifact_leaves_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    // Large enough to be parts when the fault is found.
    let noise: Vec<u8> =
        (0..3_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let good = ArtifactRecipe::module("app", "rpi4").with(&["--compression", "none"]).with_content(noise).make();
    let mut altered = good.clone();
    let place = altered.len() - 5000;
    altered[place] ^= 1;
    for (file, why) in [
        (&b""[..], "not an artifact"),
        (&[7; 5000], "not an artifact: the bytes are no archive"),
        (&good[..good.len() / 2], "the artifact ends early"),
        (&good[..good.len() - 1], "the artifact ends early"),
        (&altered, "invalid checksum of data/0000/app.bin"),
    ] {
        let error = Parts::default().file("artifact", file).post(&user, ARTIFACTS).await.expect(400).error();
        assert!(error.starts_with(why), "{error}");
        assert_eq!(hub.objects().await, Vec::<String>::new());
    }
    assert_eq!(user.get(ARTIFACTS).await.expect(200).json(), json!([]));
    // Nor does it keep the good one out.
    user.has_uploaded(&good).await;
    assert_eq!(hub.objects().await.len(), 1);
}

/// The link to an artifact's file.
async fn link(user: &TestUser, id: &str) -> Value {
    user.get(&format!("{ARTIFACTS}/{id}/download")).await.expect(200).json()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(LIMIT).build().unwrap()
}

async fn fetch(uri: &str) -> Answer {
    Answer::to(client().get(uri)).await
}

async fn a_large_artifact_comes_back_as_it_was(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let noise: Vec<u8> =
        (0..4_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let file = ArtifactRecipe::module("app", "rpi4").with_content(noise).make();
    assert!(file.len() > 10 * 1024 * 1024);
    let id = user.has_uploaded(&file).await;
    let fetched = fetch(text(&link(&user, &id).await["uri"])).await.expect(200);
    assert!(fetched.body == file);
}

async fn an_artifact_without_payload_is_told_by_its_nulls(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let recipe = ArtifactRecipe::of(&["bootstrap-artifact", "-n", "b-1", "-t", "rpi4", "-p", "a:b"]);
    let artifact = user.artifact(&user.has_uploaded(&recipe.make()).await).await;
    assert_eq!(artifact["updates"][0]["type_info"], json!({"type": null}));
    assert_eq!(artifact["updates"][0]["files"], Value::Null);
    assert_eq!(artifact["artifact_provides"], json!({"artifact_name": "b-1", "a": "b"}));
}

async fn provides_and_depends_are_those_of_the_file(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let recipe = ArtifactRecipe::module("app-2", "rpi4").with(&[
        "-N",
        "app-0",
        "-N",
        "app-1",
        "-g",
        "group",
        "-G",
        "other",
        "-d",
        "key:value",
        "-p",
        "more:1",
    ]);
    let artifact = user.artifact(&user.has_uploaded(&recipe.make()).await).await;
    assert_eq!(
        artifact["artifact_provides"],
        json!({"artifact_name": "app-2", "artifact_group": "group", "more": "1", "rootfs-image.demo.version": "app-2"})
    );
    assert_eq!(
        artifact["artifact_depends"],
        json!({"artifact_name": ["app-0", "app-1"], "artifact_group": ["other"], "device_type": ["rpi4"], "key": "value"})
    );
    assert_eq!(artifact["clears_artifact_provides"], json!(["rootfs-image.demo.*"]));
}

async fn one_artifact_of_a_name_fits_a_device(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let recipe = |device_type: &str| ArtifactRecipe::module("app-2.1", device_type);
    user.has_uploaded(&recipe("rpi4").make()).await;
    let refused = user.upload_artifact(&recipe("rpi5").with(&["-t", "rpi4"]).make()).await.expect(409);
    assert_eq!(refused.error(), "an artifact with the same name and depends already exists");
    let conflict = json!({"artifact_name": "app-2.1", "device_type": "rpi4"});
    assert_eq!(refused.json()["metadata"]["conflict"], conflict);
    user.has_uploaded(&recipe("rpi5").make()).await;
    for value in ["1", "2"] {
        user.has_uploaded(&recipe("rpi6").with(&["-d", &format!("key:{value}")]).make()).await;
    }
    user.upload_artifact(&recipe("rpi6").with(&["-d", "key:2"]).make()).await.expect(409);
    assert_eq!(hub.objects().await.len(), 4);
}

async fn ids_that_are_none_and_unknown_ones_are_told_apart(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for (method, suffix) in [("GET", ""), ("DELETE", ""), ("GET", "/download")] {
        let ask = async |id: &str| Answer::to(user.request(method, &format!("{ARTIFACTS}/{id}{suffix}"))).await;
        assert_eq!(ask("foo").await.expect(400).error(), "ID is not a valid UUID");
        assert_eq!(ask(UNKNOWN).await.expect(404).error(), "Resource not found");
    }
    let description = json!({"description": "x"});
    user.put(&format!("{ARTIFACTS}/foo"), &description).await.expect(400).error();
    user.put(&format!("{ARTIFACTS}/{UNKNOWN}"), &description).await.expect(404).error();
}

async fn an_artifact_that_is_deployed_stays(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let id = user.has_uploaded(&ArtifactRecipe::module("app", "rpi4").make()).await;
    let path = format!("{ARTIFACTS}/{id}");
    user.put(&path, &json!({"description": "better"})).await.expect(204);
    assert_eq!(user.artifact(&id).await["description"], "better");
    user.put(&path, &json!({"description": "x".repeat(4097)})).await.expect(400).error();
    user.put(&path, &json!({"text": "x"})).await.expect(400).error();

    let deployment = hub.begin_use_of_artifacts("app").await;
    let error = user.put(&path, &json!({"description": "worse"})).await.expect(422).error();
    assert_eq!(error, "Image has already been used in deployment");
    assert_eq!(user.delete(&path).await.expect(409).error(), "Artifact used in active deployment");
    assert_eq!(hub.objects().await.len(), 1);
    hub.end_use_of_artifacts(&deployment).await;
    user.put(&path, &json!({"description": "worse"})).await.expect(422).error();
    user.delete(&path).await.expect(204);
    user.get(&path).await.expect(404);
    user.put(&path, &json!({"description": "gone"})).await.expect(404).error();
    assert_eq!(hub.objects().await, Vec::<String>::new());
}

async fn parts_are_taken_in_their_order(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let file = ArtifactRecipe::module("app", "rpi4").make();
    let parts = Parts::default().text("colour", &"blue".repeat(50_000)).text("Description", "before");
    let parts = parts.file("ARTIFACT", &file).text("description", "after").text("size", "nonsense");
    let id = id_of(&parts.post(&user, ARTIFACTS).await.expect(201));
    assert_eq!(user.artifact(&id).await["description"], "before");
    for parts in [Parts::default(), Parts::default().text("description", "x").file("file", &file)] {
        let error = parts.post(&user, ARTIFACTS).await.expect(400).error();
        assert_eq!(error, "request does not contain the artifact file");
    }
    let error = user.post(ARTIFACTS, &json!({})).await.expect(415).error();
    assert_eq!(error, "Bad Content-Type, expected 'multipart/form-data'");
    let mixed = user.request("POST", ARTIFACTS);
    let mixed = mixed.header("content-type", Parts::content_type().replace("form-data", "mixed"));
    let file = ArtifactRecipe::module("app", "rpi5").make();
    Answer::to(mixed.body(Parts::default().file("artifact", &file).end())).await.expect(201);
    let long = Parts::default().text("description", &"x".repeat(4097)).file("artifact", &file);
    long.post(&user, ARTIFACTS).await.expect(400).error();
}

async fn an_id_may_be_wished_for_once(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let upload = async |id: &str, file: &[u8]| {
        Parts::default().text("artifact_id", id).file("artifact", file).post(&user, ARTIFACTS).await
    };
    let file = ArtifactRecipe::module("app", "rpi4").make();
    upload("foo", &file).await.expect(400).error();
    assert_eq!(id_of(&upload(UNKNOWN, &file).await.expect(201)), UNKNOWN);
    let other = ArtifactRecipe::module("other", "rpi4").make();
    let error = upload(UNKNOWN, &other).await.expect(409).error();
    assert_eq!(error, "an artifact with this id already exists");
    let fetched = fetch(text(&link(&user, UNKNOWN).await["uri"])).await.expect(200);
    assert!(fetched.body == file, "the first one is untouched");
    assert_eq!(hub.objects().await.len(), 1);
}

async fn a_wrong_size_is_noticed(set: Set) {
    let hub = set.hub_with(|config| config.actors.artifacts.size_limit = 1024 * 1024).await;
    let user = hub.user().await;
    let file = ArtifactRecipe::module("app", "rpi4").make();
    let upload =
        async |size: &str| Parts::default().text("size", size).file("artifact", &file).post(&user, ARTIFACTS).await;
    let size = file.len();
    let error = upload(&(size + 1).to_string()).await.expect(400).error();
    assert_eq!(error, format!("the artifact has {size} bytes, but {} were announced", size + 1));
    for smaller in [size - 1, size / 2, 0] {
        assert_eq!(upload(&smaller.to_string()).await.expect(413).error(), "Artifact file too large");
    }
    for nonsense in ["", "-1", "+1", "1e3", "123456789012345678901"] {
        upload(nonsense).await.expect(400).error();
    }
    assert_eq!(upload("1048577").await.expect(400).error(), "Artifact file too large");
    assert_eq!(hub.objects().await, Vec::<String>::new());
    upload(&size.to_string()).await.expect(201);
}

async fn a_link_is_all_it_takes(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let file = ArtifactRecipe::module("app-2.1", "rpi4").make();
    let id = user.has_uploaded(&file).await;
    let link = link(&user, &id).await;
    assert_eq!(link["method"], "GET");
    assert!(text(&link["expire"]).ends_with('Z'));
    let uri = text(&link["uri"]);
    let fetched = fetch(uri).await.expect(200);
    assert_eq!(fetched.header("content-type"), "application/vnd.mender-artifact");
    assert_eq!(fetched.header("content-length"), file.len().to_string());
    assert!(fetched.body == file);
    let saved_as = "attachment; filename=\"app-2.1.mender\"";
    match set {
        Set::Embedded => assert_eq!(fetched.header("content-disposition"), saved_as),
        // The server of these tests does not look at what S3 takes from the link.
        Set::Production => {
            let asked: std::collections::HashMap<String, String> =
                reqwest::Url::parse(uri).unwrap().query_pairs().into_owned().collect();
            assert_eq!(asked["response-content-disposition"], saved_as);
            assert_eq!(asked["response-content-type"], "application/vnd.mender-artifact");
            assert_eq!(asked["X-Amz-Expires"], "900");
        }
    }
    let mut forged = reqwest::Url::parse(uri).unwrap();
    let other = forged.path().replace('4', "5");
    forged.set_path(&other);
    fetch(forged.as_str()).await.expect(403);
    if set == Set::Embedded {
        let head = Answer::to(client().head(uri)).await.expect(200);
        assert_eq!(head.header("content-length"), file.len().to_string());
        let signed = reqwest::Url::parse(uri).unwrap();
        for changed in [
            uri.replace("app-2.1", "app-2.2"),
            uri.replace("x-men-expire=2", "x-men-expire=3"),
            uri.replace("x-men-signature=", "x-men-signature=A"),
        ] {
            assert_eq!(fetch(&changed).await.expect(403).error(), "signature invalid");
        }
        for missing in ["x-men-expire", "x-men-signature", "name"] {
            let mut less = signed.clone();
            let rest: Vec<_> = signed.query_pairs().filter(|(name, _)| name != missing).collect();
            less.query_pairs_mut().clear().extend_pairs(rest);
            fetch(less.as_str()).await.expect(400).error();
        }
        Answer::to(client().put(uri).body("x")).await.expect(405);
    }
    // Once the artifact is gone, so is what the link leads to.
    user.delete(&format!("{ARTIFACTS}/{id}")).await.expect(204);
    fetch(uri).await.expect(404);
}

async fn a_broken_off_download_goes_on(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let noise: Vec<u8> = (0..300_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let file = ArtifactRecipe::module("app", "rpi4").with_content(noise).make();
    let id = user.has_uploaded(&file).await;
    let uri = text(&link(&user, &id).await["uri"]).to_owned();
    let size = file.len();
    for from in [0, 1, 700_001, size - 1] {
        let range = format!("bytes={from}-{}", size - 1);
        let part = Answer::to(client().get(&uri).header("range", range)).await.expect(206);
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/{size}", size - 1));
        assert_eq!(part.header("content-length"), (size - from).to_string());
        assert!(part.body == file[from..]);
    }
    let beyond = Answer::to(client().get(&uri).header("range", format!("bytes={size}-"))).await;
    beyond.expect(416);
}

async fn artifacts_are_found_by_whole_names_and_prefixes(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for name in ["app-1", "app-2", "app*", "other"] {
        user.has_uploaded(&ArtifactRecipe::module(name, "rpi4").make()).await;
    }
    let list = async |query: &str| user.get(&format!("/api/management/v2/deployments/artifacts?{query}")).await;
    let names = async |query: &str| {
        let found = list(query).await.expect(200).json();
        found.as_array().unwrap().iter().map(|artifact| text(&artifact["name"]).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("").await, ["app*", "app-1", "app-2", "other"]);
    assert_eq!(names("name=other&name=app-1&name=none").await, ["app-1", "other"]);
    assert_eq!(names("name=APP*").await, ["app*", "app-1", "app-2"]);
    assert_eq!(names("name=app%5C*").await, ["app*"]);
    assert_eq!(names("device_type=rpi*&description=made%20by*").await.len(), 4);
    assert_eq!(names("device_type=rpi").await, Vec::<String>::new());
    for query in ["name=a*&name=b*", "name=a*&name=b"] {
        assert!(list(query).await.expect(400).error().starts_with("invalid filter: "));
    }
    list("per_page=501").await.expect(400).error();
    // From page to page by the links alone.
    let (mut next, mut seen) = ("/api/management/v2/deployments/artifacts?per_page=1".to_owned(), vec![]);
    loop {
        let page = user.get(&next).await.expect(200);
        seen.push(text(&page.json()[0]["name"]).to_owned());
        assert_eq!(page.json().as_array().unwrap().len(), 1);
        assert!(page.headers.get("x-total-count").is_none());
        let links = page.headers.get_all("link").iter().map(|link| link.to_str().unwrap());
        let Some(link) = links.into_iter().find(|link| link.ends_with("rel=\"next\"")) else { break };
        link.trim_start_matches('<').split('>').next().unwrap().clone_into(&mut next);
        assert!(seen.len() < 10);
    }
    assert_eq!(seen, ["app*", "app-1", "app-2", "other"]);
}

async fn old_lists_pass_over_pages_without_sense(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let file = ArtifactRecipe::module("app", "rpi4").make();
    user.has_uploaded(&file).await;
    for number in 1..23 {
        user.has_uploaded(&ArtifactRecipe::module(&format!("app-{number:02}"), "rpi4").make()).await;
    }
    let list = async |query: &str| user.get(&format!("{ARTIFACTS}/list?{query}")).await.expect(200);
    for query in ["", "per_page=abc", "per_page=501&page=0", "page=-1"] {
        let page = list(query).await;
        assert_eq!(page.json().as_array().unwrap().len(), 20, "{query}");
        assert_eq!(page.header("x-total-count"), "23");
    }
    assert_eq!(list("page=2").await.json().as_array().unwrap().len(), 3);
    let beyond = list("page=7").await;
    assert_eq!((beyond.json(), beyond.header("x-total-count")), (json!([]), "23"));
    let newest = list("sort=name:desc&per_page=1&name=APP-").await;
    assert_eq!((&newest.json()[0]["name"], newest.header("x-total-count")), (&json!("app-22"), "22"));
    assert_eq!(user.get(ARTIFACTS).await.expect(200).json().as_array().unwrap().len(), 23);
}

async fn an_upload_that_breaks_off_leaves_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let noise: Vec<u8> =
        (0..3_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let file = ArtifactRecipe::module("app", "rpi4").with_content(noise).make();
    let body = Parts::default().file("artifact", &file).end();
    for end in [500, 3000, 8_000_000, body.len() - 100] {
        let begun = Bytes::copy_from_slice(&body[..end]);
        let pieces = stream::iter([Ok(begun), Err(std::io::Error::other("the client goes away"))]);
        let request = user.request("POST", ARTIFACTS).header("content-type", Parts::content_type());
        Answer::try_to(request.body(reqwest::Body::wrap_stream(pieces))).await.expect_err("there is no answer");
        wait_until(LIMIT, "the rest to be removed", async || hub.objects().await.is_empty().then_some(())).await;
    }
    assert_eq!(user.get(ARTIFACTS).await.expect(200).json(), json!([]));
    user.has_uploaded(&file).await;
    // Nothing of all that is left for later either: what is there now is what was taken.
    hub.clean_uploads(Duration::from_hours(48)).await;
    assert_eq!(hub.objects().await.len(), 1);
}

async fn parallel_uploads_of_one_artifact_make_one(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let file = ArtifactRecipe::module("app", "rpi4").make();
    let uploads = (0..8).map(|_| {
        let (user, file) = (user.clone(), file.clone());
        tokio::spawn(async move { user.upload_artifact(&file).await.status })
    });
    let mut statuses = vec![];
    for upload in uploads.collect::<Vec<_>>() {
        statuses.push(upload.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    assert_eq!(hub.objects().await.len(), 1);
}

async fn artifacts_have_a_limit_in_all(set: Set) {
    let first = ArtifactRecipe::module("app-1", "rpi4").make();
    let limit = first.len() as u64 + 100;
    let hub = set.hub_with(|config| config.actors.artifacts.storage_limit = limit).await;
    let user = hub.user().await;
    let id = user.has_uploaded(&first).await;
    let said = user.get("/api/management/v1/deployments/limits/storage").await.expect(200).json();
    assert_eq!(said, json!({"limit": limit, "usage": first.len()}));
    let second = ArtifactRecipe::module("app-2", "rpi4").make();
    user.upload_artifact(&second).await.expect(422).error();
    assert_eq!(hub.objects().await.len(), 1);
    user.delete(&format!("{ARTIFACTS}/{id}")).await.expect(204);
    user.has_uploaded(&second).await;
}

async fn what_is_too_large_is_cut_off(set: Set) {
    let hub = set.hub_with(|config| config.actors.artifacts.size_limit = 5000).await;
    let user = hub.user().await;
    let file = ArtifactRecipe::module("app", "rpi4").with(&["--compression", "none"]).make();
    assert!(file.len() > 5000);
    let error = Parts::default().file("artifact", &file).post(&user, ARTIFACTS).await.expect(413).error();
    assert_eq!(error, "Artifact file too large");
    // One that says so is not read at all.
    let head = format!(
        "POST {ARTIFACTS} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\ncontent-type: {}\r\n\
         content-length: 99999999999\r\n\r\n",
        user.token,
        Parts::content_type()
    );
    raw_request(hub.door().address(), head.as_bytes()).await.expect(413).error();
    assert_eq!(hub.objects().await, Vec::<String>::new());
}

async fn mender_cli_uploads_lists_and_deletes(set: Set) {
    let hub = set.hub().await;
    let cli = MenderCli::new(hub.door());
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
    std::fs::write(cli.path("app.mender"), ArtifactRecipe::module("app-2.1", "rpi4").make()).unwrap();
    let upload = ["artifacts", "upload", "--description", "by the tool", "--no-progress", "app.mender"];
    let uploaded = cli.run(&upload).await;
    assert!(uploaded.status.success(), "{uploaded:?}");
    let again = cli.run(&upload).await;
    assert!(!again.status.success() && again.stderr.contains("409"), "{again:?}");
    let listed = cli.run(&["artifacts", "list", "-d", "3"]).await;
    assert!(listed.status.success(), "{listed:?}");
    for part in ["app-2.1", "by the tool", "rpi4", "demo"] {
        assert!(listed.stdout.contains(part), "{part} is not in {listed:?}");
    }
    let artifacts = hub.user().await.get(ARTIFACTS).await.expect(200).json();
    let deleted = cli.run(&["artifacts", "delete", text(&artifacts[0]["id"])]).await;
    assert!(deleted.status.success(), "{deleted:?}");
    assert_eq!(hub.user().await.get(ARTIFACTS).await.expect(200).json(), json!([]));
}

async fn the_operator_s_command_uploads_and_lists(set: Set) {
    let hub = set.hub().await;
    let mooring = Mooring::alone();
    let server = hub.url();
    let run = async |arguments: &[&str], input: &str| {
        let mut all = vec!["artifact"];
        all.extend(arguments);
        all.extend(["--server", &server, "--user", ADMIN_EMAIL, "--password-stdin"]);
        mooring.run(&all, input).await
    };
    let password = format!("{ADMIN_PASSWORD}\n");
    let directory = harness::temporary_directory();
    let path = directory.join("app.mender");
    std::fs::write(&path, ArtifactRecipe::module("app-2.1", "rpi4").make()).unwrap();
    let path = path.to_str().unwrap();
    let none = run(&["list"], &password).await;
    assert_eq!((none.status.success(), none.stdout.trim()), (true, "no artifacts"), "{none:?}");
    let uploaded = run(&["upload", path, "--description", "by hand"], "").await;
    assert!(uploaded.status.success(), "{uploaded:?}");
    let id = uploaded.stdout.trim().to_owned();
    assert_eq!(hub.user().await.artifact(&id).await["description"], "by hand");
    let again = run(&["upload", path], "").await;
    assert!(!again.status.success() && again.stderr.contains("already exists"), "{again:?}");
    let listed = run(&["list"], "").await;
    for part in [id.as_str(), "app-2.1", "rpi4", "demo"] {
        assert!(listed.stdout.contains(part), "{part} is not in {listed:?}");
    }
}

async fn signatures_are_checked_if_keys_are_set(set: Set) {
    let directory = harness::temporary_directory();
    let openssl = |arguments: &[&str]| {
        let run = std::process::Command::new("openssl").args(arguments).current_dir(&directory).output().unwrap();
        assert!(run.status.success(), "{run:?}");
    };
    for name in ["ours", "theirs"] {
        let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
        openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &private]);
        openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]);
    }
    let signed_by = |key: &str, name: &str| {
        let key = directory.join(key).display().to_string();
        ArtifactRecipe::module(name, "rpi4").with(&["-k", &key]).make()
    };
    let hub: TestHub = set
        .hub_with(|config| {
            config.actors.artifacts.signed_by = vec![directory.join("ours.pub")];
            config.actors.artifacts.must_be_signed = true;
        })
        .await;
    let user = hub.user().await;
    let id = user.has_uploaded(&signed_by("ours.pem", "app-1")).await;
    assert_eq!(user.artifact(&id).await["signed"], true);
    let details = user.get(&format!("/api/management/v1/mooring/artifacts/{id}")).await.expect(200).json();
    assert_eq!((&details["signature"], &details["warnings"]), (&json!("verified"), &json!([])));
    let error = user.upload_artifact(&signed_by("theirs.pem", "app-2")).await.expect(400).error();
    assert_eq!(error, "the signature is not by any of the configured keys");
    let error = user.upload_artifact(&ArtifactRecipe::module("app-3", "rpi4").make()).await.expect(400).error();
    assert_eq!(error, "the artifact is not signed");
    assert_eq!(hub.objects().await.len(), 1);
}
