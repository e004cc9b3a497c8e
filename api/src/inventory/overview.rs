//! The fleet at a glance. (Mender API: inventory, management v2.)

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use storage::DeviceId;
use storage::inventory::TierCounts;

use super::no_device;
use crate::auth::AuthenticatedUser;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::state::ApiState;

/// Attributes that are named.
const KNOWN: u32 = 500;

/// `GET /filters/attributes`: what can be asked about, with the number of devices that have it.
///
/// # Errors
/// When the database cannot be asked.
pub async fn attributes(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let known = state.storage.inventory.known_attributes(KNOWN).await?.into_iter();
    let body: Vec<Value> =
        known.map(|known| json!({"name": known.name, "scope": known.scope, "count": known.devices})).collect();
    Ok(answer_json(&mut HttpResponse::Ok(), &body))
}

/// `GET /statistics`: how many devices there are, by status and tier.
///
/// # Errors
/// When the database cannot be asked.
pub async fn statistics(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    answer_statistics(&state).await
}

pub(super) async fn answer_statistics(state: &ApiState) -> Result<HttpResponse, ApiError> {
    let statistics = state.storage.inventory.statistics().await?;
    let tiers =
        |TierCounts { standard, micro, system }| json!({"standard": standard, "micro": micro, "system": system});
    let by_status = json!({"accepted": tiers(statistics.accepted), "pending": tiers(statistics.pending)});
    Ok(answer_json(&mut HttpResponse::Ok(), &json!({ "devices_by_status": by_status })))
}

/// `GET /devices/{id}/components` of v2alpha1: the parts a device is made of, of which this hub knows none.
///
/// # Errors
/// 404 for an unknown device.
pub async fn components(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let id: DeviceId = id.parse().map_err(|_| no_device())?;
    state.storage.inventory.group_of(id).await?.ok_or_else(no_device)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &json!({})))
}
