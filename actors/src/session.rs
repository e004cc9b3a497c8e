//! What the two ends of a session say to each other: an operator's socket and a device's socket.
//!
//! A session is one operator's websocket on one device, multiplexed on the device's socket by its [`SessionId`].
//! Both ends are actors; they may live on different threads or on different nodes, and talk the same messages either way
//! ([`DeviceEnd`], [`OperatorEnd`]).
//!
//! Nothing is buffered without a bound: per session and direction the sender holds a credit in bytes ([`charge`]) and does
//! not send beyond it. The receiver gives credit back when the bytes have left its queue. A mailbox therefore never holds
//! more than the credits of its sessions, whatever the outside offers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use actix::{Message, Recipient};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::{DeviceId, NodeId, SessionId, UserId};

use crate::bus::{Bus, DisconnectReason, NodeMessage};

/// Credits and limits of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes an operator may have on their way to a device before the hub stops reading the operator's socket.
    #[serde(with = "storage::units::size")]
    pub to_device_window: usize,
    /// Bytes a device may have on their way to an operator before terminal output is skipped for that operator.
    #[serde(with = "storage::units::size")]
    pub to_operator_window: usize,
    /// Sessions that may be open on one device at once.
    pub per_device: usize,
    /// Sessions that one user may have open on one node at once.
    pub per_user: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { to_device_window: 64 * 1024, to_operator_window: 256 * 1024, per_device: 64, per_user: 256 }
    }
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        // The lower bound lets any message pass; the upper one keeps each within what NATS takes.
        let allowed = 16 * 1024..=768 * 1024;
        for (key, window) in
            [("to_device_window", self.to_device_window), ("to_operator_window", self.to_operator_window)]
        {
            if !allowed.contains(&window) {
                return Some(format!("{key} is {window}: expected 16 KiB to 768 KiB"));
            }
        }
        for (key, limit) in [("per_device", self.per_device), ("per_user", self.per_user)] {
            if limit == 0 {
                return Some(format!("{key} is 0: expected at least 1"));
            }
        }
        None
    }
}

/// What a queued message costs beside its bytes: its place in a queue and the allocator's share. Without it a flood of tiny
/// messages would pass a limit in bytes many times over.
pub const MESSAGE_OVERHEAD: usize = 256;

/// Mailbox places of a socket's actor. Credits keep mailboxes far below this; reaching it is a fault, and is counted.
pub const SOCKET_MAILBOX: usize = 64 * 1024;

/// The credit that a message of `len` bytes takes.
pub const fn charge(len: usize) -> usize {
    len + MESSAGE_OVERHEAD
}

/// Said to a device's actor.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToDevice {
    /// An operator opened a session.
    Open {
        /// The new session.
        session: SessionId,
        /// Whose it is.
        user: UserId,
        /// Where its operator is.
        operator: OperatorEnd,
    },
    /// The operator said something, already stamped for the device.
    Deliver {
        /// In which session.
        session: SessionId,
        /// Its number within the session if it crossed nodes, counting from 0.
        number: Option<u32>,
        /// What the device gets.
        message: Bytes,
    },
    /// That many bytes have reached the operator.
    Credit {
        /// In which session.
        session: SessionId,
        /// As counted by [`charge`].
        bytes: usize,
    },
    /// The operator is gone.
    HangUp {
        /// From which session.
        session: SessionId,
    },
    /// A newer connection of the same device has taken over, or access was withdrawn: close.
    Close {
        /// Why.
        why: DisconnectReason,
    },
    /// Die by a panic. Nothing outside this process can send it; tests of the supervision do.
    Crash,
}

/// Said to an operator's actor.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToOperator {
    /// The device said something.
    Deliver {
        /// Its number within the session if it crossed nodes, counting from 0.
        number: Option<u32>,
        /// What the operator gets.
        message: Bytes,
    },
    /// That many bytes have left for the device.
    Credit {
        /// As counted by [`charge`].
        bytes: usize,
    },
    /// The session is over.
    End {
        /// Why.
        why: SessionEnd,
    },
}

/// Why a session ended without its operator asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionEnd {
    /// The device's connection ended.
    DeviceGone(DisconnectReason),
    /// The device offers more than the operator takes, in a protocol in which nothing may be skipped.
    OperatorTooSlow,
    /// Messages between the nodes of the two ends were lost.
    LinkLost,
    /// The device has as many sessions as are allowed.
    TooManySessions,
    /// The operator's access was withdrawn.
    AccessWithdrawn,
    /// The operator's node is shutting down.
    NodeShutdown,
}

impl SessionEnd {
    /// The reason as it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeviceGone(_) => "device-gone",
            Self::OperatorTooSlow => "operator-too-slow",
            Self::LinkLost => "link-lost",
            Self::TooManySessions => "too-many-sessions",
            Self::AccessWithdrawn => "access-withdrawn",
            Self::NodeShutdown => "node-shutdown",
        }
    }

    /// What the operator reads.
    pub const fn text(self) -> &'static str {
        match self {
            Self::DeviceGone(_) => "device disconnected",
            Self::OperatorTooSlow => "session ended: this end reads more slowly than the device sends",
            Self::LinkLost => "session ended: the link between two hub nodes was lost",
            Self::TooManySessions => "the device has too many open sessions",
            Self::AccessWithdrawn => "session ended: access was withdrawn",
            Self::NodeShutdown => "session ended: the hub is restarting",
        }
    }
}

/// The device's end of a session, as its operator's actor holds it.
#[derive(Clone)]
pub enum DeviceEnd {
    /// The device is connected to this node.
    Here(Recipient<ToDevice>),
    /// It is connected to another node.
    There {
        /// Which node.
        node: NodeId,
        /// Which device.
        device: DeviceId,
        /// Messages sent so far, so that the other end notices a loss.
        sent: Arc<AtomicU32>,
    },
}

/// The operator's end of a session, as the device's actor holds it.
#[derive(Clone)]
pub enum OperatorEnd {
    /// The operator is connected to this node.
    Here(Recipient<ToOperator>),
    /// They are connected to another node.
    There {
        /// Which node.
        node: NodeId,
        /// Messages sent so far, so that the other end notices a loss.
        sent: Arc<AtomicU32>,
    },
}

/// The other end did not take the message: it is gone, or its queue is full although credit said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the session is gone")]
pub struct EndGone;

impl DeviceEnd {
    /// Whether the device's actor on this node is gone; of another node it is not known.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Here(device) if !device.connected())
    }

    /// Says something to the device's actor, without waiting.
    ///
    /// # Errors
    /// When it cannot be delivered; the session is over then.
    pub fn send(&self, bus: &Bus, message: ToDevice) -> Result<(), EndGone> {
        match self {
            Self::Here(device) => device.try_send(message).map_err(|_| EndGone),
            Self::There { node, device, sent } => {
                let message = match message {
                    ToDevice::Open { session, user, .. } => {
                        NodeMessage::OpenSession { session, device: *device, user, from: bus.node() }
                    }
                    ToDevice::Deliver { session, message, .. } => NodeMessage::ToDevice {
                        session,
                        device: *device,
                        from: bus.node(),
                        number: sent.fetch_add(1, Ordering::Relaxed),
                        message,
                    },
                    ToDevice::Credit { session, bytes } => {
                        NodeMessage::CreditToDevice { session, device: *device, bytes }
                    }
                    ToDevice::HangUp { session } => NodeMessage::HangUp { session, device: *device },
                    ToDevice::Close { .. } | ToDevice::Crash => return Err(EndGone),
                };
                bus.send(*node, message).map_err(|_| EndGone)
            }
        }
    }
}

impl OperatorEnd {
    /// Says something to the operator's actor, without waiting.
    ///
    /// # Errors
    /// When it cannot be delivered; the session is over then.
    pub fn send(&self, bus: &Bus, session: SessionId, message: ToOperator) -> Result<(), EndGone> {
        match self {
            Self::Here(operator) => operator.try_send(message).map_err(|_| EndGone),
            Self::There { node, sent } => {
                let message = match message {
                    ToOperator::Deliver { message, .. } => {
                        NodeMessage::ToOperator { session, number: sent.fetch_add(1, Ordering::Relaxed), message }
                    }
                    ToOperator::Credit { bytes } => NodeMessage::CreditToOperator { session, bytes },
                    ToOperator::End { why } => NodeMessage::EndSession { session, why },
                };
                bus.send(*node, message).map_err(|_| EndGone)
            }
        }
    }
}
