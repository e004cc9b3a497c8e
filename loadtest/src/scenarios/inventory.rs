//! Devices tell what has changed about them: how many a second does the hub write down, and how soon?

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::Target;
use crate::{
    Server, Shell,
    comparison::{Comparison, Round, Side},
    latency::LatencyReport,
    line::write_request,
    live::{Gauge, Series, Watch},
    roster::{self, Member},
    schedule::Turns,
    traffic::{Tally, Traffic, drive},
};

const ATTRIBUTES: &str = "/api/devices/v1/inventory/device/attributes";

/// Change attributes of many devices, at a fixed rate or as fast as the hub can, and print how many and how soon
#[derive(Debug, clap::Args)]
pub struct Inventory {
    #[command(flatten)]
    target: Target,
    /// How many devices there are
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Attributes that each device has; one of them changes with every PATCH
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=90))]
    attributes: u32,
    /// Changes per second, whatever the hub makes of it; without, as many as it can take
    #[arg(long, value_name = "N", value_parser = super::positive, conflicts_with = "against_single")]
    rate: Option<f64>,
    /// For how long; with --against-single, for how long in each round
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Connections that the devices share: so many changes are under way at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Another hub on the same database that writes one statement per request; both are measured in turn
    #[arg(long, value_name = "URL")]
    against_single: Option<String>,
    /// Rounds of each, with --against-single
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Process id of the hub, to tell its processor time
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Process id of the other hub
    #[arg(long, value_name = "PID", requires = "against_single")]
    single_pid: Option<u32>,
}

/// What [`Inventory`] found out at a rate, or of one hub at saturation.
#[derive(Debug, Serialize)]
pub struct InventoryReport {
    scenario: &'static str,
    devices: u32,
    connections: u16,
    wanted_rate: Option<f64>,
    /// Changes a second that were acknowledged.
    achieved_rate: f64,
    errors: BTreeMap<String, u64>,
    /// From when a change was due to its answer; at saturation it is due when a connection is free.
    answer: LatencyReport,
    sent_late: LatencyReport,
    series: Vec<Series>,
}

/// What it found out of two hubs.
#[derive(Debug, Serialize)]
pub struct AgainstSingleReport {
    scenario: &'static str,
    devices: u32,
    connections: u16,
    #[serde(flatten)]
    comparison: Comparison,
}

impl Inventory {
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
        let traffic = |server: &Server| Reporting { server: server.clone(), members: members.clone() };
        eprintln!("giving each of them {} attributes …", self.attributes);
        let first = Arc::new(First { reporting: traffic(&server), attributes: self.attributes });
        let tally = Arc::<Tally>::default();
        drive(&server, self.connections.into(), &Turns::count(self.devices.into()), &first, &tally).await?;
        ensure!(tally.succeeded() == u64::from(self.devices), "not all were taken: {:?}", tally.errors());

        let changes = Arc::<AtomicU64>::default();
        let changing = |server: &Server| {
            let (reporting, attributes, changes) = (traffic(server), self.attributes, changes.clone());
            Arc::new(Changing { reporting, attributes, changes })
        };
        match &self.against_single {
            None => self.measure(&server, &changing(&server)).await,
            Some(url) => {
                let single = Side { server: Server::at(url).await?, pid: self.single_pid };
                let hub = Side { server, pid: self.pid };
                self.compare(&hub, &changing(&hub.server), &single, &changing(&single.server)).await
            }
        }
    }

    async fn measure(&self, server: &Server, changing: &Arc<Changing>) -> anyhow::Result<()> {
        let length = Duration::from_secs(self.seconds);
        let turns = self.rate.map_or_else(|| Turns::back_to_back(length), |rate| Turns::at_rate(rate, length));
        let tally = Arc::<Tally>::default();
        let (written, latency) = (tally.clone(), tally.clone());
        let mut gauges = vec![
            Gauge::rate("written", "/s", move || written.succeeded()),
            #[expect(clippy::cast_precision_loss)]
            Gauge::level("p99 so far", "ms", move || latency.answer.percentile_us(99.0) as f64 / 1e3),
        ];
        gauges.extend(Gauge::of_processes(self.pid.as_slice()));
        let watch = Watch::start("inventory", Some(length), gauges);
        drive(server, self.connections.into(), &turns, changing, &tally).await?;
        let seconds = turns.begun().elapsed().max(length).as_secs_f64();
        let report = InventoryReport {
            scenario: "inventory",
            devices: self.devices,
            connections: self.connections,
            wanted_rate: self.rate,
            #[expect(clippy::cast_precision_loss)]
            achieved_rate: tally.succeeded() as f64 / seconds,
            errors: tally.errors(),
            answer: tally.answer.report().context("nothing was answered")?,
            sent_late: tally.sent_late.report().context("nothing was sent")?,
            series: watch.finish(),
        };
        eprintln!(
            "{:.1} changes/s of {} devices over {} connections",
            report.achieved_rate, self.devices, self.connections
        );
        eprintln!("  due → answered           {}", report.answer);
        if !report.errors.is_empty() {
            eprintln!("  not acknowledged         {:?}", report.errors);
        }
        self.target.output.finish(&report, Vec::new())
    }

    async fn compare(
        &self,
        hub: &Side,
        to_hub: &Arc<Changing>,
        single: &Side,
        to_single: &Arc<Changing>,
    ) -> anyhow::Result<()> {
        let (length, connections) = (Duration::from_secs(self.seconds), usize::from(self.connections));
        let (mut hubs, mut singles): (Vec<Round>, Vec<Round>) = (Vec::new(), Vec::new());
        for round in 1..=self.rounds {
            hubs.push(hub.round(connections, length, to_hub).await?);
            singles.push(single.round(connections, length, to_single).await?);
            if let (Some(hub), Some(single)) = (hubs.last(), singles.last()) {
                eprintln!("  round {round}: {:.0}/s, one statement each {:.0}/s", hub.rate, single.rate);
            }
        }
        let comparison = Comparison::of(hubs, singles)?;
        comparison.print("changes of attributes", "one statement each");
        let (devices, connections) = (self.devices, self.connections);
        let report = AgainstSingleReport { scenario: "inventory", devices, connections, comparison };
        self.target.output.finish(&report, Vec::new())
    }
}

/// Who reports, and where to.
pub(super) struct Reporting {
    pub(super) server: Server,
    pub(super) members: Arc<[Member]>,
}

impl Reporting {
    fn write(&self, number: u64, method: &str, attributes: &Value, request: &mut Vec<u8>) {
        let member = &self.members[usize::try_from(number % self.members.len() as u64).unwrap_or_default()];
        let body = attributes.to_string();
        write_request(request, &self.server, method, ATTRIBUTES, &member.token, Some(body.as_bytes()));
    }
}

/// All that a device says when it joins.
struct First {
    reporting: Reporting,
    attributes: u32,
}

impl Traffic for First {
    fn write(&self, number: u64, request: &mut Vec<u8>) {
        let attributes = (0..self.attributes).map(|attribute| json!({"name": name(attribute.into()), "value": "0"}));
        self.reporting.write(number, "PUT", &Value::Array(attributes.collect()), request);
    }
}

/// One attribute that has changed, another one each time.
pub(super) struct Changing {
    pub(super) reporting: Reporting,
    pub(super) attributes: u32,
    /// Of all rounds and hubs together: every PATCH has to be a change.
    pub(super) changes: Arc<AtomicU64>,
}

impl Traffic for Changing {
    fn write(&self, number: u64, request: &mut Vec<u8>) {
        let change = self.changes.fetch_add(1, Relaxed);
        let name = name(change % u64::from(self.attributes));
        let change = json!([{"name": name, "value": format!("value {change}")}]);
        self.reporting.write(number, "PATCH", &change, request);
    }
}

fn name(attribute: u64) -> String {
    format!("load-{attribute}")
}
