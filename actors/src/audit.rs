//! What the audit log says of sessions, and of those who look at them. Changes made by requests are written down where
//! requests come in.

use std::collections::HashMap;
use std::hash::BuildHasher;

use serde_json::json;
use storage::{Actor, DeviceId, NewAuditEntry, SessionChange, SessionId, Timestamp, UserId, clock};

use crate::events::Subject;

/// A session was opened.
pub const SESSION_OPENED: &str = "session-opened";

/// A session has ended.
pub const SESSION_CLOSED: &str = "session-closed";

/// Somebody takes part in a session that was there already: in details, as what.
pub const SESSION_JOINED: &str = "session-joined";

/// Somebody looks at what a session showed: in details, how.
pub const RECORDING_VIEWED: &str = "recording-viewed";

/// Somebody who joins a session, or views what it showed.
#[derive(Debug)]
pub struct Visit {
    /// [`SESSION_JOINED`] or [`RECORDING_VIEWED`].
    pub action: &'static str,
    /// In which way.
    pub mode: &'static str,
    /// Which session.
    pub session: SessionId,
    /// Its device, if that is still known.
    pub device: Option<DeviceId>,
    /// Who.
    pub user: UserId,
    /// From where.
    pub address: Option<String>,
    /// The name of the request.
    pub request: Option<String>,
}

impl From<Visit> for NewAuditEntry {
    fn from(visit: Visit) -> Self {
        let object = visit.device.map_or_else(|| visit.session.to_string(), |device| device.to_string());
        Self {
            key: None,
            at: clock::now(),
            actor: Actor::User(visit.user),
            action: visit.action.to_owned(),
            path: None,
            object: Some(object),
            address: visit.address,
            request: visit.request,
            details: Some(json!({ "session": visit.session, "mode": visit.mode })),
        }
    }
}

/// The entries of sessions that begin or end with these changes; `ended` are the records of those that end. Their keys
/// name them, so that whoever writes them again adds nothing.
pub fn of_sessions(
    changes: &[SessionChange],
    ended: &HashMap<SessionId, Subject, impl BuildHasher>,
) -> Vec<NewAuditEntry> {
    let mut entries = Vec::new();
    for change in changes {
        match change {
            SessionChange::Opened(opened) => {
                let details = json!({ "session": opened.session, "kind": opened.kind.as_str(), "node": opened.node });
                let entry = entry(opened.session, '+', SESSION_OPENED, opened.at, &Subject::from(opened), details);
                entries.push(NewAuditEntry { address: opened.address.clone(), ..entry });
            }
            SessionChange::Ended { session, at, reason, figures, .. } => {
                let Some(subject) = ended.get(session) else { continue };
                let details = json!({
                    "session": session, "kind": figures.kind.as_str(), "reason": reason,
                    "bytes_to_device": figures.bytes_to_device, "bytes_to_operator": figures.bytes_to_operator,
                });
                entries.push(entry(*session, '-', SESSION_CLOSED, *at, subject, details));
            }
            SessionChange::Moved { .. } | SessionChange::Progress { .. } => {}
        }
    }
    entries
}

fn entry(
    session: SessionId,
    mark: char,
    action: &str,
    at: Timestamp,
    subject: &Subject,
    details: serde_json::Value,
) -> NewAuditEntry {
    NewAuditEntry {
        key: Some(format!("s/{session}/{mark}")),
        at,
        actor: Actor::User(subject.user.clone()),
        action: action.to_owned(),
        path: None,
        object: Some(subject.device.to_string()),
        address: None,
        request: None,
        details: Some(details),
    }
}
