//! The load test's program, against one of the hubs here.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::backends::{Servers, postgres_program};
use crate::door::Door;
use crate::ports::free_port;
use crate::process::{Output, Process, run};
use crate::site::{ADMIN_EMAIL, ADMIN_PASSWORD};
use crate::wait::{LIMIT, wait_until};
use crate::workspace::{program, temporary_directory};

/// Runs a scenario to its end; its report.
///
/// # Panics
/// When it fails, takes too long or reports nothing.
pub async fn load_test(door: &Door, scenario: &[&str], limit: Duration) -> Value {
    let output = try_load_test(door, scenario, limit).await;
    assert!(output.status.success(), "{output:?}");
    eprintln!("{}", output.stderr);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("no report ({error}): {output:?}"))
}

/// The same, however it ends.
///
/// # Panics
/// When it takes too long.
pub async fn try_load_test(door: &Door, scenario: &[&str], limit: Duration) -> Output {
    let mut command = Command::new(program("loadtest"));
    command.args(scenario).args(["--server", &door.url(), "--user", ADMIN_EMAIL, "--password-stdin"]);
    run(&command, &format!("{ADMIN_PASSWORD}\n"), limit).await
}

/// Has a fresh Postgres database filled with so many devices; how many devices and documents of theirs are there then.
///
/// # Panics
/// When one of the programs fails.
pub async fn filled_database(name: &str, devices: u32) -> String {
    let url = Servers::shared().create_database(name);
    let mut migrate = Command::new(program("mooring"));
    migrate.arg("migrate").env("MOORING_DATABASE_URL", &url).env("MOORING_DATA_DIR", temporary_directory());
    let mut fill = Command::new(program("loadtest"));
    fill.args(["fill", "--devices", &devices.to_string()]);
    let mut psql = Command::new(postgres_program("psql"));
    psql.args(["--quiet", "--no-align", "--tuples-only", "--dbname", &url]);
    let mut statements = String::new();
    for (command, input) in [(&migrate, ""), (&fill, "")] {
        let output = run(command, input, LIMIT).await;
        assert!(output.status.success(), "{output:?}");
        statements = output.stdout;
    }
    let count = "SELECT (SELECT accepted + pending FROM fleet), (SELECT COUNT(*) FROM inventory);\n";
    let output = run(&psql, &(statements + count), LIMIT * 2).await;
    assert!(output.status.success(), "{output:?}");
    Servers::shared().drop_database(name);
    output.stdout.trim().to_owned()
}

/// A floor (`http`, `relay`, `websocket`) on a port of its own; its address.
pub async fn load_test_floor(arguments: &[&str]) -> (Process, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(program("floor"));
    command.args(arguments).args(["--listen", &address]);
    let floor = Process::start(&command, &temporary_directory().join("floor.log"));
    wait_until(LIMIT, "a floor to listen", async || tokio::net::TcpStream::connect(&address).await.ok()).await;
    (floor, address)
}
