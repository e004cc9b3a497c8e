//! The promises, one file for each area. `main.rs` says which backends keep them.

pub mod alert_rules;
pub mod alerts;
pub mod artifact_stores;
pub mod artifacts;
pub mod audit;
pub mod channels;
pub mod connections;
pub mod deployment_parts;
pub mod deployments;
pub mod device_configs;
pub mod devices;
pub mod events;
pub mod grouping;
pub mod inventory;
pub mod jobs;
pub mod objects;
pub mod opening;
pub mod outages;
pub mod presence;
pub mod rollout_phases;
pub mod search;
pub mod sessions;
pub mod uploads;
pub mod users;
pub mod wiping;
