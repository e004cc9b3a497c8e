//! Releases: all artifacts of one name.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use storage::{Alteration, Direction, Release, ReleaseFilter, ReleaseSort, StorageError, TagsOutcome, clock};

use super::body::{OldReleaseBody, ReleaseBody, SoftwareBody};
use super::{no_such, query};
use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Tags of one release. (Mender API: releases.)
const TAGS_LIMIT: usize = 20;

/// Characters of a tag.
const TAG_LIMIT: usize = 1024;

/// Different tags of all releases.
const ALL_TAGS_LIMIT: u32 = 100;

/// Bytes of notes.
const NOTES_LIMIT: usize = 1024;

/// Releases that one request may remove.
const REMOVALS_LIMIT: usize = 1000;

/// `GET /deployments/releases`: a page, without saying so.
///
/// # Errors
/// 400.
pub async fn list_all_v1(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let found = Found::of(&state, query::releases_v1(&query)?, query::release_order(&query), Page::forgiving(&query));
    let bodies = found.await?.bodies::<OldReleaseBody>()?;
    Ok(answer_json(&mut HttpResponse::Ok(), &bodies))
}

/// `GET /deployments/releases/list`: a page.
///
/// # Errors
/// 400.
pub async fn list_v1(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (filter, page) = (query::releases_v1(&query)?, Page::forgiving(&query));
    let found = Found::of(&state, filter, query::release_order(&query), page).await?;
    found.answer::<OldReleaseBody>(&request, &query)
}

/// `GET v2 /deployments/releases`: a page.
///
/// # Errors
/// 400.
pub async fn list_v2(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (filter, page) = (query::releases_v2(&query)?, Page::forgiving(&query));
    let found = Found::of(&state, filter, query::release_order(&query), page).await?;
    found.answer::<ReleaseBody>(&request, &query)
}

/// `GET v1alpha1 /software`: a page, of releases alone, since no other kind of software is known.
///
/// # Errors
/// 400.
pub async fn software(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (page, order) = (Page::from_query(&query)?, query::software_order(&query)?);
    let (filter, kind) = (query::software(&query)?, kind(&query)?);
    let found = if kind == Some("manifest") {
        Found { releases: Vec::new(), total: 0, page }
    } else {
        Found::of(&state, filter, order, page).await?
    };
    found.answer::<SoftwareBody>(&request, &query)
}

/// `GET v1alpha1 /software/tags`.
///
/// # Errors
/// 400.
pub async fn software_tags(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let tags = if kind(&query)? == Some("manifest") { Vec::new() } else { state.storage.artifacts.tags().await? };
    Ok(answer_json(&mut HttpResponse::Ok(), &tags))
}

fn kind(query: &Query) -> Result<Option<&str>, ApiError> {
    let mut kinds = query.all("kind");
    match (kinds.next(), kinds.next()) {
        (None, _) => Ok(None),
        (Some(kind @ ("release" | "manifest")), None) => Ok(Some(kind)),
        _ => Err(ApiError::bad_request("parameter kind: expected \"release\" or \"manifest\", once")),
    }
}

/// A page of releases.
struct Found {
    releases: Vec<Release>,
    total: u64,
    page: Page,
}

impl Found {
    async fn of(
        state: &ApiState,
        filter: ReleaseFilter,
        order: (ReleaseSort, Direction),
        page: Page,
    ) -> Result<Self, StorageError> {
        let (releases, total) = state.storage.artifacts.releases(&filter, order, page.offset(), page.size).await?;
        Ok(Self { releases, total, page })
    }

    fn bodies<B: From<ReleaseBody>>(self) -> Result<Vec<B>, StorageError> {
        self.releases.into_iter().map(|release| ReleaseBody::of(release).map(B::from)).collect()
    }

    fn answer<B: From<ReleaseBody> + Serialize>(
        self,
        request: &HttpRequest,
        query: &Query,
    ) -> Result<HttpResponse, ApiError> {
        let (page, extent) = (self.page, Extent::Total(self.total));
        Ok(answer_page(request.path(), query, page, extent, &self.bodies::<B>()?))
    }
}

/// `GET v2 /deployments/releases/{name}`.
///
/// # Errors
/// 404.
pub async fn get(
    _: AuthenticatedUser,
    name: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let found = state.storage.artifacts.release(known_name(&name)?).await?.ok_or_else(no_such)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &ReleaseBody::of(found)?))
}

/// `DELETE v2 /deployments/releases?name=…`: all of them or none.
///
/// # Errors
/// 400 without a name, 409 while an unfinished deployment uses one.
pub async fn delete(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let names: Vec<String> = query.all("name").filter(|name| known_name(name).is_ok()).map(str::to_owned).collect();
    if query.first("name").is_none() {
        return Err(ApiError::bad_request("name: cannot be blank."));
    }
    if names.len() > REMOVALS_LIMIT {
        return Err(ApiError::bad_request(format!("name: at most {REMOVALS_LIMIT} are allowed")));
    }
    match state.artifacts.remove_releases(&names).await? {
        Alteration::Done(()) | Alteration::Unknown => Ok(HttpResponse::NoContent().finish()),
        Alteration::InUse(deployments) => {
            let deployments = deployments.iter().map(|id| Value::String(id.to_string())).collect();
            let members = Map::from_iter([("active_deployments".to_owned(), Value::Array(deployments))]);
            Err(ApiError::Detailed(StatusCode::CONFLICT, "release(s) used in active deployment".into(), members))
        }
    }
}

#[derive(Deserialize)]
struct Notes {
    notes: String,
}

/// `PATCH v2 /deployments/releases/{name}`: notes.
///
/// # Errors
/// 400, 404.
pub async fn annotate(
    _: AuthenticatedUser,
    name: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let Notes { notes } = body.object("Validating request body")?;
    if notes.len() > NOTES_LIMIT {
        return Err(ApiError::bad_request(format!("notes: the length must be no more than {NOTES_LIMIT}.")));
    }
    if notes.chars().any(|letter| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')) {
        return Err(ApiError::bad_request("notes: must be graphic characters and spaces only."));
    }
    if state.storage.artifacts.set_notes(known_name(&name)?, &notes, clock::now()).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(no_such())
    }
}

/// `PUT v2 /deployments/releases/{name}/tags`: these tags and no others.
///
/// # Errors
/// 400, 404, 409 for more different tags than all releases together may have.
pub async fn tag(
    _: AuthenticatedUser,
    name: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let tags = tidy(body.array("Validating request body")?)?;
    match state.storage.artifacts.set_tags(known_name(&name)?, &tags, ALL_TAGS_LIMIT, clock::now()).await? {
        TagsOutcome::Given => Ok(HttpResponse::NoContent().finish()),
        TagsOutcome::Unknown => Err(no_such()),
        TagsOutcome::TooMany => Err(ApiError::Conflict(
            format!("the number of unique tags has exceeded the limit of {ALL_TAGS_LIMIT}").into(),
        )),
    }
}

/// Lower case, each once, in their order.
fn tidy(tags: Vec<String>) -> Result<Vec<String>, ApiError> {
    let mut tidied: Vec<String> = Vec::with_capacity(tags.len().min(TAGS_LIMIT));
    for tag in tags {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if tag.is_empty() || tag.len() > TAG_LIMIT || !tag.bytes().all(is_plain) {
            return Err(ApiError::bad_request(format!(
                "invalid tag: 1 to {TAG_LIMIT} letters, digits, \"-\", \"_\" and \".\" are allowed"
            )));
        }
        let tag = tag.to_ascii_lowercase();
        if !tidied.contains(&tag) {
            tidied.push(tag);
        }
        if tidied.len() > TAGS_LIMIT {
            return Err(ApiError::bad_request(format!("the number of tags must be no more than {TAGS_LIMIT}.")));
        }
    }
    Ok(tidied)
}

/// `GET v2 /releases/all/tags`.
///
/// # Errors
/// 503.
pub async fn all_tags(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    Ok(answer_json(&mut HttpResponse::Ok(), &state.storage.artifacts.tags().await?))
}

/// `GET v2 /releases/all/types`: types of payloads.
///
/// # Errors
/// 503.
pub async fn all_types(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    Ok(answer_json(&mut HttpResponse::Ok(), &state.storage.artifacts.kinds().await?))
}

/// A name that a release may have. One with the character NUL is that of none, and one database cannot even be asked.
fn known_name(name: &str) -> Result<&str, ApiError> {
    if name.contains('\0') { Err(no_such()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tidied(tags: &[&str]) -> Result<Vec<String>, String> {
        tidy(tags.iter().map(|&tag| tag.to_owned()).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn tags_are_lower_case_and_stand_once() {
        assert_eq!(tidied(&["A", "a", "b.C-d_1"]), Ok(vec!["a".to_owned(), "b.c-d_1".to_owned()]));
        assert_eq!(tidied(&[]), Ok(vec![]));
        for tag in ["", "a b", "ä", "a/b", &"a".repeat(1025)] {
            assert!(tidied(&[tag]).is_err(), "{tag}");
        }
        let many: Vec<String> = (0..21).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(tidied(&many[..20]).is_ok());
        assert!(tidied(&many).is_err());
    }
}
