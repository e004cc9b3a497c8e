//! Writes down every change before it is made, and what came of it: who, what, when, from where.
//!
//! A change is any request of a user or of another service that is not a mere question; which of those that look like
//! changes are questions stands in [`crate::routes::QUESTIONS`]. One that cannot be written down is not made. Bodies are
//! not written down: they may hold secrets. What may be told of one, its handler tells as [`AuditDetails`].

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, web};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use storage::{Actor, NewAuditEntry, clock};
use uuid::Uuid;

use crate::auth::AuthenticatedUser;
use crate::error::ApiError;
use crate::gateway::Access;
use crate::middleware::observe::RequestId;
use crate::routes::{LOGIN, QUESTIONS};
use crate::state::ApiState;

/// Bytes of a path, and of an address somebody claims.
const TEXT_LIMIT: usize = 2048;

/// What a change was in particular, told by the handler that made it.
#[derive(Debug)]
pub struct AuditDetails(pub Value);

/// The layer.
///
/// # Errors
/// Those of the layers inside; a change that cannot be written down is refused.
pub async fn audit<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let Some((entry, written)) = entry(&request, ApiState::of_service(&request)) else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let state = web::Data::clone(ApiState::shared(request.request()));
    let number = match written {
        Written::Always => match state.storage.audit.begin(&entry).await {
            Ok(number) => Some(number),
            Err(error) => return Ok(request.error_response(ApiError::from(error)).map_into_right_body()),
        },
        Written::IfItWorked => None,
    };
    let outcome = next.call(request).await;
    let status = match &outcome {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    let told = outcome.as_ref().ok().and_then(|answer| answer.request().extensions_mut().remove::<AuditDetails>());
    let details = told.map(|told| told.0);
    if let Err(error) = conclude(&state, &entry, number, status, details.as_ref()).await {
        // It has happened. The entry stays without an outcome, which says as much.
        tracing::error!(%error, action = entry.action, "what came of a change was not written down");
    }
    Ok(outcome?.map_into_left_body())
}

/// Whether something is written down whatever comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Always,
    /// Anybody may try; the log must not grow by that.
    IfItWorked,
}

async fn conclude(
    state: &ApiState,
    entry: &NewAuditEntry,
    number: Option<i64>,
    status: StatusCode,
    details: Option<&Value>,
) -> Result<(), storage::StorageError> {
    let number = match number {
        Some(number) => number,
        None if status.is_success() => state.storage.audit.begin(entry).await?,
        None => return Ok(()),
    };
    state.storage.audit.conclude(number, status.as_u16(), details, clock::now()).await
}

/// What is to be written down about a request; `None` for one that changes nothing.
fn entry(request: &ServiceRequest, state: &ApiState) -> Option<(NewAuditEntry, Written)> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let pattern = request.match_pattern().filter(|pattern| !QUESTIONS.contains(&pattern.as_str()))?;
    let (actor, written) = match (state.access)(request.match_info().as_str()) {
        Access::User => (Actor::User(request.extensions().get::<AuthenticatedUser>()?.0.user.clone()), Written::Always),
        Access::Internal => (Actor::Service, Written::Always),
        Access::Public if pattern == LOGIN => (Actor::Address(claimed_address(request.headers())), Written::IfItWorked),
        Access::Public | Access::Device | Access::Nowhere => return None,
    };
    let target = request.uri().path_and_query().map_or_else(|| request.path(), |target| target.as_str());
    let entry = NewAuditEntry {
        key: None,
        at: clock::now(),
        actor,
        action: format!("{} {pattern}", request.method()),
        path: Some(cut(target).to_owned()),
        object: object(request.path()),
        address: Some(state.client_of(request.request()).to_string()),
        request: request.extensions().get::<RequestId>().map(|id| id.0.clone()),
        details: None,
    };
    Some((entry, written))
}

/// The first id in a path: what a change is about.
fn object(path: &str) -> Option<String> {
    path.split('/').find(|segment| segment.len() == 36 && Uuid::try_parse(segment).is_ok()).map(str::to_owned)
}

/// The address in the header of a login; the hub has found the password to be right.
fn claimed_address(headers: &HeaderMap) -> String {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let decoded = value.split_once(' ').and_then(|(_, encoded)| BASE64_STANDARD.decode(encoded.trim()).ok());
    let text = String::from_utf8_lossy(&decoded.unwrap_or_default()).into_owned();
    let (address, _) = text.split_once(':').unwrap_or_default();
    cut(address).to_lowercase()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn what_a_change_is_about_stands_in_its_path() {
        let id = "3f8f5c8e-0000-4000-8000-000000000000";
        assert_eq!(object(&format!("/api/x/devices/{id}/auth/3f8f5c8e-0000-4000-8000-000000000001")).unwrap(), id);
        assert_eq!(object("/api/x/devices"), None);
        assert_eq!(object("/api/x/000000000000000000000000000000000000000"), None);
    }

    #[test]
    fn a_login_is_by_the_address_and_never_tells_the_password() {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", BASE64_STANDARD.encode("Frida@Example.com:hunter2:3"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
        assert_eq!(claimed_address(&headers), "frida@example.com");
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic hunter2"));
        assert_eq!(claimed_address(&headers), "");
        assert_eq!(claimed_address(&HeaderMap::new()), "");
    }
}
