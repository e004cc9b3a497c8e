//! Who worked on which device, when, how long, and why it ended. Not part of the Mender API.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use storage::{DeviceId, NodeId, Participant, SessionFilter, SessionId, SessionRecord, Timestamp, UserId, clock};

use crate::auth::AuthenticatedUser;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

#[derive(Debug, Serialize)]
struct SessionBody {
    id: SessionId,
    device_id: DeviceId,
    user_id: UserId,
    /// `null` for a user who is gone.
    user_email: Option<String>,
    kind: &'static str,
    opened: Timestamp,
    ended: Option<Timestamp>,
    /// So far, if it has not ended.
    duration_s: f64,
    reason: Option<String>,
    node: NodeId,
    address: Option<String>,
    bytes_to_device: i64,
    bytes_to_operator: i64,
    /// Whether it outlives its operator's socket for a while.
    kept: bool,
    recorded: bool,
    recorded_bytes: i64,
    /// Whether the recording ends before the session.
    truncated: bool,
    participants: Vec<Participant>,
}

impl SessionBody {
    #[expect(clippy::cast_precision_loss, reason = "a session of three hundred years would lose a microsecond")]
    fn new(record: SessionRecord, now: Timestamp) -> Self {
        let end = record.ended.unwrap_or(now);
        Self {
            id: record.id,
            device_id: record.device,
            user_id: record.user,
            user_email: record.user_email,
            kind: record.kind.as_str(),
            opened: record.opened,
            ended: record.ended,
            duration_s: (end.0 - record.opened.0).max(0) as f64 / 1e6,
            reason: record.reason,
            node: record.node,
            address: record.address,
            bytes_to_device: record.bytes_to_device,
            bytes_to_operator: record.bytes_to_operator,
            kept: record.kept,
            recorded: record.recorded,
            recorded_bytes: record.recorded_bytes,
            truncated: record.truncated,
            participants: record.people,
        }
    }
}

/// `GET /sessions`: newest first; filters `device`, `user`, `open`.
///
/// # Errors
/// 400 for paging and for `open` that is neither `true` nor `false`.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let (records, total) = match filter(&query)? {
        Some(filter) => state.storage.sessions.list(&filter, page.offset(), page.size).await?,
        None => (vec![], 0),
    };
    let now = clock::now();
    let bodies: Vec<SessionBody> = records.into_iter().map(|record| SessionBody::new(record, now)).collect();
    Ok(answer_page(request.path(), &query, page, Extent::Total(total), &bodies))
}

/// `GET /sessions/{id}`.
///
/// # Errors
/// 404 for an unknown session.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let not_found = || ApiError::unknown("session not found");
    let id: SessionId = id.parse().map_err(|_| not_found())?;
    let record = state.storage.sessions.find(id).await?.ok_or_else(not_found)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &SessionBody::new(record, clock::now())))
}

/// The filter, or `None` for one that no session passes: ids are opaque to clients, so one that cannot be ours is not found.
fn filter(query: &Query) -> Result<Option<SessionFilter>, ApiError> {
    let open = match query.first("open") {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => return Err(ApiError::bad_request("open must be true or false")),
    };
    let device = match query.first("device").map(str::parse::<DeviceId>) {
        None => None,
        Some(Ok(device)) => Some(device),
        Some(Err(_)) => return Ok(None),
    };
    Ok(Some(SessionFilter { device, user: query.first("user").map(UserId::new), open }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str) -> Result<Option<SessionFilter>, String> {
        filter(&Query::parse(query)).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_add_up() {
        assert_eq!(asked(""), Ok(Some(SessionFilter::default())));
        let device = DeviceId::random();
        let all = SessionFilter { device: Some(device), user: Some(UserId::new("u")), open: Some(false) };
        assert_eq!(asked(&format!("device={device}&user=u&open=false")), Ok(Some(all)));
    }

    #[test]
    fn a_device_that_cannot_be_ours_has_no_sessions() {
        assert_eq!(asked("device=nonsense"), Ok(None));
        assert_eq!(asked("open=maybe"), Err("open must be true or false".to_owned()));
    }
}
