//! A day of a fleet, compressed: devices stay connected, lose their connections now and then, ask for updates, report,
//! raise alerts, and operators type. At the end nothing of it may be left over.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Target,
    alerts::{LAST_LIMIT, Sending, Stream, listen},
    inventory::{Changing, Reporting},
    poll::Asking,
    storm::wrong_states,
};
use crate::{
    Server, Shell,
    crew::{Crew, CrewPlan},
    fleet::Fleet,
    latency::{Latency, LatencyReport},
    live::{Gauge, Series, Watch},
    operator::Operator,
    part::{Order, Told},
    process, roster,
    schedule::Turns,
    slope,
    traffic::{Tally, Traffic, drive},
    typing::{Typing, told_to_stop},
};

/// What a device does in a day.
const POLLS: f64 = 48.0;
const REPORTS: f64 = 3.0;
const ALERTS: f64 = 1.0;
const LOSSES: f64 = 1.0;
const DAY: f64 = 86_400.0;

/// How long a device is away that has lost its connection.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Devices that speak for all over HTTP.
const VOICES: usize = 500;

/// Connections that each kind of traffic has.
const CONNECTIONS: usize = 32;

/// How long a terminal is typed in, in seconds, and how often.
const TYPED: std::ops::Range<u64> = 10..40;
const KEY_EVERY: Duration = Duration::from_millis(200);

/// How long a terminal may take to open: longer than its device may be away.
const OPENED_WITHIN: Duration = Duration::from_secs(20);

/// How long what was left may take to be cleared away: a terminal waits for its device for 30 s.
const CLEARED_LIMIT: Duration = Duration::from_mins(1);

/// Files that a hub may have open more than before, for its own purposes.
const FILES_SPARE: usize = 64;

/// Devices whose states are asked for at the end.
const STATES_ASKED: usize = 1000;

/// Let a fleet live for a while, a day of it compressed, and check at the end that nothing was lost and nothing is left over
#[derive(Debug, clap::Args)]
pub struct Mixed {
    #[command(flatten)]
    target: Target,
    /// More hubs of the cluster; the devices take all of them in turn
    #[arg(long, value_name = "URL")]
    and_server: Vec<String>,
    /// How many devices there are
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = super::at_least_one)]
    devices: usize,
    /// Processes that hold them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::at_least_one)]
    processes: usize,
    /// Devices that may be on their way in at the same time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = super::at_least_one)]
    entering: usize,
    /// How many times as fast as in life a device lives: it polls 48 times a day, reports three times, raises one alert and
    /// loses its connection once
    #[arg(long, value_name = "N", default_value_t = 60.0, value_parser = super::positive)]
    speed: f64,
    /// For how long [default: a day of the fleet; for `soak`, an hour]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Terminals that are open at the same time, each for half a minute or so
    #[arg(long, value_name = "N", default_value_t = 20)]
    terminals: usize,
    /// Process ids of the hubs, to tell their memory, files and processor time (comma)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
}

/// What [`Mixed`] found out.
#[derive(Debug, Serialize)]
pub struct MixedReport {
    scenario: &'static str,
    devices: usize,
    hubs: usize,
    hold_seconds: u64,
    /// Connections that were cut on purpose, and that ended beside those.
    cut: u64,
    unexpected_disconnects: u64,
    terminals_used: u64,
    /// Terminals that ended before they should, or did not open although their device was there.
    terminals_failed: u64,
    /// Keys that were on their way when their device lost its connection.
    keys_lost: u64,
    alerts_lost: u64,
    alerts_doubled: u64,
    /// What was refused of polls, reports and alerts, by status or kind of failure.
    errors: BTreeMap<String, u64>,
    /// Sessions that the hub has open at the end, and had before.
    sessions_open: u64,
    sessions_open_before: u64,
    /// Devices (of a thousand) that the hub does not show as connected though they are.
    wrong_states: usize,
    /// Open files of the hubs with the fleet connected: before, and at the end.
    files_before: Option<usize>,
    files_after: Option<usize>,
    /// How the hubs' memory grew after the first quarter.
    memory_growth_per_hour_bytes: Option<f64>,
    poll: Option<LatencyReport>,
    report: Option<LatencyReport>,
    alert_arrival: Option<LatencyReport>,
    /// From when a key was due to its echo; devices of some terminals are away for a while.
    echo: Option<LatencyReport>,
    series: Vec<Series>,
}

/// The requests of one kind.
struct Strand {
    tally: Arc<Tally>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// Terminals that are opened, typed in and closed again.
#[derive(Default)]
struct Desk {
    echo: Arc<Latency>,
    used: AtomicU64,
    failed: AtomicU64,
    keys_lost: Arc<AtomicU64>,
}

impl Mixed {
    /// Runs it as `scenario`, for so many seconds unless told otherwise, and prints the report.
    ///
    /// # Errors
    /// When no operator was named, the devices do not come in, or something was lost or is left over.
    pub async fn run(self, scenario: &'static str, seconds: Option<u64>) -> anyhow::Result<()> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let seconds = self.seconds.or(seconds).unwrap_or((DAY / self.speed) as u64).max(1);
        ensure!(self.terminals <= self.devices, "every terminal needs a device of its own");
        let length = Duration::from_secs(seconds);
        let server = self.target.hub().await?;
        let operator = self.target.needed_operator(&server, "living").await?;
        let fleet = self.target.fleet(&server, Shell::Echo);
        let mut crew = Crew::start(&self.plan(fleet.name())).await?;
        let voices = VOICES.min(self.devices);
        eprintln!("admitting {} devices …", self.devices + voices);
        let ids = fleet.admit(&operator, 0..self.devices).await?;
        let voices_fleet = Fleet::new(&format!("{}-voices", fleet.name()), server.clone(), Shell::Echo);
        let voices = roster::enlist(&voices_fleet, &server, &operator, voices).await?;
        crew.order(Order::Start).await?;
        let all = |told: &Told| told.connected >= self.devices;
        let before = crew.wait_until("connected", self.target.patience(), all).await?;
        let (sessions_open_before, files_before) = (operator.open_sessions().await?, self.open_files()?);

        #[expect(clippy::cast_precision_loss)]
        let rate = |a_day: f64| (self.devices as f64 * a_day / DAY * self.speed).max(0.1);
        let asking = Arc::new(Asking::new(&server, &voices));
        let polls = strand(&server, Turns::at_rate(rate(POLLS), length), asking);
        let reporting = Reporting { server: server.clone(), members: voices.clone() };
        let changing = Arc::new(Changing { reporting, attributes: 20, changes: Arc::default() });
        let reports = strand(&server, Turns::at_rate(rate(REPORTS), length), changing);
        let turns = Turns::at_rate(rate(ALERTS), length);
        let total = turns.total().context("a fixed rate has an end")?;
        let stream = Arc::new(Stream::new(total, turns.clone(), fleet.name()));
        let feed = operator.events("kind=alert", None).await?;
        let listening = tokio::spawn(listen(operator.clone(), feed, stream.clone()));
        let (mark, members) = (fleet.name().to_owned(), voices.clone());
        let sending = Sending { server: server.clone(), members, mark, stream: stream.clone() };
        let alerts = strand(&server, turns, Arc::new(sending));
        let (desk, stop) = (Arc::<Desk>::default(), watch::Sender::new(false));
        let typists: Vec<_> = (0..self.terminals)
            .map(|number| {
                let devices = own_devices(number, self.terminals, &ids);
                tokio::spawn(use_terminals(operator.clone(), devices, desk.clone(), stop.subscribe()))
            })
            .collect();
        let watch = Watch::start(scenario, Some(length), self.gauges(&crew, &polls.tally, &stream));
        let cut = self.cut_now_and_then(&mut crew, rate(LOSSES), length).await?;
        let mut errors = BTreeMap::new();
        stop.send_replace(true);
        let mut latencies = Vec::new();
        for strand in [polls, reports, alerts] {
            strand.task.await.context("a strand of traffic panicked")??;
            for (error, count) in strand.tally.errors() {
                *errors.entry(error).or_default() += count;
            }
            latencies.push(strand.tally.answer.report());
        }
        for typist in typists {
            typist.await.context("a typist panicked")?;
        }
        let _lost_ones_are_counted = tokio::time::timeout(LAST_LIMIT, stream.all_heard()).await;
        listening.abort();
        let series = watch.finish();
        let after = crew.wait_until("connected again", self.target.patience(), all).await?;
        let sessions_open = until_cleared(&operator, sessions_open_before).await?;
        let (alerts_lost, alerts_doubled) = stream.lost_and_doubled();
        let mut latencies = latencies.into_iter();
        let report = MixedReport {
            scenario,
            devices: self.devices,
            hubs: 1 + self.and_server.len(),
            hold_seconds: seconds,
            cut,
            unexpected_disconnects: (after.losses - before.losses).saturating_sub(cut),
            terminals_used: desk.used.load(Relaxed),
            terminals_failed: desk.failed.load(Relaxed),
            keys_lost: desk.keys_lost.load(Relaxed),
            alerts_lost,
            alerts_doubled,
            errors,
            sessions_open,
            sessions_open_before,
            wrong_states: wrong_states(&operator, &ids[..self.devices.min(STATES_ASKED)]).await?,
            files_before,
            files_after: self.open_files()?,
            memory_growth_per_hour_bytes: growth(&series, length),
            poll: latencies.next().flatten(),
            report: latencies.next().flatten(),
            alert_arrival: stream.arrival.report(),
            echo: desk.echo.report(),
            series,
        };
        print(&report);
        self.target.output.finish(&report, flaws(&report))
    }

    fn plan(&self, fleet: &str) -> CrewPlan {
        let servers = std::iter::once(&self.target.server).chain(&self.and_server).cloned().collect();
        let (devices, processes, entering) = (self.devices, self.processes, self.entering);
        CrewPlan { servers, fleet: fleet.to_owned(), first: 0, devices, processes, entering, yields: false }
    }

    fn open_files(&self) -> anyhow::Result<Option<usize>> {
        let counts = self.pid.iter().map(|pid| process::open_files(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok((!counts.is_empty()).then(|| counts.iter().sum()))
    }

    fn gauges(&self, crew: &Crew, polls: &Arc<Tally>, stream: &Arc<Stream>) -> Vec<Gauge> {
        let (look, polls, stream) = (crew.look(), polls.clone(), stream.clone());
        #[expect(clippy::cast_precision_loss)]
        let mut gauges = vec![
            Gauge::level("connected", "", move || look().connected as f64),
            Gauge::rate("polls", "/s", move || polls.succeeded()),
            Gauge::level("alerts p99 so far", "ms", move || stream.arrival.percentile_us(99.0) as f64 / 1e3),
        ];
        gauges.extend(Gauge::of_processes(&self.pid));
        gauges
    }

    /// Cuts connections at this rate for so long; how many it were.
    async fn cut_now_and_then(&self, crew: &mut Crew, rate: f64, length: Duration) -> anyhow::Result<u64> {
        let (begun, mut cut, mut round) = (Instant::now(), 0_u64, 0);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        while begun.elapsed() < length {
            second.tick().await;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let due = (begun.elapsed().as_secs_f64() * rate) as u64;
            let count = usize::try_from(due.saturating_sub(cut)).unwrap_or_default();
            if count > 0 {
                crew.cut_some(round, count, AWAY).await?;
                (cut, round) = (due, round + 1);
            }
        }
        Ok(cut)
    }
}

fn strand(server: &Server, turns: Arc<Turns>, traffic: Arc<impl Traffic>) -> Strand {
    let (server, tally) = (server.clone(), Arc::<Tally>::default());
    let counted = tally.clone();
    let task = tokio::spawn(async move { drive(&server, CONNECTIONS, &turns, &traffic, &counted).await });
    Strand { tally, task }
}

/// The devices that are this typist's alone: an agent lets a user have one shell at a time, and refuses another.
fn own_devices(typist: usize, typists: usize, ids: &[String]) -> Vec<String> {
    ids.iter().skip(typist).step_by(typists).cloned().collect()
}

/// Opens a terminal on some device of these, types for a while, closes it, and does so again until it is told to stop.
async fn use_terminals(operator: Operator, devices: Vec<String>, desk: Arc<Desk>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let device = std::slice::from_ref(&devices[rand::random_range(0..devices.len())]);
        let Some(typing) = open_terminal(&operator, device, &desk).await else {
            desk.failed.fetch_add(1, Relaxed);
            continue;
        };
        desk.used.fetch_add(1, Relaxed);
        let length = Duration::from_secs(rand::random_range(TYPED));
        let _stopped_or_over = tokio::time::timeout(length, told_to_stop(&mut stop)).await;
        if let Err(error) = typing.finish().await {
            eprintln!("  a terminal failed: {error:#}");
            desk.failed.fetch_add(1, Relaxed);
        }
    }
}

/// A terminal on a device, which may be away for a while but not for longer than that; `None` if it does not open.
async fn open_terminal(operator: &Operator, device: &[String], desk: &Desk) -> Option<Typing> {
    let begun = Instant::now();
    loop {
        let (echo, lost) = (desk.echo.clone(), desk.keys_lost.clone());
        let operators = std::slice::from_ref(operator);
        match Typing::start_among_losses(echo, lost, operators, device, KEY_EVERY).await {
            Ok(typing) => return Some(typing),
            Err(error) if begun.elapsed() > OPENED_WITHIN => {
                eprintln!("  a terminal does not open: {error:#}");
                return None;
            }
            Err(_) => tokio::time::sleep(KEY_EVERY).await,
        }
    }
}

/// Sessions that are open once no more of them go away, or there are as many as before.
async fn until_cleared(operator: &Operator, before: u64) -> anyhow::Result<u64> {
    let begun = Instant::now();
    loop {
        let open = operator.open_sessions().await?;
        if open <= before || begun.elapsed() > CLEARED_LIMIT {
            return Ok(open);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Bytes an hour, without the first quarter, in which a hub fills its caches.
fn growth(series: &[Series], length: Duration) -> Option<f64> {
    let memory = series.iter().find(|series| series.name == "hub memory")?;
    let from = length.as_secs_f64() / 4.0;
    let points: Vec<_> = memory.points.iter().copied().filter(|point| point.0 > from).collect();
    slope::per_second(&points).map(|megabytes| megabytes * 1e6 * 3600.0)
}

fn flaws(report: &MixedReport) -> Vec<String> {
    let mut flaws = Vec::new();
    for (count, what) in [
        (report.unexpected_disconnects, "connections ended by themselves"),
        (report.terminals_failed, "terminals failed"),
        (report.alerts_lost, "alerts were lost"),
        (report.alerts_doubled, "alerts came twice"),
        (report.sessions_open.saturating_sub(report.sessions_open_before), "sessions are left over"),
        (report.wrong_states as u64, "devices are shown wrong"),
    ] {
        if count > 0 {
            flaws.push(format!("{count} {what}"));
        }
    }
    // A hub may say that it is busy; devices come again.
    flaws.extend(
        report
            .errors
            .iter()
            .filter(|(error, _)| !matches!(error.as_str(), "429" | "503"))
            .map(|(error, count)| format!("{count} requests ended with {error}")),
    );
    if let (Some(before), Some(after)) = (report.files_before, report.files_after)
        && after > before + FILES_SPARE
    {
        flaws.push(format!("the hubs have {after} files open, before {before}"));
    }
    flaws
}

fn print(report: &MixedReport) {
    let MixedReport { scenario, devices, hubs, hold_seconds, .. } = report;
    eprintln!("{scenario}: {devices} devices on {hubs} hubs for {hold_seconds} s");
    eprintln!("  cut on purpose           {}, lost beside that {}", report.cut, report.unexpected_disconnects);
    eprintln!("  terminals                {}, failed {}", report.terminals_used, report.terminals_failed);
    eprintln!("  alerts lost / doubled    {} / {}", report.alerts_lost, report.alerts_doubled);
    eprintln!("  sessions left over       {}", report.sessions_open.saturating_sub(report.sessions_open_before));
    if let Some(growth) = report.memory_growth_per_hour_bytes {
        eprintln!("  hub's memory grows       {:.2} MB an hour", growth / 1e6);
    }
    let latencies = [
        ("polls", &report.poll),
        ("reports", &report.report),
        ("alerts", &report.alert_arrival),
        ("keys", &report.echo),
    ];
    for (what, latency) in latencies {
        if let Some(latency) = latency {
            eprintln!("  {what:24} {latency}");
        }
    }
    if !report.errors.is_empty() {
        eprintln!("  refused                  {:?}", report.errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_typists_share_a_device_and_none_is_left_out() {
        let ids: Vec<String> = (0..7).map(|number| number.to_string()).collect();
        let owned: Vec<Vec<String>> = (0..3).map(|typist| own_devices(typist, 3, &ids)).collect();
        assert!(owned.iter().all(|devices| !devices.is_empty()));
        let mut all = owned.concat();
        all.sort();
        assert_eq!(all, ids);
    }
}
