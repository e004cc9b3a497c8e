//! All devices lose their connections at once: how soon is everybody back, and is what the hub then says true?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::Target;
use crate::{Leave, Server, Shell, fleet::Fleet, operator::Operator, report};

/// Questions about devices' states that are asked at the same time.
const ASKED_AT_ONCE: usize = 32;

/// How long a state may be behind what the devices know themselves.
const STATES_LIMIT: Duration = Duration::from_secs(10);

/// Connect many devices, cut all connections at once, and print how soon they are back
#[derive(Debug, clap::Args)]
pub struct Storm {
    #[command(flatten)]
    target: Target,
    /// How many devices there are
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    devices: usize,
    /// The shortest time before a device calls again, as the real agent needs it
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    away_min: u64,
    /// The longest; with 0 for both everybody calls at once
    #[arg(long, value_name = "SECONDS", default_value_t = 21)]
    away_max: u64,
    /// Devices that may be on their way in at the same time, as far as this program is concerned
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least_one)]
    entering: usize,
    /// Fail unless all are back within this time and were refused with no other status than 429 and 503
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be a number from 1".to_owned())
}

/// What [`Storm`] found out.
#[derive(Debug, Serialize)]
pub struct StormReport {
    scenario: &'static str,
    devices: usize,
    /// Shortest and longest time away, in seconds.
    away: (u64, u64),
    /// From the cut until so many were back, in seconds.
    half_back: f64,
    nearly_all_back: f64,
    all_back: f64,
    /// Attempts to connect that were refused in the storm, by status; 0 stands for no answer.
    refused: BTreeMap<u16, u64>,
    /// Devices that the hub does not show as connected though they are, some seconds later; absent without an operator.
    wrong_states: Option<usize>,
}

impl Storm {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When the devices do not come (back) in time, or `within` says that it is too late.
    pub async fn run(self) -> anyhow::Result<()> {
        if self.away_min > self.away_max {
            bail!("--away-min is more than --away-max");
        }
        let server = Server::at(&self.target.server).await?;
        let operator = self.target.operator(&server).await?;
        let mut fleet = self.target.fleet(&server, Shell::Echo).entering_at_once(self.entering);
        let all = 0..self.devices;
        let mut ids = Vec::new();
        if let Some(operator) = &operator {
            eprintln!("admitting {} devices …", self.devices);
            ids = fleet.admit(operator, all.clone()).await?;
        }
        eprintln!("connecting them …");
        fleet.start(all);
        fleet.all_connected(self.target.patience()).await?;

        eprintln!("cutting all connections …");
        let progress = &fleet.settings().progress;
        let (connections, refused) = (progress.connections(), progress.refused_connections());
        let cut = Instant::now();
        fleet.reconnect_all(Leave::Cut, || {
            Duration::from_millis(rand::random_range(self.away_min * 1000..=self.away_max * 1000))
        });
        let back = async |share: f64| self.back(&fleet, connections, share, cut).await;
        let (half_back, nearly_all_back, all_back) = (back(0.5).await?, back(0.999).await?, back(1.0).await?);
        fleet.all_connected(self.target.patience()).await?;
        let wrong_states = match &operator {
            Some(operator) => Some(wrong_states(operator, &ids).await?),
            None => None,
        };

        let report = StormReport {
            scenario: "storm",
            devices: self.devices,
            away: (self.away_min, self.away_max),
            half_back,
            nearly_all_back,
            all_back,
            refused: difference(&refused, &fleet.settings().progress.refused_connections()),
            wrong_states,
        };
        print(&report);
        report::write_json(&report, &self.target.json)?;
        self.judge(&report)
    }

    /// Seconds from the cut until this share of the devices has connected again.
    async fn back(&self, fleet: &Fleet, before: u64, share: f64, cut: Instant) -> anyhow::Result<f64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let wanted = before + (self.devices as f64 * share).ceil() as u64;
        let progress = &fleet.settings().progress;
        let limit = self.target.patience();
        let came = tokio::time::timeout(limit, progress.wait_until(|progress| progress.connections() >= wanted)).await;
        came.ok().with_context(|| {
            let trouble = progress.last_trouble().unwrap_or_else(|| "nothing went wrong".to_owned());
            let back = progress.connections() - before;
            format!("only {back} of {} devices are back; last trouble: {trouble}", self.devices)
        })?;
        Ok(cut.elapsed().as_secs_f64())
    }

    fn judge(&self, report: &StormReport) -> anyhow::Result<()> {
        let Some(within) = self.within else { return Ok(()) };
        if report.all_back > Duration::from_secs(within).as_secs_f64() {
            bail!("it took {:.1} s until all were back, more than {within} s", report.all_back);
        }
        if let Some(status) = report.refused.keys().find(|status| !matches!(status, 429 | 503)) {
            bail!("devices were refused with status {status}");
        }
        match report.wrong_states {
            Some(wrong) if wrong > 0 => bail!("the hub shows {wrong} devices as not connected that are"),
            _ => Ok(()),
        }
    }
}

/// How many of these devices, all connected, the hub shows otherwise, after a time in which it may find out.
async fn wrong_states(operator: &Operator, ids: &[String]) -> anyhow::Result<usize> {
    let started = Instant::now();
    let mut asked = ids.to_vec();
    loop {
        let states = stream::iter(asked).map(async |id| {
            let connected = operator.is_connected(&id).await?;
            anyhow::Ok((!connected).then_some(id))
        });
        let wrong: Vec<_> = states.buffer_unordered(ASKED_AT_ONCE).collect().await;
        asked = wrong.into_iter().filter_map(Result::transpose).collect::<anyhow::Result<_>>()?;
        if asked.is_empty() || started.elapsed() > STATES_LIMIT {
            return Ok(asked.len());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn difference(before: &BTreeMap<Option<u16>, u64>, after: &BTreeMap<Option<u16>, u64>) -> BTreeMap<u16, u64> {
    let counted = after.iter().map(|(status, count)| {
        let already = before.get(status).copied().unwrap_or_default();
        (status.unwrap_or_default(), count - already)
    });
    counted.filter(|(_, count)| *count > 0).collect()
}

fn print(report: &StormReport) {
    let StormReport { devices, away, half_back, nearly_all_back, all_back, refused, wrong_states, .. } = report;
    eprintln!("{devices} devices cut off at once, each away for {} to {} s", away.0, away.1);
    eprintln!("  back: half               {half_back:.1} s");
    eprintln!("  back: 99.9 %             {nearly_all_back:.1} s");
    eprintln!("  back: all                {all_back:.1} s");
    eprintln!("  refused, by status       {refused:?}");
    if let Some(wrong) = wrong_states {
        eprintln!("  shown wrong              {wrong}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_in_the_storm_is_counted() {
        let before = BTreeMap::from([(Some(429), 2), (Some(500), 1)]);
        let after = BTreeMap::from([(Some(429), 5), (Some(500), 1), (None, 3)]);
        assert_eq!(difference(&before, &after), BTreeMap::from([(0, 3), (429, 3)]));
    }
}
