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
//!     ├──▶ crew ─ ─ ▶ part ──▶ fleet                           a fleet in several processes
//!     ├──▶ operator ──▶ event_feed, typing, forwarding         logs in, admits devices, listens, types, forwards ports
//!     ├──▶ roster, schedule, traffic ──▶ line                  requests of many devices, at a rate or at saturation
//!     ├──▶ deployments, artifact, updating                     updates, as operators make them and devices install them
//!     ├──▶ comparison ─ ─ ▶ floor                              the least that a server has to do, in the same run
//!     └──▶ latency, live, report                               what it took: while it runs, for people, for programs
//! ```

pub mod message;

pub mod device_key;

pub mod wire;

pub mod server;

pub mod admission;

mod handover;

pub mod update_client;

pub mod sessions;

pub mod terminals;

pub mod agent;

pub mod connection;

pub mod device;

pub mod event_feed;

pub mod operator;

pub mod artifact;

pub mod deployments;

pub mod typing;

pub mod forwarding;

pub mod slow_line;

pub mod updating;

pub mod fleet;

pub mod part;

pub mod crew;

pub mod roster;

pub mod schedule;

pub mod line;

pub mod line_pool;

pub mod traffic;

pub mod process;

pub mod slope;

pub mod latency;

pub mod live;

pub mod comparison;

pub mod bench_row;

pub mod plain_device;

pub mod floor;

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
