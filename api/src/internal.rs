//! The internal API: what the other services of an installation ask, on a listener of its own. (Mender API: device connect,
//! internal; device authentication and users have a file each.)
//!
//! Paths name a tenant. A hub has one, without a name, so callers leave that segment empty (`/tenants//devices`); any other
//! tenant is not found.

pub mod device_auth;
pub mod users;

use std::fmt::Display;

use actix_web::http::Uri;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::housekeeping::forget_everything;
use actors::trigger::{Asker, Command};
use serde::Deserialize;
use storage::{DeviceId, clock};

use crate::body::RawJson;
use crate::error::ApiError;
use crate::headers::{FORWARDED_METHOD, FORWARDED_URI};
use crate::rate_limits::Call;
use crate::state::ApiState;
use crate::triggers;

/// `GET /alive`.
pub async fn alive() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// `GET /health`.
///
/// # Errors
/// 503 when a backend does not answer.
pub async fn health(state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    if state.readiness.is_up(&state).await {
        return Ok(HttpResponse::NoContent().finish());
    }
    Err(ApiError::Unavailable)
}

/// `GET /shutdown`: this node stops in good order. Answered at once, since what comes after may take a while.
pub async fn shut_down(state: web::Data<ApiState>) -> HttpResponse {
    (state.shut_down)();
    HttpResponse::Accepted().finish()
}

/// `POST /tenants/{tenant}/devices`: makes a device known as disconnected; one that is known stays as it is.
///
/// # Errors
/// 404 for another tenant, 400 for a body without the id of a device.
pub async fn provision(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let wanted: ProvisionBody = body.object("invalid payload")?;
    if wanted.device_id.is_empty() {
        return Err(ApiError::bad_request("device_id is empty"));
    }
    let device: DeviceId = wanted
        .device_id
        .parse()
        .map_err(|error| ApiError::bad_request(format!("invalid payload: device_id: {error}")))?;
    state.storage.connections.provision(device, clock::now()).await?;
    Ok(HttpResponse::Created().finish())
}

#[derive(Debug, Deserialize)]
struct ProvisionBody {
    #[serde(default)]
    device_id: String,
}

/// `DELETE /tenants/{tenant}/devices/{id}`: forgets what is known about the device's connections. A live socket stays.
///
/// # Errors
/// 404 for another tenant.
pub async fn forget(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    if let Ok(device) = path.1.parse::<DeviceId>() {
        state.storage.connections.forget(device).await?;
    }
    Ok(HttpResponse::Accepted().finish())
}

/// `POST /tenants/{tenant}/devices/{id}/check-update`.
///
/// # Errors
/// 404 for another tenant and for a device that is not connected, 429 for one that has not answered earlier commands.
pub async fn check_update(
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    triggers::send(&state, &path.1, Command::CheckUpdate, Asker::Service).await
}

/// `POST /tenants/{tenant}/devices/{id}/send-inventory`.
///
/// # Errors
/// As [`check_update`].
pub async fn send_inventory(
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    triggers::send(&state, &path.1, Command::SendInventory, Asker::Service).await
}

/// Whether a path names our tenant.
///
/// # Errors
/// 404 for another.
pub(crate) fn ours(tenant: &str) -> Result<(), ApiError> {
    if tenant.is_empty() { Ok(()) } else { Err(ApiError::not_found()) }
}

/// Counts the call that a gateway asks about against the quota of who makes it.
async fn count_forwarded(state: &ApiState, request: &HttpRequest, subject: &dyn Display) -> Result<(), ApiError> {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let (Some(method), Some(uri)) = (text(FORWARDED_METHOD), text(FORWARDED_URI)) else { return Ok(()) };
    let uri: Uri = uri.parse().map_err(|_| ApiError::bad_request("malformed X-Forwarded-Uri"))?;
    let call = Call { subject, method, path: uri.path() };
    state.config.rate_limits.count(&state.storage.presence, call, clock::now()).await
}

/// `DELETE /tenants/`: forgets everything that is known about connections and sessions, recordings and events included.
/// Devices and users stay: they are not this area's.
///
/// # Errors
/// When the database cannot be asked.
pub async fn wipe(state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    forget_everything(&state.storage, &state.remove_recordings).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /tenants/{tenant}` of another tenant.
///
/// # Errors
/// Always.
pub async fn wipe_another() -> Result<HttpResponse, ApiError> {
    Err(ApiError::not_found())
}
