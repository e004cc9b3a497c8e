//! Many devices that are connected and do nothing: how much memory and processor time does the hub spend on each?

use super::Target;
use crate::{
    Server, Shell,
    fleet::Fleet,
    process::{self, Memory},
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Longest wait for the hub's memory to stop moving.
const SETTLE_LIMIT: Duration = Duration::from_mins(1);

/// Connect many devices that then do nothing, and print what each of them costs the hub
#[derive(Debug, clap::Args)]
pub struct Idle {
    #[command(flatten)]
    target: Target,
    /// How many devices are counted
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    devices: usize,
    /// Devices that connect before the first look at the memory, so that what every hub needs once is not counted
    #[arg(long, value_name = "N", default_value_t = 500)]
    warm_up: usize,
    /// Process id of the hub, to read its memory and processor time
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// How long the devices stay connected while the processor time is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    hold: u64,
}

/// What [`Idle`] found out.
#[derive(Debug, Serialize)]
pub struct IdleReport {
    scenario: &'static str,
    devices: usize,
    connect_seconds: f64,
    lost_while_idle: u64,
    refused: u64,
    memory: Option<MemoryReport>,
    /// Hub's processor time per device and second while idle, in microseconds.
    idle_processor_us_per_device_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct MemoryReport {
    /// Before the fleet was known.
    start: Memory,
    /// With all devices admitted, and those of the warm-up connected.
    before: Memory,
    /// With all connected.
    connected: Memory,
    /// From `before` to `connected`, for each device that connected between: its joining, token, actor and websocket.
    resident_bytes_per_device: f64,
    anonymous_bytes_per_device: f64,
}

impl Idle {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When the hub refuses the devices, loses them, or its process cannot be read.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = Server::at(&self.target.server).await?;
        let operator = self.target.operator(&server).await?;
        let mut fleet = self.target.fleet(&server, Shell::Echo);
        let counted = self.warm_up..self.warm_up + self.devices;

        let start = self.settled_memory().await?;
        if let Some(operator) = &operator {
            eprintln!("admitting {} devices …", counted.end);
            fleet.admit(operator, 0..counted.end).await?;
        }
        eprintln!("warming up with {} of them …", self.warm_up);
        fleet.start(0..self.warm_up);
        fleet.all_connected(self.target.patience()).await?;
        let before = self.settled_memory().await?;

        eprintln!("connecting {} more …", self.devices);
        let began = Instant::now();
        fleet.start(counted);
        self.watch(&fleet).await?;
        let connect_seconds = began.elapsed().as_secs_f64();

        eprintln!("all connected; waiting for the hub to settle …");
        let connected = self.settled_memory().await?;
        let losses = fleet.settings().progress.losses();
        let processor = self.processor_while_idle().await?;

        let progress = &fleet.settings().progress;
        let report = IdleReport {
            scenario: "idle",
            devices: self.devices,
            connect_seconds,
            lost_while_idle: progress.losses() - losses,
            refused: progress.refusals(),
            memory: start
                .zip(before)
                .zip(connected)
                .map(|((start, before), connected)| self.compare(start, before, connected)),
            idle_processor_us_per_device_second: processor
                .map(|used| used.as_secs_f64() * 1e6 / as_f64(fleet.len()) / as_f64(self.hold.max(1))),
        };
        print(&report);
        self.target.output.finish(&report, Vec::new())
    }

    async fn watch(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let connected = fleet.all_connected(self.target.patience());
        tokio::pin!(connected);
        loop {
            tokio::select! {
                result = &mut connected => return result,
                () = tokio::time::sleep(Duration::from_secs(5)) => {
                    let progress = &fleet.settings().progress;
                    eprintln!("  {} joined, {} connected", progress.joined(), progress.connected());
                }
            }
        }
    }

    async fn settled_memory(&self) -> anyhow::Result<Option<Memory>> {
        match self.pid {
            Some(pid) => process::settled_memory(pid, SETTLE_LIMIT).await.map(Some),
            None => Ok(None),
        }
    }

    async fn processor_while_idle(&self) -> anyhow::Result<Option<Duration>> {
        let before = self.pid.map(process::processor_time).transpose()?;
        tokio::time::sleep(Duration::from_secs(self.hold)).await;
        let after = self.pid.map(process::processor_time).transpose()?;
        Ok(before.zip(after).map(|(before, after)| after.saturating_sub(before)))
    }

    fn compare(&self, start: Memory, before: Memory, connected: Memory) -> MemoryReport {
        let devices = as_f64(self.devices.max(1));
        MemoryReport {
            start,
            before,
            connected,
            resident_bytes_per_device: difference(before.resident_bytes, connected.resident_bytes) / devices,
            anonymous_bytes_per_device: difference(before.anonymous_bytes, connected.anonymous_bytes) / devices,
        }
    }
}

fn print(report: &IdleReport) {
    eprintln!("{} idle devices, connected in {:.1} s", report.devices, report.connect_seconds);
    if let Some(memory) = &report.memory {
        eprintln!(
            "  user memory per device   {:.0} bytes ({:.0} of them anonymous)",
            memory.resident_bytes_per_device, memory.anonymous_bytes_per_device
        );
        eprintln!(
            "  hub's memory             {} kB at the start, {} kB warmed up, {} kB with them",
            memory.start.resident_bytes / 1024,
            memory.before.resident_bytes / 1024,
            memory.connected.resident_bytes / 1024
        );
    }
    if let Some(processor) = report.idle_processor_us_per_device_second {
        eprintln!("  processor time, idle     {processor:.2} µs per device and second");
    }
    eprintln!("  lost while idle          {}", report.lost_while_idle);
}

fn difference(before: u64, after: u64) -> f64 {
    as_f64(after) - as_f64(before)
}

/// Counts here are far below 2^52, where a float is exact.
#[expect(clippy::cast_precision_loss)]
fn as_f64(count: impl TryInto<u64>) -> f64 {
    count.try_into().map_or(f64::NAN, |count| count as f64)
}
