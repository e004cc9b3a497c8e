//! Whether devices are connected, and the answers for those who ask for a websocket without opening one. The sockets
//! themselves never get here: [`crate::sockets`]. (Mender API: device connect.)

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use actors::reach::Unreachable;
use actors::session::directory::NotFound;
use serde::Serialize;
use storage::{DeviceId, Timestamp};

use crate::auth::{AuthenticatedDevice, AuthenticatedUser};
use crate::body::answer_json;
use crate::error::ApiError;
use crate::state::ApiState;

#[derive(Debug, Serialize)]
struct StatusBody {
    device_id: DeviceId,
    status: &'static str,
    created_ts: Timestamp,
    updated_ts: Timestamp,
}

/// `GET /devices/{id}`: the connection of a device.
///
/// # Errors
/// 404 for a device that never connected.
pub async fn status(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let not_found = || ApiError::unknown("device not found");
    let device: DeviceId = id.parse().map_err(|_| not_found())?;
    let connection = state.reach.connection(device).await?.ok_or_else(not_found)?;
    let body = StatusBody {
        device_id: device,
        status: if connection.connected { "connected" } else { "disconnected" },
        created_ts: connection.created,
        updated_ts: connection.updated,
    };
    Ok(answer_json(&mut HttpResponse::Ok(), &body))
}

/// `GET /devices/{id}/connect` by somebody who opens no websocket.
///
/// # Errors
/// Always: 404 if the device cannot be reached, else what is wrong with the request.
pub async fn user_without_socket(
    _: AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let device: DeviceId = id.parse().map_err(|_| ApiError::from(Unreachable::Offline))?;
    state.reach.find(device).await?;
    Err(no_socket_opened(request.headers()))
}

/// `GET /connect` by a device that opens no websocket.
///
/// # Errors
/// Always.
pub async fn device_without_socket(_: AuthenticatedDevice, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(no_socket_opened(request.headers()))
}

/// What is wrong with a request that should have opened a websocket. (RFC 6455 §4.2.1; the texts are those that clients'
/// tests look for.)
pub fn no_socket_opened(headers: &HeaderMap) -> ApiError {
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return ApiError::NotAWebsocket(
            "websocket: the client is not using the websocket protocol: 'upgrade' token not found in 'Connection' header",
        );
    }
    if !has_token(headers, &header::UPGRADE, "websocket") {
        return ApiError::UpgradeRequired(
            "websocket: the client is not using the websocket protocol: 'websocket' token not found in 'Upgrade' header",
        );
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return ApiError::NotAWebsocket(
            "websocket: unsupported version: 13 not found in 'Sec-Websocket-Version' header",
        );
    }
    ApiError::NotAWebsocket("websocket: not a websocket handshake: 'Sec-WebSocket-Key' header is missing or wrong")
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

/// `GET /devices/{id}/flow`: what flows through a device's connection and its sessions right now. (Ours.)
///
/// # Errors
/// 404 for a device that is not connected.
pub async fn flow(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let device: DeviceId = id.parse().map_err(|_| Unreachable::Offline)?;
    let figures = state.reach.describe(device).await?.ok_or(Unreachable::Offline)?;
    Ok(answer_json(&mut HttpResponse::Ok(), &figures))
}

/// `GET /sessions/{id}/attach` by somebody who opens no websocket. (Ours.)
///
/// # Errors
/// Always.
pub async fn attachment_without_socket(_: AuthenticatedUser, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(no_socket_opened(request.headers()))
}

impl From<NotFound> for ApiError {
    fn from(why: NotFound) -> Self {
        match why {
            NotFound::Unknown => Self::unknown("session not found"),
            NotFound::Unavailable(error) => error.into(),
        }
    }
}

impl From<Unreachable> for ApiError {
    fn from(why: Unreachable) -> Self {
        match why {
            Unreachable::Offline => Self::unknown("failed to connect to device: device disconnected"),
            Unreachable::NoAnswer => {
                Self::Other(StatusCode::INTERNAL_SERVER_ERROR, "failed to connect to device: internal error".into())
            }
            Unreachable::Unavailable(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError;
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn refused(pairs: &[(&'static str, &'static str)]) -> ApiError {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        no_socket_opened(&headers)
    }

    #[test]
    fn a_plain_request_is_told_so() {
        let error = refused(&[]);
        assert_eq!(error.status_code(), StatusCode::BAD_REQUEST);
        assert!(error.to_string().contains("the client is not using the websocket protocol"));
    }

    #[test]
    fn another_protocol_is_told_which_one_is_spoken() {
        let (status, _, headers) = refused(&[("connection", "keep-alive, Upgrade"), ("upgrade", "h2c")]).parts("");
        assert_eq!(status, StatusCode::UPGRADE_REQUIRED);
        assert!(headers.contains(&("upgrade", "websocket".to_owned())));
        assert!(headers.contains(&("sec-websocket-version", "13".to_owned())));
    }

    #[test]
    fn another_version_is_told_which_one_is_spoken() {
        let error = refused(&[("connection", "upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-version", "8")]);
        assert!(error.to_string().contains("unsupported version"));
    }
}
