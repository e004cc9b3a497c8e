//! Gives every error its body: the text, and the request's name so that it can be found in the log.

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage};

use crate::error::{ErrorMembers, ErrorText, detailed_envelope, envelope};
use crate::middleware::observe::RequestId;

/// The layer. Errors of ours carry their text; those that the framework makes get the usual one of their status. A handler
/// that answers 404 on purpose without a body keeps it that way.
///
/// # Errors
/// Those of the layers inside.
pub async fn write_envelope<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let response = next.call(request).await?;
    let Some(text) = error_text(&response) else { return Ok(response.map_into_left_body()) };
    let id = response.request().extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let body = match response.response().extensions().get::<ErrorMembers>() {
        Some(members) => detailed_envelope(&text, &members.0, &id),
        None => envelope(&text, &id),
    };
    let mut response = response.map_body(|_, _| EitherBody::right(BoxBody::new(body)));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_ENCODING);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    Ok(response)
}

fn error_text<B>(response: &ServiceResponse<B>) -> Option<String> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    if let Some(text) = response.response().extensions().get::<ErrorText>() {
        return Some(text.0.clone());
    }
    let made_by_the_framework = response.response().error().is_some() || status == StatusCode::NOT_ACCEPTABLE;
    made_by_the_framework.then(|| usual_text(status).to_owned())
}

/// What an error says that nobody worded.
pub fn usual_text(status: StatusCode) -> &'static str {
    match status.as_u16() {
        404 => "not found",
        405 => "method not allowed",
        406 => "not acceptable",
        413 => "http: request body too large",
        503 => "service unavailable",
        400..500 => "bad request",
        _ => "internal error",
    }
}
