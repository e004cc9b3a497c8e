//! Sessions that began, moved or ended and are not committed yet.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use storage::{AuditLog, SessionChange, SessionId, Sessions, StorageError};
use tokio::sync::Notify;

use crate::audit;
use crate::events::{EventTail, Subject, Telling};

/// Sessions that may wait while the database is away; beyond it new ones leave no record.
const LIMIT: usize = 50_000;

/// Sessions in one transaction.
const BATCH: usize = 500;

/// Changes that have not been committed yet: of each session its beginning, its end, and the latest figures and place in
/// between. Cloning gives another handle to the same.
#[derive(Clone, Default)]
pub struct SessionQueue {
    waiting: Arc<Mutex<Waiting>>,
    /// There is something to write.
    noted: Arc<Notify>,
    /// Something was committed.
    written: Arc<Notify>,
}

#[derive(Default)]
struct Waiting {
    sessions: HashMap<SessionId, OfSession>,
    /// Sessions in the order in which they first came.
    turn: u64,
}

#[derive(Default)]
struct OfSession {
    turn: u64,
    /// At most one of each kind, in the order in which they are to be written.
    changes: Vec<SessionChange>,
}

impl SessionQueue {
    /// Something about a session has changed.
    pub fn note(&self, change: SessionChange) {
        self.waiting.lock().note(change, LIMIT);
        self.noted.notify_one();
    }

    /// Tells that there is something to write.
    pub(super) const fn noted(&self) -> &Arc<Notify> {
        &self.noted
    }

    /// Waits until the beginning of a session that was noted is committed. It may be given up at any time.
    pub async fn beginning_written(&self, session: SessionId) {
        loop {
            let mut written = pin!(self.written.notified());
            written.as_mut().enable();
            if !self.waiting.lock().is_beginning(session) {
                return;
            }
            written.await;
        }
    }

    /// Sessions of which something is not yet committed.
    pub fn len(&self) -> usize {
        self.waiting.lock().sessions.len()
    }

    /// Whether all is committed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes what has gathered, all of it, and tells the events of it.
    ///
    /// # Errors
    /// When the database refuses; nothing is lost then.
    pub async fn flush(&self, sessions: &Sessions, tail: &EventTail, audit: &AuditLog) -> Result<(), StorageError> {
        loop {
            let batch = self.batch(BATCH);
            if batch.is_empty() {
                return Ok(());
            }
            let ended = subjects_of_ended(&batch, sessions).await?;
            let events = Telling::of_sessions(&batch, &ended);
            // Before the rows: a session that is written down is in the log.
            audit.append(&audit::of_sessions(&batch, &ended)).await?;
            tail.append(&events.before).await?;
            sessions.record(&batch).await?;
            tail.append(&events.after).await?;
            self.committed(&batch);
        }
    }

    /// What waits of at most `size` sessions, oldest first. It stays in the queue until it is
    /// [committed](Self::committed).
    fn batch(&self, size: usize) -> Vec<SessionChange> {
        let waiting = self.waiting.lock();
        let mut sessions: Vec<&OfSession> = waiting.sessions.values().collect();
        sessions.sort_unstable_by_key(|session| session.turn);
        sessions.into_iter().take(size).flat_map(|session| session.changes.iter().cloned()).collect()
    }

    /// These changes are in the database.
    fn committed(&self, written: &[SessionChange]) {
        {
            let mut waiting = self.waiting.lock();
            for change in written {
                let id = change.session();
                let Some(session) = waiting.sessions.get_mut(&id) else { continue };
                session.changes.retain(|other| other != change);
                if session.changes.is_empty() {
                    waiting.sessions.remove(&id);
                }
            }
        }
        self.written.notify_waiters();
    }
}

/// Whose the sessions are that end with these changes. One that went on elsewhere meanwhile does not end, and of one whose
/// beginning was never written nothing is told.
async fn subjects_of_ended(
    changes: &[SessionChange],
    sessions: &Sessions,
) -> Result<HashMap<SessionId, Subject>, StorageError> {
    let mut subjects = HashMap::new();
    for change in changes {
        let SessionChange::Ended { session, generation, .. } = change else { continue };
        let opened = changes.iter().find_map(|other| match other {
            SessionChange::Opened(opened) if opened.session == *session => Some(opened),
            _ => None,
        });
        let known = sessions.find(*session).await?;
        let subject = match (&known, opened) {
            (Some(record), _) if record.generation > *generation => None,
            (Some(record), _) => Some(Subject::from(record)),
            (None, opened) => opened.map(Subject::from),
        };
        subjects.extend(subject.map(|subject| (*session, subject)));
    }
    Ok(subjects)
}

impl Waiting {
    fn is_beginning(&self, session: SessionId) -> bool {
        let changes = self.sessions.get(&session).map(|session| session.changes.iter());
        changes.is_some_and(|mut changes| changes.any(|change| Step::of(change) == Step::Beginning))
    }

    fn note(&mut self, change: SessionChange, limit: usize) {
        let id = change.session();
        if self.sessions.len() >= limit && !self.sessions.contains_key(&id) {
            metrics::counter!(crate::metrics::SESSIONS_UNLOGGED).increment(1);
            return;
        }
        self.turn += 1;
        let turn = self.turn;
        let session = self.sessions.entry(id).or_insert_with(|| OfSession { turn, changes: vec![] });
        let step = Step::of(&change);
        // An end carries the final figures.
        session
            .changes
            .retain(|other| Step::of(other) != step && !(step == Step::End && Step::of(other) == Step::Figures));
        let at = session.changes.partition_point(|other| Step::of(other) < step);
        session.changes.insert(at, change);
    }
}

/// The order in which a session's changes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Beginning,
    Place,
    Figures,
    End,
}

impl Step {
    const fn of(change: &SessionChange) -> Self {
        match change {
            SessionChange::Opened(_) => Self::Beginning,
            SessionChange::Moved { .. } => Self::Place,
            SessionChange::Progress { .. } => Self::Figures,
            SessionChange::Ended { .. } => Self::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::{DeviceId, NodeId, OpenedSession, SessionFigures, SessionKind, Timestamp, UserId};

    use super::*;

    fn opened(session: SessionId) -> SessionChange {
        SessionChange::Opened(OpenedSession {
            session,
            device: DeviceId::random(),
            user: UserId::new("u"),
            node: NodeId::random(),
            kind: SessionKind::Terminal,
            at: Timestamp(1),
            address: None,
            kept: false,
            recorded: false,
        })
    }

    fn progress(session: SessionId, bytes: i64) -> SessionChange {
        let figures = SessionFigures { bytes_to_device: bytes, ..SessionFigures::default() };
        SessionChange::Progress { session, generation: 0, figures }
    }

    fn ended(session: SessionId) -> SessionChange {
        let figures = SessionFigures { bytes_to_device: 99, ..SessionFigures::default() };
        SessionChange::Ended { session, generation: 0, at: Timestamp(2), reason: "left".to_owned(), figures }
    }

    #[tokio::test]
    async fn a_beginning_is_waited_for_until_it_is_committed() {
        let (queue, session) = (SessionQueue::default(), SessionId::random());
        queue.beginning_written(session).await;
        queue.note(opened(session));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.beginning_written(session).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        queue.note(progress(session, 1));
        queue.committed(&queue.batch(10)[..1]);
        waiting.await.unwrap();
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn progress_collapses_and_an_end_carries_it() {
        let (queue, session) = (SessionQueue::default(), SessionId::random());
        queue.note(progress(session, 1));
        queue.note(opened(session));
        queue.note(progress(session, 2));
        let batch = queue.batch(10);
        assert!(matches!(batch[0], SessionChange::Opened(_)));
        assert_eq!(batch[1..], [progress(session, 2)]);
        queue.note(ended(session));
        let batch = queue.batch(10);
        assert_eq!((batch.len(), &batch[1]), (2, &ended(session)));
    }

    #[test]
    fn what_comes_while_a_batch_is_written_waits_for_the_next() {
        let (queue, session) = (SessionQueue::default(), SessionId::random());
        queue.note(opened(session));
        queue.note(progress(session, 1));
        let batch = queue.batch(10);
        queue.note(progress(session, 2));
        queue.committed(&batch);
        assert_eq!(queue.batch(10), [progress(session, 2)]);
        queue.committed(&queue.batch(10));
        assert!(queue.is_empty());
    }

    #[test]
    fn the_oldest_sessions_go_first_and_the_queue_has_a_limit() {
        let mut waiting = Waiting::default();
        let sessions: Vec<SessionId> = (0..5).map(|_| SessionId::random()).collect();
        for session in &sessions {
            waiting.note(opened(*session), 3);
        }
        assert_eq!(waiting.sessions.len(), 3);
        // What is known already still gets its end.
        waiting.note(ended(sessions[0]), 3);
        let queue = SessionQueue { waiting: Arc::new(Mutex::new(waiting)), ..SessionQueue::default() };
        let batch = queue.batch(2);
        assert_eq!(
            batch.iter().map(SessionChange::session).collect::<Vec<_>>(),
            [sessions[0], sessions[0], sessions[1]]
        );
    }
}
