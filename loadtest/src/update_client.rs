//! What a device reports beside its websocket: its inventory, and whether there is an update for it.

use crate::{admission, device::DeviceSettings};
use serde_json::json;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Speaks to the hub over HTTP with the device's latest token.
#[derive(Debug)]
pub struct UpdateClient {
    settings: Arc<DeviceSettings>,
    source: Option<IpAddr>,
    token: Mutex<Arc<str>>,
}

impl UpdateClient {
    pub(crate) fn new(settings: Arc<DeviceSettings>, source: Option<IpAddr>) -> Self {
        Self { settings, source, token: Mutex::new(Arc::from("")) }
    }

    pub(crate) fn set_token(&self, token: Arc<str>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Sends what a device of the fleet says about itself; the error says what went wrong.
    pub(crate) async fn send_inventory(&self) -> Result<(), String> {
        let settings = &*self.settings;
        let _entering = settings.entering.acquire().await;
        let attributes = json!([
            { "name": "device_type", "value": "simulated" },
            { "name": "artifact_name", "value": "simulated-1" },
            { "name": "hostname", "value": "simulated" },
        ]);
        let token = self.token();
        let sent = Box::pin(admission::send_inventory(&settings.server, self.source, &token, &attributes)).await;
        sent.map_err(|error| format!("{error:#}"))
    }

    /// Asks for an update, and leaves it there; the error says what went wrong.
    pub(crate) async fn check_update(&self) -> Result<(), String> {
        let settings = &*self.settings;
        let _entering = settings.entering.acquire().await;
        let token = self.token();
        match Box::pin(admission::poll_for_update(&settings.server, self.source, &token)).await {
            Ok(200 | 204 | 404) => Ok(()),
            Ok(status) => Err(format!("the hub answered {status} to the update poll")),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    fn token(&self) -> Arc<str> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
