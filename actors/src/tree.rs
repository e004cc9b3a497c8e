//! Every long-lived actor of a hub, in start order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::ArbiterHandle;
use storage::Storage;
use tracing::warn;

use crate::Config;
use crate::alert_rules::RuleWatcher;
use crate::artifacts::Artifacts;
use crate::bus::{Announcer, Bus};
use crate::dead_nodes::{DeadNodes, Patience};
use crate::events::{EventReader, EventTail};
use crate::gate::Gate;
use crate::housekeeping::{Housekeeping, RemoveRecordings};
use crate::inventory_writer::Reports;
use crate::jobs::{self, JobKind, JobQueue, JobRunner, Rest};
use crate::leases::{self, Leases, Resign};
use crate::monitor::{AlertWriter, Monitor};
use crate::notifications::Notifications;
use crate::reach::Reach;
use crate::recording::RecordingConfig;
use crate::registry::Registry;
use crate::rollout::{Rollout, RolloutWatcher};
use crate::session::{self, host};
use crate::status_writer::{SessionQueue, StatusQueue, StatusWriter};
use crate::supervisor::{Crash, Service};
use crate::switchboard::{Parts, Switchboard};
use crate::trigger::Triggers;

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
    /// Changes of sessions on their way to the database.
    pub sessions: SessionQueue,
    /// What devices say about themselves, on its way to the database.
    pub reports: Reports,
    /// Events of all nodes, for who listens on this one.
    pub events: EventTail,
    /// Carries out a change of access on every node.
    pub announce: Announcer,
    /// Commands to devices' update clients.
    pub triggers: Triggers,
    /// Background work.
    pub jobs: JobQueue,
    /// What devices' monitoring reports.
    pub monitor: Monitor,
    /// What devices have to do.
    pub rollout: Rollout,
    is_draining: Arc<AtomicBool>,
    /// Bounds that all recordings of this node share.
    recording: RecordingConfig,
    storage: Storage,
    status_writer: Service<StatusWriter>,
    event_reader: Service<EventReader>,
    leases: Service<Leases>,
    switchboard: Service<Switchboard>,
    dead_nodes: Service<DeadNodes>,
    alert_writer: Service<AlertWriter>,
    rule_watcher: Service<RuleWatcher>,
    rollout_watcher: Service<RolloutWatcher>,
    job_runner: Service<JobRunner>,
    housekeeping: Service<Housekeeping>,
}

/// What services work with that is set up before them.
#[derive(Clone)]
pub struct Equipment {
    /// Sends alerts to people and programs.
    pub notifications: Notifications,
    /// Artifacts, of which some are left half-way by nodes that died.
    pub artifacts: Artifacts,
    /// Called for sessions that are no longer remembered.
    pub remove_recordings: RemoveRecordings,
}

impl Tree {
    /// Starts every service on `arbiter`.
    pub fn start(
        storage: &Storage,
        gate: &Gate,
        bus: &Bus,
        config: &Config,
        equipment: &Equipment,
        arbiter: &ArbiterHandle,
    ) -> Self {
        let lease = config.lease;
        let registry = Registry::default();
        let (statuses, sessions) = (StatusQueue::default(), SessionQueue::default());
        let events = EventTail::new(storage.events.clone(), &config.events);
        let reach = Reach::new(registry.clone(), storage.connections.clone(), storage.presence.clone(), bus.clone());
        let triggers =
            Triggers::new(registry.clone(), reach.clone(), bus.clone(), config.trigger_reply_limit, arbiter.clone());
        let jobs = JobQueue::new(storage.jobs.clone(), bus.clone(), &config.jobs);
        let (rollout, rollout_watcher) = Rollout::start(storage, bus.clone(), arbiter);
        let parts = Parts::new(&registry, gate, bus, &jobs, &rollout);

        let status_writer = {
            let (queues, tail) = ((statuses.clone(), sessions.clone()), events.clone());
            let (gate, storage) = (gate.clone(), storage.clone());
            Service::start("status_writer", arbiter, move |alive| {
                StatusWriter::new(queues.clone(), tail.clone(), &storage, gate.clone(), alive)
            })
        };
        let reports = Reports::configured(&storage.inventory, config, arbiter);
        let event_reader = {
            let tail = events.clone();
            Service::start("event_reader", arbiter, move |alive| EventReader::new(tail.clone(), alive))
        };
        let leases = {
            let (node, presence) = (bus.node(), storage.presence.clone());
            let (registry, gate, statuses) = (registry.clone(), gate.clone(), statuses.clone());
            Service::start("leases", arbiter, move |alive| {
                Leases::new(node, lease, presence.clone(), registry.clone(), gate.clone(), statuses.clone(), alive)
            })
        };
        let is_draining: Arc<AtomicBool> = Arc::default();
        let switchboard = {
            let (parts, presence, reach) = (parts.clone(), storage.presence.clone(), reach.clone());
            let is_draining = Arc::clone(&is_draining);
            Service::start("switchboard", arbiter, move |alive| {
                Switchboard::new(parts.clone(), presence.clone(), reach.clone(), Arc::clone(&is_draining), alive)
            })
        };
        let dead_nodes = {
            let (node, storage, tail) = (bus.node(), storage.clone(), events.clone());
            let queues = (statuses.clone(), sessions.clone());
            let patience = Patience::new(lease, &config.sessions);
            Service::start("dead_nodes", arbiter, move |alive| {
                DeadNodes::new(node, patience, storage.clone(), queues.clone(), tail.clone(), alive)
            })
        };
        let monitor =
            Monitor::new(storage.alerts.clone(), events.clone(), jobs.clone(), equipment.notifications.clone(), config);
        let alert_writer = {
            let monitor = monitor.clone();
            Service::start("alert_writer", arbiter, move |alive| AlertWriter::new(monitor.clone(), alive))
        };
        let rule_watcher = {
            let (storage, monitor, period) = (storage.clone(), monitor.clone(), config.alert_rules_period);
            Service::start("rule_watcher", arbiter, move |alive| {
                RuleWatcher::new(&storage, monitor.clone(), period, alive)
            })
        };
        let job_runner = {
            let (queue, node, config) = (jobs.clone(), bus.node(), config.jobs.clone());
            let kinds: Arc<[JobKind]> = equipment.notifications.job_kinds().into();
            Service::start("jobs", arbiter, move |alive| {
                JobRunner::new(queue.clone(), node, Arc::clone(&kinds), config.clone(), alive)
            })
        };
        let housekeeping = {
            let (storage, retention, equipment) = (storage.clone(), config.retention.clone(), equipment.clone());
            Service::start("housekeeping", arbiter, move |alive| {
                let Equipment { artifacts, remove_recordings, .. } = equipment.clone();
                Housekeeping::new(storage.clone(), retention.clone(), remove_recordings, artifacts, alive)
            })
        };
        let announce: Announcer = Arc::new(move |event| parts.announce(&event));
        Self {
            registry,
            reach,
            bus: bus.clone(),
            statuses,
            sessions,
            reports,
            events,
            announce,
            triggers,
            jobs,
            monitor,
            rollout,
            is_draining,
            recording: RecordingConfig::default(),
            storage: storage.clone(),
            status_writer,
            event_reader,
            leases,
            switchboard,
            dead_nodes,
            alert_writer,
            rule_watcher,
            rollout_watcher,
            job_runner,
            housekeeping,
        }
    }

    /// Renews the node's lease now, so that it is known before its first device connects.
    ///
    /// # Errors
    /// When the shared store cannot be reached.
    pub async fn enlist(&self, lease: Duration) -> Result<(), storage::StorageError> {
        leases::renew(self.bus.node(), lease, &self.storage.presence, &self.registry, &self.statuses).await
    }

    /// What hosts of sessions work with.
    pub fn hosts(&self, config: session::Config) -> host::Parts {
        host::Parts {
            registry: self.registry.clone(),
            reach: self.reach.clone(),
            bus: self.bus.clone(),
            records: self.sessions.clone(),
            recording: config.record.then(|| (self.storage.objects.clone(), self.recording.clone())),
            config,
        }
    }

    /// From now on this node takes no more sockets, and those who listen to events have to go elsewhere.
    pub fn start_draining(&self) {
        self.events.close();
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether it takes no more.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// The last act of a node in good order: what is known is written, and the lease is given up.
    pub async fn stop(&self) {
        self.status_writer.retire();
        self.reports.service().retire();
        self.event_reader.retire();
        self.leases.retire();
        self.switchboard.retire();
        self.dead_nodes.retire();
        self.rule_watcher.retire();
        self.rollout_watcher.retire();
        self.alert_writer.retire();
        self.job_runner.retire();
        self.housekeeping.retire();
        if let Some(leases) = self.leases.address() {
            // Gone already is as good.
            let _ = leases.send(Resign).await;
        }
        if let Some(runner) = self.job_runner.address() {
            let _ = runner.send(Rest).await;
        }
        if let Err(error) = jobs::give_back(&self.storage.jobs, self.bus.node()).await {
            warn!(%error, "background work was not given back; its leases will run out instead");
        }
        let Storage { connections, presence, .. } = &self.storage;
        if let Err(error) = self.statuses.flush(connections, presence, &self.events).await {
            warn!(%error, "the last connection statuses were not written; the lease will run out instead");
        }
        if let Err(error) = self.sessions.flush(&self.storage.sessions, &self.events, &self.storage.audit).await {
            warn!(%error, "the ends of the last sessions were not written; another node will end them");
        }
        if let Err(error) = self.storage.presence.leave(self.bus.node()).await {
            warn!(%error, "the lease of this node was not given up and will run out");
        }
    }

    /// How often a service had to be restarted; `None` if there is none of that name.
    pub fn restarts(&self, service: &str) -> Option<u64> {
        match service {
            "status_writer" => Some(self.status_writer.restarts()),
            "inventory_writer" => Some(self.reports.service().restarts()),
            "event_reader" => Some(self.event_reader.restarts()),
            "leases" => Some(self.leases.restarts()),
            "switchboard" => Some(self.switchboard.restarts()),
            "dead_nodes" => Some(self.dead_nodes.restarts()),
            "alert_writer" => Some(self.alert_writer.restarts()),
            "rule_watcher" => Some(self.rule_watcher.restarts()),
            "rollout" => Some(self.rollout_watcher.restarts()),
            "jobs" => Some(self.job_runner.restarts()),
            "housekeeping" => Some(self.housekeeping.restarts()),
            _ => None,
        }
    }

    /// The names of all services.
    pub fn services(&self) -> [&'static str; 11] {
        [
            self.status_writer.name(),
            self.reports.service().name(),
            self.event_reader.name(),
            self.leases.name(),
            self.switchboard.name(),
            self.dead_nodes.name(),
            self.alert_writer.name(),
            self.rule_watcher.name(),
            self.rollout_watcher.name(),
            self.job_runner.name(),
            self.housekeeping.name(),
        ]
    }

    /// Makes a service panic, to see it come back. `false` if there is none of that name.
    pub fn crash(&self, service: &str) -> bool {
        match service {
            "status_writer" => self.status_writer.address().map(|service| service.do_send(Crash)).is_some(),
            "inventory_writer" => self.reports.service().address().map(|service| service.do_send(Crash)).is_some(),
            "event_reader" => self.event_reader.address().map(|service| service.do_send(Crash)).is_some(),
            "leases" => self.leases.address().map(|service| service.do_send(Crash)).is_some(),
            "switchboard" => self.switchboard.address().map(|service| service.do_send(Crash)).is_some(),
            "dead_nodes" => self.dead_nodes.address().map(|service| service.do_send(Crash)).is_some(),
            "alert_writer" => self.alert_writer.address().map(|service| service.do_send(Crash)).is_some(),
            "rule_watcher" => self.rule_watcher.address().map(|service| service.do_send(Crash)).is_some(),
            "rollout" => self.rollout_watcher.address().map(|service| service.do_send(Crash)).is_some(),
            "jobs" => self.job_runner.address().map(|service| service.do_send(Crash)).is_some(),
            "housekeeping" => self.housekeeping.address().map(|service| service.do_send(Crash)).is_some(),
            _ => false,
        }
    }
}
