//! Numbers for people (a few lines) and for programs (one JSON object).

use serde::Serialize;
use std::time::Duration;

/// Percentiles of a set of durations, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many durations there were.
    pub samples: usize,
    /// Half are shorter than this.
    pub p50_us: u64,
    /// Nine of ten are shorter than this.
    pub p90_us: u64,
    /// All but one of a hundred are shorter than this.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Percentiles {
    /// Percentiles of these durations, by nearest rank; `None` if there are none.
    pub fn of(durations: &[Duration]) -> Option<Self> {
        let mut sorted: Vec<u64> =
            durations.iter().map(|duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)).collect();
        sorted.sort_unstable();
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Self {
            samples: sorted.len(),
            p50_us: rank(50)?,
            p90_us: rank(90)?,
            p99_us: rank(99)?,
            max_us: *sorted.last()?,
        })
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { samples, p50_us, p90_us, p99_us, max_us } = self;
        write!(f, "p50 {p50_us} µs, p90 {p90_us} µs, p99 {p99_us} µs, max {max_us} µs ({samples} samples)")
    }
}

/// Writes the report as one line of JSON to the file, or to standard output for `-`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(report: &impl Serialize, path: &str) -> anyhow::Result<()> {
    let line = serde_json::to_string(report)?;
    if path == "-" {
        println!("{line}");
        return Ok(());
    }
    std::fs::write(path, line + "\n").map_err(|error| anyhow::anyhow!("cannot write {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let durations: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        let percentiles = Percentiles::of(&durations).expect("percentiles");
        assert_eq!((percentiles.p50_us, percentiles.p99_us, percentiles.max_us), (100, 198, 200));
    }

    #[test]
    fn one_duration_is_every_percentile_and_none_is_none() {
        assert_eq!(Percentiles::of(&[Duration::from_micros(7)]).expect("percentiles").p99_us, 7);
        assert_eq!(Percentiles::of(&[]), None);
    }
}
