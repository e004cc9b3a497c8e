//! How much can a hub carry, and does it behave while it does?
//!
//! Everything here speaks to a hub from the outside, over HTTP and WebSocket, as devices and operators do; nothing of
//! the hub's own code is used. A [`SimulatedDevice`] behaves like the real agent where the hub can tell the difference.
//!
//! ```text
//! scenarios ──▶ fleet ──▶ device ──▶ admission    asks to join, sends inventory, polls for updates
//!     │                      │  └──▶ connection   one websocket: pings, deadlines, messages in and out
//!     │                      └─────▶ terminals    the shells behind it: echo in memory or a real PTY
//!     └──▶ operator                               logs in, admits devices, opens terminals
//! ```

pub mod message;

pub mod device_key;

pub mod server;

pub mod admission;

pub mod terminals;

pub mod connection;

pub mod device;

pub mod operator;

pub mod fleet;

pub mod process;

pub mod report;

pub mod scenarios;

pub use device::{DeviceHandle, DeviceSettings, Progress, SimulatedDevice};
pub use device_key::DeviceKey;
pub use server::Server;
pub use terminals::{PtyCommand, Shell};

/// Makes aws-lc the process's provider of TLS; without one, every client of a hub behind TLS would panic.
///
/// May be called any number of times: the first call wins.
pub fn install_tls_provider() {
    // An error means that a provider is already there, which is what we want.
    let _already_there = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
