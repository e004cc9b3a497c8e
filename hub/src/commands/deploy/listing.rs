//! Deployments in a table, one of them in full, and what went wrong on a device.

use super::DeploymentArguments;
use super::deployment::{self, DEPLOYMENTS, Deployment, PAGE, in_words};
use crate::commands::artifact::printable;
use crate::commands::devices::to_seconds;
use crate::commands::operator::{self, Operator};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Deserialize;

/// Deployments that are listed unless all are asked for.
const NEWEST: usize = 20;
/// Devices of a deployment that are listed; more are for the API.
const MOST_DEVICES: usize = 500;

/// Which deployments.
#[derive(Debug, clap::Args)]
pub struct ListArguments {
    /// Only those that are pending, inprogress or finished
    #[arg(long, value_name = "STATUS", value_parser = ["pending", "inprogress", "finished"])]
    status: Option<String>,
    /// All rather than the newest 20
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// Which deployment, and which of its devices.
#[derive(Debug, clap::Args)]
pub struct ShowArguments {
    #[command(flatten)]
    which: DeploymentArguments,
    /// Only devices with this status, such as failure
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
}

/// Which device of which deployment.
#[derive(Debug, clap::Args)]
pub struct LogArguments {
    #[command(flatten)]
    which: DeploymentArguments,
    /// The device: its id, the beginning of its id, or a value of its identity such as its name or MAC address
    #[arg(value_name = "DEVICE")]
    device: String,
}

/// A device of a deployment.
#[derive(Debug, Deserialize)]
struct Device {
    id: String,
    status: String,
    #[serde(default)]
    started: Option<String>,
    #[serde(default)]
    finished: Option<String>,
    #[serde(default)]
    substate: String,
    #[serde(default)]
    log: bool,
}

/// Prints the table of deployments.
pub async fn list(arguments: &ListArguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let size = if arguments.all { PAGE } else { NEWEST };
    let mut deployments = Vec::new();
    for number in 1.. {
        let some = deployment::page(&operator, number, size, arguments.status.as_deref()).await?;
        let is_last = some.len() < size || !arguments.all;
        deployments.extend(some);
        if is_last {
            break;
        }
    }
    if deployments.is_empty() {
        println!("no deployments");
        return Ok(());
    }
    println!("{}", table(&deployments));
    Ok(())
}

/// Prints a deployment and its devices.
pub async fn show(arguments: &ShowArguments) -> anyhow::Result<()> {
    let (operator, id) = arguments.which.arrive().await?;
    let deployment = Deployment::read(&operator, &id).await?;
    println!("{}", description(&deployment));
    let query = arguments.status.as_ref().map(|status| {
        let status: String = url::form_urlencoded::byte_serialize(status.as_bytes()).collect();
        format!("&status={status}")
    });
    let path = format!("{DEPLOYMENTS}/{id}/devices/list?per_page={MOST_DEVICES}{}", query.unwrap_or_default());
    let devices: Vec<Device> = operator.get(&path).await?;
    if devices.is_empty() {
        println!("\nno devices that were told of it");
        return Ok(());
    }
    println!("\n{}", device_table(&devices));
    if devices.len() == MOST_DEVICES {
        eprintln!("mooring: there may be more; --status shows those of one status");
    }
    if let Some(device) = devices.iter().find(|device| device.log) {
        let flags = arguments.which.operator.flags();
        println!("\n  mooring deploy log {id} {}{flags}", printable(&device.id));
    }
    Ok(())
}

/// Prints what a device said.
pub async fn log(arguments: &LogArguments) -> anyhow::Result<()> {
    let (operator, id) = arguments.which.arrive().await?;
    let device = operator.find(&arguments.device).await?;
    let log = operator.text(&format!("{DEPLOYMENTS}/{id}/devices/{}/log", device.id)).await?;
    let Some(log) = log.filter(|log| !log.is_empty()) else {
        anyhow::bail!("the device has sent no log for this deployment: devices do when an installation failed");
    };
    for line in log.lines() {
        println!("{}", printable(line));
    }
    Ok(())
}

fn table(deployments: &[Deployment]) -> Table {
    let mut table = new_table(&["ID", "ARTIFACT", "STATUS", "DONE", "FAILED", "CREATED", "FOR"]);
    for deployment in deployments {
        table.add_row([
            printable(&deployment.id),
            printable(&deployment.artifact_name),
            printable(&deployment.status),
            format!("{} of {}", deployment.over(), deployment.devices()),
            deployment.failed().to_string(),
            to_seconds(&deployment.created),
            printable(&deployment.name),
        ]);
    }
    table
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// What there is to say about a deployment beside its devices.
fn description(deployment: &Deployment) -> String {
    let mut lines = vec![
        format!("{} for {}", printable(&deployment.artifact_name), printable(&deployment.name)),
        format!("created   {}", to_seconds(&deployment.created)),
        format!("status    {}", deployment.state()),
    ];
    if let Some(finished) = &deployment.finished {
        lines.push(format!("finished  {}", to_seconds(finished)));
    }
    if let Some(pause) = &deployment.paused {
        lines.push(format!("paused    {}, {}", to_seconds(&pause.since), printable(&pause.reason)));
    }
    if deployment.retries > 0 {
        lines.push(format!("retries   {}", deployment.retries));
    }
    lines.push(format!("devices   {}", in_words(&deployment.counts())));
    for (number, phase) in (1..).zip(&deployment.phases) {
        let size = phase.devices.map_or_else(|| "whoever is left".to_owned(), |devices| format!("of {devices}"));
        let opened = match (&phase.opened, &phase.starts) {
            (Some(opened), _) => format!("opened {}", to_seconds(opened)),
            (None, Some(starts)) => format!("opens {}", to_seconds(starts)),
            (None, None) => "opens after the one before it".to_owned(),
        };
        lines.push(format!("phase {number:<3} {} done {size}, {opened}: {}", phase.over(), in_words(&phase.counts())));
    }
    lines.join("\n")
}

fn device_table(devices: &[Device]) -> Table {
    let mut table = new_table(&["DEVICE", "STATUS", "STARTED", "FINISHED", "LOG"]);
    for device in devices {
        let time = |time: &Option<String>| time.as_deref().map_or_else(|| "-".to_owned(), to_seconds);
        let mut status = printable(&device.status);
        if !device.substate.is_empty() {
            status = format!("{status} ({})", printable(&device.substate));
        }
        let log = if device.log { "yes" } else { "-" };
        table.add_row([printable(&device.id), status, time(&device.started), time(&device.finished), log.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::deployment::tests::deployment;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_says_how_many_are_done() {
        let mut one = deployment("inprogress", 5, &json!({"success": 2, "failure": 1, "pending": 2}));
        one.name = "hall\u{1b}[2J".to_owned();
        let text = table(&[one]).to_string();
        for part in ["6b1d", "app-2.1", "inprogress", "3 of 5", " 1 ", "2026-08-01 10:00:00Z"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_description_tells_of_phases_and_pauses() {
        let shown: Deployment = serde_json::from_value(json!({
            "id": "6b1d", "name": "hall", "artifact_name": "app-2.1", "status": "inprogress", "max_devices": 3, "retries": 2,
            "created": "2026-08-01T10:00:00.123Z", "statistics": {"success": 1, "pending": 2},
            "paused": {"since": "2026-08-01T11:00:00Z", "reason": "by an operator"},
            "phases": [
                {"devices": 1, "opened": "2026-08-01T10:00:00Z", "statistics": {"success": 1}},
                {"devices": null, "opened": null, "statistics": {}},
            ],
        }))
        .expect("a deployment");
        let text = description(&shown);
        for part in [
            "app-2.1 for hall",
            "in progress, phase 1 of 2",
            "2026-08-01 11:00:00Z, by an operator",
            "retries   2",
            "1 success, 2 pending",
            "1 done of 1, opened 2026-08-01 10:00:00Z: 1 success",
            "0 done whoever is left, opens after the one before it: no devices",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn devices_are_shown_with_what_they_say() {
        let devices: Vec<Device> = serde_json::from_value(json!([
            {"id": "3f8f", "status": "failure", "log": true, "created": "x", "finished": "2026-08-01T10:00:00.123Z"},
            {"id": "3f90", "status": "installing", "substate": "half\u{7}", "log": false, "created": "x"},
        ]))
        .expect("devices");
        let text = device_table(&devices).to_string();
        for part in ["3f8f", "failure", "2026-08-01 10:00:00Z", "yes", "installing (half\u{fffd})"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
