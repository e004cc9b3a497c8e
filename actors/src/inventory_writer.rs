//! Takes in what devices say about themselves: many reports become one transaction, and each is acknowledged when that is
//! committed.
//!
//! While one batch is being written the next one gathers, so nobody waits for company: a lone report is written at once,
//! and under load batches grow until the database keeps up. What waits is bounded; beyond that reports are refused, and
//! devices come back later. A panic here loses nothing that was acknowledged: whoever waits hears that the report is not
//! known to be written.

use std::collections::VecDeque;
use std::time::Duration;

use actix::prelude::SendError;
use actix::{Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, Message, WrapFuture};
use storage::{DeviceReport, Inventory, Reported, StorageError};
use tokio::sync::oneshot;

use crate::supervisor::{Alive, Crash, Service};

/// Reports in one transaction.
const BATCH: usize = 500;

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
}

impl Reports {
    /// Starts the writer on `arbiter`.
    pub fn start(inventory: &Inventory, arbiter: &ArbiterHandle) -> Self {
        let inventory = inventory.clone();
        Self {
            writer: Service::start("inventory_writer", arbiter, move |alive| {
                InventoryWriter::new(inventory.clone(), alive)
            }),
        }
    }

    /// Takes in a report; returns when it is committed.
    ///
    /// # Errors
    /// [`ReportError::Overloaded`], or what the database says. Nothing is known to be written then.
    pub async fn take(&self, report: DeviceReport) -> Result<Reported, ReportError> {
        let (answer, answered) = oneshot::channel();
        let writer = self.writer.address().ok_or(ReportError::Overloaded)?;
        writer.try_send(TakeReport { report, answer }).map_err(|refused| match refused {
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
        let batch: Vec<TakeReport> = self.waiting.drain(..self.waiting.len().min(BATCH)).collect();
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

/// Writes a batch and tells everybody what became of it.
async fn write(inventory: Inventory, batch: Vec<TakeReport>) {
    let (reports, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|taken| (taken.report, taken.answer)).unzip();
    match inventory.report_all(&reports).await {
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
    use storage::{Attribute, Config, DeviceId, Report, Storage, Timestamp};

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

    #[actix::test]
    async fn every_report_of_a_burst_is_answered() {
        let storage = Storage::open(&Config::in_memory()).await.unwrap();
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
    async fn more_than_may_wait_are_turned_away() {
        let storage = Storage::open(&Config::in_memory()).await.unwrap();
        let (alive, _ended) = crate::supervisor::testing::alive();
        let mut writer = InventoryWriter::new(storage.inventory.clone(), alive);
        // As if a batch were under way for ever.
        writer.is_writing = true;
        let address = writer.start();
        let mut waiting = Vec::new();
        for _ in 0..WAITING {
            let (answer, answered) = oneshot::channel();
            address.send(TakeReport { report: report(DeviceId::random()), answer }).await.unwrap();
            waiting.push(answered);
        }
        let (answer, answered) = oneshot::channel();
        address.send(TakeReport { report: report(DeviceId::random()), answer }).await.unwrap();
        assert!(matches!(answered.await, Ok(Err(ReportError::Overloaded))));
    }

    #[actix::test]
    async fn whoever_waits_while_it_dies_hears_that_nothing_is_known() {
        let storage = Storage::open(&Config::in_memory()).await.unwrap();
        let (alive, _ended) = crate::supervisor::testing::alive();
        let mut writer = InventoryWriter::new(storage.inventory.clone(), alive);
        writer.is_writing = true;
        let address = writer.start();
        let (answer, answered) = oneshot::channel();
        address.do_send(TakeReport { report: report(DeviceId::random()), answer });
        address.do_send(Crash);
        assert!(answered.await.is_err());
    }
}
