//! Personal access tokens: made, listed and revoked by the user they stand for.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use storage::{Timestamp, TokenId, UserToken};

use super::UNREADABLE;
use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::state::ApiState;

/// `POST /settings/tokens`: the token itself, which is never shown again.
///
/// # Errors
/// 400 for a name or lifetime out of bounds, 409 for a name that is taken, 422 if the user has as many as may be.
pub async fn issue(
    user: AuthenticatedUser,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let wanted: IssueBody = body.object(UNREADABLE)?;
    let seconds = u64::try_from(wanted.expires_in.unwrap_or_default())
        .map_err(|_| ApiError::bad_request("expires_in: must be no less than 0."))?;
    // Zero is how clients say "never".
    let lifetime = (seconds > 0).then(|| Duration::from_secs(seconds));
    let token = state.accounts.issue_personal_token(&user.0, &wanted.name, lifetime).await?;
    Ok(HttpResponse::Ok().content_type("application/jwt").body(token))
}

#[derive(Debug, Deserialize)]
struct IssueBody {
    #[serde(default)]
    name: String,
    /// In seconds.
    expires_in: Option<i64>,
}

/// `GET /settings/tokens`: the caller's own.
///
/// # Errors
/// 503 when the database cannot be asked.
pub async fn list(user: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let tokens = state.accounts.personal_tokens(&user.0.user).await?;
    let tokens: Vec<TokenBody> = tokens.into_iter().map(TokenBody::from).collect();
    Ok(answer_json(&mut HttpResponse::Ok(), &tokens))
}

#[derive(Debug, Serialize)]
struct TokenBody {
    id: TokenId,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_date: Option<Timestamp>,
    created_ts: Timestamp,
}

impl From<UserToken> for TokenBody {
    fn from(token: UserToken) -> Self {
        Self {
            id: token.id,
            name: token.name.unwrap_or_default(),
            last_used: token.last_used,
            expiration_date: token.expires,
            created_ts: token.created,
        }
    }
}

/// `DELETE /settings/tokens/{id}`: ends a token of the caller's, a login too. Any other is not theirs to end.
///
/// # Errors
/// 503 when that cannot be written down.
pub async fn revoke(
    user: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    if let Ok(token) = id.parse() {
        state.accounts.revoke_own_token(&user.0.user, token).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}
