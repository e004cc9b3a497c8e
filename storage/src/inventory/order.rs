//! The order of devices by an attribute.
//!
//! Ascending: devices without it, then numbers, texts by their bytes, arrays by their smallest element, booleans, times.
//! Descending is the reverse, with arrays by their largest element. (Mender API: inventory, search.)

use std::cmp::Ordering;

use serde_json::Value;

use super::InventoryDevice;
use super::attribute::{self, Column};
use super::statement::Statement;
use super::term::{self, Role};

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// The attribute's scope.
    pub scope: String,
    /// The attribute's name.
    pub name: String,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl SortKey {
    /// How two devices stand to one another: the definition that both databases are held to.
    #[must_use]
    pub fn compare(&self, one: &InventoryDevice, other: &InventoryDevice) -> Ordering {
        let place = |device| {
            attribute::value_of(device, &self.scope, &self.name).map(|value| Place::new(value, self.descending))
        };
        let ordering = match (place(one), place(other)) {
            (Some(one), Some(other)) => one.compare(&other),
            (one, other) => one.is_some().cmp(&other.is_some()),
        };
        if self.descending { ordering.reverse() } else { ordering }
    }

    /// Joins the terms that a device sorts by, one for each device that has the attribute.
    pub(super) fn write_join(&self, number: usize, statement: &mut Statement) {
        if attribute::column(&self.scope, &self.name).is_some() {
            return;
        }
        let (start, end) = term::places(term::fingerprint(&self.scope, &self.name));
        let alias = format!("k{number}");
        let role = if self.descending { Role::Largest } else { Role::Smallest };
        statement
            .push(" LEFT JOIN inventory_terms ")
            .push(&alias)
            .push(" ON ")
            .push(&alias)
            .push(".device = i.device AND ");
        statement.push(&alias).push(".term >= ").bind(start).push(" AND ").push(&alias).push(".term < ").bind(end);
        statement.push(" AND ").push(&alias).push(".role IN (0, ").push(&(role as i16).to_string()).push(")");
    }

    /// The key of an `ORDER BY`. Devices without the attribute come first in ascending order.
    pub(super) fn write_order(&self, number: usize, backwards: bool, statement: &mut Statement) {
        let descending = self.descending != backwards;
        match attribute::column(&self.scope, &self.name) {
            Some(Column::Text(column) | Column::Time(column)) => statement.push(column),
            Some(Column::Id) => statement.push("i.device"),
            None => statement.push(&format!("k{number}.term")),
        };
        statement.push(if descending { " DESC NULLS LAST" } else { " ASC NULLS FIRST" });
    }
}

/// Where a value stands among values of all types.
#[derive(Debug)]
struct Place {
    rank: u8,
    value: Option<Value>,
}

impl Place {
    fn new(value: Value, descending: bool) -> Self {
        match value {
            Value::Number(_) => Self { rank: 1, value: Some(value) },
            Value::String(_) => Self { rank: 2, value: Some(value) },
            Value::Array(items) => {
                let compare = |one: &Value, other: &Value| compare_scalars(one, other);
                let items = items.into_iter();
                Self { rank: 3, value: if descending { items.max_by(compare) } else { items.min_by(compare) } }
            }
            _ => Self { rank: 4, value: Some(value) },
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank).then_with(|| match (&self.value, &other.value) {
            (Some(one), Some(other)) => compare_scalars(one, other),
            (one, other) => one.is_some().cmp(&other.is_some()),
        })
    }
}

/// Numbers come before texts: arrays of either are compared with one another.
fn compare_scalars(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one.as_f64().partial_cmp(&other.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Value::String(one), Value::String(other)) => term::compare_texts(one, other),
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (one, other) => one.is_string().cmp(&other.is_string()),
    }
}
