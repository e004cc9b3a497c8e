//! All devices lose their connections at once: how soon is everybody back, and is what the hub then says true?

pub mod floor;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::Target;
use crate::Shell;
use crate::crew::{Crew, CrewPlan};
use crate::latency::LatencyReport;
use crate::live::{Gauge, Series, Watch};
use crate::operator::Operator;
use crate::part::{Order, Told};
use crate::typing::Typing;

/// Questions about devices' states that are asked at the same time.
const ASKED_AT_ONCE: usize = 32;

/// How long a state may be behind what the devices know themselves.
const STATES_LIMIT: Duration = Duration::from_secs(10);

/// Connect many devices, cut all connections at once, and print how soon they are back
#[derive(Debug, clap::Args)]
pub struct Storm {
    #[command(flatten)]
    target: Target,
    /// More hubs of the cluster; the devices take all of them in turn
    #[arg(long, value_name = "URL")]
    and_server: Vec<String>,
    /// How many devices there are
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = super::at_least_one)]
    devices: usize,
    /// Processes that hold them: one may have no more files open than `ulimit -Hn` says
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::at_least_one)]
    processes: usize,
    /// The shortest time before a device calls again, as the real agent needs it
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    away_min: u64,
    /// The longest; with 0 for both everybody calls at once
    #[arg(long, value_name = "SECONDS", default_value_t = 21)]
    away_max: u64,
    /// Devices that may be on their way in at the same time, as far as this program is concerned
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = super::at_least_one)]
    entering: usize,
    /// Terminals on more devices, which are not cut off and are typed in before and during the storm
    #[arg(long, value_name = "N", default_value_t = 0)]
    terminals: usize,
    /// From one key to the next in each terminal
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    key_every: u64,
    /// Fail unless all are back within this time and were refused with no other status than 429 and 503
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Where `floor relay` is: the same storm of as many bare TCP connections, as a measure. One for every 18,000 devices, or it is
    /// left out
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    floor: Vec<SocketAddr>,
    /// Process ids of the hubs, to show their memory and processor time (comma)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
}

/// What [`Storm`] found out.
#[derive(Debug, Serialize)]
pub struct StormReport {
    scenario: &'static str,
    devices: usize,
    hubs: usize,
    processes: usize,
    /// Shortest and longest time away, in seconds.
    away: (u64, u64),
    /// From the cut until so many were back, in seconds.
    half_back_seconds: f64,
    nearly_all_back_seconds: f64,
    all_back_seconds: f64,
    /// From the cut until nearly all of as many bare TCP connections were back; absent without a floor.
    floor_nearly_all_back_seconds: Option<f64>,
    /// How many times as long the devices took.
    to_floor: Option<f64>,
    /// Attempts to connect that were refused in the storm, by status; 0 stands for no answer.
    refused: BTreeMap<u16, u64>,
    /// Devices that the hub does not show as connected though they are, some seconds later; absent without an operator.
    wrong_states: Option<usize>,
    terminals: usize,
    /// From when a key was due until it was back, before the storm and in it.
    echo_calm: Option<LatencyReport>,
    echo_storm: Option<LatencyReport>,
    series: Vec<Series>,
}

/// How long terminals are typed in before the storm.
const CALM: Duration = Duration::from_secs(10);

impl Storm {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When the devices do not come (back) in time, or `within` says that it is too late.
    pub async fn run(self) -> anyhow::Result<()> {
        if self.away_min > self.away_max {
            bail!("--away-min is more than --away-max");
        }
        let server = self.target.hub().await?;
        let operator = self.target.operator(&server).await?;
        let fleet = self.target.fleet(&server, Shell::Echo);
        let mut crew = Crew::start(&self.plan(fleet.name(), 0, self.devices, self.processes)).await?;
        let mut ids = Vec::new();
        if let Some(operator) = &operator {
            eprintln!("admitting {} devices …", self.devices + self.terminals);
            ids = fleet.admit(operator, 0..self.devices + self.terminals).await?;
        }
        let calm = self.open_terminals(operator.as_ref(), fleet.name(), &ids[self.devices.min(ids.len())..]).await?;
        eprintln!("connecting {} devices …", self.devices);
        crew.order(Order::Start).await?;
        let before =
            crew.wait_until("connected", self.target.patience(), |told| told.connected >= self.devices).await?;
        let echo_calm = match &calm {
            Some((_crew, typing)) => {
                eprintln!("typing before the storm …");
                let _echo_while_connecting = typing.measured();
                tokio::time::sleep(CALM).await;
                typing.measured()
            }
            None => None,
        };

        eprintln!("cutting all connections …");
        let watch = self.watch(&crew, calm.as_ref().map(|(_crew, typing)| typing));
        let cut = Instant::now();
        let (away_min_ms, away_max_ms) = (self.away_min * 1000, self.away_max * 1000);
        crew.order(Order::Cut { away_min_ms, away_max_ms }).await?;
        let back = async |share: f64| self.back(&crew, before.connections, share, cut).await;
        let (half_back_seconds, nearly_all_back_seconds) = (back(0.5).await?, back(0.999).await?);
        let all_back_seconds = back(1.0).await?;
        let all = |told: &Told| told.connected >= self.devices;
        let after = crew.wait_until("connected again", self.target.patience(), all).await?;
        let (mut echo_storm, mut lost) = (None, None);
        if let Some((_crew, typing)) = calm {
            match typing.finish().await {
                Ok(echo) => echo_storm = echo,
                Err(error) => lost = Some(format!("{error:#}")),
            }
        }
        let wrong_states = match &operator {
            Some(operator) => Some(wrong_states(operator, &ids[..self.devices]).await?),
            None => None,
        };

        let (processes, series) = (crew.processes(), watch.finish());
        // Its devices are on the same machine.
        drop(crew);
        let floor_nearly_all_back_seconds = if self.floor.is_empty() {
            None
        } else if floor::has_room(&self.floor, self.devices) {
            eprintln!("the same with bare TCP connections …");
            Some(floor::nearly_all_back_seconds(&self.floor, self.devices, (away_min_ms, away_max_ms)).await?)
        } else {
            eprintln!("no bare TCP connections for comparison: too many for {} relays", self.floor.len());
            None
        };

        let report = StormReport {
            scenario: "storm",
            devices: self.devices,
            hubs: 1 + self.and_server.len(),
            processes,
            away: (self.away_min, self.away_max),
            half_back_seconds,
            nearly_all_back_seconds,
            all_back_seconds,
            floor_nearly_all_back_seconds,
            to_floor: floor_nearly_all_back_seconds.map(|floor| nearly_all_back_seconds / floor),
            refused: difference(&before.refused, &after.refused),
            wrong_states,
            terminals: self.terminals,
            echo_calm,
            echo_storm,
            series,
        };
        print(&report);
        let mut flaws = self.flaws(&report);
        flaws.extend(lost);
        self.target.output.finish(&report, flaws)
    }

    fn plan(&self, fleet: &str, first: usize, devices: usize, processes: usize) -> CrewPlan {
        let servers = std::iter::once(&self.target.server).chain(&self.and_server).cloned().collect();
        // Those with terminals are in front: how soon their devices answer is part of what is measured.
        let yields = first == 0;
        CrewPlan { servers, fleet: fleet.to_owned(), first, devices, processes, entering: self.entering, yields }
    }

    /// Terminals on devices in a process of their own.
    async fn open_terminals(
        &self,
        operator: Option<&Operator>,
        fleet: &str,
        ids: &[String],
    ) -> anyhow::Result<Option<(Crew, Typing)>> {
        if self.terminals == 0 {
            return Ok(None);
        }
        let operator = operator.context("terminals take an operator: give --user and --password-stdin")?;
        let mut crew = Crew::start(&self.plan(fleet, self.devices, self.terminals, 1)).await?;
        crew.order(Order::Start).await?;
        crew.wait_until("connected", self.target.patience(), |told| told.connected >= self.terminals).await?;
        let every = Duration::from_millis(self.key_every);
        let typing = Typing::start(std::slice::from_ref(operator), ids, every).await?;
        Ok(Some((crew, typing)))
    }

    fn watch(&self, crew: &Crew, typing: Option<&Typing>) -> Watch {
        let (back, refused) = (crew.look(), crew.look());
        #[expect(clippy::cast_precision_loss)]
        let mut gauges = vec![
            Gauge::level("connected", "", move || back().connected as f64),
            Gauge::rate("refused", "/s", move || refused().refused.values().sum()),
        ];
        gauges.extend(typing.map(|typing| Gauge::level("slowest key", "ms", typing.slowest())));
        gauges.extend(Gauge::of_processes(&self.pid));
        Watch::start("storm", None, gauges)
    }

    /// Seconds from the cut until this share of the devices has connected again.
    async fn back(&self, crew: &Crew, before: u64, share: f64, cut: Instant) -> anyhow::Result<f64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let wanted = before + (self.devices as f64 * share).ceil() as u64;
        crew.wait_until("back", self.target.patience(), |told| told.connections >= wanted).await?;
        Ok(cut.elapsed().as_secs_f64())
    }

    fn flaws(&self, report: &StormReport) -> Vec<String> {
        let mut flaws = Vec::new();
        let Some(within) = self.within else { return flaws };
        if report.all_back_seconds > Duration::from_secs(within).as_secs_f64() {
            flaws.push(format!("it took {:.1} s until all were back, more than {within} s", report.all_back_seconds));
        }
        if let Some(status) = report.refused.keys().find(|status| !matches!(status, 429 | 503)) {
            flaws.push(format!("devices were refused with status {status}"));
        }
        if let Some(wrong) = report.wrong_states.filter(|wrong| *wrong > 0) {
            flaws.push(format!("the hub shows {wrong} devices as not connected that are"));
        }
        flaws
    }
}

/// How many of these devices, all connected, the hub shows otherwise, after a time in which it may find out.
pub(super) async fn wrong_states(operator: &Operator, ids: &[String]) -> anyhow::Result<usize> {
    let mut asked = ids.to_vec();
    // From when all have been asked once: tens of thousands take longer than that to ask.
    let mut until = None;
    loop {
        let states = stream::iter(asked).map(async |id| {
            let connected = operator.is_connected(&id).await?;
            anyhow::Ok((!connected).then_some(id))
        });
        let wrong: Vec<_> = states.buffer_unordered(ASKED_AT_ONCE).collect().await;
        asked = wrong.into_iter().filter_map(Result::transpose).collect::<anyhow::Result<_>>()?;
        if asked.is_empty() || Instant::now() > *until.get_or_insert_with(|| Instant::now() + STATES_LIMIT) {
            return Ok(asked.len());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn difference(before: &BTreeMap<u16, u64>, after: &BTreeMap<u16, u64>) -> BTreeMap<u16, u64> {
    let counted = after.iter().map(|(status, count)| {
        let already = before.get(status).copied().unwrap_or_default();
        (*status, count - already)
    });
    counted.filter(|(_, count)| *count > 0).collect()
}

fn print(report: &StormReport) {
    let StormReport { devices, away, refused, .. } = report;
    eprintln!("{devices} devices cut off at once, each away for {} to {} s", away.0, away.1);
    eprintln!("  back: half               {:.1} s", report.half_back_seconds);
    eprintln!("  back: 99.9 %             {:.1} s", report.nearly_all_back_seconds);
    eprintln!("  back: all                {:.1} s", report.all_back_seconds);
    if let (Some(floor), Some(ratio)) = (report.floor_nearly_all_back_seconds, report.to_floor) {
        eprintln!("  bare TCP: 99.9 %         {floor:.1} s; the devices took {ratio:.2} times as long");
    }
    eprintln!("  refused, by status       {refused:?}");
    if let Some(wrong) = report.wrong_states {
        eprintln!("  shown wrong              {wrong}");
    }
    for (when, echo) in [("calm", &report.echo_calm), ("in the storm", &report.echo_storm)] {
        if let Some(echo) = echo {
            eprintln!("  keys, {when:18} {echo}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_in_the_storm_is_counted() {
        let before = BTreeMap::from([(429, 2), (500, 1)]);
        let after = BTreeMap::from([(429, 5), (500, 1), (0, 3)]);
        assert_eq!(difference(&before, &after), BTreeMap::from([(0, 3), (429, 3)]));
    }
}
