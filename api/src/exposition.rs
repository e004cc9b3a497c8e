//! `GET /metrics`: everything that is counted here, for Prometheus.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::auth::device_token as bearer_token;
use crate::error::ApiError;
use crate::state::ApiState;

/// The content type of the Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// On the public listener: only with the configured token, and nothing at all without one.
///
/// # Errors
/// 404 when no token is configured, 401 when another one or none is shown.
pub async fn public(request: HttpRequest, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    if state.config.metrics_token.is_none() {
        return Err(ApiError::not_found());
    }
    private(request, state).await
}

/// On the listener for metrics alone: the token is asked for if there is one.
///
/// # Errors
/// 401 when another token or none is shown.
pub async fn private(request: HttpRequest, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    if let Some(secret) = &state.config.metrics_token
        && !secret.is(bearer_token(request.headers()).map_err(ApiError::TokenRefused)?)
    {
        return Err(ApiError::TokenRefused("unauthorized".into()));
    }
    Ok(HttpResponse::Ok().content_type(TEXT_FORMAT).body((state.render_metrics)()))
}
