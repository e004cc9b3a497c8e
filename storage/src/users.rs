//! Users and the tokens that stand for them.

use crate::database::{Database, in_transaction, on_reader, on_writer};
use crate::dialect::may_be_kept;
use crate::{StorageError, Timestamp, TokenId, UserId};

mod settings;
mod tokens;

pub use settings::{SettingsDocument, SettingsOwner};

/// Somebody who may use the management API.
#[derive(Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// Address they log in with, lower case; nobody else has it.
    pub email: String,
    /// Their password, hashed (the hash names its own method).
    pub password_hash: String,
    /// When they were added.
    #[sqlx(rename = "created_at")]
    pub created: Timestamp,
    /// When anything but the login time last changed.
    #[sqlx(rename = "updated_at")]
    pub updated: Timestamp,
    /// When they last logged in.
    #[sqlx(rename = "logged_in_at")]
    pub logged_in: Option<Timestamp>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("User")
            .field("id", &self.id)
            .field("email", &self.email)
            .field("created", &self.created)
            .field("updated", &self.updated)
            .field("logged_in", &self.logged_in)
            .finish_non_exhaustive()
    }
}

/// A token of a user. It is valid only while it is stored.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct UserToken {
    /// Its `jti`.
    pub id: TokenId,
    /// Whose.
    #[sqlx(rename = "user_id")]
    pub user: UserId,
    /// When it was issued.
    #[sqlx(rename = "created_at")]
    pub created: Timestamp,
    /// When it ends; `None`: never.
    #[sqlx(rename = "expires_at")]
    pub expires: Option<Timestamp>,
    /// Name of a personal access token; `None` for a login session.
    pub name: Option<String>,
    /// When a personal access token was last seen, as far as that was noted.
    #[sqlx(rename = "last_used_at")]
    pub last_used: Option<Timestamp>,
}

/// How a user shall change.
#[derive(Debug, Clone, Copy)]
pub struct UserChange<'a> {
    /// The user as they were when this was decided.
    pub before: &'a User,
    /// Another address, in lower case.
    pub email: Option<&'a str>,
    /// The hash of another password.
    pub password_hash: Option<&'a str>,
    /// Of the user's tokens, the one that lives on.
    pub keep: Option<TokenId>,
    /// When.
    pub now: Timestamp,
}

/// What became of a wish to remove a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The user is gone, with all tokens and settings.
    Removed,
    /// There was no such user.
    Unknown,
    /// It is the only one, and stays: nobody could come in any more.
    LastUser,
}

/// The text that loads users.
macro_rules! select_users {
    ($rest:literal) => {
        concat!("SELECT id, email, password_hash, created_at, updated_at, logged_in_at FROM users ", $rest)
    };
}

/// All users.
#[derive(Debug, Clone)]
pub struct Users {
    db: Database,
}

impl Users {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Adds a user.
    ///
    /// # Errors
    /// `Conflict("email")` or `Conflict("id")` if another user has it; `Unavailable`, `Other`.
    pub async fn create(&self, user: &User) -> Result<(), StorageError> {
        let added = on_writer!(self.db, |pool| {
            sqlx::query(
                "INSERT INTO users (id, email, password_hash, created_at, updated_at, logged_in_at) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            )
            .bind(&user.id)
            .bind(&user.email)
            .bind(&user.password_hash)
            .bind(user.created)
            .bind(user.updated)
            .bind(user.logged_in)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        if added > 0 {
            return Ok(());
        }
        let same_id = self.find(&user.id).await?.is_some();
        Err(StorageError::Conflict(if same_id { "id" } else { "email" }))
    }

    /// The user with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn find(&self, id: &UserId) -> Result<Option<User>, StorageError> {
        if !may_be_kept(id.as_str()) {
            return Ok(None);
        }
        on_reader!(self.db, |pool| {
            sqlx::query_as(select_users!("WHERE id = $1")).bind(id).fetch_optional(pool).await
        })
    }

    /// The user with this address, which has to be in lower case.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn find_by_email(&self, email: &str) -> Result<Option<User>, StorageError> {
        if !may_be_kept(email) {
            return Ok(None);
        }
        on_reader!(self.db, |pool| {
            sqlx::query_as(select_users!("WHERE email = $1")).bind(email).fetch_optional(pool).await
        })
    }

    /// Every user, in the order they were added.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn list(&self) -> Result<Vec<User>, StorageError> {
        on_reader!(self.db, |pool| { sqlx::query_as(select_users!("ORDER BY created_at, id")).fetch_all(pool).await })
    }

    /// How many users there are.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn count(&self) -> Result<u64, StorageError> {
        let count: i64 =
            on_reader!(self.db, |pool| { sqlx::query_scalar("SELECT COUNT(*) FROM users").fetch_one(pool).await })?;
        Ok(count.unsigned_abs())
    }

    /// Removes a user with all their tokens and settings, unless there is no other.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove(&self, id: &UserId) -> Result<Removal, StorageError> {
        if !may_be_kept(id.as_str()) {
            return Ok(Removal::Unknown);
        }
        let removed = async {
            let mut transaction = self.db.begin().await?;
            // The last two, removed at once, would each see the other.
            transaction.lock_users().await?;
            let (all, meant): (i64, i64) = in_transaction!(&mut transaction, |connection| {
                sqlx::query_as("SELECT COUNT(*), COUNT(CASE WHEN id = $1 THEN 1 END) FROM users")
                    .bind(id)
                    .fetch_one(connection)
                    .await
            })?;
            let removal = match (all, meant) {
                (_, 0) => Removal::Unknown,
                (1, _) => Removal::LastUser,
                _ => Removal::Removed,
            };
            if removal == Removal::Removed {
                in_transaction!(&mut transaction, |connection| {
                    sqlx::query("DELETE FROM users WHERE id = $1").bind(id).execute(connection).await.map(drop)
                })?;
            }
            transaction.commit().await?;
            Ok(removal)
        };
        self.db.within(removed).await
    }

    /// Changes a user who is still as they were, and ends their tokens but for the one to keep; returns the ids of those
    /// that ended.
    ///
    /// # Errors
    /// `Conflict("email")` if another user has the address, `Conflict("user")` if the user has changed meanwhile or is
    /// gone; `Unavailable`, `Other`.
    pub async fn update(&self, change: UserChange<'_>) -> Result<Vec<TokenId>, StorageError> {
        let before = change.before;
        let changed = async {
            let mut transaction = self.db.begin().await?;
            let updated = in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "UPDATE users SET email = $2, password_hash = $3, updated_at = $4 \
                     WHERE id = $1 AND email = $5 AND password_hash = $6",
                )
                .bind(&before.id)
                .bind(change.email.unwrap_or(&before.email))
                .bind(change.password_hash.unwrap_or(&before.password_hash))
                .bind(change.now)
                .bind(&before.email)
                .bind(&before.password_hash)
                .execute(connection)
                .await
                .map(|done| done.rows_affected())
            });
            match updated {
                Ok(0) => return Err(StorageError::Conflict("user")),
                Ok(_) => {}
                Err(StorageError::Conflict(_)) => return Err(StorageError::Conflict("email")),
                Err(error) => return Err(error),
            }
            let ended = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar(
                    "DELETE FROM user_tokens WHERE user_id = $1 AND ($2 IS NULL OR id <> $2) RETURNING id",
                )
                .bind(&before.id)
                .bind(change.keep)
                .fetch_all(connection)
                .await
            })?;
            transaction.commit().await?;
            Ok(ended)
        };
        self.db.within(changed).await
    }

    /// Gives a user another password and ends all their tokens, whose ids it returns. An unknown user has none.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn set_password(
        &self,
        id: &UserId,
        password_hash: &str,
        now: Timestamp,
    ) -> Result<Vec<TokenId>, StorageError> {
        let changed = async {
            let mut transaction = self.db.begin().await?;
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE users SET password_hash = $2, updated_at = $3 WHERE id = $1")
                    .bind(id)
                    .bind(password_hash)
                    .bind(now)
                    .execute(connection)
                    .await
                    .map(drop)
            })?;
            let ended = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar("DELETE FROM user_tokens WHERE user_id = $1 RETURNING id")
                    .bind(id)
                    .fetch_all(connection)
                    .await
            })?;
            transaction.commit().await?;
            Ok(ended)
        };
        self.db.within(changed).await
    }

    /// Replaces the stored hash by another one of the same password, if it is still `old`. Ends no token.
    ///
    /// For a hash made by an older method, at a login that has just proved the password.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn rehash(&self, id: &UserId, old: &str, new: &str) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query("UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2")
                .bind(id)
                .bind(old)
                .bind(new)
                .execute(pool)
                .await
                .map(drop)
        })
    }

    /// Stores a login session and notes the login. Only the user's `keep_newest` newest sessions survive (0: all of
    /// them), the new one always; the ids of those that did not are returned. Named tokens do not count.
    ///
    /// # Errors
    /// `Conflict("user")` if the user is gone; `Unavailable`, `Other`.
    pub async fn start_session(
        &self,
        token: &UserToken,
        keep_newest: u32,
        now: Timestamp,
    ) -> Result<Vec<TokenId>, StorageError> {
        let started = async {
            let mut transaction = self.db.begin().await?;
            // First, because it makes two logins of one user take turns.
            let noted = in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE users SET logged_in_at = $2 WHERE id = $1")
                    .bind(&token.user)
                    .bind(now)
                    .execute(connection)
                    .await
                    .map(|done| done.rows_affected())
            })?;
            if noted == 0 {
                return Err(StorageError::Conflict("user"));
            }
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "INSERT INTO user_tokens (id, user_id, created_at, expires_at, name) VALUES ($1, $2, $3, $4, $5)",
                )
                .bind(token.id)
                .bind(&token.user)
                .bind(token.created)
                .bind(token.expires)
                .bind(&token.name)
                .execute(connection)
                .await
                .map(drop)
            })?;
            let dropped = if keep_newest == 0 {
                Vec::new()
            } else {
                in_transaction!(&mut transaction, |connection| {
                    sqlx::query_scalar(
                        "DELETE FROM user_tokens WHERE id IN (SELECT id FROM user_tokens \
                         WHERE user_id = $1 AND name IS NULL AND id <> $2 \
                         ORDER BY created_at DESC, id DESC LIMIT $4 OFFSET $3) RETURNING id",
                    )
                    .bind(&token.user)
                    .bind(token.id)
                    .bind(i64::from(keep_newest - 1))
                    .bind(i64::MAX)
                    .fetch_all(connection)
                    .await
                })?
            };
            transaction.commit().await?;
            Ok(dropped)
        };
        self.db.within(started).await
    }

    /// The stored token with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn token(&self, id: TokenId) -> Result<Option<UserToken>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT id, user_id, created_at, expires_at, name, last_used_at FROM user_tokens WHERE id = $1",
            )
            .bind(id)
            .fetch_optional(pool)
            .await
        })
    }

    /// The ids of all tokens of a user.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn tokens_of(&self, user: &UserId) -> Result<Vec<TokenId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT id FROM user_tokens WHERE user_id = $1 ORDER BY created_at, id")
                .bind(user)
                .fetch_all(pool)
                .await
        })
    }

    /// Ends a token; says whether it was there.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn revoke_token(&self, id: TokenId) -> Result<bool, StorageError> {
        let removed = on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM user_tokens WHERE id = $1")
                .bind(id)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok(removed > 0)
    }

    /// Removes tokens that expired before `now`; says how many.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove_expired_tokens(&self, now: Timestamp) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM user_tokens WHERE expires_at < $1")
                .bind(now)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })
    }
}
