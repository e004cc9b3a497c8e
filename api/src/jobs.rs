//! Background work as operators see it: what waits, what runs, what was given up. Not part of the Mender API.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use storage::{Job, JobFilter, JobId, JobState, JobWish, NodeId, Timestamp, clock};

use crate::auth::AuthenticatedUser;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

#[derive(Debug, Serialize)]
struct JobBody {
    id: JobId,
    kind: String,
    key: Option<String>,
    state: &'static str,
    /// When it is tried next, or its node's lease ends; `null` when it is over.
    due: Option<Timestamp>,
    attempts: i64,
    node: Option<NodeId>,
    /// What went wrong last.
    error: Option<String>,
    created: Timestamp,
    updated: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Value>,
}

impl JobBody {
    fn in_list(job: Job) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            key: job.key,
            state: job.state.as_str(),
            due: job.due,
            attempts: job.attempts,
            node: job.node,
            error: job.error,
            created: job.created,
            updated: job.updated,
            input: None,
        }
    }

    fn whole(mut job: Job) -> Self {
        let input = std::mem::take(&mut job.input);
        Self { input: Some(input), ..Self::in_list(job) }
    }
}

/// `GET /jobs`: newest first; filters `state` and `kind`.
///
/// # Errors
/// 400 for paging and for a state that does not exist.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let (jobs, total) = state.storage.jobs.list(&filter(&query)?, page.offset(), page.size).await?;
    Ok(answer_page(
        request.path(),
        &query,
        page,
        Extent::Total(total),
        &jobs.into_iter().map(JobBody::in_list).collect::<Vec<_>>(),
    ))
}

/// `GET /jobs/{id}`: with the input.
///
/// # Errors
/// 404 for an unknown job.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let job = state.storage.jobs.find(parse(&id)?).await?.ok_or_else(not_found)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &JobBody::whole(job)))
}

/// `POST /jobs/{id}/retry`: work that was given up or called off is tried again, and work that waits at once.
///
/// # Errors
/// 404 for an unknown job, 409 for one that runs or was done.
pub async fn retry(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let wish = state.storage.jobs.retry(parse(&id)?, clock::now()).await?;
    let answer = fulfilled(wish)?;
    state.jobs.wake();
    Ok(answer)
}

/// `POST /jobs/{id}/cancel`: work that waits or was given up is not done any more; work that runs is stopped soon.
///
/// # Errors
/// 404 for an unknown job, 409 for one that is done or was called off before.
pub async fn cancel(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    fulfilled(state.storage.jobs.cancel(parse(&id)?, clock::now()).await?)
}

fn fulfilled(wish: JobWish) -> Result<HttpResponse, ApiError> {
    match wish {
        JobWish::Granted => Ok(HttpResponse::NoContent().finish()),
        JobWish::Refused(state) => Err(ApiError::Conflict(format!("the job is {}", state.as_str()).into())),
        JobWish::Unknown => Err(not_found()),
    }
}

fn parse(id: &str) -> Result<JobId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::unknown("job not found")
}

fn filter(query: &Query) -> Result<JobFilter, ApiError> {
    let state = match query.first("state") {
        None => None,
        Some(word) => Some(JobState::named(word).ok_or_else(|| {
            let all = JobState::ALL.map(JobState::as_str).join(", ");
            ApiError::bad_request(format!("state must be one of: {all}"))
        })?),
    };
    Ok(JobFilter { state, kind: query.first("kind").map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_states_that_exist() {
        let asked = |query: &str| filter(&Query::parse(query)).map_err(|error| error.to_string());
        assert_eq!(asked(""), Ok(JobFilter::default()));
        let both = JobFilter { state: Some(JobState::Dead), kind: Some("webhook".to_owned()) };
        assert_eq!(asked("state=dead&kind=webhook"), Ok(both));
        assert!(asked("state=tired").unwrap_err().contains("waiting"));
    }

    #[test]
    fn what_makes_no_sense_is_a_conflict() {
        assert!(fulfilled(JobWish::Granted).is_ok());
        assert_eq!(fulfilled(JobWish::Refused(JobState::Done)).unwrap_err().to_string(), "the job is done");
    }
}
