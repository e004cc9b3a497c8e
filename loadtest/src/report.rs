//! Numbers for people (a few lines) and for programs (one JSON object), and the judgement over them.

mod condition;

pub mod html;

pub mod plot;

pub use condition::Condition;

use anyhow::Context;
use serde::Serialize;
use std::time::Duration;

/// Where a report goes, and what must not stand in it.
#[derive(Debug, Clone, clap::Args)]
pub struct Output {
    /// Write the report as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub json: String,
    /// Fail (exit code 1) if a number of the report is so: `p99>50ms`, `lost>0`, `answer.p99_9>=1s`, `rate<1000`; may be
    /// given several times, and a name that several numbers have counts for each of them
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Vec<Condition>,
    /// Write the report also as a page for people, with plots, to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,
}

/// The run came to its end, and the hub did not do what it should have.
#[derive(Debug)]
pub struct NotMet(pub String);

impl std::fmt::Display for NotMet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotMet {}

impl Output {
    /// Writes the report and judges it: by the conditions, and by `flaws`, what the scenario itself found wrong.
    ///
    /// # Errors
    /// [`NotMet`] with all that is wrong; others when the report cannot be written, or a condition names no number of it.
    pub fn finish(&self, report: &impl Serialize, flaws: Vec<String>) -> anyhow::Result<()> {
        let report = serde_json::to_value(report)?;
        write_json(&report, &self.json)?;
        let mut wrong = flaws;
        for condition in &self.fail_if {
            wrong.extend(condition.violations(&report)?);
        }
        if let Some(path) = &self.html {
            let made_by = std::env::args().collect::<Vec<_>>().join(" ");
            std::fs::write(path, html::page(&report, &wrong, &made_by))
                .with_context(|| format!("cannot write {path}"))?;
        }
        if wrong.is_empty() { Ok(()) } else { Err(NotMet(wrong.join("; ")).into()) }
    }
}

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
    /// All but one of a thousand.
    pub p99_9_us: u64,
    /// All but one of ten thousand.
    pub p99_99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Percentiles {
    /// Percentiles of these durations, by nearest rank; `None` if there are none.
    pub fn of(durations: &[Duration]) -> Option<Self> {
        let mut sorted: Vec<u64> =
            durations.iter().map(|duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)).collect();
        sorted.sort_unstable();
        let rank = |per_myriad: usize| {
            let rank = (sorted.len() * per_myriad).div_ceil(10_000);
            sorted.get(rank.saturating_sub(1)).copied()
        };
        Some(Self {
            samples: sorted.len(),
            p50_us: rank(5_000)?,
            p90_us: rank(9_000)?,
            p99_us: rank(9_900)?,
            p99_9_us: rank(9_990)?,
            p99_99_us: rank(9_999)?,
            max_us: *sorted.last()?,
        })
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { samples, p50_us, p90_us, p99_us, p99_9_us, max_us, .. } = *self;
        let [p50, p90, p99, p99_9, max] = [p50_us, p90_us, p99_us, p99_9_us, max_us].map(time);
        write!(f, "p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max} ({samples} samples)")
    }
}

/// Microseconds for people.
#[expect(clippy::cast_precision_loss)]
fn time(microseconds: u64) -> String {
    match microseconds {
        0..1_000 => format!("{microseconds} µs"),
        1_000..10_000 => format!("{:.2} ms", microseconds as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", microseconds as f64 / 1e3),
        _ => format!("{:.2} s", microseconds as f64 / 1e6),
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
    std::fs::write(path, line + "\n").with_context(|| format!("cannot write {path}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let durations: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        let percentiles = Percentiles::of(&durations).expect("percentiles");
        assert_eq!((percentiles.p50_us, percentiles.p99_us, percentiles.max_us), (100, 198, 200));
        assert_eq!((percentiles.p99_9_us, percentiles.p99_99_us), (200, 200));
    }

    #[test]
    fn one_duration_is_every_percentile_and_none_is_none() {
        assert_eq!(Percentiles::of(&[Duration::from_micros(7)]).expect("percentiles").p99_us, 7);
        assert_eq!(Percentiles::of(&[]), None);
    }

    #[test]
    fn times_are_told_in_the_unit_that_people_would_use() {
        let told = [7, 1_234, 12_345, 1_234_567].map(time);
        assert_eq!(told, ["7 µs", "1.23 ms", "12.3 ms", "1.23 s"]);
    }

    #[test]
    fn a_report_is_judged_by_what_the_scenario_found_and_by_the_conditions() {
        let folder = tempfile::tempdir().expect("a folder");
        let json = folder.path().join("report.json").display().to_string();
        let conditions = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a condition")).collect();
        let output = |texts: &[&str]| Output { json: json.clone(), fail_if: conditions(texts), html: None };
        let report = json!({"lost": 1, "answer": {"p99_us": 60_000}});

        output(&["lost>1", "p99>61ms"]).finish(&report, vec![]).expect("all is well");
        assert_eq!(std::fs::read_to_string(&json).expect("a report").trim(), report.to_string());

        let error = output(&["lost>0", "p99>50ms"]).finish(&report, vec!["a flaw".to_owned()]).expect_err("not met");
        let NotMet(what) = error.downcast().expect("a judgement");
        assert_eq!(what, "a flaw; lost is 1 (lost>0); answer.p99_us is 60000 (p99>50ms)");

        let error = output(&["p98>1s"]).finish(&report, vec![]).expect_err("no such number");
        assert!(error.downcast_ref::<NotMet>().is_none() && error.to_string().contains("p98"), "{error}");
    }
}
