//! The attributes of one device as they are stored: `{scope: {name: {"value": …}}}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Attribute;
use crate::Timestamp;
use crate::dialect::without_nul;

/// Attributes by scope and name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Document(BTreeMap<String, BTreeMap<String, Entry>>);

/// One attribute without its scope and name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Microseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
}

impl Entry {
    pub(super) const fn new(value: Value) -> Self {
        Self { value, description: None, timestamp: None }
    }

    /// Whether this is what `known` says. The database may have written a number in another way.
    fn says_the_same(&self, known: &Self) -> bool {
        same_value(&self.value, &known.value)
            && self.description == known.description
            && self.timestamp == known.timestamp
    }
}

impl Document {
    /// The value of an attribute.
    pub(super) fn value(&self, scope: &str, name: &str) -> Option<&Value> {
        self.0.get(scope)?.get(name).map(|entry| &entry.value)
    }

    /// The value of an attribute that is a text.
    pub(super) fn text(&self, scope: &str, name: &str) -> Option<&str> {
        self.value(scope, name)?.as_str()
    }

    /// Scope, name and value of every attribute, in order of scope and name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str, &Value)> {
        self.0.iter().flat_map(|(scope, entries)| {
            entries.iter().map(|(name, entry)| (scope.as_str(), name.as_str(), &entry.value))
        })
    }

    /// How many values a scope holds, elements of arrays one by one, and the bytes of its texts.
    pub(super) fn weight(&self, scope: &str) -> (usize, usize) {
        let (mut values, mut bytes) = (0, 0);
        let length = |value: &Value| value.as_str().map_or(8, str::len);
        for (name, entry) in self.0.get(scope).into_iter().flatten() {
            bytes += name.len() + entry.description.as_ref().map_or(0, String::len);
            match &entry.value {
                Value::Array(items) => {
                    values += items.len();
                    bytes += items.iter().map(length).sum::<usize>();
                }
                value => {
                    values += 1;
                    bytes += length(value);
                }
            }
        }
        (values, bytes)
    }

    /// Takes an attribute away; says whether it was there.
    pub(super) fn remove(&mut self, scope: &str, name: &str) -> bool {
        let Some(entries) = self.0.get_mut(scope) else { return false };
        let removed = entries.remove(name).is_some();
        if entries.is_empty() {
            self.0.remove(scope);
        }
        removed
    }

    /// How many attributes a scope has.
    pub(super) fn count(&self, scope: &str) -> usize {
        self.0.get(scope).map_or(0, BTreeMap::len)
    }

    /// Puts attributes into a scope and leaves its others; says whether that changed anything.
    pub(super) fn merge(&mut self, scope: &str, reported: &BTreeMap<String, Entry>) -> bool {
        let mut changed = false;
        for (name, entry) in reported {
            let entries = self.0.entry(scope.to_owned()).or_default();
            let known = entries.get(name);
            let entry = keeping_description(entry, known);
            if known.is_none_or(|known| !entry.says_the_same(known)) {
                entries.insert(name.clone(), entry);
                changed = true;
            }
        }
        changed
    }

    /// Makes attributes the only ones of a scope; says whether that changed anything.
    pub(super) fn replace(&mut self, scope: &str, reported: &BTreeMap<String, Entry>) -> bool {
        let mut changed = self.merge(scope, reported);
        if let Some(entries) = self.0.get_mut(scope) {
            let before = entries.len();
            entries.retain(|name, _| reported.contains_key(name));
            changed |= entries.len() != before;
            if entries.is_empty() {
                self.0.remove(scope);
            }
        }
        changed
    }

    /// Every attribute, in order of scope and name.
    pub(super) fn into_attributes(self) -> Vec<Attribute> {
        let mut attributes = Vec::new();
        for (scope, entries) in self.0 {
            for (name, entry) in entries {
                attributes.push(Attribute {
                    scope: scope.clone(),
                    name,
                    value: entry.value,
                    description: entry.description,
                    timestamp: entry.timestamp.map(Timestamp),
                });
            }
        }
        attributes
    }
}

/// Attributes of one scope by name, in a form both databases can keep. Of several with one name the last counts.
pub(super) fn reported(attributes: Vec<Attribute>) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    for attribute in attributes {
        let entry = Entry {
            value: storable(attribute.value),
            description: attribute.description.map(|text| without_nul(&text).into_owned()),
            timestamp: attribute.timestamp.map(|at| at.0),
        };
        entries.insert(without_nul(&attribute.name).into_owned(), entry);
    }
    entries
}

/// Whether a value has one of the types an attribute may have: text, number, array of only one of them.
#[must_use]
pub fn is_attribute_value(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Number(_) => true,
        Value::Array(items) => items.iter().all(Value::is_string) || items.iter().all(Value::is_number),
        Value::Null | Value::Bool(_) | Value::Object(_) => false,
    }
}

/// A report without a description keeps the one that is known.
fn keeping_description(entry: &Entry, known: Option<&Entry>) -> Entry {
    let description = entry.description.clone().or_else(|| known.and_then(|known| known.description.clone()));
    Entry { description, ..entry.clone() }
}

fn storable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(&text).into_owned()),
        Value::Array(items) => Value::Array(items.into_iter().map(storable).collect()),
        other => other,
    }
}

/// Equality of values, with numbers compared as the doubles they are.
fn same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b)),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attributes(values: &[(&str, Value)]) -> BTreeMap<String, Entry> {
        values.iter().map(|(name, value)| ((*name).to_owned(), Entry::new(value.clone()))).collect()
    }

    #[test]
    fn merging_leaves_others_and_notices_what_is_new() {
        let mut document = Document::default();
        assert!(document.merge("inventory", &attributes(&[("a", json!(1)), ("b", json!("x"))])));
        assert!(!document.merge("inventory", &attributes(&[("a", json!(1.0))])));
        assert!(document.merge("inventory", &attributes(&[("a", json!("1"))])));
        assert_eq!(document.count("inventory"), 2);
    }

    #[test]
    fn replacing_drops_others_of_the_scope_only() {
        let mut document = Document::default();
        document.merge("inventory", &attributes(&[("a", json!(1)), ("b", json!(2))]));
        document.merge("tags", &attributes(&[("name", json!("lamp"))]));
        assert!(document.replace("inventory", &attributes(&[("b", json!(2))])));
        assert!(!document.replace("inventory", &attributes(&[("b", json!(2))])));
        assert!(document.replace("inventory", &attributes(&[])));
        assert!(!document.replace("inventory", &attributes(&[])));
        assert_eq!((document.count("inventory"), document.count("tags")), (0, 1));
    }

    #[test]
    fn a_description_stays_until_another_is_given() {
        let mut document = Document::default();
        let described = |text: &str| {
            BTreeMap::from([("a".to_owned(), Entry { description: Some(text.to_owned()), ..Entry::new(json!(1)) })])
        };
        document.merge("inventory", &described("one"));
        assert!(!document.replace("inventory", &attributes(&[("a", json!(1))])));
        assert!(document.merge("inventory", &described("two")));
        assert_eq!(document.into_attributes()[0].description.as_deref(), Some("two"));
    }

    #[test]
    fn only_plain_and_uniform_values_are_attributes() {
        for value in [json!(""), json!(1.5), json!([]), json!(["a"]), json!([1, 2.5])] {
            assert!(is_attribute_value(&value), "{value}");
        }
        for value in [json!(null), json!(true), json!({}), json!([1, "a"]), json!([[1]]), json!([null])] {
            assert!(!is_attribute_value(&value), "{value}");
        }
    }
}
