//! Who is connected, written to the database in batches.
//!
//! Sockets note each change in a shared [`StatusQueue`]; this service writes what has gathered, one statement for
//! thousands. The queue keeps a change until it is committed, so neither a panic here nor a database that is down loses
//! one; it holds the latest change of each device only, which bounds it by the number of devices.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use parking_lot::Mutex;
use storage::{ConnectionChange, Connections, DeviceId, Devices, Presence, StorageError};
use tracing::warn;

use crate::gate::Gate;
use crate::supervisor::{Alive, Crash};

/// How long a change may wait for company. The command line client refuses to start until the status says connected.
const GATHER: Duration = Duration::from_millis(100);

/// Most changes in one transaction.
const BATCH: usize = 5000;

/// Changes that have not been committed yet.
#[derive(Clone, Default)]
pub struct StatusQueue(Arc<Mutex<HashMap<DeviceId, ConnectionChange>>>);

impl StatusQueue {
    /// A device has connected or disconnected.
    pub fn note(&self, change: ConnectionChange) {
        let mut waiting = self.0.lock();
        match waiting.get(&change.device) {
            // The late end of an older connection says nothing about the newer one.
            Some(newer) if newer.epoch > change.epoch => {}
            _ => {
                waiting.insert(change.device, change);
            }
        }
    }

    /// Changes not yet committed.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether all is committed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes what has gathered, all of it.
    ///
    /// # Errors
    /// When the database refuses; nothing is lost then.
    pub async fn flush(&self, connections: &Connections, presence: &Presence) -> Result<(), StorageError> {
        loop {
            let batch: Vec<ConnectionChange> = self.0.lock().values().take(BATCH).copied().collect();
            if batch.is_empty() {
                return Ok(());
            }
            metrics::histogram!(crate::metrics::STATUS_BATCH)
                .record(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
            connections.record(&batch).await?;
            {
                let mut waiting = self.0.lock();
                for written in &batch {
                    if waiting.get(&written.device).is_some_and(|now| now == written) {
                        waiting.remove(&written.device);
                    }
                }
                if waiting.is_empty() {
                    waiting.shrink_to(BATCH);
                }
            }
            for gone in batch.iter().filter(|change| !change.connected) {
                if let Err(error) = presence.release(gone.device, gone.epoch).await {
                    // The route names an epoch that no socket has any more; whoever follows it hears "not here".
                    warn!(%error, "routes of devices that left stay until they return");
                    break;
                }
            }
        }
    }
}

/// The service that empties a [`StatusQueue`], and writes when devices were last heard of.
pub struct StatusWriter {
    queue: StatusQueue,
    connections: Connections,
    presence: Presence,
    devices: Devices,
    gate: Gate,
    is_writing: bool,
    failures: u32,
    _alive: Alive,
}

impl StatusWriter {
    /// A writer for `queue`.
    pub fn new(
        queue: StatusQueue,
        connections: Connections,
        presence: Presence,
        devices: Devices,
        gate: Gate,
        alive: Alive,
    ) -> Self {
        Self { queue, connections, presence, devices, gate, is_writing: false, failures: 0, _alive: alive }
    }

    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.is_writing {
            return;
        }
        let check_ins = self.gate.take_check_ins(BATCH);
        if self.queue.is_empty() && check_ins.is_empty() {
            return;
        }
        self.is_writing = true;
        let (queue, connections, presence) = (self.queue.clone(), self.connections.clone(), self.presence.clone());
        let devices = self.devices.clone();
        let written = async move {
            queue.flush(&connections, &presence).await?;
            // A check-in that is not written is no loss: the device's next request brings another.
            if check_ins.is_empty() { Ok(()) } else { devices.record_check_ins(&check_ins).await }
        };
        ctx.spawn(written.into_actor(self).map(|result, writer, _| {
            writer.is_writing = false;
            match result {
                Ok(()) => writer.failures = 0,
                Err(error) => {
                    metrics::counter!(crate::metrics::STATUS_RETRIES).increment(1);
                    if writer.failures == 0 {
                        warn!(%error, "connection statuses cannot be written and are kept");
                    }
                    writer.failures += 1;
                }
            }
        }));
    }
}

impl Actor for StatusWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(GATHER, Self::write);
    }
}

impl Handler<Crash> for StatusWriter {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

#[cfg(test)]
mod tests {
    use storage::{Epoch, NodeId, Timestamp};

    use super::*;

    fn change(device: DeviceId, epoch: i64, connected: bool) -> ConnectionChange {
        ConnectionChange {
            device,
            node: NodeId::random(),
            epoch: Epoch(epoch),
            connected,
            at: Timestamp(0),
            reason: None,
        }
    }

    #[test]
    fn the_queue_keeps_one_change_per_device_the_newest_connection_s() {
        let (queue, device) = (StatusQueue::default(), DeviceId::random());
        queue.note(change(device, 2, true));
        queue.note(change(device, 1, false));
        assert_eq!(queue.len(), 1);
        assert!(queue.0.lock()[&device].connected);
        queue.note(change(device, 2, false));
        assert!(!queue.0.lock()[&device].connected);
    }
}
