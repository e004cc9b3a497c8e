//! Removes what has run out: tokens that expired, and connections of devices that ended longer ago than is remembered.
//!
//! Nothing depends on it being on time, since every reader checks the expiry itself; it keeps the tables small.

use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use storage::{Connections, Devices, StorageError, Timestamp, Users, clock};
use tracing::{debug, warn};

use crate::supervisor::{Alive, Crash};

/// How often expired rows are removed.
const SWEEP_EXPIRED_TOKENS: Duration = Duration::from_hours(1);

/// How often the log of connections is shortened.
const SHORTEN_CONNECTION_LOG: Duration = Duration::from_hours(1);

/// How long past connections are remembered.
const CONNECTIONS_KEPT: Duration = Duration::from_hours(30 * 24);

/// Connections of one device that are remembered, so that one which connects all the time does not fill the disk.
const CONNECTIONS_PER_DEVICE: u32 = 100;

/// The service that removes what has run out.
pub struct Housekeeping {
    devices: Devices,
    users: Users,
    connections: Connections,
    /// The log may be long: one sweep of it at a time.
    is_shortening: bool,
    _alive: Alive,
}

impl Housekeeping {
    /// Keeps these tables small.
    pub fn new(devices: Devices, users: Users, connections: Connections, alive: Alive) -> Self {
        Self { devices, users, connections, is_shortening: false, _alive: alive }
    }

    fn shorten_connection_log(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_shortening, true) {
            return;
        }
        let connections = self.connections.clone();
        let shortened = async move { shorten_connection_log(&connections, clock::now()).await };
        ctx.spawn(shortened.into_actor(self).map(|shortened, this, _| {
            this.is_shortening = false;
            match shortened {
                Ok(removed) => debug!(removed, "removed old connections from the log"),
                Err(error) => warn!(%error, "old connections were not removed and will be next time"),
            }
        }));
    }

    fn sweep_expired_tokens(&mut self, ctx: &mut Context<Self>) {
        let (devices, users) = (self.devices.clone(), self.users.clone());
        let swept = async move {
            let now = clock::now();
            Ok::<_, StorageError>((devices.remove_expired_tokens(now).await?, users.remove_expired_tokens(now).await?))
        };
        ctx.spawn(swept.into_actor(self).map(|swept, _, _| match swept {
            Ok((devices, users)) => debug!(devices, users, "removed expired tokens"),
            Err(error) => warn!(%error, "expired tokens were not removed and will be next time"),
        }));
    }
}

async fn shorten_connection_log(connections: &Connections, now: Timestamp) -> Result<u64, StorageError> {
    let kept = i64::try_from(CONNECTIONS_KEPT.as_micros()).unwrap_or(i64::MAX);
    connections.expire_history(Timestamp(now.0.saturating_sub(kept)), CONNECTIONS_PER_DEVICE).await
}

impl Actor for Housekeeping {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.sweep_expired_tokens(ctx);
        ctx.run_interval(SWEEP_EXPIRED_TOKENS, Self::sweep_expired_tokens);
        self.shorten_connection_log(ctx);
        ctx.run_interval(SHORTEN_CONNECTION_LOG, Self::shorten_connection_log);
    }
}

impl Handler<Crash> for Housekeeping {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

#[cfg(test)]
mod tests {
    use storage::{ConnectionChange, DeviceId, Epoch, NodeId, Storage};

    use super::*;

    #[actix::test]
    async fn the_log_of_connections_has_an_age_and_a_length() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let (connections, now) = (storage.connections, clock::now());
        let past = |device, epoch: i64, age: Duration| {
            let at = Timestamp(now.0 - i64::try_from(age.as_micros()).unwrap());
            let began = ConnectionChange {
                device,
                node: NodeId::random(),
                epoch: Epoch(epoch),
                connected: true,
                at,
                reason: None,
                address: None,
                bytes_in: 0,
                bytes_out: 0,
                round_trip: None,
            };
            [began, ConnectionChange { connected: false, reason: Some("silent"), ..began }]
        };
        let (restless, old) = (DeviceId::random(), DeviceId::random());
        for device in [restless, old] {
            connections.provision(device, now).await.unwrap();
        }
        let limit = i64::from(CONNECTIONS_PER_DEVICE);
        let mut changes: Vec<_> = (0..limit + 5).flat_map(|epoch| past(restless, epoch + 1, Duration::ZERO)).collect();
        changes.extend(past(old, 1, CONNECTIONS_KEPT + Duration::from_secs(1)));
        changes.extend(past(old, 2, CONNECTIONS_KEPT / 2));
        connections.record(&changes).await.unwrap();

        assert_eq!(shorten_connection_log(&connections, now).await.unwrap(), 6);
        let left = connections.history(restless, 1000).await.unwrap();
        assert_eq!((left.len(), left[0].epoch), (100, Epoch(limit + 5)));
        let left = connections.history(old, 1000).await.unwrap();
        assert_eq!(left.iter().map(|past| past.epoch).collect::<Vec<_>>(), [Epoch(2)]);
    }
}
