//! The promises, one file for each area. `main.rs` says which backends keep them.

pub mod artifacts;
pub mod connections;
pub mod devices;
pub mod events;
pub mod inventory;
pub mod objects;
pub mod opening;
pub mod outages;
pub mod presence;
pub mod sessions;
pub mod uploads;
pub mod users;
pub mod wiping;
