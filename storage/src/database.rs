//! The database behind every table: Postgres or `SQLite`, opened, migrated, and bounded in time.

use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::config::without_password;
use crate::dialect::{self, Dialect, Fault};
use crate::{Config, DeploymentId, DeviceId, StorageError};

/// How long `SQLite` waits for another process that writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts to open a file that another process has to itself.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// A Postgres connection that was idle for longer than this is asked for a sign of life before it is used. Busy ones
/// are not: that would cost every hot call a round trip.
const TRUSTED_WHILE_IDLE: Duration = Duration::from_secs(1);

/// How long a health check waits.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Instructions of `SQLite`'s machine between two looks at the clock: a fraction of a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// As many times as long as one statement may a change of a whole fleet take.
const BULK: u32 = 60;

/// How often a bulk statement is repeated that lost a deadlock against another node's.
const DEADLOCK_ATTEMPTS: u32 = 4;

/// Rows in one bulk statement: well below the bind limits of both databases (32,766 in `SQLite`, 65,535 in Postgres).
pub(crate) const ROWS_PER_STATEMENT: usize = 1_000;

/// Rows that retention removes at a time: so few that nobody who writes has to wait long.
pub(crate) const ROWS_PER_REMOVAL: u32 = 1_000;

/// The open database. Cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) pools: Pools,
    query_timeout: Duration,
}

/// The pools behind a [`Database`].
#[derive(Debug, Clone)]
pub(crate) enum Pools {
    /// One pool for everything.
    Postgres(PgPool),
    /// `SQLite` has one writer at a time, so there is one connection that writes, and writers queue for it here rather
    /// than with busy time-outs; readers never wait for it (write-ahead log). In memory both are the same single
    /// connection.
    Sqlite {
        /// The only connection that writes.
        write: SqlitePool,
        /// Connections that only read.
        read: SqlitePool,
    },
}

/// Runs a body against the pool for reading: written once, compiled for each database.
macro_rules! on_reader {
    ($db:expr, |$pool:ident| $body:expr) => {
        $db.within(async {
            match &$db.pools {
                $crate::database::Pools::Postgres($pool) => $body.map_err($crate::StorageError::from),
                $crate::database::Pools::Sqlite { read: $pool, .. } => $body.map_err($crate::StorageError::from),
            }
        })
        .await
    };
}

/// Runs a body against the pool for writing: written once, compiled for each database.
macro_rules! on_writer {
    ($db:expr, |$pool:ident| $body:expr) => {
        $db.within(async {
            match &$db.pools {
                $crate::database::Pools::Postgres($pool) => $body.map_err($crate::StorageError::from),
                $crate::database::Pools::Sqlite { write: $pool, .. } => $body.map_err($crate::StorageError::from),
            }
        })
        .await
    };
}

/// Runs a body against the connection of a [`Transaction`]: written once, compiled for each database.
macro_rules! in_transaction {
    ($transaction:expr, |$connection:ident| $body:expr) => {
        match $transaction {
            $crate::database::Transaction::Postgres(open) => {
                let $connection = &mut **open;
                $body.map_err($crate::StorageError::from)
            }
            $crate::database::Transaction::Sqlite(open) => {
                let $connection = &mut **open;
                $body.map_err($crate::StorageError::from)
            }
        }
    };
}

pub(crate) use {in_transaction, on_reader, on_writer};

/// A transaction that may write. Dropped without [`Transaction::commit`], it never happened.
#[derive(Debug)]
pub(crate) enum Transaction {
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
}

/// A transaction that only reads, see [`Database::begin_reading`].
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) transaction: Transaction,
    /// While it is there, the time limit of an `SQLite` connection counts.
    _in_use: Option<Arc<()>>,
}

impl Transaction {
    /// For which database statements in it are.
    pub(crate) const fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Makes everything in it permanent.
    pub(crate) async fn commit(self) -> Result<(), StorageError> {
        match self {
            Self::Postgres(open) => open.commit().await?,
            Self::Sqlite(open) => open.commit().await?,
        }
        Ok(())
    }

    /// Makes nothing of it permanent, and gives its locks back now.
    pub(crate) async fn roll_back(self) -> Result<(), StorageError> {
        match self {
            Self::Postgres(open) => open.rollback().await?,
            Self::Sqlite(open) => open.rollback().await?,
        }
        Ok(())
    }

    /// Waits until nobody else changes this identity, and keeps others waiting until the end of the transaction.
    pub(crate) async fn lock_identity(&mut self, hash: &[u8; 32]) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            let lock = dialect::identity_lock(hash);
            sqlx::query(dialect::LOCK_IDENTITY).bind(lock).execute(&mut **open).await?;
        }
        Ok(())
    }

    /// Waits until nobody else changes the row of this device, and keeps others waiting until the end of the transaction.
    /// For whoever changes first what others change after that row.
    pub(crate) async fn lock_device(&mut self, device: DeviceId) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            sqlx::query(dialect::LOCK_DEVICE).bind(device).execute(&mut **open).await?;
        }
        Ok(())
    }

    /// Waits until nobody else holds the fleet, and keeps others waiting until the end of the transaction. Always taken
    /// after an identity's lock, never before.
    pub(crate) async fn lock_fleet(&mut self) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            let (space, lock) = dialect::fleet_lock();
            sqlx::query(dialect::LOCK_SHARED).bind(space).bind(lock).execute(&mut **open).await?;
        }
        Ok(())
    }

    /// Waits for rows of devices, and keeps others waiting for them until the end of the transaction. `select` is one of
    /// [`dialect::HOLD_DEVICES`] and [`dialect::HOLD_INVENTORIES`]. A bulk update takes rows in whatever order its plan
    /// has: two of them, and whoever waits behind one, would deadlock.
    pub(crate) async fn hold_rows(
        &mut self,
        select: &'static str,
        devices: impl IntoIterator<Item = DeviceId>,
    ) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            let ids: Vec<uuid::Uuid> = devices.into_iter().map(DeviceId::uuid).collect();
            sqlx::query(select).bind(ids).execute(&mut **open).await?;
        }
        Ok(())
    }

    /// Waits until nobody else removes users, and keeps others waiting until the end of the transaction.
    pub(crate) async fn lock_users(&mut self) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            let (space, lock) = dialect::users_lock();
            sqlx::query(dialect::LOCK_SHARED).bind(space).bind(lock).execute(&mut **open).await?;
        }
        Ok(())
    }

    /// Waits until nobody else appends events, and keeps others waiting until the end of the transaction.
    pub(crate) async fn lock_events(&mut self) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            let (space, lock) = dialect::events_lock();
            sqlx::query(dialect::LOCK_SHARED).bind(space).bind(lock).execute(&mut **open).await?;
        }
        Ok(())
    }

    /// Waits until this device is told nothing else, and keeps others waiting until the end of the transaction. Always
    /// taken before a deployment's lock.
    pub(crate) async fn lock_poll(&mut self, device: DeviceId) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            let lock = dialect::poll_lock(device);
            sqlx::query(dialect::LOCK_IDENTITY).bind(lock).execute(&mut **open).await?;
        }
        Ok(())
    }

    /// Waits until nobody else moves devices of this deployment, and keeps others waiting until the end of the transaction.
    pub(crate) async fn lock_deployment(&mut self, deployment: DeploymentId) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            sqlx::query(dialect::LOCK_DEPLOYMENT).bind(deployment).execute(&mut **open).await?;
        }
        Ok(())
    }

    /// Waits until nobody else changes artifacts, releases or what uses them, and keeps others waiting until the end of the
    /// transaction.
    pub(crate) async fn lock_artifacts(&mut self) -> Result<(), StorageError> {
        if let Self::Postgres(open) = self {
            let (space, lock) = dialect::artifacts_lock();
            sqlx::query(dialect::LOCK_SHARED).bind(space).bind(lock).execute(&mut **open).await?;
        }
        Ok(())
    }
}

impl Database {
    /// Opens what the URL names; an `SQLite` file and its directory are created if they are missing.
    pub(crate) async fn open(config: &Config) -> Result<Self, StorageError> {
        let scheme = config.database_url.split(':').next().unwrap_or_default();
        let pools = match scheme {
            "postgres" | "postgresql" => open_postgres(config).await?,
            "sqlite" => open_sqlite(config).await?,
            _ => {
                let expected = "expected sqlite:PATH, sqlite::memory: or postgres://USER:PASSWORD@HOST/NAME";
                return Err(StorageError::other(cannot_open(config), expected));
            }
        };
        Ok(Self { pools, query_timeout: config.query_timeout })
    }

    /// Brings the schema up to date. Nodes that start together take turns.
    pub(crate) async fn migrate(&self) -> Result<(), StorageError> {
        let outcome = match &self.pools {
            Pools::Postgres(pool) => postgres_migrations().run(pool).await,
            Pools::Sqlite { write, .. } => {
                // The migrator has no lock for SQLite, so two processes opening one new file would both create the
                // tables. Inside an outer transaction that writes, the second waits and finds the work done.
                let mut alone = write.begin_with(dialect::BEGIN_WRITING).await?;
                let outcome = sqlite_migrations().run_direct(None, &mut *alone, false).await;
                if outcome.is_ok() {
                    alone.commit().await?;
                }
                outcome
            }
        };
        outcome.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(cause) => cause.into(),
            other => StorageError::other("cannot migrate the database", other),
        })
    }

    /// Whether the database answers a trivial question.
    pub(crate) async fn ping(&self) -> Result<(), StorageError> {
        let asked = async { on_reader!(self, |pool| sqlx::query("SELECT 1").execute(pool).await.map(drop)) };
        tokio::time::timeout(PING_TIMEOUT, asked).await.unwrap_or_else(|late| Err(too_slow(late)))
    }

    /// Closes every connection after the call that uses it.
    pub(crate) async fn close(&self) {
        match &self.pools {
            Pools::Postgres(pool) => pool.close().await,
            Pools::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
        }
    }

    /// Starts a transaction that may write.
    pub(crate) async fn begin(&self) -> Result<Transaction, StorageError> {
        Ok(match &self.pools {
            Pools::Postgres(pool) => Transaction::Postgres(pool.begin().await?),
            Pools::Sqlite { write, .. } => Transaction::Sqlite(write.begin_with(dialect::BEGIN_WRITING).await?),
        })
    }

    /// Starts a transaction that only reads, all of it from one state, and in which no statement may take longer than
    /// `limit`: what takes longer is `TooExpensive`.
    pub(crate) async fn begin_reading(&self, limit: Duration) -> Result<Reading, StorageError> {
        let (transaction, in_use) = match &self.pools {
            Pools::Postgres(pool) => {
                let begin = AssertSqlSafe(dialect::begin_reading(limit));
                (Transaction::Postgres(pool.begin_with(begin).await?), None)
            }
            Pools::Sqlite { read, .. } => {
                let mut open = read.begin().await?;
                let (in_use, deadline) = (Arc::new(()), Instant::now() + limit);
                let watched = Arc::downgrade(&in_use);
                // The connection goes back to the pool with this in it, where it must not interrupt anybody else.
                let goes_on = move || watched.strong_count() == 0 || Instant::now() < deadline;
                open.lock_handle().await?.set_progress_handler(STEPS_BETWEEN_LOOKS, goes_on);
                (Transaction::Sqlite(open), Some(in_use))
            }
        };
        Ok(Reading { transaction, _in_use: in_use })
    }

    /// What follows a choice of rows to take, so that no two callers take the same.
    pub(crate) const fn skip_locked(&self) -> &'static str {
        match &self.pools {
            Pools::Postgres(_) => dialect::SKIP_LOCKED,
            Pools::Sqlite { .. } => "",
        }
    }

    /// What follows a choice of rows that must not be removed before the end of the transaction.
    pub(crate) const fn keep(&self) -> &'static str {
        match &self.pools {
            Pools::Postgres(_) => dialect::KEEP,
            Pools::Sqlite { .. } => "",
        }
    }

    /// Bounds a call in time: a database that stopped answering without closing the connection must not hold callers.
    pub(crate) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        tokio::time::timeout(self.query_timeout, call).await.unwrap_or_else(|late| Err(too_slow(late)))
    }
}

impl Database {
    /// The same for what goes through a whole fleet, which takes so much longer.
    pub(crate) async fn within_bulk<T>(
        &self,
        call: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let limit = self.query_timeout.saturating_mul(BULK);
        tokio::time::timeout(limit, call).await.unwrap_or_else(|late| Err(too_slow(late)))
    }
}

/// Repeats a bulk write that lost a deadlock. Two nodes may update many of the same rows in different orders; Postgres
/// then ends one of the statements, which works when repeated.
pub(crate) async fn repeating_after_deadlock<F, T>(mut write: impl FnMut() -> F) -> Result<T, StorageError>
where
    F: Future<Output = Result<T, StorageError>>,
{
    for _ in 1..DEADLOCK_ATTEMPTS {
        match write().await {
            Err(error) if lost_a_deadlock(&error) => {
                tracing::debug!("repeating a bulk write that lost a deadlock");
            }
            outcome => return outcome,
        }
    }
    write().await
}

fn postgres_migrations() -> Migrator {
    forgiving(sqlx::migrate!("./migrations/postgres"))
}

fn sqlite_migrations() -> Migrator {
    forgiving(sqlx::migrate!("./migrations/sqlite"))
}

/// During a rolling upgrade a node of the version before may start on a schema that is one migration ahead of it, which
/// every migration has to allow for.
fn forgiving(mut migrations: Migrator) -> Migrator {
    migrations.set_ignore_missing(true);
    migrations
}

fn lost_a_deadlock(error: &StorageError) -> bool {
    let StorageError::Unavailable(cause) = error else { return false };
    let Some(sqlx::Error::Database(cause)) = cause.downcast_ref::<sqlx::Error>() else { return false };
    dialect::fault(cause.as_ref()) == Fault::Deadlock
}

fn too_slow(late: tokio::time::error::Elapsed) -> StorageError {
    StorageError::unavailable("the database did not answer in time", late)
}

fn cannot_open(config: &Config) -> String {
    format!("cannot open database {}", without_password(&config.database_url))
}

/// Statements are not logged, slow ones neither: the text of a bulk write is tens of kilobytes, and a database that has
/// become slow would be met with a flood of them.
async fn open_postgres(config: &Config) -> Result<Pools, StorageError> {
    let options = PgConnectOptions::from_str(&config.database_url)
        .map_err(|error| StorageError::other(cannot_open(config), error))?
        .application_name("mooring")
        .disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(config.pool_size.max(1))
        .acquire_timeout(config.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for > TRUSTED_WHILE_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(options)
        .await
        .map_err(|error| opening_failed(config, error))?;
    Ok(Pools::Postgres(pool))
}

async fn open_sqlite(config: &Config) -> Result<Pools, StorageError> {
    let in_memory = config.database_url.contains(":memory:") || config.database_url.contains("mode=memory");
    let options = SqliteConnectOptions::from_str(&config.database_url)
        .map_err(|error| StorageError::other(cannot_open(config), error))?
        .create_if_missing(true)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // What a caller was told is written survives a power cut too.
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new().acquire_timeout(config.acquire_timeout).max_lifetime(None).idle_timeout(None);

    if in_memory {
        // The database lives as long as its only connection.
        let only = pool
            .max_connections(1)
            .min_connections(1)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| opening_failed(config, error))?;
        return Ok(Pools::Sqlite { write: only.clone(), read: only });
    }

    if let Some(directory) = options.get_filename().parent()
        && !directory.as_os_str().is_empty()
    {
        std::fs::create_dir_all(directory).map_err(|error| StorageError::other(cannot_open(config), error))?;
    }
    let options = options.journal_mode(SqliteJournalMode::Wal);
    // A file becomes one with a write-ahead log once, and whoever comes at that moment is not made to wait for it by SQLite:
    // its busy timeout does not count there.
    let deadline = Instant::now() + BUSY_TIMEOUT;
    let write = loop {
        match pool.clone().max_connections(1).test_before_acquire(false).connect_with(options.clone()).await {
            Ok(write) => break write,
            Err(error) if dialect::is_locked(&error) && Instant::now() < deadline => {
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            Err(error) => return Err(opening_failed(config, error)),
        }
    };
    let read = pool
        .max_connections(config.pool_size.max(1))
        .test_before_acquire(false)
        .connect_lazy_with(options.pragma("query_only", "ON"));
    Ok(Pools::Sqlite { write, read })
}

/// Keeps apart a server that is not there (yet) from an URL, a password or a path that is wrong.
fn opening_failed(config: &Config, error: sqlx::Error) -> StorageError {
    let attempt = cannot_open(config);
    match StorageError::from(error) {
        StorageError::Unavailable(cause) => StorageError::unavailable(attempt, cause),
        StorageError::Other(cause) => StorageError::other(attempt, cause),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_have_the_same_migrations() {
        let list = |migrator: &Migrator| -> Vec<(i64, String)> {
            migrator.iter().map(|migration| (migration.version, migration.description.to_string())).collect()
        };
        assert_eq!(list(&postgres_migrations()), list(&sqlite_migrations()));
        assert!(!list(&sqlite_migrations()).is_empty());
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_refused_by_name() {
        let config = Config { database_url: "mysql://root:hunter2@db/x".to_owned(), ..Config::default() };
        let error = Database::open(&config).await.expect_err("no such database");
        let StorageError::Other(cause) = error else { panic!("not a wrong setting: {error:?}") };
        assert_eq!(cause.to_string(), "cannot open database mysql://root:***@db/x");
    }
}
