//! Whether each device is connected, as last written down.
//!
//! The truth of this moment is in [`presence`](crate::presence); these rows outlive the nodes. Every write carries the
//! [`Epoch`] of the connection it speaks of, and one that speaks of an older connection changes nothing.

use std::collections::HashMap;

use sqlx::QueryBuilder;

use crate::database::{Database, ROWS_PER_STATEMENT, on_reader, on_writer, repeating_after_deadlock};
use crate::{DeviceId, Epoch, NodeId, StorageError, Timestamp};

/// The last known connection of a device.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Connection {
    /// Whose.
    pub device: DeviceId,
    /// Whether it was connected when this was written.
    pub connected: bool,
    /// The node that holds, or last held, the connection; `None` before the first.
    pub node: Option<NodeId>,
    /// The connection spoken of; zero before the first.
    pub epoch: Epoch,
    /// When the device was first known here.
    #[sqlx(rename = "created_at")]
    pub created: Timestamp,
    /// When `connected` last changed.
    #[sqlx(rename = "updated_at")]
    pub updated: Timestamp,
    /// Why the last connection ended, if it has.
    pub reason: Option<String>,
}

/// A connection that began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionChange {
    /// Whose.
    pub device: DeviceId,
    /// The node that holds or held it.
    pub node: NodeId,
    /// Which connection of the device.
    pub epoch: Epoch,
    /// Whether it began (or is still there) or ended.
    pub connected: bool,
    /// When.
    pub at: Timestamp,
    /// Why it ended.
    pub reason: Option<&'static str>,
}

/// The last known connection of every device.
#[derive(Debug, Clone)]
pub struct Connections {
    db: Database,
}

impl Connections {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Writes down what happened, thousands of devices at a time.
    ///
    /// A change is ignored if a newer connection of its device is known, or if it says what is written already (so that
    /// [`Connection::updated`] moves at transitions only). A device not known here yet gets its row if it exists and a
    /// connection began; nothing is written for a device that was removed, so a socket that is cut because its device
    /// was removed does not bring the row back.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some of the changes may be written then; repeating the call is safe.
    pub async fn record(&self, changes: &[ConnectionChange]) -> Result<(), StorageError> {
        for rows in newest_per_device(changes).chunks(ROWS_PER_STATEMENT) {
            repeating_after_deadlock(|| self.record_rows(rows)).await?;
        }
        Ok(())
    }

    async fn record_rows(&self, rows: &[Collapsed]) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "INSERT INTO connections (device, connected, node, epoch, created_at, updated_at, reason) \
                 SELECT column1, column2, column3, column4, column5, column6, column7 FROM (",
            );
            query.push_values(rows, |mut row, Collapsed { last, began }| {
                row.push_bind(last.device)
                    .push_bind(last.connected)
                    .push_bind(last.node)
                    .push_bind(last.epoch)
                    .push_bind(last.at)
                    .push_bind(last.at)
                    .push_bind(last.reason)
                    .push_bind(*began);
            });
            query.push(
                ") AS changes WHERE EXISTS (SELECT 1 FROM connections WHERE device = column1) \
                 OR (column8 AND EXISTS (SELECT 1 FROM devices WHERE id = column1)) \
                 ON CONFLICT (device) DO UPDATE SET connected = excluded.connected, node = excluded.node, \
                 epoch = excluded.epoch, updated_at = excluded.updated_at, reason = excluded.reason \
                 WHERE connections.epoch < excluded.epoch \
                 OR (connections.epoch = excluded.epoch AND connections.connected <> excluded.connected)",
            );
            query.build().persistent(rows.len() == ROWS_PER_STATEMENT).execute(pool).await.map(drop)
        })
    }

    /// The last known connection of a device, or `None` if it is not known here.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn find(&self, device: DeviceId) -> Result<Option<Connection>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT device, connected, node, epoch, created_at, updated_at, reason FROM connections \
                 WHERE device = $1",
            )
            .bind(device)
            .fetch_optional(pool)
            .await
        })
    }

    /// Makes a device known here as disconnected; one that is known stays as it is.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn provision(&self, device: DeviceId, now: Timestamp) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "INSERT INTO connections (device, connected, created_at, updated_at) VALUES ($1, FALSE, $2, $2) \
                 ON CONFLICT (device) DO NOTHING",
            )
            .bind(device)
            .bind(now)
            .execute(pool)
            .await
            .map(drop)
        })
    }

    /// Removes what is known here about a device; says whether there was anything.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn forget(&self, device: DeviceId) -> Result<bool, StorageError> {
        let removed = on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM connections WHERE device = $1")
                .bind(device)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok(removed > 0)
    }

    /// The devices written down as connected to a node, in order of their ids: what a node that died has left behind.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn connected_on(&self, node: NodeId) -> Result<Vec<(DeviceId, Epoch)>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as("SELECT device, epoch FROM connections WHERE node = $1 AND connected ORDER BY device")
                .bind(node)
                .fetch_all(pool)
                .await
        })
    }

    /// The nodes that devices are written down as connected to: ask [`Presence`](crate::Presence) which of them are
    /// alive.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn nodes(&self) -> Result<Vec<NodeId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar(
                "SELECT DISTINCT node FROM connections WHERE connected AND node IS NOT NULL ORDER BY node",
            )
            .fetch_all(pool)
            .await
        })
    }
}

/// All changes of one device in one call.
struct Collapsed {
    /// The one that counts.
    last: ConnectionChange,
    /// Whether any of them was a beginning: then the device was connected, even if it is not any more.
    began: bool,
}

/// One change for each device, since a statement may not meet a row twice; sorted, so that two nodes meet the rows they
/// share in the same order and do not wait for one another in a circle.
fn newest_per_device(changes: &[ConnectionChange]) -> Vec<Collapsed> {
    let mut newest: HashMap<DeviceId, Collapsed> = HashMap::with_capacity(changes.len());
    for &change in changes {
        let row = newest.entry(change.device).or_insert(Collapsed { last: change, began: false });
        row.began |= change.connected;
        if change.epoch >= row.last.epoch {
            row.last = change;
        }
    }
    let mut rows: Vec<Collapsed> = newest.into_values().collect();
    rows.sort_unstable_by_key(|row| row.last.device);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_changes_the_last_of_the_newest_connection_counts() {
        let device = DeviceId::random();
        let change = |epoch, connected| ConnectionChange {
            device,
            node: NodeId::random(),
            epoch: Epoch(epoch),
            connected,
            at: Timestamp(epoch),
            reason: None,
        };
        let rows = newest_per_device(&[change(2, true), change(1, false), change(2, false)]);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].last.epoch, rows[0].last.connected, rows[0].began), (Epoch(2), false, true));
    }
}
