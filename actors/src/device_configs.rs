//! Brings devices what they are told to be: makes the deployment, calls off those whose place it takes, and wakes the device.

use std::error::Error;

use storage::{Deployed, DeploymentId, DeviceId, Storage, StorageError, clock};
use tracing::warn;

use crate::rollout::Rollout;
use crate::trigger::Asker;

/// Deploys what a device is told to be now; `None` if there is no such device. The device is told to look for it at once, if
/// it is connected; otherwise it finds it when it asks by itself. If it fails, it is told again `retries` times.
///
/// # Errors
/// `Unavailable`, `Corrupt`, `Other`.
pub async fn deploy(
    storage: &Storage,
    rollout: &Rollout,
    device: DeviceId,
    retries: u32,
    asker: Asker,
) -> Result<Option<DeploymentId>, StorageError> {
    let deployment = DeploymentId::random();
    let groups = storage.inventory.group_of(device).await?.flatten().into_iter().collect();
    match storage.device_configs.deploy(device, deployment, groups, retries, clock::now()).await? {
        Deployed::Made { superseded } => {
            rollout.hear_of_devices([device]);
            call_off(rollout, &superseded).await;
            rollout.wake_ups().nudge([device], asker);
            Ok(Some(deployment))
        }
        Deployed::NoDevice => Ok(None),
        // One in two to the power of 122.
        Deployed::IdTaken => Err(StorageError::Conflict("deployment")),
    }
}

/// Ends deployments whose configurations nobody wants any more. One that goes on all the same is only in the way: a device
/// goes through them in their order.
async fn call_off(rollout: &Rollout, superseded: &[DeploymentId]) {
    for deployment in superseded {
        if let Err(error) = rollout.abort(*deployment).await {
            warn!(error = &error as &dyn Error, deployment.id = %deployment, "an older configuration is still deployed");
        }
    }
}
