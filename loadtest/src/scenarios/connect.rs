//! Many devices connect and stay: how soon are they there, does one of them get lost, and does the hub grow meanwhile?

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::Serialize;

use super::Target;
use crate::{
    Server, Shell,
    crew::{Crew, CrewPlan},
    latency::LatencyReport,
    live::{Gauge, Series, Watch},
    operator::Operator,
    part::{Order, Told},
    process, slope,
    typing::Typing,
};

/// Connect many devices from one or more processes, hold them, type in some, and print who was lost and what it took
#[derive(Debug, clap::Args)]
pub struct Connect {
    #[command(flatten)]
    target: Target,
    /// More hubs; the devices take all of them in turn
    #[arg(long, value_name = "URL")]
    and_server: Vec<String>,
    /// How many devices there are
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = super::at_least_one)]
    devices: usize,
    /// Processes that hold them: one may have no more files open than `ulimit -Hn` says
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::at_least_one)]
    processes: usize,
    /// Devices that may be on their way in at the same time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = super::at_least_one)]
    entering: usize,
    /// How long they stay
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    hold: u64,
    /// Terminals that are typed in meanwhile, each on a device of its own and through another hub than the one before
    #[arg(long, value_name = "N", default_value_t = 0)]
    terminals: usize,
    /// From one key to the next in each terminal
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    key_every: u64,
    /// Process ids of the hubs, to tell their memory and processor time (comma)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
}

/// What [`Connect`] found out.
#[derive(Debug, Serialize)]
pub struct ConnectReport {
    scenario: &'static str,
    devices: usize,
    hubs: usize,
    processes: usize,
    connect_seconds: f64,
    connects_per_second: f64,
    hold_seconds: u64,
    /// Connections that ended while they were held.
    unexpected_disconnects: u64,
    /// How often a hub did what would have ended the real agent.
    faults: u64,
    /// Attempts to connect that were refused, by status; 0 stands for no answer.
    refused: BTreeMap<u16, u64>,
    terminals: usize,
    /// From when a key was due until it was back.
    echo: Option<LatencyReport>,
    hub: Option<HubReport>,
    tester: TesterReport,
    series: Vec<Series>,
}

/// What the hubs took, where their processes were named.
#[derive(Debug, Serialize)]
struct HubReport {
    /// Before the first device and with all of them, of all hubs.
    before_bytes: u64,
    connected_bytes: u64,
    /// From one to the other, what is shared with other programs included.
    memory_per_device_bytes: f64,
    /// While they were held.
    growth_per_second_bytes: Option<f64>,
    processor_per_connect_us: f64,
    processor_per_device_second_us: f64,
}

/// What this program took itself, in the processes that hold the devices.
#[derive(Debug, Serialize)]
struct TesterReport {
    memory_per_device_bytes: f64,
    processor_per_device_second_us: f64,
}

/// A moment: memory and processor time of the hubs, and how the fleet is.
struct Moment {
    at: Instant,
    memory: u64,
    processor: Duration,
    told: Told,
}

impl Connect {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When no operator was named, the devices do not come in, or one is lost.
    pub async fn run(self) -> anyhow::Result<()> {
        if self.terminals > self.devices {
            bail!("--terminals is more than --devices");
        }
        let (servers, operators) = self.hubs().await?;
        let fleet = self.target.fleet(&servers[0], Shell::Echo);
        let mut crew = Crew::start(&self.plan(fleet.name())).await?;
        eprintln!("admitting {} devices …", self.devices);
        // At one hub: what one of a cluster lets in, all do.
        let ids = fleet.admit(&operators[0], 0..self.devices).await?;
        let start = self.moment(&crew)?;

        let look = crew.look();
        let (entering, losses) = (look.clone(), look);
        #[expect(clippy::cast_precision_loss)]
        let mut gauges = vec![
            Gauge::level("connected", "", move || entering().connected as f64),
            Gauge::level("lost", "", move || losses().losses as f64),
        ];
        gauges.extend(Gauge::of_processes(&self.pid));
        let watch = Watch::start("connect", None, gauges);
        crew.order(Order::Start).await?;
        let all = |told: &Told| told.connected >= self.devices;
        crew.wait_until("connected", self.target.patience(), all).await?;
        let connected = self.moment(&crew)?;
        let held = self.hold(&operators, &ids).await;
        let end = self.moment(&crew)?;
        let series = watch.finish();

        let (echo, lost) = held.map_or_else(|error| (None, Some(format!("{error:#}"))), |echo| (echo, None));
        let report = self.report(&crew, [&start, &connected, &end], echo, series);
        print(&report);
        let mut flaws = flaws(&report, end.told.connected);
        flaws.extend(lost);
        self.target.output.finish(&report, flaws)
    }

    /// All hubs, and an operator at each.
    async fn hubs(&self) -> anyhow::Result<(Vec<Server>, Vec<Operator>)> {
        let mut servers = vec![self.target.hub().await?];
        let first = self.target.needed_operator(&servers[0], "connecting devices").await?;
        let mut operators = vec![first];
        for url in &self.and_server {
            let server = Server::at(url).await?;
            operators.push(operators[0].at(&server)?);
            servers.push(server);
        }
        Ok((servers, operators))
    }

    fn plan(&self, fleet: &str) -> CrewPlan {
        let servers = std::iter::once(&self.target.server).chain(&self.and_server).cloned().collect();
        let (devices, processes, entering) = (self.devices, self.processes, self.entering);
        CrewPlan { servers, fleet: fleet.to_owned(), first: 0, devices, processes, entering, yields: false }
    }

    fn moment(&self, crew: &Crew) -> anyhow::Result<Moment> {
        let (mut memory, mut processor) = (0, Duration::ZERO);
        for pid in &self.pid {
            memory += process::memory(*pid)?.resident_bytes;
            processor += process::processor_time(*pid)?;
        }
        Ok(Moment { at: Instant::now(), memory, processor, told: crew.told() })
    }

    /// Waits, and types meanwhile.
    async fn hold(&self, operators: &[Operator], ids: &[String]) -> anyhow::Result<Option<LatencyReport>> {
        let length = Duration::from_secs(self.hold);
        if self.terminals == 0 {
            tokio::time::sleep(length).await;
            return Ok(None);
        }
        // A device is on the hub of its number; an operator at the next hub speaks to it across.
        let mut across = operators.to_vec();
        across.rotate_left(1 % operators.len());
        let every = Duration::from_millis(self.key_every);
        let typing = Typing::start(&across, &ids[..self.terminals], every).await?;
        tokio::time::sleep(length).await;
        let typed = typing.typed().load(Relaxed);
        let echo = typing.finish().await.with_context(|| format!("after {typed} keys"))?;
        Ok(echo)
    }

    fn report(
        &self,
        crew: &Crew,
        [start, connected, end]: [&Moment; 3],
        echo: Option<LatencyReport>,
        series: Vec<Series>,
    ) -> ConnectReport {
        let (devices, entered) = (as_f64(self.devices), (connected.at - start.at).as_secs_f64());
        let held = (end.at - connected.at).as_secs_f64().max(1e-9);
        let per_device_second = |used: Duration| used.as_secs_f64() * 1e6 / devices / held;
        let growth = series.iter().find(|series| series.name == "hub memory").and_then(|memory| {
            let from = entered.ceil();
            let held: Vec<_> = memory.points.iter().copied().filter(|point| point.0 > from).collect();
            slope::per_second(&held).map(|megabytes| megabytes * 1e6)
        });
        let hub = (!self.pid.is_empty()).then(|| HubReport {
            before_bytes: start.memory,
            connected_bytes: connected.memory,
            memory_per_device_bytes: as_f64(connected.memory.saturating_sub(start.memory)) / devices,
            growth_per_second_bytes: growth,
            processor_per_connect_us: connected.processor.saturating_sub(start.processor).as_secs_f64() * 1e6 / devices,
            processor_per_device_second_us: per_device_second(end.processor.saturating_sub(connected.processor)),
        });
        let own = as_f64(end.told.anonymous_bytes.saturating_sub(crew.beginning().anonymous_bytes));
        let own_time = Duration::from_millis(end.told.processor_ms.saturating_sub(connected.told.processor_ms));
        ConnectReport {
            scenario: "connect",
            devices: self.devices,
            hubs: 1 + self.and_server.len(),
            processes: crew.processes(),
            connect_seconds: entered,
            connects_per_second: devices / entered.max(1e-9),
            hold_seconds: self.hold,
            unexpected_disconnects: end.told.losses - connected.told.losses,
            faults: end.told.faults,
            refused: end.told.refused.clone(),
            terminals: self.terminals,
            echo,
            hub,
            tester: TesterReport {
                memory_per_device_bytes: own / devices,
                processor_per_device_second_us: per_device_second(own_time),
            },
            series,
        }
    }
}

fn flaws(report: &ConnectReport, connected: usize) -> Vec<String> {
    let (mut flaws, devices) = (Vec::new(), report.devices);
    if report.unexpected_disconnects > 0 {
        flaws.push(format!("{} connections ended by themselves", report.unexpected_disconnects));
    }
    if connected != devices {
        flaws.push(format!("{connected} of {devices} devices are connected at the end"));
    }
    if report.faults > 0 {
        flaws.push(format!("the hub did {} times what ends a real agent", report.faults));
    }
    flaws
}

fn print(report: &ConnectReport) {
    let ConnectReport { devices, hubs, processes, connect_seconds, connects_per_second, hold_seconds, .. } = report;
    eprintln!(
        "{devices} devices on {hubs} hubs from {processes} processes, connected in {connect_seconds:.1} s ({connects_per_second:.0}/s)"
    );
    eprintln!("  lost in {hold_seconds} s             {}", report.unexpected_disconnects);
    if let Some(echo) = &report.echo {
        eprintln!("  keys in {} terminals     {echo}", report.terminals);
    }
    if let Some(hub) = &report.hub {
        eprintln!("  hub, memory per device   {:.0} bytes", hub.memory_per_device_bytes);
        if let Some(growth) = hub.growth_per_second_bytes {
            eprintln!("  hub, growth while held   {growth:.0} bytes/s");
        }
        eprintln!(
            "  hub, processor           {:.0} µs per connect, {:.2} µs per device and second",
            hub.processor_per_connect_us, hub.processor_per_device_second_us
        );
    }
    let tester = &report.tester;
    eprintln!(
        "  tester itself            {:.0} bytes per device, {:.2} µs per device and second",
        tester.memory_per_device_bytes, tester.processor_per_device_second_us
    );
    if !report.refused.is_empty() {
        eprintln!("  refused, by status       {:?}", report.refused);
    }
}

/// Counts here are far below 2^52, where a float is exact.
#[expect(clippy::cast_precision_loss)]
fn as_f64(count: impl TryInto<u64>) -> f64 {
    count.try_into().map_or(f64::NAN, |count| count as f64)
}
