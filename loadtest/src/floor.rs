//! The least that a server has to do for the same work: what a hub is measured against.
//!
//! Each floor does one thing of a hub's and nothing else, with the same crates where there is a choice. A ratio to it tells
//! what a hub costs beyond what nobody can save.

pub mod http;

pub mod relay;

pub mod websocket;
