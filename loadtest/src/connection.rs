//! One websocket of a device, behaving as mender-connect's does: a ping every 54 s, a deadline of 60 s that only pings
//! and pongs extend, and messages of more than 8192 bytes answered by leaving.

use crate::{
    message::{CONTROL, DEVICE_MESSAGE_LIMIT, Message, SHELL},
    server::Socket,
    terminals::Terminals,
};
use bytes::Bytes;
use futures_util::{Sink, Stream};
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::{
    Message as Frame,
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

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The hub closed it, with this code and reason.
    Closed(Option<(u16, String)>),
    /// It broke, or was silent for 60 s, or carried what the agent does not accept.
    Lost(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(Some((code, reason))) => write!(f, "closed by the hub with {code} {reason:?}"),
            Self::Closed(None) => f.write_str("closed by the hub"),
            Self::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

/// Serves one websocket until it ends.
pub async fn serve(socket: &mut Socket, terminals: &mut Terminals) -> End {
    let mut connection = Connection { socket, terminals, outbox: VecDeque::new(), flushing: false };
    connection.run().await
}

struct Connection<'a> {
    socket: &'a mut Socket,
    terminals: &'a mut Terminals,
    outbox: VecDeque<Frame>,
    flushing: bool,
}

enum Happened {
    Heard(Frame),
    Printed(Message),
    Ended(End),
}

impl Connection<'_> {
    async fn run(&mut self) -> End {
        let mut next_ping = Instant::now() + PING_INTERVAL;
        let mut deadline = Instant::now() + READ_DEADLINE;
        loop {
            let wake = self.terminals.next_tick().map_or(next_ping, |tick| tick.min(next_ping)).min(deadline);
            let happened = tokio::select! {
                happened = poll_fn(|context| self.poll(context)) => happened,
                () = tokio::time::sleep_until(wake.into()) => {
                    let now = Instant::now();
                    if now >= deadline {
                        return End::Lost("no ping or pong from the hub for 60 s".to_owned());
                    }
                    if now >= next_ping {
                        next_ping += PING_INTERVAL;
                        self.outbox.push_back(Frame::Ping(Bytes::from_static(PING_PAYLOAD)));
                    }
                    for message in self.terminals.tick(now) {
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
                    Ok(message) => self.hear(&message),
                    Err(error) => return self.leave(CloseCode::Invalid, &format!("undecodable message: {error}")),
                },
                Happened::Printed(message) => self.send(&message),
                Happened::Ended(end) => return end,
            }
            if self.outbox.len() > OUTBOX_LIMIT {
                return self.leave(CloseCode::Policy, "the hub does not read its answers");
            }
        }
    }

    /// Writes what can be written and reads what can be read; neither waits for the other.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Happened> {
        if let Err(error) = self.poll_write(context) {
            return Poll::Ready(Happened::Ended(End::Lost(error.to_string())));
        }
        match Pin::new(&mut *self.socket).poll_next(context) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Happened::Heard(frame)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Happened::Ended(End::Lost(error.to_string()))),
            Poll::Ready(None) => return Poll::Ready(Happened::Ended(End::Lost("the connection ended".to_owned()))),
            Poll::Pending => {}
        }
        if self.outbox.len() < OUTPUT_MARK {
            return self.terminals.poll_output(context).map(Happened::Printed);
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

    fn hear(&mut self, message: &Message) {
        let replies = match message.header.proto {
            SHELL => self.terminals.hear(message, Instant::now()),
            CONTROL => control(message).into_iter().collect(),
            proto => vec![no_handler(message, proto)],
        };
        for reply in replies {
            self.send(&reply);
        }
    }

    fn send(&mut self, message: &Message) {
        self.outbox.push_back(Frame::Binary(message.encode()));
    }

    /// Says why, as far as the socket takes it, and goes.
    fn leave(&mut self, code: CloseCode, why: &str) -> End {
        let frame = Frame::Close(Some(CloseFrame { code, reason: why.chars().take(100).collect::<String>().into() }));
        let mut context = Context::from_waker(std::task::Waker::noop());
        if Pin::new(&mut *self.socket).poll_ready(&mut context).is_ready() {
            let _broken = Pin::new(&mut *self.socket).start_send(frame);
            let _unsent = Pin::new(&mut *self.socket).poll_flush(&mut context);
        }
        End::Lost(why.to_owned())
    }
}

/// The answer to a message of session control.
fn control(message: &Message) -> Option<Message> {
    let answer = |kind| Message::new(CONTROL, kind).session(message.session_id());
    match message.kind() {
        "open" if offers_version_1(message.body()) => {
            let body = serde_json::json!({ "version": 1, "protocols": [SHELL] });
            Some(answer("accept").with_body(packed(&body)))
        }
        "open" => {
            let body = serde_json::json!({ "err": "handshake rejected: require version 1", "close": true });
            Some(answer("error").with_body(packed(&body)))
        }
        "ping" => Some(answer("pong")),
        "pong" | "close" | "accept" | "error" => None,
        _ => Some(no_handler(message, CONTROL)),
    }
}

fn offers_version_1(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Open {
        versions: Vec<i64>,
    }
    rmp_serde::from_slice::<Open>(body).is_ok_and(|open| open.versions.contains(&1))
}

fn no_handler(message: &Message, proto: u16) -> Message {
    let body = serde_json::json!({
        "err": format!("no handler registered for protocol: 0x{proto:04X}"),
        "close": false,
        "msgproto": proto,
        "msgtype": message.kind(),
    });
    Message::new(CONTROL, "error").session(message.session_id()).with_body(packed(&body))
}

fn packed(body: &serde_json::Value) -> Vec<u8> {
    rmp_serde::to_vec_named(body).expect("JSON always has a form in MessagePack")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Accept {
        version: i64,
        protocols: Vec<u16>,
    }

    #[test]
    fn an_open_with_version_1_is_accepted() {
        let body = rmp_serde::to_vec_named(&serde_json::json!({ "versions": [1] })).expect("packed");
        let answer = control(&Message::new(CONTROL, "open").session("s").with_body(body)).expect("an answer");

        let accept: Accept = rmp_serde::from_slice(answer.body()).expect("a body");
        assert_eq!((answer.kind(), answer.session_id(), accept.version), ("accept", "s", 1));
        assert_eq!(accept.protocols, [SHELL]);
    }

    #[test]
    fn an_open_without_version_1_is_refused() {
        let body = rmp_serde::to_vec_named(&serde_json::json!({ "versions": [2] })).expect("packed");
        assert_eq!(control(&Message::new(CONTROL, "open").with_body(body)).expect("an answer").kind(), "error");
    }

    #[test]
    fn a_ping_is_answered_and_a_pong_is_not() {
        assert_eq!(control(&Message::new(CONTROL, "ping")).expect("an answer").kind(), "pong");
        assert_eq!(control(&Message::new(CONTROL, "pong")), None);
    }

    #[test]
    fn an_unknown_protocol_is_named_in_the_answer() {
        let answer = no_handler(&Message::new(12345, "x"), 12345);
        assert!(String::from_utf8_lossy(answer.body()).contains("no handler registered for protocol: 0x3039"));
    }
}
