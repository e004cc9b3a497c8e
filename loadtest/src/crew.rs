//! The processes that hold a fleet, and whoever coordinates them.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Notify,
    task::JoinHandle,
};

use crate::part::{Order, Told};

/// How long a part may take to say its first word.
const FIRST_WORD: Duration = Duration::from_secs(20);

/// This program, to be run by its processes behind all others: devices have processors of their own, and what it takes to
/// imitate them is not to be missing where latency is measured.
///
/// # Errors
/// When this program cannot be found.
pub(crate) fn behind_others() -> anyhow::Result<Command> {
    let mut command = Command::new("chrt");
    command.args(["--idle", "0"]).arg(this_program()?);
    Ok(command)
}

fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

/// A fleet in several processes. They end with this.
#[derive(Debug)]
pub struct Crew {
    parts: Vec<RunningPart>,
    heard: Arc<Heard>,
    /// What they were before they had devices.
    beginning: Told,
}

#[derive(Debug)]
struct RunningPart {
    orders: ChildStdin,
    _process: Child,
    reader: JoinHandle<()>,
}

/// The latest of each part.
#[derive(Debug, Default)]
struct Heard {
    latest: Mutex<Vec<Option<Told>>>,
    /// A part that has ended says nothing any more.
    ended: Mutex<Option<String>>,
    changed: Notify,
}

/// Which fleet a crew holds.
#[derive(Debug, Clone)]
pub struct CrewPlan {
    /// Where the hubs are.
    pub servers: Vec<String>,
    /// The fleet's name.
    pub fleet: String,
    /// Number of its first device.
    pub first: usize,
    /// How many devices.
    pub devices: usize,
    /// In how many processes.
    pub processes: usize,
    /// Devices that may be on their way in at the same time, in all processes together.
    pub entering: usize,
    /// Whether its processes come behind all others on this machine's processors.
    pub yields: bool,
}

impl CrewPlan {
    /// The first device of each part, and how many it has.
    fn shares(&self) -> Vec<(usize, usize)> {
        let (parts, mut first) = (self.processes.clamp(1, self.devices.max(1)), self.first);
        let shares = (0..parts).map(|part| {
            let devices = self.devices / parts + usize::from(part < self.devices % parts);
            let share = (first, devices);
            first += devices;
            share
        });
        shares.collect()
    }
}

impl Crew {
    /// Starts the processes; no device is switched on yet.
    ///
    /// # Errors
    /// When one cannot be started or says nothing.
    pub async fn start(plan: &CrewPlan) -> anyhow::Result<Self> {
        let shares = plan.shares();
        let heard = Arc::new(Heard { latest: Mutex::new(vec![None; shares.len()]), ..Heard::default() });
        let entering = plan.entering.div_ceil(shares.len()).max(1);
        let mut parts = Vec::new();
        for (number, (first, devices)) in shares.into_iter().enumerate() {
            let mut command = if plan.yields { behind_others()? } else { Command::new(this_program()?) };
            command.arg("part").args(["--fleet", &plan.fleet]);
            for server in &plan.servers {
                command.args(["--server", server]);
            }
            let numbers = [("--first", first), ("--devices", devices), ("--entering", entering)];
            for (name, number) in numbers {
                command.arg(name).arg(number.to_string());
            }
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut process = command.spawn().context("cannot start a part of the fleet")?;
            let orders = process.stdin.take().context("a part without standard input")?;
            let output = process.stdout.take().context("a part without standard output")?;
            let reader = tokio::spawn(read(number, output, heard.clone()));
            parts.push(RunningPart { orders, _process: process, reader });
        }
        let mut crew = Self { parts, heard, beginning: Told::default() };
        crew.beginning = crew.wait_until("says its first word", FIRST_WORD, |_| true).await?;
        Ok(crew)
    }

    /// Tells all parts what to do.
    ///
    /// # Errors
    /// When one has ended.
    pub async fn order(&mut self, order: Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(&order)? + "\n";
        for part in &mut self.parts {
            part.orders.write_all(line.as_bytes()).await.context("a part of the fleet has ended")?;
        }
        Ok(())
    }

    /// Cuts the connections of so many devices, of all parts in turn; `round` says whose turn it is.
    ///
    /// # Errors
    /// When a part has ended.
    pub async fn cut_some(&mut self, round: usize, count: usize, away: (Duration, Duration)) -> anyhow::Result<()> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (away_min_ms, away_max_ms) = (milliseconds(away.0), milliseconds(away.1));
        let line = serde_json::to_string(&Order::CutSome { count, away_min_ms, away_max_ms })? + "\n";
        let number = round % self.parts.len();
        self.parts[number].orders.write_all(line.as_bytes()).await.context("a part of the fleet has ended")
    }

    /// How the whole fleet was when each part last told; before all have, nothing.
    pub fn told(&self) -> Told {
        self.heard.sum().unwrap_or_default()
    }

    /// The same, for those who look on.
    pub fn look(&self) -> impl Fn() -> Told + Send + Clone + 'static {
        let heard = self.heard.clone();
        move || heard.sum().unwrap_or_default()
    }

    /// What the parts were before they had devices.
    pub fn beginning(&self) -> &Told {
        &self.beginning
    }

    /// In how many processes it is.
    pub fn processes(&self) -> usize {
        self.parts.len()
    }

    /// Waits until the fleet is as wanted.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or a part ends; the error says how far it came.
    pub async fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        reached: impl Fn(&Told) -> bool,
    ) -> anyhow::Result<Told> {
        let waiting = async {
            loop {
                let changed = self.heard.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(why) = self.heard.ended.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                    bail!("a part of the fleet has ended: {why}");
                }
                if let Some(told) = self.heard.sum().filter(&reached) {
                    return Ok(told);
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_elapsed| {
            let told = self.told();
            let trouble = told.trouble.unwrap_or_else(|| "nothing went wrong".to_owned());
            bail!(
                "not within {} s: fleet {what}; {} joined, {} connected; last trouble: {trouble}",
                limit.as_secs(),
                told.joined,
                told.connected
            )
        })
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for part in &self.parts {
            part.reader.abort();
        }
    }
}

impl Heard {
    fn sum(&self) -> Option<Told> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Option<Vec<&Told>> = latest.iter().map(Option::as_ref).collect();
        all.map(Told::sum)
    }
}

async fn read(number: usize, output: ChildStdout, heard: Arc<Heard>) {
    let mut lines = BufReader::new(output).lines();
    let why = loop {
        match lines.next_line().await {
            Ok(Some(line)) => match serde_json::from_str::<Told>(&line) {
                Ok(told) => {
                    heard.latest.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(told);
                    heard.changed.notify_waiters();
                }
                Err(error) => break format!("it says {line:?} ({error})"),
            },
            Ok(None) => break "it says nothing any more".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    *heard.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    heard.changed.notify_waiters();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_in_one_part() {
        let plan = |devices, processes| CrewPlan {
            servers: vec![],
            fleet: "f".to_owned(),
            first: 100,
            devices,
            processes,
            entering: 1,
            yields: false,
        };
        assert_eq!(plan(10, 3).shares(), [(100, 4), (104, 3), (107, 3)]);
        assert_eq!(plan(2, 5).shares(), [(100, 1), (101, 1)]);
        assert_eq!(plan(7, 0).shares(), [(100, 7)]);
    }
}
