//! Personal access tokens: named, and kept until they expire or are revoked.

use super::{UserToken, Users};
use crate::database::{in_transaction, on_reader, on_writer};
use crate::{StorageError, Timestamp, TokenId, UserId};

impl Users {
    /// Stores a named token, which the user asks for by the token `caller`. A user has at most `limit` of them (0: any
    /// number) that have not expired.
    ///
    /// # Errors
    /// `Conflict("user")` if the user is gone, `Conflict("caller")` if `caller` is, `Conflict("count")` at the limit, `Conflict("name")` if another of the
    /// user's tokens has that name; `Unavailable`, `Other`.
    pub async fn add_named_token(&self, token: &UserToken, limit: u32, caller: TokenId) -> Result<(), StorageError> {
        let added = async {
            let mut transaction = self.db.begin().await?;
            // Changes nothing, but makes two requests of one user take turns.
            let found = in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE users SET updated_at = updated_at WHERE id = $1")
                    .bind(&token.user)
                    .execute(connection)
                    .await
                    .map(|done| done.rows_affected())
            })?;
            if found == 0 {
                return Err(StorageError::Conflict("user"));
            }
            // A change of password waits for the same row, and one that came first has ended the caller's token.
            let is_there: Option<i32> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar("SELECT 1 FROM user_tokens WHERE id = $1 AND user_id = $2")
                    .bind(caller)
                    .bind(&token.user)
                    .fetch_optional(connection)
                    .await
            })?;
            if is_there.is_none() {
                return Err(StorageError::Conflict("caller"));
            }
            // An expired token would keep its name and its place until somebody sweeps.
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("DELETE FROM user_tokens WHERE user_id = $1 AND name IS NOT NULL AND expires_at <= $2")
                    .bind(&token.user)
                    .bind(token.created)
                    .execute(connection)
                    .await
                    .map(drop)
            })?;
            let count: i64 = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar("SELECT COUNT(*) FROM user_tokens WHERE user_id = $1 AND name IS NOT NULL")
                    .bind(&token.user)
                    .fetch_one(connection)
                    .await
            })?;
            if limit > 0 && count >= i64::from(limit) {
                transaction.commit().await?;
                return Err(StorageError::Conflict("count"));
            }
            let added = in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "INSERT INTO user_tokens (id, user_id, created_at, expires_at, name) VALUES ($1, $2, $3, $4, $5) \
                     ON CONFLICT DO NOTHING",
                )
                .bind(token.id)
                .bind(&token.user)
                .bind(token.created)
                .bind(token.expires)
                .bind(&token.name)
                .execute(connection)
                .await
                .map(|done| done.rows_affected())
            })?;
            transaction.commit().await?;
            if added == 0 { Err(StorageError::Conflict("name")) } else { Ok(()) }
        };
        self.db.within(added).await
    }

    /// The named tokens of a user that have not expired at `now`, oldest first.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn named_tokens(&self, user: &UserId, now: Timestamp) -> Result<Vec<UserToken>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT id, user_id, created_at, expires_at, name, last_used_at FROM user_tokens \
                 WHERE user_id = $1 AND name IS NOT NULL AND (expires_at IS NULL OR expires_at > $2) \
                 ORDER BY created_at, id",
            )
            .bind(user)
            .bind(now)
            .fetch_all(pool)
            .await
        })
    }

    /// Ends a token if it is this user's; says whether it was.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn revoke_token_of(&self, user: &UserId, id: TokenId) -> Result<bool, StorageError> {
        let removed = on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM user_tokens WHERE id = $1 AND user_id = $2")
                .bind(id)
                .bind(user)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok(removed > 0)
    }

    /// Notes that a token was used, unless that was noted after `not_since`.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn note_use(&self, id: TokenId, now: Timestamp, not_since: Timestamp) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE user_tokens SET last_used_at = $2 \
                 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $3)",
            )
            .bind(id)
            .bind(now)
            .bind(not_since)
            .execute(pool)
            .await
            .map(drop)
        })
    }
}
