//! What has happened, told to every node: nobody owns the readers of these.

use serde::{Deserialize, Serialize};
use storage::{DeviceId, UserId};
use uuid::Uuid;

/// Something that happened on one node and matters on all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// These tokens are void from now on: auth-set ids of devices, token ids of users (the `jti` claim of either).
    TokensRevoked {
        /// The `jti` of each token.
        tokens: Vec<Uuid>,
    },
    /// A device may no longer be connected: its socket is cut wherever it is.
    DeviceRefused {
        /// Whose socket.
        device: DeviceId,
        /// What its record will say.
        why: DisconnectReason,
    },
    /// A user lost all access: every token and every open session.
    UserRefused {
        /// Who.
        user: UserId,
    },
    /// There is background work that any node may take. Who does not hear it finds the work by itself, only later.
    WorkAdded,
    /// There is a new deployment. Who does not hear it finds it by itself, only later.
    DeploymentMade,
    /// A session waits for this device to come back, to whichever node. Who does not hear it lets the device in later.
    DeviceAwaited {
        /// Which.
        device: DeviceId,
    },
    /// A device may be told of something again that it went through before.
    DeviceMayHaveWork {
        /// Which.
        device: DeviceId,
    },
}

/// Why a device's connection ended: stored with it and shown to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisconnectReason {
    /// The device said goodbye with a Close frame.
    ClosedByDevice,
    /// The TCP connection ended or was reset.
    ConnectionLost,
    /// Nothing was heard within the silence limit.
    Silent,
    /// The device stopped reading: nothing could be written within the stall limit.
    Stalled,
    /// A newer connection of the same device took its place.
    Replaced,
    /// It said something that is not the protocol.
    ProtocolError,
    /// Its access was withdrawn: rejected, another key accepted, or its token revoked.
    AccessWithdrawn,
    /// It was decommissioned.
    Decommissioned,
    /// This node was shut down in good order.
    NodeShutdown,
    /// The node that held it died without a word; its lease ran out.
    NodeLost,
    /// The actor that held it ended by a fault of ours.
    HubFault,
}

impl DisconnectReason {
    /// The reason as it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClosedByDevice => "closed-by-device",
            Self::ConnectionLost => "connection-lost",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::Replaced => "replaced",
            Self::ProtocolError => "protocol-error",
            Self::AccessWithdrawn => "access-withdrawn",
            Self::Decommissioned => "decommissioned",
            Self::NodeShutdown => "node-shutdown",
            Self::NodeLost => "node-lost",
            Self::HubFault => "hub-fault",
        }
    }
}
