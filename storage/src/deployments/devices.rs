//! Devices within deployments, as they are read.

use std::collections::HashMap;

use sqlx::QueryBuilder;

use super::{Counts, Deployment, Deployments, DeviceState};
use crate::artifacts::artifact_columns;
use crate::database::{ROWS_PER_STATEMENT, on_reader};
use crate::{ArtifactId, DeploymentId, StorageError, StoredArtifact, Timestamp};

pub use crate::id::DeviceDeploymentId;

/// As many of a device's past deployments are counted.
const HISTORY_COUNTED: i64 = 10_000;

/// A device's part in a deployment that it was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceDeployment {
    /// Which.
    pub id: DeviceDeploymentId,
    /// In which deployment.
    pub deployment: DeploymentId,
    /// Whose.
    pub device: String,
    /// Where the device stands.
    pub state: DeviceState,
    /// What it says beyond that; may be empty.
    pub substate: String,
    /// When the deployment was made.
    pub created: Timestamp,
    /// When it first did something.
    pub started: Option<Timestamp>,
    /// When it was over with it.
    pub finished: Option<Timestamp>,
    /// When it was made to forget it.
    pub deleted: Option<Timestamp>,
    /// Whether it has sent a log.
    pub has_log: bool,
    /// What it was given, or had already.
    pub artifact: Option<StoredArtifact>,
    /// How often it has failed and was to try again.
    pub attempts: u32,
}

/// What a device went through last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastStatus {
    /// Which device.
    pub device: String,
    /// Which deployment.
    pub deployment: DeploymentId,
    /// Its part in it.
    pub device_deployment: DeviceDeploymentId,
    /// How that ended.
    pub state: DeviceState,
}

/// What a device says went wrong, if anything is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceLog {
    /// The device has no part in that deployment.
    NoDevice,
    /// It has said nothing.
    Nothing,
    /// What was kept.
    Messages(String),
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct DeviceRow {
    pub id: DeviceDeploymentId,
    pub deployment: DeploymentId,
    pub device: String,
    pub status: i64,
    pub created: Timestamp,
    pub offered: Option<Timestamp>,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub deleted: Option<Timestamp>,
    pub substate: String,
    pub request: Option<Vec<u8>>,
    pub provides: Option<Vec<u8>>,
    pub artifact: Option<ArtifactId>,
    pub has_log: bool,
    pub phase: i64,
    pub attempts: i64,
}

/// The columns of a [`DeviceRow`].
macro_rules! device_columns {
    () => {
        "id, deployment, device, status, created, offered, started, finished, deleted, substate, request, provides, \
         artifact, has_log, phase, attempts"
    };
}

pub(super) use device_columns;

impl DeviceRow {
    /// Whether the device is still to be told.
    pub(super) const fn is_untold(&self) -> bool {
        self.offered.is_none() && self.status == DeviceState::Pending.number()
    }

    /// Whether the device has failed, and waits to be told again.
    pub(super) const fn is_to_try_again(&self) -> bool {
        self.attempts > 0 && self.request.is_none() && self.status == DeviceState::Pending.number()
    }

    /// Where the device stands.
    pub(super) fn state(&self) -> Result<DeviceState, StorageError> {
        DeviceState::from_number(self.status)
            .ok_or_else(|| StorageError::Corrupt(format!("status {} of a device's deployment", self.status)))
    }
}

/// Adds which statuses are asked for; none asks for all.
macro_rules! restrict_states {
    ($query:ident, $states:ident) => {
        if !$states.is_empty() {
            $query.push(" AND status IN (");
            let mut list = $query.separated(", ");
            for state in $states {
                list.push_bind(state.number());
            }
            $query.push(")");
        }
    };
}

impl Deployments {
    /// A page of the devices that were told of a deployment and stand at one of `states` (none: anywhere), by status and
    /// id; and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn devices(
        &self,
        deployment: DeploymentId,
        states: &[DeviceState],
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<DeviceDeployment>, u64), StorageError> {
        macro_rules! restrict {
            ($query:ident) => {
                $query.push(" FROM device_deployments WHERE deployment = ").push_bind(deployment);
                $query.push(" AND is_current AND offered IS NOT NULL AND deleted IS NULL");
                restrict_states!($query, states);
            };
        }
        let rows: Vec<DeviceRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!("SELECT ", device_columns!()));
            restrict!(query);
            query.push(" ORDER BY status, device LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*)");
            restrict!(query);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((self.with_artifacts(rows).await?, total.unsigned_abs()))
    }

    /// Some devices that were told of a deployment, in order of their ids after `after`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn told_after(
        &self,
        deployment: DeploymentId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<DeviceDeployment>, StorageError> {
        let rows: Vec<DeviceRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                device_columns!(),
                " FROM device_deployments WHERE deployment = $1 AND is_current AND device > $2 AND offered IS NOT NULL \
                 AND deleted IS NULL ORDER BY device LIMIT $3"
            ))
            .bind(deployment)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
        })?;
        self.with_artifacts(rows).await
    }

    /// The ids of some devices that a deployment is for, told of it or not, in order after `after`.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn members(
        &self,
        deployment: DeploymentId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar(
                "SELECT device FROM device_deployments WHERE deployment = $1 AND is_current AND device > $2 \
                 ORDER BY device LIMIT $3",
            )
            .bind(deployment)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
        })
    }

    /// A page of what a device was told of, newest first, also of what it was made to forget; with each its deployment.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn history(
        &self,
        device: &str,
        states: &[DeviceState],
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<(Deployment, DeviceDeployment)>, u64), StorageError> {
        macro_rules! restrict {
            ($query:ident) => {
                $query.push(" FROM device_deployments WHERE device = ").push_bind(device);
                $query.push(" AND offered IS NOT NULL");
                restrict_states!($query, states);
            };
        }
        let rows: Vec<DeviceRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!("SELECT ", device_columns!()));
            restrict!(query);
            query.push(" ORDER BY created DESC, status DESC, id LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM (SELECT 1 AS one");
            restrict!(query);
            query.push(" LIMIT ").push_bind(HISTORY_COUNTED).push(") AS counted");
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((self.with_deployments(rows).await?, total.unsigned_abs()))
    }

    /// These parts of devices in deployments, those that there are, each with its deployment, newest first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn parts(&self, ids: &[DeviceDeploymentId]) -> Result<Vec<(Deployment, DeviceDeployment)>, StorageError> {
        let mut rows: Vec<DeviceRow> = Vec::new();
        for ids in ids.chunks(ROWS_PER_STATEMENT) {
            rows.extend::<Vec<DeviceRow>>(on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new(concat!(
                    "SELECT ",
                    device_columns!(),
                    " FROM device_deployments WHERE offered IS NOT NULL AND id IN ("
                ));
                let mut list = query.separated(", ");
                for id in ids {
                    list.push_bind(*id);
                }
                query.push(")");
                query.build_query_as().persistent(false).fetch_all(pool).await
            })?);
        }
        rows.sort_by(|one, other| (other.created, other.status, one.id).cmp(&(one.created, one.status, other.id)));
        self.with_deployments(rows).await
    }

    /// Adds to each row what belongs to it.
    async fn with_deployments(
        &self,
        rows: Vec<DeviceRow>,
    ) -> Result<Vec<(Deployment, DeviceDeployment)>, StorageError> {
        let ids: Vec<DeploymentId> = rows.iter().map(|row| row.deployment).collect();
        let deployments: HashMap<DeploymentId, Deployment> =
            self.find_all(&ids).await?.into_iter().map(|deployment| (deployment.id, deployment)).collect();
        let devices = self.with_artifacts(rows).await?;
        let with_deployment = |device: DeviceDeployment| Some((deployments.get(&device.deployment)?.clone(), device));
        Ok(devices.into_iter().filter_map(with_deployment).collect())
    }

    /// What a device says went wrong.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn log(&self, deployment: DeploymentId, device: &str) -> Result<DeviceLog, StorageError> {
        let found: Option<Option<String>> = on_reader!(self.db, |pool| {
            sqlx::query_scalar(
                "SELECT messages FROM device_deployments LEFT JOIN deployment_logs ON device_deployment = id \
                 WHERE deployment = $1 AND device = $2 AND is_current AND offered IS NOT NULL AND deleted IS NULL",
            )
            .bind(deployment)
            .bind(device)
            .fetch_optional(pool)
            .await
        })?;
        Ok(match found {
            None => DeviceLog::NoDevice,
            Some(None) => DeviceLog::Nothing,
            Some(Some(messages)) => DeviceLog::Messages(messages),
        })
    }

    /// What each of these devices went through last; those that went through nothing are left out.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn last_statuses(&self, devices: &[String]) -> Result<Vec<LastStatus>, StorageError> {
        let mut found = Vec::new();
        for devices in devices.chunks(ROWS_PER_STATEMENT) {
            let rows: Vec<(String, DeploymentId, DeviceDeploymentId, i64)> = on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new(
                    "SELECT device, deployment, device_deployment, status FROM device_last_deployments \
                     WHERE device IN (",
                );
                let mut list = query.separated(", ");
                for device in devices {
                    list.push_bind(device.as_str());
                }
                query.push(") ORDER BY device");
                query.build_query_as().persistent(false).fetch_all(pool).await
            })?;
            for (device, deployment, device_deployment, status) in rows {
                let state = DeviceState::from_number(status)
                    .ok_or_else(|| StorageError::Corrupt(format!("last status {status} of a device")))?;
                found.push(LastStatus { device, deployment, device_deployment, state });
            }
        }
        Ok(found)
    }

    /// The ids of some devices that may have something to do in a deployment, in order after `after`: those that are not
    /// over with it, or were made to forget it.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn devices_with_work(
        &self,
        deployment: DeploymentId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar(
                "SELECT device FROM device_deployments WHERE deployment = $1 AND is_current AND device > $2 \
                 AND (status BETWEEN $3 AND $4 OR deleted IS NOT NULL) ORDER BY device LIMIT $5",
            )
            .bind(deployment)
            .bind(after)
            .bind(super::status::FIRST_ACTIVE)
            .bind(super::status::LAST_ACTIVE)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
        })
    }

    /// The deployments that are over, and that some devices are still at.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn with_devices_behind(&self) -> Result<Vec<DeploymentId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar(
                "SELECT DISTINCT d.id FROM deployment_counts c JOIN deployments d ON d.id = c.deployment \
                 WHERE c.status BETWEEN $1 AND $2 AND c.devices > 0 AND d.finished IS NOT NULL",
            )
            .bind(super::status::FIRST_ACTIVE)
            .bind(super::status::LAST_ACTIVE)
            .fetch_all(pool)
            .await
        })
    }

    async fn with_artifacts(&self, rows: Vec<DeviceRow>) -> Result<Vec<DeviceDeployment>, StorageError> {
        let mut ids: Vec<ArtifactId> = rows.iter().filter_map(|row| row.artifact).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut artifacts: HashMap<ArtifactId, StoredArtifact> = HashMap::new();
        for ids in ids.chunks(ROWS_PER_STATEMENT) {
            let some: Vec<StoredArtifact> = on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new(concat!(
                    "SELECT ",
                    artifact_columns!(),
                    " FROM deployed_artifacts WHERE id IN ("
                ));
                let mut list = query.separated(", ");
                for id in ids {
                    list.push_bind(*id);
                }
                query.push(")");
                query.build_query_as().persistent(false).fetch_all(pool).await
            })?;
            artifacts.extend(some.into_iter().map(|artifact| (artifact.id, artifact)));
        }
        let whole = |row: DeviceRow| {
            Ok(DeviceDeployment {
                state: row.state()?,
                artifact: row.artifact.and_then(|id| artifacts.get(&id)).cloned(),
                id: row.id,
                deployment: row.deployment,
                device: row.device,
                substate: row.substate,
                created: row.created,
                started: row.started,
                finished: row.finished,
                deleted: row.deleted,
                has_log: row.has_log,
                attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
            })
        };
        rows.into_iter().map(whole).collect()
    }

    /// How many devices of a deployment stand where, counted anew: what its counts have to be. With `phase`, those of one.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn counted(&self, deployment: DeploymentId, phase: Option<u32>) -> Result<Counts, StorageError> {
        let rows: Vec<(i64, i64)> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT status, COUNT(*) FROM device_deployments WHERE deployment = $1 AND is_current AND status <> $2 \
                 AND phase = COALESCE($3, phase) GROUP BY status",
            )
            .bind(deployment)
            .bind(super::status::NEVER_TOLD)
            .bind(phase.map(i64::from))
            .fetch_all(pool)
            .await
        })?;
        let mut counts = Counts::default();
        for (status, devices) in rows {
            counts.put(status, devices);
        }
        Ok(counts)
    }
}
