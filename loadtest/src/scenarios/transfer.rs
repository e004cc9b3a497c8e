//! Files to and from devices: how fast, and does every transfer get its share?

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;

use super::Target;
use crate::{
    FileService, Services, Shell,
    latency::{Latency, LatencyReport},
    live::{Gauge, Series, Watch},
    operator::Operator,
};

/// Upload files to devices or download them, over and over, and print how fast and how it is shared
#[derive(Debug, clap::Args)]
pub struct Transfer {
    #[command(flatten)]
    target: Target,
    /// How many devices there are, each with a transfer at all times
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = super::at_least_one)]
    devices: usize,
    /// Bytes of each file
    #[arg(long, value_name = "N", default_value_t = 4 << 20)]
    size: usize,
    /// Which way the files go
    #[arg(long, value_enum, default_value_t = Way::Download)]
    way: Way,
    /// After so long no further transfer begins
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Process ids of the hubs, to show their memory and processor time (comma)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// From devices
    Download,
    /// To devices
    Upload,
}

/// What [`Transfer`] found out.
#[derive(Debug, Serialize)]
pub struct TransferReport {
    scenario: &'static str,
    devices: usize,
    size_bytes: usize,
    way: Way,
    files: u64,
    megabytes_per_second: f64,
    /// The device with the least, as a share of what each would have if all had the same.
    least_share: f64,
    /// How long a file takes.
    file: LatencyReport,
    series: Vec<Series>,
}

/// What is transferred, and what was.
struct Files {
    operator: Operator,
    content: Vec<u8>,
    way: Way,
    folder: String,
    until: Instant,
    took: Latency,
    bytes: AtomicU64,
}

impl Transfer {
    /// Runs it and prints the report.
    ///
    /// # Errors
    /// When no operator was named, or a file does not arrive as it was.
    pub async fn run(self) -> anyhow::Result<()> {
        let server = self.target.hub().await?;
        let operator = self.target.needed_operator(&server, "transferring files").await?;
        // Simulated devices have the files of this machine: those in this folder and no others.
        let folder = Folder::new()?;
        let files = FileService { chroot: Some(folder.0.clone()) };
        let services = Services { files: Some(files), ..Services::none() };
        let mut fleet = self.target.fleet(&server, Shell::Echo).offering(services);
        let ids = fleet.admit(&operator, 0..self.devices).await?;
        fleet.start(0..self.devices);
        fleet.all_connected(self.target.patience()).await?;

        let content: Vec<u8> = (0..self.size).map(|_| rand::random()).collect();
        std::fs::write(folder.0.join("offered"), &content).context("cannot write the file that devices offer")?;
        let length = Duration::from_secs(self.seconds);
        let begun = Instant::now();
        let files = Arc::new(Files {
            operator,
            content,
            way: self.way,
            folder: folder.0.display().to_string(),
            until: begun + length,
            took: Latency::default(),
            bytes: AtomicU64::new(0),
        });
        let watched = files.clone();
        let mut gauges = vec![Gauge::rate("transferred", "B/s", move || watched.bytes.load(Relaxed))];
        gauges.extend(Gauge::of_processes(&self.pid));
        let watch = Watch::start("transfer", Some(length), gauges);
        let transfers: Vec<_> =
            ids.into_iter().enumerate().map(|(number, id)| tokio::spawn(files.clone().transfer(number, id))).collect();
        let mut each: Vec<u64> = Vec::new();
        for transfer in transfers {
            each.push(transfer.await.context("a transfer panicked")??);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let total: u64 = each.iter().sum();
        let least = each.iter().min().copied().unwrap_or_default();
        let report = TransferReport {
            scenario: "transfer",
            devices: self.devices,
            size_bytes: self.size,
            way: self.way,
            files: total / (self.size as u64).max(1),
            megabytes_per_second: as_f64(total) / seconds / 1e6,
            least_share: as_f64(least) * as_f64(each.len() as u64) / as_f64(total).max(1.0),
            file: files.took.report().context("no file was transferred")?,
            series: watch.finish(),
        };
        let TransferReport { devices, way, files, megabytes_per_second, file, least_share, .. } = &report;
        eprintln!("{files} files with {devices} devices, {way:?}: {megabytes_per_second:.2} MB/s");
        eprintln!("  a file                   {file}");
        eprintln!("  the least of a device    {:.0} % of its share", least_share * 100.0);
        self.target.output.finish(&report, Vec::new())
    }
}

impl Files {
    /// Bytes that went to or from one device.
    async fn transfer(self: Arc<Self>, number: usize, device: String) -> anyhow::Result<u64> {
        let mut bytes = 0;
        while Instant::now() < self.until {
            let begun = Instant::now();
            match self.way {
                Way::Download => self.download(&device).await?,
                Way::Upload => self.upload(number, &device).await?,
            }
            self.took.record(begun.elapsed());
            bytes += self.content.len() as u64;
        }
        Ok(bytes)
    }

    async fn download(&self, device: &str) -> anyhow::Result<()> {
        let mut answer = self.operator.download(device, &format!("{}/offered", self.folder)).await?;
        let mut left = self.content.as_slice();
        while let Some(chunk) = answer.chunk().await.context("a download broke")? {
            self.bytes.fetch_add(chunk.len() as u64, Relaxed);
            let expected;
            (expected, left) = left.split_at_checked(chunk.len()).context("more came than there is")?;
            ensure!(expected == chunk, "a file came otherwise than it is");
        }
        ensure!(left.is_empty(), "a file ended early");
        Ok(())
    }

    async fn upload(&self, number: usize, device: &str) -> anyhow::Result<()> {
        let path = format!("{}/received-{number}", self.folder);
        self.operator.send_file(device, &path, &self.content).await?;
        self.bytes.fetch_add(self.content.len() as u64, Relaxed);
        let received = tokio::fs::read(&path).await.context("an uploaded file is not there")?;
        ensure!(received == self.content, "a file arrived otherwise than it was sent");
        Ok(())
    }
}

/// A folder that is removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("loadtest-{:016x}", rand::random::<u64>()));
        create_private(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // What devices are told has to be the path as they see it.
        Ok(Self(path.canonicalize()?))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

/// Counts here are far below 2^52, where a float is exact.
#[expect(clippy::cast_precision_loss)]
fn as_f64(count: u64) -> f64 {
    count as f64
}
