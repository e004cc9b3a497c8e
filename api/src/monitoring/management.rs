//! What users see of devices' monitoring. (Mender API: device monitor, management.)
//!
//! The web UI asks these of every device it shows, so one that is not known has no alerts rather than none to be found.

use actix_web::{HttpRequest, HttpResponse, web};
use actors::monitor::AlertBody;
use serde::Deserialize;
use serde_json::Value;
use storage::{Alert, AlertFilter, AlertLevel, ChannelKind, DeviceId, SubjectsOf, Timestamp, clock};

use crate::auth::AuthenticatedUser;
use crate::body::RawJson;
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// `GET /devices/{id}/alerts`: every alert, newest first unless `sort_ascending`.
///
/// # Errors
/// 400 for paging and for times and orders that are none.
pub async fn alerts(
    _: AuthenticatedUser,
    id: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (page, filter) = (Page::from_query(&query)?, filter(&query)?);
    let oldest_first = match query.first("sort_ascending") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::bad_request("sort_ascending must be true or false")),
    };
    let found = match id.parse::<DeviceId>() {
        Ok(device) => state.storage.alerts.list(device, filter, oldest_first, page.offset(), page.size).await?,
        Err(_) => (vec![], 0),
    };
    Ok(list(&request, &query, page, found))
}

/// `GET /devices/{id}/alerts/latest`: the latest alert of each subject that is open, oldest first; with `level_from` of
/// each whose latest level is at least that.
///
/// # Errors
/// 400 for paging and for times and levels that are none.
pub async fn latest(
    _: AuthenticatedUser,
    id: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let (page, filter, subjects) = (Page::from_query(&query)?, filter(&query)?, subjects(&query)?);
    let found = match id.parse::<DeviceId>() {
        Ok(device) => state.storage.alerts.latest(device, subjects, filter, page.offset(), page.size).await?,
        Err(_) => (vec![], 0),
    };
    Ok(list(&request, &query, page, found))
}

fn list(request: &HttpRequest, query: &Query, page: Page, (alerts, total): (Vec<Alert>, u64)) -> HttpResponse {
    answer_page(request.path(), query, page, Extent::Total(total), &alerts.iter().map(AlertBody).collect::<Vec<_>>())
}

/// `GET /devices/{id}/config`: the checks the device makes, as it said them.
///
/// # Errors
/// When the database cannot be asked.
pub async fn checks(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let checks = match id.parse::<DeviceId>() {
        Ok(device) => state.storage.alerts.checks(device).await?,
        Err(_) => None,
    };
    let body = checks.unwrap_or_else(|| "[]".to_owned());
    Ok(HttpResponse::Ok().content_type("application/json; charset=utf-8").body(body))
}

#[derive(Debug, Deserialize)]
struct SwitchBody {
    enabled: bool,
}

/// `PUT /settings/global/channel/alerts/{channel}/status`: e-mail to all users, on or off.
///
/// # Errors
/// 400 for another channel than `email`, and for a body that does not say which.
pub async fn switch_channel(
    _: AuthenticatedUser,
    channel: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    if *channel != ChannelKind::Email.as_str() {
        return Err(ApiError::bad_request("unknown channel: expected email"));
    }
    let SwitchBody { enabled } = body.object("failed to decode the status of a channel")?;
    state.storage.channels.switch_builtin(ChannelKind::Email, enabled, clock::now()).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn filter(query: &Query) -> Result<AlertFilter, ApiError> {
    Ok(AlertFilter { issued_after: time(query, "issued_after")?, issued_before: time(query, "issued_before")? })
}

/// A time in a query.
pub(crate) fn time(query: &Query, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = query.first(name) else { return Ok(None) };
    // A plus sign that nobody encoded has become a space.
    let text = Value::String(text.replace(' ', "+"));
    let time = serde_json::from_value(text);
    time.map(Some).map_err(|_| ApiError::bad_request(format!("{name} must be a time such as 2031-05-04T10:00:00Z")))
}

pub(super) fn subjects(query: &Query) -> Result<SubjectsOf, ApiError> {
    let Some(word) = query.first("level_from") else { return Ok(SubjectsOf::Open) };
    AlertLevel::named(word).map(SubjectsOf::AtLeast).ok_or_else(|| {
        let all = AlertLevel::ALL.map(AlertLevel::as_str).join(", ");
        ApiError::bad_request(format!("level_from must be one of: {all}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        let asked = |query: &str| filter(&Query::parse(query)).map_err(|error| error.to_string());
        assert_eq!(asked(""), Ok(AlertFilter::default()));
        let after = asked("issued_after=1970-01-01T01:00:01%2B01:00").unwrap().issued_after;
        assert_eq!(after, Some(Timestamp(1_000_000)));
        assert_eq!(asked("issued_before=1970-01-01T00:00:01+00:00").unwrap().issued_before, after);
        assert!(asked("issued_before=yesterday").unwrap_err().starts_with("issued_before"));
    }

    #[test]
    fn without_a_level_only_what_is_open_is_listed() {
        let asked = |query: &str| subjects(&Query::parse(query)).map_err(|error| error.to_string());
        assert_eq!(asked(""), Ok(SubjectsOf::Open));
        assert_eq!(asked("level_from=OK"), Ok(SubjectsOf::AtLeast(AlertLevel::Ok)));
        assert!(asked("level_from=low").unwrap_err().contains("CRITICAL"));
    }
}
