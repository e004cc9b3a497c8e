//! Artifacts and releases: known as a whole or not at all, found by what they are for, kept while somebody needs them.

use storage::{
    Alteration, ArtifactFilter, ArtifactId, ArtifactSort, DeploymentId, Direction, Insertion, NewArtifact, Release,
    ReleaseFilter, ReleaseSort, Storage, TagsOutcome, TextMatch, Timestamp, Upload, UploadId, UploadKind, UploadState,
};

use crate::backends::TestDatabase;

const NOW: Timestamp = Timestamp(5_000_000);

fn hash(number: u8) -> [u8; 32] {
    [number; 32]
}

pub fn upload(artifact: ArtifactId, kind: UploadKind, state: UploadState) -> Upload {
    let id = UploadId::random();
    Upload {
        id,
        artifact,
        kind,
        state,
        object: format!("artifacts/{id}"),
        parts: None,
        request: "{}".to_owned(),
        created: NOW,
        expires: NOW.plus(std::time::Duration::from_hours(1)),
        touched: NOW,
        reason: None,
    }
}

/// An artifact whose upload is going on.
pub async fn new(storage: &Storage, name: &str, device_types: &[&str], combinations: &[u8]) -> NewArtifact {
    let id = ArtifactId::random();
    let upload = upload(id, UploadKind::File, UploadState::Writing);
    assert!(storage.uploads.begin(&upload).await.expect("an answer"));
    NewArtifact {
        id,
        name: name.to_owned(),
        description: format!("About {name}"),
        size: 100,
        object: upload.object,
        document: "{}".to_owned(),
        device_types: device_types.iter().map(|&kind| kind.to_owned()).collect(),
        kinds: vec!["single-file".to_owned()],
        combinations: combinations.iter().map(|&number| hash(number)).collect(),
        upload: upload.id,
        at: NOW,
    }
}

async fn insert(storage: &Storage, artifact: &NewArtifact) -> Insertion {
    storage.artifacts.insert(artifact, 0).await.expect("an answer")
}

/// An artifact that is known.
pub async fn kept(storage: &Storage, name: &str, device_types: &[&str], combinations: &[u8]) -> ArtifactId {
    let artifact = new(storage, name, device_types, combinations).await;
    assert_eq!(insert(storage, &artifact).await, Insertion::Kept);
    artifact.id
}

async fn names(storage: &Storage, filter: ArtifactFilter) -> Vec<String> {
    let sort = (ArtifactSort::Name, Direction::Ascending);
    let (page, total) = storage.artifacts.list(&filter, sort, 0, 100).await.expect("a list");
    assert_eq!(total, page.len() as u64);
    page.into_iter().map(|artifact| artifact.name).collect()
}

async fn release(storage: &Storage, name: &str) -> Option<Release> {
    storage.artifacts.release(name).await.expect("an answer")
}

fn contains(text: &str) -> TextMatch {
    TextMatch::Contains(text.to_owned())
}

pub async fn an_artifact_becomes_known_with_its_release(database: &TestDatabase) {
    let storage = &database.storage;
    let artifact = NewArtifact {
        description: "nul \0 and ünïcode".to_owned(),
        document: r#"{"a":"b"}"#.to_owned(),
        ..new(storage, "app-1", &["rpi4", "rpi5"], &[1, 2]).await
    };
    assert!(storage.artifacts.find(artifact.id).await.expect("an answer").is_none());
    assert_eq!(insert(storage, &artifact).await, Insertion::Kept);
    let found = storage.artifacts.find(artifact.id).await.expect("an answer").expect("it is known");
    assert_eq!((found.name.as_str(), found.size, found.modified), ("app-1", 100, NOW));
    assert_eq!(found.description, "nul \u{fffd} and ünïcode");
    assert_eq!((found.object.as_str(), found.document.as_str()), (artifact.object.as_str(), r#"{"a":"b"}"#));
    assert_eq!(storage.uploads.find(artifact.upload).await.expect("an answer"), None, "it is no upload any more");
    let release = release(storage, "app-1").await.expect("it is known");
    assert_eq!((release.artifacts, release.tags, release.modified), (vec![found], vec![], NOW));
    assert_eq!(storage.artifacts.usage().await.expect("a sum"), 100);
    assert_eq!(storage.artifacts.kinds().await.expect("a list"), ["single-file"]);
}

pub async fn only_one_of_a_name_fits_a_device(database: &TestDatabase) {
    let storage = &database.storage;
    let first = kept(storage, "app-1", &["rpi4"], &[1, 2]).await;
    let same = new(storage, "app-1", &["rpi5", "rpi4"], &[3, 2]).await;
    assert_eq!(insert(storage, &same).await, Insertion::NotUnique(1));
    assert!(storage.uploads.find(same.upload).await.expect("an answer").is_some(), "nothing was written");
    kept(storage, "app-1", &["rpi5"], &[3]).await;
    kept(storage, "app-2", &["rpi4"], &[1, 2]).await;
    let again = NewArtifact { id: first, ..new(storage, "app-3", &["rpi4"], &[1]).await };
    assert_eq!(insert(storage, &again).await, Insertion::IdTaken);
    let mut taken = upload(first, UploadKind::Direct, UploadState::Pending);
    assert!(!storage.uploads.begin(&taken).await.expect("an answer"));
    taken.artifact = ArtifactId::random();
    assert!(storage.uploads.begin(&taken).await.expect("an answer"));
    // A second time, since the first has taken its upload along.
    assert_eq!(insert(storage, &NewArtifact { id: ArtifactId::random(), ..again.clone() }).await, Insertion::Kept);
    assert_eq!(insert(storage, &again).await, Insertion::UploadGone);
}

pub async fn parallel_uploads_of_one_artifact_let_one_through(database: &TestDatabase) {
    let storage = &database.storage;
    let mut inserting = Vec::new();
    for _ in 0..6 {
        let artifact = new(storage, "app-1", &["rpi4"], &[1]).await;
        let node = database.another_node().await;
        inserting.push(tokio::spawn(async move { insert(&node, &artifact).await }));
    }
    let mut outcomes = Vec::new();
    for inserting in inserting {
        outcomes.push(inserting.await.expect("no panic"));
    }
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Insertion::Kept).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Insertion::NotUnique(0)).count(), 5, "{outcomes:?}");
}

pub async fn artifacts_have_room_in_all(database: &TestDatabase) {
    let storage = &database.storage;
    kept(storage, "app-1", &["rpi4"], &[1]).await;
    let more = new(storage, "app-2", &["rpi4"], &[1]).await;
    assert_eq!(storage.artifacts.insert(&more, 199).await.expect("an answer"), Insertion::NoRoom);
    assert_eq!(storage.artifacts.insert(&more, 200).await.expect("an answer"), Insertion::Kept);
}

pub async fn artifacts_are_found_by_their_texts(database: &TestDatabase) {
    let storage = &database.storage;
    for (name, device_type, number) in
        [("App_1", "RPi4", 1), ("app-2", "rpi5", 2), ("100%", "beaglebone", 3), ("app-2", "toaster", 4), ("z*", "z", 5)]
    {
        kept(storage, name, &[device_type], &[number]).await;
    }
    let by_name = |name: Option<TextMatch>| ArtifactFilter { name, ..ArtifactFilter::default() };
    assert_eq!(names(storage, ArtifactFilter::default()).await, ["100%", "App_1", "app-2", "app-2", "z*"]);
    assert_eq!(names(storage, by_name(Some(contains("APP")))).await, ["App_1", "app-2", "app-2"]);
    assert_eq!(names(storage, by_name(Some(contains("p_1")))).await, ["App_1"], "no letter stands for any other");
    assert_eq!(names(storage, by_name(Some(contains("%")))).await, ["100%"]);
    assert_eq!(names(storage, by_name(Some(TextMatch::StartsWith("aPP".into())))).await, ["App_1", "app-2", "app-2"]);
    let starts = |prefix: &str| by_name(Some(TextMatch::StartsExactlyWith(prefix.to_owned())));
    assert_eq!(names(storage, starts("app")).await, ["app-2", "app-2"]);
    assert_eq!(names(storage, starts("App_")).await, ["App_1"]);
    assert_eq!(names(storage, starts("a%")).await, Vec::<String>::new());
    let exactly = Some(TextMatch::OneOf(vec!["z*".into(), "App_1".into(), "APP-2".into()]));
    assert_eq!(names(storage, by_name(exactly)).await, ["App_1", "z*"]);
    let by_device_type = ArtifactFilter { device_type: Some(contains("rpi")), ..ArtifactFilter::default() };
    assert_eq!(names(storage, by_device_type).await, ["App_1", "app-2"]);
    let by_description = ArtifactFilter { description: Some(contains("about app-2")), ..ArtifactFilter::default() };
    assert_eq!(names(storage, by_description).await, ["app-2", "app-2"]);

    let sort = (ArtifactSort::Name, Direction::Descending);
    let (page, total) = storage.artifacts.list(&ArtifactFilter::default(), sort, 1, 2).await.expect("a list");
    assert_eq!(
        (page.iter().map(|artifact| artifact.name.as_str()).collect::<Vec<_>>(), total),
        (vec!["app-2", "app-2"], 5)
    );
    assert!(page[0].id < page[1].id);
    let (page, total) = storage.artifacts.list(&ArtifactFilter::default(), sort, 10, 2).await.expect("a list");
    assert_eq!((page.len(), total), (0, 5));
}

pub async fn devices_get_the_smallest_that_fits(database: &TestDatabase) {
    let storage = &database.storage;
    let small = NewArtifact { size: 7, ..new(storage, "app-1", &["rpi4", "rpi5"], &[1]).await };
    let large = NewArtifact { size: 9, ..new(storage, "app-1", &["rpi5"], &[2]).await };
    for artifact in [&large, &small] {
        assert_eq!(insert(storage, artifact).await, Insertion::Kept);
    }
    kept(storage, "app-2", &["rpi4"], &[1]).await;
    let ids = async |device_type: Option<&str>| {
        let found = storage.artifacts.candidates("app-1", device_type).await.expect("a list");
        found.into_iter().map(|artifact| artifact.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(None).await, [small.id, large.id]);
    assert_eq!(ids(Some("rpi5")).await, [small.id, large.id]);
    assert_eq!(ids(Some("rpi4")).await, [small.id]);
    assert!(ids(Some("RPI4")).await.is_empty());
}

pub async fn what_a_deployment_uses_stays(database: &TestDatabase) {
    let storage = &database.storage;
    let artifacts = &storage.artifacts;
    let (first, other) = (kept(storage, "app-1", &["rpi4"], &[1]).await, kept(storage, "app-2", &["rpi4"], &[1]).await);
    let deployment = DeploymentId::random();
    assert!(artifacts.begin_use(DeploymentId::random(), "app-0").await.expect("an answer").is_empty());
    assert_eq!(artifacts.begin_use(deployment, "app-1").await.expect("an answer"), [first]);
    assert_eq!(artifacts.remove(first, NOW).await.expect("an answer"), Alteration::InUse(vec![deployment]));
    assert_eq!(artifacts.describe(first, "x", NOW).await.expect("an answer"), Alteration::InUse(vec![deployment]));
    let both = ["app-2".to_owned(), "app-1".to_owned(), "app-0".to_owned()];
    let refused = artifacts.remove_releases(&both, NOW).await.expect("an answer");
    assert_eq!(refused, Alteration::InUse(vec![deployment]));
    assert!(release(storage, "app-2").await.is_some(), "all or none");

    // What comes later is handed out too, by those that are not finished.
    let late = kept(storage, "app-1", &["rpi5"], &[2]).await;
    let found = artifacts.candidates_among(deployment, "rpi5").await.expect("a list");
    assert_eq!(found.iter().map(|artifact| artifact.id).collect::<Vec<_>>(), [late]);
    artifacts.end_use(deployment).await.expect("it ends");
    let later = kept(storage, "app-1", &["rpi6"], &[3]).await;
    assert!(artifacts.candidates_among(deployment, "rpi6").await.expect("a list").is_empty());

    assert_eq!(artifacts.describe(first, "x", NOW).await.expect("an answer"), Alteration::InUse(vec![deployment]));
    assert_eq!(artifacts.describe(later, "new", NOW).await.expect("an answer"), Alteration::Done(()));
    assert_eq!(artifacts.find(later).await.expect("an answer").expect("known").description, "new");
    assert_eq!(artifacts.describe(ArtifactId::random(), "x", NOW).await.expect("an answer"), Alteration::Unknown);
    let object = artifacts.find(first).await.expect("an answer").expect("known").object;
    assert_eq!(artifacts.remove(first, NOW).await.expect("an answer"), Alteration::Done(object.clone()));
    assert_eq!(artifacts.remove(first, NOW).await.expect("an answer"), Alteration::Unknown);
    assert_eq!(artifacts.describe(first, "x", NOW).await.expect("an answer"), Alteration::Unknown);
    // Until somebody says that the object is gone it is not forgotten.
    let left = storage.uploads.to_forget(Timestamp(i64::MAX), 0, 10).await.expect("a list");
    assert!(left.iter().any(|upload| upload.object == object));
    storage.uploads.forget_object(&object).await.expect("forgotten");
    let left = storage.uploads.to_forget(Timestamp(i64::MAX), 0, 10).await.expect("a list");
    assert!(!left.iter().any(|upload| upload.object == object));

    let Alteration::Done(objects) = artifacts.remove_releases(&both, NOW).await.expect("an answer") else {
        panic!("nothing is in use")
    };
    assert_eq!(objects.len(), 3);
    for name in ["app-1", "app-2"] {
        assert_eq!(release(storage, name).await, None);
    }
    assert!(artifacts.find(other).await.expect("an answer").is_none());
    // Their places are free again.
    kept(storage, "app-1", &["rpi4"], &[1, 2, 3]).await;
}

pub async fn a_release_ends_with_its_last_artifact(database: &TestDatabase) {
    let storage = &database.storage;
    let (one, two) = (kept(storage, "app-1", &["a"], &[1]).await, kept(storage, "app-1", &["b"], &[2]).await);
    let tags = ["blue".to_owned()];
    assert_eq!(storage.artifacts.set_tags("app-1", &tags, 100, NOW).await.expect("an answer"), TagsOutcome::Given);
    storage.artifacts.remove(one, NOW).await.expect("an answer");
    assert_eq!(release(storage, "app-1").await.expect("it is there").artifacts.len(), 1);
    storage.artifacts.remove(two, NOW).await.expect("an answer");
    assert_eq!(release(storage, "app-1").await, None);
    assert!(storage.artifacts.tags().await.expect("a list").is_empty());
}

pub async fn releases_have_tags_and_notes(database: &TestDatabase) {
    let storage = &database.storage;
    let artifacts = &storage.artifacts;
    for (name, number) in [("app-1", 1), ("app-2", 2), ("app-3", 3)] {
        kept(storage, name, &["rpi4"], &[number]).await;
    }
    kept(storage, "app-3", &["rpi5"], &[4]).await;
    let list = |tags: &[&str]| tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>();
    let later = Timestamp(NOW.0 + 1_000_000);
    let tag = async |name: &str, tags: &[&str], most| {
        artifacts.set_tags(name, &list(tags), most, later).await.expect("an answer")
    };
    assert_eq!(tag("app-1", &["z", "a"], 2).await, TagsOutcome::Given);
    assert_eq!(release(storage, "app-1").await.expect("known").tags, ["z", "a"]);
    assert_eq!(release(storage, "app-1").await.expect("known").modified, later);
    assert_eq!(tag("app-2", &["a", "b"], 2).await, TagsOutcome::TooMany);
    assert!(release(storage, "app-2").await.expect("known").tags.is_empty(), "nothing was written");
    assert_eq!(tag("app-2", &["a"], 2).await, TagsOutcome::Given);
    assert_eq!(tag("app-0", &["a"], 2).await, TagsOutcome::Unknown);
    assert_eq!(artifacts.tags().await.expect("a list"), ["a", "z"]);
    assert!(artifacts.set_notes("app-2", "good", later).await.expect("an answer"));
    assert!(!artifacts.set_notes("app-0", "good", later).await.expect("an answer"));
    assert_eq!(release(storage, "app-2").await.expect("known").notes, "good");

    let names = async |filter: ReleaseFilter, sort, direction| {
        let (page, total) = artifacts.releases(&filter, (sort, direction), 0, 10).await.expect("a list");
        assert_eq!(total, page.len() as u64);
        page.into_iter().map(|release| release.name).collect::<Vec<_>>()
    };
    let all = ReleaseFilter::default;
    assert_eq!(names(all(), ReleaseSort::Name, Direction::Descending).await, ["app-3", "app-2", "app-1"]);
    assert_eq!(names(all(), ReleaseSort::Artifacts, Direction::Descending).await, ["app-3", "app-1", "app-2"]);
    assert_eq!(names(all(), ReleaseSort::Tags, Direction::Ascending).await, ["app-3", "app-1", "app-2"]);
    assert_eq!(names(all(), ReleaseSort::Modified, Direction::Ascending).await, ["app-3", "app-1", "app-2"]);
    let by = |filter| names(filter, ReleaseSort::Name, Direction::Ascending);
    assert_eq!(by(ReleaseFilter { tags: list(&["z", "y"]), ..all() }).await, ["app-1"]);
    assert_eq!(by(ReleaseFilter { kind: Some("single-file".into()), ..all() }).await.len(), 3);
    assert!(by(ReleaseFilter { kind: Some("other".into()), ..all() }).await.is_empty());
    let rpi5 = Some(TextMatch::OneOf(vec!["rpi5".into()]));
    assert_eq!(by(ReleaseFilter { device_type: rpi5, ..all() }).await, ["app-3"]);
    assert_eq!(by(ReleaseFilter { name: Some(contains("P-2")), ..all() }).await, ["app-2"]);
    assert_eq!(by(ReleaseFilter { description: Some(contains("about APP-1")), ..all() }).await, ["app-1"]);
}
