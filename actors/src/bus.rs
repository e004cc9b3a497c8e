//! How nodes talk: in this process, or over NATS.
//!
//! Each node has one subject of its own, so that the number of subjects does not grow with the fleet, and all share one
//! for events. Delivery is at most once: session messages are numbered by those who send them ([`crate::session`]), and
//! what a lost revocation would have voided is checked again with the database in time, at the next request ([`crate::gate`]).

mod event;
mod local;
mod nats;

use std::sync::Arc;

use bytes::Bytes;
pub use event::{DisconnectReason, Event};
pub use local::LocalBus;
pub use nats::NatsBus;
use serde::{Deserialize, Serialize};
use storage::{AttachmentId, DeviceId, Epoch, NodeId, SessionId, UserId};
use tokio::sync::mpsc;

use crate::figures::DeviceFigures;
use crate::session::attachment::{AttachedSays, ToAttached};
use crate::session::host::HandedOver;
use crate::session::{Binding, DeviceSays, Resume};

/// Messages that may wait for a node that is slow to take them; more are refused, and their sessions end.
pub const INBOX_LIMIT: usize = 64 * 1024;

/// What carries out an [`Event`] on this node and tells the others.
pub type Announcer = Arc<dyn Fn(Event) + Send + Sync>;

/// Said by one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the session messages of the same name")]
pub enum NodeMessage {
    /// A question, see [`crate::reach`].
    Ask { nonce: u64, from: NodeId, question: Question },
    /// Its answer.
    Answer { nonce: u64, answer: Answer },
    /// A session whose host is on `from` begins or goes on.
    OpenSession {
        session: SessionId,
        device: DeviceId,
        from: NodeId,
        binding: Binding,
        user: UserId,
        kept: bool,
        resume: Option<Resume>,
    },
    /// From a session's host to its device.
    ToDevice { session: SessionId, device: DeviceId, from: NodeId, binding: Binding, number: u32, message: Bytes },
    /// Credit for a device's output.
    CreditToDevice { session: SessionId, device: DeviceId, binding: Binding, bytes: usize },
    /// The session is over.
    HangUp { session: SessionId, device: DeviceId, binding: Binding },
    /// From a device's end of a session to the session's host.
    FromDevice { session: SessionId, binding: Binding, says: DeviceSays },
    /// From an operator's socket on `from` to a session's host.
    FromAttached { session: SessionId, attachment: AttachmentId, from: NodeId, says: AttachedSays },
    /// From a session's host to an operator's socket.
    ToAttached { attachment: AttachmentId, says: ToAttached },
    /// The device has connected elsewhere, with this epoch: close an older connection.
    Displace { device: DeviceId, epoch: Epoch },
}

/// What one node asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Is this device connected to you?
    HasDevice(DeviceId),
    /// Is this session yours? Hand it over if you are stopping.
    HasSession(SessionId),
    /// What flows through this device's connection?
    Describe(DeviceId),
}

/// What a node is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Yes, or no.
    Is(bool),
    /// The session is here; who types in it, and with which attachment.
    Session(Option<(UserId, AttachmentId)>),
    /// The session was here and is the asker's now.
    HandedOver(Box<HandedOver>),
    /// The device is connected here.
    Figures(Box<DeviceFigures>),
}

/// What a node hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Said to this node.
    Message(NodeMessage),
    /// Said to all.
    Event(Event),
    /// The connection to the other nodes was interrupted: messages may be missing.
    LinkLost,
    /// It is back. What the others announced in between was not heard.
    LinkBack,
}

/// Why something could not be said to another node.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody listens there.
    #[error("no such node")]
    NoSuchNode,
    /// More waits to be sent than may.
    #[error("the bus is full")]
    Full,
    /// NATS cannot be reached.
    #[error("cannot reach the message bus")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// This node's connection to the others.
#[derive(Clone)]
pub enum Bus {
    /// All nodes are in this process.
    Local(LocalBus),
    /// Nodes meet at a NATS server.
    Nats(Arc<NatsBus>),
}

impl From<NatsBus> for Bus {
    fn from(bus: NatsBus) -> Self {
        Self::Nats(Arc::new(bus))
    }
}

impl Bus {
    /// A bus for a node that is alone.
    pub fn alone(node: NodeId) -> Self {
        Self::Local(LocalBus::new(node))
    }

    /// Whether there are no other nodes, and never will be.
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Which node speaks here.
    pub fn node(&self) -> NodeId {
        match self {
            Self::Local(bus) => bus.node(),
            Self::Nats(bus) => bus.node(),
        }
    }

    /// Whether there may be other nodes.
    pub fn has_peers(&self) -> bool {
        matches!(self, Self::Nats(_))
    }

    /// Says something to one node, without waiting.
    ///
    /// # Errors
    /// When it is certain that it will not arrive. `Ok` does not promise that it will.
    pub fn send(&self, to: NodeId, message: NodeMessage) -> Result<(), BusError> {
        let sent = match self {
            Self::Local(bus) => bus.send(to, message),
            Self::Nats(bus) => bus.send(to, &message),
        };
        if sent.is_err() {
            metrics::counter!(crate::metrics::BUS_REFUSED).increment(1);
        }
        sent
    }

    /// Tells every other node what has happened, without waiting.
    ///
    /// # Errors
    /// As for [`Bus::send`].
    pub fn announce(&self, event: &Event) -> Result<(), BusError> {
        match self {
            Self::Local(bus) => bus.announce(event),
            Self::Nats(bus) => bus.announce(event),
        }
    }

    /// What is said to this node from now on. A second listener takes over from the first.
    ///
    /// # Errors
    /// When NATS cannot be reached.
    pub async fn listen(&self) -> Result<mpsc::Receiver<Incoming>, BusError> {
        match self {
            Self::Local(bus) => Ok(bus.listen()),
            Self::Nats(bus) => bus.listen().await,
        }
    }

    /// Waits until what was said and announced has left this process. For those who end after it, and do not listen.
    ///
    /// # Errors
    /// When NATS cannot be reached.
    pub async fn flush(&self) -> Result<(), BusError> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Nats(bus) => bus.flush().await,
        }
    }

    /// Whether the bus works right now.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), BusError> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Nats(bus) => bus.ping().await,
        }
    }
}
