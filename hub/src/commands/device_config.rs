//! `mooring config get`, `set` and `deploy`: what a device is told to be.

use super::artifact::printable;
use super::devices::to_seconds;
use super::operator::{self, Operator};
use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Shown below the help.
pub const EXAMPLES: &str = "Examples:
  mooring config show                                  The settings of the hub on this machine
  mooring config get 3f8f                              What a device is told to be, and what it says it is
  mooring config set 3f8f timezone=Europe/Oslo lamp=on
  mooring config set 3f8f --unset lamp
  mooring config deploy 3f8f                           Bring it to the device";

/// Which device.
#[derive(Debug, clap::Args)]
pub struct DeviceArguments {
    /// The device: its id, the beginning of its id, or a value of its identity such as its name or MAC address
    device: String,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// Which device, and how hard it is to try.
#[derive(Debug, clap::Args)]
pub struct DeployArguments {
    /// The device: its id, the beginning of its id, or a value of its identity such as its name or MAC address
    device: String,
    /// How often a device that has failed is told again
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    retries: u8,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// What to change, of which device.
#[derive(Debug, clap::Args)]
pub struct SetArguments {
    /// The device: its id, the beginning of its id, or a value of its identity such as its name or MAC address
    device: String,
    /// Keys with their values; all others stay as they are
    #[arg(value_name = "KEY=VALUE", value_parser = setting, required_unless_present_any = ["unset", "replace"])]
    settings: Vec<(String, String)>,
    /// A key to take away; may be given several times
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Take away all keys that are not given
    #[arg(long, conflicts_with = "unset")]
    replace: bool,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// A device's configuration, as far as it is shown.
#[derive(Debug, Deserialize)]
struct DeviceConfig {
    configured: BTreeMap<String, String>,
    reported: BTreeMap<String, String>,
    #[serde(rename = "reported_ts")]
    reported_at: Option<String>,
}

/// Prints a table of what is wanted and what is reported.
pub async fn get(arguments: &DeviceArguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let device = operator.find(&arguments.device).await?;
    let config: DeviceConfig = operator.get(&path(&device.id)).await?;
    if config.configured.is_empty() && config.reported.is_empty() {
        println!("no configuration");
    } else {
        println!("{}", table(&config));
    }
    match &config.reported_at {
        Some(at) => println!("reported at {}", to_seconds(at)),
        None => println!("never reported"),
    }
    Ok(())
}

/// Changes what is wanted. The device is not told before that is deployed.
pub async fn set(arguments: &SetArguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let device = operator.find(&arguments.device).await?;
    let mut configured = if arguments.replace {
        BTreeMap::new()
    } else {
        operator.get::<DeviceConfig>(&path(&device.id)).await?.configured
    };
    change(&mut configured, &arguments.settings, &arguments.unset)?;
    operator.put(&path(&device.id), &serde_json::json!(configured)).await?;
    let plural = if configured.len() == 1 { "" } else { "s" };
    println!("{} has {} key{plural} now", device.id, configured.len());
    Ok(())
}

/// Makes a deployment that brings the device what is wanted; prints its id.
pub async fn deploy(arguments: &DeployArguments) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Deployed {
        deployment_id: String,
    }
    let operator = Operator::arrive(&arguments.operator).await?;
    let device = operator.find(&arguments.device).await?;
    let path = format!("{}/deploy", path(&device.id));
    let deployed: Deployed = operator.post(&path, &serde_json::json!({ "retries": arguments.retries })).await?;
    println!("{}", deployed.deployment_id);
    Ok(())
}

fn change(
    configured: &mut BTreeMap<String, String>,
    settings: &[(String, String)],
    unset: &[String],
) -> anyhow::Result<()> {
    for key in unset {
        configured.remove(key).with_context(|| format!("there is no key {key:?} to take away"))?;
    }
    configured.extend(settings.iter().cloned());
    Ok(())
}

fn path(device: &str) -> String {
    format!("/api/management/v1/deviceconfig/configurations/device/{device}")
}

/// `KEY=VALUE`; the value may hold more of them, or nothing.
fn setting(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE"),
    }
}

fn table(config: &DeviceConfig) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["KEY", "CONFIGURED", "REPORTED"]);
    let new = config.reported.keys().filter(|key| !config.configured.contains_key(*key));
    for key in config.configured.keys().chain(new) {
        let shown = |settings: &BTreeMap<String, String>| {
            settings.get(key).map_or_else(|| "-".to_owned(), |value| printable(value))
        };
        table.add_row([printable(key), shown(&config.configured), shown(&config.reported)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_first_equals_sign_ends_the_key() {
        assert_eq!(setting("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(setting("a="), Ok(("a".to_owned(), String::new())));
        assert!(setting("a").is_err() && setting("=a").is_err() && setting("").is_err());
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut configured = settings(&[("a", "1"), ("b", "2"), ("c", "3")]);
        change(&mut configured, &[("a".into(), "9".into()), ("d".into(), "4".into())], &["b".into()]).expect("changed");
        assert_eq!(configured, settings(&[("a", "9"), ("c", "3"), ("d", "4")]));
        let error = change(&mut configured, &[], &["b".into()]).expect_err("it is gone");
        assert_eq!(error.to_string(), "there is no key \"b\" to take away");
    }

    #[test]
    fn the_table_puts_wanted_and_reported_side_by_side() {
        let config = DeviceConfig {
            configured: settings(&[("lamp", "on\u{1b}[2J"), ("zone", "UTC")]),
            reported: settings(&[("lamp", "off"), ("left over", "x")]),
            reported_at: None,
        };
        let text = table(&config).to_string();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(
            rows[1..],
            [vec!["lamp", "on\u{fffd}[2J", "off"], vec!["zone", "UTC", "-"], vec!["left over", "-", "x"]]
        );
    }
}
