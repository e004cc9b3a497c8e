//! Files from and to devices over ordinary requests. (Mender API: device connect, `download` and `upload`.)
//!
//! [`file()`] is Mooring's own address of the same thing, for clients that come back for the rest of a file: it names the
//! state of a file (`ETag`) and sends it from any byte on (`Range`). The protocol of the devices knows no ranges, so the
//! bytes before it still come from the device.

mod form;
#[doc(hidden)]
pub mod fuzzing;
mod headers;

use std::time::Duration;

use actix_web::http::header::{self, HeaderMap};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use actors::file_transfer::{DeviceError, Failure, Found, PATH_LIMIT, UploadError, Whom};
use actors::reach::Unreachable;
use actors::session::SessionEnd;
use form::Form;
use futures_util::stream;
use storage::DeviceId;

use crate::auth::{AuthenticatedUser, user_token};
use crate::error::ApiError;
use crate::paging::Query;
use crate::state::ApiState;

/// Where this area's paths begin.
const DEVICES: &str = "/api/management/v1/deviceconnect/devices/";

/// How soon a user with too many sessions may try again.
const FEWER_SESSIONS: Duration = Duration::from_secs(1);

/// `GET` and `HEAD …/devices/{id}/download?path=`: a file from a device.
///
/// # Errors
/// See [`Failure`] and its mapping; what goes wrong after the first bytes breaks the connection instead.
pub async fn download(
    user: AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let (path, found) = find(user, &request, &id, &state).await?;
    let mut answer = HttpResponse::Ok();
    headers::describe(&mut answer, &path, &found.info);
    send(&request, answer, found, 0).await
}

/// `GET` and `HEAD …/mooring/devices/{id}/files?path=`: the same, with `ETag`, `If-Match` and `Range: bytes=N-`.
///
/// # Errors
/// As [`download`], and 412 if the file is no longer the one that `If-Match` names, and 416 if it has no byte N.
pub async fn file(
    user: AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let (path, found) = find(user, &request, &id, &state).await?;
    let (tag, size) = (format!("\"{}\"", found.info.version()), found.info.size);
    if !is_wanted(request.headers(), &tag) {
        return Err(ApiError::Other(StatusCode::PRECONDITION_FAILED, "the file has changed".into()));
    }
    let from = first_byte(request.headers(), &tag).filter(|_| request.method() == Method::GET);
    let mut answer = match from {
        None => HttpResponse::Ok(),
        Some(from) if from >= size => {
            return Err(ApiError::Other(StatusCode::RANGE_NOT_SATISFIABLE, "the file is not that long".into()));
        }
        Some(from) => {
            let mut answer = HttpResponse::PartialContent();
            answer.insert_header((header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", size - 1)));
            answer
        }
    };
    headers::describe(&mut answer, &path, &found.info);
    answer.insert_header((header::ETAG, tag)).insert_header((header::ACCEPT_RANGES, "bytes"));
    send(&request, answer, found, from.unwrap_or(0)).await
}

/// `PUT …/devices/{id}/upload`: a file to a device, as a form.
///
/// # Errors
/// 400 for a form against the rules, 413 for one too large, and see [`Failure`].
pub async fn upload(
    user: AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let whom = whom(user, &request, &id)?;
    let limits = state.transfers.config();
    let mut form = Form::read(request.headers(), body.into_inner(), limits.upload_limit, limits.deadline)?;
    let (target, file) = form.until_file().await?;
    state.transfers.upload(whom, target, file).await?;
    // `mender-cli` sends the mode after the file: too late to matter, but not a mistake of its user's.
    form.pass_over_rest().await;
    Ok(HttpResponse::Created().finish())
}

/// Whether a request with this path brings a file, which may be larger than other bodies.
pub fn brings_file(path: &str) -> bool {
    let id = path.strip_prefix(DEVICES).and_then(|rest| rest.strip_suffix("/upload"));
    id.is_some_and(|id| !id.contains('/'))
}

async fn find(
    user: AuthenticatedUser,
    request: &HttpRequest,
    id: &str,
    state: &ApiState,
) -> Result<(String, Found), ApiError> {
    let path = Query::parse(request.query_string()).first("path").unwrap_or_default().to_owned();
    check_path(&path)?;
    let found = state.transfers.find(whom(user, request, id)?, path.clone()).await?;
    Ok((path, found))
}

/// The rest of an answer whose headers are known. One to HEAD asks the device for nothing more.
async fn send(
    request: &HttpRequest,
    mut answer: HttpResponseBuilder,
    found: Found,
    from: i64,
) -> Result<HttpResponse, ApiError> {
    if request.method() == Method::HEAD {
        return Ok(answer.streaming(stream::empty::<Result<web::Bytes, ApiError>>()));
    }
    Ok(answer.streaming(found.fetch(from).await?))
}

fn whom(user: AuthenticatedUser, request: &HttpRequest, id: &str) -> Result<Whom, ApiError> {
    // Malformed ids are unknown devices, and unknown devices are not connected.
    let device: DeviceId = id.parse().map_err(|_| Failure::Unreachable(Unreachable::Offline))?;
    let credential = user_token(request.headers()).map_err(ApiError::TokenRefused)?.to_owned();
    let address = ApiState::of(request).client_of(request);
    Ok(Whom { device, user: user.0.user, token: user.0.token, credential, address })
}

fn check_path(path: &str) -> Result<(), ApiError> {
    if path.is_empty() {
        return Err(ApiError::bad_request("path: cannot be blank."));
    }
    if !path.starts_with('/') {
        return Err(ApiError::bad_request("path: must be absolute."));
    }
    if path.len() > PATH_LIMIT {
        return Err(ApiError::bad_request("path: must be at most 4096 bytes long."));
    }
    Ok(())
}

/// Whether `If-Match`, if it is there, names the file as it is. (RFC 9110 §13.1.1.)
fn is_wanted(headers: &HeaderMap, tag: &str) -> bool {
    let mut wanted = headers.get_all(header::IF_MATCH).peekable();
    wanted.peek().is_none()
        || wanted
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|named| matches!(named.trim(), named if named == "*" || named == tag))
}

/// The first byte of the one kind of range that is served, `bytes=N-`. Others may be ignored, and are. (RFC 9110 §14.2.)
fn first_byte(headers: &HeaderMap, tag: &str) -> Option<i64> {
    let of_this_file = headers.get(header::IF_RANGE).is_none_or(|named| named == tag);
    let range = headers.get(header::RANGE).filter(|_| of_this_file)?.to_str().ok()?;
    let digits = range.strip_prefix("bytes=")?.strip_suffix('-')?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let text = failure.to_string();
        let bad_gateway = |text: String| Self::Other(StatusCode::BAD_GATEWAY, text.into());
        let internal = || Self::Other(StatusCode::INTERNAL_SERVER_ERROR, "internal error".into());
        match failure {
            Failure::Unreachable(Unreachable::Offline) => Self::Conflict(text.into()),
            Failure::Unreachable(Unreachable::Unavailable(error)) => error.into(),
            Failure::Unreachable(Unreachable::NoAnswer) | Failure::TimedOut => {
                Self::Other(StatusCode::REQUEST_TIMEOUT, "file transfer timed out".into())
            }
            Failure::TooManySessions | Failure::Ended(SessionEnd::TooManySessions) => {
                Self::TooManyRequests(text.into(), FEWER_SESSIONS)
            }
            Failure::Handshake(said) => refused(&said, StatusCode::INTERNAL_SERVER_ERROR, text),
            Failure::Disabled | Failure::NotImplemented => bad_gateway(text),
            Failure::StatRefused(said) | Failure::PutRefused(said) => refused(&said, StatusCode::BAD_REQUEST, text),
            Failure::NotRegular => Self::BadRequest(text.into()),
            Failure::GetRefused(said) => {
                let is_denied = said.text.starts_with("access denied");
                let otherwise = if is_denied { StatusCode::FORBIDDEN } else { StatusCode::BAD_REQUEST };
                refused(&said, otherwise, text)
            }
            Failure::Ended(SessionEnd::AccessWithdrawn) => Self::TokenRefused(text.into()),
            Failure::Ended(SessionEnd::NodeShutdown) => Self::Unavailable,
            Failure::OutOfStep(_) | Failure::ClosedByDevice | Failure::ClientGone | Failure::Ended(_) => {
                // Nothing that anybody has to act on: a device that went away or misbehaves.
                tracing::debug!(cause = %text, "a file transfer failed");
                internal()
            }
        }
    }
}

/// A device's refusal, with its own code if it has one.
fn refused(said: &DeviceError, otherwise: StatusCode, text: String) -> ApiError {
    let status = said.code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(otherwise);
    ApiError::Other(status, text.into())
}

impl<E: Into<ApiError>> From<UploadError<E>> for ApiError {
    fn from(error: UploadError<E>) -> Self {
        match error {
            UploadError::Device(failure) => failure.into(),
            UploadError::Input(error) => error.into(),
            UploadError::InputTooSlow => Self::TooSlow,
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError;
    use actix_web::http::header::{HeaderName, HeaderValue};
    use actors::bus::DisconnectReason;

    use super::*;

    fn answered(failure: Failure) -> (u16, String) {
        let error = ApiError::from(failure);
        (error.status_code().as_u16(), error.to_string())
    }

    #[test]
    fn every_failure_has_its_status_and_text() {
        let said = |text: &str, code| DeviceError { text: text.to_owned(), code };
        let gone = SessionEnd::DeviceGone(DisconnectReason::ConnectionLost);
        for (failure, status, text) in [
            (Failure::Unreachable(Unreachable::Offline), 409, "device disconnected"),
            (Failure::Unreachable(Unreachable::NoAnswer), 408, "file transfer timed out"),
            (Failure::TooManySessions, 429, "too many open sessions"),
            (Failure::Ended(SessionEnd::TooManySessions), 429, "the device has too many open sessions"),
            (Failure::Handshake(said("no", None)), 500, "handshake error from client: no"),
            (Failure::Handshake(said("no", Some(403))), 403, "handshake error from client: no"),
            (Failure::Disabled, 502, "file transfer disabled on device"),
            (Failure::NotImplemented, 502, "file transfer not implemented on device"),
            (Failure::TimedOut, 408, "file transfer timed out"),
            (Failure::StatRefused(said("x", None)), 400, "failed to retrieve file info: error received from device: x"),
            (
                Failure::StatRefused(said("x", Some(404))),
                404,
                "failed to retrieve file info: error received from device: x",
            ),
            (Failure::NotRegular, 400, "path is not a regular file"),
            (Failure::GetRefused(said("x", None)), 400, "error received from device: x"),
            (Failure::GetRefused(said("access denied: x", None)), 403, "error received from device: access denied: x"),
            (Failure::GetRefused(said("x", Some(507))), 507, "error received from device: x"),
            (Failure::PutRefused(said("access denied: x", None)), 400, "access denied: x"),
            (Failure::PutRefused(said("x", Some(507))), 507, "x"),
            (Failure::OutOfStep("x"), 500, "internal error"),
            (Failure::ClosedByDevice, 500, "internal error"),
            (Failure::Ended(gone), 500, "internal error"),
            (Failure::Ended(SessionEnd::LinkLost), 500, "internal error"),
            (Failure::Ended(SessionEnd::AccessWithdrawn), 401, "session ended: access was withdrawn"),
            (Failure::Ended(SessionEnd::NodeShutdown), 503, "service unavailable"),
        ] {
            assert_eq!(answered(failure), (status, text.to_owned()));
        }
    }

    #[test]
    fn paths_are_absolute_and_fit() {
        let refused = |path: &str| check_path(path).err().map(|error| error.to_string());
        assert_eq!(refused("/etc/passwd"), None);
        assert_eq!(refused("").as_deref(), Some("path: cannot be blank."));
        assert_eq!(refused("etc/passwd").as_deref(), Some("path: must be absolute."));
        assert_eq!(refused(&format!("/{}", "x".repeat(4095))), None);
        assert!(refused(&format!("/{}", "x".repeat(4096))).is_some());
    }

    #[test]
    fn only_uploads_bring_files() {
        assert!(brings_file("/api/management/v1/deviceconnect/devices/x/upload"));
        assert!(!brings_file("/api/management/v1/deviceconnect/devices/x/download"));
        assert!(!brings_file("/api/management/v1/deviceconnect/devices/x/y/upload"));
        assert!(!brings_file("/api/management/v1/inventory/devices/x/upload"));
    }

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_file_that_has_changed_is_not_wanted() {
        assert!(is_wanted(&HeaderMap::new(), "\"a\""));
        for value in ["\"a\"", "\"b\", \"a\"", "*"] {
            assert!(is_wanted(&with(header::IF_MATCH, value), "\"a\""), "{value}");
        }
        for value in ["\"b\"", "W/\"a\"", "a", ""] {
            assert!(!is_wanted(&with(header::IF_MATCH, value), "\"a\""), "{value}");
        }
    }

    #[test]
    fn one_kind_of_range_is_served() {
        let first = |value| first_byte(&with(header::RANGE, value), "\"a\"");
        assert_eq!(first("bytes=0-"), Some(0));
        assert_eq!(first("bytes=8589934592-"), Some(8_589_934_592));
        for other in
            ["bytes=-5", "bytes=1-2", "bytes=1-,5-", "bytes=+1-", "bytes=-", "lines=1-", "bytes=99999999999999999999-"]
        {
            assert_eq!(first(other), None, "{other}");
        }
        let mut headers = with(header::RANGE, "bytes=5-");
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"b\""));
        assert_eq!(first_byte(&headers, "\"a\""), None, "the rest of another file");
        assert_eq!(first_byte(&headers, "\"b\""), Some(5));
    }
}
