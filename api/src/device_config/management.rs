//! What users tell devices to be. (Mender API: device configuration, management.)
//!
//! Writing it does not touch the device: only a deployment does.

use actix_web::{HttpRequest, HttpResponse, web};
use actors::trigger::Asker;
use serde::Serialize;
use storage::{Configuration, DeploymentId, DeviceConfig, DeviceId, Timestamp, clock};

use super::{no_device, note, settings};
use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::state::ApiState;

#[derive(Debug, Serialize)]
struct ConfigBody {
    id: DeviceId,
    configured: Configuration,
    reported: Configuration,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment_id: Option<DeploymentId>,
    updated_ts: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_ts: Option<Timestamp>,
}

impl From<DeviceConfig> for ConfigBody {
    fn from(config: DeviceConfig) -> Self {
        Self {
            id: config.device,
            configured: config.configured,
            reported: config.reported,
            deployment_id: config.deployment,
            updated_ts: config.updated,
            reported_ts: config.reported_at,
        }
    }
}

/// `GET /configurations/device/{id}`.
///
/// # Errors
/// 404 for an unknown device.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let device: DeviceId = id.parse().map_err(|_| no_device())?;
    let config = state.storage.device_configs.find(device).await?.ok_or_else(no_device)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &ConfigBody::from(config)))
}

/// `PUT /configurations/device/{id}`: all that the device is told to be.
///
/// # Errors
/// 400 for a body against the rules, 404 for an unknown device.
pub async fn set(
    _: AuthenticatedUser,
    id: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let configured = settings(&body)?;
    let device: DeviceId = id.parse().map_err(|_| no_device())?;
    if !state.storage.device_configs.configure(device, &configured, clock::now()).await? {
        return Err(no_device());
    }
    note(&request, &configured);
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /configurations/device/{id}/deploy`: brings the device what it is told to be.
///
/// # Errors
/// 404 for an unknown device, 400 for a body against the rules.
pub async fn deploy(
    AuthenticatedUser(user): AuthenticatedUser,
    id: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    super::deploy(&id, &request, &state, &body, Asker::User(user.user)).await
}
