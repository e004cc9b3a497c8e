//! Rules by which the hub raises alerts itself, and the facts they look at.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;

use crate::channels::Added;
use crate::database::{Database, on_reader, on_writer};
use crate::dialect::without_nul;
use crate::{AlertLevel, DeviceId, RuleId, StorageError, Timestamp, inventory, units};

/// Rules there may be.
pub const RULES: i64 = 50;

/// The type of the subjects of rules; their name is the rule's.
pub const SUBJECT_TYPE: &str = "mooring.rule";

/// When a rule is broken, and when it is kept again: not at the same point, so that what wavers does not raise an alert
/// each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Condition {
    /// A device has not been connected, nor been heard of.
    Offline {
        /// For this long.
        #[serde(rename = "for", with = "units::duration")]
        lasting: Duration,
        /// It is back once it is connected for this long.
        #[serde(with = "units::duration", default)]
        clear_after: Duration,
    },
    /// An attribute of a device's inventory is a number, or the text of one, beyond a bound.
    Attribute {
        /// Which.
        attribute: String,
        /// On which side of the bound it is wrong.
        comparison: Comparison,
        /// Beyond this it is wrong.
        threshold: f64,
        /// Here, or on the other side, it is right again.
        clear: f64,
    },
}

/// On which side of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Comparison {
    /// More than it.
    Above,
    /// Less than it.
    Below,
}

impl Condition {
    /// Whether a rule about this value is broken from now on; `None`: it is as it was.
    #[must_use]
    pub fn judge(&self, value: f64, was_broken: bool) -> Option<bool> {
        let Self::Attribute { comparison, threshold, clear, .. } = self else { return None };
        let (is_wrong, is_right) = match comparison {
            Comparison::Above => (value > *threshold, value <= *clear),
            Comparison::Below => (value < *threshold, value >= *clear),
        };
        match was_broken {
            false if is_wrong => Some(true),
            true if is_right => Some(false),
            _ => None,
        }
    }

    /// Why this can be no condition; `None` if it can.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Offline { lasting, clear_after } => {
                let most = Duration::from_hours(24 * 365);
                (lasting.is_zero() || *lasting > most || *clear_after > most)
                    .then_some("for must be a duration such as \"10m\", at most a year")
            }
            Self::Attribute { attribute, comparison, threshold, clear } => {
                if attribute.is_empty() || attribute.len() > 1024 {
                    return Some("attribute must be 1 to 1024 bytes long");
                }
                let is_between = match comparison {
                    Comparison::Above => clear <= threshold,
                    Comparison::Below => clear >= threshold,
                };
                (!threshold.is_finite() || !clear.is_finite() || !is_between)
                    .then_some("clear must not be beyond threshold")
            }
        }
    }
}

/// Whether a rule is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleState {
    /// It is.
    Active,
    /// It is not: what it had opened is closed.
    Disabled,
    /// The same, and then it goes.
    Removing,
}

impl RuleState {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Removing => "removing",
        }
    }

    fn named(word: &str) -> Option<Self> {
        [Self::Active, Self::Disabled, Self::Removing].into_iter().find(|state| state.as_str() == word)
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertRule {
    /// Which.
    pub id: RuleId,
    /// What it is called, and its alerts and their subject; unique.
    pub name: String,
    /// Whether it is looked at.
    pub state: RuleState,
    /// How bad it is to break it.
    pub level: AlertLevel,
    /// When it is broken.
    pub condition: Condition,
    /// Up to when reports were looked at.
    pub evaluated: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// The columns of a [`RuleRow`].
macro_rules! rule_columns {
    () => {
        "id, name, state, level, condition, evaluated, created_at, updated_at"
    };
}

/// All rules.
#[derive(Debug, Clone)]
pub struct AlertRules {
    db: Database,
}

impl AlertRules {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Adds a rule, to be looked at from now on.
    ///
    /// # Errors
    /// `Conflict("name")`, `Unavailable`, `Other`.
    pub async fn add(&self, rule: &AlertRule) -> Result<Added, StorageError> {
        let condition = condition_text(rule)?;
        let added = on_writer!(self.db, |pool| {
            sqlx::query(
                "INSERT INTO alert_rules (id, name, state, level, condition, due_at, created_at, updated_at) \
                 SELECT $1, $2, $3, $4, $5, $6, $6, $6 WHERE (SELECT COUNT(*) FROM alert_rules) < $7",
            )
            .bind(rule.id)
            .bind(without_nul(&rule.name))
            .bind(rule.state.as_str())
            .bind(rule.level.as_str())
            .bind(condition)
            .bind(rule.created)
            .bind(RULES)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        });
        Ok(if by_name(added)? > 0 { Added::Added } else { Added::TooMany })
    }

    /// Every rule that is not being removed, by name.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(&self) -> Result<Vec<AlertRule>, StorageError> {
        let rows: Vec<RuleRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                rule_columns!(),
                " FROM alert_rules WHERE state <> 'removing' ORDER BY name"
            ))
            .fetch_all(pool)
            .await
        })?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    /// The rule with this id, unless it is being removed.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: RuleId) -> Result<Option<AlertRule>, StorageError> {
        let row: Option<RuleRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                rule_columns!(),
                " FROM alert_rules WHERE id = $1 AND state <> 'removing'"
            ))
            .bind(id)
            .fetch_optional(pool)
            .await
        })?;
        row.map(TryInto::try_into).transpose()
    }

    /// Writes the state, level and condition of a rule, which is looked at anew, whole. `false` if there is none, or it is
    /// not any more as it was read.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn update(&self, rule: &AlertRule, now: Timestamp) -> Result<bool, StorageError> {
        let condition = condition_text(rule)?;
        let written = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE alert_rules SET state = $2, level = $3, condition = $4, due_at = $5, evaluated = NULL, \
                 updated_at = $6 WHERE id = $1 AND updated_at = $7 AND state <> 'removing'",
            )
            .bind(rule.id)
            .bind(rule.state.as_str())
            .bind(rule.level.as_str())
            .bind(condition)
            .bind(now)
            .bind(now.after(rule.updated))
            .bind(rule.updated)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        Ok(written > 0)
    }

    /// Has a rule removed, once it has closed what it had opened. `false` if there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove(&self, id: RuleId, now: Timestamp) -> Result<bool, StorageError> {
        let written = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE alert_rules SET state = 'removing', due_at = $2, \
                 updated_at = CASE WHEN updated_at < $2 THEN $2 ELSE updated_at + 1 END \
                 WHERE id = $1 AND state <> 'removing'",
            )
            .bind(id)
            .bind(now)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        Ok(written > 0)
    }

    /// Takes the rule that is due for longest, for whoever asks first, and makes it due again at `next`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn take_due(&self, now: Timestamp, next: Timestamp) -> Result<Option<AlertRule>, StorageError> {
        let skip_locked = self.db.skip_locked();
        let row: Option<RuleRow> = on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new("WITH due AS MATERIALIZED (SELECT id FROM alert_rules WHERE due_at <= ");
            query.push_bind(now).push(" ORDER BY due_at, id LIMIT 1").push(skip_locked);
            query.push(") UPDATE alert_rules SET due_at = ").push_bind(next);
            query.push(concat!(" WHERE id IN (SELECT id FROM due) RETURNING ", rule_columns!()));
            query.build_query_as().fetch_optional(pool).await
        })?;
        row.map(TryInto::try_into).transpose()
    }

    /// Keeps a rule that was taken from others until `next`. `false`: it is not any more as it was, or it is gone.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn hold(&self, rule: &AlertRule, next: Timestamp) -> Result<bool, StorageError> {
        let held = on_writer!(self.db, |pool| {
            sqlx::query("UPDATE alert_rules SET due_at = $4 WHERE id = $1 AND updated_at = $2 AND state = $3")
                .bind(rule.id)
                .bind(rule.updated)
                .bind(rule.state.as_str())
                .bind(next)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok(held > 0)
    }

    /// Reports up to `until` were looked at for this rule as it was then.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn note_evaluated(&self, rule: &AlertRule, until: Timestamp) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query("UPDATE alert_rules SET evaluated = $3 WHERE id = $1 AND updated_at = $2")
                .bind(rule.id)
                .bind(rule.updated)
                .bind(until)
                .execute(pool)
                .await
                .map(drop)
        })
    }

    /// A rule that is switched off, or to be removed, has closed what it had opened.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn settle(&self, rule: &AlertRule) -> Result<(), StorageError> {
        let statement = match rule.state {
            RuleState::Active => return Ok(()),
            RuleState::Disabled => "UPDATE alert_rules SET due_at = NULL WHERE id = $1 AND updated_at = $2",
            RuleState::Removing => "DELETE FROM alert_rules WHERE id = $1 AND updated_at = $2",
        };
        on_writer!(self.db, |pool| {
            sqlx::query(statement).bind(rule.id).bind(rule.updated).execute(pool).await.map(drop)
        })
    }

    /// Accepted devices that were neither connected nor heard of since `since`, and of which this rule's subject is not
    /// open; in order of their ids from after one of them.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn offline_since(
        &self,
        rule: &AlertRule,
        since: Timestamp,
        after: Option<DeviceId>,
        limit: u32,
    ) -> Result<Vec<DeviceId>, StorageError> {
        on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "SELECT c.device FROM connections c JOIN devices d ON d.id = c.device \
                 WHERE d.status = 'accepted' AND NOT d.decommissioning AND NOT c.connected AND c.updated_at <= ",
            );
            query.push_bind(since).push(" AND (d.checked_in_at IS NULL OR d.checked_in_at <= ").push_bind(since);
            query.push(
                ") AND NOT EXISTS (SELECT 1 FROM alert_subjects s WHERE s.device = c.device AND s.is_open \
                 AND s.subject_type = ",
            );
            query.push_bind(SUBJECT_TYPE).push(" AND s.subject_name = ").push_bind(rule.name.as_str()).push(")");
            if let Some(after) = after {
                query.push(" AND c.device > ").push_bind(after);
            }
            query.push(" ORDER BY c.device LIMIT ").push_bind(i64::from(limit));
            query.build_query_scalar().fetch_all(pool).await
        })
    }

    /// Devices of which this rule's subject is open and that are back: connected since `connected_since`, or, if they have
    /// not connected since the alert, heard of after it and after `heard_after`. In order of their ids from after one.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn back_since(
        &self,
        rule: &AlertRule,
        connected_since: Timestamp,
        heard_after: Timestamp,
        after: Option<DeviceId>,
        limit: u32,
    ) -> Result<Vec<DeviceId>, StorageError> {
        on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "SELECT s.device FROM alert_subjects s JOIN devices d ON d.id = s.device \
                 LEFT JOIN connections c ON c.device = s.device WHERE s.is_open AND s.subject_type = ",
            );
            query.push_bind(SUBJECT_TYPE).push(" AND s.subject_name = ").push_bind(rule.name.as_str());
            query.push(" AND ((c.connected AND c.updated_at <= ").push_bind(connected_since);
            query.push(
                ") OR ((c.device IS NULL OR (NOT c.connected AND c.updated_at <= s.at)) AND d.checked_in_at > s.at \
                 AND d.checked_in_at > ",
            );
            query.push_bind(heard_after).push("))");
            if let Some(after) = after {
                query.push(" AND s.device > ").push_bind(after);
            }
            query.push(" ORDER BY s.device LIMIT ").push_bind(i64::from(limit));
            query.build_query_scalar().fetch_all(pool).await
        })
    }

    /// The numbers that devices report under a name, of devices that reported since a time or, without one, of all; in
    /// order of their ids from after one of them. `None` for a device that reports no number there.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn numbers(
        &self,
        attribute: &str,
        since: Option<Timestamp>,
        after: Option<DeviceId>,
        limit: u32,
    ) -> Result<Vec<(DeviceId, Option<f64>)>, StorageError> {
        inventory::reported_numbers(&self.db, attribute, since, after, limit).await
    }

    /// Which of these devices have this rule's subject open.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn broken_by(&self, rule: &AlertRule, devices: &[DeviceId]) -> Result<HashSet<DeviceId>, StorageError> {
        if devices.is_empty() {
            return Ok(HashSet::new());
        }
        let found: Vec<DeviceId> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT device FROM alert_subjects WHERE is_open AND subject_type = ");
            query.push_bind(SUBJECT_TYPE).push(" AND subject_name = ").push_bind(rule.name.as_str());
            query.push(" AND device IN (");
            let mut any = query.separated(", ");
            for device in devices {
                any.push_bind(*device);
            }
            any.push_unseparated(")");
            query.build_query_scalar().fetch_all(pool).await
        })?;
        Ok(found.into_iter().collect())
    }
}

fn by_name<T>(written: Result<T, StorageError>) -> Result<T, StorageError> {
    written.map_err(|error| match error {
        StorageError::Conflict(_) => StorageError::Conflict("name"),
        other => other,
    })
}

fn condition_text(rule: &AlertRule) -> Result<String, StorageError> {
    let text = serde_json::to_string(&rule.condition)
        .map_err(|error| StorageError::other("cannot store the condition of a rule", error))?;
    Ok(without_nul(&text).into_owned())
}

/// A rule as the database returns it.
#[derive(sqlx::FromRow)]
struct RuleRow {
    id: RuleId,
    name: String,
    state: String,
    level: String,
    condition: String,
    evaluated: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl TryFrom<RuleRow> for AlertRule {
    type Error = StorageError;

    fn try_from(row: RuleRow) -> Result<Self, StorageError> {
        let corrupt = |what| StorageError::Corrupt(format!("{what} of rule {}", row.id));
        Ok(Self {
            state: RuleState::named(&row.state).ok_or_else(|| corrupt("state"))?,
            level: AlertLevel::named(&row.level).ok_or_else(|| corrupt("level"))?,
            condition: serde_json::from_str(&row.condition).map_err(|_| corrupt("condition"))?,
            id: row.id,
            name: row.name,
            evaluated: row.evaluated,
            created: row.created_at,
            updated: row.updated_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(comparison: Comparison, threshold: f64, clear: f64) -> Condition {
        Condition::Attribute { attribute: "temperature".to_owned(), comparison, threshold, clear }
    }

    #[test]
    fn what_wavers_between_the_bounds_stays_as_it_was() {
        let above = attribute(Comparison::Above, 80.0, 70.0);
        let mut broken = false;
        let mut story = vec![];
        for value in [75.0, 80.0, 80.5, 79.0, 81.0, 70.1, 70.0, 75.0, 90.0] {
            if let Some(now) = above.judge(value, broken) {
                broken = now;
                story.push((value, now));
            }
        }
        assert_eq!(story, [(80.5, true), (70.0, false), (90.0, true)]);
        let below = attribute(Comparison::Below, 10.0, 20.0);
        assert_eq!(
            (below.judge(9.0, false), below.judge(15.0, true), below.judge(20.0, true)),
            (Some(true), None, Some(false))
        );
    }

    #[test]
    fn conditions_that_make_no_sense_are_told() {
        assert_eq!(attribute(Comparison::Above, 80.0, 80.0).fault(), None);
        assert!(attribute(Comparison::Above, 80.0, 81.0).fault().is_some());
        assert!(attribute(Comparison::Below, 80.0, 79.0).fault().is_some());
        assert!(attribute(Comparison::Above, f64::NAN, 1.0).fault().is_some());
        assert!(Condition::Offline { lasting: Duration::ZERO, clear_after: Duration::ZERO }.fault().is_some());
        let read: Condition = serde_json::from_str(r#"{"kind":"offline","for":"10m"}"#).expect("a condition");
        assert_eq!(read, Condition::Offline { lasting: Duration::from_mins(10), clear_after: Duration::ZERO });
        assert!(serde_json::from_str::<Condition>(r#"{"kind":"online","for":"10m"}"#).is_err());
    }
}
