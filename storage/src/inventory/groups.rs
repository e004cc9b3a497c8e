//! Groups of devices: attribute `group` in scope `system`. A device is in one group at most, and a group is there while it
//! has a member.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::document::Entry;
use super::filter::{Condition, Filter};
use super::record::{self, Change};
use super::search::{Question, Search};
use super::{Inventory, SYSTEM};
use crate::database::{on_reader, repeating_after_deadlock};
use crate::dialect::may_be_kept;
use crate::{DeviceId, StorageError};

/// Devices moved in one transaction.
const AT_ONCE: usize = 500;

/// What a change of many devices came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Devices it was about.
    pub matched: u64,
    /// Devices it changed.
    pub updated: u64,
}

impl Inventory {
    /// The group of a device: `None` for a device that is not known.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn group_of(&self, device: DeviceId) -> Result<Option<Option<String>>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT group_name FROM inventory WHERE device = $1")
                .bind(device)
                .fetch_optional(pool)
                .await
        })
    }

    /// Puts devices into a group; they leave the ones they are in. Unknown ones are passed over.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. Some may have moved then; repeating the call is safe.
    pub async fn join_group(&self, devices: &[DeviceId], group: &str) -> Result<Moved, StorageError> {
        let members = BTreeMap::from([("group".to_owned(), Entry::new(Value::String(group.to_owned())))]);
        self.move_all(devices, |record| {
            record.document.merge(SYSTEM, &members);
            true
        })
        .await
    }

    /// Takes devices out of a group. Those that are not in it are passed over.
    ///
    /// # Errors
    /// As [`Self::join_group`].
    pub async fn leave_group(&self, devices: &[DeviceId], group: &str) -> Result<Moved, StorageError> {
        self.move_all(devices, |record| {
            record.document.text(SYSTEM, "group") == Some(group) && record.document.remove(SYSTEM, "group")
        })
        .await
    }

    /// Takes every device out of a group; a device that has moved to another one meanwhile stays there.
    ///
    /// # Errors
    /// As [`Self::join_group`].
    pub async fn dissolve_group(&self, group: &str) -> Result<Moved, StorageError> {
        let mut moved = Moved::default();
        if !may_be_kept(group) {
            return Ok(moved);
        }
        loop {
            let members: Vec<DeviceId> = on_reader!(self.db, |pool| {
                sqlx::query_scalar("SELECT device FROM inventory WHERE group_name = $1 ORDER BY device LIMIT $2")
                    .bind(group)
                    .bind(i64::try_from(AT_ONCE).unwrap_or(i64::MAX))
                    .fetch_all(pool)
                    .await
            })?;
            if members.is_empty() {
                return Ok(moved);
            }
            let left = self.leave_group(&members, group).await?;
            moved.matched += left.matched;
            moved.updated += left.updated;
        }
    }

    /// The names of all groups, or of those with a member of this status, in order.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn groups(&self, status: Option<&str>) -> Result<Vec<String>, StorageError> {
        if status.is_some_and(|status| !may_be_kept(status)) {
            return Ok(Vec::new());
        }
        on_reader!(self.db, |pool| {
            sqlx::query_scalar(
                "SELECT DISTINCT group_name FROM inventory_counts WHERE group_name <> '' AND devices > 0 \
                 AND (status = $1 OR $1 IS NULL) ORDER BY group_name",
            )
            .bind(status)
            .fetch_all(pool)
            .await
        })
    }

    /// The ids of a group's members in order, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Other`, `TooExpensive`.
    pub async fn members(&self, group: &str, offset: u64, limit: u32) -> Result<(Vec<DeviceId>, u64), StorageError> {
        let filter = Filter::new(vec![Condition::equals(SYSTEM, "group", group)]).unwrap_or_default();
        let search = Search { filter, offset, limit, ..Search::default() };
        let asked = async {
            let mut reading = self.db.begin_reading(self.search_limit).await?;
            let question = Question::ask(&search, &mut reading, self.search_limit).await?;
            let page = question.ids(&mut reading).await?;
            reading.transaction.commit().await?;
            Ok(page)
        };
        self.db.within(asked).await
    }

    /// Whether each of these devices is in one of these groups.
    ///
    /// # Errors
    /// `Unavailable`, `Other`, `TooExpensive`.
    pub async fn are_all_in(&self, devices: &[DeviceId], groups: Vec<String>) -> Result<bool, StorageError> {
        let filter = Filter::new(vec![Condition::one_of(SYSTEM, "group", groups)]).unwrap_or_default();
        let search = Search { filter, devices: Some(devices.to_vec()), ..Search::default() };
        let distinct: BTreeSet<&DeviceId> = devices.iter().collect();
        Ok(self.search(&search).await?.total == u64::try_from(distinct.len()).unwrap_or(u64::MAX))
    }

    /// Changes devices some at a time; `change` says whether a device is meant.
    async fn move_all(
        &self,
        devices: &[DeviceId],
        change: impl Fn(&mut record::Record) -> bool,
    ) -> Result<Moved, StorageError> {
        let mut moved = Moved::default();
        for devices in devices.chunks(AT_ONCE) {
            let write = || async {
                let mut transaction = self.db.begin().await?;
                let held = record::load(&mut transaction, devices.iter().copied()).await?;
                let (mut matched, mut changes) = (0, Vec::new());
                for before in held.into_values() {
                    let mut after = before.clone();
                    matched += u64::from(change(&mut after));
                    if before != after {
                        changes.push(Change { before: Some(before), after: Some(after) });
                    }
                }
                let updated = u64::try_from(changes.len()).unwrap_or(u64::MAX);
                record::store(&mut transaction, changes).await?;
                transaction.commit().await?;
                Ok(Moved { matched, updated })
            };
            let some = self.db.within(repeating_after_deadlock(write)).await?;
            moved.matched += some.matched;
            moved.updated += some.updated;
        }
        Ok(moved)
    }
}
