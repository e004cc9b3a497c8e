//! Configurations on their way to devices, as deployments bring them.

use serde_json::{Map, Value};

use super::{DeviceConfig, DeviceConfigs, find_locked};
use crate::database::{Transaction, in_transaction, on_reader};
use crate::deployments::{DeploymentKind, DeviceState, Targets, create};
use crate::{Creation, DeploymentId, DeviceId, NewDeployment, StorageError, Timestamp};

/// A deployment of a configuration that is to be made. It is for one device, which need not be known.
#[derive(Clone, PartialEq)]
pub struct NewConfiguration {
    /// Which deployment.
    pub deployment: DeploymentId,
    /// For which device.
    pub device: String,
    /// Name of the deployment, and of the artifact that it brings.
    pub name: String,
    /// What it brings. Any of its values may be a secret.
    pub configuration: Map<String, Value>,
    /// The groups of the device.
    pub groups: Vec<String>,
    /// Now.
    pub at: Timestamp,
}

impl std::fmt::Debug for NewConfiguration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("NewConfiguration");
        shown.field("deployment", &self.deployment).field("device", &self.device).field("name", &self.name);
        shown.finish_non_exhaustive()
    }
}

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
    /// later than the device was told, by a millisecond at least: clients compare the two.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn deploy(
        &self,
        device: DeviceId,
        deployment: DeploymentId,
        groups: Vec<String>,
        now: Timestamp,
    ) -> Result<Deployed, StorageError> {
        let deployed = async {
            let mut transaction = self.db.begin().await?;
            let Some(config) = find_locked(&mut transaction, device).await? else {
                transaction.roll_back().await?;
                return Ok(Deployed::NoDevice);
            };
            let settings = config.configured.settings().iter();
            let new = NewConfiguration {
                deployment,
                device: device.to_string(),
                name: format!("configuration-{deployment}"),
                configuration: settings.map(|(key, value)| (key.clone(), value.clone().into())).collect(),
                groups,
                at: now.max(Timestamp::from_millis(config.updated.millis().saturating_add(1))),
            };
            let made = make(&mut transaction, &new).await?;
            if !matches!(made, Deployed::Made { .. }) {
                transaction.roll_back().await?;
                return Ok(made);
            }
            note(&mut transaction, &config, deployment).await?;
            transaction.commit().await?;
            Ok(made)
        };
        self.db.within(Box::pin(deployed)).await
    }

    /// Makes a deployment that brings a device this configuration, whatever it is told to be.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn bring(&self, new: &NewConfiguration) -> Result<Deployed, StorageError> {
        let brought = async {
            let mut transaction = self.db.begin().await?;
            let made = make(&mut transaction, new).await?;
            if matches!(made, Deployed::Made { .. }) {
                transaction.commit().await?;
            } else {
                transaction.roll_back().await?;
            }
            Ok(made)
        };
        self.db.within(Box::pin(brought)).await
    }

    /// What this deployment brings to this device; `None` if it brings no configuration, or to another, or if there is no
    /// such device any more.
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

async fn make(transaction: &mut Transaction, new: &NewConfiguration) -> Result<Deployed, StorageError> {
    // No two of these are ever equal: each is for another id.
    let mut fingerprint = [0; 32];
    fingerprint[..16].copy_from_slice(new.deployment.uuid().as_bytes());
    let configuration = serde_json::to_string(&new.configuration).expect("JSON has a text");
    let deployment = NewDeployment {
        id: new.deployment,
        name: new.name.clone(),
        artifact_name: new.name.clone(),
        forced: false,
        targets: Targets::Devices(vec![new.device.clone()]),
        chosen_by: "[]".to_owned(),
        groups: new.groups.clone(),
        configuration: Some(configuration),
        fingerprint,
        at: new.at,
    };
    match create(transaction, &deployment).await? {
        Creation::Made(_) => Ok(Deployed::Made { superseded: superseded(transaction, new).await? }),
        Creation::IdTaken => Ok(Deployed::IdTaken),
        other => Err(StorageError::other("cannot deploy a configuration", format!("{other:?}"))),
    }
}

/// Deployments of configurations that the device was not told of yet, but for the new one.
async fn superseded(transaction: &mut Transaction, new: &NewConfiguration) -> Result<Vec<DeploymentId>, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_scalar(
            "SELECT d.id FROM device_deployments p JOIN deployments d ON d.id = p.deployment WHERE p.device = $1 \
             AND p.is_current AND p.offered IS NULL AND p.status = $2 AND d.kind = $3 AND d.finished IS NULL \
             AND d.id <> $4 ORDER BY d.id",
        )
        .bind(&new.device)
        .bind(DeviceState::Pending.number())
        .bind(DeploymentKind::Configuration.as_str())
        .bind(new.deployment)
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
