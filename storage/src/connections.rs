//! Whether each device is connected, as last written down, and the connections it had before.
//!
//! The truth of this moment is in [`presence`](crate::presence); these rows outlive the nodes. Every write carries the
//! [`Epoch`] of the connection it speaks of, and one that speaks of an older connection changes that one's row in the
//! log and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use sqlx::QueryBuilder;

use crate::database::{
    Database, ROWS_PER_REMOVAL, ROWS_PER_STATEMENT, in_transaction, on_reader, on_writer, repeating_after_deadlock,
};
use crate::rows::{BulkStatement, Rows};
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
    /// Where the device connected from.
    pub address: Option<IpAddr>,
    /// Bytes received from the device so far.
    pub bytes_in: i64,
    /// Bytes sent to the device so far.
    pub bytes_out: i64,
    /// How long a ping took last.
    pub round_trip: Option<Duration>,
}

/// A connection in the log: one that was, or the one that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastConnection {
    /// Which connection of the device.
    pub epoch: Epoch,
    /// The node that holds or held it.
    pub node: NodeId,
    /// Where the device connected from, if that is known.
    pub address: Option<IpAddr>,
    /// When it began; `None` if only its end was ever written down.
    pub since: Option<Timestamp>,
    /// When it ended; `None` while it lasts.
    pub until: Option<Timestamp>,
    /// Why it ended.
    pub reason: Option<String>,
    /// Bytes received from the device.
    pub bytes_in: i64,
    /// Bytes sent to the device.
    pub bytes_out: i64,
    /// How long a ping took last, in whole microseconds.
    pub round_trip: Option<Duration>,
}

/// The last known connection of every device, and the log of all of them.
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
    /// For the last known connection a change is ignored if a newer connection of its device is known, or if it says what
    /// is written already (so that [`Connection::updated`] moves at transitions only). The log has a row for every
    /// connection, whatever came after it: of several ends the first counts, and figures only grow.
    ///
    /// A device not known here yet gets its rows if it exists and a connection began; nothing is written for a device that
    /// was removed, so a socket that is cut because its device was removed brings no row back.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some of the changes may be written then; repeating the call is safe.
    pub async fn record(&self, changes: &[ConnectionChange]) -> Result<(), StorageError> {
        // The log first: if it lacks a beginning, it takes that from the row which the second statement overwrites.
        //
        // Both look up what is there as `(SELECT 1 …) IS NOT NULL` and not by `EXISTS`: for that Postgres reads a whole table into
        // memory as soon as some dozens of rows are asked about. With 20,000 devices a change cost 3 ms instead of 0.1.
        for rows in one_per_connection(changes).chunks(ROWS_PER_STATEMENT) {
            repeating_after_deadlock(|| self.log_rows(rows)).await?;
        }
        for rows in newest_per_device(changes).chunks(ROWS_PER_STATEMENT) {
            repeating_after_deadlock(|| self.record_rows(rows)).await?;
        }
        Ok(())
    }

    async fn record_rows(&self, rows: &[Collapsed]) -> Result<(), StorageError> {
        let given = Rows::of(rows)
            .id(|row| row.last.device.uuid())
            .flag(|row| row.last.connected)
            .id(|row| row.last.node.uuid())
            .number(|row| row.last.epoch.0)
            .number(|row| row.last.at.0)
            .text(|row| row.last.reason.map(str::to_owned))
            .flag(|row| row.began);
        on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "INSERT INTO connections (device, connected, node, epoch, created_at, updated_at, reason) \
                 SELECT column1, column2, column3, column4, column5, column5, column6 FROM ",
            );
            query.push_rows(&given);
            query.push(
                " WHERE (SELECT 1 FROM connections WHERE device = column1) IS NOT NULL \
                 OR (column7 AND (SELECT 1 FROM devices WHERE id = column1) IS NOT NULL) \
                 ON CONFLICT (device) DO UPDATE SET connected = excluded.connected, node = excluded.node, \
                 epoch = excluded.epoch, updated_at = excluded.updated_at, reason = excluded.reason \
                 WHERE connections.epoch < excluded.epoch \
                 OR (connections.epoch = excluded.epoch AND connections.connected <> excluded.connected)",
            );
            let recurs = query.recurs(&given);
            query.build().persistent(recurs).execute(pool).await.map(drop)
        })
    }

    async fn log_rows(&self, rows: &[Logged]) -> Result<(), StorageError> {
        let given = Rows::of(rows)
            .id(|row| row.last.device.uuid())
            .number(|row| row.last.epoch.0)
            .id(|row| row.last.node.uuid())
            .text(|row| row.last.address.map(|address| address.to_string()))
            .number(|row| row.began.map(|at| at.0))
            .number(|row| (!row.last.connected).then_some(row.last.at.0))
            .text(|row| row.last.reason.map(str::to_owned))
            .number(|row| row.last.bytes_in)
            .number(|row| row.last.bytes_out)
            .number(|row| row.last.round_trip.map(micros));
        on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "INSERT INTO connection_log \
                 (device, epoch, node, address, since_at, until_at, reason, bytes_in, bytes_out, round_trip) \
                 SELECT column1, column2, column3, column4, COALESCE(column5, (SELECT updated_at FROM connections \
                 WHERE device = column1 AND epoch = column2 AND connected)), \
                 column6, column7, column8, column9, column10 FROM ",
            );
            query.push_rows(&given);
            query.push(
                " WHERE (SELECT 1 FROM connection_log WHERE device = column1 AND epoch = column2) IS NOT NULL \
                 OR (SELECT 1 FROM connections WHERE device = column1) IS NOT NULL \
                 OR (column5 IS NOT NULL AND (SELECT 1 FROM devices WHERE id = column1) IS NOT NULL) \
                 ON CONFLICT (device, epoch) DO UPDATE SET node = excluded.node, \
                 address = COALESCE(excluded.address, connection_log.address), \
                 since_at = COALESCE(connection_log.since_at, excluded.since_at), \
                 until_at = CASE WHEN excluded.until_at IS NULL THEN NULL \
                 ELSE COALESCE(connection_log.until_at, excluded.until_at) END, \
                 reason = CASE WHEN excluded.until_at IS NULL OR connection_log.until_at IS NULL \
                 THEN excluded.reason ELSE connection_log.reason END, \
                 bytes_in = CASE WHEN connection_log.bytes_in < excluded.bytes_in THEN excluded.bytes_in \
                 ELSE connection_log.bytes_in END, \
                 bytes_out = CASE WHEN connection_log.bytes_out < excluded.bytes_out THEN excluded.bytes_out \
                 ELSE connection_log.bytes_out END, \
                 round_trip = COALESCE(excluded.round_trip, connection_log.round_trip) \
                 WHERE connection_log.until_at IS NULL OR excluded.until_at IS NULL \
                 OR connection_log.bytes_in < excluded.bytes_in OR connection_log.bytes_out < excluded.bytes_out",
            );
            let recurs = query.recurs(&given);
            query.build().persistent(recurs).execute(pool).await.map(drop)
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

    /// Removes what is known here about a device, its log included; says whether there was anything.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Nothing is removed then.
    pub async fn forget(&self, device: DeviceId) -> Result<bool, StorageError> {
        let forgotten = async {
            let mut transaction = self.db.begin().await?;
            let mut removed = 0;
            for table in ["DELETE FROM connection_log WHERE device = $1", "DELETE FROM connections WHERE device = $1"] {
                removed += in_transaction!(&mut transaction, |connection| {
                    sqlx::query(table).bind(device).execute(connection).await.map(|done| done.rows_affected())
                })?;
            }
            transaction.commit().await?;
            Ok(removed > 0)
        };
        self.db.within(forgotten).await
    }

    /// Removes what is known here about all devices, in slices.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be removed then; repeating the call is safe.
    pub async fn clear(&self) -> Result<(), StorageError> {
        for slice in [
            "DELETE FROM connection_log WHERE device IN (SELECT device FROM connection_log LIMIT $1)",
            "DELETE FROM connections WHERE device IN (SELECT device FROM connections LIMIT $1)",
        ] {
            let remove = || async {
                on_writer!(self.db, |pool| {
                    sqlx::query(slice)
                        .bind(i64::from(ROWS_PER_REMOVAL))
                        .execute(pool)
                        .await
                        .map(|done| done.rows_affected())
                })
            };
            while repeating_after_deadlock(remove).await? > 0 {}
        }
        Ok(())
    }

    /// The connections written down as open on a node, in order of device and epoch: what a node that died has left
    /// behind. Includes those whose device is connected elsewhere by now, since their end is missing in the log.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn connected_on(&self, node: NodeId) -> Result<Vec<(DeviceId, Epoch)>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT device, epoch FROM connections WHERE node = $1 AND connected \
                 UNION SELECT device, epoch FROM connection_log WHERE node = $1 AND until_at IS NULL \
                 ORDER BY device, epoch",
            )
            .bind(node)
            .fetch_all(pool)
            .await
        })
    }

    /// The nodes that connections are written down as open on: ask [`Presence`](crate::Presence) which of them are
    /// alive.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn nodes(&self) -> Result<Vec<NodeId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar(
                // From each node to the next in the index: there are few, on many rows.
                "WITH RECURSIVE now(node) AS (\
                 SELECT (SELECT node FROM connections WHERE connected AND node IS NOT NULL ORDER BY node LIMIT 1) \
                 UNION ALL SELECT (SELECT node FROM connections WHERE connected AND node > now.node \
                 ORDER BY node LIMIT 1) FROM now WHERE node IS NOT NULL), \
                 logged(node) AS (\
                 SELECT (SELECT node FROM connection_log WHERE until_at IS NULL ORDER BY node LIMIT 1) \
                 UNION ALL SELECT (SELECT node FROM connection_log WHERE until_at IS NULL AND node > logged.node \
                 ORDER BY node LIMIT 1) FROM logged WHERE node IS NOT NULL) \
                 SELECT node FROM now WHERE node IS NOT NULL \
                 UNION SELECT node FROM logged WHERE node IS NOT NULL ORDER BY node",
            )
            .fetch_all(pool)
            .await
        })
    }

    /// The connections of a device, newest first, up to `limit` of them; the first may still last.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn history(&self, device: DeviceId, limit: u32) -> Result<Vec<PastConnection>, StorageError> {
        let rows: Vec<LogRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT epoch, node, address, since_at, until_at, reason, bytes_in, bytes_out, round_trip \
                 FROM connection_log WHERE device = $1 ORDER BY epoch DESC LIMIT $2",
            )
            .bind(device)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
        })?;
        rows.into_iter().map(|row| row.into_past(device)).collect()
    }

    /// Removes from the log, in slices, what ended before this time, and all but the newest `most_per_device` of each
    /// device, so that one that connects every second does not fill the disk. Connections that last stay; such as are
    /// open only because nobody wrote their end go by their beginning. Says how many were removed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be removed then; repeating the call is safe.
    pub async fn expire_history(&self, before: Timestamp, most_per_device: u32) -> Result<u64, StorageError> {
        Ok(self.remove_older(before).await? + self.remove_beyond(most_per_device.max(1)).await?)
    }

    async fn remove_older(&self, before: Timestamp) -> Result<u64, StorageError> {
        let mut removed = 0;
        for slice in [
            "DELETE FROM connection_log WHERE (device, epoch) IN \
             (SELECT device, epoch FROM connection_log WHERE until_at < $1 ORDER BY until_at LIMIT $2)",
            "DELETE FROM connection_log WHERE (device, epoch) IN \
             (SELECT device, epoch FROM connection_log WHERE until_at IS NULL AND (since_at IS NULL OR since_at < $1) \
             AND NOT EXISTS (SELECT 1 FROM connections WHERE connections.device = connection_log.device \
             AND connections.epoch = connection_log.epoch AND connected) LIMIT $2)",
        ] {
            loop {
                let count = repeating_after_deadlock(|| async {
                    on_writer!(self.db, |pool| {
                        sqlx::query(slice)
                            .bind(before)
                            .bind(i64::from(ROWS_PER_REMOVAL))
                            .execute(pool)
                            .await
                            .map(|done| done.rows_affected())
                    })
                })
                .await?;
                removed += count;
                if count < u64::from(ROWS_PER_REMOVAL) {
                    break;
                }
            }
        }
        Ok(removed)
    }

    async fn remove_beyond(&self, most_per_device: u32) -> Result<u64, StorageError> {
        let (mut removed, mut last) = (0, DeviceId::from_uuid(uuid::Uuid::nil()));
        loop {
            let restless: Vec<DeviceId> = on_reader!(self.db, |pool| {
                sqlx::query_scalar(
                    "SELECT device FROM connection_log WHERE device > $1 GROUP BY device HAVING COUNT(*) > $2 \
                     ORDER BY device LIMIT $3",
                )
                .bind(last)
                .bind(i64::from(most_per_device))
                .bind(i64::from(ROWS_PER_REMOVAL))
                .fetch_all(pool)
                .await
            })?;
            let Some(newest) = restless.last() else { return Ok(removed) };
            last = *newest;
            for device in restless {
                removed += self.remove_beyond_of(device, most_per_device).await?;
            }
        }
    }

    async fn remove_beyond_of(&self, device: DeviceId, most: u32) -> Result<u64, StorageError> {
        repeating_after_deadlock(|| async {
            on_writer!(self.db, |pool| {
                sqlx::query(
                    "DELETE FROM connection_log WHERE device = $1 AND epoch <= (SELECT epoch FROM connection_log \
                     WHERE device = $1 ORDER BY epoch DESC LIMIT 1 OFFSET $2)",
                )
                .bind(device)
                .bind(i64::from(most))
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
            })
        })
        .await
    }
}

/// All changes of one connection in one call.
struct Logged {
    /// The one that counts.
    last: ConnectionChange,
    /// When it began, if the call says.
    began: Option<Timestamp>,
}

/// One row for each connection, in the order of the log's key on all nodes.
fn one_per_connection(changes: &[ConnectionChange]) -> Vec<Logged> {
    let mut connections: BTreeMap<(DeviceId, Epoch), Logged> = BTreeMap::new();
    for &change in changes {
        let row = connections.entry((change.device, change.epoch)).or_insert(Logged { last: change, began: None });
        if change.connected {
            row.began.get_or_insert(change.at);
        }
        // Of several ends the first counts.
        if change.connected || row.last.connected {
            row.last = ConnectionChange {
                address: change.address.or(row.last.address),
                bytes_in: change.bytes_in.max(row.last.bytes_in),
                bytes_out: change.bytes_out.max(row.last.bytes_out),
                round_trip: change.round_trip.or(row.last.round_trip),
                ..change
            };
        }
    }
    connections.into_values().collect()
}

/// A connection as the log holds it.
#[derive(sqlx::FromRow)]
struct LogRow {
    epoch: Epoch,
    node: NodeId,
    address: Option<String>,
    since_at: Option<Timestamp>,
    until_at: Option<Timestamp>,
    reason: Option<String>,
    bytes_in: i64,
    bytes_out: i64,
    round_trip: Option<i64>,
}

impl LogRow {
    fn into_past(self, device: DeviceId) -> Result<PastConnection, StorageError> {
        let address = self.address.map(|text| text.parse()).transpose();
        Ok(PastConnection {
            epoch: self.epoch,
            node: self.node,
            address: address.map_err(|_| StorageError::Corrupt(format!("address of device {device}")))?,
            since: self.since_at,
            until: self.until_at,
            reason: self.reason,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            round_trip: self.round_trip.map(|micros| Duration::from_micros(micros.unsigned_abs())),
        })
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
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

    fn change(device: DeviceId, epoch: i64, connected: bool, at: i64) -> ConnectionChange {
        ConnectionChange {
            device,
            node: NodeId::random(),
            epoch: Epoch(epoch),
            connected,
            at: Timestamp(at),
            reason: None,
            address: None,
            bytes_in: 0,
            bytes_out: 0,
            round_trip: None,
        }
    }

    #[test]
    fn of_several_changes_the_last_of_the_newest_connection_counts() {
        let device = DeviceId::random();
        let changes = [change(device, 2, true, 2), change(device, 1, false, 1), change(device, 2, false, 2)];
        let rows = newest_per_device(&changes);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].last.epoch, rows[0].last.connected, rows[0].began), (Epoch(2), false, true));
    }

    #[test]
    fn the_log_keeps_every_connection_with_its_first_beginning_and_its_first_end() {
        let device = DeviceId::random();
        let changes = [
            change(device, 2, true, 20),
            change(device, 1, false, 21),
            change(device, 2, true, 22),
            change(device, 2, false, 23),
            change(device, 2, false, 24),
            change(device, 3, true, 30),
        ];
        let rows: Vec<_> = one_per_connection(&changes)
            .iter()
            .map(|row| (row.last.epoch.0, row.last.connected, row.last.at.0, row.began.map(|at| at.0)))
            .collect();
        assert_eq!(rows, [(1, false, 21, None), (2, false, 23, Some(20)), (3, true, 30, Some(30))]);
    }

    #[tokio::test]
    async fn the_log_of_a_connection_that_an_older_version_began_has_its_beginning() {
        let storage = crate::Storage::open(&crate::Config::in_memory()).await.expect("memory opens");
        let (connections, device) = (storage.connections, DeviceId::random());
        connections.provision(device, Timestamp(1)).await.expect("provisioned");
        connections.record(&[change(device, 7, true, 70)]).await.expect("recorded");
        // A version that knew no log would have left this.
        let emptied: Result<_, StorageError> = on_writer!(connections.db, |pool| {
            sqlx::query("DELETE FROM connection_log").execute(pool).await.map(drop)
        });
        emptied.expect("emptied");
        connections.record(&[change(device, 7, false, 80)]).await.expect("recorded");
        let past = connections.history(device, 1).await.expect("a list").remove(0);
        assert_eq!((past.since, past.until), (Some(Timestamp(70)), Some(Timestamp(80))));
    }
}
