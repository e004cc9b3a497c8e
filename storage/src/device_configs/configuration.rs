//! The settings of a device: texts under names, within bounds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// Settings that a device may have.
pub const KEYS: usize = 100;

/// Bytes of the name of a setting, and of its value.
pub const TEXT_LIMIT: usize = 4096;

/// What is shown of a value that may be a secret: so many characters, and that there was more.
const SHOWN: usize = 3;
const OMITTED: &str = "...<omitted>";

/// The beginning of a value. (Mender API: deployments, `configuration`.)
#[must_use]
pub fn masked(value: &str) -> String {
    value.chars().take(SHOWN).chain(OMITTED.chars()).collect()
}

/// A configuration, as JSON, with as much of each value as is ever shown of it. What is no text is shown not at all.
pub(crate) fn cut(configuration: &str) -> String {
    let mut values: Map<String, Value> = serde_json::from_str(configuration).unwrap_or_default();
    for value in values.values_mut() {
        *value = value.as_str().map_or(Value::Null, |text| text.chars().take(SHOWN).collect::<String>().into());
    }
    Value::Object(values).to_string()
}

/// Settings by name. What they mean is between a device and its users, and any of them may be a secret: they are in no log,
/// and how this prints tells none.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Configuration(BTreeMap<String, String>);

/// Why settings are none. It names no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationFault {
    /// There are more than a device may have.
    #[error("at most {KEYS} keys are allowed")]
    TooMany,
    /// A setting has no name.
    #[error("a key is empty")]
    NoKey,
    /// A name is too long.
    #[error("a key is longer than {TEXT_LIMIT} bytes")]
    LongKey,
    /// The value of this setting is too long.
    #[error("the value of {0:?} is longer than {TEXT_LIMIT} bytes")]
    LongValue(String),
}

impl Configuration {
    /// These settings, if they are within the bounds.
    ///
    /// # Errors
    /// The first bound that they are not within.
    pub fn new(settings: BTreeMap<String, String>) -> Result<Self, ConfigurationFault> {
        if settings.len() > KEYS {
            return Err(ConfigurationFault::TooMany);
        }
        for (key, value) in &settings {
            if key.is_empty() {
                return Err(ConfigurationFault::NoKey);
            }
            if key.len() > TEXT_LIMIT {
                return Err(ConfigurationFault::LongKey);
            }
            if value.len() > TEXT_LIMIT {
                return Err(ConfigurationFault::LongValue(key.clone()));
            }
        }
        Ok(Self(settings))
    }

    /// These settings with `changes` in the place of, or beside, those they have.
    ///
    /// # Errors
    /// When there are too many then.
    pub fn with(mut self, changes: Self) -> Result<Self, ConfigurationFault> {
        self.0.extend(changes.0);
        if self.0.len() > KEYS { Err(ConfigurationFault::TooMany) } else { Ok(self) }
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The settings with only the beginning of each value, for whoever need not know it. (Mender API: deployments,
    /// `configuration`.)
    #[must_use]
    pub fn masked(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(key, value)| (key.clone(), masked(value))).collect()
    }

    /// As it is stored.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(&self.0).expect("texts by name always have a JSON form")
    }

    /// What was stored.
    pub(crate) fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }
}

impl std::fmt::Debug for Configuration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Configuration({} keys)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn many(first: usize, count: usize) -> BTreeMap<String, String> {
        (first..first + count).map(|number| (number.to_string(), String::new())).collect()
    }

    #[test]
    fn every_bound_is_kept_and_reached() {
        let long = "x".repeat(TEXT_LIMIT);
        let longer = "x".repeat(TEXT_LIMIT + 1);
        let new = |key: &str, value: &str| Configuration::new(settings(&[(key, value)]));
        assert!(new(&long, &long).is_ok());
        assert!(new("k", "").is_ok());
        assert_eq!(new("", "v"), Err(ConfigurationFault::NoKey));
        assert_eq!(new(&longer, "v"), Err(ConfigurationFault::LongKey));
        assert_eq!(new("k", &longer), Err(ConfigurationFault::LongValue("k".to_owned())));
        assert!(Configuration::new(many(0, KEYS)).is_ok());
        assert_eq!(Configuration::new(many(0, KEYS + 1)), Err(ConfigurationFault::TooMany));
    }

    #[test]
    fn changes_replace_and_add_as_long_as_there_is_room() {
        let full = Configuration::new(many(0, KEYS)).unwrap();
        let changed = full.clone().with(Configuration::new(settings(&[("7", "new")])).unwrap()).unwrap();
        assert_eq!((changed.settings().len(), changed.settings()["7"].as_str()), (KEYS, "new"));
        assert_eq!(full.with(Configuration::new(many(KEYS, 1)).unwrap()), Err(ConfigurationFault::TooMany));
    }

    #[test]
    fn a_masked_value_is_cut_between_characters_and_never_printed() {
        let configuration = Configuration::new(settings(&[("a", "äöüß"), ("b", "hunter2"), ("c", "")])).unwrap();
        let masked = settings(&[("a", "äöü...<omitted>"), ("b", "hun...<omitted>"), ("c", "...<omitted>")]);
        assert_eq!(configuration.masked(), masked);
        assert_eq!(format!("{configuration:?}"), "Configuration(3 keys)");
    }
}
