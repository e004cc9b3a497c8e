//! Releases: all artifacts of one name, with tags and notes.

use harness::{ARTIFACTS, Answer, ArtifactRecipe, Set, TestUser, both_sets};
use serde_json::{Value, json};

both_sets!([
    a_release_is_all_artifacts_of_a_name,
    tags_are_tidied_and_bounded,
    notes_are_one_line,
    releases_are_found_and_sorted,
    removing_releases_is_all_or_nothing,
    software_is_releases,
]);

const V1: &str = "/api/management/v1/deployments/deployments/releases";
const V2: &str = "/api/management/v2/deployments/deployments/releases";
const ALL: &str = "/api/management/v2/deployments/releases/all";
const SOFTWARE: &str = "/api/management/v1alpha1/deployments/software";

async fn upload(user: &TestUser, name: &str, device_type: &str) {
    user.has_uploaded(&ArtifactRecipe::module(name, device_type).make()).await;
}

async fn names(user: &TestUser, path: &str) -> Vec<String> {
    let found = user.get(path).await.expect(200).json();
    found.as_array().unwrap().iter().map(|release| release["name"].as_str().unwrap().to_owned()).collect()
}

async fn a_release_is_all_artifacts_of_a_name(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for path in [V1.to_owned(), format!("{V1}/list"), V2.to_owned()] {
        assert_eq!(user.get(&path).await.expect(200).json(), json!([]));
    }
    user.get(&format!("{V2}/app-1")).await.expect(404).error();
    for (name, device_type) in [("app-1", "rpi4"), ("app-1", "rpi5"), ("app 2/ü", "rpi4")] {
        upload(&user, name, device_type).await;
    }
    let release = user.get(&format!("{V2}/app-1")).await.expect(200).json();
    let mut keys: Vec<&String> = release.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["artifacts", "artifacts_count", "modified", "name", "notes", "tags"]);
    assert_eq!((&release["name"], &release["artifacts_count"]), (&json!("app-1"), &json!(2)));
    assert_eq!((&release["tags"], &release["notes"]), (&json!([]), &json!("")));
    let id = release["artifacts"][0]["id"].as_str().unwrap();
    assert_eq!(release["artifacts"][0], user.artifact(id).await);
    let other = user.get(&format!("{V2}/app%202%2F%C3%BC")).await.expect(200).json();
    assert_eq!(other["name"], "app 2/ü");

    for path in [V1.to_owned(), format!("{V1}/list")] {
        let releases = user.get(&path).await.expect(200).json();
        let old = &releases[1];
        let mut keys: Vec<&String> = old.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["Artifacts", "ArtifactsCount", "Modified", "Name", "notes", "tags"]);
        assert_eq!((&old["Name"], &old["ArtifactsCount"]), (&json!("app-1"), &json!(2)));
        assert_eq!((&old["Artifacts"], &old["Modified"]), (&release["artifacts"], &release["modified"]));
    }
    assert_eq!(user.get(&format!("{V1}/list")).await.header("x-total-count"), "2");
    // It ends with its last artifact.
    for artifact in release["artifacts"].as_array().unwrap() {
        user.get(&format!("{V2}/app-1")).await.expect(200);
        user.delete(&format!("{ARTIFACTS}/{}", artifact["id"].as_str().unwrap())).await.expect(204);
    }
    user.get(&format!("{V2}/app-1")).await.expect(404);
    assert_eq!(user.get(&format!("{ALL}/types")).await.expect(200).json(), json!(["demo"]));
}

async fn tags_are_tidied_and_bounded(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for number in 0..6 {
        upload(&user, &format!("app-{number}"), "rpi4").await;
    }
    let put = async |name: &str, tags: &Value| user.put(&format!("{V2}/{name}/tags"), tags).await;
    let tags = async |name: &str| user.get(&format!("{V2}/{name}")).await.expect(200).json()["tags"].clone();
    put("app-0", &json!(["A", "a", "b"])).await.expect(204);
    assert_eq!(tags("app-0").await, json!(["a", "b"]));
    put("app-0", &json!([])).await.expect(204);
    assert_eq!(tags("app-0").await, json!([]));
    put("none", &json!(["a"])).await.expect(404).error();
    let numbered = |from: usize, count: usize| json!((from..from + count).map(|n| format!("t{n}")).collect::<Vec<_>>());
    put("app-0", &numbered(0, 21)).await.expect(400).error();
    for bad in [json!(["a b"]), json!([""]), json!(["x".repeat(1025)]), json!({"tags": []}), json!([1])] {
        put("app-0", &bad).await.expect(400).error();
    }
    for number in 0..5 {
        put(&format!("app-{number}"), &numbered(number * 20, 20)).await.expect(204);
    }
    put("app-5", &json!(["the-101st"])).await.expect(409).error();
    assert_eq!(tags("app-5").await, json!([]));
    // One that somebody has already is no further one.
    put("app-5", &json!(["t99"])).await.expect(204);
    assert_eq!(user.get(&format!("{ALL}/tags")).await.expect(200).json().as_array().unwrap().len(), 100);
    assert_eq!(names(&user, &format!("{V2}?tag=T99&tag=t0")).await, ["app-0", "app-4", "app-5"]);
}

async fn notes_are_one_line(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    upload(&user, "app-1", "rpi4").await;
    let patch = async |name: &str, notes: &Value| {
        Answer::to(user.request("PATCH", &format!("{V2}/{name}")).json(&json!({"notes": notes}))).await
    };
    patch("app-1", &json!("Gut, sehr gut: ü")).await.expect(204);
    let release = user.get(&format!("{V2}/app-1")).await.expect(200).json();
    assert_eq!(release["notes"], "Gut, sehr gut: ü");
    for bad in [json!("x".repeat(1025)), json!("a\nb"), json!("a\u{7}"), json!(1)] {
        patch("app-1", &bad).await.expect(400).error();
    }
    patch("app-1", &json!("x".repeat(1024))).await.expect(204);
    patch("none", &json!("x")).await.expect(404).error();
}

async fn releases_are_found_and_sorted(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for (name, device_type) in [("app-1", "rpi4"), ("app-1", "rpi5"), ("app-2", "rpi4"), ("Other", "toaster")] {
        upload(&user, name, device_type).await;
    }
    let v1 = async |query: &str| {
        let found = user.get(&format!("{V1}/list?{query}")).await.expect(200).json();
        found.as_array().unwrap().iter().map(|release| release["Name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(v1("").await, ["Other", "app-1", "app-2"]);
    assert_eq!(v1("name=OTH").await, ["Other"]);
    assert_eq!(v1("device_type=rpi4").await, ["app-1", "app-2"]);
    assert_eq!(v1("device_type=rpi").await, Vec::<String>::new());
    assert_eq!(v1("update_type=demo&description=BY%20A").await.len(), 3);
    assert_eq!(v1("update_type=other").await, Vec::<String>::new());
    assert_eq!(v1("sort=artifacts_count:desc&per_page=1").await, ["app-1"]);
    assert_eq!(v1("sort=colour:desc&per_page=nonsense").await, ["Other", "app-1", "app-2"]);
    assert_eq!(names(&user, &format!("{V2}?sort=name:desc")).await, ["app-2", "app-1", "Other"]);
    let page = user.get(&format!("{V2}?name=app&per_page=1&page=2")).await.expect(200);
    assert_eq!((&page.json()[0]["name"], page.header("x-total-count")), (&json!("app-2"), "2"));
    let links: Vec<_> = page.headers.get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
    assert_eq!(
        links,
        ["first", "prev", "last"].map(|relation| {
            let page = if relation == "last" { 2 } else { 1 };
            format!("<{V2}?name=app&page={page}&per_page=1>; rel=\"{relation}\"")
        })
    );
}

async fn removing_releases_is_all_or_nothing(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for name in ["app-1", "app-2", "app-3"] {
        upload(&user, name, "rpi4").await;
    }
    user.delete(V2).await.expect(400).error();
    let deployment = hub.begin_use_of_artifacts("app-2").await;
    let path = format!("{V2}?name=app-1&name=app-2&name=none");
    let refused = user.delete(&path).await.expect(409);
    assert_eq!(refused.error(), "release(s) used in active deployment");
    assert_eq!(refused.json()["active_deployments"], json!([deployment]));
    assert_eq!(names(&user, V2).await.len(), 3);
    hub.end_use_of_artifacts(&deployment).await;
    user.delete(&path).await.expect(204);
    assert_eq!(names(&user, V2).await, ["app-3"]);
    user.get(&format!("{V2}/app-1")).await.expect(404);
    assert_eq!(hub.objects().await.len(), 1, "their files are gone too");
    user.delete(&format!("{V2}?name=none")).await.expect(204);
}

async fn software_is_releases(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    for (name, device_type) in [("app-1", "rpi5"), ("app-1", "rpi4"), ("App-2", "rpi4")] {
        upload(&user, name, device_type).await;
    }
    user.put(&format!("{V2}/app-1/tags"), &json!(["blue"])).await.expect(204);
    let list = user.get(SOFTWARE).await.expect(200);
    assert_eq!(list.header("x-total-count"), "2");
    let mut software = list.json()[1].clone();
    software.as_object_mut().unwrap().remove("modified");
    assert_eq!(
        software,
        json!({"name": "app-1", "tags": ["blue"], "notes": "", "kind": "release", "compatible_types": ["rpi4", "rpi5"]})
    );
    assert_eq!(names(&user, &format!("{SOFTWARE}?name=app-1&name=x&kind=release")).await, ["app-1"]);
    assert_eq!(names(&user, &format!("{SOFTWARE}?name_prefix=app")).await, ["app-1"]);
    assert_eq!(names(&user, &format!("{SOFTWARE}?name_prefix=App-")).await, ["App-2"]);
    assert_eq!(names(&user, &format!("{SOFTWARE}?kind=manifest")).await, Vec::<String>::new());
    assert_eq!(names(&user, &format!("{SOFTWARE}?tag=blue")).await, ["app-1"]);
    assert_eq!(user.get(&format!("{SOFTWARE}/tags")).await.expect(200).json(), json!(["blue"]));
    for query in [
        "name=a&name_prefix=b",
        "sort=colour:asc",
        "sort=name",
        "page=0",
        "per_page=501",
        "kind=other",
        "kind=release&kind=manifest",
    ] {
        user.get(&format!("{SOFTWARE}?{query}")).await.expect(400).error();
    }
    user.get(&format!("{SOFTWARE}/tags?kind=release&kind=release")).await.expect(400).error();
}
