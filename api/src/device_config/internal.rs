//! What other services write about devices' configurations. (Mender API: device configuration, internal.)

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use storage::{DeviceId, Merged, Provisioned, clock};

use super::{no_device, note, settings};
use crate::body::RawJson;
use crate::error::ApiError;
use crate::internal::ours;
use crate::state::ApiState;

/// `DELETE /tenants/`: empties the configurations of all devices.
///
/// # Errors
/// When the database cannot be asked; some may be empty then.
pub async fn wipe(state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    state.storage.device_configs.clear().await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /tenants/{tenant}/devices`: makes an empty record for a device. One that nobody has written to is as good as none.
///
/// # Errors
/// 400 for a body without the id of a device, 404 for an unknown device and another tenant, 409 if there is a record.
pub async fn provision(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let wanted: ProvisionBody = body.object("failed to decode device")?;
    let device: DeviceId =
        wanted.device_id.parse().map_err(|error| ApiError::bad_request(format!("device_id: {error}")))?;
    match state.storage.device_configs.provision(device, clock::now()).await? {
        Provisioned::Made => Ok(HttpResponse::Created().finish()),
        Provisioned::WasThere => Err(ApiError::Conflict("the device has a configuration already".into())),
        Provisioned::NoDevice => Err(no_device()),
    }
}

#[derive(Debug, Deserialize)]
struct ProvisionBody {
    #[serde(default)]
    device_id: String,
}

/// `DELETE /tenants/{tenant}/devices/{id}`: empties the configuration of a device.
///
/// # Errors
/// 404 if there is nothing in it, for an unknown device and another tenant.
pub async fn forget(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let device: DeviceId = path.1.parse().map_err(|_| no_device())?;
    if state.storage.device_configs.forget(device).await? {
        return Ok(HttpResponse::NoContent().finish());
    }
    Err(no_device())
}

/// `PATCH /tenants/{tenant}/configurations/device/{id}`: changes some of what a device is told to be.
///
/// # Errors
/// 400 for a body against the rules and for too many settings, 404 for an unknown device and another tenant.
pub async fn merge(
    path: web::Path<(String, String)>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let changes = settings(&body)?;
    let device: DeviceId = path.1.parse().map_err(|_| no_device())?;
    match state.storage.device_configs.merge(device, &changes, clock::now()).await? {
        Merged::Stored(configured) => {
            note(&request, &configured);
            Ok(HttpResponse::NoContent().finish())
        }
        Merged::Refused(fault) => Err(fault.into()),
        Merged::NoDevice => Err(no_device()),
    }
}
