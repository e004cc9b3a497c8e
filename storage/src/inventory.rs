//! What is known about each device: attributes in scopes, one document per device, and what finds it.
//!
//! | module | what it holds |
//! |---|---|
//! | `document` | the attributes of one device, merged and replaced |
//! | `record`, `index`, `term` | how a document is written, and what for searching is derived from it |
//! | [`filter`], `pattern`, [`order`], [`place`] | the questions, and what each means |
//! | [`search`], `condition`, `statement` | how questions become SQL |
//! | `counting` | counting rows by the values of columns |
//! | [`groups`], `attributes`, `overview`, [`aggregate`] | what else is asked and changed |
//!
//! Scope `inventory` is what the device reports, scope `tags` what users note about it. Scope `identity` and `created_ts`
//! in scope `system` follow the device's own row, in the transaction that changes it. `check_in_time` trails the device's
//! row by at most [`CHECK_IN_DELAY`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use sqlx::QueryBuilder;
use sqlx::types::Json;

use crate::database::{Database, ROWS_PER_STATEMENT, Transaction, in_transaction, on_reader, repeating_after_deadlock};
use crate::rows::{BulkStatement, Rows};
use crate::{Device, DeviceId, StorageError, Timestamp, dialect};

pub mod aggregate;
mod attribute;
mod attributes;
mod condition;
pub(crate) mod counting;
mod document;
pub mod filter;
pub mod groups;
mod index;
pub mod order;
mod overview;
pub mod pattern;
pub mod place;
mod record;
pub mod search;
pub(crate) mod statement;
mod term;

pub use attributes::{AttributesWritten, Precondition, TagsWritten};
pub use document::is_attribute_value;
use document::{Document, Entry};
pub use overview::{KnownAttribute, Statistics, TierCounts};
use record::{Change, Record};
pub use term::COMPARED_TEXT;

/// Scope of what a device reports about itself.
pub const INVENTORY: &str = "inventory";
/// Scope of a device's identity and status.
pub const IDENTITY: &str = "identity";
/// Scope of what the hub notes about a device.
pub const SYSTEM: &str = "system";
/// Scope of what users note about a device.
pub const TAGS: &str = "tags";
/// Scope of what the hub watches.
pub const MONITOR: &str = "monitor";

/// Bytes in the name of an attribute.
pub const NAME_LIMIT: usize = 1024;

/// Values in one scope of a device, elements of arrays one by one: each is a row that searches go through.
pub const VALUES_LIMIT: usize = 2_000;

/// Elements of arrays in a device's identity that are rows of their own. Anybody may send an identity, and its rows are
/// written while others wait.
const IDENTITY_ELEMENTS: usize = 64;

/// Bytes of texts in one scope of a device.
pub const TEXT_LIMIT: usize = 1 << 20;

/// How far `check_in_time` may be behind the device's last contact. (Mender API: at most ten minutes, of which some are
/// left for the way here.)
pub const CHECK_IN_DELAY: Duration = Duration::from_mins(5);

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
    /// The scope would hold more than [`VALUES_LIMIT`] values or [`TEXT_LIMIT`] bytes: nothing was written.
    TooLarge,
    /// The device does not exist or is being removed: nothing was written.
    NoDevice,
}

/// What a device says about itself, with the rules for it.
#[derive(Debug, Clone)]
pub struct DeviceReport {
    /// Who says it.
    pub device: DeviceId,
    /// What; into scope `inventory`, whatever scope the attributes name. Of attributes with one name the last counts.
    pub attributes: Vec<Attribute>,
    /// What it does not mention.
    pub report: Report,
    /// How many attributes the scope may have after it.
    pub limit: usize,
    /// When it came.
    pub now: Timestamp,
}

/// The inventory of all devices.
#[derive(Debug, Clone)]
pub struct Inventory {
    db: Database,
    /// How long a statement of a search may take.
    search_limit: Duration,
}

impl Inventory {
    pub(crate) const fn new(db: Database, search_limit: Duration) -> Self {
        Self { db, search_limit }
    }

    /// Takes in one report; see [`Self::report_all`].
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn report(
        &self,
        device: DeviceId,
        attributes: Vec<Attribute>,
        report: Report,
        limit: usize,
        now: Timestamp,
    ) -> Result<Reported, StorageError> {
        let outcomes = self.report_all(&[DeviceReport { device, attributes, report, limit, now }]).await?;
        Ok(outcomes.first().copied().unwrap_or(Reported::NoDevice))
    }

    /// Takes in reports in their order, all in one transaction: what became of each, in the same order. Reports that say
    /// what is known already cost no transaction.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. Nothing is written then.
    pub async fn report_all(&self, reports: &[DeviceReport]) -> Result<Vec<Reported>, StorageError> {
        let devices: BTreeSet<DeviceId> = reports.iter().map(|report| report.device).collect();
        let (outcomes, changes) = decide(self.glance(&devices).await?, reports);
        if changes.is_empty() {
            return Ok(outcomes);
        }
        let write = || async {
            let mut transaction = self.db.begin().await?;
            let held = record::load(&mut transaction, devices.iter().copied()).await?;
            let (outcomes, changes) = decide(held, reports);
            record::store(&mut transaction, changes).await?;
            transaction.commit().await?;
            Ok(outcomes)
        };
        self.db.within(repeating_after_deadlock(write)).await
    }

    /// The device with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, device: DeviceId) -> Result<Option<InventoryDevice>, StorageError> {
        let stored: Option<Stored> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT device, document, reported_at, checked_in_at, revision, tags_etag FROM inventory \
                 WHERE device = $1",
            )
            .bind(device)
            .fetch_optional(pool)
            .await
        })?;
        Ok(stored.map(Stored::into_device))
    }

    /// Derives what searches need of documents that lack it: those written before there were searches. Takes some at a
    /// time; says how many it saw to, 0 when there are no more.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub(crate) async fn index_some(&self) -> Result<usize, StorageError> {
        let missing: Vec<DeviceId> = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT device FROM inventory WHERE NOT indexed ORDER BY device LIMIT $1")
                .bind(i64::try_from(ROWS_PER_STATEMENT).unwrap_or(i64::MAX))
                .fetch_all(pool)
                .await
        })?;
        if missing.is_empty() {
            return Ok(0);
        }
        let write = || async {
            let mut transaction = self.db.begin().await?;
            let held = record::load(&mut transaction, missing.iter().copied()).await?;
            let checked_in = checked_in(&mut transaction, &missing).await?;
            let changes = held.into_values().map(|before| {
                let mut after = before.clone();
                after.checked_in_at = checked_in.get(&before.device).copied().map(attribute::whole_millis);
                Change { before: Some(before), after: Some(after) }
            });
            record::store(&mut transaction, changes.collect()).await?;
            transaction.commit().await?;
            Ok(())
        };
        self.db.within(repeating_after_deadlock(write)).await?;
        Ok(missing.len())
    }

    /// The records of these devices as they are at the moment, held by nobody.
    async fn glance(&self, devices: &BTreeSet<DeviceId>) -> Result<BTreeMap<DeviceId, Record>, StorageError> {
        let devices: Vec<DeviceId> = devices.iter().copied().collect();
        let mut records = BTreeMap::new();
        for devices in devices.chunks(ROWS_PER_STATEMENT) {
            let rows: Vec<record::RecordRow> = on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new(record::SELECT);
                let mut any = query.separated(", ");
                for device in devices {
                    any.push_bind(*device);
                }
                query.push(")");
                query.build_query_as().persistent(devices.len() == 1).fetch_all(pool).await
            })?;
            records.extend(rows.into_iter().map(Record::from).map(|record| (record.device, record)));
        }
        Ok(records)
    }
}

/// What becomes of each report, and what has to be written for all of them.
fn decide(mut records: BTreeMap<DeviceId, Record>, reports: &[DeviceReport]) -> (Vec<Reported>, Vec<Change>) {
    let before = records.clone();
    let outcomes = reports
        .iter()
        .map(|report| records.get_mut(&report.device).map_or(Reported::NoDevice, |record| take_in(record, report)))
        .collect();
    let changes = records.into_iter().filter_map(|(device, after)| {
        let before = before.get(&device)?;
        (*before != after).then(|| Change { before: Some(before.clone()), after: Some(after) })
    });
    (outcomes, changes.collect())
}

fn take_in(record: &mut Record, report: &DeviceReport) -> Reported {
    if record.decommissioning != Some(false) {
        return Reported::NoDevice;
    }
    let entries = document::reported(report.attributes.clone());
    let mut document = record.document.clone();
    let changed = match report.report {
        Report::Merge => document.merge(INVENTORY, &entries),
        Report::Replace => document.replace(INVENTORY, &entries),
    };
    let nothing_said = report.report == Report::Merge && entries.is_empty();
    let said_today = record.reported_at.is_some_and(|at| at.utc_day() == report.now.utc_day());
    if !changed && (nothing_said || said_today) {
        return Reported::Unchanged;
    }
    if document.count(INVENTORY) > report.limit {
        return Reported::TooMany;
    }
    if is_too_large(&document, INVENTORY) {
        return Reported::TooLarge;
    }
    record.document = document;
    record.reported_at = Some(attribute::whole_millis(report.now));
    Reported::Stored
}

fn is_too_large(document: &Document, scope: &str) -> bool {
    let (values, bytes) = document.weight(scope);
    values > VALUES_LIMIT || bytes > TEXT_LIMIT
}

/// Makes the document of a device show its identity and status, inside the transaction that changes the device. Also
/// how a new device gets its document.
pub(crate) async fn show_identity(transaction: &mut Transaction, device: &Device) -> Result<bool, StorageError> {
    let shown = identity_attributes(device)?;
    let before = record::load(transaction, [device.id]).await?.remove(&device.id);
    let mut after = before.clone().unwrap_or_else(|| Record::new(device.id));
    let created = Entry::new(Value::String(device.created.rfc3339()));
    let changed = after.document.replace(IDENTITY, &shown)
        | after.document.merge(SYSTEM, &BTreeMap::from([("created_ts".to_owned(), created)]));
    if let Some(at) = device.checked_in
        && is_worth_showing(after.checked_in_at, at)
    {
        after.checked_in_at = Some(attribute::whole_millis(at));
    }
    record::store(transaction, vec![Change { before, after: Some(after) }]).await?;
    Ok(changed)
}

/// Forgets a device, inside the transaction that removes it.
pub(crate) async fn forget(transaction: &mut Transaction, device: DeviceId) -> Result<(), StorageError> {
    let before = record::load(transaction, [device]).await?.remove(&device);
    record::store(transaction, vec![Change { before, after: None }]).await
}

/// Shows when devices were last heard of, inside the transaction that writes it down. Those that were shown not long ago
/// stay as they are: a busy device must not rewrite its place in the indexes with every word.
pub(crate) async fn show_check_ins(
    transaction: &mut Transaction,
    check_ins: &[(DeviceId, Timestamp)],
) -> Result<(), StorageError> {
    let due = due_check_ins(transaction, check_ins).await?;
    if due.is_empty() {
        return Ok(());
    }
    transaction.hold_rows(dialect::HOLD_INVENTORIES, due.iter().map(|(device, _)| *device)).await?;
    let given = shown_check_ins(&due);
    let mut show = async |condition: &'static str| {
        in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new("UPDATE inventory SET checked_in_at = column2 FROM ");
            query.push_rows(&given);
            query.push(" WHERE device = column1 AND ").push(condition);
            let recurs = query.recurs(&given);
            query.build().persistent(recurs).execute(connection).await.map(|done| done.rows_affected())
        })
    };
    let first = show("checked_in_at IS NULL").await?;
    show("checked_in_at < column3").await?;
    record::count_attribute(transaction, SYSTEM, "check_in_time", first).await
}

/// Those of them that documents do not show yet. Mostly there is none: a document shows one in [`CHECK_IN_DELAY`], and to
/// hold the others would cost as much as to change them.
async fn due_check_ins(
    transaction: &mut Transaction,
    check_ins: &[(DeviceId, Timestamp)],
) -> Result<Vec<(DeviceId, Timestamp)>, StorageError> {
    let given = shown_check_ins(check_ins);
    let due: Vec<DeviceId> = in_transaction!(transaction, |connection| {
        let mut query = QueryBuilder::new("SELECT device FROM inventory, ");
        query.push_rows(&given);
        query.push(" WHERE device = column1 AND (checked_in_at IS NULL OR checked_in_at < column3)");
        let recurs = query.recurs(&given);
        query.build_query_scalar().persistent(recurs).fetch_all(connection).await
    })?;
    let due: BTreeSet<DeviceId> = due.into_iter().collect();
    Ok(check_ins.iter().filter(|(device, _)| due.contains(device)).copied().collect())
}

/// Device, what its document will show, and how old what it shows has to be.
fn shown_check_ins(check_ins: &[(DeviceId, Timestamp)]) -> Rows<'_, (DeviceId, Timestamp)> {
    Rows::of(check_ins)
        .id(|(device, _)| device.uuid())
        .number(|(_, at)| attribute::whole_millis(*at).0)
        .number(|(_, at)| at.minus(CHECK_IN_DELAY).0)
}

fn is_worth_showing(shown: Option<Timestamp>, at: Timestamp) -> bool {
    shown.is_none_or(|shown| shown < at.minus(CHECK_IN_DELAY))
}

async fn checked_in(
    transaction: &mut Transaction,
    devices: &[DeviceId],
) -> Result<BTreeMap<DeviceId, Timestamp>, StorageError> {
    let rows: Vec<(DeviceId, Timestamp)> = in_transaction!(&mut *transaction, |connection| {
        let mut query =
            QueryBuilder::new("SELECT id, checked_in_at FROM devices WHERE checked_in_at IS NOT NULL AND id IN (");
        let mut any = query.separated(", ");
        for device in devices {
            any.push_bind(*device);
        }
        query.push(")");
        query.build_query_as().persistent(false).fetch_all(connection).await
    })?;
    Ok(rows.into_iter().collect())
}

/// Makes the documents of devices show how many of their monitored subjects are in trouble, inside the transaction that
/// changes that; `None` shows nothing. A device without a document shows nothing either.
pub(crate) async fn show_open_alerts(
    transaction: &mut Transaction,
    open: &BTreeMap<DeviceId, Option<u64>>,
) -> Result<(), StorageError> {
    if open.is_empty() {
        return Ok(());
    }
    let held = record::load(transaction, open.keys().copied()).await?;
    let changes = held.into_values().map(|before| {
        let shown = match open.get(&before.device).copied().flatten() {
            None => BTreeMap::new(),
            Some(open) => BTreeMap::from([
                ("alert_count".to_owned(), Entry::new(Value::from(open))),
                ("alerts".to_owned(), Entry::new(Value::Bool(open > 0))),
            ]),
        };
        let mut after = before.clone();
        after.document.replace(MONITOR, &shown);
        Change { before: Some(before), after: Some(after) }
    });
    record::store(transaction, changes.collect()).await
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
        let mut query = QueryBuilder::new("SELECT device, document FROM inventory WHERE reported_at ");
        match since {
            Some(since) => query.push(">= ").push_bind(attribute::whole_millis(since)),
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
/// inventory has no type for (booleans, null, objects, mixed arrays) become their JSON text, and so does the array that
/// would bring the elements of all above [`IDENTITY_ELEMENTS`].
fn identity_attributes(device: &Device) -> Result<BTreeMap<String, Entry>, StorageError> {
    let corrupt = |_| StorageError::Corrupt(format!("identity of device {}", device.id));
    let identity: BTreeMap<String, Value> = serde_json::from_str(&device.identity).map_err(corrupt)?;
    let mut left = IDENTITY_ELEMENTS;
    let mut shown = |value: Value| {
        let elements = value.as_array().map_or(0, Vec::len);
        match left.checked_sub(elements).filter(|_| is_attribute_value(&value)) {
            Some(still_left) => {
                left = still_left;
                value
            }
            None => Value::String(value.to_string()),
        }
    };
    let attributes: Vec<Attribute> = identity
        .into_iter()
        .filter(|(name, _)| name != "status")
        .chain([("status".to_owned(), Value::String(device.status().as_str().to_owned()))])
        .map(|(name, value)| Attribute {
            scope: IDENTITY.to_owned(),
            name,
            value: shown(value),
            description: None,
            timestamp: None,
        })
        .collect();
    Ok(document::reported(attributes))
}

/// A document as the database returns it, with what its row adds to it.
#[derive(sqlx::FromRow)]
struct Stored {
    device: DeviceId,
    document: Json<Document>,
    reported_at: Option<Timestamp>,
    checked_in_at: Option<Timestamp>,
    revision: i64,
    tags_etag: Option<String>,
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
