//! What is known about each device: attributes in scopes, one document per device.
//!
//! Scope `inventory` is what the device reports. Scope `identity` and `created_ts` in scope `system` follow the
//! device's own row, in the transaction that changes it. `check_in_time` is read from the device's row and not stored
//! twice.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::types::Json;

use crate::database::{Database, Transaction, in_transaction, on_reader, on_writer};
use crate::{Device, DeviceId, StorageError, Timestamp};

mod document;

use document::{Document, Entry};

/// Scope of what a device reports about itself.
pub const INVENTORY: &str = "inventory";
/// Scope of a device's identity and status.
pub const IDENTITY: &str = "identity";
/// Scope of what the hub notes about a device.
pub const SYSTEM: &str = "system";

/// Scope of what monitoring has found.
pub const MONITOR: &str = "monitor";

/// How often a write is tried again whose document was changed by somebody else in between.
const REWRITE_ATTEMPTS: u32 = 16;

/// One attribute of a device. Scope and name together identify it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// Who writes it: `inventory`, `identity`, `system`, `tags`, `monitor`.
    pub scope: String,
    /// Its name, which may hold any character.
    pub name: String,
    /// Text, a number, an array of only texts or only numbers; from the hub itself also a boolean.
    pub value: Value,
    /// What it means. Absent in a report: the one known stays.
    pub description: Option<String>,
    /// When it was written, for scopes that keep it.
    pub timestamp: Option<Timestamp>,
}

/// A device as inventory shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct InventoryDevice {
    /// Which.
    pub id: DeviceId,
    /// In order of scope and name.
    pub attributes: Vec<Attribute>,
    /// When it last reported; `None` if it never has.
    pub updated: Option<Timestamp>,
    /// Counts the writes of the document.
    pub revision: i64,
    /// Version of the tags; `None` if it never had any.
    pub tags_etag: Option<String>,
}

/// How a report treats attributes it does not mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// They stay (`PATCH`).
    Merge,
    /// They go (`PUT`).
    Replace,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// It was written.
    Stored,
    /// It says what is known already and is not the first of its day: nothing was written.
    Unchanged,
    /// The scope would hold more attributes than it may: nothing was written.
    TooMany,
    /// The device does not exist or is being removed: nothing was written.
    NoDevice,
}

/// The inventory of all devices.
#[derive(Debug, Clone)]
pub struct Inventory {
    db: Database,
}

impl Inventory {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Takes in what a device says about itself, into scope `inventory` whatever scope the attributes name. Of
    /// attributes with one name the last counts. `limit` bounds the attributes in the scope after the report.
    ///
    /// # Errors
    /// `Unavailable` (also if others kept rewriting the same document), `Corrupt`, `Other`.
    pub async fn report(
        &self,
        device: DeviceId,
        attributes: Vec<Attribute>,
        report: Report,
        limit: usize,
        now: Timestamp,
    ) -> Result<Reported, StorageError> {
        let reported = document::reported(attributes);
        for _ in 0..REWRITE_ATTEMPTS {
            let Some(stored) = self.load_present(device).await? else { return Ok(Reported::NoDevice) };
            let Stored { document: Json(mut document), reported_at, revision, .. } = stored;
            let changed = match report {
                Report::Merge => document.merge(INVENTORY, &reported),
                Report::Replace => document.replace(INVENTORY, &reported),
            };
            let nothing_said = report == Report::Merge && reported.is_empty();
            let said_today = reported_at.is_some_and(|at| at.utc_day() == now.utc_day());
            if !changed && (nothing_said || said_today) {
                return Ok(Reported::Unchanged);
            }
            if document.count(INVENTORY) > limit {
                return Ok(Reported::TooMany);
            }
            if self.rewrite(device, &document, now, revision).await? {
                return Ok(Reported::Stored);
            }
        }
        Err(StorageError::unavailable("cannot rewrite an inventory document", "it kept changing"))
    }

    /// The device with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, device: DeviceId) -> Result<Option<InventoryDevice>, StorageError> {
        let stored: Option<Stored> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT i.device, i.document, i.reported_at, i.revision, i.tags_etag, d.checked_in_at \
                 FROM inventory i LEFT JOIN devices d ON d.id = i.device WHERE i.device = $1",
            )
            .bind(device)
            .fetch_optional(pool)
            .await
        })?;
        Ok(stored.map(Stored::into_device))
    }

    /// A page of all devices in order of their ids, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(&self, offset: u32, limit: u32) -> Result<(Vec<InventoryDevice>, u64), StorageError> {
        let page: Vec<Stored> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT i.device, i.document, i.reported_at, i.revision, i.tags_etag, d.checked_in_at \
                 FROM inventory i LEFT JOIN devices d ON d.id = i.device ORDER BY i.device LIMIT $1 OFFSET $2",
            )
            .bind(i64::from(limit))
            .bind(i64::from(offset))
            .fetch_all(pool)
            .await
        })?;
        let total: i64 =
            on_reader!(self.db, |pool| { sqlx::query_scalar("SELECT COUNT(*) FROM inventory").fetch_one(pool).await })?;
        Ok((page.into_iter().map(Stored::into_device).collect(), total.unsigned_abs()))
    }

    /// The document of a device that exists and is not being removed.
    async fn load_present(&self, device: DeviceId) -> Result<Option<Stored>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT i.device, i.document, i.reported_at, i.revision, i.tags_etag, d.checked_in_at \
                 FROM inventory i JOIN devices d ON d.id = i.device WHERE i.device = $1 AND NOT d.decommissioning",
            )
            .bind(device)
            .fetch_optional(pool)
            .await
        })
    }

    /// Writes a document if it is still the one with this revision and its device still there. The revision stands in
    /// for a lock: most reports find nothing to write, and those that do meet nobody.
    async fn rewrite(
        &self,
        device: DeviceId,
        document: &Document,
        now: Timestamp,
        revision: i64,
    ) -> Result<bool, StorageError> {
        let written = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE inventory SET document = $2, reported_at = $3, revision = revision + 1 \
                 WHERE device = $1 AND revision = $4 \
                 AND EXISTS (SELECT 1 FROM devices WHERE id = $1 AND NOT decommissioning)",
            )
            .bind(device)
            .bind(Json(document))
            .bind(now)
            .bind(revision)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        Ok(written > 0)
    }
}

/// Makes the document of a device show its identity and status, inside the transaction that changes the device. Also
/// how a new device gets its document.
pub(crate) async fn show_identity(transaction: &mut Transaction, device: &Device) -> Result<(), StorageError> {
    let shown = identity_attributes(device)?;
    for _ in 0..REWRITE_ATTEMPTS {
        let stored: Option<(Json<Document>, i64)> = in_transaction!(&mut *transaction, |connection| {
            sqlx::query_as("SELECT document, revision FROM inventory WHERE device = $1")
                .bind(device.id)
                .fetch_optional(connection)
                .await
        })?;
        let is_new = stored.is_none();
        let (mut document, revision) =
            stored.map_or_else(|| (Document::default(), 0), |(Json(document), revision)| (document, revision));
        let created = Entry::new(Value::String(device.created.rfc3339()));
        let changed = document.replace(IDENTITY, &shown)
            | document.merge(SYSTEM, &BTreeMap::from([("created_ts".to_owned(), created)]));
        if !changed {
            return Ok(());
        }
        let statement = if is_new {
            "INSERT INTO inventory (device, document, revision) VALUES ($1, $2, $3)"
        } else {
            "UPDATE inventory SET document = $2, revision = revision + 1 WHERE device = $1 AND revision = $3"
        };
        let written = in_transaction!(&mut *transaction, |connection| {
            sqlx::query(statement)
                .bind(device.id)
                .bind(Json(&document))
                .bind(revision)
                .execute(connection)
                .await
                .map(|done| done.rows_affected())
        })?;
        if written > 0 {
            return Ok(());
        }
        // The device reported something in between; its report stays, and we look again.
    }
    Err(StorageError::unavailable("cannot show a device in inventory", "its document kept changing"))
}

/// Makes the document of a device show how many of its monitored subjects are in trouble, inside the transaction that
/// changes that; `None` shows nothing. A device without a document shows nothing either.
pub(crate) async fn show_open_alerts(
    transaction: &mut Transaction,
    device: DeviceId,
    open: Option<u64>,
) -> Result<(), StorageError> {
    let shown = match open {
        None => BTreeMap::new(),
        Some(open) => BTreeMap::from([
            ("alert_count".to_owned(), Entry::new(Value::from(open))),
            ("alerts".to_owned(), Entry::new(Value::Bool(open > 0))),
        ]),
    };
    for _ in 0..REWRITE_ATTEMPTS {
        let stored: Option<(Json<Document>, i64)> = in_transaction!(&mut *transaction, |connection| {
            sqlx::query_as("SELECT document, revision FROM inventory WHERE device = $1")
                .bind(device)
                .fetch_optional(connection)
                .await
        })?;
        let Some((Json(mut document), revision)) = stored else { return Ok(()) };
        if !document.replace(MONITOR, &shown) {
            return Ok(());
        }
        let written = in_transaction!(&mut *transaction, |connection| {
            sqlx::query(
                "UPDATE inventory SET document = $2, revision = revision + 1 WHERE device = $1 AND revision = $3",
            )
            .bind(device)
            .bind(Json(&document))
            .bind(revision)
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
        })?;
        if written > 0 {
            return Ok(());
        }
    }
    Err(StorageError::unavailable("cannot show the alerts of a device in inventory", "its document kept changing"))
}

/// What devices report under a name as numbers, of devices that reported since a time, or of all. A text that is a number
/// is one: devices send most of theirs so.
pub(crate) async fn reported_numbers(
    db: &Database,
    name: &str,
    since: Option<Timestamp>,
    after: Option<DeviceId>,
    limit: u32,
) -> Result<Vec<(DeviceId, Option<f64>)>, StorageError> {
    let rows: Vec<(DeviceId, Json<Document>)> = on_reader!(db, |pool| {
        let mut query = sqlx::QueryBuilder::new("SELECT device, document FROM inventory WHERE reported_at ");
        match since {
            Some(since) => query.push(">= ").push_bind(since),
            None => query.push("IS NOT NULL"),
        };
        if let Some(after) = after {
            query.push(" AND device > ").push_bind(after);
        }
        query.push(" ORDER BY device LIMIT ").push_bind(i64::from(limit));
        query.build_query_as().fetch_all(pool).await
    })?;
    let number = |document: &Document| match document.value(INVENTORY, name)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    };
    Ok(rows.into_iter().map(|(device, Json(document))| (device, number(&document))).collect())
}

/// Every member of the identity but `status`, and the status the hub gave the device in its place. Values that
/// inventory has no type for (booleans, null, objects, mixed arrays) become their JSON text.
fn identity_attributes(device: &Device) -> Result<BTreeMap<String, Entry>, StorageError> {
    let corrupt = |_| StorageError::Corrupt(format!("identity of device {}", device.id));
    let identity: BTreeMap<String, Value> = serde_json::from_str(&device.identity).map_err(corrupt)?;
    let attributes: Vec<Attribute> = identity
        .into_iter()
        .filter(|(name, _)| name != "status")
        .chain([("status".to_owned(), Value::String(device.status().as_str().to_owned()))])
        .map(|(name, value)| Attribute {
            scope: IDENTITY.to_owned(),
            name,
            value: if document::is_attribute_value(&value) { value } else { Value::String(value.to_string()) },
            description: None,
            timestamp: None,
        })
        .collect();
    Ok(document::reported(attributes))
}

/// A document as the database returns it, with what the device's row adds to it.
#[derive(sqlx::FromRow)]
struct Stored {
    device: DeviceId,
    document: Json<Document>,
    reported_at: Option<Timestamp>,
    revision: i64,
    tags_etag: Option<String>,
    checked_in_at: Option<Timestamp>,
}

impl Stored {
    fn into_device(self) -> InventoryDevice {
        let Json(mut document) = self.document;
        if let Some(at) = self.checked_in_at {
            let seen = Entry::new(Value::String(at.rfc3339()));
            document.merge(SYSTEM, &BTreeMap::from([("check_in_time".to_owned(), seen)]));
        }
        InventoryDevice {
            id: self.device,
            attributes: document.into_attributes(),
            updated: self.reported_at,
            revision: self.revision,
            tags_etag: self.tags_etag,
        }
    }
}
