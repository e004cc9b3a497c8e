//! Settings of background work: the `[actors.jobs]` section.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::units;

/// How background work is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Jobs of one kind that a node works on at the same time.
    pub at_once: usize,
    /// For how long a node that is not heard of keeps its jobs.
    #[serde(with = "units::duration")]
    pub lease: Duration,
    /// How often a job is tried before it is given up.
    pub attempts: u32,
    /// The pause after the first failure; each further one is twice as long.
    #[serde(with = "units::duration")]
    pub first_pause: Duration,
    /// No pause is longer.
    #[serde(with = "units::duration")]
    pub longest_pause: Duration,
    /// Open jobs above which notifications of new alerts are left out.
    pub open_limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            at_once: 8,
            lease: Duration::from_secs(30),
            attempts: 20,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_mins(10),
            open_limit: 200_000,
        }
    }
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        if self.at_once == 0 {
            return Some("at_once is 0: expected at least 1".to_owned());
        }
        if self.attempts == 0 {
            return Some("attempts is 0: expected at least 1".to_owned());
        }
        if self.lease < Duration::from_secs(1) {
            return Some(format!("lease is {:?}: expected at least \"1s\"", self.lease));
        }
        if self.first_pause.is_zero() || self.longest_pause < self.first_pause {
            return Some("first_pause is 0 or longer than longest_pause: expected a pause such as \"1s\"".to_owned());
        }
        None
    }

    /// How long to wait after this many failed attempts. `chance` is between 0 and 1 and shortens the pause by up to
    /// half, so that what failed together is not tried again together.
    pub fn pause(&self, failed: u32, chance: f64) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(30));
        let longest = doubled.min(self.longest_pause);
        longest.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let config =
            Config { first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(10), ..Config::default() };
        let pauses: Vec<u64> = (1..=6).map(|failed| config.pause(failed, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(config.pause(u32::MAX, 1.0), config.longest_pause);
        assert_eq!(config.pause(2, 0.0), Duration::from_secs(1));
        assert!(config.pause(3, 0.5) < config.pause(3, 1.0));
    }

    #[test]
    fn settings_that_would_stop_all_work_are_refused() {
        assert_eq!(Config::default().fault(), None);
        for faulty in [
            Config { at_once: 0, ..Config::default() },
            Config { attempts: 0, ..Config::default() },
            Config { lease: Duration::ZERO, ..Config::default() },
            Config { first_pause: Duration::from_hours(1), ..Config::default() },
        ] {
            assert!(faulty.fault().is_some(), "{faulty:?}");
        }
    }
}
