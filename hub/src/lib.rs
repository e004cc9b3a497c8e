//! Which pieces of Mooring run in this process, with which settings.
//!
//! [`Hub::start`] opens the storage, starts the services, then the listener; [`Hub::stop`] goes the other way. The binary
//! `mooring` adds flags, files, the environment and signals around it ([`commands`]), and the operator's own client.
//!
//! ```text
//! hub ──▶ api ──▶ actors ──▶ storage
//! ```

pub mod commands;
pub mod config;
pub mod drain;
pub mod shutdown;
pub mod telemetry;

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use actors::accounts::Accounts;
use actors::admission::Admission;
use actors::artifacts::Artifacts;
use actors::bus::{Bus, NatsBus};
use actors::concurrency_limit::ConcurrencyLimit;
use actors::credentials::Keyring;
use actors::file_transfer::Transfers;
use actors::gate::Gate;
use actors::housekeeping::RemoveRecordings;
use actors::notifications::Notifications;
use actors::recording::Recordings;
use actors::session::ToDevice;
use actors::tree::{Equipment, Tree};
use anyhow::Context;
use api::address_limiter::AddressLimits;
use api::server::Listening;
use api::sockets::{SocketCount, SocketState};
use api::state::ApiState;
pub use config::Config;
pub use storage::DeploymentId;
use storage::{DeviceId, NodeId, Storage, StorageError, clock};
use tokio::sync::{Notify, oneshot};
use tracing::{error, info, warn};

/// A running hub. Dropping it stops it without grace.
pub struct Hub {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    internal_address: Option<SocketAddr>,
    parts: Parts,
    over: Option<mpsc::Receiver<()>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Parts {
    node: NodeId,
    storage: Storage,
    accounts: Accounts,
    admission: Admission,
    artifacts: Artifacts,
    tree: Tree,
}

/// Ways to break a running hub on purpose, to see it recover. Reachable from Rust only.
pub struct Faults<'a>(&'a Tree);

impl Hub {
    /// Starts a hub and waits until it serves.
    ///
    /// # Errors
    /// When a setting is wrong, a backend cannot be reached, or the address is taken.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        let (ready, started) = mpsc::channel();
        let (stop, stopping) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("mooring".to_owned())
            .spawn(move || run(config, &ready, stopping))
            .context("cannot start the hub's thread")?;
        let Started { address, metrics_address, internal_address, parts, over } =
            started.recv().context("the hub ended before it was ready")??;
        Ok(Self {
            address,
            metrics_address,
            internal_address,
            parts,
            over: Some(over),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Method and pattern of everything it serves on its main listener, and on that of the internal API.
    pub fn routes() -> [Vec<(&'static str, &'static str)>; 2] {
        [api::routes::routes, api::routes::internal_routes]
            .map(|routes| api::endpoint::list(routes).into_iter().map(|route| (route.method, route.pattern)).collect())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves its metrics without a token, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Where it serves its internal API, if anywhere.
    pub fn internal_address(&self) -> Option<SocketAddr> {
        self.internal_address
    }

    /// Ends when the hub has: it may also be asked to stop from outside, by its internal API. Can be taken once.
    pub fn when_over(&mut self) -> Option<mpsc::Receiver<()>> {
        self.over.take()
    }

    /// Which node of its cluster it is.
    pub fn node(&self) -> NodeId {
        self.parts.node
    }

    /// Its users.
    pub fn accounts(&self) -> &Accounts {
        &self.parts.accounts
    }

    /// Its devices' admission.
    pub fn admission(&self) -> &Admission {
        &self.parts.admission
    }

    /// What it remembers.
    pub fn storage(&self) -> &Storage {
        &self.parts.storage
    }

    /// Looks after uploads that nobody works on, as if it were `later`.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn clean_uploads(&self, later: Duration) -> Result<(), StorageError> {
        self.parts.artifacts.clean(clock::now().plus(later)).await.map(drop)
    }

    /// Ways to break it.
    pub fn faults(&self) -> Faults<'_> {
        Faults(&self.parts.tree)
    }

    /// Stops it in good order: accepts nothing new, sends its devices and operators away, writes what is known.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // The hub may have ended by itself, which has been reported then.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the hub's thread ended by a panic");
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.end();
    }
}

impl Faults<'_> {
    /// Makes the actor of a connected device panic. `false` if the device is not connected to this node.
    pub fn crash_device(&self, device: DeviceId) -> bool {
        self.0.registry.find(device).is_some_and(|connection| connection.to.try_send(ToDevice::Crash).is_ok())
    }

    /// Makes a service panic. `false` if there is none of that name.
    pub fn crash_service(&self, service: &str) -> bool {
        self.0.crash(service)
    }

    /// The names of all services.
    pub fn services(&self) -> Vec<&'static str> {
        self.0.services().to_vec()
    }

    /// How often a service had to be restarted; `None` if there is none of that name.
    pub fn restarts(&self, service: &str) -> Option<u64> {
        self.0.restarts(service)
    }
}

/// What the hub's thread says when it serves.
struct Started {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    internal_address: Option<SocketAddr>,
    parts: Parts,
    /// Closed when the thread ends.
    over: mpsc::Receiver<()>,
}

/// What runs in it.
struct Booted {
    parts: Parts,
    listening: Listening,
    metrics: Option<Listening>,
    internal: Option<Listening>,
    asked_to_stop: Arc<Notify>,
}

/// The hub's thread: everything but the listener's workers runs here.
fn run(config: Config, ready: &mpsc::Sender<anyhow::Result<Started>>, stopping: oneshot::Receiver<()>) {
    let (_closed_at_the_end, over) = mpsc::channel();
    actix_rt::System::new().block_on(async move {
        let window = config.api.sockets.drain_window;
        let Booted { parts, listening, metrics, internal, asked_to_stop } = match Box::pin(boot(config)).await {
            Ok(booted) => booted,
            Err(error) => {
                // Whoever started the hub reports why it did not.
                let _ = ready.send(Err(error));
                return;
            }
        };
        info!(address = %listening.address, node = %parts.node, "mooring is ready");
        let metrics_address = metrics.as_ref().map(|metrics| metrics.address);
        let internal_address = internal.as_ref().map(|internal| internal.address);
        let handle = listening.handle.clone();
        let door = listening.door();
        actix_rt::spawn(listening.server);
        for private in [metrics, internal].into_iter().flatten() {
            actix_rt::spawn(private.server);
        }
        let started =
            Started { address: listening.address, metrics_address, internal_address, parts: parts.clone(), over };
        let _ = ready.send(Ok(started));
        tokio::select! {
            _ = stopping => {}
            () = asked_to_stop.notified() => info!("asked to stop by the internal API"),
        }
        info!("stopping: no new connections, sending devices and operators away");
        match door {
            Ok(door) => door.close().await,
            Err(error) => warn!(%error, "new connections are taken to the end"),
        }
        drain::send_everybody_away(&parts.tree, window).await;
        parts.tree.stop().await;
        handle.stop(false).await;
        // The pool waits for every connection, also for those whose worker ended with a query under way.
        if tokio::time::timeout(GOODBYE_LIMIT, parts.storage.close()).await.is_err() {
            warn!("some database connections were cut instead of closed");
        }
        info!("stopped");
    });
}

/// Removes the recordings of sessions that are forgotten.
fn remove_recordings(storage: &Storage) -> RemoveRecordings {
    let recordings = Recordings::new(&storage.objects);
    Arc::new(move |sessions| {
        let recordings = recordings.clone();
        Box::pin(async move {
            for session in sessions {
                recordings.remove(session).await?;
            }
            Ok(())
        })
    })
}

fn notifications(storage: &Storage, config: &actors::notifications::Config) -> anyhow::Result<Notifications> {
    Notifications::new(storage, config).map_err(anyhow::Error::msg).context("cannot set up notifications")
}

async fn connect_bus(config: &actors::Config, node: NodeId) -> anyhow::Result<Bus> {
    let Some(url) = &config.nats_url else { return Ok(Bus::alone(node)) };
    let connected = NatsBus::connect(url.expose(), &config.nats_prefix, node).await;
    Ok(Bus::from(connected.context("cannot connect to the NATS server named by actors.nats_url")?))
}

async fn boot(config: Config) -> anyhow::Result<Booted> {
    let node = NodeId::random();
    let storage = Storage::open(&config.storage).await.context("cannot open the storage")?;
    storage.devices.apply_configured_limit(config.actors.max_devices).await.context("cannot store the device limit")?;
    let bus = connect_bus(&config.actors, node).await?;
    let keyring = Arc::new(Keyring::load(&storage.keys, &config.actors).await.context("cannot load the signing keys")?);
    let gate = Gate::new(storage.devices.clone(), storage.users.clone(), keyring.clone(), &config.actors);
    let arbiter = actix_rt::System::current().arbiter().clone();
    let lease = config.actors.lease;
    let remove_recordings = remove_recordings(&storage);
    let artifacts = Artifacts::load(&storage, &config.actors.artifacts).await.context("cannot set up artifacts")?;
    let equipment = Equipment {
        notifications: notifications(&storage, &config.actors.notifications)?,
        artifacts: artifacts.clone(),
        remove_recordings: Arc::clone(&remove_recordings),
    };
    let tree = Tree::start(&storage, &gate, &bus, &config.actors, &equipment, &arbiter);
    tree.enlist(lease).await.context("cannot enlist this node in the shared store")?;
    let announce = tree.announce.clone();
    let admission =
        Admission::new(storage.devices.clone(), gate.clone(), keyring.clone(), announce.clone(), &config.actors);
    admission.resume().await.context("cannot finish removals that were interrupted")?;
    if storage.devices.recount(false).await.context("cannot count the devices")? {
        warn!("the devices were not counted right and now are; `mooring repair` looks at the rest of them");
    }
    let accounts = Accounts::new(storage.users.clone(), gate.clone(), keyring, announce, &config.actors);

    let recorder = telemetry::recorder()?;
    actors::metrics::describe();
    api::metrics::describe();
    let tls = match (&config.api.tls_cert, &config.api.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(api::server::tls_settings(certificate, key).context("cannot use the TLS certificate and key")?)
        }
        _ => None,
    };
    let api_config = Arc::new(config.api);
    let sockets = SocketState {
        gate: gate.clone(),
        tree: tree.clone(),
        presence: storage.presence.clone(),
        records: storage.sessions.clone(),
        audit: storage.audit.clone(),
        recordings: Recordings::new(&storage.objects),
        sessions: config.actors.sessions.clone(),
        config: api_config.sockets.clone(),
        api: Arc::clone(&api_config),
        count: SocketCount::up_to(api_config.sockets.sockets_limit),
        arrivals: ConcurrencyLimit::new("connect", &config.actors.arrivals),
        has_tls: tls.is_some(),
    };
    let parts = Parts {
        node,
        storage: storage.clone(),
        accounts: accounts.clone(),
        admission: admission.clone(),
        artifacts: artifacts.clone(),
        tree: tree.clone(),
    };
    let asked_to_stop = Arc::new(Notify::new());
    let stopping = Arc::clone(&asked_to_stop);
    let hosts = tree.hosts(config.actors.sessions.clone());
    let transfers = Transfers::new(hosts, gate.clone(), config.actors.file_transfer.clone());
    let state = ApiState {
        storage,
        gate,
        admission,
        accounts,
        reach: tree.reach.clone(),
        reports: tree.reports.clone(),
        events: tree.events.clone(),
        triggers: tree.triggers.clone(),
        jobs: tree.jobs.clone(),
        monitor: tree.monitor.clone(),
        rollout: tree.rollout.clone(),
        artifacts,
        transfers,
        bus,
        access: api::gateway::access,
        address_limits: Arc::new(AddressLimits::new(&api_config)),
        readiness: Arc::default(),
        render_metrics: Arc::new(move || recorder.render()),
        remove_recordings,
        // One permit is kept, so the hub hears it whenever it listens.
        shut_down: Arc::new(move || stopping.notify_one()),
        config: Arc::clone(&api_config),
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let address = api_config.listen;
    let metrics = listen_for_metrics(&api_config, &state)?;
    let internal = listen_internally(&api_config, &state)?;
    let listening = api::server::listen(address, tls, workers, state, sockets)
        .with_context(|| format!("cannot listen on {address} (api.listen)"))?;
    Ok(Booted { parts, listening, metrics, internal, asked_to_stop })
}

fn listen_for_metrics(config: &api::Config, state: &ApiState) -> anyhow::Result<Option<Listening>> {
    let Some(address) = config.metrics_listen else { return Ok(None) };
    let listening = api::server::listen_metrics(address, state.clone());
    listening.map(Some).with_context(|| format!("cannot listen on {address} (api.metrics_listen)"))
}

fn listen_internally(config: &api::Config, state: &ApiState) -> anyhow::Result<Option<Listening>> {
    let Some(address) = config.internal_listen else { return Ok(None) };
    let listening = api::server::listen_internally(address, state.clone());
    listening.map(Some).with_context(|| format!("cannot listen on {address} (api.internal_listen)"))
}

/// How long sockets may take to be gone after they were told.
pub(crate) const GOODBYE_LIMIT: Duration = Duration::from_secs(5);
