//! Many simulated devices on one hub.

use crate::{
    DeviceKey, DeviceSettings, Leave, Server, Services, Shell, SimulatedDevice, connection::idle_socket,
    device::DeviceHandle, operator::Operator, server::source_of,
};
use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Devices that are admitted at the same time.
const ADMITTED_AT_ONCE: usize = 32;

/// A fleet: its devices have the identities and keys that follow from its name.
#[derive(Debug)]
pub struct Fleet {
    name: String,
    settings: Arc<DeviceSettings>,
    running: Vec<DeviceHandle>,
}

impl Fleet {
    /// A fleet of this name, without devices yet.
    pub fn new(name: &str, server: Server, shell: Shell) -> Self {
        let settings = Arc::new(DeviceSettings::new(server, shell));
        Self { name: name.to_owned(), settings, running: Vec::new() }
    }

    /// The same, of which so many devices may be joining or connecting at once.
    ///
    /// # Panics
    /// When devices of it were made already.
    #[must_use]
    pub fn entering_at_once(mut self, entering: usize) -> Self {
        let settings = Arc::get_mut(&mut self.settings).expect("settings that no device has yet");
        settings.entering = Semaphore::new(entering);
        self
    }

    /// The same, whose devices do next to nothing and are as small as can be.
    ///
    /// # Panics
    /// When devices of it were made already.
    #[must_use]
    pub fn of_idle_devices(mut self) -> Self {
        Arc::get_mut(&mut self.settings).expect("settings that no device has yet").socket = idle_socket();
        self
    }

    /// The same, whose devices offer these beside shells.
    ///
    /// # Panics
    /// When devices of it were made already.
    #[must_use]
    pub fn offering(mut self, services: Services) -> Self {
        Arc::get_mut(&mut self.settings).expect("settings that no device has yet").services = services;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its devices' common settings, with the counters of what they do.
    pub fn settings(&self) -> &DeviceSettings {
        &self.settings
    }

    /// How many devices are switched on.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether no device is switched on.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The device of this number.
    pub fn device(&self, index: usize) -> SimulatedDevice {
        let number = u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes();
        let identity = json!({
            "mac": format!("02:00:{:02x}:{:02x}:{:02x}:{:02x}", number[0], number[1], number[2], number[3]),
            "sn": format!("{}-{index:06}", self.name),
        });
        let source = source_of(index, self.settings.server.address());
        SimulatedDevice::new(
            self.settings.clone(),
            identity.to_string(),
            DeviceKey::of_fleet(&self.name, index),
            source,
        )
    }

    /// Has the operator let in the devices of these numbers; returns their ids in the same order.
    ///
    /// # Errors
    /// When the hub refuses one.
    pub async fn admit(&self, operator: &Operator, numbers: std::ops::Range<usize>) -> anyhow::Result<Vec<String>> {
        stream::iter(numbers)
            .map(|index| {
                let device = self.device(index);
                async move {
                    let admitted = operator.admit(device.identity(), &device.public_pem()).await;
                    admitted.with_context(|| format!("cannot admit device {index} of the fleet"))
                }
            })
            .buffered(ADMITTED_AT_ONCE)
            .try_collect()
            .await
    }

    /// Switches on the devices of these numbers.
    pub fn start(&mut self, numbers: std::ops::Range<usize>) {
        for index in numbers {
            self.running.push(self.device(index).start());
        }
    }

    /// Has all devices leave their websockets at once, each to come back after a time of its own.
    pub fn reconnect_all(&self, how: Leave, away: impl Fn() -> Duration) {
        for device in &self.running {
            device.reconnect(how, away());
        }
    }

    /// Has any one device leave its websocket, to come back after this time.
    pub fn reconnect_one(&self, how: Leave, away: Duration) {
        if !self.running.is_empty() {
            self.running[rand::random_range(0..self.running.len())].reconnect(how, away);
        }
    }

    /// Waits until all devices are connected.
    ///
    /// # Errors
    /// When that takes longer than `limit`; the error says how far it came and what went wrong last.
    pub async fn all_connected(&self, limit: Duration) -> anyhow::Result<()> {
        let progress = &self.settings.progress;
        let all = progress.wait_until(|progress| progress.connected() >= self.len());
        tokio::time::timeout(limit, all).await.map_err(|_elapsed| {
            let trouble = progress.last_trouble().unwrap_or_else(|| "nothing went wrong".to_owned());
            anyhow::anyhow!(
                "only {} of {} devices connected within {} s; last trouble: {trouble}",
                progress.connected(),
                self.len(),
                limit.as_secs(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn devices_of_a_fleet_differ_and_return_the_same() {
        let server = Server::at("http://127.0.0.1:1").await.expect("a server");
        let fleet = Fleet::new("f", server.clone(), Shell::Echo);
        let again = Fleet::new("f", server, Shell::Echo);

        assert_eq!(fleet.device(258).identity(), r#"{"mac":"02:00:00:00:01:02","sn":"f-000258"}"#);
        assert_ne!(fleet.device(1).identity(), fleet.device(2).identity());
        assert_eq!(fleet.device(7).public_pem(), again.device(7).public_pem());
    }
}
