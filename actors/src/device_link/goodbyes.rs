//! What the hub itself tells an agent when sessions end, and which of its shells have not confirmed that they stop.

use bytes::Bytes;
use storage::{SessionId, UserId};

use super::outbox::Outbox;
use crate::message::{Compose, Prop, proto, status};

/// Messages that wait for a device. Beyond this many the oldest is dropped: the device is stalled and about to lose its
/// connection anyway.
pub(super) const WAITING_LIMIT: usize = 1024;

/// Session ids that were told to stop and may still be heard of. The oldest is forgotten beyond this many.
pub(super) const STOPPING_LIMIT: usize = 64;

/// Last words to an agent about its shells and streams. Takes no memory while there are none.
#[derive(Debug, Default)]
pub(super) struct Goodbyes {
    waiting: Outbox,
    /// Told to stop, by whomever, and not confirmed; and whose shell it is, if it is one of which that is known.
    stopping: Vec<(SessionId, Option<UserId>)>,
}

impl Goodbyes {
    /// Stops a shell. `sid` is the session as the agent writes it.
    pub(super) fn stop(&mut self, session: SessionId, sid: &str, user: Option<&UserId>, why: &str) {
        let name = Prop::Text(user.map_or("", UserId::as_str));
        let props = [("status", Prop::Small(status::ERROR)), ("user_id", name)];
        let stop = Compose { proto: proto::SHELL, typ: "stop", sid, props: &props, body: why.as_bytes() };
        self.say(stop.to_bytes());
        self.note_stopping(session, user.cloned());
    }

    /// Closes what is not a shell.
    pub(super) fn close(&mut self, session: SessionId, sid: &str) {
        self.say(Compose { proto: proto::CONTROL, typ: "close", sid, ..Compose::default() }.to_bytes());
        self.note_stopping(session, None);
    }

    fn say(&mut self, message: Bytes) {
        if self.waiting.len() >= WAITING_LIMIT {
            self.waiting.pop();
        }
        self.waiting.push(message);
    }

    /// The next one for the device.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        self.waiting.pop()
    }

    /// Somebody tells it to stop.
    pub(super) fn note_stopping(&mut self, session: SessionId, user: Option<UserId>) {
        if self.is_stopping(session) {
            return;
        }
        if self.stopping.len() >= STOPPING_LIMIT {
            self.stopping.remove(0);
        }
        self.stopping.push((session, user));
    }

    /// It has stopped, or begins anew.
    pub(super) fn settle(&mut self, session: SessionId) {
        self.stopping.retain(|(other, _)| *other != session);
    }

    pub(super) fn is_stopping(&self, session: SessionId) -> bool {
        self.stopping.iter().any(|(other, _)| *other == session)
    }

    /// Shells that may not have heard that they are to stop, and whose they are; nothing is remembered of them any more.
    pub(super) fn take_unstopped(&mut self) -> Vec<(SessionId, UserId)> {
        std::mem::take(&mut self.stopping).into_iter().filter_map(|(session, user)| Some((session, user?))).collect()
    }

    /// Messages that wait, and ids that are remembered.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.waiting.len(), self.stopping.len())
    }
}
