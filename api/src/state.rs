//! What a handler may reach.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix_web::dev::ServiceRequest;
use actix_web::{HttpRequest, web};
use actors::accounts::Accounts;
use actors::admission::Admission;
use actors::artifacts::Artifacts;
use actors::bus::Bus;
use actors::events::EventTail;
use actors::file_transfer::Transfers;
use actors::gate::Gate;
use actors::housekeeping::RemoveRecordings;
use actors::inventory_writer::Reports;
use actors::jobs::JobQueue;
use actors::monitor::Monitor;
use actors::reach::Reach;
use actors::rollout::Rollout;
use actors::trigger::Triggers;
use storage::Storage;

use crate::address_limiter::AddressLimits;
use crate::client_address::{came_over_tls, client_address};
use crate::config::Config;
use crate::gateway::Access;
use crate::health::Readiness;

/// Writes down all metrics in the Prometheus text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Asks the hub to stop in good order.
pub type ShutDown = Arc<dyn Fn() + Send + Sync>;

/// Everything behind the API. Cloning is cheap.
#[derive(Clone)]
pub struct ApiState {
    /// What is remembered.
    pub storage: Storage,
    /// Verifies tokens.
    pub gate: Gate,
    /// Decides about devices.
    pub admission: Admission,
    /// Decides about users.
    pub accounts: Accounts,
    /// Finds connected devices.
    pub reach: Reach,
    /// Takes in what devices say about themselves.
    pub reports: Reports,
    /// Events, for who listens.
    pub events: EventTail,
    /// Commands to devices' update clients.
    pub triggers: Triggers,
    /// Background work.
    pub jobs: JobQueue,
    /// What devices' monitoring reports.
    pub monitor: Monitor,
    /// Artifacts: what comes in, links to what is there.
    pub artifacts: Artifacts,
    /// What devices have to install.
    pub rollout: Rollout,
    /// Transfers files.
    pub transfers: Transfers,
    /// Connects this node with the others; asked only whether it works.
    pub bus: Bus,
    /// What each path calls for, on the listener this state is for.
    pub access: fn(&str) -> Access,
    /// The settings of this crate.
    pub config: Arc<Config>,
    /// How often one address may knock at the public doors.
    pub address_limits: Arc<AddressLimits>,
    /// What the backends said last.
    pub readiness: Arc<Readiness>,
    /// For `/metrics`.
    pub render_metrics: RenderMetrics,
    /// Removes recordings of sessions that are forgotten.
    pub remove_recordings: RemoveRecordings,
    /// Stops this node.
    pub shut_down: ShutDown,
}

impl ApiState {
    /// The state of the application that serves this request.
    pub fn of(request: &HttpRequest) -> &Self {
        Self::shared(request)
    }

    /// The same, to be kept: one count goes up, where a copy of the state would have dozens go up that all threads share.
    pub fn shared(request: &HttpRequest) -> &web::Data<Self> {
        request.app_data().expect("api::app puts the state into every application")
    }

    /// As [`ApiState::of`], for those who see a request before its handler does.
    pub fn of_service(request: &ServiceRequest) -> &Self {
        Self::of(request.request())
    }

    /// Where the request comes from.
    pub fn client_of(&self, request: &HttpRequest) -> IpAddr {
        // A listener on a Unix socket has no addresses; whoever can open it is on this machine.
        let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip());
        client_address(request.headers(), peer, &self.config.trusted_proxies)
    }

    /// Whether the request came over TLS.
    pub fn is_tls(&self, request: &HttpRequest) -> bool {
        let peer = request.peer_addr().map(|peer| peer.ip());
        came_over_tls(request.headers(), peer, self.config.speaks_tls(), &self.config.trusted_proxies)
    }
}

#[cfg(test)]
pub mod testing {
    //! A state that is real but for its disks and neighbours.

    use actors::bus::{Announcer, Event};
    use actors::credentials::Keyring;
    use actors::monitor::AlertWriter;
    use actors::notifications::Notifications;
    use actors::registry::Registry;
    use actors::supervisor::Service;
    use storage::NodeId;

    use super::*;

    /// Everything in memory, one node, nobody connected.
    pub async fn state(config: Config) -> ApiState {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let settings = actors::Config::default();
        let keyring = Arc::new(Keyring::load(&storage.keys, &settings).await.unwrap());
        let gate = Gate::new(storage.devices.clone(), storage.users.clone(), Arc::clone(&keyring), &settings);
        let announce: Announcer = Arc::new(|_: Event| {});
        let bus = Bus::alone(NodeId::random());
        let registry = Registry::default();
        let reach = Reach::new(registry.clone(), storage.connections.clone(), storage.presence.clone(), bus.clone());
        let arbiter = actix::Arbiter::current();
        let events = EventTail::new(storage.events.clone(), &settings.events);
        let jobs = JobQueue::new(storage.jobs.clone(), bus.clone(), &settings.jobs);
        let notifications = Notifications::new(&storage, &settings.notifications).unwrap();
        let monitor = Monitor::new(storage.alerts.clone(), events.clone(), jobs.clone(), notifications, &settings);
        let writer = monitor.clone();
        let _for_ever = Service::start("alert_writer", &arbiter, move |alive| AlertWriter::new(writer.clone(), alive));
        ApiState {
            admission: Admission::new(
                storage.devices.clone(),
                gate.clone(),
                Arc::clone(&keyring),
                Arc::clone(&announce),
                &settings,
            ),
            accounts: Accounts::new(storage.users.clone(), gate.clone(), keyring, announce, &settings),
            reports: Reports::start(&storage.inventory, &arbiter),
            events,
            triggers: Triggers::new(
                registry.clone(),
                reach.clone(),
                bus.clone(),
                settings.trigger_reply_limit,
                arbiter,
            ),
            monitor,
            rollout: Rollout::new(&storage, bus.clone()),
            jobs,
            artifacts: Artifacts::load(&storage, &settings.artifacts).await.unwrap(),
            access: crate::gateway::access,
            transfers: Transfers::new(
                actors::session::host::Parts {
                    registry,
                    reach: reach.clone(),
                    bus: bus.clone(),
                    records: actors::status_writer::SessionQueue::default(),
                    recording: None,
                    config: settings.sessions.clone(),
                },
                gate.clone(),
                settings.file_transfer.clone(),
            ),
            reach,
            address_limits: Arc::new(AddressLimits::new(&config)),
            config: Arc::new(config),
            readiness: Arc::default(),
            render_metrics: Arc::new(|| "up 1\n".to_owned()),
            remove_recordings: Arc::new(|_| Box::pin(std::future::ready(Ok(())))),
            shut_down: Arc::new(|| {}),
            storage,
            gate,
            bus,
        }
    }
}
