//! Sessions as rows: what one call says about each, and what the database returns.

use std::collections::HashMap;

use super::{SessionChange, SessionFigures, SessionKind, SessionRecord};
use crate::{DeviceId, NodeId, SessionId, StorageError, Timestamp, UserId};

/// All that one call says about a session after its beginning.
#[derive(Debug)]
pub(super) struct Collapsed<'a> {
    pub(super) session: SessionId,
    pub(super) generation: i32,
    pub(super) node: Option<NodeId>,
    pub(super) kind: Option<SessionKind>,
    pub(super) bytes_to_device: i64,
    pub(super) bytes_to_operator: i64,
    pub(super) recorded_bytes: i64,
    pub(super) truncated: bool,
    pub(super) people: Option<String>,
    pub(super) ended: Option<(Timestamp, &'a str)>,
}

impl<'a> Collapsed<'a> {
    const fn of(session: SessionId, generation: i32) -> Self {
        Self {
            session,
            generation,
            node: None,
            kind: None,
            bytes_to_device: 0,
            bytes_to_operator: 0,
            recorded_bytes: 0,
            truncated: false,
            people: None,
            ended: None,
        }
    }

    fn add(&mut self, change: &'a SessionChange) -> Result<(), StorageError> {
        if self.ended.is_some() {
            return Ok(());
        }
        match change {
            SessionChange::Opened(_) => {}
            SessionChange::Moved { node, .. } => self.node = Some(*node),
            SessionChange::Progress { figures, .. } => self.add_figures(figures)?,
            SessionChange::Ended { at, reason, figures, .. } => {
                self.add_figures(figures)?;
                self.ended = Some((*at, reason));
            }
        }
        Ok(())
    }

    fn add_figures(&mut self, figures: &SessionFigures) -> Result<(), StorageError> {
        if figures.kind != SessionKind::Unknown {
            self.kind = Some(figures.kind);
        }
        self.bytes_to_device = self.bytes_to_device.max(figures.bytes_to_device);
        self.bytes_to_operator = self.bytes_to_operator.max(figures.bytes_to_operator);
        self.recorded_bytes = self.recorded_bytes.max(figures.recorded_bytes);
        self.truncated |= figures.truncated;
        let people = serde_json::to_string(&figures.people)
            .map_err(|error| StorageError::other("cannot store the people of a session", error))?;
        self.people = Some(people);
        Ok(())
    }
}

/// One row for each session, since a statement may not meet one twice; sorted like the beginnings.
pub(super) fn one_per_session(changes: &[SessionChange]) -> Result<Vec<Collapsed<'_>>, StorageError> {
    let mut rows: HashMap<SessionId, Collapsed<'_>> = HashMap::new();
    for change in changes {
        let (session, generation) = match change {
            SessionChange::Opened(_) => continue,
            SessionChange::Progress { session, generation, .. }
            | SessionChange::Moved { session, generation, .. }
            | SessionChange::Ended { session, generation, .. } => (*session, *generation),
        };
        let row = rows.entry(session).or_insert(Collapsed::of(session, generation));
        if generation < row.generation {
            continue;
        }
        if generation > row.generation {
            // An end that the next generation did not hear of before it took over came too late.
            row.ended = None;
        }
        row.generation = generation;
        row.add(change)?;
    }
    let mut rows: Vec<Collapsed<'_>> = rows.into_values().collect();
    rows.sort_unstable_by_key(|row| row.session);
    Ok(rows)
}

/// A session as the database returns it.
#[derive(sqlx::FromRow)]
pub(super) struct SessionRow {
    id: SessionId,
    device: DeviceId,
    user_id: UserId,
    user_email: Option<String>,
    node: NodeId,
    generation: i32,
    kind: String,
    address: Option<String>,
    kept: bool,
    recorded: bool,
    opened_at: Timestamp,
    ended_at: Option<Timestamp>,
    reason: Option<String>,
    bytes_to_device: i64,
    bytes_to_operator: i64,
    recorded_bytes: i64,
    truncated: bool,
    people: String,
}

impl TryFrom<SessionRow> for SessionRecord {
    type Error = StorageError;

    fn try_from(row: SessionRow) -> Result<Self, StorageError> {
        let people = serde_json::from_str(&row.people)
            .map_err(|_| StorageError::Corrupt(format!("people of session {}", row.id)))?;
        Ok(Self {
            id: row.id,
            device: row.device,
            user: row.user_id,
            user_email: row.user_email,
            node: row.node,
            generation: row.generation,
            kind: SessionKind::from_word(&row.kind),
            address: row.address,
            kept: row.kept,
            recorded: row.recorded,
            opened: row.opened_at,
            ended: row.ended_at,
            reason: row.reason,
            bytes_to_device: row.bytes_to_device,
            bytes_to_operator: row.bytes_to_operator,
            recorded_bytes: row.recorded_bytes,
            truncated: row.truncated,
            people,
        })
    }
}

pub(super) fn records(rows: Vec<SessionRow>) -> Result<Vec<SessionRecord>, StorageError> {
    rows.into_iter().map(TryInto::try_into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(session: SessionId, generation: i32, bytes_to_device: i64) -> SessionChange {
        let figures = SessionFigures { bytes_to_device, ..SessionFigures::default() };
        SessionChange::Progress { session, generation, figures }
    }

    fn ended(session: SessionId, generation: i32, at: i64) -> SessionChange {
        let figures = SessionFigures { bytes_to_device: at, ..SessionFigures::default() };
        SessionChange::Ended { session, generation, at: Timestamp(at), reason: "done".to_owned(), figures }
    }

    #[test]
    fn of_several_changes_the_newest_generation_and_its_first_end_count() {
        let (session, node) = (SessionId::random(), NodeId::random());
        let changes = [
            ended(session, 0, 5),
            SessionChange::Moved { session, generation: 1, node },
            progress(session, 1, 9),
            progress(session, 1, 7),
            ended(session, 0, 99),
            ended(session, 1, 8),
            ended(session, 1, 50),
        ];
        let rows = one_per_session(&changes).expect("people can be written");
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.generation, row.node, row.bytes_to_device), (1, Some(node), 9));
        assert_eq!(row.ended, Some((Timestamp(8), "done")));
    }
}
