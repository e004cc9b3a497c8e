//! Changes of users, and their removal.

use std::net::IpAddr;
use std::sync::Arc;

use storage::{Removal, StorageError, TokenId, User, UserChange, UserId, clock};

use super::{AccountError, Accounts, Inner, check_password, check_similarity, checked_email, taken, to_the_end};
use crate::bus::Event;
use crate::credentials::password::Verdict;
use crate::gate::UserIdentity;

/// What shall be different about a user.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserUpdate {
    /// Another address.
    pub email: Option<String>,
    /// Another password.
    pub password: Option<String>,
    /// The password until now, which users have to show to change their own password or address.
    pub current_password: Option<String>,
}

impl Accounts {
    /// Changes a user on behalf of `caller`, who comes `from` an address. All tokens of the user end but the one by which
    /// the caller asks. (Mender API: `PUT /users/{id}`.)
    ///
    /// # Errors
    /// `Invalid` for what is no address or password, and if nothing is to change; `NotFound`; `Unprocessable` for the
    /// wrong current password, the password of somebody else, a password against the rules and an address that is taken;
    /// `Conflict` if the user is changed by somebody else at the same time; `Throttled`, `Unavailable`.
    pub async fn update_user(
        &self,
        caller: &UserIdentity,
        target: &UserId,
        update: UserUpdate,
        from: IpAddr,
    ) -> Result<(), AccountError> {
        if update.email.is_none() && update.password.is_none() {
            return Err(AccountError::Invalid("no update information provided".into()));
        }
        self.apply(caller, target, update, from).await
    }

    /// Changes the password of the caller, or only ends their other tokens. (Mender API: `PUT /users/me`, version 2.)
    ///
    /// # Errors
    /// As [`Self::update_user`].
    pub async fn update_own_password(
        &self,
        caller: &UserIdentity,
        password: Option<String>,
        current_password: Option<String>,
        from: IpAddr,
    ) -> Result<(), AccountError> {
        self.apply(caller, &caller.user, UserUpdate { email: None, password, current_password }, from).await
    }

    async fn apply(
        &self,
        caller: &UserIdentity,
        target: &UserId,
        mut update: UserUpdate,
        from: IpAddr,
    ) -> Result<(), AccountError> {
        update.email = update.email.map(|email| checked_email(&email)).transpose()?;
        if let Some(password) = &update.password {
            check_password(password)?;
        }
        let (this, caller, target) = (self.clone(), caller.clone(), target.clone());
        to_the_end(async move {
            let inner = &this.0;
            let user = inner.users.find(&target).await?.ok_or(AccountError::NotFound)?;
            let is_own = caller.user == user.id;
            if update.password.is_some() && !is_own {
                return Err(AccountError::Unprocessable("password cannot be modified"));
            }
            let moves_to = update.email.as_deref().filter(|email| *email != user.email);
            if is_own && (update.password.is_some() || moves_to.is_some()) {
                inner.prove(&user, update.current_password.clone(), from).await?;
            }
            if let Some(password) = &update.password {
                check_similarity(password, &user.email)?;
            }
            if let (Some(email), Some(password)) =
                (moves_to, update.password.as_ref().or(update.current_password.as_ref()))
                && !password.is_empty()
            {
                check_similarity(password, email)?;
            }
            inner.write(&user, &update, caller.token).await
        })
        .await
    }

    /// Removes a user, whose access ends at once. Removing one that is not there is fine.
    ///
    /// # Errors
    /// `Unprocessable` for the only user; `Unavailable`.
    pub async fn remove_user(&self, target: &UserId) -> Result<(), AccountError> {
        let (inner, target) = (Arc::clone(&self.0), target.clone());
        to_the_end(async move {
            let removed = inner.users.remove(&target).await;
            // Whatever storage says: who still is a user notices no more than a look-up.
            inner.gate.void_user(&target);
            match removed? {
                Removal::Removed => {
                    (inner.announce)(Event::UserRefused { user: target });
                    Ok(())
                }
                Removal::Unknown => Ok(()),
                Removal::LastUser => Err(AccountError::Unprocessable("the last user cannot be removed")),
            }
        })
        .await
    }
}

impl Inner {
    /// Whoever has somebody's token may not guess their password with it any faster than at the login.
    async fn prove(&self, user: &User, password: Option<String>, from: IpAddr) -> Result<(), AccountError> {
        const MISMATCH: AccountError = AccountError::Unprocessable("current password mismatch");
        let password = password.ok_or(MISMATCH)?;
        self.throttle.begin(&user.email, from, clock::now()).map_err(AccountError::Throttled)?;
        match self.passwords.verify(password, Some(user.password_hash.clone())).await {
            Ok(Verdict::Wrong) => Err(MISMATCH),
            Ok(Verdict::Right | Verdict::RightButOld) => {
                self.throttle.succeed(&user.email, from, clock::now());
                Ok(())
            }
            Err(busy) => {
                self.throttle.take_back(&user.email, from);
                Err(busy.into())
            }
        }
    }

    async fn write(&self, user: &User, update: &UserUpdate, keep: TokenId) -> Result<(), AccountError> {
        let hash = match &update.password {
            Some(password) => Some(self.passwords.hash(password.clone()).await?),
            None => None,
        };
        let change = UserChange {
            before: user,
            email: update.email.as_deref(),
            password_hash: hash.as_deref(),
            keep: Some(keep),
            now: clock::now(),
        };
        match self.users.update(change).await {
            Ok(ended) => {
                self.end(&ended);
                Ok(())
            }
            Err(StorageError::Conflict("email")) => Err(taken("email")),
            Err(StorageError::Conflict(_)) => Err(AccountError::Conflict("entity tag did not match any records")),
            Err(error) => {
                // It may have been written all the same, when the answer got lost.
                self.gate.void_user(&user.id);
                Err(error.into())
            }
        }
    }
}
