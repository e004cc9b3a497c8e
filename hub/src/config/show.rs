//! The effective settings as text, each with where its value comes from.

use super::{Config, Sources, explain};
use serde_json::Value;
use std::fmt::Write;

/// The configuration as a settings file would spell it, secrets masked, each value with its source.
///
/// # Errors
/// When the settings cannot be loaded.
pub fn show(sources: &Sources) -> anyhow::Result<String> {
    let config = sources.load()?;
    let merged = sources.merged()?;
    let source = |key: &str| match merged.find_metadata(key) {
        Some(metadata) if merged.contains(key) => explain::origin(metadata),
        _ => "default".to_owned(),
    };
    let mut text = String::new();
    let settings = serde_json::to_value(&config)?;
    section(&mut text, "", &settings, &source);
    Ok(text)
}

/// Every setting's dotted key; those inside of lists have none.
pub(super) fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    collect_keys("", &defaults(), &mut keys);
    keys
}

/// The default of the setting with this dotted key.
pub(super) fn default_of(key: &str) -> Option<Value> {
    key.split('.').try_fold(defaults(), |mut value, name| value.get_mut(name).map(Value::take))
}

pub(super) fn defaults() -> Value {
    serde_json::to_value(Config::default()).expect("the defaults have a form in JSON")
}

fn collect_keys(prefix: &str, value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                collect_keys(&joined(prefix, name), value, keys);
            }
        }
        _ => keys.push(prefix.to_owned()),
    }
}

fn section(text: &mut String, prefix: &str, settings: &Value, source: &impl Fn(&str) -> String) {
    let Some(members) = settings.as_object() else { return };
    let values: Vec<_> = members.iter().filter(|(_, value)| !value.is_object()).collect();
    if !prefix.is_empty() && !values.is_empty() {
        let _infallible = writeln!(text, "\n[{prefix}]");
    }
    for (name, value) in values {
        let from = source(&joined(prefix, name));
        let line = match value {
            Value::Null => format!("# {name} is not set"),
            value => format!("{name} = {}", toml(value)),
        };
        let _infallible = match from.as_str() {
            "default" => writeln!(text, "{line}"),
            from => writeln!(text, "{line:<50} # from {from}"),
        };
    }
    for (name, value) in members.iter().filter(|(_, value)| value.is_object()) {
        section(text, &joined(prefix, name), value, source);
    }
}

fn toml(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Array(items) => format!("[{}]", list(items.iter().map(toml).collect())),
        Value::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            format!("{{ {} }}", list(members.map(|(name, value)| format!("{name} = {}", toml(value))).collect()))
        }
        // Text, numbers and booleans are spelled alike in JSON and TOML.
        plain => plain.to_string(),
    }
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}
