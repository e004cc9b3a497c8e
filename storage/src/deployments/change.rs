//! Devices that get on with a deployment, and deployments that end.

use super::devices::{DeviceDeploymentId, DeviceRow, device_columns};
use super::phases::{Told, take_place};
use super::settle::{count, finish, recount, settle};
use super::status::{FIRST_ACTIVE, LAST_ACTIVE};
use super::{Deployments, DeviceState};
use crate::database::{Transaction, in_transaction};
use crate::dialect::without_nul;
use crate::{DeploymentId, DeviceId, StorageError, Timestamp, events};

/// What is said of a device that is taken out because it went on to a newer deployment.
const PASSED_OVER: &str = "a newer deployment came first";

/// What a device says about how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateReport<'a> {
    /// Where it stands.
    pub state: DeviceState,
    /// More about it; empty leaves what was said before.
    pub substate: &'a str,
    /// Now.
    pub at: Timestamp,
}

/// What a device hears that has said something about a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateReported {
    /// It is written down.
    Written,
    /// It has no part in that deployment, or was never told of it.
    Unknown,
    /// It is to stop: it was aborted, or is decommissioned.
    Stopped(DeviceState),
}

/// What became of a deployment that was to be aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abortion {
    /// It is over.
    Aborted,
    /// There is none.
    Unknown,
    /// It was over before.
    Finished,
}

impl Deployments {
    /// Writes down how far a device is.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn report(
        &self,
        deployment: DeploymentId,
        device: DeviceId,
        report: StateReport<'_>,
    ) -> Result<StateReported, StorageError> {
        let reported = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_deployment(deployment).await?;
            let Some(row) = find(&mut transaction, deployment, device).await? else {
                return Ok(StateReported::Unknown);
            };
            let was = row.state()?;
            if was.is_stopped() {
                return Ok(StateReported::Stopped(was));
            }
            // Who failed and was not told again yet says the same once more.
            let is_repeated = row.is_to_try_again() && report.state == DeviceState::Failure;
            if was == report.state || is_repeated {
                return Ok(StateReported::Written);
            }
            if !report.substate.is_empty() {
                in_transaction!(&mut transaction, |connection| {
                    sqlx::query("UPDATE device_deployments SET substate = $2 WHERE id = $1")
                        .bind(row.id)
                        .bind(without_nul(report.substate))
                        .execute(connection)
                        .await
                        .map(drop)
                })?;
            }
            let mut told = Told::new();
            if report.state != DeviceState::Failure || !try_again(&mut transaction, &row).await? {
                advance(&mut transaction, &row, report.state, report.at, &mut told).await?;
            }
            events::append(&mut transaction, &told).await?;
            transaction.commit().await?;
            Ok(StateReported::Written)
        };
        self.db.within(Box::pin(reported)).await
    }

    /// Keeps what a device says went wrong, in place of what it said before. `false` if it has no part in that deployment.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn keep_log(
        &self,
        deployment: DeploymentId,
        device: DeviceId,
        messages: &str,
    ) -> Result<bool, StorageError> {
        let kept = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_deployment(deployment).await?;
            let Some(row) = find(&mut transaction, deployment, device).await? else { return Ok(false) };
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "INSERT INTO deployment_logs (device_deployment, messages) VALUES ($1, $2) \
                     ON CONFLICT (device_deployment) DO UPDATE SET messages = excluded.messages",
                )
                .bind(row.id)
                .bind(without_nul(messages))
                .execute(connection)
                .await
                .map(drop)
            })?;
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE device_deployments SET has_log = TRUE WHERE id = $1")
                    .bind(row.id)
                    .execute(connection)
                    .await
                    .map(drop)
            })?;
            transaction.commit().await?;
            Ok(true)
        };
        self.db.within(Box::pin(kept)).await
    }

    /// Ends a deployment: devices that are at it are to stop, and those that were never told never are. Both are counted as
    /// aborted.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn abort(&self, deployment: DeploymentId, at: Timestamp) -> Result<Abortion, StorageError> {
        let aborted = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_deployment(deployment).await?;
            let finished: Option<Option<Timestamp>> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar("SELECT finished FROM deployments WHERE id = $1")
                    .bind(deployment)
                    .fetch_optional(connection)
                    .await
            })?;
            match finished {
                None => return Ok(Abortion::Unknown),
                Some(Some(_)) => return Ok(Abortion::Finished),
                Some(None) => {}
            }
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "UPDATE device_deployments SET status = $2 WHERE deployment = $1 AND is_current \
                     AND status BETWEEN $3 AND $4",
                )
                .bind(deployment)
                .bind(DeviceState::Aborted.number())
                .bind(FIRST_ACTIVE)
                .bind(LAST_ACTIVE)
                .execute(connection)
                .await
                .map(drop)
            })?;
            recount(&mut transaction, deployment).await?;
            let mut told = Told::new();
            finish(&mut transaction, deployment, at, &mut told).await?;
            events::append(&mut transaction, &told).await?;
            transaction.commit().await?;
            Ok(Abortion::Aborted)
        };
        self.db.within_bulk(Box::pin(aborted)).await
    }

    /// Ends everything that a device is at, or is still to be told of.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn abort_device(&self, device: &str, at: Timestamp) -> Result<(), StorageError> {
        self.withdraw(device, DeviceState::Aborted, at).await
    }

    /// The same for a device that is removed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn decommission(&self, device: &str, at: Timestamp) -> Result<(), StorageError> {
        self.withdraw(device, DeviceState::Decommissioned, at).await
    }

    async fn withdraw(&self, device: &str, state: DeviceState, at: Timestamp) -> Result<(), StorageError> {
        let withdrawn = async {
            let mut transaction = self.db.begin().await?;
            let told = withdraw(&mut transaction, device, state, at).await?;
            events::append(&mut transaction, &told).await?;
            transaction.commit().await
        };
        self.db.within(Box::pin(withdrawn)).await
    }

    /// Lets a device forget what it went through: its record stays, and counts for nothing it is offered later. Says whether
    /// it ever had a part in a deployment.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn delete_history(&self, device: &str, at: Timestamp) -> Result<bool, StorageError> {
        let deleted = async {
            let mut transaction = self.db.begin().await?;
            let over: Vec<DeploymentId> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar(
                    "SELECT DISTINCT deployment FROM device_deployments WHERE device = $1 AND offered IS NOT NULL \
                     AND deleted IS NULL AND NOT status BETWEEN $2 AND $3 ORDER BY deployment",
                )
                .bind(device)
                .bind(FIRST_ACTIVE)
                .bind(LAST_ACTIVE)
                .fetch_all(connection)
                .await
            })?;
            for deployment in over {
                transaction.lock_deployment(deployment).await?;
                // It may have begun again before the lock.
                in_transaction!(&mut transaction, |connection| {
                    sqlx::query(
                        "UPDATE device_deployments SET deleted = $3 WHERE deployment = $1 AND device = $2 \
                         AND offered IS NOT NULL AND deleted IS NULL AND NOT status BETWEEN $4 AND $5",
                    )
                    .bind(deployment)
                    .bind(device)
                    .bind(at)
                    .bind(FIRST_ACTIVE)
                    .bind(LAST_ACTIVE)
                    .execute(connection)
                    .await
                    .map(drop)
                })?;
            }
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "DELETE FROM device_last_deployments WHERE device = $1 AND device_deployment IN \
                     (SELECT id FROM device_deployments WHERE device = $1 AND deleted IS NOT NULL)",
                )
                .bind(device)
                .execute(connection)
                .await
                .map(drop)
            })?;
            let part: Option<DeviceDeploymentId> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar("SELECT id FROM device_deployments WHERE device = $1 LIMIT 1")
                    .bind(device)
                    .fetch_optional(connection)
                    .await
            })?;
            transaction.commit().await?;
            Ok(part.is_some())
        };
        self.db.within(Box::pin(deleted)).await
    }
}

/// Ends everything that a device is at, or is still to be told of, with this status. Deployments are taken in the order of
/// their ids, as by everybody who takes more than one. Returns the events that the transaction is to tell last.
pub(crate) async fn withdraw(
    transaction: &mut Transaction,
    device: &str,
    state: DeviceState,
    at: Timestamp,
) -> Result<Told, StorageError> {
    let mut told = Told::new();
    let deployments: Vec<DeploymentId> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar(
            "SELECT deployment FROM device_deployments WHERE device = $1 AND is_current \
             AND status BETWEEN $2 AND $3 ORDER BY deployment",
        )
        .bind(device)
        .bind(FIRST_ACTIVE)
        .bind(LAST_ACTIVE)
        .fetch_all(connection)
        .await
    })?;
    // All of them before any of them ends: what ends takes the lock of artifacts, and whoever has that waits for no deployment.
    for deployment in &deployments {
        transaction.lock_deployment(*deployment).await?;
    }
    for deployment in deployments {
        let row: Option<DeviceRow> = in_transaction!(&mut *transaction, |connection| {
            sqlx::query_as(concat!(
                "SELECT ",
                device_columns!(),
                " FROM device_deployments WHERE deployment = $1 AND device = $2 AND is_current"
            ))
            .bind(deployment)
            .bind(device)
            .fetch_optional(connection)
            .await
        })?;
        let Some(mut row) = row.filter(|row| (FIRST_ACTIVE..=LAST_ACTIVE).contains(&row.status)) else { continue };
        if row.offered.is_none() {
            row = place(transaction, row, at).await?;
        }
        advance(transaction, &row, state, at, &mut told).await?;
    }
    Ok(told)
}

/// Gives a device that was not told of a deployment its place among those that were.
pub(super) async fn place(
    transaction: &mut Transaction,
    row: DeviceRow,
    at: Timestamp,
) -> Result<DeviceRow, StorageError> {
    let phase = take_place(transaction, row.deployment).await?;
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query("UPDATE device_deployments SET offered = $2, phase = $3 WHERE id = $1")
            .bind(row.id)
            .bind(at)
            .bind(phase)
            .execute(connection)
            .await
            .map(drop)
    })?;
    if phase != row.phase {
        count(transaction, row.deployment, (row.phase, row.status), -1).await?;
        count(transaction, row.deployment, (phase, row.status), 1).await?;
    }
    Ok(DeviceRow { offered: Some(at), phase, ..row })
}

/// Lets a device that has failed try again, if it may: it waits until it asks.
async fn try_again(transaction: &mut Transaction, row: &DeviceRow) -> Result<bool, StorageError> {
    let retries: i64 = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT retries FROM deployments WHERE id = $1")
            .bind(row.deployment)
            .fetch_one(connection)
            .await
    })?;
    // What is over stays over.
    if row.attempts >= retries || !row.state()?.is_active() {
        return Ok(false);
    }
    let pending = DeviceState::Pending.number();
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "UPDATE device_deployments SET status = $2, attempts = attempts + 1, request = NULL, provides = NULL \
             WHERE id = $1",
        )
        .bind(row.id)
        .bind(pending)
        .execute(connection)
        .await
        .map(drop)
    })?;
    count(transaction, row.deployment, (row.phase, row.status), -1).await?;
    count(transaction, row.deployment, (row.phase, pending), 1).await?;
    Ok(true)
}

/// Takes a device out of a deployment that it passed over for a newer one: it does not go back. What the device went through
/// last stays what it is.
pub(super) async fn pass_over(
    transaction: &mut Transaction,
    mut row: DeviceRow,
    at: Timestamp,
) -> Result<(), StorageError> {
    if row.offered.is_none() {
        row = place(transaction, row, at).await?;
    }
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query("UPDATE device_deployments SET status = $2, finished = $3, substate = $4 WHERE id = $1")
            .bind(row.id)
            .bind(DeviceState::Aborted.number())
            .bind(at)
            .bind(PASSED_OVER)
            .execute(connection)
            .await
            .map(drop)
    })?;
    count(transaction, row.deployment, (row.phase, row.status), -1).await?;
    count(transaction, row.deployment, (row.phase, DeviceState::Aborted.number()), 1).await?;
    let mut told = Told::new();
    settle(transaction, row.deployment, None, at, &mut told).await?;
    events::append(transaction, &told).await
}

/// The part a device has in a deployment that it was told of and has not forgotten.
async fn find(
    transaction: &mut Transaction,
    deployment: DeploymentId,
    device: DeviceId,
) -> Result<Option<DeviceRow>, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_as(concat!(
            "SELECT ",
            device_columns!(),
            " FROM device_deployments WHERE deployment = $1 AND device = $2 AND is_current AND offered IS NOT NULL \
             AND deleted IS NULL"
        ))
        .bind(deployment)
        .bind(device.to_string())
        .fetch_optional(connection)
        .await
    })
}

/// Moves a device on, with all that follows: counts, the device's last status, the end of the deployment. Its deployment has
/// to be locked.
pub(super) async fn advance(
    transaction: &mut Transaction,
    row: &DeviceRow,
    to: DeviceState,
    at: Timestamp,
    told: &mut Told,
) -> Result<(), StorageError> {
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "UPDATE device_deployments SET status = $2, started = COALESCE(started, $3), \
             finished = COALESCE($4, finished) WHERE id = $1",
        )
        .bind(row.id)
        .bind(to.number())
        .bind(at)
        .bind((!to.is_active()).then_some(at))
        .execute(connection)
        .await
        .map(drop)
    })?;
    count(transaction, row.deployment, (row.phase, row.status), -1).await?;
    count(transaction, row.deployment, (row.phase, to.number()), 1).await?;
    if !to.is_active() {
        note_last(transaction, row.id, row.deployment, &row.device, to).await?;
    }
    let failed = (to == DeviceState::Failure).then_some(row.phase);
    settle(transaction, row.deployment, failed, at, told).await
}

async fn note_last(
    transaction: &mut Transaction,
    id: DeviceDeploymentId,
    deployment: DeploymentId,
    device: &str,
    state: DeviceState,
) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO device_last_deployments (device, deployment, device_deployment, status) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (device) DO UPDATE SET deployment = excluded.deployment, \
             device_deployment = excluded.device_deployment, status = excluded.status",
        )
        .bind(device)
        .bind(deployment)
        .bind(id)
        .bind(state.number())
        .execute(connection)
        .await
        .map(drop)
    })
}
