//! How much can a hub carry, and does it behave while it does?
//!
//! Everything here speaks to a hub from the outside, over HTTP and WebSocket, as devices and operators do; nothing of
//! the hub's own code is used. A [`SimulatedDevice`] behaves like the real agent where the hub can tell the difference.
//!
//! ```text
//! scenarios ──▶ fleet ──▶ device ──▶ admission, update_client   asks to join, sends inventory, polls for updates
//!     │                      ├────▶ connection                 one websocket: pings, deadlines, messages in and out
//!     │                      └────▶ agent                      what is behind it, and survives it
//!     │                               ├──▶ terminals           shells: echo in memory or a real PTY
//!     │                               └──▶ sessions            file transfers, port forwards, commands
//!     └──▶ operator                                            logs in, admits devices, opens terminals
//! ```

pub mod message;

pub mod device_key;

pub mod server;

pub mod admission;

mod handover;

pub mod update_client;

pub mod sessions;

pub mod terminals;

pub mod agent;

pub mod connection;

pub mod device;

pub mod operator;

pub mod fleet;

pub mod process;

pub mod report;

pub mod scenarios;

pub use connection::Leave;
pub use device::{DeviceHandle, DeviceSettings, Progress, SimulatedDevice};
pub use device_key::DeviceKey;
pub use server::Server;
pub use sessions::{FileService, Services};
pub use terminals::{PtyCommand, Shell};

/// Makes aws-lc the process's provider of TLS; without one, every client of a hub behind TLS would panic.
///
/// May be called any number of times: the first call wins.
pub fn install_tls_provider() {
    // An error means that a provider is already there, which is what we want.
    let _already_there = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
