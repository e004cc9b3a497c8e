//! Opening, closing, and what all nodes share.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use storage::{Config, Decision, DeviceId, DeviceKey, Storage};

use crate::backends::{TestDatabase, patient};

pub async fn nodes_that_start_together_share_one_schema(database: &TestDatabase) {
    if database.is_private() {
        return;
    }
    for url in [database.url(), database.fresh_url().await] {
        let mut starts = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let config = Config { database_url: url.clone(), pool_size: 2, ..patient() };
            starts.spawn(async move { Storage::open(&config).await.expect("it opens").devices.count(None).await });
        }
        for count in starts.join_all().await {
            assert_eq!(count.expect("a count"), 0);
        }
        let config = Config { database_url: url, ..patient() };
        Storage::migrate(&config).await.expect("there is nothing to do");
    }
}

pub async fn all_nodes_get_the_same_signing_key(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let mut starts = tokio::task::JoinSet::new();
    for number in 0..10 {
        let storage = nodes[number % 2].clone();
        starts.spawn(
            async move { storage.keys.get_or_create("device", || format!("key {number}")).await.expect("a key") },
        );
    }
    let keys: HashSet<String> = starts.join_all().await.into_iter().collect();
    assert_eq!(keys.len(), 1);
    let other = database.storage.keys.get_or_create("user", || "another".to_owned()).await.expect("a key");
    assert_eq!(other, "another");
    let kept = database.storage.keys.get_or_create("user", || panic!("there is one")).await.expect("a key");
    assert_eq!(kept, "another");
}

pub async fn an_open_database_answers(database: &TestDatabase) {
    let answers = database.storage.ping().await;
    assert!(matches!(answers.as_slice(), [("database", Ok(())), ("objects", Ok(()))]), "{answers:?}");
}

pub async fn a_closed_database_is_unavailable(database: &TestDatabase) {
    database.storage.close().await;
    let error = database.storage.devices.find(DeviceId::random()).await.expect_err("closed");
    assert!(error.is_unavailable(), "{error:?}");
    let error = database.storage.ping().await.remove(0).1.expect_err("closed");
    assert!(error.is_unavailable(), "{error:?}");
}

pub async fn a_full_pool_is_unavailable_soon(database: &TestDatabase) {
    if database.is_private() {
        return;
    }
    let storage = database
        .another_node_with(|config| {
            config.pool_size = 1;
            config.acquire_timeout = Duration::from_millis(300);
        })
        .await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (taken, is_taken) = tokio::sync::oneshot::channel();
    let holder = storage.clone();
    let holding = tokio::spawn(async move {
        let mut taken = Some(taken);
        let decision = holder.devices.change(DeviceKey::Identity(&[1; 32]), move |_, _| {
            let Some(taken) = taken.take() else { return Decision::Keep(()) };
            taken.send(()).expect("somebody waits");
            // No decision may do this; here it stands for a slow database.
            let _ = tokio::task::block_in_place(|| held.recv_timeout(Duration::from_secs(20)));
            Decision::Keep(())
        });
        decision.await
    });
    is_taken.await.expect("the connection is taken");
    let begun = Instant::now();
    let refused = storage.devices.change(DeviceKey::Identity(&[2; 32]), |_, _| Decision::Keep(())).await;
    assert!(refused.expect_err("no connection is free").is_unavailable());
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    release.send(()).expect("the holder waits");
    holding.await.expect("it ends").expect("an answer");
    storage.devices.change(DeviceKey::Identity(&[2; 32]), |_, _| Decision::Keep(())).await.expect("a free connection");
}
