//! Deployments in JSON.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};
use storage::device_configs::masked;
use storage::{
    ArtifactId, Counts, Deployment, DeploymentId, DeploymentKind, DeviceDeployment, DeviceDeploymentId, DeviceState,
    LastStatus, Phase, PhaseId, StorageError, Timestamp,
};

use crate::artifacts::body::ArtifactBody;

/// A deployment. (Mender API: deployment object.)
#[derive(Debug, Serialize)]
pub struct DeploymentBody {
    id: DeploymentId,
    name: String,
    artifact_name: String,
    created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<Timestamp>,
    status: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    device_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max_devices: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    artifacts: Vec<ArtifactId>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force_installation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<FilterBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    phases: Vec<PhaseBody>,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
    statistics: StatisticsBody,
}

/// A phase. (Mender API: deployment phase; `device_count` are those that were told in it.)
#[derive(Debug, Serialize)]
struct PhaseBody {
    id: PhaseId,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_ts: Option<Timestamp>,
    device_count: u64,
}

impl From<Phase> for PhaseBody {
    fn from(phase: Phase) -> Self {
        let start_ts = phase.starts.or(phase.opened);
        Self { id: phase.id, batch_size: phase.percent, start_ts, device_count: phase.counts.all() }
    }
}

#[derive(Debug, Serialize)]
struct FilterBody {
    id: &'static str,
    name: &'static str,
    terms: Value,
}

#[derive(Debug, Serialize)]
struct StatisticsBody {
    status: BTreeMap<&'static str, u64>,
    total_size: u64,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// How many devices stand where, all thirteen of them.
pub fn statistics(counts: &Counts) -> BTreeMap<&'static str, u64> {
    DeviceState::ALL.into_iter().map(|state| (state.as_str(), counts.of(state))).collect()
}

impl DeploymentBody {
    /// What is said about a deployment.
    pub fn of(deployment: Deployment) -> Result<Self, StorageError> {
        let corrupt = |_| StorageError::Corrupt(format!("the targets of deployment {}", deployment.id));
        let terms: Value = serde_json::from_str(&deployment.chosen_by).map_err(corrupt)?;
        let has_terms = terms.as_array().is_some_and(|terms| !terms.is_empty());
        let is_configuration = deployment.kind == DeploymentKind::Configuration;
        Ok(Self {
            configuration: deployment
                .configuration
                .filter(|_| is_configuration)
                .and_then(|text| shortened(text.expose())),
            statistics: StatisticsBody { status: statistics(&deployment.counts), total_size: deployment.total_size },
            filter: has_terms.then_some(FilterBody { id: "", name: "", terms }),
            id: deployment.id,
            name: deployment.name,
            artifact_name: deployment.artifact_name,
            created: deployment.created,
            finished: deployment.finished,
            status: deployment.state.as_str(),
            kind: deployment.kind.as_str(),
            device_count: deployment.device_count,
            max_devices: deployment.max_devices,
            groups: deployment.groups,
            artifacts: deployment.artifacts,
            force_installation: deployment.forced,
            // One that was only made to be counted is none that anybody asked for.
            phases: match &deployment.phases[..] {
                [only] if only.percent.is_none() && only.starts.is_none() => vec![],
                _ => deployment.phases.into_iter().map(PhaseBody::from).collect(),
            },
            retries: deployment.retries,
        })
    }

    /// The same for many.
    pub fn all(deployments: Vec<Deployment>) -> Result<Vec<Self>, StorageError> {
        deployments.into_iter().map(Self::of).collect()
    }
}

/// A configuration with the beginnings of its values, as the Base64 of its JSON; none if some value is no text.
fn shortened(configuration: &str) -> Option<String> {
    let values: Map<String, Value> = serde_json::from_str(configuration).ok()?;
    let short = |(key, value): (String, Value)| Some((key, Value::String(masked(value.as_str()?))));
    let short: Map<String, Value> = values.into_iter().map(short).collect::<Option<_>>()?;
    Some(BASE64_STANDARD.encode(Value::Object(short).to_string()))
}

/// A device within a deployment. (Mender API: device of a deployment.)
#[derive(Debug, Serialize)]
pub struct DeviceBody {
    id: String,
    status: &'static str,
    created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    substate: String,
    log: bool,
    /// How often it has failed and was to try again. (Mender API: attempts.)
    #[serde(skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ArtifactBody>,
}

impl DeviceBody {
    /// What is said about a device.
    pub fn of(device: DeviceDeployment) -> Result<Self, StorageError> {
        Ok(Self {
            id: device.device,
            status: device.state.as_str(),
            created: device.created,
            started: device.started,
            finished: device.finished,
            deleted: device.deleted,
            substate: device.substate,
            log: device.has_log,
            attempts: device.attempts,
            image: device.artifact.map(ArtifactBody::of).transpose()?,
        })
    }
}

/// A device's part in a deployment, with both.
#[derive(Debug, Serialize)]
pub struct HistoryBody {
    id: DeviceDeploymentId,
    deployment: DeploymentBody,
    device: DeviceBody,
}

impl HistoryBody {
    /// What is said about it.
    pub fn of((deployment, device): (Deployment, DeviceDeployment)) -> Result<Self, StorageError> {
        let id = device.id;
        Ok(Self { id, deployment: DeploymentBody::of(deployment)?, device: DeviceBody::of(device)? })
    }
}

/// What a device went through last.
#[derive(Debug, Serialize)]
pub struct LastStatusBody {
    device_id: String,
    deployment_id: DeploymentId,
    device_deployment_id: DeviceDeploymentId,
    device_deployment_status: &'static str,
}

impl From<LastStatus> for LastStatusBody {
    fn from(last: LastStatus) -> Self {
        Self {
            device_id: last.device,
            deployment_id: last.deployment,
            device_deployment_id: last.device_deployment,
            device_deployment_status: last.state.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_shows_the_beginnings_of_its_values() {
        let shown =
            |text| shortened(text).map(|encoded| String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap());
        let text = r#"{"key":"secret","tiny":"ä"}"#;
        assert_eq!(shown(text).unwrap(), r#"{"key":"sec...<omitted>","tiny":"ä...<omitted>"}"#);
        assert_eq!(shown(r#"{"key":"secret","number":1}"#), None);
    }

    #[test]
    fn statistics_have_all_thirteen_statuses() {
        assert_eq!(statistics(&Counts::default()).len(), 13);
    }
}
