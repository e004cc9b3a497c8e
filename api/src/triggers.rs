//! Commands to devices' update clients: look for an update now, send the inventory now. (Mender API: device connect.)

use actix_web::{HttpResponse, web};
use actors::trigger::{Asker, Command, TriggerError};
use storage::DeviceId;

use crate::auth::AuthenticatedUser;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::state::ApiState;

/// When a device that has not answered earlier commands may be told something again.
const RETRY_WHEN_BUSY: std::time::Duration = std::time::Duration::from_mins(1);

/// `POST /devices/{id}/check-update`.
///
/// # Errors
/// 404 for a device that is not connected, 429 for one that has not answered earlier commands.
pub async fn check_update(
    AuthenticatedUser(user): AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    send(&state, &id, Command::CheckUpdate, Asker::User(user.user)).await
}

/// `POST /devices/{id}/send-inventory`.
///
/// # Errors
/// As [`check_update`].
pub async fn send_inventory(
    AuthenticatedUser(user): AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    send(&state, &id, Command::SendInventory, Asker::User(user.user)).await
}

/// Sends a command; 202 says that it is on its way.
pub(crate) async fn send(state: &ApiState, id: &str, command: Command, asker: Asker) -> Result<HttpResponse, ApiError> {
    // Malformed ids are unknown devices, and unknown devices are not connected.
    let device: DeviceId = id.parse().map_err(|_| TriggerError::NotConnected)?;
    state.triggers.send(device, command, asker).await?;
    // Clients read JSON: `null`.
    Ok(answer_json(&mut HttpResponse::Accepted(), &()))
}

impl From<TriggerError> for ApiError {
    fn from(error: TriggerError) -> Self {
        match error {
            TriggerError::NotConnected => Self::unknown(error.to_string()),
            TriggerError::NoAnswer => Self::Internal(error.into()),
            TriggerError::Busy => Self::TooManyRequests(error.to_string().into(), RETRY_WHEN_BUSY),
            TriggerError::Unavailable(error) => error.into(),
        }
    }
}
