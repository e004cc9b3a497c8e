//! How long things took: a histogram that keeps every duration to three digits, however many there are.
//!
//! What is recorded has to be the time since something was *due*, not since it was sent: a sender that waits for a slow
//! hub sends late, and what was due meanwhile would be missing from the slow end (coordinated omission).
//! [`crate::schedule`] says when something is due.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::report::Percentiles;

/// The longest duration that is told apart, in microseconds; what is longer counts as this.
const LONGEST_US: u64 = 3_600_000_000;

/// Durations differ if they do in one of so many digits.
const DIGITS: u8 = 3;

/// Percentiles of the curve of a report.
const CURVE: [f64; 16] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999, 100.0];

/// Durations that many tasks record. Its size does not depend on how many there are.
#[derive(Debug)]
pub struct Latency(Mutex<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("bounds that a histogram can have");
        Self(Mutex::new(histogram))
    }
}

/// Durations for people, programs and plots.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyReport {
    /// The usual percentiles.
    #[serde(flatten)]
    pub percentiles: Percentiles,
    /// Percentile and microseconds, as far as there are enough samples to tell.
    pub curve: Vec<(f64, u64)>,
}

impl Latency {
    /// One more.
    pub fn record(&self, duration: Duration) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(microseconds);
    }

    /// The duration that this percentage are not longer than, in microseconds; 0 if there are none.
    pub fn percentile_us(&self, percent: f64) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).value_at_percentile(percent)
    }

    /// What there is so far; `None` if that is nothing.
    pub fn report(&self) -> Option<LatencyReport> {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if histogram.is_empty() {
            return None;
        }
        let at = |percent| histogram.value_at_percentile(percent);
        let percentiles = Percentiles {
            samples: usize::try_from(histogram.len()).unwrap_or(usize::MAX),
            p50_us: at(50.0),
            p90_us: at(90.0),
            p99_us: at(99.0),
            p99_9_us: at(99.9),
            p99_99_us: at(99.99),
            max_us: histogram.max(),
        };
        // Of a hundred samples nothing can be said about one in a thousand; the last point is the longest anyway.
        #[expect(clippy::cast_precision_loss)]
        let can_tell = |percent: &f64| *percent >= 100.0 || (100.0 - percent) / 100.0 * (histogram.len() as f64) >= 1.0;
        let curve = CURVE.into_iter().filter(can_tell).map(|percent| (percent, at(percent))).collect();
        Some(LatencyReport { percentiles, curve })
    }
}

impl std::fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.percentiles.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_one_in_a_thousand() {
        let latency = Latency::default();
        for milliseconds in 1..=10_000 {
            latency.record(Duration::from_millis(milliseconds));
        }

        let report = latency.report().expect("a report");

        let percentiles = report.percentiles;
        assert_eq!(percentiles.samples, 10_000);
        for (found, wanted) in [
            (percentiles.p50_us, 5_000_000),
            (percentiles.p99_us, 9_900_000),
            (percentiles.p99_9_us, 9_990_000),
            (percentiles.p99_99_us, 9_999_000),
            (percentiles.max_us, 10_000_000),
        ] {
            assert!(found.abs_diff(wanted) <= wanted / 1000, "{found} in place of {wanted}");
        }
        assert_eq!(report.curve.last().map(|point| point.0), Some(100.0));
        assert!(
            report.curve.iter().all(|point| (point.0 - 99.999).abs() > 1e-6),
            "nobody knows one in 100,000 of 10,000"
        );
    }

    #[test]
    fn what_took_longer_than_an_hour_counts_as_an_hour() {
        let latency = Latency::default();
        latency.record(Duration::from_hours(30));
        let longest = latency.report().expect("a report").percentiles.max_us;
        assert!(longest.abs_diff(LONGEST_US) <= LONGEST_US / 1000, "{longest}");
    }

    #[test]
    fn of_nothing_there_is_no_report() {
        assert_eq!(Latency::default().report(), None);
    }
}
