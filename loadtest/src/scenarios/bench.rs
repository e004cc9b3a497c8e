//! Every budget of a hub, against the least that a server has to do: hub and floor in turn, in the same minutes.

mod idle;
mod messages;
mod requests;
mod stalled;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

use super::Target;
use crate::{
    Server, Shell,
    bench_row::Row,
    comparison::Side,
    fleet::Fleet,
    operator::Operator,
    process,
    roster::{self, Member},
};

/// Measure a hub's budgets against floors that run beside it (`make bench` starts all of them), and print a row for each
#[derive(Debug, clap::Args)]
pub struct Bench {
    #[command(flatten)]
    target: Target,
    /// Rounds of each row; hub and floor take turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long a round is
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Devices that are connected and idle in the rows that say so
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = super::at_least_one)]
    idle: usize,
    /// How long a round of idleness is; in a short one hardly anybody is pinged
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    idle_seconds: u64,
    /// Connections that are opened in a round of the row about that
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = super::at_least_one)]
    connects: usize,
    /// Which rows; all, if none is named
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    row: Vec<RowName>,
    /// Process id of the hub
    #[arg(long, value_name = "PID")]
    pid: u32,
    /// Where `floor http` is, and its process id
    #[arg(long, value_name = "URL")]
    floor_http: String,
    #[arg(long, value_name = "PID")]
    floor_http_pid: u32,
    /// Where `floor relay` is, and its process id
    #[arg(long, value_name = "ADDRESS")]
    floor_relay: SocketAddr,
    #[arg(long, value_name = "PID")]
    floor_relay_pid: u32,
    /// Where `floor websocket` is, and its process id
    #[arg(long, value_name = "URL")]
    floor_websocket: String,
    #[arg(long, value_name = "PID")]
    floor_websocket_pid: u32,
    /// Where a hub is that speaks TLS and knows the same operator, and its process id; without it there is no row about that
    #[arg(long, value_name = "URL", requires = "tls_pid")]
    tls_server: Option<String>,
    #[arg(long, value_name = "PID", requires = "tls_server")]
    tls_pid: Option<u32>,
}

/// A row, or a few that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RowName {
    /// Memory and processor time of idle devices, keystrokes among them
    Idle,
    /// Memory of idle devices behind TLS
    Tls,
    /// Processor time of an accepted connection
    Connect,
    /// 4 KiB from an operator to a device
    Relay,
    /// A forwarded port over a line with a delay
    Forward,
    /// A peer that stalls
    Stalled,
    /// Polls with nothing to do
    Poll,
}

/// What [`Bench`] found out.
#[derive(Debug, Serialize)]
pub struct BenchReport {
    scenario: &'static str,
    rounds: u32,
    seconds: u64,
    idle: usize,
    rows: Vec<Row>,
}

/// Everybody who is measured, and who does it.
struct Stage {
    hub: Side,
    http: Side,
    relay: SocketAddr,
    relay_pid: u32,
    websocket: Side,
    /// A hub that speaks TLS, and the operator there.
    tls: Option<(Side, Operator)>,
    operator: Operator,
    fleet: Fleet,
    members: Arc<[Member]>,
}

/// Members beyond those of the row about connects: for terminals and the like.
const MORE_MEMBERS: usize = 64;

impl Bench {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When something of hub or floors cannot be measured.
    pub async fn run(self) -> anyhow::Result<()> {
        let stage = self.stage().await?;
        let mut rows = Vec::new();
        for name in RowName::value_variants() {
            if !self.row.is_empty() && !self.row.contains(name) {
                continue;
            }
            let measured = match name {
                RowName::Idle => self.measure_idle(&stage).await,
                RowName::Tls => self.measure_tls(&stage).await,
                RowName::Connect => self.measure_connects(&stage).await,
                RowName::Relay => self.measure_relay(&stage).await,
                RowName::Forward => self.measure_forward(&stage).await,
                RowName::Stalled => self.measure_stalled(&stage).await,
                RowName::Poll => self.measure_polls(&stage).await,
            };
            for row in measured.with_context(|| format!("cannot measure {name:?}"))? {
                row.print();
                rows.push(row);
            }
        }
        let (rounds, seconds, idle) = (self.rounds, self.seconds, self.idle);
        let flaws =
            rows.iter().filter(|row| row.met == Some(false)).map(|row| format!("{}: not met", row.name)).collect();
        self.target.output.finish(&BenchReport { scenario: "bench", rounds, seconds, idle, rows }, flaws)
    }

    async fn stage(&self) -> anyhow::Result<Stage> {
        let server = self.target.hub().await?;
        let credentials = self.target.credentials()?;
        let (user, password) = credentials.context("measuring takes an operator: give --user and --password-stdin")?;
        let operator = Operator::log_in(&server, user, &password).await?;
        let fleet = self.target.fleet(&server, Shell::Echo);
        eprintln!("admitting devices …");
        let members = roster::enlist(&fleet, &server, &operator, self.connects + MORE_MEMBERS).await?;
        let side = async |url: &str, pid| anyhow::Ok(Side { server: Server::at(url).await?, pid: Some(pid) });
        let tls = match &self.tls_server {
            Some(url) => {
                let server = Server::at(url).await?;
                let operator = Operator::log_in(&server, user, &password).await?;
                Some((Side { server, pid: self.tls_pid }, operator))
            }
            None => None,
        };
        Ok(Stage {
            hub: Side { server, pid: Some(self.pid) },
            http: side(&self.floor_http, self.floor_http_pid).await?,
            relay: self.floor_relay,
            relay_pid: self.floor_relay_pid,
            websocket: side(&self.floor_websocket, self.floor_websocket_pid).await?,
            tls,
            operator,
            fleet,
            members,
        })
    }

    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Processor time that a process takes while something is done, in microseconds.
async fn processor_us<T>(pid: u32, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(T, f64)> {
    let before = process::scheduled_time(pid)?;
    let done = work.await?;
    let used = process::scheduled_time(pid)?.saturating_sub(before);
    Ok((done, used.as_secs_f64() * 1e6))
}

impl Side {
    fn needed_pid(&self) -> anyhow::Result<u32> {
        self.pid.context("a process id is missing")
    }
}

/// Counts here are far below 2^52, where a float is exact.
#[expect(clippy::cast_precision_loss)]
fn as_f64(count: impl TryInto<u64>) -> f64 {
    count.try_into().map_or(f64::NAN, |count| count as f64)
}

fn rows(rows: impl IntoIterator<Item = Option<Row>>) -> anyhow::Result<Vec<Row>> {
    rows.into_iter().map(|row| row.context("no rounds")).collect()
}
