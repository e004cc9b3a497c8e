//! Devices send alerts at a fixed rate: how long until an operator who listens hears of each?

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;

use super::Target;
use crate::{
    Server, Shell,
    latency::{Latency, LatencyReport},
    line::{Answer, write_request},
    live::{Gauge, Series, Watch},
    operator::Operator,
    roster::{self, Member},
    schedule::{Turn, Turns},
    traffic::{Tally, Traffic, drive},
};

const ALERT: &str = "/api/devices/v1/devicemonitor/alert";

/// How long the last alerts may be on their way to whoever listens.
pub(super) const LAST_LIMIT: Duration = Duration::from_secs(20);

/// Send alerts at a fixed rate, listen to the hub's live events, and print how long each is on its way
#[derive(Debug, clap::Args)]
pub struct Alerts {
    #[command(flatten)]
    target: Target,
    /// How many devices send
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Alerts per second of all devices together, whatever the hub makes of it
    #[arg(long, value_name = "N", default_value_t = 1000.0, value_parser = super::positive)]
    rate: f64,
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Connections that the devices share
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Process id of the hub, to show its memory and processor time (several: comma)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
}

/// What [`Alerts`] found out.
#[derive(Debug, Serialize)]
pub struct AlertsReport {
    scenario: &'static str,
    devices: u32,
    seconds: u64,
    wanted_rate: f64,
    /// Alerts a second that were acknowledged while they were sent.
    achieved_rate: f64,
    acknowledged: u64,
    /// Acknowledged, but never heard of.
    lost: u64,
    /// Heard of more than once.
    doubled: u64,
    /// Times that the hub told the listener of a gap, and that it had to connect again.
    gaps: u64,
    reconnects: u64,
    /// What was not acknowledged, by status or kind of failure.
    errors: BTreeMap<String, u64>,
    /// From when an alert was due to be sent until it was in the stream of events.
    arrival: LatencyReport,
    /// From when it was due until the device had its answer.
    answer: LatencyReport,
    /// How late they were sent; part of both above.
    sent_late: LatencyReport,
    series: Vec<Series>,
}

impl Alerts {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When no operator was named, the hub refuses something, or an alert is lost or doubled.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = self.target.hub().await?;
        let operator = self.target.needed_operator(&server, "listening").await?;
        let fleet = self.target.fleet(&server, Shell::Echo);
        eprintln!("admitting {} devices …", self.devices);
        let members = roster::enlist(&fleet, &server, &operator, self.devices as usize).await?;
        let mark = fleet.name().to_owned();
        let length = Duration::from_secs(self.seconds);
        let feed = operator.events("kind=alert", None).await?;

        let turns = Turns::at_rate(self.rate, length);
        let total = turns.total().context("a fixed rate has an end")?;
        let stream = Arc::new(Stream::new(total, turns.clone(), &mark));
        let listening = tokio::spawn(listen(operator.clone(), feed, stream.clone()));
        let tally = Arc::<Tally>::default();
        let watch = Watch::start("alerts", Some(length), self.gauges(&tally, &stream));
        let sending = Arc::new(Sending { server: server.clone(), members, mark, stream: stream.clone() });
        drive(&server, self.connections.into(), &turns, &sending, &tally).await?;
        let took = turns.begun().elapsed().max(length).as_secs_f64();

        let heard_all = tokio::time::timeout(LAST_LIMIT, stream.all_heard());
        let _reported_as_lost = heard_all.await;
        listening.abort();
        let series = watch.finish();
        let report = self.report(&tally, &stream, took, series)?;
        print(&report);
        self.target.output.finish(&report, flaws(&report))
    }

    fn gauges(&self, tally: &Arc<Tally>, stream: &Arc<Stream>) -> Vec<Gauge> {
        let (sent, heard, arrival) = (tally.clone(), stream.clone(), stream.clone());
        let mut gauges = vec![
            Gauge::rate("sent", "/s", move || sent.sent()),
            Gauge::rate("heard", "/s", move || heard.heard.load(Relaxed)),
            #[expect(clippy::cast_precision_loss)]
            Gauge::level("p99 so far", "ms", move || arrival.arrival.percentile_us(99.0) as f64 / 1e3),
        ];
        gauges.extend(Gauge::of_processes(&self.pid));
        gauges
    }

    fn report(&self, tally: &Tally, stream: &Stream, took: f64, series: Vec<Series>) -> anyhow::Result<AlertsReport> {
        let (lost, doubled) = stream.lost_and_doubled();
        let acknowledged = tally.succeeded();
        Ok(AlertsReport {
            scenario: "alerts",
            devices: self.devices,
            seconds: self.seconds,
            wanted_rate: self.rate,
            #[expect(clippy::cast_precision_loss)]
            achieved_rate: acknowledged as f64 / took,
            acknowledged,
            lost,
            doubled,
            gaps: stream.gaps.load(Relaxed),
            reconnects: stream.reconnects.load(Relaxed),
            errors: tally.errors(),
            arrival: stream.arrival.report().context("no alert has arrived")?,
            answer: tally.answer.report().context("no alert was answered")?,
            sent_late: tally.sent_late.report().context("no alert was sent")?,
            series,
        })
    }
}

fn flaws(report: &AlertsReport) -> Vec<String> {
    let mut flaws = Vec::new();
    for (count, what) in [(report.lost, "lost"), (report.doubled, "doubled"), (report.gaps, "hidden in a gap")] {
        if count > 0 {
            flaws.push(format!("{count} alerts were {what}"));
        }
    }
    flaws
}

fn print(report: &AlertsReport) {
    eprintln!(
        "{} alerts of {} devices in {} s: {:.1}/s of {:.1}/s acknowledged, {} lost, {} doubled",
        report.acknowledged,
        report.devices,
        report.seconds,
        report.achieved_rate,
        report.wanted_rate,
        report.lost,
        report.doubled
    );
    eprintln!("  due → in the stream      {}", report.arrival);
    eprintln!("  due → answered           {}", report.answer);
    eprintln!("  sent late                {}", report.sent_late);
    if !report.errors.is_empty() {
        eprintln!("  not acknowledged         {:?}", report.errors);
    }
}

/// The alerts that are sent.
pub(super) struct Sending {
    pub(super) server: Server,
    pub(super) members: Arc<[Member]>,
    pub(super) mark: String,
    pub(super) stream: Arc<Stream>,
}

impl Traffic for Sending {
    fn write(&self, number: u64, request: &mut Vec<u8>) {
        let devices = self.members.len() as u64;
        let member = &self.members[usize::try_from(number % devices).unwrap_or_default()];
        // One thing on each device, which breaks and is well again, as such things do.
        let is_broken = (number / devices).is_multiple_of(2);
        let (level, status) = if is_broken { ("CRITICAL", "not-running") } else { ("OK", "running") };
        let alert = json!([{
            "name": format!("{} {number}", self.mark),
            "level": level,
            "timestamp": chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            "subject": { "name": "load", "type": "service", "status": status },
        }]);
        write_request(request, &self.server, "POST", ALERT, &member.token, Some(alert.to_string().as_bytes()));
    }

    fn answered(&self, turn: Turn, answer: &Answer) {
        if (200..300).contains(&answer.status) {
            self.stream.acknowledged(turn.number);
        }
    }
}

/// What was heard of which alert.
pub(super) struct Stream {
    turns: Arc<Turns>,
    mark: String,
    pub(super) arrival: Latency,
    heard: AtomicU64,
    pub(super) gaps: AtomicU64,
    reconnects: AtomicU64,
    /// By number.
    alerts: Mutex<Vec<Seen>>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    is_acknowledged: bool,
    times_heard: u8,
}

impl Stream {
    pub(super) fn new(total: u64, turns: Arc<Turns>, mark: &str) -> Self {
        let alerts = vec![Seen::default(); usize::try_from(total).unwrap_or(usize::MAX)];
        Self {
            turns,
            mark: mark.to_owned(),
            arrival: Latency::default(),
            heard: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            alerts: Mutex::new(alerts),
            changed: Notify::new(),
        }
    }

    fn acknowledged(&self, number: u64) {
        self.change(number, |seen| seen.is_acknowledged = true);
    }

    /// An alert of this name has arrived; those of others are none of ours.
    fn hear(&self, name: &str, arrived: Instant) {
        let number = name.strip_prefix(&self.mark).and_then(|rest| rest.trim_start().parse::<u64>().ok());
        let Some(number) = number else { return };
        let mut is_first = false;
        self.change(number, |seen| {
            is_first = seen.times_heard == 0;
            seen.times_heard = seen.times_heard.saturating_add(1);
        });
        if is_first {
            self.arrival.record(arrived.saturating_duration_since(self.turns.due(number)));
            self.heard.fetch_add(1, Relaxed);
            self.changed.notify_waiters();
        }
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Seen)) {
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = usize::try_from(number).ok().and_then(|number| alerts.get_mut(number)) {
            change(seen);
        }
    }

    /// Acknowledged and never heard of; heard of more than once.
    pub(super) fn lost_and_doubled(&self) -> (u64, u64) {
        let alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = alerts.iter().filter(|seen| seen.is_acknowledged && seen.times_heard == 0).count();
        let doubled = alerts.iter().filter(|seen| seen.times_heard > 1).count();
        (lost as u64, doubled as u64)
    }

    pub(super) async fn all_heard(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lost_and_doubled().0 == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// Listens until it is called off, and goes on where it was when the stream ends.
pub(super) async fn listen(operator: Operator, mut feed: crate::event_feed::EventFeed, stream: Arc<Stream>) {
    loop {
        while let Ok(Some((event, arrived))) = feed.next().await {
            match (event.kind.as_str(), event.name) {
                ("gap", _) => {
                    stream.gaps.fetch_add(1, Relaxed);
                }
                (_, Some(name)) => stream.hear(&name, arrived),
                _ => {}
            }
        }
        stream.reconnects.fetch_add(1, Relaxed);
        let after = feed.position();
        feed = loop {
            match operator.events("kind=alert", after).await {
                Ok(feed) => break feed,
                Err(error) => {
                    tracing::debug!(%error, "cannot listen again yet");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_acknowledged_and_not_heard_is_lost_and_what_was_heard_twice_is_doubled() {
        let stream = Stream::new(4, Turns::at_rate(1000.0, Duration::from_millis(4)), "m");
        let now = Instant::now();
        for number in [0, 1, 2] {
            stream.acknowledged(number);
        }
        assert_eq!(stream.lost_and_doubled(), (3, 0));
        // The third was never acknowledged; what was not may be heard of all the same.
        for name in ["m 0", "m 1", "m 1", "m 3", "m 99", "other 2", "m x"] {
            stream.hear(name, now);
        }
        assert_eq!(stream.lost_and_doubled(), (1, 1));
        assert_eq!(stream.arrival.report().expect("arrivals").percentiles.samples, 3);

        stream.hear("m 2", now);
        tokio::time::timeout(Duration::from_secs(5), stream.all_heard()).await.expect("all were heard");
    }
}
