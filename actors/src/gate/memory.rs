//! What the gate remembers: which tokens it has verified, and what storage said about their owners.
//!
//! A device's token is remembered in two steps, token to device and device to the set that counts, so that voiding a
//! device forgets one entry however many tokens it had. Everything is cut into shards with a lock each; a lock is held for
//! a look-up and never across an await.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::digest;
use parking_lot::Mutex;
use storage::{AuthSetId, DeviceId, Timestamp};
use uuid::Uuid;

use super::{DeviceIdentity, RECHECK_AFTER, UserIdentity};
use crate::credentials::recent::Recent;

/// Parts that are locked on their own. Workers rarely meet in one of so many.
const SHARDS: usize = 64;

/// Devices of which it is remembered, until it is written down, that they were here. Others are noted at their next visit.
pub(super) const CHECK_INS_LIMIT: usize = 128 * 1024;

/// Names a token without keeping it: the first half of its SHA-256, of which nobody can make a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenHash([u8; 16]);

impl TokenHash {
    pub(super) fn of(token: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&digest.as_ref()[..16]);
        Self(half)
    }
}

/// How often something was forgotten before storage was asked. What storage said may be remembered only if it is still so
/// often: otherwise the answer may be older than a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Voids(u64);

pub(super) struct DeviceMemory {
    tokens: Vec<Mutex<Recent<TokenHash, Verified>>>,
    access: Vec<Mutex<Access>>,
    hasher: RandomState,
    next_check_ins: AtomicUsize,
}

/// A device's token that was verified, with what storage said about its set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proven {
    pub(super) identity: DeviceIdentity,
    /// When the token was issued, in Unix seconds.
    pub(super) issued: i64,
    /// Tokens of the set that were issued before this are void.
    pub(super) valid_from: i64,
}

/// What a token says whose signature was verified. Whether it still counts is another question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verified {
    pub(super) identity: DeviceIdentity,
    /// When it was issued, in Unix seconds.
    pub(super) issued: i64,
}

struct Access {
    granted: Recent<DeviceId, Grant>,
    voids: Voids,
    check_ins: HashMap<DeviceId, Timestamp>,
}

/// What storage said about a device.
#[derive(Clone, Copy)]
struct Grant {
    auth_set: AuthSetId,
    valid_from: i64,
    read: Timestamp,
}

impl DeviceMemory {
    pub(super) fn new(limit: usize) -> Self {
        let per_shard = limit.div_ceil(SHARDS);
        Self {
            tokens: (0..SHARDS).map(|_| Mutex::new(Recent::new(per_shard))).collect(),
            access: (0..SHARDS)
                .map(|_| {
                    Mutex::new(Access { granted: Recent::new(per_shard), voids: Voids(0), check_ins: HashMap::new() })
                })
                .collect(),
            hasher: RandomState::new(),
            next_check_ins: AtomicUsize::new(0),
        }
    }

    /// The identity behind a token, if all that is known about it is fresh. Notes that the device was here.
    pub(super) fn recall(&self, hash: &TokenHash, now: Timestamp) -> Option<DeviceIdentity> {
        let known = self.verified(hash, now)?;
        let mut access = self.shard_of(known.identity.device).lock();
        let grant = access.granted.get(&known.identity.device)?;
        let is_meant = grant.auth_set == known.identity.auth_set && known.issued >= grant.valid_from;
        if !is_meant || now.since(grant.read) >= RECHECK_AFTER {
            return None;
        }
        access.note_check_in(known.identity.device, now);
        Some(known.identity)
    }

    /// What a token says that was verified before and whose time is not over. Says nothing about whether it still counts.
    pub(super) fn verified(&self, hash: &TokenHash, now: Timestamp) -> Option<Verified> {
        let mut tokens = self.shard_of_token(hash).lock();
        let known = *tokens.get(hash)?;
        if known.identity.expires <= now {
            tokens.remove(hash);
            return None;
        }
        Some(known)
    }

    /// To be asked before storage is.
    pub(super) fn before_reading(&self, device: DeviceId) -> Voids {
        self.shard_of(device).lock().voids
    }

    /// Remembers what storage said, unless something was forgotten since `before`; says whether it does.
    pub(super) fn remember(&self, hash: TokenHash, found: &Proven, now: Timestamp, before: Voids) -> bool {
        let Proven { identity, issued, valid_from } = *found;
        {
            let mut access = self.shard_of(identity.device).lock();
            if access.voids != before {
                return false;
            }
            access.granted.insert(identity.device, Grant { auth_set: identity.auth_set, valid_from, read: now });
            access.note_check_in(identity.device, now);
        }
        self.shard_of_token(&hash).lock().insert(hash, Verified { identity, issued });
        true
    }

    /// Forgets what storage said about a device.
    pub(super) fn forget(&self, device: DeviceId) {
        let mut access = self.shard_of(device).lock();
        access.voids.0 += 1;
        access.granted.remove(&device);
    }

    /// Forgets what storage said about the devices with these sets. Looks at everything; [`Self::forget`] does not.
    pub(super) fn forget_sets(&self, sets: &[Uuid]) {
        for shard in &self.access {
            let mut access = shard.lock();
            access.voids.0 += 1;
            access.granted.retain(|_, grant| !sets.contains(&grant.auth_set.uuid()));
        }
    }

    pub(super) fn note_check_in(&self, device: DeviceId, now: Timestamp) {
        self.shard_of(device).lock().note_check_in(device, now);
    }

    pub(super) fn take_check_ins(&self, max: usize) -> Vec<(DeviceId, Timestamp)> {
        let mut taken = Vec::new();
        for _ in 0..SHARDS {
            // Goes on where it ended the last time, so that no shard waits for ever behind busier ones.
            let index = self.next_check_ins.load(Ordering::Relaxed) % SHARDS;
            let mut access = self.access[index].lock();
            let room = max - taken.len();
            if access.check_ins.len() <= room {
                taken.extend(access.check_ins.drain());
                self.next_check_ins.store(index + 1, Ordering::Relaxed);
            } else {
                let some: Vec<DeviceId> = access.check_ins.keys().copied().take(room).collect();
                taken.extend(some.iter().filter_map(|device| access.check_ins.remove_entry(device)));
                break;
            }
        }
        taken
    }

    fn shard_of_token(&self, hash: &TokenHash) -> &Mutex<Recent<TokenHash, Verified>> {
        &self.tokens[usize::from(hash.0[0]) % SHARDS]
    }

    fn shard_of(&self, device: DeviceId) -> &Mutex<Access> {
        let hash = usize::try_from(self.hasher.hash_one(device) % SHARDS as u64).unwrap_or_default();
        &self.access[hash]
    }
}

impl Access {
    fn note_check_in(&mut self, device: DeviceId, now: Timestamp) {
        if let Some(noted) = self.check_ins.get_mut(&device) {
            *noted = now;
        } else if self.check_ins.len() < CHECK_INS_LIMIT / SHARDS {
            self.check_ins.insert(device, now);
        }
    }
}

/// Users are few, so one lock and one look at everything will do.
pub(super) struct UserMemory(Mutex<KnownUsers>);

struct KnownUsers {
    tokens: Recent<TokenHash, UserToken>,
    voids: Voids,
}

struct UserToken {
    identity: UserIdentity,
    read: Timestamp,
}

impl UserMemory {
    pub(super) fn new(limit: usize) -> Self {
        Self(Mutex::new(KnownUsers { tokens: Recent::new(limit), voids: Voids(0) }))
    }

    pub(super) fn recall(&self, hash: &TokenHash, now: Timestamp) -> Option<UserIdentity> {
        let mut known = self.0.lock();
        let token = known.tokens.get(hash)?;
        let is_over = token.identity.expires.is_some_and(|expires| expires <= now);
        if is_over || now.since(token.read) >= RECHECK_AFTER {
            known.tokens.remove(hash);
            return None;
        }
        Some(token.identity.clone())
    }

    pub(super) fn before_reading(&self) -> Voids {
        self.0.lock().voids
    }

    pub(super) fn remember(&self, hash: TokenHash, identity: UserIdentity, now: Timestamp, before: Voids) -> bool {
        let mut known = self.0.lock();
        if known.voids != before {
            return false;
        }
        known.tokens.insert(hash, UserToken { identity, read: now });
        true
    }

    pub(super) fn forget(&self, is_meant: impl Fn(&UserIdentity) -> bool) {
        let mut known = self.0.lock();
        known.voids.0 += 1;
        known.tokens.retain(|_, token| !is_meant(&token.identity));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storage::{TokenId, UserId};

    use super::*;

    const NOW: Timestamp = Timestamp(1_900_000_000_000_000);

    fn identity() -> DeviceIdentity {
        DeviceIdentity {
            device: DeviceId::random(),
            auth_set: AuthSetId::random(),
            expires: NOW.plus(Duration::from_hours(1)),
        }
    }

    fn hash(text: &str) -> TokenHash {
        TokenHash::of(text)
    }

    fn remember(memory: &DeviceMemory, token: &str, identity: DeviceIdentity) {
        assert!(memory.remember(hash(token), &proven(identity), NOW, memory.before_reading(identity.device)));
    }

    fn proven(identity: DeviceIdentity) -> Proven {
        Proven { identity, issued: 10, valid_from: 0 }
    }

    #[test]
    fn an_answer_that_may_be_older_than_a_revocation_is_not_remembered() {
        let (memory, identity) = (DeviceMemory::new(100), identity());
        let before = memory.before_reading(identity.device);
        // Here storage is asked, and answers; then the device is rejected, and only now does the answer arrive.
        memory.forget(identity.device);
        assert!(!memory.remember(hash("a"), &proven(identity), NOW, before));
        assert_eq!(memory.recall(&hash("a"), NOW), None);

        let before = memory.before_reading(identity.device);
        memory.forget_sets(&[identity.auth_set.uuid()]);
        assert!(!memory.remember(hash("a"), &proven(identity), NOW, before));
        assert_eq!(memory.recall(&hash("a"), NOW), None);
    }

    #[test]
    fn a_users_answer_that_may_be_older_than_a_revocation_is_not_remembered() {
        let memory = UserMemory::new(100);
        let identity = UserIdentity { user: UserId::new("u"), token: TokenId::random(), expires: None };
        let before = memory.before_reading();
        memory.forget(|known| known.user == identity.user);
        assert!(!memory.remember(hash("a"), identity.clone(), NOW, before));
        assert_eq!(memory.recall(&hash("a"), NOW), None);
        assert!(memory.remember(hash("a"), identity.clone(), NOW, memory.before_reading()));
        assert_eq!(memory.recall(&hash("a"), NOW), Some(identity));
    }

    #[test]
    fn forgetting_a_device_forgets_all_its_tokens_and_nobody_elses() {
        let memory = DeviceMemory::new(1000);
        let (one, other) = (identity(), identity());
        remember(&memory, "first", one);
        remember(&memory, "second", one);
        remember(&memory, "other", other);
        memory.forget(one.device);
        assert_eq!(memory.recall(&hash("first"), NOW), None);
        assert_eq!(memory.recall(&hash("second"), NOW), None);
        assert_eq!(memory.recall(&hash("other"), NOW), Some(other));
        memory.forget_sets(&[other.auth_set.uuid()]);
        assert_eq!(memory.recall(&hash("other"), NOW), None);
    }

    #[test]
    fn the_token_of_a_former_set_does_not_live_on_the_grant_of_the_next() {
        let (memory, old) = (DeviceMemory::new(1000), identity());
        remember(&memory, "old", old);
        let new = DeviceIdentity { auth_set: AuthSetId::random(), ..old };
        remember(&memory, "new", new);
        assert_eq!(memory.recall(&hash("old"), NOW), None);
        assert_eq!(memory.recall(&hash("new"), NOW), Some(new));
    }

    #[test]
    fn a_revoked_token_does_not_live_on_the_grant_of_the_next_one_of_its_set() {
        let (memory, identity) = (DeviceMemory::new(1000), identity());
        remember(&memory, "revoked", identity);
        memory.forget(identity.device);
        let next = Proven { identity, issued: 11, valid_from: 11 };
        assert!(memory.remember(hash("next"), &next, NOW, memory.before_reading(identity.device)));
        assert_eq!(memory.recall(&hash("revoked"), NOW), None);
        assert_eq!(memory.recall(&hash("next"), NOW), Some(identity));
    }

    #[test]
    fn answers_and_tokens_age() {
        let (memory, identity) = (DeviceMemory::new(1000), identity());
        remember(&memory, "a", identity);
        assert!(memory.recall(&hash("a"), NOW.plus(Duration::from_secs(29))).is_some());
        assert_eq!(memory.recall(&hash("a"), NOW.plus(RECHECK_AFTER)), None);
        let short = DeviceIdentity { expires: NOW.plus(Duration::from_secs(1)), ..identity };
        remember(&memory, "short", short);
        assert_eq!(memory.recall(&hash("short"), short.expires), None);

        let memory = UserMemory::new(10);
        let user = |expires| UserIdentity { user: UserId::new("u"), token: TokenId::random(), expires };
        memory.remember(hash("ever"), user(None), NOW, Voids(0));
        memory.remember(hash("short"), user(Some(short.expires)), NOW, Voids(0));
        assert_eq!(memory.recall(&hash("short"), short.expires), None);
        assert!(memory.recall(&hash("ever"), short.expires).is_some());
        assert_eq!(memory.recall(&hash("ever"), NOW.plus(RECHECK_AFTER)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let memory = DeviceMemory::new(1000);
        for index in 0..20_000 {
            remember(&memory, &index.to_string(), identity());
        }
        let tokens: usize = memory.tokens.iter().map(|shard| shard.lock().len()).sum();
        let granted: usize = memory.access.iter().map(|shard| shard.lock().granted.len()).sum();
        assert!(tokens <= 1000 + SHARDS && granted <= 1000 + SHARDS, "{tokens} tokens, {granted} devices");
        let entry = size_of::<(TokenHash, Verified)>() + size_of::<(DeviceId, Grant)>();
        assert!(entry <= 120, "{entry} bytes");

        let memory = UserMemory::new(100);
        for index in 0..1000 {
            let identity = UserIdentity { user: UserId::random(), token: TokenId::random(), expires: None };
            assert!(memory.remember(hash(&index.to_string()), identity, NOW, Voids(0)));
        }
        assert!(memory.0.lock().tokens.len() <= 100);
    }

    #[test]
    fn check_ins_are_taken_once_each_and_none_is_left_behind() {
        let (memory, device) = (DeviceMemory::new(10_000), identity());
        remember(&memory, "a", device);
        let later = NOW.plus(Duration::from_secs(5));
        memory.recall(&hash("a"), later).unwrap();
        assert_eq!(memory.take_check_ins(10), [(device.device, later)]);
        assert_eq!(memory.take_check_ins(10), []);

        for index in 0..1000 {
            remember(&memory, &index.to_string(), identity());
        }
        let mut taken = Vec::new();
        while let batch = memory.take_check_ins(7)
            && !batch.is_empty()
        {
            assert!(batch.len() <= 7);
            taken.extend(batch);
        }
        assert_eq!(taken.len(), 1000);
    }

    #[test]
    fn check_ins_are_bounded() {
        let memory = DeviceMemory::new(64);
        for _ in 0..CHECK_INS_LIMIT + 10_000 {
            memory.shard_of(DeviceId::random()).lock().note_check_in(DeviceId::random(), NOW);
        }
        let noted: usize = memory.access.iter().map(|shard| shard.lock().check_ins.len()).sum();
        assert!(noted <= CHECK_INS_LIMIT);
    }
}
