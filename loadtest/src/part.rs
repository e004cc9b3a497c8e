//! A part of a fleet, in a process of its own: a process may hold so many files and no more.
//!
//! Whoever coordinates the parts ([`crate::crew`]) starts them, hears of them a few times a second and tells them what to do, each
//! a line of JSON: [`Told`] on standard output, [`Order`] on standard input. A part whose input ends, ends.

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{Leave, Server, Shell, fleet::Fleet, process};

/// How often a part tells how it is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Connect some devices of a fleet, as the scenario that started this says
#[derive(Debug, clap::Args)]
pub struct Part {
    /// Where the hubs are; the devices take them in turn
    #[arg(long, value_name = "URL", required = true)]
    server: Vec<String>,
    /// Name of the fleet
    #[arg(long, value_name = "NAME")]
    fleet: String,
    /// Number of the first device
    #[arg(long, value_name = "N")]
    first: usize,
    /// How many devices
    #[arg(long, value_name = "N")]
    devices: usize,
    /// Devices that may be on their way in at the same time
    #[arg(long, value_name = "N")]
    entering: usize,
}

/// What a part is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Switch the devices on.
    Start,
    /// Cut the connections of so many devices, whichever; each comes back after a time between these.
    CutSome {
        /// How many.
        count: usize,
        /// The shortest time, in milliseconds.
        away_min_ms: u64,
        /// The longest.
        away_max_ms: u64,
    },
    /// Cut all connections; each device comes back after a time between these.
    Cut {
        /// The shortest time, in milliseconds.
        away_min_ms: u64,
        /// The longest.
        away_max_ms: u64,
    },
}

/// How a part is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Devices with a token.
    pub joined: usize,
    /// Devices with an open websocket.
    pub connected: usize,
    /// Websockets opened since the start.
    pub connections: u64,
    /// Websockets that ended, those that were cut on purpose among them.
    pub losses: u64,
    /// Attempts to connect that were refused, by status; 0 stands for no answer.
    pub refused: BTreeMap<u16, u64>,
    /// How often the hub did what would have ended the real agent.
    pub faults: u64,
    /// What went wrong last.
    pub trouble: Option<String>,
    /// Its own memory that belongs to it alone.
    pub anonymous_bytes: u64,
    /// Its own processor time.
    pub processor_ms: u64,
}

impl Part {
    /// Runs until standard input ends.
    ///
    /// # Errors
    /// When a hub's URL is none, or standard output is closed.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut fleets = Vec::new();
        let entering = self.entering.div_ceil(self.server.len()).max(1);
        for url in &self.server {
            let server = Server::at(url).await?;
            fleets.push(Fleet::new(&self.fleet, server, Shell::Echo).entering_at_once(entering).of_idle_devices());
        }
        let mut orders = BufReader::new(tokio::io::stdin()).lines();
        // The first word is of a process without devices, so that what they take can be told.
        tell(&fleets)?;
        let mut next = tokio::time::interval(TELL_EVERY);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.next_line() => match order? {
                    Some(line) => {
                        let order = serde_json::from_str(&line).with_context(|| format!("cannot read the order {line:?}"))?;
                        self.obey(order, &mut fleets);
                    }
                    None => return Ok(()),
                },
                _ = next.tick() => tell(&fleets)?,
            }
        }
    }

    fn obey(&self, order: Order, fleets: &mut [Fleet]) {
        match order {
            Order::Start => {
                for number in self.first..self.first + self.devices {
                    let fleet = number % fleets.len();
                    fleets[fleet].start(number..number + 1);
                }
            }
            Order::CutSome { count, away_min_ms, away_max_ms } => {
                for _ in 0..count {
                    let fleet = rand::random_range(0..fleets.len());
                    fleets[fleet].reconnect_one(Leave::Cut, between(away_min_ms, away_max_ms));
                }
            }
            Order::Cut { away_min_ms, away_max_ms } => {
                for fleet in fleets {
                    fleet.reconnect_all(Leave::Cut, || between(away_min_ms, away_max_ms));
                }
            }
        }
    }
}

fn between(shortest_ms: u64, longest_ms: u64) -> Duration {
    Duration::from_millis(rand::random_range(shortest_ms..=longest_ms.max(shortest_ms)))
}

fn tell(fleets: &[Fleet]) -> anyhow::Result<()> {
    let mut told = Told::default();
    for progress in fleets.iter().map(|fleet| &fleet.settings().progress) {
        told.joined += progress.joined();
        told.connected += progress.connected();
        told.connections += progress.connections();
        told.losses += progress.losses();
        told.faults += progress.faults();
        told.trouble = told.trouble.or_else(|| progress.last_trouble());
        for (status, count) in progress.refused_connections() {
            *told.refused.entry(status.unwrap_or_default()).or_default() += count;
        }
    }
    let pid = std::process::id();
    told.anonymous_bytes = process::memory(pid)?.anonymous_bytes;
    told.processor_ms = u64::try_from(process::processor_time(pid)?.as_millis()).unwrap_or(u64::MAX);
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &told)?;
    out.write_all(b"\n")?;
    out.flush().context("nobody listens to this part any more")
}

impl Told {
    /// Of several parts together.
    pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for part in parts {
            sum.joined += part.joined;
            sum.connected += part.connected;
            sum.connections += part.connections;
            sum.losses += part.losses;
            sum.faults += part.faults;
            sum.trouble = sum.trouble.or_else(|| part.trouble.clone());
            sum.anonymous_bytes += part.anonymous_bytes;
            sum.processor_ms += part.processor_ms;
            for (status, count) in &part.refused {
                *sum.refused.entry(*status).or_default() += count;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_what_is_told_go_through_json() {
        let some = Order::CutSome { count: 3, away_min_ms: 1, away_max_ms: 2 };
        for order in [Order::Start, some, Order::Cut { away_min_ms: 1, away_max_ms: 2 }] {
            let line = serde_json::to_string(&order).expect("JSON");
            assert_eq!(serde_json::from_str::<Order>(&line).expect("an order"), order, "{line}");
        }
        let told = Told { connected: 7, refused: BTreeMap::from([(429, 3)]), ..Told::default() };
        let line = serde_json::to_string(&told).expect("JSON");
        assert_eq!(serde_json::from_str::<Told>(&line).expect("told"), told, "{line}");
    }

    #[test]
    fn parts_add_up() {
        let one = Told { connected: 1, refused: BTreeMap::from([(429, 3)]), trouble: None, ..Told::default() };
        let trouble = Some("x".to_owned());
        let two = Told { connected: 2, refused: BTreeMap::from([(0, 1), (429, 1)]), trouble, ..Told::default() };
        let sum = Told::sum([&one, &two]);
        assert_eq!((sum.connected, sum.trouble.as_deref()), (3, Some("x")));
        assert_eq!(sum.refused, BTreeMap::from([(0, 1), (429, 4)]));
    }
}
