//! Artifacts and releases. (Mender API: deployments, management, parts about artifacts and releases.)
//!
//! | file | what it answers |
//! |---|---|
//! | `listing.rs` | lists of artifacts, one artifact, its description, its removal |
//! | `upload.rs` | artifacts on their way in: uploads, files that become artifacts, direct uploads |
//! | `releases.rs` | releases, their tags and notes |
//! | `links.rs` | files by link, which need no token |
//! | `body.rs`, `query.rs` | what is sent and what is asked |

pub(crate) mod body;
pub mod links;
pub mod listing;
mod query;
pub mod releases;
pub mod upload;

use actix_web::HttpRequest;
use actix_web::http::header;
use actix_web::http::uri::Authority;
use storage::ArtifactId;

use crate::error::ApiError;
use crate::state::ApiState;

/// The artifact a path names.
///
/// # Errors
/// A 400 if it names none. (Mender API: this text.)
fn artifact_id(text: &str) -> Result<ArtifactId, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request("ID is not a valid UUID"))
}

/// A 404 for an artifact, release or upload that is not there. (Mender API: this text.)
fn no_such() -> ApiError {
    ApiError::unknown("Resource not found")
}

/// How the hub was asked, for links to it: scheme and host without a slash at the end.
pub(crate) fn base(state: &ApiState, request: &HttpRequest) -> Result<String, ApiError> {
    if let Some(url) = &state.config.public_url {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
    let is_plain = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    let host = host.filter(|host| !host.is_empty() && is_plain(host));
    let host = host.ok_or_else(|| ApiError::bad_request("the Host header is missing or malformed"))?;
    let scheme = if state.is_tls(request) { "https" } else { "http" };
    Ok(format!("{scheme}://{host}"))
}

/// The largest body of a request with this method and path, if that is another than usual.
pub fn body_limit(state: &ApiState, method: &str, path: &str) -> Option<u64> {
    /// What a form has beside its file.
    const FORM: u64 = 2 * 1024 * 1024;
    let config = state.artifacts.config();
    match (method, path) {
        ("POST", "/api/management/v1/deployments/artifacts") => Some(config.size_limit.saturating_add(FORM)),
        ("POST", "/api/management/v1/deployments/artifacts/generate") => {
            Some(config.generate_limit.saturating_add(FORM))
        }
        ("PUT", path) if path.starts_with("/api/devices/v1/deployments/download/uploads/") => Some(config.size_limit),
        _ => None,
    }
}
