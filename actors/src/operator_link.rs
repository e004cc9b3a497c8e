//! One operator's end of a session as a pure state machine.
//!
//! What the operator says is stamped for the device here, where it enters the hub, and waits here for credit; while
//! anything waits, the operator's socket is not read. Rows `deviceconnect-7` to `deviceconnect-17`.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use storage::{SessionId, UserId};

use crate::message::{self, Compose, Malformed, Message, Prop, Refused, proto, status};
use crate::session::{SessionEnd, charge};

/// One operator's end of a session.
#[derive(Debug)]
pub struct OperatorLink {
    sid: String,
    user: UserId,
    window: usize,
    /// Credit in use towards the device.
    in_flight: usize,
    /// Stamped and waiting for credit: at most what one message of the operator's was split into.
    waiting: VecDeque<Bytes>,
    use_of: Use,
    /// Number of the next message from the session.
    next_number: u32,
    /// Number of the next message to the session.
    next_to_session: u32,
    /// Whether its client understands the hub's own messages.
    is_ours: bool,
}

/// What a session is used for, as far as its end matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Nothing was said yet: it may be a terminal about to open.
    Unknown,
    /// A terminal was opened and not yet ended by either side.
    Terminal,
    /// Other protocols, or a terminal that has ended.
    Other,
}

/// What the operator's last message came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is on its way, or waits for credit.
    Accepted,
    /// It cannot go to the device; the operator is told by this message.
    Refused(Bytes),
    /// Its client has all output up to that offset.
    Seen(u64),
    /// The operator leaves the session and wants it to go on.
    Leave,
}

impl OperatorLink {
    /// A socket of `user` in a session, with `window` bytes of credit towards the device. `is_ours` if its client
    /// understands the hub's own messages.
    pub fn new(session: SessionId, user: UserId, window: usize, is_ours: bool) -> Self {
        Self {
            is_ours,
            next_to_session: 0,
            sid: session.to_string(),
            user,
            window,
            in_flight: 0,
            waiting: VecDeque::new(),
            use_of: Use::Unknown,
            next_number: 0,
        }
    }

    /// The operator said something.
    ///
    /// # Errors
    /// When it is not a message: the session has to end.
    pub fn hear(&mut self, raw: &[u8]) -> Result<Heard, Malformed> {
        let read = Message::read(raw)?;
        match (read.proto, read.typ) {
            (proto::MOORING, "output") if self.is_ours => {
                let output = read.int_prop("bytes").and_then(|bytes| u64::try_from(bytes).ok());
                return Ok(Heard::Seen(output.ok_or(Malformed("output without bytes"))?));
            }
            (proto::MOORING, "leave") if self.is_ours => return Ok(Heard::Leave),
            (proto::MOORING, _) if self.is_ours => return Ok(Heard::Accepted),
            (proto::SHELL, "new") => self.use_of = Use::Terminal,
            (proto::SHELL, "stop") => self.use_of = Use::Other,
            _ if self.use_of == Use::Unknown => self.use_of = Use::Other,
            _ => {}
        }
        match message::for_device(&read, &self.sid, self.user.as_str()) {
            Ok(pieces) => {
                self.waiting.extend(pieces);
                Ok(Heard::Accepted)
            }
            Err(refused) => Ok(Heard::Refused(self.refusal(&read, refused))),
        }
    }

    /// The next message for the device and its number, if there is credit for it.
    pub fn next_for_device(&mut self) -> Option<(u32, Bytes)> {
        let cost = charge(self.waiting.front()?.len());
        // A message larger than the whole window goes alone rather than never.
        if self.in_flight > 0 && self.in_flight + cost > self.window {
            return None;
        }
        self.in_flight += cost;
        let message = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        let number = self.next_to_session;
        self.next_to_session = number.wrapping_add(1);
        Some((number, message))
    }

    /// Whether the operator's socket has to be left unread for now.
    pub fn is_backlogged(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Messages of `bytes` have left for the device.
    pub fn credit(&mut self, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// The session said something that goes to the operator. `false` if the link between two nodes lost a message before it.
    pub fn from_session(&mut self, number: u32, message: &[u8]) -> bool {
        if number != self.next_number {
            return false;
        }
        self.next_number = number.wrapping_add(1);
        if let Ok(Message { proto: proto::SHELL, typ: typ @ ("new" | "stop"), .. }) = Message::read(message) {
            // A `new` that failed leaves another shell of this session running, if there is one.
            self.use_of = if typ == "new" { Use::Terminal } else { Use::Other };
        }
        true
    }

    /// The last word to the operator when the session ends from the other side: a `stop` if a terminal is open or may be
    /// about to, since the command line client hangs without it. A client that can come back hears none if the session may
    /// go on.
    pub fn farewell(&mut self, why: SessionEnd) -> Option<Bytes> {
        if self.is_ours && matches!(why, SessionEnd::NodeShutdown | SessionEnd::Moved | SessionEnd::LinkLost) {
            return None;
        }
        let may_be_terminal = std::mem::replace(&mut self.use_of, Use::Other) != Use::Other;
        may_be_terminal.then(|| {
            Compose {
                proto: proto::SHELL,
                typ: "stop",
                sid: &self.sid,
                props: &[("status", Prop::Wide(status::ERROR.into()))],
                body: why.text().as_bytes(),
            }
            .to_bytes()
        })
    }

    fn refusal(&self, read: &Message<'_>, refused: Refused) -> Bytes {
        #[derive(Serialize)]
        struct ErrorBody<'a> {
            err: String,
            close: bool,
            code: u16,
            msgproto: u16,
            msgtype: &'a str,
        }
        let body =
            ErrorBody { err: refused.to_string(), close: false, code: 413, msgproto: read.proto, msgtype: read.typ };
        let body = rmp_serde::to_vec_named(&body).expect("a plain struct encodes");
        Compose { proto: proto::CONTROL, typ: "error", sid: &self.sid, body: &body, ..Compose::default() }.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::DisconnectReason;

    fn link() -> OperatorLink {
        OperatorLink::new(SessionId::random(), UserId::new("u"), 16 * 1024, false)
    }

    fn shell(typ: &str, body: &[u8]) -> Bytes {
        Compose { proto: proto::SHELL, typ, body, ..Compose::default() }.to_bytes()
    }

    #[test]
    fn a_large_paste_waits_for_credit_and_loses_nothing() {
        let mut link = link();
        link.hear(&shell("shell", &vec![b'x'; 100_000])).unwrap();
        let mut received = 0;
        while let Some((_, message)) = link.next_for_device() {
            received += Message::read(&message).unwrap().body.bytes().len();
        }
        assert!(link.is_backlogged(), "the window is smaller than the paste");
        while link.is_backlogged() {
            link.credit(16 * 1024);
            while let Some((_, message)) = link.next_for_device() {
                received += Message::read(&message).unwrap().body.bytes().len();
            }
        }
        assert_eq!(received, 100_000);
    }

    #[test]
    fn a_message_beyond_the_devices_limit_is_answered_with_an_error() {
        let raw = Compose { proto: 3, typ: "forward", body: &[0; 9000], ..Compose::default() }.to_bytes();
        let Heard::Refused(answer) = link().hear(&raw).unwrap() else { panic!("it was accepted") };
        let read = Message::read(&answer).unwrap();
        assert_eq!((read.proto, read.typ), (proto::CONTROL, "error"));
    }

    #[test]
    fn an_open_terminal_hears_stop_once_when_the_device_goes() {
        let gone = SessionEnd::DeviceGone(DisconnectReason::ConnectionLost);
        let mut forwards = link();
        forwards.hear(&Compose { proto: proto::CONTROL, typ: "open", ..Compose::default() }.to_bytes()).unwrap();
        assert_eq!(forwards.farewell(gone), None, "no terminal, no stop");
        assert!(link().farewell(gone).is_some(), "it may have been about to open one");

        let mut link = link();
        link.hear(&shell("new", b"")).unwrap();
        let stop = link.farewell(gone).unwrap();
        let read = Message::read(&stop).unwrap();
        assert_eq!(
            (read.typ, read.int_prop("status"), read.body.bytes()),
            ("stop", Some(2), &b"device disconnected"[..])
        );
        assert_eq!(link.farewell(gone), None);
    }

    #[test]
    fn a_gap_in_numbered_messages_is_noticed() {
        let mut link = link();
        assert!(link.from_session(0, &shell("shell", b"a")));
        assert!(!link.from_session(2, &shell("shell", b"c")));
    }
}
