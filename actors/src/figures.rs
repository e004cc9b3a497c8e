//! What flows through a device's connection and its sessions: figures for operators.

use serde::{Deserialize, Serialize};
use storage::{SessionId, UserId};
use tokio::sync::oneshot;

/// The question for a device's actor.
pub struct DescribeDevice(pub oneshot::Sender<DeviceFigures>);

/// One device's connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFigures {
    /// Bytes received from the device, frames included.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Round trip of the last ping, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Bytes that wait to be written to its socket.
    pub unwritten: usize,
    /// Its sessions.
    pub sessions: Vec<SessionFigures>,
}

/// One session, as its device's end sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFigures {
    /// Which.
    pub session: SessionId,
    /// Whose.
    pub user: UserId,
    /// Messages and their bytes from the device.
    pub from_device: Traffic,
    /// Messages and their bytes to the device.
    pub to_device: Traffic,
    /// Times the device had more than the session's credit.
    pub stalls: u64,
    /// Messages that wait for the device's socket.
    pub queued: usize,
    /// Bytes on their way to the operator, as credit counts them.
    pub in_flight: usize,
    /// Connections forwarded.
    pub streams: usize,
}

/// Messages and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// How many messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Traffic {
    /// Counts a message.
    pub fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}
