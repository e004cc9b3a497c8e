//! Settings of this crate: the `[storage]` section.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

/// Where a hub keeps what it remembers. The scheme of an URL chooses the kind of server.
///
/// Printing it, by `Debug` or as a settings file, shows `***` in place of passwords, so what was printed cannot be read
/// back as a working configuration.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `sqlite:PATH`, `sqlite::memory:` or `postgres://user:password@host/database`.
    #[serde(serialize_with = "masked")]
    pub database_url: String,
    /// `redis://…` or `redis+unix://…`: shared by all nodes. Without it presence is in memory, and there is one node.
    pub redis_url: Option<SecretUrl>,
    /// Database connections of this node (Postgres), or connections that read (`SQLite`; one more writes).
    pub pool_size: u32,
    /// How long a call waits for a free database connection before it fails as unavailable.
    #[serde(with = "crate::units::duration")]
    pub acquire_timeout: Duration,
    /// How long a call may take in the database before it fails as unavailable.
    #[serde(with = "crate::units::duration")]
    pub query_timeout: Duration,
    /// How long each of the few statements of a search may take before the search is refused as too expensive.
    #[serde(with = "crate::units::duration")]
    pub search_limit: Duration,
    /// How long Redis may take to accept a connection, and to answer a call, before the call fails as unavailable.
    #[serde(with = "crate::units::duration")]
    pub redis_timeout: Duration,
    /// Where recordings and artifacts are kept: `file:DIR`, `s3://bucket[/prefix]`, or `memory:` (lost with the process).
    pub objects_url: String,
    /// Where an S3 server other than Amazon's is: `https://s3.example.com`.
    pub objects_endpoint: Option<String>,
    /// Where devices and browsers reach the S3 server, if that is somewhere else than the hub does: links name this.
    pub objects_public_endpoint: Option<String>,
    /// S3 region; servers of one's own mostly take any.
    pub objects_region: String,
    /// S3 access key. Without one the machine's own role is asked for credentials, as Amazon's machines have it.
    pub objects_access_key: Option<String>,
    /// Secret that belongs to the access key.
    pub objects_secret_key: Option<Secret>,
    /// Whether `objects_endpoint` may be `http:` on another machine; on this one it always may.
    pub objects_allow_http: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database_url: "sqlite:mooring.db".to_owned(),
            redis_url: None,
            pool_size: 10,
            acquire_timeout: Duration::from_millis(2_500),
            query_timeout: Duration::from_secs(10),
            search_limit: Duration::from_secs(3),
            redis_timeout: Duration::from_secs(1),
            objects_url: "file:objects".to_owned(),
            objects_endpoint: None,
            objects_public_endpoint: None,
            objects_region: "us-east-1".to_owned(),
            objects_access_key: None,
            objects_secret_key: None,
            objects_allow_http: false,
        }
    }
}

impl Config {
    /// A configuration that keeps everything in the memory of this process: the test double for a database.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { database_url: "sqlite::memory:".to_owned(), objects_url: "memory:".to_owned(), ..Self::default() }
    }

    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        crate::objects::fault(self)
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Config")
            .field("database_url", &without_password(&self.database_url))
            .field("redis_url", &self.redis_url)
            .field("pool_size", &self.pool_size)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("query_timeout", &self.query_timeout)
            .field("search_limit", &self.search_limit)
            .field("redis_timeout", &self.redis_timeout)
            .field("objects_url", &self.objects_url)
            .field("objects_endpoint", &self.objects_endpoint)
            .field("objects_public_endpoint", &self.objects_public_endpoint)
            .field("objects_region", &self.objects_region)
            .field("objects_access_key", &self.objects_access_key)
            .field("objects_secret_key", &self.objects_secret_key)
            .field("objects_allow_http", &self.objects_allow_http)
            .finish()
    }
}

/// An URL that may hold a password. Prints and serialises with `***` in its place.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The URL with its password, for whoever opens the connection.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl From<&str> for SecretUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl std::str::FromStr for SecretUrl {
    type Err = std::convert::Infallible;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Ok(Self(url.to_owned()))
    }
}

impl std::fmt::Display for SecretUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&without_password(&self.0))
    }
}

impl std::fmt::Debug for SecretUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&without_password(&self.0), formatter)
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&without_password(&self.0))
    }
}

/// A text that nobody may see. Prints and serialises as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whoever has to show it to a server.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
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

/// The URL with `***` for its password, wherever an URL of ours may carry one: in the authority, or as a query member.
#[must_use]
pub fn without_password(text: &str) -> String {
    // `user:password@host` parses too, as a scheme and a path.
    let parsed = url::Url::parse(text).ok().filter(|url| !url.cannot_be_a_base() || url.scheme() == "sqlite");
    let Some(mut url) = parsed else {
        // Not an URL of ours: a password in it could be anywhere.
        return if text.contains('@') { "***".to_owned() } else { text.to_owned() };
    };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "***".to_owned();
    }
    let is_secret = |name: &str| matches!(name, "password" | "pass");
    if url.query_pairs().any(|(name, _)| is_secret(&name)) {
        let members: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let mut query = url.query_pairs_mut();
        query.clear();
        for (name, value) in &members {
            query.append_pair(name, if is_secret(name) { "***" } else { value });
        }
    } else if url.password().is_none() {
        // Printing a parsed URL may change its spelling; one without a secret stays as it was written.
        return text.to_owned();
    }
    url.to_string()
}

fn masked<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&without_password(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_printed() {
        let config = Config {
            database_url: "postgres://hub:hunter2@db/mooring".to_owned(),
            redis_url: Some("redis://:hunter2@cache:6379/1".into()),
            objects_secret_key: Some("hunter2".into()),
            ..Config::default()
        };
        let json = serde_json::to_string(&config).expect("settings are serialisable");
        for printed in [format!("{config:?}"), json] {
            assert!(!printed.contains("hunter2"), "{printed}");
            assert!(printed.contains("postgres://hub:***@db/mooring"), "{printed}");
        }
        assert_eq!(
            without_password("redis+unix:///run/redis.sock?pass=hunter2&db=1"),
            "redis+unix:///run/redis.sock?pass=***&db=1"
        );
        assert_eq!(without_password("user:hunter2@host"), "***");
    }

    #[test]
    fn urls_without_a_password_stay_as_written() {
        for url in ["sqlite:mooring.db", "sqlite::memory:", "sqlite:/var/lib/mooring/hub.db", "redis://cache", "hub.db"]
        {
            assert_eq!(without_password(url), url);
        }
    }

    #[test]
    fn a_misspelt_setting_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"database_ulr": "sqlite:x.db"}"#).is_err());
        let config: Config = serde_json::from_str(r#"{"acquire_timeout": "3s"}"#).expect("known key");
        assert_eq!(config.acquire_timeout, Duration::from_secs(3));
    }
}
