//! How long to wait before another attempt.

use rand::Rng;
use std::time::Duration;

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Waits that double up to a quarter of a minute, each shortened at random so that many clients do not come at once.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// How often was waited since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// It worked: the next loss starts anew.
    pub fn worked(&mut self) {
        self.attempts = 0;
    }

    /// How long to wait this time.
    pub fn next_wait(&mut self) -> Duration {
        // Far beyond the longest wait, and far from an overflow.
        let longest = FIRST_WAIT.saturating_mul(1 << self.attempts.min(10)).min(LONGEST_WAIT);
        self.attempts = self.attempts.saturating_add(1);
        longest.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_anew_after_a_success() {
        let mut backoff = Backoff::default();
        assert!(backoff.next_wait() <= FIRST_WAIT);
        for _ in 0..100 {
            assert!(backoff.next_wait() <= LONGEST_WAIT);
        }
        assert!(backoff.next_wait() >= LONGEST_WAIT / 2);
        assert_eq!(backoff.attempts(), 102);
        backoff.worked();
        assert!(backoff.next_wait() <= FIRST_WAIT);
    }
}
