//! Signing keys: made once by whichever node starts first, then the same for all of them.

use crate::StorageError;
use crate::database::{Database, on_reader, on_writer};

/// The private keys that all nodes of this hub share.
#[derive(Debug, Clone)]
pub struct SigningKeys {
    db: Database,
}

impl SigningKeys {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// The key kept for `purpose` (PEM), made by `make` if there is none. Of several nodes that make one at the same
    /// time all get the one that was written first.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn get_or_create(
        &self,
        purpose: &str,
        make: impl FnOnce() -> String + Send,
    ) -> Result<String, StorageError> {
        if let Some(pem) = self.find(purpose).await? {
            return Ok(pem);
        }
        let candidate = make();
        on_writer!(self.db, |pool| {
            sqlx::query("INSERT INTO signing_keys (purpose, pem) VALUES ($1, $2) ON CONFLICT (purpose) DO NOTHING")
                .bind(purpose)
                .bind(&candidate)
                .execute(pool)
                .await
                .map(drop)
        })?;
        let kept = self.find(purpose).await?;
        kept.ok_or_else(|| StorageError::Corrupt(format!("signing key {purpose:?} vanished while it was made")))
    }

    async fn find(&self, purpose: &str) -> Result<Option<String>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT pem FROM signing_keys WHERE purpose = $1")
                .bind(purpose)
                .fetch_optional(pool)
                .await
        })
    }
}
