//! Passwords: hashed with Argon2id, a few at a time, away from the threads that serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

/// Hashes computed at the same time: each takes 19 MiB and a core.
const AT_ONCE: usize = 2;

/// Passwords that may wait for their turn, about two seconds' worth; more are turned away.
const WAITING_LIMIT: usize = 64;

/// The smallest memory (KiB), passes and lanes that OWASP recommends for Argon2id.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// bcrypt knows no more of a password than this; the server whose hashes are imported cut it there.
const BCRYPT_LENGTH: usize = 72;

/// What an imported hash may cost to verify: more would be a way to keep this hub busy with logins.
const BCRYPT_COST_LIMIT: u32 = 14;
const MEMORY_LIMIT: u32 = 8 * MEMORY;
const PASSES_LIMIT: u32 = 16;

/// Longest password that is looked at, in bytes.
pub const LENGTH_LIMIT: usize = 256;

/// Hashes and verifies passwords. Cloning is cheap; all clones share one queue.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// Verified against for users that do not exist, so that they take as long as others.
    nobody: Arc<str>,
}

/// What a password is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not the one.
    Wrong,
    /// The one.
    Right,
    /// The one, but its hash was made by an older method or with other parameters.
    RightButOld,
}

/// Too many passwords wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords to hash")]
pub struct Busy;

impl Passwords {
    /// Takes as long as one hash.
    pub fn new() -> Self {
        let nobody = hash(b"nobody has this password").into();
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)), waiting: Arc::default(), nobody }
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn hash(&self, password: String) -> Result<String, Busy> {
        self.in_turn(move || hash(password.as_bytes())).await
    }

    /// Compares a password with a stored hash, or with that of nobody.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<Verdict, Busy> {
        let nobody = Arc::clone(&self.nobody);
        self.in_turn(move || {
            let verdict = verify(password.as_bytes(), stored.as_deref().unwrap_or(&nobody));
            if stored.is_some() { verdict } else { Verdict::Wrong }
        })
        .await
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let place = Place::take(&self.waiting)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Busy)?;
        // Turn and place go along: the work ends even if whoever asked has left.
        let done = tokio::task::spawn_blocking(move || {
            let _held = (turn, place);
            work()
        });
        done.await.map_err(|_| Busy)
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a text is a hash that passwords can be verified against.
pub fn is_hash(text: &str) -> bool {
    if text.len() > LENGTH_LIMIT {
        return false;
    }
    // The mark of bcrypt hashes, with its revision.
    if let Some(rest) = text.strip_prefix("$2") {
        return text.parse::<bcrypt::HashParts>().is_ok_and(|parts| parts.get_cost() <= BCRYPT_COST_LIMIT)
            && matches!(rest.as_bytes().first(), Some(b'a' | b'b' | b'x' | b'y'));
    }
    PasswordHash::new(text).is_ok_and(|hash| {
        hash.algorithm == Algorithm::Argon2id.ident()
            && hash.hash.is_some()
            && Params::try_from(&hash)
                .is_ok_and(|params| params.m_cost() <= MEMORY_LIMIT && params.t_cost() <= PASSES_LIMIT)
    })
}

/// A place in the queue, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>) -> Result<Self, Busy> {
        let is_free = |taken| (taken < AT_ONCE + WAITING_LIMIT).then_some(taken + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_free).map_err(|_| Busy)?;
        Ok(Self(Arc::clone(waiting)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY, PASSES, LANES, None).expect("the constants are within Argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &[u8]) -> String {
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).expect("16 bytes are a salt");
    let hash = argon2().hash_password(password, &salt).expect("a bounded password can be hashed");
    hash.to_string()
}

fn verify(password: &[u8], stored: &str) -> Verdict {
    if password.is_empty() || password.len() > LENGTH_LIMIT {
        return Verdict::Wrong;
    }
    if stored.starts_with("$2") {
        let known = &password[..password.len().min(BCRYPT_LENGTH)];
        return if bcrypt::verify(known, stored).unwrap_or(false) { Verdict::RightButOld } else { Verdict::Wrong };
    }
    let Ok(stored) = PasswordHash::new(stored) else { return Verdict::Wrong };
    if argon2().verify_password(password, &stored).is_err() {
        return Verdict::Wrong;
    }
    let is_current = stored.algorithm == Algorithm::Argon2id.ident()
        && Params::try_from(&stored)
            .is_ok_and(|params| (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY, PASSES, LANES));
    if is_current { Verdict::Right } else { Verdict::RightButOld }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_recognised_and_others_are_not() {
        let stored = hash(b"correct horse");
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert_eq!(verify(b"correct horse", &stored), Verdict::Right);
        for wrong in [&b"correct horsE"[..], b"correct horse ", b"", &[b'x'; LENGTH_LIMIT + 1]] {
            assert_eq!(verify(wrong, &stored), Verdict::Wrong);
        }
        assert_ne!(stored, hash(b"correct horse"), "each hash has a salt of its own");
    }

    #[test]
    fn long_passwords_count_to_their_last_byte() {
        let (long, mut other) = ([b'x'; LENGTH_LIMIT], [b'x'; LENGTH_LIMIT]);
        other[LENGTH_LIMIT - 1] = b'y';
        let stored = hash(&long);
        assert_eq!(verify(&long, &stored), Verdict::Right);
        assert_eq!(verify(&other, &stored), Verdict::Wrong);
    }

    #[test]
    fn imported_hashes_are_recognised_and_known_to_be_old() {
        // Of the bcrypt test vectors published with OpenWall's crypt_blowfish.
        let stored = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        assert_eq!(verify(b"U*U", stored), Verdict::RightButOld);
        assert_eq!(verify(b"U*V", stored), Verdict::Wrong);
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        let weak = weak.hash_password(b"password", &salt).unwrap().to_string();
        assert_eq!(verify(b"password", &weak), Verdict::RightButOld);
    }

    #[test]
    fn an_imported_hash_knows_the_first_72_bytes() {
        let stored = bcrypt::hash([b'x'; 72], 4).unwrap();
        assert_eq!(verify(&[b'x'; 200], &stored), Verdict::RightButOld);
        assert_eq!(verify(&[b'x'; 71], &stored), Verdict::Wrong);
    }

    #[test]
    fn a_hash_is_told_from_anything_else_and_from_one_that_takes_for_ever() {
        let bcrypt = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        for good in [bcrypt.to_owned(), bcrypt.replace("$2a", "$2y"), hash(b"correct horse")] {
            assert!(is_hash(&good), "{good}");
        }
        let ours = hash(b"correct horse");
        for bad in [
            String::new(),
            "correct horse".to_owned(),
            "$2a$10$".to_owned(),
            bcrypt[..50].to_owned(),
            bcrypt.replace("$05$", "$15$"),
            ours.replace("m=19456", "m=1945600"),
            ours.replace("t=2", "t=17"),
            ours.replace("argon2id", "argon2d"),
            ours.rsplit_once('$').unwrap().0.to_owned(),
            "x".repeat(LENGTH_LIMIT + 1),
        ] {
            assert!(!is_hash(&bad), "{bad}");
        }
    }

    #[test]
    fn a_damaged_hash_matches_nothing() {
        for stored in ["", "$2a$10$", "$argon2id$", "plain"] {
            assert_eq!(verify(b"plain", stored), Verdict::Wrong, "{stored}");
        }
    }

    #[tokio::test]
    async fn nobody_has_no_password() {
        let passwords = Passwords::new();
        assert_eq!(passwords.verify("nobody has this password".into(), None).await, Ok(Verdict::Wrong));
        let stored = passwords.hash("password".into()).await.unwrap();
        assert_eq!(passwords.verify("password".into(), Some(stored)).await, Ok(Verdict::Right));
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let passwords = Passwords::new();
        let busy = Arc::clone(&passwords.turns).acquire_many_owned(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        let asked = (0..AT_ONCE + WAITING_LIMIT).map(|_| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.in_turn(|| ()).await })
        });
        let asked: Vec<_> = asked.collect();
        while passwords.waiting.load(Ordering::Relaxed) < AT_ONCE + WAITING_LIMIT {
            tokio::task::yield_now().await;
        }
        assert_eq!(passwords.in_turn(|| ()).await, Err(Busy));
        drop(busy);
        for waiting in asked {
            assert_eq!(waiting.await.unwrap(), Ok(()));
        }
        assert_eq!(passwords.in_turn(|| ()).await, Ok(()));
    }

    #[tokio::test]
    async fn whoever_leaves_the_queue_gives_the_place_back() {
        let passwords = Passwords::new();
        let busy = Arc::clone(&passwords.turns).acquire_many_owned(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        let waiting = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.in_turn(|| ()).await }
        });
        while passwords.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
        drop(busy);
    }
}
