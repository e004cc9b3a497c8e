//! Deployments. (Mender API: deployments, management and devices.)
//!
//! | file | what it answers |
//! |---|---|
//! | `device.rs` | devices: what to install, how far they are, what went wrong |
//! | `making.rs` | users who make deployments and end them |
//! | `plan.rs` | phases, retries and limits of a new one |
//! | `steering.rs` | operators who watch over one, pause it and resume it |
//! | `listing.rs` | lists, single deployments, statistics |
//! | `devices.rs` | devices within deployments, and deployments of devices |
//! | `internal.rs` | other services |
//! | `storage_settings.rs` | where new artifacts go |
//! | `body.rs`, `query.rs` | what is said and what is asked |

mod body;
pub mod device;
pub mod devices;
pub mod internal;
pub mod listing;
pub mod making;
mod plan;
mod query;
pub mod steering;
pub mod storage_settings;

pub use plan::retries;
use storage::{Deployment, DeploymentId};

use crate::error::ApiError;
use crate::state::ApiState;

/// Where deployments are.
const DEPLOYMENTS: &str = "/api/management/v1/deployments/deployments";

/// Characters of a device's id in a list of devices: ids are taken as they come, but nothing else is one.
const DEVICE_LIMIT: usize = 256;

/// The deployment a path names.
///
/// # Errors
/// A 400 if it names none. (Mender API: this text.)
fn deployment_id(text: &str) -> Result<DeploymentId, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request("ID is not a valid UUID"))
}

/// The deployment with this id.
///
/// # Errors
/// 400, 404.
async fn find(state: &ApiState, id: &str) -> Result<Deployment, ApiError> {
    state.storage.deployments.find(deployment_id(id)?).await?.ok_or_else(no_such)
}

/// A 404 for a deployment, or a device in it, that is not there. (Mender API: this text.)
fn no_such() -> ApiError {
    ApiError::unknown("Resource not found")
}

/// A device as a path names it. What cannot be an id is none of a device.
///
/// # Errors
/// 404.
fn device_name(text: &str) -> Result<&str, ApiError> {
    if text.contains('\0') || text.chars().count() > DEVICE_LIMIT { Err(no_such()) } else { Ok(text) }
}
