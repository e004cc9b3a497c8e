//! `loadtest`: measures a running hub from the outside.

use clap::{Parser, Subcommand};
use loadtest::scenarios::{fill::Fill, idle::Idle, keystrokes::Keystrokes, searches::Searches, storm::Storm};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "loadtest",
    version,
    about = "How much can a hub carry? Simulated devices and operators against any hub, by URL",
    after_help = "Examples:
  Memory of 10,000 idle devices on the hub that runs as process 4711:
    echo \"$PASSWORD\" | loadtest idle --user admin@example.com --password-stdin --pid 4711

  How long a key takes to come back while 1,000 other devices are connected:
    echo \"$PASSWORD\" | loadtest keystrokes --user admin@example.com --password-stdin --idle 1000

  How soon 10,000 devices are back that were cut off at once, failing if that takes more than a minute:
    echo \"$PASSWORD\" | loadtest storm --user admin@example.com --password-stdin --within 60

  How long searches of a million devices take (on a database that `mooring migrate` has prepared; the
  hub that starts on it afterwards first indexes them, which takes a while):
    loadtest fill | psql -q postgres://user:password@host/database
    echo \"$PASSWORD\" | loadtest searches --user admin@example.com --password-stdin

Results go to standard output as one line of JSON, and to standard error for people."
)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    Idle(Idle),
    Keystrokes(Keystrokes),
    Fill(Fill),
    Searches(Searches),
    Storm(Storm),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    loadtest::install_tls_provider();
    let result = match arguments.scenario {
        Scenario::Idle(idle) => idle.run().await,
        Scenario::Keystrokes(keystrokes) => keystrokes.run().await,
        Scenario::Fill(fill) => fill.run(),
        Scenario::Searches(searches) => searches.run().await,
        Scenario::Storm(storm) => storm.run().await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
