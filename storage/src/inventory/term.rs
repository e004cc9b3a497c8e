//! Values as bytes that sort as the values compare, so that one ordinary index of either database answers equality,
//! ranges, prefixes and order for every attribute.
//!
//! A term is the fingerprint of (scope, name), a tag for the type, and the value:
//!
//! | tag | type | payload |
//! |---|---|---|
//! | `0x10` | number | a double, its bits turned so that they sort |
//! | `0x20` | text | UTF-8; of a long one the beginning, a zero and a digest of the whole |
//! | `0x30`, `0x31` | where an array sorts, ascending and descending | its smallest, its largest element |
//! | `0x40` | boolean | `0` or `1` |
//! | `0x60` | an array as a whole | a digest |
//!
//! Elements of an array stand under the tags of their own type, so what finds a value finds an array that holds it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::dialect::without_nul;

/// Of a longer text, this many bytes count where texts are ordered or matched against a pattern. An entry of a Postgres
/// index may have some 2,700.
pub const COMPARED_TEXT: usize = 1024;

const NUMBER: u8 = 0x10;
const TEXT: u8 = 0x20;
const SMALLEST: u8 = 0x30;
const LARGEST: u8 = 0x31;
const BOOLEAN: u8 = 0x40;
const WHOLE: u8 = 0x60;

/// What a row of the index is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The value of an attribute that is no array: found, and sorted by.
    Value = 0,
    /// An element of an array: found.
    Element = 1,
    /// Where an array stands in ascending order.
    Smallest = 2,
    /// Where an array stands in descending order.
    Largest = 3,
    /// An array as a whole: found.
    Whole = 4,
}

/// Stands for a scope and a name: the beginning of a digest, so that no table has to be asked for a number.
pub(super) fn fingerprint(scope: &str, name: &str) -> [u8; 8] {
    let mut digest = Sha256::new();
    digest.update(without_nul(scope).as_bytes());
    digest.update([0]);
    digest.update(without_nul(name).as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// Every term under which an attribute with this value is found, with what each is for. None for a value that no
/// attribute has (null, an object).
pub(super) fn of_attribute(attribute: [u8; 8], value: &Value) -> BTreeMap<Vec<u8>, Role> {
    let mut terms = BTreeMap::new();
    if let Value::Array(items) = value {
        let elements: Vec<Vec<u8>> = items.iter().filter_map(of_scalar).collect();
        let place = |tag, element: Option<&Vec<u8>>| with(attribute, tag, element.map_or(&[], Vec::as_slice));
        terms.insert(place(SMALLEST, elements.iter().min()), Role::Smallest);
        terms.insert(place(LARGEST, elements.iter().max()), Role::Largest);
        terms.insert(of_whole(attribute, items), Role::Whole);
        terms.extend(elements.iter().map(|element| (joined(attribute, element), Role::Element)));
    } else if let Some(scalar) = of_scalar(value) {
        terms.insert(joined(attribute, &scalar), Role::Value);
    }
    terms
}

/// The term that an attribute has if it is, or holds, this value.
pub(super) fn equal_to(attribute: [u8; 8], value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Array(items) => Some(of_whole(attribute, items)),
        scalar => of_scalar(scalar).map(|scalar| joined(attribute, &scalar)),
    }
}

/// A range of terms, from the first to before the second.
pub(super) type Range = (Vec<u8>, Vec<u8>);

/// The terms of this attribute that compare so with a number or a text.
pub(super) fn comparing(attribute: [u8; 8], value: &Value, wanted: &[Ordering]) -> Option<Range> {
    let bound = joined(attribute, &of_scalar(value)?);
    let tag = bound[attribute.len()];
    if !matches!(tag, NUMBER | TEXT) {
        return None;
    }
    let after = |mut term: Vec<u8>| {
        // The next term there can be: a number has no longer one, and no text has a zero but a long one.
        term.push(0);
        term
    };
    let start = with(attribute, tag, &[]);
    let end = with(attribute, tag + 1, &[]);
    let or_equal = wanted.contains(&Ordering::Equal);
    Some(if wanted.contains(&Ordering::Less) {
        (start, if or_equal { after(bound) } else { bound })
    } else {
        (if or_equal { bound } else { after(bound) }, end)
    })
}

/// Every term of an attribute.
pub(super) fn all(attribute: [u8; 8]) -> Range {
    (attribute.to_vec(), with(attribute, 0xff, &[]))
}

/// The terms of this attribute that are texts with this beginning; those of no more than [`COMPARED_TEXT`] bytes tell
/// what they are.
pub(super) fn texts(attribute: [u8; 8], beginning: &str) -> Range {
    let start = with(attribute, TEXT, cut(beginning).as_bytes());
    // 0xff is in no UTF-8.
    let end = with(attribute, TEXT, &[cut(beginning).as_bytes(), &[0xff]].concat());
    (start, end)
}

/// The terms among which each attribute that is there has exactly one, by which it sorts; and of them those that do not
/// count, since they are for the other direction.
pub(super) fn places(attribute: [u8; 8]) -> Range {
    (with(attribute, NUMBER, &[]), with(attribute, WHOLE, &[]))
}

/// The value that a term says, as it is shown: text as far as it counts, a number as JSON writes it.
pub(super) fn shown(term: &[u8]) -> Option<String> {
    let (_, value) = term.split_at_checked(8)?;
    let (tag, payload) = value.split_first()?;
    match *tag {
        NUMBER => {
            let number = number_of(payload.try_into().ok()?);
            Some(serde_json::Number::from_f64(number)?.to_string().trim_end_matches(".0").to_owned())
        }
        TEXT => Some(text_of(payload)),
        BOOLEAN => Some((payload == [1]).to_string()),
        _ => None,
    }
}

/// The text that counts of a term that is one.
pub(super) fn text(term: &[u8]) -> Option<String> {
    let (_, value) = term.split_at_checked(8)?;
    let (tag, payload) = value.split_first()?;
    (*tag == TEXT).then(|| text_of(payload))
}

fn text_of(payload: &[u8]) -> String {
    let counted = payload.iter().position(|byte| *byte == 0).map_or(payload, |end| &payload[..end]);
    String::from_utf8_lossy(counted).into_owned()
}

/// As much of a text as counts where texts are ordered or matched against a pattern.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(COMPARED_TEXT)]
}

/// How texts compare: by their bytes as far as they count, then the longer ones by a digest.
pub(super) fn compare_texts(one: &str, other: &str) -> Ordering {
    if one.len().max(other.len()) <= COMPARED_TEXT { one.cmp(other) } else { bytes_of(one).cmp(&bytes_of(other)) }
}

/// Tag and payload of a value that is no array.
fn of_scalar(value: &Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::Number(number) => [&[NUMBER][..], &sortable(number.as_f64()?)].concat(),
        Value::String(text) => [&[TEXT][..], &bytes_of(&without_nul(text))].concat(),
        Value::Bool(on) => vec![BOOLEAN, u8::from(*on)],
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    })
}

/// Equal for arrays with equal elements in the same order.
fn of_whole(attribute: [u8; 8], items: &[Value]) -> Vec<u8> {
    let mut digest = Sha256::new();
    for item in items {
        let item = of_scalar(item).unwrap_or_default();
        digest.update(u64::try_from(item.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(&item);
    }
    let digest: [u8; 32] = digest.finalize().into();
    with(attribute, WHOLE, &digest[..16])
}

fn bytes_of(text: &str) -> Vec<u8> {
    let counted = cut(text);
    if counted.len() == text.len() {
        return text.as_bytes().to_vec();
    }
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    [counted.as_bytes(), &[0], &digest[..16]].concat()
}

/// The bits of a double, so that they sort as the numbers do. There is one zero.
fn sortable(number: f64) -> [u8; 8] {
    let bits = if number == 0.0 { 0.0_f64 } else { number }.to_bits();
    (if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }).to_be_bytes()
}

fn number_of(sortable: [u8; 8]) -> f64 {
    let bits = u64::from_be_bytes(sortable);
    f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
}

fn joined(attribute: [u8; 8], value: &[u8]) -> Vec<u8> {
    [&attribute, value].concat()
}

fn with(attribute: [u8; 8], tag: u8, payload: &[u8]) -> Vec<u8> {
    [&attribute, &[tag][..], payload].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_sort_as_numbers() {
        let numbers = [-1e300, -2.5, -1.0, -1e-300, 0.0, 1e-300, 0.5, 1.0, 10.0, 1e300];
        for pair in numbers.windows(2) {
            assert!(sortable(pair[0]) < sortable(pair[1]), "{pair:?}");
        }
        for number in numbers {
            assert_eq!(number_of(sortable(number)).to_bits(), number.to_bits());
        }
        assert_eq!(sortable(-0.0), sortable(0.0));
    }

    #[test]
    fn types_sort_one_after_the_other() {
        let place = |value: Value| {
            let is_place = |role: &Role| matches!(role, Role::Value | Role::Smallest);
            of_attribute([0; 8], &value).into_iter().find(|(_, role)| is_place(role))
        };
        let values = [json!(1e300), json!(""), json!("b"), json!([]), json!([9]), json!(["a"]), json!(false)];
        for pair in values.windows(2) {
            assert!(place(pair[0].clone()) < place(pair[1].clone()), "{pair:?}");
        }
    }

    #[test]
    fn a_long_text_is_told_apart_and_sorts_by_its_beginning() {
        let long = |end: &str| json!("é".repeat(COMPARED_TEXT) + end);
        let term = |value: &Value| equal_to([7; 8], value).unwrap();
        assert_ne!(term(&long("a")), term(&long("b")));
        assert_eq!(term(&long("a")), term(&long("a")));
        assert!(term(&long("a")).len() < 2000);
        assert!(term(&long("a")) < term(&json!("ü")));
        assert!(text(&term(&long("a"))).unwrap().chars().all(|one| one == 'é'));
    }

    #[test]
    fn what_a_term_says_can_be_read() {
        let said = |value: Value| shown(&equal_to([7; 8], &value).unwrap());
        assert_eq!(said(json!("v2")).as_deref(), Some("v2"));
        assert_eq!(said(json!(7)).as_deref(), Some("7"));
        assert_eq!(said(json!(0.5)).as_deref(), Some("0.5"));
        assert_eq!(said(json!(true)).as_deref(), Some("true"));
    }

    #[test]
    fn an_array_has_one_place_in_each_direction() {
        let roles: Vec<Role> = of_attribute([0; 8], &json!(["b", "a", "b"])).into_values().collect();
        assert_eq!(roles, [Role::Element, Role::Element, Role::Smallest, Role::Largest, Role::Whole]);
        assert_eq!(of_attribute([0; 8], &json!([])).len(), 3);
    }
}
