//! Does the whole thing work for a real client? One module per story; `CONFORMANCE.md` says which statement of the wire
//! protocol each test shows.

#![expect(clippy::unwrap_used, reason = "a test that is surprised has failed")]

mod conformance;
mod device_admission;
mod device_tokens;
mod failures;
mod first_minute;
mod gateway;
mod inventory;
mod operator_commands;
mod real_clients;
mod remote_terminal;
mod sessions;
mod sockets;
mod stalled_peers;
mod structure;
mod two_nodes;
mod users;
mod wrong_input;
