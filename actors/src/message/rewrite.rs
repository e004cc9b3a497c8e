//! What the hub changes in a message on its way, and nothing else.
//!
//! Towards a device: the session id and the user are stamped on, text bodies become bytes, and no message exceeds what the
//! agent reads. Towards an operator: `status` and `timeout` are widened, because the command line client recognises them
//! only as 64-bit numbers, and an empty body is left out. Everything else passes in the bytes it came in.

use bytes::Bytes;

use super::{Cursor, Malformed, Message, cursor, proto};

/// The largest message a device's agent reads, in bytes; one byte more and it drops its connection (`deviceconnect-15`).
pub const DEVICE_MESSAGE_LIMIT: usize = 8192;

/// Keystrokes and pastes beyond this many bytes are split: the size of every other transfer unit in the protocol.
pub const SHELL_PIECE: usize = 4096;

/// Longest property section that is stamped and forwarded: leaves room for a full [`SHELL_PIECE`].
const PROPS_LIMIT: usize = 2048;

/// Why a message does not go to the device; its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Larger than a device reads, and of a protocol in which splitting would change the meaning.
    #[error("message of {size} bytes exceeds the {DEVICE_MESSAGE_LIMIT} bytes a device accepts")]
    TooLarge {
        /// Its size once stamped, in bytes.
        size: usize,
    },
}

/// The message as the device gets it: one piece, or several when a large paste has to be split.
///
/// # Errors
/// [`Refused`] when it cannot be made to fit.
pub fn for_device(message: &Message<'_>, sid: &str, user: &str) -> Result<Vec<Bytes>, Refused> {
    let (props_len, props) = stamp_user(message, user);
    let body = message.body.bytes();
    let splits = message.proto == proto::SHELL && message.typ == "shell";
    if splits && body.len() > SHELL_PIECE && props.len() <= PROPS_LIMIT {
        return Ok(body.chunks(SHELL_PIECE).map(|piece| build(message, sid, props_len, &props, piece)).collect());
    }
    let whole = build(message, sid, props_len, &props, body);
    if whole.len() > DEVICE_MESSAGE_LIMIT { Err(Refused::TooLarge { size: whole.len() }) } else { Ok(vec![whole]) }
}

/// The message as an operator gets it. `raw` is what `message` was read from; it is passed on untouched where possible.
pub fn for_operator(message: &Message<'_>, raw: &Bytes) -> Bytes {
    let widens = message.find_prop("status").is_some() || message.find_prop("timeout").is_some();
    if !widens && !message.odd_form {
        return raw.slice(..message.len);
    }
    let props = widen_status(message).unwrap_or_else(|_| message.props.to_vec());
    build(message, message.sid, message.props_len, &props, message.body.bytes())
}

/// The message under another session id, otherwise as it is.
pub fn readdress(message: &Message<'_>, sid: &str) -> Bytes {
    build(message, sid, message.props_len, message.props, message.body.bytes())
}

/// Writes a whole message. `props` are encoded entries, `props_len` of them.
pub(super) fn write(out: &mut Vec<u8>, proto: u16, typ: &str, sid: &str, props_len: u32, props: &[u8], body: &[u8]) {
    cursor::write_map(out, 1 + u32::from(!body.is_empty()));
    cursor::write_str(out, "hdr");
    cursor::write_map(out, 1 + u32::from(!typ.is_empty()) + u32::from(!sid.is_empty()) + u32::from(props_len > 0));
    cursor::write_str(out, "proto");
    cursor::write_proto(out, proto);
    if !typ.is_empty() {
        cursor::write_str(out, "typ");
        cursor::write_str(out, typ);
    }
    if !sid.is_empty() {
        cursor::write_str(out, "sid");
        cursor::write_str(out, sid);
    }
    if props_len > 0 {
        cursor::write_str(out, "props");
        cursor::write_map(out, props_len);
        out.extend(props);
    }
    if !body.is_empty() {
        cursor::write_str(out, "body");
        cursor::write_bin(out, body);
    }
}

fn build(message: &Message<'_>, sid: &str, props_len: u32, props: &[u8], body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(64 + message.typ.len() + sid.len() + props.len() + body.len());
    write(&mut out, message.proto, message.typ, sid, props_len, props, body);
    out.into()
}

/// The properties with `user_id` set to `user`, whatever the client claimed.
fn stamp_user(message: &Message<'_>, user: &str) -> (u32, Vec<u8>) {
    let mut props = Vec::with_capacity(message.props.len() + user.len() + 12);
    let mut len = 1;
    let copied = each_prop(message, |name, entry, _| {
        if name != b"user_id" {
            props.extend(entry);
            len += 1;
        }
    });
    debug_assert!(copied.is_ok(), "the properties were walked when the message was read");
    cursor::write_str(&mut props, "user_id");
    cursor::write_str(&mut props, user);
    (len, props)
}

fn widen_status(message: &Message<'_>) -> Result<Vec<u8>, Malformed> {
    let mut props = Vec::with_capacity(message.props.len() + 16);
    each_prop(message, |name, entry, value| {
        let number = matches!(name, b"status" | b"timeout").then(|| Cursor::new(value).integer().ok()).flatten();
        match number {
            Some(number) => {
                props.extend(&entry[..entry.len() - value.len()]);
                cursor::write_int64(&mut props, number);
            }
            None => props.extend(entry),
        }
    })?;
    Ok(props)
}

/// Calls `visit(name, whole entry, value)` for each property, the latter two encoded.
fn each_prop<'a>(message: &Message<'a>, mut visit: impl FnMut(&'a [u8], &'a [u8], &'a [u8])) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(message.props);
    for _ in 0..message.props_len {
        let start = cursor.position();
        let name = cursor.key()?;
        let value_start = cursor.position();
        cursor.skip()?;
        visit(name, cursor.since(start), cursor.since(value_start));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Body, Compose, Prop};
    use super::*;

    fn message(props: &[(&str, Prop<'_>)], body: &[u8]) -> Bytes {
        Compose { proto: proto::SHELL, typ: "shell", sid: "mine", props, body }.to_bytes()
    }

    #[test]
    fn stamps_session_and_user_over_what_the_client_claimed() {
        let raw = message(&[("user_id", Prop::Text("somebody else")), ("n", Prop::Wide(1))], b"ls");
        let stamped = for_device(&Message::read(&raw).unwrap(), "hub's", "u-1").unwrap();
        let read = Message::read(&stamped[0]).unwrap();
        assert_eq!((read.sid, read.text_prop("user_id"), read.int_prop("n")), ("hub's", Some("u-1"), Some(1)));
        assert_eq!(read.body, Body::Binary(b"ls"));
        // 64-bit integers keep their width: devices take an offset in no other.
        assert!(stamped[0].windows(2).any(|pair| pair == [b'n', 0xd3]));
    }

    #[test]
    fn a_paste_of_any_size_reaches_the_device_in_pieces_it_can_read() {
        let paste: Vec<u8> = (0..20_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        let raw = message(&[], &paste);
        let pieces = for_device(&Message::read(&raw).unwrap(), "s", "u").unwrap();
        assert!(pieces.iter().all(|piece| piece.len() <= DEVICE_MESSAGE_LIMIT));
        let joined: Vec<u8> =
            pieces.iter().flat_map(|piece| Message::read(piece).unwrap().body.bytes().to_vec()).collect();
        assert_eq!(joined, paste);
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        let raw = Compose { proto: 12345, typ: "x", body: &[0; 9000], ..Compose::default() }.to_bytes();
        assert!(matches!(
            for_device(&Message::read(&raw).unwrap(), "s", "u"),
            Err(Refused::TooLarge { size }) if size > 9000
        ));
        let long = "n".repeat(8100);
        let raw = message(&[(&long, Prop::Small(1))], &[b'x'; 5000]);
        assert!(for_device(&Message::read(&raw).unwrap(), "s", "u").is_err());
    }

    #[test]
    fn an_empty_body_is_left_out() {
        let raw: Bytes = [&b"\x82\xa3hdr\x81\xa5proto\x01\xa4body"[..], &[0xc4, 0x00]].concat().into();
        let read = Message::read(&raw).unwrap();
        assert_eq!(for_operator(&read, &raw), Compose { proto: 1, ..Compose::default() }.to_bytes());
    }

    #[test]
    fn status_and_timeout_become_64_bit_for_operators() {
        let raw = message(&[("status", Prop::Small(2)), ("timeout", Prop::Small(65)), ("k", Prop::Small(3))], b"no");
        let out = for_operator(&Message::read(&raw).unwrap(), &raw);
        assert_eq!(
            out,
            message(&[("status", Prop::Wide(2)), ("timeout", Prop::Wide(65)), ("k", Prop::Small(3))], b"no")
        );
    }

    #[test]
    fn everything_else_passes_untouched_and_trailing_bytes_are_dropped() {
        let raw = message(&[("connection_id", Prop::Text("c"))], b"data");
        let longer: Bytes = [&raw[..], b"trailing"].concat().into();
        assert_eq!(for_operator(&Message::read(&longer).unwrap(), &longer), raw);
    }
}
