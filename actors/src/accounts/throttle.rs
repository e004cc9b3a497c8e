//! Slows down those who guess passwords.
//!
//! Attempts are counted per account and address, and per account from wherever. Each attempt counts from its beginning, so
//! that many at once are no way around; the right password takes all of them back.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use storage::Timestamp;

use crate::credentials::recent::Recent;

/// Accounts, and accounts with addresses, that are watched at the same time.
const WATCHED_LIMIT: usize = 20_000;

/// Attempts on one account from one address before there is a pause.
const FREE_FROM_ADDRESS: u32 = 10;

/// Attempts on one account from everywhere before there is a pause.
const FREE_ON_ACCOUNT: u32 = 100;

/// Longest pause for one account and address.
const LONGEST_FOR_ADDRESS: Duration = Duration::from_mins(1);

/// Longest pause for an account: strangers can cause it, so it must not lock its owner out for long.
const LONGEST_FOR_ACCOUNT: Duration = Duration::from_secs(5);

/// After this long without an attempt everything is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_mins(15);

/// Counts attempts to log in.
#[derive(Debug)]
pub(super) struct Throttle(Mutex<Recent<Key, Attempts>>);

/// What is counted, without names or addresses.
type Key = [u8; 16];

#[derive(Debug, Clone, Copy)]
struct Attempts {
    count: u32,
    latest: Timestamp,
    /// From here this account's password has been given before: pauses that strangers cause do not concern it.
    is_trusted: bool,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Recent::new(WATCHED_LIMIT)))
    }

    /// Counts an attempt, unless it comes too early: then the time to wait.
    pub(super) fn begin(&self, account: &str, from: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let (here, anywhere) = keys(account, from);
        let mut attempts = self.0.lock();
        let is_trusted = attempts.get(&here).is_some_and(|known| known.is_trusted);
        let mut wait = pause(attempts.get(&here), FREE_FROM_ADDRESS, LONGEST_FOR_ADDRESS, now);
        if !is_trusted {
            wait = wait.max(pause(attempts.get(&anywhere), FREE_ON_ACCOUNT, LONGEST_FOR_ACCOUNT, now));
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        for key in [here, anywhere] {
            let fresh = Attempts { count: 0, latest: now, is_trusted: false };
            let mut counted = attempts.get(&key).copied().unwrap_or(fresh);
            if now.since(counted.latest) >= FORGIVEN_AFTER {
                counted.count = 0;
            }
            counted.count = counted.count.saturating_add(1);
            counted.latest = now;
            attempts.insert(key, counted);
        }
        Ok(())
    }

    /// The attempt was made with the right password.
    pub(super) fn succeed(&self, account: &str, from: IpAddr, now: Timestamp) {
        let (here, anywhere) = keys(account, from);
        let mut attempts = self.0.lock();
        attempts.insert(here, Attempts { count: 0, latest: now, is_trusted: true });
        // One right password says nothing about the attempts of others.
        if let Some(known) = attempts.get(&anywhere) {
            known.count = known.count.saturating_sub(1);
        }
    }

    /// The attempt came to nothing for a reason that has nothing to do with the password.
    pub(super) fn take_back(&self, account: &str, from: IpAddr) {
        let (here, anywhere) = keys(account, from);
        let mut attempts = self.0.lock();
        for key in [here, anywhere] {
            if let Some(known) = attempts.get(&key) {
                known.count = known.count.saturating_sub(1);
            }
        }
    }
}

fn pause(known: Option<&mut Attempts>, free: u32, longest: Duration, now: Timestamp) -> Duration {
    let Some(known) = known.filter(|known| known.count >= free) else { return Duration::ZERO };
    let since = now.since(known.latest);
    if since >= FORGIVEN_AFTER {
        return Duration::ZERO;
    }
    let doublings = (known.count - free).min(16);
    let pause = Duration::from_secs(1 << doublings).min(longest);
    pause.saturating_sub(since)
}

/// Whoever has an IPv6 address has a whole network of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

fn keys(account: &str, from: IpAddr) -> (Key, Key) {
    let anywhere = Sha256::digest(account);
    let here = Sha256::new().chain_update(anywhere).chain_update(network(from).to_string()).finalize();
    let half = |digest: &[u8]| std::array::from_fn(|index| digest[index]);
    (half(&here), half(&anywhere))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_900_000_000_000_000);
    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn stranger(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn guessing_from_one_address_gets_slower_and_slower() {
        let throttle = Throttle::new();
        for _ in 0..FREE_FROM_ADDRESS {
            throttle.begin("a", HOME, NOW).unwrap();
        }
        assert_eq!(throttle.begin("a", HOME, NOW), Err(Duration::from_secs(1)));
        let mut now = NOW;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(throttle.begin("a", HOME, now), Err(Duration::from_secs(wait)));
            now = now.plus(Duration::from_secs(wait));
            throttle.begin("a", HOME, now).unwrap();
        }
        throttle.begin("b", HOME, now).unwrap();
        throttle.begin("a", stranger(1), now).unwrap();
    }

    #[test]
    fn being_refused_does_not_make_it_longer() {
        let throttle = Throttle::new();
        for _ in 0..FREE_FROM_ADDRESS {
            throttle.begin("a", HOME, NOW).unwrap();
        }
        for _ in 0..1000 {
            assert_eq!(throttle.begin("a", HOME, NOW), Err(Duration::from_secs(1)));
        }
        throttle.begin("a", HOME, NOW.plus(Duration::from_secs(1))).unwrap();
    }

    #[test]
    fn the_right_password_clears_the_record() {
        let throttle = Throttle::new();
        for _ in 0..FREE_FROM_ADDRESS {
            throttle.begin("a", HOME, NOW).unwrap();
        }
        throttle.succeed("a", HOME, NOW);
        for _ in 0..FREE_FROM_ADDRESS {
            throttle.begin("a", HOME, NOW).unwrap();
        }
        assert!(throttle.begin("a", HOME, NOW).is_err());
    }

    #[test]
    fn any_number_of_logins_with_the_right_password_are_let_through() {
        let throttle = Throttle::new();
        for _ in 0..1000 {
            throttle.begin("a", HOME, NOW).unwrap();
            throttle.succeed("a", HOME, NOW);
            throttle.begin("b", HOME, NOW).unwrap();
            throttle.take_back("b", HOME);
        }
    }

    #[test]
    fn many_addresses_guess_no_faster_and_do_not_lock_the_owner_out() {
        let throttle = Throttle::new();
        throttle.begin("a", HOME, NOW).unwrap();
        throttle.succeed("a", HOME, NOW);
        let mut attempts = 0;
        while throttle.begin("a", stranger(attempts), NOW).is_ok() {
            attempts += 1;
        }
        assert_eq!(attempts, FREE_ON_ACCOUNT);
        throttle.begin("a", HOME, NOW).unwrap();
        let wait = throttle.begin("a", stranger(u32::MAX), NOW).unwrap_err();
        assert!(wait <= LONGEST_FOR_ACCOUNT, "{wait:?}");
    }

    #[test]
    fn everything_is_forgiven_in_time() {
        let throttle = Throttle::new();
        for _ in 0..FREE_FROM_ADDRESS {
            throttle.begin("a", HOME, NOW).unwrap();
        }
        let later = NOW.plus(FORGIVEN_AFTER);
        for _ in 0..FREE_FROM_ADDRESS {
            throttle.begin("a", HOME, later).unwrap();
        }
    }

    #[test]
    fn a_network_of_addresses_is_one_address() {
        let throttle = Throttle::new();
        for host in 0..FREE_FROM_ADDRESS {
            throttle.begin("a", format!("2001:db8::{host:x}").parse().unwrap(), NOW).unwrap();
        }
        assert!(throttle.begin("a", "2001:db8::ffff".parse().unwrap(), NOW).is_err());
        throttle.begin("a", "2001:db8:0:1::1".parse().unwrap(), NOW).unwrap();
    }

    #[test]
    fn what_is_watched_is_bounded() {
        let throttle = Throttle::new();
        for number in 0..30_000_u32 {
            throttle.begin(&number.to_string(), HOME, NOW).unwrap();
        }
        assert!(throttle.0.lock().len() <= WATCHED_LIMIT);
    }
}
