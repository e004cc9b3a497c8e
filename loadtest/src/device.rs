//! A device from first contact to its websocket and back again after every loss.

use crate::{
    DeviceKey, Leave, Server, Services, Shell,
    admission::{self, Joined},
    agent::Agent,
    connection::{self, End, Orders},
    server::ConnectError,
    sessions::Sessions,
    terminals::Terminals,
    update_client::UpdateClient,
};
use std::{
    collections::{BTreeMap, VecDeque},
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
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Where a device keeps its websocket.
const CONNECT_PATH: &str = "/api/devices/v1/deviceconnect/connect";

/// So many faults are kept word for word; more are counted.
const FAULTS_KEPT: usize = 16;

/// What all devices of a fleet have in common.
#[derive(Debug)]
pub struct DeviceSettings {
    /// The hub they connect to.
    pub server: Server,
    /// What runs in their terminals.
    pub shell: Shell,
    /// Shells one user may have on one device; mender-connect allows 1.
    pub shells_per_user: usize,
    /// What they offer beside shells.
    pub services: Services,
    /// How often a device that is not accepted yet asks again.
    pub join_interval: Duration,
    /// The wait before the first reconnect; it doubles up to [`longest_wait`](Self::longest_wait) and is spread by half.
    pub first_wait: Duration,
    /// The longest wait between two attempts.
    pub longest_wait: Duration,
    /// Whether to send an inventory and poll for an update once after joining, as a real device does.
    pub reports: bool,
    /// Buffers and limits of their websockets.
    pub socket: WebSocketConfig,
    /// How many devices may be joining or connecting at once.
    pub entering: Semaphore,
    /// What has happened so far.
    pub progress: Progress,
}

impl DeviceSettings {
    /// Settings for a few devices on this hub, which offer nothing but shells.
    pub fn new(server: Server, shell: Shell) -> Self {
        Self {
            server,
            shell,
            shells_per_user: 1,
            services: Services::none(),
            join_interval: Duration::from_secs(5),
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_mins(1),
            reports: true,
            socket: connection::lean_socket(),
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
    refused_connections: Mutex<BTreeMap<Option<u16>, u64>>,
    faults: AtomicU64,
    latest_faults: Mutex<VecDeque<String>>,
    longest_wait: Mutex<Duration>,
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

    /// Attempts to connect that failed, by the status of the hub's answer; `None` where there was no answer.
    pub fn refused_connections(&self) -> BTreeMap<Option<u16>, u64> {
        self.refused_connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the hub did what would have ended the real agent: a surplus ack, a message that is too large or none.
    pub fn faults(&self) -> u64 {
        self.faults.load(Relaxed)
    }

    /// What the latest faults were.
    pub fn latest_faults(&self) -> Vec<String> {
        self.latest_faults.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The longest time that a message for a busy session has held up a device and all its other sessions.
    pub fn longest_wait(&self) -> Duration {
        *self.longest_wait.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn fault(&self, what: &str) {
        self.faults.fetch_add(1, Relaxed);
        let mut latest = self.latest_faults.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() == FAULTS_KEPT {
            latest.pop_front();
        }
        latest.push_back(what.to_owned());
    }

    pub(crate) fn waited(&self, time: Duration) {
        let mut longest = self.longest_wait.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = time.max(*longest);
    }

    fn trouble(&self, what: &str) {
        tracing::debug!(what, "trouble");
        *self.last_trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(what.to_owned());
    }

    fn refused(&self, what: &str) {
        self.refusals.fetch_add(1, Relaxed);
        self.trouble(what);
    }

    fn refused_connection(&self, error: &ConnectError) {
        let status = match error {
            ConnectError::Refused { status, .. } => Some(*status),
            ConnectError::Unreachable(_) => None,
        };
        let mut refused = self.refused_connections.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(status).or_default() += 1;
        drop(refused);
        self.refused(&error.to_string());
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
    orders: Arc<Orders>,
}

impl DeviceHandle {
    /// Has the device leave its websocket and open another after `away`; its shells and sessions stay. With
    /// [`Leave::Close`] and no time away it is what mender-connect does when its token changes.
    pub fn reconnect(&self, how: Leave, away: Duration) {
        self.orders.give(how, away);
    }
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

    /// What it signs with.
    pub fn key(&self) -> &DeviceKey {
        &self.key
    }

    /// Its public key as PEM.
    pub fn public_pem(&self) -> String {
        self.key.public_pem()
    }

    /// Switches it on; it has to be called within a runtime.
    pub fn start(self) -> DeviceHandle {
        let orders = Arc::<Orders>::default();
        DeviceHandle { task: tokio::spawn(self.live(orders.clone())), orders }
    }

    async fn live(self, orders: Arc<Orders>) {
        let update_client = Arc::new(UpdateClient::new(self.settings.clone(), self.source));
        let mut agent = self.new_agent(&update_client);
        loop {
            let token: Arc<str> = agent.offline(self.join()).await.into();
            update_client.set_token(token.clone());
            self.settings.progress.joined.fetch_add(1, Relaxed);
            self.settings.progress.changed.notify_waiters();
            if self.settings.reports {
                agent.offline(self.report(&update_client)).await;
            }
            self.stay_connected(&token, &mut agent, &update_client, &orders).await;
            self.settings.progress.joined.fetch_sub(1, Relaxed);
        }
    }

    fn new_agent(&self, update_client: &Arc<UpdateClient>) -> Agent {
        let terminals = Terminals::new(self.settings.shell.clone(), self.settings.shells_per_user);
        let sessions = Sessions::new(Arc::new(self.settings.services.clone()), update_client.clone());
        Agent::new(self.settings.clone(), terminals, sessions)
    }

    /// Asks until it is accepted.
    async fn join(&self) -> String {
        let settings = &*self.settings;
        let mut troubles = 0;
        loop {
            let asked = {
                let _entering = settings.entering.acquire().await;
                // In a box, since it is large and most of a device's life is spent elsewhere; made when it is its turn, or
                // the boxes of all who wait would take more than the fleet.
                Box::pin(admission::ask_to_join(&settings.server, self.source, &self.identity, &self.key)).await
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
    async fn report(&self, update_client: &UpdateClient) {
        for sent in [update_client.send_inventory().await, update_client.check_update().await] {
            if let Err(why) = sent {
                self.settings.progress.trouble(&why);
            }
        }
    }

    /// Connects again after every loss; returns when the token is refused.
    async fn stay_connected(&self, token: &str, agent: &mut Agent, update_client: &Arc<UpdateClient>, orders: &Orders) {
        let settings = &*self.settings;
        let progress = &settings.progress;
        let mut attempts = 0;
        loop {
            let open = async {
                let _entering = settings.entering.acquire().await;
                Box::pin(settings.server.open_socket(CONNECT_PATH, token, self.source, settings.socket)).await
            };
            match agent.offline(open).await {
                Ok(mut socket) => {
                    attempts = 0;
                    progress.connections.fetch_add(1, Relaxed);
                    // A guard, because a device may also be switched off here.
                    let connected = Connected::new(progress);
                    let end = connection::serve(&mut socket, agent, orders).await;
                    drop(connected);
                    drop(socket);
                    self.note(&end);
                    match end {
                        End::Left(away) => {
                            agent.offline(tokio::time::sleep(away)).await;
                            continue;
                        }
                        // The agent's process has ended, and starts with nothing.
                        End::Died(_) => *agent = self.new_agent(update_client),
                        End::Closed(_) | End::Lost(_) | End::Fault(_) => {}
                    }
                }
                Err(error @ ConnectError::Refused { status: 401, .. }) => {
                    progress.refused_connection(&error);
                    agent.offline(tokio::time::sleep(jitter(settings.first_wait))).await;
                    return;
                }
                Err(error) => progress.refused_connection(&error),
            }
            attempts += 1;
            agent.offline(tokio::time::sleep(self.wait_before_attempt(attempts))).await;
        }
    }

    fn note(&self, end: &End) {
        tracing::debug!(identity = self.identity, %end, "websocket ended");
        let progress = &self.settings.progress;
        progress.losses.fetch_add(1, Relaxed);
        if let End::Fault(what) | End::Died(what) = end {
            progress.fault(what);
        }
        if !matches!(end, End::Left(_)) {
            progress.trouble(&end.to_string());
        }
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
    async fn a_device_that_does_nothing_takes_little() {
        let server = Server::at("http://127.0.0.1:1").await.expect("a server");
        let settings = Arc::new(DeviceSettings::new(server, Shell::Echo));
        let device = SimulatedDevice::new(settings, "{}".to_owned(), DeviceKey::random(), None);
        let life = device.live(Arc::default());
        assert!(size_of_val(&life) <= 2_000, "{} bytes", size_of_val(&life));
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
