//! Users for the other services of an installation. (Mender API: user administration, internal.)

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use storage::UserId;

use super::{count_forwarded, ours};
use crate::auth::user_token;
use crate::body::RawJson;
use crate::error::ApiError;
use crate::headers::{FORWARDED_METHOD, FORWARDED_URI};
use crate::state::ApiState;
use crate::users::{self, UNREADABLE};

/// `GET` and `POST /auth/verify`: whether the token in the request's headers is a user's and good. Counts against the
/// user's quota for the call named by `X-Forwarded-Method` and `X-Forwarded-Uri`, which have to be there.
///
/// # Errors
/// 400 if they are not, 401 and 403 for a token that is not good, 429, 503.
pub async fn verify(request: HttpRequest, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let identity = state.gate.user(user_token(request.headers()).map_err(ApiError::TokenRefused)?).await?;
    if !request.headers().contains_key(FORWARDED_METHOD) || !request.headers().contains_key(FORWARDED_URI) {
        return Err(ApiError::bad_request("X-Forwarded-Method and X-Forwarded-Uri must be provided"));
    }
    count_forwarded(&state, &request, &identity.user).await?;
    Ok(HttpResponse::Ok().finish())
}

/// `POST /tenants`: there is nothing to prepare.
///
/// # Errors
/// 400 without a name.
pub async fn add_tenant(body: RawJson) -> Result<HttpResponse, ApiError> {
    let tenant: TenantBody = body.object(UNREADABLE)?;
    if tenant.tenant_id.is_empty() {
        return Err(ApiError::bad_request("tenant_id must be provided"));
    }
    Ok(HttpResponse::Created().finish())
}

#[derive(Debug, Deserialize)]
struct TenantBody {
    #[serde(default)]
    tenant_id: String,
}

/// `GET /tenants/{tenant}/users`: as the management API lists them.
///
/// # Errors
/// As there, and 404 for another tenant.
pub async fn list(
    request: HttpRequest,
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    users::answer_list(&request, &state).await
}

/// `POST /tenants/{tenant}/users`: adds a user, who may bring an id and the hash of their password along.
///
/// # Errors
/// 400 for what is no address, password or hash, and for both or neither of the latter; 404 for another tenant; 422 for an
/// address or id that is taken.
pub async fn add(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let AddBody { id, email, password, password_hash } = body.object(UNREADABLE)?;
    let id = id.filter(|id| !id.is_empty()).map(UserId::new);
    let id = match (password, password_hash) {
        (Some(password), None) => state.accounts.add_user_by_operator(&email, &password, id).await?,
        (None, Some(hash)) => state.accounts.import_user(&email, &hash, id).await?,
        _ => return Err(ApiError::bad_request("password *or* password_hash must be provided")),
    };
    let location = format!("/api/management/v1/useradm/users/{id}");
    Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).finish())
}

#[derive(Deserialize)]
struct AddBody {
    id: Option<String>,
    email: String,
    password: Option<String>,
    password_hash: Option<String>,
}

/// `DELETE /tenants/{tenant}/users/{id}`.
///
/// # Errors
/// 404 for another tenant, 422 for the only user.
pub async fn remove(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    state.accounts.remove_user(&UserId::new(path.1.as_str())).await?;
    Ok(HttpResponse::NoContent().finish())
}
