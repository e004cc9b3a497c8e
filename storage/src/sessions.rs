//! Sessions between operators and devices, while they last and afterwards: who, when, how long, why they ended.
//!
//! The node a session is at home on writes its row. A session that moves to another node counts up its generation, and
//! what an older generation still has to say changes nothing; the same holds for everything said after the end.

mod rows;

use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;

use crate::database::{Database, ROWS_PER_STATEMENT, on_reader, on_writer, repeating_after_deadlock};
use crate::dialect::without_nul;
use crate::{DeviceId, NodeId, SessionId, StorageError, Timestamp, UserId};
use rows::{Collapsed, SessionRow, one_per_session, records};

/// What a session is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SessionKind {
    /// Nothing has been asked for yet.
    #[default]
    Unknown,
    /// A shell.
    Terminal,
    /// Connections through the device, TCP or UDP.
    PortForward,
    /// A file for the device.
    FileUpload,
    /// A file from the device.
    FileDownload,
    /// A trigger such as "check for an update".
    Command,
    /// Anything else, or a kind that only a newer version knows.
    Other,
}

impl SessionKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Terminal,
        Self::PortForward,
        Self::FileUpload,
        Self::FileDownload,
        Self::Command,
        Self::Other,
    ];

    /// The word on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Terminal => "terminal",
            Self::PortForward => "port-forward",
            Self::FileUpload => "upload",
            Self::FileDownload => "download",
            Self::Command => "command",
            Self::Other => "other",
        }
    }

    /// The kind a word stands for. During a rolling upgrade a newer node may write one that is not known here.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).unwrap_or(Self::Other)
    }
}

impl std::fmt::Display for SessionKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What somebody may do in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParticipantRole {
    /// Types; one at a time.
    Writer,
    /// Only watches.
    Watcher,
}

/// Somebody who is or was in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    /// Who.
    pub user: UserId,
    /// As what.
    pub role: ParticipantRole,
    /// From when; stored in milliseconds.
    pub since: Timestamp,
    /// Until when; `None`: still there. Stored in milliseconds.
    pub until: Option<Timestamp>,
}

/// A session as it is when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedSession {
    /// Which.
    pub session: SessionId,
    /// With which device.
    pub device: DeviceId,
    /// Who opened it.
    pub user: UserId,
    /// The node it is at home on.
    pub node: NodeId,
    /// What it is used for, as far as is known.
    pub kind: SessionKind,
    /// When it was opened.
    pub at: Timestamp,
    /// Where the operator connected from.
    pub address: Option<String>,
    /// Whether it outlives the loss of its operator's socket.
    pub kept: bool,
    /// Whether it is recorded.
    pub recorded: bool,
}

/// What a session has come to. Numbers only ever grow in the database, whatever order they arrive in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFigures {
    /// What it is used for; `Unknown` leaves what is stored.
    pub kind: SessionKind,
    /// Bytes handed to the device.
    pub bytes_to_device: i64,
    /// Bytes handed to the operator.
    pub bytes_to_operator: i64,
    /// Bytes of its recording.
    pub recorded_bytes: i64,
    /// Whether the recording stopped before the session did. Stays true.
    pub truncated: bool,
    /// Everybody who is or was in it.
    pub people: Vec<Participant>,
}

/// Something to write down about a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChange {
    /// It began, in generation 0.
    Opened(OpenedSession),
    /// It goes on.
    Progress {
        /// Which.
        session: SessionId,
        /// How often it had moved to another node when this was said.
        generation: i32,
        /// So far.
        figures: SessionFigures,
    },
    /// It has another home.
    Moved {
        /// Which.
        session: SessionId,
        /// How often it has moved, this time included.
        generation: i32,
        /// Its home now.
        node: NodeId,
    },
    /// It is over. Nothing changes it any more.
    Ended {
        /// Which.
        session: SessionId,
        /// How often it had moved to another node when this was said.
        generation: i32,
        /// When it ended.
        at: Timestamp,
        /// Why.
        reason: String,
        /// In the end.
        figures: SessionFigures,
    },
}

impl SessionChange {
    /// The session spoken of.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        match self {
            Self::Opened(opened) => opened.session,
            Self::Progress { session, .. } | Self::Moved { session, .. } | Self::Ended { session, .. } => *session,
        }
    }
}

/// A session as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Which.
    pub id: SessionId,
    /// With which device.
    pub device: DeviceId,
    /// Who opened it.
    pub user: UserId,
    /// Their address now; `None` if there is no such user any more.
    pub user_email: Option<String>,
    /// The node it is, or last was, at home on.
    pub node: NodeId,
    /// How often it moved to another node.
    pub generation: i32,
    /// What it is used for.
    pub kind: SessionKind,
    /// Where the operator connected from.
    pub address: Option<String>,
    /// Whether it outlives the loss of its operator's socket.
    pub kept: bool,
    /// Whether it is recorded.
    pub recorded: bool,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it ended, if it has.
    pub ended: Option<Timestamp>,
    /// Why it ended.
    pub reason: Option<String>,
    /// Bytes handed to the device.
    pub bytes_to_device: i64,
    /// Bytes handed to the operator.
    pub bytes_to_operator: i64,
    /// Bytes of its recording.
    pub recorded_bytes: i64,
    /// Whether the recording stopped before the session did.
    pub truncated: bool,
    /// Everybody who is or was in it.
    pub people: Vec<Participant>,
}

/// Which sessions to list; `None` asks for no filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// With this device.
    pub device: Option<DeviceId>,
    /// Opened by this user.
    pub user: Option<UserId>,
    /// Still open, or over.
    pub open: Option<bool>,
}

/// The columns of a [`SessionRecord`]. The address comes by a subquery rather than a join, so that the same text serves
/// `RETURNING`.
macro_rules! session_columns {
    () => {
        "id, device, user_id, (SELECT email FROM users WHERE users.id = user_id) AS user_email, node, generation, \
         kind, address, kept, recorded, opened_at, ended_at, reason, bytes_to_device, bytes_to_operator, \
         recorded_bytes, truncated, people"
    };
}

/// Adds what a filter asks for to a query of either database.
macro_rules! restrict {
    ($query:ident, $filter:ident) => {
        if let Some(device) = $filter.device {
            $query.push(" AND device = ").push_bind(device);
        }
        if let Some(user) = &$filter.user {
            $query.push(" AND user_id = ").push_bind(user.as_str());
        }
        match $filter.open {
            Some(true) => _ = $query.push(" AND ended_at IS NULL"),
            Some(false) => _ = $query.push(" AND ended_at IS NOT NULL"),
            None => {}
        }
    };
}

/// All sessions, open ones and past ones.
#[derive(Debug, Clone)]
pub struct Sessions {
    db: Database,
}

impl Sessions {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Writes down what happened, thousands of sessions at a time.
    ///
    /// A session that is known is not opened again; what is said about one that is not known, that has ended, or by an
    /// older generation changes nothing. Within one generation the order of progress and end does not matter.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some of the changes may be written then; repeating the call is safe.
    pub async fn record(&self, changes: &[SessionChange]) -> Result<(), StorageError> {
        let mut opened: Vec<&OpenedSession> = changes
            .iter()
            .filter_map(|change| if let SessionChange::Opened(opened) = change { Some(opened) } else { None })
            .collect();
        // In one order on all nodes, so that two of them do not wait for one another in a circle.
        opened.sort_unstable_by_key(|opened| opened.session);
        for rows in opened.chunks(ROWS_PER_STATEMENT) {
            repeating_after_deadlock(|| self.insert_rows(rows)).await?;
        }
        for rows in one_per_session(changes)?.chunks(ROWS_PER_STATEMENT) {
            repeating_after_deadlock(|| self.update_rows(rows)).await?;
        }
        Ok(())
    }

    async fn insert_rows(&self, rows: &[&OpenedSession]) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "INSERT INTO sessions (id, device, user_id, node, kind, address, kept, recorded, opened_at) ",
            );
            query.push_values(rows, |mut row, opened| {
                row.push_bind(opened.session)
                    .push_bind(opened.device)
                    .push_bind(opened.user.as_str())
                    .push_bind(opened.node)
                    .push_bind(opened.kind.as_str())
                    .push_bind(opened.address.as_deref().map(without_nul))
                    .push_bind(opened.kept)
                    .push_bind(opened.recorded)
                    .push_bind(opened.at);
            });
            query.push(" ON CONFLICT (id) DO NOTHING");
            query.build().persistent(rows.len() == ROWS_PER_STATEMENT).execute(pool).await.map(drop)
        })
    }

    async fn update_rows(&self, rows: &[Collapsed<'_>]) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "UPDATE sessions SET generation = column2, node = COALESCE(column3, node), \
                 kind = COALESCE(column4, kind), \
                 bytes_to_device = CASE WHEN bytes_to_device < column5 THEN column5 ELSE bytes_to_device END, \
                 bytes_to_operator = CASE WHEN bytes_to_operator < column6 THEN column6 ELSE bytes_to_operator END, \
                 recorded_bytes = CASE WHEN recorded_bytes < column7 THEN column7 ELSE recorded_bytes END, \
                 truncated = (truncated OR column8), people = COALESCE(column9, people), \
                 ended_at = column10, reason = column11 FROM (",
            );
            query.push_values(rows, |mut row, change| {
                row.push_bind(change.session)
                    .push_bind(change.generation)
                    .push_bind(change.node)
                    .push_bind(change.kind.map(SessionKind::as_str))
                    .push_bind(change.bytes_to_device)
                    .push_bind(change.bytes_to_operator)
                    .push_bind(change.recorded_bytes)
                    .push_bind(change.truncated)
                    .push_bind(change.people.as_deref())
                    .push_bind(change.ended.map(|(at, _)| at))
                    .push_bind(change.ended.map(|(_, reason)| without_nul(reason)));
            });
            query.push(") AS changes WHERE id = column1 AND ended_at IS NULL AND generation <= column2");
            query.build().persistent(rows.len() == ROWS_PER_STATEMENT).execute(pool).await.map(drop)
        })
    }

    /// The session with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: SessionId) -> Result<Option<SessionRecord>, StorageError> {
        let found: Option<SessionRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!("SELECT ", session_columns!(), " FROM sessions WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?;
        found.map(TryInto::try_into).transpose()
    }

    /// A page of the sessions a filter asks for, newest first, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(
        &self,
        filter: &SessionFilter,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<SessionRecord>, u64), StorageError> {
        let page: Vec<SessionRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!("SELECT ", session_columns!(), " FROM sessions WHERE TRUE"));
            restrict!(query, filter);
            query.push(" ORDER BY opened_at DESC, id DESC LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM sessions WHERE TRUE");
            restrict!(query, filter);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((records(page)?, total.unsigned_abs()))
    }

    /// Gives an open session another home if it is still the one of this generation. Returns the generation it has now,
    /// or `None` if somebody else was first, if it ended, or if it is not known.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. It may have moved then: [`Sessions::find`] tells.
    pub async fn adopt(
        &self,
        id: SessionId,
        from_generation: i32,
        to_node: NodeId,
    ) -> Result<Option<i32>, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query_scalar(
                "UPDATE sessions SET node = $3, generation = generation + 1 \
                 WHERE id = $1 AND generation = $2 AND ended_at IS NULL RETURNING generation",
            )
            .bind(id)
            .bind(from_generation)
            .bind(to_node)
            .fetch_optional(pool)
            .await
        })
    }

    /// The open sessions at home on a node, oldest first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn open_on(&self, node: NodeId) -> Result<Vec<SessionRecord>, StorageError> {
        let open: Vec<SessionRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                session_columns!(),
                " FROM sessions WHERE node = $1 AND ended_at IS NULL ORDER BY opened_at, id"
            ))
            .bind(node)
            .fetch_all(pool)
            .await
        })?;
        records(open)
    }

    /// The nodes that open sessions are at home on: ask [`Presence`](crate::Presence) which of them are alive.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn nodes(&self) -> Result<Vec<NodeId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT DISTINCT node FROM sessions WHERE ended_at IS NULL ORDER BY node")
                .fetch_all(pool)
                .await
        })
    }

    /// Ends every session that is still at home on a node; returns those that this call ended, so that each is
    /// announced once. For a node that died: sessions another node has adopted go on.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. They may be ended then.
    pub async fn end_left_on(
        &self,
        node: NodeId,
        now: Timestamp,
        reason: &str,
    ) -> Result<Vec<SessionRecord>, StorageError> {
        let ended: Vec<SessionRow> = on_writer!(self.db, |pool| {
            sqlx::query_as(concat!(
                "UPDATE sessions SET ended_at = $2, reason = $3 WHERE node = $1 AND ended_at IS NULL RETURNING ",
                session_columns!()
            ))
            .bind(node)
            .bind(now)
            .bind(without_nul(reason))
            .fetch_all(pool)
            .await
        })?;
        records(ended)
    }

    /// Up to `limit` sessions that ended before this time, oldest first: what retention is to remove. Their recordings
    /// go first, then [`Sessions::remove`] is called; so whoever is stopped in between finds them again.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn expired(&self, before: Timestamp, limit: u32) -> Result<Vec<SessionId>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT id FROM sessions WHERE ended_at < $1 ORDER BY ended_at, id LIMIT $2")
                .bind(before)
                .bind(i64::from(limit))
                .fetch_all(pool)
                .await
        })
    }

    /// Removes sessions that are over; says how many. Open and unknown ones are passed over.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be removed then; repeating the call is safe.
    pub async fn remove(&self, ids: &[SessionId]) -> Result<u64, StorageError> {
        self.delete("DELETE FROM sessions WHERE ended_at IS NOT NULL AND id IN (", ids).await
    }

    /// Removes sessions whether they are over or not; says how many. What is said later about one that goes on is passed
    /// over.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be removed then; repeating the call is safe.
    pub async fn forget(&self, ids: &[SessionId]) -> Result<u64, StorageError> {
        self.delete("DELETE FROM sessions WHERE id IN (", ids).await
    }

    async fn delete(&self, which: &'static str, ids: &[SessionId]) -> Result<u64, StorageError> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let mut removed = 0;
        for rows in ids.chunks(ROWS_PER_STATEMENT) {
            removed += repeating_after_deadlock(|| self.delete_rows(which, rows)).await?;
        }
        Ok(removed)
    }

    async fn delete_rows(&self, which: &'static str, ids: &[SessionId]) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(which);
            let mut any = query.separated(", ");
            for id in ids {
                any.push_bind(*id);
            }
            any.push_unseparated(")");
            let whole = ids.len() == ROWS_PER_STATEMENT;
            query.build().persistent(whole).execute(pool).await.map(|done| done.rows_affected())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_kinds_can_be_read_back() {
        for kind in SessionKind::ALL {
            assert_eq!(SessionKind::from_word(kind.as_str()), kind);
        }
        assert_eq!(SessionKind::from_word("hologram"), SessionKind::Other);
    }
}
