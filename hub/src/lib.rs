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
use actors::bus::{Bus, NatsBus};
use actors::credentials::Keyring;
use actors::file_transfer::Transfers;
use actors::gate::Gate;
use actors::session::ToDevice;
use actors::tree::Tree;
use anyhow::Context;
use api::address_limiter::AddressLimits;
use api::server::Listening;
use api::sockets::{SocketCount, SocketState};
use api::state::ApiState;
pub use config::Config;
use storage::{DeviceId, NodeId, Storage};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// A running hub. Dropping it stops it without grace.
pub struct Hub {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    parts: Parts,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Parts {
    node: NodeId,
    storage: Storage,
    accounts: Accounts,
    admission: Admission,
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
        let (address, metrics_address, parts) = started.recv().context("the hub ended before it was ready")??;
        Ok(Self { address, metrics_address, parts, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves its metrics without a token, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
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

type Started = anyhow::Result<(SocketAddr, Option<SocketAddr>, Parts)>;

/// The hub's thread: everything but the listener's workers runs here.
fn run(config: Config, ready: &mpsc::Sender<Started>, stopping: oneshot::Receiver<()>) {
    actix_rt::System::new().block_on(async move {
        let window = config.api.sockets.drain_window;
        let (parts, listening, metrics) = match boot(config).await {
            Ok(booted) => booted,
            Err(error) => {
                // Whoever started the hub reports why it did not.
                let _ = ready.send(Err(error));
                return;
            }
        };
        info!(address = %listening.address, node = %parts.node, "mooring is ready");
        let metrics_address = metrics.as_ref().map(|metrics| metrics.address);
        let handle = listening.handle.clone();
        actix_rt::spawn(listening.server);
        if let Some(metrics) = metrics {
            actix_rt::spawn(metrics.server);
        }
        let _ = ready.send(Ok((listening.address, metrics_address, parts.clone())));
        let _ = stopping.await;
        info!("stopping: no new connections, sending devices and operators away");
        handle.pause().await;
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

async fn boot(config: Config) -> anyhow::Result<(Parts, Listening, Option<Listening>)> {
    let node = NodeId::random();
    let storage = Storage::open(&config.storage).await.context("cannot open the storage")?;
    storage.devices.set_limit(config.actors.max_devices).await.context("cannot store the device limit")?;
    let bus = match &config.actors.nats_url {
        None => Bus::alone(node),
        Some(url) => Bus::Nats(
            NatsBus::connect(url.expose(), &config.actors.nats_prefix, node)
                .await
                .context("cannot connect to the NATS server named by actors.nats_url")?,
        ),
    };
    let keyring = Arc::new(Keyring::load(&storage.keys, &config.actors).await.context("cannot load the signing keys")?);
    let gate = Gate::new(storage.devices.clone(), storage.users.clone(), keyring.clone(), &config.actors);
    let arbiter = actix_rt::System::current().arbiter().clone();
    let lease = config.actors.lease;
    let tree = Tree::start(&storage, &gate, &bus, lease, &arbiter);
    tree.enlist(lease).await.context("cannot enlist this node in the shared store")?;
    let announce = tree.announce.clone();
    let admission =
        Admission::new(storage.devices.clone(), gate.clone(), keyring.clone(), announce.clone(), &config.actors);
    admission.resume().await.context("cannot finish removals that were interrupted")?;
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
        sessions: config.actors.sessions.clone(),
        config: api_config.sockets.clone(),
        api: Arc::clone(&api_config),
        count: SocketCount::default(),
        has_tls: tls.is_some(),
    };
    let parts = Parts {
        node,
        storage: storage.clone(),
        accounts: accounts.clone(),
        admission: admission.clone(),
        tree: tree.clone(),
    };
    let transfers = Transfers::new(
        tree.registry.clone(),
        tree.reach.clone(),
        bus.clone(),
        gate.clone(),
        config.actors.sessions.clone(),
        config.actors.file_transfer.clone(),
    );
    let state = ApiState {
        storage,
        gate,
        admission,
        accounts,
        reach: tree.reach.clone(),
        transfers,
        bus,
        address_limits: Arc::new(AddressLimits::new(&api_config)),
        readiness: Arc::default(),
        render_metrics: Arc::new(move || recorder.render()),
        config: Arc::clone(&api_config),
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let address = api_config.listen;
    let metrics = match api_config.metrics_listen {
        Some(address) => Some(
            api::server::listen_metrics(address, state.clone())
                .with_context(|| format!("cannot listen on {address} (api.metrics_listen)"))?,
        ),
        None => None,
    };
    let listening = api::server::listen(address, tls, workers, state, sockets)
        .with_context(|| format!("cannot listen on {address} (api.listen)"))?;
    Ok((parts, listening, metrics))
}

/// How long sockets may take to be gone after they were told.
pub(crate) const GOODBYE_LIMIT: Duration = Duration::from_secs(5);
