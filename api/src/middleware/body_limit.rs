//! Refuses a body that announces itself as too large, before a byte of it is read. One that does not announce its size is
//! cut off while it is read, by [`crate::body`], [`crate::form`] and [`crate::artifacts`].

use actix_web::Error;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;

use crate::artifacts;
use crate::body::content_length;
use crate::error::ApiError;
use crate::file_transfer;
use crate::state::ApiState;

/// The layer.
///
/// # Errors
/// Those of the layers inside; a refusal is an answer.
pub async fn limit_body<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let state = ApiState::of_service(&request);
    let brings_file = request.method() == Method::PUT && file_transfer::brings_file(request.path());
    let limit = if brings_file {
        state.transfers.config().upload_limit
    } else {
        artifacts::body_limit(state, request.method().as_str(), request.path()).unwrap_or(state.config.body_limit)
    };
    if content_length(request.headers()).is_some_and(|length| length > limit) {
        return Ok(request.error_response(ApiError::TooLarge).map_into_right_body());
    }
    Ok(next.call(request).await?.map_into_left_body())
}
