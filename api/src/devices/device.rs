//! What devices send: their request to join.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::body::RawJson;
use crate::error::ApiError;
use crate::metrics::ADDRESS_REFUSALS;
use crate::state::ApiState;

/// The signature over the body as it was sent. (Mender API: Base64 of it.)
const SIGNATURE: &str = "x-men-signature";

/// `POST …/authentication/auth_requests`: a token for an accepted device, 401 for every other. Whatever `Authorization`
/// says is ignored: clients send a tenant's token there, or nothing at all after `Bearer`.
///
/// # Errors
/// Those of admission, and 429 for an address that asks too often.
pub async fn ask_to_join(
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    if let Err(wait) = state.address_limits.auth_requests.count(state.client_of(&request)) {
        metrics::counter!(ADDRESS_REFUSALS, "door" => "auth_requests").increment(1);
        return Err(ApiError::too_many_requests(wait));
    }
    let signature = request.headers().get(SIGNATURE).and_then(|signature| signature.to_str().ok());
    let token = state.admission.ask_to_join(&body.0, signature).await?;
    Ok(HttpResponse::Ok().content_type("application/jwt").body(token))
}
