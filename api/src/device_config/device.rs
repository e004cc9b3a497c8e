//! What devices ask about their configuration, and say of it. (Mender API: device configuration, devices.)

use actix_web::{HttpResponse, web};
use storage::clock;

use super::{no_device, settings};
use crate::auth::AuthenticatedDevice;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::state::ApiState;

/// `GET /configuration`: what the device is told to be.
///
/// # Errors
/// 404 for a device that is gone meanwhile.
pub async fn get(device: AuthenticatedDevice, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let config = state.storage.device_configs.find(device.0.device).await?.ok_or_else(no_device)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &config.configured))
}

/// `PUT /configuration`: what the device is, all of it. It is said after every change of the device's token too, mostly
/// unchanged.
///
/// # Errors
/// 400 for a body against the rules, 401 for a device that is being removed.
pub async fn report(
    device: AuthenticatedDevice,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let reported = settings(&body)?;
    if state.storage.device_configs.report(device.0.device, &reported, clock::now()).await? {
        return Ok(HttpResponse::NoContent().finish());
    }
    Err(ApiError::unauthorized("dev auth: unauthorized"))
}
