//! Lists of deployments, single ones, statistics.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use storage::inventory::filter::{Condition, Filter};
use storage::inventory::search::Search;
use storage::{DeploymentFilter, DeploymentId, Direction};

use super::body::{DeploymentBody, statistics};
use super::{deployment_id, find, no_such, query};
use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Deployments whose statistics are asked for at once.
const STATISTICS_LIMIT: usize = 100;

/// Devices that a name may stand for.
const DEVICES_LIMIT: u32 = 100;

/// `GET v1 /deployments`.
///
/// # Errors
/// 400 for paging, and for a filter that makes no sense.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (filter, direction) = query::deployments_v1(&query)?;
    answer(&state, &request, &query, &filter, direction).await
}

/// `GET v2 /deployments`.
///
/// # Errors
/// As [`list`].
pub async fn list_v2(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (mut filter, direction) = query::deployments_v2(&query)?;
    if let Some(by) = query::by_attribute(&query, &filter.names)?
        && state.storage.deployments.list(&filter, direction, 0, 1).await?.1 == 0
    {
        let condition = Condition::one_of(by.scope, &by.attribute, by.values);
        let search = Search {
            filter: Filter::new(vec![condition]).map_err(|error| ApiError::bad_request(error.to_string()))?,
            limit: DEVICES_LIMIT,
            ..Search::default()
        };
        let found = state.storage.inventory.search(&search).await?;
        if !found.devices.is_empty() {
            filter.names.clear();
            filter.devices = found.devices.iter().map(|device| device.id.to_string()).collect();
        }
    }
    answer(&state, &request, &query, &filter, direction).await
}

async fn answer(
    state: &ApiState,
    request: &HttpRequest,
    query: &Query,
    filter: &DeploymentFilter,
    direction: Direction,
) -> Result<HttpResponse, ApiError> {
    let page = Page::from_query(query)?;
    let (found, total) = state.storage.deployments.list(filter, direction, page.offset(), page.size).await?;
    Ok(answer_page(request.path(), query, page, Extent::Total(total), &DeploymentBody::all(found)?))
}

/// `GET /deployments/{id}`.
///
/// # Errors
/// 400, 404.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let found = find(&state, &id).await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &DeploymentBody::of(found)?))
}

/// `GET /deployments/{id}/statistics`: how many devices stand where.
///
/// # Errors
/// 400, 404.
pub async fn get_statistics(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let found = find(&state, &id).await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &statistics(&found.counts)))
}

/// `POST /deployments/statistics/list`: the same for up to 100.
///
/// # Errors
/// 400 for none, for too many and for what is no id; 404 if none of them is there.
pub async fn list_statistics(
    _: AuthenticatedUser,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    #[derive(Deserialize)]
    struct Wanted {
        deployment_ids: Vec<String>,
    }
    #[derive(Serialize)]
    struct Statistics {
        id: DeploymentId,
        stats: std::collections::BTreeMap<&'static str, u64>,
    }
    let Wanted { deployment_ids } = body.object("Validating request body")?;
    if deployment_ids.is_empty() || deployment_ids.len() > STATISTICS_LIMIT {
        let text = format!("deployment_ids: the length must be between 1 and {STATISTICS_LIMIT}.");
        return Err(ApiError::bad_request(text));
    }
    let ids: Vec<DeploymentId> = deployment_ids.iter().map(|id| deployment_id(id)).collect::<Result<_, _>>()?;
    let found = state.storage.deployments.find_all(&ids).await?;
    if found.is_empty() {
        return Err(no_such());
    }
    let all: Vec<Statistics> =
        found.iter().map(|found| Statistics { id: found.id, stats: statistics(&found.counts) }).collect();
    Ok(answer_json(&mut HttpResponse::Ok(), &all))
}
