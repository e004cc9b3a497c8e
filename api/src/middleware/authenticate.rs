//! Lets a request in with the token that its path calls for, counts it against the caller's quota, and hands the verified
//! identity on.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage};
use storage::clock;
use tracing::{Span, field};

use crate::auth::{AuthenticatedDevice, AuthenticatedUser, device_token, user_token};
use crate::error::ApiError;
use crate::gateway::Access;
use crate::rate_limits::Call;
use crate::state::ApiState;

/// The layer.
///
/// # Errors
/// Those of the layers inside; a refusal is an answer.
pub async fn authenticate<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    match admit(&request).await {
        Ok(()) => Ok(next.call(request).await?.map_into_left_body()),
        Err(refusal) => Ok(request.error_response(refusal).map_into_right_body()),
    }
}

async fn admit(request: &ServiceRequest) -> Result<(), ApiError> {
    let state = ApiState::of_service(request);
    // The router's view of the path, so that no spelling gets to a handler that this wall took for another path.
    let path = request.match_info().as_str();
    // Whoever watches over the hub knows it by address.
    let access = (state.access)(path);
    if !path.starts_with("/health/") && access != Access::Internal && !state.config.accepts_host(host(request)) {
        return Err(ApiError::not_found());
    }
    match access {
        Access::Public => Ok(()),
        Access::Internal => match &state.config.internal_token {
            Some(secret) if !secret.is(device_token(request.headers()).map_err(ApiError::TokenRefused)?) => {
                Err(ApiError::TokenRefused("unauthorized".into()))
            }
            _ => Ok(()),
        },
        Access::Nowhere => Err(ApiError::not_found()),
        Access::Device => {
            let identity = state.gate.device(device_token(request.headers()).map_err(ApiError::TokenRefused)?).await?;
            Span::current().record("device.id", field::display(&identity.device));
            count(state, request, &identity.device).await?;
            request.extensions_mut().insert(AuthenticatedDevice(identity));
            Ok(())
        }
        Access::User => {
            let identity = state.gate.user(user_token(request.headers()).map_err(ApiError::TokenRefused)?).await?;
            Span::current().record("user.id", field::display(&identity.user));
            count(state, request, &identity.user).await?;
            request.extensions_mut().insert(AuthenticatedUser(identity));
            Ok(())
        }
    }
}

async fn count(state: &ApiState, request: &ServiceRequest, subject: &dyn std::fmt::Display) -> Result<(), ApiError> {
    let limits = &state.config.rate_limits;
    if !limits.enable {
        return Ok(());
    }
    let call = Call { subject, method: request.method().as_str(), path: request.path() };
    limits.count(&state.storage.presence, call, clock::now()).await
}

fn host(request: &ServiceRequest) -> &str {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| request.uri().host()).unwrap_or_default()
}
