//! Somebody types: how long until the key comes back on the screen?

use super::Target;
use crate::{Server, Shell, operator::OperatorTerminal, report::Percentiles};
use anyhow::Context;
use serde::Serialize;
use std::time::{Duration, Instant};

/// A key that does not come back within this time fails the run.
const ECHO_LIMIT: Duration = Duration::from_secs(10);

/// Type through the hub and print how long the echo takes, with or without many idle devices beside it
#[derive(Debug, clap::Args)]
pub struct Keystrokes {
    #[command(flatten)]
    target: Target,
    /// Terminals that are typed in at the same time, each on a device of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    terminals: u16,
    /// Idle devices that are connected meanwhile
    #[arg(long, value_name = "N", default_value_t = 0)]
    idle: usize,
    /// Keys typed in each terminal
    #[arg(long, value_name = "N", default_value_t = 1000)]
    keys: usize,
    /// Pause between an echo and the next key
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 5)]
    pause: u64,
}

/// What [`Keystrokes`] found out.
#[derive(Debug, Serialize)]
pub struct KeystrokesReport {
    scenario: &'static str,
    terminals: u16,
    idle: usize,
    echo: Percentiles,
}

impl Keystrokes {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When no operator was named, the hub refuses something, or a key does not come back.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = Server::at(&self.target.server).await?;
        let operator = self.target.operator(&server).await?;
        let operator = operator.context("typing takes an operator: give --user and --password-stdin")?;
        let terminals = usize::from(self.terminals);
        let mut fleet = self.target.fleet(&server, Shell::Echo);
        let all = 0..terminals + self.idle;
        let ids = fleet.admit(&operator, all.clone()).await?;
        fleet.start(all);
        fleet.all_connected(self.target.patience()).await?;

        let mut typists = Vec::with_capacity(terminals);
        for id in &ids[..terminals] {
            let terminal = operator.open_terminal(id).await?;
            typists.push(tokio::spawn(type_keys(terminal, self.keys, Duration::from_millis(self.pause))));
        }
        let mut echoes = Vec::with_capacity(terminals * self.keys);
        for typist in typists {
            echoes.extend(typist.await.context("a typist panicked")??);
        }
        let echo = Percentiles::of(&echoes).context("no key was typed")?;
        let report = KeystrokesReport { scenario: "keystrokes", terminals: self.terminals, idle: self.idle, echo };
        eprintln!("echo through the hub, {} terminals, {} idle devices: {echo}", self.terminals, self.idle);
        self.target.output.finish(&report, Vec::new())
    }
}

async fn type_keys(mut terminal: OperatorTerminal, keys: usize, pause: Duration) -> anyhow::Result<Vec<Duration>> {
    let mut echoes = Vec::with_capacity(keys);
    for key in (b'a'..=b'z').cycle().take(keys) {
        let typed = Instant::now();
        terminal.type_in(&[key]).await?;
        let echo = tokio::time::timeout(ECHO_LIMIT, terminal.output()).await.context("a key did not come back")??;
        echoes.push(typed.elapsed());
        anyhow::ensure!(echo == [key], "another key came back than was typed");
        tokio::time::sleep(pause).await;
    }
    terminal.close().await?;
    Ok(echoes)
}
