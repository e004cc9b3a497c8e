//! What a hub tells about itself: logs on standard error, metrics for Prometheus.

use crate::config::{LogConfig, LogFormat};
use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tracing_subscriber::EnvFilter;

/// How often histograms are emptied into their summaries: unread samples would pile up in a hub that nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Starts logging to standard error.
///
/// # Errors
/// When the filter cannot be read, or logging has been started before.
pub fn start_logging(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| {
        anyhow::anyhow!(
            "log.filter is {:?}: expected a level such as \"info\", or \"warn,api=debug\": {error}",
            config.filter
        )
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// The recorder of this process's metrics, whose `render` is what Prometheus reads.
///
/// There is one for the process: two hubs in it, as in a test, count together.
///
/// # Errors
/// When another recorder has been installed.
pub fn recorder() -> anyhow::Result<PrometheusHandle> {
    static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut recorder = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*recorder {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new().install_recorder().context("cannot install the recorder of metrics")?;
    let upkeep = handle.clone();
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || {
            loop {
                std::thread::sleep(UPKEEP_INTERVAL);
                upkeep.run_upkeep();
            }
        })
        .context("cannot start the thread that looks after metrics")?;
    *recorder = Some(handle.clone());
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_the_recorder_twice_gives_the_same_one() {
        let first = recorder().expect("a recorder");
        metrics::counter!("telemetry_test_total").increment(1);
        let second = recorder().expect("the same recorder");
        assert!(first.render().contains("telemetry_test_total 1"));
        assert!(second.render().contains("telemetry_test_total 1"));
    }

    #[test]
    fn a_wrong_filter_is_named() {
        let config = LogConfig { filter: "info,=,".to_owned(), format: LogFormat::Human };
        assert!(start_logging(&config).expect_err("refused").to_string().contains("log.filter"));
    }
}
