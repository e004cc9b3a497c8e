//! Configurations on their way to devices, as deployments bring them.

use serde_json::{Map, Value};

use super::{DeviceConfig, DeviceConfigs, find_locked};
use crate::database::{Transaction, in_transaction, on_reader};
use crate::deployments::{DeploymentKind, DeviceState, Targets, create};
use crate::{Creation, DeploymentId, DeviceId, NewDeployment, Plan, StorageError, Timestamp};

/// What came of deploying a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deployed {
    /// The deployment goes on. Those that were made before it for the same device, and of which the device was not told
    /// yet, bring what nobody wants any more.
    Made {
        /// Which.
        superseded: Vec<DeploymentId>,
    },
    /// There is a deployment with this id.
    IdTaken,
    /// There is no such device, or it is being removed.
    NoDevice,
}

/// What a deployment brings to a device.
#[derive(Clone, PartialEq)]
pub struct DeployedConfiguration {
    /// What the artifact is called.
    pub artifact_name: String,
    /// What the device is told to be. Any of its values may be a secret.
    pub configuration: Map<String, Value>,
}

impl std::fmt::Debug for DeployedConfiguration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("DeployedConfiguration");
        shown.field("artifact_name", &self.artifact_name).finish_non_exhaustive()
    }
}

impl DeviceConfigs {
    /// Makes a deployment that brings a device what it is told to be now, and notes it as the last of its kind. It is made
    /// later than the device was told, by a millisecond at least: clients compare the two. A device that has failed is told
    /// again `retries` times.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn deploy(
        &self,
        device: DeviceId,
        deployment: DeploymentId,
        groups: Vec<String>,
        retries: u32,
        now: Timestamp,
    ) -> Result<Deployed, StorageError> {
        let deployed = async {
            let mut transaction = self.db.begin().await?;
            let Some(config) = find_locked(&mut transaction, device).await? else {
                transaction.roll_back().await?;
                return Ok(Deployed::NoDevice);
            };
            let at = now.max(Timestamp::from_millis(config.updated.millis().saturating_add(1)));
            let plan = Plan { retries, ..Plan::default() };
            let new = new_deployment(&config, deployment, groups, plan, at);
            match create(&mut transaction, &new).await? {
                Creation::Made(_) => {}
                Creation::IdTaken => {
                    transaction.roll_back().await?;
                    return Ok(Deployed::IdTaken);
                }
                other => return Err(StorageError::other("cannot deploy a configuration", format!("{other:?}"))),
            }
            let superseded = superseded(&mut transaction, device, deployment).await?;
            note(&mut transaction, &config, deployment).await?;
            transaction.commit().await?;
            Ok(Deployed::Made { superseded })
        };
        self.db.within(Box::pin(deployed)).await
    }

    /// What this deployment brings to this device; `None` if it brings no configuration (any more), or to another, or if
    /// there is no such device any more.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn deployed(
        &self,
        deployment: DeploymentId,
        device: DeviceId,
    ) -> Result<Option<DeployedConfiguration>, StorageError> {
        let found: Option<(String, String)> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT d.artifact_name, d.configuration FROM deployments d JOIN device_deployments p \
                 ON p.deployment = d.id WHERE d.id = $1 AND p.device = $2 AND p.is_current AND d.configuration IS NOT NULL \
                 AND d.finished IS NULL \
                 AND EXISTS (SELECT 1 FROM devices WHERE id = $3)",
            )
            .bind(deployment)
            .bind(device.to_string())
            .bind(device)
            .fetch_optional(pool)
            .await
        })?;
        let Some((artifact_name, configuration)) = found else { return Ok(None) };
        // The text of the error might show a value.
        let configuration = serde_json::from_str(&configuration)
            .map_err(|_| StorageError::Corrupt(format!("configuration of deployment {deployment}")))?;
        Ok(Some(DeployedConfiguration { artifact_name, configuration }))
    }
}

fn new_deployment(
    config: &DeviceConfig,
    id: DeploymentId,
    groups: Vec<String>,
    plan: Plan,
    at: Timestamp,
) -> NewDeployment {
    // No two of these are equal: each has its id, of which there is one.
    let mut fingerprint = [0; 32];
    fingerprint[..16].copy_from_slice(id.uuid().as_bytes());
    let name = format!("configuration-{id}");
    NewDeployment {
        id,
        name: name.clone(),
        artifact_name: name,
        forced: false,
        targets: Targets::Devices(vec![config.device.to_string()]),
        chosen_by: "[]".to_owned(),
        groups,
        configuration: Some(config.configured.to_json().as_str().into()),
        plan,
        fingerprint,
        at,
    }
}

/// Deployments of configurations that the device was not told of yet, but for the new one.
async fn superseded(
    transaction: &mut Transaction,
    device: DeviceId,
    new: DeploymentId,
) -> Result<Vec<DeploymentId>, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_scalar(
            "SELECT d.id FROM device_deployments p JOIN deployments d ON d.id = p.deployment WHERE p.device = $1 \
             AND p.is_current AND p.offered IS NULL AND p.status = $2 AND d.kind = $3 AND d.finished IS NULL \
             AND d.id <> $4 ORDER BY d.id",
        )
        .bind(device.to_string())
        .bind(DeviceState::Pending.number())
        .bind(DeploymentKind::Configuration.as_str())
        .bind(new)
        .fetch_all(connection)
        .await
    })
}

/// Empties the configurations that were ever deployed to a device, which is being removed: nobody is told them any more, and
/// they may be secrets. That there were deployments stays known.
pub(crate) async fn forget_deployed(transaction: &mut Transaction, device: DeviceId) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "UPDATE deployments SET configuration = '{}' WHERE kind = $2 AND id IN \
             (SELECT deployment FROM device_deployments WHERE device = $1)",
        )
        .bind(device.to_string())
        .bind(DeploymentKind::Configuration.as_str())
        .execute(connection)
        .await
        .map(drop)
    })
}

/// Notes the last deployment of a device's configuration. When it was told what to be stays as it was.
async fn note(
    transaction: &mut Transaction,
    config: &DeviceConfig,
    deployment: DeploymentId,
) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO device_configs (device, configured, reported, deployment, updated_at) \
             VALUES ($1, '{}', '{}', $2, $3) ON CONFLICT (device) DO UPDATE SET deployment = excluded.deployment",
        )
        .bind(config.device)
        .bind(deployment)
        .bind(config.updated)
        .execute(connection)
        .await
        .map(drop)
    })
}
