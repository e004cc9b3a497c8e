//! What an operator's socket and the session it takes part in say to each other.
//!
//! A session has one writer at most, and any number of watchers up to a limit. Clients of the Mender API know nothing of
//! this: their socket opens a session and is its writer.

use actix::{Message, Recipient};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::{AttachmentId, NodeId, SessionId, UserId};

use super::{EndGone, SessionEnd};
use crate::bus::{Bus, NodeMessage};

/// Operators' sockets that may take part in one session.
pub const ATTACHMENTS_LIMIT: usize = 16;

/// Whether somebody types or watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// What they type goes to the device.
    Writer,
    /// They see what the writer sees.
    Watcher,
}

impl Role {
    /// The role as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Watcher => "watcher",
        }
    }
}

/// As what somebody wants to take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As the writer, if there is no other.
    Write,
    /// As a watcher.
    Watch,
    /// As the writer; whoever is it becomes a watcher.
    TakeOver,
}

/// What the socket's client understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Client {
    /// The Mender API and no more.
    Stock,
    /// The messages of [`crate::message::proto::MOORING`] too.
    Ours {
        /// Bytes of output it has already; without it, it gets all that is kept.
        from: Option<u64>,
        /// Its former attachment, whose socket was lost.
        replaces: Option<AttachmentId>,
        /// Whether the session is to outlive this socket.
        keep: bool,
    },
}

/// Somebody's wish to take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The new attachment.
    pub attachment: AttachmentId,
    /// Whose.
    pub user: UserId,
    /// As what.
    pub mode: Mode,
    /// What it understands.
    pub client: Client,
}

/// Said to a session's host by an operator's socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachedSays {
    /// It wants to take part.
    Join(Join),
    /// The operator said something, stamped for the device.
    Deliver {
        /// Its number within the attachment, from 0.
        number: u32,
        /// What.
        message: Bytes,
    },
    /// The operator's socket has taken that many bytes.
    Took {
        /// As counted by [`super::charge`].
        bytes: usize,
    },
    /// The client has all output up to there.
    Seen {
        /// Bytes since the session began.
        output: u64,
    },
    /// It takes part no longer.
    Leave(Leave),
}

/// How an operator left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leave {
    /// Their socket ended.
    Lost,
    /// They said that the session is to go on without them.
    Detached,
    /// Their access was withdrawn.
    Refused,
}

/// Said to a session's host on this node.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToSession {
    /// By an attachment.
    Attached {
        /// Which.
        attachment: AttachmentId,
        /// Where it is; for [`AttachedSays::Join`] only.
        end: Option<AttachedEnd>,
        /// What.
        says: AttachedSays,
    },
    /// Its device has connected to this node.
    DeviceIsHere,
    /// A node died that may hold attachments or the device.
    NodeLost(NodeId),
    /// What was said between nodes may be missing.
    LinkLost,
    /// Hand the session over to another node, which asked for it; this node is stopping.
    HandOver(tokio::sync::oneshot::Sender<super::host::HandedOver>),
    /// End it.
    End {
        /// Why.
        why: SessionEnd,
    },
}

/// Said to an operator's socket by a session's host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Message)]
#[rtype(result = "()")]
pub enum ToAttached {
    /// Something for the operator.
    Deliver {
        /// Its number within the attachment, from 0.
        number: u32,
        /// What.
        message: Bytes,
    },
    /// That many bytes have left for the device.
    Credit {
        /// As counted by [`super::charge`].
        bytes: usize,
    },
    /// It is over for this attachment.
    End {
        /// Why.
        why: SessionEnd,
    },
    /// It may not take part.
    Refused(JoinRefused),
    /// It has left, as it asked to, and its place is free.
    Left,
}

/// Why somebody may not take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefused {
    /// Somebody else types.
    #[error("the session is in use by {user}: watch it, or take it over")]
    InUse {
        /// Who.
        user: UserId,
    },
    /// As many take part as may.
    #[error("too many take part in this session")]
    Full,
}

/// A session's host, as an operator's socket holds it.
#[derive(Clone)]
pub enum SessionSide {
    /// On this node.
    Here(Recipient<ToSession>),
    /// On another.
    There(NodeId),
}

/// An operator's socket, as a session's host holds it.
#[derive(Clone)]
pub enum AttachedEnd {
    /// On this node.
    Here(Recipient<ToAttached>),
    /// On another.
    There(NodeId),
}

impl SessionSide {
    /// Whether the host on this node is gone; of another node it is not known.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Here(host) if !host.connected())
    }

    /// The node, if it is another.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Here(_) => None,
            Self::There(node) => Some(*node),
        }
    }

    /// Says something to the host, without waiting. `end` goes with a [`AttachedSays::Join`].
    ///
    /// # Errors
    /// When it cannot be delivered.
    pub fn send(
        &self,
        bus: &Bus,
        session: SessionId,
        attachment: AttachmentId,
        says: AttachedSays,
        end: Option<Recipient<ToAttached>>,
    ) -> Result<(), EndGone> {
        match self {
            Self::Here(host) => host
                .try_send(ToSession::Attached { attachment, end: end.map(AttachedEnd::Here), says })
                .map_err(|_| EndGone),
            Self::There(node) => {
                let message = NodeMessage::FromAttached { session, attachment, from: bus.node(), says };
                bus.send(*node, message).map_err(|_| EndGone)
            }
        }
    }
}

impl AttachedEnd {
    /// The node, if it is another.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Here(_) => None,
            Self::There(node) => Some(*node),
        }
    }

    /// Says something to the socket, without waiting.
    ///
    /// # Errors
    /// When it cannot be delivered.
    pub fn send(&self, bus: &Bus, attachment: AttachmentId, says: ToAttached) -> Result<(), EndGone> {
        match self {
            Self::Here(socket) => socket.try_send(says).map_err(|_| EndGone),
            Self::There(node) => bus.send(*node, NodeMessage::ToAttached { attachment, says }).map_err(|_| EndGone),
        }
    }
}
