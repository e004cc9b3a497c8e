//! A handler that panics answers 500 like any other failure, and its worker goes on.

use std::panic::AssertUnwindSafe;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use futures_util::FutureExt;

use crate::error::ApiError;

/// The layer.
///
/// # Errors
/// [`ApiError::Internal`] in place of the panic.
pub async fn catch_panics<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    // Handlers share nothing mutable but what guards itself: locks of ours do not poison, and the rest is in actors.
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(answer) => answer,
        Err(panic) => {
            metrics::counter!(crate::metrics::PANICS).increment(1);
            Err(ApiError::Internal(format!("a handler panicked: {}", message(&*panic)).into()).into())
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, init_service, try_call_service};
    use actix_web::{App, HttpResponse, middleware::from_fn, web};

    use super::*;

    #[actix_web::test]
    async fn a_panic_is_an_error_and_the_next_request_is_served() {
        async fn panics() -> HttpResponse {
            panic!("a bug")
        }
        let app = App::new()
            .wrap(from_fn(catch_panics))
            .route("/bug", web::get().to(panics))
            .route("/fine", web::get().to(HttpResponse::Ok));
        let app = init_service(app).await;
        let answer = try_call_service(&app, TestRequest::get().uri("/bug").to_request()).await;
        assert_eq!(answer.err().map(|error| error.to_string()).as_deref(), Some("internal error"));
        assert!(call_service(&app, TestRequest::get().uri("/fine").to_request()).await.status().is_success());
    }
}
