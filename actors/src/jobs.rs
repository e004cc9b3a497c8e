//! Durable background work: rows that the nodes take in turns, and what each kind of row means.
//!
//! Whoever has work to be done adds a row ([`JobQueue::add`]), or has storage add it in the transaction that made the work
//! necessary and then calls [`JobQueue::wake`]. The [`JobRunner`] of some node takes it, a bounded number of each
//! [`JobKind`] at a time, and tries again with growing pauses until it is done or given up. Nothing is lost when the
//! service or its node dies: what it held is given back when it begins anew, or taken by another node when the lease
//! ends. Work is therefore done at least once.

mod config;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, StreamHandler,
    WrapFuture,
};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use parking_lot::Mutex;
use storage::{Job, JobId, JobOutcome, Jobs, NewJob, NodeId, StorageError, clock};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::bus::{Bus, Event};
use crate::supervisor::{Alive, Crash};
pub use config::Config;

/// How long work may go unnoticed whose wake-up was lost, and how exactly pauses are kept.
const LOOK_FOR_WORK: Duration = Duration::from_secs(1);

/// Other nodes are woken no more often than this; in between they look by themselves.
const WAKE_OTHERS: Duration = Duration::from_millis(100);

/// Pause before an outcome is written again that the database did not take.
const WRITE_AGAIN: Duration = Duration::from_millis(500);

/// Why an attempt did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It may work later; the text goes to the operator.
    Again(String),
    /// It may work later, but not before this time has passed.
    AgainAfter(Duration, String),
    /// Trying again would not help.
    Hopeless(String),
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Again(error.to_string())
    }
}

/// Does one job. Dropped half-way when the job is called off.
pub type Run = Arc<dyn Fn(Job) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>;

/// A kind of work this node can do.
#[derive(Clone)]
pub struct JobKind {
    /// As in the rows.
    pub name: &'static str,
    /// How long one attempt may take.
    pub time_limit: Duration,
    /// Does it.
    pub run: Run,
}

/// The way to the queue, for those who have work to be done.
#[derive(Clone)]
pub struct JobQueue(Arc<Shared>);

struct Shared {
    jobs: Jobs,
    bus: Bus,
    wake: Notify,
    /// Jobs that wait or run, as counted last, and how many there may be.
    open: AtomicU64,
    limit: u64,
    others_woken: Mutex<Option<Instant>>,
}

impl JobQueue {
    /// The queue in `jobs`, which the nodes on `bus` share.
    pub fn new(jobs: Jobs, bus: Bus, config: &Config) -> Self {
        Self(Arc::new(Shared {
            jobs,
            bus,
            wake: Notify::new(),
            open: AtomicU64::new(0),
            limit: config.open_limit,
            others_woken: Mutex::default(),
        }))
    }

    /// Adds work and wakes whoever does it.
    ///
    /// # Errors
    /// When the database refuses: then nothing is added, as far as is known.
    pub async fn add(&self, jobs: &[NewJob]) -> Result<(), StorageError> {
        self.0.jobs.add(jobs, clock::now()).await?;
        self.wake();
        Ok(())
    }

    /// There is new work: this node looks at once, and so do the others.
    pub fn wake(&self) {
        self.hear_of_work();
        let mut woken = self.0.others_woken.lock();
        if woken.is_none_or(|at| at.elapsed() >= WAKE_OTHERS) {
            *woken = Some(Instant::now());
            // Those that do not hear it look by themselves, only later.
            let _ = self.0.bus.announce(&Event::WorkAdded);
        }
    }

    /// Another node has added work.
    pub fn hear_of_work(&self) {
        self.0.wake.notify_one();
    }

    /// How much more work may be added by those who could do without.
    pub fn room(&self) -> usize {
        let room = self.0.limit.saturating_sub(self.0.open.load(Ordering::Relaxed));
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// So much work was added: there is less room for more, until all of it is counted again.
    pub fn note_added(&self, jobs: usize) {
        self.0.open.fetch_add(jobs as u64, Ordering::Relaxed);
    }
}

/// The service that does the work.
pub struct JobRunner {
    queue: JobQueue,
    node: NodeId,
    kinds: Arc<[JobKind]>,
    config: Config,
    running: HashMap<JobId, Running>,
    /// What an earlier life of this service held was given back.
    has_begun: bool,
    is_looking: bool,
    /// There was a reason to look while it looked.
    once_more: bool,
    failures: u32,
    _alive: Alive,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    claim: i64,
    kind: &'static str,
    task: SpawnHandle,
}

impl JobRunner {
    /// Does these kinds of work on behalf of `node`.
    pub fn new(queue: JobQueue, node: NodeId, kinds: Arc<[JobKind]>, config: Config, alive: Alive) -> Self {
        Self {
            queue,
            node,
            kinds,
            config,
            running: HashMap::new(),
            has_begun: false,
            is_looking: false,
            once_more: false,
            failures: 0,
            _alive: alive,
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_looking, true) {
            self.once_more = true;
            return;
        }
        let looking = look(self.queue.clone(), self.node, !self.has_begun, self.free(), self.config.lease);
        ctx.spawn(looking.into_actor(self).map(|found, this, ctx| {
            this.is_looking = false;
            this.has_begun |= found.has_begun;
            let was_full = !found.jobs.is_empty();
            for job in found.jobs {
                this.start(job, ctx);
            }
            match found.fault {
                None => {
                    this.failures = 0;
                    if std::mem::take(&mut this.once_more) || was_full {
                        this.look(ctx);
                    }
                }
                Some(error) => {
                    if this.failures == 0 {
                        warn!(%error, "background work cannot be taken from the database and waits");
                    }
                    this.failures += 1;
                }
            }
        }));
    }

    /// How many jobs of each kind may be begun now.
    fn free(&self) -> Vec<(&'static str, usize)> {
        let of_kind = |name| self.running.values().filter(|running| running.kind == name).count();
        self.kinds
            .iter()
            .map(|kind| (kind.name, self.config.at_once.saturating_sub(of_kind(kind.name))))
            .filter(|(_, free)| *free > 0)
            .collect()
    }

    fn start(&mut self, job: Job, ctx: &mut Context<Self>) {
        let Some(kind) = self.kinds.iter().find(|kind| kind.name == job.kind).cloned() else { return };
        let (id, claim, name) = (job.id, job.claim, kind.name);
        let (jobs, config) = (self.queue.0.jobs.clone(), self.config.clone());
        let working = async move {
            let outcome = attempt(job, &kind, &config).await;
            write(&jobs, id, claim, name, &outcome).await;
        };
        let task = ctx.spawn(working.into_actor(self).map(move |(), this, ctx| {
            if this.running.get(&id).is_some_and(|running| running.claim == claim) {
                this.running.remove(&id);
            }
            this.look(ctx);
        }));
        self.running.insert(id, Running { claim, kind: name, task });
    }

    /// Keeps what is being worked on, and stops what is not ours any more.
    fn renew(&mut self, ctx: &mut Context<Self>) {
        let held: Vec<(JobId, i64)> = self.running.iter().map(|(id, running)| (*id, running.claim)).collect();
        let (jobs, lease) = (self.queue.0.jobs.clone(), clock::now().plus(self.config.lease));
        let renewing = async move {
            let kept = jobs.renew(&held, lease).await;
            (held, kept)
        };
        ctx.spawn(renewing.into_actor(self).map(|(held, kept), this, ctx| match kept {
            Ok(kept) => {
                for (id, claim) in held {
                    let Some(running) = this.running.get(&id).copied() else { continue };
                    if running.claim == claim && !kept.contains(&id) {
                        this.running.remove(&id);
                        ctx.cancel_future(running.task);
                        debug!(job.id = %id, "a job was called off or taken over");
                    }
                }
            }
            Err(error) => warn!(%error, "leases of background work were not renewed and may run out"),
        }));
    }

    fn count(&mut self, ctx: &mut Context<Self>) {
        let queue = self.queue.clone();
        let counting = async move {
            let counted = queue.0.jobs.count_open().await;
            if let Ok(open) = counted {
                queue.0.open.store(open, Ordering::Relaxed);
                #[expect(clippy::cast_precision_loss, reason = "nobody looks at the last digit of so many")]
                metrics::gauge!(crate::metrics::JOBS_OPEN).set(open as f64);
            }
        };
        ctx.spawn(counting.into_actor(self));
    }
}

/// What a look for work has come to.
#[derive(Debug, Default)]
struct Found {
    /// What a former life held was given back.
    has_begun: bool,
    /// Work that is ours now, also when there is a fault: nobody else does it before its lease ends.
    jobs: Vec<Job>,
    fault: Option<StorageError>,
}

/// Takes due work for the kinds with room.
async fn look(queue: JobQueue, node: NodeId, begins: bool, free: Vec<(&'static str, usize)>, lease: Duration) -> Found {
    let jobs = &queue.0.jobs;
    if begins {
        match jobs.give_back(node, clock::now()).await {
            Ok(given_back) => debug!(given_back, "background work of a former life of this service"),
            Err(error) => return Found { fault: Some(error), ..Found::default() },
        }
    }
    take(free, async |kind, limit| {
        let now = clock::now();
        jobs.claim(&[kind], node, limit, now, now.plus(lease)).await
    })
    .await
}

/// Takes work of each kind, up to the first that cannot be taken.
async fn take(
    free: Vec<(&'static str, usize)>,
    claim: impl AsyncFn(&'static str, u32) -> Result<Vec<Job>, StorageError>,
) -> Found {
    let mut found = Found { has_begun: true, ..Found::default() };
    for (kind, free) in free {
        match claim(kind, u32::try_from(free).unwrap_or(u32::MAX)).await {
            Ok(jobs) => found.jobs.extend(jobs),
            Err(error) => {
                found.fault = Some(error);
                break;
            }
        }
    }
    found
}

/// Does a job once and says what becomes of it.
async fn attempt(job: Job, kind: &JobKind, config: &Config) -> JobOutcome {
    let attempts = u32::try_from(job.attempts).unwrap_or(u32::MAX);
    if attempts > config.attempts {
        // Nobody was left to say why the last one failed: the job may be what kills its nodes.
        return JobOutcome::Dead { error: "it was never finished: whoever worked on it died".to_owned() };
    }
    let id = job.id;
    let work = AssertUnwindSafe((kind.run)(job)).catch_unwind();
    let failure = match tokio::time::timeout(kind.time_limit, work).await {
        Ok(Ok(Ok(()))) => return JobOutcome::Done,
        Ok(Ok(Err(failure))) => failure,
        Ok(Err(_)) => Failure::Again("it panicked".to_owned()),
        Err(_) => Failure::Again(format!("it took longer than {:?}", kind.time_limit)),
    };
    let (least, error) = match failure {
        Failure::Again(error) => (Duration::ZERO, error),
        Failure::AgainAfter(least, error) => (least, error),
        Failure::Hopeless(error) => return JobOutcome::Dead { error },
    };
    if attempts >= config.attempts {
        warn!(job.id = %id, job.kind = kind.name, attempts, error, "background work was given up");
        return JobOutcome::Dead { error };
    }
    let pause = config.pause(attempts, rand::random()).max(least.min(config.longest_pause));
    JobOutcome::Again { due: clock::now().plus(pause), error }
}

/// Writes the outcome down, however long the database is away: until then the job stays ours, by its lease.
async fn write(jobs: &Jobs, id: JobId, claim: i64, kind: &'static str, outcome: &JobOutcome) {
    let word = match outcome {
        JobOutcome::Done => "done",
        JobOutcome::Again { .. } => "again",
        JobOutcome::Dead { .. } => "dead",
    };
    metrics::counter!(crate::metrics::JOBS, "kind" => kind, "outcome" => word).increment(1);
    while let Err(error) = jobs.finish(id, claim, outcome, clock::now()).await {
        warn!(%error, job.id = %id, "the outcome of background work was not written down and will be");
        tokio::time::sleep(WRITE_AGAIN).await;
    }
}

/// Gives back what `node` holds, for others to take at once.
///
/// # Errors
/// When the database refuses; leases end then.
pub async fn give_back(jobs: &Jobs, node: NodeId) -> Result<u64, StorageError> {
    jobs.give_back(node, clock::now()).await
}

impl Actor for JobRunner {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look(ctx);
        ctx.run_interval(LOOK_FOR_WORK, |this, ctx| {
            this.look(ctx);
            this.count(ctx);
        });
        ctx.run_interval(self.config.lease / 3, Self::renew);
        let queue = self.queue.clone();
        ctx.add_stream(stream::unfold(queue, |queue| async move {
            queue.0.wake.notified().await;
            Some((Woken, queue))
        }));
    }
}

/// There may be new work.
struct Woken;

impl StreamHandler<Woken> for JobRunner {
    fn handle(&mut self, _: Woken, ctx: &mut Self::Context) {
        self.look(ctx);
    }
}

/// Take no more work and drop what is being worked on: the node stops.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Rest;

impl Handler<Rest> for JobRunner {
    type Result = ();

    fn handle(&mut self, _: Rest, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Crash> for JobRunner {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

/// Reads what a job needs to know.
///
/// # Errors
/// [`Failure::Hopeless`] for an input that this kind of work does not understand.
pub fn input<T: serde::de::DeserializeOwned>(job: &Job) -> Result<T, Failure> {
    T::deserialize(&job.input).map_err(|error| Failure::Hopeless(format!("cannot read its input: {error}")))
}

#[cfg(test)]
mod tests;
