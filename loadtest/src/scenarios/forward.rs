//! Ports of devices, forwarded: how fast, and does every stream get its share?

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::Target;
use crate::{
    Server, Services, Shell,
    forwarding::{Forwarding, Happened, PIECE},
    live::{Gauge, Series, Watch},
    operator::Operator,
    slow_line::SlowLine,
};

/// Forward ports of devices, send as much as goes through, and print how much that is and how it is shared
#[derive(Debug, clap::Args)]
pub struct Forward {
    #[command(flatten)]
    target: Target,
    /// How many devices there are, each with an operator's session of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::at_least_one)]
    devices: usize,
    /// Streams on each device
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = super::at_least_one)]
    streams: usize,
    /// Which way the bytes go
    #[arg(long, value_enum, default_value_t = Way::FromDevice)]
    way: Way,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Milliseconds that everything takes to come back on the operator's line to the hub (plain http only)
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    round_trip: u64,
    /// Process ids of the hubs, to show their memory and processor time (comma)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// From the device's port to the operator
    FromDevice,
    /// From the operator to the device's port
    ToDevice,
}

/// What [`Forward`] found out.
#[derive(Debug, Serialize)]
pub struct ForwardReport {
    scenario: &'static str,
    devices: usize,
    streams: usize,
    way: Way,
    round_trip_ms: u64,
    total_bytes: u64,
    megabytes_per_second: f64,
    /// What one message in flight at a time would be on this line, at best; absent on a line without delay.
    one_in_flight_megabytes_per_second: Option<f64>,
    /// The stream with the least, as a share of what each would have if all had the same.
    least_share: f64,
    /// How often the hub did what would have ended the real agent: acks that were too many.
    faults: u64,
    series: Vec<Series>,
}

impl Forward {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When no operator was named, or a stream ends.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = self.target.hub().await?;
        let operator = self.target.needed_operator(&server, "forwarding").await?;
        let services = Services { ports: true, ..Services::none() };
        let mut fleet = self.target.fleet(&server, Shell::Echo).offering(services);
        let ids = fleet.admit(&operator, 0..self.devices).await?;
        fleet.start(0..self.devices);
        fleet.all_connected(self.target.patience()).await?;
        let (_line, operator) = through(&server, operator, Duration::from_millis(self.round_trip)).await?;

        let far = FarEnd::start(self.way).await?;
        let length = Duration::from_secs(self.seconds);
        let moved = Arc::<AtomicU64>::default();
        let watched = moved.clone();
        let mut gauges = vec![Gauge::rate("forwarded", "B/s", move || watched.load(Relaxed))];
        gauges.extend(Gauge::of_processes(&self.pid));
        let watch = Watch::start("forward", Some(length), gauges);
        let begun = Instant::now();
        let sessions: Vec<_> = ids
            .iter()
            .map(|id| {
                let session = Session {
                    operator: operator.clone(),
                    device: id.clone(),
                    streams: self.streams,
                    way: self.way,
                    port: far.port,
                    until: begun + length,
                    moved: moved.clone(),
                };
                tokio::spawn(session.run())
            })
            .collect();
        let mut each = Vec::new();
        for session in sessions {
            each.extend(session.await.context("a session panicked")??);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let total: u64 = each.iter().sum();
        let least = each.iter().min().copied().unwrap_or_default();
        let report = ForwardReport {
            scenario: "forward",
            devices: self.devices,
            streams: self.streams,
            way: self.way,
            round_trip_ms: self.round_trip,
            total_bytes: total,
            megabytes_per_second: as_f64(total) / seconds / 1e6,
            one_in_flight_megabytes_per_second: (self.round_trip > 0)
                .then(|| as_f64(PIECE as u64) * as_f64(each.len() as u64) / (as_f64(self.round_trip) / 1e3) / 1e6),
            least_share: as_f64(least) * as_f64(each.len() as u64) / as_f64(total).max(1.0),
            faults: fleet.settings().progress.faults(),
            series: watch.finish(),
        };
        print(&report);
        let flaws = (report.faults > 0).then(|| format!("the hub did {} times what ends a real agent", report.faults));
        self.target.output.finish(&report, flaws.into_iter().collect())
    }
}

/// The operator behind a line on which everything takes so long to come back.
async fn through(
    server: &Server,
    operator: Operator,
    round_trip: Duration,
) -> anyhow::Result<(Option<SlowLine>, Operator)> {
    if round_trip.is_zero() {
        return Ok((None, operator));
    }
    let line = SlowLine::to(server.address(), round_trip / 2).await?;
    let slow = Server::at(&format!("http://{}", line.address())).await?;
    let operator = operator.at(&slow)?;
    Ok((Some(line), operator))
}

/// Kilobytes a second of one stream from a device, over a line with this round trip, as the table of budgets has it.
pub(super) async fn kilobytes_per_second(
    server: &Server,
    operator: &Operator,
    device: &str,
    round_trip: Duration,
    length: Duration,
) -> anyhow::Result<f64> {
    let (_line, operator) = through(server, operator.clone(), round_trip).await?;
    let far = FarEnd::start(Way::FromDevice).await?;
    let begun = Instant::now();
    let session = Session {
        operator,
        device: device.to_owned(),
        streams: 1,
        way: Way::FromDevice,
        port: far.port,
        until: begun + length,
        moved: Arc::default(),
    };
    let bytes: u64 = session.run().await?.iter().sum();
    Ok(as_f64(bytes) / begun.elapsed().as_secs_f64() / 1e3)
}

/// One operator's session on one device.
struct Session {
    operator: Operator,
    device: String,
    streams: usize,
    way: Way,
    port: u16,
    until: Instant,
    moved: Arc<AtomicU64>,
}

impl Session {
    /// Bytes of each stream.
    async fn run(self) -> anyhow::Result<Vec<u64>> {
        let mut forwarding = Forwarding::open(&self.operator, &self.device).await?;
        let names: Vec<String> = (0..self.streams).map(|stream| format!("stream-{stream}")).collect();
        for name in &names {
            forwarding.connect(name, "127.0.0.1", self.port).await?;
        }
        let piece = vec![b'x'; PIECE];
        if self.way == Way::ToDevice {
            for name in &names {
                forwarding.forward(name, &piece).await?;
            }
        }
        let mut sent = std::collections::HashMap::<String, u64>::new();
        while let Ok(happened) = tokio::time::timeout_at(self.until.into(), forwarding.happened()).await {
            match happened? {
                Happened::Bytes(_, length) => {
                    self.moved.fetch_add(length as u64, Relaxed);
                }
                Happened::Acknowledged(stream) => {
                    self.moved.fetch_add(PIECE as u64, Relaxed);
                    forwarding.forward(&stream, &piece).await?;
                    *sent.entry(stream).or_default() += PIECE as u64;
                }
                Happened::Ended(stream) => anyhow::bail!("{stream} has ended"),
            }
        }
        let counted = if self.way == Way::ToDevice { &sent } else { forwarding.received() };
        Ok(names.iter().map(|name| counted.get(name).copied().unwrap_or_default()).collect())
    }
}

/// The port that devices reach: it sends without end, or takes everything.
struct FarEnd {
    port: u16,
    task: JoinHandle<()>,
}

impl FarEnd {
    async fn start(way: Way) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, way));
            }
        });
        Ok(Self { port, task })
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, way: Way) {
    let mut buffer = vec![b'x'; 64 * 1024];
    match way {
        Way::FromDevice => while stream.write_all(&buffer).await.is_ok() {},
        Way::ToDevice => while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {},
    }
}

fn print(report: &ForwardReport) {
    let ForwardReport { devices, streams, way, round_trip_ms, megabytes_per_second, least_share, .. } = report;
    eprintln!("{devices} × {streams} streams, {way:?}, {round_trip_ms} ms round trip: {megabytes_per_second:.2} MB/s");
    if let Some(one) = report.one_in_flight_megabytes_per_second {
        eprintln!("  one message in flight    {one:.3} MB/s at best");
    }
    eprintln!("  the least of a stream    {:.0} % of its share", least_share * 100.0);
}

/// Counts here are far below 2^52, where a float is exact.
#[expect(clippy::cast_precision_loss)]
fn as_f64(count: u64) -> f64 {
    count as f64
}
