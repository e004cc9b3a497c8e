//! `loadtest`: measures a running hub from the outside.

use clap::{Parser, Subcommand};
use loadtest::part::Part;
use loadtest::report::NotMet;
use loadtest::scenarios::{
    alerts::Alerts, bench::Bench, connect::Connect, fill::Fill, forward::Forward, idle::Idle, inventory::Inventory,
    keystrokes::Keystrokes, mixed::Mixed, poll::Polls, rollout::Rollout, searches::Searches, storm::Storm,
    storm::floor::FloorPart, transfer::Transfer,
};
use std::process::ExitCode;

/// A fleet's devices come in through many requests at once; what those took has to go back, or it would count as the devices'.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

  90,000 devices on five hubs of a cluster, from five processes, held for ten minutes, with a hundred
  terminals that are typed in through another hub than their devices are on:
    echo \"$PASSWORD\" | loadtest connect --user admin@example.com --password-stdin --devices 90000 \
        --processes 5 --hold 600 --terminals 100 --server http://127.0.0.1:8081 \
        --and-server http://127.0.0.1:8082 --and-server http://127.0.0.1:8083 \
        --and-server http://127.0.0.1:8084 --and-server http://127.0.0.1:8085

  An hour of a fleet that lives sixty times as fast as in life, after which nothing may be left over:
    echo \"$PASSWORD\" | loadtest soak --user admin@example.com --password-stdin --devices 10000 --pid 4711

  How long 1,000 alerts a second take to an operator who listens, failing if one in a hundred takes longer
  than 100 ms (one that is lost or comes twice fails it in any case):
    echo \"$PASSWORD\" | loadtest alerts --user admin@example.com --password-stdin --fail-if \"arrival.p99>100ms\"

  How many changes of attributes a hub writes down in a second, and how many one does that writes each by
  itself (another hub on the same database), round by round in turn:
    echo \"$PASSWORD\" | loadtest inventory --user admin@example.com --password-stdin \
        --against-single http://127.0.0.1:8081

  How many devices a second can ask for an update, against the least that a server has to do for it
  (`floor http --key device-tokens.pem`, the hub's actors.device_key_file):
    echo \"$PASSWORD\" | loadtest poll --user admin@example.com --password-stdin --floor http://127.0.0.1:18090

  How long such a question takes at 500 a second, with 100 deployments going on for 100,000 devices:
    echo \"$PASSWORD\" | loadtest poll --user admin@example.com --password-stdin --rate 500 --deployments 100

  An update for 10,000 devices of which 3 % fail, in phases, with the hub's figures checked every second; it has to
  pause when more than 2 % have failed:
    echo \"$PASSWORD\" | loadtest rollout --user admin@example.com --password-stdin --phases 10,30,60 \
        --create '{\"safety\":{\"max_failed_percent\":2}}' --expect-pause

  How long searches of a million devices take (on a database that `mooring migrate` has prepared; the
  hub that starts on it afterwards first indexes them, which takes a while):
    loadtest fill | psql -q postgres://user:password@host/database
    echo \"$PASSWORD\" | loadtest searches --user admin@example.com --password-stdin

Results go to standard output as one line of JSON, and to standard error for people.

Exit codes: 0 all is well; 1 the run ended, but something was wrong or --fail-if says so; 2 wrong arguments; 3 the run
could not be made."
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
    Alerts(Alerts),
    Inventory(Inventory),
    Poll(Polls),
    Rollout(Rollout),
    Connect(Connect),
    Forward(Forward),
    Transfer(Transfer),
    Mixed(Mixed),
    /// The same for an hour, unless told otherwise
    Soak(Mixed),
    Bench(Bench),
    #[command(hide = true)]
    Part(Part),
    #[command(hide = true)]
    FloorPart(FloorPart),
}

/// In seconds.
const HOUR: u64 = 3600;

/// The run could not be made.
const NO_RUN: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    // Where there are no such threads, memory goes back a little later.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
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
        Scenario::Alerts(alerts) => alerts.run().await,
        Scenario::Inventory(inventory) => inventory.run().await,
        Scenario::Poll(polls) => polls.run().await,
        Scenario::Rollout(rollout) => rollout.run().await,
        Scenario::Connect(connect) => connect.run().await,
        Scenario::Forward(forward) => forward.run().await,
        Scenario::Transfer(transfer) => transfer.run().await,
        Scenario::Mixed(mixed) => mixed.run("mixed", None).await,
        Scenario::Soak(soak) => soak.run("soak", Some(HOUR)).await,
        Scenario::Bench(bench) => bench.run().await,
        Scenario::Part(part) => part.run().await,
        Scenario::FloorPart(part) => part.run().await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            if error.is::<NotMet>() { ExitCode::FAILURE } else { ExitCode::from(NO_RUN) }
        }
    }
}
