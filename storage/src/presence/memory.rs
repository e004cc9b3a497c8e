//! Presence of a hub with one node: maps in memory.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Claim, Route};
use crate::{DeviceId, Epoch, NodeId, Timestamp};

/// Counters kept at most. Keys come from outside (addresses, user names); beyond this the smallest of a sample make
/// room.
const MAX_COUNTERS: usize = 100_000;

/// How many counters are looked at to find one to drop.
const SAMPLE: usize = 32;

/// Who is connected where, in this process. Cloning gives another handle to the same.
#[derive(Debug, Clone, Default)]
pub struct MemoryPresence {
    routes: Arc<Mutex<Routes>>,
    counters: Arc<Mutex<Counters>>,
}

#[derive(Debug, Default)]
struct Routes {
    /// One entry for each connected device: as many as there are sockets.
    by_device: HashMap<DeviceId, Route>,
    /// When each node's lease ends. There is one node, and a few in tests.
    leases: HashMap<NodeId, Instant>,
    /// The largest epoch given out.
    highest: i64,
}

impl Routes {
    fn is_alive(&self, node: NodeId) -> bool {
        self.leases.get(&node).is_some_and(|end| *end > Instant::now())
    }
}

impl MemoryPresence {
    pub(super) fn renew(&self, node: NodeId, lease: Duration) {
        let now = Instant::now();
        let mut routes = self.routes.lock();
        routes.leases.retain(|_, end| *end > now);
        // A lease too long for the clock to express is as good as a year.
        let end = now.checked_add(lease).unwrap_or(now + Duration::from_hours(365 * 24));
        routes.leases.insert(node, end);
    }

    pub(super) fn leave(&self, node: NodeId) {
        let mut routes = self.routes.lock();
        routes.leases.remove(&node);
        routes.by_device.retain(|_, route| route.node != node);
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.routes.lock().is_alive(node)
    }

    pub(super) fn claim(&self, device: DeviceId, node: NodeId, now: Timestamp) -> Claim {
        let mut routes = self.routes.lock();
        routes.highest = now.0.max(routes.highest.saturating_add(1));
        let epoch = Epoch(routes.highest);
        let before = routes.by_device.insert(device, Route { node, epoch });
        Claim { epoch, displaced: before.filter(|route| routes.is_alive(route.node)) }
    }

    pub(super) fn announce(&self, node: NodeId, held: &[(DeviceId, Epoch)]) {
        let mut routes = self.routes.lock();
        for &(device, epoch) in held {
            routes.highest = routes.highest.max(epoch.0);
            let route = routes.by_device.entry(device).or_insert(Route { node, epoch });
            if route.epoch < epoch {
                *route = Route { node, epoch };
            }
        }
    }

    pub(super) fn release(&self, ended: &[(DeviceId, Epoch)]) {
        let mut routes = self.routes.lock();
        for (device, epoch) in ended {
            if routes.by_device.get(device).is_some_and(|route| route.epoch == *epoch) {
                routes.by_device.remove(device);
            }
        }
    }

    pub(super) fn find(&self, device: DeviceId) -> Option<Route> {
        let routes = self.routes.lock();
        let route = routes.by_device.get(&device).copied()?;
        routes.is_alive(route.node).then_some(route)
    }

    pub(super) fn increment(&self, key: &str, window: u64, expires_in: Duration) -> u64 {
        let now = Instant::now();
        self.counters.lock().increment(key, window, now, now.checked_add(expires_in).unwrap_or(now))
    }
}

/// Counts by key and window, at most [`MAX_COUNTERS`] of them. Keys are kept as hashes with a secret start value:
/// entries stay small whatever the outside sends, and nobody outside can make two keys meet.
#[derive(Debug, Default)]
struct Counters {
    counts: HashMap<u64, Count>,
    hasher: std::collections::hash_map::RandomState,
}

#[derive(Debug)]
struct Count {
    count: u64,
    ends: Instant,
}

impl Counters {
    fn increment(&mut self, key: &str, window: u64, now: Instant, ends: Instant) -> u64 {
        let slot = self.hasher.hash_one((key, window));
        if !self.counts.contains_key(&slot) {
            self.make_room(now);
        }
        let entry = self.counts.entry(slot).or_insert(Count { count: 0, ends });
        if entry.ends <= now {
            *entry = Count { count: 0, ends };
        }
        entry.count += 1;
        entry.count
    }

    /// When full, drops what has expired; if that is nothing, the smallest count of a sample: a flood of new keys then
    /// pushes out one another and not the counters that are about to refuse somebody.
    fn make_room(&mut self, now: Instant) {
        if self.counts.len() < MAX_COUNTERS {
            return;
        }
        let sample = self.counts.iter().take(SAMPLE);
        let Some((&slot, victim)) = sample.min_by_key(|(_, entry)| if entry.ends <= now { 0 } else { entry.count })
        else {
            return;
        };
        let some_have_expired = victim.ends <= now;
        self.counts.remove(&slot);
        if some_have_expired {
            self.counts.retain(|_, entry| entry.ends > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_bounded_and_large_ones_survive_a_flood() {
        let mut counters = Counters::default();
        let now = Instant::now();
        let later = now + Duration::from_mins(1);
        for _ in 0..50 {
            counters.increment("culprit", 1, now, later);
        }
        for flood in 0..MAX_COUNTERS + 5_000 {
            counters.increment(&flood.to_string(), 1, now, later);
        }
        assert!(counters.counts.len() <= MAX_COUNTERS);
        assert_eq!(counters.increment("culprit", 1, now, later), 51);
    }

    #[test]
    fn expired_counters_make_room_first() {
        let mut counters = Counters::default();
        let now = Instant::now();
        for flood in 0..MAX_COUNTERS {
            counters.increment(&flood.to_string(), 1, now, now + Duration::from_secs(1));
        }
        let later = now + Duration::from_secs(2);
        counters.increment("new", 1, later, later + Duration::from_secs(1));
        assert_eq!(counters.counts.len(), 1);
    }
}
