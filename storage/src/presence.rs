//! Which node holds which device right now, which nodes are alive, and counters shared by all nodes.
//!
//! Everything here may be lost at any time and comes back by itself: nodes renew their leases and announce their
//! devices again. In one process it is memory; between nodes it is Redis.

use std::time::Duration;

use crate::{Config, DeviceId, Epoch, NodeId, StorageError, Timestamp};

mod memory;
mod redis;

pub use memory::MemoryPresence;
pub use redis::RedisPresence;

/// Where a device is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// The node that holds it.
    pub node: NodeId,
    /// Which connection of the device.
    pub epoch: Epoch,
}

/// What a node gets for a device that has just connected to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The number of the new connection, larger than that of any before.
    pub epoch: Epoch,
    /// The connection it displaces, if its node is alive (it may be on the same node).
    pub displaced: Option<Route>,
}

/// Who is connected where.
#[derive(Debug, Clone)]
pub enum Presence {
    /// In this process: there is only one node.
    Memory(MemoryPresence),
    /// In Redis, for all nodes.
    Redis(RedisPresence),
}

/// Calls the same method on whichever kind this is.
macro_rules! on_either {
    ($presence:expr, |$kind:ident| $memory:expr, $redis:expr) => {
        match $presence {
            Self::Memory($kind) => Ok($memory),
            Self::Redis($kind) => $redis.await,
        }
    };
}

impl Presence {
    /// Opens what the settings name.
    pub(crate) async fn open(config: &Config) -> Result<Self, StorageError> {
        Ok(match &config.redis_url {
            None => Self::Memory(MemoryPresence::default()),
            Some(url) => Self::Redis(RedisPresence::open(url, config.redis_timeout).await?),
        })
    }

    /// Says that a node is alive for `lease` from now on. Call it well before the lease ends.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn renew(&self, node: NodeId, lease: Duration) -> Result<(), StorageError> {
        on_either!(self, |kind| kind.renew(node, lease), kind.renew(node, lease))
    }

    /// Ends a node's lease: it stops on purpose. None of its routes is found from now on.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn leave(&self, node: NodeId) -> Result<(), StorageError> {
        on_either!(self, |kind| kind.leave(node), kind.leave(node))
    }

    /// Whether a node has a lease.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn is_alive(&self, node: NodeId) -> Result<bool, StorageError> {
        on_either!(self, |kind| kind.is_alive(node), kind.is_alive(node))
    }

    /// Makes `node` the holder of a device that has connected to it. The epoch is larger than any given out before, to
    /// whatever device, and not smaller than `now` in microseconds: so it grows even if everything here was lost.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn claim(&self, device: DeviceId, node: NodeId, now: Timestamp) -> Result<Claim, StorageError> {
        on_either!(self, |kind| kind.claim(device, node, now), kind.claim(device, node, now))
    }

    /// Says again which devices a node holds, after a loss. Newer routes of other nodes stay.
    ///
    /// # Errors
    /// `Unavailable`. Some may be announced then; repeating the call is safe.
    pub async fn announce(&self, node: NodeId, held: &[(DeviceId, Epoch)]) -> Result<(), StorageError> {
        on_either!(self, |kind| kind.announce(node, held), kind.announce(node, held))
    }

    /// Removes the routes of connections that ended, unless newer ones have taken their places.
    ///
    /// # Errors
    /// `Unavailable`. Some may be removed then; repeating the call is safe.
    pub async fn release(&self, ended: &[(DeviceId, Epoch)]) -> Result<(), StorageError> {
        on_either!(self, |kind| kind.release(ended), kind.release(ended))
    }

    /// Where a device is connected; `None` too if the node that held it has no lease any more.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn find(&self, device: DeviceId) -> Result<Option<Route>, StorageError> {
        on_either!(self, |kind| kind.find(device), kind.find(device))
    }

    /// Counts one more for `key` in a window of time (which the caller numbers) and says how many that makes. The count
    /// is forgotten after `expires_in`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn increment(&self, key: &str, window: u64, expires_in: Duration) -> Result<u64, StorageError> {
        on_either!(self, |kind| kind.increment(key, window, expires_in), kind.increment(key, window, expires_in))
    }
}
