//! Where settings come from: flags, environment, file.

use super::{Config, explain::explain};
use anyhow::{Context, bail};
use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use std::path::{Path, PathBuf};

/// Variables with short names, and the setting each one means.
const VARIABLES: &[(&str, &str)] = &[
    ("MOORING_DATABASE_URL", "storage.database_url"),
    ("MOORING_REDIS_URL", "storage.redis_url"),
    ("MOORING_NATS_URL", "actors.nats_url"),
    ("MOORING_OBJECTS_URL", "storage.objects_url"),
    ("MOORING_OBJECTS_ENDPOINT", "storage.objects_endpoint"),
    ("MOORING_OBJECTS_PUBLIC_ENDPOINT", "storage.objects_public_endpoint"),
    ("MOORING_OBJECTS_REGION", "storage.objects_region"),
    ("MOORING_OBJECTS_ACCESS_KEY", "storage.objects_access_key"),
    ("MOORING_OBJECTS_SECRET_KEY", "storage.objects_secret_key"),
    ("MOORING_LISTEN", "api.listen"),
    ("MOORING_PUBLIC_URL", "api.public_url"),
    ("MOORING_DATA_DIR", "data_dir"),
    ("MOORING_TLS_CERT", "api.tls_cert"),
    ("MOORING_TLS_KEY", "api.tls_key"),
    ("MOORING_UI_DIR", "api.ui_dir"),
    ("MOORING_LOG", "log.filter"),
    ("MOORING_LOG_FORMAT", "log.format"),
    ("MOORING_METRICS_LISTEN", "api.metrics_listen"),
    ("MOORING_METRICS_TOKEN", "api.metrics_token"),
    ("MOORING_INTERNAL_LISTEN", "api.internal_listen"),
    ("MOORING_INTERNAL_TOKEN", "api.internal_token"),
];

/// Variables that are read elsewhere: the settings file's own path, and those of the operator's client.
const READ_ELSEWHERE: &[&str] = &["MOORING_CONFIG", "MOORING_SERVER", "MOORING_USER"];

/// A setting given on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// As typed, with its dashes.
    pub name: &'static str,
    /// The setting it means.
    pub key: &'static str,
    /// Its value.
    pub value: String,
}

/// Everything a configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The settings file, if any.
    pub file: Option<PathBuf>,
    /// The environment, or what takes its place in a test.
    pub environment: Vec<(String, String)>,
    /// The flags that were given.
    pub flags: Vec<Flag>,
}

impl Sources {
    /// This process's environment, with a file and flags.
    pub fn of_this_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("MOORING_"))
            .collect();
        Self { file, environment, flags }
    }

    /// The configuration they make, checked.
    ///
    /// # Errors
    /// One sentence about the first value that cannot be used.
    pub fn load(&self) -> anyhow::Result<Config> {
        let merged = self.merged()?;
        let config: Config = merged.extract_lossy().map_err(|error| explain(&error, &merged))?;
        config.check()?;
        Ok(config)
    }

    /// All sources on top of each other.
    pub(super) fn merged(&self) -> anyhow::Result<Figment> {
        let mut merged = Figment::new();
        if let Some(path) = &self.file {
            readable(path)?;
            merged = merged.merge(Toml::file_exact(path));
        }
        for (name, text) in &self.environment {
            if READ_ELSEWHERE.contains(&name.as_str()) {
                continue;
            }
            let key = setting_of(name)?;
            let value = value_of(&key, text);
            merged = merged.merge(OneValue { origin: format!("environment variable {name}"), key, value });
        }
        for flag in &self.flags {
            merged = merged.merge(OneValue {
                origin: format!("flag {}", flag.name),
                key: flag.key.to_owned(),
                value: Value::from(flag.value.clone()),
            });
        }
        Ok(merged)
    }
}

fn readable(path: &Path) -> anyhow::Result<()> {
    std::fs::File::open(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
    Ok(())
}

fn setting_of(variable: &str) -> anyhow::Result<String> {
    if let Some((_, key)) = VARIABLES.iter().find(|(name, _)| *name == variable) {
        return Ok((*key).to_owned());
    }
    let rest = variable.strip_prefix("MOORING_").unwrap_or(variable);
    if rest.contains("__") {
        return Ok(rest.to_ascii_lowercase().replace("__", "."));
    }
    let known = VARIABLES.iter().map(|(name, _)| *name);
    match super::explain::nearest(variable, known) {
        Some(name) => bail!("unknown environment variable {variable}: did you mean {name}?"),
        None => bail!(
            "unknown environment variable {variable}: expected one of the short names of `mooring serve --help` or \
             MOORING_SECTION__KEY"
        ),
    }
}

/// Text stays text, so that a token of digits is not taken for a number; lists are written `a,b` or `["a", "b"]`.
fn value_of(key: &str, text: &str) -> Value {
    let is_list = super::show::default_of(key).is_some_and(|value| value.is_array());
    let trimmed = text.trim();
    if trimmed.starts_with('[') || trimmed.starts_with('{') {
        return text.parse().unwrap_or_else(|infallible| match infallible {});
    }
    if is_list {
        let items = trimmed.split(',').map(str::trim).filter(|item| !item.is_empty());
        return Value::from(items.map(str::to_owned).collect::<Vec<_>>());
    }
    Value::from(text)
}

/// One value under a dotted key.
struct OneValue {
    origin: String,
    key: String,
    value: Value,
}

impl Provider for OneValue {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        let dict = nested.into_dict().unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}
