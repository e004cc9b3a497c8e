//! The backends cases run on, each fresh, and small things cases share.

use std::time::{Duration, Instant};

use sqlx::Connection as _;
use storage::{
    AuthSet, AuthSetId, Config, Decision, Device, DeviceChange, DeviceId, DeviceKey, IssuedToken, Objects, Presence,
    SetStatus, Storage, Timestamp,
};
use tempfile::TempDir;

use crate::s3_server::{self, S3Server};
use crate::servers::{Postgres, Redis};

/// A fresh database and the storage of a node on it.
pub struct TestDatabase {
    pub storage: Storage,
    config: Config,
    /// An `SQLite` database in memory belongs to one node.
    is_private: bool,
    directory: Option<TempDir>,
}

impl TestDatabase {
    pub async fn sqlite() -> Self {
        let directory = TempDir::with_prefix("mooring-sqlite-").expect("a temporary directory");
        // In a directory that is not there yet.
        let url = format!("sqlite:{}", directory.path().join("data/hub.db").display());
        Self::open(url, false, Some(directory)).await
    }

    pub async fn sqlite_in_memory() -> Self {
        Self::open("sqlite::memory:".to_owned(), true, None).await
    }

    pub async fn postgres() -> Self {
        let url = tokio::task::spawn_blocking(|| Postgres::shared().database()).await.expect("a database");
        Self::open(url, false, None).await
    }

    async fn open(database_url: String, is_private: bool, directory: Option<TempDir>) -> Self {
        let config = Config { database_url, pool_size: 4, ..patient() };
        let storage = Storage::open(&config).await.expect("the database opens");
        Self { storage, config, is_private, directory }
    }

    /// Writes to the tables behind the back of their owner; not to those in memory, which nobody else can reach. Says whether
    /// it did.
    pub async fn execute(&self, statements: &[&'static str]) -> bool {
        let url = &self.config.database_url;
        if self.is_private {
            return false;
        }
        if url.starts_with("sqlite:") {
            let mut connection = sqlx::SqliteConnection::connect(url).await.expect("a connection");
            for statement in statements {
                sqlx::query(*statement).execute(&mut connection).await.expect("a statement that works");
            }
        } else {
            let mut connection = sqlx::PgConnection::connect(url).await.expect("a connection");
            for statement in statements {
                sqlx::query(*statement).execute(&mut connection).await.expect("a statement that works");
            }
        }
        true
    }

    /// The storage of another node on the same database.
    pub async fn another_node(&self) -> Storage {
        self.another_node_with(|_| ()).await
    }

    /// The same with other settings; a database in memory has no other node, but the same one in another handle.
    pub async fn another_node_with(&self, alter: impl FnOnce(&mut Config)) -> Storage {
        if self.is_private {
            return self.storage.clone();
        }
        let mut config = self.config.clone();
        alter(&mut config);
        Storage::open(&config).await.expect("the database opens again")
    }

    /// A connection past the owner of the tables, if this is Postgres.
    pub async fn postgres_connection(&self) -> Option<sqlx::PgConnection> {
        if self.is_private || self.directory.is_some() {
            return None;
        }
        Some(sqlx::PgConnection::connect(&self.config.database_url).await.expect("a connection"))
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.config.database_url.clone()
    }

    /// Where a database of the same kind could be that nobody has opened yet.
    pub async fn fresh_url(&self) -> String {
        match &self.directory {
            Some(directory) => format!("sqlite:{}", directory.path().join("fresh.db").display()),
            None => tokio::task::spawn_blocking(|| Postgres::shared().database()).await.expect("a database"),
        }
    }

    /// Makes every document look as if it came from a version that had no searches.
    pub async fn forget_indexes(&self) {
        let statements = [
            "UPDATE inventory SET indexed = FALSE",
            "DELETE FROM inventory_terms",
            "DELETE FROM inventory_text",
            "DELETE FROM inventory_attributes",
            "DELETE FROM inventory_counts",
        ];
        if self.directory.is_some() {
            let pool = sqlx::SqlitePool::connect(&self.url()).await.expect("the database opens");
            for statement in statements {
                sqlx::query(statement).execute(&pool).await.expect("a statement");
            }
        } else {
            let pool = sqlx::PgPool::connect(&self.url()).await.expect("the database opens");
            for statement in statements {
                sqlx::query(statement).execute(&pool).await.expect("a statement");
            }
        }
    }

    pub fn is_private(&self) -> bool {
        self.is_private
    }
}

/// The machine that runs the tests may be busy; cases about time-outs set their own.
pub fn patient() -> Config {
    Config { acquire_timeout: Duration::from_secs(30), query_timeout: Duration::from_mins(1), ..Config::in_memory() }
}

/// A fresh presence.
pub struct TestPresence {
    pub presence: Presence,
    _redis: Option<Redis>,
}

impl TestPresence {
    pub async fn memory() -> Self {
        let storage = Storage::open(&Config::in_memory()).await.expect("memory opens");
        Self { presence: storage.presence, _redis: None }
    }

    pub async fn redis() -> Self {
        let redis = tokio::task::spawn_blocking(Redis::start).await.expect("redis starts");
        let config = Config {
            redis_url: Some(redis.url().into()),
            redis_timeout: Duration::from_secs(10),
            ..Config::in_memory()
        };
        let storage = Storage::open(&config).await.expect("redis opens");
        Self { presence: storage.presence, _redis: Some(redis) }
    }
}

/// A fresh object store.
pub struct TestObjects {
    pub objects: Objects,
    config: Config,
    /// Objects in memory belong to one node.
    is_private: bool,
    directory: Option<TempDir>,
    server: Option<S3Server>,
}

impl TestObjects {
    pub fn memory() -> Self {
        Self::open(Config::in_memory(), None, None)
    }

    pub fn directory() -> Self {
        let directory = TempDir::with_prefix("mooring-objects-").expect("a temporary directory");
        let objects_url = format!("file:{}", directory.path().display());
        Self::open(Config { objects_url, ..Config::in_memory() }, Some(directory), None)
    }

    pub fn s3() -> Self {
        let server = S3Server::start();
        server.make_bucket("fleet");
        let config = Config { objects_url: "s3://fleet/hub".to_owned(), ..s3_config(&server) };
        Self::open(config, None, Some(server))
    }

    fn open(config: Config, directory: Option<TempDir>, server: Option<S3Server>) -> Self {
        let objects = Objects::open(&config).expect("the object store opens");
        let is_private = directory.is_none() && server.is_none();
        Self { objects, config, is_private, directory, server }
    }

    /// Every file that the store keeps, those that are no objects among them.
    pub fn left_behind(&self) -> Vec<String> {
        let Some(root) = self.directory.as_ref().map(TempDir::path).or(self.server.as_ref().map(S3Server::directory))
        else {
            return Vec::new();
        };
        let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
        while let Some(folder) = left.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    left.push(entry.path());
                } else {
                    found.push(entry.path().strip_prefix(root).expect("below it").display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    /// The same store as another node sees it; one in memory has no other node.
    pub fn another_node(&self) -> Option<Objects> {
        (!self.is_private).then(|| Objects::open(&self.config).expect("the object store opens again"))
    }
}

/// Settings for a bucket of this server.
pub fn s3_config(server: &S3Server) -> Config {
    Config {
        objects_endpoint: Some(server.endpoint()),
        objects_access_key: Some(s3_server::ACCESS_KEY.to_owned()),
        objects_secret_key: Some(s3_server::SECRET_KEY.into()),
        ..Config::in_memory()
    }
}

/// A device nobody has seen yet, with one set.
pub fn device(serial: u64, status: SetStatus) -> Device {
    let mut identity_hash = [0; 32];
    identity_hash[..8].copy_from_slice(&serial.to_be_bytes());
    identity_hash[8] = 1;
    Device {
        id: DeviceId::random(),
        identity: format!("{{\"serial\":\"{serial}\"}}"),
        identity_hash,
        decommissioning: false,
        created: Timestamp(1_000_000),
        updated: Timestamp(1_000_000),
        checked_in: None,
        revision: 0,
        auth_sets: vec![set(&format!("key of {serial}"), status)],
    }
}

pub fn set(pubkey: &str, status: SetStatus) -> AuthSet {
    AuthSet { id: AuthSetId::random(), pubkey: pubkey.to_owned(), status, created: Timestamp(1_000_000) }
}

/// Writing `after` and nothing else.
pub fn write(after: Device) -> Decision<()> {
    Decision::Write(DeviceChange { after: Some(after), revoked: Vec::new(), issued: None }, ())
}

/// A stored device with one set.
pub async fn stored_device(storage: &Storage, serial: u64, status: SetStatus) -> Device {
    let device = device(serial, status);
    let hash = device.identity_hash;
    let written = storage.devices.change(DeviceKey::Identity(&hash), |before, _| {
        assert!(before.is_none(), "a new device");
        write(device.clone())
    });
    written.await.expect("a new device is written");
    storage.devices.find(device.id).await.expect("the database answers").expect("it was written")
}

/// Lets the only set of a device be accepted, and gives it a token.
pub async fn accept(storage: &Storage, device: DeviceId, expires: Timestamp) -> AuthSetId {
    let accepted = storage.devices.change(DeviceKey::Id(device), |before, _| {
        let mut after = before.expect("a stored device").clone();
        after.auth_sets[0].status = SetStatus::Accepted;
        after.updated = after.updated.plus(Duration::from_secs(1));
        let auth_set = after.auth_sets[0].id;
        let issued = Some(IssuedToken { auth_set, expires });
        Decision::Write(DeviceChange { after: Some(after), revoked: Vec::new(), issued }, auth_set)
    });
    accepted.await.expect("the decision is written")
}

/// Removes a device.
pub async fn remove(storage: &Storage, device: DeviceId) {
    let removed = storage.devices.change(DeviceKey::Id(device), |_, _| {
        Decision::Write(DeviceChange { after: None, revoked: Vec::new(), issued: None }, ())
    });
    removed.await.expect("the removal is written");
}

/// Asks again until the answer is yes.
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !ask().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
