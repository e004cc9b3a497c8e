//! Operators who watch over a deployment: how far its phases are, why it is paused, and whether it goes on. (Mooring's own.)

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use storage::{Deployment, DeploymentId, PhaseId, Safety, Steered, Timestamp};

use super::body::statistics;
use super::{deployment_id, find, no_such};
use crate::auth::AuthenticatedUser;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::state::ApiState;

/// Why a deployment is paused that somebody pauses.
const BY_OPERATOR: &str = "by an operator";

#[derive(Debug, Serialize)]
struct RolloutBody {
    id: DeploymentId,
    name: String,
    artifact_name: String,
    status: &'static str,
    created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<Timestamp>,
    max_devices: u64,
    device_count: u64,
    statistics: BTreeMap<&'static str, u64>,
    retries: u32,
    safety: Safety,
    paused: Option<PauseBody>,
    phases: Vec<PhaseBody>,
}

#[derive(Debug, Serialize)]
struct PauseBody {
    since: Timestamp,
    reason: String,
}

#[derive(Debug, Serialize)]
struct PhaseBody {
    number: u32,
    id: PhaseId,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u8>,
    devices: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_ts: Option<Timestamp>,
    opened: Option<Timestamp>,
    statistics: BTreeMap<&'static str, u64>,
}

impl From<Deployment> for RolloutBody {
    fn from(deployment: Deployment) -> Self {
        let phases = deployment.phases.into_iter().map(|phase| PhaseBody {
            number: phase.number,
            id: phase.id,
            batch_size: phase.percent,
            devices: phase.devices,
            start_ts: phase.starts,
            opened: phase.opened,
            statistics: statistics(&phase.counts),
        });
        Self {
            id: deployment.id,
            status: deployment.state.as_str(),
            created: deployment.created,
            finished: deployment.finished,
            max_devices: deployment.max_devices,
            device_count: deployment.device_count,
            statistics: statistics(&deployment.counts),
            retries: deployment.retries,
            safety: deployment.safety,
            paused: deployment.paused.map(|pause| PauseBody { since: pause.since, reason: pause.reason }),
            phases: phases.collect(),
            name: deployment.name,
            artifact_name: deployment.artifact_name,
        }
    }
}

/// `GET /mooring/deployments/{id}`: how far a deployment is, phase by phase.
///
/// # Errors
/// 400 for what is no id, 404.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    Ok(answer_json(&mut HttpResponse::Ok(), &RolloutBody::from(find(&state, &id).await?)))
}

/// `PUT /mooring/deployments/{id}/pause`: no device is told anything new, those that are at it go on. Nothing changes for one
/// that is paused already.
///
/// # Errors
/// 400 for what is no id, 404, 422 if it is over.
pub async fn pause(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    answer(state.rollout.pause(deployment_id(&id)?, BY_OPERATOR).await?)
}

/// `PUT /mooring/deployments/{id}/resume`: it goes on. What went wrong until now pauses it no more.
///
/// # Errors
/// As [`pause`].
pub async fn resume(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    answer(state.rollout.resume(deployment_id(&id)?).await?)
}

fn answer(steered: Steered) -> Result<HttpResponse, ApiError> {
    match steered {
        Steered::Done | Steered::Unchanged => Ok(HttpResponse::NoContent().finish()),
        Steered::Unknown => Err(no_such()),
        Steered::Finished => Err(ApiError::Unprocessable("Deployment already finished".into())),
    }
}
