//! What devices are told to be, and what they say they are.
//!
//! Users and other services write what is wanted, a deployment brings it to the device, and the device reports what it has.
//! Every device that is known has such a record, an empty one at first: it begins and ends with the device, and only takes
//! a row once there is something to say.

mod configuration;
mod deployed;

use sqlx::QueryBuilder;

use crate::database::{
    Database, ROWS_PER_REMOVAL, Transaction, in_transaction, on_reader, on_writer, repeating_after_deadlock,
};
use crate::{DeploymentId, DeviceId, StorageError, Timestamp};
pub(crate) use configuration::cut;
pub use configuration::{Configuration, ConfigurationFault, KEYS, TEXT_LIMIT, masked};
pub(crate) use deployed::forget_deployed;
pub use deployed::{Deployed, DeployedConfiguration};

/// The configuration of a device, wanted and reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Of which device.
    pub device: DeviceId,
    /// What it is told to be.
    pub configured: Configuration,
    /// What it said last that it is.
    pub reported: Configuration,
    /// The last deployment of its configuration that was asked for.
    pub deployment: Option<DeploymentId>,
    /// When `configured` was last written; before that, when the device became known.
    pub updated: Timestamp,
    /// When it last reported.
    pub reported_at: Option<Timestamp>,
}

/// What came of making a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioned {
    /// It has a row now.
    Made,
    /// It had one.
    WasThere,
    /// There is no such device, or it is being removed.
    NoDevice,
}

/// What came of changing some settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// They are written; this is all that is wanted now.
    Stored(Configuration),
    /// There would be too many; nothing is written.
    Refused(ConfigurationFault),
    /// There is no such device, or it is being removed.
    NoDevice,
}

/// A record as it is stored; the columns of [`select_config`].
#[derive(sqlx::FromRow)]
struct ConfigRow {
    device: DeviceId,
    configured: Option<String>,
    reported: Option<String>,
    deployment: Option<DeploymentId>,
    updated: Timestamp,
    reported_at: Option<Timestamp>,
}

/// Selects the record of the device in `$1`.
macro_rules! select_config {
    ($condition:literal) => {
        concat!(
            "SELECT d.id AS device, c.configured, c.reported, c.deployment, COALESCE(c.updated_at, d.created_at) AS updated, \
             c.reported_at FROM devices d LEFT JOIN device_configs c ON c.device = d.id WHERE d.id = $1",
            $condition
        )
    };
}

/// The record of a device that nobody else writes or removes until the end of the transaction; `None` if the device does
/// not exist or is being removed.
async fn find_locked(transaction: &mut Transaction, device: DeviceId) -> Result<Option<DeviceConfig>, StorageError> {
    transaction.lock_device(device).await?;
    let found: Option<ConfigRow> = in_transaction!(transaction, |connection| {
        sqlx::query_as(select_config!(" AND NOT d.decommissioning")).bind(device).fetch_optional(connection).await
    })?;
    found.map(TryInto::try_into).transpose()
}

impl TryFrom<ConfigRow> for DeviceConfig {
    type Error = StorageError;

    fn try_from(row: ConfigRow) -> Result<Self, StorageError> {
        let read = |text: Option<String>| match text {
            None => Ok(Configuration::default()),
            // The text of the error might show a value.
            Some(text) => Configuration::from_json(&text)
                .map_err(|_| StorageError::Corrupt(format!("configuration of device {}", row.device))),
        };
        Ok(Self {
            device: row.device,
            configured: read(row.configured)?,
            reported: read(row.reported)?,
            deployment: row.deployment,
            updated: row.updated,
            reported_at: row.reported_at,
        })
    }
}

/// The configurations of all devices.
#[derive(Debug, Clone)]
pub struct DeviceConfigs {
    db: Database,
}

impl DeviceConfigs {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// The configuration of this device; `None` if there is no such device.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, device: DeviceId) -> Result<Option<DeviceConfig>, StorageError> {
        let found: Option<ConfigRow> =
            on_reader!(self.db, |pool| { sqlx::query_as(select_config!("")).bind(device).fetch_optional(pool).await })?;
        found.map(TryInto::try_into).transpose()
    }

    /// Makes this all that a device is told to be. `false` if it does not exist or is being removed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn configure(
        &self,
        device: DeviceId,
        configured: &Configuration,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        let written = on_writer!(self.db, |pool| {
            let mut query =
                QueryBuilder::new("INSERT INTO device_configs (device, configured, reported, updated_at) SELECT id, ");
            query.push_bind(configured.to_json()).push(", '{}', ").push_bind(now);
            query.push(" FROM devices WHERE NOT decommissioning AND id = ").push_bind(device).push(self.db.keep());
            query.push(
                " ON CONFLICT (device) DO UPDATE SET configured = excluded.configured, updated_at = excluded.updated_at",
            );
            query.build().execute(pool).await.map(|done| done.rows_affected())
        })?;
        Ok(written > 0)
    }

    /// Writes what a device says it is, all of it. `false` if it does not exist or is being removed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn report(
        &self,
        device: DeviceId,
        reported: &Configuration,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        let written = on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "INSERT INTO device_configs (device, configured, reported, updated_at, reported_at) SELECT id, '{}', ",
            );
            query.push_bind(reported.to_json()).push(", created_at, ").push_bind(now);
            query.push(" FROM devices WHERE NOT decommissioning AND id = ").push_bind(device).push(self.db.keep());
            query.push(
                " ON CONFLICT (device) DO UPDATE SET reported = excluded.reported, reported_at = excluded.reported_at",
            );
            query.build().execute(pool).await.map(|done| done.rows_affected())
        })?;
        Ok(written > 0)
    }

    /// Changes some of what a device is told to be, and leaves the rest. Changes of one device wait for one another.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn merge(
        &self,
        device: DeviceId,
        changes: &Configuration,
        now: Timestamp,
    ) -> Result<Merged, StorageError> {
        let merged = async {
            let mut transaction = self.db.begin().await?;
            let before = find_locked(&mut transaction, device).await?;
            let configured = match before.map(|before| before.configured.with(changes.clone())) {
                Some(Ok(configured)) => configured,
                Some(Err(fault)) => {
                    transaction.roll_back().await?;
                    return Ok(Merged::Refused(fault));
                }
                None => {
                    transaction.roll_back().await?;
                    return Ok(Merged::NoDevice);
                }
            };
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "INSERT INTO device_configs (device, configured, reported, updated_at) VALUES ($1, $2, '{}', $3) \
                     ON CONFLICT (device) DO UPDATE SET configured = excluded.configured, \
                     updated_at = excluded.updated_at",
                )
                .bind(device)
                .bind(configured.to_json())
                .bind(now)
                .execute(connection)
                .await
                .map(drop)
            })?;
            transaction.commit().await?;
            Ok(Merged::Stored(configured))
        };
        self.db.within(merged).await
    }

    /// Gives a device a row of its own, with nothing in it.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn provision(&self, device: DeviceId, now: Timestamp) -> Result<Provisioned, StorageError> {
        let made = on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "INSERT INTO device_configs (device, configured, reported, updated_at) SELECT id, '{}', '{}', ",
            );
            query.push_bind(now);
            query.push(" FROM devices WHERE NOT decommissioning AND id = ").push_bind(device).push(self.db.keep());
            query.push(" ON CONFLICT (device) DO NOTHING");
            query.build().execute(pool).await.map(|done| done.rows_affected())
        })?;
        if made > 0 {
            return Ok(Provisioned::Made);
        }
        let was_there: Option<DeviceId> = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT device FROM device_configs WHERE device = $1")
                .bind(device)
                .fetch_optional(pool)
                .await
        })?;
        Ok(if was_there.is_some() { Provisioned::WasThere } else { Provisioned::NoDevice })
    }

    /// Empties the record of a device; says whether there was anything in it.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn forget(&self, device: DeviceId) -> Result<bool, StorageError> {
        let removed = on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM device_configs WHERE device = $1")
                .bind(device)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok(removed > 0)
    }

    /// Empties the records of all devices, in slices.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be empty then; repeating the call is safe.
    pub async fn clear(&self) -> Result<(), StorageError> {
        loop {
            let slice = repeating_after_deadlock(|| self.clear_slice()).await?;
            if slice < u64::from(ROWS_PER_REMOVAL) {
                return Ok(());
            }
        }
    }

    async fn clear_slice(&self) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "DELETE FROM device_configs WHERE device IN (SELECT device FROM device_configs ORDER BY device LIMIT $1)",
            )
            .bind(i64::from(ROWS_PER_REMOVAL))
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })
    }
}
