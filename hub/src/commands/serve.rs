//! `mooring serve`: a hub that runs until it is told to stop.

use super::ServeArguments;
use crate::{Hub, shutdown::Signals, telemetry};
use tracing::info;

/// Runs a hub until SIGINT or SIGTERM.
pub fn run(arguments: &ServeArguments) -> anyhow::Result<()> {
    let mut config = arguments.sources().load()?;
    config.settle_in()?;
    telemetry::start_logging(&config.log)?;
    let signals = Signals::catch()?;
    let hub = Hub::start(config)?;
    let signal = signals.wait();
    info!(signal, "asked to stop; once more ends at once");
    hub.stop();
    Ok(())
}
