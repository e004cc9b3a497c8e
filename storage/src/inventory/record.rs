//! What is known about some devices, loaded to be changed and stored again with everything derived from it.
//!
//! All writers go through here, so the tables for searching follow in the transaction that changes a document. Rows are
//! locked in one order: documents by device, then attributes, then counts.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::QueryBuilder;
use sqlx::types::Json;

use super::InventoryDevice;
use super::document::Document;
use super::index::Index;
use super::term::Role;
use crate::database::{ROWS_PER_STATEMENT, Transaction, in_transaction};
use crate::{DeviceId, StorageError, Timestamp, dialect};

/// Everything about one device that is stored and not derived.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) device: DeviceId,
    pub(super) document: Document,
    pub(super) reported_at: Option<Timestamp>,
    pub(super) checked_in_at: Option<Timestamp>,
    pub(super) tags_etag: Option<String>,
    pub(super) revision: i64,
    /// Whether the tables for searching know it.
    is_indexed: bool,
    /// Whether the device is there and stays; `None` if there is only its record.
    pub(super) decommissioning: Option<bool>,
}

/// A record as the database returns it.
#[derive(sqlx::FromRow)]
pub(super) struct RecordRow {
    device: DeviceId,
    document: Json<Document>,
    reported_at: Option<Timestamp>,
    checked_in_at: Option<Timestamp>,
    tags_etag: Option<String>,
    revision: i64,
    indexed: bool,
    decommissioning: Option<bool>,
}

impl Record {
    /// The record of a device of which nothing is known yet.
    pub(super) fn new(device: DeviceId) -> Self {
        Self {
            device,
            document: Document::default(),
            reported_at: None,
            checked_in_at: None,
            tags_etag: None,
            revision: 0,
            is_indexed: false,
            decommissioning: None,
        }
    }

    /// The record of which this is shown, as far as questions can tell.
    pub(super) fn shown(device: &InventoryDevice) -> Self {
        let mut document = Document::default();
        for attribute in &device.attributes {
            document.merge(&attribute.scope, &super::document::reported(vec![attribute.clone()]));
        }
        Self { document, reported_at: device.updated, ..Self::new(device.id) }
    }

    /// What is derived from it.
    pub(super) fn index(&self) -> Index {
        Index::of(self)
    }

    /// What the tables for searching hold about it.
    fn indexed(&self) -> Index {
        if self.is_indexed { Index::of(self) } else { Index::default() }
    }
}

/// Selects records by the ids that follow.
pub(super) const SELECT: &str = "SELECT i.device, i.document, i.reported_at, i.checked_in_at, i.tags_etag, i.revision, \
     i.indexed, d.decommissioning FROM inventory i LEFT JOIN devices d ON d.id = i.device WHERE i.device IN (";

/// The records of these devices, as far as there are any, held until the end of the transaction.
pub(super) async fn load(
    transaction: &mut Transaction,
    devices: impl IntoIterator<Item = DeviceId>,
) -> Result<BTreeMap<DeviceId, Record>, StorageError> {
    let devices: BTreeSet<DeviceId> = devices.into_iter().collect();
    let devices: Vec<DeviceId> = devices.into_iter().collect();
    let hold = transaction.dialect().hold_documents();
    let mut records = BTreeMap::new();
    for devices in devices.chunks(ROWS_PER_STATEMENT) {
        let rows: Vec<RecordRow> = in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new(SELECT);
            let mut any = query.separated(", ");
            for device in devices {
                any.push_bind(*device);
            }
            query.push(") ORDER BY i.device").push(hold);
            query.build_query_as().persistent(devices.len() == 1).fetch_all(connection).await
        })?;
        records.extend(rows.into_iter().map(|row| (row.device, row.into())));
    }
    Ok(records)
}

impl From<RecordRow> for Record {
    fn from(row: RecordRow) -> Self {
        Self {
            device: row.device,
            document: row.document.0,
            reported_at: row.reported_at,
            checked_in_at: row.checked_in_at,
            tags_etag: row.tags_etag,
            revision: row.revision,
            is_indexed: row.indexed,
            decommissioning: row.decommissioning,
        }
    }
}

/// One record as it was and as it shall be; `None` where it is not there.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) before: Option<Record>,
    pub(super) after: Option<Record>,
}

/// Writes changes and everything that follows from them. Records that stay as they are cost nothing, unless they were
/// never indexed.
pub(super) async fn store(transaction: &mut Transaction, changes: Vec<Change>) -> Result<(), StorageError> {
    let mut writes = Writes::default();
    for change in changes {
        writes.add(change);
    }
    writes.documents(transaction).await?;
    writes.terms(transaction).await?;
    writes.text(transaction).await?;
    writes.attributes(transaction).await?;
    writes.counts(transaction).await
}

/// Counts devices that have got an attribute in another way.
pub(super) async fn count_attribute(
    transaction: &mut Transaction,
    scope: &str,
    name: &str,
    devices: u64,
) -> Result<(), StorageError> {
    let mut writes = Writes::default();
    let devices = i64::try_from(devices).unwrap_or(i64::MAX);
    writes.attribute(super::term::fingerprint(scope, name), scope, name, devices);
    writes.attributes(transaction).await
}

/// What has to be written, by table.
#[derive(Default)]
struct Writes {
    new: Vec<(Record, Index)>,
    changed: Vec<(Record, Index)>,
    gone: Vec<DeviceId>,
    lost_terms: Vec<(DeviceId, Vec<u8>)>,
    new_terms: Vec<(DeviceId, Vec<u8>, Role)>,
    text: Vec<(DeviceId, String, String)>,
    attributes: BTreeMap<[u8; 8], (String, String, i64)>,
    counts: BTreeMap<(String, String, String), i64>,
}

impl Writes {
    fn add(&mut self, Change { before, after }: Change) {
        if before == after && after.as_ref().is_none_or(|record| record.is_indexed) {
            return;
        }
        let was = before.as_ref().map(Record::indexed).unwrap_or_default();
        let is = after.as_ref().map(Index::of).unwrap_or_default();
        let Some(device) = after.as_ref().or(before.as_ref()).map(|record| record.device) else { return };
        let was_counted = before.as_ref().is_some_and(|record| record.is_indexed);

        for (term, role) in &was.terms {
            if is.terms.get(term) != Some(role) {
                self.lost_terms.push((device, term.clone()));
            }
        }
        for (term, role) in &is.terms {
            if was.terms.get(term) != Some(role) {
                self.new_terms.push((device, term.clone(), *role));
            }
        }
        if after.is_some() && (!was_counted || was.words != is.words || was.names != is.names) {
            self.text.push((device, dialect::words(&is.words), is.names.clone()));
        }
        for (fingerprint, (scope, name)) in &was.attributes {
            self.attribute(*fingerprint, scope, name, -1);
        }
        for (fingerprint, (scope, name)) in &is.attributes {
            self.attribute(*fingerprint, scope, name, 1);
        }
        if was_counted {
            *self.counts.entry(was.counted()).or_default() -= 1;
        }
        if after.is_some() {
            *self.counts.entry(is.counted()).or_default() += 1;
        }
        match (before, after) {
            (None, Some(after)) => self.new.push((Record { revision: 1, ..after }, is)),
            (Some(before), Some(after)) => {
                self.changed.push((Record { revision: before.revision + 1, ..after }, is));
            }
            (Some(_), None) => self.gone.push(device),
            (None, None) => {}
        }
    }

    fn attribute(&mut self, fingerprint: [u8; 8], scope: &str, name: &str, difference: i64) {
        let known = self.attributes.entry(fingerprint).or_insert_with(|| (scope.to_owned(), name.to_owned(), 0));
        known.2 += difference;
    }

    async fn documents(&self, transaction: &mut Transaction) -> Result<(), StorageError> {
        for rows in self.new.chunks(ROWS_PER_STATEMENT) {
            write_documents(transaction, INSERT_DOCUMENTS, rows, "").await?;
        }
        for rows in self.changed.chunks(ROWS_PER_STATEMENT) {
            write_documents(transaction, UPDATE_DOCUMENTS, rows, ") AS changed WHERE device = column1").await?;
        }
        if self.gone.is_empty() {
            return Ok(());
        }
        for table in ["DELETE FROM inventory WHERE device IN (", "DELETE FROM inventory_text WHERE device IN ("] {
            in_transaction!(&mut *transaction, |connection| {
                let mut query = QueryBuilder::new(table);
                let mut any = query.separated(", ");
                for device in &self.gone {
                    any.push_bind(*device);
                }
                query.push(")");
                query.build().persistent(self.gone.len() == 1).execute(connection).await.map(drop)
            })?;
        }
        Ok(())
    }

    async fn terms(&self, transaction: &mut Transaction) -> Result<(), StorageError> {
        for rows in self.lost_terms.chunks(ROWS_PER_STATEMENT) {
            in_transaction!(&mut *transaction, |connection| {
                let mut query = QueryBuilder::new("DELETE FROM inventory_terms WHERE (term, device) IN (");
                query.push_values(rows, |mut row, (device, term)| {
                    row.push_bind(term).push_bind(*device);
                });
                query.push(")");
                query.build().persistent(false).execute(connection).await.map(drop)
            })?;
        }
        for rows in self.new_terms.chunks(ROWS_PER_STATEMENT) {
            in_transaction!(&mut *transaction, |connection| {
                let mut query = QueryBuilder::new("INSERT INTO inventory_terms (term, device, role) ");
                query.push_values(rows, |mut row, (device, term, role)| {
                    row.push_bind(term).push_bind(*device).push_bind(*role as i16);
                });
                // There already only if a node of the version before had a hand in it.
                query.push(" ON CONFLICT (term, device) DO UPDATE SET role = excluded.role");
                query.build().persistent(false).execute(connection).await.map(drop)
            })?;
        }
        Ok(())
    }

    async fn text(&self, transaction: &mut Transaction) -> Result<(), StorageError> {
        let words = transaction.dialect().words_column();
        for rows in self.text.chunks(ROWS_PER_STATEMENT) {
            in_transaction!(&mut *transaction, |connection| {
                let mut query = QueryBuilder::new("INSERT INTO inventory_text (device, words, names) SELECT column1, ");
                query.push(words).push(", column3 FROM (");
                query.push_values(rows, |mut row, (device, words, names)| {
                    row.push_bind(*device).push_bind(words).push_bind(names);
                });
                // SQLite would take the ON for that of a join.
                query.push(
                    ") AS texts WHERE TRUE ON CONFLICT (device) DO UPDATE SET words = excluded.words, names = excluded.names",
                );
                query.build().persistent(false).execute(connection).await.map(drop)
            })?;
        }
        Ok(())
    }

    async fn attributes(&self, transaction: &mut Transaction) -> Result<(), StorageError> {
        let moved: Vec<_> = self.attributes.iter().filter(|(_, (_, _, difference))| *difference != 0).collect();
        for rows in moved.chunks(ROWS_PER_STATEMENT) {
            in_transaction!(&mut *transaction, |connection| {
                let mut query =
                    QueryBuilder::new("INSERT INTO inventory_attributes (attribute, scope, name, devices) ");
                query.push_values(rows, |mut row, (fingerprint, (scope, name, difference))| {
                    row.push_bind(fingerprint.to_vec()).push_bind(scope).push_bind(name).push_bind(*difference);
                });
                query.push(
                    " ON CONFLICT (attribute) DO UPDATE SET devices = inventory_attributes.devices + excluded.devices",
                );
                query.build().persistent(false).execute(connection).await.map(drop)
            })?;
        }
        // Devices may name as many as they like, one after the other.
        let fewer: Vec<Vec<u8>> =
            moved.iter().filter(|(_, (_, _, by))| *by < 0).map(|(fingerprint, _)| fingerprint.to_vec()).collect();
        for rows in fewer.chunks(ROWS_PER_STATEMENT) {
            in_transaction!(&mut *transaction, |connection| {
                let mut query =
                    QueryBuilder::new("DELETE FROM inventory_attributes WHERE devices <= 0 AND attribute IN (");
                let mut any = query.separated(", ");
                for fingerprint in rows {
                    any.push_bind(fingerprint);
                }
                query.push(")");
                query.build().persistent(false).execute(connection).await.map(drop)
            })?;
        }
        Ok(())
    }

    async fn counts(&self, transaction: &mut Transaction) -> Result<(), StorageError> {
        let moved: Vec<_> = self.counts.iter().filter(|(_, difference)| **difference != 0).collect();
        for rows in moved.chunks(ROWS_PER_STATEMENT) {
            in_transaction!(&mut *transaction, |connection| {
                let mut query = QueryBuilder::new("INSERT INTO inventory_counts (group_name, status, tier, devices) ");
                query.push_values(rows, |mut row, ((group, status, tier), difference)| {
                    row.push_bind(group).push_bind(status).push_bind(tier).push_bind(**difference);
                });
                query.push(
                    " ON CONFLICT (group_name, status, tier) \
                     DO UPDATE SET devices = inventory_counts.devices + excluded.devices",
                );
                query.build().persistent(false).execute(connection).await.map(drop)
            })?;
        }
        if moved.iter().any(|(_, difference)| **difference < 0) {
            in_transaction!(&mut *transaction, |connection| {
                let mut query = QueryBuilder::new(
                    "DELETE FROM inventory_counts WHERE devices <= 0 AND (group_name, status, tier) IN (",
                );
                query.push_values(moved.iter().take(ROWS_PER_STATEMENT), |mut row, ((group, status, tier), _)| {
                    row.push_bind(group).push_bind(status).push_bind(tier);
                });
                query.push(")");
                query.build().persistent(false).execute(connection).await.map(drop)
            })?;
        }
        Ok(())
    }
}

const INSERT_DOCUMENTS: &str = "INSERT INTO inventory (device, document, reported_at, checked_in_at, tags_etag, \
     revision, status, group_name, tier, created_at, latitude, longitude, place_x, place_y, place_z, indexed) ";

const UPDATE_DOCUMENTS: &str = "UPDATE inventory SET document = column2, reported_at = column3, \
     checked_in_at = column4, tags_etag = column5, revision = column6, status = column7, group_name = column8, \
     tier = column9, created_at = column10, latitude = column11, longitude = column12, place_x = column13, \
     place_y = column14, place_z = column15, indexed = column16 FROM (";

async fn write_documents(
    transaction: &mut Transaction,
    start: &'static str,
    rows: &[(Record, Index)],
    end: &'static str,
) -> Result<(), StorageError> {
    in_transaction!(&mut *transaction, |connection| {
        let mut query = QueryBuilder::new(start);
        query.push_values(rows, |mut row, (record, index)| {
            let point = index.place.map(super::index::Place::point);
            row.push_bind(record.device)
                .push_bind(Json(&record.document))
                .push_bind(record.reported_at)
                .push_bind(record.checked_in_at)
                .push_bind(&record.tags_etag)
                .push_bind(record.revision)
                .push_bind(&index.status)
                .push_bind(&index.group)
                .push_bind(&index.tier)
                .push_bind(index.created)
                .push_bind(index.place.map(|place| place.latitude))
                .push_bind(index.place.map(|place| place.longitude))
                .push_bind(point.map(|point| point[0]))
                .push_bind(point.map(|point| point[1]))
                .push_bind(point.map(|point| point[2]))
                .push_bind(true);
        });
        query.push(end);
        query.build().persistent(rows.len() == 1).execute(connection).await.map(drop)
    })
}
