//! Who a device says it is: a JSON object, brought into one form so that two spellings of it are one device.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

/// Longest identity a device may send, in bytes of JSON text.
pub const TEXT_LIMIT: usize = 16 * 1024;

/// Most members an identity may have.
pub const MEMBERS_LIMIT: usize = 64;

/// Above this not every whole number has a double of its own, so two different numbers could be one identity.
const EXACT_DOUBLES: f64 = 9_007_199_254_740_992.0;

/// The identity of a device.
///
/// Equal are identities that differ in the order of members, in white space, in escapes, or in how a number is written
/// (`1`, `1.0`, `1e0`). The order of arrays matters, and the number 1 is not the text `"1"`. Of members with the same name
/// the last one counts. (Mender API: identity data; the canonical text and its hash are those of a Mender server.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    canonical: String,
    hash: [u8; 32],
}

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Longer than [`TEXT_LIMIT`].
    #[error("id_data must not be longer than {TEXT_LIMIT} bytes")]
    TooLong,
    /// More members than [`MEMBERS_LIMIT`].
    #[error("id_data must not have more than {MEMBERS_LIMIT} members")]
    TooManyMembers,
    /// JSON, but no object.
    #[error("id_data must be a JSON object")]
    NotAnObject,
    /// No JSON, or a number that cannot be kept exactly.
    #[error("id_data is not valid: {0}")]
    Invalid(String),
}

impl Identity {
    /// Reads an identity from JSON text.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if text.len() > TEXT_LIMIT {
            return Err(IdentityError::TooLong);
        }
        let value: Json = serde_json::from_str(text).map_err(|error| IdentityError::Invalid(error.to_string()))?;
        let Json::Object(members) = &value else { return Err(IdentityError::NotAnObject) };
        if members.len() > MEMBERS_LIMIT {
            return Err(IdentityError::TooManyMembers);
        }
        let mut canonical = String::with_capacity(text.len());
        value.write(&mut canonical);
        let hash = Sha256::digest(&canonical).into();
        Ok(Self { canonical, hash })
    }

    /// The one text of this identity.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// SHA-256 of the canonical text.
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Whether it says nothing at all (`{}`).
    pub fn is_empty(&self) -> bool {
        self.canonical == "{}"
    }
}

/// A JSON value whose objects are sorted by name and whose numbers are already in their final form.
enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(number) => out.push_str(number),
            Self::Text(text) => write_text(text, out),
            Self::Array(values) => {
                out.push('[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    value.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_text(name, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Escapes what a Go server escapes, or the hash of an imported device would differ.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", u32::from(character)).expect("writing to a String cannot fail");
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// The shortest text that reads back as this double, without an exponent where a Go server writes none.
fn number(value: f64) -> Option<String> {
    if !value.is_finite() || value.abs() >= EXACT_DOUBLES {
        return None;
    }
    if value == 0.0 {
        // Minus zero equals zero.
        return Some("0".to_owned());
    }
    Some(if value.abs() < 1e-6 { format!("{value:e}") } else { format!("{value}") })
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        number(value).map(Json::Number).ok_or_else(|| E::custom("a number is too large to be kept exactly"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            members.insert(name, value);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Identity::parse(text).unwrap().canonical
    }

    #[test]
    fn spellings_of_one_object_are_one_identity() {
        let first = Identity::parse(r#"{"sn":"1","mac":"a"}"#).unwrap();
        let second = Identity::parse(" { \"mac\":\"\\u0061\",\n \"sn\":\"1\" } ").unwrap();
        assert_eq!(first, second);
        assert_eq!(first.canonical(), r#"{"mac":"a","sn":"1"}"#);
        assert_eq!(canonical(r#"{"a":1}"#), canonical(r#"{"a":1.0}"#));
        assert_eq!(canonical(r#"{"a":1}"#), canonical(r#"{"a":1e0}"#));
        assert_eq!(canonical(r#"{"a":0}"#), canonical(r#"{"a":-0.0}"#));
        assert_eq!(canonical(r#"{"a":"x","a":"y"}"#), r#"{"a":"y"}"#);
    }

    #[test]
    fn what_differs_in_meaning_differs() {
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":["x","y"]}"#, r#"{"a":["y","x"]}"#),
            (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#),
            (r#"{"a":null}"#, r"{}"),
        ] {
            assert_ne!(canonical(one), canonical(other));
        }
    }

    #[test]
    fn members_are_sorted_by_bytes_on_every_level() {
        assert_eq!(
            canonical(r#"{"b":{"é":1,"z":2,"Z":3},"a":[{"d":1,"c":2}]}"#),
            r#"{"a":[{"c":2,"d":1}],"b":{"Z":3,"z":2,"é":1}}"#
        );
    }

    #[test]
    fn text_is_escaped_as_an_imported_hash_needs_it() {
        assert_eq!(
            canonical("{\"a\":\"<&>\u{2028}\\u0001\\n\\/\u{7f}\"}"),
            "{\"a\":\"\\u003c\\u0026\\u003e\\u2028\\u0001\\n/\u{7f}\"}"
        );
    }

    #[test]
    fn numbers_are_written_in_their_shortest_form() {
        for (text, shortest) in [
            ("1.50", "1.5"),
            ("1e3", "1000"),
            ("-12", "-12"),
            ("0.000001", "0.000001"),
            ("1.5e-7", "1.5e-7"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(canonical(&format!("{{\"n\":{text}}}")), format!("{{\"n\":{shortest}}}"));
        }
    }

    #[test]
    fn numbers_that_would_collide_are_refused() {
        for text in ["18446744073709551616", "9007199254740993.0", "1e300"] {
            assert!(matches!(Identity::parse(&format!("{{\"n\":{text}}}")), Err(IdentityError::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn only_an_object_is_an_identity() {
        for text in ["null", "[]", "\"x\"", "7", "true"] {
            assert_eq!(Identity::parse(text), Err(IdentityError::NotAnObject), "{text}");
        }
        for text in ["", "{", "{}{}", "{\"a\":}"] {
            assert!(matches!(Identity::parse(text), Err(IdentityError::Invalid(_))), "{text}");
        }
        assert!(Identity::parse("{}").unwrap().is_empty());
    }

    #[test]
    fn its_size_is_bounded() {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(TEXT_LIMIT));
        assert_eq!(Identity::parse(&long), Err(IdentityError::TooLong));
        let members = |count: usize| {
            let members: Vec<String> = (0..count).map(|index| format!("\"{index}\":1")).collect();
            Identity::parse(&format!("{{{}}}", members.join(",")))
        };
        assert!(members(MEMBERS_LIMIT).is_ok());
        assert_eq!(members(MEMBERS_LIMIT + 1), Err(IdentityError::TooManyMembers));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
        assert!(matches!(Identity::parse(&deep), Err(IdentityError::Invalid(_))));
    }

    #[test]
    fn the_hash_is_that_of_the_canonical_text() {
        let identity = Identity::parse(r#"{"mac":"a"}"#).unwrap();
        assert_eq!(*identity.hash(), <[u8; 32]>::from(Sha256::digest(r#"{"mac":"a"}"#)));
    }
}
