//! Can this device be reached, and where? Functions over the registry, the shared routes and the status rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Recipient;
use parking_lot::Mutex;
use storage::{Connections, DeviceId, NodeId, Presence, StorageError, Timestamp};
use tokio::sync::oneshot;

use crate::bus::{Answer, Bus, NodeMessage, Question};
use crate::figures::{DescribeDevice, DeviceFigures};
use crate::registry::Registry;
use crate::session::{DeviceEnd, ToDevice};

/// How long another node may take to answer (the reference gives up then as well).
const ANSWER_LIMIT: Duration = Duration::from_millis(700);

/// Questions that may be on their way at once.
const QUESTIONS_LIMIT: usize = 10_000;

/// What an operator is told about a device's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// Whether it is connected, to any node.
    pub connected: bool,
    /// When it first was known here.
    pub created: Timestamp,
    /// When this last changed.
    pub updated: Timestamp,
}

/// Where a device can be reached.
pub enum Reachable {
    /// Connected to this node.
    Here(Recipient<ToDevice>),
    /// Connected to another.
    There(NodeId),
}

/// Why a device cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// It is not connected, or not known at all.
    #[error("device disconnected")]
    Offline,
    /// The node that should hold it does not answer.
    #[error("internal error")]
    NoAnswer,
    /// The shared store cannot say.
    #[error("service unavailable")]
    Unavailable(#[source] StorageError),
}

/// Finds devices.
#[derive(Clone)]
pub struct Reach {
    registry: Registry,
    connections: Connections,
    presence: Presence,
    bus: Bus,
    questions: Arc<Questions>,
}

#[derive(Default)]
struct Questions {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Reach {
    /// Looks for devices in these places.
    pub fn new(registry: Registry, connections: Connections, presence: Presence, bus: Bus) -> Self {
        Self { registry, connections, presence, bus, questions: Arc::default() }
    }

    /// The connection status of a device; `None` if it never connected. (Mender API: device connect, `GET /devices/{id}`.)
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn connection(&self, device: DeviceId) -> Result<Option<ConnectionStatus>, StorageError> {
        let here = self.registry.find(device);
        let row = self.connections.find(device).await?;
        let Some(row) = row else {
            return Ok(here.map(|here| ConnectionStatus { connected: true, created: here.since, updated: here.since }));
        };
        if let Some(here) = here {
            // The row follows within moments; its time of change is known already.
            let updated = if row.connected && row.epoch == here.epoch { row.updated } else { here.since };
            return Ok(Some(ConnectionStatus { connected: true, created: row.created, updated }));
        }
        let connected = match row.node {
            // Without the shared store the row is the best that is known.
            Some(node) if row.connected && node != self.bus.node() => {
                self.presence.is_alive(node).await.unwrap_or(true)
            }
            _ => false,
        };
        Ok(Some(ConnectionStatus { connected, created: row.created, updated: row.updated }))
    }

    /// Where the device can be reached right now.
    ///
    /// # Errors
    /// When it cannot, with the reason.
    pub async fn find(&self, device: DeviceId) -> Result<Reachable, Unreachable> {
        if let Some(here) = self.registry.find(device) {
            return Ok(Reachable::Here(here.to));
        }
        let route = self.presence.find(device).await.map_err(Unreachable::Unavailable)?;
        let Some(route) = route.filter(|route| route.node != self.bus.node()) else {
            return Err(Unreachable::Offline);
        };
        match self.ask(route.node, Question::HasDevice(device)).await {
            Some(Answer::Is(true)) => Ok(Reachable::There(route.node)),
            Some(_) => Err(Unreachable::Offline),
            None => Err(Unreachable::NoAnswer),
        }
    }

    /// The node that the shared store says the device is connected to.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn node_of(&self, device: DeviceId) -> Result<Option<NodeId>, StorageError> {
        if self.registry.find(device).is_some() {
            return Ok(Some(self.bus.node()));
        }
        Ok(self.presence.find(device).await?.map(|route| route.node))
    }

    /// What flows through the device's connection; `None` if it is not connected.
    ///
    /// # Errors
    /// As [`Reach::find`].
    pub async fn describe(&self, device: DeviceId) -> Result<Option<DeviceFigures>, Unreachable> {
        match self.find(device).await {
            Ok(Reachable::Here(to)) => {
                let (sender, answer) = oneshot::channel();
                // One that ends at this moment is not connected any more.
                let _ = to.try_send(ToDevice::Describe(DescribeDevice(sender)));
                Ok(tokio::time::timeout(ANSWER_LIMIT, answer).await.ok().and_then(Result::ok))
            }
            Ok(Reachable::There(node)) => match self.ask(node, Question::Describe(device)).await {
                Some(Answer::Figures(figures)) => Ok(Some(*figures)),
                Some(_) => Ok(None),
                None => Err(Unreachable::NoAnswer),
            },
            Err(Unreachable::Offline) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks another node; `None` if it does not answer in time.
    pub async fn ask(&self, node: NodeId, question: Question) -> Option<Answer> {
        let nonce = self.questions.last.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.questions.waiting.lock();
            if waiting.len() >= QUESTIONS_LIMIT {
                return None;
            }
            waiting.insert(nonce, sender);
        }
        let answer = match self.bus.send(node, NodeMessage::Ask { nonce, from: self.bus.node(), question }) {
            Ok(()) => tokio::time::timeout(ANSWER_LIMIT, answer).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        self.questions.waiting.lock().remove(&nonce);
        answer
    }

    /// Another node answered.
    pub(crate) fn answered(&self, nonce: u64, answer: Answer) {
        if let Some(waiting) = self.questions.waiting.lock().remove(&nonce) {
            // Whoever asked may have given up; that is fine.
            let _ = waiting.send(answer);
        }
    }
}

impl Reachable {
    /// The device's end of a session.
    pub fn into_end(self, device: DeviceId) -> DeviceEnd {
        match self {
            Self::Here(to) => DeviceEnd::Here(to),
            Self::There(node) => DeviceEnd::There { node, device },
        }
    }
}
