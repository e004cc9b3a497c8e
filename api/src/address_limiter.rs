//! How often one address may knock: a cheap check in front of everything that costs a signature or a password hash.
//!
//! Counted per node and in memory. A botnet on many nodes gets that much more, which is fine: the aim is that one noisy
//! address cannot keep the others out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::{AddressLimit, Config};

/// Addresses that are counted one by one. All further ones share a single count, so that an attacker with endless
/// addresses slows down newcomers and not those already here.
const ADDRESSES_LIMIT: usize = 65_536;

/// The limits of the two public doors.
#[derive(Debug)]
pub struct AddressLimits {
    /// For logins of users.
    pub logins: AddressLimiter,
    /// For auth requests of devices.
    pub auth_requests: AddressLimiter,
}

impl AddressLimits {
    /// The limits as configured.
    pub fn new(config: &Config) -> Self {
        Self {
            logins: AddressLimiter::new(config.login_limit),
            auth_requests: AddressLimiter::new(config.auth_request_limit),
        }
    }
}

/// Counts requests per address in fixed windows.
#[derive(Debug)]
pub struct AddressLimiter {
    limit: AddressLimit,
    started: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    window: u64,
    known: HashMap<IpAddr, u32>,
    others: u32,
}

impl AddressLimiter {
    /// A limiter that has seen nobody yet.
    pub fn new(limit: AddressLimit) -> Self {
        Self { limit, started: Instant::now(), counts: Mutex::default() }
    }

    /// Counts one request.
    ///
    /// # Errors
    /// The time to wait, if this address has used up its quota.
    pub fn count(&self, address: IpAddr) -> Result<(), Duration> {
        self.count_at(address, self.started.elapsed())
    }

    fn count_at(&self, address: IpAddr, now: Duration) -> Result<(), Duration> {
        if self.limit.quota == 0 {
            return Ok(());
        }
        let interval = self.limit.interval.max(Duration::from_secs(1)).as_secs();
        let window = now.as_secs() / interval;
        let mut counts = self.counts.lock();
        if counts.window != window {
            *counts = Counts { window, ..Counts::default() };
        }
        let Counts { known, others, .. } = &mut *counts;
        let is_full = known.len() >= ADDRESSES_LIMIT;
        let used = match known.entry(subscriber(address)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if !is_full => new.insert(0),
            Entry::Vacant(_) => others,
        };
        if *used >= self.limit.quota {
            return Err(Duration::from_secs((window + 1) * interval).saturating_sub(now));
        }
        *used += 1;
        Ok(())
    }
}

/// What one subscriber is given: an IPv4 address, or a whole /64 of IPv6.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn limiter(quota: u32) -> AddressLimiter {
        AddressLimiter::new(AddressLimit { quota, interval: MINUTE })
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn the_quota_holds_for_one_window_and_one_address() {
        let limiter = limiter(2);
        let at = Duration::from_secs(10);
        assert!(limiter.count_at(v4(1), at).is_ok());
        assert!(limiter.count_at(v4(1), at).is_ok());
        assert_eq!(limiter.count_at(v4(1), at), Err(Duration::from_secs(50)));
        assert!(limiter.count_at(v4(2), at).is_ok());
        assert!(limiter.count_at(v4(1), MINUTE).is_ok());
    }

    #[test]
    fn no_quota_means_no_limit() {
        let limiter = limiter(0);
        assert!((0..1000).all(|_| limiter.count_at(v4(1), MINUTE).is_ok()));
    }

    #[test]
    fn memory_stays_bounded_and_the_known_stay_served() {
        let limiter = limiter(2);
        let strangers = u32::try_from(ADDRESSES_LIMIT).unwrap() + 1000;
        let refused = (0..strangers).filter(|number| limiter.count_at(v4(*number), MINUTE).is_err()).count();
        assert_eq!(refused, 998);
        assert_eq!(limiter.counts.lock().known.len(), ADDRESSES_LIMIT);
        assert!(limiter.count_at(v4(0), MINUTE).is_ok());
    }

    #[test]
    fn an_ipv6_subscriber_is_one_address() {
        assert_eq!(subscriber("2001:db8::1".parse().unwrap()), subscriber("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(subscriber("2001:db8::1".parse().unwrap()), subscriber("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(subscriber("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1".parse::<IpAddr>().unwrap());
    }
}
