//! How a condition becomes SQL over the inventory `i` and its terms.

use serde_json::Value;

use super::attribute::{self, Column};
use super::filter::{Condition, Test};
use super::statement::Statement;
use super::term;
use crate::DeviceId;

/// What a condition asks, with every expression replaced by the values that match it.
#[derive(Debug, Clone)]
pub(super) struct Asked<'a> {
    pub(super) condition: &'a Condition,
    /// The terms, or texts of a column, that match the condition's expression, if it has one.
    pub(super) matching: Matching,
}

/// What matches an expression.
#[derive(Debug, Clone, Default)]
pub(super) enum Matching {
    /// The condition has no expression.
    #[default]
    NotAsked,
    /// These texts of a column.
    Texts(Vec<String>),
    /// These terms.
    Terms(Vec<Vec<u8>>),
    /// All terms of a range.
    Range(term::Range),
}

impl Matching {
    /// How many values of a statement it takes that the condition did not name.
    pub(super) const fn values(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Terms(terms) => terms.len(),
            Self::NotAsked | Self::Range(_) => 0,
        }
    }
}

impl Asked<'_> {
    /// Adds the condition to a `WHERE`.
    pub(super) fn write(&self, statement: &mut Statement) {
        let Condition { scope, name, test } = self.condition;
        match attribute::column(scope, name) {
            Some(Column::Text(column)) => self.write_text(column, test, statement),
            Some(Column::Time(column)) => write_time(column, test, statement),
            Some(Column::Id) if Self::write_id(test, statement) => {}
            Some(Column::Id) | None => self.write_terms(term::fingerprint(scope, name), test, statement),
        }
    }

    /// The one term that devices have which pass, if the condition comes down to that.
    pub(super) fn single_term(&self) -> Option<Vec<u8>> {
        let Condition { scope, name, test } = self.condition;
        match test {
            Test::OneOf(values) if attribute::column(scope, name).is_none() => match values.as_slice() {
                [value] => term::equal_to(term::fingerprint(scope, name), value),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the kept counts know enough to decide it.
    pub(super) fn is_counted(&self) -> bool {
        matches!(attribute::column(&self.condition.scope, &self.condition.name), Some(Column::Text(_)))
    }

    fn write_text(&self, column: &'static str, test: &Test, statement: &mut Statement) {
        let wanted =
            |values: &[Value]| -> Vec<String> { values.iter().filter_map(Value::as_str).map(str::to_owned).collect() };
        match test {
            Test::OneOf(values) => one_of(column, wanted(values), statement),
            Test::NoneOf(values) => {
                statement.push("(").push(column).push(" IS NULL OR NOT ");
                one_of(column, wanted(values), statement);
                statement.push(")");
            }
            Test::Compares(comparison, Value::String(bound)) => {
                statement.push(column).push(comparison.symbol()).bind(bound.clone());
            }
            Test::LessOrMissing(Value::String(bound)) => {
                statement.push("(").push(column).push(" IS NULL OR ").push(column).push(" < ");
                statement.bind(bound.clone()).push(")");
            }
            Test::LessOrMissing(_) => {
                statement.push(column).push(" IS NULL");
            }
            Test::Compares(..) => {
                statement.push("FALSE");
            }
            Test::Exists(exists) => {
                statement.push(column).push(if *exists { " IS NOT NULL" } else { " IS NULL" });
            }
            Test::Matches(_) => match &self.matching {
                Matching::Texts(texts) => one_of(column, texts.clone(), statement),
                _ => {
                    statement.push("FALSE");
                }
            },
        }
    }

    /// Ids that are equal; anything else about an id is asked of its text. Says whether it was that.
    fn write_id(test: &Test, statement: &mut Statement) -> bool {
        let ids = |values: &[Value]| -> Vec<DeviceId> {
            values.iter().filter_map(|value| value.as_str()?.parse().ok()).collect()
        };
        match test {
            Test::OneOf(values) => one_of("i.device", ids(values), statement),
            Test::NoneOf(values) => {
                statement.push("NOT ");
                one_of("i.device", ids(values), statement);
            }
            _ => return false,
        }
        true
    }

    fn write_terms(&self, attribute: [u8; 8], test: &Test, statement: &mut Statement) {
        let equal = |values: &[Value]| -> Vec<Vec<u8>> {
            values.iter().filter_map(|value| term::equal_to(attribute, value)).collect()
        };
        match test {
            Test::OneOf(values) => has_one_of(equal(values), statement),
            Test::NoneOf(values) => lacks_all_of(equal(values), statement),
            Test::Compares(comparison, value) => match term::comparing(attribute, value, comparison.wanted()) {
                Some(range) => has_one_between(range, statement),
                None => {
                    statement.push("FALSE");
                }
            },
            Test::LessOrMissing(value) => {
                statement.push("(");
                lacks_all_between(term::all(attribute), statement);
                let less = super::filter::Comparison::Less.wanted();
                if let Some(range) = term::comparing(attribute, value, less) {
                    statement.push(" OR ");
                    has_one_between(range, statement);
                }
                statement.push(")");
            }
            Test::Exists(true) => has_one_between(term::all(attribute), statement),
            Test::Exists(false) => lacks_all_between(term::all(attribute), statement),
            Test::Matches(_) => match &self.matching {
                Matching::Terms(terms) => has_one_of(terms.clone(), statement),
                Matching::Range(range) => has_one_between(range.clone(), statement),
                Matching::NotAsked | Matching::Texts(_) => {
                    statement.push("FALSE");
                }
            },
        }
    }
}

fn write_time(column: &'static str, test: &Test, statement: &mut Statement) {
    let moments = |values: &[Value]| -> Vec<i64> { values.iter().filter_map(Value::as_i64).collect() };
    match test {
        Test::OneOf(values) => one_of(column, moments(values), statement),
        Test::NoneOf(values) => {
            statement.push("(").push(column).push(" IS NULL OR NOT ");
            one_of(column, moments(values), statement);
            statement.push(")");
        }
        Test::Compares(comparison, value) => {
            statement.push(column).push(comparison.symbol()).bind(value.as_i64().unwrap_or_default());
        }
        Test::LessOrMissing(value) => {
            statement.push("(").push(column).push(" IS NULL OR ").push(column).push(" < ");
            statement.bind(value.as_i64().unwrap_or_default()).push(")");
        }
        Test::Exists(exists) => {
            statement.push(column).push(if *exists { " IS NOT NULL" } else { " IS NULL" });
        }
        // A time is no text.
        Test::Matches(_) => {
            statement.push("FALSE");
        }
    }
}

fn one_of<A: Into<super::statement::Argument>>(column: &str, values: Vec<A>, statement: &mut Statement) {
    match values.len() {
        0 => statement.push("FALSE"),
        1 => statement.push(column).push(" = ").bind_all(values),
        _ => statement.push(column).push(" IN (").bind_all(values).push(")"),
    };
}

fn has_one_of(terms: Vec<Vec<u8>>, statement: &mut Statement) {
    if terms.is_empty() {
        statement.push("FALSE");
        return;
    }
    // Not EXISTS: SQLite up to 3.51 at least makes a join of that and may then forget the order of the outer query.
    statement.push("i.device IN (SELECT t.device FROM inventory_terms t WHERE ");
    one_of("t.term", terms, statement);
    statement.push(")");
}

fn has_one_between(range: term::Range, statement: &mut Statement) {
    statement.push("i.device IN (SELECT t.device FROM inventory_terms t WHERE ");
    between(range, statement);
    statement.push(")");
}

/// Not `NOT IN`: Postgres would try each device on the whole list.
fn lacks_all_of(terms: Vec<Vec<u8>>, statement: &mut Statement) {
    if terms.is_empty() {
        statement.push("TRUE");
        return;
    }
    statement.push("NOT EXISTS (SELECT 1 FROM inventory_terms t WHERE t.device = i.device AND ");
    one_of("t.term", terms, statement);
    statement.push(")");
}

fn lacks_all_between(range: term::Range, statement: &mut Statement) {
    statement.push("NOT EXISTS (SELECT 1 FROM inventory_terms t WHERE t.device = i.device AND ");
    between(range, statement);
    statement.push(")");
}

fn between((start, end): term::Range, statement: &mut Statement) {
    statement.push("t.term >= ").bind(start).push(" AND t.term < ").bind(end);
}
