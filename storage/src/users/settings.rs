//! What clients keep for their users: one document for everybody, and one per user. Nothing in it means anything here.

use super::Users;
use crate::database::{on_reader, on_writer};
use crate::{StorageError, UserId};

/// Whose settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsOwner<'a> {
    /// Those that all users share.
    Everybody,
    /// Those of one user; they go with the user.
    User(&'a UserId),
}

impl SettingsOwner<'_> {
    /// No user has an empty id.
    fn key(&self) -> &str {
        match self {
            Self::Everybody => "",
            Self::User(user) => user.as_str(),
        }
    }

    const fn user(&self) -> Option<&UserId> {
        match self {
            Self::Everybody => None,
            Self::User(user) => Some(user),
        }
    }
}

/// A stored document.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SettingsDocument {
    /// The text of a JSON object, as it came.
    pub document: String,
    /// Changes whenever the document is written.
    pub etag: String,
}

impl Users {
    /// The settings of an owner; `None` if nothing was ever stored.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn settings(&self, owner: SettingsOwner<'_>) -> Result<Option<SettingsDocument>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as("SELECT document, etag FROM settings WHERE owner = $1")
                .bind(owner.key())
                .fetch_optional(pool)
                .await
        })
    }

    /// Replaces an owner's settings, if they are still those of the etag `expected`, or if there are none yet; without
    /// one, whatever they are. Says whether it did.
    ///
    /// # Errors
    /// `Unavailable`, `Other` (also for a user who is gone).
    pub async fn replace_settings(
        &self,
        owner: SettingsOwner<'_>,
        settings: &SettingsDocument,
        expected: Option<&str>,
    ) -> Result<bool, StorageError> {
        let written = on_writer!(self.db, |pool| {
            sqlx::query(
                "INSERT INTO settings (owner, user_id, document, etag) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (owner) DO UPDATE SET document = excluded.document, etag = excluded.etag \
                 WHERE $5 IS NULL OR settings.etag = $5",
            )
            .bind(owner.key())
            .bind(owner.user())
            .bind(&settings.document)
            .bind(&settings.etag)
            .bind(expected)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        Ok(written > 0)
    }
}
