//! What other services ask about devices' monitoring. (Mender API: device monitor, internal.)

use actix_web::{HttpRequest, HttpResponse, web};
use actors::monitor::AlertBody;
use serde::Serialize;
use storage::{Alert, AlertFilter, DeviceId, StorageError, SubjectsOf};

use super::management::subjects;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::internal::ours;
use crate::paging::{Page, Query};
use crate::state::ApiState;

/// Devices forgotten at once.
const FORGET: u32 = 100;

/// More than a device can have open or remember closed.
const ALL: u32 = 10_000;

#[derive(Debug, Serialize)]
struct DeviceBody {
    id: DeviceId,
    alerts_open_count: u64,
    alerts_total_count: u64,
    alerts: Vec<AlertBody<Alert>>,
}

/// `GET /tenants/{tenant}/devices`: devices with what is open on each; those with these `id`s, or all that ever reported.
///
/// # Errors
/// 404 for another tenant, 400 for paging.
pub async fn devices(
    tenant: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let named: Vec<&str> = query.all("id").collect();
    let devices: Vec<DeviceId> = if named.is_empty() {
        state.storage.alerts.devices(page.offset(), page.size).await?
    } else {
        let known = named.iter().filter_map(|id| id.parse().ok());
        known.skip(page.offset() as usize).take(page.size as usize).collect()
    };
    let mut bodies = Vec::with_capacity(devices.len());
    for id in devices {
        let counts = state.storage.alerts.counts(id).await?;
        let alerts = all_latest(&state, id, SubjectsOf::Open).await?;
        bodies.push(DeviceBody { id, alerts_open_count: counts.open, alerts_total_count: counts.total, alerts });
    }
    Ok(answer_json(&mut HttpResponse::Ok(), &bodies))
}

/// `GET /tenants/{tenant}/devices/{id}/alerts/latest`: all of them, on one page.
///
/// # Errors
/// 404 for another tenant, 400 for a level that is none.
pub async fn latest(
    path: web::Path<(String, String)>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let subjects = subjects(&Query::parse(request.query_string()))?;
    let alerts = match path.1.parse::<DeviceId>() {
        Ok(device) => all_latest(&state, device, subjects).await?,
        Err(_) => vec![],
    };
    Ok(answer_json(&mut HttpResponse::Ok(), &alerts))
}

async fn all_latest(
    state: &ApiState,
    device: DeviceId,
    subjects: SubjectsOf,
) -> Result<Vec<AlertBody<Alert>>, StorageError> {
    let (alerts, _) = state.storage.alerts.latest(device, subjects, AlertFilter::default(), 0, ALL).await?;
    Ok(alerts.into_iter().map(AlertBody).collect())
}

/// `DELETE /tenants/{tenant}/devices/{id}`: forgets the alerts and checks of a device.
///
/// # Errors
/// 404 for another tenant.
pub async fn forget(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    if let Ok(device) = path.1.parse::<DeviceId>() {
        state.storage.alerts.forget(device).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /tenants/`: forgets the alerts and checks of all devices.
///
/// # Errors
/// When the database cannot be asked; some may be forgotten then.
pub async fn wipe(state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    loop {
        let devices = state.storage.alerts.devices(0, FORGET).await?;
        if devices.is_empty() {
            break;
        }
        for device in devices {
            state.storage.alerts.forget(device).await?;
        }
    }
    // Also of those that never sent an alert.
    state.storage.alerts.forget_checks().await?;
    Ok(HttpResponse::NoContent().finish())
}
