//! `mooring deploy`: brings a release to devices, and shows how far they are.

mod deployment;
mod listing;
mod phases;
mod watch;

use super::operator::{self, Operator};
use anyhow::bail;
use phases::Phases;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::Path, process::ExitCode, time::Duration};
use storage::{Timestamp, units};
use watch::WhenPaused;

/// Where deployments by a filter are made.
const BY_FILTER: &str = "/api/management/v2/deployments/deployments";
/// Where saved filters are.
const FILTERS: &str = "/api/management/v2/inventory/filters";

/// Shown below the help.
pub const EXAMPLES: &str = "Examples:
  mooring deploy app-2.1 --device 3f8f                         To one device, at once if it is connected
  mooring deploy app-2.1 --group hall --phases 10%,50%,rest    A tenth first, the next when that is done
  mooring deploy app-2.1 --all --phases 5,rest --max-failed 2  Five first; three failures pause it
  mooring deploy app-2.1 --all --start 2031-05-04T02:00:00Z    By night
  mooring deploy app-2.1 --filter old-ones --max-devices 100   To who passes a saved filter when it asks
  mooring deploy list
  mooring deploy watch 6b1d                                    By the beginning of its id

ARTIFACT is the name of a release: `mooring artifact list` lists those there are, `mooring artifact upload` adds one. The
command shows how far the devices are until all are done; Ctrl-C leaves the deployment as it is.

Status 0 when every device has the release, 1 when not (or nothing was deployed), 2 for wrong usage, 3 when the deployment
is paused and --leave-when-paused was given, 130 after Ctrl-C. With --detach, 0 when the deployment was made.";

/// What to deploy, or what to do with what is deployed.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    new: NewArguments,
}

/// What to do with what is deployed.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the deployments, the newest first
    List(listing::ListArguments),
    /// Show a deployment and its devices
    Show(listing::ShowArguments),
    /// Print what a device said when its installation failed
    Log(listing::LogArguments),
    /// Look on until a deployment is over
    Watch(WatchArguments),
    /// End a deployment: devices that are at it stop
    Abort(DeploymentArguments),
    /// Let a deployment tell no device anything new; devices that are at it go on
    Pause(DeploymentArguments),
    /// Let a paused deployment go on
    Resume(DeploymentArguments),
}

/// A new deployment.
#[derive(Debug, clap::Args)]
pub struct NewArguments {
    /// Name of the release
    #[arg(value_name = "ARTIFACT", required = true)]
    artifact: Option<String>,
    #[command(flatten)]
    targets: Targets,
    /// Portions of the devices, one after the other: shares (10%), numbers (100), and rest; each with @TIME to open it
    /// then rather than after the one before it
    #[arg(long, value_name = "PHASES")]
    phases: Option<Phases>,
    /// Not before this time: RFC 3339, or from now on such as +2h
    #[arg(long, value_name = "TIME", value_parser = phases::time)]
    start: Option<Timestamp>,
    /// How often a device that has failed is told again
    #[arg(long, value_name = "N")]
    retries: Option<u8>,
    #[command(flatten)]
    limits: Limits,
    /// Install it also where it is installed already
    #[arg(long)]
    force: bool,
    /// With --filter: end when so many have it, rather than never
    #[arg(long, value_name = "N", conflicts_with_all = ["device", "group", "all"])]
    max_devices: Option<u64>,
    /// What to call the deployment [default: what it is for]
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Print the id of the deployment and do not wait
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    watching: Watching,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// For whom.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Targets {
    /// A device: its id, the beginning of its id, or a value of its identity; may be given several times
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// The accepted devices of a group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// All accepted devices
    #[arg(long)]
    all: bool,
    /// Whoever passes a saved filter, by its name or id, when it asks
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
}

/// What pauses a deployment by itself. Without phases these are numbers of all its devices, else of the devices of a phase.
#[derive(Debug, clap::Args)]
pub struct Limits {
    /// Pause when more fail: a number of devices, or a share such as 5%
    #[arg(long, value_name = "N|N%")]
    max_failed: Option<Failures>,
    /// Pause when more raise a critical alert
    #[arg(long, value_name = "N")]
    max_alerting: Option<u64>,
    /// Pause when more are away for longer than --away
    #[arg(long, value_name = "N", requires = "away")]
    max_away: Option<u64>,
    /// How long a device may be away, such as 10m
    #[arg(long, value_name = "TIME", requires = "max_away", value_parser = duration)]
    away: Option<Duration>,
}

/// How many may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failures {
    Devices(u64),
    Percent(u8),
}

/// How to look on.
#[derive(Debug, clap::Args)]
pub struct Watching {
    /// Do not wait for a deployment that is paused
    #[arg(long)]
    leave_when_paused: bool,
}

/// Which deployment to watch.
#[derive(Debug, clap::Args)]
pub struct WatchArguments {
    #[command(flatten)]
    which: DeploymentArguments,
    #[command(flatten)]
    watching: Watching,
}

/// Which deployment.
#[derive(Debug, clap::Args)]
pub struct DeploymentArguments {
    /// Its id, or the beginning of it
    #[arg(value_name = "DEPLOYMENT")]
    id: String,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

impl DeploymentArguments {
    /// Somebody who may ask, and the deployment's whole id.
    async fn arrive(&self) -> anyhow::Result<(Operator, String)> {
        let operator = Operator::arrive(&self.operator).await?;
        let id = deployment::find(&operator, &self.id).await?;
        Ok((operator, id))
    }
}

impl Watching {
    fn when_paused(&self) -> WhenPaused {
        if self.leave_when_paused { WhenPaused::Leave } else { WhenPaused::Wait }
    }
}

impl std::str::FromStr for Failures {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let failures = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => text.parse().ok().map(Self::Devices),
        };
        failures.ok_or("expected a number of devices, or a share such as 5%")
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|error| error.to_string())
}

impl Limits {
    /// As the hub takes them; nothing if there are none.
    fn body(&self) -> Option<Value> {
        let mut body = serde_json::Map::new();
        match self.max_failed {
            Some(Failures::Devices(devices)) => drop(body.insert("max_failed".to_owned(), json!(devices))),
            Some(Failures::Percent(percent)) => drop(body.insert("max_failed_percent".to_owned(), json!(percent))),
            None => {}
        }
        if let Some(devices) = self.max_alerting {
            body.insert("max_alerting".to_owned(), json!(devices));
        }
        if let (Some(devices), Some(away)) = (self.max_away, self.away) {
            body.insert("max_away".to_owned(), json!(devices));
            body.insert("away_minutes".to_owned(), json!(away.as_secs().div_ceil(60)));
        }
        (!body.is_empty()).then_some(Value::Object(body))
    }
}

/// Does it.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Some(command) = arguments.command else { return make(arguments.new).await };
    match command {
        Command::List(arguments) => listing::list(&arguments).await?,
        Command::Show(arguments) => listing::show(&arguments).await?,
        Command::Log(arguments) => listing::log(&arguments).await?,
        Command::Watch(WatchArguments { which, watching }) => {
            let (operator, id) = which.arrive().await?;
            return watch::watch(&operator, &id, &which.operator.flags(), watching.when_paused()).await;
        }
        Command::Abort(which) => {
            let (operator, id) = which.arrive().await?;
            let path = format!("{}/{id}/status", deployment::DEPLOYMENTS);
            operator.put(&path, &json!({ "status": "aborted" })).await?;
            println!("{id} is aborted");
        }
        Command::Pause(which) => steer(&which, "pause", "is paused: devices that are at it go on").await?,
        Command::Resume(which) => steer(&which, "resume", "goes on").await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn steer(which: &DeploymentArguments, verb: &str, done: &str) -> anyhow::Result<()> {
    let (operator, id) = which.arrive().await?;
    operator.put(&format!("{}/{id}/{verb}", deployment::STEERED), &json!({})).await?;
    println!("{id} {done}");
    Ok(())
}

async fn make(arguments: NewArguments) -> anyhow::Result<ExitCode> {
    let artifact = arguments.artifact.clone().unwrap_or_default();
    let mut phases = arguments.phases.clone().unwrap_or_default();
    if let Some(start) = arguments.start {
        phases = phases.starting(start)?;
    }
    let operator = Operator::arrive(&arguments.operator).await?;
    let (path, mut wish, what) = target(&operator, &arguments.targets).await?;
    wish["name"] = json!(arguments.name.as_ref().unwrap_or(&what));
    wish["artifact_name"] = json!(artifact);
    for (member, value) in [
        ("phases", phases.body()),
        ("retries", arguments.retries.map(|retries| json!(retries))),
        ("safety", arguments.limits.body()),
        ("max_devices", arguments.max_devices.map(|devices| json!(devices))),
        ("force_installation", arguments.force.then_some(json!(true))),
    ] {
        if let Some(value) = value {
            wish[member] = value;
        }
    }
    let Some(id) = operator.create(&path, &wish).await? else {
        // What the hub says by this status.
        let hint = if Path::new(&artifact).is_file() {
            "upload a file with `mooring artifact upload`, then deploy it by the name in it"
        } else {
            "`mooring artifact list` lists those there are"
        };
        bail!("no release {artifact:?}: {hint}");
    };
    if arguments.detach {
        println!("{id}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("deployment {id}");
    watch::watch(&operator, &id, &arguments.operator.flags(), arguments.watching.when_paused()).await
}

/// Where to ask for a deployment for these, what to say about them there, and what they are called.
async fn target(operator: &Operator, targets: &Targets) -> anyhow::Result<(String, Value, String)> {
    let deployments = deployment::DEPLOYMENTS;
    if let Some(group) = &targets.group {
        let mut url = operator.base().clone();
        // Whatever is in a name, it stays one segment.
        match url.path_segments_mut() {
            Ok(mut segments) => drop(segments.clear().push(group)),
            Err(()) => bail!("the hub's URL cannot have a path"),
        }
        return Ok((format!("{deployments}/group{}", url.path()), json!({}), group.clone()));
    }
    if targets.all {
        return Ok((deployments.to_owned(), json!({ "all_devices": true }), "All devices".to_owned()));
    }
    if let Some(filter) = &targets.filter {
        let filter = find_filter(operator, filter).await?;
        return Ok((BY_FILTER.to_owned(), json!({ "filter_id": filter.id }), filter.name));
    }
    let mut devices = Vec::new();
    for device in operator.find_all(&targets.device).await? {
        if !devices.contains(&device.id) {
            devices.push(device.id);
        }
    }
    let what = match &devices[..] {
        [only] => only.clone(),
        several => format!("{} devices", several.len()),
    };
    Ok((deployments.to_owned(), json!({ "devices": devices }), what))
}

/// A saved filter.
#[derive(Debug, Deserialize)]
struct SavedFilter {
    id: String,
    name: String,
}

async fn find_filter(operator: &Operator, wanted: &str) -> anyhow::Result<SavedFilter> {
    let filters: Vec<SavedFilter> = operator.get(&format!("{FILTERS}?per_page=500")).await?;
    let names: Vec<&str> = filters.iter().map(|filter| filter.name.as_str()).collect();
    let there_are =
        if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
    let unknown = format!("no saved filter {wanted:?}: {there_are}");
    match filters.into_iter().find(|filter| filter.name == wanted || filter.id == wanted) {
        Some(filter) => Ok(filter),
        None => bail!("{unknown}"),
    }
}

#[cfg(test)]
mod tests;
