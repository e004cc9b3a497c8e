//! Artifacts that are there.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::artifacts::document;
use serde::{Deserialize, Serialize};
use storage::{Alteration, ArtifactFilter, Storage, clock};

use super::body::ArtifactBody;
use super::{artifact_id, base, no_such, query};
use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Artifacts read from the database at once for a list without pages.
const SLICE: u32 = 500;

/// Characters of a description. (Mender API: artifacts.)
pub const DESCRIPTION_LIMIT: usize = 4096;

/// `GET /artifacts`: all that the filter lets through, without pages.
///
/// # Errors
/// 400.
pub async fn list_all(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let filter = query::artifacts_v1(&Query::parse(request.query_string()))?;
    let all = all(&state.storage, &filter).await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &all))
}

async fn all(storage: &Storage, filter: &ArtifactFilter) -> Result<Vec<ArtifactBody>, ApiError> {
    let mut all = Vec::new();
    loop {
        let offset = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let (slice, _) = storage.artifacts.list(filter, <_>::default(), offset, SLICE).await?;
        let is_last = slice.len() < SLICE as usize;
        all.extend(ArtifactBody::all(slice)?);
        if is_last {
            return Ok(all);
        }
    }
}

/// `GET /artifacts/list`: a page.
///
/// # Errors
/// 400 for a filter that is too long.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::forgiving(&query);
    let (filter, order) = (query::artifacts_v1(&query)?, query::artifact_order(&query));
    let (found, total) = state.storage.artifacts.list(&filter, order, page.offset(), page.size).await?;
    Ok(answer_page(request.path(), &query, page, Extent::Total(total), &ArtifactBody::all(found)?))
}

/// `GET v2 /artifacts`: a page, with whether more follows.
///
/// # Errors
/// 400 for a filter without sense, or a page that is too large.
pub async fn list_v2(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::forgiving_but_bounded(&query)?;
    let filter = query::artifacts_v2(&query)?;
    let (mut found, _) =
        state.storage.artifacts.list(&filter, <_>::default(), page.offset(), page.size.saturating_add(1)).await?;
    let more = found.len() > page.size as usize;
    found.truncate(page.size as usize);
    Ok(answer_page(request.path(), &query, page, Extent::More(more), &ArtifactBody::all(found)?))
}

/// `GET /artifacts/{id}`.
///
/// # Errors
/// 400, 404.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let found = state.storage.artifacts.find(artifact_id(&id)?).await?.ok_or_else(no_such)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &ArtifactBody::of(found)?))
}

#[derive(Deserialize)]
struct Description {
    description: String,
}

/// `PUT /artifacts/{id}`: another description.
///
/// # Errors
/// 400, 404, 422 for an artifact that was ever deployed.
pub async fn describe(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let id = artifact_id(&id)?;
    let Description { description } = body.object("Validating request body")?;
    check_description(&description)?;
    match state.storage.artifacts.describe(id, &description, clock::now()).await? {
        Alteration::Done(()) => Ok(HttpResponse::NoContent().finish()),
        Alteration::Unknown => Err(no_such()),
        Alteration::InUse(_) => Err(ApiError::Unprocessable("Image has already been used in deployment".into())),
    }
}

pub(super) fn check_description(description: &str) -> Result<(), ApiError> {
    if description.chars().count() > DESCRIPTION_LIMIT {
        let text = format!("description: the length must be no more than {DESCRIPTION_LIMIT}.");
        return Err(ApiError::bad_request(text));
    }
    Ok(())
}

/// `DELETE /artifacts/{id}`.
///
/// # Errors
/// 400, 404, 409 while an unfinished deployment may hand it out.
pub async fn delete(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    match state.artifacts.remove(artifact_id(&id)?).await? {
        Alteration::Done(()) => Ok(HttpResponse::NoContent().finish()),
        Alteration::Unknown => Err(no_such()),
        Alteration::InUse(_) => Err(ApiError::Conflict("Artifact used in active deployment".into())),
    }
}

/// A link as clients read it.
#[derive(Serialize)]
struct LinkBody {
    uri: String,
    expire: String,
    method: &'static str,
}

/// `GET /artifacts/{id}/download`: a link to the file.
///
/// # Errors
/// 400, 404; 500 if the file is gone.
pub async fn download(
    _: AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let found = state.storage.artifacts.find(artifact_id(&id)?).await?.ok_or_else(no_such)?;
    let (objects, path) = state.storage.artifact_stores.at(&found.object).await?;
    if objects.size(path).await?.is_none() {
        return Err(ApiError::Internal(format!("the file of artifact {} is gone", found.id).into()));
    }
    let lifetime = state.artifacts.config().download_link;
    let link = state.artifacts.download_link(&found, lifetime, &base(&state, &request)?).await?;
    let body = LinkBody { uri: link.url, expire: link.expires.rfc3339(), method: "GET" };
    Ok(answer_json(&mut HttpResponse::Ok(), &body))
}

/// What else is known about a file. Not part of the Mender API.
#[derive(Serialize)]
struct Details {
    signature: actors::artifact_file::Signature,
    state_scripts: Vec<String>,
    warnings: Vec<String>,
}

/// `GET /mooring/artifacts/{id}`: whether its signature was checked, and what devices will not like about it. (Ours.)
///
/// # Errors
/// 400, 404.
pub async fn details(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let found = state.storage.artifacts.find(artifact_id(&id)?).await?.ok_or_else(no_such)?;
    let file = document(&found)?;
    let body = Details { signature: file.signature, state_scripts: file.scripts, warnings: file.warnings };
    Ok(answer_json(&mut HttpResponse::Ok(), &body))
}

/// `GET /limits/{name}`: how much all artifacts may have, and how much they have.
///
/// # Errors
/// 400 for any other limit.
pub async fn limit(
    _: AuthenticatedUser,
    name: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    #[derive(Serialize)]
    struct Limit {
        limit: u64,
        usage: u64,
    }
    if *name != "storage" {
        let name: String = name.chars().take(64).collect();
        return Err(ApiError::Other(StatusCode::BAD_REQUEST, format!("unsupported limit {name}").into()));
    }
    let usage = state.storage.artifacts.usage().await?;
    let body = Limit { limit: state.artifacts.config().storage_limit, usage };
    Ok(answer_json(&mut HttpResponse::Ok(), &body))
}
