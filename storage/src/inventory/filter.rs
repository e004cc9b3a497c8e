//! What can be asked of devices, and what each question means: [`Filter::matches`] is the definition that both databases
//! are held to.

use std::cmp::Ordering;

use serde_json::Value;

use super::attribute::{self, Column};
use super::pattern::{Anchor, Pattern};
use super::term::compare_texts;
use super::{InventoryDevice, is_attribute_value};
use crate::Timestamp;

/// Scopes that a question may name. (Mender API: inventory, search.)
pub const SCOPES: [&str; 5] = ["identity", "inventory", "monitor", "system", "tags"];

/// Conditions in one filter.
pub const CONDITIONS_LIMIT: usize = 100;

/// Expressions (`$regex`) in one filter: each is compiled, and tried on the values of its attribute.
pub const EXPRESSIONS_LIMIT: usize = 10;

/// Members of all lists in one filter. Either database takes some 32,000 values in one statement.
pub const MEMBERS_LIMIT: usize = 10_000;

/// Whose rules a question follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// Mender API: inventory.
    Inventory,
    /// Mender API: reporting. Lists only where lists belong, no `$ltne`, expressions cover the whole value.
    Reporting,
}

/// Why a question is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFilter(pub String);

/// A question: every condition has to hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter(Vec<Condition>);

/// One condition on one attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub(crate) scope: String,
    pub(crate) name: String,
    pub(crate) test: Test,
}

/// What is asked of the attribute. Numbers compare with numbers and texts with texts; times are numbers of microseconds
/// by then.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    /// It is, or holds, one of these.
    OneOf(Vec<Value>),
    /// It is not there, or neither is nor holds one of these.
    NoneOf(Vec<Value>),
    /// It, or an element, compares so.
    Compares(Comparison, Value),
    /// It is not there, or is less.
    LessOrMissing(Value),
    /// Whether it is there.
    Exists(bool),
    /// It, or an element, is a text that matches.
    Matches(Pattern),
}

impl Test {
    /// Reads what is asked as the wire has it.
    fn parse(grammar: Grammar, is_time: bool, operator: &str, value: &Value) -> Result<Self, BadFilter> {
        if value.is_null() {
            return bad("value: cannot be blank.");
        }
        let lists = grammar == Grammar::Inventory;
        Ok(match operator {
            "$eq" => Self::OneOf(vec![operand(value, is_time, lists)?]),
            "$ne" => Self::NoneOf(vec![operand(value, is_time, lists)?]),
            "$in" => Self::OneOf(members(value, is_time, lists)?),
            "$nin" => Self::NoneOf(members(value, is_time, lists)?),
            "$gt" => Self::Compares(Comparison::Greater, bound(value, is_time)?),
            "$gte" => Self::Compares(Comparison::AtLeast, bound(value, is_time)?),
            "$lt" => Self::Compares(Comparison::Less, bound(value, is_time)?),
            "$lte" => Self::Compares(Comparison::AtMost, bound(value, is_time)?),
            "$ltne" if grammar == Grammar::Inventory => Self::LessOrMissing(bound(value, is_time)?),
            "$exists" => Self::Exists(yes_or_no(value, grammar)?),
            "$regex" => {
                let Value::String(expression) = value else { return bad("value: $regex needs a text") };
                let anchor = if grammar == Grammar::Inventory { Anchor::Start } else { Anchor::Both };
                Self::Matches(Pattern::new(expression, anchor))
            }
            _ => return bad("type: must be a valid value."),
        })
    }
}

/// How values may compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Comparison {
    /// The same in SQL.
    pub(crate) const fn symbol(self) -> &'static str {
        match self {
            Self::Less => " < ",
            Self::AtMost => " <= ",
            Self::Greater => " > ",
            Self::AtLeast => " >= ",
        }
    }

    /// The outcomes that it allows.
    pub(crate) const fn wanted(self) -> &'static [Ordering] {
        match self {
            Self::Less => &[Ordering::Less],
            Self::AtMost => &[Ordering::Less, Ordering::Equal],
            Self::Greater => &[Ordering::Greater],
            Self::AtLeast => &[Ordering::Greater, Ordering::Equal],
        }
    }
}

impl Filter {
    /// A filter of these conditions.
    ///
    /// # Errors
    /// If there are more than [`CONDITIONS_LIMIT`], of them more than [`EXPRESSIONS_LIMIT`] expressions, or their lists
    /// hold more than [`MEMBERS_LIMIT`].
    pub fn new(conditions: Vec<Condition>) -> Result<Self, BadFilter> {
        Self::of_each(conditions.into_iter().map(Ok))
    }

    /// A filter of conditions that are still to be read: none is after the first that is too many.
    ///
    /// # Errors
    /// As [`Self::new`], and the first error among the conditions.
    pub fn of_each(conditions: impl IntoIterator<Item = Result<Condition, BadFilter>>) -> Result<Self, BadFilter> {
        let (mut taken, mut expressions, mut members) = (Vec::new(), 0, 0);
        for condition in conditions {
            let condition = condition?;
            members += match &condition.test {
                Test::OneOf(values) | Test::NoneOf(values) => values.len(),
                Test::Matches(_) => {
                    expressions += 1;
                    1
                }
                _ => 1,
            };
            taken.push(condition);
            if taken.len() > CONDITIONS_LIMIT {
                return Err(BadFilter(format!("filters: at most {CONDITIONS_LIMIT} are taken")));
            }
            if expressions > EXPRESSIONS_LIMIT {
                return Err(BadFilter(format!("filters: at most {EXPRESSIONS_LIMIT} of type $regex are taken")));
            }
            if members > MEMBERS_LIMIT {
                return Err(BadFilter(format!("filters: at most {MEMBERS_LIMIT} values are taken")));
            }
        }
        Ok(Self(taken))
    }

    /// The conditions.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        &self.0
    }

    /// Adds a condition.
    pub fn push(&mut self, condition: Condition) {
        self.0.push(condition);
    }

    /// Whether the device passes.
    #[must_use]
    pub fn matches(&self, device: &InventoryDevice) -> bool {
        self.0.iter().all(|condition| condition.holds(device))
    }
}

impl Condition {
    /// Reads one condition as the wire has it.
    ///
    /// # Errors
    /// What is wrong with it, in words for whoever sent it.
    pub fn parse(grammar: Grammar, scope: &str, name: &str, operator: &str, value: &Value) -> Result<Self, BadFilter> {
        check_attribute(scope, name)?;
        let is_time = matches!(attribute::column(scope, name), Some(Column::Time(_)));
        let test = Test::parse(grammar, is_time, operator, value)?;
        Ok(Self { scope: scope.to_owned(), name: name.to_owned(), test })
    }

    /// Reads one condition on a field that has no scope. (Mender API: reporting, deployments.)
    pub(crate) fn of_field(name: &str, is_time: bool, operator: &str, value: &Value) -> Result<Self, BadFilter> {
        let test = Test::parse(Grammar::Reporting, is_time, operator, value)?;
        Ok(Self { scope: String::new(), name: name.to_owned(), test })
    }

    /// Equality as the list of devices asks for it: text that reads as a number matches numbers too, and text that reads
    /// as a time matches times. Any scope may be named. (Mender API: inventory, management v1.)
    #[must_use]
    pub fn loosely_equal(scope: &str, name: &str, value: &str) -> Self {
        let test = if matches!(attribute::column(scope, name), Some(Column::Time(_))) {
            Test::OneOf(attribute::time(value).map(micros).into_iter().collect())
        } else {
            let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
            let number = number.and_then(serde_json::Number::from_f64).map(Value::Number);
            Test::OneOf([Some(Value::String(value.to_owned())), number].into_iter().flatten().collect())
        };
        Self { scope: scope.to_owned(), name: name.to_owned(), test }
    }

    /// The attribute equals this text.
    #[must_use]
    pub fn equals(scope: &str, name: &str, value: &str) -> Self {
        let test = Test::OneOf(vec![Value::String(value.to_owned())]);
        Self { scope: scope.to_owned(), name: name.to_owned(), test }
    }

    /// The attribute is, or holds, one of these texts.
    #[must_use]
    pub fn one_of(scope: &str, name: &str, texts: impl IntoIterator<Item = String>) -> Self {
        let test = Test::OneOf(texts.into_iter().map(Value::String).collect());
        Self { scope: scope.to_owned(), name: name.to_owned(), test }
    }

    /// The attribute is, or holds, a text that begins so.
    #[must_use]
    pub fn begins_with(scope: &str, name: &str, beginning: &str) -> Self {
        let test = Test::Matches(Pattern::beginning_with(beginning));
        Self { scope: scope.to_owned(), name: name.to_owned(), test }
    }

    /// The attribute is there, or is not.
    #[must_use]
    pub fn exists(scope: &str, name: &str, exists: bool) -> Self {
        Self { scope: scope.to_owned(), name: name.to_owned(), test: Test::Exists(exists) }
    }

    /// Whether it holds for this device.
    #[must_use]
    pub fn holds(&self, device: &InventoryDevice) -> bool {
        let found = attribute::value_of(device, &self.scope, &self.name);
        match (&self.test, found) {
            (Test::OneOf(values), Some(found)) => values.iter().any(|value| is_or_holds(&found, value)),
            (Test::NoneOf(values), Some(found)) => !values.iter().any(|value| is_or_holds(&found, value)),
            (Test::Compares(comparison, value), Some(found)) => compares(&found, comparison.wanted(), value),
            (Test::LessOrMissing(value), Some(found)) => compares(&found, Comparison::Less.wanted(), value),
            (Test::Exists(exists), found) => *exists == found.is_some(),
            (Test::Matches(pattern), Some(found)) => {
                elements(&found).iter().any(|element| element.as_str().is_some_and(|text| pattern.matches(text)))
            }
            (Test::NoneOf(_) | Test::LessOrMissing(_), None) => true,
            (Test::OneOf(_) | Test::Compares(..) | Test::Matches(_), None) => false,
        }
    }
}

/// Checks what a question, a projection or an order names.
///
/// # Errors
/// If the scope is none of [`SCOPES`] or the name is empty or too long.
pub fn check_attribute(scope: &str, name: &str) -> Result<(), BadFilter> {
    if scope.is_empty() {
        return bad("scope: cannot be blank.");
    }
    if !SCOPES.contains(&scope) {
        return bad("scope: must be a valid value.");
    }
    if name.is_empty() {
        return bad("attribute: cannot be blank.");
    }
    if name.len() > super::NAME_LIMIT {
        return Err(BadFilter(format!("attribute: the length must be between 1 and {}.", super::NAME_LIMIT)));
    }
    Ok(())
}

fn bad<T>(text: &str) -> Result<T, BadFilter> {
    Err(BadFilter(text.to_owned()))
}

fn micros(at: Timestamp) -> Value {
    Value::from(at.0)
}

/// A value to be equal to.
fn operand(value: &Value, is_time: bool, lists: bool) -> Result<Value, BadFilter> {
    if value.is_array() && !lists {
        return bad("value: a list is taken by $in and $nin alone");
    }
    if is_time {
        return moment(value);
    }
    if matches!(value, Value::Bool(_)) || is_attribute_value(value) {
        return Ok(value.clone());
    }
    bad("value: must be a text, a number, a boolean, or an array of only texts or only numbers")
}

fn members(value: &Value, is_time: bool, lists: bool) -> Result<Vec<Value>, BadFilter> {
    let Value::Array(members) = value else { return bad("value: $in and $nin need a list") };
    members.iter().map(|member| operand(member, is_time, lists)).collect()
}

/// A value to compare with.
fn bound(value: &Value, is_time: bool) -> Result<Value, BadFilter> {
    match value {
        _ if is_time => moment(value),
        Value::String(_) | Value::Number(_) => Ok(value.clone()),
        _ => bad("value: only a number or a text can be compared with"),
    }
}

fn moment(value: &Value) -> Result<Value, BadFilter> {
    match value.as_str().and_then(attribute::time) {
        Some(at) => Ok(micros(at)),
        None => bad("value: must be a time (RFC 3339) or a day (YYYY-MM-DD)"),
    }
}

fn yes_or_no(value: &Value, grammar: Grammar) -> Result<bool, BadFilter> {
    match value {
        Value::Bool(exists) => Ok(*exists),
        Value::String(text) if grammar == Grammar::Inventory && text == "true" => Ok(true),
        Value::String(text) if grammar == Grammar::Inventory && text == "false" => Ok(false),
        _ => bad("value: $exists needs true or false"),
    }
}

fn elements(value: &Value) -> &[Value] {
    match value {
        Value::Array(elements) => elements,
        scalar => std::slice::from_ref(scalar),
    }
}

fn is_or_holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(one, other)| same(one, other))
        }
        (_, Value::Array(_)) => false,
        (found, wanted) => elements(found).iter().any(|element| same(element, wanted)),
    }
}

fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (one, other) => one == other,
    }
}

fn compares(found: &Value, wanted: &[Ordering], value: &Value) -> bool {
    let outcome = |element: &Value| match (element, value) {
        (Value::Number(one), Value::Number(other)) => one.as_f64()?.partial_cmp(&other.as_f64()?),
        (Value::String(one), Value::String(other)) => Some(compare_texts(one, other)),
        _ => None,
    };
    elements(found).iter().filter_map(outcome).any(|outcome| wanted.contains(&outcome))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Attribute, DeviceId};

    fn device(attributes: &[(&str, &str, Value)]) -> InventoryDevice {
        let attributes = attributes.iter().map(|(scope, name, value)| Attribute {
            scope: (*scope).to_owned(),
            name: (*name).to_owned(),
            value: value.clone(),
            description: None,
            timestamp: None,
        });
        InventoryDevice {
            id: DeviceId::random(),
            attributes: attributes.collect(),
            updated: None,
            revision: 0,
            tags_etag: None,
        }
    }

    fn holds(found: Option<Value>, operator: &str, value: &Value) -> bool {
        let device = device(&found.map(|found| ("inventory", "a", found)).into_iter().collect::<Vec<_>>());
        Condition::parse(Grammar::Inventory, "inventory", "a", operator, value).unwrap().holds(&device)
    }

    #[test]
    fn a_text_never_equals_a_number() {
        assert!(holds(Some(json!(5)), "$eq", &json!(5.0)));
        assert!(!holds(Some(json!("5")), "$eq", &json!(5)));
        assert!(!holds(Some(json!("5")), "$gt", &json!(4)));
        assert!(holds(Some(json!("5")), "$gt", &json!("4")));
        assert!(!holds(Some(json!(true)), "$gt", &json!("4")));
    }

    #[test]
    fn an_array_is_found_by_what_it_holds() {
        assert!(holds(Some(json!(["a", "b"])), "$eq", &json!("b")));
        assert!(holds(Some(json!(["a", "b"])), "$eq", &json!(["a", "b"])));
        assert!(!holds(Some(json!(["a", "b"])), "$eq", &json!(["b", "a"])));
        assert!(!holds(Some(json!("a")), "$eq", &json!(["a"])));
        assert!(holds(Some(json!([1, 9])), "$gt", &json!(8)));
        assert!(holds(Some(json!(["x", "v1"])), "$regex", &json!("v")));
        assert!(!holds(Some(json!(["a"])), "$nin", &json!(["a"])));
    }

    #[test]
    fn what_is_not_there_passes_what_denies() {
        assert!(holds(None, "$ne", &json!("a")));
        assert!(holds(None, "$nin", &json!(["a"])));
        assert!(holds(None, "$nin", &json!([])));
        assert!(holds(None, "$ltne", &json!(1)));
        assert!(holds(None, "$exists", &json!("false")));
        for (operator, value) in [("$eq", json!("a")), ("$in", json!([])), ("$lt", json!(1)), ("$regex", json!(".*"))] {
            assert!(!holds(None, operator, &value), "{operator}");
        }
        assert!(!holds(Some(json!("a")), "$in", &json!([])));
    }

    #[test]
    fn times_compare_as_times() {
        let device = device(&[("system", "check_in_time", json!("2031-05-04T10:00:00.100Z"))]);
        let asked = |operator: &str, value: Value| {
            Condition::parse(Grammar::Inventory, "system", "check_in_time", operator, &value).unwrap().holds(&device)
        };
        assert!(asked("$gt", json!("2031-05-04T12:00:00+02:00")));
        assert!(asked("$lt", json!("2031-05-05")));
        assert!(asked("$eq", json!("2031-05-04T10:00:00.100Z")));
        assert!(!asked("$ltne", json!("2031-05-04T10:00:00.1Z")));
        for garbage in [json!("yesterday"), json!(5), json!(true)] {
            assert!(Condition::parse(Grammar::Inventory, "system", "created_ts", "$gt", &garbage).is_err());
        }
    }

    #[test]
    fn a_question_that_is_none_is_refused() {
        let refused = |scope: &str, name: &str, operator: &str, value: Value| {
            Condition::parse(Grammar::Inventory, scope, name, operator, &value).is_err()
        };
        assert!(refused("", "a", "$eq", json!(1)));
        assert!(refused("../../x", "a", "$eq", json!(1)));
        assert!(refused("inventory", "", "$eq", json!(1)));
        assert!(refused("inventory", "a", "$type", json!(1)));
        assert!(refused("inventory", "a", "", json!(1)));
        assert!(refused("inventory", "a", "$eq", json!(null)));
        assert!(refused("inventory", "a", "$eq", json!({})));
        assert!(refused("inventory", "a", "$in", json!("x")));
        assert!(refused("inventory", "a", "$exists", json!(1)));
        assert!(refused("inventory", "a", "$regex", json!(1)));
        assert!(refused("inventory", "a", "$gt", json!(true)));
    }

    #[test]
    fn reporting_takes_lists_only_where_they_belong() {
        let refused = |operator: &str, value: Value| {
            Condition::parse(Grammar::Reporting, "inventory", "a", operator, &value).is_err()
        };
        assert!(refused("$eq", json!(["a"])) && refused("$ne", json!(["a"])) && refused("$in", json!("a")));
        assert!(refused("$exists", json!("true")) && refused("$ltne", json!(1)));
        assert!(!refused("$in", json!(["a"])) && !refused("$exists", json!(true)));
    }

    #[test]
    fn a_filter_is_bounded() {
        let condition = Condition::equals("inventory", "a", "b");
        assert!(Filter::new(vec![condition.clone(); CONDITIONS_LIMIT]).is_ok());
        assert!(Filter::new(vec![condition; CONDITIONS_LIMIT + 1]).is_err());
        let many = Condition::one_of("inventory", "a", vec![String::new(); MEMBERS_LIMIT + 1]);
        assert!(Filter::new(vec![many]).is_err());
        let expression = Condition::begins_with("inventory", "a", "b");
        assert!(Filter::new(vec![expression.clone(); EXPRESSIONS_LIMIT]).is_ok());
        assert!(Filter::new(vec![expression.clone(); EXPRESSIONS_LIMIT + 1]).is_err());
        let mut read = 0;
        let endless = std::iter::repeat_with(|| {
            read += 1;
            Ok(expression.clone())
        });
        assert!(Filter::of_each(endless.take(1_000)).is_err());
        assert_eq!(read, EXPRESSIONS_LIMIT + 1);
    }
}
