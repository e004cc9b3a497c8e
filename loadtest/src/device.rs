//! A device from first contact to its websocket and back again after every loss.

use crate::{
    DeviceKey, Server, Shell,
    admission::{self, Joined},
    connection::{self, End},
    server::ConnectError,
    terminals::Terminals,
};
use serde_json::json;
use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

/// Where a device keeps its websocket.
const CONNECT_PATH: &str = "/api/devices/v1/deviceconnect/connect";

/// What all devices of a fleet have in common.
#[derive(Debug)]
pub struct DeviceSettings {
    /// The hub they connect to.
    pub server: Server,
    /// What runs in their terminals.
    pub shell: Shell,
    /// Shells one user may have on one device; mender-connect allows 1.
    pub shells_per_user: usize,
    /// How often a device that is not accepted yet asks again.
    pub join_interval: Duration,
    /// The wait before the first reconnect; it doubles up to [`longest_wait`](Self::longest_wait) and is spread by half.
    pub first_wait: Duration,
    /// The longest wait between two attempts.
    pub longest_wait: Duration,
    /// Whether to send an inventory and poll for an update once after joining, as a real device does.
    pub reports: bool,
    /// How many devices may be joining or connecting at once.
    pub entering: Semaphore,
    /// What has happened so far.
    pub progress: Progress,
}

impl DeviceSettings {
    /// Settings for a few devices on this hub.
    pub fn new(server: Server, shell: Shell) -> Self {
        Self {
            server,
            shell,
            shells_per_user: 1,
            join_interval: Duration::from_secs(5),
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_mins(1),
            reports: true,
            entering: Semaphore::new(64),
            progress: Progress::default(),
        }
    }
}

/// Counters of a fleet, and the news that one has changed.
#[derive(Debug, Default)]
pub struct Progress {
    joined: AtomicUsize,
    connected: AtomicUsize,
    connections: AtomicU64,
    losses: AtomicU64,
    refusals: AtomicU64,
    last_trouble: Mutex<Option<String>>,
    changed: Notify,
}

impl Progress {
    /// Devices that hold a token.
    pub fn joined(&self) -> usize {
        self.joined.load(Relaxed)
    }

    /// Devices with an open websocket.
    pub fn connected(&self) -> usize {
        self.connected.load(Relaxed)
    }

    /// Websockets opened since the start.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Websockets that ended, for whatever reason.
    pub fn losses(&self) -> u64 {
        self.losses.load(Relaxed)
    }

    /// Requests to join or connect that failed, waiting for acceptance not counted.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Relaxed)
    }

    /// The last thing that went wrong.
    pub fn last_trouble(&self) -> Option<String> {
        self.last_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `reached` says so; it is asked after every change.
    pub async fn wait_until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    fn trouble(&self, what: &str) {
        tracing::debug!(what, "trouble");
        *self.last_trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(what.to_owned());
    }

    fn refused(&self, what: &str) {
        self.refusals.fetch_add(1, Relaxed);
        self.trouble(what);
    }
}

/// One device.
#[derive(Debug)]
pub struct SimulatedDevice {
    settings: Arc<DeviceSettings>,
    identity: String,
    key: DeviceKey,
    source: Option<IpAddr>,
}

/// A running device; dropping the handle switches the device off.
#[derive(Debug)]
pub struct DeviceHandle {
    task: JoinHandle<()>,
}

impl Drop for DeviceHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SimulatedDevice {
    /// A device with this identity (a JSON object as text) that calls from `source`.
    pub fn new(settings: Arc<DeviceSettings>, identity: String, key: DeviceKey, source: Option<IpAddr>) -> Self {
        Self { settings, identity, key, source }
    }

    /// Its identity, a JSON object as text.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Its public key as PEM.
    pub fn public_pem(&self) -> String {
        self.key.public_pem()
    }

    /// Switches it on; it has to be called within a runtime.
    pub fn start(self) -> DeviceHandle {
        DeviceHandle { task: tokio::spawn(self.live()) }
    }

    async fn live(self) {
        let mut terminals = Terminals::new(self.settings.shell.clone(), self.settings.shells_per_user);
        loop {
            // In a box, since it is large and most of a device's life is spent elsewhere.
            let token = Box::pin(self.join()).await;
            self.settings.progress.joined.fetch_add(1, Relaxed);
            self.settings.progress.changed.notify_waiters();
            if self.settings.reports {
                Box::pin(self.report(&token)).await;
            }
            self.stay_connected(&token, &mut terminals).await;
            self.settings.progress.joined.fetch_sub(1, Relaxed);
        }
    }

    /// Asks until it is accepted.
    async fn join(&self) -> String {
        let settings = &*self.settings;
        let mut troubles = 0;
        loop {
            let asked = {
                let _entering = settings.entering.acquire().await;
                admission::ask_to_join(&settings.server, self.source, &self.identity, &self.key).await
            };
            let wait = match asked {
                Ok(Joined::Token(token)) => return token,
                Ok(Joined::NotYet) => settings.join_interval,
                Ok(Joined::Later(wait)) => {
                    settings.progress.refused("the hub asks to join later");
                    wait
                }
                Err(error) => {
                    settings.progress.refused(&format!("{error:#}"));
                    troubles += 1;
                    self.wait_before_attempt(troubles)
                }
            };
            tokio::time::sleep(jitter(wait)).await;
        }
    }

    /// Sends what a real device sends once it is accepted. Neither answer matters to the websocket.
    async fn report(&self, token: &str) {
        let settings = &*self.settings;
        let _entering = settings.entering.acquire().await;
        let attributes = json!([
            { "name": "device_type", "value": "simulated" },
            { "name": "artifact_name", "value": "simulated-1" },
            { "name": "hostname", "value": "simulated" },
        ]);
        if let Err(error) = admission::send_inventory(&settings.server, self.source, token, &attributes).await {
            settings.progress.trouble(&format!("{error:#}"));
        }
        match admission::poll_for_update(&settings.server, self.source, token).await {
            Ok(200 | 204 | 404) => {}
            Ok(status) => settings.progress.trouble(&format!("the hub answered {status} to the update poll")),
            Err(error) => settings.progress.trouble(&format!("{error:#}")),
        }
    }

    /// Connects again after every loss; returns when the token is refused.
    async fn stay_connected(&self, token: &str, terminals: &mut Terminals) {
        let settings = &*self.settings;
        let progress = &settings.progress;
        let mut attempts = 0;
        loop {
            let opened = {
                let _entering = settings.entering.acquire().await;
                let opening = settings.server.open_socket(CONNECT_PATH, token, self.source, connection::lean_socket());
                Box::pin(opening).await
            };
            match opened {
                Ok(mut socket) => {
                    attempts = 0;
                    progress.connections.fetch_add(1, Relaxed);
                    // A guard, because a device may also be switched off here.
                    let connected = Connected::new(progress);
                    let end = connection::serve(&mut socket, terminals).await;
                    drop(connected);
                    self.note(&end);
                }
                Err(ConnectError::Refused { status: 401, .. }) => {
                    progress.refused("the hub refuses the device's token");
                    tokio::time::sleep(jitter(settings.first_wait)).await;
                    return;
                }
                Err(error) => progress.refused(&error.to_string()),
            }
            attempts += 1;
            tokio::time::sleep(self.wait_before_attempt(attempts)).await;
        }
    }

    fn note(&self, end: &End) {
        tracing::debug!(identity = self.identity, %end, "websocket ended");
        self.settings.progress.losses.fetch_add(1, Relaxed);
        self.settings.progress.trouble(&end.to_string());
    }

    fn wait_before_attempt(&self, attempt: u32) -> Duration {
        let doubled = self.settings.first_wait.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        jitter(doubled.min(self.settings.longest_wait))
    }
}

struct Connected<'a>(&'a Progress);

impl<'a> Connected<'a> {
    fn new(progress: &'a Progress) -> Self {
        progress.connected.fetch_add(1, Relaxed);
        progress.changed.notify_waiters();
        Self(progress)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Relaxed);
        self.0.changed.notify_waiters();
    }
}

/// The same wait, give or take a half: a fleet that lost its hub must not come back as one.
fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_double_up_to_the_longest_and_are_spread() {
        let server = Server::at("http://127.0.0.1:1").await.expect("a server");
        let settings = Arc::new(DeviceSettings::new(server, Shell::Echo));
        let device = SimulatedDevice::new(settings, "{}".to_owned(), DeviceKey::random(), None);

        for (attempt, seconds) in [(1, 1.0), (2, 2.0), (3, 4.0), (7, 60.0), (1000, 60.0)] {
            let wait = device.wait_before_attempt(attempt).as_secs_f64();
            assert!((seconds * 0.5..seconds * 1.5).contains(&wait), "attempt {attempt} waits {wait} s");
        }
    }

    #[tokio::test]
    async fn progress_wakes_who_waits_for_it() {
        let progress = Arc::new(Progress::default());
        let waiting = tokio::spawn({
            let progress = progress.clone();
            async move { progress.wait_until(|progress| progress.connected() == 1).await }
        });
        tokio::task::yield_now().await;

        let connected = Connected::new(&progress);

        tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time").expect("no panic");
        drop(connected);
        assert_eq!(progress.connected(), 0);
    }
}
