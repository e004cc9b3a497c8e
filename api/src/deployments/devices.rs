//! Devices within deployments, and deployments of devices.

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;
use storage::{DeviceLog, DeviceState, StorageError};

use super::body::{DeviceBody, HistoryBody};
use super::{deployment_id, device_name, find, no_such, query};
use crate::auth::AuthenticatedUser;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Devices read from the database at once for a list without pages.
const SLICE: u32 = 500;

/// The largest page of a device's history. (Mender API.)
const HISTORY_PAGE: u32 = 20;

/// `GET /deployments/{id}/devices`: all that were told, without pages.
///
/// # Errors
/// 400, 404.
pub async fn list_all(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let deployment = find(&state, &id).await?.id;
    let deployments = state.storage.deployments.clone();
    // Whether the database answers has to be known before the answer begins.
    let first = deployments.told_after(deployment, "", SLICE).await?;
    let slices = stream::try_unfold(Some((first, "[")), move |left| {
        let deployments = deployments.clone();
        async move {
            let Some((slice, mut between)) = left else { return Ok(None) };
            let after = slice.last().filter(|_| slice.len() == SLICE as usize).map(|last| last.device.clone());
            let is_empty = slice.is_empty() && between == "[";
            let mut text = if is_empty { "[".to_owned() } else { String::new() };
            for device in slice {
                let device = DeviceBody::of(device)?;
                text += between;
                text += &serde_json::to_string(&device).expect("a device has a JSON form");
                between = ",";
            }
            let next = match after {
                // An answer that breaks off is the only way left to say that the rest cannot be read.
                Some(after) => Some((deployments.told_after(deployment, &after, SLICE).await?, between)),
                None => None,
            };
            if next.is_none() {
                text.push(']');
            }
            Ok::<_, StorageError>(Some((Bytes::from(text), next)))
        }
    });
    Ok(HttpResponse::Ok().content_type("application/json; charset=utf-8").streaming(slices))
}

/// `GET /deployments/{id}/devices/list`: a page of those that were told.
///
/// # Errors
/// 400, 404.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (page, states) = (Page::from_query(&query)?, query::states(&query)?);
    let deployment = find(&state, &id).await?.id;
    let (found, total) = state.storage.deployments.devices(deployment, &states, page.offset(), page.size).await?;
    let devices: Vec<DeviceBody> = found.into_iter().map(DeviceBody::of).collect::<Result<_, _>>()?;
    Ok(answer_page(request.path(), &query, page, Extent::Total(total), &devices))
}

/// `GET /deployments/{id}/device_list`: the ids of all it is for.
///
/// # Errors
/// 400, 404.
pub async fn list_ids(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let deployment = find(&state, &id).await?.id;
    let mut all: Vec<String> = Vec::new();
    loop {
        let after = all.last().cloned().unwrap_or_default();
        let slice = state.storage.deployments.members(deployment, &after, SLICE).await?;
        let is_last = slice.len() < SLICE as usize;
        all.extend(slice);
        if is_last {
            return Ok(answer_json(&mut HttpResponse::Ok(), &all));
        }
    }
}

/// `GET /deployments/{id}/devices/{device}/log`: what a device says went wrong.
///
/// # Errors
/// 400, 404 also if it said nothing.
pub async fn log(
    _: AuthenticatedUser,
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let (id, device) = path.into_inner();
    match state.storage.deployments.log(deployment_id(&id)?, device_name(&device)?).await? {
        DeviceLog::NoDevice | DeviceLog::Nothing => Err(no_such()),
        DeviceLog::Messages(text) => Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text)),
    }
}

/// `GET /deployments/devices/{device}`: what a device was told of, newest first.
///
/// # Errors
/// 400 for paging and for what is no status.
pub async fn history(
    _: AuthenticatedUser,
    request: HttpRequest,
    device: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (page, states) = (Page::from_query(&query)?, query::states(&query)?);
    if page.size > HISTORY_PAGE {
        return Err(ApiError::bad_request(format!("parameter \"per_page\" above limit (max: {HISTORY_PAGE})")));
    }
    let (history, total) = read(&state, &device, &states, page).await?;
    Ok(answer_page(request.path(), &query, page, Extent::Total(total), &history))
}

/// A page of what a device was told of.
pub(super) async fn read(
    state: &ApiState,
    device: &str,
    states: &[DeviceState],
    page: Page,
) -> Result<(Vec<HistoryBody>, u64), ApiError> {
    let device = device_name(device)?;
    let (found, total) = state.storage.deployments.history(device, states, page.offset(), page.size).await?;
    Ok((found.into_iter().map(HistoryBody::of).collect::<Result<_, _>>()?, total))
}
