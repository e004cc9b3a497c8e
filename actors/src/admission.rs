//! Lets devices in: what they ask for, and what users decide about them.
//!
//! The decisions are in [`decisions`]; here they are carried out. Each is one call of [`Devices::change`], so that devices
//! are decided about one at a time. A withdrawal of access takes effect in this order, all before it is answered: it is
//! committed, this node's gate forgets the device, and everybody is told, so that its socket is cut.

pub mod decisions;

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;
use storage::{AuthSetId, DeviceId, DeviceKey, Devices, SetStatus, StorageError, Timestamp, clock};

use crate::Config;
use crate::bus::{Announcer, DisconnectReason, Event};
use crate::concurrency_limit::{ConcurrencyLimit, Crowded};
use crate::credentials::{DeviceClaims, Identity, Keyring, PublicKey};
use crate::gate::Gate;
use decisions::{Access, Answer, Asking, Preauthorizing, Rules};

pub use decisions::Preauthorized;

/// Beginning of the text for a request to join that cannot be read.
const UNREADABLE: &str = "failed to decode auth request";

/// Beginning of the text for a request to join that can be read but makes no sense.
const INVALID: &str = "invalid auth request";

/// Beginning of the text for a wish to preauthorize that makes no sense.
const PREAUTH_INVALID: &str = "failed to decode preauth request";

/// Decides about devices. Cloning is cheap.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    devices: Devices,
    gate: Gate,
    keyring: Arc<Keyring>,
    announce: Announcer,
    rules: Rules,
    minimum_rsa_bits: usize,
    arrivals: ConcurrencyLimit,
    /// In seconds, as tokens count.
    token_lifetime: i64,
}

/// Why a device or a user does not get what they asked for. The texts are those of the Mender API.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The request itself is wrong: 400 with this text.
    #[error("{0}")]
    Invalid(String),
    /// No signature: 400.
    #[error("missing request signature header")]
    SignatureMissing,
    /// The signature is not one of this key over this request: 401.
    #[error("signature verification failed")]
    SignatureWrong,
    /// The device may not join, or not yet: 401.
    #[error("dev auth: unauthorized")]
    Unauthorized,
    /// The device is preauthorized, but the device limit is reached: 401.
    #[error("unauthorized")]
    LimitAtJoin,
    /// The device limit is reached: 422.
    #[error("maximum number of accepted devices reached")]
    LimitReached,
    /// 404.
    #[error("device not found")]
    DeviceNotFound,
    /// 404.
    #[error("authorization set not found")]
    SetNotFound,
    /// The set is one of another device: 400.
    #[error("dev auth: dev ID and auth ID mismatch")]
    Mismatch,
    /// A set cannot go from where it is to where it should: 400.
    #[error("dev auth: bad request")]
    TransitionRefused,
    /// Too many devices, or keys of this device, wait for a decision: 429.
    #[error("too many requests")]
    TooManyPending,
    /// Too many ask at the same time: 503.
    #[error(transparent)]
    Crowded(#[from] Crowded),
    /// Storage failed; see the cause for whether trying again may help.
    #[error("cannot decide about a device")]
    Unavailable(#[from] StorageError),
}

/// The body of a request to join. What else is in it is ignored: clients send `tier`, and more in times to come.
#[derive(Deserialize)]
struct JoinBody {
    id_data: Option<String>,
    pubkey: Option<String>,
    /// Of no use here, but text if it is there.
    #[serde(rename = "tenant_token")]
    _tenant_token: Option<String>,
}

impl Admission {
    /// Carries out decisions about `devices`; `announce` is told of every withdrawal.
    pub fn new(devices: Devices, gate: Gate, keyring: Arc<Keyring>, announce: Announcer, config: &Config) -> Self {
        Self(Arc::new(Inner {
            devices,
            gate,
            keyring,
            announce,
            rules: Rules {
                pending_devices_limit: config.pending_devices_limit,
                pending_sets_per_device: config.pending_sets_per_device,
                reject_preauthorized_on_accept: config.reject_preauthorized_on_accept,
            },
            minimum_rsa_bits: config.minimum_rsa_bits,
            arrivals: ConcurrencyLimit::new("auth_requests", &config.arrivals),
            token_lifetime: i64::try_from(config.device_token_lifetime.as_secs()).unwrap_or(i64::MAX).max(1),
        }))
    }

    /// A device asks to join: `body` as it was received, `signature` the header with the Base64 of its signature over
    /// exactly those bytes. Returns its token. Nothing is stored, nor read, before the signature is verified.
    ///
    /// # Errors
    /// `Crowded`; `Invalid`, `SignatureMissing`, `SignatureWrong` in this order; then `Unauthorized`, `LimitAtJoin`,
    /// `TooManyPending`, `Unavailable`.
    pub async fn ask_to_join(&self, body: &[u8], signature: Option<&str>) -> Result<String, AdmissionError> {
        let mut permit = self.0.arrivals.enter(|| false).await?;
        let (identity, key) = self.0.read_request(body)?;
        let signature = signature.filter(|signature| !signature.is_empty()).ok_or(AdmissionError::SignatureMissing)?;
        let signature = BASE64_STANDARD.decode(signature.trim()).map_err(|_| AdmissionError::SignatureWrong)?;
        if !key.verify(body, &signature) {
            return Err(AdmissionError::SignatureWrong);
        }
        let inner = Arc::clone(&self.0);
        permit.timed(to_the_end(async move { inner.join(&identity, &key).await })).await
    }

    /// Does what a user decided about a set of a device; no change if it stands there already.
    ///
    /// # Errors
    /// `DeviceNotFound`, `SetNotFound`, `Mismatch`, `TransitionRefused`, `LimitReached`, `Unavailable`.
    pub async fn set_status(&self, device: DeviceId, set: AuthSetId, wanted: SetStatus) -> Result<(), AdmissionError> {
        let inner = Arc::clone(&self.0);
        to_the_end(async move {
            let now = clock::now();
            let rules = &inner.rules;
            let change = inner.devices.change(DeviceKey::Id(device), |stored, fleet| {
                decisions::set_status(stored, fleet, set, wanted, now, rules)
            });
            let outcome = inner.take_effect(device, DisconnectReason::AccessWithdrawn, change.await);
            if matches!(outcome, Err(AdmissionError::SetNotFound)) && inner.devices.owner(set).await?.is_some() {
                return Err(AdmissionError::Mismatch);
            }
            outcome
        })
        .await
    }

    /// Deletes a set, and its device too if that was only preauthorized by it.
    ///
    /// # Errors
    /// `SetNotFound` if the device has no such set; `Unavailable`.
    pub async fn delete_set(&self, device: DeviceId, set: AuthSetId) -> Result<(), AdmissionError> {
        let inner = Arc::clone(&self.0);
        to_the_end(async move {
            let now = clock::now();
            let change =
                inner.devices.change(DeviceKey::Id(device), |stored, _| decisions::delete_set(stored, set, now));
            inner.take_effect(device, DisconnectReason::AccessWithdrawn, change.await)
        })
        .await
    }

    /// Lets a key in before its device has asked. Forced, it is given to a device that is known already, which keeps what
    /// it has until it comes with that key.
    ///
    /// # Errors
    /// `Invalid` for an identity that is no object or empty, and for a key that is none; `TransitionRefused` if the device
    /// is being removed; `Unavailable`.
    pub async fn preauthorize(
        &self,
        identity: &Value,
        pubkey: &str,
        force: bool,
    ) -> Result<Preauthorized, AdmissionError> {
        let invalid = |why: &dyn std::fmt::Display| AdmissionError::Invalid(format!("{PREAUTH_INVALID}: {why}"));
        let identity = Identity::parse(&identity.to_string()).map_err(|error| invalid(&error))?;
        if identity.is_empty() {
            return Err(invalid(&"identity_data must not be empty"));
        }
        let key = PublicKey::parse(pubkey, self.0.minimum_rsa_bits).map_err(|error| invalid(&error))?;
        let inner = Arc::clone(&self.0);
        to_the_end(async move {
            let wish = Preauthorizing {
                identity: &identity,
                pubkey: key.pem(),
                force,
                new_device: DeviceId::random(),
                new_set: AuthSetId::random(),
                now: clock::now(),
            };
            let key = DeviceKey::Identity(identity.hash());
            inner.devices.change(key, |stored, _| decisions::preauthorize(stored, &wish)).await?
        })
        .await
    }

    /// Removes a device with everything that belongs to it. Should it come back, it is a new one.
    ///
    /// # Errors
    /// `DeviceNotFound`, `Unavailable`.
    pub async fn decommission(&self, device: DeviceId) -> Result<(), AdmissionError> {
        let inner = Arc::clone(&self.0);
        to_the_end(async move { inner.decommission(device).await }).await
    }

    /// Finishes removals that were begun and interrupted. To be called at the start.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn resume(&self) -> Result<(), AdmissionError> {
        for device in self.0.devices.decommissioning().await? {
            match self.decommission(device).await {
                // Another node that starts at the same time was quicker.
                Ok(()) | Err(AdmissionError::DeviceNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Voids every token of a set. The set stays accepted, so the device may ask for another token at once.
    ///
    /// # Errors
    /// `SetNotFound` if there is no token to void; `Unavailable`.
    pub async fn revoke_token(&self, set: AuthSetId) -> Result<(), AdmissionError> {
        let inner = Arc::clone(&self.0);
        to_the_end(async move {
            let token = inner.devices.token(set).await?.ok_or(AdmissionError::SetNotFound)?;
            let revoked = inner
                .devices
                .revoke_token(set, clock::now())
                .await
                .map(|was_there| if was_there { Ok(Access::Withdrawn) } else { Err(AdmissionError::SetNotFound) });
            inner.take_effect(token.device, DisconnectReason::AccessWithdrawn, revoked)
        })
        .await
    }
}

impl Inner {
    /// The checks of a request to join, in the order in which clients and tests expect them.
    fn read_request(&self, body: &[u8]) -> Result<(Identity, PublicKey), AdmissionError> {
        let invalid = |why: &dyn std::fmt::Display| AdmissionError::Invalid(format!("{INVALID}: {why}"));
        let body = decode(body)?;
        let identity = body.id_data.filter(|identity| !identity.is_empty());
        let identity = identity.ok_or_else(|| invalid(&"id_data must be provided"))?;
        let pubkey = body.pubkey.filter(|pubkey| !pubkey.is_empty());
        let pubkey = pubkey.ok_or_else(|| invalid(&"pubkey must be provided"))?;
        let key = PublicKey::parse(&pubkey, self.minimum_rsa_bits).map_err(|error| invalid(&error))?;
        let identity = Identity::parse(&identity).map_err(|error| invalid(&error))?;
        Ok((identity, key))
    }

    async fn join(&self, identity: &Identity, key: &PublicKey) -> Result<String, AdmissionError> {
        let now = clock::now();
        let expires = now.seconds().saturating_add(self.token_lifetime);
        let asking = Asking {
            identity,
            pubkey: key.pem(),
            new_device: DeviceId::random(),
            new_set: AuthSetId::random(),
            now,
            token_expires: Timestamp::from_seconds(expires),
        };
        let key = DeviceKey::Identity(identity.hash());
        let change = self.devices.change(key, |stored, fleet| decisions::join(stored, fleet, &asking, &self.rules));
        match change.await? {
            Answer::Token { device, auth_set, replaces } => {
                if replaces {
                    self.withdraw(device, DisconnectReason::AccessWithdrawn);
                }
                // Revoked in this second, the set gets a token of the next one, or the former would count again.
                let row = self.devices.token(auth_set).await?.ok_or(AdmissionError::Unauthorized)?;
                let issued = row.valid_from.seconds().max(now.seconds());
                let claims = DeviceClaims {
                    auth_set,
                    device,
                    issuer: self.keyring.device_issuer().to_owned(),
                    issued,
                    expires: issued.saturating_add(self.token_lifetime),
                };
                Ok(self.keyring.sign_device(&claims))
            }
            Answer::NotNow => Err(AdmissionError::Unauthorized),
            Answer::LimitReached => Err(AdmissionError::LimitAtJoin),
            Answer::TooManyPending => Err(AdmissionError::TooManyPending),
        }
    }

    async fn decommission(&self, device: DeviceId) -> Result<(), AdmissionError> {
        let change = self.devices.change(DeviceKey::Id(device), |stored, _| decisions::decommission(stored));
        let removed = change.await.map(|decided| decided.map(|()| Access::Withdrawn));
        self.take_effect(device, DisconnectReason::Decommissioned, removed)
    }

    /// Makes a decision felt outside of storage.
    fn take_effect(
        &self,
        device: DeviceId,
        why: DisconnectReason,
        outcome: Result<Result<Access, AdmissionError>, StorageError>,
    ) -> Result<(), AdmissionError> {
        match outcome {
            Ok(Ok(Access::Kept)) => Ok(()),
            Ok(Ok(Access::Withdrawn)) => {
                self.withdraw(device, why);
                Ok(())
            }
            Ok(Err(refused)) => Err(refused),
            Err(error) => {
                // It may have been written all the same, when the answer got lost. A device that may still come in
                // notices no more than a reconnect.
                self.withdraw(device, why);
                Err(error.into())
            }
        }
    }

    fn withdraw(&self, device: DeviceId, why: DisconnectReason) {
        self.gate.void_device(device);
        (self.announce)(Event::DeviceRefused { device, why });
    }
}

/// Does work to its end even if whoever asked for it hangs up half-way: between a commit and the announcement of it, a
/// device would keep an access that storage no longer grants.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, AdmissionError>> + Send + 'static,
) -> Result<T, AdmissionError> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(StorageError::Unavailable(cancelled.into()).into()),
        },
    }
}

fn decode(body: &[u8]) -> Result<JoinBody, AdmissionError> {
    let unreadable = |why: &dyn std::fmt::Display| AdmissionError::Invalid(format!("{UNREADABLE}: {why}"));
    // The JSON reader would also fill the struct from an array, member by member.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(unreadable(&"the body is empty")),
        Some(b'{') => {}
        Some(_) => return Err(unreadable(&"expected an object")),
    }
    serde_json::from_str(&repaired(body)).map_err(|error| unreadable(&error))
}

/// The text with U+FFFD for every byte that belongs to no character, as Mender servers read it: identities of devices with
/// broken serial numbers would change otherwise.
fn repaired(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

#[cfg(test)]
mod tests;
