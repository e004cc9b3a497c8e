//! Devices as the database returns them: one row for each set.

use super::{AuthSet, Device, DeviceStatus, DeviceToken};
use crate::{AuthSetId, DeviceId, Fleet, StorageError, Timestamp};

/// What is read of a device `d` and its set `s`. Columns are named one by one, here and everywhere: Postgres fails a
/// prepared `SELECT *` of a running node when a newer node's migration adds a column.
macro_rules! columns {
    () => {
        "d.id, d.identity, d.identity_hash, d.decommissioning, d.created_at, d.updated_at, d.checked_in_at, d.revision, \
         s.id AS set_id, s.pubkey, s.status AS set_status, s.created_at AS set_created_at"
    };
}
pub(super) use columns;

/// The text that loads a device with its sets, in their order.
macro_rules! select_device {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            $crate::devices::row::columns!(),
            " FROM devices d LEFT JOIN auth_sets s ON s.device = d.id WHERE ",
            $condition,
            " ORDER BY s.created_at, s.id"
        )
    };
}
pub(super) use select_device;

/// The text that loads the tokens of sets, which a condition after it names.
macro_rules! select_token {
    ($condition:literal) => {
        concat!(
            "SELECT s.device, t.auth_set, t.expires_at, s.status, s.tokens_from, d.decommissioning FROM device_tokens t ",
            "JOIN auth_sets s ON s.id = t.auth_set JOIN devices d ON d.id = s.device WHERE t.auth_set ",
            $condition
        )
    };
}
pub(super) use select_token;

/// A page of devices is chosen first and joined with its sets afterwards; conditions and bounds go in between.
pub(super) const PAGE_START: &str = "WITH page AS (SELECT * FROM devices WHERE TRUE";

/// See [`PAGE_START`].
pub(super) const PAGE_END: &str = concat!(
    ") SELECT ",
    columns!(),
    " FROM page d LEFT JOIN auth_sets s ON s.device = d.id ORDER BY d.status, d.id, s.created_at, s.id"
);

pub(super) const SELECT_FLEET: &str =
    "SELECT accepted, preauthorized, pending, rejected, noauth, device_limit FROM fleet";

/// A device and one of its sets, or none if it has none.
#[derive(sqlx::FromRow)]
pub(super) struct DeviceRow {
    id: DeviceId,
    identity: String,
    identity_hash: Vec<u8>,
    decommissioning: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
    checked_in_at: Option<Timestamp>,
    revision: i64,
    set_id: Option<AuthSetId>,
    pubkey: Option<String>,
    set_status: Option<String>,
    set_created_at: Option<Timestamp>,
}

impl DeviceRow {
    fn set(&mut self) -> Result<Option<AuthSet>, StorageError> {
        let Some(id) = self.set_id else { return Ok(None) };
        let corrupt = || StorageError::Corrupt(format!("authentication set {id}"));
        let status = self.set_status.as_deref().and_then(|status| status.parse().ok()).ok_or_else(corrupt)?;
        let pubkey = self.pubkey.take().ok_or_else(corrupt)?;
        Ok(Some(AuthSet { id, pubkey, status, created: self.set_created_at.ok_or_else(corrupt)? }))
    }

    fn device(self) -> Result<Device, StorageError> {
        let identity_hash = self
            .identity_hash
            .try_into()
            .map_err(|_| StorageError::Corrupt(format!("identity hash of device {}", self.id)))?;
        Ok(Device {
            id: self.id,
            identity: self.identity,
            identity_hash,
            decommissioning: self.decommissioning,
            created: self.created_at,
            updated: self.updated_at,
            checked_in: self.checked_in_at,
            revision: self.revision,
            auth_sets: Vec::new(),
        })
    }
}

/// Puts rows together that follow one another and belong to the same device.
pub(super) fn devices(rows: Vec<DeviceRow>) -> Result<Vec<Device>, StorageError> {
    let mut devices: Vec<Device> = Vec::new();
    for mut row in rows {
        let set = row.set()?;
        if devices.last().is_none_or(|device| device.id != row.id) {
            devices.push(row.device()?);
        }
        if let Some(device) = devices.last_mut() {
            device.auth_sets.extend(set);
        }
    }
    Ok(devices)
}

/// The device that rows asked for by a unique key are about.
pub(super) fn one_device(rows: Vec<DeviceRow>) -> Result<Option<Device>, StorageError> {
    Ok(devices(rows)?.pop())
}

/// The counts of the fleet.
#[derive(sqlx::FromRow)]
pub(super) struct FleetRow {
    accepted: i64,
    preauthorized: i64,
    pending: i64,
    rejected: i64,
    noauth: i64,
    pub(super) device_limit: Option<i64>,
}

impl FleetRow {
    pub(super) fn count(&self, status: DeviceStatus) -> u64 {
        let count = match status {
            DeviceStatus::Accepted => self.accepted,
            DeviceStatus::Preauthorized => self.preauthorized,
            DeviceStatus::Pending => self.pending,
            DeviceStatus::Rejected => self.rejected,
            DeviceStatus::NoAuth => self.noauth,
        };
        u64::try_from(count).unwrap_or(0)
    }
}

impl From<FleetRow> for Fleet {
    fn from(row: FleetRow) -> Self {
        Self {
            accepted: row.count(DeviceStatus::Accepted),
            limit: row.device_limit.map(i64::unsigned_abs),
            pending: row.count(DeviceStatus::Pending),
        }
    }
}

/// A token with its set and device.
#[derive(sqlx::FromRow)]
pub(super) struct TokenRow {
    device: DeviceId,
    auth_set: AuthSetId,
    expires_at: Timestamp,
    status: String,
    tokens_from: Timestamp,
    decommissioning: bool,
}

impl TryFrom<TokenRow> for DeviceToken {
    type Error = StorageError;

    fn try_from(row: TokenRow) -> Result<Self, StorageError> {
        let set_status =
            row.status.parse().map_err(|_| StorageError::Corrupt(format!("authentication set {}", row.auth_set)))?;
        Ok(Self {
            device: row.device,
            auth_set: row.auth_set,
            expires: row.expires_at,
            set_status,
            decommissioning: row.decommissioning,
            valid_from: row.tokens_from,
        })
    }
}
