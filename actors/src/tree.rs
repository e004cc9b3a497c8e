//! Every long-lived actor of a hub, in start order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::ArbiterHandle;
use storage::Storage;
use tracing::warn;

use crate::bus::{Announcer, Bus};
use crate::gate::Gate;
use crate::housekeeping::Housekeeping;
use crate::leases::{self, Leases, Resign};
use crate::reach::Reach;
use crate::registry::Registry;
use crate::status_writer::{StatusQueue, StatusWriter};
use crate::supervisor::{Crash, Service};
use crate::switchboard::{Parts, Switchboard};

/// The services of a running hub and what their callers share with them.
#[derive(Clone)]
pub struct Tree {
    /// Who is connected here.
    pub registry: Registry,
    /// Where devices are.
    pub reach: Reach,
    /// The way to the other nodes.
    pub bus: Bus,
    /// Status changes on their way to the database.
    pub statuses: StatusQueue,
    /// Carries out a change of access on every node.
    pub announce: Announcer,
    is_draining: Arc<AtomicBool>,
    storage: Storage,
    status_writer: Service<StatusWriter>,
    leases: Service<Leases>,
    switchboard: Service<Switchboard>,
    housekeeping: Service<Housekeeping>,
}

impl Tree {
    /// Starts every service on `arbiter`.
    pub fn start(storage: &Storage, gate: &Gate, bus: &Bus, lease: Duration, arbiter: &ArbiterHandle) -> Self {
        let registry = Registry::default();
        let statuses = StatusQueue::default();
        let reach = Reach::new(registry.clone(), storage.connections.clone(), storage.presence.clone(), bus.clone());
        let parts = Parts { registry: registry.clone(), gate: gate.clone(), bus: bus.clone() };

        let status_writer = {
            let (queue, gate, storage) = (statuses.clone(), gate.clone(), storage.clone());
            Service::start("status_writer", arbiter, move |alive| {
                let (connections, presence) = (storage.connections.clone(), storage.presence.clone());
                StatusWriter::new(queue.clone(), connections, presence, storage.devices.clone(), gate.clone(), alive)
            })
        };
        let leases = {
            let (node, presence, registry) = (bus.node(), storage.presence.clone(), registry.clone());
            Service::start("leases", arbiter, move |alive| {
                Leases::new(node, lease, presence.clone(), registry.clone(), alive)
            })
        };
        let switchboard = {
            let (parts, presence, reach) = (parts.clone(), storage.presence.clone(), reach.clone());
            Service::start("switchboard", arbiter, move |alive| {
                Switchboard::new(parts.clone(), presence.clone(), reach.clone(), alive)
            })
        };
        let housekeeping = {
            let Storage { devices, users, connections, .. } = storage.clone();
            Service::start("housekeeping", arbiter, move |alive| {
                Housekeeping::new(devices.clone(), users.clone(), connections.clone(), alive)
            })
        };
        let announce: Announcer = Arc::new(move |event| parts.announce(&event));
        Self {
            registry,
            reach,
            bus: bus.clone(),
            statuses,
            announce,
            is_draining: Arc::default(),
            storage: storage.clone(),
            status_writer,
            leases,
            switchboard,
            housekeeping,
        }
    }

    /// Renews the node's lease now, so that it is known before its first device connects.
    ///
    /// # Errors
    /// When the shared store cannot be reached.
    pub async fn enlist(&self, lease: Duration) -> Result<(), storage::StorageError> {
        leases::renew(self.bus.node(), lease, &self.storage.presence, &self.registry).await
    }

    /// From now on this node takes no more sockets.
    pub fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether it takes no more.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// The last act of a node in good order: what is known is written, and the lease is given up.
    pub async fn stop(&self) {
        self.status_writer.retire();
        self.leases.retire();
        self.switchboard.retire();
        self.housekeeping.retire();
        if let Some(leases) = self.leases.address() {
            // Gone already is as good.
            let _ = leases.send(Resign).await;
        }
        if let Err(error) = self.statuses.flush(&self.storage.connections, &self.storage.presence).await {
            warn!(%error, "the last connection statuses were not written; the lease will run out instead");
        }
        if let Err(error) = self.storage.presence.leave(self.bus.node()).await {
            warn!(%error, "the lease of this node was not given up and will run out");
        }
    }

    /// How often a service had to be restarted; `None` if there is none of that name.
    pub fn restarts(&self, service: &str) -> Option<u64> {
        match service {
            "status_writer" => Some(self.status_writer.restarts()),
            "leases" => Some(self.leases.restarts()),
            "switchboard" => Some(self.switchboard.restarts()),
            "housekeeping" => Some(self.housekeeping.restarts()),
            _ => None,
        }
    }

    /// The names of all services.
    pub fn services(&self) -> [&'static str; 4] {
        [self.status_writer.name(), self.leases.name(), self.switchboard.name(), self.housekeeping.name()]
    }

    /// Makes a service panic, to see it come back. `false` if there is none of that name.
    pub fn crash(&self, service: &str) -> bool {
        match service {
            "status_writer" => self.status_writer.address().map(|service| service.do_send(Crash)).is_some(),
            "leases" => self.leases.address().map(|service| service.do_send(Crash)).is_some(),
            "switchboard" => self.switchboard.address().map(|service| service.do_send(Crash)).is_some(),
            "housekeeping" => self.housekeeping.address().map(|service| service.do_send(Crash)).is_some(),
            _ => false,
        }
    }
}
