//! Deployments: orders to install a release, or a configuration, on devices, and how far each device is with them.
//!
//! A deployment that names its devices has a row for each from the beginning; one that goes by a filter gets them as devices
//! ask. How many devices stand where is counted in the transaction that moves them, so the numbers are those of the rows at
//! any time. Whoever moves a device first takes the row of the deployment, and after it the lock of artifacts if the
//! deployment ends by it; whoever makes one takes that lock and waits for no row.

mod change;
mod devices;
mod offer;
pub mod parts;
mod phases;
mod safety;
mod search;
mod settle;
mod status;
mod watch;

use std::time::Duration;

use sqlx::QueryBuilder;

use crate::artifacts::begin_use;
use crate::database::{Database, ROWS_PER_STATEMENT, Transaction, in_transaction};
use crate::dialect::without_nul;
use crate::{ArtifactId, DeploymentId, NewEvent, Secret, StorageError, Timestamp, events};

pub use change::{Abortion, StateReport, StateReported};
pub use devices::{DeviceDeployment, DeviceDeploymentId, DeviceLog, LastStatus};
pub use offer::{Offer, Poll};
pub use phases::{NewPhase, Phase, Plan};
pub use safety::{Safety, Steered};
pub use search::{DeploymentFilter, GoingOn};
pub use status::{Counts, DeploymentState, DeviceState, UnknownState};

pub(crate) use change::withdraw;

/// What a deployment installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentKind {
    /// The artifacts of a release.
    Software,
    /// The configuration of one device.
    Configuration,
}

impl DeploymentKind {
    /// The word for it. (Mender API.)
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Configuration => "configuration",
        }
    }
}

impl std::str::FromStr for DeploymentKind {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        [Self::Software, Self::Configuration].into_iter().find(|kind| kind.as_str() == word).ok_or(UnknownState)
    }
}

/// Which devices a deployment is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// These, whether they are known or not.
    Devices(Vec<String>),
    /// Whoever passes the filter that the deployment has, until so many have succeeded; 0: any number.
    Dynamic {
        /// How many.
        max_devices: u64,
    },
}

/// A deployment to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeployment {
    /// Which.
    pub id: DeploymentId,
    /// Its name, at most 2000 bytes.
    pub name: String,
    /// Name of the release.
    pub artifact_name: String,
    /// Whether devices that have it already install it again.
    pub forced: bool,
    /// For whom.
    pub targets: Targets,
    /// How the devices were chosen, as JSON.
    pub chosen_by: String,
    /// The groups they were chosen by.
    pub groups: Vec<String>,
    /// The configuration, as JSON, for a deployment of one; `None` installs a release.
    pub configuration: Option<Secret>,
    /// How it goes about its devices.
    pub plan: Plan,
    /// Hash of all that makes two deployments equal.
    pub fingerprint: [u8; 32],
    /// Now.
    pub at: Timestamp,
}

/// What became of a deployment that was to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// It goes on, and was created then.
    Made(Timestamp),
    /// There is no artifact of that name.
    NoArtifact,
    /// An equal one goes on.
    Equal,
    /// There is one with this id.
    IdTaken,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Which.
    pub id: DeploymentId,
    /// What it installs.
    pub kind: DeploymentKind,
    /// Its name.
    pub name: String,
    /// Name of the release.
    pub artifact_name: String,
    /// When it was made: later than any before it.
    pub created: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Where it stands.
    pub state: DeploymentState,
    /// Whether devices that have it already install it again.
    pub forced: bool,
    /// How the devices were chosen, as JSON.
    pub chosen_by: String,
    /// The groups they were chosen by.
    pub groups: Vec<String>,
    /// Whether its devices are whoever passes its filter.
    pub is_dynamic: bool,
    /// How many devices it is for, or how many have to succeed.
    pub max_devices: u64,
    /// How many have been told of it.
    pub device_count: u64,
    /// Bytes of all artifacts that devices were given.
    pub total_size: u64,
    /// The configuration it installs, as JSON; once it is over, only what is shown of each value.
    pub configuration: Option<Secret>,
    /// The artifacts it may hand out.
    pub artifacts: Vec<ArtifactId>,
    /// How many devices stand where.
    pub counts: Counts,
    /// Its phases, if it has some.
    pub phases: Vec<Phase>,
    /// How often a device that has failed is told again.
    pub retries: u32,
    /// What pauses it by itself.
    pub safety: Safety,
    /// Since when it is paused, if it is.
    pub paused: Option<Pause>,
}

/// A deployment that is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
}

/// All deployments.
#[derive(Debug, Clone)]
pub struct Deployments {
    db: Database,
    search_limit: Duration,
}

impl Deployments {
    pub(crate) const fn new(db: Database, search_limit: Duration) -> Self {
        Self { db, search_limit }
    }

    /// Makes a deployment. A device that is named more than once counts once.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn create(&self, new: &NewDeployment) -> Result<Creation, StorageError> {
        let created = async {
            let mut transaction = self.db.begin().await?;
            let creation = create(&mut transaction, new).await?;
            if matches!(creation, Creation::Made(_)) {
                transaction.commit().await?;
            }
            Ok(creation)
        };
        self.db.within_bulk(Box::pin(created)).await
    }
}

pub(crate) async fn create(transaction: &mut Transaction, new: &NewDeployment) -> Result<Creation, StorageError> {
    transaction.lock_artifacts().await?;
    let is_taken: Option<DeploymentId> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT id FROM deployments WHERE id = $1").bind(new.id).fetch_optional(connection).await
    })?;
    if is_taken.is_some() {
        return Ok(Creation::IdTaken);
    }
    // Looked for rather than left to the index, which would have this wait for whoever just ends the other.
    let equal: Option<DeploymentId> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT id FROM deployments WHERE fingerprint = $1 AND finished IS NULL")
            .bind(&new.fingerprint[..])
            .fetch_optional(connection)
            .await
    })?;
    if equal.is_some() {
        return Ok(Creation::Equal);
    }
    if new.configuration.is_none() && begin_use(transaction, new.id, &new.artifact_name).await?.is_empty() {
        return Ok(Creation::NoArtifact);
    }
    let last: Option<Timestamp> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT MAX(created) FROM deployments").fetch_one(connection).await
    })?;
    let created = last.map_or(new.at, |last| new.at.after(last));
    let devices: Vec<&String> = match &new.targets {
        Targets::Devices(devices) => {
            let mut seen = std::collections::HashSet::new();
            devices.iter().filter(|device| seen.insert(device.as_str())).collect()
        }
        Targets::Dynamic { .. } => Vec::new(),
    };
    write(transaction, new, created, devices.len()).await?;
    for devices in devices.chunks(ROWS_PER_STATEMENT) {
        in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new(
                "INSERT INTO device_deployments (id, deployment, device, status, is_current, created) ",
            );
            query.push_values(devices, |mut row, device| {
                row.push_bind(DeviceDeploymentId::random())
                    .push_bind(new.id)
                    .push_bind(device.as_str())
                    .push_bind(DeviceState::Pending.number())
                    .push_bind(true)
                    .push_bind(created);
            });
            query.build().persistent(false).execute(connection).await.map(drop)
        })?;
    }
    let pending = (0, DeviceState::Pending.number());
    settle::count(transaction, new.id, pending, i64::try_from(devices.len()).unwrap_or(i64::MAX)).await?;
    phases::begin(transaction, new.id, &new.plan, new.at).await?;
    events::append(transaction, &[happening("deployment-created", new.id, &new.name, created)]).await?;
    Ok(Creation::Made(created))
}

/// The event of something that happens to a deployment. There is one of each kind and moment.
fn happening(kind: &str, deployment: DeploymentId, name: &str, at: Timestamp) -> NewEvent {
    NewEvent {
        key: format!("d/{deployment}/{kind}/{}", at.0),
        at,
        kind: kind.to_owned(),
        device: None,
        body: serde_json::json!({ "deployment": deployment, "name": name }),
    }
}

async fn write(
    transaction: &mut Transaction,
    new: &NewDeployment,
    created: Timestamp,
    devices: usize,
) -> Result<(), StorageError> {
    let kind = if new.configuration.is_some() { DeploymentKind::Configuration } else { DeploymentKind::Software };
    let max_devices = match new.targets {
        Targets::Devices(_) => i64::try_from(devices).unwrap_or(i64::MAX),
        Targets::Dynamic { max_devices } => i64::try_from(max_devices).unwrap_or(i64::MAX),
    };
    let groups =
        serde_json::to_string(&new.groups).map_err(|error| StorageError::other("cannot write groups", error))?;
    let safety = (!new.plan.safety.is_empty())
        .then(|| serde_json::to_string(&new.plan.safety))
        .transpose()
        .map_err(|error| StorageError::other("cannot write limits", error))?;
    let name = without_nul(&new.name);
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO deployments (id, kind, name, name_folded, artifact_name, artifact_name_folded, created, state, \
             forced, targets, target_groups, is_dynamic, max_devices, fingerprint, configuration, retries, safety) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        )
        .bind(new.id)
        .bind(kind.as_str())
        .bind(&name)
        .bind(name.to_lowercase())
        .bind(&new.artifact_name)
        .bind(new.artifact_name.to_lowercase())
        .bind(created)
        .bind(DeploymentState::Pending.as_str())
        .bind(new.forced)
        .bind(without_nul(&new.chosen_by))
        .bind(without_nul(&groups))
        .bind(matches!(new.targets, Targets::Dynamic { .. }))
        .bind(max_devices)
        .bind(&new.fingerprint[..])
        .bind(new.configuration.as_ref().map(Secret::expose).map(without_nul))
        .bind(i64::from(new.plan.retries))
        .bind(&safety)
        .execute(connection)
        .await
        .map(drop)
    })
}
