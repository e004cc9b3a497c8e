//! Tells browsers to be careful, on every answer.

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;

use crate::headers;
use crate::state::ApiState;

/// The layer.
///
/// # Errors
/// Those of the layers inside.
pub async fn add_security_headers<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let tls = ApiState::of_service(&request).is_tls(request.request());
    let mut response = next.call(request).await?;
    headers::add_security(response.headers_mut(), tls);
    Ok(response)
}
