//! Does the whole thing work for a real client? One module per story; `CONFORMANCE.md` says which statement of the wire
//! protocol each test shows.

#![expect(clippy::unwrap_used, reason = "a test that is surprised has failed")]

mod artifact_making;
mod artifacts;
mod backend_outages;
mod conformance;
mod connection_history;
mod device_admission;
mod device_tokens;
mod failures;
mod file_transfer;
mod first_minute;
mod gateway;
mod internal_api;
mod inventory;
mod live_events;
mod many_operators;
mod operator_commands;
mod paste;
mod port_forward;
mod real_clients;
mod recordings;
mod releases;
mod remote_terminal;
mod rolling_restart;
mod session_survival;
mod sessions;
mod sharing;
mod sockets;
mod stalled_peers;
mod structure;
mod triggers;
mod two_nodes;
mod users;
mod wrong_input;
