//! Users: log in, log out, who they are, how they change. (Mender API: user administration.)

pub mod personal_tokens;
pub mod plans;
pub mod settings;

use std::collections::HashSet;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use actors::accounts::{AccountError, LoginRequest, UserUpdate};
use serde::{Deserialize, Serialize};
use storage::{Timestamp, User, UserId};

use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::metrics::ADDRESS_REFUSALS;
use crate::paging::Query;
use crate::state::ApiState;

/// Beginning of the text for a body that is not the object it should be.
pub(crate) const UNREADABLE: &str = "cannot parse request body as json";

/// A user as others see them.
#[derive(Debug, Serialize)]
pub struct UserBody {
    id: UserId,
    email: String,
    created_ts: Timestamp,
    updated_ts: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    login_ts: Option<Timestamp>,
}

impl From<User> for UserBody {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            email: user.email,
            created_ts: user.created,
            updated_ts: user.updated,
            login_ts: user.logged_in,
        }
    }
}

/// `POST /auth/login`: a token for the right e-mail address and password, which come in a Basic header. The body is
/// optional; members it has for other editions are ignored.
///
/// # Errors
/// 401 without a challenge, which would make browsers ask for a password; 429 for an address that tries too often.
pub async fn log_in(request: HttpRequest, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    let address = state.client_of(&request);
    if let Err(wait) = state.address_limits.logins.count(address) {
        metrics::counter!(ADDRESS_REFUSALS, "door" => "login").increment(1);
        return Err(ApiError::too_many_requests(wait));
    }
    let wishes = if body.is_empty() { LoginBody::default() } else { body.object(UNREADABLE)? };
    let basic = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = state.accounts.login(basic, address, LoginRequest { no_expiry: wishes.no_expiry }).await?;
    Ok(HttpResponse::Ok().content_type("application/jwt").body(token))
}

#[derive(Debug, Default, Deserialize)]
struct LoginBody {
    #[serde(default)]
    no_expiry: bool,
}

/// `POST /auth/logout`: the token that is shown is dead from now on.
///
/// # Errors
/// 503 when that cannot be written down.
pub async fn log_out(
    user: AuthenticatedUser,
    state: web::Data<ApiState>,
    _: RawJson,
) -> Result<HttpResponse, ApiError> {
    state.accounts.logout(&user.0).await?;
    Ok(HttpResponse::Accepted().finish())
}

/// `GET /users`: all of them; filters may be combined.
///
/// # Errors
/// 400 for a time that is no number.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    answer_list(&request, &state).await
}

/// The users that a query asks for, whoever asks.
pub(crate) async fn answer_list(request: &HttpRequest, state: &ApiState) -> Result<HttpResponse, ApiError> {
    let filter = UserFilter::from_query(&Query::parse(request.query_string()))?;
    let users = state.storage.users.list().await?;
    let found: Vec<UserBody> = users.into_iter().filter(|user| filter.passes(user)).map(UserBody::from).collect();
    Ok(answer_json(&mut HttpResponse::Ok(), &found))
}

/// `GET /users/me`.
///
/// # Errors
/// 404 if the user was removed a moment ago.
pub async fn me(user: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    answer_user(&state, &user.0.user).await
}

/// `GET /users/{id}`.
///
/// # Errors
/// 404 for an unknown user.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    answer_user(&state, &UserId::new(id.into_inner())).await
}

async fn answer_user(state: &ApiState, id: &UserId) -> Result<HttpResponse, ApiError> {
    let user = state.storage.users.find(id).await?.ok_or_else(|| ApiError::unknown("user not found"))?;
    Ok(answer_json(&mut HttpResponse::Ok(), &UserBody::from(user)))
}

/// `POST /users`.
///
/// # Errors
/// 400 for what is no address or password, 422 for a password against the rules and for an address that is taken.
pub async fn add(_: AuthenticatedUser, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    let wanted: AddBody = body.object(UNREADABLE)?;
    let id = state.accounts.add_user(&wanted.email, &wanted.password, None).await?;
    let location = format!("/api/management/v1/useradm/users/{id}");
    Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).finish())
}

#[derive(Deserialize)]
struct AddBody {
    email: String,
    password: String,
}

/// `PUT /users/{id}`; `me` is the caller.
///
/// # Errors
/// 400 for values that make no sense and if there are none, 404, 409 for a change that meets another, 422 for what is against
/// the rules.
pub async fn update(
    user: AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    update_user(&user, &UserId::new(id.into_inner()), &request, &state, &body).await
}

/// `PUT /users/me`.
///
/// # Errors
/// As [`update`].
pub async fn update_me(
    user: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    update_user(&user, &user.0.user, &request, &state, &body).await
}

async fn update_user(
    user: &AuthenticatedUser,
    target: &UserId,
    request: &HttpRequest,
    state: &ApiState,
    body: &RawJson,
) -> Result<HttpResponse, ApiError> {
    let UpdateBody { email, password, current_password } = body.object(UNREADABLE)?;
    let update = UserUpdate { email: given(email), password: given(password), current_password };
    state.accounts.update_user(&user.0, target, update, state.client_of(request)).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `PUT /users/me` of version 2: the password alone. Without one, only the caller's other tokens end.
///
/// # Errors
/// As [`update`], but for a body that changes nothing.
pub async fn update_own_password(
    user: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let UpdateBody { password, current_password, .. } = body.object(UNREADABLE)?;
    let address = state.client_of(&request);
    state.accounts.update_own_password(&user.0, given(password), current_password, address).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// An empty text is how some clients leave a member out.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct UpdateBody {
    email: Option<String>,
    password: Option<String>,
    current_password: Option<String>,
}

/// `DELETE /users/{id}`: the user is gone and so is their access. An unknown one is gone already.
///
/// # Errors
/// 422 for the only user.
pub async fn remove(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    state.accounts.remove_user(&UserId::new(id.into_inner())).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /users/me`.
///
/// # Errors
/// As [`remove`].
pub async fn remove_me(user: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    state.accounts.remove_user(&user.0.user).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Which users a list is about; what is not named does not matter.
#[derive(Debug, Default)]
struct UserFilter {
    ids: HashSet<String>,
    emails: HashSet<String>,
    created: Between,
    updated: Between,
}

/// Unix seconds, both ends exclusive.
#[derive(Debug, Default)]
struct Between {
    after: Option<i64>,
    before: Option<i64>,
}

impl UserFilter {
    fn from_query(query: &Query) -> Result<Self, ApiError> {
        Ok(Self {
            ids: query.all("id").map(str::to_owned).collect(),
            emails: query.all("email").map(str::to_lowercase).collect(),
            created: Between { after: seconds(query, "created_after")?, before: seconds(query, "created_before")? },
            updated: Between { after: seconds(query, "updated_after")?, before: seconds(query, "updated_before")? },
        })
    }

    fn passes(&self, user: &User) -> bool {
        (self.ids.is_empty() || self.ids.contains(user.id.as_str()))
            && (self.emails.is_empty() || self.emails.contains(&user.email))
            && self.created.contains(user.created)
            && self.updated.contains(user.updated)
    }
}

impl Between {
    fn contains(&self, time: Timestamp) -> bool {
        self.after.is_none_or(|after| time > Timestamp::from_seconds(after))
            && self.before.is_none_or(|before| time < Timestamp::from_seconds(before))
    }
}

fn seconds(query: &Query, name: &str) -> Result<Option<i64>, ApiError> {
    let number = query.first(name).map(str::parse).transpose();
    number.map_err(|_| ApiError::bad_request(format!("invalid {name} query: expected Unix seconds")))
}

/// Texts never hold the letters by which the web UI recognises a missing second factor.
impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::HeaderInvalid => Self::Unauthorized("invalid or missing auth header".into()),
            AccountError::Unauthorized => Self::Unauthorized("unauthorized".into()),
            AccountError::Throttled(wait) => Self::too_many_requests(wait),
            AccountError::Invalid(text) => Self::BadRequest(text),
            AccountError::Unprocessable(text) => Self::Unprocessable(text.into()),
            AccountError::NotFound => Self::unknown("user not found"),
            AccountError::Conflict(text) => Self::Conflict(text.into()),
            AccountError::Outdated => Self::Other(StatusCode::PRECONDITION_FAILED, "ETag doesn't match".into()),
            AccountError::Unavailable(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(email: &str, created: i64) -> User {
        User {
            id: UserId::new("u-1"),
            email: email.into(),
            password_hash: "hash".into(),
            created: Timestamp::from_seconds(created),
            updated: Timestamp::from_seconds(created),
            logged_in: None,
        }
    }

    fn passes(query: &str, user: &User) -> bool {
        UserFilter::from_query(&Query::parse(query)).unwrap().passes(user)
    }

    #[test]
    fn filters_combine() {
        let user = user("admin@example.com", 1000);
        for query in ["", "id=x&id=u-1", "email=Admin@Example.com", "created_after=999&created_before=1001"] {
            assert!(passes(query, &user), "{query}");
        }
        for query in ["id=x", "email=b@example.com", "created_after=1000", "updated_before=1000", "id=u-1&email=x@y.z"]
        {
            assert!(!passes(query, &user), "{query}");
        }
        assert!(UserFilter::from_query(&Query::parse("created_after=yesterday")).is_err());
    }

    #[test]
    fn a_user_is_shown_without_the_password() {
        let text = serde_json::to_string(&UserBody::from(user("a@example.com", 1_900_000_000))).unwrap();
        assert_eq!(
            text,
            r#"{"id":"u-1","email":"a@example.com","created_ts":"2030-03-17T17:46:40.000Z","updated_ts":"2030-03-17T17:46:40.000Z"}"#
        );
    }
}
