//! How many reports a second: each in a transaction of its own, or gathered by the writer.
//!
//! ```text
//! cargo run --release -p actors --example reports -- postgres://user:password@host/database [seconds]
//! ```
//!
//! Makes a few hundred devices in that database and leaves them there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::Arbiter;
use actors::inventory_writer::Reports;
use serde_json::json;
use storage::{Attribute, Config, DeviceId, DeviceReport, Report, Storage, clock};

/// Devices, each of which sends its next report when the last one was acknowledged.
const DEVICES: usize = 256;

/// Reports under way at once without the writer: as many as there are connections to the database, or more would wait.
const CONNECTIONS: u32 = 16;

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let database_url = arguments.next().ok_or("usage: reports DATABASE_URL [SECONDS]")?;
    let seconds: u64 = arguments.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let config = Config { database_url, pool_size: CONNECTIONS, ..Config::in_memory() };
    let storage = Storage::open(&config).await?;
    let devices = fleet(&storage).await?;
    let limit = Duration::from_secs(seconds);

    let inventory = storage.inventory.clone();
    let alone = rate(&devices, limit, move |report| {
        let inventory = inventory.clone();
        async move { inventory.report_all(&[report]).await.is_ok() }
    })
    .await;
    println!("one transaction each: {alone:.0} reports/s");

    let reports = Reports::start(&storage.inventory, &Arbiter::current());
    let gathered = rate(&devices, limit, move |report| {
        let reports = reports.clone();
        async move { reports.take(report).await.is_ok() }
    })
    .await;
    println!("gathered by the writer: {gathered:.0} reports/s");
    println!("ratio: {:.1}", gathered / alone);
    Ok(())
}

async fn fleet(storage: &Storage) -> Result<Vec<DeviceId>, Box<dyn std::error::Error>> {
    use storage::{AuthSet, AuthSetId, Decision, Device, DeviceChange, DeviceKey, SetStatus};
    let mut devices = Vec::new();
    for _ in 0..DEVICES {
        let id = DeviceId::random();
        let mut identity_hash = [0; 32];
        identity_hash[..16].copy_from_slice(id.uuid().as_bytes());
        let now = clock::now();
        let set =
            AuthSet { id: AuthSetId::random(), pubkey: id.to_string(), status: SetStatus::Accepted, created: now };
        let device = Device {
            id,
            identity: json!({"serial": id}).to_string(),
            identity_hash,
            decommissioning: false,
            created: now,
            updated: now,
            checked_in: None,
            revision: 0,
            auth_sets: vec![set],
        };
        let written = storage.devices.change(DeviceKey::Identity(&identity_hash), |_, _| {
            let after = Some(device.clone());
            Decision::Write(DeviceChange { after, revoked: Vec::new(), issued: None }, ())
        });
        written.await?;
        let attributes = (0..20).map(|number| attribute(number, 0)).collect();
        storage.inventory.report(id, attributes, Report::Replace, 100, now).await?;
        devices.push(id);
    }
    Ok(devices)
}

fn attribute(number: u64, round: u64) -> Attribute {
    Attribute {
        scope: "inventory".to_owned(),
        name: format!("attribute {number}"),
        value: json!(format!("value {round}")),
        description: None,
        timestamp: None,
    }
}

/// Reports a second: every device changes one of its twenty attributes, over and over.
async fn rate<F: Future<Output = bool>>(
    devices: &[DeviceId],
    limit: Duration,
    send: impl Fn(DeviceReport) -> F,
) -> f64 {
    static ROUND: AtomicU64 = AtomicU64::new(1);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let senders = devices.iter().map(|device| async {
        while begun.elapsed() < limit {
            let round = ROUND.fetch_add(1, Ordering::Relaxed);
            let attributes = vec![attribute(round % 20, round)];
            let report = Report::Merge;
            let report = DeviceReport { device: *device, attributes, report, limit: 100, now: clock::now() };
            if send(report).await {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    futures_util::future::join_all(senders).await;
    let count = u32::try_from(acknowledged.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
    f64::from(count) / begun.elapsed().as_secs_f64()
}
