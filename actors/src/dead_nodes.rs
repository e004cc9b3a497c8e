//! Cleans up after nodes that died: their devices become disconnected, their sessions end.
//!
//! A node that stops in good order does this itself. One that is killed leaves rows that say `connected` and sessions that
//! never end; whichever node notices first that its lease is over writes down the end, and two that notice both write the
//! same. Nothing of this service is lost when it dies: what it waits for is noticed again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use storage::{
    ConnectionChange, NodeId, SessionChange, SessionFigures, SessionRecord, Storage, StorageError, Timestamp, clock,
};
use tracing::{info, warn};

use crate::bus::DisconnectReason;
use crate::events::{self, EventTail, Subject};
use crate::session;
use crate::status_writer::{SessionQueue, StatusQueue};
use crate::supervisor::{Alive, Crash};

/// How often nodes are looked at: a quarter of the time that matters, within these bounds.
const SHORTEST_PERIOD: Duration = Duration::from_millis(250);
const LONGEST_PERIOD: Duration = Duration::from_secs(5);

/// What is known about nodes without a lease. A pure state machine.
#[derive(Debug, Default)]
struct Deaths {
    since: HashMap<NodeId, Instant>,
}

impl Deaths {
    /// Takes in which of the nodes that left something behind have a lease, and says for how long each of the others has
    /// been without one. A single look says little: after a restart of the shared store every lease is missing until its
    /// node renews it.
    fn observe(&mut self, nodes: &[(NodeId, bool)], now: Instant) -> Vec<(NodeId, Duration)> {
        self.since.retain(|node, _| nodes.iter().any(|(other, is_alive)| other == node && !is_alive));
        let mut dead = Vec::new();
        for (node, is_alive) in nodes {
            if !is_alive {
                let since = *self.since.entry(*node).or_insert(now);
                dead.push((*node, now.saturating_duration_since(since)));
            }
        }
        dead
    }
}

/// How long nodes have to be dead before what they left behind is cleaned up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Before their devices count as disconnected.
    pub devices: Duration,
    /// Before their sessions end.
    pub sessions: Duration,
    /// Before those end whose clients asked for them to be kept, unless another node adopts them first.
    pub kept_sessions: Duration,
}

impl Patience {
    /// For nodes that renew their lease three times as often as they have to.
    pub fn new(lease: Duration, sessions: &session::Config) -> Self {
        let devices = lease * 2 / 3;
        let (grace, kept) = (sessions.device_grace, sessions.operator_grace);
        Self { devices, sessions: grace.max(devices), kept_sessions: kept.max(grace).max(devices) }
    }
}

/// The service that cleans up after nodes that died.
pub struct DeadNodes {
    node: NodeId,
    patience: Patience,
    storage: Storage,
    statuses: StatusQueue,
    sessions: SessionQueue,
    tail: EventTail,
    deaths: Deaths,
    is_looking: bool,
    _alive: Alive,
}

impl DeadNodes {
    /// Cleans up on behalf of `node`, by noting the ends in these queues.
    pub fn new(
        node: NodeId,
        patience: Patience,
        storage: Storage,
        (statuses, sessions): (StatusQueue, SessionQueue),
        tail: EventTail,
        alive: Alive,
    ) -> Self {
        let deaths = Deaths::default();
        Self { node, patience, storage, statuses, sessions, tail, deaths, is_looking: false, _alive: alive }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_looking, true) {
            return;
        }
        let looking = look_for(self.node, self.storage.clone());
        ctx.spawn(looking.into_actor(self).map(|found, this, ctx| {
            this.is_looking = false;
            match found {
                Ok(nodes) => {
                    for (node, dead_for) in this.deaths.observe(&nodes, Instant::now()) {
                        this.clean_up(node, dead_for, ctx);
                    }
                }
                // Without the shared store or the database nobody is declared dead.
                Err(error) => warn!(%error, "cannot look for nodes that died"),
            }
        }));
    }

    fn clean_up(&self, node: NodeId, dead_for: Duration, ctx: &mut Context<Self>) {
        let (storage, tail) = (self.storage.clone(), self.tail.clone());
        let (statuses, sessions) = (self.statuses.clone(), self.sessions.clone());
        let patience = self.patience;
        let cleaning = async move {
            if dead_for >= patience.devices {
                end_connections(node, &storage, &statuses, &tail).await?;
            }
            if dead_for >= patience.sessions {
                let kept_too = dead_for >= patience.kept_sessions;
                end_sessions(node, |record| kept_too || !record.kept, &storage, &sessions, &tail).await?;
            }
            Ok::<_, StorageError>(())
        };
        ctx.spawn(cleaning.into_actor(self).map(move |result, _, _| {
            if let Err(error) = result {
                warn!(%error, %node, "cannot clean up after a node that died, and will try again");
            }
        }));
    }
}

/// Every node that left something open, other than `ours`, and whether it is alive.
async fn look_for(ours: NodeId, storage: Storage) -> Result<Vec<(NodeId, bool)>, StorageError> {
    let mut nodes = storage.connections.nodes().await?;
    nodes.extend(storage.sessions.nodes().await?);
    nodes.sort_unstable();
    nodes.dedup();
    nodes.retain(|node| *node != ours);
    let mut found = Vec::with_capacity(nodes.len());
    for node in nodes {
        found.push((node, storage.presence.is_alive(node).await?));
    }
    Ok(found)
}

async fn end_connections(
    node: NodeId,
    storage: &Storage,
    statuses: &StatusQueue,
    tail: &EventTail,
) -> Result<(), StorageError> {
    let left = storage.connections.connected_on(node).await?;
    if left.is_empty() {
        return Ok(());
    }
    info!(%node, devices = left.len(), "a node died; its devices are disconnected");
    let at = clock::now();
    let ends: Vec<ConnectionChange> = left
        .into_iter()
        .map(|(device, epoch)| ConnectionChange {
            device,
            node,
            epoch,
            connected: false,
            at,
            reason: Some(DisconnectReason::NodeLost.as_str()),
            address: None,
            bytes_in: 0,
            bytes_out: 0,
            round_trip: None,
        })
        .collect();
    // The node may have died between writing down a beginning and telling it. Epochs are taken from the clock.
    let begun = |end: &ConnectionChange| ConnectionChange {
        connected: true,
        at: Timestamp(end.epoch.0.min(at.0)),
        reason: None,
        ..*end
    };
    tail.append(&ends.iter().map(begun).map(|change| events::of_connection(&change)).collect::<Vec<_>>()).await?;
    for end in ends {
        statuses.note(end);
    }
    Ok(())
}

async fn end_sessions(
    node: NodeId,
    is_meant: impl Fn(&SessionRecord) -> bool,
    storage: &Storage,
    sessions: &SessionQueue,
    tail: &EventTail,
) -> Result<(), StorageError> {
    let mut left = storage.sessions.open_on(node).await?;
    left.retain(is_meant);
    if left.is_empty() {
        return Ok(());
    }
    info!(%node, sessions = left.len(), "a node died; its sessions have ended");
    let opening = |record: &SessionRecord| events::of_opening(record.id, node, record.opened, &Subject::from(record));
    tail.append(&left.iter().map(opening).collect::<Vec<_>>()).await?;
    let at = clock::now();
    for record in left {
        sessions.note(SessionChange::Ended {
            session: record.id,
            generation: record.generation,
            at,
            reason: DisconnectReason::NodeLost.as_str().to_owned(),
            figures: SessionFigures {
                kind: record.kind,
                bytes_to_device: record.bytes_to_device,
                bytes_to_operator: record.bytes_to_operator,
                recorded_bytes: record.recorded_bytes,
                truncated: record.truncated,
                people: record.people,
            },
        });
    }
    Ok(())
}

impl Actor for DeadNodes {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let period = (self.patience.devices / 4).clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
        ctx.run_interval(period, Self::look);
    }
}

impl Handler<Crash> for DeadNodes {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_dead_since_it_was_first_seen_without_a_lease() {
        let (mut deaths, node, other) = (Deaths::default(), NodeId::random(), NodeId::random());
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(deaths.observe(&[(node, true), (other, false)], start), [(other, Duration::ZERO)]);
        assert_eq!(deaths.observe(&[(node, false), (other, true)], start + second), [(node, Duration::ZERO)]);
        // The other has renewed its lease meanwhile, so its death begins anew.
        let dead = deaths.observe(&[(node, false), (other, false)], start + 3 * second);
        assert_eq!(dead, [(node, 2 * second), (other, Duration::ZERO)]);
        assert_eq!(deaths.observe(&[], start + 4 * second), []);
        assert!(deaths.since.is_empty(), "nothing is remembered of nodes that left nothing behind");
    }

    #[test]
    fn sessions_get_their_grace_and_those_that_are_kept_a_longer_one() {
        let second = Duration::from_secs(1);
        let grace = |device_grace, operator_grace| session::Config {
            device_grace,
            operator_grace,
            ..session::Config::default()
        };
        let patience = Patience::new(30 * second, &grace(45 * second, 100 * second));
        assert_eq!((patience.devices, patience.sessions), (20 * second, 45 * second));
        assert_eq!(patience.kept_sessions, 100 * second);
        let patience = Patience::new(30 * second, &grace(second, second));
        assert_eq!((patience.sessions, patience.kept_sessions), (patience.devices, patience.devices));
    }
}
