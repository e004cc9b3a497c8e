//! Verifies every token of every request, from memory on the hot path.
//!
//! A token counts while three things hold: a key of ours signed it, its time is not over, and storage still has its row
//! (with an accepted set and a device that is not being removed, or with a user). What was found in storage is remembered
//! for [`RECHECK_AFTER`], and forgotten at once when it is told to be ([`Gate::void_device`] and its kin): by this node
//! before a revocation is answered, by other nodes' events, and, should such an event be lost, by the recheck.

mod memory;
mod reader;

use std::sync::Arc;
use std::time::Duration;

use storage::{
    AuthSetId, DeviceId, Devices, SetStatus, StorageError, Timestamp, TokenId, UserId, UserToken, Users, clock,
};
use uuid::Uuid;

use crate::Config;
use crate::credentials::{DeviceClaims, Keyring, TokenError, UserClaims};
use memory::{DeviceMemory, Proven, TokenHash, UserMemory, Verified, Voids};
use reader::TokenReader;

/// How long an answer of storage is believed: the longest that a revocation on another node can go unnoticed if the
/// message about it is lost.
pub const RECHECK_AFTER: Duration = Duration::from_secs(30);

/// Verified user tokens kept in memory.
const USER_TOKENS_LIMIT: usize = 10_000;

/// Storage is asked again when something was revoked while it answered; after this often its last answer is given, and
/// not remembered.
const READS: usize = 3;

/// The text for what is no token at all.
const MALFORMED: &str = "identity: incorrect token format";

/// The text for a token that does not count, or no longer.
const UNAUTHORIZED: &str = "unauthorized";

/// Verifies tokens. Cloning is cheap; all clones share one memory.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    devices: Devices,
    token_reader: TokenReader,
    users: Users,
    keyring: Arc<Keyring>,
    device_memory: DeviceMemory,
    user_memory: UserMemory,
    use_noted_every: Duration,
}

/// A device that has proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// Who.
    pub device: DeviceId,
    /// By which of its keys.
    pub auth_set: AuthSetId,
    /// Until when this token proves it.
    pub expires: Timestamp,
}

/// A user who has proved who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIdentity {
    /// Who.
    pub user: UserId,
    /// By which token.
    pub token: TokenId,
    /// Until when it proves it; `None`: for ever.
    pub expires: Option<Timestamp>,
}

/// Why a token did not open the gate.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It does not count: 401, with this text.
    #[error("{0}")]
    Refused(&'static str),
    /// A user's token that is good, but for something that is not here: 403.
    #[error("unauthorized")]
    OutOfScope,
    /// Storage could not say.
    #[error("cannot verify a token")]
    Unavailable(#[from] StorageError),
}

impl Gate {
    /// A gate that remembers nothing yet.
    pub fn new(devices: Devices, users: Users, keyring: Arc<Keyring>, config: &Config) -> Self {
        Self(Arc::new(Inner {
            token_reader: TokenReader::new(devices.clone()),
            devices,
            users,
            keyring,
            device_memory: DeviceMemory::new(config.verified_tokens_limit),
            user_memory: UserMemory::new(USER_TOKENS_LIMIT),
            use_noted_every: config.personal_token_use_noted_every,
        }))
    }

    /// The device whose token this is. Notes that it was here ([`Self::take_check_ins`]).
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn device(&self, token: &str) -> Result<DeviceIdentity, Refusal> {
        let (hash, now) = (TokenHash::of(token), clock::now());
        if let Some(known) = self.0.device_memory.recall(&hash, now) {
            return Ok(known);
        }
        let memory = &self.0.device_memory;
        // A signature stays good; when thousands come back together, verifying it again is what would take longest.
        let verified = match memory.verified(&hash, now) {
            Some(verified) => verified,
            None => {
                Verified::from(&self.0.keyring.open_device(token, now).map_err(|error| Refusal::Refused(text(error)))?)
            }
        };
        settle(
            || memory.before_reading(verified.identity.device),
            || self.read_device(verified, now),
            |found, before| memory.remember(hash, found, now, before),
        )
        .await
        .map(|found| found.identity)
    }

    /// As [`Self::device`], but only from memory; `None` says nothing about the token.
    pub fn device_cached(&self, token: &str) -> Option<DeviceIdentity> {
        self.0.device_memory.recall(&TokenHash::of(token), clock::now())
    }

    /// The user whose token this is.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn user(&self, token: &str) -> Result<UserIdentity, Refusal> {
        let (hash, now) = (TokenHash::of(token), clock::now());
        if let Some(known) = self.0.user_memory.recall(&hash, now) {
            return Ok(known);
        }
        let claims = self.0.keyring.open_user(token, now).map_err(|error| match error {
            TokenError::Malformed => Refusal::Refused(text(error)),
            TokenError::OutOfScope => Refusal::OutOfScope,
            TokenError::Invalid | TokenError::OutOfTime => Refusal::Refused("invalid jwt"),
        })?;
        let memory = &self.0.user_memory;
        settle(
            || memory.before_reading(),
            || self.read_user(&claims, now),
            |found, before| memory.remember(hash, found.clone(), now, before),
        )
        .await
    }

    /// As [`Self::user`], but only from memory; `None` says nothing about the token.
    pub fn user_cached(&self, token: &str) -> Option<UserIdentity> {
        self.0.user_memory.recall(&TokenHash::of(token), clock::now())
    }

    /// Forgets the tokens with these `jti`, of devices and of users. What storage is being asked for meanwhile is not
    /// remembered either.
    pub fn void(&self, tokens: &[Uuid]) {
        if tokens.is_empty() {
            return;
        }
        self.0.user_memory.forget(|known| tokens.contains(&known.token.uuid()));
        self.0.device_memory.forget_sets(tokens);
    }

    /// Forgets all tokens of a device.
    pub fn void_device(&self, device: DeviceId) {
        self.0.device_memory.forget(device);
    }

    /// Forgets all tokens of a user.
    pub fn void_user(&self, user: &UserId) {
        self.0.user_memory.forget(|known| known.user == *user);
    }

    /// Notes that a device was here whose socket was let in earlier.
    pub fn note_contact(&self, device: DeviceId, now: Timestamp) {
        self.0.device_memory.note_check_in(device, now);
    }

    /// The devices whose connection may not stand: asks storage, whatever is remembered. For when word of a withdrawal
    /// may have been lost.
    ///
    /// # Errors
    /// When storage cannot say.
    pub async fn withdrawn(
        &self,
        connections: &[(DeviceId, AuthSetId, Timestamp)],
    ) -> Result<Vec<DeviceId>, StorageError> {
        self.0.devices.withdrawn(connections).await
    }

    /// Whether storage still has this token of a user.
    ///
    /// # Errors
    /// When storage cannot say.
    pub async fn has_user_token(&self, token: TokenId) -> Result<bool, StorageError> {
        Ok(self.0.users.token(token).await?.is_some())
    }

    /// The devices that proved who they are since this was last asked, each with the latest time: at most `max` of them,
    /// the others another time.
    pub fn take_check_ins(&self, max: usize) -> Vec<(DeviceId, Timestamp)> {
        self.0.device_memory.take_check_ins(max)
    }

    async fn read_device(&self, token: Verified, now: Timestamp) -> Result<Option<Proven>, StorageError> {
        let Verified { identity, issued } = token;
        let Some(row) = self.0.token_reader.read(identity.auth_set).await? else { return Ok(None) };
        let counts = row.device == identity.device
            && row.set_status == SetStatus::Accepted
            && !row.decommissioning
            && row.expires > now
            // A token of the same set that was revoked does not live again with the row of the next one.
            && issued >= row.valid_from.seconds();
        Ok(counts.then_some(Proven { identity, issued, valid_from: row.valid_from.seconds() }))
    }

    async fn read_user(&self, claims: &UserClaims, now: Timestamp) -> Result<Option<UserIdentity>, StorageError> {
        let Some(row) = self.0.users.token(claims.token).await? else { return Ok(None) };
        let counts = row.user == claims.user && row.expires.is_none_or(|expires| expires > now);
        if counts && row.name.is_some() {
            self.note_use(&row, now).await;
        }
        let expires = claims.expires.map(Timestamp::from_seconds);
        Ok(counts.then_some(UserIdentity { user: row.user, token: claims.token, expires }))
    }
}

impl Gate {
    /// What is remembered is asked for again every [`RECHECK_AFTER`], so a token in use comes by here often enough.
    async fn note_use(&self, row: &UserToken, now: Timestamp) {
        let every = self.0.use_noted_every;
        if row.last_used.is_some_and(|noted| now.since(noted) < every) {
            return;
        }
        let not_since = Timestamp(now.0.saturating_sub(i64::try_from(every.as_micros()).unwrap_or(i64::MAX)));
        if let Err(error) = self.0.users.note_use(row.id, now, not_since).await {
            tracing::warn!(%error, user.id = %row.user, "the use of a personal access token was not noted");
        }
    }
}

impl From<&DeviceClaims> for Verified {
    fn from(claims: &DeviceClaims) -> Self {
        let identity = DeviceIdentity {
            device: claims.device,
            auth_set: claims.auth_set,
            expires: Timestamp::from_seconds(claims.expires),
        };
        Self { identity, issued: claims.issued }
    }
}

/// Asks storage and remembers what it says, unless something was revoked meanwhile: then the answer may be from before, and
/// storage is asked again.
async fn settle<T, F: Future<Output = Result<Option<T>, StorageError>>>(
    before_reading: impl Fn() -> Voids,
    read: impl Fn() -> F,
    remember: impl Fn(&T, Voids) -> bool,
) -> Result<T, Refusal> {
    let mut answer = None;
    for _ in 0..READS {
        let before = before_reading();
        answer = read().await?;
        if answer.as_ref().is_none_or(|found| remember(found, before)) {
            break;
        }
    }
    answer.ok_or(Refusal::Refused(UNAUTHORIZED))
}

/// A device is not told what is wrong with its token beyond its form: whatever it is, it asks for another.
const fn text(error: TokenError) -> &'static str {
    match error {
        TokenError::Malformed => MALFORMED,
        TokenError::Invalid | TokenError::OutOfScope | TokenError::OutOfTime => UNAUTHORIZED,
    }
}

#[cfg(test)]
mod tests;
