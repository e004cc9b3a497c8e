//! Keeps this node's lease alive, and with it the routes of all its devices.
//!
//! One small write per period for the whole node, however many devices it has. When the shared store has forgotten the
//! lease (it was restarted, or away for longer than the lease), the node announces its devices again.

use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use storage::{ConnectionChange, DeviceId, Epoch, NodeId, Presence, StorageError};
use tracing::{info, warn};

use crate::registry::Registry;
use crate::status_writer::StatusQueue;
use crate::supervisor::{Alive, Crash};

/// The service that renews a node's lease.
pub struct Leases {
    node: NodeId,
    lease: Duration,
    presence: Presence,
    registry: Registry,
    statuses: StatusQueue,
    is_renewing: bool,
    failures: u32,
    _alive: Alive,
}

impl Leases {
    /// Keeps `node` alive in `presence`, for `lease` at a time.
    pub fn new(
        node: NodeId,
        lease: Duration,
        presence: Presence,
        registry: Registry,
        statuses: StatusQueue,
        alive: Alive,
    ) -> Self {
        Self { node, lease, presence, registry, statuses, is_renewing: false, failures: 0, _alive: alive }
    }

    fn renew(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_renewing, true) {
            return;
        }
        let (node, lease, presence) = (self.node, self.lease, self.presence.clone());
        let (registry, statuses) = (self.registry.clone(), self.statuses.clone());
        ctx.spawn(async move { renew(node, lease, &presence, &registry, &statuses).await }.into_actor(self).map(
            |result, leases, _| {
                leases.is_renewing = false;
                match result {
                    Ok(()) => leases.failures = 0,
                    Err(error) => {
                        if leases.failures == 0 {
                            warn!(%error, "the lease of this node cannot be renewed; other nodes will lose sight of it");
                        }
                        leases.failures += 1;
                    }
                }
            },
        ));
    }
}

/// Renews the lease once; announces every device if the store had forgotten it.
///
/// # Errors
/// When the shared store cannot be reached.
pub async fn renew(
    node: NodeId,
    lease: Duration,
    presence: &Presence,
    registry: &Registry,
    statuses: &StatusQueue,
) -> Result<(), StorageError> {
    let was_known = presence.is_alive(node).await?;
    presence.renew(node, lease).await?;
    if was_known && !registry.take_unannounced() {
        return Ok(());
    }
    let devices: Vec<(DeviceId, Epoch)> =
        registry.devices().into_iter().map(|(device, connection)| (device, connection.epoch)).collect();
    if devices.is_empty() {
        return Ok(());
    }
    info!(devices = devices.len(), "announcing this node's devices again");
    // While the lease was lost, other nodes may have taken us for dead and written down the end of these connections.
    for (device, connection) in registry.devices() {
        statuses.note(ConnectionChange {
            device,
            node,
            epoch: connection.epoch,
            connected: true,
            at: connection.since,
            reason: None,
            address: None,
            bytes_in: 0,
            bytes_out: 0,
            round_trip: None,
        });
    }
    let announced = presence.announce(node, &devices).await;
    if announced.is_err() {
        registry.note_unannounced();
    }
    announced
}

impl Actor for Leases {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.renew(ctx);
        ctx.run_interval(self.lease / 3, Self::renew);
    }
}

/// Renew no more: the lease is about to be given up.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Resign;

impl Handler<Resign> for Leases {
    type Result = ();

    fn handle(&mut self, _: Resign, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Crash> for Leases {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}
