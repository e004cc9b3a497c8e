//! An update for a fleet, from its deployment to the last report: are the hub's figures true all the time?

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::Target;
use crate::{
    Server, Shell, artifact,
    latency::LatencyReport,
    line_pool::LinePool,
    live::{Gauge, Series, Watch},
    operator::Operator,
    roster,
    updating::{Fate, Record, Updating, live},
};

/// How often the hub's figures are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After so long without a change it is asked whether the deployment is paused.
const STILL: Duration = Duration::from_secs(5);

/// Deploy an update to many devices that poll, download, report, and sometimes fail, and check the hub's figures all the while
#[derive(Debug, clap::Args)]
pub struct Rollout {
    #[command(flatten)]
    target: Target,
    /// How many devices there are
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// How many of a hundred devices fail
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0, value_parser = percent)]
    failures: f64,
    /// From one poll of a device to its next, give or take a half
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = super::positive)]
    poll_every: f64,
    /// From one step of an installation to the next, give or take a half
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = super::positive)]
    step: f64,
    /// Bytes of the artifact's payload
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    payload: usize,
    /// Deploy this artifact, which the hub has and which is for `loadtest` devices, in place of one made for the run
    #[arg(long, value_name = "NAME")]
    artifact: Option<String>,
    /// Phases: the percentages of devices in each; the last one takes the rest
    #[arg(long, value_name = "PERCENT", value_delimiter = ',')]
    phases: Vec<u32>,
    /// From the beginning of one phase to that of the next
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "phases")]
    phase_every: u64,
    /// More members of the request that makes the deployment, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    create: Option<Value>,
    /// Connections that the devices share
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// The run ends when nothing has changed for so long, e.g. because the deployment has paused
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    quiet: u64,
    /// Fail unless the deployment has paused by itself at the end; what makes it pause is for --create to say
    #[arg(long)]
    expect_pause: bool,
    /// Process id of the hub, to show its memory and processor time (several: comma)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "must be from 0 to 100".to_owned())
}

fn object(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if value.is_object() { Ok(value) } else { Err("must be a JSON object".to_owned()) }
}

/// What [`Rollout`] found out.
#[derive(Debug, Serialize)]
pub struct RolloutReport {
    scenario: &'static str,
    devices: u32,
    /// The deployment as the hub says it is at the end.
    status: String,
    /// Why it is paused, if it is.
    paused: Option<String>,
    /// Its phases as the hub shows them.
    phases: Vec<Value>,
    /// From its making until nothing changed any more, in seconds.
    took_seconds: f64,
    /// Its figures at the end, by state.
    statistics: BTreeMap<String, u64>,
    /// How often the figures were looked at, and how often they were wrong.
    looks: u64,
    wrong_looks: u64,
    /// Devices whose state the hub and they themselves see differently at the end.
    wrong_devices: usize,
    polls: u64,
    downloads: u64,
    downloaded_bytes: u64,
    /// What went wrong on devices, and how often.
    flaws: BTreeMap<String, u64>,
    poll: LatencyReport,
    download: Option<LatencyReport>,
    report: Option<LatencyReport>,
    series: Vec<Series>,
}

impl Rollout {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When no operator was named, the hub refuses something, or its figures are wrong.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = self.target.hub().await?;
        let operator = self.target.needed_operator(&server, "deploying").await?;
        let fleet = self.target.fleet(&server, Shell::Echo);
        eprintln!("admitting {} devices …", self.devices);
        let members = roster::enlist(&fleet, &server, &operator, self.devices as usize).await?;
        let release = self.release(&operator, fleet.name()).await?;
        let ids: Vec<String> = members.iter().map(|member| member.id.clone()).collect();

        let updating = Arc::new(self.updating(&server, fleet.name()));
        let begun = Instant::now();
        let deployment = operator.deploy(fleet.name(), &release, &ids, &self.more()).await?;
        let living: Vec<_> = members
            .iter()
            .enumerate()
            .map(|(number, member)| tokio::spawn(live(member.clone(), self.fate(number), updating.clone())))
            .collect();
        let watch = Watch::start("rollout", None, self.gauges(&updating));
        let looked = self.look_until_quiet(&operator, &deployment, &updating.record).await;
        let series = watch.finish();
        for device in living {
            device.abort();
        }
        let Looks { count, wrong, last_change } = looked?;
        let report = self.report(&operator, &deployment, &updating.record, (count, wrong), last_change - begun, series);
        let report = report.await?;
        print(&report);
        let mut flaws = flaws(&report);
        if self.expect_pause && report.paused.is_none() {
            flaws.push("the deployment has not paused".to_owned());
        }
        self.target.output.finish(&report, flaws)
    }

    async fn release(&self, operator: &Operator, fleet: &str) -> anyhow::Result<String> {
        if let Some(name) = &self.artifact {
            return Ok(name.clone());
        }
        let name = format!("{fleet}-release-{:08x}", rand::random::<u32>());
        let payload: Vec<u8> = (0..self.payload).map(|_| rand::random()).collect();
        operator.upload(&artifact::make(&name, "loadtest", "payload", &payload)).await?;
        Ok(name)
    }

    fn updating(&self, server: &Server, fleet: &str) -> Updating {
        Updating {
            server: server.clone(),
            lines: LinePool::new(server, self.connections.into()),
            artifact_name: format!("{fleet}-before"),
            device_type: "loadtest".to_owned(),
            poll_every: Duration::from_secs_f64(self.poll_every),
            step: Duration::from_secs_f64(self.step),
            record: Record::default(),
        }
    }

    /// What the request holds beside name, artifact and devices.
    fn more(&self) -> Value {
        let mut more = json!({});
        if !self.phases.is_empty() {
            let now = chrono::Utc::now();
            let last = self.phases.len() - 1;
            let phases = self.phases.iter().enumerate().map(|(number, percent)| {
                let starts = now + Duration::from_secs(self.phase_every) * u32::try_from(number).unwrap_or(u32::MAX);
                let starts = starts.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
                let mut phase = json!({});
                // The first begins at once, and the last takes the rest.
                if number > 0 {
                    phase["start_ts"] = json!(starts);
                }
                if number < last {
                    phase["batch_size"] = json!(percent);
                }
                phase
            });
            more["phases"] = Value::Array(phases.collect());
        }
        if let (Some(more), Some(given)) = (more.as_object_mut(), self.create.as_ref().and_then(Value::as_object)) {
            more.extend(given.clone());
        }
        more
    }

    /// Failures are spread evenly, so that every phase has its share.
    fn fate(&self, number: usize) -> Fate {
        let share = self.failures / 100.0;
        #[expect(clippy::cast_precision_loss)]
        let failures_until = |number: usize| (number as f64 * share).floor();
        if failures_until(number + 1) > failures_until(number) { Fate::Fails } else { Fate::Succeeds }
    }

    fn gauges(&self, updating: &Arc<Updating>) -> Vec<Gauge> {
        let (polling, loading, ending, failing) =
            (updating.clone(), updating.clone(), updating.clone(), updating.clone());
        #[expect(clippy::cast_precision_loss)]
        let of =
            |updating: &Updating, state| updating.record.acknowledged().get(state).copied().unwrap_or_default() as f64;
        let mut gauges = vec![
            Gauge::rate("polls", "/s", move || polling.record.polls()),
            Gauge::rate("downloaded", "B/s", move || loading.record.downloaded_bytes()),
            Gauge::level("success", "", move || of(&ending, "success")),
            Gauge::level("failure", "", move || of(&failing, "failure")),
        ];
        gauges.extend(Gauge::of_processes(&self.pid));
        gauges
    }

    /// Looks at the figures until the deployment is over, or nothing changes any more.
    async fn look_until_quiet(&self, operator: &Operator, deployment: &str, record: &Record) -> anyhow::Result<Looks> {
        let mut looks = Looks { count: 0, wrong: 0, last_change: Instant::now() };
        let mut before = BTreeMap::new();
        loop {
            let acknowledged = record.acknowledged();
            let statistics = operator.statistics(deployment).await?;
            looks.count += 1;
            if let Err(why) = check(&statistics, self.devices.into(), &acknowledged, &record.said()) {
                looks.wrong += 1;
                eprintln!("  wrong figures: {why}: {statistics:?}");
            }
            if statistics != before {
                looks.last_change = Instant::now();
                before = statistics;
            }
            let over = finished(&before) >= u64::from(self.devices);
            let quiet_for = looks.last_change.elapsed();
            if over || quiet_for > Duration::from_secs(self.quiet) {
                return Ok(looks);
            }
            // Nothing comes of one that is paused, once those are done who were at it.
            if quiet_for > STILL && operator.pause_reason(deployment).await?.is_some() {
                return Ok(looks);
            }
            ensure!(looks.last_change.elapsed() < self.target.patience(), "the hub has no news for too long");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn report(
        &self,
        operator: &Operator,
        deployment: &str,
        record: &Record,
        (looks, mut wrong_looks): (u64, u64),
        took: Duration,
        series: Vec<Series>,
    ) -> anyhow::Result<RolloutReport> {
        let statistics = operator.statistics(deployment).await?;
        let states = operator.states(deployment).await?;
        let shown = operator.deployment(deployment).await?;
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for state in states.values() {
            *counted.entry(state.clone()).or_default() += 1;
        }
        let is_same = statistics.iter().all(|(state, count)| {
            // Who was not told of it yet stands in no list, and is pending.
            let untold =
                if state == "pending" { u64::from(self.devices).saturating_sub(states.len() as u64) } else { 0 };
            counted.get(state).copied().unwrap_or_default() + untold == *count
        });
        if !is_same {
            eprintln!("  the hub counts {statistics:?} and lists {counted:?}");
            wrong_looks += 1;
        }
        let finals = record.finals();
        let wrong_devices = finals.iter().filter(|(id, state)| states.get(*id).map(String::as_str) != Some(**state));
        Ok(RolloutReport {
            scenario: "rollout",
            devices: self.devices,
            paused: operator.pause_reason(deployment).await?,
            phases: shown["phases"].as_array().cloned().unwrap_or_default(),
            status: shown["status"].as_str().unwrap_or_default().to_owned(),
            took_seconds: took.as_secs_f64(),
            looks: looks + 1,
            wrong_looks,
            wrong_devices: wrong_devices.count(),
            statistics,
            polls: record.polls(),
            downloads: record.downloads(),
            downloaded_bytes: record.downloaded_bytes(),
            flaws: record.flaws(),
            poll: record.poll.report().context("nobody has polled")?,
            download: record.download.report(),
            report: record.report.report(),
            series,
        })
    }
}

struct Looks {
    count: u64,
    wrong: u64,
    last_change: Instant,
}

/// Whether figures can be true: they add up to the devices, and of each final state there are no fewer than were
/// acknowledged before the question, and no more than were said before the answer.
fn check(
    statistics: &BTreeMap<String, u64>,
    devices: u64,
    acknowledged_before: &BTreeMap<&'static str, u64>,
    said_by_now: &BTreeMap<&'static str, u64>,
) -> Result<(), String> {
    let sum: u64 = statistics.values().sum();
    if sum != devices {
        return Err(format!("they add up to {sum}, not {devices}"));
    }
    for state in ["success", "failure"] {
        let of = |counts: &BTreeMap<&'static str, u64>| counts.get(state).copied().unwrap_or_default();
        let (least, most) = (of(acknowledged_before), of(said_by_now));
        let shown = statistics.get(state).copied().unwrap_or_default();
        if !(least..=most).contains(&shown) {
            return Err(format!("{state} is not from {least} to {most}"));
        }
    }
    Ok(())
}

/// Devices that are done one way or another.
fn finished(statistics: &BTreeMap<String, u64>) -> u64 {
    let over = ["success", "failure", "noartifact", "already-installed", "aborted", "decommissioned"];
    over.iter().filter_map(|state| statistics.get(*state)).sum()
}

fn flaws(report: &RolloutReport) -> Vec<String> {
    let mut flaws = Vec::new();
    if report.wrong_looks > 0 {
        flaws.push(format!("the figures were wrong {} times of {}", report.wrong_looks, report.looks));
    }
    if report.wrong_devices > 0 {
        flaws.push(format!("{} devices are shown otherwise than they are", report.wrong_devices));
    }
    flaws.extend(report.flaws.iter().map(|(what, count)| format!("{what} ({count} times)")));
    flaws
}

fn print(report: &RolloutReport) {
    let RolloutReport { devices, status, took_seconds, looks, wrong_looks, wrong_devices, .. } = report;
    let paused = report.paused.as_ref().map_or_else(String::new, |why| format!(", paused: {why}"));
    eprintln!("deployment to {devices} devices: {status} after {took_seconds:.1} s{paused}");
    let statistics: BTreeMap<_, _> = report.statistics.iter().filter(|(_, count)| **count > 0).collect();
    eprintln!("  figures at the end       {statistics:?}");
    eprintln!("  looks at the figures     {looks}, wrong {wrong_looks}; devices shown wrong {wrong_devices}");
    eprintln!("  polls                    {} ({})", report.polls, report.poll);
    if let (Some(download), Some(reports)) = (&report.download, &report.report) {
        eprintln!("  downloads                {} ({download})", report.downloads);
        eprintln!("  reports                  {reports}");
    }
    if !report.flaws.is_empty() {
        eprintln!("  on devices               {:?}", report.flaws);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        rollout: Rollout,
    }

    fn rollout(arguments: &[&str]) -> Rollout {
        Arguments::parse_from([&["rollout"], arguments].concat()).rollout
    }

    #[test]
    fn as_many_fail_as_were_asked_for_and_not_all_at_the_end() {
        let rollout = rollout(&["--failures", "3"]);
        let failing = |range: std::ops::Range<usize>| range.filter(|n| rollout.fate(*n) == Fate::Fails).count();
        assert_eq!((failing(0..10_000), failing(0..1000), failing(9_000..10_000)), (300, 30, 30));
    }

    #[test]
    fn phases_stand_in_the_request_and_so_does_what_else_was_given() {
        let more = rollout(&["--phases", "10,40,50", "--create", r#"{"retries":2}"#]).more();
        assert_eq!((&more["retries"], &more["phases"][0]), (&json!(2), &json!({"batch_size": 10})));
        assert_eq!(more["phases"][1]["batch_size"], 40);
        assert!(more["phases"][2]["start_ts"].is_string() && more["phases"][2]["batch_size"].is_null(), "{more}");
        assert_eq!(rollout(&[]).more(), json!({}));
    }

    #[test]
    fn figures_are_true_between_what_was_acknowledged_and_what_was_said() {
        let statistics = |success, pending| {
            BTreeMap::from([
                ("success".to_owned(), success),
                ("failure".to_owned(), 0),
                ("pending".to_owned(), pending),
            ])
        };
        let (before, by_now) = (BTreeMap::from([("success", 3)]), BTreeMap::from([("success", 5)]));
        for (success, is_true) in [(2, false), (3, true), (5, true), (6, false)] {
            assert_eq!(check(&statistics(success, 10 - success), 10, &before, &by_now).is_ok(), is_true, "{success}");
        }
        assert!(check(&statistics(4, 5), 10, &before, &by_now).unwrap_err().contains("add up to 9"));
    }
}
