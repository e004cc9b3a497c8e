//! One device's connection as a pure state machine: what it hears, what it is asked, and what to do next.
//!
//! The device's socket is always read; what a session cannot take is that session's loss alone. Towards the device there
//! is one queue per session, served fairly and with small messages first, so that a paste does not delay a keystroke.
//! What a session's host has not taken over yet is kept, so that a host which lost the way here, or one on another node
//! that takes over, gets exactly what is missing. Rows `deviceconnect-21` to `deviceconnect-32`.

mod goodbyes;
mod outbox;
mod port_forward;
mod session;

use std::collections::VecDeque;

use bytes::Bytes;
use goodbyes::Goodbyes;
use port_forward::{Forwarding, Step};
use session::Session;
use storage::{SessionId, UserId};

use crate::figures::SessionFigures;
use crate::message::{self, Compose, DEVICE_MESSAGE_LIMIT, Malformed, Message, Prop, proto, status};
use crate::session::{Binding, Config, DeviceSays, LEAST_CREDIT, Open, Resumed, SIGNAL_RESERVE, SessionEnd, charge};

/// Shells that speak before their session's host has found this connection, kept until it does.
const UNCLAIMED_LIMIT: usize = 16;

/// One device's connection. `E` is how the acting half reaches a session's host.
#[derive(Debug)]
pub struct DeviceLink<E> {
    sessions: Vec<Session<E>>,
    goodbyes: Goodbyes,
    /// Ids of forwarded connections whose session is over while the agent was busy with them: a word to a busy worker
    /// would block the agent, so they are closed at the next sign of life.
    lingering: Vec<SessionId>,
    /// Whose turn it is among the sessions with something to send.
    turn: usize,
    /// Small messages sent in a row while a large one waited.
    streak: u8,
}

/// What the acting half has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<E> {
    /// Say something to the session's host.
    ToHost {
        /// Which session.
        session: SessionId,
        /// What.
        says: DeviceSays,
    },
    /// Tell the host that the session is over; it is forgotten here.
    End {
        /// Which session.
        session: SessionId,
        /// How to reach the host.
        host: E,
        /// Its binding.
        binding: Binding,
        /// What to say.
        why: SessionEnd,
    },
    /// A shell speaks whose session nobody has claimed on this connection: call [`DeviceLink::give_up`] after a while.
    Unclaimed {
        /// Its session.
        session: SessionId,
    },
}

/// A session at the end of its device's connection.
#[derive(Debug)]
pub struct Ended<E> {
    /// Which.
    pub session: SessionId,
    /// How to reach its host.
    pub host: E,
    /// Its binding.
    pub binding: Binding,
    /// Whose shell runs in it, if one does.
    pub shell_of: Option<UserId>,
    /// Credit for messages that had left for the device.
    pub owed: usize,
}

/// Something for the device's socket.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The message.
    pub message: Bytes,
    /// Credit to give back to the host of a session.
    pub credit: Option<(SessionId, usize)>,
}

impl<E> Default for DeviceLink<E> {
    fn default() -> Self {
        Self { sessions: Vec::new(), goodbyes: Goodbyes::default(), lingering: Vec::new(), turn: 0, streak: 0 }
    }
}

impl<E> DeviceLink<E> {
    /// Whether there is no session with it.
    pub const fn is_idle(&self) -> bool {
        self.sessions.is_empty()
    }

    /// A session begins, or goes on here.
    pub fn open(&mut self, session: SessionId, binding: Binding, open: Open<E>, limits: &Config) -> Vec<Effect<E>> {
        if let Some(at) = self.position(session) {
            return self.rebind(at, binding, open, limits);
        }
        let claimed = self.sessions.iter().filter(|session| session.host.is_some()).count();
        if claimed >= limits.per_device {
            return vec![Effect::End { session, host: open.host, binding, why: SessionEnd::TooManySessions }];
        }
        let mut state = Session::new(session);
        (state.user, state.host, state.binding, state.kept) = (open.user, Some(open.host), binding, open.kept);
        let mut effects = Vec::new();
        if let Some(resume) = open.resume {
            (state.shell, state.has_shell) = (resume.shell, resume.shell);
            (state.output, state.input) = (resume.output, resume.input);
            let resumed = Resumed { output: state.output, input: state.input, accepted: None };
            effects.push(Effect::ToHost { session, says: DeviceSays::Resumed(resumed) });
        }
        self.sessions.push(state);
        effects
    }

    /// A host finds its session on this connection: it gets what it has not received.
    fn rebind(&mut self, at: usize, binding: Binding, open: Open<E>, limits: &Config) -> Vec<Effect<E>> {
        let state = &mut self.sessions[at];
        let session = state.id;
        let mut effects = Vec::new();
        let Some(resume) = open.resume else { return vec![] };
        if state.binding > binding {
            // A host that lost its session to another without hearing of it.
            return vec![Effect::End { session, host: open.host, binding, why: SessionEnd::Moved }];
        }
        let accepted = if let Some((former, received)) = resume.received
            && former == state.binding
        {
            let oldest = state.next_to_host.wrapping_sub(u32::try_from(state.retained.len()).unwrap_or(u32::MAX));
            for _ in 0..received.wrapping_sub(oldest).min(u32::try_from(state.retained.len()).unwrap_or(0)) {
                state.release_one();
            }
            Some(state.next_from_host)
        } else {
            None
        };
        if let Some(host) = state.host.replace(open.host)
            && resume.received.is_none()
        {
            effects.push(Effect::End { session, host, binding: state.binding, why: SessionEnd::Moved });
            // Only told: the session itself goes on with its new host.
        }
        if state.binding == Binding::default() && state.user.as_str().is_empty() {
            // Claimed: what it printed before anybody knew it here follows on what the host has.
            state.output = resume.output + state.retained_output();
            state.input = resume.input;
        }
        state.shell |= resume.shell;
        state.has_shell |= resume.shell;
        (state.user, state.kept, state.binding) = (open.user, open.kept, binding);
        (state.next_to_host, state.next_from_host) = (0, 0);
        let resumed = Resumed { output: state.output - state.retained_output(), input: state.input, accepted };
        effects.push(Effect::ToHost { session, says: DeviceSays::Resumed(resumed) });
        for message in &state.retained {
            let number = state.next_to_host;
            state.next_to_host += 1;
            effects.push(Effect::ToHost { session, says: DeviceSays::Deliver { number, message: message.clone() } });
        }
        // What the host has received by now makes room as credit does that was lost with the former binding.
        self.go_on(at, limits, &mut effects);
        effects
    }

    /// The host of `session` passes on what its operator said, stamped for the device already. A gap in the numbers means
    /// that the link between the nodes lost something.
    pub fn deliver(
        &mut self,
        session: SessionId,
        binding: Binding,
        number: u32,
        message: Bytes,
        limits: &Config,
    ) -> Vec<Effect<E>> {
        let Some(at) = self.position_bound(session, binding) else { return vec![] };
        let state = &mut self.sessions[at];
        if number != state.next_from_host {
            return self.unbind(at);
        }
        state.next_from_host = number.wrapping_add(1);
        let cost = charge(message.len());
        let return_credit = || Effect::ToHost { session, says: DeviceSays::Credit { bytes: cost } };
        let Ok(read) = Message::read(&message) else { return vec![return_credit()] };
        debug_assert!(message.len() <= DEVICE_MESSAGE_LIMIT, "stamped messages fit");
        match (read.proto, read.typ) {
            (proto::SHELL, "new") => {
                (state.shell, state.shell_ended) = (true, false);
                self.goodbyes.settle(session);
            }
            (proto::SHELL, "stop") => {
                (state.shell, state.has_shell) = (false, false);
                self.goodbyes.note_stopping(session, Some(state.user.clone()));
            }
            // A pong for a shell that is gone wedges the agent's only reading loop.
            (proto::SHELL, "pong") if state.shell_ended || !state.shell => return vec![return_credit()],
            (proto::SHELL, "shell") => state.input += read.body.bytes().len() as u64,
            (proto::SHELL, _) => {}
            (proto::PORT_FORWARD, _) => {
                state.layered = true;
                let forwarding = state.forwarding.get_or_insert_with(|| {
                    Box::new(Forwarding::new(session, state.user.as_str(), limits.stream_window, limits.streams))
                });
                let room = window(limits).saturating_sub(state.gate.in_flight());
                let steps = forwarding.hear_operator(&read, &message, room);
                let mut effects = vec![return_credit()];
                self.follow(at, steps, &mut effects);
                return effects;
            }
            (proto::CONTROL, "close") => state.layered = false,
            _ => state.layered = true,
        }
        if state.outbox.charge() + cost > 2 * limits.to_device_window {
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
    pub fn hear(&mut self, raw: &Bytes, limits: &Config) -> Result<Vec<Effect<E>>, Malformed> {
        let read = Message::read(raw)?;
        let Ok(session) = read.sid.parse::<SessionId>() else { return Ok(vec![]) };
        let mut effects = Vec::new();
        let Some(at) = self.position(session) else {
            if let Some(at) = self.sessions.iter().position(|state| state.forwards_on(session)) {
                let state = &mut self.sessions[at];
                let room = window(limits).saturating_sub(state.gate.in_flight());
                let steps =
                    state.forwarding.as_mut().map(|it| it.hear_device(session, &read, room)).unwrap_or_default();
                self.follow(at, steps, &mut effects);
            } else if let Some(lingering) = self.lingering.iter().position(|other| *other == session) {
                self.lingering.swap_remove(lingering);
                self.goodbyes.close(session, read.sid);
            } else if self.may_be_claimed(session, &read) {
                let mut state = Session::new(session);
                state.shell = true;
                self.sessions.push(state);
                effects.push(Effect::Unclaimed { session });
                let at = self.sessions.len() - 1;
                self.pass_to_host(at, &read, raw, limits, &mut effects);
            } else {
                self.hush(session, &read);
            }
            return Ok(effects);
        };
        self.pass_to_host(at, &read, raw, limits, &mut effects);
        Ok(effects)
    }

    fn pass_to_host(
        &mut self,
        at: usize,
        read: &Message<'_>,
        raw: &Bytes,
        limits: &Config,
        effects: &mut Vec<Effect<E>>,
    ) {
        let state = &mut self.sessions[at];
        let mut output = false;
        match (read.proto, read.typ) {
            (proto::SHELL, "shell") => output = true,
            (proto::SHELL, "stop") => {
                state.shell_ended = true;
                self.goodbyes.settle(state.id);
            }
            (proto::SHELL, "new") if read.int_prop("status") == Some(status::ERROR.into()) => {
                state.shell = state.has_shell;
            }
            (proto::SHELL, "new") => (state.shell, state.has_shell, state.shell_ended) = (true, true, false),
            _ => {}
        }
        let message = message::for_operator(read, raw);
        let cost = charge(message.len());
        if output {
            let body = read.body.bytes();
            if !state.gate.admits(body, cost, window(limits)) {
                state.stalls += 1;
                return;
            }
            state.output += body.len() as u64;
        } else {
            let reserve = if read.proto == proto::SHELL { SIGNAL_RESERVE } else { 0 };
            if !state.gate.takes(cost, window(limits) + reserve) {
                state.stalls += 1;
                effects.extend(self.end(at, SessionEnd::OperatorTooSlow));
                return;
            }
        }
        effects.extend(state.send(message));
    }

    /// The host has taken `bytes` over.
    pub fn credit(&mut self, session: SessionId, binding: Binding, bytes: usize, limits: &Config) -> Vec<Effect<E>> {
        let Some(at) = self.position_bound(session, binding) else { return vec![] };
        let state = &mut self.sessions[at];
        state.credited += bytes;
        while state.retained.front().is_some_and(|message| charge(message.len()) <= state.credited) {
            state.credited -= state.release_one();
        }
        if state.retained.is_empty() {
            (state.credited, state.retained) = (0, VecDeque::new());
        }
        let mut effects = Vec::new();
        // Whole messages only are given back to the gate, so the sum is the same.
        self.go_on(at, limits, &mut effects);
        effects
    }

    /// The host has taken something over: what had to wait for that goes on.
    fn go_on(&mut self, at: usize, limits: &Config, effects: &mut Vec<Effect<E>>) {
        let state = &mut self.sessions[at];
        let session = state.id;
        if let Some(missed) = state.gate.credit(0, window(limits)) {
            let (notice, newest) = missed.for_screen();
            let shown = notice.map(String::into_bytes).into_iter().chain([newest]).flatten().collect::<Vec<u8>>();
            let message = Compose {
                proto: proto::SHELL,
                typ: "shell",
                sid: &session.to_string(),
                props: &[("status", Prop::Wide(status::NORMAL.into()))],
                body: &shown,
            }
            .to_bytes();
            state.output += shown.len() as u64;
            state.gate.force(charge(message.len()));
            effects.extend(state.send(message));
        }
        let room = window(limits).saturating_sub(state.gate.in_flight());
        if let Some(forwarding) = &mut state.forwarding {
            let steps = forwarding.release(room);
            self.follow(at, steps, effects);
        }
    }

    /// The host of `session` has ended it. Says whether there was such a session.
    pub fn hang_up(&mut self, session: SessionId, binding: Binding) -> bool {
        self.position_bound(session, binding).map(|at| self.forget(at, "user disconnected")).is_some()
    }

    /// The node of the session's host died. A session that is kept waits for another host: `true`, call
    /// [`DeviceLink::give_up`] when its time is over. Any other ends.
    pub fn host_lost(&mut self, session: SessionId) -> bool {
        let Some(at) = self.position(session) else { return false };
        let state = &mut self.sessions[at];
        state.host = None;
        if !state.kept {
            self.forget(at, "user disconnected");
            return false;
        }
        true
    }

    /// Nobody has claimed the session in its time.
    pub fn give_up(&mut self, session: SessionId) {
        if let Some(at) = self.position(session)
            && self.sessions[at].host.is_none()
        {
            self.forget(at, "no such session");
        }
    }

    /// The next message for the device's socket, and the credit that its leaving frees.
    pub fn next_outgoing(&mut self, limits: &Config) -> Option<Outgoing> {
        if let Some(message) = self.goodbyes.next() {
            return Some(Outgoing { message, credit: None });
        }
        let at = self.next_turn()?;
        let state = &mut self.sessions[at];
        if let Some(message) = state.outbox.pop() {
            state.to_device.count(message.len());
            state.owed += charge(message.len());
            // At once when nothing follows: whoever resumes the session elsewhere must not repeat what has left.
            let is_due = state.outbox.is_empty() || state.owed >= limits.to_device_window / 4;
            let credit = is_due.then(|| (state.id, std::mem::take(&mut state.owed)));
            return Some(Outgoing { message, credit });
        }
        let message = state.frames.pop()?;
        state.to_device.count(message.len());
        Some(Outgoing { message, credit: None })
    }

    /// The device's connection is over: every session that has a host.
    pub fn end_all(&mut self) -> Vec<Ended<E>> {
        std::mem::take(&mut self.sessions)
            .into_iter()
            .filter_map(|session| {
                let Session { id, user, binding, owed, host, shell, .. } = session;
                host.map(|host| Ended { session: id, host, binding, shell_of: shell.then_some(user), owed })
            })
            .collect()
    }

    /// The device's connection is over: shells that were told to stop and may not have heard it, and whose they are.
    pub fn unstopped(&mut self) -> Vec<(SessionId, UserId)> {
        self.goodbyes.take_unstopped()
    }

    /// How to reach the host of `session`, and its binding.
    pub fn host(&self, session: SessionId) -> Option<(&E, Binding)> {
        let state = &self.sessions[self.position(session)?];
        state.host.as_ref().map(|host| (host, state.binding))
    }

    /// How many sessions are open.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// What flows in each session.
    pub fn figures(&self) -> Vec<SessionFigures> {
        self.sessions
            .iter()
            .map(|state| SessionFigures {
                session: state.id,
                user: state.user.clone(),
                from_device: state.from_device,
                to_device: state.to_device,
                stalls: state.stalls,
                queued: state.outbox.len() + state.frames.len(),
                in_flight: state.gate.in_flight(),
                streams: state.forwarding.as_ref().map_or(0, |forwarding| forwarding.stream_count()),
            })
            .collect()
    }

    fn position(&self, session: SessionId) -> Option<usize> {
        self.sessions.iter().position(|state| state.id == session)
    }

    fn position_bound(&self, session: SessionId, binding: Binding) -> Option<usize> {
        self.position(session).filter(|at| self.sessions[*at].binding == binding)
    }

    /// Whose message goes next: the first in turn whose next message is small, else the first in turn; after eight small
    /// ones a waiting large one goes, so that nobody starves.
    fn next_turn(&mut self) -> Option<usize> {
        const SMALL: usize = 512;
        const STREAK: u8 = 8;
        let count = self.sessions.len();
        let in_turn = |step: usize| (self.turn + step) % count;
        let first = (0..count).map(in_turn).find(|at| self.sessions[*at].head_len().is_some())?;
        let small = (0..count).map(in_turn).find(|at| self.sessions[*at].head_len().is_some_and(|len| len <= SMALL));
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

    /// Carries out what the forwarded connections of a session want.
    fn follow(&mut self, at: usize, steps: Vec<Step>, effects: &mut Vec<Effect<E>>) {
        let state = &mut self.sessions[at];
        for step in steps {
            match step {
                Step::ToDevice(message) => state.frames.push(message),
                Step::ToOperator(message) => {
                    state.gate.force(charge(message.len()));
                    effects.extend(state.send(message));
                }
                Step::Stalled => state.stalls += 1,
                Step::Linger(stream) => linger(&mut self.lingering, stream),
            }
        }
    }

    /// The way to the host lost something: the session waits to be bound anew.
    fn unbind(&mut self, at: usize) -> Vec<Effect<E>> {
        let state = &mut self.sessions[at];
        let (session, binding) = (state.id, state.binding);
        let Some(host) = state.host.take() else { return vec![] };
        vec![Effect::End { session, host, binding, why: SessionEnd::LinkLost }, Effect::Unclaimed { session }]
    }

    fn end(&mut self, at: usize, why: SessionEnd) -> Vec<Effect<E>> {
        let Session { id, host, binding, .. } = self.forget(at, why.text());
        host.map(|host| Effect::End { session: id, host, binding, why }).into_iter().collect()
    }

    /// Removes a session and tells the device what it has to know: a shell nobody stops keeps its place in the agent for ever.
    fn forget(&mut self, at: usize, why: &str) -> Session<E> {
        let mut session = self.sessions.remove(at);
        self.turn = 0;
        let sid = session.id.to_string();
        // What waits in the outbox is dropped, and may have been the operator's own stop or close.
        let unsent = !session.outbox.is_empty();
        if session.shell || unsent {
            self.goodbyes.stop(session.id, &sid, Some(&session.user), why);
        }
        if session.layered || (unsent && !session.shell) {
            self.goodbyes.close(session.id, &sid);
        }
        if let Some(forwarding) = session.forwarding.take() {
            for (stream, is_busy) in forwarding.into_streams() {
                if is_busy {
                    linger(&mut self.lingering, stream);
                } else {
                    self.goodbyes.close(stream, &stream.to_string());
                }
            }
        }
        session
    }

    /// Whether to wait for the host of a session that nobody has here yet: its shell has outlived the device's connection.
    fn may_be_claimed(&self, session: SessionId, read: &Message<'_>) -> bool {
        matches!((read.proto, read.typ), (proto::SHELL, "shell" | "ping"))
            && read.int_prop("status") != Some(status::ERROR.into())
            && !self.goodbyes.is_stopping(session)
            && self.sessions.iter().filter(|state| state.host.is_none()).count() < UNCLAIMED_LIMIT
    }

    /// The device speaks in a session that nobody has: left over from before it reconnected, or from a dead hub.
    fn hush(&mut self, session: SessionId, read: &Message<'_>) {
        if (read.proto, read.typ, read.int_prop("status")) == (proto::SHELL, "stop", Some(status::NORMAL.into())) {
            self.goodbyes.settle(session);
            return;
        }
        if self.goodbyes.is_stopping(session) {
            return;
        }
        match (read.proto, read.typ) {
            (proto::SHELL, _) => self.goodbyes.stop(session, read.sid, None, "no such session"),
            (proto::CONTROL, "close" | "error") => {}
            _ => self.goodbyes.close(session, read.sid),
        }
    }
}

/// Remembers a stream that a busy agent has to be told about later; the oldest is given up beyond the limit.
fn linger(lingering: &mut Vec<SessionId>, stream: SessionId) {
    if lingering.len() >= goodbyes::WAITING_LIMIT {
        lingering.remove(0);
    }
    lingering.push(stream);
}

/// What a device may have on its way to a host, which may hold back a little of the credit.
const fn window(limits: &Config) -> usize {
    limits.to_operator_window + LEAST_CREDIT
}

#[cfg(test)]
mod tests;
