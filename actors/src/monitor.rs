//! What is the matter with devices: reports of their monitoring, written in batches.
//!
//! Whoever has a report waits until it is committed; meanwhile the [`AlertWriter`] gathers those of other devices, so that
//! a thousand alerts a second take a few transactions. What follows from an alert (the event, the notifications) is in the
//! same transaction. When the service dies half-way, those who wait are told to come again, and alerts that were stored
//! all the same are known by then.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, StreamHandler, WrapFuture};
use futures_util::stream;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use storage::{Alert, AlertId, AlertReport, Alerts, Details, DeviceId, NewAlert, StorageError, Timestamp, clock};
use tokio::sync::{Notify, oneshot};
use tracing::warn;

use crate::Config;
use crate::events::EventTail;
use crate::jobs::JobQueue;
use crate::notifications::{self, Notifications};
use crate::supervisor::{Alive, Crash};

/// Alerts in one transaction.
const BATCH: usize = 1_000;

/// What a report takes beside its texts.
const OVERHEAD: usize = 256;

/// Why a report was not taken in. Nothing of it is stored then, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Too much waits to be written: try again later.
    #[error("too many alerts at once")]
    TooMuch,
    /// The device does not exist, or is being removed.
    #[error("no such device")]
    NoDevice,
    /// The database refused.
    #[error("cannot store alerts")]
    Storage(#[from] StorageError),
}

/// The way in for reports.
#[derive(Clone)]
pub struct Monitor(Arc<Shared>);

struct Shared {
    alerts: Alerts,
    tail: EventTail,
    jobs: JobQueue,
    notifications: Notifications,
    /// Bytes of reports that may wait on this node.
    limit: usize,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

/// Reports that are not being written yet.
#[derive(Default)]
struct Waiting {
    reports: VecDeque<Pending>,
    /// Of these and of those that are being written.
    bytes: usize,
}

struct Pending {
    report: AlertReport,
    bytes: usize,
    answer: oneshot::Sender<Result<(), ReportError>>,
}

impl Monitor {
    /// Stores alerts in `alerts`; `tail` tells of them, and `jobs` sends the notifications.
    pub fn new(alerts: Alerts, tail: EventTail, jobs: JobQueue, notifications: Notifications, config: &Config) -> Self {
        Self(Arc::new(Shared {
            alerts,
            tail,
            jobs,
            notifications,
            limit: config.alerts_waiting_limit,
            waiting: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// Takes in what a device reports, in this order, and returns once it is committed.
    ///
    /// # Errors
    /// [`ReportError`].
    pub async fn report(&self, device: DeviceId, alerts: Vec<NewAlert>) -> Result<(), ReportError> {
        if alerts.is_empty() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let report = AlertReport { device, alerts };
        let bytes = size(&report);
        self.0.waiting.lock().enter(Pending { report, bytes, answer }, self.0.limit)?;
        self.0.wake.notify_one();
        answered.await.unwrap_or_else(|_| Err(interrupted()))
    }

    async fn write(&self, batch: Vec<Pending>) {
        let (reports, answers): (Vec<AlertReport>, Vec<_>) =
            batch.into_iter().map(|pending| (pending.report, pending.answer)).unzip();
        // More than one transaction may take comes alone.
        let outcome = match &reports[..] {
            [report] => self.record_one(report).await.map(|known| vec![known]),
            reports => self.record(reports).await,
        };
        let outcomes = match outcome {
            Ok(known) => known.into_iter().map(accepted).collect(),
            Err(StorageError::Unavailable(_)) => reports.iter().map(|_| Err(interrupted())).collect(),
            Err(error) => {
                // One of them is at fault; it must not take the others along.
                warn!(%error, reports = reports.len(), "alerts are written one by one after a failure");
                let mut outcomes = Vec::with_capacity(reports.len());
                for report in &reports {
                    outcomes.push(self.record_one(report).await.map_err(Into::into).and_then(accepted));
                }
                outcomes
            }
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever asked may have hung up.
            let _ = answer.send(outcome);
        }
    }

    /// Records a report, in several transactions if it is long. If one fails, those before it stay: who repeats the report
    /// adds nothing to them.
    async fn record_one(&self, report: &AlertReport) -> Result<bool, StorageError> {
        for alerts in report.alerts.chunks(BATCH) {
            let slice = AlertReport { device: report.device, alerts: alerts.to_vec() };
            if self.record(&[slice]).await? != [true] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn record(&self, reports: &[AlertReport]) -> Result<Vec<bool>, StorageError> {
        let now = clock::now();
        let jobs = AtomicUsize::new(0);
        let follow = |recorded: &storage::Recorded| {
            let follow_up = notifications::follow_up(recorded, &self.0.notifications, self.0.jobs.room(), now);
            // It may be asked again; the last answer counts.
            jobs.store(follow_up.jobs.len(), Ordering::Relaxed);
            follow_up
        };
        let known = self.0.alerts.record(reports, now, follow).await?;
        let alerts: usize = reports.iter().map(|report| report.alerts.len()).sum();
        metrics::counter!(crate::metrics::ALERTS).increment(alerts as u64);
        self.0.tail.nudge();
        self.0.jobs.note_added(jobs.into_inner());
        self.0.jobs.wake();
        Ok(known)
    }
}

fn accepted(is_known: bool) -> Result<(), ReportError> {
    if is_known { Ok(()) } else { Err(ReportError::NoDevice) }
}

fn interrupted() -> ReportError {
    ReportError::Storage(StorageError::Unavailable("the alerts were not written".into()))
}

/// Roughly what a report takes in memory.
fn size(report: &AlertReport) -> usize {
    let of_alert = |alert: &NewAlert| {
        let texts = alert.name.len() + alert.subject_name.len() + alert.subject_type.len() + alert.status.len();
        OVERHEAD + texts + alert.details.as_ref().map_or(0, |details| details.text().len())
    };
    OVERHEAD + report.alerts.iter().map(of_alert).sum::<usize>()
}

impl Waiting {
    fn enter(&mut self, pending: Pending, limit: usize) -> Result<(), ReportError> {
        if self.bytes + pending.bytes > limit {
            metrics::counter!(crate::metrics::ALERTS_REFUSED).increment(pending.report.alerts.len() as u64);
            return Err(ReportError::TooMuch);
        }
        self.bytes += pending.bytes;
        self.reports.push_back(pending);
        Ok(())
    }

    /// The oldest reports, as many as fit into one transaction.
    fn batch(&mut self, size: usize) -> Vec<Pending> {
        let (mut batch, mut alerts) = (Vec::new(), 0);
        while let Some(next) = self.reports.front() {
            alerts += next.report.alerts.len();
            if alerts > size && !batch.is_empty() {
                break;
            }
            batch.extend(self.reports.pop_front());
        }
        batch
    }
}

/// The service that writes reports.
pub struct AlertWriter {
    monitor: Monitor,
    is_writing: bool,
    _alive: Alive,
}

impl AlertWriter {
    /// Writes what `monitor` takes in.
    pub fn new(monitor: Monitor, alive: Alive) -> Self {
        Self { monitor, is_writing: false, _alive: alive }
    }

    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.is_writing {
            return;
        }
        let batch = self.monitor.0.waiting.lock().batch(BATCH);
        if batch.is_empty() {
            return;
        }
        self.is_writing = true;
        // Given back whatever happens, also if the service dies while it writes.
        let room = Room { monitor: self.monitor.clone(), bytes: batch.iter().map(|pending| pending.bytes).sum() };
        let monitor = self.monitor.clone();
        let writing = async move {
            monitor.write(batch).await;
            drop(room);
        };
        ctx.spawn(writing.into_actor(self).map(|(), this, ctx| {
            this.is_writing = false;
            this.write(ctx);
        }));
    }
}

/// What a batch takes of the limit.
struct Room {
    monitor: Monitor,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.monitor.0.waiting.lock().bytes -= self.bytes;
    }
}

impl Actor for AlertWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.write(ctx);
        let monitor = self.monitor.clone();
        ctx.add_stream(stream::unfold(monitor, |monitor| async move {
            monitor.0.wake.notified().await;
            Some((Woken, monitor))
        }));
    }
}

/// There may be something to write.
struct Woken;

impl StreamHandler<Woken> for AlertWriter {
    fn handle(&mut self, _: Woken, ctx: &mut Self::Context) {
        self.write(ctx);
    }
}

impl Handler<Crash> for AlertWriter {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

/// An alert as clients see it. (Mender API: device monitor, alert.)
#[derive(Debug)]
pub struct AlertBody<A>(pub A);

impl<A: Borrow<Alert>> Serialize for AlertBody<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let alert: &Alert = self.0.borrow();
        let said = &alert.said;
        let subject = SubjectBody {
            name: &said.subject_name,
            kind: &said.subject_type,
            status: &said.status,
            details: said.details.as_ref(),
        };
        let members = AlertMembers {
            id: alert.id,
            device_id: alert.device,
            name: &said.name,
            level: said.level.as_str(),
            timestamp: said.at,
            subject,
        };
        members.serialize(serializer)
    }
}

#[derive(Debug, Serialize)]
struct AlertMembers<'a> {
    id: AlertId,
    device_id: DeviceId,
    name: &'a str,
    level: &'static str,
    timestamp: Timestamp,
    subject: SubjectBody<'a>,
}

#[derive(Debug, Serialize)]
struct SubjectBody<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Details>,
}

#[cfg(test)]
pub(crate) mod tests;
