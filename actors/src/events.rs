//! What happens to devices and sessions, told to whoever listens: in order, without a gap, and each thing once.
//!
//! Events are rows ([`storage::Events`]), written together with what they speak of ([`crate::status_writer`]) and numbered
//! in the order of their commits, on all nodes alike. One service per node reads the new ones while anybody listens and
//! keeps the latest of them in memory; a [`Listener`] holds nothing but the number of the last event it was given. One that
//! is slower than memory is long goes on from the database, so slowness costs nothing and loses nothing.
//!
//! When the service dies, listeners wait until it is back; what it kept in memory stays, since that belongs to all.

mod reader;
mod recent;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use storage::{
    ConnectionChange, DeviceId, Event, Events, Folded, NewEvent, NodeId, OpenedSession, RecordedAlert, SessionChange,
    SessionFigures, SessionId, SessionKind, SessionRecord, StorageError, Timestamp, UserId,
};
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::config::EventStreams;
pub use reader::EventReader;
use recent::{Found, Recent};

/// Events read from the database at once.
const READ: u32 = 500;

/// Events given to a listener at once.
const BATCH: u32 = 64;

/// Pause of a listener whose database is away.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A device has connected.
    Connected,
    /// A connection of a device has ended.
    Disconnected,
    /// An operator has opened a session on a device.
    SessionOpened,
    /// A session has ended.
    SessionClosed,
    /// A device's monitoring, or a rule of the hub, has something to say.
    Alert,
    /// Somebody has made a deployment.
    DeploymentCreated,
    /// A phase of a deployment has opened that is not its first.
    DeploymentPhaseOpened,
    /// An operator has paused a deployment, or it has paused itself.
    DeploymentPaused,
    /// An operator has let a paused deployment go on.
    DeploymentResumed,
    /// A deployment is over.
    DeploymentFinished,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Connected,
        Self::Disconnected,
        Self::SessionOpened,
        Self::SessionClosed,
        Self::Alert,
        Self::DeploymentCreated,
        Self::DeploymentPhaseOpened,
        Self::DeploymentPaused,
        Self::DeploymentResumed,
        Self::DeploymentFinished,
    ];

    /// The kind as it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::SessionOpened => "session-opened",
            Self::SessionClosed => "session-closed",
            Self::Alert => "alert",
            Self::DeploymentCreated => "deployment-created",
            Self::DeploymentPhaseOpened => "deployment-phase-opened",
            Self::DeploymentPaused => "deployment-paused",
            Self::DeploymentResumed => "deployment-resumed",
            Self::DeploymentFinished => "deployment-finished",
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The events of changes that are about to be written, in two parts.
///
/// Rows and events are not committed in one step. Whoever is killed in between must leave nothing that nobody can mend: an
/// end is told before it is written down, since what is then still written down as open gets its end from another node,
/// under the same key; a beginning is told afterwards, since what is written down as open gets its beginning told with that
/// end ([`crate::dead_nodes`]).
#[derive(Debug, Default)]
pub struct Telling {
    /// To be told before the changes are written.
    pub before: Vec<NewEvent>,
    /// To be told after that.
    pub after: Vec<NewEvent>,
}

impl Telling {
    /// Those of connections.
    pub fn of_connections(changes: &[ConnectionChange]) -> Self {
        let ended: HashSet<_> =
            changes.iter().filter(|change| !change.connected).map(|change| (change.device, change.epoch)).collect();
        let mut telling = Self::default();
        for change in changes {
            let part =
                if ended.contains(&(change.device, change.epoch)) { &mut telling.before } else { &mut telling.after };
            part.push(of_connection(change));
        }
        telling.sort();
        telling
    }

    /// Those of sessions; `ended` are the records of the sessions that these changes end.
    pub fn of_sessions(changes: &[SessionChange], ended: &HashMap<SessionId, Subject>) -> Self {
        let mut telling = Self::default();
        for change in changes {
            match change {
                SessionChange::Opened(opened) => {
                    let event = of_opening(opened.session, opened.node, opened.at, &Subject::from(opened));
                    let part =
                        if ended.contains_key(&opened.session) { &mut telling.before } else { &mut telling.after };
                    part.push(event);
                }
                SessionChange::Ended { session, at, reason, figures, .. } => {
                    if let Some(subject) = ended.get(session) {
                        telling.before.push(of_closing(*session, *at, reason, figures, subject));
                    }
                }
                SessionChange::Moved { .. } | SessionChange::Progress { .. } => {}
            }
        }
        telling.sort();
        telling
    }

    fn sort(&mut self) {
        // Stable: a beginning stays before an end of the same microsecond.
        self.before.sort_by_key(|event| event.at);
        self.after.sort_by_key(|event| event.at);
    }
}

/// The event of a connection that began or ended. Its key names the connection, so that whoever tells it again, this node
/// after a failure or another one, adds nothing.
pub fn of_connection(change: &ConnectionChange) -> NewEvent {
    let (kind, mark) = if change.connected { (Kind::Connected, '+') } else { (Kind::Disconnected, '-') };
    let mut body = json!({ "node": change.node, "connection": change.epoch.0 });
    if !change.connected {
        body["reason"] = json!(change.reason);
    }
    NewEvent {
        key: format!("c/{}/{}/{mark}", change.device, change.epoch.0),
        at: change.at,
        kind: kind.as_str().to_owned(),
        device: Some(change.device),
        body,
    }
}

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// On which device.
    pub device: DeviceId,
    /// Who opened it.
    pub user: UserId,
    /// What it is used for, as far as that is known.
    pub kind: SessionKind,
}

impl From<&OpenedSession> for Subject {
    fn from(opened: &OpenedSession) -> Self {
        Self { device: opened.device, user: opened.user.clone(), kind: opened.kind }
    }
}

impl From<&SessionRecord> for Subject {
    fn from(record: &SessionRecord) -> Self {
        Self { device: record.device, user: record.user.clone(), kind: record.kind }
    }
}

/// The event of a session that was opened.
pub fn of_opening(session: SessionId, node: NodeId, at: Timestamp, subject: &Subject) -> NewEvent {
    NewEvent {
        key: format!("s/{session}/+"),
        at,
        kind: Kind::SessionOpened.as_str().to_owned(),
        device: Some(subject.device),
        body: json!({ "session": session, "user": subject.user, "session_kind": subject.kind.as_str(), "node": node }),
    }
}

fn of_closing(
    session: SessionId,
    at: Timestamp,
    reason: &str,
    figures: &SessionFigures,
    subject: &Subject,
) -> NewEvent {
    let kind = if figures.kind == SessionKind::Unknown { subject.kind } else { figures.kind };
    NewEvent {
        key: format!("s/{session}/-"),
        at,
        kind: Kind::SessionClosed.as_str().to_owned(),
        device: Some(subject.device),
        body: json!({
            "session": session, "user": subject.user, "session_kind": kind.as_str(), "reason": reason,
            "bytes_to_device": figures.bytes_to_device, "bytes_to_operator": figures.bytes_to_operator,
        }),
    }
}

/// The event of an alert: what it says but for its details, and how its device is now.
pub fn of_alert(new: &RecordedAlert) -> NewEvent {
    let (id, said) = (new.alert.id, &new.alert.said);
    let change = match new.folded {
        Folded::Opened => "opened",
        Folded::StaysOpen => "stays-open",
        Folded::Closed => "closed",
        Folded::Nothing => "none",
    };
    NewEvent {
        key: format!("a/{id}"),
        at: new.alert.received,
        kind: Kind::Alert.as_str().to_owned(),
        device: Some(new.alert.device),
        body: json!({
            "alert": id, "name": said.name, "level": said.level.as_str(), "timestamp": said.at,
            "subject": { "name": said.subject_name, "type": said.subject_type, "status": said.status },
            "change": change, "open_alerts": new.open,
        }),
    }
}

/// Who takes part in an event stream.
#[derive(Clone)]
pub struct EventTail(Arc<Shared>);

struct Shared {
    events: Events,
    limits: EventStreams,
    recent: Mutex<Recent>,
    /// Number of the newest event in memory.
    newest: watch::Sender<i64>,
    /// There may be new events.
    nudge: Notify,
    listeners: Mutex<Listeners>,
    is_closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Listeners {
    count: usize,
    per_user: HashMap<UserId, usize>,
}

/// Why somebody cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The user, or everybody together, has as many streams on this node as are allowed.
    #[error("too many event streams")]
    TooMany,
    /// This node is shutting down.
    #[error("the hub is restarting")]
    Closed,
    /// The database cannot be asked.
    #[error("cannot read events")]
    Unavailable(#[from] StorageError),
}

/// What a listener hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// The next events, in order.
    Events(Vec<Arc<Event>>),
    /// Events that this listener has not heard are not kept any more. It goes on from here.
    Gap {
        /// The number of the first event that follows.
        from: i64,
    },
    /// This node is shutting down.
    Closed,
}

/// Somebody who listens.
pub struct Listener {
    tail: EventTail,
    user: UserId,
    /// The last event that was given out.
    position: i64,
    gap: Option<i64>,
    newest: watch::Receiver<i64>,
    is_closed: watch::Receiver<bool>,
}

impl EventTail {
    /// Tells of `events`.
    pub fn new(events: Events, limits: &EventStreams) -> Self {
        Self(Arc::new(Shared {
            events,
            limits: limits.clone(),
            recent: Mutex::default(),
            newest: watch::Sender::new(0),
            nudge: Notify::new(),
            listeners: Mutex::default(),
            is_closed: watch::Sender::new(false),
        }))
    }

    /// Appends events to the log, each once however often this is called, and tells the listeners of this node.
    ///
    /// # Errors
    /// When the database refuses. Some may be appended then; repeating the call is safe.
    pub async fn append(&self, events: &[NewEvent]) -> Result<(), StorageError> {
        if events.is_empty() {
            return Ok(());
        }
        self.0.events.append(events).await?;
        self.nudge();
        Ok(())
    }

    /// There are new events in the log, which somebody else appended.
    pub fn nudge(&self) {
        self.0.nudge.notify_one();
    }

    /// Nobody listens to this node from now on.
    pub fn close(&self) {
        self.0.is_closed.send_replace(true);
    }

    /// Lets a user listen, from after the event with this number if there is one, else from now on.
    ///
    /// # Errors
    /// When there are too many, when this node is shutting down, or when the database cannot be asked.
    pub async fn listen(&self, user: UserId, after: Option<i64>) -> Result<Listener, ListenError> {
        if *self.0.is_closed.borrow() {
            return Err(ListenError::Closed);
        }
        self.0.listeners.lock().enter(&user, &self.0.limits)?;
        // From here on its end is a listener's end.
        let mut listener = Listener {
            tail: self.clone(),
            user,
            position: 0,
            gap: None,
            newest: self.0.newest.subscribe(),
            is_closed: self.0.is_closed.subscribe(),
        };
        let newest = self.0.events.newest().await?;
        self.0.recent.lock().activate(newest);
        (listener.position, listener.gap) = start(after, newest);
        self.0.nudge.notify_one();
        Ok(listener)
    }

    /// Listeners on this node.
    pub fn listener_count(&self) -> usize {
        self.0.listeners.lock().count
    }

    /// Takes the new events into memory. The service does this; failing changes nothing.
    async fn catch_up(&self) -> Result<(), StorageError> {
        loop {
            let Some(last) = self.0.recent.lock().last() else { return Ok(()) };
            let rows = self.0.events.after(last, READ).await?;
            let count = rows.len();
            let Some(newest) = self.0.recent.lock().extend(last, rows) else { return Ok(()) };
            self.0.newest.send_replace(newest);
            if count < READ as usize {
                return Ok(());
            }
        }
    }
}

/// Where a listener begins who knows events up to `after`, when `newest` is the newest; and where it goes on if its number
/// was never given out, so that nothing it knows can be relied upon.
fn start(after: Option<i64>, newest: i64) -> (i64, Option<i64>) {
    match after {
        Some(after) if after > newest => (newest, Some(newest + 1)),
        Some(after) => (after.max(0), None),
        None => (newest, None),
    }
}

/// From where a listener at `position` goes on if events that it has not heard were removed: every event from `whole_from`
/// on is kept. Who begins at nought wants what there is, and misses nothing.
fn gap(position: i64, whole_from: i64) -> Option<i64> {
    (position > 0 && position + 1 < whole_from).then_some(whole_from)
}

impl Listeners {
    fn enter(&mut self, user: &UserId, limits: &EventStreams) -> Result<(), ListenError> {
        let of_user = self.per_user.get(user).copied().unwrap_or(0);
        if of_user >= limits.per_user || self.count >= limits.per_node {
            return Err(ListenError::TooMany);
        }
        self.per_user.insert(user.clone(), of_user + 1);
        self.count += 1;
        Ok(())
    }

    /// Says whether that was the last one.
    fn leave(&mut self, user: &UserId) -> bool {
        if let Some(of_user) = self.per_user.get_mut(user) {
            *of_user -= 1;
            if *of_user == 0 {
                self.per_user.remove(user);
            }
        }
        self.count -= 1;
        self.count == 0
    }
}

impl Listener {
    /// The number of the last event that was given out, or that need not be.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// What comes next. May be given up at any time without losing anything.
    pub async fn next(&mut self) -> Heard {
        loop {
            if *self.is_closed.borrow() {
                return Heard::Closed;
            }
            if let Some(from) = self.gap.take() {
                return Heard::Gap { from };
            }
            self.newest.mark_unchanged();
            let found = self.tail.0.recent.lock().after(self.position, BATCH as usize);
            match found {
                Found::Events(events) => return self.give(events),
                Found::Nothing => {
                    tokio::select! {
                        // The sender lives as long as we do.
                        _ = self.newest.changed() => {}
                        _ = self.is_closed.changed() => {}
                    }
                }
                Found::Older => match self.read().await {
                    Ok(events) if events.is_empty() => {}
                    Ok(events) => return self.give(events),
                    Err(error) => {
                        warn!(%error, "an event stream waits for the database");
                        tokio::time::sleep(READ_AGAIN).await;
                    }
                },
            }
        }
    }

    fn give(&mut self, events: Vec<Arc<Event>>) -> Heard {
        if let Some(last) = events.last() {
            self.position = last.id;
        }
        Heard::Events(events)
    }

    /// What follows this listener's position in the database; empty if it was moved instead.
    async fn read(&mut self) -> Result<Vec<Arc<Event>>, StorageError> {
        let events = &self.tail.0.events;
        let rows = events.after(self.position, BATCH).await?;
        // Asked afterwards, so that nothing can be removed unnoticed before those rows.
        if let Some(from) = gap(self.position, events.whole_from().await?) {
            self.gap = Some(from);
            self.position = from - 1;
            return Ok(vec![]);
        }
        if rows.is_empty() {
            // All of it was removed, from a listener that began at nought.
            self.position = self.position.max(self.tail.0.recent.lock().floor().unwrap_or(0));
        }
        Ok(rows.into_iter().map(Arc::new).collect())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // In one step with the count, so that nobody enters in between and finds memory switched off.
        let mut listeners = self.tail.0.listeners.lock();
        if listeners.leave(&self.user) {
            self.tail.0.recent.lock().deactivate();
        }
    }
}

#[cfg(test)]
mod tests;
