//! Users: who they are, and how they come in and leave.

mod changes;
mod personal_tokens;
mod settings;
mod throttle;

pub use changes::UserUpdate;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use storage::{StorageError, Timestamp, TokenId, User, UserId, UserToken, Users, clock};

use crate::Config;
use crate::bus::{Announcer, Event};
use crate::credentials::password::{Busy, LENGTH_LIMIT, Passwords, Verdict, is_hash};
use crate::credentials::{Keyring, UserClaims};
use crate::gate::{Gate, UserIdentity};
use throttle::Throttle;

/// Shortest password, in characters.
const SHORTEST_PASSWORD: usize = 8;

/// Longest e-mail address, in characters.
const LONGEST_EMAIL: usize = 256;

/// Longest id that somebody may choose, in bytes.
const LONGEST_ID: usize = 128;

/// What somebody waits who comes while too many passwords are being hashed.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// Lets users in. Cloning is cheap.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    users: Users,
    gate: Gate,
    keyring: Arc<Keyring>,
    announce: Announcer,
    passwords: Passwords,
    throttle: Throttle,
    token_lifetime: Duration,
    sessions_per_user: u32,
    personal_tokens_per_user: u32,
    longest_personal_token: Duration,
}

/// What a login may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoginRequest {
    /// A token that never ends by itself.
    pub no_expiry: bool,
}

/// Why a user does not get what they asked for. The texts are those of the Mender API.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No HTTP Basic credentials: 401.
    #[error("invalid or missing auth header")]
    HeaderInvalid,
    /// Unknown user or wrong password, and not which: 401.
    #[error("unauthorized")]
    Unauthorized,
    /// Too many attempts, or too many at once: 429, with the time to wait.
    #[error("too many requests")]
    Throttled(Duration),
    /// What is given is no e-mail address or no password: 400 with this text.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// It is, but against a rule: 422 with this text.
    #[error("{0}")]
    Unprocessable(&'static str),
    /// There is no such user: 404.
    #[error("user not found")]
    NotFound,
    /// Somebody was quicker, or has taken the name: 409 with this text.
    #[error("{0}")]
    Conflict(&'static str),
    /// What is to be replaced is not what the caller has seen: 412.
    #[error("ETag doesn't match")]
    Outdated,
    /// Storage failed; see the cause for whether trying again may help.
    #[error("cannot manage a user")]
    Unavailable(#[from] StorageError),
}

impl From<Busy> for AccountError {
    fn from(_: Busy) -> Self {
        Self::Throttled(BUSY_FOR)
    }
}

impl Accounts {
    /// Manages `users`; `announce` is told of tokens that end. Takes as long as hashing one password.
    pub fn new(users: Users, gate: Gate, keyring: Arc<Keyring>, announce: Announcer, config: &Config) -> Self {
        Self(Arc::new(Inner {
            users,
            gate,
            keyring,
            announce,
            passwords: Passwords::new(),
            throttle: Throttle::new(),
            token_lifetime: config.user_token_lifetime,
            sessions_per_user: config.sessions_per_user,
            personal_tokens_per_user: config.personal_tokens_per_user,
            longest_personal_token: config.personal_token_lifetime_limit,
        }))
    }

    /// A user logs in with HTTP Basic credentials (the `Authorization` header), coming `from` an address. Returns their
    /// token. Of their older sessions only the newest stay.
    ///
    /// # Errors
    /// `HeaderInvalid`, `Throttled`, `Unauthorized`, `Unavailable`.
    pub async fn login(
        &self,
        basic: Option<&str>,
        from: IpAddr,
        request: LoginRequest,
    ) -> Result<String, AccountError> {
        let (email, password) = basic.and_then(credentials).ok_or(AccountError::HeaderInvalid)?;
        if email.len() > LONGEST_EMAIL || password.len() > LENGTH_LIMIT {
            return Err(AccountError::Unauthorized);
        }
        self.0.throttle.begin(&email, from, clock::now()).map_err(AccountError::Throttled)?;
        let inner = Arc::clone(&self.0);
        let outcome = to_the_end({
            let email = email.clone();
            async move { inner.log_in(&email, password, request).await }
        })
        .await;
        match &outcome {
            Ok(_) => self.0.throttle.succeed(&email, from, clock::now()),
            Err(AccountError::Unauthorized) => {}
            Err(_) => self.0.throttle.take_back(&email, from),
        }
        outcome
    }

    /// A user leaves: the token they show is dead from now on.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn logout(&self, user: &UserIdentity) -> Result<(), AccountError> {
        let (inner, token) = (Arc::clone(&self.0), user.token);
        to_the_end(async move {
            let revoked = inner.users.revoke_token(token).await;
            // Whatever storage says: nobody is worse off if the gate asks it again.
            inner.end(&[token]);
            revoked?;
            Ok(())
        })
        .await
    }

    /// Adds a user as the management API does. The id is made up if none is given.
    ///
    /// # Errors
    /// `Invalid` for what is no address or no password; `Unprocessable` for a password that is short or part of the address,
    /// and for an address or id that is taken; `Throttled`, `Unavailable`.
    pub async fn add_user(&self, email: &str, password: &str, id: Option<UserId>) -> Result<UserId, AccountError> {
        let email = checked_email(email)?;
        check_password(password)?;
        check_similarity(password, &email)?;
        self.0.add(email, password, id).await
    }

    /// Adds a user on behalf of the operator of this hub, at the command line, who may choose a password like the address.
    ///
    /// # Errors
    /// As [`Self::add_user`].
    pub async fn add_user_by_operator(
        &self,
        email: &str,
        password: &str,
        id: Option<UserId>,
    ) -> Result<UserId, AccountError> {
        let email = checked_email(email)?;
        check_password(password)?;
        self.0.add(email, password, id).await
    }

    /// Adds a user who brings the hash of their password along, from a Mender server (bcrypt) or from a hub (Argon2id).
    ///
    /// # Errors
    /// As [`Self::add_user`]; `Invalid` for what is no such hash.
    pub async fn import_user(&self, email: &str, hash: &str, id: Option<UserId>) -> Result<UserId, AccountError> {
        let email = checked_email(email)?;
        if !is_hash(hash) {
            return Err(AccountError::Invalid("password_hash: expected a bcrypt or Argon2id hash.".into()));
        }
        self.0.create(email, hash.to_owned(), id).await
    }

    /// Gives a user another password, on behalf of the operator of this hub. All their tokens end.
    ///
    /// # Errors
    /// `Invalid` for an unknown address; otherwise as [`Self::add_user`].
    pub async fn set_password(&self, email: &str, password: &str) -> Result<(), AccountError> {
        let email = checked_email(email)?;
        check_password(password)?;
        check_similarity(password, &email)?;
        let (inner, password) = (Arc::clone(&self.0), password.to_owned());
        to_the_end(async move {
            let user =
                inner.users.find_by_email(&email).await?.ok_or(AccountError::Invalid("user not found".into()))?;
            let hash = inner.passwords.hash(password).await?;
            let ended = inner.users.set_password(&user.id, &hash, clock::now()).await;
            inner.gate.void_user(&user.id);
            (inner.announce)(Event::UserRefused { user: user.id });
            ended?;
            Ok(())
        })
        .await
    }
}

impl Inner {
    async fn log_in(&self, email: &str, password: String, request: LoginRequest) -> Result<String, AccountError> {
        let user = self.users.find_by_email(email).await?;
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        // Takes as long for users that do not exist.
        let verdict = self.passwords.verify(password.clone(), stored).await?;
        let Some(mut user) = user.filter(|_| verdict != Verdict::Wrong) else {
            return Err(AccountError::Unauthorized);
        };
        if verdict == Verdict::RightButOld {
            self.rehash(&mut user, password.clone()).await;
        }
        let now = clock::now();
        let expires = (!request.no_expiry).then(|| Timestamp::from_seconds(now.plus(self.token_lifetime).seconds()));
        let row = UserToken {
            id: TokenId::random(),
            user: user.id.clone(),
            created: now,
            expires,
            name: None,
            last_used: None,
        };
        let dropped = match self.users.start_session(&row, self.sessions_per_user, now).await {
            Ok(dropped) => dropped,
            // Removed while the password was looked at.
            Err(StorageError::Conflict(_)) => return Err(AccountError::Unauthorized),
            Err(error) => return Err(error.into()),
        };
        self.end(&dropped);
        if !self.is_still_right(&user, password).await? {
            self.users.revoke_token(row.id).await?;
            return Err(AccountError::Unauthorized);
        }
        let claims = UserClaims {
            token: row.id,
            user: user.id,
            issuer: self.keyring.user_issuer().to_owned(),
            issued: now.seconds(),
            expires: expires.map(Timestamp::seconds),
        };
        Ok(self.keyring.sign_user(&claims))
    }

    /// Whether the password is still the one of this user: a change of password ends all sessions, but not one that begins a
    /// moment later with the former password.
    async fn is_still_right(&self, user: &User, password: String) -> Result<bool, AccountError> {
        let Some(stored) = self.users.find(&user.id).await? else { return Ok(false) };
        if stored.password_hash == user.password_hash {
            return Ok(true);
        }
        // Another login may have hashed the same password anew.
        Ok(self.passwords.verify(password, Some(stored.password_hash)).await? != Verdict::Wrong)
    }

    /// Replaces a hash that was made by an older method. If that fails, the next login tries again.
    async fn rehash(&self, user: &mut User, password: String) {
        let Ok(hash) = self.passwords.hash(password).await else { return };
        match self.users.rehash(&user.id, &user.password_hash, &hash).await {
            Ok(()) => user.password_hash = hash,
            Err(error) => tracing::warn!(%error, user.id = %user.id, "a password keeps its old hash for now"),
        }
    }

    async fn add(&self, email: String, password: &str, id: Option<UserId>) -> Result<UserId, AccountError> {
        // Before a hash is computed for nothing; `create` has the last word.
        if self.users.find_by_email(&email).await?.is_some() {
            return Err(taken("email"));
        }
        let hash = self.passwords.hash(password.to_owned()).await?;
        self.create(email, hash, id).await
    }

    async fn create(&self, email: String, password_hash: String, id: Option<UserId>) -> Result<UserId, AccountError> {
        if id.as_ref().is_some_and(|id| !is_id(id.as_str())) {
            return Err(AccountError::Invalid(
                "id: expected 1 to 128 letters, digits or any of -_.@, and not \"me\".".into(),
            ));
        }
        let now = clock::now();
        let user = User {
            id: id.unwrap_or_else(UserId::random),
            email,
            password_hash,
            created: now,
            updated: now,
            logged_in: None,
        };
        match self.users.create(&user).await {
            Ok(()) => Ok(user.id),
            Err(StorageError::Conflict(what)) => Err(taken(what)),
            Err(error) => Err(error.into()),
        }
    }

    fn end(&self, tokens: &[TokenId]) {
        if tokens.is_empty() {
            return;
        }
        let tokens: Vec<_> = tokens.iter().map(|token| token.uuid()).collect();
        self.gate.void(&tokens);
        (self.announce)(Event::TokensRevoked { tokens });
    }
}

fn taken(what: &str) -> AccountError {
    AccountError::Unprocessable(match what {
        "id" => "user with a given id already exists",
        _ => "user with a given email already exists",
    })
}

/// Does work to its end even if whoever asked for it hangs up half-way: between a commit and the announcement of it, a
/// token would live on that storage no longer has.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, AccountError>> + Send + 'static,
) -> Result<T, AccountError> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(StorageError::Unavailable(cancelled.into()).into()),
        },
    }
}

/// E-mail address (in lower case) and password of a Basic header (RFC 7617).
fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (email, password) = decoded.split_once(':')?;
    Some((email.to_lowercase(), password.to_owned()))
}

/// The address in lower case.
fn checked_email(email: &str) -> Result<String, AccountError> {
    if email.is_empty() {
        return Err(AccountError::Invalid("email: cannot be blank.".into()));
    }
    if !email.is_ascii() {
        return Err(AccountError::Invalid("email: must contain ASCII characters only.".into()));
    }
    if email.len() > LONGEST_EMAIL {
        return Err(AccountError::Invalid("email: the length must be no more than 256.".into()));
    }
    if !is_email(email) {
        return Err(AccountError::Invalid("email: must be a valid email address.".into()));
    }
    Ok(email.to_ascii_lowercase())
}

/// The form most mail servers agree on (the dot-atom of RFC 5322 at a host name with at least one dot).
fn is_email(email: &str) -> bool {
    let Some((local, host)) = email.rsplit_once('@') else { return false };
    let is_atom = |atom: &str| {
        !atom.is_empty()
            && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    local.len() <= 64 && local.split('.').all(is_atom) && host.contains('.') && host.split('.').all(is_label)
}

/// What can stand in a path as it is, and there means this user and nobody else.
fn is_id(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len())
        && !["me", ".", ".."].contains(&id)
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
}

fn check_password(password: &str) -> Result<(), AccountError> {
    if password.is_empty() {
        return Err(AccountError::Invalid("password: cannot be blank.".into()));
    }
    if !password.is_ascii() {
        return Err(AccountError::Invalid("password: must contain ASCII characters only.".into()));
    }
    if password.len() > LENGTH_LIMIT {
        return Err(AccountError::Invalid("password: the length must be no more than 256.".into()));
    }
    if password.len() < SHORTEST_PASSWORD {
        return Err(AccountError::Unprocessable("password: must be minimum 8 characters long"));
    }
    Ok(())
}

fn check_similarity(password: &str, email: &str) -> Result<(), AccountError> {
    if email.contains(&password.to_ascii_lowercase()) {
        return Err(AccountError::Unprocessable("password is too similar to the email"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
