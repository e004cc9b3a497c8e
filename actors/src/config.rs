//! Settings of this crate: the `[actors]` section.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::SecretUrl;
use storage::units;

use crate::{artifacts, concurrency_limit, file_transfer, jobs, notifications, session};

/// Who may come in and for how long, and how nodes find each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a device's token is valid. Devices fetch another one by themselves.
    #[serde(with = "units::duration")]
    pub device_token_lifetime: Duration,
    /// How long a login lasts, unless it was asked to last for ever.
    #[serde(with = "units::duration")]
    pub user_token_lifetime: Duration,
    /// `iss` of device tokens; tokens of any other issuer are refused.
    pub device_issuer: String,
    /// `iss` of user tokens; tokens of any other issuer are refused.
    pub user_issuer: String,
    /// Private key (PEM: RSA as PKCS#1 or PKCS#8, Ed25519 as PKCS#8) for device tokens. Without it the hub makes one.
    pub device_key_file: Option<PathBuf>,
    /// A former key whose device tokens are still accepted.
    pub device_fallback_key_file: Option<PathBuf>,
    /// Private key for user tokens. A name like `private.id.7.pem` makes 7 its id, and files beside it that are named so
    /// are accepted under their ids. Without it the hub makes a key.
    pub user_key_file: Option<PathBuf>,
    /// A former key whose user tokens are still accepted.
    pub user_fallback_key_file: Option<PathBuf>,
    /// Logins of one user that live at the same time; the oldest end. 0: any number.
    pub sessions_per_user: u32,
    /// Personal access tokens of one user; further ones are refused. 0: any number.
    pub personal_tokens_per_user: u32,
    /// The longest that a personal access token may be asked to last. One without an end may be had in any case.
    #[serde(with = "units::duration")]
    pub personal_token_lifetime_limit: Duration,
    /// How often it is noted, at most, that a personal access token was used.
    #[serde(with = "units::duration")]
    pub personal_token_use_noted_every: Duration,
    /// Devices that may be accepted at once; without it, any number. Lowering it takes nothing from anyone.
    pub max_devices: Option<u64>,
    /// Devices that may wait for a decision; further unknown ones are turned away.
    pub pending_devices_limit: u64,
    /// Undecided keys that one device may have.
    pub pending_sets_per_device: usize,
    /// Smallest RSA key a device may use. Below 1024 none is accepted whatever this says; 2048 is wise where the fleet
    /// allows it.
    pub minimum_rsa_bits: usize,
    /// Whether accepting one key of a device also rejects its preauthorized keys. If not, whoever holds such a key can
    /// still take the device's place later without a user being asked.
    pub reject_preauthorized_on_accept: bool,
    /// Verified device tokens kept in memory, about 120 bytes each.
    pub verified_tokens_limit: usize,
    /// For how long a node's devices count as connected after it was last heard of.
    #[serde(with = "units::duration")]
    pub lease: Duration,
    /// How long a device may take to reply to a command (check for an update, send the inventory) before the command counts
    /// as not answered. Nobody waits for it.
    #[serde(with = "units::duration")]
    pub trigger_reply_limit: Duration,
    /// Connected devices that one node tells each second that there is something to install. They fetch it at once, so this
    /// is how fast the object store is asked. 0: none is told; devices find it when they ask by themselves.
    pub wake_ups_per_second: u32,
    /// NATS server that connects several nodes. Without it there is one node.
    pub nats_url: Option<SecretUrl>,
    /// First word of all subjects; hubs with different ones do not hear one another.
    pub nats_prefix: String,
    /// Credits and limits of sessions between operators and devices.
    pub sessions: session::Config,
    /// Limits of file transfers.
    pub file_transfer: file_transfer::Config,
    /// Limits of artifacts, who may sign them, links to them.
    pub artifacts: artifacts::Config,
    /// How long is remembered what happened.
    pub retention: Retention,
    /// Who may listen to events.
    pub events: EventStreams,
    /// How many devices may be on their way in at once: those that connect, and those that ask for a token.
    pub arrivals: concurrency_limit::Config,
    /// Bytes of alerts that may wait on this node to be written; what is more is sent back for later.
    #[serde(with = "units::size")]
    pub alerts_waiting_limit: usize,
    /// Whether reports of attributes that come at the same time share a transaction. Otherwise each has its own, as a
    /// measure of what sharing is worth.
    pub gather_reports: bool,
    /// How often rules of alerts are looked at.
    #[serde(with = "units::duration")]
    pub alert_rules_period: Duration,
    /// How background work is done.
    pub jobs: jobs::Config,
    /// How alerts are sent to people and programs.
    pub notifications: notifications::Config,
}

/// How long is remembered what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Events: a client that was away for longer is told that it missed some.
    #[serde(with = "units::duration")]
    pub events: Duration,
    /// Past connections of devices.
    #[serde(with = "units::duration")]
    pub connections: Duration,
    /// Past connections of one device; the oldest go first.
    pub connections_per_device: u32,
    /// Sessions that have ended, and with them their recordings.
    #[serde(with = "units::duration")]
    pub sessions: Duration,
    /// Background work that was done.
    #[serde(with = "units::duration")]
    pub jobs: Duration,
    /// Background work that was given up or called off.
    #[serde(with = "units::duration")]
    pub dead_jobs: Duration,
    /// Alerts, but for the latest of what is still in trouble.
    #[serde(with = "units::duration")]
    pub alerts: Duration,
    /// Who changed what.
    #[serde(with = "units::duration")]
    pub audit: Duration,
}

/// Who may listen to events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventStreams {
    /// Streams that one user may have open on one node.
    pub per_user: usize,
    /// Streams on one node, of all users.
    pub per_node: usize,
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        if let Some(fault) = self.sessions.fault() {
            return Some(format!("sessions.{fault}"));
        }
        if let Some(fault) = self.arrivals.fault() {
            return Some(format!("arrivals.{fault}"));
        }
        if let Some(fault) = self.file_transfer.fault() {
            return Some(format!("file_transfer.{fault}"));
        }
        if let Some(fault) = self.artifacts.fault() {
            return Some(format!("artifacts.{fault}"));
        }
        if let Some(fault) = self.jobs.fault() {
            return Some(format!("jobs.{fault}"));
        }
        if let Some(fault) = self.notifications.fault() {
            return Some(format!("notifications.{fault}"));
        }
        if self.alert_rules_period.is_zero() {
            return Some("alert_rules_period is 0: expected a duration such as \"30s\"".to_owned());
        }
        let Retention { events, connections, connections_per_device, sessions, jobs, dead_jobs, alerts, audit } =
            self.retention;
        for (key, time) in [
            ("events", events),
            ("connections", connections),
            ("sessions", sessions),
            ("jobs", jobs),
            ("dead_jobs", dead_jobs),
            ("alerts", alerts),
            ("audit", audit),
        ] {
            if time < Duration::from_secs(1) {
                return Some(format!("retention.{key} is {time:?}: expected at least \"1s\""));
            }
        }
        (connections_per_device == 0).then(|| "retention.connections_per_device is 0: expected at least 1".to_owned())
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: Duration::from_hours(24),
            connections: Duration::from_hours(30 * 24),
            connections_per_device: 100,
            sessions: Duration::from_hours(90 * 24),
            jobs: Duration::from_hours(24),
            dead_jobs: Duration::from_hours(30 * 24),
            alerts: Duration::from_hours(90 * 24),
            audit: Duration::from_hours(400 * 24),
        }
    }
}

impl Default for EventStreams {
    fn default() -> Self {
        Self { per_user: 16, per_node: 1000 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device_token_lifetime: Duration::from_hours(168),
            user_token_lifetime: Duration::from_hours(168),
            device_issuer: "Mender".to_owned(),
            user_issuer: "mender.useradm".to_owned(),
            device_key_file: None,
            device_fallback_key_file: None,
            user_key_file: None,
            user_fallback_key_file: None,
            sessions_per_user: 10,
            personal_tokens_per_user: 10,
            personal_token_lifetime_limit: Duration::from_hours(365 * 24),
            personal_token_use_noted_every: Duration::from_mins(5),
            max_devices: None,
            pending_devices_limit: 100_000,
            pending_sets_per_device: 20,
            minimum_rsa_bits: 1024,
            reject_preauthorized_on_accept: false,
            verified_tokens_limit: 200_000,
            lease: Duration::from_secs(30),
            trigger_reply_limit: Duration::from_secs(10),
            wake_ups_per_second: 50,
            nats_url: None,
            nats_prefix: "mooring".to_owned(),
            sessions: session::Config::default(),
            retention: Retention::default(),
            events: EventStreams::default(),
            arrivals: concurrency_limit::Config::default(),
            alerts_waiting_limit: 32 * 1024 * 1024,
            gather_reports: true,
            alert_rules_period: Duration::from_secs(30),
            jobs: jobs::Config::default(),
            notifications: notifications::Config::default(),
            file_transfer: file_transfer::Config::default(),
            artifacts: artifacts::Config::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_with_units() {
        let config: Config = serde_json::from_str(r#"{"device_token_lifetime":"10s","lease":"1m"}"#).unwrap();
        assert_eq!(config.device_token_lifetime, Duration::from_secs(10));
        assert_eq!(config.lease, Duration::from_mins(1));
        assert_eq!(config.user_token_lifetime.as_secs(), 604_800);
    }

    #[test]
    fn a_retention_of_nothing_is_refused() {
        assert_eq!(Config::default().fault(), None);
        let faulty = |retention: Retention| Config { retention, ..Config::default() }.fault().unwrap();
        let fault = faulty(Retention { events: Duration::ZERO, ..Retention::default() });
        assert!(fault.starts_with("retention.events"), "{fault}");
        let fault = faulty(Retention { connections_per_device: 0, ..Retention::default() });
        assert!(fault.starts_with("retention.connections_per_device"), "{fault}");
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"device_isuer":"x"}"#).is_err());
    }
}
