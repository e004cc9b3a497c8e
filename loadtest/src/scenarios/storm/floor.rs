//! The same storm of bare TCP connections, joined by `floor relay`: the least that it takes on this machine. As with devices, one
//! process may hold so many and no more, so there are as many relays as hubs, and for each a process that calls it.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::{Server, crew::behind_others, floor::relay::NAME, server::source_of, wire::Wire};

/// Bare connections to one relay: it and whoever calls it may open few more files each.
const MOST_FOR_RELAY: usize = 18_000;

/// Pairs of connections that are opened at the same time before the storm.
const OPENING: usize = 128;

/// Who comes back comes from other addresses than before, as by pairs beyond this one: where connections have just ended
/// the kernel looks long for a free port.
const RETURNING: usize = 90_000;

/// What a part says when all of its connections are there.
const ALL_OPEN: &str = "open";

/// Two connections that the relay has joined.
type Pair = (Wire, Wire);

/// Hold bare connections to a relay, cut and open them again, as the scenario that started this says
#[derive(Debug, clap::Args)]
pub struct FloorPart {
    /// Where `floor relay` is
    #[arg(long, value_name = "ADDRESS")]
    relay: SocketAddr,
    /// Number of the first pair of connections
    #[arg(long, value_name = "N")]
    first: usize,
    /// How many pairs
    #[arg(long, value_name = "N")]
    pairs: usize,
    /// The shortest time away
    #[arg(long, value_name = "MILLISECONDS")]
    away_min: u64,
    /// The longest
    #[arg(long, value_name = "MILLISECONDS")]
    away_max: u64,
}

/// A process that runs [`FloorPart`].
struct RunningPart {
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

/// Whether these relays can hold so many.
pub(super) fn has_room(relays: &[SocketAddr], connections: usize) -> bool {
    connections.div_ceil(2).div_ceil(relays.len().max(1)) * 2 <= MOST_FOR_RELAY
}

/// Opens this many connections to the relays, cuts all of them, opens each again after a random time within `away`
/// (milliseconds), and returns the seconds until 99.9 % were back. A connection is back when a byte has passed it.
pub(super) async fn nearly_all_back_seconds(
    relays: &[SocketAddr],
    connections: usize,
    away: (u64, u64),
) -> anyhow::Result<f64> {
    let pairs = connections.div_ceil(2);
    let bound = |number: usize| pairs * number / relays.len();
    let parts = relays.iter().enumerate().map(|(number, relay)| {
        let (first, next) = (bound(number), bound(number + 1));
        FloorPart { relay: *relay, first, pairs: next - first, away_min: away.0, away_max: away.1 }.start()
    });
    let mut parts: Vec<RunningPart> = parts.collect::<anyhow::Result<_>>()?;
    for said in join_all(parts.iter_mut().map(RunningPart::next)).await {
        ensure!(said? == ALL_OPEN, "a part of the bare connections speaks out of turn");
    }
    for part in &mut parts {
        part.orders.write_all(b"cut\n").await.context("a part of the bare connections has ended")?;
    }
    let said = try_join_all(parts.iter_mut().map(RunningPart::next)).await?;
    let mut back = Vec::with_capacity(pairs);
    for line in said {
        back.extend(serde_json::from_str::<Vec<f64>>(&line).context("cannot read when connections were back")?);
    }
    back.sort_by(f64::total_cmp);
    nearly_last(&back).context("no connection")
}

/// When 99.9 % were there, of times in order.
fn nearly_last(times: &[f64]) -> Option<f64> {
    times.get((times.len() * 999).div_ceil(1000).checked_sub(1)?).copied()
}

impl RunningPart {
    async fn next(&mut self) -> anyhow::Result<String> {
        let line = self.said.next_line().await?;
        line.context("a part of the bare connections has ended; it said why")
    }
}

impl FloorPart {
    fn start(&self) -> anyhow::Result<RunningPart> {
        let mut command = behind_others()?;
        command.arg("floor-part").args(["--relay", &self.relay.to_string()]);
        for (name, number) in [("--first", self.first), ("--pairs", self.pairs)] {
            command.arg(name).arg(number.to_string());
        }
        for (name, time) in [("--away-min", self.away_min), ("--away-max", self.away_max)] {
            command.arg(name).arg(time.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("cannot start a part of the bare connections")?;
        let orders = process.stdin.take().context("a part without standard input")?;
        let output = process.stdout.take().context("a part without standard output")?;
        Ok(RunningPart { orders, said: BufReader::new(output).lines(), _process: process })
    }

    /// Opens its connections and says so, waits for a line on standard input, cuts them, opens them again and says, as a line of
    /// JSON, after how many seconds each was back.
    ///
    /// # Errors
    /// When the relay cannot be reached, or joins nobody.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = Server::at(&format!("http://{}", self.relay)).await?;
        let numbers = self.first..self.first + self.pairs;
        let opening = stream::iter(numbers.clone()).map(|pair| open(&server, pair));
        let held: Vec<Pair> = opening.buffer_unordered(OPENING).try_collect().await?;
        say(ALL_OPEN)?;
        let mut orders = BufReader::new(tokio::io::stdin()).lines();
        if orders.next_line().await?.is_none() {
            return Ok(());
        }
        let cut = Instant::now();
        drop(held);
        let coming = stream::iter(numbers).map(async |pair| {
            tokio::time::sleep(Duration::from_millis(rand::random_range(self.away_min..=self.away_max))).await;
            let ends = open(&server, RETURNING + pair).await?;
            anyhow::Ok((cut.elapsed().as_secs_f64(), ends))
        });
        // All of them at once, as devices come.
        let back: Vec<(f64, Pair)> = coming.buffer_unordered(self.pairs.max(1)).try_collect().await?;
        let times: Vec<f64> = back.iter().map(|(when, _)| *when).collect();
        say(&serde_json::to_string(&times)?)
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("nobody listens to this part any more")
}

async fn open(server: &Server, pair: usize) -> anyhow::Result<Pair> {
    let source = source_of(2 * pair, server.address());
    let name: [u8; NAME] = rand::random();
    let opening = async {
        let (mut one, mut other) = (server.open_line(source).await?, server.open_line(source).await?);
        one.write_all(&name).await?;
        other.write_all(&name).await?;
        one.write_all(b".").await?;
        one.flush().await?;
        other.flush().await?;
        let mut byte = [0];
        other.read_exact(&mut byte).await?;
        std::io::Result::Ok((one, other))
    };
    opening.await.context("the relay cannot be reached, or joins nobody")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_thousand_may_be_late() {
        let times = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(nearly_last(&times(1000)), Some(999.0));
        assert_eq!(nearly_last(&times(2500)), Some(2498.0));
        assert_eq!(nearly_last(&times(3)), Some(3.0));
        assert_eq!(nearly_last(&[]), None);
    }

    #[test]
    fn each_relay_holds_so_many() {
        let relay = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(has_room(&[relay], MOST_FOR_RELAY));
        assert!(!has_room(&[relay], MOST_FOR_RELAY + 1));
        assert!(has_room(&[relay; 5], 5 * MOST_FOR_RELAY));
        assert!(!has_room(&[relay; 5], 5 * MOST_FOR_RELAY + 1));
        assert!(!has_room(&[], MOST_FOR_RELAY + 1));
    }
}
