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
use storage::{DeviceId, Epoch, NodeId, SessionId, UserId};
use tokio::sync::mpsc;

use crate::session::SessionEnd;

/// Messages that may wait for a node that is slow to take them; more are refused, and their sessions end.
pub const INBOX_LIMIT: usize = 64 * 1024;

/// What carries out an [`Event`] on this node and tells the others.
pub type Announcer = Arc<dyn Fn(Event) + Send + Sync>;

/// Said by one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the session messages of the same name")]
pub enum NodeMessage {
    /// Is this device connected to you?
    Probe { nonce: u64, device: DeviceId, from: NodeId },
    /// The answer to a probe.
    Probed { nonce: u64, here: bool },
    /// An operator on `from` opens a session.
    OpenSession { session: SessionId, device: DeviceId, user: UserId, from: NodeId },
    /// From an operator to a device.
    ToDevice { session: SessionId, device: DeviceId, from: NodeId, number: u32, message: Bytes },
    /// Credit for a device's output.
    CreditToDevice { session: SessionId, device: DeviceId, bytes: usize },
    /// The operator is gone.
    HangUp { session: SessionId, device: DeviceId },
    /// From a device to an operator.
    ToOperator { session: SessionId, number: u32, message: Bytes },
    /// Credit for an operator's input.
    CreditToOperator { session: SessionId, bytes: usize },
    /// The session is over.
    EndSession { session: SessionId, why: SessionEnd },
    /// The device has connected elsewhere, with this epoch: close an older connection.
    Displace { device: DeviceId, epoch: Epoch },
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
    Nats(NatsBus),
}

impl Bus {
    /// A bus for a node that is alone.
    pub fn alone(node: NodeId) -> Self {
        Self::Local(LocalBus::new(node))
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
