//! What happened, in one order for everybody: the log behind the live stream of events.
//!
//! Numbers are given in the order of commits and without a hole, so a reader that has seen an event has missed none
//! before it. Appenders therefore take turns, and each brings a batch.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sqlx::QueryBuilder;

use crate::database::{
    Database, ROWS_PER_REMOVAL, ROWS_PER_STATEMENT, Transaction, in_transaction, on_reader, repeating_after_deadlock,
};
use crate::dialect::without_nul;
use crate::rows::{BulkStatement, Rows};
use crate::{DeviceId, StorageError, Timestamp};

/// An event to be appended.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Names the happening: of two events with one key the second is not appended.
    pub key: String,
    /// When it happened.
    pub at: Timestamp,
    /// What kind of happening it is.
    pub kind: String,
    /// The device it is about, if it is about one.
    pub device: Option<DeviceId>,
    /// Whatever else there is to say.
    pub body: Value,
}

/// An event in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its number, from 1.
    pub id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// What kind of happening it is.
    pub kind: String,
    /// The device it is about, if it is about one.
    pub device: Option<DeviceId>,
    /// Whatever else there is to say.
    pub body: Value,
}

/// The log of events.
#[derive(Debug, Clone)]
pub struct Events {
    db: Database,
}

impl Events {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Appends events in this order; returns the number of each, which for one that is in the log already is the one it
    /// has there.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some of the events may be appended then; repeating the call is safe.
    pub async fn append(&self, events: &[NewEvent]) -> Result<Vec<i64>, StorageError> {
        let mut ids = Vec::with_capacity(events.len());
        for events in events.chunks(ROWS_PER_STATEMENT) {
            ids.extend(repeating_after_deadlock(|| self.append_rows(events)).await?);
        }
        Ok(ids)
    }

    async fn append_rows(&self, events: &[NewEvent]) -> Result<Vec<i64>, StorageError> {
        let appended = async {
            let mut transaction = self.db.begin().await?;
            let ids = append_rows(&mut transaction, events).await?;
            transaction.commit().await?;
            Ok(ids)
        };
        self.db.within(Box::pin(appended)).await
    }

    /// The events after this number, in order; up to `limit` of them. Nothing before a returned one is still to come.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn after(&self, id: i64, limit: u32) -> Result<Vec<Event>, StorageError> {
        let rows: Vec<EventRow> = on_reader!(self.db, |pool| {
            sqlx::query_as("SELECT id, at, kind, device, body FROM events WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(id)
                .bind(i64::from(limit))
                .fetch_all(pool)
                .await
        })?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    /// The last number given; zero before the first.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn newest(&self) -> Result<i64, StorageError> {
        on_reader!(self.db, |pool| { sqlx::query_scalar("SELECT newest FROM event_log").fetch_one(pool).await })
    }

    /// The number from which on the log is whole: retention may have removed any event before it, and none since. May be
    /// one that is still to be given. Whoever goes on after `id` has missed something if `id + 1` is less than this;
    /// ask after reading, since retention may be at work meanwhile.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn whole_from(&self) -> Result<i64, StorageError> {
        let expired: i64 =
            on_reader!(self.db, |pool| { sqlx::query_scalar("SELECT expired FROM event_log").fetch_one(pool).await })?;
        Ok(expired + 1)
    }

    /// Removes events that happened before this time, in slices; says how many.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be removed then; repeating the call is safe.
    pub async fn expire(&self, before: Timestamp) -> Result<u64, StorageError> {
        let mut removed = 0;
        loop {
            let slice = repeating_after_deadlock(|| self.expire_slice(before)).await?;
            removed += slice;
            if slice < u64::from(ROWS_PER_REMOVAL) {
                return Ok(removed);
            }
        }
    }

    /// An event is removed by its own time, wherever it stands: a node whose clock was wrong must neither keep the log
    /// from shrinking nor take its neighbours along.
    async fn expire_slice(&self, before: Timestamp) -> Result<u64, StorageError> {
        let removed = async {
            let mut transaction = self.db.begin().await?;
            let ids: Vec<i64> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar(
                    "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < $1 ORDER BY at, id LIMIT $2) \
                     RETURNING id",
                )
                .bind(before)
                .bind(i64::from(ROWS_PER_REMOVAL))
                .fetch_all(connection)
                .await
            })?;
            if let Some(largest) = ids.iter().max() {
                in_transaction!(&mut transaction, |connection| {
                    sqlx::query("UPDATE event_log SET expired = $1 WHERE expired < $1")
                        .bind(largest)
                        .execute(connection)
                        .await
                        .map(drop)
                })?;
            }
            transaction.commit().await?;
            Ok(ids.len() as u64)
        };
        self.db.within(removed).await
    }
}

/// Appends events inside of the transaction that makes what they tell. Others who append wait until it is over, so this
/// comes last.
pub(crate) async fn append(transaction: &mut Transaction, events: &[NewEvent]) -> Result<(), StorageError> {
    for events in events.chunks(ROWS_PER_STATEMENT) {
        append_rows(transaction, events).await?;
    }
    Ok(())
}

async fn append_rows(transaction: &mut Transaction, events: &[NewEvent]) -> Result<Vec<i64>, StorageError> {
    transaction.lock_events().await?;
    let mut known = known_keys(transaction, events).await?;
    let mut met = HashSet::with_capacity(events.len());
    let fresh: Vec<&NewEvent> = events
        .iter()
        .filter(|event| !known.contains_key(&*without_nul(&event.key)) && met.insert(without_nul(&event.key)))
        .collect();
    if !fresh.is_empty() {
        let count = i64::try_from(fresh.len()).unwrap_or(i64::MAX);
        let newest = take_numbers(transaction, count).await?;
        let rows: Vec<(i64, &NewEvent)> = (newest - count + 1..=newest).zip(fresh).collect();
        insert(transaction, &rows).await?;
        known.extend(rows.into_iter().map(|(id, event)| (without_nul(&event.key).into_owned(), id)));
    }
    Ok(events.iter().filter_map(|event| known.get(&*without_nul(&event.key)).copied()).collect())
}

/// The keys of these events that are in the log, and their numbers.
async fn known_keys(transaction: &mut Transaction, events: &[NewEvent]) -> Result<HashMap<String, i64>, StorageError> {
    let given = Rows::of(events).text(|event| without_nul(&event.key).into_owned());
    let known: Vec<(String, i64)> = in_transaction!(transaction, |connection| {
        let mut query = QueryBuilder::new("SELECT key, id FROM events WHERE key IN (SELECT column1 FROM ");
        query.push_rows(&given);
        query.push(")");
        let recurs = query.recurs(&given);
        query.build_query_as().persistent(recurs).fetch_all(connection).await
    })?;
    Ok(known.into_iter().collect())
}

/// Takes the next numbers; returns the last of them.
async fn take_numbers(transaction: &mut Transaction, count: i64) -> Result<i64, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_scalar("UPDATE event_log SET newest = newest + $1 RETURNING newest")
            .bind(count)
            .fetch_one(connection)
            .await
    })
}

async fn insert(transaction: &mut Transaction, rows: &[(i64, &NewEvent)]) -> Result<(), StorageError> {
    let given = Rows::of(rows)
        .number(|(id, _)| *id)
        .text(|(_, event)| without_nul(&event.key).into_owned())
        .number(|(_, event)| event.at.0)
        .text(|(_, event)| without_nul(&event.kind).into_owned())
        .id(|(_, event)| event.device.map(DeviceId::uuid))
        .text(|(_, event)| event.body.to_string());
    in_transaction!(transaction, |connection| {
        let mut query = QueryBuilder::new(
            "INSERT INTO events (id, key, at, kind, device, body) \
             SELECT column1, column2, column3, column4, column5, column6 FROM ",
        );
        query.push_rows(&given);
        let recurs = query.recurs(&given);
        query.build().persistent(recurs).execute(connection).await.map(drop)
    })
}

/// An event as the database returns it.
#[derive(sqlx::FromRow)]
struct EventRow {
    id: i64,
    at: Timestamp,
    kind: String,
    device: Option<DeviceId>,
    body: String,
}

impl TryFrom<EventRow> for Event {
    type Error = StorageError;

    fn try_from(row: EventRow) -> Result<Self, StorageError> {
        let body =
            serde_json::from_str(&row.body).map_err(|_| StorageError::Corrupt(format!("body of event {}", row.id)))?;
        Ok(Self { id: row.id, at: row.at, kind: row.kind, device: row.device, body })
    }
}
