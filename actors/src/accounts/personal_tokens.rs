//! Personal access tokens, for programs that act for a user.

use std::sync::Arc;
use std::time::Duration;

use storage::{StorageError, Timestamp, TokenId, UserId, UserToken, clock};

use super::{AccountError, Accounts, to_the_end};
use crate::credentials::UserClaims;
use crate::gate::UserIdentity;

/// Longest name, in characters.
const LONGEST_NAME: usize = 4096;

impl Accounts {
    /// Issues a token that lives for `lifetime` (`None`: until it is revoked) to `caller`, and returns it: the only time it is
    /// seen.
    ///
    /// # Errors
    /// `Invalid` for a name or lifetime out of bounds, `Unprocessable` if the user has as many as may be, `Conflict` if one
    /// of them has that name; `Unauthorized` if the user was removed or the caller's token ended meanwhile; `Unavailable`.
    pub async fn issue_personal_token(
        &self,
        caller: &UserIdentity,
        name: &str,
        lifetime: Option<Duration>,
    ) -> Result<String, AccountError> {
        if name.is_empty() {
            return Err(AccountError::Invalid("name: cannot be blank.".into()));
        }
        if name.contains('\0') {
            return Err(AccountError::Invalid("name: must not contain the character NUL.".into()));
        }
        if name.chars().count() > LONGEST_NAME {
            return Err(AccountError::Invalid("name: the length must be between 1 and 4096.".into()));
        }
        let longest = self.0.longest_personal_token;
        if lifetime.is_some_and(|lifetime| lifetime > longest) {
            let text = format!("expires_in: must be no greater than {}.", longest.as_secs());
            return Err(AccountError::Invalid(text.into()));
        }
        let now = clock::now();
        let row = UserToken {
            id: TokenId::random(),
            user: caller.user.clone(),
            created: now,
            expires: lifetime.map(|lifetime| Timestamp::from_seconds(now.plus(lifetime).seconds())),
            name: Some(name.to_owned()),
            last_used: None,
        };
        let added = self.0.users.add_named_token(&row, self.0.personal_tokens_per_user, caller.token).await;
        added.map_err(|error| match error {
            StorageError::Conflict("user" | "caller") => AccountError::Unauthorized,
            StorageError::Conflict("count") => {
                AccountError::Unprocessable("maximum number of personal access tokens reached")
            }
            StorageError::Conflict(_) => {
                AccountError::Conflict("personal access token with a given name already exists")
            }
            error => error.into(),
        })?;
        let claims = UserClaims {
            token: row.id,
            user: row.user,
            issuer: self.0.keyring.user_issuer().to_owned(),
            issued: now.seconds(),
            expires: row.expires.map(Timestamp::seconds),
        };
        Ok(self.0.keyring.sign_user(&claims))
    }

    /// The user's personal access tokens that have not expired, oldest first.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn personal_tokens(&self, user: &UserId) -> Result<Vec<UserToken>, AccountError> {
        Ok(self.0.users.named_tokens(user, clock::now()).await?)
    }

    /// Ends a token of this user, a login session too. One that is not there, or somebody else's, is passed over.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn revoke_own_token(&self, user: &UserId, token: TokenId) -> Result<(), AccountError> {
        let (inner, user) = (Arc::clone(&self.0), user.clone());
        to_the_end(async move {
            match inner.users.revoke_token_of(&user, token).await {
                Ok(false) => Ok(()),
                Ok(true) => {
                    inner.end(&[token]);
                    Ok(())
                }
                Err(error) => {
                    // It may have been written all the same, when the answer got lost.
                    inner.gate.void_user(&user);
                    Err(error.into())
                }
            }
        })
        .await
    }
}
