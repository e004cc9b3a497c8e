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

/// The same where some may never come: a little longer than a device is away.
const LAST_KEYS_AMONG_LOSSES: Duration = Duration::from_secs(8);

/// Terminals that are being typed in.
#[derive(Debug)]
pub struct Typing {
    typists: Vec<JoinHandle<anyhow::Result<()>>>,
    echo: watch::Sender<Arc<Latency>>,
    typed: Arc<AtomicU64>,
    slowest: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
}

impl Typing {
    /// Opens a terminal on each of these devices and types in it, a key every so often.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub async fn start(operators: &[Operator], devices: &[String], every: Duration) -> anyhow::Result<Self> {
        Self::open(Arc::default(), None, operators, devices, every).await
    }

    /// The same on devices that lose their connections now and then. What is on its way at that moment is lost, with the real
    /// agent too, and counted in `lost`; all else is measured by `echo`, as far as nobody asks
    /// [`measured`](Self::measured).
    ///
    /// # Errors
    /// When one cannot be opened.
    pub async fn start_among_losses(
        echo: Arc<Latency>,
        lost: Arc<AtomicU64>,
        operators: &[Operator],
        devices: &[String],
        every: Duration,
    ) -> anyhow::Result<Self> {
        Self::open(echo, Some(lost), operators, devices, every).await
    }

    async fn open(
        echo: Arc<Latency>,
        lost: Option<Arc<AtomicU64>>,
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
        let (typed, slowest) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let typists = terminals.into_iter().map(|terminal| {
            // Not all at the same moment.
            let first = every.mul_f64(rand::random());
            let (typed, slowest, lost) = (typed.clone(), slowest.clone(), lost.clone());
            let typist = Typist { terminal, owed: VecDeque::new(), echo: echo.subscribe(), typed, slowest, lost };
            tokio::spawn(typist.type_keys(first, every, stop.subscribe()))
        });
        Ok(Self { typists: typists.collect(), echo, typed, slowest, stop })
    }

    /// Keys whose echo is there.
    pub fn typed(&self) -> Arc<AtomicU64> {
        self.typed.clone()
    }

    /// How long the slowest key took of those that have come back since the last call, first of all since this one, in
    /// milliseconds.
    pub fn slowest(&self) -> impl FnMut() -> f64 + Send + 'static {
        let slowest = self.slowest.clone();
        slowest.store(0, Relaxed);
        move || Duration::from_micros(slowest.swap(0, Relaxed)).as_secs_f64() * 1000.0
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

/// Somebody at a terminal.
struct Typist {
    terminal: OperatorTerminal,
    /// Keys that have not come back, with when they were due.
    owed: VecDeque<(u8, Instant)>,
    echo: watch::Receiver<Arc<Latency>>,
    typed: Arc<AtomicU64>,
    /// In microseconds, of those since somebody asked.
    slowest: Arc<AtomicU64>,
    /// Counts keys that do not come back, if some may not.
    lost: Option<Arc<AtomicU64>>,
}

impl Typist {
    async fn type_keys(
        mut self,
        first: Duration,
        every: Duration,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let mut keys = (b'a'..=b'z').cycle();
        let mut due = tokio::time::interval_at((Instant::now() + first).into(), every);
        // Those that were due while something else was in the way are typed at once, and count from when they were due.
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let last_keys = if self.lost.is_some() { LAST_KEYS_AMONG_LOSSES } else { LAST_KEYS };
        let mut is_over = false;
        while !(is_over && self.owed.is_empty()) {
            tokio::select! {
                due = due.tick(), if !is_over => {
                    let key = keys.next().unwrap_or(b'a');
                    if self.owed.len() >= OWED {
                        bail!("{OWED} keys have not come back");
                    }
                    self.owed.push_back((key, due.into_std()));
                    self.terminal.type_in(&[key]).await?;
                }
                output = self.terminal.output() => self.hear(&output?)?,
                () = told_to_stop(&mut stop), if !is_over => is_over = true,
                () = tokio::time::sleep(last_keys), if is_over => {
                    let Some(lost) = &self.lost else { bail!("{} keys did not come back", self.owed.len()) };
                    lost.fetch_add(self.owed.len() as u64, Relaxed);
                    break;
                }
            }
        }
        self.terminal.close().await
    }

    /// Keys have come back, in the order in which they were typed.
    fn hear(&mut self, output: &[u8]) -> anyhow::Result<()> {
        if self.lost.is_some() && !output.iter().all(u8::is_ascii_lowercase) {
            // The hub says on the screen that the device is away; keys are small letters and nothing else.
            return Ok(());
        }
        for byte in output {
            loop {
                let (key, due) = self.owed.pop_front().context("a key came back that nobody typed")?;
                if key == *byte {
                    let took = due.elapsed();
                    self.echo.borrow().record(took);
                    self.slowest.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
                    self.typed.fetch_add(1, Relaxed);
                    break;
                }
                let Some(lost) = &self.lost else { bail!("another key came back than was typed") };
                lost.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }
}

/// Who gave the order may be gone, which is one too.
pub(crate) async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _order_or_end = stop.wait_for(|stop| *stop).await;
}
