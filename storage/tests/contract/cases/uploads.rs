//! Uploads: what is on its way has a row, and whoever loses it cannot finish.

use std::time::Duration;

use storage::{ArtifactId, Insertion, Timestamp, UploadKind, UploadState};

use super::artifacts::{new, upload};
use crate::backends::TestDatabase;

const NOW: Timestamp = Timestamp(5_000_000);

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

pub async fn a_lost_upload_cannot_become_an_artifact(database: &TestDatabase) {
    let storage = &database.storage;
    let (lost, alive) = (new(storage, "app-1", &["a"], &[1]).await, new(storage, "app-2", &["a"], &[1]).await);
    assert!(storage.uploads.touch(alive.upload, Some("parts-7"), later(60)).await.expect("an answer"));
    let orphans = storage.uploads.orphans(later(30), later(90), 10).await.expect("a list");
    assert_eq!(orphans.iter().map(|upload| upload.id).collect::<Vec<_>>(), [lost.upload]);
    assert_eq!(orphans[0].state, UploadState::Removing);
    // Its worker was asleep and knows nothing of it.
    assert!(!storage.uploads.touch(lost.upload, None, later(91)).await.expect("an answer"));
    assert_eq!(storage.artifacts.insert(&lost, 0).await.expect("an answer"), Insertion::UploadGone);
    assert_eq!(storage.artifacts.insert(&alive, 0).await.expect("an answer"), Insertion::Kept);
    assert!(storage.uploads.orphans(later(1000), later(1000), 10).await.expect("a list").is_empty());

    assert!(storage.uploads.to_forget(later(90), 0, 10).await.expect("a list").is_empty(), "removed too recently");
    let old = storage.uploads.to_forget(later(91), 0, 10).await.expect("a list");
    assert_eq!(old.iter().map(|upload| upload.id).collect::<Vec<_>>(), [lost.upload]);
    assert!(storage.uploads.to_forget(later(91), 1, 10).await.expect("a list").is_empty(), "passed over");
    storage.uploads.forget(lost.upload).await.expect("forgotten");
    assert_eq!(storage.uploads.find(lost.upload).await.expect("an answer"), None);
}

pub async fn the_number_of_the_parts_is_kept(database: &TestDatabase) {
    let storage = &database.storage;
    let artifact = new(storage, "app-1", &["a"], &[1]).await;
    storage.uploads.touch(artifact.upload, Some("parts-7"), later(1)).await.expect("an answer");
    storage.uploads.touch(artifact.upload, None, later(2)).await.expect("an answer");
    let found = storage.uploads.find(artifact.upload).await.expect("an answer").expect("it is there");
    assert_eq!((found.parts.as_deref(), found.touched), (Some("parts-7"), later(2)));
    storage.uploads.give_up(artifact.upload, later(3)).await.expect("given up");
    assert_eq!(storage.artifacts.insert(&artifact, 0).await.expect("an answer"), Insertion::UploadGone);
    // Nobody forgets one that somebody works on.
    let at_work = new(storage, "app-2", &["a"], &[1]).await;
    storage.uploads.forget(at_work.upload).await.expect("no matter");
    assert!(storage.uploads.find(at_work.upload).await.expect("an answer").is_some());
}

pub async fn an_announced_upload_is_taken_once(database: &TestDatabase) {
    let storage = &database.storage;
    let uploads = &storage.uploads;
    let announced = upload(ArtifactId::random(), UploadKind::Direct, UploadState::Pending);
    assert!(uploads.begin(&announced).await.expect("an answer"));
    assert_eq!(uploads.find(announced.id).await.expect("an answer"), Some(announced.clone()));
    let mut taking = Vec::new();
    for _ in 0..5 {
        let node = database.another_node().await;
        taking.push(tokio::spawn(async move { node.uploads.take(announced.id, later(1)).await.expect("an answer") }));
    }
    let mut taken = 0;
    for taking in taking {
        taken += usize::from(taking.await.expect("no panic").is_some());
    }
    assert_eq!(taken, 1);
    assert!(uploads.interrupted(later(1), later(2), 10).await.expect("a list").is_empty());
    let interrupted = uploads.interrupted(later(2), later(3), 10).await.expect("a list");
    assert_eq!(interrupted.iter().map(|upload| upload.id).collect::<Vec<_>>(), [announced.id]);
    assert!(uploads.interrupted(later(3), later(4), 10).await.expect("a list").is_empty(), "somebody has it");
    uploads.conclude(announced.id, Some("no \0 artifact"), later(5)).await.expect("written");
    uploads.conclude(announced.id, None, later(6)).await.expect("no matter");
    let found = uploads.find(announced.id).await.expect("an answer").expect("it is there");
    assert_eq!((found.state, found.reason.as_deref()), (UploadState::Aborted, Some("no \u{fffd} artifact")));
    assert!(uploads.to_forget(later(3600), 0, 10).await.expect("a list").is_empty(), "not expired");
    assert_eq!(uploads.to_forget(later(3601), 0, 10).await.expect("a list").len(), 1);

    let late = upload(ArtifactId::random(), UploadKind::Direct, UploadState::Pending);
    assert!(uploads.begin(&late).await.expect("an answer"));
    assert_eq!(uploads.take(late.id, later(3600)).await.expect("an answer"), None, "expired");
}

pub async fn an_upload_is_taken_over_only_so_often(database: &TestDatabase) {
    let uploads = &database.storage.uploads;
    let processing = upload(ArtifactId::random(), UploadKind::Generate, UploadState::Processing);
    assert!(uploads.begin(&processing).await.expect("an answer"));
    let end = async |before: u64, expired: u64| {
        let times = (later(before), later(expired));
        uploads.end_hopeless(times, 2, "it never ends", later(before)).await.expect("an answer")
    };
    for round in 0..2 {
        assert_eq!(end(round * 10 + 1, 0).await, 0);
        let taken = uploads.interrupted(later(round * 10 + 1), later(round * 10 + 5), 10).await.expect("a list");
        assert_eq!(taken.len(), 1);
    }
    assert_eq!(end(15, 0).await, 0, "somebody is at work");
    assert_eq!(end(16, 0).await, 1);
    let found = uploads.find(processing.id).await.expect("an answer").expect("it is there");
    assert_eq!((found.state, found.reason.as_deref()), (UploadState::Aborted, Some("it never ends")));
    assert!(uploads.interrupted(later(1000), later(1001), 10).await.expect("a list").is_empty());

    let old = upload(ArtifactId::random(), UploadKind::Direct, UploadState::Processing);
    let pending = upload(ArtifactId::random(), UploadKind::Direct, UploadState::Pending);
    for upload in [&old, &pending] {
        assert!(uploads.begin(upload).await.expect("an answer"));
    }
    assert_eq!(end(10, 3600).await, 0, "not expired");
    assert_eq!(end(10, 3601).await, 1);
    let state =
        async |upload: &storage::Upload| uploads.find(upload.id).await.expect("an answer").expect("there").state;
    assert_eq!((state(&old).await, state(&pending).await), (UploadState::Aborted, UploadState::Pending));
}
