//! What users note about devices, guarded against being overwritten unseen. (Mender API: inventory, tags.)

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use storage::inventory::{Precondition, TAGS, TagsWritten};
use storage::{DeviceId, Report, clock};

use super::{no_device, too_large, too_many_attributes, written_attributes};
use crate::auth::AuthenticatedUser;
use crate::body::RawJson;
use crate::error::ApiError;
use crate::state::ApiState;

/// `PUT /devices/{id}/tags`: these are all tags.
///
/// # Errors
/// 400 for a body against the rules, 404 for an unknown device, 412 if somebody else has written the tags meanwhile.
pub async fn replace(
    _: AuthenticatedUser,
    id: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    write(&state, &id, &request, &body, Report::Replace).await
}

/// `PATCH /devices/{id}/tags`: these tags changed.
///
/// # Errors
/// As [`replace`].
pub async fn merge(
    _: AuthenticatedUser,
    id: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    write(&state, &id, &request, &body, Report::Merge).await
}

async fn write(
    state: &ApiState,
    id: &str,
    request: &HttpRequest,
    body: &RawJson,
    report: Report,
) -> Result<HttpResponse, ApiError> {
    let tags = written_attributes(body, TAGS)?;
    let seen = precondition(request.headers());
    let device: DeviceId = id.parse().map_err(|_| no_device())?;
    let limit = state.config.inventory_tags_limit;
    match state.storage.inventory.write_tags(device, tags, report, &seen, limit, clock::now()).await? {
        TagsWritten::Stored(version) => Ok(HttpResponse::Ok().insert_header((header::ETAG, version)).finish()),
        TagsWritten::Stale => Err(ApiError::Other(StatusCode::PRECONDITION_FAILED, "ETag does not match".into())),
        TagsWritten::TooMany => Err(too_many_attributes()),
        TagsWritten::TooLarge => Err(too_large()),
        TagsWritten::NoDevice => Err(no_device()),
    }
}

/// What `If-Match` says. Versions are taken with and without quotes, since they are given without.
fn precondition(headers: &HeaderMap) -> Precondition {
    let mut versions = Vec::new();
    let mut is_asked = false;
    for value in headers.get_all(header::IF_MATCH) {
        is_asked = true;
        for version in value.to_str().unwrap_or_default().split(',') {
            match version.trim() {
                "*" => return Precondition::Any,
                version => versions.push(version.trim_start_matches("W/").trim_matches('"').to_owned()),
            }
        }
    }
    if is_asked { Precondition::OneOf(versions) } else { Precondition::None }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_version_is_read_with_and_without_quotes() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, HeaderValue::from_static(value));
            precondition(&headers)
        };
        let one = |version: &str| Precondition::OneOf(vec![version.to_owned()]);
        assert_eq!(read("a-b"), one("a-b"));
        assert_eq!(read("\"a-b\""), one("a-b"));
        assert_eq!(read("W/\"a-b\""), one("a-b"));
        assert_eq!(read("\"a\", \"b\""), Precondition::OneOf(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(read("*"), Precondition::Any);
        assert_eq!(read(""), one(""));
        assert_eq!(precondition(&HeaderMap::new()), Precondition::None);
    }
}
