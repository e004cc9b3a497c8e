//! Filters with a name: groups whose members are whoever passes now. (Mender API: inventory, saved filters.)

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use storage::inventory::filter::Grammar;
use storage::inventory::search::Search;
use storage::{FilterId, FilterSaved, SavedFilter, StorageError, clock};

use super::search::{PredicateBody, answer_search, conditions};
use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

const FILTERS: &str = "/api/management/v2/inventory/filters";

/// Bytes in the name of a filter.
const NAME_LIMIT: usize = 1024;

/// `GET /filters`: a page of saved filters in order of their names.
///
/// # Errors
/// 400 for paging.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let (filters, total) = state.storage.filters.list(page.offset(), page.size).await?;
    let bodies: Result<Vec<FilterBody>, ApiError> = filters.into_iter().map(FilterBody::try_from).collect();
    Ok(answer_page(FILTERS, &query, page, Extent::Total(total), &bodies?))
}

/// `POST /filters`.
///
/// # Errors
/// 400 for a filter against the rules, 409 for a name that is taken.
pub async fn add(_: AuthenticatedUser, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    let filter = read(&body, FilterId::random())?;
    match state.storage.filters.add(&filter, clock::now()).await.map_err(name_taken)? {
        FilterSaved::TooMany => Err(ApiError::Conflict("there are too many saved filters".into())),
        FilterSaved::Saved | FilterSaved::Unknown => {
            let location = format!("{FILTERS}/{}", filter.id);
            Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).finish())
        }
    }
}

/// `GET /filters/{id}`.
///
/// # Errors
/// 404 for an unknown filter.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let filter = find(&state, &id).await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &FilterBody::try_from(filter)?))
}

/// `PUT /filters/{id}`: another name, other conditions.
///
/// # Errors
/// 400 for a filter against the rules, 404 for an unknown one, 409 for a name that is another's.
pub async fn change(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let id: FilterId = id.parse().map_err(|_| not_found())?;
    match state.storage.filters.change(&read(&body, id)?).await.map_err(name_taken)? {
        FilterSaved::Unknown => Err(not_found()),
        FilterSaved::Saved | FilterSaved::TooMany => Ok(HttpResponse::NoContent().finish()),
    }
}

/// `DELETE /filters/{id}`.
///
/// # Errors
/// 404 for an unknown filter.
pub async fn remove(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let id: FilterId = id.parse().map_err(|_| not_found())?;
    if state.storage.filters.remove(id).await? { Ok(HttpResponse::NoContent().finish()) } else { Err(not_found()) }
}

/// `GET /filters/{id}/search`: the devices that pass now.
///
/// # Errors
/// 400 for paging, 404 for an unknown filter, 422 for one that takes too long.
pub async fn search(
    _: AuthenticatedUser,
    id: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::from_query(&Query::parse(request.query_string()))?;
    let filter = FilterBody::try_from(find(&state, &id).await?)?;
    let search = Search {
        filter: conditions(&filter.terms, Grammar::Inventory)?,
        offset: u64::from(page.offset()),
        limit: page.size,
        ..Search::default()
    };
    answer_search(&state, &search, &None, page, request.path()).await
}

async fn find(state: &ApiState, id: &str) -> Result<SavedFilter, ApiError> {
    let id: FilterId = id.parse().map_err(|_| not_found())?;
    state.storage.filters.find(id).await?.ok_or_else(not_found)
}

fn not_found() -> ApiError {
    ApiError::unknown("Filter not found")
}

fn name_taken(error: StorageError) -> ApiError {
    match error {
        StorageError::Conflict(_) => ApiError::Conflict("a filter with this name exists already".into()),
        other => other.into(),
    }
}

fn read(body: &RawJson, id: FilterId) -> Result<SavedFilter, ApiError> {
    let wanted: NewFilterBody = body.object("failed to decode filter")?;
    if wanted.name.trim().is_empty() {
        return Err(ApiError::bad_request("name: cannot be blank."));
    }
    if wanted.name.len() > NAME_LIMIT || wanted.name.contains('\0') {
        return Err(ApiError::bad_request(format!("name: the length must be between 1 and {NAME_LIMIT}.")));
    }
    let terms = wanted.terms.unwrap_or_default();
    if terms.is_empty() {
        return Err(ApiError::bad_request("terms: cannot be blank."));
    }
    conditions(&terms, Grammar::Inventory)?;
    let terms = serde_json::to_string(&terms).map_err(|error| ApiError::Internal(error.into()))?;
    Ok(SavedFilter { id, name: wanted.name, terms })
}

#[derive(Debug, Deserialize)]
struct NewFilterBody {
    #[serde(default)]
    name: String,
    terms: Option<Vec<PredicateBody>>,
}

#[derive(Debug, Serialize)]
struct FilterBody {
    id: FilterId,
    name: String,
    terms: Vec<PredicateBody>,
}

impl TryFrom<SavedFilter> for FilterBody {
    type Error = ApiError;

    fn try_from(filter: SavedFilter) -> Result<Self, ApiError> {
        let terms = serde_json::from_str(&filter.terms).map_err(|error| ApiError::Internal(error.into()))?;
        Ok(Self { id: filter.id, name: filter.name, terms })
    }
}
