//! The load test's program, against one of the hubs here.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::door::Door;
use crate::process::run;
use crate::site::{ADMIN_EMAIL, ADMIN_PASSWORD};
use crate::workspace::program;

/// Runs a scenario to its end; its report.
///
/// # Panics
/// When it fails, takes too long or reports nothing.
pub async fn load_test(door: &Door, scenario: &[&str], limit: Duration) -> Value {
    let mut command = Command::new(program("loadtest"));
    command.args(scenario).args(["--server", &door.url(), "--user", ADMIN_EMAIL, "--password-stdin"]);
    let output = run(&command, &format!("{ADMIN_PASSWORD}\n"), limit).await;
    assert!(output.status.success(), "{output:?}");
    eprintln!("{}", output.stderr);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("no report ({error}): {output:?}"))
}
