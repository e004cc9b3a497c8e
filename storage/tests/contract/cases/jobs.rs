//! Background work: taken by one, done at least once, never lost, and an operator's word counts.

use std::collections::HashSet;

use serde_json::{Value, json};
use storage::{Job, JobFilter, JobId, JobOutcome, JobState, JobWish, NewJob, NodeId, Storage, StorageError, Timestamp};

use crate::backends::TestDatabase;

const KIND: &str = "letter";
const LEASE: i64 = 1_000;

fn job(due: i64) -> NewJob {
    NewJob { due: Timestamp(due), ..NewJob::now(KIND, json!({}), Timestamp(0)) }
}

async fn add(storage: &Storage, jobs: &[NewJob]) {
    storage.jobs.add(jobs, Timestamp(1)).await.expect("added");
}

async fn claim(storage: &Storage, node: NodeId, limit: u32, now: i64) -> Vec<Job> {
    let lease = Timestamp(now + LEASE);
    storage.jobs.claim(&[KIND], node, limit, Timestamp(now), lease).await.expect("claimed")
}

async fn find(storage: &Storage, id: JobId) -> Job {
    storage.jobs.find(id).await.expect("an answer").expect("a job")
}

async fn finish(storage: &Storage, job: &Job, outcome: JobOutcome, now: i64) -> bool {
    storage.jobs.finish(job.id, job.claim, &outcome, Timestamp(now)).await.expect("an answer")
}

pub async fn a_job_is_taken_once_and_done(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let input = json!({"text": "${HOME} {{name}} $(id) \0 ' \" %s", "number": i64::MAX, "list": [null, 1.5]});
    let wanted = NewJob { input: input.clone(), ..job(10) };
    add(storage, std::slice::from_ref(&wanted)).await;
    assert!(claim(storage, node, 10, 9).await.is_empty(), "it is not due yet");
    let other_kind = storage.jobs.claim(&["parcel"], node, 10, Timestamp(10), Timestamp(11)).await.expect("an answer");
    assert!(other_kind.is_empty());

    let taken = claim(storage, node, 10, 10).await;
    assert_eq!(taken.len(), 1);
    let taken = &taken[0];
    assert_eq!((taken.id, &taken.input, taken.state), (wanted.id, &input, JobState::Running));
    assert_eq!((taken.attempts, taken.node, taken.due), (1, Some(node), Some(Timestamp(10 + LEASE))));
    assert!(claim(storage, NodeId::random(), 10, 11).await.is_empty(), "somebody has it");
    assert_eq!(storage.jobs.count_open().await.expect("a number"), 1);

    assert!(finish(storage, taken, JobOutcome::Done, 12).await);
    let done = find(storage, wanted.id).await;
    assert_eq!((done.state, done.due, done.updated), (JobState::Done, None, Timestamp(12)));
    assert_eq!(storage.jobs.count_open().await.expect("a number"), 0);
    assert!(claim(storage, node, 10, i64::MAX - LEASE).await.is_empty());
}

pub async fn a_key_adds_one_job(database: &TestDatabase) {
    let storage = &database.storage;
    let keyed = |key: &str| NewJob { key: Some(key.to_owned()), ..job(1) };
    add(storage, &[keyed("a"), keyed("b"), keyed("a"), job(1), job(1)]).await;
    add(storage, &[keyed("b"), keyed("c")]).await;
    assert_eq!(storage.jobs.list(&JobFilter::default(), 0, 100).await.expect("a list").1, 5);
}

pub async fn an_input_that_is_too_large_adds_nothing(database: &TestDatabase) {
    let storage = &database.storage;
    let large = NewJob { input: Value::String("x".repeat(storage::jobs::INPUT_LIMIT)), ..job(1) };
    let refused = storage.jobs.add(&[job(1), large], Timestamp(1)).await;
    assert!(matches!(refused, Err(StorageError::Other(_))), "{refused:?}");
    assert_eq!(storage.jobs.count_open().await.expect("a number"), 0);
}

pub async fn takers_at_once_share_the_work(database: &TestDatabase) {
    const JOBS: usize = 300;
    let jobs: Vec<NewJob> = (0..JOBS).map(|_| job(1)).collect();
    add(&database.storage, &jobs).await;
    let nodes = [database.storage.clone(), database.another_node().await];
    let mut takers = tokio::task::JoinSet::new();
    for taker in 0..6 {
        let storage = nodes[taker % 2].clone();
        takers.spawn(async move {
            let (node, mut mine) = (NodeId::random(), Vec::new());
            loop {
                let taken = claim(&storage, node, 7, 2).await;
                assert!(taken.len() <= 7);
                if taken.is_empty() {
                    return mine;
                }
                mine.extend(taken.iter().map(|job| job.id));
            }
        });
    }
    let taken: Vec<JobId> = takers.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), JOBS, "none is taken twice");
    assert_eq!(taken.into_iter().collect::<HashSet<_>>().len(), JOBS);
}

pub async fn a_lease_that_ended_lets_another_take_over(database: &TestDatabase) {
    let (storage, killed, other) = (&database.storage, NodeId::random(), NodeId::random());
    add(storage, &[job(1)]).await;
    let lost = claim(storage, killed, 1, 1).await.remove(0);
    let held = [(lost.id, lost.claim)];
    let kept = storage.jobs.renew(&held, Timestamp(5_000)).await.expect("renewed");
    assert_eq!(kept, [lost.id]);
    assert!(claim(storage, other, 1, 4_999).await.is_empty());

    let taken = claim(storage, other, 1, 5_000).await.remove(0);
    assert_eq!((taken.id, taken.attempts, taken.node), (lost.id, 2, Some(other)));
    // The first one was only slow. It has lost the job.
    assert!(storage.jobs.renew(&held, Timestamp(9_000)).await.expect("an answer").is_empty());
    assert!(!finish(storage, &lost, JobOutcome::Done, 5_001).await);
    assert!(!finish(storage, &lost, JobOutcome::Dead { error: "late".to_owned() }, 5_001).await);
    assert_eq!(find(storage, lost.id).await.state, JobState::Running);
    assert!(finish(storage, &taken, JobOutcome::Done, 5_002).await);
}

pub async fn what_fails_comes_again_until_it_is_dead(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    add(storage, &[job(1)]).await;
    let first = claim(storage, node, 1, 1).await.remove(0);
    let again = JobOutcome::Again { due: Timestamp(100), error: "no \0 answer".to_owned() };
    assert!(finish(storage, &first, again, 2).await);
    let waiting = find(storage, first.id).await;
    assert_eq!((waiting.state, waiting.due), (JobState::Waiting, Some(Timestamp(100))));
    assert_eq!(waiting.error.as_deref(), Some("no \u{fffd} answer"));
    assert!(claim(storage, node, 1, 99).await.is_empty());

    let second = claim(storage, node, 1, 100).await.remove(0);
    assert!(finish(storage, &second, JobOutcome::Dead { error: "x".repeat(5_000) }, 101).await);
    let dead = find(storage, first.id).await;
    assert_eq!((dead.state, dead.due, dead.attempts), (JobState::Dead, None, 2));
    assert!(dead.error.is_some_and(|error| error.len() == 1024));

    assert_eq!(storage.jobs.retry(dead.id, Timestamp(200)).await.expect("an answer"), JobWish::Granted);
    let third = claim(storage, node, 1, 200).await.remove(0);
    assert_eq!(third.attempts, 1, "it may fail as often as a new one");
    assert!(third.claim > second.claim, "and who held it before has lost it");
    assert!(!finish(storage, &second, JobOutcome::Done, 201).await);
    assert!(finish(storage, &third, JobOutcome::Done, 201).await);
    let refused = storage.jobs.retry(dead.id, Timestamp(300)).await.expect("an answer");
    assert_eq!(refused, JobWish::Refused(JobState::Done));
}

pub async fn a_job_that_is_called_off_is_nobodys(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    add(storage, &[job(1), job(2)]).await;
    let running = claim(storage, node, 1, 1).await.remove(0);
    assert_eq!(storage.jobs.cancel(running.id, Timestamp(3)).await.expect("an answer"), JobWish::Granted);
    assert!(storage.jobs.renew(&[(running.id, running.claim)], Timestamp(9)).await.expect("an answer").is_empty());
    assert!(!finish(storage, &running, JobOutcome::Done, 4).await);
    assert_eq!(find(storage, running.id).await.state, JobState::Cancelled);

    let (left, _) =
        storage.jobs.list(&JobFilter { state: Some(JobState::Waiting), kind: None }, 0, 9).await.expect("a list");
    assert_eq!(storage.jobs.cancel(left[0].id, Timestamp(3)).await.expect("an answer"), JobWish::Granted);
    assert!(claim(storage, node, 9, 10).await.is_empty());
    let again = storage.jobs.cancel(left[0].id, Timestamp(4)).await.expect("an answer");
    assert_eq!(again, JobWish::Refused(JobState::Cancelled));
    assert_eq!(storage.jobs.retry(left[0].id, Timestamp(5)).await.expect("an answer"), JobWish::Granted);
    assert_eq!(claim(storage, node, 9, 10).await.len(), 1);
    let nobody = JobId::random();
    assert_eq!(storage.jobs.cancel(nobody, Timestamp(5)).await.expect("an answer"), JobWish::Unknown);
    assert_eq!(storage.jobs.retry(nobody, Timestamp(5)).await.expect("an answer"), JobWish::Unknown);
}

pub async fn a_node_gives_back_what_it_holds(database: &TestDatabase) {
    let (storage, node, other) = (&database.storage, NodeId::random(), NodeId::random());
    add(storage, &[job(1), job(1), job(1)]).await;
    let held = claim(storage, node, 2, 1).await;
    let of_other = claim(storage, other, 1, 1).await;
    assert_eq!(storage.jobs.give_back(node, Timestamp(2)).await.expect("given back"), 2);
    assert!(!finish(storage, &held[0], JobOutcome::Done, 3).await);
    let taken = claim(storage, NodeId::random(), 9, 3).await;
    assert_eq!(taken.len(), 2);
    assert!(taken.iter().all(|job| job.id != of_other[0].id && job.attempts == 2));
}

pub async fn jobs_are_listed_newest_first(database: &TestDatabase) {
    let storage = &database.storage;
    let other = NewJob { kind: "parcel".to_owned(), ..job(1) };
    for (at, new) in [job(1), other, job(1), job(1)].into_iter().enumerate() {
        let at = Timestamp(i64::try_from(at).expect("a small number"));
        storage.jobs.add(&[new], at).await.expect("added");
    }
    let done = claim(storage, NodeId::random(), 1, 5).await.remove(0);
    finish(storage, &done, JobOutcome::Done, 6).await;
    let list = async |state, kind: Option<&str>, offset, limit| {
        let filter = JobFilter { state, kind: kind.map(str::to_owned) };
        let (jobs, total) = storage.jobs.list(&filter, offset, limit).await.expect("a list");
        (jobs.iter().map(|job| job.created.0).collect::<Vec<_>>(), total)
    };
    assert_eq!(list(None, None, 0, 3).await, (vec![3, 2, 1], 4));
    assert_eq!(list(None, None, 3, 3).await, (vec![0], 4));
    assert_eq!(list(None, Some("parcel"), 0, 9).await, (vec![1], 1));
    assert_eq!(list(Some(JobState::Done), Some(KIND), 0, 9).await.1, 1);
    assert_eq!(list(Some(JobState::Waiting), Some(KIND), 0, 9).await.1, 2);
}

pub async fn jobs_that_are_over_are_removed_in_time(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let jobs: Vec<NewJob> = (0..6).map(job).collect();
    add(storage, &jobs).await;
    for (at, job) in claim(storage, node, 5, 10).await.iter().enumerate() {
        let at = 20 + i64::try_from(at).expect("a small number");
        finish(storage, job, JobOutcome::Dead { error: "no".to_owned() }, at).await;
    }
    let expire = async |state, before| storage.jobs.expire(state, Timestamp(before)).await.expect("removed");
    assert_eq!(expire(JobState::Done, i64::MAX).await, 0);
    assert_eq!(expire(JobState::Dead, 21).await, 1);
    assert_eq!(storage.jobs.trim(JobState::Dead, 3).await.expect("removed"), 1);
    assert_eq!(storage.jobs.trim(JobState::Dead, 3).await.expect("removed"), 0);
    assert_eq!(expire(JobState::Waiting, i64::MAX).await, 0, "what is still to be done stays");
    assert_eq!(storage.jobs.list(&JobFilter::default(), 0, 9).await.expect("a list").1, 4);
}
