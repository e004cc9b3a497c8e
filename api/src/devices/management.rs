//! What users ask about devices, and decide. (Mender API: device authentication, management v2.)

use std::collections::BTreeSet;
use std::str::FromStr;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::admission::{AdmissionError, Preauthorized};
use serde::Deserialize;
use serde_json::Value;
use storage::{AuthSetId, Device, DeviceFilter, DeviceId, DeviceStatus};

use super::{DeviceBody, wanted_status};
use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::paging::{Extent, MAX_PER_PAGE, Page, Query, answer_page};
use crate::state::ApiState;

/// `GET /devices`.
///
/// # Errors
/// 400 for a status that does not exist and for paging.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    answer_list_of(&request, &state).await
}

/// The devices that a query asks for, whoever asks.
pub(crate) async fn answer_list_of(request: &HttpRequest, state: &ApiState) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let statuses: Result<Vec<DeviceStatus>, _> = query.all("status").map(DeviceStatus::from_str).collect();
    let statuses = statuses.map_err(|_| {
        ApiError::bad_request("filter status must be one of: accepted, pending, rejected, preauthorized or noauth")
    })?;
    let ids: Vec<&str> = query.all("id").collect();
    // The web UI asks for the devices of a whole table by their ids and forgets to say that it wants them all.
    let page = if ids.is_empty() {
        Page::from_query(&query)?
    } else {
        Page::with_default_size(&query, u32::try_from(ids.len()).unwrap_or(MAX_PER_PAGE))?
    };
    answer_list(state, request, &query, page, selection(statuses, &ids)).await
}

/// `POST /devices/search`: the same list, the filter in the body.
///
/// # Errors
/// 400 for a body that is no filter and for paging.
pub async fn search(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let filter: SearchBody = body.object("failed to decode device filter")?;
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let wanted = filter.status.as_slice();
    // Here a status that does not exist is no mistake; no device has it.
    let statuses: Vec<DeviceStatus> = wanted.iter().filter_map(|status| status.parse().ok()).collect();
    let ids: Vec<&str> = filter.id.as_slice().iter().map(String::as_str).collect();
    let selection = if statuses.is_empty() && !wanted.is_empty() { None } else { selection(statuses, &ids) };
    answer_list(&state, &request, &query, page, selection).await
}

#[derive(Debug, Deserialize)]
struct SearchBody {
    #[serde(default)]
    status: OneOrMany,
    #[serde(default)]
    id: OneOrMany,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(vec![])
    }
}

/// The filter, or `None` for one that no device passes: ids are opaque to clients, so one that cannot be ours is simply
/// not found.
///
/// What is named twice is asked for once: a body has room for more repetitions than a statement has for arguments.
fn selection(statuses: Vec<DeviceStatus>, ids: &[&str]) -> Option<DeviceFilter> {
    let statuses = statuses.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let found: BTreeSet<DeviceId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
    let found: Vec<DeviceId> = found.into_iter().collect();
    if found.is_empty() && !ids.is_empty() { None } else { Some(DeviceFilter { statuses, ids: found }) }
}

async fn answer_list(
    state: &ApiState,
    request: &HttpRequest,
    query: &Query,
    page: Page,
    selection: Option<DeviceFilter>,
) -> Result<HttpResponse, ApiError> {
    // One more than asked for tells whether another page follows.
    let mut devices = match selection {
        Some(filter) => state.storage.devices.list(&filter, page.offset(), page.size + 1).await?,
        None => vec![],
    };
    let size = page.size as usize;
    let more = devices.len() > size;
    devices.truncate(size);
    Ok(answer_page(
        request.path(),
        query,
        page,
        Extent::More(more),
        &devices.into_iter().map(DeviceBody::from).collect::<Vec<_>>(),
    ))
}

/// `GET /devices/count`.
///
/// # Errors
/// 400 for a status that does not exist.
pub async fn count(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    answer_count(&request, &state).await
}

/// How many devices a query is about, whoever asks.
pub(crate) async fn answer_count(request: &HttpRequest, state: &ApiState) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let status = query.first("status").map(DeviceStatus::from_str).transpose().map_err(|_| {
        ApiError::bad_request("status must be one of: pending, accepted, rejected, preauthorized, noauth")
    })?;
    let count = state.storage.devices.count(status).await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &serde_json::json!({ "count": count })))
}

/// `GET /devices/{id}`.
///
/// # Errors
/// 404 for an unknown device.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let device = find(&state, &id).await?.ok_or(AdmissionError::DeviceNotFound)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &DeviceBody::from(device)))
}

/// The device with this id, if it is one.
pub(crate) async fn find(state: &ApiState, id: &str) -> Result<Option<Device>, ApiError> {
    let Ok(id) = id.parse() else { return Ok(None) };
    Ok(state.storage.devices.find(id).await?)
}

/// `POST /devices`: lets in a device that has not asked yet.
///
/// # Errors
/// 400 for an identity that is no object and for a bad key. A device that is known already is 409, its body the device.
pub async fn preauthorize(
    _: AuthenticatedUser,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    const FAILED: &str = "failed to decode preauth request";
    let wanted: PreauthorizeBody = body.object(FAILED)?;
    if wanted.identity_data.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(ApiError::bad_request(format!("{FAILED}: identity_data must be an object that is not empty")));
    }
    let outcome = state.admission.preauthorize(&wanted.identity_data, &wanted.pubkey, wanted.force).await;
    match outcome {
        Ok(Preauthorized::Created(id)) => {
            Ok(HttpResponse::Created().insert_header((header::LOCATION, format!("devices/{id}"))).finish())
        }
        Ok(Preauthorized::Exists(device)) => Ok(answer_json(&mut HttpResponse::Conflict(), &DeviceBody::from(*device))),
        Err(AdmissionError::Invalid(why)) if !why.starts_with(FAILED) => {
            Err(ApiError::bad_request(format!("{FAILED}: {why}")))
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Deserialize)]
struct PreauthorizeBody {
    identity_data: Value,
    pubkey: String,
    #[serde(default)]
    force: bool,
}

/// `DELETE /devices/{id}`: from now on the device has no access; the rest of it is cleared away.
///
/// # Errors
/// 404 (without a body) for an unknown device.
pub async fn decommission(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let Ok(id) = id.parse::<DeviceId>() else { return Ok(gone()) };
    bare(state.admission.decommission(id).await)
}

/// `DELETE /devices/{id}/auth/{aid}`.
///
/// # Errors
/// 404 (without a body) for an unknown set, and for one of another device.
pub async fn delete_set(
    _: AuthenticatedUser,
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let Some((device, set)) = ids(&path) else { return Ok(gone()) };
    bare(state.admission.delete_set(device, set).await)
}

/// `DELETE /tokens/{id}`: voids the token of a set; the device may ask for another at once.
///
/// # Errors
/// 404 (without a body) for a set without a token.
pub async fn revoke_token(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let Ok(set) = id.parse::<AuthSetId>() else { return Ok(gone()) };
    bare(state.admission.revoke_token(set).await)
}

/// `GET /devices/{id}/auth/{aid}/status`.
///
/// # Errors
/// 404 for an unknown set, and for one of another device.
pub async fn get_status(
    _: AuthenticatedUser,
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let (device, set) = ids(&path).ok_or(AdmissionError::SetNotFound)?;
    let device = state.storage.devices.find(device).await?.ok_or(AdmissionError::SetNotFound)?;
    let set = device.auth_sets.iter().find(|found| found.id == set).ok_or(AdmissionError::SetNotFound)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &serde_json::json!({ "status": set.status.as_str() })))
}

/// `PUT /devices/{id}/auth/{aid}/status`: the user's decision.
///
/// # Errors
/// 400 for a status nobody may ask for and for a set of another device, 404 for an unknown one, 422 at the device limit.
pub async fn set_status(
    _: AuthenticatedUser,
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let wanted: StatusBody = body.object("failed to decode status data")?;
    let wanted = wanted_status(&wanted.status).ok_or_else(|| ApiError::bad_request("incorrect device status"))?;
    let device: DeviceId = path.0.parse().map_err(|_| AdmissionError::DeviceNotFound)?;
    let set: AuthSetId = path.1.parse().map_err(|_| AdmissionError::SetNotFound)?;
    state.admission.set_status(device, set, wanted).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Debug, Deserialize)]
struct StatusBody {
    status: String,
}

/// `GET /limits/{name}`.
///
/// # Errors
/// 400 for any name but `max_devices`.
pub async fn limit(
    _: AuthenticatedUser,
    name: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    if name.as_str() != "max_devices" {
        return Err(ApiError::bad_request(format!("unsupported limit {name}")));
    }
    answer_limit(&state).await
}

/// How many devices may be accepted, whoever asks.
pub(crate) async fn answer_limit(state: &ApiState) -> Result<HttpResponse, ApiError> {
    let limit = match state.storage.devices.limit().await? {
        Some(limit) => Value::from(limit),
        None => Value::from(state.config.unlimited_reported_as),
    };
    Ok(answer_json(&mut HttpResponse::Ok(), &serde_json::json!({ "limit": limit })))
}

fn ids(path: &(String, String)) -> Option<(DeviceId, AuthSetId)> {
    Some((path.0.parse().ok()?, path.1.parse().ok()?))
}

/// 204, or a 404 without a body where clients know it so.
fn bare(outcome: Result<(), AdmissionError>) -> Result<HttpResponse, ApiError> {
    match outcome {
        Ok(()) => Ok(HttpResponse::NoContent().finish()),
        Err(AdmissionError::DeviceNotFound | AdmissionError::SetNotFound) => Ok(gone()),
        Err(error) => Err(error.into()),
    }
}

fn gone() -> HttpResponse {
    HttpResponse::new(StatusCode::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_cannot_be_ours_find_nothing_rather_than_everything() {
        assert_eq!(selection(vec![], &["nonsense"]), None);
        let id = DeviceId::random();
        let text = id.to_string();
        assert_eq!(selection(vec![], &["nonsense", &text]).unwrap().ids, [id]);
        assert_eq!(selection(vec![], &[]), Some(DeviceFilter::default()));
    }

    #[test]
    fn what_is_named_twice_is_asked_for_once() {
        let id = DeviceId::random().to_string();
        let found = selection(vec![DeviceStatus::Pending; 100_000], &vec![id.as_str(); 50_000]).unwrap();
        assert_eq!((found.statuses.len(), found.ids.len()), (1, 1));
    }

    #[test]
    fn a_filter_takes_one_value_or_several() {
        let filter: SearchBody = serde_json::from_str(r#"{"status":"pending","id":["a","b"]}"#).unwrap();
        assert_eq!(filter.status.as_slice(), ["pending"]);
        assert_eq!(filter.id.as_slice(), ["a", "b"]);
        assert!(serde_json::from_str::<SearchBody>(r#"{"status":7}"#).is_err());
    }
}
