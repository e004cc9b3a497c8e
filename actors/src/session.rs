//! A session: one operator's use of one device, multiplexed on the device's socket by its [`SessionId`].
//!
//! Three parties, each an actor, on any threads and any nodes:
//!
//! ```text
//! operators' sockets ──ToSession──▶ host ──ToDevice──▶ the device's socket
//!                    ◀─ToAttached──      ◀─FromDevice─
//! ```
//!
//! The [`host`] is the session: it outlives the device's socket and, for clients that asked, the operator's. The device's
//! end multiplexes ([`crate::device_link`]); an operator's end stamps and paces ([`crate::operator_link`]).
//!
//! Nothing is buffered without a bound: per session and direction the sender holds a credit in bytes ([`charge`]) and does
//! not send beyond it. The receiver gives credit back when it has taken the bytes over, small sums together. Messages in
//! both directions are numbered within a [`Binding`], so that a loss between nodes is noticed and a resumption repeats
//! exactly what is missing.

pub mod attachment;
pub mod directory;
pub mod host;
pub(crate) mod left_shell;
mod link;
mod scrollback;

use std::time::Duration;

use actix::{Message, Recipient};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::{DeviceId, NodeId, SessionId, UserId};

use crate::bus::{Bus, DisconnectReason, NodeMessage};
use crate::figures::DescribeDevice;

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
    /// Bytes one forwarded connection may have on its way, each direction. Stock clients hold up to 20 frames of 4 KiB for
    /// a connection that does not take them; with more on its way one stalled connection would hold up their others.
    #[serde(with = "storage::units::size")]
    pub stream_window: usize,
    /// Connections that one session may forward at once.
    pub streams: usize,
    /// Sessions that may be open on one device at once.
    pub per_device: usize,
    /// Sessions that one user may have open on one node at once.
    pub per_user: usize,
    /// How long a terminal waits for its device to connect again. Agents take 10 to 21 s after a connection was lost.
    #[serde(with = "storage::units::duration")]
    pub device_grace: Duration,
    /// How long a terminal whose client asked for it waits for its operator after their connection was lost.
    #[serde(with = "storage::units::duration")]
    pub operator_grace: Duration,
    /// How long a terminal that was left running on purpose waits for somebody to come back to it.
    #[serde(with = "storage::units::duration")]
    pub detached_limit: Duration,
    /// Output kept of each terminal for those who come to it later; a quarter of it if nobody asked to keep the terminal.
    #[serde(with = "storage::units::size")]
    pub scrollback: usize,
    /// Whether terminals are recorded: what devices print, never what operators type.
    pub record: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            to_device_window: 128 * 1024,
            to_operator_window: 128 * 1024,
            stream_window: 96 * 1024,
            streams: 128,
            per_device: 64,
            per_user: 256,
            device_grace: Duration::from_secs(30),
            operator_grace: Duration::from_mins(5),
            detached_limit: Duration::from_hours(24),
            scrollback: 256 * 1024,
            record: true,
        }
    }
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        // The lower bound lets any message pass; the upper one keeps each within what NATS takes.
        let allowed = 16 * 1024..=768 * 1024;
        for (key, window) in [
            ("to_device_window", self.to_device_window),
            ("to_operator_window", self.to_operator_window),
            ("stream_window", self.stream_window),
        ] {
            if !allowed.contains(&window) {
                return Some(format!("{key} is {window}: expected 16 KiB to 768 KiB"));
            }
        }
        for (key, limit) in [("per_device", self.per_device), ("per_user", self.per_user), ("streams", self.streams)] {
            if limit == 0 {
                return Some(format!("{key} is 0: expected at least 1"));
            }
        }
        (self.scrollback > 16 * 1024 * 1024)
            .then(|| format!("scrollback is {}: expected at most 16 MiB", self.scrollback))
    }
}

/// What a queued message costs beside its bytes: its place in a queue and the allocator's share. Without it a flood of tiny
/// messages would pass a limit in bytes many times over.
pub const MESSAGE_OVERHEAD: usize = 256;

/// Mailbox places of the actors of a session. Credits keep mailboxes far below this; reaching it is a fault, and is counted.
pub const SOCKET_MAILBOX: usize = 64 * 1024;

/// Credit beyond the window that a terminal's own small messages (`new`, `ping`, `stop`) may use when output has used up
/// the rest.
pub const SIGNAL_RESERVE: usize = 8 * 1024;

/// Credit for a terminal's output is given when more than this is due: the echo of a key is small, and a word about each
/// would be a quarter of what two nodes say to one another about it. The device's end may send as much beyond the window.
pub(crate) const LEAST_CREDIT: usize = 4 * 1024;

/// The credit that a message of `len` bytes takes.
pub const fn charge(len: usize) -> usize {
    len + MESSAGE_OVERHEAD
}

/// Which of a session's bindings to a connection of its device a message belongs to. Grows with each; a newer one fences
/// off all older.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Binding(pub u32);

impl Binding {
    /// That of a session which is never bound anew.
    pub const ONLY: Self = Self(1);

    /// The first binding of a host that took a session over for the `generation`th time: newer than any before.
    pub fn of_generation(generation: u32) -> Self {
        Self(generation << 16)
    }

    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// Said to a device's actor.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToDevice {
    /// By a session's host.
    Session {
        /// Which session.
        session: SessionId,
        /// Which of its bindings.
        binding: Binding,
        /// What.
        says: HostSays,
    },
    /// The node of a session's host died.
    HostLost {
        /// Which session.
        session: SessionId,
    },
    /// A newer connection of the same device has taken over, or access was withdrawn: close.
    Close {
        /// Why.
        why: DisconnectReason,
    },
    /// Say what flows.
    Describe(DescribeDevice),
    /// Die by a panic. Nothing outside this process can send it; tests of the supervision do.
    Crash,
}

/// Said by a session's host to its device's end.
pub enum HostSays {
    /// The session begins, or goes on, on this connection.
    Open(Open<HostEnd>),
    /// The operator said something, already stamped for the device.
    Deliver {
        /// Its number within the binding, from 0.
        number: u32,
        /// What the device gets.
        message: Bytes,
    },
    /// That many bytes of the device's have been taken over.
    Credit {
        /// As counted by [`charge`].
        bytes: usize,
    },
    /// The session is over.
    HangUp,
}

/// How a session begins or goes on.
#[derive(Debug, Clone)]
pub struct Open<E> {
    /// Whose it is.
    pub user: UserId,
    /// Whether it outlives its host's node.
    pub kept: bool,
    /// What went before, unless it is new.
    pub resume: Option<Resume>,
    /// Where its host is.
    pub host: E,
}

/// What a session brings along to another connection of its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Whether a shell runs.
    pub shell: bool,
    /// Bytes of terminal output so far.
    pub output: u64,
    /// Bytes of keystrokes that left for the device; the others follow.
    pub input: u64,
    /// The binding before this one and how many messages its host received in it, if it is the same host.
    pub received: Option<(Binding, u32)>,
}

/// Said to a session's host by its device's end.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromDevice {
    /// In which binding.
    pub binding: Binding,
    /// What.
    pub says: DeviceSays,
}

/// What a device's end of a session says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceSays {
    /// The device said something.
    Deliver {
        /// Its number within the binding, from 0.
        number: u32,
        /// What the operator gets.
        message: Bytes,
    },
    /// That many bytes have left for the device.
    Credit {
        /// As counted by [`charge`].
        bytes: usize,
    },
    /// The answer to [`HostSays::Open`] that resumed: what the host has not received follows.
    Resumed(Resumed),
    /// The session is over at this end.
    End {
        /// Why.
        why: SessionEnd,
    },
}

/// Where a resumed session stands at its device's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// How many bytes of terminal output came before what follows.
    pub output: u64,
    /// Bytes of keystrokes accepted so far.
    pub input: u64,
    /// Messages of the binding before this one that were accepted; `None` if this is another connection of the device.
    pub accepted: Option<u32>,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionEnd {
    /// The operator ended it, or their connection did.
    OperatorLeft,
    /// The shell ended by itself.
    ShellEnded,
    /// The device's connection ended and did not come back in time.
    DeviceGone(DisconnectReason),
    /// The operator did not come back in time.
    OperatorGone,
    /// The device offers more than the operator takes, in a protocol in which nothing may be skipped.
    OperatorTooSlow,
    /// Messages between the nodes of the two ends were lost.
    LinkLost,
    /// The device has as many sessions as are allowed.
    TooManySessions,
    /// The operator's access was withdrawn.
    AccessWithdrawn,
    /// It goes on at another node.
    Moved,
    /// The node of the session is shutting down.
    NodeShutdown,
    /// The actor of the session ended by a fault of ours.
    HubFault,
}

impl SessionEnd {
    /// What the operator reads.
    pub const fn text(self) -> &'static str {
        match self {
            Self::OperatorLeft => "user disconnected",
            Self::ShellEnded => "the shell has ended",
            Self::DeviceGone(_) => "device disconnected",
            Self::OperatorGone => "session ended: nobody came back to it in time",
            Self::OperatorTooSlow => "session ended: this end reads more slowly than the device sends",
            Self::LinkLost => "session ended: the link between two hub nodes was lost",
            Self::TooManySessions => "the device has too many open sessions",
            Self::AccessWithdrawn => "session ended: access was withdrawn",
            Self::Moved => "the session goes on at another hub node",
            Self::NodeShutdown => "session ended: the hub is restarting",
            Self::HubFault => "session ended: internal error",
        }
    }

    /// The reason as it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OperatorLeft => "operator-left",
            Self::ShellEnded => "shell-ended",
            Self::DeviceGone(_) => "device-gone",
            Self::OperatorGone => "operator-gone",
            Self::OperatorTooSlow => "operator-too-slow",
            Self::LinkLost => "link-lost",
            Self::TooManySessions => "too-many-sessions",
            Self::AccessWithdrawn => "access-withdrawn",
            Self::Moved => "moved",
            Self::NodeShutdown => "node-shutdown",
            Self::HubFault => "hub-fault",
        }
    }
}

/// The device's end of a session, as its host holds it.
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
    },
}

/// A session's host, as the device's actor holds it.
#[derive(Clone)]
pub enum HostEnd {
    /// On this node.
    Here(Recipient<FromDevice>),
    /// On another.
    There(NodeId),
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

    /// The node, if it is another.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Here(_) => None,
            Self::There { node, .. } => Some(*node),
        }
    }

    /// Says something to the device's actor, without waiting.
    ///
    /// # Errors
    /// When it cannot be delivered.
    pub fn send(&self, bus: &Bus, session: SessionId, binding: Binding, says: HostSays) -> Result<(), EndGone> {
        match self {
            Self::Here(device) => device.try_send(ToDevice::Session { session, binding, says }).map_err(|_| EndGone),
            Self::There { node, device } => {
                let (device, from) = (*device, bus.node());
                let message = match says {
                    HostSays::Open(Open { user, kept, resume, .. }) => {
                        NodeMessage::OpenSession { session, device, from, binding, user, kept, resume }
                    }
                    HostSays::Deliver { number, message } => {
                        NodeMessage::ToDevice { session, device, from, binding, number, message }
                    }
                    HostSays::Credit { bytes } => NodeMessage::CreditToDevice { session, device, binding, bytes },
                    HostSays::HangUp => NodeMessage::HangUp { session, device, binding },
                };
                bus.send(*node, message).map_err(|_| EndGone)
            }
        }
    }
}

impl HostEnd {
    /// Says something to the session's host, without waiting.
    ///
    /// # Errors
    /// When it cannot be delivered.
    pub fn send(&self, bus: &Bus, session: SessionId, binding: Binding, says: DeviceSays) -> Result<(), EndGone> {
        match self {
            Self::Here(host) => host.try_send(FromDevice { binding, says }).map_err(|_| EndGone),
            Self::There(node) => {
                bus.send(*node, NodeMessage::FromDevice { session, binding, says }).map_err(|_| EndGone)
            }
        }
    }
}
