//! Files to and from devices, with the hub as the device's peer.
//!
//! Two halves, as everywhere: [`Download`] and [`Upload`] say what a transfer does next and are pure; [`Transfers`] holds
//! the session on the device, the deadlines and the bounded way to the HTTP body. A transfer lives as long as its request:
//! when either dies, the device is told `close`, and whoever asked sees a transfer that broke off. Rows
//! `deviceconnect-33` to `deviceconnect-40`.
//!
//! Nothing is buffered without a bound. Downloads are acknowledged when the client has taken them, so that a slow client
//! stops the device after one window; uploads are read from the client only while the device's window is open.

mod dialogue;
mod download;
mod peer;
mod run;
mod upload;
mod wire;

use std::time::Duration;

pub use download::Download;
pub use peer::Whom;
pub use run::{BrokenOff, Contents, Found, Transfers, UploadError};
use serde::{Deserialize, Serialize};
pub use upload::{Target, Upload};
pub use wire::FileInfo;

use crate::reach::Unreachable;
use crate::session::SessionEnd;

/// Bytes of a file in one message: the size every peer uses.
pub const CHUNK: usize = 4096;

/// Bytes that may be on their way without an acknowledgement.
pub const WINDOW: i64 = 20 * 4096;

/// A download is acknowledged after this many chunks.
pub const ACK_EVERY: usize = 10;

/// Bytes of a path that goes to a device: what its operating system takes.
pub const PATH_LIMIT: usize = 4096;

/// Limits of file transfers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a device, or whoever sends a file, may do nothing before a transfer is given up.
    #[serde(with = "storage::units::duration")]
    pub deadline: Duration,
    /// Largest body of an upload.
    #[serde(with = "storage::units::size")]
    pub upload_limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { deadline: Duration::from_mins(1), upload_limit: 1024 * 1024 * 1024 }
    }
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        if self.deadline.is_zero() {
            return Some("deadline is 0: expected a duration such as \"1m\"".to_owned());
        }
        if self.upload_limit == 0 {
            return Some("upload_limit is 0: expected a size such as \"1 GiB\"".to_owned());
        }
        None
    }
}

/// What a device says when it refuses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceError {
    /// Its words, cut to a length that fits an answer.
    pub text: String,
    /// Its code, if that has a meaning in HTTP (400 to 599).
    pub code: Option<u16>,
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Why a transfer failed. The texts are what clients read.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The device cannot be reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The user has as many sessions as are allowed.
    #[error("too many open sessions")]
    TooManySessions,
    /// The device refused the handshake.
    #[error("handshake error from client: {0}")]
    Handshake(DeviceError),
    /// The device's configuration allows no file transfer.
    #[error("file transfer disabled on device")]
    Disabled,
    /// The device's agent does not know the protocol.
    #[error("file transfer not implemented on device")]
    NotImplemented,
    /// The device said nothing for too long.
    #[error("file transfer timed out")]
    TimedOut,
    /// The device cannot look at the file.
    #[error("failed to retrieve file info: error received from device: {0}")]
    StatRefused(DeviceError),
    /// A directory, a pipe, a device.
    #[error("path is not a regular file")]
    NotRegular,
    /// The device does not send the file, or stopped sending it.
    #[error("error received from device: {0}")]
    GetRefused(DeviceError),
    /// The device does not take the file.
    #[error("{0}")]
    PutRefused(DeviceError),
    /// The device does not keep to the protocol.
    #[error("the device broke the protocol: {0}")]
    OutOfStep(&'static str),
    /// The device closed the session.
    #[error("the device closed the session")]
    ClosedByDevice,
    /// Whoever asked for the file is gone.
    #[error("the client is gone")]
    ClientGone,
    /// The session was ended by the hub.
    #[error("{}", .0.text())]
    Ended(SessionEnd),
}
