//! What users and the hub itself write about devices: tags, and attributes of any scope.

use std::collections::BTreeMap;

use serde_json::Value;

use super::record::{self, Change, Record};
use super::{Attribute, INVENTORY, Inventory, Report, SYSTEM, TAGS, attribute, document, is_too_large};
use crate::database::repeating_after_deadlock;
use crate::{DeviceId, StorageError, Timestamp};

/// Which version of the tags a writer has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// It does not matter.
    None,
    /// There have to be some.
    Any,
    /// One of these.
    OneOf(Vec<String>),
}

/// What became of tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagsWritten {
    /// They were written; their new version.
    Stored(String),
    /// Somebody else has written them meanwhile: nothing was written.
    Stale,
    /// There would be more than there may be: nothing was written.
    TooMany,
    /// They would hold more than there may be in a scope: nothing was written.
    TooLarge,
    /// There is no such device.
    NoDevice,
}

/// What became of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributesWritten {
    /// They were written, or said what is known already.
    Stored,
    /// The device has reported since: nothing was written.
    Modified,
    /// They would hold more than there may be in a scope: nothing was written.
    TooLarge,
    /// There is no such device.
    NoDevice,
}

impl Inventory {
    /// Writes tags, whatever scope the attributes name; each gets the time. No change in the sense of `updated`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. Nothing is written then.
    pub async fn write_tags(
        &self,
        device: DeviceId,
        tags: Vec<Attribute>,
        report: Report,
        seen: &Precondition,
        limit: usize,
        now: Timestamp,
    ) -> Result<TagsWritten, StorageError> {
        let tags = tags.into_iter().map(|tag| Attribute { timestamp: Some(now), ..tag }).collect();
        let entries = document::reported(tags);
        self.rewrite(device, |record| {
            let Some(record) = record else { return TagsWritten::NoDevice };
            let is_current = match (seen, &record.tags_etag) {
                (Precondition::None, _) | (Precondition::Any, Some(_)) => true,
                (Precondition::OneOf(versions), Some(version)) => versions.contains(version),
                (Precondition::Any | Precondition::OneOf(_), None) => false,
            };
            if !is_current {
                return TagsWritten::Stale;
            }
            let mut document = record.document.clone();
            match report {
                Report::Merge => document.merge(TAGS, &entries),
                Report::Replace => document.replace(TAGS, &entries),
            };
            if document.count(TAGS) > limit {
                return TagsWritten::TooMany;
            }
            if is_too_large(&document, TAGS) {
                return TagsWritten::TooLarge;
            }
            let version = uuid::Uuid::new_v4().to_string();
            record.document = document;
            record.tags_etag = Some(version.clone());
            TagsWritten::Stored(version)
        })
        .await
    }

    /// Takes everything away that the device has reported; says whether there is such a device.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn clear_report(&self, device: DeviceId) -> Result<bool, StorageError> {
        self.rewrite(device, |record| {
            let Some(record) = record else { return false };
            record.document.replace(INVENTORY, &BTreeMap::new());
            true
        })
        .await
    }

    /// Writes attributes into the scopes they name, beside those that are there; `check_in_time` and `updated_ts` of scope
    /// `system` have to be times, all other attributes may have any value an attribute may have, and booleans. If
    /// `unmodified_since` is given, the device must not have reported later. No change in the sense of `updated`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. Nothing is written then.
    pub async fn write_attributes(
        &self,
        device: DeviceId,
        attributes: Vec<Attribute>,
        unmodified_since: Option<Timestamp>,
    ) -> Result<AttributesWritten, StorageError> {
        self.rewrite(device, |record| {
            let Some(record) = record else { return AttributesWritten::NoDevice };
            // Whoever asks knows whole seconds.
            let later = |since: Timestamp| record.reported_at.is_some_and(|at| at.seconds() > since.seconds());
            if unmodified_since.is_some_and(later) {
                return AttributesWritten::Modified;
            }
            let mut changed = record.clone();
            let scopes = put(&mut changed, attributes.clone());
            if scopes.iter().any(|scope| is_too_large(&changed.document, scope)) {
                return AttributesWritten::TooLarge;
            }
            *record = changed;
            AttributesWritten::Stored
        })
        .await
    }

    /// As [`Self::write_attributes`], for a device that need not be known: then it gets a record.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. Nothing is written then.
    pub async fn create(
        &self,
        device: DeviceId,
        attributes: Vec<Attribute>,
        now: Timestamp,
    ) -> Result<AttributesWritten, StorageError> {
        let write = || async {
            let mut transaction = self.db.begin().await?;
            let before = record::load(&mut transaction, [device]).await?.remove(&device);
            let mut after = before.clone().unwrap_or_else(|| Record::new(device));
            if before.is_none() {
                let created = document::Entry::new(Value::String(now.rfc3339()));
                after.document.merge(SYSTEM, &BTreeMap::from([("created_ts".to_owned(), created)]));
            }
            let scopes = put(&mut after, attributes.clone());
            if scopes.iter().any(|scope| is_too_large(&after.document, scope)) {
                return Ok(AttributesWritten::TooLarge);
            }
            record::store(&mut transaction, vec![Change { before, after: Some(after) }]).await?;
            transaction.commit().await?;
            Ok(AttributesWritten::Stored)
        };
        self.db.within(repeating_after_deadlock(write)).await
    }

    /// Takes attributes of one scope away.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn remove_attributes(
        &self,
        device: DeviceId,
        scope: &str,
        names: &[&str],
    ) -> Result<AttributesWritten, StorageError> {
        self.rewrite(device, |record| {
            let Some(record) = record else { return AttributesWritten::NoDevice };
            for name in names {
                record.document.remove(scope, name);
            }
            AttributesWritten::Stored
        })
        .await
    }

    /// Forgets a record, whether or not there is a device to it; says whether there was one.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn remove(&self, device: DeviceId) -> Result<bool, StorageError> {
        let write = || async {
            let mut transaction = self.db.begin().await?;
            let before = record::load(&mut transaction, [device]).await?.remove(&device);
            let was_there = before.is_some();
            record::store(&mut transaction, vec![Change { before, after: None }]).await?;
            transaction.commit().await?;
            Ok(was_there)
        };
        self.db.within(repeating_after_deadlock(write)).await
    }

    /// Holds the record of a device, if there is one, and writes what `change` makes of it.
    pub(super) async fn rewrite<T>(
        &self,
        device: DeviceId,
        change: impl Fn(Option<&mut Record>) -> T,
    ) -> Result<T, StorageError> {
        let write = || async {
            let mut transaction = self.db.begin().await?;
            let before = record::load(&mut transaction, [device]).await?.remove(&device);
            let mut after = before.clone();
            let answer = change(after.as_mut());
            record::store(&mut transaction, vec![Change { before, after }]).await?;
            transaction.commit().await?;
            Ok(answer)
        };
        self.db.within(repeating_after_deadlock(write)).await
    }
}

/// Puts attributes into the scopes they name; the scopes.
fn put(record: &mut Record, attributes: Vec<Attribute>) -> Vec<String> {
    let mut scopes: BTreeMap<String, Vec<Attribute>> = BTreeMap::new();
    for attribute in attributes {
        let time = || attribute.value.as_str().and_then(attribute::time).map(attribute::whole_millis);
        match (attribute.scope.as_str(), attribute.name.as_str()) {
            (SYSTEM, "check_in_time") => record.checked_in_at = time().or(record.checked_in_at),
            (SYSTEM, "updated_ts") => record.reported_at = time().or(record.reported_at),
            _ => scopes.entry(attribute.scope.clone()).or_default().push(attribute),
        }
    }
    for (scope, attributes) in &scopes {
        record.document.merge(scope, &document::reported(attributes.clone()));
    }
    scopes.into_keys().collect()
}
