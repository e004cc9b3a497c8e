//! Which devices and operators are connected to this node.
//!
//! A table rather than an actor: every request and every message between ends looks something up here, from every worker
//! thread, and each change is one step under one lock. It is a copy of what the sockets' actors know, and each of them
//! removes its own entry when it ends, for whatever reason.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actix::Recipient;
use parking_lot::{Mutex, RwLock};
use storage::{DeviceId, Epoch, NodeId, SessionId, Timestamp, TokenId, UserId};

use crate::session::{ToDevice, ToOperator};

/// Power of two. Connects and disconnects in a storm take one of these locks for well under a microsecond.
const SHARDS: usize = 64;

/// The devices and operators connected to this node.
#[derive(Clone, Default)]
pub struct Registry(Arc<Tables>);

struct Tables {
    devices: [RwLock<HashMap<DeviceId, ConnectedDevice>>; SHARDS],
    device_count: AtomicUsize,
    /// The shared store does not know of some device here: all have to be announced again.
    has_unannounced: AtomicBool,
    operators: Mutex<Operators>,
    /// Sessions of operators on other nodes with devices on this one.
    guests: Mutex<HashMap<SessionId, Guest>>,
}

#[derive(Default)]
struct Operators {
    sessions: HashMap<SessionId, ConnectedOperator>,
    per_user: HashMap<UserId, usize>,
}

/// A device's connection to this node.
#[derive(Clone)]
pub struct ConnectedDevice {
    /// Which of the device's connections this is.
    pub epoch: Epoch,
    /// Its actor.
    pub to: Recipient<ToDevice>,
    /// Since when.
    pub since: Timestamp,
}

/// An operator's session.
#[derive(Clone)]
pub struct ConnectedOperator {
    /// Whose.
    pub user: UserId,
    /// The token they came with: its revocation ends the session.
    pub token: TokenId,
    /// Their actor.
    pub to: Recipient<ToOperator>,
    /// Where the device is, if on another node.
    pub device_node: Option<NodeId>,
}

/// A session whose operator is on another node.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// The device, on this node.
    pub device: DeviceId,
    /// The operator's node.
    pub from: NodeId,
}

/// What became of an older connection when a device entered.
pub enum Entered {
    /// There was none.
    First,
    /// It was replaced and has to be closed.
    Replaced(Recipient<ToDevice>),
    /// There is a newer one: the connection that tried to enter has to be closed.
    Superseded,
}

/// The user has as many sessions on this node as are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManySessions;

impl Default for Tables {
    fn default() -> Self {
        Self {
            devices: std::array::from_fn(|_| RwLock::default()),
            device_count: AtomicUsize::new(0),
            has_unannounced: AtomicBool::new(false),
            operators: Mutex::default(),
            guests: Mutex::default(),
        }
    }
}

impl Registry {
    /// A device has connected. The connection with the greatest epoch stays.
    pub fn enter(&self, device: DeviceId, connection: ConnectedDevice) -> Entered {
        let mut shard = self.shard(device).write();
        if shard.get(&device).is_some_and(|present| present.epoch >= connection.epoch) {
            return Entered::Superseded;
        }
        if let Some(older) = shard.insert(device, connection) {
            return Entered::Replaced(older.to);
        }
        self.0.device_count.fetch_add(1, Ordering::Relaxed);
        Entered::First
    }

    /// A connection has ended. Says whether it was the current one; a late end of an older connection changes nothing.
    pub fn leave(&self, device: DeviceId, epoch: Epoch) -> bool {
        let mut shard = self.shard(device).write();
        let is_current = shard.get(&device).is_some_and(|present| present.epoch == epoch);
        if is_current {
            shard.remove(&device);
            self.0.device_count.fetch_sub(1, Ordering::Relaxed);
        }
        is_current
    }

    /// The device's connection to this node.
    pub fn find(&self, device: DeviceId) -> Option<ConnectedDevice> {
        self.shard(device).read().get(&device).cloned()
    }

    /// Number of devices connected to this node.
    pub fn device_count(&self) -> usize {
        self.0.device_count.load(Ordering::Relaxed)
    }

    /// The shared store was not told of a device that entered.
    pub fn note_unannounced(&self) {
        self.0.has_unannounced.store(true, Ordering::Release);
    }

    /// Whether that happened since this was last asked.
    pub fn take_unannounced(&self) -> bool {
        self.0.has_unannounced.swap(false, Ordering::AcqRel)
    }

    /// Every device connected to this node.
    pub fn devices(&self) -> Vec<(DeviceId, ConnectedDevice)> {
        self.0.devices.iter().flat_map(|shard| snapshot(&shard.read())).collect()
    }

    /// An operator has opened a session; at most `limit` per user.
    ///
    /// # Errors
    /// When the user has reached the limit.
    pub fn enter_operator(
        &self,
        session: SessionId,
        operator: ConnectedOperator,
        limit: usize,
    ) -> Result<(), TooManySessions> {
        let mut operators = self.0.operators.lock();
        let count = operators.per_user.entry(operator.user.clone()).or_default();
        if *count >= limit {
            return Err(TooManySessions);
        }
        *count += 1;
        operators.sessions.insert(session, operator);
        Ok(())
    }

    /// Sessions that the user has open on this node.
    pub fn sessions_of(&self, user: &UserId) -> usize {
        self.0.operators.lock().per_user.get(user).copied().unwrap_or(0)
    }

    /// An operator's session has ended.
    pub fn leave_operator(&self, session: SessionId) {
        let mut operators = self.0.operators.lock();
        let Some(gone) = operators.sessions.remove(&session) else { return };
        if let Some(count) = operators.per_user.get_mut(&gone.user) {
            *count -= 1;
            if *count == 0 {
                operators.per_user.remove(&gone.user);
            }
        }
    }

    /// The operator of a session on this node.
    pub fn find_operator(&self, session: SessionId) -> Option<Recipient<ToOperator>> {
        self.0.operators.lock().sessions.get(&session).map(|operator| operator.to.clone())
    }

    /// Every operator's session on this node.
    pub fn operators(&self) -> Vec<(SessionId, ConnectedOperator)> {
        self.0.operators.lock().sessions.iter().map(|(id, operator)| (*id, operator.clone())).collect()
    }

    /// An operator on another node has opened a session with a device on this one.
    pub fn enter_guest(&self, session: SessionId, guest: Guest) {
        self.0.guests.lock().insert(session, guest);
    }

    /// Whether there is such a session.
    pub fn has_guest(&self, session: SessionId) -> bool {
        self.0.guests.lock().contains_key(&session)
    }

    /// Such a session has ended.
    pub fn leave_guest(&self, session: SessionId) {
        self.0.guests.lock().remove(&session);
    }

    /// Every session of an operator on another node.
    pub fn guests(&self) -> Vec<(SessionId, Guest)> {
        self.0.guests.lock().iter().map(|(session, guest)| (*session, *guest)).collect()
    }

    fn shard(&self, device: DeviceId) -> &RwLock<HashMap<DeviceId, ConnectedDevice>> {
        // Ids are random, so their last byte spreads evenly.
        &self.0.devices[usize::from(device.uuid().as_bytes()[15]) % SHARDS]
    }
}

fn snapshot(shard: &HashMap<DeviceId, ConnectedDevice>) -> Vec<(DeviceId, ConnectedDevice)> {
    shard.iter().map(|(device, connection)| (*device, connection.clone())).collect()
}

#[cfg(test)]
mod tests {
    use actix::{Actor, Context, Handler};

    use super::*;

    struct Nobody;

    impl Actor for Nobody {
        type Context = Context<Self>;
    }

    impl Handler<ToDevice> for Nobody {
        type Result = ();
        fn handle(&mut self, _: ToDevice, _: &mut Self::Context) {}
    }

    impl Handler<ToOperator> for Nobody {
        type Result = ();
        fn handle(&mut self, _: ToOperator, _: &mut Self::Context) {}
    }

    fn connection(epoch: i64) -> ConnectedDevice {
        ConnectedDevice { epoch: Epoch(epoch), to: Nobody.start().recipient(), since: Timestamp(0) }
    }

    #[actix::test]
    async fn the_newest_connection_stays_whatever_the_order_of_events() {
        let (registry, device) = (Registry::default(), DeviceId::random());
        assert!(matches!(registry.enter(device, connection(2)), Entered::First));
        assert!(matches!(registry.enter(device, connection(1)), Entered::Superseded));
        assert!(matches!(registry.enter(device, connection(3)), Entered::Replaced(_)));
        assert!(!registry.leave(device, Epoch(2)), "the late end of an old connection");
        assert_eq!(registry.device_count(), 1);
        assert!(registry.leave(device, Epoch(3)));
        assert_eq!((registry.device_count(), registry.devices().len()), (0, 0));
    }

    #[actix::test]
    async fn sessions_per_user_have_a_limit() {
        let registry = Registry::default();
        let user = UserId::new("u");
        let operator = || ConnectedOperator {
            user: user.clone(),
            token: TokenId::random(),
            to: Nobody.start().recipient(),
            device_node: None,
        };
        let sessions = [SessionId::random(), SessionId::random(), SessionId::random()];
        assert_eq!(registry.enter_operator(sessions[0], operator(), 2), Ok(()));
        assert_eq!(registry.enter_operator(sessions[1], operator(), 2), Ok(()));
        assert_eq!(registry.enter_operator(sessions[2], operator(), 2), Err(TooManySessions));
        registry.leave_operator(sessions[0]);
        registry.leave_operator(sessions[0]);
        assert_eq!(registry.enter_operator(sessions[2], operator(), 2), Ok(()));
    }
}
