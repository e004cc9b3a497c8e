//! Settings of this crate: the `[api]` section.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;

use crate::rate_limits::RateLimits;

/// How the hub is reached from outside, and how much of it anybody may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where devices, operators and browsers connect.
    pub listen: SocketAddr,
    /// Certificate chain (PEM). With it and the key the hub speaks TLS itself.
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate.
    pub tls_key: Option<PathBuf>,
    /// Folder with a built web UI, served at `/ui/`.
    pub ui_dir: Option<PathBuf>,
    /// How devices and operators reach the hub, for links in answers: `https://hub.example.com`. Without it, links name the
    /// host that a request was for.
    pub public_url: Option<String>,
    /// Largest body of an ordinary request.
    #[serde(with = "storage::units::size")]
    pub body_limit: u64,
    /// Names under which the hub may be asked, without port. Empty: any.
    pub allowed_hosts: Vec<String>,
    /// Proxies in front of the hub: only theirs are the `X-Forwarded-*` headers that count.
    pub trusted_proxies: Vec<Network>,
    /// Origins (`https://host:port`) whose pages may open websockets, beside our own.
    pub allowed_origins: Vec<String>,
    /// How "no device limit" is told to clients: -1, or 0 for web UIs up to 4.1, which hide their Accept buttons at -1.
    pub unlimited_reported_as: i64,
    /// Attributes a device may report.
    pub inventory_attributes_limit: usize,
    /// Tags a device may have.
    pub inventory_tags_limit: usize,
    /// Quotas of devices and users who have shown a valid token. Off by default.
    pub rate_limits: RateLimits,
    /// Logins per address.
    pub login_limit: AddressLimit,
    /// Requests of devices to join, or for a new token, per address.
    pub auth_request_limit: AddressLimit,
    /// Bearer token that opens `/metrics` on the main listener. Without it that path is a 404.
    pub metrics_token: Option<Secret>,
    /// A listener for `/metrics` and `/health` alone. Keep it off the public network: it asks for no token unless
    /// `metrics_token` is set.
    pub metrics_listen: Option<SocketAddr>,
    /// A listener for the internal API, by which other services of an installation provision and forget devices. Off
    /// unless it is set.
    pub internal_listen: Option<SocketAddr>,
    /// Bearer token of the internal API. Only a listener on a loopback address may go without.
    pub internal_token: Option<Secret>,
    /// Deadlines and bounds of websockets.
    pub sockets: crate::sockets::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls_cert: None,
            tls_key: None,
            ui_dir: None,
            public_url: None,
            body_limit: 1024 * 1024,
            allowed_hosts: vec![],
            trusted_proxies: vec![],
            allowed_origins: vec![],
            unlimited_reported_as: -1,
            inventory_attributes_limit: 100,
            inventory_tags_limit: 20,
            rate_limits: RateLimits::default(),
            // A person mistypes; a whole office shares an address.
            login_limit: AddressLimit { quota: 60, interval: Duration::from_mins(1) },
            // A site's devices share an address and all come back at once after its power does.
            auth_request_limit: AddressLimit { quota: 6000, interval: Duration::from_mins(1) },
            metrics_token: None,
            metrics_listen: None,
            internal_listen: None,
            internal_token: None,
            sockets: crate::sockets::Config::default(),
        }
    }
}

impl Config {
    /// Whether the hub itself speaks TLS.
    pub const fn speaks_tls(&self) -> bool {
        self.tls_cert.is_some() && self.tls_key.is_some()
    }

    /// What is wrong with these settings, in a sentence that names key, value and what was expected; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Some("tls_cert and tls_key belong together: expected both or neither".to_owned());
        }
        if let Some(folder) = self.ui_dir.as_ref().filter(|folder| !folder.is_dir()) {
            return Some(format!("ui_dir is {:?}: expected a folder", folder.display()));
        }
        if let Some(url) = self.public_url.as_ref().filter(|url| !actors::artifacts::is_base(url)) {
            return Some(format!("public_url is {url:?}: expected an address such as \"https://hub.example.com\""));
        }
        if self.body_limit == 0 {
            return Some("body_limit is 0: expected a size such as \"1 MiB\"".to_owned());
        }
        if !matches!(self.unlimited_reported_as, -1 | 0) {
            return Some(format!("unlimited_reported_as is {}: expected -1 or 0", self.unlimited_reported_as));
        }
        for (key, token) in [("metrics_token", &self.metrics_token), ("internal_token", &self.internal_token)] {
            if token.as_ref().is_some_and(|token| !token.can_be_a_bearer()) {
                return Some(format!("{key} is *** with a space, or empty: expected printable text without spaces"));
            }
        }
        if let Some(address) = self.internal_listen.filter(|address| !address.ip().is_loopback())
            && self.internal_token.is_none()
        {
            return Some(format!(
                "internal_listen is {address} but internal_token is not set: expected a token, or a loopback address"
            ));
        }
        if let Some(fault) = self.sockets.fault() {
            return Some(format!("sockets.{fault}"));
        }
        for (name, limit) in [("login_limit", self.login_limit), ("auth_request_limit", self.auth_request_limit)] {
            if limit.interval < Duration::from_secs(1) {
                return Some(format!("{name}.interval is {:?}: expected at least \"1s\"", limit.interval));
            }
        }
        self.rate_limits.fault()
    }

    /// Whether the hub serves requests for this `Host`, which may carry a port.
    pub fn accepts_host(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        self.allowed_hosts.is_empty() || self.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }
}

/// So many requests per address and interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressLimit {
    /// Requests in one interval; 0 means no limit.
    pub quota: u32,
    /// Length of an interval, at least a second; a minute if only the quota is given.
    #[serde(with = "storage::units::duration", default = "a_minute")]
    pub interval: Duration,
}

const fn a_minute() -> Duration {
    Duration::from_mins(1)
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Compares in a time that does not depend on where the texts differ.
    pub fn is(&self, candidate: &str) -> bool {
        self.0.as_bytes().ct_eq(candidate.as_bytes()).into()
    }

    /// Whether it can follow `Bearer` in a header.
    fn can_be_a_bearer(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Err(serde::de::Error::custom("expected a token, found an empty text"));
        }
        Ok(Self(text))
    }
}

/// An address or a range of addresses: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

/// The text is not an address or a range of addresses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid network {0:?}: expected an address such as \"10.0.0.7\" or a range such as \"10.0.0.0/8\"")]
pub struct NetworkError(String);

impl Network {
    /// Whether the address is in this range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        // A shift by the whole width is no shift at all in Rust, so the range of everything stands apart.
        self.prefix == 0 || (ours ^ theirs) >> (width - self.prefix) == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let invalid = || NetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        if prefix > width {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_range_only() {
        let contains =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.1.2"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.0.0.7", "10.0.0.7"));
        assert!(!contains("10.0.0.7", "10.0.0.6"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("fd00::/8", "fdab::1"));
        assert!(contains("127.0.0.0/8", "::ffff:127.0.0.1"));
    }

    #[test]
    fn a_wrong_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "host", "::/129", "10.0.0.0/x"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_never_printed() {
        let config = Config { metrics_token: Some(Secret::from("hunter2")), ..Config::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hunter2"));
        assert!(config.metrics_token.as_ref().unwrap().is("hunter2"));
        assert!(!config.metrics_token.unwrap().is("hunter"));
    }

    #[test]
    fn settings_survive_being_written_down() {
        let config = Config { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Config::default() };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }

    #[test]
    fn a_misspelt_setting_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"ui_folder": "/srv/ui"}"#).is_err());
    }

    #[test]
    fn a_fault_names_its_setting() {
        assert_eq!(Config::default().fault(), None);
        let faulty = |config: Config, name: &str| config.fault().is_some_and(|fault| fault.contains(name));
        assert!(faulty(Config { tls_cert: Some("cert.pem".into()), ..Config::default() }, "tls_key"));
        assert!(faulty(Config { ui_dir: Some("/nowhere/at/all".into()), ..Config::default() }, "ui_dir"));
        assert!(faulty(Config { unlimited_reported_as: 5, ..Config::default() }, "unlimited_reported_as"));
        let open = Config { internal_listen: Some(([0, 0, 0, 0], 9000).into()), ..Config::default() };
        assert!(faulty(open.clone(), "internal_token"));
        assert_eq!(Config { internal_token: Some(Secret::from("secret")), ..open }.fault(), None);
        let local = Config { internal_listen: Some(([127, 0, 0, 1], 9000).into()), ..Config::default() };
        assert_eq!(local.fault(), None);
        let limit = AddressLimit { quota: 1, interval: Duration::from_millis(10) };
        assert!(faulty(Config { login_limit: limit, ..Config::default() }, "login_limit"));
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        let config = Config { allowed_hosts: vec!["hub.example.com".into()], ..Config::default() };
        assert!(config.accepts_host("Hub.Example.com:8443"));
        assert!(config.accepts_host("hub.example.com"));
        assert!(!config.accepts_host("evil.example.com"));
        assert!(Config::default().accepts_host("anything"));
    }
}
