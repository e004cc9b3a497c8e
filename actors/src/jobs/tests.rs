use std::sync::atomic::AtomicUsize;

use actix::Arbiter;
use serde_json::json;
use storage::{JobState, Storage};

use super::*;
use crate::supervisor::Service;

const LIMIT: Duration = Duration::from_secs(20);

/// What stops a test's work, and what it counted.
#[derive(Default)]
struct Workshop {
    begun: AtomicUsize,
    at_work: AtomicUsize,
    most_at_work: AtomicUsize,
    may_end: Notify,
}

fn quick() -> Config {
    Config {
        at_once: 3,
        attempts: 3,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        lease: Duration::from_secs(1),
        ..Config::default()
    }
}

fn start(storage: &Storage, config: &Config, run: Run) -> (JobQueue, Service<JobRunner>) {
    let bus = Bus::alone(NodeId::random());
    let (node, queue) = (bus.node(), JobQueue::new(storage.jobs.clone(), bus, config));
    let kinds: Arc<[JobKind]> = [JobKind { name: "letter", time_limit: LIMIT, run }].into();
    let (shared, config) = (queue.clone(), config.clone());
    let runner = Service::start("jobs", &Arbiter::current(), move |alive| {
        JobRunner::new(shared.clone(), node, Arc::clone(&kinds), config.clone(), alive)
    });
    (queue, runner)
}

async fn storage() -> Storage {
    Storage::open(&storage::Config::in_memory()).await.unwrap()
}

fn letter() -> NewJob {
    NewJob::now("letter", json!({ "to": "$HOME" }), clock::now())
}

async fn wait_until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

async fn becomes(storage: &Storage, id: JobId, state: JobState) -> Job {
    wait_until(state.as_str(), async || storage.jobs.find(id).await.unwrap().unwrap().state == state).await;
    storage.jobs.find(id).await.unwrap().unwrap()
}

/// Work that lasts until it may end.
fn patient(workshop: &Arc<Workshop>) -> Run {
    let workshop = Arc::clone(workshop);
    Arc::new(move |_| {
        let workshop = Arc::clone(&workshop);
        Box::pin(async move {
            workshop.begun.fetch_add(1, Ordering::SeqCst);
            let now = workshop.at_work.fetch_add(1, Ordering::SeqCst) + 1;
            workshop.most_at_work.fetch_max(now, Ordering::SeqCst);
            workshop.may_end.notified().await;
            workshop.at_work.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
    })
}

#[actix::test]
async fn a_job_is_tried_until_it_works_and_its_input_is_left_alone() {
    let (storage, tries) = (storage().await, Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&tries);
    let run: Run = Arc::new(move |job| {
        let tries = Arc::clone(&counted);
        Box::pin(async move {
            assert_eq!(job.input, json!({ "to": "$HOME" }));
            match tries.fetch_add(1, Ordering::SeqCst) {
                0 => Err(Failure::Again("nobody answers".to_owned())),
                1 => panic!("a bug"),
                _ => Ok(()),
            }
        })
    });
    let (queue, runner) = start(&storage, &quick(), run);
    let job = letter();
    queue.add(std::slice::from_ref(&job)).await.unwrap();
    let done = becomes(&storage, job.id, JobState::Done).await;
    assert_eq!((done.attempts, done.error.as_deref()), (3, Some("it panicked")));
    assert_eq!(runner.restarts(), 0, "the service outlives the panic of a job");
}

#[actix::test]
async fn what_never_works_is_dead_until_an_operator_retries_it() {
    let (storage, works) = (storage().await, Arc::new(AtomicUsize::new(0)));
    let switch = Arc::clone(&works);
    let run: Run = Arc::new(move |_| {
        let works = switch.load(Ordering::SeqCst) > 0;
        Box::pin(async move { if works { Ok(()) } else { Err(Failure::Again("no".to_owned())) } })
    });
    let (queue, _runner) = start(&storage, &quick(), run);
    let job = letter();
    queue.add(std::slice::from_ref(&job)).await.unwrap();
    assert_eq!(becomes(&storage, job.id, JobState::Dead).await.attempts, 3);
    works.store(1, Ordering::SeqCst);
    storage.jobs.retry(job.id, clock::now()).await.unwrap();
    queue.wake();
    becomes(&storage, job.id, JobState::Done).await;
}

#[actix::test]
async fn hopeless_work_is_tried_once() {
    let storage = storage().await;
    let run: Run = Arc::new(|job| Box::pin(async move { input::<u8>(&job).map(drop) }));
    let (queue, _runner) = start(&storage, &quick(), run);
    let job = letter();
    queue.add(std::slice::from_ref(&job)).await.unwrap();
    let dead = becomes(&storage, job.id, JobState::Dead).await;
    assert_eq!(dead.attempts, 1);
    assert!(dead.error.unwrap().starts_with("cannot read its input"));
}

#[actix::test]
async fn no_more_than_allowed_are_worked_on_and_a_crash_loses_none() {
    let (storage, workshop) = (storage().await, Arc::new(Workshop::default()));
    let config = Config { attempts: 1000, ..quick() };
    let (queue, runner) = start(&storage, &config, patient(&workshop));
    let jobs: Vec<NewJob> = (0..10).map(|_| letter()).collect();
    queue.add(&jobs).await.unwrap();
    wait_until("three at work", async || workshop.at_work.load(Ordering::SeqCst) == 3).await;
    runner.address().unwrap().do_send(Crash);
    wait_until("a new life", async || workshop.begun.load(Ordering::SeqCst) >= 6).await;
    wait_until("all done", async || {
        workshop.may_end.notify_waiters();
        storage.jobs.count_open().await.unwrap() == 0
    })
    .await;
    // The crash dropped three in the middle of their work.
    assert!(workshop.most_at_work.load(Ordering::SeqCst) <= 3 + config.at_once);
    assert!(workshop.begun.load(Ordering::SeqCst) >= 13);
}

#[actix::test]
async fn work_that_is_called_off_is_stopped() {
    let (storage, workshop) = (storage().await, Arc::new(Workshop::default()));
    let (queue, _runner) = start(&storage, &Config { at_once: 1, ..quick() }, patient(&workshop));
    let (first, second) = (letter(), letter());
    queue.add(std::slice::from_ref(&first)).await.unwrap();
    becomes(&storage, first.id, JobState::Running).await;
    queue.add(std::slice::from_ref(&second)).await.unwrap();
    storage.jobs.cancel(first.id, clock::now()).await.unwrap();
    // The only place is free again, although nobody let the first one end.
    becomes(&storage, second.id, JobState::Running).await;
    assert_eq!(becomes(&storage, first.id, JobState::Cancelled).await.attempts, 1);
}

#[actix::test]
async fn work_that_was_taken_is_begun_although_another_kind_cannot_be_taken() {
    let storage = storage().await;
    let job = letter();
    storage.jobs.add(std::slice::from_ref(&job), clock::now()).await.unwrap();
    let (jobs, node) = (&storage.jobs, NodeId::random());
    let found = take(vec![("letter", 3), ("telegram", 3), ("parcel", 3)], async |kind, limit| match kind {
        "letter" => jobs.claim(&[kind], node, limit, clock::now(), clock::now()).await,
        "telegram" => Err(StorageError::Unavailable("gone".into())),
        other => unreachable!("{other} is not asked for"),
    })
    .await;
    assert!(found.has_begun && found.fault.is_some_and(|fault| fault.is_unavailable()));
    assert_eq!(found.jobs.iter().map(|taken| taken.id).collect::<Vec<_>>(), [job.id]);
}

#[actix::test]
async fn what_a_killed_node_held_is_done_by_another() {
    let (storage, workshop) = (storage().await, Arc::new(Workshop::default()));
    let job = letter();
    storage.jobs.add(std::slice::from_ref(&job), clock::now()).await.unwrap();
    let now = clock::now();
    let lease = now.plus(Duration::from_millis(50));
    assert_eq!(storage.jobs.claim(&["letter"], NodeId::random(), 1, now, lease).await.unwrap().len(), 1);
    let (_queue, _runner) = start(&storage, &quick(), patient(&workshop));
    wait_until("the work to be begun again", async || workshop.begun.load(Ordering::SeqCst) == 1).await;
    workshop.may_end.notify_waiters();
    assert_eq!(becomes(&storage, job.id, JobState::Done).await.attempts, 2);
}

#[actix::test]
async fn a_job_that_kills_whoever_touches_it_is_given_up() {
    let storage = storage().await;
    let job = letter();
    storage.jobs.add(std::slice::from_ref(&job), clock::now()).await.unwrap();
    for _ in 0..3 {
        let now = clock::now();
        storage.jobs.claim(&["letter"], NodeId::random(), 1, now, now).await.unwrap();
    }
    let run: Run = Arc::new(|_| Box::pin(async { unreachable!("nobody tries it again") }));
    let (_queue, _runner) = start(&storage, &quick(), run);
    let dead = becomes(&storage, job.id, JobState::Dead).await;
    assert!(dead.error.unwrap().contains("died"));
}
