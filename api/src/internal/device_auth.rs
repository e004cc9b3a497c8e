//! Device authentication for the other services of an installation. (Mender API: device authentication, internal.)

use actix_web::{HttpRequest, HttpResponse, web};
use actors::admission::AdmissionError;
use serde::Deserialize;
use serde_json::json;
use storage::DeviceId;

use super::{count_forwarded, ours};
use crate::auth::device_token;
use crate::body::{RawJson, answer_json};
use crate::devices::management;
use crate::error::ApiError;
use crate::paging::Query;
use crate::state::ApiState;

/// The only limit there is.
const MAX_DEVICES: &str = "max_devices";

/// `GET` and `POST /tokens/verify`: whether the token in the request's headers is a device's and good. Counts against the
/// device's quota for the call named by `X-Forwarded-Method` and `X-Forwarded-Uri`.
///
/// # Errors
/// 401 if it is not, 429, 503.
pub async fn verify(request: HttpRequest, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let identity = state.gate.device(device_token(request.headers()).map_err(ApiError::TokenRefused)?).await?;
    count_forwarded(&state, &request, &identity.device).await?;
    Ok(HttpResponse::Ok().finish())
}

/// `DELETE /tokens?tenant_id=…`: ends the tokens of a tenant, or of one of its devices. The tenant of this hub has no name,
/// so whatever is named has none.
///
/// # Errors
/// 400 without a tenant.
pub async fn revoke_tokens(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    match Query::parse(request.query_string()).first("tenant_id") {
        Some(_) => Ok(HttpResponse::NoContent().finish()),
        None => Err(ApiError::bad_request("tenant_id must be provided")),
    }
}

/// `POST /tenants`: there is nothing to prepare.
pub async fn add_tenant() -> HttpResponse {
    HttpResponse::Created().finish()
}

/// `GET /tenant/{tenant}/limits/max_devices`.
///
/// # Errors
/// 400 for another limit, 404 for another tenant.
pub async fn limit(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    known_limit(&path)?;
    management::answer_limit(&state).await
}

/// `PUT /tenant/{tenant}/limits/max_devices`: how many devices may be accepted; -1 for any number. Stays until it is
/// deleted, or the settings of a starting hub name another.
///
/// # Errors
/// As [`limit`], and 400 for what is no number from -1.
pub async fn set_limit(
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    known_limit(&path)?;
    let wanted: LimitBody = body.object("failed to decode limit")?;
    let limit = match wanted.limit {
        -1 => None,
        limit => Some(u64::try_from(limit).map_err(|_| ApiError::bad_request("failed to decode limit: below -1"))?),
    };
    state.storage.devices.set_limit(limit).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Debug, Deserialize)]
struct LimitBody {
    limit: i64,
}

/// `DELETE /tenant/{tenant}/limits/max_devices`: any number may be accepted.
///
/// # Errors
/// As [`limit`].
pub async fn lift_limit(
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    known_limit(&path)?;
    state.storage.devices.set_limit(None).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn known_limit((tenant, name): &(String, String)) -> Result<(), ApiError> {
    ours(tenant)?;
    if name == MAX_DEVICES { Ok(()) } else { Err(ApiError::bad_request(format!("unsupported limit {name}"))) }
}

/// `GET /tenants/{tenant}/devices`: as the management API lists them.
///
/// # Errors
/// As there, and 404 for another tenant.
pub async fn list(
    request: HttpRequest,
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    management::answer_list_of(&request, &state).await
}

/// `GET /tenants/{tenant}/devices/count`.
///
/// # Errors
/// As [`list`].
pub async fn count(
    request: HttpRequest,
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    management::answer_count(&request, &state).await
}

/// `GET /tenants/{tenant}/devices/{id}/status`.
///
/// # Errors
/// 404 for an unknown device and another tenant.
pub async fn status(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let device = management::find(&state, &path.1).await?.ok_or(AdmissionError::DeviceNotFound)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &json!({ "status": device.status().as_str() })))
}

/// `PATCH /tenants/{tenant}/devices/{id}`: a service says whether it has provisioned the device. What belongs to a device is
/// made in the transaction that accepts it, so there is nothing to note.
///
/// # Errors
/// 400 for a body that says neither, 404 for an unknown device and another tenant.
pub async fn update(
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let _: UpdateBody = body.object("failed to decode device update")?;
    management::find(&state, &path.1).await?.ok_or(AdmissionError::DeviceNotFound)?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Debug, Deserialize)]
struct UpdateBody {
    #[serde(rename = "provisioned")]
    _provisioned: bool,
}

/// `DELETE /tenants/{tenant}/devices/{id}`: removes the device with all that belongs to it.
///
/// # Errors
/// 404 for an unknown device and another tenant.
pub async fn remove(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let id: DeviceId = path.1.parse().map_err(|_| AdmissionError::DeviceNotFound)?;
    state.admission.decommission(id).await?;
    Ok(HttpResponse::NoContent().finish())
}
