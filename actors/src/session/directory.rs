//! Finds the host of a session, wherever it is; a terminal whose node is gone goes on at the node that looks for it.

use std::time::Duration;

use storage::{AttachmentId, SessionId, Sessions, StorageError, UserId};
use tracing::info;

use super::attachment::SessionSide;
use super::host::{Parts, SessionHost};
use crate::bus::{Answer, Question};

/// How often a session is looked up again when it moved, or seems to have ended, meanwhile.
const ATTEMPTS: usize = 4;

/// Until the next time: ends are written down in batches.
const PAUSE: Duration = Duration::from_millis(100);

/// Finds sessions.
#[derive(Clone)]
pub struct Directory {
    parts: Parts,
    records: Sessions,
}

/// A session that somebody may take part in.
pub struct Found {
    /// Its host.
    pub side: SessionSide,
    /// Who types in it, and with which attachment.
    pub writer: Option<(UserId, AttachmentId)>,
}

/// Why a session was not found.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// There is none of that id, or it is over.
    #[error("session not found")]
    Unknown,
    /// It cannot be told now.
    #[error("service unavailable")]
    Unavailable(#[source] StorageError),
}

impl Directory {
    /// Finds sessions in the registry, on the other nodes, and in `records`.
    pub fn new(parts: Parts, records: Sessions) -> Self {
        Self { parts, records }
    }

    /// The session's host. Must be called on the thread on which the host is to live if it has to be taken over.
    ///
    /// # Errors
    /// When there is none, or the database cannot be asked.
    pub async fn find(&self, session: SessionId) -> Result<Found, NotFound> {
        for _ in 0..ATTEMPTS {
            if let Some(hosted) = self.parts.registry.find_session(session) {
                let host = hosted.host.ok_or(NotFound::Unknown)?;
                return Ok(Found { side: SessionSide::Here(host), writer: hosted.writer });
            }
            let record = self.records.find(session).await.map_err(NotFound::Unavailable)?;
            let record = record.filter(|record| record.ended.is_none()).ok_or(NotFound::Unknown)?;
            let here = self.parts.bus.node();
            let answer = if record.node == here {
                Some(Answer::Is(false))
            } else {
                self.parts.reach.ask(record.node, Question::HasSession(session)).await
            };
            let handed_over = match answer {
                Some(Answer::Session(writer)) => return Ok(Found { side: SessionSide::There(record.node), writer }),
                Some(Answer::HandedOver(past)) => Some(*past),
                None => None,
                Some(_) => {
                    // Its node lives and has it no more: it has ended, or moved, and that is being written down.
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            if !record.kept {
                return Err(NotFound::Unknown);
            }
            let adopted = self.records.adopt(session, record.generation, here).await;
            let Some(generation) = adopted.map_err(NotFound::Unavailable)? else { continue };
            info!(session.id = %session, from = %record.node, "a session goes on at this node");
            let generation = u32::try_from(generation).unwrap_or_default();
            let host = SessionHost::take_over(
                self.parts.clone(),
                session,
                record.device,
                record.user,
                generation,
                record.opened,
                handed_over,
            );
            return Ok(Found { side: SessionSide::Here(host), writer: None });
        }
        Err(NotFound::Unknown)
    }
}
