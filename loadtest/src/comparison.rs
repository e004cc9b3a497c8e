//! The hub and a floor in the same run: one round each in turn, so that whatever else the machine does meets both.
//!
//! On a shared machine no figure means much by itself; the ratio of two that were taken within seconds of one another does,
//! and the range of several ratios says how much.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::{
    Server,
    latency::LatencyReport,
    process,
    schedule::Turns,
    traffic::{Tally, Traffic, drive},
};

/// Who is asked.
#[derive(Debug, Clone)]
pub struct Side {
    /// Where it is.
    pub server: Server,
    /// Its process, if its processor time is to be told.
    pub pid: Option<u32>,
}

/// One round of requests back to back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Round {
    /// Requests a second that were answered well.
    pub rate: f64,
    /// Processor time of the server for each of them, in microseconds.
    pub processor_us: Option<f64>,
    /// From sending to the answer.
    pub answer: LatencyReport,
    /// Requests that did not end well, by status or kind of failure.
    pub errors: BTreeMap<String, u64>,
}

/// A number of several rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    /// Half of the rounds had less.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// Rounds of both, and what they come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Requests a second.
    pub hub_rate: Range,
    /// The same of the floor.
    pub floor_rate: Range,
    /// Hub to floor, round by round.
    pub rate_ratio: Range,
    /// Processor time for each request, hub to floor, where both are known.
    pub processor_ratio: Option<Range>,
    /// The hub's rounds.
    pub hub: Vec<Round>,
    /// The floor's rounds.
    pub floor: Vec<Round>,
}

impl Range {
    /// Of these numbers; `None` of none.
    pub fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.max < 10.0 { 2 } else { 0 };
        let Self { median, min, max } = self;
        write!(f, "{median:.digits$} [{min:.digits$}–{max:.digits$}]")
    }
}

impl Side {
    /// Asks it back to back for so long.
    ///
    /// # Errors
    /// When nothing is answered, or its process cannot be read.
    pub async fn round(
        &self,
        connections: usize,
        length: Duration,
        traffic: &Arc<impl Traffic>,
    ) -> anyhow::Result<Round> {
        let tally = Arc::<Tally>::default();
        let before = self.pid.map(process::processor_time).transpose()?;
        let turns = Turns::back_to_back(length);
        drive(&self.server, connections, &turns, traffic, &tally).await?;
        let seconds = turns.begun().elapsed().as_secs_f64();
        let after = self.pid.map(process::processor_time).transpose()?;
        let succeeded = as_f64(tally.succeeded());
        let used = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        Ok(Round {
            rate: succeeded / seconds,
            processor_us: used.map(|used| used.as_secs_f64() * 1e6 / succeeded.max(1.0)),
            answer: tally.answer.report().with_context(|| format!("nothing was answered: {:?}", tally.errors()))?,
            errors: tally.errors(),
        })
    }
}

impl Comparison {
    /// Of rounds that were made in turn.
    ///
    /// # Errors
    /// When there are none, or one of them answered nothing well: then there is nothing to compare.
    pub fn of(hub: Vec<Round>, floor: Vec<Round>) -> anyhow::Result<Self> {
        let rates = |rounds: &[Round]| rounds.iter().map(|round| round.rate).collect::<Vec<_>>();
        let (hub_rates, floor_rates) = (rates(&hub), rates(&floor));
        if hub_rates.iter().chain(&floor_rates).any(|rate| *rate <= 0.0) {
            bail!("a round in which nothing was answered well cannot be compared: {hub:?}, {floor:?}");
        }
        let ratios: Vec<f64> = hub_rates.iter().zip(&floor_rates).map(|(hub, floor)| hub / floor).collect();
        let processor = hub.iter().zip(&floor).filter_map(|(hub, floor)| {
            let (hub, floor) = (hub.processor_us?, floor.processor_us?);
            (floor > 0.0).then_some(hub / floor)
        });
        let processor_ratio = Range::of(&processor.collect::<Vec<_>>());
        Ok(Self {
            hub_rate: Range::of(&hub_rates).context("no rounds of the hub")?,
            floor_rate: Range::of(&floor_rates).context("no rounds of the floor")?,
            rate_ratio: Range::of(&ratios).context("no rounds")?,
            processor_ratio,
            hub,
            floor,
        })
    }

    /// For people.
    pub fn print(&self, what: &str, floor: &str) {
        eprintln!("{what}, {} rounds each in turn, median [range]", self.hub.len());
        eprintln!("  hub                      {}/s", self.hub_rate);
        eprintln!("  {floor:24} {}/s", self.floor_rate);
        eprintln!("  ratio                    {}", self.rate_ratio);
        if let Some(ratio) = self.processor_ratio {
            eprintln!("  processor time, ratio    {ratio}");
        }
    }
}

/// Counts here are far below 2^52, where a float is exact.
#[expect(clippy::cast_precision_loss)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;

    fn round(rate: f64, processor_us: Option<f64>) -> Round {
        let latency = Latency::default();
        latency.record(Duration::from_millis(1));
        Round { rate, processor_us, answer: latency.report().expect("a report"), errors: BTreeMap::new() }
    }

    #[test]
    fn a_range_has_a_middle_of_odd_and_even_numbers() {
        assert_eq!(Range::of(&[3.0, 1.0, 2.0]), Some(Range { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Range::of(&[4.0, 1.0]), Some(Range { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Range::of(&[]), None);
        assert_eq!(Range { median: 0.756, min: 0.5, max: 1.0 }.to_string(), "0.76 [0.50–1.00]");
    }

    #[test]
    fn ratios_are_of_rounds_side_by_side() {
        let hub = vec![round(50.0, Some(30.0)), round(100.0, None)];
        let floor = vec![round(100.0, Some(10.0)), round(400.0, Some(10.0))];
        let comparison = Comparison::of(hub, floor).expect("a comparison");
        assert_eq!(comparison.rate_ratio, Range { median: 0.375, min: 0.25, max: 0.5 });
        assert_eq!(comparison.processor_ratio, Range::of(&[3.0]));
    }

    #[test]
    fn a_round_without_answers_compares_to_nothing() {
        assert!(Comparison::of(vec![round(1.0, None)], vec![round(0.0, None)]).is_err());
        assert!(Comparison::of(vec![], vec![]).is_err());
    }
}
