//! Deployments that are paused: by an operator, or by themselves when too much goes wrong.
//!
//! A deployment that is paused tells no device anything new; devices that are at it go on, and phases stay as they are. Who
//! resumes it has seen what went wrong until then: the limits apply to what comes after.

use serde::{Deserialize, Serialize};

use super::phases::{Told, phase_name};
use super::status::{Counts, DeviceState};
use super::{Deployments, happening};
use crate::database::{Transaction, in_transaction};
use crate::{DeploymentId, StorageError, Timestamp, events};

/// What pauses a deployment by itself: as soon as there is more than a limit allows. Failures, alerts and absences are those
/// of the devices of one phase, or of all if there are no phases. Kept as JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Safety {
    /// So many percent of the devices may fail; of those that were told if nobody knows how many there will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failed_percent: Option<u8>,
    /// So many devices may fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failed: Option<u64>,
    /// So many devices may raise a critical alert after they were told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_alerting: Option<u64>,
    /// So many devices may stay away, once they have begun, for longer than `away_minutes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_away: Option<u64>,
    /// How many minutes a device may be away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away_minutes: Option<u32>,
}

impl Safety {
    /// Whether nothing pauses it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong if so many devices of a phase failed, of `devices`.
    fn failures_to_stop_at(&self, failed: u64, devices: u64) -> Option<String> {
        if let Some(percent) = self.max_failed_percent
            && u128::from(failed) * 100 > u128::from(devices) * u128::from(percent)
        {
            return Some(format!("more than {percent} % ({failed} of {devices} devices) failed"));
        }
        self.max_failed.filter(|most| failed > *most).map(|most| format!("more than {most} devices ({failed}) failed"))
    }
}

/// What became of a deployment that was to be paused, or to be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steered {
    /// It is now.
    Done,
    /// It was already.
    Unchanged,
    /// There is none.
    Unknown,
    /// It is over.
    Finished,
}

/// Where a deployment stands that is to be steered.
#[derive(sqlx::FromRow)]
struct Standing {
    name: String,
    finished: Option<Timestamp>,
    paused: Option<Timestamp>,
}

impl Deployments {
    /// Pauses a deployment.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn pause(&self, deployment: DeploymentId, why: &str, at: Timestamp) -> Result<Steered, StorageError> {
        let paused = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_deployment(deployment).await?;
            let standing = match standing(&mut transaction, deployment).await? {
                Ok(standing) if standing.paused.is_some() => return Ok(Steered::Unchanged),
                Ok(standing) => standing,
                Err(no) => return Ok(no),
            };
            let mut told = Told::new();
            pause(&mut transaction, deployment, &standing.name, why, at, &mut told).await?;
            events::append(&mut transaction, &told).await?;
            transaction.commit().await?;
            Ok(Steered::Done)
        };
        self.db.within(Box::pin(paused)).await
    }

    /// Lets a paused deployment go on. What went wrong until now is forgiven.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn resume(&self, deployment: DeploymentId, at: Timestamp) -> Result<Steered, StorageError> {
        let resumed = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_deployment(deployment).await?;
            let standing = match standing(&mut transaction, deployment).await? {
                Ok(standing) if standing.paused.is_none() => return Ok(Steered::Unchanged),
                Ok(standing) => standing,
                Err(no) => return Ok(no),
            };
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "UPDATE deployments SET paused = NULL, paused_by = NULL, resumed = $2, openings = openings + 1 \
                     WHERE id = $1",
                )
                .bind(deployment)
                .bind(at)
                .execute(connection)
                .await
                .map(drop)
            })?;
            forgive(&mut transaction, deployment).await?;
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE device_deployments SET alerted = FALSE WHERE deployment = $1 AND alerted")
                    .bind(deployment)
                    .execute(connection)
                    .await
                    .map(drop)
            })?;
            let event = happening("deployment-resumed", deployment, &standing.name, at);
            events::append(&mut transaction, &[event]).await?;
            transaction.commit().await?;
            Ok(Steered::Done)
        };
        self.db.within(Box::pin(resumed)).await
    }
}

/// Where a deployment stands that goes on; or why it cannot be steered.
async fn standing(
    transaction: &mut Transaction,
    deployment: DeploymentId,
) -> Result<Result<Standing, Steered>, StorageError> {
    let found: Option<Standing> = in_transaction!(transaction, |connection| {
        sqlx::query_as("SELECT name, finished, paused FROM deployments WHERE id = $1")
            .bind(deployment)
            .fetch_optional(connection)
            .await
    })?;
    Ok(match found {
        None => Err(Steered::Unknown),
        Some(standing) if standing.finished.is_some() => Err(Steered::Finished),
        Some(standing) => Ok(standing),
    })
}

async fn forgive(transaction: &mut Transaction, deployment: DeploymentId) -> Result<(), StorageError> {
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "UPDATE deployment_phases SET forgiven = COALESCE((SELECT devices FROM deployment_phase_counts c \
             WHERE c.deployment = deployment_phases.deployment AND c.phase = deployment_phases.number \
             AND c.status = $2), 0) WHERE deployment = $1",
        )
        .bind(deployment)
        .bind(DeviceState::Failure.number())
        .execute(connection)
        .await
        .map(drop)
    })
}

/// Pauses a deployment, which is locked and goes on.
pub(super) async fn pause(
    transaction: &mut Transaction,
    deployment: DeploymentId,
    name: &str,
    why: &str,
    at: Timestamp,
    told: &mut Told,
) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query("UPDATE deployments SET paused = $2, paused_by = $3 WHERE id = $1")
            .bind(deployment)
            .bind(at)
            .bind(why)
            .execute(connection)
            .await
            .map(drop)
    })?;
    let mut event = happening("deployment-paused", deployment, name, at);
    event.body["reason"] = why.into();
    told.push(event);
    Ok(())
}

/// A phase in which a device has just failed.
pub(super) struct Failed<'a> {
    pub deployment: DeploymentId,
    pub name: &'a str,
    pub safety: Safety,
    pub phase: i64,
    pub at: Timestamp,
}

/// Pauses a deployment if too many devices of a phase have failed.
pub(super) async fn after_failure(
    transaction: &mut Transaction,
    failed: &Failed<'_>,
    told: &mut Told,
) -> Result<(), StorageError> {
    let phases: Vec<(i64, Option<i64>, i64)> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_as("SELECT number, devices, forgiven FROM deployment_phases WHERE deployment = $1")
            .bind(failed.deployment)
            .fetch_all(connection)
            .await
    })?;
    let Some(&(number, devices, forgiven)) = phases.iter().find(|(number, ..)| *number == failed.phase) else {
        return Ok(());
    };
    let rows: Vec<(i64, i64)> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_as("SELECT status, devices FROM deployment_phase_counts WHERE deployment = $1 AND phase = $2")
            .bind(failed.deployment)
            .bind(number)
            .fetch_all(connection)
            .await
    })?;
    let mut counts = Counts::default();
    for (status, devices) in rows {
        counts.put(status, devices);
    }
    let devices = devices.map_or_else(|| counts.all(), i64::unsigned_abs);
    let fresh = counts.of(DeviceState::Failure).saturating_sub(forgiven.unsigned_abs());
    let Some(what) = failed.safety.failures_to_stop_at(fresh, devices) else { return Ok(()) };
    let why = format!("in {}, {what}", phase_name(number, phases.len()));
    pause(transaction, failed.deployment, failed.name, &why, failed.at, told).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_passed_by_what_is_more() {
        let percent = Safety { max_failed_percent: Some(3), ..Safety::default() };
        assert_eq!(percent.failures_to_stop_at(3, 100), None);
        assert_eq!(percent.failures_to_stop_at(4, 100).as_deref(), Some("more than 3 % (4 of 100 devices) failed"));
        assert_eq!(percent.failures_to_stop_at(0, 0), None);
        assert!(Safety { max_failed_percent: Some(0), ..Safety::default() }.failures_to_stop_at(1, 1000).is_some());
        let count = Safety { max_failed: Some(2), ..Safety::default() };
        assert_eq!(count.failures_to_stop_at(2, 2), None);
        assert_eq!(count.failures_to_stop_at(3, 1_000_000).as_deref(), Some("more than 2 devices (3) failed"));
        assert_eq!(Safety::default().failures_to_stop_at(u64::MAX, 1), None);
    }

    #[test]
    fn limits_can_be_read_back() {
        let safety =
            Safety { max_failed_percent: Some(3), max_away: Some(0), away_minutes: Some(15), ..Safety::default() };
        let text = serde_json::to_string(&safety).unwrap();
        assert_eq!(text, r#"{"max_failed_percent":3,"max_away":0,"away_minutes":15}"#);
        assert_eq!(serde_json::from_str::<Safety>(&text).unwrap(), safety);
    }
}
