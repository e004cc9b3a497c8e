//! `mooring serve`: a hub that runs until it is told to stop.

use super::ServeArguments;
use crate::shutdown::{Signals, Wake};
use crate::{Hub, telemetry};
use tracing::info;

/// Runs a hub until SIGINT or SIGTERM, or until it is asked to stop by its internal API.
pub fn run(arguments: &ServeArguments) -> anyhow::Result<()> {
    let mut config = arguments.sources().load()?;
    config.settle_in()?;
    telemetry::start_logging(&config.log)?;
    let signals = Signals::catch()?;
    let mut hub = Hub::start(config)?;
    if let Some(over) = hub.when_over() {
        signals.also_wait_for(over);
    }
    match signals.wait() {
        Wake::Signal(signal) => info!(signal, "asked to stop; once more ends at once"),
        Wake::Over => {}
    }
    hub.stop();
    Ok(())
}
