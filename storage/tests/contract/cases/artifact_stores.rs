//! Stores of artifacts beside the hub's own: what is in one is found there, whatever is set later.

use std::time::Duration;

use bytes::Bytes;
use storage::{Alteration, Insertion, Storage, StorageError, StoreRefusal, StoreSettings, Timestamp};

use super::artifacts::new;
use crate::backends::TestDatabase;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};

const NOW: Timestamp = Timestamp(5_000_000);

fn settings(server: &S3Server, bucket: &str) -> StoreSettings {
    StoreSettings {
        region: "eu-west-1".to_owned(),
        bucket: bucket.to_owned(),
        key: ACCESS_KEY.to_owned(),
        secret: SECRET_KEY.to_owned(),
        uri: Some(server.endpoint()),
        ..StoreSettings::default()
    }
}

fn server() -> S3Server {
    let server = S3Server::start();
    server.make_bucket("elsewhere");
    server
}

async fn set(storage: &Storage, settings: Option<&StoreSettings>, at: Timestamp) {
    storage.artifact_stores.set(settings, at).await.expect("it is taken");
}

/// Where an object of this path goes now.
async fn address(storage: &Storage, path: &str) -> String {
    storage.artifact_stores.address(path).await.expect("an address")
}

async fn content(storage: &Storage, address: &str) -> Result<Option<Bytes>, StorageError> {
    let (objects, path) = storage.artifact_stores.at(address).await?;
    objects.get(path, 1024).await
}

async fn write(storage: &Storage, address: &str) {
    let (objects, path) = storage.artifact_stores.at(address).await.expect("a store");
    objects.put(path, Bytes::from_static(b"x")).await.expect("it is written");
}

pub async fn what_is_in_a_store_stays_there(database: &TestDatabase) {
    let (storage, server) = (&database.storage, server());
    let stores = &storage.artifact_stores;
    assert_eq!(stores.settings().await.expect("an answer"), None);
    assert_eq!(address(storage, "a/own").await, "a/own");
    write(storage, "a/own").await;
    let elsewhere = settings(&server, "elsewhere");
    set(storage, Some(&elsewhere), NOW).await;
    assert_eq!(stores.settings().await.expect("an answer").as_ref(), Some(&elsewhere));
    let there = address(storage, "a/there").await;
    assert!(there.ends_with(":a/there"), "{there}");
    write(storage, &there).await;
    let (store, path) = there.split_once(':').expect("a store and a path");
    assert!(server.directory().join("elsewhere").join(store).join(path).exists(), "below the id of the store");
    assert!(!storage.objects.contains("a/there").await.expect("an answer"));
    assert_eq!(stores.all("a").await.expect("a list").len(), 2);

    set(storage, None, NOW).await;
    assert_eq!(stores.settings().await.expect("an answer"), None);
    assert_eq!(address(storage, "a/b").await, "a/b");
    // Whoever set it or not: every node finds it.
    for node in [storage.clone(), database.another_node().await] {
        assert!(content(&node, &there).await.expect("an answer").is_some());
    }
    assert!(content(storage, "a/own").await.expect("an answer").is_some());
    // The same place again is the same store.
    let other_key = StoreSettings { force_path_style: Some(true), ..elsewhere };
    set(storage, Some(&other_key), NOW).await;
    assert_eq!(address(storage, "a/there").await, there);
    assert_eq!(stores.settings().await.expect("an answer"), Some(other_key));
}

pub async fn a_store_that_does_not_work_is_not_taken(database: &TestDatabase) {
    let (storage, mut server) = (&database.storage, server());
    let stores = &storage.artifact_stores;
    let good = settings(&server, "elsewhere");
    for bad in [
        StoreSettings { secret: "hunter3".to_owned(), ..good.clone() },
        StoreSettings { bucket: "nowhere".to_owned(), ..good.clone() },
    ] {
        let refusal = stores.set(Some(&bad), NOW).await.expect_err("it cannot be used");
        assert!(matches!(refusal, StoreRefusal::Unusable(StorageError::Other(_))), "{refusal:?}");
        assert_eq!(stores.settings().await.expect("an answer"), None);
    }
    let fault = StoreSettings { key: "four".to_owned(), ..good.clone() };
    let refusal = stores.set(Some(&fault), NOW).await.expect_err("it makes no sense");
    assert!(matches!(refusal, StoreRefusal::Fault(_)), "{refusal:?}");
    set(storage, Some(&good), NOW).await;
    server.stop();
    let refusal = stores.set(Some(&good), NOW).await.expect_err("nobody answers");
    assert!(matches!(refusal, StoreRefusal::Unusable(StorageError::Unavailable(_))), "{refusal:?}");
    assert_eq!(stores.settings().await.expect("an answer"), Some(good));
}

pub async fn a_store_is_remembered_while_anything_is_in_it(database: &TestDatabase) {
    let (storage, server) = (&database.storage, server());
    let stores = &storage.artifact_stores;
    set(storage, Some(&settings(&server, "elsewhere")), NOW).await;
    let mut artifact = new(storage, "app-1", &["a"], &[1]).await;
    artifact.object = address(storage, "artifacts/1").await;
    write(storage, &artifact.object).await;
    assert_eq!(storage.artifacts.insert(&artifact, 0).await.expect("an answer"), Insertion::Kept);
    let day = |number: u64| NOW.plus(Duration::from_hours(25 * number));
    for number in 0..3 {
        set(storage, None, day(number)).await;
        assert!(content(storage, &artifact.object).await.expect("an answer").is_some(), "{number}");
    }
    assert_eq!(
        storage.artifacts.remove(artifact.id, day(3)).await.expect("an answer"),
        Alteration::Done(artifact.object.clone())
    );
    // The object has to go first.
    set(storage, None, day(4)).await;
    assert!(content(storage, &artifact.object).await.expect("an answer").is_some());
    storage.uploads.forget_object(&artifact.object).await.expect("forgotten");
    set(storage, None, day(5)).await;
    let error = content(storage, &artifact.object).await.expect_err("nobody knows the store");
    assert!(matches!(error, StorageError::Corrupt(_)), "{error:?}");
    assert_eq!(stores.all("a").await.expect("a list"), ["a"]);
}

pub async fn stores_have_a_bound(database: &TestDatabase) {
    let (storage, server) = (&database.storage, server());
    for number in 0..=20 {
        server.make_bucket(&format!("bucket-{number}"));
    }
    let numbered = |number: usize| settings(&server, &format!("bucket-{number}"));
    for number in 0..20 {
        set(storage, Some(&numbered(number)), NOW).await;
    }
    let refusal = storage.artifact_stores.set(Some(&numbered(20)), NOW).await.expect_err("there are too many");
    assert!(matches!(refusal, StoreRefusal::TooMany), "{refusal:?}");
    assert_eq!(storage.artifact_stores.settings().await.expect("an answer"), Some(numbered(19)));
    // One that is there is no other.
    set(storage, Some(&numbered(0)), NOW).await;
    // Nothing was ever in them.
    set(storage, Some(&numbered(20)), NOW.plus(Duration::from_hours(25))).await;
    assert_eq!(storage.artifact_stores.all("a").await.expect("a list").len(), 3);
}
