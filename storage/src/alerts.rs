//! What devices' monitoring reports: every alert, and what the alerts of each subject have come to.
//!
//! A subject (a service, a log, a bus) is open from its first alert that is not `OK` until its next that is. How many are
//! open also stands in the device's inventory. [`Alerts::record`] changes all of it in one transaction, together with the
//! events and the background work that follow.

mod details;
mod fold;
mod record;
mod row;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sqlx::QueryBuilder;

use crate::channels::{Channel, Mute};
use crate::database::{
    Database, ROWS_PER_REMOVAL, Transaction, in_transaction, on_reader, on_writer, repeating_after_deadlock,
};
use crate::dialect::without_nul;
use crate::{AlertId, DeviceId, NewEvent, NewJob, StorageError, Timestamp, UserId, inventory};
pub use details::Details;
use row::AlertRow;

/// Alerts kept of one device, beyond which the oldest go; the latest of an open subject stays.
pub const ALERTS_PER_DEVICE: i64 = 10_000;

/// Subjects of one device that may be open at once, and closed ones that are remembered.
pub const SUBJECTS_PER_DEVICE: i64 = 1_000;

/// A device's clock counts if it is not further behind or ahead of ours than this.
const CLOCK_BEHIND: Duration = Duration::from_hours(30 * 24);
const CLOCK_AHEAD: Duration = Duration::from_mins(5);

/// For how long an alert that comes again is known to be the same.
const SAME_ALERT: Duration = Duration::from_hours(24);

/// How bad it is. (Mender API: device monitor, alert level.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlertLevel {
    /// The trouble is over.
    Ok,
    /// Not yet trouble.
    Warning,
    /// Trouble.
    Critical,
    /// Trouble that comes and goes.
    CriticalFlapping,
}

impl AlertLevel {
    /// Every level.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Warning, Self::Critical, Self::CriticalFlapping];

    /// The word on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::CriticalFlapping => "CRITICAL_FLAPPING",
        }
    }

    /// The level a word stands for.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == word)
    }

    /// Larger is worse; flapping is as bad as steady trouble.
    #[must_use]
    pub const fn severity(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical | Self::CriticalFlapping => 2,
        }
    }
}

/// An alert as it is reported.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAlert {
    /// What is the matter, in a few words.
    pub name: String,
    /// How bad it is.
    pub level: AlertLevel,
    /// What kind of thing it is about: `service`, `log`, …
    pub subject_type: String,
    /// Which of them.
    pub subject_name: String,
    /// In which state that is.
    pub status: String,
    /// More about it.
    pub details: Option<Details>,
    /// When it happened, by the clock of whoever reports it.
    pub at: Timestamp,
}

/// What one device reports, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertReport {
    /// Which device.
    pub device: DeviceId,
    /// What is the matter.
    pub alerts: Vec<NewAlert>,
}

/// An alert as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Which.
    pub id: AlertId,
    /// Of which device.
    pub device: DeviceId,
    /// What was reported.
    pub said: NewAlert,
    /// When it arrived.
    pub received: Timestamp,
}

/// What an alert did to its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folded {
    /// It was not open and is now.
    Opened,
    /// It was open and still is.
    StaysOpen,
    /// It was open and is no more.
    Closed,
    /// Nothing: it was an `OK` of what was not open, or older than what is known.
    Nothing,
}

/// An alert that was stored now.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedAlert {
    /// The alert.
    pub alert: Alert,
    /// What it did.
    pub folded: Folded,
    /// Open subjects of its device after it.
    pub open: u64,
}

/// E-mails about one device in one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MailCount {
    /// The hour, counted from the Unix epoch.
    pub hour: i64,
    /// How many.
    pub mails: i64,
}

/// What one call has stored, and what is needed to say what follows from it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recorded {
    /// The alerts that were not known yet, in order.
    pub alerts: Vec<RecordedAlert>,
    /// Channels that are switched on.
    pub channels: Vec<Channel>,
    /// What is muted now.
    pub mutes: Vec<Mute>,
    /// Users with their addresses, if a channel sends to all of them.
    pub users: Vec<(UserId, String)>,
    /// E-mails that were counted last, of each device.
    pub mails: HashMap<DeviceId, MailCount>,
}

/// What follows from alerts, and is written with them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FollowUp {
    /// What listeners are told.
    pub events: Vec<NewEvent>,
    /// What is to be done.
    pub jobs: Vec<NewJob>,
    /// E-mails that are counted now, of devices where that changed.
    pub mails: HashMap<DeviceId, MailCount>,
}

/// Which alerts of a device to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlertFilter {
    /// Issued at this time or later.
    pub issued_after: Option<Timestamp>,
    /// Issued at this time or earlier.
    pub issued_before: Option<Timestamp>,
}

/// Of which subjects the latest alert is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectsOf {
    /// Those that are open.
    Open,
    /// Those whose latest level is at least as bad.
    AtLeast(AlertLevel),
}

/// How many alerts a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlertCounts {
    /// Open subjects.
    pub open: u64,
    /// Alerts kept.
    pub total: u64,
}

/// Adds what a filter asks for to a query of either database.
macro_rules! restrict {
    ($query:ident, $filter:ident) => {
        if let Some(after) = $filter.issued_after {
            $query.push(" AND a.at >= ").push_bind(after);
        }
        if let Some(before) = $filter.issued_before {
            $query.push(" AND a.at <= ").push_bind(before);
        }
    };
}

/// Adds which subjects are meant.
macro_rules! restrict_subjects {
    ($query:ident, $subjects:ident) => {
        match $subjects {
            SubjectsOf::Open => _ = $query.push(" AND s.is_open"),
            SubjectsOf::AtLeast(least) => {
                $query.push(" AND s.level IN (");
                let mut any = $query.separated(", ");
                for level in AlertLevel::ALL.into_iter().filter(|level| level.severity() >= least.severity()) {
                    any.push_bind(level.as_str());
                }
                any.push_unseparated(")");
            }
        }
    };
}

/// All alerts.
#[derive(Debug, Clone)]
pub struct Alerts {
    db: Database,
}

impl Alerts {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Takes in what devices report. An alert that arrived within the last day already changes nothing. `follow` says what
    /// follows from the new ones; it is pure, since it may be asked more than once, and its answer is written in the same
    /// transaction. Returns, for each report, whether its device exists; of one that does not, or is being removed, nothing
    /// is stored.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`: then nothing is stored, as far as is known, and repeating the call is safe.
    pub async fn record(
        &self,
        reports: &[AlertReport],
        now: Timestamp,
        follow: impl Fn(&Recorded) -> FollowUp + Send + Sync,
    ) -> Result<Vec<bool>, StorageError> {
        repeating_after_deadlock(|| self.db.within(Box::pin(record::record(&self.db, reports, now, &follow)))).await
    }

    /// The alert with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: AlertId) -> Result<Option<Alert>, StorageError> {
        let found: Option<AlertRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!("SELECT ", row::alert_columns!(), " FROM alerts a WHERE a.id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?;
        found.map(TryInto::try_into).transpose()
    }

    /// A page of a device's alerts, newest or oldest first by the time they were issued, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(
        &self,
        device: DeviceId,
        filter: AlertFilter,
        oldest_first: bool,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Alert>, u64), StorageError> {
        let order = if oldest_first { " ORDER BY a.at, a.number" } else { " ORDER BY a.at DESC, a.number DESC" };
        let page: Vec<AlertRow> = on_reader!(self.db, |pool| {
            let mut query =
                QueryBuilder::new(concat!("SELECT ", row::alert_columns!(), " FROM alerts a WHERE a.device = "));
            query.push_bind(device);
            restrict!(query, filter);
            query.push(order).push(" LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM alerts a WHERE a.device = ");
            query.push_bind(device);
            restrict!(query, filter);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((row::alerts(page)?, total.unsigned_abs()))
    }

    /// Alerts of a device that arrived in this span, in the order of their arrival.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn arrived(
        &self,
        device: DeviceId,
        from: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> Result<(Vec<Alert>, u64), StorageError> {
        let page: Vec<AlertRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                row::alert_columns!(),
                " FROM alerts a WHERE a.device = $1 AND a.received >= $2 AND a.received < $3 ORDER BY a.number LIMIT $4"
            ))
            .bind(device)
            .bind(from)
            .bind(until)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT COUNT(*) FROM alerts WHERE device = $1 AND received >= $2 AND received < $3")
                .bind(device)
                .bind(from)
                .bind(until)
                .fetch_one(pool)
                .await
        })?;
        Ok((row::alerts(page)?, total.unsigned_abs()))
    }

    /// A page of the latest alert of each of a device's subjects, oldest first, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn latest(
        &self,
        device: DeviceId,
        subjects: SubjectsOf,
        filter: AlertFilter,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Alert>, u64), StorageError> {
        let page: Vec<AlertRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!(
                "SELECT ",
                row::alert_columns!(),
                " FROM alert_subjects s JOIN alerts a ON a.id = s.latest WHERE s.device = "
            ));
            query.push_bind(device);
            restrict_subjects!(query, subjects);
            restrict!(query, filter);
            query.push(" ORDER BY a.at, a.number LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "SELECT COUNT(*) FROM alert_subjects s JOIN alerts a ON a.id = s.latest WHERE s.device = ",
            );
            query.push_bind(device);
            restrict_subjects!(query, subjects);
            restrict!(query, filter);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((row::alerts(page)?, total.unsigned_abs()))
    }

    /// How many alerts a device has.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn counts(&self, device: DeviceId) -> Result<AlertCounts, StorageError> {
        let (open, total): (i64, i64) = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT (SELECT COUNT(*) FROM alert_subjects WHERE device = $1 AND is_open), \
                 (SELECT COUNT(*) FROM alerts WHERE device = $1)",
            )
            .bind(device)
            .fetch_one(pool)
            .await
        })?;
        Ok(AlertCounts { open: open.unsigned_abs(), total: total.unsigned_abs() })
    }

    /// A page of the devices that ever sent an alert, by id.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn devices(&self, offset: u32, limit: u32) -> Result<Vec<DeviceId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT device FROM alert_devices ORDER BY device LIMIT $1 OFFSET $2")
                .bind(i64::from(limit))
                .bind(i64::from(offset))
                .fetch_all(pool)
                .await
        })
    }

    /// The devices, of which each has this subject open, in order of their ids from after one of them.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn devices_with_open(
        &self,
        subject_type: &str,
        subject_name: &str,
        after: Option<DeviceId>,
        limit: u32,
    ) -> Result<Vec<DeviceId>, StorageError> {
        on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT device FROM alert_subjects WHERE is_open AND subject_type = ");
            query.push_bind(without_nul(subject_type));
            query.push(" AND subject_name = ").push_bind(without_nul(subject_name));
            if let Some(after) = after {
                query.push(" AND device > ").push_bind(after);
            }
            query.push(" ORDER BY device LIMIT ").push_bind(i64::from(limit));
            query.build_query_scalar().fetch_all(pool).await
        })
    }

    /// Makes these the checks a device makes: a JSON array. `false` if the device does not exist or is being removed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn set_checks(&self, device: DeviceId, checks: &str, now: Timestamp) -> Result<bool, StorageError> {
        let written = async {
            let mut transaction = self.db.begin().await?;
            let known = record::keep_devices(&self.db, &mut transaction, &[device]).await?;
            if known.is_empty() {
                return Ok(false);
            }
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "INSERT INTO alert_checks (device, checks, updated_at) VALUES ($1, $2, $3) \
                     ON CONFLICT (device) DO UPDATE SET checks = excluded.checks, updated_at = excluded.updated_at",
                )
                .bind(device)
                .bind(without_nul(checks))
                .bind(now)
                .execute(connection)
                .await
                .map(drop)
            })?;
            transaction.commit().await?;
            Ok(true)
        };
        self.db.within(written).await
    }

    /// The checks a device makes: a JSON array; `None` if it never said.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn checks(&self, device: DeviceId) -> Result<Option<String>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT checks FROM alert_checks WHERE device = $1")
                .bind(device)
                .fetch_optional(pool)
                .await
        })
    }

    /// Forgets the alerts and checks of a device.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn forget(&self, device: DeviceId) -> Result<(), StorageError> {
        repeating_after_deadlock(|| {
            self.db.within(async {
                let mut transaction = self.db.begin().await?;
                forget(&mut transaction, device).await?;
                transaction.commit().await
            })
        })
        .await
    }

    /// Forgets the checks of all devices, in slices.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be forgotten then; repeating the call is safe.
    pub async fn forget_checks(&self) -> Result<(), StorageError> {
        loop {
            let slice = repeating_after_deadlock(|| self.forget_slice_of_checks()).await?;
            if slice < u64::from(ROWS_PER_REMOVAL) {
                return Ok(());
            }
        }
    }

    async fn forget_slice_of_checks(&self) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "DELETE FROM alert_checks WHERE device IN (SELECT device FROM alert_checks ORDER BY device LIMIT $1)",
            )
            .bind(i64::from(ROWS_PER_REMOVAL))
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })
    }

    /// Removes alerts that arrived before this time, in slices; says how many. The latest alert of an open subject stays.
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

    async fn expire_slice(&self, before: Timestamp) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "DELETE FROM alerts WHERE id IN (SELECT a.id FROM alerts a WHERE a.received < $1 AND NOT EXISTS \
                 (SELECT 1 FROM alert_subjects s WHERE s.latest = a.id AND s.is_open) ORDER BY a.received LIMIT $2)",
            )
            .bind(before)
            .bind(i64::from(ROWS_PER_REMOVAL))
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })
    }
}

async fn forget(transaction: &mut Transaction, device: DeviceId) -> Result<(), StorageError> {
    // Alerts and subjects go with the row they belong to.
    for table in ["DELETE FROM alert_devices WHERE device = $1", "DELETE FROM alert_checks WHERE device = $1"] {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query(table).bind(device).execute(connection).await.map(drop)
        })?;
    }
    inventory::show_open_alerts(transaction, &BTreeMap::from([(device, None)])).await
}
