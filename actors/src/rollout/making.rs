//! Deployments in the making: who is chosen, and what makes two of them equal.

use std::collections::HashSet;

use serde_json::json;
use sha2::{Digest, Sha256};
use storage::deployments::Creation;
use storage::inventory::filter::{Condition, Filter};
use storage::{DeploymentId, DeviceId, NewDeployment, Plan, Safety, StorageError, Targets, clock};
use tracing::warn;

use super::Rollout;
use super::phasing::{BadPhases, WishedPhase, divide};
use crate::bus::Event;
use crate::trigger::Asker;

/// Devices read from the inventory at a time.
const PAGE: u32 = 500;

/// What somebody wants to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Name of the deployment.
    pub name: String,
    /// Name of the release.
    pub artifact_name: String,
    /// Whether devices that have it already install it again.
    pub forced: bool,
    /// For whom.
    pub chosen: Chosen,
    /// In which phases, in order; none: for all at once.
    pub phases: Vec<WishedPhase>,
    /// How often a device that has failed is told again.
    pub retries: u32,
    /// What pauses it by itself.
    pub safety: Safety,
}

/// Which devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// These, known or not.
    Devices(Vec<String>),
    /// The accepted ones of a group, as it is now.
    Group(String),
    /// All that are accepted now.
    All,
    /// Whoever passes a filter when it asks.
    Filter {
        /// Its conditions, in the JSON of the inventory's API.
        terms: String,
        /// How many have to succeed; 0: it goes on until it is aborted.
        max_devices: u64,
    },
}

/// Why there is no deployment.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// There is nobody to install it.
    #[error("No devices for the deployment")]
    NoDevices,
    /// There is nothing to install.
    #[error("No artifact for the deployment")]
    NoArtifact,
    /// An equal one goes on.
    #[error("Invalid deployment definition: there is already an active deployment with the same parameters")]
    Equal,
    /// Its devices cannot be divided as it wants.
    #[error("Validating request body: phases: {0}")]
    BadPhases(#[from] BadPhases),
    /// There is one with this id.
    #[error("a deployment with this id exists already")]
    IdTaken,
    /// See [`StorageError`].
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The terms of a deployment for all accepted devices, as the API shows them: by these it is known again.
pub fn terms_for_all() -> serde_json::Value {
    json!([{"scope": "identity", "attribute": "status", "type": "$eq", "value": "accepted"}])
}

impl Rollout {
    /// Makes a deployment. Its devices find it on this node from then on, and on others once they have heard.
    ///
    /// # Errors
    /// See [`MakeError`].
    pub async fn make(&self, wish: Wish) -> Result<DeploymentId, MakeError> {
        let accepted = || Condition::equals("identity", "status", "accepted");
        let term = |scope: &str, attribute: &str, operator: &str, value: serde_json::Value| json!({"scope": scope, "attribute": attribute, "type": operator, "value": value});
        let mut groups = vec![];
        let (targets, chosen_by) = match wish.chosen {
            Chosen::Devices(mut devices) => {
                let mut seen = HashSet::new();
                devices.retain(|device| seen.insert(device.clone()));
                if let [only] = &devices[..]
                    && let Ok(device) = only.parse::<DeviceId>()
                {
                    groups.extend(self.0.inventory.group_of(device).await?.flatten());
                }
                let terms = json!([term("identity", "id", "$in", json!(devices))]);
                (Targets::Devices(devices), terms.to_string())
            }
            Chosen::Group(group) => {
                let filter = vec![accepted(), Condition::equals("system", "group", &group)];
                let devices = self.snapshot(filter).await?;
                let terms = json!([term("system", "group", "$eq", json!(group))]);
                groups.push(group);
                (Targets::Devices(devices), terms.to_string())
            }
            Chosen::All => {
                let devices = self.snapshot(vec![accepted()]).await?;
                (Targets::Devices(devices), terms_for_all().to_string())
            }
            Chosen::Filter { terms, max_devices } => (Targets::Dynamic { max_devices }, terms),
        };
        if matches!(&targets, Targets::Devices(devices) if devices.is_empty()) {
            return Err(MakeError::NoDevices);
        }
        let total = match &targets {
            Targets::Devices(devices) => Some(devices.len() as u64),
            Targets::Dynamic { max_devices } => Some(*max_devices).filter(|most| *most > 0),
        };
        let plan = Plan { phases: divide(&wish.phases, total)?, retries: wish.retries, safety: wish.safety };
        let fingerprint = fingerprint(&wish.name, &wish.artifact_name, wish.forced, &targets, &chosen_by);
        self.create(NewDeployment {
            id: DeploymentId::random(),
            name: wish.name,
            artifact_name: wish.artifact_name,
            forced: wish.forced,
            targets,
            chosen_by,
            groups,
            configuration: None,
            plan,
            fingerprint,
            at: clock::now(),
        })
        .await
    }

    /// Makes a deployment of a configuration (JSON) for one device, with an id of the caller's choice.
    ///
    /// # Errors
    /// `IdTaken`, `Storage`.
    pub async fn make_configuration(
        &self,
        id: DeploymentId,
        device: DeviceId,
        name: &str,
        configuration: String,
        retries: u32,
    ) -> Result<DeploymentId, MakeError> {
        // No two of these are equal: each has its id, of which there is one.
        let fingerprint = Sha256::digest(id.uuid().as_bytes()).into();
        self.create(NewDeployment {
            id,
            name: name.to_owned(),
            artifact_name: name.to_owned(),
            forced: false,
            targets: Targets::Devices(vec![device.to_string()]),
            chosen_by: "[]".to_owned(),
            groups: vec![],
            configuration: Some(configuration.as_str().into()),
            plan: Plan { retries, ..Plan::default() },
            fingerprint,
            at: clock::now(),
        })
        .await
    }

    async fn create(&self, new: NewDeployment) -> Result<DeploymentId, MakeError> {
        match self.0.deployments.create(&new).await? {
            Creation::Made(_) => {}
            Creation::NoArtifact => return Err(MakeError::NoArtifact),
            Creation::Equal => return Err(MakeError::Equal),
            Creation::IdTaken => return Err(MakeError::IdTaken),
        }
        match &new.targets {
            // Of many such deployments each is for one device: nothing else need be read again.
            Targets::Devices(devices) if new.configuration.is_some() => {
                self.hear_of_devices(devices.iter().filter_map(|device| device.parse().ok()));
            }
            _ => self.publish().await,
        }
        self.wake_for(&new, Asker::Service).await;
        Ok(new.id)
    }

    /// Lets devices find a deployment that was stored just now: on this node from then on, on others once they have heard.
    pub(crate) async fn publish(&self) {
        if let Err(error) = self.look().await {
            warn!(%error, "a new deployment cannot be read yet; devices are looked up one by one until it can");
            self.doubt();
        }
        self.tell(&Event::DeploymentMade);
    }

    /// The devices that pass now.
    async fn snapshot(&self, conditions: Vec<Condition>) -> Result<Vec<String>, StorageError> {
        let filter = Filter::new(conditions).map_err(|error| StorageError::Other(error.into()))?;
        let (mut devices, mut after) = (Vec::new(), None);
        loop {
            // By id: devices that come and go meanwhile move nobody else to another page.
            let page = self.0.inventory.passing(&filter, after, PAGE).await?;
            devices.extend(page.iter().map(ToString::to_string));
            if page.len() < PAGE as usize {
                return Ok(devices);
            }
            after = page.last().copied();
        }
    }
}

/// Two deployments are equal that want the same for the same devices, under one name.
fn fingerprint(name: &str, artifact_name: &str, forced: bool, targets: &Targets, chosen_by: &str) -> [u8; 32] {
    let chosen = match targets {
        Targets::Devices(devices) => json!(devices),
        Targets::Dynamic { max_devices } => json!({ "terms": chosen_by, "max_devices": max_devices }),
    };
    Sha256::digest(json!([name, artifact_name, forced, chosen]).to_string()).into()
}
