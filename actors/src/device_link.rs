//! One device's connection as a pure state machine: what it hears, what it is asked, and what to do next.
//!
//! The device's socket is always read; what a session cannot take is that session's loss alone. Towards the device there
//! is one queue per session, served fairly and with small messages first, so that a paste does not delay a keystroke.
//! Rows `deviceconnect-21` to `deviceconnect-27`.

mod outbox;

use bytes::Bytes;
use outbox::Outbox;
use storage::{SessionId, UserId};

use crate::message::{self, Compose, DEVICE_MESSAGE_LIMIT, Malformed, Message, Prop, proto, status};
use crate::session::{self, SessionEnd, charge};

/// Session ids that were told to stop and may still be heard of. The oldest is forgotten beyond this many.
const STOPPING_LIMIT: usize = 64;

/// Messages of the hub's own that wait for a device. Beyond this many the oldest is dropped: the device is stalled and
/// about to lose its connection anyway.
const GOODBYES_LIMIT: usize = 1024;

/// Credit beyond the window that a terminal's own small messages (`new`, `ping`, `stop`) may use when output has used up
/// the rest.
const SIGNAL_RESERVE: usize = 8 * 1024;

/// Agents send terminal output in pieces of at most this many bytes.
const AGENT_PIECE: usize = 255;

/// How much output without a line end is passed over before the newest is shown regardless.
const RESYNC_LIMIT: usize = 16 * 1024;

/// One device's connection. `E` is how the acting half reaches an operator.
#[derive(Debug)]
pub struct DeviceLink<E> {
    sessions: Vec<Session<E>>,
    goodbyes: Outbox,
    stopping: Vec<SessionId>,
    /// Whose turn it is among the sessions with something to send.
    turn: usize,
    /// Small messages sent in a row while a large one waited.
    streak: u8,
}

#[derive(Debug)]
struct Session<E> {
    id: SessionId,
    user: UserId,
    operator: E,
    /// A shell may be running: the device has to be told `stop` when the operator goes.
    shell: bool,
    /// The device confirmed a shell that nobody has stopped since; another `new` that fails changes nothing about it.
    has_shell: bool,
    /// The device said `stop`: nobody answers its health check any more.
    shell_ended: bool,
    /// Used a protocol of the session layer: the device has to be told `close`.
    layered: bool,
    outbox: Outbox,
    /// Credit used up by messages that have left for the device, not yet given back.
    owed: usize,
    /// Credit in use towards the operator.
    in_flight: usize,
    skipping: Option<Skipping>,
    /// Number of the next message from another node.
    next_number: u32,
}

/// Output that did not fit is being passed over.
#[derive(Debug)]
enum Skipping {
    /// The operator's credit is used up.
    Full { bytes: u64 },
    /// There is room again; waiting for the start of a line.
    ToLineStart { passed: usize },
}

/// What the acting half has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<E> {
    /// Pass a message to the session's operator.
    ToOperator {
        /// Which session.
        session: SessionId,
        /// What the operator gets.
        message: Bytes,
    },
    /// Give the operator credit back for a message that goes nowhere.
    ReturnCredit {
        /// Which session.
        session: SessionId,
        /// As counted by [`charge`].
        bytes: usize,
    },
    /// Tell the operator that the session is over; it is forgotten here.
    End {
        /// Which session.
        session: SessionId,
        /// How to reach the operator.
        operator: E,
        /// What to say.
        why: SessionEnd,
    },
}

/// Something for the device's socket.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The message.
    pub message: Bytes,
    /// Credit to give back to the operator of a session.
    pub credit: Option<(SessionId, usize)>,
}

impl<E> Default for DeviceLink<E> {
    fn default() -> Self {
        Self { sessions: Vec::new(), goodbyes: Outbox::default(), stopping: Vec::new(), turn: 0, streak: 0 }
    }
}

impl<E> DeviceLink<E> {
    /// An operator opens a session.
    pub fn open(&mut self, session: SessionId, user: UserId, operator: E, limits: &session::Config) -> Vec<Effect<E>> {
        if self.sessions.len() >= limits.per_device {
            return vec![Effect::End { session, operator, why: SessionEnd::TooManySessions }];
        }
        self.sessions.push(Session {
            id: session,
            user,
            operator,
            shell: false,
            has_shell: false,
            shell_ended: false,
            layered: false,
            outbox: Outbox::default(),
            owed: 0,
            in_flight: 0,
            skipping: None,
            next_number: 0,
        });
        vec![]
    }

    /// The operator of `session` said something, stamped for the device already. `number` counts messages that crossed
    /// nodes; a gap means that the link between the nodes lost something.
    pub fn deliver(
        &mut self,
        session: SessionId,
        number: Option<u32>,
        message: Bytes,
        limits: &session::Config,
    ) -> Vec<Effect<E>> {
        let Some(at) = self.position(session) else { return vec![] };
        let state = &mut self.sessions[at];
        if let Some(number) = number {
            if number != state.next_number {
                return self.end(at, SessionEnd::LinkLost);
            }
            state.next_number = number.wrapping_add(1);
        }
        let Ok(read) = Message::read(&message) else { return vec![] };
        debug_assert!(message.len() <= DEVICE_MESSAGE_LIMIT, "stamped messages fit");
        match (read.proto, read.typ) {
            (proto::SHELL, "new") => (state.shell, state.shell_ended) = (true, false),
            (proto::SHELL, "stop") => (state.shell, state.has_shell) = (false, false),
            // A pong for a shell that is gone wedges the agent's only reading loop.
            (proto::SHELL, "pong") if state.shell_ended || !state.shell => {
                return vec![Effect::ReturnCredit { session, bytes: charge(message.len()) }];
            }
            (proto::SHELL, _) => {}
            (proto::CONTROL, "close") => state.layered = false,
            _ => state.layered = true,
        }
        if state.outbox.charge() + charge(message.len()) > 2 * limits.to_device_window {
            // Only a fault of ours on the other end gets here: operators are not read beyond their credit.
            return self.end(at, SessionEnd::LinkLost);
        }
        state.outbox.push(message);
        vec![]
    }

    /// The device said something.
    ///
    /// # Errors
    /// When it is not a message: the device is out of step and its connection has to end.
    pub fn hear(&mut self, raw: &Bytes, limits: &session::Config) -> Result<Vec<Effect<E>>, Malformed> {
        let read = Message::read(raw)?;
        let Ok(session) = read.sid.parse::<SessionId>() else { return Ok(vec![]) };
        let Some(at) = self.position(session) else {
            self.hush(session, &read);
            return Ok(vec![]);
        };
        let state = &mut self.sessions[at];
        let mut output = false;
        match (read.proto, read.typ) {
            (proto::SHELL, "shell") => output = true,
            (proto::SHELL, "stop") => state.shell_ended = true,
            (proto::SHELL, "new") if read.int_prop("status") == Some(status::ERROR.into()) => {
                state.shell = state.has_shell;
            }
            (proto::SHELL, "new") => (state.shell, state.has_shell, state.shell_ended) = (true, true, false),
            _ => {}
        }
        if output && !state.takes_output(&read) {
            return Ok(vec![]);
        }
        let message = message::for_operator(&read, raw);
        let room = match read.proto {
            proto::SHELL if !output => limits.to_operator_window + SIGNAL_RESERVE,
            _ => limits.to_operator_window,
        };
        if state.in_flight + charge(message.len()) > room {
            if output {
                state.skipping = Some(Skipping::Full { bytes: read.body.bytes().len() as u64 });
                return Ok(vec![]);
            }
            return Ok(self.end(at, SessionEnd::OperatorTooSlow));
        }
        state.in_flight += charge(message.len());
        Ok(vec![Effect::ToOperator { session, message }])
    }

    /// The operator's socket has taken `bytes` of what was sent to them.
    pub fn credit(&mut self, session: SessionId, bytes: usize, limits: &session::Config) -> Vec<Effect<E>> {
        let Some(at) = self.position(session) else { return vec![] };
        let state = &mut self.sessions[at];
        state.in_flight = state.in_flight.saturating_sub(bytes);
        let Some(Skipping::Full { bytes: skipped }) = state.skipping else { return vec![] };
        // Not at the first free byte: that would show one line of output between two notices.
        if state.in_flight > limits.to_operator_window / 2 {
            return vec![];
        }
        state.skipping = Some(Skipping::ToLineStart { passed: 0 });
        let notice =
            format!("\r\n\x1b[0m[mooring: {skipped} bytes of output skipped, this terminal reads too slowly]\r\n");
        let message = Compose {
            proto: proto::SHELL,
            typ: "shell",
            sid: &session.to_string(),
            props: &[("status", Prop::Wide(status::NORMAL.into()))],
            body: notice.as_bytes(),
        }
        .to_bytes();
        state.in_flight += charge(message.len());
        vec![Effect::ToOperator { session, message }]
    }

    /// The operator of `session` is gone. Says whether there was such a session.
    pub fn hang_up(&mut self, session: SessionId) -> bool {
        self.position(session).map(|at| self.forget(at, "user disconnected")).is_some()
    }

    /// The next message for the device's socket, and the credit that its leaving frees.
    pub fn next_outgoing(&mut self, limits: &session::Config) -> Option<Outgoing> {
        if let Some(message) = self.goodbyes.pop() {
            return Some(Outgoing { message, credit: None });
        }
        let at = self.next_turn()?;
        let state = &mut self.sessions[at];
        let message = state.outbox.pop()?;
        state.owed += charge(message.len());
        let credit = (state.owed >= limits.to_device_window / 4).then(|| (state.id, std::mem::take(&mut state.owed)));
        Some(Outgoing { message, credit })
    }

    /// The device's connection is over: every session with the way to its operator.
    pub fn end_all(&mut self) -> Vec<(SessionId, E)> {
        std::mem::take(&mut self.sessions).into_iter().map(|session| (session.id, session.operator)).collect()
    }

    /// How to reach the operator of `session`.
    pub fn operator(&self, session: SessionId) -> Option<&E> {
        self.position(session).map(|at| &self.sessions[at].operator)
    }

    /// How many sessions are open.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    fn position(&self, session: SessionId) -> Option<usize> {
        self.sessions.iter().position(|state| state.id == session)
    }

    /// Whose message goes next: the first in turn whose next message is small, else the first in turn; after eight small
    /// ones a waiting large one goes, so that nobody starves.
    fn next_turn(&mut self) -> Option<usize> {
        const SMALL: usize = 512;
        const STREAK: u8 = 8;
        let count = self.sessions.len();
        let in_turn = |step: usize| (self.turn + step) % count;
        let first = (0..count).map(in_turn).find(|at| self.sessions[*at].outbox.head_len().is_some())?;
        let small =
            (0..count).map(in_turn).find(|at| self.sessions[*at].outbox.head_len().is_some_and(|len| len <= SMALL));
        let at = match small {
            Some(small) if small != first && self.streak < STREAK => {
                self.streak += 1;
                // The turn stays with the one that was passed over.
                return Some(small);
            }
            _ => first,
        };
        self.streak = 0;
        self.turn = (at + 1) % count;
        Some(at)
    }

    fn end(&mut self, at: usize, why: SessionEnd) -> Vec<Effect<E>> {
        let Session { id, operator, .. } = self.forget(at, why.text());
        vec![Effect::End { session: id, operator, why }]
    }

    /// Removes a session and tells the device what it has to know: a shell nobody stops keeps its place in the agent for ever.
    fn forget(&mut self, at: usize, why: &str) -> Session<E> {
        let session = self.sessions.remove(at);
        self.turn = 0;
        let sid = session.id.to_string();
        // What waits in the outbox is dropped, and may have been the operator's own stop or close.
        let unsent = !session.outbox.is_empty();
        if session.shell || unsent {
            self.say_stop(session.id, &sid, session.user.as_str(), why);
        }
        if session.layered || (unsent && !session.shell) {
            self.say_close(session.id, &sid);
        }
        session
    }

    /// The device speaks in a session that nobody has: left over from before it reconnected, or from a dead hub.
    fn hush(&mut self, session: SessionId, read: &Message<'_>) {
        if (read.proto, read.typ, read.int_prop("status")) == (proto::SHELL, "stop", Some(status::NORMAL.into())) {
            self.stopping.retain(|other| *other != session);
            return;
        }
        if self.stopping.contains(&session) {
            return;
        }
        match (read.proto, read.typ) {
            (proto::SHELL, _) => self.say_stop(session, read.sid, "", "no such session"),
            (proto::CONTROL, "close" | "error") => {}
            _ => self.say_close(session, read.sid),
        }
    }

    fn say_stop(&mut self, session: SessionId, sid: &str, user: &str, why: &str) {
        let props = [("status", Prop::Small(status::ERROR)), ("user_id", Prop::Text(user))];
        let stop = Compose { proto: proto::SHELL, typ: "stop", sid, props: &props, body: why.as_bytes() };
        self.say_goodbye(session, stop.to_bytes());
    }

    fn say_close(&mut self, session: SessionId, sid: &str) {
        let close = Compose { proto: proto::CONTROL, typ: "close", sid, ..Compose::default() };
        self.say_goodbye(session, close.to_bytes());
    }

    fn say_goodbye(&mut self, session: SessionId, message: Bytes) {
        if self.goodbyes.len() >= GOODBYES_LIMIT {
            self.goodbyes.pop();
        }
        self.goodbyes.push(message);
        if !self.stopping.contains(&session) {
            if self.stopping.len() >= STOPPING_LIMIT {
                self.stopping.remove(0);
            }
            self.stopping.push(session);
        }
    }
}

impl<E> Session<E> {
    /// Whether this piece of terminal output is shown, given what was skipped before it.
    fn takes_output(&mut self, output: &Message<'_>) -> bool {
        let body = output.body.bytes();
        match &mut self.skipping {
            None => true,
            Some(Skipping::Full { bytes }) => {
                *bytes += body.len() as u64;
                false
            }
            Some(Skipping::ToLineStart { passed }) => {
                // A piece that does not fill the agent's buffer is the last of what there was: the flood is over, and what
                // comes now may be a prompt.
                if body.len() < AGENT_PIECE {
                    self.skipping = None;
                    return true;
                }
                *passed += body.len();
                if body.ends_with(b"\n") || *passed > RESYNC_LIMIT {
                    self.skipping = None;
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
