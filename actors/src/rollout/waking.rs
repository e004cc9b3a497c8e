//! Whom a new deployment wakes.

use storage::inventory::search::Search;
use storage::{DeploymentId, DeviceId, NewDeployment, StorageError, Targets};
use tracing::debug;

use super::{Rollout, read_filter};
use crate::trigger::Asker;
use crate::wake_up::{WAITING_LIMIT, WakeUps};

/// Devices read from the inventory at a time.
const PAGE: u32 = 1_000;

impl Rollout {
    /// Devices that are to be told that there is something for them. They ask, so it has to be there for them before.
    pub fn wake_ups(&self) -> &WakeUps {
        &self.0.wake_ups
    }

    /// Has the devices of a deployment told of it that was made just now.
    pub(super) async fn wake_for(&self, new: &NewDeployment, asker: Asker) {
        // A deployment that waits for its time has nothing to tell yet.
        if new.plan.phases.first().and_then(|first| first.starts).is_some_and(|starts| starts > new.at) {
            return;
        }
        match &new.targets {
            // What is no id is no device that could be connected.
            Targets::Devices(devices) => {
                self.0.wake_ups.nudge(devices.iter().filter_map(|device| device.parse().ok()), asker);
            }
            Targets::Dynamic { .. } => match self.found_by(&new.chosen_by).await {
                Ok(devices) => self.0.wake_ups.nudge(devices, asker),
                Err(error) => debug!(%error, deployment.id = %new.id, "a filter finds nobody to tell of a deployment"),
            },
        }
    }

    /// Has the devices told that a deployment has been opened to, as many as can be told. The first of them take its places.
    pub(super) async fn wake_whoever_waits(&self, deployment: DeploymentId) {
        let mut after = String::new();
        for _ in 0..WAITING_LIMIT / PAGE as usize {
            let waiting = match self.0.deployments.devices_with_work(deployment, &after, PAGE).await {
                Ok(waiting) => waiting,
                Err(error) => {
                    debug!(%error, deployment.id = %deployment, "nobody is told that a deployment goes on");
                    return;
                }
            };
            self.0.wake_ups.nudge(waiting.iter().filter_map(|device| device.parse().ok()), Asker::Service);
            match waiting.into_iter().next_back() {
                Some(last) => after = last,
                None => return,
            }
        }
    }

    /// The devices that pass a filter now, as many as can be told.
    async fn found_by(&self, terms: &str) -> Result<Vec<DeviceId>, StorageError> {
        let filter = read_filter(terms).map_err(|error| StorageError::Other(error.into()))?;
        let mut devices = Vec::new();
        loop {
            let search =
                Search { filter: filter.clone(), offset: devices.len() as u64, limit: PAGE, ..Search::default() };
            let found = self.0.inventory.search(&search).await?;
            let is_last = found.devices.len() < PAGE as usize;
            devices.extend(found.devices.iter().map(|device| device.id));
            if is_last || devices.len() >= WAITING_LIMIT {
                return Ok(devices);
            }
        }
    }
}
