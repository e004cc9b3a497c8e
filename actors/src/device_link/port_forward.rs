//! Connections forwarded through a device: one session of the operator's, any number of streams.
//!
//! Agents and stock clients keep one `forward` frame on its way per stream and direction and wait for its `ack`, so that
//! the round trip of the whole way would limit the speed; a second `ack` for a frame kills either. Here every frame is
//! acknowledged by the hub itself, exactly once and as soon as the stream's window has room for it, and the far end's own
//! `ack` is swallowed: it moves the window. Towards the agent one frame per stream is on its way, and every stream has a
//! session id of its own there, because an agent that waits for one target of a session reads nothing else of the device's.
//! Rows `deviceconnect-24`, `-31` and `-32`.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use storage::SessionId;
use uuid::Uuid;

use crate::message::{self, Compose, Message, Prop, proto};
use crate::session::charge;

/// Frames that stock clients hold for a local connection which does not take them.
const FRAMES_LIMIT: usize = 20;

/// The forwarded connections of one session.
#[derive(Debug)]
pub(super) struct Forwarding {
    session: SessionId,
    sid: String,
    user: String,
    window: usize,
    limit: usize,
    streams: Vec<Stream>,
    /// Streams opened so far, for their session ids.
    opened: u32,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    ToDevice(Bytes),
    ToOperator(Bytes),
    /// The agent is busy with this stream's session: close it at its next sign of life.
    Linger(SessionId),
    /// A frame has to wait for its reader.
    Stalled,
}

#[derive(Debug)]
struct Stream {
    /// The client's name for it.
    connection: String,
    /// Its session id on the device.
    id: SessionId,
    sid: String,
    /// The device has confirmed it.
    is_open: bool,
    /// It was sent the operator's `stop`.
    is_stopping: bool,
    /// For the device.
    queue: VecDeque<Queued>,
    queued: usize,
    /// The device has a frame that it has not acknowledged.
    awaits_ack: bool,
    /// Frames of the operator's that were taken and not acknowledged yet.
    owed_acks: usize,
    /// Lengths of the frames the operator has not acknowledged.
    outstanding: VecDeque<usize>,
    outstanding_bytes: usize,
    /// A frame of the device's that has to wait, its `ack` with it.
    held: Option<Bytes>,
    /// The device's `stop`, behind the held frame.
    stopped: Option<Bytes>,
}

#[derive(Debug)]
enum Queued {
    Frame(Bytes),
    Stop(Bytes),
}

impl Forwarding {
    pub(super) fn new(session: SessionId, user: &str, window: usize, limit: usize) -> Self {
        let (sid, user) = (session.to_string(), user.to_owned());
        Self { session, sid, user, window, limit, streams: Vec::new(), opened: 0 }
    }

    pub(super) fn owns(&self, stream: SessionId) -> bool {
        self.streams.iter().any(|state| state.id == stream)
    }

    pub(super) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// The session is over: its streams, and whether the agent is busy with each.
    pub(super) fn into_streams(self) -> impl Iterator<Item = (SessionId, bool)> {
        self.streams.into_iter().map(|stream| (stream.id, stream.is_busy()))
    }

    /// The operator said something about a stream. `room` is the session's credit towards the operator.
    pub(super) fn hear_operator(&mut self, read: &Message<'_>, raw: &Bytes, room: usize) -> Vec<Step> {
        let Some(connection) = read.text_prop("connection_id") else {
            // The device says what is wrong with it.
            return vec![Step::ToDevice(raw.clone())];
        };
        let at = self.streams.iter().position(|stream| stream.connection == connection);
        match (read.typ, at) {
            ("new", None) => self.open(connection, read),
            ("new", Some(_)) => vec![Step::ToOperator(self.error(connection, "new", "connection exists already"))],
            ("forward", Some(at)) => {
                let stream = &mut self.streams[at];
                if stream.queued > 2 * self.window {
                    // Whoever waits for acknowledgements never gets here.
                    return self.drop_stream(at, "forward", "more frames than were acknowledged");
                }
                let frame = message::readdress(read, &stream.sid);
                stream.queued += frame.len();
                stream.queue.push_back(Queued::Frame(frame));
                stream.owed_acks += 1;
                let mut steps = Vec::new();
                if stream.queued > self.window {
                    steps.push(Step::Stalled);
                }
                self.advance(at, &mut steps);
                steps
            }
            ("ack", Some(at)) => {
                let stream = &mut self.streams[at];
                // One too many would kill the agent; it stands for nothing and goes nowhere.
                let Some(len) = stream.outstanding.pop_front() else { return vec![] };
                stream.outstanding_bytes -= len;
                let mut steps = Vec::new();
                self.release_held(at, &mut { room }, &mut steps);
                steps
            }
            ("stop", Some(at)) => {
                let stream = &mut self.streams[at];
                // Behind the frames that were acknowledged already: they have to arrive.
                if !matches!(stream.queue.back(), Some(Queued::Stop(_))) {
                    stream.queue.push_back(Queued::Stop(message::readdress(read, &stream.sid)));
                }
                // The operator takes nothing more of it.
                stream.held = None;
                let mut steps = Vec::new();
                self.advance(at, &mut steps);
                steps
            }
            // For a stream that has just ended: both sides know by now.
            ("forward" | "ack" | "stop", None) => vec![],
            _ => vec![Step::ToDevice(raw.clone())],
        }
    }

    /// The device said something in a stream's session.
    pub(super) fn hear_device(&mut self, stream: SessionId, read: &Message<'_>, room: usize) -> Vec<Step> {
        let Some(at) = self.streams.iter().position(|state| state.id == stream) else { return vec![] };
        let state = &mut self.streams[at];
        let mut steps = Vec::new();
        match (read.proto, read.typ) {
            (proto::PORT_FORWARD, "new") => {
                state.is_open = true;
                steps.push(Step::ToOperator(message::readdress(read, &self.sid)));
                self.advance(at, &mut steps);
            }
            (proto::PORT_FORWARD, "forward") => {
                let frame = message::readdress(read, &self.sid);
                if state.held.is_some() || state.stopped.is_some() {
                    // Agents wait for their acknowledgement.
                    return self.drop_stream(at, "forward", "a frame before the last was acknowledged");
                }
                state.held = Some(frame);
                self.release_held(at, &mut { room }, &mut steps);
                if self.streams[at].held.is_some() {
                    steps.push(Step::Stalled);
                }
            }
            (proto::PORT_FORWARD, "ack") => {
                if std::mem::take(&mut state.awaits_ack) {
                    self.advance(at, &mut steps);
                }
            }
            (proto::PORT_FORWARD, "stop") => {
                state.stopped = Some(message::readdress(read, &self.sid));
                self.finish_if_drained(at, &mut steps);
            }
            (proto::PORT_FORWARD, "error") => {
                steps.push(Step::ToOperator(message::readdress(read, &self.sid)));
                if !state.is_open || state.is_stopping {
                    // It says nothing of the connection it concerns, and stock clients would wait for ever.
                    (state.is_open, state.awaits_ack) = (true, false);
                    steps.push(Step::ToOperator(self.stop(&self.streams[at].connection)));
                    steps.push(self.remove(at));
                }
            }
            (proto::CONTROL, "ping") => {
                let pong = Compose { proto: proto::CONTROL, typ: "pong", sid: &state.sid, ..Compose::default() };
                steps.push(Step::ToDevice(pong.to_bytes()));
            }
            (proto::CONTROL, "error" | "close") => {
                let stop = self.stop(&self.streams[at].connection);
                steps.push(Step::ToOperator(stop));
                self.streams.remove(at);
            }
            _ => steps.push(Step::ToOperator(message::readdress(read, &self.sid))),
        }
        steps
    }

    /// The session has credit again towards its operator.
    pub(super) fn release(&mut self, mut room: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        for at in (0..self.streams.len()).rev() {
            self.release_held(at, &mut room, &mut steps);
        }
        steps
    }

    fn open(&mut self, connection: &str, read: &Message<'_>) -> Vec<Step> {
        if self.streams.len() >= self.limit {
            let error = self.error(connection, "new", "too many forwarded connections in this session");
            return vec![Step::ToOperator(error), Step::ToOperator(self.stop(connection))];
        }
        self.opened = self.opened.wrapping_add(1);
        // Unique as the session's own, and told apart by its number.
        let id = SessionId::from_uuid(Uuid::from_u128(self.session.uuid().as_u128() ^ u128::from(self.opened)));
        let sid = id.to_string();
        let new = message::readdress(read, &sid);
        self.streams.push(Stream {
            connection: connection.to_owned(),
            id,
            sid,
            is_open: false,
            is_stopping: false,
            queue: VecDeque::new(),
            queued: 0,
            awaits_ack: false,
            owed_acks: 0,
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
            held: None,
            stopped: None,
        });
        vec![Step::ToDevice(new)]
    }

    /// Sends the device the next frame if it has taken the last, and acknowledges what fits the window.
    fn advance(&mut self, at: usize, steps: &mut Vec<Step>) {
        let stream = &mut self.streams[at];
        // Not before it is confirmed: while the agent dials, a second message would block all of the device.
        if stream.is_open && !stream.awaits_ack {
            match stream.queue.pop_front() {
                Some(Queued::Frame(frame)) => {
                    stream.queued -= frame.len();
                    stream.awaits_ack = true;
                    steps.push(Step::ToDevice(frame));
                }
                Some(Queued::Stop(stop)) => {
                    stream.is_stopping = true;
                    steps.push(Step::ToDevice(stop));
                }
                None => {}
            }
        }
        while stream.owed_acks > 0 && stream.queued <= self.window {
            stream.owed_acks -= 1;
            steps.push(Step::ToOperator(ack(&self.sid, &stream.connection, None)));
        }
    }

    /// Passes the held frame on if the stream's window and the session's credit have room for it.
    fn release_held(&mut self, at: usize, room: &mut usize, steps: &mut Vec<Step>) {
        let stream = &mut self.streams[at];
        if let Some(frame) = &stream.held {
            let fits_stream = stream.outstanding.is_empty()
                || (stream.outstanding.len() < FRAMES_LIMIT && stream.outstanding_bytes + frame.len() <= self.window);
            if !fits_stream || charge(frame.len()) > *room {
                return;
            }
            *room -= charge(frame.len());
            stream.outstanding.push_back(frame.len());
            stream.outstanding_bytes += frame.len();
            steps.push(Step::ToDevice(ack(&stream.sid, &stream.connection, Some(&self.user))));
            steps.extend(stream.held.take().map(Step::ToOperator));
        }
        self.finish_if_drained(at, steps);
    }

    /// The device's `stop` goes behind its last frame; then the stream is over.
    fn finish_if_drained(&mut self, at: usize, steps: &mut Vec<Step>) {
        let stream = &mut self.streams[at];
        if stream.held.is_none()
            && let Some(stop) = stream.stopped.take()
        {
            steps.push(Step::ToOperator(stop));
            // What the agent still wrote has failed with the connection: its worker is free.
            stream.awaits_ack = false;
            steps.push(self.remove(at));
        }
    }

    fn drop_stream(&mut self, at: usize, typ: &str, why: &str) -> Vec<Step> {
        let connection = &self.streams[at].connection;
        let (error, stop) = (self.error(connection, typ, why), self.stop(connection));
        vec![Step::ToOperator(error), Step::ToOperator(stop), self.remove(at)]
    }

    /// Forgets a stream and ends its session on the device.
    fn remove(&mut self, at: usize) -> Step {
        let stream = self.streams.remove(at);
        if stream.is_busy() {
            return Step::Linger(stream.id);
        }
        let close = Compose { proto: proto::CONTROL, typ: "close", sid: &stream.sid, ..Compose::default() };
        Step::ToDevice(close.to_bytes())
    }

    fn stop(&self, connection: &str) -> Bytes {
        let props = [("connection_id", Prop::Text(connection))];
        Compose { proto: proto::PORT_FORWARD, typ: "stop", sid: &self.sid, props: &props, body: &[] }.to_bytes()
    }

    fn error(&self, connection: &str, typ: &str, why: &str) -> Bytes {
        #[derive(Serialize)]
        struct ErrorBody<'a> {
            err: &'a str,
            msgtype: &'a str,
        }
        let body = rmp_serde::to_vec_named(&ErrorBody { err: why, msgtype: typ }).expect("a plain struct encodes");
        let props = [("connection_id", Prop::Text(connection))];
        Compose { proto: proto::PORT_FORWARD, typ: "error", sid: &self.sid, props: &props, body: &body }.to_bytes()
    }
}

impl Stream {
    /// Whether the agent's worker for it is dialling or writing, as far as is known.
    fn is_busy(&self) -> bool {
        self.awaits_ack || !self.is_open
    }
}

fn ack(sid: &str, connection: &str, user: Option<&str>) -> Bytes {
    let props = [("connection_id", Prop::Text(connection)), ("user_id", Prop::Text(user.unwrap_or_default()))];
    let props = if user.is_some() { &props[..] } else { &props[..1] };
    Compose { proto: proto::PORT_FORWARD, typ: "ack", sid, props, body: &[] }.to_bytes()
}

#[cfg(test)]
mod tests;
