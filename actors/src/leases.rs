//! Keeps this node's lease alive, and with it the routes of all its devices.
//!
//! One small write per period for the whole node, however many devices it has. When the shared store has forgotten the
//! lease (it was restarted, or away for longer than the lease), the node announces its devices again.

use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use storage::{ConnectionChange, DeviceId, Epoch, NodeId, Presence, StorageError, Timestamp, clock};
use tracing::{info, warn};

use crate::gate::Gate;
use crate::registry::Registry;
use crate::status_writer::StatusQueue;
use crate::supervisor::{Alive, Crash};

/// How often connected devices are noted as heard of. A socket that has been silent for longer than a minute or so is
/// closed, so whoever is connected was heard; with what the inventory waits before it shows a contact, this stays below the
/// ten minutes that it may be behind.
const NOTE_CONTACTS: Duration = Duration::from_mins(4);

/// The service that renews a node's lease.
pub struct Leases {
    node: NodeId,
    lease: Duration,
    presence: Presence,
    registry: Registry,
    gate: Gate,
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
        gate: Gate,
        statuses: StatusQueue,
        alive: Alive,
    ) -> Self {
        Self { node, lease, presence, registry, gate, statuses, is_renewing: false, failures: 0, _alive: alive }
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

/// Lets every connected device count as heard of, as if it had made a request.
fn note_contacts(registry: &Registry, gate: &Gate, now: Timestamp) {
    for (device, _) in registry.devices() {
        gate.note_contact(device, now);
    }
}

impl Actor for Leases {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.renew(ctx);
        ctx.run_interval(self.lease / 3, Self::renew);
        ctx.run_interval(NOTE_CONTACTS, |leases, _| note_contacts(&leases.registry, &leases.gate, clock::now()));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storage::{AuthSetId, Storage};

    use super::*;
    use crate::credentials::Keyring;
    use crate::registry::ConnectedDevice;
    use crate::session::ToDevice;

    struct Nobody;

    impl Actor for Nobody {
        type Context = Context<Self>;
    }

    impl Handler<ToDevice> for Nobody {
        type Result = ();
        fn handle(&mut self, _: ToDevice, _: &mut Self::Context) {}
    }

    #[actix::test]
    async fn a_connected_device_counts_as_heard_of() {
        let config = crate::Config::default();
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let keyring = Arc::new(Keyring::load(&storage.keys, &config).await.unwrap());
        let gate = Gate::new(storage.devices.clone(), storage.users.clone(), keyring, &config);
        let (registry, device) = (Registry::default(), DeviceId::random());
        let (auth_set, to) = (AuthSetId::random(), Nobody.start().recipient());
        let connection = ConnectedDevice { epoch: Epoch(1), auth_set, to, since: Timestamp(0) };
        registry.enter(device, connection);
        note_contacts(&registry, &gate, Timestamp(7));
        assert_eq!(gate.take_check_ins(10), [(device, Timestamp(7))]);
        registry.leave(device, Epoch(1));
        note_contacts(&registry, &gate, Timestamp(8));
        assert_eq!(gate.take_check_ins(10), []);
    }
}
