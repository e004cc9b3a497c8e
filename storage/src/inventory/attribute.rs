//! Attributes that the hub itself keeps in columns, and what an attribute of a device is where questions are asked.

use chrono::{DateTime, NaiveDate};
use serde_json::Value;

use super::InventoryDevice;
use crate::Timestamp;

/// Where the tables keep an attribute that is not among the terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// A text of its own.
    Text(&'static str),
    /// Microseconds since the Unix epoch, whole milliseconds.
    Time(&'static str),
    /// The device's id.
    Id,
}

/// The column of an attribute, if it has one.
pub(super) fn column(scope: &str, name: &str) -> Option<Column> {
    match (scope, name) {
        ("identity", "status") => Some(Column::Text("i.status")),
        ("identity", "id") => Some(Column::Id),
        ("system", "group") => Some(Column::Text("i.group_name")),
        ("system", "created_ts") => Some(Column::Time("i.created_at")),
        ("system", "updated_ts") => Some(Column::Time("i.reported_at")),
        ("system", "check_in_time") => Some(Column::Time("i.checked_in_at")),
        _ => None,
    }
}

/// A time as questions write it: RFC 3339, or a day, which begins at midnight UTC.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(Timestamp(time.timestamp_micros()));
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(Timestamp(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros()))
}

/// What is printed has no more than milliseconds; what is searched must be what is printed.
pub(super) const fn whole_millis(at: Timestamp) -> Timestamp {
    Timestamp(at.0 - at.0.rem_euclid(1_000))
}

/// The value of an attribute for questions: times as microseconds, the id as text.
pub(super) fn value_of(device: &InventoryDevice, scope: &str, name: &str) -> Option<Value> {
    let stored = || {
        let is_it = |attribute: &&super::Attribute| attribute.scope == scope && attribute.name == name;
        device.attributes.iter().find(is_it).map(|attribute| attribute.value.clone())
    };
    match column(scope, name) {
        Some(Column::Id) => Some(Value::String(device.id.to_string())),
        Some(Column::Time("i.reported_at")) => device.updated.map(|at| Value::from(whole_millis(at).0)),
        Some(Column::Time(_)) => stored()?.as_str().and_then(time).map(|at| Value::from(at.0)),
        Some(Column::Text(_)) | None => stored(),
    }
}
