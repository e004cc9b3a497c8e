//! One websocket of a device, behaving as mender-connect's does: a ping every 54 s, a deadline of 60 s that only pings
//! and pongs extend, and messages of more than 8192 bytes answered by leaving.

use crate::{
    agent::{Agent, Wish},
    message::{DEVICE_MESSAGE_LIMIT, Message},
    server::Socket,
};
use bytes::Bytes;
use futures_util::{Sink, Stream};
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::{
    Error, Message as Frame,
    error::CapacityError,
    protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
};

const PING_INTERVAL: Duration = Duration::from_secs(54);
const READ_DEADLINE: Duration = Duration::from_mins(1);
/// What mender-connect, mender-cli and the server write in their pings: the deadline in seconds.
const PING_PAYLOAD: &[u8] = b"60";
/// Shell output is fetched only while fewer messages than this wait for the socket.
const OUTPUT_MARK: usize = 32;
/// A hub that asks so much and reads so little is left.
const OUTBOX_LIMIT: usize = 4096;

/// Settings of the websocket library for very many mostly idle sockets: its own default is 128 KiB for each.
pub fn lean_socket() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(0)
        .max_message_size(Some(DEVICE_MESSAGE_LIMIT))
        .max_frame_size(Some(DEVICE_MESSAGE_LIMIT))
}

/// The same for sockets on which next to nothing happens; large messages take many small reads here.
pub fn idle_socket() -> WebSocketConfig {
    lean_socket().read_buffer_size(128)
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The hub closed it, with this code and reason.
    Closed(Option<(u16, String)>),
    /// It broke, or was silent for 60 s, or carried what the agent does not accept.
    Lost(String),
    /// The hub sent what the agent does not read: it leaves and comes back.
    Fault(String),
    /// The hub did what ends the real agent's process, with all its shells and sessions.
    Died(String),
    /// The device left because it was told to, and comes back after this time.
    Left(Duration),
}

/// How a device leaves when it is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// With a Close frame of code 1000, as mender-connect does when its token changes.
    Close,
    /// By closing the connection without one, as the newest agents do, and every device that loses its network.
    Cut,
}

/// Where a device is told to leave its websocket; the latest order counts.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    latest: Mutex<Option<(Leave, Duration)>>,
    given: Notify,
}

impl Orders {
    pub(crate) fn give(&self, how: Leave, away: Duration) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((how, away));
        self.given.notify_one();
    }

    async fn next(&self) -> (Leave, Duration) {
        loop {
            if let Some(order) = self.latest.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return order;
            }
            self.given.notified().await;
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(Some((code, reason))) => write!(f, "closed by the hub with {code} {reason:?}"),
            Self::Closed(None) => f.write_str("closed by the hub"),
            Self::Lost(why) => write!(f, "lost: {why}"),
            Self::Fault(why) | Self::Died(why) => write!(f, "broken by the hub: {why}"),
            Self::Left(away) => write!(f, "left for {} ms", away.as_millis()),
        }
    }
}

/// Serves one websocket until it ends.
pub(crate) async fn serve(socket: &mut Socket, agent: &mut Agent, orders: &Orders) -> End {
    agent.set_online(true);
    let mut connection = Connection { socket, agent, outbox: VecDeque::new(), flushing: false };
    let end = connection.run(orders).await;
    agent.set_online(false);
    end
}

struct Connection<'a> {
    socket: &'a mut Socket,
    agent: &'a mut Agent,
    outbox: VecDeque<Frame>,
    flushing: bool,
}

enum Happened {
    Heard(Frame),
    Wished(Wish),
    Ended(End),
}

impl Connection<'_> {
    async fn run(&mut self, orders: &Orders) -> End {
        let mut next_ping = Instant::now() + PING_INTERVAL;
        let mut deadline = Instant::now() + READ_DEADLINE;
        loop {
            let mut wake = self.agent.next_tick().map_or(next_ping, |tick| tick.min(next_ping));
            if !self.agent.is_busy() {
                wake = wake.min(deadline);
            }
            let happened = tokio::select! {
                happened = poll_fn(|context| self.poll(context)) => happened,
                (how, away) = orders.next() => {
                    if how == Leave::Close {
                        self.say_goodbye(CloseCode::Normal, "");
                    }
                    return End::Left(away);
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    let now = Instant::now();
                    // The agent looks at its deadline only when it reads.
                    if now >= deadline && !self.agent.is_busy() {
                        return End::Lost("no ping or pong from the hub for 60 s".to_owned());
                    }
                    if now >= next_ping {
                        next_ping += PING_INTERVAL;
                        self.outbox.push_back(Frame::Ping(Bytes::from_static(PING_PAYLOAD)));
                    }
                    for message in self.agent.tick(now) {
                        self.send(&message);
                    }
                    continue;
                }
            };
            match happened {
                Happened::Heard(Frame::Ping(_) | Frame::Pong(_)) => {
                    // The library has put the pong in its queue; the next poll sends it.
                    deadline = Instant::now() + READ_DEADLINE;
                }
                Happened::Heard(Frame::Close(frame)) => {
                    return End::Closed(frame.map(|frame| (frame.code.into(), frame.reason.to_string())));
                }
                Happened::Heard(frame) => match Message::decode(&frame.into_data()) {
                    Ok(message) => self.hear(message),
                    Err(error) => {
                        let why = format!("undecodable message: {error}");
                        self.say_goodbye(CloseCode::Invalid, &why);
                        return End::Fault(why);
                    }
                },
                Happened::Wished(Wish::Say(message)) => self.send(&message),
                Happened::Wished(Wish::Die(fault)) => return End::Died(fault),
                Happened::Ended(end) => return end,
            }
            if self.outbox.len() > OUTBOX_LIMIT {
                let why = "the hub does not read its answers";
                self.say_goodbye(CloseCode::Policy, why);
                return End::Lost(why.to_owned());
            }
        }
    }

    /// Writes what can be written and reads what can be read; neither waits for the other.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Happened> {
        if let Err(error) = self.poll_write(context) {
            return Poll::Ready(Happened::Ended(End::Lost(error.to_string())));
        }
        if self.outbox.len() < OUTPUT_MARK
            && let Poll::Ready(wish) = self.agent.poll_wish(context)
        {
            return Poll::Ready(Happened::Wished(wish));
        }
        if self.agent.poll_ready(context).is_pending() {
            // A busy session holds up everything that is read, as in the agent.
            return Poll::Pending;
        }
        match Pin::new(&mut *self.socket).poll_next(context) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Happened::Heard(frame)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Happened::Ended(broken(&error))),
            Poll::Ready(None) => return Poll::Ready(Happened::Ended(End::Lost("the connection ended".to_owned()))),
            Poll::Pending => {}
        }
        Poll::Pending
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        while !self.outbox.is_empty() {
            match Pin::new(&mut *self.socket).poll_ready(context)? {
                Poll::Ready(()) => {
                    if let Some(frame) = self.outbox.pop_front() {
                        Pin::new(&mut *self.socket).start_send(frame)?;
                        self.flushing = true;
                    }
                }
                Poll::Pending => return Ok(()),
            }
        }
        if self.flushing && Pin::new(&mut *self.socket).poll_flush(context)?.is_ready() {
            self.flushing = false;
        }
        if self.outbox.capacity() > OUTPUT_MARK && self.outbox.is_empty() {
            // A burst is over; an idle device keeps nothing of it.
            self.outbox = VecDeque::new();
        }
        Ok(())
    }

    fn hear(&mut self, message: Message) {
        for reply in self.agent.hear(message, Instant::now()) {
            self.send(&reply);
        }
    }

    fn send(&mut self, message: &Message) {
        self.outbox.push_back(Frame::Binary(message.encode()));
    }

    /// Says why, as far as the socket takes it.
    fn say_goodbye(&mut self, code: CloseCode, why: &str) {
        let frame = Frame::Close(Some(CloseFrame { code, reason: why.chars().take(100).collect::<String>().into() }));
        let mut context = Context::from_waker(std::task::Waker::noop());
        if Pin::new(&mut *self.socket).poll_ready(&mut context).is_ready() {
            let _broken = Pin::new(&mut *self.socket).start_send(frame);
            let _unsent = Pin::new(&mut *self.socket).poll_flush(&mut context);
        }
    }
}

fn broken(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            End::Fault(format!("a message of more than {DEVICE_MESSAGE_LIMIT} bytes"))
        }
        other => End::Lost(other.to_string()),
    }
}
