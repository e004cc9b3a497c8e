//! Settings of this crate: the `[actors]` section.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::SecretUrl;
use storage::units;

use crate::{file_transfer, session};

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
    /// NATS server that connects several nodes. Without it there is one node.
    pub nats_url: Option<SecretUrl>,
    /// First word of all subjects; hubs with different ones do not hear one another.
    pub nats_prefix: String,
    /// Credits and limits of sessions between operators and devices.
    pub sessions: session::Config,
    /// Limits of file transfers.
    pub file_transfer: file_transfer::Config,
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
            max_devices: None,
            pending_devices_limit: 100_000,
            pending_sets_per_device: 20,
            minimum_rsa_bits: 1024,
            reject_preauthorized_on_accept: false,
            verified_tokens_limit: 200_000,
            lease: Duration::from_secs(30),
            nats_url: None,
            nats_prefix: "mooring".to_owned(),
            sessions: session::Config::default(),
            file_transfer: file_transfer::Config::default(),
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
    fn a_misspelt_key_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"device_isuer":"x"}"#).is_err());
    }
}
