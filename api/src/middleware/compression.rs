//! Keeps the framework's compression away from what it should leave alone: bodies too small to gain anything, tokens, and
//! content that is compressed already.
//!
//! The framework compresses whatever does not name an encoding. So the inner half names one (`identity`) and the outer
//! half takes that name out again.

use actix_web::Error;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;

use crate::gateway::{self, Compression};

/// Below this a compressed body is not worth its headers. (Mender API: the gateway's threshold.)
const WORTHWHILE: u64 = 1024;

const PLAIN: HeaderValue = HeaderValue::from_static("identity");

/// The inner half: marks what is to stay plain.
///
/// # Errors
/// Those of the layers inside.
pub async fn mark_plain<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    let allowed = gateway::compression(request.path()) == Compression::Allowed;
    let mut response = next.call(request).await?;
    let size = response.response().body().size();
    if !allowed || !is_worthwhile(size, response.headers()) {
        response.headers_mut().insert(header::CONTENT_ENCODING, PLAIN);
    }
    Ok(response)
}

/// The outer half: takes the mark out again.
///
/// # Errors
/// Those of the layers inside.
pub async fn unmark_plain<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    let mut response = next.call(request).await?;
    if response.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == PLAIN) {
        response.headers_mut().remove(header::CONTENT_ENCODING);
    }
    Ok(response)
}

fn is_worthwhile(size: BodySize, headers: &HeaderMap) -> bool {
    // How well a secret compresses beside known text gives it away bit by bit.
    let is_token = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/jwt");
    // Compression holds back what a client is waiting for.
    let is_live = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    match size {
        BodySize::None => false,
        BodySize::Sized(size) => size >= WORTHWHILE && !is_token,
        BodySize::Stream => !is_token && !is_live,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::middleware::{Compress, from_fn};
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpResponse, web};

    use super::*;

    #[actix_web::test]
    async fn only_what_is_worth_it_is_compressed() {
        let app = App::new()
            .wrap(from_fn(mark_plain))
            .wrap(Compress::default())
            .wrap(from_fn(unmark_plain))
            .route("/large", web::get().to(|| async { "x".repeat(1024) }))
            .route("/small", web::get().to(|| async { "x".repeat(1023) }))
            .route(
                "/token",
                web::get().to(|| async { HttpResponse::Ok().content_type("application/jwt").body("x".repeat(2048)) }),
            )
            .route(
                "/live",
                web::get().to(|| async {
                    let piece = bytes::Bytes::from("x".repeat(2048));
                    let pieces = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(piece)]);
                    HttpResponse::Ok().content_type("text/event-stream").streaming(pieces)
                }),
            )
            .route("/api/devices/v1/deployments/download/x", web::get().to(|| async { "x".repeat(2048) }));
        let app = init_service(app).await;
        for (path, encoding) in [
            ("/large", Some("gzip")),
            ("/small", None),
            ("/token", None),
            ("/live", None),
            ("/api/devices/v1/deployments/download/x", None),
        ] {
            let request = TestRequest::get().uri(path).insert_header(("accept-encoding", "gzip")).to_request();
            let response = call_service(&app, request).await;
            let found = response.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap());
            assert_eq!(found, encoding, "{path}");
        }
        let plain = call_service(&app, TestRequest::get().uri("/large").to_request()).await;
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
    }
}
