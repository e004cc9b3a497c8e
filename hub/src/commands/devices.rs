//! `mooring devices`: a table of what is there and what is connected.

use super::operator::{self, ListedDevice, Operator};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};

/// Which devices to list.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    operator: operator::OperatorArguments,
    /// Only devices with this status: accepted, pending, rejected, preauthorized or noauth
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
}

/// Prints the table.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let mut devices = operator.devices().await?;
    if let Some(status) = &arguments.status {
        devices.retain(|device| device.status == *status);
    }
    if devices.is_empty() {
        println!("no devices");
        return Ok(());
    }
    println!("{}", table(&operator.with_connections(devices).await?));
    Ok(())
}

fn table(devices: &[ListedDevice]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["ID", "IDENTITY", "STATUS", "CONNECTED", "SINCE"]);
    for device in devices {
        let connected = match &device.connection {
            Some(state) if state.status == "connected" => "yes",
            Some(_) => "no",
            None => "never",
        };
        let changed = device.connection.as_ref().map(|state| &state.changed).or(device.changed.as_ref());
        table.add_row([
            device.id.as_str(),
            &device.identity_line(),
            &device.status,
            connected,
            &changed.map_or_else(|| "-".to_owned(), |time| to_seconds(time)),
        ]);
    }
    table
}

/// `2026-08-01T10:00:00.123Z` to the second, in words a table has room for.
pub fn to_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
        None => time.replace('T', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_id_identity_status_and_connection() {
        let devices: Vec<ListedDevice> = serde_json::from_value(serde_json::json!([{
            "id": "7a1e", "status": "pending", "identity_data": { "mac": "02:01" },
            "updated_ts": "2026-08-01T10:00:00.123Z",
        }]))
        .expect("devices");
        let text = table(&devices).to_string();
        for part in ["ID", "7a1e", "mac=02:01", "pending", "never", "2026-08-01 10:00:00Z"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
