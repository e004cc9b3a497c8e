//! What the web UI keeps for all users and for each: stored as it comes, replaced by who has seen it.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use storage::SettingsOwner;

use super::UNREADABLE;
use crate::auth::AuthenticatedUser;
use crate::body::RawJson;
use crate::error::ApiError;
use crate::state::ApiState;

/// `GET /settings`.
///
/// # Errors
/// 503 when the database cannot be asked.
pub async fn get(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    answer(&state, SettingsOwner::Everybody).await
}

/// `GET /settings/me`.
///
/// # Errors
/// As [`get`].
pub async fn get_own(user: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    answer(&state, SettingsOwner::User(&user.0.user)).await
}

/// `POST /settings`: replaces the whole object, if it is the one named by `If-Match`.
///
/// # Errors
/// 400 for what is no object or too large, 412 if somebody else has replaced it meanwhile.
pub async fn replace(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    store(&state, &request, SettingsOwner::Everybody, &body).await
}

/// `POST /settings/me`.
///
/// # Errors
/// As [`replace`].
pub async fn replace_own(
    user: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    store(&state, &request, SettingsOwner::User(&user.0.user), &body).await
}

async fn answer(state: &ApiState, owner: SettingsOwner<'_>) -> Result<HttpResponse, ApiError> {
    let mut answer = HttpResponse::Ok();
    answer.content_type("application/json; charset=utf-8");
    match state.accounts.settings(owner).await? {
        // Bare, without the quotes of RFC 9110: the web UI sends it back as it came.
        Some(settings) => Ok(answer.insert_header((header::ETAG, settings.etag)).body(settings.document)),
        None => Ok(answer.body("{}")),
    }
}

async fn store(
    state: &ApiState,
    request: &HttpRequest,
    owner: SettingsOwner<'_>,
    body: &RawJson,
) -> Result<HttpResponse, ApiError> {
    let document = std::str::from_utf8(&body.0).map_err(|_| ApiError::bad_request(UNREADABLE))?;
    let expected = request.headers().get(header::IF_MATCH).map(|value| bare(value.to_str().unwrap_or_default()));
    state.accounts.replace_settings(owner, document, expected).await?;
    Ok(HttpResponse::Created().finish())
}

/// The tag without the quotes and the mark of weakness that a cache in between may have added.
fn bare(tag: &str) -> &str {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_may_be_quoted_and_weak() {
        for tag in ["x-1", "\"x-1\"", "W/\"x-1\"", " x-1 "] {
            assert_eq!(bare(tag), "x-1", "{tag}");
        }
    }
}
