//! What is happening in a Mooring hub, and what should happen next.
//!
//! Two halves. What **decides** is pure: state and input in, effects out, no clock and no I/O
//! ([`message`], [`device_link`], [`operator_link`], the decisions of [`admission`]). What **acts**
//! owns sockets, timers and addresses and decides nothing.
//!
//! ```text
//! Tree (tree.rs): every long-lived actor, in start order, each under a guard (supervisor.rs)
//! ├─ StatusWriter   who is connected, written to the database in batches
//! ├─ Leases         this node's lease and its devices' routes, renewed in bulk
//! ├─ Switchboard    what other nodes say to this one: sessions, credit, displacement, revocations
//! └─ Housekeeping   expired tokens, old connections
//!
//! outside the tree, never restarted:
//! ├─ one actor per connected device    (its socket; holds a DeviceLink)
//! └─ one actor per operator's socket   (holds an OperatorLink)
//! ```
//!
//! | start here | for |
//! |---|---|
//! | [`credentials`], [`gate`], [`admission`], [`accounts`] | who may come in |
//! | [`message`] | what is on the wire, read without decoding it |
//! | [`device_link`], [`operator_link`] | what a connection does next |
//! | [`registry`], [`reach`] | who is connected, here and elsewhere |
//! | [`bus`], [`switchboard`] | how nodes talk |
//! | [`supervisor`], [`tree`] | what restarts what |

pub mod config;
pub mod credentials;
pub mod gate;

pub mod accounts;
pub mod admission;

pub mod message;

pub mod device_link;
pub mod operator_link;
pub mod session;

pub mod reach;
pub mod registry;

pub mod bus;
pub mod switchboard;

pub mod housekeeping;
pub mod leases;
pub mod metrics;
pub mod status_writer;
pub mod supervisor;
pub mod tree;

pub use config::Config;
