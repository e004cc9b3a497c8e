//! Does the whole thing work for a real client? One module per story; `CONFORMANCE.md` says which statement of the wire
//! protocol each test shows.

#![expect(clippy::unwrap_used, reason = "a test that is surprised has failed")]

mod alert_rules;
mod artifact_making;
mod artifacts;
mod audit_log;
mod backend_outages;
mod config_deployments;
mod conformance;
mod connection_history;
mod crashes;
mod deployments;
mod device_admission;
mod device_config;
mod device_list;
mod device_lists;
mod device_search;
mod device_tokens;
mod failures;
mod file_transfer;
mod first_minute;
mod gateway;
mod groups;
mod internal_api;
mod internal_auth;
mod inventory;
mod inventory_internal;
mod live_events;
mod load_test;
mod many_operators;
mod monitoring;
mod newest_clients;
mod notifications;
mod operator_commands;
mod paste;
mod personal_tokens;
mod port_forward;
mod real_clients;
mod recordings;
mod releases;
mod remote_terminal;
mod reporting;
mod rolling_restart;
mod session_survival;
mod sessions;
mod sharing;
mod sockets;
mod stalled_peers;
mod structure;
mod tags;
mod triggers;
mod two_nodes;
mod user_administration;
mod users;
mod wrong_input;
