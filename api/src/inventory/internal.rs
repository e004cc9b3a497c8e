//! What other services of an installation ask and write about devices. (Mender API: inventory, internal.)
//!
//! Status is not written here: devices are admitted by this hub, whose decisions the inventory follows by itself.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HttpDate};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use storage::inventory::filter::SCOPES;
use storage::inventory::{AttributesWritten, IDENTITY, SYSTEM};
use storage::{Attribute, DeviceId, Timestamp, clock};

use super::{OWN_SCOPE, WrittenAttribute, groups, no_device, overview, search, too_large};
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::internal::ours;
use crate::state::ApiState;

/// `POST /tenants/{tenant}/devices`: makes a device known, or writes these attributes beside those it has.
///
/// # Errors
/// 400 for a body against the rules, 404 for another tenant.
pub async fn create(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let wanted: NewDeviceBody = body.object("failed to decode device")?;
    let id: DeviceId = wanted.id.parse().map_err(|error| ApiError::bad_request(format!("id: {error}")))?;
    let attributes = attributes(wanted.attributes.unwrap_or_default(), None)?;
    match state.storage.inventory.create(id, attributes, clock::now()).await? {
        AttributesWritten::TooLarge => Err(too_large()),
        AttributesWritten::Stored | AttributesWritten::Modified | AttributesWritten::NoDevice => {
            Ok(HttpResponse::Created().insert_header((header::LOCATION, format!("devices/{id}"))).finish())
        }
    }
}

#[derive(Debug, Deserialize)]
struct NewDeviceBody {
    #[serde(default)]
    id: String,
    attributes: Option<Vec<WrittenAttribute>>,
}

/// `DELETE /tenants/{tenant}/devices/{id}`: forgets what is known about a device.
///
/// # Errors
/// 404 for another tenant.
pub async fn forget(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    if let Ok(id) = path.1.parse() {
        state.storage.inventory.remove(id).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// `PATCH /tenants/{tenant}/device/{id}/attribute/scope/{scope}`: writes attributes of one scope beside those there are.
///
/// # Errors
/// 400 for a scope or a body against the rules, 404 for an unknown device and another tenant, 412 if the device has
/// reported since the time in `If-Unmodified-Since`.
pub async fn write_scope(
    path: web::Path<(String, String, String)>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let (tenant, id, scope) = path.into_inner();
    write(&state, &tenant, &id, Some(&scope), &request, &body).await
}

/// `PATCH /tenants/{tenant}/device/{id}/attributes`: the same, each attribute in the scope it names.
///
/// # Errors
/// As [`write_scope`].
pub async fn write_scopes(
    path: web::Path<(String, String)>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    write(&state, &path.0, &path.1, None, &request, &body).await
}

async fn write(
    state: &ApiState,
    tenant: &str,
    id: &str,
    scope: Option<&str>,
    request: &HttpRequest,
    body: &RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(tenant)?;
    let written = attributes(body.array("failed to decode attributes")?, scope)?;
    let since = unmodified_since(request.headers())?;
    let id: DeviceId = id.parse().map_err(|_| no_device())?;
    match state.storage.inventory.write_attributes(id, written, since).await? {
        AttributesWritten::Stored => Ok(HttpResponse::Ok().finish()),
        AttributesWritten::Modified => {
            Err(ApiError::Other(StatusCode::PRECONDITION_FAILED, "the device has been updated since".into()))
        }
        AttributesWritten::TooLarge => Err(too_large()),
        AttributesWritten::NoDevice => Err(no_device()),
    }
}

/// `GET /tenants/{tenant}/devices/{id}/groups`: the group of a device, as a list.
///
/// # Errors
/// 404 for an unknown device and another tenant.
pub async fn groups_of(
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let id: DeviceId = path.1.parse().map_err(|_| no_device())?;
    let group = state.storage.inventory.group_of(id).await?.ok_or_else(no_device)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &json!({"groups": group.into_iter().collect::<Vec<_>>()})))
}

/// `POST /tenants/{tenant}/test/devices/groups`: whether each of these devices is in one of these groups.
///
/// # Errors
/// 404 if one is not, and for another tenant.
pub async fn test_groups(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let asked: MembersBody = body.object("failed to decode devices and groups")?;
    if asked.devices.len().max(asked.groups.len()) > groups::TESTED {
        return Err(ApiError::bad_request(format!("at most {} devices and groups are taken", groups::TESTED)));
    }
    let devices: Result<Vec<DeviceId>, _> = asked.devices.iter().map(|id| id.parse()).collect();
    let Ok(devices) = devices else { return Err(no_device()) };
    let are_in = state.storage.inventory.are_all_in(&devices, asked.groups).await?;
    if are_in { Ok(HttpResponse::Ok().finish()) } else { Err(no_device()) }
}

#[derive(Debug, Deserialize)]
struct MembersBody {
    #[serde(default)]
    devices: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
}

/// `POST /tenants/{tenant}/filters/search`.
///
/// # Errors
/// As the search for users, and 404 for another tenant.
pub async fn search(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    search::answer(&state, &body).await
}

/// `GET /tenants/{tenant}/statistics`.
///
/// # Errors
/// 404 for another tenant.
pub async fn statistics(tenant: web::Path<String>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    overview::answer_statistics(&state).await
}

/// Attributes as other services write them: booleans are taken too, and what the hub itself relies on has its type.
fn attributes(written: Vec<WrittenAttribute>, scope: Option<&str>) -> Result<Vec<Attribute>, ApiError> {
    written.into_iter().map(|attribute| checked(attribute, scope)).collect()
}

fn checked(mut attribute: WrittenAttribute, scope: Option<&str>) -> Result<Attribute, ApiError> {
    let scope = scope.map(str::to_owned).or(attribute.scope.take()).unwrap_or_else(|| OWN_SCOPE.to_owned());
    if !SCOPES.contains(&scope.as_str()) {
        return Err(ApiError::bad_request("scope: must be a valid value."));
    }
    let value = attribute.value.clone();
    if value.is_boolean() {
        // Anything that passes, to be put back below.
        attribute.value = Value::from(0);
    }
    let is_time = |value: &Value| Timestamp::deserialize(value).is_ok();
    match (scope.as_str(), attribute.name.as_str()) {
        (SYSTEM, "check_in_time" | "created_ts" | "updated_ts") if !is_time(&value) => {
            return Err(ApiError::bad_request(format!("{}: must be a time (RFC 3339).", attribute.name)));
        }
        (SYSTEM, "group") => groups::check_name(value.as_str().unwrap_or_default())?,
        (SYSTEM, "tier") | (IDENTITY, "status") if !value.is_string() => {
            return Err(ApiError::bad_request(format!("{}: must be a text.", attribute.name)));
        }
        _ => {}
    }
    Ok(Attribute { value, ..attribute.in_scope(&scope)? })
}

/// (RFC 9110 passes over a date that cannot be read; here it is a mistake that somebody should hear of.)
fn unmodified_since(headers: &HeaderMap) -> Result<Option<Timestamp>, ApiError> {
    let Some(value) = headers.get(header::IF_UNMODIFIED_SINCE) else { return Ok(None) };
    let wrong = || ApiError::bad_request("If-Unmodified-Since: must be a time (RFC 1123).");
    let time: HttpDate = value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    let since_epoch = SystemTime::from(time).duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Some(Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))))
}
