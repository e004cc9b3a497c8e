//! What is said of an alert beside its texts.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// A JSON object, kept as the text that it is stored and answered as: reading it takes several times its room.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Details(Box<RawValue>);

impl Details {
    /// The text of a column; `None` if it is no JSON.
    pub(super) fn read(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self)
    }

    /// As JSON.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl From<Value> for Details {
    fn from(value: Value) -> Self {
        // A value that is in memory can always be written.
        Self(to_raw_value(&value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl PartialEq for Details {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}
