//! Devices, the keys they ask to join with, their tokens, and how many may be accepted.
//!
//! [`Devices::change`] is the only way to alter a device: whoever calls it brings a pure decision, and everything the
//! decision says (sets, tokens, the counts, what inventory shows of it) is written together or not at all.

use std::collections::HashMap;
use std::str::FromStr;

use sqlx::QueryBuilder;

use crate::database::{Database, ROWS_PER_STATEMENT, in_transaction, on_reader, on_writer, repeating_after_deadlock};
use crate::rows::{BulkStatement, Rows};
use crate::{AuthSetId, DeviceId, StorageError, Timestamp, dialect, inventory};

mod change;
mod repair;
mod row;

pub use repair::Repaired;

use row::DeviceRow;

/// Where one key of a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SetStatus {
    /// Nobody has decided yet.
    Pending,
    /// May join. At most one set of a device is.
    Accepted,
    /// May not join, however often it asks.
    Rejected,
    /// Will be accepted when it first asks.
    Preauthorized,
}

impl SetStatus {
    /// The word on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Preauthorized => "preauthorized",
        }
    }
}

/// Where a device stands: what the strongest of its sets says, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceStatus {
    /// A set is accepted.
    Accepted,
    /// A set is preauthorized.
    Preauthorized,
    /// A set waits for a decision.
    Pending,
    /// Every set was rejected.
    Rejected,
    /// It has no sets.
    NoAuth,
}

impl DeviceStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Accepted, Self::Preauthorized, Self::Pending, Self::Rejected, Self::NoAuth];

    /// The word on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Preauthorized => "preauthorized",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::NoAuth => "noauth",
        }
    }
}

impl From<SetStatus> for DeviceStatus {
    fn from(status: SetStatus) -> Self {
        match status {
            SetStatus::Accepted => Self::Accepted,
            SetStatus::Preauthorized => Self::Preauthorized,
            SetStatus::Pending => Self::Pending,
            SetStatus::Rejected => Self::Rejected,
        }
    }
}

/// The text is not one of the words for a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown status")]
pub struct UnknownStatus;

impl FromStr for SetStatus {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        let all = [Self::Pending, Self::Accepted, Self::Rejected, Self::Preauthorized];
        all.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus)
    }
}

impl FromStr for DeviceStatus {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus)
    }
}

impl std::fmt::Display for SetStatus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::fmt::Display for DeviceStatus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A key with which a device has asked to join, and what was decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSet {
    /// Its id, also the `jti` of tokens issued for it.
    pub id: AuthSetId,
    /// The public key, normalised PEM.
    pub pubkey: String,
    /// What was decided.
    pub status: SetStatus,
    /// When it was first seen.
    pub created: Timestamp,
}

/// A device with all its sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its identity: the canonical text of a JSON object.
    pub identity: String,
    /// SHA-256 of that text; no other device has it.
    pub identity_hash: [u8; 32],
    /// Whether it is being removed.
    pub decommissioning: bool,
    /// When it was first seen.
    pub created: Timestamp,
    /// When it last changed; check-ins are no change.
    pub updated: Timestamp,
    /// When it last proved who it is.
    pub checked_in: Option<Timestamp>,
    /// Counts its changes, from 1. Storage counts; what a decision puts here is ignored.
    pub revision: i64,
    /// Its sets, oldest first.
    pub auth_sets: Vec<AuthSet>,
}

impl Device {
    /// Where it stands: the strongest of its sets.
    #[must_use]
    pub fn status(&self) -> DeviceStatus {
        self.auth_sets.iter().map(|set| DeviceStatus::from(set.status)).min().unwrap_or(DeviceStatus::NoAuth)
    }
}

/// Which device to change.
#[derive(Debug, Clone, Copy)]
pub enum DeviceKey<'a> {
    /// The one with this id. If there is none, the decision is asked about nothing.
    Id(DeviceId),
    /// The one with this identity (SHA-256 of its canonical text), which may not exist yet.
    Identity(&'a [u8; 32]),
}

/// What a decision may need to know of all the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fleet {
    /// How many devices are accepted.
    pub accepted: u64,
    /// How many may be; `None`: any number.
    pub limit: Option<u64>,
    /// How many wait for a decision.
    pub pending: u64,
}

/// What a decision came to.
#[derive(Debug)]
pub enum Decision<T> {
    /// Nothing is to be written.
    Keep(T),
    /// This is to be written.
    Write(DeviceChange, T),
}

/// What a decision wants written, everything in one transaction.
#[derive(Debug)]
pub struct DeviceChange {
    /// The device as it shall be; `None` removes it with sets, tokens, inventory and connection.
    pub after: Option<Device>,
    /// Sets whose tokens end, for good if they were issued until `after.updated`. Those of sets that are no longer there end
    /// anyway.
    pub revoked: Vec<AuthSetId>,
    /// A token that was issued; it replaces the one its set had.
    pub issued: Option<IssuedToken>,
}

/// A token given to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuedToken {
    /// For which set.
    pub auth_set: AuthSetId,
    /// Until when.
    pub expires: Timestamp,
}

/// A stored token with what makes it valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceToken {
    /// The device it stands for.
    pub device: DeviceId,
    /// The set it was issued for.
    pub auth_set: AuthSetId,
    /// When it ends.
    pub expires: Timestamp,
    /// Where its set stands now.
    pub set_status: SetStatus,
    /// Whether its device is being removed.
    pub decommissioning: bool,
    /// Tokens of the set that were issued before this are void; one issued now has to say that it was issued then or later.
    /// In whole seconds, as tokens count.
    pub valid_from: Timestamp,
}

/// Which devices to list; an empty list asks for no filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    /// Any of these.
    pub statuses: Vec<DeviceStatus>,
    /// Any of these.
    pub ids: Vec<DeviceId>,
}

/// All devices.
#[derive(Debug, Clone)]
pub struct Devices {
    db: Database,
}

impl Devices {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Loads a device, lets `decide` say what changes, and writes that, all or nothing.
    ///
    /// Changes of one device or identity wait for one another, on all nodes: of two first requests the second finds
    /// what the first one made. `decide` has to be pure and quick, and may be asked twice. The [`Fleet`] it is shown is
    /// exact (no other change that is held to a limit can move it) where it matters: if a limit is set and the device is
    /// not accepted; so a limit holds across devices. Otherwise it may be a moment old. About a new device it is asked
    /// first as if all that can be on their way in were there, and again with the exact counts if it writes nothing then.
    ///
    /// Along with the device this keeps the counts, what inventory shows of it (scope `identity`, and `created_ts` in
    /// scope `system`), and, when it becomes accepted, its first connection row.
    ///
    /// # Errors
    /// `Conflict` if the decision contradicts what is stored (two sets with one key, two accepted sets, a device whose
    /// identity is not the one asked about); `Unavailable`, `Corrupt`, `Other`. Nothing is written then.
    pub async fn change<T>(
        &self,
        key: DeviceKey<'_>,
        decide: impl FnMut(Option<&Device>, &Fleet) -> Decision<T> + Send,
    ) -> Result<T, StorageError> {
        // Boxed, because it is large (both databases' transactions) and would be part of every caller's future.
        self.db.within(Box::pin(change::change(&self.db, key, decide))).await
    }

    /// The device with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: DeviceId) -> Result<Option<Device>, StorageError> {
        let rows: Vec<DeviceRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(row::select_device!("d.id = $1")).bind(id).fetch_all(pool).await
        })?;
        row::one_device(rows)
    }

    /// The devices a filter asks for, ordered by status (as text) and id (as the management API pages them).
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(&self, filter: &DeviceFilter, offset: u32, limit: u32) -> Result<Vec<Device>, StorageError> {
        let rows: Vec<DeviceRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(row::PAGE_START);
            if !filter.statuses.is_empty() {
                let mut any = query.push(" AND status IN (").separated(", ");
                for status in &filter.statuses {
                    any.push_bind(status.as_str());
                }
                any.push_unseparated(")");
            }
            if !filter.ids.is_empty() {
                let mut any = query.push(" AND id IN (").separated(", ");
                for id in &filter.ids {
                    any.push_bind(*id);
                }
                any.push_unseparated(")");
            }
            query.push(" ORDER BY status, id LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset)).push(row::PAGE_END);
            query.build_query_as().persistent(filter.ids.len() <= 1).fetch_all(pool).await
        })?;
        row::devices(rows)
    }

    /// How many devices have this status, or how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn count(&self, status: Option<DeviceStatus>) -> Result<u64, StorageError> {
        let fleet: row::FleetRow =
            on_reader!(self.db, |pool| { sqlx::query_as(row::SELECT_FLEET).fetch_one(pool).await })?;
        Ok(match status {
            Some(status) => fleet.count(status),
            None => DeviceStatus::ALL.into_iter().map(|status| fleet.count(status)).sum(),
        })
    }

    /// The stored token of a set, with what decides whether it is valid.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn token(&self, set: AuthSetId) -> Result<Option<DeviceToken>, StorageError> {
        let found: Option<row::TokenRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(row::select_token!("= $1")).bind(set).fetch_optional(pool).await
        })?;
        found.map(TryInto::try_into).transpose()
    }

    /// The stored tokens of these sets, of those that have one, in no order.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn tokens(&self, sets: &[AuthSetId]) -> Result<Vec<DeviceToken>, StorageError> {
        let mut tokens = Vec::with_capacity(sets.len());
        for sets in sets.chunks(ROWS_PER_STATEMENT) {
            let given = Rows::of(sets).id(|set| set.uuid());
            let found: Vec<row::TokenRow> = on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new(row::select_token!("IN (SELECT column1 FROM "));
                query.push_rows(&given);
                query.push(")");
                let recurs = query.recurs(&given);
                query.build_query_as().persistent(recurs).fetch_all(pool).await
            })?;
            for row in found {
                tokens.push(row.try_into()?);
            }
        }
        Ok(tokens)
    }

    /// Which of these connections may not stand: device, set they were opened with, and when. A token that has run out
    /// since is no reason, only what was withdrawn.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn withdrawn(
        &self,
        connections: &[(DeviceId, AuthSetId, Timestamp)],
    ) -> Result<Vec<DeviceId>, StorageError> {
        let mut withdrawn = Vec::new();
        for connections in connections.chunks(ROWS_PER_STATEMENT) {
            let standing: Vec<(AuthSetId, DeviceId, Timestamp)> = on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new(
                    "SELECT s.id, s.device, s.tokens_from FROM auth_sets s JOIN devices d ON d.id = s.device \
                     WHERE s.status = ",
                );
                query.push_bind(SetStatus::Accepted.as_str()).push(" AND NOT d.decommissioning AND s.id IN (");
                let mut sets = query.separated(", ");
                for (_, set, _) in connections {
                    sets.push_bind(*set);
                }
                query.push(")");
                query.build_query_as().persistent(false).fetch_all(pool).await
            })?;
            let standing: HashMap<AuthSetId, (DeviceId, Timestamp)> =
                standing.into_iter().map(|(set, device, from)| (set, (device, from))).collect();
            withdrawn.extend(connections.iter().filter_map(|(device, set, since)| {
                let stands = standing.get(set).is_some_and(|(owner, from)| owner == device && from <= since);
                (!stands).then_some(*device)
            }));
        }
        Ok(withdrawn)
    }

    /// The device a set belongs to.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn owner(&self, set: AuthSetId) -> Result<Option<DeviceId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT device FROM auth_sets WHERE id = $1").bind(set).fetch_optional(pool).await
        })
    }

    /// Ends the tokens of a set; says whether there was one. The set stays as it is. Tokens issued until `now` stay void
    /// when the set gets another.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn revoke_token(&self, set: AuthSetId, now: Timestamp) -> Result<bool, StorageError> {
        let revoked = async {
            let mut transaction = self.db.begin().await?;
            let was_there = change::revoke(&mut transaction, set, now).await?;
            transaction.commit().await?;
            Ok(was_there)
        };
        self.db.within(revoked).await
    }

    /// Removes tokens that expired before `now`; says how many.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove_expired_tokens(&self, now: Timestamp) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM device_tokens WHERE expires_at < $1")
                .bind(now)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })
    }

    /// Writes down when devices last proved who they are, thousands at a time. A later time that is stored stays;
    /// unknown devices are passed over. No change in the sense of `updated` and `revision`.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be written then; repeating the call is safe.
    pub async fn record_check_ins(&self, check_ins: &[(DeviceId, Timestamp)]) -> Result<(), StorageError> {
        let mut latest: HashMap<DeviceId, Timestamp> = HashMap::with_capacity(check_ins.len());
        for &(device, at) in check_ins {
            latest.entry(device).and_modify(|known| *known = at.max(*known)).or_insert(at);
        }
        let mut rows: Vec<(DeviceId, Timestamp)> = latest.into_iter().collect();
        rows.sort_unstable();
        for rows in rows.chunks(ROWS_PER_STATEMENT) {
            repeating_after_deadlock(|| self.record_check_in_rows(rows)).await?;
        }
        Ok(())
    }

    async fn record_check_in_rows(&self, rows: &[(DeviceId, Timestamp)]) -> Result<(), StorageError> {
        self.db.within(self.record_check_ins_at_once(rows)).await
    }

    async fn record_check_ins_at_once(&self, rows: &[(DeviceId, Timestamp)]) -> Result<(), StorageError> {
        let mut transaction = self.db.begin().await?;
        let given = Rows::of(rows).id(|(device, _)| device.uuid()).number(|(_, at)| at.0);
        transaction.hold_rows(dialect::HOLD_DEVICES, rows.iter().map(|(device, _)| *device)).await?;
        in_transaction!(&mut transaction, |connection| {
            let mut query = QueryBuilder::new("UPDATE devices SET checked_in_at = column2 FROM ");
            query.push_rows(&given);
            query.push(" WHERE id = column1 AND (checked_in_at IS NULL OR checked_in_at < column2)");
            let recurs = query.recurs(&given);
            query.build().persistent(recurs).execute(connection).await.map(drop)
        })?;
        inventory::show_check_ins(&mut transaction, rows).await?;
        transaction.commit().await
    }

    /// How many devices may be accepted; `None`: any number.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn limit(&self) -> Result<Option<u64>, StorageError> {
        let limit: Option<i64> =
            on_reader!(self.db, |pool| { sqlx::query_scalar("SELECT device_limit FROM fleet").fetch_one(pool).await })?;
        Ok(limit.map(i64::unsigned_abs))
    }

    /// Sets how many devices may be accepted. Those that are stay so.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn set_limit(&self, limit: Option<u64>) -> Result<(), StorageError> {
        self.write_limit(limit, limit.is_some()).await
    }

    /// Sets the limit that the settings of a starting hub name. Settings without one lift what earlier settings said, and
    /// leave alone what was set by [`Self::set_limit`].
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn apply_configured_limit(&self, limit: Option<u64>) -> Result<(), StorageError> {
        if limit.is_some() {
            return self.write_limit(limit, false).await;
        }
        on_writer!(self.db, |pool| {
            sqlx::query("UPDATE fleet SET device_limit = NULL WHERE NOT limit_from_outside")
                .execute(pool)
                .await
                .map(drop)
        })
    }

    async fn write_limit(&self, limit: Option<u64>, from_outside: bool) -> Result<(), StorageError> {
        let limit = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        on_writer!(self.db, |pool| {
            sqlx::query("UPDATE fleet SET device_limit = $1, limit_from_outside = $2")
                .bind(limit)
                .bind(from_outside)
                .execute(pool)
                .await
                .map(drop)
        })
    }

    /// The devices that are being removed, in order of their ids: what a hub that was stopped half-way has to finish.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn decommissioning(&self) -> Result<Vec<DeviceId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT id FROM devices WHERE decommissioning ORDER BY id").fetch_all(pool).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(statuses: &[SetStatus]) -> Device {
        let set = |&status| AuthSet { id: AuthSetId::random(), pubkey: String::new(), status, created: Timestamp(0) };
        Device {
            id: DeviceId::random(),
            identity: "{}".to_owned(),
            identity_hash: [0; 32],
            decommissioning: false,
            created: Timestamp(0),
            updated: Timestamp(0),
            checked_in: None,
            revision: 1,
            auth_sets: statuses.iter().map(set).collect(),
        }
    }

    #[test]
    fn the_strongest_set_decides_where_a_device_stands() {
        use SetStatus::{Accepted, Pending, Preauthorized, Rejected};
        assert_eq!(device(&[]).status(), DeviceStatus::NoAuth);
        assert_eq!(device(&[Rejected, Rejected]).status(), DeviceStatus::Rejected);
        assert_eq!(device(&[Rejected, Pending]).status(), DeviceStatus::Pending);
        assert_eq!(device(&[Preauthorized, Pending, Preauthorized]).status(), DeviceStatus::Preauthorized);
        assert_eq!(device(&[Preauthorized, Accepted, Rejected]).status(), DeviceStatus::Accepted);
    }

    #[test]
    fn words_for_statuses_can_be_read_back() {
        for status in DeviceStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!("Accepted".parse::<DeviceStatus>(), Err(UnknownStatus));
        assert_eq!("noauth".parse::<SetStatus>(), Err(UnknownStatus));
    }
}
