//! Servers that go away and come back.

use std::time::{Duration, Instant};

use storage::{Config, Decision, DeviceId, DeviceKey, NodeId, Presence, SetStatus, Storage, StorageError, clock};

use crate::backends::{eventually, patient, stored_device};
use crate::servers::{Postgres, Redis};

const LEASE: Duration = Duration::from_mins(1);

async fn start<T: Send + 'static>(start: fn() -> T) -> T {
    tokio::task::spawn_blocking(start).await.expect("a server")
}

/// A call that must fail as unavailable, and soon.
async fn refused<T: std::fmt::Debug>(limit: Duration, call: impl Future<Output = Result<T, StorageError>>) {
    let begun = Instant::now();
    let error = call.await.expect_err("the server is gone");
    assert!(error.is_unavailable(), "{error:?}");
    assert!(begun.elapsed() < limit, "it took {:?}", begun.elapsed());
}

async fn presence_of(redis: &Redis, redis_timeout: Duration) -> Presence {
    let config = Config { redis_url: Some(redis.url().into()), redis_timeout, ..Config::in_memory() };
    let storage = Storage::open(&config).await.expect("redis opens");
    let names: Vec<&str> = storage.ping().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["database", "redis", "objects"]);
    storage.presence
}

pub async fn redis_goes_away_and_comes_back() {
    let mut redis = start(Redis::start).await;
    let presence = presence_of(&redis, Duration::from_secs(2)).await;
    let (node, device) = (NodeId::random(), DeviceId::random());
    presence.renew(node, LEASE).await.expect("a lease");
    let before = presence.claim(device, node, clock::now()).await.expect("a claim").epoch;

    redis.stop();
    for _ in 0..3 {
        refused(Duration::from_secs(5), presence.find(device)).await;
        refused(Duration::from_secs(5), presence.claim(device, node, clock::now())).await;
        refused(Duration::from_secs(5), presence.increment("key", 1, LEASE)).await;
    }

    redis.resume();
    eventually("redis is used again", async || presence.renew(node, LEASE).await.is_ok()).await;
    // It lost everything: the node announces what it holds, and epochs go on growing.
    assert_eq!(presence.find(device).await.expect("an answer"), None);
    presence.announce(node, &[(device, before)]).await.expect("announced");
    assert_eq!(presence.find(device).await.expect("an answer").map(|route| route.epoch), Some(before));
    assert!(presence.claim(device, node, clock::now()).await.expect("a claim").epoch > before);
}

pub async fn a_redis_that_hangs_is_given_up_on() {
    let mut redis = start(Redis::start).await;
    let presence = presence_of(&redis, Duration::from_millis(500)).await;
    redis.freeze();
    eventually("it hangs", async || presence.find(DeviceId::random()).await.is_err()).await;
    refused(Duration::from_secs(4), presence.find(DeviceId::random())).await;
    redis.thaw();
    eventually("it answers again", async || presence.find(DeviceId::random()).await.is_ok()).await;
}

pub async fn postgres_goes_away_and_comes_back() {
    let mut postgres = start(Postgres::start).await;
    let config = Config {
        database_url: postgres.database(),
        pool_size: 4,
        acquire_timeout: Duration::from_secs(1),
        ..patient()
    };
    let storage = Storage::open(&config).await.expect("the database opens");
    let device = stored_device(&storage, 1, SetStatus::Pending).await;

    postgres.stop();
    for _ in 0..6 {
        refused(Duration::from_secs(8), storage.devices.find(device.id)).await;
        let change = storage.devices.change(DeviceKey::Id(device.id), |_, _| Decision::Keep(()));
        refused(Duration::from_secs(8), change).await;
    }
    let answers = storage.ping().await;
    assert!(
        matches!(answers.as_slice(), [("database", Err(error)), ("objects", Ok(()))] if error.is_unavailable()),
        "{answers:?}"
    );

    postgres.resume();
    eventually("the database is used again", async || storage.devices.find(device.id).await.is_ok()).await;
    assert_eq!(storage.devices.find(device.id).await.expect("an answer"), Some(device));
}

pub async fn servers_that_are_not_there_stop_the_start() {
    let soon = Duration::from_millis(300);
    let nobody = "127.0.0.1:1";
    let config =
        Config { redis_url: Some(format!("redis://:hunter2@{nobody}").as_str().into()), ..Config::in_memory() };
    let error = Storage::open(&config).await.expect_err("no redis there");
    assert!(error.is_unavailable(), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");

    let database_url = format!("postgres://hub:hunter2@{nobody}/mooring");
    let config = Config { database_url, acquire_timeout: soon, ..Config::in_memory() };
    let error = Storage::open(&config).await.expect_err("no database there");
    assert!(error.is_unavailable(), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");

    let wrong = Config { redis_url: Some("rediss//cache".into()), ..Config::in_memory() };
    let error = Storage::open(&wrong).await.expect_err("not an URL");
    assert!(matches!(error, StorageError::Other(_)), "{error:?}");
}
