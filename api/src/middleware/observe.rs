//! Names every request, opens its span, counts its answer. The outermost layer: nothing is answered past it.

use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError};
use tracing::{Instrument, field};

use crate::endpoint::RoutePattern;
use crate::error::{ErrorText, envelope};
use crate::headers::{self, REQUEST_ID};
use crate::metrics::{REQUEST_SECONDS, REQUESTS};
use crate::state::ApiState;

/// The request's name, as it stands in the answer and the log.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// The layer.
///
/// # Errors
/// For failures of the layers inside, as an answer that is complete.
pub async fn observe<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    let started = Instant::now();
    let id = headers::request_id(request.headers());
    let tls = ApiState::of_service(&request).is_tls(request.request());
    let method = method_label(request.method().as_str());
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!(
        "request",
        request.id = %id,
        http.method = method,
        http.route = field::Empty,
        device.id = field::Empty,
        user.id = field::Empty,
    );

    let outcome = next.call(request).instrument(span.clone()).await;

    let (answer, route, status) = match outcome {
        Ok(mut response) => {
            name_answer(response.headers_mut(), &id);
            let route = response.request().app_data::<RoutePattern>().map_or("none", |pattern| pattern.0);
            let status = response.status();
            (Ok(response), route, status)
        }
        Err(error) => {
            let complete = Complete::new(&error, &id, tls);
            let status = complete.status;
            (Err(complete.into()), "none", status)
        }
    };
    let elapsed = started.elapsed();
    span.record("http.route", route);
    span.in_scope(|| tracing::debug!(status = status.as_u16(), elapsed_ms = elapsed.as_millis(), "request answered"));
    metrics::counter!(REQUESTS, "route" => route, "method" => method, "status" => status_label(status)).increment(1);
    metrics::histogram!(REQUEST_SECONDS, "route" => route).record(elapsed);
    answer
}

fn name_answer(headers: &mut HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// An error answered with everything the layers inside would have added, since none of them will see it.
#[derive(Debug)]
struct Complete {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Complete {
    fn new(error: &Error, id: &str, tls: bool) -> Self {
        let response = error.as_response_error().error_response();
        let status = response.status();
        let text = response.extensions().get::<ErrorText>().map(|text| text.0.clone());
        let text = text.unwrap_or_else(|| crate::middleware::envelope::usual_text(status).to_owned());
        let mut headers = response.headers().clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        name_answer(&mut headers, id);
        headers::add_security(&mut headers, tls);
        Self { status, headers, body: envelope(&text, id) }
    }
}

impl std::fmt::Display for Complete {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "answered with {}", self.status)
    }
}

impl ResponseError for Complete {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::new(self.status).set_body(BoxBody::new(self.body.clone()));
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// A method from a closed set, so that nobody can invent labels.
fn method_label(method: &str) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    METHODS.into_iter().find(|known| *known == method).unwrap_or("other")
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ApiError;

    #[test]
    fn labels_come_from_closed_sets() {
        assert_eq!(method_label("PATCH"), "PATCH");
        assert_eq!(method_label("BREW"), "other");
        assert_eq!(status_label(StatusCode::NO_CONTENT), "2xx");
        assert_eq!(status_label(StatusCode::IM_A_TEAPOT), "4xx");
    }

    #[test]
    fn an_error_past_all_layers_is_still_complete() {
        let error: Error = ApiError::Internal("boom".into()).into();
        let complete = Complete::new(&error, "7", true);
        assert_eq!(complete.body, r#"{"error":"internal error","request_id":"7"}"#);
        let response = complete.error_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers().get(REQUEST_ID).unwrap(), "7");
        assert!(response.headers().contains_key(header::STRICT_TRANSPORT_SECURITY));
    }
}
