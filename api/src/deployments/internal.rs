//! What other services ask about deployments. (Mender API: deployments, internal.)

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use storage::DeviceDeploymentId;

use super::body::{DeploymentBody, HistoryBody, LastStatusBody};
use super::query::may_be_device;
use super::{devices, query};
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::internal::ours;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Devices that are asked about at once. (Mender API.)
const DEVICES_LIMIT: usize = 1024;

/// `POST /tenants`: there is one tenant, and it is there.
///
/// # Errors
/// 400 without a name.
pub async fn add_tenant(body: RawJson) -> Result<HttpResponse, ApiError> {
    #[derive(Deserialize)]
    struct Tenant {
        #[serde(default)]
        tenant_id: String,
    }
    let Tenant { tenant_id } = body.object("Validating request body")?;
    if tenant_id.is_empty() {
        return Err(ApiError::bad_request("tenant_id: cannot be blank."));
    }
    Ok(HttpResponse::Created().finish())
}

/// `GET /tenants/{tenant}/deployments`.
///
/// # Errors
/// 404 for another tenant, 400 as for users.
pub async fn list(
    tenant: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let query = Query::parse(request.query_string());
    let (filter, direction) = query::deployments_v1(&query)?;
    let page = Page::from_query(&query)?;
    let (found, total) = state.storage.deployments.list(&filter, direction, page.offset(), page.size).await?;
    Ok(answer_page(request.path(), &query, page, Extent::Total(total), &DeploymentBody::all(found)?))
}

/// `GET /tenants/{tenant}/deployments/devices?id=…`: parts of devices in deployments, by their own ids.
///
/// # Errors
/// 404 for another tenant, 400 without an id, with too many, and for what is none.
pub async fn parts(
    tenant: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let query = Query::parse(request.query_string());
    let malformed = |_| ApiError::bad_request("ID is not a valid UUID");
    let ids = query.all("id").take(DEVICES_LIMIT + 1).map(|id| id.parse().map_err(malformed));
    let ids: Vec<DeviceDeploymentId> = ids.collect::<Result<_, _>>()?;
    match ids.len() {
        0 => return Err(ApiError::bad_request("id: cannot be blank")),
        count if count > DEVICES_LIMIT => {
            return Err(ApiError::bad_request(format!("id: at most {DEVICES_LIMIT} are taken")));
        }
        _ => {}
    }
    let found = state.storage.deployments.parts(&ids).await?;
    let found: Vec<HistoryBody> = found.into_iter().map(HistoryBody::of).collect::<Result<_, _>>()?;
    Ok(answer_json(&mut HttpResponse::Ok(), &found))
}

/// `GET /tenants/{tenant}/deployments/devices/{id}`.
///
/// # Errors
/// 404 for another tenant, 400 for paging.
pub async fn history(
    path: web::Path<(String, String)>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let query = Query::parse(request.query_string());
    let (page, states) = (Page::from_query(&query)?, query::states(&query)?);
    let (history, total) = devices::read(&state, &path.1, &states, page).await?;
    Ok(answer_page(request.path(), &query, page, Extent::Total(total), &history))
}

/// `DELETE /tenants/{tenant}/deployments/devices/{id}`: the device is removed from the installation.
///
/// # Errors
/// 404 for another tenant.
pub async fn forget_device(
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    state.rollout.decommission(super::device_name(&path.1)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /tenants/{tenant}/devices/deployments/last`: what each of these devices went through last.
///
/// # Errors
/// 404 for another tenant, 400 for no devices or too many.
pub async fn last_statuses(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    #[derive(Deserialize)]
    struct Wanted {
        #[serde(default)]
        device_ids: Vec<String>,
    }
    #[derive(Serialize)]
    struct Found {
        device_deployment_last_statuses: Vec<LastStatusBody>,
    }
    ours(&tenant)?;
    let Wanted { device_ids } = body.object("Validating request body")?;
    if device_ids.is_empty() || device_ids.len() > DEVICES_LIMIT || !device_ids.iter().all(|id| may_be_device(id)) {
        let text = format!("device_ids: between 1 and {DEVICES_LIMIT} ids are taken");
        return Err(ApiError::bad_request(text));
    }
    let found = state.storage.deployments.last_statuses(&device_ids).await?;
    let found = Found { device_deployment_last_statuses: found.into_iter().map(LastStatusBody::from).collect() };
    Ok(answer_json(&mut HttpResponse::Ok(), &found))
}
