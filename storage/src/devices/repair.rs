//! Makes what is derived from devices agree with them again: their status, what inventory shows of them, the counts.
//!
//! Whatever changes a device changes all of these with it, so there is nothing to do unless somebody wrote to the tables by
//! other means: an import, or a restored backup of some of them.

use super::change;
use super::row::{self, FleetRow};
use super::{DeviceKey, DeviceStatus, Devices};
use crate::database::{in_transaction, on_reader};
use crate::{DeviceId, StorageError, inventory};

/// Devices looked at between two questions for more.
const DEVICES_AT_ONCE: i64 = 500;

/// What did not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repaired {
    /// Devices that were looked at.
    pub looked_at: u64,
    /// Devices whose stored status was not what their sets say.
    pub statuses: u64,
    /// Devices of which inventory showed something else.
    pub inventories: u64,
    /// Whether the devices of some status were not counted right.
    pub counts: bool,
}

impl Devices {
    /// Looks at every device, and puts right what does not agree with it; or only says what that would be. Devices may come,
    /// go and change meanwhile.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. Some may be put right then; doing it again is safe.
    pub async fn repair(&self, dry_run: bool) -> Result<Repaired, StorageError> {
        let mut found = Repaired::default();
        let mut after: Option<DeviceId> = None;
        loop {
            let ids = self.ids_after(after).await?;
            let Some(last) = ids.last() else { break };
            after = Some(*last);
            for id in ids {
                let (status, inventory) = self.db.within(Box::pin(self.repair_device(id, dry_run))).await?;
                found.looked_at += 1;
                found.statuses += u64::from(status);
                found.inventories += u64::from(inventory);
            }
        }
        found.counts = self.recount(dry_run).await?;
        Ok(found)
    }

    /// Counts the devices of each status anew, or only says whether some count is wrong.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn recount(&self, dry_run: bool) -> Result<bool, StorageError> {
        let recounted = async {
            let mut transaction = self.db.begin().await?;
            // Whoever changes a status changes this row last: from here on they wait, and what they did before is seen.
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE fleet SET only_row = only_row").execute(connection).await.map(drop)
            })?;
            let known: FleetRow = in_transaction!(&mut transaction, |connection| {
                sqlx::query_as(row::SELECT_FLEET).fetch_one(connection).await
            })?;
            let counted: Vec<(String, i64)> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_as("SELECT status, COUNT(*) FROM devices GROUP BY status").fetch_all(connection).await
            })?;
            let count = |status: DeviceStatus| {
                counted.iter().find(|(name, _)| name == status.as_str()).map_or(0, |(_, count)| *count)
            };
            let is_wrong =
                DeviceStatus::ALL.into_iter().any(|status| known.count(status) != count(status).unsigned_abs());
            if is_wrong && !dry_run {
                in_transaction!(&mut transaction, |connection| {
                    sqlx::query(
                        "UPDATE fleet SET accepted = $1, preauthorized = $2, pending = $3, rejected = $4, noauth = $5",
                    )
                    .bind(count(DeviceStatus::Accepted))
                    .bind(count(DeviceStatus::Preauthorized))
                    .bind(count(DeviceStatus::Pending))
                    .bind(count(DeviceStatus::Rejected))
                    .bind(count(DeviceStatus::NoAuth))
                    .execute(connection)
                    .await
                    .map(drop)
                })?;
            }
            transaction.commit().await?;
            Ok(is_wrong)
        };
        self.db.within(recounted).await
    }

    async fn ids_after(&self, last: Option<DeviceId>) -> Result<Vec<DeviceId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT id FROM devices WHERE $1 IS NULL OR id > $1 ORDER BY id LIMIT $2")
                .bind(last)
                .bind(DEVICES_AT_ONCE)
                .fetch_all(pool)
                .await
        })
    }

    /// Whether the status, and whether the inventory of a device did not agree with it.
    async fn repair_device(&self, id: DeviceId, dry_run: bool) -> Result<(bool, bool), StorageError> {
        let mut transaction = self.db.begin().await?;
        let Some(device) = change::load_locked(&mut transaction, DeviceKey::Id(id)).await? else {
            transaction.commit().await?;
            return Ok((false, false));
        };
        let status = in_transaction!(&mut transaction, |connection| {
            sqlx::query("UPDATE devices SET status = $2 WHERE id = $1 AND status <> $2")
                .bind(id)
                .bind(device.status().as_str())
                .execute(connection)
                .await
                .map(|done| done.rows_affected() > 0)
        })?;
        let inventory = inventory::show_identity(&mut transaction, &device).await?;
        if dry_run {
            transaction.roll_back().await?;
        } else {
            transaction.commit().await?;
        }
        Ok((status, inventory))
    }
}
