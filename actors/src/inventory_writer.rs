//! Takes in what devices say about themselves: many reports become one transaction, and each is acknowledged when that is
//! committed.
//!
//! While one batch is being written the next one gathers, so nobody waits for company: a lone report is written at once,
//! and under load batches grow until the database keeps up. What waits is bounded; beyond that reports are refused, and
//! devices come back later. A panic here loses nothing that was acknowledged: whoever waits hears that the report is not
//! known to be written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::SendError;
use actix::{Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, Message, WrapFuture};
use serde_json::Value;
use storage::{DeviceReport, Inventory, Reported, StorageError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::Config;
use crate::supervisor::{Alive, Crash, Service};

/// Reports in one transaction.
const BATCH: usize = 500;

/// Bytes of reports in one transaction, of which one report may have more.
const BATCH_BYTES: usize = 4 << 20;

/// Bytes of reports that wait or are being written at most.
const WAITING_BYTES: u32 = 32 << 20;

/// Reports that wait at most, and the mailbox before them.
const WAITING: usize = 20_000;

/// What a device that is turned away is asked to wait.
pub const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Why a report was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Too many wait already; another time.
    #[error("too many reports wait to be written")]
    Overloaded,
    /// The database says no, or nobody knows what it says.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The way to the writer, for whoever receives reports.
#[derive(Clone)]
pub struct Reports {
    writer: Service<InventoryWriter>,
    /// Where reports are written without the writer, one by one; see [`Self::configured`].
    alone: Option<Inventory>,
    /// A permit for each byte that may still come.
    room: Arc<Semaphore>,
}

impl Reports {
    /// Starts the writer on `arbiter`.
    pub fn start(inventory: &Inventory, arbiter: &ArbiterHandle) -> Self {
        let inventory = inventory.clone();
        Self {
            writer: Service::start("inventory_writer", arbiter, move |alive| {
                InventoryWriter::new(inventory.clone(), alive)
            }),
            alone: None,
            room: Arc::new(Semaphore::new(WAITING_BYTES as usize)),
        }
    }

    /// The same; unless `gather_reports` is on, each report has a transaction of its own, which is what the writer is measured
    /// against.
    pub fn configured(inventory: &Inventory, config: &Config, arbiter: &ArbiterHandle) -> Self {
        let alone = (!config.gather_reports).then(|| inventory.clone());
        Self { alone, ..Self::start(inventory, arbiter) }
    }

    /// Takes in a report; returns when it is committed.
    ///
    /// # Errors
    /// [`ReportError::Overloaded`], or what the database says. Nothing is known to be written then.
    pub async fn take(&self, report: DeviceReport) -> Result<Reported, ReportError> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(weight(&report));
        let room = room.map_err(|_| ReportError::Overloaded)?;
        if let Some(inventory) = &self.alone {
            let outcomes = inventory.report_all(&[report]).await?;
            return Ok(outcomes.first().copied().unwrap_or(Reported::NoDevice));
        }
        let (answer, answered) = oneshot::channel();
        let writer = self.writer.address().ok_or(ReportError::Overloaded)?;
        writer.try_send(TakeReport { report, room, answer }).map_err(|refused| match refused {
            SendError::Full(_) => ReportError::Overloaded,
            SendError::Closed(_) => StorageError::Unavailable("the writer is coming back".into()).into(),
        })?;
        match answered.await {
            Ok(outcome) => outcome,
            // It ended in between and is coming back.
            Err(gone) => Err(StorageError::Unavailable(gone.into()).into()),
        }
    }

    /// The service behind it.
    pub(crate) fn service(&self) -> &Service<InventoryWriter> {
        &self.writer
    }
}

/// The service that writes reports.
pub struct InventoryWriter {
    inventory: Inventory,
    waiting: VecDeque<TakeReport>,
    is_writing: bool,
    _alive: Alive,
}

/// A report on its way, with who wants to know.
#[derive(Message)]
#[rtype(result = "()")]
pub struct TakeReport {
    report: DeviceReport,
    /// As many permits as it has bytes.
    room: OwnedSemaphorePermit,
    answer: oneshot::Sender<Result<Reported, ReportError>>,
}

impl InventoryWriter {
    /// Writes reports to this inventory.
    pub fn new(inventory: Inventory, alive: Alive) -> Self {
        Self { inventory, waiting: VecDeque::new(), is_writing: false, _alive: alive }
    }

    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.is_writing || self.waiting.is_empty() {
            return;
        }
        let batch = next_batch(&mut self.waiting);
        metrics::histogram!(crate::metrics::REPORT_BATCH)
            .record(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        self.is_writing = true;
        let written = write(self.inventory.clone(), batch);
        ctx.spawn(written.into_actor(self).map(|(), writer, ctx| {
            writer.is_writing = false;
            writer.write(ctx);
        }));
    }
}

/// The reports that are written together: those that have waited longest, up to [`BATCH`] and [`BATCH_BYTES`].
fn next_batch(waiting: &mut VecDeque<TakeReport>) -> Vec<TakeReport> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(next) = waiting.front() {
        bytes += next.room.num_permits();
        if batch.len() == BATCH || (bytes > BATCH_BYTES && !batch.is_empty()) {
            break;
        }
        batch.extend(waiting.pop_front());
    }
    batch
}

/// Bytes that a report takes, about: its texts, and for each value what a value takes that is no text.
fn weight(report: &DeviceReport) -> u32 {
    let of_value = |value: &Value| size_of::<Value>() + value.as_str().map_or(0, str::len);
    let mut bytes = 0;
    for attribute in &report.attributes {
        bytes += attribute.name.len() + attribute.description.as_ref().map_or(0, String::len);
        bytes += of_value(&attribute.value);
        bytes += attribute.value.as_array().into_iter().flatten().map(of_value).sum::<usize>();
    }
    // More than there ever is room for could never come in.
    u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, WAITING_BYTES)
}

/// Writes a batch and tells everybody what became of it.
async fn write(inventory: Inventory, batch: Vec<TakeReport>) {
    let (mut reports, mut answers, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
    for TakeReport { report, room, answer } in batch {
        reports.push(report);
        answers.push(answer);
        rooms.push(room);
    }
    let outcome = inventory.report_all(&reports).await;
    // Before whoever has an answer sends the next one.
    drop(rooms);
    match outcome {
        Ok(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                // Whoever asked may have left.
                let _ = answer.send(Ok(outcome));
            }
        }
        Err(error) if error.is_unavailable() || reports.len() == 1 => {
            let text = error.to_string();
            let mut cause = Some(error);
            for answer in answers {
                let error = cause.take().unwrap_or_else(|| StorageError::Unavailable(text.clone().into()));
                let _ = answer.send(Err(error.into()));
            }
        }
        // One of them cannot be written; it must not take the others with it.
        Err(_) => {
            for (report, answer) in reports.into_iter().zip(answers) {
                let outcome = inventory.report_all(&[report]).await;
                let outcome = outcome.map(|outcomes| outcomes.first().copied().unwrap_or(Reported::NoDevice));
                let _ = answer.send(outcome.map_err(Into::into));
            }
        }
    }
}

impl Actor for InventoryWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(WAITING);
    }
}

impl Handler<TakeReport> for InventoryWriter {
    type Result = ();

    fn handle(&mut self, taken: TakeReport, ctx: &mut Self::Context) {
        if self.waiting.len() >= WAITING {
            let _ = taken.answer.send(Err(ReportError::Overloaded));
            return;
        }
        self.waiting.push_back(taken);
        self.write(ctx);
    }
}

impl Handler<Crash> for InventoryWriter {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

#[cfg(test)]
mod tests {
    use actix::Arbiter;
    use serde_json::json;
    use storage::{Attribute, DeviceId, Report, Storage, Timestamp};

    use super::*;

    fn report(device: DeviceId) -> DeviceReport {
        let attribute = Attribute {
            scope: "inventory".to_owned(),
            name: "a".to_owned(),
            value: json!("b"),
            description: None,
            timestamp: None,
        };
        let now = Timestamp(0);
        DeviceReport { device, attributes: vec![attribute], report: Report::Merge, limit: 100, now }
    }

    /// A report on its way that takes so many bytes, and where its answer comes.
    fn taken(bytes: u32) -> (TakeReport, oneshot::Receiver<Result<Reported, ReportError>>) {
        let (answer, answered) = oneshot::channel();
        let room = Arc::new(Semaphore::new(bytes as usize)).try_acquire_many_owned(bytes).unwrap();
        (TakeReport { report: report(DeviceId::random()), room, answer }, answered)
    }

    #[test]
    fn the_weight_of_a_report_is_that_of_its_texts_and_values() {
        let mut report = report(DeviceId::random());
        let before = weight(&report);
        report.attributes[0].description = Some("x".repeat(1_000));
        assert_eq!(weight(&report), before + 1_000);
        report.attributes[0].value = json!(vec![1; 1_000]);
        assert!(weight(&report) >= 1_000 * u32::try_from(size_of::<Value>()).unwrap());
        report.attributes[0].value = json!(["x".repeat(40 << 20)]);
        assert_eq!(weight(&report), WAITING_BYTES);
        report.attributes.clear();
        assert_eq!(weight(&report), 1);
    }

    #[test]
    fn a_batch_ends_at_its_number_and_at_its_bytes() {
        let mut waiting: VecDeque<TakeReport> = (0..=BATCH).map(|_| taken(1).0).collect();
        assert_eq!((next_batch(&mut waiting).len(), waiting.len()), (BATCH, 1));
        let mut waiting: VecDeque<TakeReport> = [3 << 20, 1 << 20, 1, 9 << 20, 1].map(|bytes| taken(bytes).0).into();
        let sizes: Vec<usize> = std::iter::from_fn(|| Some(next_batch(&mut waiting).len())).take(5).collect();
        assert_eq!(sizes, [2, 1, 1, 1, 0]);
    }

    #[actix::test]
    async fn more_bytes_than_may_wait_are_turned_away() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let reports = Reports::start(&storage.inventory, &Arbiter::current());
        while reports.take(report(DeviceId::random())).await.is_err() {
            tokio::task::yield_now().await;
        }
        let all = WAITING_BYTES as usize;
        assert_eq!(reports.room.available_permits(), all, "what was written takes no room");
        let others = reports.room.try_acquire_many(WAITING_BYTES - 1).unwrap();
        let refused = reports.take(report(DeviceId::random())).await;
        assert!(matches!(refused, Err(ReportError::Overloaded)), "{refused:?}");
        drop(others);
        assert_eq!(reports.take(report(DeviceId::random())).await.unwrap(), Reported::NoDevice);
        assert_eq!(reports.room.available_permits(), all);
    }

    #[actix::test]
    async fn every_report_of_a_burst_is_answered() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let reports = Reports::start(&storage.inventory, &Arbiter::current());
        while reports.take(report(DeviceId::random())).await.is_err() {
            tokio::task::yield_now().await;
        }
        let answers = (0..2_000).map(|_| reports.take(report(DeviceId::random())));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.unwrap(), Reported::NoDevice);
        }
    }

    #[actix::test]
    async fn one_by_one_nobody_waits_for_the_writer() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let settings = crate::Config { gather_reports: false, ..crate::Config::default() };
        let reports = Reports::configured(&storage.inventory, &settings, &Arbiter::current());
        // The writer has had no time to start.
        assert_eq!(reports.take(report(DeviceId::random())).await.unwrap(), Reported::NoDevice);
        assert_eq!(reports.room.available_permits(), WAITING_BYTES as usize);
    }

    #[actix::test]
    async fn more_than_may_wait_are_turned_away() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let (alive, _ended) = crate::supervisor::testing::alive();
        let mut writer = InventoryWriter::new(storage.inventory.clone(), alive);
        // As if a batch were under way for ever.
        writer.is_writing = true;
        let address = writer.start();
        let mut waiting = Vec::new();
        for _ in 0..WAITING {
            let (report, answered) = taken(1);
            address.send(report).await.unwrap();
            waiting.push(answered);
        }
        let (report, answered) = taken(1);
        address.send(report).await.unwrap();
        assert!(matches!(answered.await, Ok(Err(ReportError::Overloaded))));
    }

    #[actix::test]
    async fn whoever_waits_while_it_dies_hears_that_nothing_is_known() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let (alive, _ended) = crate::supervisor::testing::alive();
        let mut writer = InventoryWriter::new(storage.inventory.clone(), alive);
        writer.is_writing = true;
        let address = writer.start();
        let (report, answered) = taken(1);
        address.do_send(report);
        address.do_send(Crash);
        assert!(answered.await.is_err());
    }
}
