//! Groups of devices. (Mender API: inventory, groups.)

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use storage::DeviceId;
use storage::inventory::groups::Moved;

use super::no_device;
use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, UntypedJson, answer_json};
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Characters in the name of a group.
const NAME_LIMIT: usize = 256;

/// Characters in the name of a group that somebody wants to be rid of: there have been longer ones.
const OLD_NAME_LIMIT: usize = 1024;

/// Devices, and groups, in one question who belongs where.
pub(super) const TESTED: usize = 10_000;

/// `GET /groups`: the names of all groups, or of those with a member of this status.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let groups = state.storage.inventory.groups(query.first("status")).await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &groups))
}

/// `GET /groups/{name}/devices`: a page of the members' ids.
///
/// # Errors
/// 400 for paging, 404 for a group without members.
pub async fn members(
    _: AuthenticatedUser,
    group: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let (ids, total) = state.storage.inventory.members(&group, u64::from(page.offset()), page.size).await?;
    if total == 0 {
        return Err(ApiError::unknown("Group not found"));
    }
    Ok(answer_page(request.path(), &query, page, Extent::Total(total), &ids))
}

/// `PATCH /groups/{name}/devices`: these devices join the group.
///
/// # Errors
/// 400 for a name or a body against the rules.
pub async fn add_devices(
    _: AuthenticatedUser,
    group: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    check_name(&group)?;
    let devices = device_ids(&body)?;
    Ok(answer_counts(state.storage.inventory.join_group(&devices, &group).await?))
}

/// `DELETE /groups/{name}/devices`: these devices leave the group.
///
/// # Errors
/// 400 for a name or a body against the rules.
pub async fn remove_devices(
    _: AuthenticatedUser,
    group: web::Path<String>,
    state: web::Data<ApiState>,
    body: UntypedJson,
) -> Result<HttpResponse, ApiError> {
    check_old_name(&group)?;
    let devices = device_ids(&body.0)?;
    Ok(answer_counts(state.storage.inventory.leave_group(&devices, &group).await?))
}

/// `DELETE /groups/{name}`: all devices leave the group.
///
/// # Errors
/// 400 for a name against the rules.
pub async fn dissolve(
    _: AuthenticatedUser,
    group: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    check_old_name(&group)?;
    Ok(answer_counts(state.storage.inventory.dissolve_group(&group).await?))
}

/// `GET /devices/{id}/group`.
///
/// # Errors
/// 404 for an unknown device.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let id: DeviceId = id.parse().map_err(|_| no_device())?;
    let group = state.storage.inventory.group_of(id).await?.ok_or_else(no_device)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &json!({ "group": group })))
}

/// `PUT /devices/{id}/group`: the device joins the group.
///
/// # Errors
/// 400 for a name against the rules, 404 for an unknown device.
pub async fn join(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let GroupBody { group } = body.object("failed to decode device group data")?;
    check_name(&group)?;
    let id: DeviceId = id.parse().map_err(|_| no_device())?;
    match state.storage.inventory.join_group(&[id], &group).await?.matched {
        0 => Err(no_device()),
        _ => Ok(HttpResponse::NoContent().finish()),
    }
}

/// `DELETE /devices/{id}/group/{name}`: the device leaves the group.
///
/// # Errors
/// 404 for an unknown device and for one that is not in this group.
pub async fn leave(
    _: AuthenticatedUser,
    path: web::Path<(String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let id: DeviceId = path.0.parse().map_err(|_| no_device())?;
    match state.storage.inventory.leave_group(&[id], &path.1).await?.matched {
        0 => Err(no_device()),
        _ => Ok(HttpResponse::NoContent().finish()),
    }
}

#[derive(Debug, Deserialize)]
struct GroupBody {
    #[serde(default)]
    group: String,
}

#[derive(Debug, Serialize)]
struct CountsBody {
    matched_count: u64,
    updated_count: u64,
}

fn answer_counts(moved: Moved) -> HttpResponse {
    let body = CountsBody { matched_count: moved.matched, updated_count: moved.updated };
    answer_json(&mut HttpResponse::Ok(), &body)
}

/// The devices that a body names. Ids are opaque to clients: one that cannot be ours is no device's.
fn device_ids(body: &RawJson) -> Result<Vec<DeviceId>, ApiError> {
    let ids: Vec<String> = body.array("invalid payload schema")?;
    if ids.is_empty() {
        return Err(ApiError::bad_request("no device IDs present in payload"));
    }
    Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
}

/// A dot is taken too: the web UI lets people type one.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::bad_request("Group name cannot be blank"));
    }
    if name.len() > NAME_LIMIT {
        return Err(ApiError::bad_request(format!("Group name can at most have {NAME_LIMIT} characters")));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(ApiError::bad_request(
            "Group name can only contain: upper/lowercase alphanum, -(dash), _(underscore), .(dot)",
        ));
    }
    Ok(())
}

fn check_old_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::bad_request("Group name cannot be blank"));
    }
    if name.chars().count() > OLD_NAME_LIMIT {
        return Err(ApiError::bad_request(format!("Group name can at most have {OLD_NAME_LIMIT} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_letters_digits_and_little_else() {
        for name in ["kitchen", "A-z_0.9", &"x".repeat(256)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let texts: Vec<String> =
            ["", "a b", &"x".repeat(257)].map(|name| check_name(name).unwrap_err().to_string()).to_vec();
        assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
        assert!(check_name("küche").is_err());
        assert!(check_old_name(&"ü".repeat(1024)).is_ok());
        assert!(check_old_name(&"ü".repeat(1025)).is_err());
    }
}
