//! The one error of this crate. Its variants are what a caller would do differently.

use std::error::Error;

/// Why storage could not do what was asked. Looking for something and not finding it is no error.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Something with this name or value exists already; the text names the field, such as `"email"`.
    #[error("conflict on {0}")]
    Conflict(&'static str),
    /// The database or Redis cannot be reached or is overloaded. Nothing is known to be written; try again later.
    #[error("storage is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The question would take longer, or more memory, than any may; the text says what would help.
    #[error("{0}")]
    TooExpensive(&'static str),
    /// Stored data cannot be understood; the text says which.
    #[error("stored data is corrupt: {0}")]
    Corrupt(String),
    /// A defect or a wrong setting: trying again will not help.
    #[error("storage failed")]
    Other(#[source] Box<dyn Error + Send + Sync>),
}

impl StorageError {
    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// A failure described in words, with the cause attached: `cannot open database hub.db`.
    pub(crate) fn other(attempt: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(Box::new(Attempt { attempt: attempt.into(), cause: cause.into() }))
    }

    /// As [`Self::other`], for something that may work later.
    pub(crate) fn unavailable(attempt: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Box::new(Attempt { attempt: attempt.into(), cause: cause.into() }))
    }
}

/// Said of a search that was broken off.
const SEARCH_TOO_LONG: &str =
    "the search takes too long: narrow it by status, group, or an attribute that equals a value";

/// What was tried, in front of why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
struct Attempt {
    attempt: String,
    #[source]
    cause: Box<dyn Error + Send + Sync>,
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        use crate::dialect::{Fault, fault};
        match &error {
            sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_) => Self::Unavailable(error.into()),
            sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            sqlx::Error::Database(database) => match fault(database.as_ref()) {
                Fault::Deadlock | Fault::Outage => Self::Unavailable(error.into()),
                Fault::TooSlow => Self::TooExpensive(SEARCH_TOO_LONG),
                Fault::Duplicate => Self::Conflict("key"),
                Fault::Defect => Self::Other(error.into()),
            },
            _ => Self::Other(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_and_a_lost_connection_are_outages() {
        assert!(StorageError::from(sqlx::Error::PoolTimedOut).is_unavailable());
        let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(StorageError::from(sqlx::Error::Io(lost)).is_unavailable());
        assert!(!StorageError::from(sqlx::Error::ColumnNotFound("x".into())).is_unavailable());
    }
}
