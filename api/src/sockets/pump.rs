//! Frames in and out of one socket: bounds, pings, deadlines, close. (RFC 6455)
//!
//! Three parts of one task share a socket: [`Inbound`] reads and hands messages to the actor, one at a time and no more
//! from the socket before those of the last read are taken; the [`Pump`] polls the actor, writes what it says and keeps
//! the deadlines, also while the peer takes nothing; [`Flow`] is what the actor sees of it and how it holds the reading.

mod flow;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, Encoder};
use actix_http::ws::{CloseCode, CloseReason, Codec, Frame, Item, Message, ProtocolError};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep};

pub(super) use flow::Flow;

use super::turns::Turn;
use super::{Config, SocketCount};

/// The actor is told of room when no more than this waits to be written.
const LOW_WATER: usize = 4 * 1024;

/// Bytes taken from a socket at once, through a buffer shared by all sockets of a thread.
const READ_SIZE: usize = 32 * 1024;

/// The opcode of a Close frame. (RFC 6455 §5.2)
const CLOSE: u8 = 0x8;

/// The longest header of a frame. (RFC 6455 §5.2)
const LONGEST_FRAME_HEADER: usize = 14;

/// How long a socket may take to say goodbye.
const LINGER: Duration = Duration::from_secs(2);

/// The payload of pings: agents use it as their read deadline in seconds.
const PING: &[u8] = b"60";

thread_local! {
    /// Idle sockets keep no buffer; a read borrows this one.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
}

/// Told to the actor by its socket.
#[derive(Debug)]
pub(super) enum SocketEvent {
    /// A whole message, of whatever frames.
    Message(Bytes),
    /// Little waits to be written, after [`Flow::ask_for_room`].
    Room,
    /// It is over; nothing follows.
    Ended(End),
}

/// How a socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By a Close frame from the peer.
    Closed,
    /// Without one.
    Lost,
    /// Nothing was heard for too long.
    Silent,
    /// Nothing could be written for too long.
    Stalled,
    /// A message exceeded the limit.
    TooLarge,
    /// The peer does not keep to the protocol.
    Broken,
}

impl End {
    /// What the peer is told, if it still listens.
    pub(super) fn close_reason(self) -> Option<CloseReason> {
        let (code, text) = match self {
            Self::Closed => (CloseCode::Normal, ""),
            Self::Lost | Self::Stalled => return None,
            Self::Silent => (CloseCode::Policy, "no answer to pings"),
            Self::TooLarge => (CloseCode::Size, "message too large"),
            Self::Broken => (CloseCode::Protocol, "protocol error"),
        };
        Some((code, text).into())
    }
}

struct Wire<T> {
    io: T,
    codec: Codec,
    incoming: BytesMut,
    /// The fragments so far of a message that came in several frames.
    joined: Option<BytesMut>,
    outgoing: VecDeque<Bytes>,
    outgoing_len: usize,
    /// The head of `outgoing` was written in part: nothing may come between.
    is_mid_frame: bool,
    /// The answer to the latest ping. Earlier ones need none, so a flood of pings takes no memory. (RFC 6455 §5.5.3)
    pong: Option<Bytes>,
    /// A ping of ours is due. At most one waits, so that a peer that takes nothing gathers none.
    ping: bool,
    flow: Rc<Flow>,
    heard: Instant,
    /// When the peer last answered a ping of ours: some agents go on pinging by themselves while all else is stuck.
    ponged: Instant,
    jammed_since: Option<Instant>,
    next_ping: Instant,
    end: Option<End>,
    message_limit: usize,
}

/// The messages of a socket, for its actor.
pub(super) struct Inbound<T> {
    wire: Rc<RefCell<Wire<T>>>,
    turn: Turn,
    places: SocketCount,
    is_over: bool,
}

/// The task of a socket: runs its actor, `S`, and writes what it says.
pub(super) struct Pump<S, T> {
    actor: Option<S>,
    wire: Rc<RefCell<Wire<T>>>,
    timer: Pin<Box<Sleep>>,
    linger_until: Option<Instant>,
    is_shut: bool,
    ping_every: Duration,
    silence_limit: Duration,
    pong_limit: Duration,
    stall_limit: Duration,
}

/// The parts of a socket; [`Halves::run`] makes the pump once there is an actor.
pub(super) struct Halves<T> {
    wire: Rc<RefCell<Wire<T>>>,
    /// For the actor.
    pub(super) flow: Rc<Flow>,
    places: SocketCount,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Halves<T> {
    /// Shares the socket `io`, of which `read` was already read beyond the handshake. `answer`, the end of the handshake,
    /// is written once the actor has started: whoever sees it can rely on the actor being found. It has one of `places`.
    pub(super) fn new(io: T, read: BytesMut, answer: Bytes, config: &Config, places: SocketCount) -> Self {
        let now = Instant::now();
        let flow = Rc::new(Flow::default());
        let wire = Wire {
            io,
            codec: Codec::new().max_size(config.message_limit),
            incoming: read,
            joined: None,
            outgoing_len: answer.len(),
            outgoing: VecDeque::from([answer]),
            is_mid_frame: false,
            pong: None,
            ping: false,
            flow: Rc::clone(&flow),
            heard: now,
            ponged: now,
            jammed_since: None,
            next_ping: now + config.ping_every,
            end: None,
            message_limit: config.message_limit,
        };
        Self { wire: Rc::new(RefCell::new(wire)), flow, places }
    }

    pub(super) fn inbound(&self) -> Inbound<T> {
        let (wire, places) = (Rc::clone(&self.wire), self.places.clone());
        Inbound { wire, turn: Turn::default(), places, is_over: false }
    }

    pub(super) fn run<S>(self, actor: S, config: &Config) -> Pump<S, T> {
        let first = self.wire.borrow().next_ping;
        Pump {
            actor: Some(actor),
            wire: self.wire,
            timer: Box::pin(tokio::time::sleep_until(first)),
            linger_until: None,
            is_shut: false,
            ping_every: config.ping_every,
            silence_limit: config.silence_limit,
            // An agent that ends a shell answers nothing for up to 6 s, and a slow link may be full of output.
            pong_limit: 3 * config.ping_every.max(config.silence_limit / 2),
            stall_limit: config.stall_limit,
        }
    }
}

impl<T: AsyncRead + Unpin> Stream for Inbound<T> {
    type Item = SocketEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SocketEvent>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let wire = Rc::clone(&self.wire);
        let mut wire = wire.borrow_mut();
        // What it is woken for may be its end, and whoever comes back has to find a place.
        let may_wait = wire.flow.is_idle.get() && !self.places.is_scarce();
        if may_wait && self.turn.poll(cx).is_pending() {
            wire.flow.is_in_line.set(true);
            // The answer may be here already: how long it took is not known.
            wire.flow.pinged.set(None);
            *wire.flow.reader.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        loop {
            if let Some(end) = wire.end {
                self.is_over = true;
                return Poll::Ready(Some(SocketEvent::Ended(end)));
            }
            if wire.flow.has_room.replace(false) {
                return Poll::Ready(Some(SocketEvent::Room));
            }
            if !wire.flow.is_paused.get() {
                match wire.next_message() {
                    Ok(Some(message)) => {
                        let mut received = wire.flow.received.get();
                        received.count(message.len());
                        wire.flow.received.set(received);
                        return Poll::Ready(Some(SocketEvent::Message(message)));
                    }
                    Ok(None) => match wire.read(cx) {
                        Poll::Ready(()) => continue,
                        Poll::Pending => {
                            if wire.flow.is_in_line.replace(false) && wire.flow.wants_room.replace(false) {
                                return Poll::Ready(Some(SocketEvent::Room));
                            }
                        }
                    },
                    Err(end) => {
                        wire.end = Some(end);
                        continue;
                    }
                }
            }
            self.turn.over();
            *wire.flow.reader.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

impl<T: AsyncRead + Unpin> Wire<T> {
    /// The next whole message in what has been read; `None` if more has to be read.
    fn next_message(&mut self) -> Result<Option<Bytes>, End> {
        loop {
            let is_close = self.incoming.first().is_some_and(|first| first & 0x0f == CLOSE);
            let frame = match actix_codec::Decoder::decode(&mut self.codec, &mut self.incoming) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    // The codec measures a frame only once it is complete; a peer may announce one that never is.
                    if self.incoming.len() > self.message_limit + LONGEST_FRAME_HEADER {
                        return Err(End::TooLarge);
                    }
                    self.release_incoming();
                    return Ok(None);
                }
                Err(ProtocolError::Overflow) => return Err(End::TooLarge),
                // Agents that are killed say goodbye with a code that may not be sent.
                Err(_) if is_close => return Err(End::Closed),
                Err(_) => return Err(End::Broken),
            };
            match frame {
                Frame::Text(message) | Frame::Binary(message) => {
                    return if self.joined.is_none() { Ok(Some(message)) } else { Err(End::Broken) };
                }
                Frame::Continuation(Item::FirstText(part) | Item::FirstBinary(part)) => {
                    if self.joined.replace(BytesMut::from(&part[..])).is_some() {
                        return Err(End::Broken);
                    }
                }
                Frame::Continuation(Item::Continue(part)) => self.join(&part)?,
                Frame::Continuation(Item::Last(part)) => {
                    self.join(&part)?;
                    return Ok(self.joined.take().map(BytesMut::freeze));
                }
                Frame::Ping(payload) => self.pong = Some(Bytes::copy_from_slice(&payload)),
                Frame::Pong(_) => {
                    self.ponged = Instant::now();
                    if let Some(sent) = self.flow.pinged.take() {
                        self.flow.round_trip.set(Some(self.ponged - sent));
                    }
                }
                Frame::Close(_) => return Err(End::Closed),
            }
        }
    }

    fn join(&mut self, part: &[u8]) -> Result<(), End> {
        let joined = self.joined.as_mut().ok_or(End::Broken)?;
        if joined.len() + part.len() > self.message_limit {
            return Err(End::TooLarge);
        }
        joined.extend_from_slice(part);
        Ok(())
    }

    /// Keeps only what belongs to a frame not yet complete, in a buffer of its own: the old one is as large as the busiest
    /// moment, and idle sockets are many.
    fn release_incoming(&mut self) {
        if self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        } else if self.incoming.len() < READ_SIZE && self.incoming.capacity() > 3 * READ_SIZE {
            // Small pieces only: copying a large one at every read would take longer than reading it.
            self.incoming = BytesMut::from(&self.incoming[..]);
        }
    }

    /// Reads once. Ready when there is something new to look at, an end included.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { io, incoming, .. } = self;
        let read = READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match Pin::new(io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => {
                    incoming.extend_from_slice(buffer.filled());
                    Poll::Ready(Ok(buffer.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        });
        match ready!(read) {
            Ok(0) | Err(_) => self.end = Some(End::Lost),
            Ok(_) => self.heard = Instant::now(),
        }
        Poll::Ready(())
    }
}

enum Written {
    /// Nothing was left to write.
    Nothing,
    /// All is written, or the peer takes no more for now; something was written.
    Some,
    /// The peer takes nothing.
    Jammed,
    /// The connection is gone.
    Failed,
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    fn queue(&mut self, frames: Bytes) {
        self.outgoing_len += frames.len();
        self.outgoing.push_back(frames);
        self.flow.unwritten.set(self.outgoing_len);
    }

    /// Puts a control frame before all that waits; the frame that is being written must be whole.
    fn queue_first(&mut self, message: Message) {
        let mut frame = BytesMut::new();
        if self.codec.encode(message, &mut frame).is_ok() {
            self.outgoing_len += frame.len();
            self.outgoing.push_front(frame.freeze());
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Written {
        let mut wrote = false;
        loop {
            if !self.is_mid_frame {
                if std::mem::take(&mut self.ping) {
                    self.flow.pinged.set(Some(Instant::now()));
                    self.queue_first(Message::Ping(Bytes::from_static(PING)));
                }
                if let Some(payload) = self.pong.take() {
                    self.queue_first(Message::Pong(payload));
                }
            }
            let Some(head) = self.outgoing.front_mut() else {
                self.outgoing = VecDeque::new();
                self.note_written();
                return match Pin::new(&mut self.io).poll_flush(cx) {
                    Poll::Ready(Err(_)) => Written::Failed,
                    _ if wrote => Written::Some,
                    _ => Written::Nothing,
                };
            };
            match Pin::new(&mut self.io).poll_write(cx, head) {
                Poll::Ready(Ok(0) | Err(_)) => return Written::Failed,
                Poll::Ready(Ok(count)) => {
                    wrote = true;
                    self.jammed_since = None;
                    self.outgoing_len -= count;
                    bytes::Buf::advance(head, count);
                    self.is_mid_frame = !head.is_empty();
                    if head.is_empty() {
                        self.outgoing.pop_front();
                    }
                }
                Poll::Pending => {
                    self.note_written();
                    self.jammed_since.get_or_insert_with(Instant::now);
                    return if wrote { Written::Some } else { Written::Jammed };
                }
            }
        }
    }

    fn note_written(&mut self) {
        self.flow.unwritten.set(self.outgoing_len);
        if self.outgoing_len <= LOW_WATER && self.flow.wants_room.replace(false) {
            self.flow.has_room.set(true);
        }
    }

    fn end(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.flow.wake();
        }
    }
}

impl<S, T> Pump<S, T>
where
    S: Stream<Item = Result<Bytes, actix_web::Error>> + Unpin,
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    /// Runs the actor. Says whether anything came of it.
    fn poll_actor(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(actor) = &mut self.actor else { return false };
        match Pin::new(actor).poll_next(cx) {
            Poll::Ready(Some(Ok(frames))) => {
                self.wire.borrow_mut().queue(frames);
                true
            }
            Poll::Ready(Some(Err(_)) | None) => {
                self.actor = None;
                self.linger_until = Some(Instant::now() + LINGER);
                self.wire.borrow_mut().ping = false;
                true
            }
            Poll::Pending => false,
        }
    }

    /// Does what is due, and sets the timer for what is due next. Says whether anything was due.
    fn keep_deadlines(&mut self, cx: &mut Context<'_>) -> bool {
        let mut was_due = false;
        while self.timer.as_mut().poll(cx).is_ready() {
            was_due = true;
            let now = Instant::now();
            let mut wire = self.wire.borrow_mut();
            // A socket that is held cannot be heard; what holds it has deadlines of its own.
            if wire.flow.is_paused.get() || wire.flow.is_in_line.get() {
                (wire.heard, wire.ponged) = (now, now);
            }
            if wire.heard + self.silence_limit <= now || wire.ponged + self.pong_limit <= now {
                wire.end(End::Silent);
            }
            if wire.jammed_since.is_some_and(|since| since + self.stall_limit <= now) {
                wire.end(End::Stalled);
            }
            if wire.next_ping <= now {
                // Nothing may follow the Close frame.
                wire.ping = self.linger_until.is_none() && wire.end.is_none();
                wire.next_ping = now + self.ping_every;
            }
            let mut next = wire.next_ping;
            if wire.end.is_none() {
                next = next.min(wire.heard + self.silence_limit).min(wire.ponged + self.pong_limit);
                next = wire.jammed_since.map_or(next, |since| next.min(since + self.stall_limit));
            }
            next = self.linger_until.map_or(next, |until| next.min(until));
            drop(wire);
            self.timer.as_mut().reset(next.max(now + Duration::from_millis(1)));
            if self.linger_until.is_some_and(|until| until <= now) {
                break;
            }
        }
        was_due
    }

    /// The actor has ended: sends the rest, says goodbye and waits a moment for the peer's, since closing on unread bytes
    /// would reset the connection and could take the Close frame with it.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        if until <= Instant::now() {
            return Poll::Ready(());
        }
        let mut wire = self.wire.borrow_mut();
        if !wire.outgoing.is_empty() {
            return Poll::Pending;
        }
        if wire.end == Some(End::Lost) && wire.flow.is_idle.get() {
            // Nobody is there to say goodbye to, and when thousands are lost at once it is a fifth of what their ends take.
            return Poll::Ready(());
        }
        if !self.is_shut {
            match Pin::new(&mut wire.io).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.is_shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        if matches!(wire.end, Some(End::Lost | End::Stalled)) {
            return Poll::Ready(());
        }
        loop {
            let drained = READ_BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                Pin::new(&mut wire.io).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
            });
            match ready!(drained) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}

impl<S, T> Future for Pump<S, T>
where
    S: Stream<Item = Result<Bytes, actix_web::Error>> + Unpin,
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let pump = self.get_mut();
        loop {
            let mut again = pump.poll_actor(cx);
            let written = pump.wire.borrow_mut().write(cx);
            match written {
                Written::Nothing | Written::Jammed => {}
                Written::Some => again = true,
                Written::Failed => {
                    if pump.actor.is_none() {
                        return Poll::Ready(());
                    }
                    let mut wire = pump.wire.borrow_mut();
                    // An actor may wait for its turn to hear of it.
                    again |= wire.end.is_none();
                    wire.end(End::Lost);
                    wire.outgoing.clear();
                    wire.outgoing_len = 0;
                }
            }
            let jammed_since =
                Some(pump.wire.borrow()).filter(|wire| wire.end.is_none()).and_then(|wire| wire.jammed_since);
            if let Some(since) = jammed_since {
                // Only ever earlier: under load this happens all the time, and pings are due all the same.
                let due = since + pump.stall_limit;
                if due < pump.timer.deadline() {
                    pump.timer.as_mut().reset(due);
                }
            }
            if let Some(until) = pump.linger_until {
                if pump.poll_goodbye(cx, until).is_ready() {
                    return Poll::Ready(());
                }
                if pump.timer.deadline() > until {
                    pump.timer.as_mut().reset(until);
                }
            }
            again |= pump.keep_deadlines(cx);
            if pump.linger_until.is_some_and(|until| until <= Instant::now()) {
                return Poll::Ready(());
            }
            if !again {
                return Poll::Pending;
            }
        }
    }
}

#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;
