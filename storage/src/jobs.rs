//! Background work that has to be done, whatever dies meanwhile: a queue whose entries are rows.
//!
//! A node takes a job by a lease that it renews while it works. Work that a killed node left is taken by whoever looks
//! after the lease has ended, so a job runs at least once, and has to be safe to run twice. Everything a taker says about
//! its job carries the number of its claim; whoever holds an older one has lost the job and changes nothing.

use serde_json::Value;
use sqlx::QueryBuilder;

use crate::database::{
    Database, ROWS_PER_REMOVAL, Transaction, in_transaction, on_reader, on_writer, repeating_after_deadlock,
};
use crate::dialect::without_nul;
use crate::{JobId, NodeId, StorageError, Timestamp};

/// Bytes of a job's input, as JSON.
pub const INPUT_LIMIT: usize = 256 * 1024;

/// Bytes that are kept of what went wrong last.
const ERROR_LIMIT: usize = 1024;

/// Jobs in one statement: inputs are larger than other rows.
const JOBS_PER_STATEMENT: usize = 200;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Nobody works on it, and somebody will.
    Waiting,
    /// A node works on it.
    Running,
    /// It was done.
    Done,
    /// It was given up after too many attempts, or because trying again would not help. An operator may retry it.
    Dead,
    /// An operator called it off.
    Cancelled,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Running, Self::Done, Self::Dead, Self::Cancelled];

    /// The word on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state a word stands for.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// A job to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Which; chosen by the caller, so that it can stand in what the job will send.
    pub id: JobId,
    /// Names the work: while a job with this key is kept, another one is not added.
    pub key: Option<String>,
    /// What kind of work it is.
    pub kind: String,
    /// What it needs to know. Data, whatever it looks like: nothing in it is ever expanded or executed.
    pub input: Value,
    /// Not before this.
    pub due: Timestamp,
}

impl NewJob {
    /// Work to be done as soon as possible.
    #[must_use]
    pub fn now(kind: &str, input: Value, now: Timestamp) -> Self {
        Self { id: JobId::random(), key: None, kind: kind.to_owned(), input, due: now }
    }
}

/// A job as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Which.
    pub id: JobId,
    /// The name of the work, if it has one.
    pub key: Option<String>,
    /// What kind of work it is.
    pub kind: String,
    /// What it needs to know.
    pub input: Value,
    /// Where it stands.
    pub state: JobState,
    /// When it may be taken, or its lease ends; `None` if it is over.
    pub due: Option<Timestamp>,
    /// How often it was begun since it was added or an operator retried it.
    pub attempts: i64,
    /// Number of the latest claim.
    pub claim: i64,
    /// The node that works on it, or did last.
    pub node: Option<NodeId>,
    /// What went wrong last.
    pub error: Option<String>,
    /// When it was added.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// What a taker says about its job in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// It is done.
    Done,
    /// It did not work and is to be tried again then.
    Again {
        /// Not before this.
        due: Timestamp,
        /// What went wrong.
        error: String,
    },
    /// It did not work and is not tried again by itself.
    Dead {
        /// What went wrong.
        error: String,
    },
}

/// What became of an operator's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobWish {
    /// It was fulfilled.
    Granted,
    /// The job is in a state in which it makes no sense.
    Refused(JobState),
    /// There is no such job.
    Unknown,
}

/// Which jobs to list; `None` asks for no filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<JobState>,
    /// Of this kind.
    pub kind: Option<String>,
}

/// The columns of a [`Job`].
macro_rules! job_columns {
    () => {
        "id, key, kind, input, state, due_at, attempts, claim, node, error, created_at, updated_at"
    };
}

/// Adds what a filter asks for to a query of either database.
macro_rules! restrict {
    ($query:ident, $filter:ident) => {
        if let Some(state) = $filter.state {
            $query.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(kind) = &$filter.kind {
            $query.push(" AND kind = ").push_bind(without_nul(kind));
        }
    };
}

/// The queue of background work.
#[derive(Debug, Clone)]
pub struct Jobs {
    db: Database,
}

impl Jobs {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Adds jobs, all or none. One whose key is taken changes nothing.
    ///
    /// # Errors
    /// `Other` if an input is larger than [`INPUT_LIMIT`]; `Unavailable`.
    pub async fn add(&self, jobs: &[NewJob], now: Timestamp) -> Result<(), StorageError> {
        let added = async {
            let mut transaction = self.db.begin().await?;
            insert(&mut transaction, jobs, now).await?;
            transaction.commit().await
        };
        self.db.within(added).await
    }

    /// Takes up to `limit` jobs of these kinds that are due, for `node` and until `lease` ends: waiting ones, and running
    /// ones whose lease has ended. What one node takes no other gets.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. If it is unknown whether any were taken, their leases end by themselves.
    pub async fn claim(
        &self,
        kinds: &[&str],
        node: NodeId,
        limit: u32,
        now: Timestamp,
        lease: Timestamp,
    ) -> Result<Vec<Job>, StorageError> {
        if kinds.is_empty() || limit == 0 {
            return Ok(vec![]);
        }
        let skip_locked = self.db.skip_locked();
        let mut rows: Vec<JobRow> = on_writer!(self.db, |pool| {
            // Materialised, or else a plan could choose rows more than once and take more than the limit.
            let mut query = QueryBuilder::new("WITH due AS MATERIALIZED (SELECT id FROM jobs WHERE due_at <= ");
            query.push_bind(now).push(" AND kind IN (");
            let mut any = query.separated(", ");
            for kind in kinds {
                any.push_bind(*kind);
            }
            any.push_unseparated(") ORDER BY due_at, id LIMIT ");
            query.push_bind(i64::from(limit)).push(skip_locked);
            query.push(") UPDATE jobs SET state = 'running', attempts = attempts + 1, claim = claim + 1, node = ");
            query.push_bind(node).push(", due_at = ").push_bind(lease).push(", updated_at = ").push_bind(now);
            query.push(concat!(" WHERE id IN (SELECT id FROM due) RETURNING ", job_columns!()));
            query.build_query_as().fetch_all(pool).await
        })?;
        rows.sort_by_key(|row| (row.created_at, row.id));
        rows.into_iter().map(TryInto::try_into).collect()
    }

    /// Keeps these jobs, by id and claim, until `lease` ends. Returns those that are still the caller's; the others were
    /// called off, or taken by somebody else.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn renew(&self, held: &[(JobId, i64)], lease: Timestamp) -> Result<Vec<JobId>, StorageError> {
        if held.is_empty() {
            return Ok(vec![]);
        }
        on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new("UPDATE jobs SET due_at = ");
            query.push_bind(lease).push(" WHERE state = 'running' AND (id, claim) IN (");
            query.push_values(held, |mut row, (id, claim)| {
                row.push_bind(*id).push_bind(*claim);
            });
            query.push(") RETURNING id");
            query.build_query_scalar().fetch_all(pool).await
        })
    }

    /// Takes down how an attempt ended. `false`: the job was called off or taken by somebody else meanwhile, and nothing
    /// changed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn finish(
        &self,
        id: JobId,
        claim: i64,
        outcome: &JobOutcome,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        let (state, due, error) = match outcome {
            JobOutcome::Done => (JobState::Done, None, None),
            JobOutcome::Again { due, error } => (JobState::Waiting, Some(*due), Some(error)),
            JobOutcome::Dead { error } => (JobState::Dead, None, Some(error)),
        };
        let changed = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE jobs SET state = $3, due_at = $4, error = COALESCE($5, error), updated_at = $6 \
                 WHERE id = $1 AND claim = $2 AND state = 'running'",
            )
            .bind(id)
            .bind(claim)
            .bind(state.as_str())
            .bind(due)
            .bind(error.map(|text| without_nul(cut(text)).into_owned()))
            .bind(now)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        Ok(changed > 0)
    }

    /// Gives back what a node holds, for others to take at once: it is stopping, or begins anew.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn give_back(&self, node: NodeId, now: Timestamp) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE jobs SET state = 'waiting', claim = claim + 1, due_at = $2, updated_at = $2 \
                 WHERE node = $1 AND state = 'running'",
            )
            .bind(node)
            .bind(now)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })
    }

    /// The job with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: JobId) -> Result<Option<Job>, StorageError> {
        let found: Option<JobRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?;
        found.map(TryInto::try_into).transpose()
    }

    /// A page of the jobs a filter asks for, newest first, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(&self, filter: &JobFilter, offset: u32, limit: u32) -> Result<(Vec<Job>, u64), StorageError> {
        let page: Vec<JobRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!("SELECT ", job_columns!(), " FROM jobs WHERE TRUE"));
            restrict!(query, filter);
            query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM jobs WHERE TRUE");
            restrict!(query, filter);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        let page: Result<Vec<Job>, StorageError> = page.into_iter().map(TryInto::try_into).collect();
        Ok((page?, total.unsigned_abs()))
    }

    /// Jobs that wait or run.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn count_open(&self) -> Result<u64, StorageError> {
        let count: i64 = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT COUNT(*) FROM jobs WHERE due_at IS NOT NULL").fetch_one(pool).await
        })?;
        Ok(count.unsigned_abs())
    }

    /// Lets a job that is dead or was called off be tried again, as often as a new one; and one that waits, at once.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn retry(&self, id: JobId, now: Timestamp) -> Result<JobWish, StorageError> {
        let changed = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE jobs SET state = 'waiting', due_at = $2, attempts = 0, claim = claim + 1, updated_at = $2 \
                 WHERE id = $1 AND state IN ('waiting', 'dead', 'cancelled')",
            )
            .bind(id)
            .bind(now)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        self.wish(id, changed).await
    }

    /// Calls a job off that is not over yet. One that runs is stopped by its node when it next renews its lease, and what
    /// it has done by then stays done.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn cancel(&self, id: JobId, now: Timestamp) -> Result<JobWish, StorageError> {
        let changed = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE jobs SET state = 'cancelled', due_at = NULL, claim = claim + 1, updated_at = $2 \
                 WHERE id = $1 AND state IN ('waiting', 'running', 'dead')",
            )
            .bind(id)
            .bind(now)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        self.wish(id, changed).await
    }

    async fn wish(&self, id: JobId, changed: u64) -> Result<JobWish, StorageError> {
        if changed > 0 {
            return Ok(JobWish::Granted);
        }
        Ok(self.find(id).await?.map_or(JobWish::Unknown, |job| JobWish::Refused(job.state)))
    }

    /// Removes jobs in this state that have not changed since, in slices; says how many. Those that are not over stay.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be removed then; repeating the call is safe.
    pub async fn expire(&self, state: JobState, before: Timestamp) -> Result<u64, StorageError> {
        let mut removed = 0;
        loop {
            let slice = repeating_after_deadlock(|| self.expire_slice(state, before)).await?;
            removed += slice;
            if slice < u64::from(ROWS_PER_REMOVAL) {
                return Ok(removed);
            }
        }
    }

    async fn expire_slice(&self, state: JobState, before: Timestamp) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs \
                 WHERE state = $1 AND due_at IS NULL AND updated_at < $2 ORDER BY updated_at LIMIT $3)",
            )
            .bind(state.as_str())
            .bind(before)
            .bind(i64::from(ROWS_PER_REMOVAL))
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })
    }

    /// Removes the oldest jobs in this state beyond the newest `most`; says how many.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn trim(&self, state: JobState, most: u32) -> Result<u64, StorageError> {
        let oldest_kept: Option<Timestamp> = on_reader!(self.db, |pool| {
            sqlx::query_scalar(
                "SELECT updated_at FROM jobs WHERE state = $1 AND due_at IS NULL ORDER BY updated_at DESC \
                 LIMIT 1 OFFSET $2",
            )
            .bind(state.as_str())
            .bind(i64::from(most.saturating_sub(1)))
            .fetch_optional(pool)
            .await
        })?;
        match oldest_kept {
            Some(at) => self.expire(state, at).await,
            None => Ok(0),
        }
    }
}

/// Adds jobs inside of the transaction whose work they go on with.
pub(crate) async fn insert(transaction: &mut Transaction, jobs: &[NewJob], now: Timestamp) -> Result<(), StorageError> {
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        let input = job.input.to_string();
        if input.len() > INPUT_LIMIT {
            return Err(StorageError::other(
                format!("cannot add a job of kind {}", job.kind),
                "its input is too large",
            ));
        }
        rows.push((job, input));
    }
    // Two transactions that add the same keys wait for one another in one order.
    rows.sort_by(|(a, _), (b, _)| (&a.key, a.id).cmp(&(&b.key, b.id)));
    for rows in rows.chunks(JOBS_PER_STATEMENT) {
        in_transaction!(&mut *transaction, |connection| {
            let mut query =
                QueryBuilder::new("INSERT INTO jobs (id, key, kind, input, state, due_at, created_at, updated_at) ");
            query.push_values(rows, |mut row, (job, input)| {
                row.push_bind(job.id)
                    .push_bind(job.key.as_deref().map(without_nul))
                    .push_bind(without_nul(&job.kind))
                    .push_bind(input.as_str())
                    .push_bind(JobState::Waiting.as_str())
                    .push_bind(job.due)
                    .push_bind(now)
                    .push_bind(now);
            });
            query.push(" ON CONFLICT DO NOTHING");
            query.build().persistent(rows.len() == JOBS_PER_STATEMENT).execute(connection).await.map(drop)
        })?;
    }
    Ok(())
}

/// The start of a text, cut between two characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A job as the database returns it.
#[derive(sqlx::FromRow)]
struct JobRow {
    id: JobId,
    key: Option<String>,
    kind: String,
    input: String,
    state: String,
    due_at: Option<Timestamp>,
    attempts: i64,
    claim: i64,
    node: Option<NodeId>,
    error: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl TryFrom<JobRow> for Job {
    type Error = StorageError;

    fn try_from(row: JobRow) -> Result<Self, StorageError> {
        let corrupt = |what| StorageError::Corrupt(format!("{what} of job {}", row.id));
        Ok(Self {
            input: serde_json::from_str(&row.input).map_err(|_| corrupt("input"))?,
            state: JobState::named(&row.state).ok_or_else(|| corrupt("state"))?,
            id: row.id,
            key: row.key,
            kind: row.kind,
            due: row.due_at,
            attempts: row.attempts,
            claim: row.claim,
            node: row.node,
            error: row.error,
            created: row.created_at,
            updated: row.updated_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(ERROR_LIMIT);
        assert_eq!(cut(&long).len(), ERROR_LIMIT);
        assert_eq!(cut(&format!("x{long}")).len(), ERROR_LIMIT - 1);
    }

    #[tokio::test]
    async fn due_work_of_one_kind_is_found_without_reading_others() {
        let storage = crate::Storage::open(&crate::Config::in_memory()).await.unwrap();
        let crate::database::Pools::Sqlite { write, .. } = &storage.jobs.db.pools else { unreachable!("in memory") };
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(
            "EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE due_at <= $1 AND kind IN ($2) ORDER BY due_at, id LIMIT $3",
        )
        .fetch_all(write)
        .await
        .unwrap();
        let steps: Vec<&str> = plan.iter().map(|(_, _, _, step)| step.as_str()).collect();
        assert!(matches!(&steps[..], [step] if step.ends_with("jobs_due_by_kind (kind=? AND due_at<?)")), "{steps:?}");
    }

    #[test]
    fn words_for_states_can_be_read_back() {
        for state in JobState::ALL {
            assert_eq!(JobState::named(state.as_str()), Some(state));
        }
        assert_eq!(JobState::named("Done"), None);
    }
}
