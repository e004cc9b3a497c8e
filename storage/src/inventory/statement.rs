//! A statement that is put together from parts, with the values for its placeholders: the same text for both databases.

use crate::dialect::{Dialect, without_nul};
use crate::{ArtifactId, DeploymentId, DeviceId, Timestamp};

/// A value for a placeholder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument {
    Bytes(Vec<u8>),
    Text(String),
    Number(i64),
    Real(f64),
    Id(uuid::Uuid),
}

impl From<Vec<u8>> for Argument {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// A text as the tables have it.
impl From<String> for Argument {
    fn from(text: String) -> Self {
        Self::Text(without_nul(&text).into_owned())
    }
}

impl From<i64> for Argument {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<f64> for Argument {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<DeviceId> for Argument {
    fn from(device: DeviceId) -> Self {
        Self::Id(device.uuid())
    }
}

impl From<DeploymentId> for Argument {
    fn from(deployment: DeploymentId) -> Self {
        Self::Id(deployment.uuid())
    }
}

impl From<ArtifactId> for Argument {
    fn from(artifact: ArtifactId) -> Self {
        Self::Id(artifact.uuid())
    }
}

impl From<Timestamp> for Argument {
    fn from(at: Timestamp) -> Self {
        Self::Number(at.0)
    }
}

/// Text and arguments. Nothing that came from outside ever goes into the text.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) dialect: Dialect,
    pub(crate) text: String,
    pub(crate) arguments: Vec<Argument>,
}

impl Statement {
    pub(crate) fn new(dialect: Dialect, text: &str) -> Self {
        Self { dialect, text: text.to_owned(), arguments: Vec::new() }
    }

    /// Adds text of ours.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a placeholder and its value.
    pub(crate) fn bind(&mut self, argument: impl Into<Argument>) -> &mut Self {
        self.arguments.push(argument.into());
        self.text.push('$');
        self.text.push_str(&self.arguments.len().to_string());
        self
    }

    /// Adds placeholders separated by commas.
    pub(crate) fn bind_all<A: Into<Argument>>(&mut self, arguments: impl IntoIterator<Item = A>) -> &mut Self {
        for (place, argument) in arguments.into_iter().enumerate() {
            if place > 0 {
                self.push(", ");
            }
            self.bind(argument);
        }
        self
    }
}

/// Binds the arguments of a statement to a query of its text.
macro_rules! with_arguments {
    ($statement:expr, $query:expr) => {{
        let mut query = $query;
        for argument in $statement.arguments {
            query = match argument {
                $crate::inventory::statement::Argument::Bytes(bytes) => query.bind(bytes),
                $crate::inventory::statement::Argument::Text(text) => query.bind(text),
                $crate::inventory::statement::Argument::Number(number) => query.bind(number),
                $crate::inventory::statement::Argument::Real(number) => query.bind(number),
                $crate::inventory::statement::Argument::Id(id) => query.bind(id),
            };
        }
        // Planned for its arguments each time: a plan for any value would be one for none.
        query.persistent(false)
    }};
}
pub(crate) use with_arguments;
