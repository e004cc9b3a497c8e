//! The one configuration of a hub, made of the sections that the crates define, and where its values come from.
//!
//! Flags go over environment variables, those over a file, and that over the defaults. A value that cannot be used stops
//! the start with one sentence that names the key, the value, where it stands and what was expected.

mod explain;
mod show;
mod sources;

pub use show::show;
pub use sources::{Flag, Sources};

use anyhow::bail;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Everything that can be set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the embedded hub keeps its database and files. Relative paths of the sections are relative to it.
    pub data_dir: PathBuf,
    /// What is logged, and how.
    pub log: LogConfig,
    /// HTTP and websockets.
    pub api: api::Config,
    /// Admission, tokens, sessions and the bus.
    pub actors: actors::Config,
    /// Database, presence and objects.
    pub storage: storage::Config,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Level, or levels by module: `info`, `warn,api=debug`.
    pub filter: String,
    /// Lines for people or JSON objects for programs.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "mooring-data".into(),
            log: LogConfig::default(),
            api: api::Config::default(),
            actors: actors::Config::default(),
            storage: storage::Config::default(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Human }
    }
}

impl Config {
    /// Refuses what no single section can see to be wrong.
    ///
    /// # Errors
    /// A sentence that names the key, the value and what was expected.
    pub fn check(&self) -> anyhow::Result<()> {
        expect_scheme(
            "storage.database_url",
            &self.storage.database_url,
            &["sqlite:", "postgres://", "postgresql://"],
        )?;
        if let Some(url) = &self.storage.redis_url {
            expect_scheme("storage.redis_url", url.expose(), &["redis://", "rediss://", "redis+unix://", "unix://"])?;
        }
        if let Some(url) = &self.actors.nats_url {
            expect_scheme("actors.nats_url", url.expose(), &["nats://", "tls://"])?;
        }
        match (&self.api.tls_cert, &self.api.tls_key) {
            (Some(cert), None) => bail!(
                "api.tls_cert is {} but api.tls_key is not set: expected both, or neither for plain HTTP",
                cert.display()
            ),
            (None, Some(key)) => bail!(
                "api.tls_key is {} but api.tls_cert is not set: expected both, or neither for plain HTTP",
                key.display()
            ),
            _ => {}
        }
        let files = [
            ("api.tls_cert", &self.api.tls_cert, "a file with a certificate chain (PEM)"),
            ("api.tls_key", &self.api.tls_key, "a file with a private key (PEM)"),
        ];
        for (key, path, expected) in files {
            if let Some(path) = path.as_deref().filter(|path| !path.is_file()) {
                bail!("{key} is {}: expected {expected}, found no such file", path.display());
            }
        }
        if self.actors.nats_url.is_some() && self.storage.redis_url.is_none() {
            bail!(
                "actors.nats_url is set but storage.redis_url is not: expected both, since nodes find each other's devices \
                 in Redis"
            );
        }
        if let Some(fault) = self.storage.fault() {
            bail!("storage.{fault}");
        }
        if let Some(fault) = self.api.fault() {
            bail!("api.{fault}");
        }
        if let Some(fault) = self.actors.fault() {
            bail!("actors.{fault}");
        }
        Ok(())
    }

    /// Makes the data directory and puts an embedded database and a folder of objects into it, unless their paths are
    /// absolute.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn settle_in(&mut self) -> anyhow::Result<()> {
        self.storage.database_url = in_directory("sqlite:", &self.storage.database_url, &self.data_dir);
        self.storage.objects_url = in_directory("file:", &self.storage.objects_url, &self.data_dir);
        create_private_directory(&self.data_dir).map_err(|error| {
            anyhow::anyhow!("data_dir is {}: expected a folder the hub may write, {error}", self.data_dir.display())
        })
    }
}

fn expect_scheme(key: &str, url: &str, schemes: &[&str]) -> anyhow::Result<()> {
    if schemes.iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(());
    }
    let shown = storage::config::without_password(url);
    bail!("{key} is {shown:?}: expected it to begin with {}", schemes.join(" or "))
}

/// `sqlite:hub.db`, `file:objects`: after such a scheme a relative path is inside of the data directory; every other URL
/// stays as it is.
fn in_directory(scheme: &str, url: &str, directory: &Path) -> String {
    match url.strip_prefix(scheme) {
        Some(path) if !path.starts_with(':') && !path.starts_with('/') => {
            format!("{scheme}{}", directory.join(path).display())
        }
        _ => url.to_owned(),
    }
}

/// Makes a directory that only this user can read, if it is not there yet.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn create_private_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests;
