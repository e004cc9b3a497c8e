//! How many devices of a deployment stand where, and where the deployment stands by that.

use super::phases::Told;
use super::safety::{Failed, after_failure};
use super::status::NEVER_TOLD;
use super::{Counts, DeploymentKind, DeploymentState, happening};
use crate::database::{Transaction, in_transaction};
use crate::device_configs::cut;
use crate::{DeploymentId, StorageError, Timestamp};

/// Counts more devices in a phase with a status, or fewer.
pub(super) async fn count(
    transaction: &mut Transaction,
    deployment: DeploymentId,
    (phase, status): (i64, i64),
    more: i64,
) -> Result<(), StorageError> {
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "INSERT INTO deployment_counts (deployment, status, devices) VALUES ($1, $2, $3) \
             ON CONFLICT (deployment, status) DO UPDATE SET devices = deployment_counts.devices + excluded.devices",
        )
        .bind(deployment)
        .bind(status)
        .bind(more)
        .execute(connection)
        .await
        .map(drop)
    })?;
    if phase == 0 {
        return Ok(());
    }
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO deployment_phase_counts (deployment, phase, status, devices) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (deployment, phase, status) \
             DO UPDATE SET devices = deployment_phase_counts.devices + excluded.devices",
        )
        .bind(deployment)
        .bind(phase)
        .bind(status)
        .bind(more)
        .execute(connection)
        .await
        .map(drop)
    })
}

/// Counts all devices of a deployment.
pub(super) async fn recount(transaction: &mut Transaction, deployment: DeploymentId) -> Result<(), StorageError> {
    for clear in [
        "DELETE FROM deployment_counts WHERE deployment = $1",
        "DELETE FROM deployment_phase_counts WHERE deployment = $1",
    ] {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query(clear).bind(deployment).execute(connection).await.map(drop)
        })?;
    }
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "INSERT INTO deployment_counts (deployment, status, devices) SELECT deployment, status, COUNT(*) \
             FROM device_deployments WHERE deployment = $1 AND is_current AND status <> $2 \
             GROUP BY deployment, status",
        )
        .bind(deployment)
        .bind(NEVER_TOLD)
        .execute(connection)
        .await
        .map(drop)
    })?;
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO deployment_phase_counts (deployment, phase, status, devices) \
             SELECT deployment, phase, status, COUNT(*) FROM device_deployments \
             WHERE deployment = $1 AND is_current AND status <> $2 AND phase > 0 GROUP BY deployment, phase, status",
        )
        .bind(deployment)
        .bind(NEVER_TOLD)
        .execute(connection)
        .await
        .map(drop)
    })
}

#[derive(sqlx::FromRow)]
struct Standing {
    name: String,
    state: String,
    is_dynamic: bool,
    max_devices: i64,
    finished: Option<Timestamp>,
    paused: Option<Timestamp>,
    safety: Option<String>,
}

/// Lets a deployment go on to where its counts say that it stands. If a device has just failed, `failed` is its phase.
pub(super) async fn settle(
    transaction: &mut Transaction,
    deployment: DeploymentId,
    failed: Option<i64>,
    at: Timestamp,
    told: &mut Told,
) -> Result<(), StorageError> {
    let standing: Standing = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_as(
            "SELECT name, state, is_dynamic, max_devices, finished, paused, safety FROM deployments WHERE id = $1",
        )
        .bind(deployment)
        .fetch_one(connection)
        .await
    })?;
    if standing.finished.is_some() {
        return Ok(());
    }
    let rows: Vec<(i64, i64)> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_as("SELECT status, devices FROM deployment_counts WHERE deployment = $1")
            .bind(deployment)
            .fetch_all(connection)
            .await
    })?;
    let mut counts = Counts::default();
    for (status, devices) in rows {
        counts.put(status, devices);
    }
    let state = DeploymentState::of(&counts, standing.max_devices.unsigned_abs(), standing.is_dynamic);
    if state == DeploymentState::Finished {
        return finish(transaction, deployment, at, told).await;
    }
    if let (Some(phase), Some(safety), None) = (failed, &standing.safety, standing.paused) {
        let safety = serde_json::from_str(safety)
            .map_err(|_| StorageError::Corrupt(format!("safety of deployment {deployment}")))?;
        let failed = Failed { deployment, name: &standing.name, safety, phase, at };
        after_failure(transaction, &failed, told).await?;
    }
    if standing.state == DeploymentState::Pending.as_str() && state == DeploymentState::InProgress {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query("UPDATE deployments SET state = $2 WHERE id = $1")
                .bind(deployment)
                .bind(state.as_str())
                .execute(connection)
                .await
                .map(drop)
        })?;
    }
    Ok(())
}

/// Ends a deployment. Of a configuration it keeps what is shown: nobody is brought it any more, and it may be a secret.
/// The lock comes before the row of uses: an artifact of the name may be on its way in, and must not be kept by a
/// deployment that is over.
pub(super) async fn finish(
    transaction: &mut Transaction,
    deployment: DeploymentId,
    at: Timestamp,
    told: &mut Told,
) -> Result<(), StorageError> {
    let kind: String = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT kind FROM deployments WHERE id = $1").bind(deployment).fetch_one(connection).await
    })?;
    // One of a configuration uses no artifact.
    if kind == DeploymentKind::Software.as_str() {
        transaction.lock_artifacts().await?;
    }
    let name: String = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar(
            "UPDATE deployments SET state = $2, finished = $3, paused = NULL, paused_by = NULL WHERE id = $1 \
             RETURNING name",
        )
        .bind(deployment)
        .bind(DeploymentState::Finished.as_str())
        .bind(at)
        .fetch_one(connection)
        .await
    })?;
    if kind == DeploymentKind::Configuration.as_str() {
        forget_configuration(transaction, deployment).await?;
    }
    told.push(happening("deployment-finished", deployment, &name, at));
    in_transaction!(transaction, |connection| {
        sqlx::query("UPDATE deployment_artifacts SET is_active = FALSE WHERE deployment = $1")
            .bind(deployment)
            .execute(connection)
            .await
            .map(drop)
    })
}

async fn forget_configuration(transaction: &mut Transaction, deployment: DeploymentId) -> Result<(), StorageError> {
    let configuration: Option<String> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT configuration FROM deployments WHERE id = $1")
            .bind(deployment)
            .fetch_one(connection)
            .await
    })?;
    in_transaction!(transaction, |connection| {
        sqlx::query("UPDATE deployments SET configuration = $2 WHERE id = $1")
            .bind(deployment)
            .bind(configuration.as_deref().map(cut))
            .execute(connection)
            .await
            .map(drop)
    })
}
