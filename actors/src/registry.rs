//! Which devices and operators are connected to this node, and which sessions have their host here.
//!
//! A table rather than an actor: every request and every message between ends looks something up here, from every worker
//! thread, and each change is one step under one lock. It is a copy of what the sockets' actors know, and each of them
//! removes its own entry when it ends, for whatever reason.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::Recipient;
use parking_lot::{Mutex, RwLock};
use storage::{AttachmentId, AuthSetId, DeviceId, Epoch, NodeId, SessionId, Timestamp, TokenId, UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::session::attachment::{ToAttached, ToSession};
use crate::session::{Binding, FromDevice, ToDevice, left_shell};

/// Power of two. Connects and disconnects in a storm take one of these locks for well under a microsecond.
const SHARDS: usize = 64;

/// Devices that are remembered as awaited by sessions on other nodes, and for how long: they are let in first.
const AWAITED_ELSEWHERE: usize = 65_536;
const AWAITED_FOR: Duration = Duration::from_mins(1);

/// The devices and operators connected to this node.
#[derive(Clone, Default)]
pub struct Registry(Arc<Tables>);

struct Tables {
    devices: [RwLock<HashMap<DeviceId, ConnectedDevice>>; SHARDS],
    device_count: AtomicUsize,
    /// The shared store does not know of some device here: all have to be announced again.
    has_unannounced: AtomicBool,
    operators: Mutex<Operators>,
    hosts: Mutex<Hosts>,
    /// Sessions of hosts on other nodes with devices on this one.
    guests: Mutex<HashMap<SessionId, Guest>>,
    /// Room for shells that outlived their sessions.
    left_shells: Arc<Semaphore>,
}

#[derive(Default)]
struct Operators {
    attachments: HashMap<AttachmentId, ConnectedOperator>,
    per_user: HashMap<UserId, usize>,
}

#[derive(Default)]
struct Hosts {
    sessions: HashMap<SessionId, HostedSession>,
    /// Sessions that wait for their device to come back.
    awaiting: HashMap<DeviceId, Vec<SessionId>>,
    /// Devices that sessions on other nodes wait for, and until when that is believed.
    awaited_elsewhere: HashMap<DeviceId, Instant>,
}

/// A device's connection to this node.
#[derive(Clone)]
pub struct ConnectedDevice {
    /// Which of the device's connections this is.
    pub epoch: Epoch,
    /// The key it came with: its withdrawal cuts the socket.
    pub auth_set: AuthSetId,
    /// Its actor.
    pub to: Recipient<ToDevice>,
    /// Since when.
    pub since: Timestamp,
}

/// An operator's socket.
#[derive(Clone)]
pub struct ConnectedOperator {
    /// Whose.
    pub user: UserId,
    /// The token they came with: its revocation cuts the socket.
    pub token: TokenId,
    /// Its actor.
    pub to: Recipient<ToAttached>,
    /// Where the session's host is, if on another node.
    pub host_node: Option<NodeId>,
}

/// A session whose host is on this node.
#[derive(Clone)]
pub struct HostedSession {
    /// Its device.
    pub device: DeviceId,
    /// Whose.
    pub user: UserId,
    /// What its device's end speaks to.
    pub from_device: Recipient<FromDevice>,
    /// Its host, unless it is one that operators cannot take part in.
    pub host: Option<Recipient<ToSession>>,
    /// Where the device is, if on another node.
    pub device_node: Option<NodeId>,
    /// Who types in it.
    pub writer: Option<(UserId, AttachmentId)>,
}

/// A session whose host is on another node.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// The device, on this node.
    pub device: DeviceId,
    /// The host's node.
    pub from: NodeId,
    /// In which binding.
    pub binding: Binding,
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
            hosts: Mutex::default(),
            guests: Mutex::default(),
            left_shells: Arc::new(Semaphore::new(left_shell::WAITING_LIMIT)),
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

    /// An operator's socket is open; at most `limit` per user.
    ///
    /// # Errors
    /// When the user has reached the limit.
    pub fn enter_operator(
        &self,
        attachment: AttachmentId,
        operator: ConnectedOperator,
        limit: usize,
    ) -> Result<(), TooManySessions> {
        let mut operators = self.0.operators.lock();
        let count = operators.per_user.entry(operator.user.clone()).or_default();
        if *count >= limit {
            return Err(TooManySessions);
        }
        *count += 1;
        operators.attachments.insert(attachment, operator);
        Ok(())
    }

    /// Sockets that the user has open on this node.
    pub fn sockets_of(&self, user: &UserId) -> usize {
        self.0.operators.lock().per_user.get(user).copied().unwrap_or(0)
    }

    /// An operator's socket has ended.
    pub fn leave_operator(&self, attachment: AttachmentId) {
        let mut operators = self.0.operators.lock();
        let Some(gone) = operators.attachments.remove(&attachment) else { return };
        if let Some(count) = operators.per_user.get_mut(&gone.user) {
            *count -= 1;
            if *count == 0 {
                operators.per_user.remove(&gone.user);
            }
        }
    }

    /// An operator's socket on this node.
    pub fn find_operator(&self, attachment: AttachmentId) -> Option<Recipient<ToAttached>> {
        self.0.operators.lock().attachments.get(&attachment).map(|operator| operator.to.clone())
    }

    /// Every operator's socket on this node.
    pub fn operators(&self) -> Vec<(AttachmentId, ConnectedOperator)> {
        self.0.operators.lock().attachments.iter().map(|(id, operator)| (*id, operator.clone())).collect()
    }

    /// A session has its host here.
    pub fn enter_session(&self, session: SessionId, hosted: HostedSession) {
        self.0.hosts.lock().sessions.insert(session, hosted);
    }

    /// Changes what is known of a session here.
    pub fn update_session(&self, session: SessionId, update: impl FnOnce(&mut HostedSession)) {
        if let Some(hosted) = self.0.hosts.lock().sessions.get_mut(&session) {
            update(hosted);
        }
    }

    /// A session whose host is here.
    pub fn find_session(&self, session: SessionId) -> Option<HostedSession> {
        self.0.hosts.lock().sessions.get(&session).cloned()
    }

    /// Every session whose host is here.
    pub fn sessions(&self) -> Vec<(SessionId, HostedSession)> {
        self.0.hosts.lock().sessions.iter().map(|(id, hosted)| (*id, hosted.clone())).collect()
    }

    /// How many sessions a user has here.
    pub fn sessions_of(&self, user: &UserId) -> usize {
        self.0.hosts.lock().sessions.values().filter(|hosted| hosted.user == *user).count()
    }

    /// A session has its host here no longer.
    pub fn leave_session(&self, session: SessionId) {
        let mut hosts = self.0.hosts.lock();
        if let Some(gone) = hosts.sessions.remove(&session) {
            forget_awaiting(&mut hosts.awaiting, gone.device, session);
        }
    }

    /// A session here waits for its device to come back. Says whether it is the first to wait for it.
    pub fn await_device(&self, device: DeviceId, session: SessionId) -> bool {
        let mut hosts = self.0.hosts.lock();
        let awaiting = hosts.awaiting.entry(device).or_default();
        let is_first = awaiting.is_empty();
        if !awaiting.contains(&session) {
            awaiting.push(session);
        }
        is_first
    }

    /// It waits no longer.
    pub fn stop_awaiting(&self, device: DeviceId, session: SessionId) {
        forget_awaiting(&mut self.0.hosts.lock().awaiting, device, session);
    }

    /// A session on another node waits for this device, which may come back here.
    pub fn await_for_another(&self, device: DeviceId, now: Instant) {
        let mut hosts = self.0.hosts.lock();
        if hosts.awaited_elsewhere.len() >= AWAITED_ELSEWHERE {
            hosts.awaited_elsewhere.retain(|_, until| *until > now);
        }
        if hosts.awaited_elsewhere.len() < AWAITED_ELSEWHERE || hosts.awaited_elsewhere.contains_key(&device) {
            hosts.awaited_elsewhere.insert(device, now + AWAITED_FOR);
        }
    }

    /// Whether a session, of whichever node, waits for this device to come back.
    pub fn is_awaited(&self, device: DeviceId) -> bool {
        let hosts = self.0.hosts.lock();
        hosts.awaiting.contains_key(&device)
            || hosts.awaited_elsewhere.get(&device).is_some_and(|until| *until > Instant::now())
    }

    /// The hosts of sessions that wait for this device.
    pub fn awaiting(&self, device: DeviceId) -> Vec<Recipient<ToSession>> {
        let hosts = self.0.hosts.lock();
        let Some(sessions) = hosts.awaiting.get(&device) else { return vec![] };
        sessions.iter().filter_map(|session| hosts.sessions.get(session)?.host.clone()).collect()
    }

    /// A session of a host on another node is bound to a device on this one.
    pub fn enter_guest(&self, session: SessionId, guest: Guest) {
        self.0.guests.lock().insert(session, guest);
    }

    /// Such a session.
    pub fn find_guest(&self, session: SessionId) -> Option<Guest> {
        self.0.guests.lock().get(&session).copied()
    }

    /// Such a session has ended.
    pub fn leave_guest(&self, session: SessionId) {
        self.0.guests.lock().remove(&session);
    }

    /// Room for one more shell that has outlived its session, until this is dropped; `None` if there are too many.
    pub(crate) fn place_for_left_shell(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.left_shells).try_acquire_owned().ok()
    }

    /// Every session of a host on another node.
    pub fn guests(&self) -> Vec<(SessionId, Guest)> {
        self.0.guests.lock().iter().map(|(session, guest)| (*session, *guest)).collect()
    }

    fn shard(&self, device: DeviceId) -> &RwLock<HashMap<DeviceId, ConnectedDevice>> {
        // Ids are random, so their last byte spreads evenly.
        &self.0.devices[usize::from(device.uuid().as_bytes()[15]) % SHARDS]
    }
}

fn forget_awaiting(awaiting: &mut HashMap<DeviceId, Vec<SessionId>>, device: DeviceId, session: SessionId) {
    if let Some(sessions) = awaiting.get_mut(&device) {
        sessions.retain(|other| *other != session);
        if sessions.is_empty() {
            awaiting.remove(&device);
        }
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

    impl Handler<ToAttached> for Nobody {
        type Result = ();
        fn handle(&mut self, _: ToAttached, _: &mut Self::Context) {}
    }

    fn connection(epoch: i64) -> ConnectedDevice {
        let (auth_set, to) = (AuthSetId::random(), Nobody.start().recipient());
        ConnectedDevice { epoch: Epoch(epoch), auth_set, to, since: Timestamp(0) }
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
            host_node: None,
        };
        let sessions = [AttachmentId::random(), AttachmentId::random(), AttachmentId::random()];
        assert_eq!(registry.enter_operator(sessions[0], operator(), 2), Ok(()));
        assert_eq!(registry.enter_operator(sessions[1], operator(), 2), Ok(()));
        assert_eq!(registry.enter_operator(sessions[2], operator(), 2), Err(TooManySessions));
        registry.leave_operator(sessions[0]);
        registry.leave_operator(sessions[0]);
        assert_eq!(registry.enter_operator(sessions[2], operator(), 2), Ok(()));
    }

    #[actix::test]
    async fn devices_awaited_by_other_nodes_are_known_for_a_while_and_only_so_many_at_a_time() {
        let (registry, device, now) = (Registry::default(), DeviceId::random(), Instant::now());
        assert!(!registry.is_awaited(device));
        registry.await_for_another(device, now);
        assert!(registry.is_awaited(device));
        for _ in 0..AWAITED_ELSEWHERE {
            registry.await_for_another(DeviceId::random(), now);
        }
        let more = DeviceId::random();
        registry.await_for_another(more, now);
        assert!(!registry.is_awaited(more), "there are too many");
        registry.await_for_another(more, now + AWAITED_FOR);
        assert!(registry.is_awaited(more) && !registry.is_awaited(device), "the old ones make room");
    }

    #[test]
    fn so_many_left_shells_wait_for_their_devices() {
        let registry = Registry::default();
        let mut places: Vec<_> =
            (0..left_shell::WAITING_LIMIT).map_while(|_| registry.place_for_left_shell()).collect();
        assert_eq!(places.len(), left_shell::WAITING_LIMIT);
        assert!(registry.place_for_left_shell().is_none());
        places.pop();
        assert!(registry.place_for_left_shell().is_some());
    }
}
