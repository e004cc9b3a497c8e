//! What the tables for searching hold about one device, derived from its document.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::attribute;
use super::record::Record;
use super::term::{self, Role};
use super::{IDENTITY, INVENTORY, SYSTEM, TAGS};
use crate::Timestamp;

/// Words of one device that free text finds.
const WORDS: usize = 1000;

/// Characters of a word that count.
const WORD_LENGTH: usize = 64;

/// Bytes of the names that a device is known by.
const NAMES_LENGTH: usize = 4096;

/// Everything that is derived from one document.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Index {
    pub(super) status: Option<String>,
    pub(super) group: Option<String>,
    pub(super) tier: Option<String>,
    pub(super) created: Option<Timestamp>,
    pub(super) place: Option<Place>,
    pub(super) terms: BTreeMap<Vec<u8>, Role>,
    pub(super) words: BTreeSet<String>,
    /// Lower case, one on each line.
    pub(super) names: String,
    /// Fingerprint, scope and name of every attribute.
    pub(super) attributes: BTreeMap<[u8; 8], (String, String)>,
}

/// Where a device says it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    /// Degrees, -90 to 90.
    pub(super) latitude: f64,
    /// Degrees, -180 to 180.
    pub(super) longitude: f64,
}

impl Place {
    /// A place, if there is one.
    pub(super) fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let is_one = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        is_one.then_some(Self { latitude, longitude })
    }

    /// The point on the unit sphere: distances between such points need no trigonometry of the database.
    pub(super) fn point(self) -> [f64; 3] {
        let (latitude, longitude) = (self.latitude.to_radians(), self.longitude.to_radians());
        [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()]
    }
}

impl Index {
    /// What is derived from this record.
    pub(super) fn of(record: &Record) -> Self {
        let text = |scope, name| record.document.text(scope, name).map(str::to_owned);
        let mut index = Self {
            status: text(IDENTITY, "status"),
            group: text(SYSTEM, "group"),
            tier: text(SYSTEM, "tier"),
            created: record.document.text(SYSTEM, "created_ts").and_then(attribute::time).map(attribute::whole_millis),
            place: place(record),
            ..Self::default()
        };
        let mut names = vec![record.device.to_string()];
        let id = Value::String(record.device.to_string());
        index.terms.extend(term::of_attribute(term::fingerprint(IDENTITY, "id"), &id));
        words(&record.device.to_string(), &mut index.words);
        if let Some(group) = &index.group {
            words(group, &mut index.words);
        }
        for (scope, name, value) in record.document.iter() {
            let fingerprint = index.note(scope, name);
            if attribute::column(scope, name).is_none() {
                index.terms.extend(term::of_attribute(fingerprint, value));
            }
            if let (IDENTITY | INVENTORY | TAGS, Value::String(text)) = (scope, value) {
                words(text, &mut index.words);
            }
            if is_name(scope, name) {
                names.extend(shown(value).into_iter().map(|name| name.to_lowercase()));
            }
        }
        for (name, at) in [("updated_ts", record.reported_at), ("check_in_time", record.checked_in_at)] {
            if at.is_some() {
                index.note(SYSTEM, name);
            }
        }
        index.names = names.join("\n");
        index.names.truncate(index.names.floor_char_boundary(NAMES_LENGTH));
        index
    }

    fn note(&mut self, scope: &str, name: &str) -> [u8; 8] {
        let fingerprint = term::fingerprint(scope, name);
        self.attributes.insert(fingerprint, (scope.to_owned(), name.to_owned()));
        fingerprint
    }

    /// The row in which this device is counted.
    pub(super) fn counted(&self) -> (String, String, String) {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
        (or_none(&self.group), or_none(&self.status), or_none(&self.tier))
    }
}

/// By what people know a device: its identity, and the name they gave it. Its status is kept beside the identity without
/// being part of it.
pub(super) fn is_name(scope: &str, name: &str) -> bool {
    match scope {
        IDENTITY => name != "status",
        TAGS => name == "name",
        _ => false,
    }
}

/// A value as texts, numbers written out.
pub(super) fn shown(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => vec![text(value)],
    }
}

/// The words of a text: runs of letters and digits, in lower case.
pub(super) fn words(text: &str, words: &mut BTreeSet<String>) {
    for word in text.to_lowercase().split(|one: char| !one.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if words.len() >= WORDS {
            return;
        }
        words.insert(word.chars().take(WORD_LENGTH).collect());
    }
}

fn place(record: &Record) -> Option<Place> {
    let degrees = |name| match record.document.value(INVENTORY, name)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    Place::new(degrees("geo-lat")?, degrees("geo-lon")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        let mut found = BTreeSet::new();
        words("Release-4.1 für_DE:AD", &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["1", "4", "ad", "de", "für", "release"]);
    }

    #[test]
    fn words_are_bounded() {
        let mut found = BTreeSet::new();
        let many: Vec<String> = (0..WORDS + 10).map(|number| format!("w{number}")).collect();
        words(&many.join(" "), &mut found);
        assert_eq!(found.len(), WORDS);
        let mut found = BTreeSet::new();
        words(&"x".repeat(1000), &mut found);
        assert_eq!(found.first().map(String::len), Some(WORD_LENGTH));
    }

    #[test]
    fn a_place_is_on_earth() {
        assert!(Place::new(90.0, -180.0).is_some());
        assert!(Place::new(91.0, 0.0).is_none() && Place::new(0.0, f64::NAN).is_none());
        let [x, y, z] = Place::new(0.0, 90.0).expect("a place").point();
        assert!(x.abs() < 1e-12 && (y - 1.0).abs() < 1e-12 && z.abs() < 1e-12);
    }
}
