//! What is happening in a Mooring hub, and what should happen next.
//!
//! Two halves. What **decides** is pure: state and input in, effects out, no clock and no I/O
//! ([`message`], [`device_link`], [`operator_link`], the decisions of [`admission`]). What **acts**
//! owns sockets, timers and addresses and decides nothing.
//!
//! ```text
//! Tree (tree.rs): every long-lived actor, in start order, each under a guard (supervisor.rs)
//! ├─ StatusWriter   who is connected and which sessions there are, written to the database in batches, with their events
//! ├─ InventoryWriter  what devices say about themselves, many reports in one transaction
//! ├─ EventReader    new events of all nodes, for those who listen on this one
//! ├─ Leases         this node's lease and its devices' routes, renewed in bulk
//! ├─ Switchboard    what other nodes say to this one: sessions, credit, displacement, revocations
//! ├─ DeadNodes      what nodes that died have left open
//! ├─ AlertWriter    what devices' monitoring reports, written in batches with all that follows
//! ├─ RuleWatcher    rules by which the hub raises alerts itself
//! ├─ RolloutWatcher  which devices have something to install, kept in memory
//! ├─ WakeUpCaller   devices that are told of something to install, a few at a time
//! ├─ JobRunner      durable background work, taken in turns with the other nodes
//! └─ Housekeeping   what has run out: tokens, events, connections and sessions of long ago
//!
//! outside the tree, never restarted:
//! ├─ one actor per connected device    (its socket; holds a DeviceLink)
//! ├─ one actor per session             (SessionHost; outlives the sockets at its ends)
//! ├─ one actor per operator's socket   (holds an OperatorLink)
//! └─ one task per file transfer        (holds a Download or an Upload)
//! ```
//!
//! | start here | for |
//! |---|---|
//! | [`credentials`], [`gate`], [`admission`], [`accounts`] | who may come in |
//! | [`concurrency_limit`] | how many may be on their way in at once, in a storm of them |
//! | [`message`] | what is on the wire, read without decoding it |
//! | [`session`], [`device_link`], [`operator_link`] | what a session and the connections at its ends do next |
//! | [`recording`] | what a session showed, kept and played back |
//! | [`file_transfer`] | files to and from devices |
//! | [`artifacts`] | artifacts, the releases they make up, and how they get in and out |
//! | [`device_configs`] | how devices are brought what they are told to be |
//! | [`artifact_file`] | what an update is shipped in: read, checked, written |
//! | [`rollout`] | deployments: what devices have to do next, and how far they are |
//! | [`registry`], [`reach`] | who is connected, here and elsewhere |
//! | [`events`], [`status_writer`] | what is written down about connections and sessions, and who is told |
//! | [`monitor`], [`notifications`] | alerts, and who is told of them |
//! | [`alert_rules`], [`audit`] | alerts of the hub's own, and what is written down about sessions |
//! | [`jobs`] | background work that is done at least once |
//! | [`trigger`], [`wake_up`] | commands to devices' update clients, and the pace of those that bring work |
//! | [`bus`], [`switchboard`] | how nodes talk |
//! | [`supervisor`], [`tree`] | what restarts what |

pub mod config;
pub mod credentials;
pub mod gate;

pub mod accounts;
pub mod admission;
pub mod concurrency_limit;

pub mod message;

pub mod device_link;
pub mod figures;
pub mod operator_link;
pub mod output_gate;
pub mod session;

pub mod artifact_file;
pub mod artifacts;
pub mod device_configs;
pub mod file_transfer;
pub mod recording;

pub mod reach;
pub mod registry;
pub mod rollout;
pub mod trigger;
pub mod wake_up;

pub mod bus;
pub mod switchboard;

pub mod alert_rules;
pub mod audit;
pub mod dead_nodes;
pub mod events;
pub mod housekeeping;
pub mod inventory_writer;
pub mod jobs;
pub mod leases;
pub mod metrics;
pub mod monitor;
pub mod notifications;
pub mod status_writer;
pub mod supervisor;
pub mod tree;

pub use config::Config;
