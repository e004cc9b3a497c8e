//! Devices ask whether there is an update for them, and there is none: how many can ask in a second?

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;

use super::Target;
use crate::{
    Server, Shell, artifact,
    comparison::{Comparison, Round, Side},
    latency::{Latency, LatencyReport},
    line::{Answer, write_request},
    live::{Gauge, Series, Watch},
    operator::Operator,
    roster::{self, Member},
    schedule::{Turn, Turns},
    traffic::{Tally, Traffic, drive},
};

const NEXT: &str = "/api/devices/v1/deployments/device/deployments/next?artifact_name=loadtest-0&device_type=loadtest";

/// Ask for updates as fast as the hub can answer, or at a fixed rate among many deployments, and print how many and how soon
#[derive(Debug, clap::Args)]
pub struct Polls {
    #[command(flatten)]
    target: Target,
    /// How many devices ask
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Connections that they share: so many polls are under way at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// For how long; with --floor, for how long in each round
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Polls per second, whatever the hub makes of it; without, as many as it can take
    #[arg(long, value_name = "N", value_parser = super::positive, conflicts_with = "floor")]
    rate: Option<f64>,
    /// Deployments that are active meanwhile
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "floor")]
    deployments: u32,
    /// Devices that these are for, the same number in each; half of those that ask are among them and find work, the others
    /// are only names
    #[arg(long, value_name = "N", default_value_t = 100_000, requires = "deployments")]
    targets: u32,
    /// A server that only checks the token (`floor http`); both are measured in turn
    #[arg(long, value_name = "URL")]
    floor: Option<String>,
    /// Rounds of each, with --floor
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Process id of the hub, to tell its processor time
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Process id of the floor
    #[arg(long, value_name = "PID", requires = "floor")]
    floor_pid: Option<u32>,
}

/// What [`Polls`] found out about a hub by itself.
#[derive(Debug, Serialize)]
pub struct PollReport {
    scenario: &'static str,
    devices: u32,
    deployments: u32,
    targets: u32,
    connections: u16,
    wanted_rate: Option<f64>,
    /// Polls a second that were answered well.
    achieved_rate: f64,
    /// Polls that found nothing to do, and that found a deployment.
    without_work: u64,
    with_work: u64,
    errors: BTreeMap<String, u64>,
    /// From when a poll was due to its answer; at saturation it is due when a connection is free.
    answer: LatencyReport,
    /// The same of those that found nothing, and of those that found something.
    answer_without_work: Option<LatencyReport>,
    answer_with_work: Option<LatencyReport>,
    series: Vec<Series>,
}

/// What it found out about a hub beside the floor.
#[derive(Debug, Serialize)]
pub struct PollFloorReport {
    scenario: &'static str,
    devices: u32,
    connections: u16,
    #[serde(flatten)]
    comparison: Comparison,
}

impl Polls {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When no operator was named, or the hub refuses something.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = self.target.hub().await?;
        let operator = self.target.needed_operator(&server, "admitting devices").await?;
        let fleet = self.target.fleet(&server, Shell::Echo);
        eprintln!("admitting {} devices …", self.devices);
        let members = roster::enlist(&fleet, &server, &operator, self.devices as usize).await?;
        if let Some(url) = &self.floor {
            let floor = Side { server: Server::at(url).await?, pid: self.floor_pid };
            return self.compare(&Side { server, pid: self.pid }, &floor, &members).await;
        }
        let deployed = self.deploy(&operator, fleet.name(), &members).await?;
        let measured = self.measure(&server, &members).await;
        for deployment in deployed {
            operator.abort(&deployment).await?;
        }
        measured
    }

    /// Makes the deployments; their ids.
    async fn deploy(&self, operator: &Operator, fleet: &str, members: &[Member]) -> anyhow::Result<Vec<String>> {
        if self.deployments == 0 {
            return Ok(Vec::new());
        }
        eprintln!("making {} deployments for {} devices …", self.deployments, self.targets);
        let release = format!("{fleet}-release");
        operator.upload(&artifact::make(&release, "loadtest", "payload", b"hello\n")).await?;
        let real = members.iter().step_by(2).map(|member| member.id.clone());
        let mut targets: Vec<String> = real.take(self.targets as usize).collect();
        while targets.len() < self.targets as usize {
            targets.push(random_id());
        }
        let mut deployed = Vec::new();
        let share = targets.len().div_ceil(self.deployments as usize);
        for (number, devices) in targets.chunks(share.max(1)).enumerate() {
            deployed.push(operator.deploy(&format!("{fleet} {number}"), &release, devices, &json!({})).await?);
        }
        Ok(deployed)
    }

    async fn measure(&self, server: &Server, members: &Arc<[Member]>) -> anyhow::Result<()> {
        let length = Duration::from_secs(self.seconds);
        let turns = self.rate.map_or_else(|| Turns::back_to_back(length), |rate| Turns::at_rate(rate, length));
        let (tally, asking) = (Arc::<Tally>::default(), Arc::new(Asking::new(server, members)));
        let (answered, latency) = (tally.clone(), tally.clone());
        let mut gauges = vec![
            Gauge::rate("answered", "/s", move || answered.succeeded()),
            #[expect(clippy::cast_precision_loss)]
            Gauge::level("p99 so far", "ms", move || latency.answer.percentile_us(99.0) as f64 / 1e3),
        ];
        gauges.extend(Gauge::of_processes(self.pid.as_slice()));
        let watch = Watch::start("poll", Some(length), gauges);
        drive(server, self.connections.into(), &turns, &asking, &tally).await?;
        let seconds = turns.begun().elapsed().max(length).as_secs_f64();
        let outcomes = tally.outcomes();
        let of = |status: &str| outcomes.get(status).copied().unwrap_or_default();
        let report = PollReport {
            scenario: "poll",
            devices: self.devices,
            deployments: self.deployments,
            targets: if self.deployments == 0 { 0 } else { self.targets },
            connections: self.connections,
            wanted_rate: self.rate,
            #[expect(clippy::cast_precision_loss)]
            achieved_rate: tally.succeeded() as f64 / seconds,
            without_work: of("204"),
            with_work: of("200"),
            errors: tally.errors(),
            answer: tally.answer.report().context("nothing was answered")?,
            answer_without_work: asking.without_work.report(),
            answer_with_work: asking.with_work.report(),
            series: watch.finish(),
        };
        print(&report);
        self.target.output.finish(&report, Vec::new())
    }

    async fn compare(&self, hub: &Side, floor: &Side, members: &Arc<[Member]>) -> anyhow::Result<()> {
        let (length, connections) = (Duration::from_secs(self.seconds), usize::from(self.connections));
        let to_hub = Arc::new(Asking::new(&hub.server, members));
        let to_floor = Arc::new(Asking::new(&floor.server, members));
        let (mut hubs, mut floors): (Vec<Round>, Vec<Round>) = (Vec::new(), Vec::new());
        for round in 1..=self.rounds {
            hubs.push(hub.round(connections, length, &to_hub).await?);
            floors.push(floor.round(connections, length, &to_floor).await?);
            if let (Some(hub), Some(floor)) = (hubs.last(), floors.last()) {
                ensure!(
                    hub.errors.is_empty() && floor.errors.is_empty(),
                    "refused: {:?}, {:?}",
                    hub.errors,
                    floor.errors
                );
                eprintln!("  round {round}: {:.0}/s, floor {:.0}/s", hub.rate, floor.rate);
            }
        }
        let comparison = Comparison::of(hubs, floors)?;
        comparison.print("polls with nothing to do", "floor");
        let (devices, connections) = (self.devices, self.connections);
        let report = PollFloorReport { scenario: "poll", devices, connections, comparison };
        self.target.output.finish(&report, Vec::new())
    }
}

fn print(report: &PollReport) {
    eprintln!(
        "{:.1} polls/s of {} devices over {} connections",
        report.achieved_rate, report.devices, report.connections
    );
    if report.deployments > 0 {
        eprintln!("  active meanwhile         {} deployments for {} devices", report.deployments, report.targets);
    }
    eprintln!("  due → answered           {}", report.answer);
    let parts = [("  nothing to do", &report.answer_without_work), ("  something to do", &report.answer_with_work)];
    for (name, part) in parts {
        if let Some(part) = part {
            eprintln!("  {name:25}{part}");
        }
    }
    if !report.errors.is_empty() {
        eprintln!("  refused                  {:?}", report.errors);
    }
}

/// A device that nobody has.
fn random_id() -> String {
    let bytes: [u8; 16] = rand::random();
    let hex = artifact::hex(&bytes);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// Polls of all devices in turn.
pub(super) struct Asking {
    server: Server,
    members: Arc<[Member]>,
    without_work: Latency,
    with_work: Latency,
}

impl Asking {
    pub(super) fn new(server: &Server, members: &Arc<[Member]>) -> Self {
        let (server, members) = (server.clone(), members.clone());
        Self { server, members, without_work: Latency::default(), with_work: Latency::default() }
    }
}

impl Traffic for Asking {
    fn write(&self, number: u64, request: &mut Vec<u8>) {
        let member = &self.members[usize::try_from(number % self.members.len() as u64).unwrap_or_default()];
        write_request(request, &self.server, "GET", NEXT, &member.token, None);
    }

    fn answered(&self, turn: Turn, answer: &Answer) {
        let took = turn.due.elapsed();
        match answer.status {
            204 => self.without_work.record(took),
            200 => self.with_work.record(took),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_nobody_has_looks_like_one() {
        let id = random_id();
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(&id[14..15], "4");
        assert_ne!(id, random_id());
    }
}
