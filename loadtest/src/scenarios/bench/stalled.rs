//! The row about an operator who does not read what a device prints.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;

use super::{Bench, Stage, as_f64, rows};
use crate::{
    bench_row::{Budget, Row},
    plain_device::{Manner, PlainDevice},
    process,
    typing::Typing,
};

/// What the device prints, and in which pieces.
const OFFERED: usize = 256 << 20;

/// What it prints before the first look: what a hub needs once, whoever reads or does not, is not to count.
const WARM_UP: usize = 16 << 20;
const PIECES: [(usize, &str); 2] = [(32 << 10, "32 KiB"), (64, "64 bytes")];

/// Terminals of others, which must not notice.
const OTHERS: usize = 10;
const KEY_EVERY: Duration = Duration::from_millis(50);

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Bench {
    pub(super) async fn measure_stalled(&self, stage: &Stage) -> anyhow::Result<Vec<Row>> {
        let pid = stage.hub.needed_pid()?;
        let (stalling, others) =
            stage.members[stage.members.len() - OTHERS - 1..].split_first().context("no device")?;
        let mut devices = Vec::new();
        for member in others {
            devices.push(PlainDevice::connect(&stage.hub.server, &member.token, None, Manner::Echoes).await?);
        }
        let ids: Vec<String> = others.iter().map(|member| member.id.clone()).collect();
        let typing = Typing::start(std::slice::from_ref(&stage.operator), &ids, KEY_EVERY).await?;
        let mut found = Vec::new();
        for (piece, written) in PIECES {
            eprintln!("printing 256 MiB in pieces of {written} to somebody who does not read …");
            let device = PlainDevice::connect(&stage.hub.server, &stalling.token, None, Manner::Counts).await?;
            let terminal = stage.operator.open_terminal(&stalling.id).await?;
            let output = vec![b'x'; piece];
            for _ in 0..WARM_UP / piece {
                device.print(&output).await?;
            }
            let _opening = typing.measured();
            tokio::time::sleep(self.length()).await;
            let calm = typing.measured().context("no key came back")?;
            let before = process::memory(pid)?.resident_bytes;
            let highest = Highest::watch(pid, before);
            for _ in 0..OFFERED / piece {
                device.print(&output).await?;
            }
            let busy = typing.measured().context("no key came back")?;
            let grown = as_f64(highest.bytes().saturating_sub(before)) / f64::from(1 << 20);
            drop(terminal);
            let name = format!("growth of the hub while somebody does not read 256 MiB in pieces of {written}");
            found.push(Row::alone(&name, "MiB", Budget::AtMost(1.0), &[grown]));
            let p99 = (as_f64(busy.percentiles.p99_us), as_f64(calm.percentiles.p99_us));
            // Device and hub share the processors with those who type, so most of this is the machine's.
            let name = format!("p99 of others' keys meanwhile, to that before ({written})");
            found.push(Row::compared(&name, "µs", Budget::Shown, &[p99]));
        }
        typing.finish().await?;
        rows(found)
    }
}

/// The most memory that a process had.
struct Highest {
    bytes: Arc<AtomicU64>,
    looking: tokio::task::JoinHandle<()>,
}

impl Highest {
    fn watch(pid: u32, now: u64) -> Self {
        let bytes = Arc::new(AtomicU64::new(now));
        let looking = tokio::spawn({
            let bytes = bytes.clone();
            async move {
                while let Ok(memory) = process::memory(pid) {
                    bytes.fetch_max(memory.resident_bytes, Relaxed);
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        });
        Self { bytes, looking }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

impl Drop for Highest {
    fn drop(&mut self) {
        self.looking.abort();
    }
}
