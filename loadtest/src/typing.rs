//! Operators who type at a steady pace, whatever comes back: every key counts from when it was due.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};

use crate::{
    latency::{Latency, LatencyReport},
    operator::{Operator, OperatorTerminal},
};

/// Terminals that are opened at the same time.
const OPENED_AT_ONCE: usize = 16;

/// Keys that a terminal may owe; one that owes more is lost.
const OWED: usize = 10_000;

/// How long the last keys may take.
const LAST_KEYS: Duration = Duration::from_secs(30);

/// Terminals that are being typed in.
#[derive(Debug)]
pub struct Typing {
    typists: Vec<JoinHandle<anyhow::Result<()>>>,
    echo: watch::Sender<Arc<Latency>>,
    typed: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
}

impl Typing {
    /// Opens a terminal on each of these devices and types in it, a key every so often.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub async fn start(operators: &[Operator], devices: &[String], every: Duration) -> anyhow::Result<Self> {
        Self::start_into(Arc::default(), operators, devices, every).await
    }

    /// The same, whose keys are measured by `echo`, as far as nobody asks [`measured`](Self::measured).
    ///
    /// # Errors
    /// When one cannot be opened.
    pub async fn start_into(
        echo: Arc<Latency>,
        operators: &[Operator],
        devices: &[String],
        every: Duration,
    ) -> anyhow::Result<Self> {
        let opening = devices.iter().enumerate().map(|(number, device)| {
            let (operator, device) = (operators[number % operators.len()].clone(), device.clone());
            async move {
                let opened = operator.open_terminal(&device).await;
                opened.with_context(|| format!("cannot open a terminal on {device}"))
            }
        });
        // Owned, or whoever runs this could not be sent to another thread.
        let opening: Vec<_> = opening.collect();
        let terminals: Vec<OperatorTerminal> = stream::iter(opening).buffered(OPENED_AT_ONCE).try_collect().await?;
        let (echo, stop) = (watch::Sender::new(echo), watch::Sender::new(false));
        let typed = Arc::<AtomicU64>::default();
        let typists = terminals.into_iter().map(|terminal| {
            // Not all at the same moment.
            let first = every.mul_f64(rand::random());
            tokio::spawn(type_keys(terminal, first, every, echo.subscribe(), typed.clone(), stop.subscribe()))
        });
        Ok(Self { typists: typists.collect(), echo, typed, stop })
    }

    /// Keys whose echo is there.
    pub fn typed(&self) -> Arc<AtomicU64> {
        self.typed.clone()
    }

    /// What was measured since the last call, or the start.
    pub fn measured(&self) -> Option<LatencyReport> {
        self.echo.send_replace(Arc::default()).report()
    }

    /// Ends all terminals, when the keys that are on their way are back.
    ///
    /// # Errors
    /// When a terminal was lost, or a key did not come back as it was typed.
    pub async fn finish(self) -> anyhow::Result<Option<LatencyReport>> {
        self.stop.send_replace(true);
        let (mut lost, total) = (Vec::new(), self.typists.len());
        for typist in self.typists {
            if let Err(error) = typist.await.context("a typist panicked")? {
                lost.push(format!("{error:#}"));
            }
        }
        if let Some(first) = lost.first() {
            bail!("{} of {total} terminals were lost; the first: {first}", lost.len());
        }
        Ok(self.echo.borrow().report())
    }
}

async fn type_keys(
    mut terminal: OperatorTerminal,
    first: Duration,
    every: Duration,
    echo: watch::Receiver<Arc<Latency>>,
    typed: Arc<AtomicU64>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut owed: VecDeque<(u8, Instant)> = VecDeque::new();
    let mut keys = (b'a'..=b'z').cycle();
    let mut due = tokio::time::interval_at((Instant::now() + first).into(), every);
    // Those that were due while something else was in the way are typed at once, and count from when they were due.
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut is_over = false;
    while !(is_over && owed.is_empty()) {
        tokio::select! {
            due = due.tick(), if !is_over => {
                let key = keys.next().unwrap_or(b'a');
                if owed.len() >= OWED {
                    bail!("{OWED} keys have not come back");
                }
                owed.push_back((key, due.into_std()));
                terminal.type_in(&[key]).await?;
            }
            output = terminal.output() => for byte in output? {
                let (key, due) = owed.pop_front().context("a key came back that nobody typed")?;
                if key != byte {
                    bail!("another key came back than was typed");
                }
                echo.borrow().record(due.elapsed());
                typed.fetch_add(1, Relaxed);
            },
            () = told_to_stop(&mut stop), if !is_over => is_over = true,
            () = tokio::time::sleep(LAST_KEYS), if is_over => bail!("{} keys did not come back", owed.len()),
        }
    }
    terminal.close().await
}

/// Who gave the order may be gone, which is one too.
pub(crate) async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _order_or_end = stop.wait_for(|stop| *stop).await;
}
