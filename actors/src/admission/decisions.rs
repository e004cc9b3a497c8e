//! What happens to a device's keys: pure functions from what is stored and what was asked to what shall be stored.
//!
//! ```text
//! (none)    ── a device asks, unknown key ──▶ pending        (none) ── preauthorize ──▶ preauthorized
//! pending   ── accept ──▶ accepted                           pending  ── reject ──▶ rejected
//! rejected  ── accept ──▶ accepted                           rejected ── back to pending ──▶ pending
//! accepted  ── reject, or another key accepted ──▶ rejected  accepted ── back to pending ──▶ pending
//! preauthorized ── the device asks with that key ──▶ accepted
//! pending, rejected ── preauthorize with force, same key ──▶ preauthorized
//! any ── delete ──▶ (none)
//! ```
//!
//! A device stands where its strongest set stands. At most one set is accepted: accepting one rejects the one before it.

use storage::{
    AuthSet, AuthSetId, Decision, Device, DeviceChange, DeviceId, DeviceStatus, Fleet, IssuedToken, SetStatus,
    Timestamp,
};

use super::AdmissionError;
use crate::credentials::Identity;

/// What the operator of this hub has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Devices that may wait for a decision.
    pub pending_devices_limit: u64,
    /// Undecided keys that one device may have.
    pub pending_sets_per_device: usize,
    /// Whether accepting one key of a device also rejects its preauthorized keys.
    pub reject_preauthorized_on_accept: bool,
}

/// A device asks to join. Its signature has been verified.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Who it says it is.
    pub identity: &'a Identity,
    /// With which key, normalised.
    pub pubkey: &'a str,
    /// Its id, should it be new.
    pub new_device: DeviceId,
    /// The id of its set, should that be new.
    pub new_set: AuthSetId,
    /// When.
    pub now: Timestamp,
    /// When a token issued now ends.
    pub token_expires: Timestamp,
}

/// What a device that asks hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A token for this set.
    Token {
        /// Who it is.
        device: DeviceId,
        /// For which set.
        auth_set: AuthSetId,
        /// Whether another set of the device lost its access by this.
        replaces: bool,
    },
    /// Not now, and not why.
    NotNow,
    /// Preauthorized, but as many devices are accepted as may be.
    LimitReached,
    /// Too many wait for a decision already.
    TooManyPending,
}

/// Decides about a device that asks to join. (Mender API: processing of authentication requests.)
pub fn join(stored: Option<&Device>, fleet: &Fleet, asking: &Asking<'_>, rules: &Rules) -> Decision<Answer> {
    let Some(device) = stored else { return first_contact(fleet, asking, rules) };
    if device.decommissioning {
        return Decision::Keep(Answer::NotNow);
    }
    let Some(set) = device.auth_sets.iter().find(|set| set.pubkey == asking.pubkey) else {
        return new_key(device, asking, rules);
    };
    let issued = Some(IssuedToken { auth_set: set.id, expires: asking.token_expires });
    let welcome = |replaces| Answer::Token { device: device.id, auth_set: set.id, replaces };
    match set.status {
        SetStatus::Pending | SetStatus::Rejected => Decision::Keep(Answer::NotNow),
        SetStatus::Accepted => {
            let after = Device { checked_in: Some(asking.now), ..device.clone() };
            Decision::Write(DeviceChange { after: Some(after), revoked: vec![], issued }, welcome(false))
        }
        SetStatus::Preauthorized => {
            if is_full(device, fleet) {
                return Decision::Keep(Answer::LimitReached);
            }
            let mut after = Device { checked_in: Some(asking.now), updated: asking.now, ..device.clone() };
            let revoked = accept(&mut after, set.id, rules);
            let answer = welcome(!revoked.is_empty());
            Decision::Write(DeviceChange { after: Some(after), revoked, issued }, answer)
        }
    }
}

fn first_contact(fleet: &Fleet, asking: &Asking<'_>, rules: &Rules) -> Decision<Answer> {
    if fleet.pending >= rules.pending_devices_limit {
        return Decision::Keep(Answer::TooManyPending);
    }
    let set = new_set(asking.new_set, asking.pubkey, SetStatus::Pending, asking.now);
    write(new_device(asking.new_device, asking.identity, set, asking.now), Answer::NotNow)
}

fn new_key(device: &Device, asking: &Asking<'_>, rules: &Rules) -> Decision<Answer> {
    let pending = device.auth_sets.iter().filter(|set| set.status == SetStatus::Pending).count();
    if pending >= rules.pending_sets_per_device {
        return Decision::Keep(Answer::TooManyPending);
    }
    let mut after = Device { updated: asking.now, ..device.clone() };
    after.auth_sets.push(new_set(asking.new_set, asking.pubkey, SetStatus::Pending, asking.now));
    write(after, Answer::NotNow)
}

/// Whether a device lost access by a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody did.
    Kept,
    /// An accepted set no longer is.
    Withdrawn,
}

/// Decides about a user's wish for a set of a device. (Mender API: `PUT …/auth/{aid}/status`.)
pub fn set_status(
    stored: Option<&Device>,
    fleet: &Fleet,
    set: AuthSetId,
    wanted: SetStatus,
    now: Timestamp,
    rules: &Rules,
) -> Decision<Result<Access, AdmissionError>> {
    let Some(device) = stored else { return refuse(AdmissionError::DeviceNotFound) };
    let Some(found) = device.auth_sets.iter().find(|found| found.id == set) else {
        return refuse(AdmissionError::SetNotFound);
    };
    let is_preauthorized = SetStatus::Preauthorized;
    // A preauthorized key belongs to nobody yet; only the device itself can take it up. It can be deleted.
    if device.decommissioning || found.status == is_preauthorized || wanted == is_preauthorized {
        return refuse(AdmissionError::TransitionRefused);
    }
    if found.status == wanted {
        return Decision::Keep(Ok(Access::Kept));
    }
    let mut after = Device { updated: now, ..device.clone() };
    let revoked = if wanted == SetStatus::Accepted {
        if is_full(device, fleet) {
            return refuse(AdmissionError::LimitReached);
        }
        accept(&mut after, set, rules)
    } else {
        let revoked = if found.status == SetStatus::Accepted { vec![set] } else { vec![] };
        for changed in after.auth_sets.iter_mut().filter(|changed| changed.id == set) {
            changed.status = wanted;
        }
        revoked
    };
    let access = if revoked.is_empty() { Access::Kept } else { Access::Withdrawn };
    Decision::Write(DeviceChange { after: Some(after), revoked, issued: None }, Ok(access))
}

/// Decides about deleting a set of a device; a device that consisted of one preauthorized set goes with it.
/// (Mender API: `DELETE …/auth/{aid}`.)
pub fn delete_set(stored: Option<&Device>, set: AuthSetId, now: Timestamp) -> Decision<Result<Access, AdmissionError>> {
    let Some(device) = stored else { return refuse(AdmissionError::SetNotFound) };
    let Some(found) = device.auth_sets.iter().find(|found| found.id == set) else {
        return refuse(AdmissionError::SetNotFound);
    };
    let access = if found.status == SetStatus::Accepted { Access::Withdrawn } else { Access::Kept };
    let was_preauthorized = found.status == SetStatus::Preauthorized;
    let mut after = Device { updated: now, ..device.clone() };
    after.auth_sets.retain(|kept| kept.id != set);
    let after = if was_preauthorized && after.auth_sets.is_empty() { None } else { Some(after) };
    Decision::Write(DeviceChange { after, revoked: vec![], issued: None }, Ok(access))
}

/// What became of a wish to preauthorize.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preauthorized {
    /// The device with this id has the key now.
    Created(DeviceId),
    /// The identity is known, and it was not forced; nothing changed.
    Exists(Box<Device>),
}

/// A key is let in before its device has asked.
#[derive(Debug, Clone, Copy)]
pub struct Preauthorizing<'a> {
    /// Who the device will say it is.
    pub identity: &'a Identity,
    /// With which key it will come, normalised.
    pub pubkey: &'a str,
    /// Whether a known device gets the key too.
    pub force: bool,
    /// Its id, should it be new.
    pub new_device: DeviceId,
    /// The id of its set, should that be new.
    pub new_set: AuthSetId,
    /// When.
    pub now: Timestamp,
}

/// Decides about a key to be let in before its device has asked. (Mender API: `POST /devices`.)
pub fn preauthorize(
    stored: Option<&Device>,
    wish: &Preauthorizing<'_>,
) -> Decision<Result<Preauthorized, AdmissionError>> {
    let fresh = || new_set(wish.new_set, wish.pubkey, SetStatus::Preauthorized, wish.now);
    let Some(device) = stored else {
        let device = new_device(wish.new_device, wish.identity, fresh(), wish.now);
        return write(device, Ok(Preauthorized::Created(wish.new_device)));
    };
    if !wish.force {
        return Decision::Keep(Ok(Preauthorized::Exists(Box::new(device.clone()))));
    }
    if device.decommissioning {
        return refuse(AdmissionError::TransitionRefused);
    }
    let mut after = Device { updated: wish.now, ..device.clone() };
    match after.auth_sets.iter_mut().find(|set| set.pubkey == wish.pubkey) {
        // It has more already than it would get: its token must not die of this.
        Some(set) if matches!(set.status, SetStatus::Accepted | SetStatus::Preauthorized) => {
            return Decision::Keep(Ok(Preauthorized::Created(device.id)));
        }
        Some(set) => set.status = SetStatus::Preauthorized,
        None => after.auth_sets.push(fresh()),
    }
    write(after, Ok(Preauthorized::Created(device.id)))
}

/// Decides about removing a device with all that belongs to it. (Mender API: decommissioning.)
pub fn decommission(stored: Option<&Device>) -> Decision<Result<(), AdmissionError>> {
    match stored {
        None => refuse(AdmissionError::DeviceNotFound),
        Some(_) => Decision::Write(DeviceChange { after: None, revoked: vec![], issued: None }, Ok(())),
    }
}

/// Accepts a set in place of the one that was; returns those whose tokens end.
fn accept(device: &mut Device, accepted: AuthSetId, rules: &Rules) -> Vec<AuthSetId> {
    let mut revoked = Vec::new();
    for set in &mut device.auth_sets {
        if set.id == accepted {
            set.status = SetStatus::Accepted;
        } else if set.status == SetStatus::Accepted {
            set.status = SetStatus::Rejected;
            revoked.push(set.id);
        } else if set.status == SetStatus::Preauthorized && rules.reject_preauthorized_on_accept {
            set.status = SetStatus::Rejected;
        }
    }
    revoked
}

/// The limit counts devices, so one that is accepted already may change its key.
fn is_full(device: &Device, fleet: &Fleet) -> bool {
    device.status() != DeviceStatus::Accepted && fleet.limit.is_some_and(|limit| fleet.accepted >= limit)
}

fn new_device(id: DeviceId, identity: &Identity, set: AuthSet, now: Timestamp) -> Device {
    Device {
        id,
        identity: identity.canonical().to_owned(),
        identity_hash: *identity.hash(),
        decommissioning: false,
        created: now,
        updated: now,
        checked_in: None,
        revision: 1,
        auth_sets: vec![set],
    }
}

fn new_set(id: AuthSetId, pubkey: &str, status: SetStatus, created: Timestamp) -> AuthSet {
    AuthSet { id, pubkey: pubkey.to_owned(), status, created }
}

fn write<T>(after: Device, answer: T) -> Decision<T> {
    Decision::Write(DeviceChange { after: Some(after), revoked: vec![], issued: None }, answer)
}

const fn refuse<T>(error: AdmissionError) -> Decision<Result<T, AdmissionError>> {
    Decision::Keep(Err(error))
}

#[cfg(test)]
mod tests;
