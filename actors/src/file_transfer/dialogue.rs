//! What every transfer says and hears besides its own messages: the handshake, pings, errors, the end.

use bytes::Bytes;
use serde::Serialize;
use storage::{SessionId, UserId};

use super::{DeviceError, Failure, wire};
use crate::message::{Compose, DEVICE_MESSAGE_LIMIT, Message, Prop, proto};

/// One session's own words.
#[derive(Debug)]
pub(super) struct Dialogue {
    sid: String,
    user: UserId,
    is_open: bool,
}

/// What a message of the device's means to a transfer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// Nothing.
    Nothing,
    /// Nothing, but the device wants this back to know that somebody is there.
    Ping(Bytes),
    /// It is ready for the transfer.
    Accepted,
    /// It refuses what was asked of it.
    Error(DeviceError),
    /// A message of the file transfer protocol.
    Message(Message<'a>),
}

impl Dialogue {
    /// The dialogue of a session, and its first word.
    pub(super) fn start(session: SessionId, user: UserId) -> (Self, Bytes) {
        let this = Self { sid: session.to_string(), user, is_open: false };
        let open = this.control("open", &wire::body(&wire::Open { versions: [1] }));
        (this, open)
    }

    /// The device said something.
    pub(super) fn hear<'a>(&mut self, raw: &'a [u8]) -> Result<Said<'a>, Failure> {
        let read = Message::read(raw).map_err(|_| Failure::OutOfStep("not a message"))?;
        match (read.proto, read.typ) {
            (proto::CONTROL, "ping") => Ok(Said::Ping(self.control("pong", &[]))),
            (proto::CONTROL, "pong") => Ok(Said::Nothing),
            (proto::CONTROL, "close") => Err(Failure::ClosedByDevice),
            (proto::CONTROL, "error") if !self.is_open => {
                Err(Failure::Handshake(wire::device_error(read.body.bytes())))
            }
            (proto::CONTROL, "accept") if !self.is_open => {
                let protocols = wire::accepted_protocols(read.body.bytes()).ok_or(Failure::NotImplemented)?;
                if !protocols.contains(&proto::FILE_TRANSFER) {
                    return Err(Failure::Disabled);
                }
                self.is_open = true;
                Ok(Said::Accepted)
            }
            // Agents from before the handshake send back what they were sent.
            _ if !self.is_open => Err(Failure::NotImplemented),
            (proto::CONTROL | proto::FILE_TRANSFER, "error") => Ok(Said::Error(wire::device_error(read.body.bytes()))),
            (proto::FILE_TRANSFER, _) => Ok(Said::Message(read)),
            _ => Ok(Said::Nothing),
        }
    }

    /// A request of the file transfer protocol.
    pub(super) fn request(&self, typ: &str, body: &impl Serialize) -> Bytes {
        self.say(proto::FILE_TRANSFER, typ, &[("user_id", Prop::Text(self.user.as_str()))], &wire::body(body))
    }

    /// A message about a place in the file. Devices read the number only in 64 bits.
    pub(super) fn at(&self, typ: &str, offset: i64, body: &[u8]) -> Bytes {
        self.say(proto::FILE_TRANSFER, typ, &[("offset", Prop::Wide(offset))], body)
    }

    fn control(&self, typ: &str, body: &[u8]) -> Bytes {
        self.say(proto::CONTROL, typ, &[], body)
    }

    fn say(&self, proto: u16, typ: &str, props: &[(&str, Prop<'_>)], body: &[u8]) -> Bytes {
        let message = Compose { proto, typ, sid: &self.sid, props, body }.to_bytes();
        debug_assert!(message.len() <= DEVICE_MESSAGE_LIMIT, "paths and chunks are bounded");
        message
    }
}

/// The offset that a message names.
pub(super) fn offset(message: &Message<'_>) -> Result<i64, Failure> {
    message.int_prop("offset").filter(|offset| *offset >= 0).ok_or(Failure::OutOfStep("a message without an offset"))
}

#[cfg(test)]
pub(super) mod testing {
    //! The device's side.

    use super::*;

    /// A message of the device's.
    pub fn said(proto: u16, typ: &str, body: &[u8]) -> Bytes {
        Compose { proto, typ, sid: "s", body, ..Compose::default() }.to_bytes()
    }

    /// One of the file transfer protocol about a place in the file.
    pub fn said_at(typ: &str, offset: i64, body: &[u8]) -> Bytes {
        let props = [("offset", Prop::Wide(offset))];
        Compose { proto: proto::FILE_TRANSFER, typ, sid: "s", props: &props, body }.to_bytes()
    }

    /// The answer to `open` of a device with these protocols.
    pub fn accept(protocols: &[u16]) -> Bytes {
        #[derive(Serialize)]
        struct Accept<'a> {
            version: u8,
            protocols: &'a [u16],
        }
        said(proto::CONTROL, "accept", &wire::body(&Accept { version: 1, protocols }))
    }

    /// An error of this protocol.
    pub fn error(proto: u16, err: &str, code: Option<u16>) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            err: &'a str,
            close: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            code: Option<u16>,
        }
        said(proto, "error", &wire::body(&Body { err, close: true, code }))
    }

    /// `(type, offset, length of the body)` of a message of ours.
    pub fn heard(message: &Bytes) -> (String, Option<i64>, usize) {
        let read = Message::read(message).unwrap();
        (read.typ.to_owned(), read.int_prop("offset"), read.body.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{accept, error, said};
    use super::*;

    fn opening() -> Dialogue {
        Dialogue::start(SessionId::random(), UserId::new("u")).0
    }

    #[test]
    fn the_first_word_is_open_with_a_version_and_no_properties() {
        let (_, open) = Dialogue::start(SessionId::random(), UserId::new("u"));
        let read = Message::read(&open).unwrap();
        assert_eq!((read.proto, read.typ), (proto::CONTROL, "open"));
        assert_eq!(read.text_prop("user_id"), None);
        assert_eq!(read.body.bytes(), b"\x81\xa8versions\x91\x01");
    }

    #[test]
    fn a_device_that_accepts_without_the_protocol_has_it_disabled() {
        assert!(matches!(opening().hear(&accept(&[1, 3, 4])), Err(Failure::Disabled)));
        assert!(matches!(opening().hear(&accept(&[])), Err(Failure::Disabled)));
        assert_eq!(opening().hear(&accept(&[4, 2])).unwrap(), Said::Accepted);
    }

    #[test]
    fn a_device_that_answers_anything_else_does_not_know_the_protocol() {
        for answer in [
            said(proto::CONTROL, "open", b"\x81\xa8versions\x91\x01"),
            said(proto::CONTROL, "accept", b"\xc1"),
            said(proto::CONTROL, "", b""),
            said(proto::FILE_TRANSFER, "error", b""),
            said(proto::SHELL, "stop", b""),
        ] {
            assert!(matches!(opening().hear(&answer), Err(Failure::NotImplemented)), "{answer:?}");
        }
    }

    #[test]
    fn a_refused_handshake_keeps_its_text_and_code() {
        let refused =
            |code| opening().hear(&error(proto::CONTROL, "handshake rejected: require version 1", code)).err();
        let Some(Failure::Handshake(said)) = refused(Some(403)) else { panic!("it went on") };
        assert_eq!((said.text.as_str(), said.code), ("handshake rejected: require version 1", Some(403)));
        let text = refused(None).unwrap().to_string();
        assert_eq!(text, "handshake error from client: handshake rejected: require version 1");
    }

    #[test]
    fn pings_are_answered_before_and_after_the_handshake() {
        let mut dialogue = opening();
        for _ in 0..2 {
            let Ok(Said::Ping(pong)) = dialogue.hear(&said(proto::CONTROL, "ping", b"")) else { panic!("no pong") };
            let read = Message::read(&pong).unwrap();
            assert_eq!((read.proto, read.typ, read.sid), (proto::CONTROL, "pong", dialogue.sid.as_str()));
            dialogue.hear(&accept(&[2])).unwrap();
        }
    }

    #[test]
    fn a_device_may_end_it_at_any_time() {
        let mut dialogue = opening();
        assert!(matches!(dialogue.hear(&said(proto::CONTROL, "close", b"")), Err(Failure::ClosedByDevice)));
        dialogue.hear(&accept(&[2])).unwrap();
        assert!(matches!(dialogue.hear(&said(proto::CONTROL, "close", b"")), Err(Failure::ClosedByDevice)));
        for proto in [proto::CONTROL, proto::FILE_TRANSFER] {
            let error = error(proto, "session timeout", None);
            assert!(matches!(dialogue.hear(&error), Ok(Said::Error(said)) if said.text == "session timeout"));
        }
        assert!(matches!(dialogue.hear(b"\xc1"), Err(Failure::OutOfStep(_))));
    }
}
