//! One message between a device and an operator, read without decoding it.
//!
//! A message is a MessagePack map `{"hdr": {"proto", "typ", "sid", "props"}, "body"}`. The hub looks at the header with a
//! cursor and forwards the rest as it came: no allocation, no second encoding, and integers keep the width their sender
//! gave them, which strictly typed clients rely on (rows `deviceconnect-9` to `deviceconnect-13`).

mod cursor;
mod rewrite;

use bytes::Bytes;
use cursor::Cursor;
pub use rewrite::{DEVICE_MESSAGE_LIMIT, Refused, SHELL_PIECE, for_device, for_operator, readdress};

/// Which protocol a message belongs to (`hdr.proto`).
pub mod proto {
    /// Remote terminal.
    pub const SHELL: u16 = 1;
    /// File transfer.
    pub const FILE_TRANSFER: u16 = 2;
    /// Port forwarding.
    pub const PORT_FORWARD: u16 = 3;
    /// Commands to the update client.
    pub const UPDATE_CLIENT: u16 = 4;
    /// What the hub and a client of its own tell each other about a terminal that is kept, shared or taken over.
    pub const MOORING: u16 = 64000;
    /// The session layer under all of them but the terminal.
    pub const CONTROL: u16 = 65535;
}

/// Values of `props.status` in terminal messages.
pub mod status {
    /// All is well.
    pub const NORMAL: u8 = 1;
    /// It failed; the body says why.
    pub const ERROR: u8 = 2;
}

/// What a message says about itself; borrows from the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Protocol number, see [`proto`].
    pub proto: u16,
    /// Message type; empty when absent.
    pub typ: &'a str,
    /// Session id as the sender wrote it; empty when absent.
    pub sid: &'a str,
    /// The entries of the property map, still encoded, without the map's own marker.
    props: &'a [u8],
    props_len: u32,
    /// What follows the header.
    pub body: Body<'a>,
    /// Length of the message within the bytes read: what comes after it is ignored.
    len: usize,
    /// Legal, but in a form that operators' clients stumble over: a 64-bit `proto`, a body that is text or empty.
    odd_form: bool,
}

/// The body of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// No body: absent, nil, or the empty map that old browsers send.
    Absent,
    /// Bytes, as every peer should send them.
    Binary(&'a [u8]),
    /// Text: browsers send keystrokes so.
    Text(&'a [u8]),
}

impl<'a> Body<'a> {
    /// The bytes, whatever their marker.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Absent => &[],
            Self::Binary(bytes) | Self::Text(bytes) => bytes,
        }
    }
}

/// The bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message: {0}")]
pub struct Malformed(pub(crate) &'static str);

impl<'a> Message<'a> {
    /// Reads the header of the first message in `raw`.
    ///
    /// # Errors
    /// When the bytes are not such a map, a field has a type that no peer may send, or the message is cut short.
    pub fn read(raw: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(raw);
        let mut header = None;
        let mut body = Body::Absent;
        let mut odd_body = false;
        for _ in 0..cursor.map()?.ok_or(Malformed("nil instead of a map"))? {
            match cursor.key()? {
                b"hdr" => header = Some(Header::read(&mut cursor)?),
                b"body" => {
                    body = read_body(&mut cursor)?;
                    odd_body = !matches!(body, Body::Binary([_, ..]));
                }
                _ => cursor.skip()?,
            }
        }
        let Header { proto, typ, sid, props, props_len, wide_proto } = header.ok_or(Malformed("no header"))?;
        Ok(Self { proto, typ, sid, props, props_len, body, len: cursor.position(), odd_form: wide_proto || odd_body })
    }

    /// The integer property `name`, if it is there and fits.
    pub fn int_prop(&self, name: &str) -> Option<i64> {
        self.find_prop(name).and_then(|mut at| at.integer().ok())
    }

    /// The text property `name`.
    pub fn text_prop(&self, name: &str) -> Option<&'a str> {
        self.find_prop(name).and_then(|mut at| at.text().ok().flatten())
    }

    fn find_prop(&self, name: &str) -> Option<Cursor<'a>> {
        let mut cursor = Cursor::new(self.props);
        for _ in 0..self.props_len {
            if cursor.key().ok()? == name.as_bytes() {
                return Some(cursor);
            }
            cursor.skip().ok()?;
        }
        None
    }
}

struct Header<'a> {
    proto: u16,
    typ: &'a str,
    sid: &'a str,
    props: &'a [u8],
    props_len: u32,
    wide_proto: bool,
}

impl<'a> Header<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        let mut header = Self { proto: 0, typ: "", sid: "", props: &[], props_len: 0, wide_proto: false };
        let mut has_proto = false;
        for _ in 0..cursor.map()?.ok_or(Malformed("nil instead of a header"))? {
            match cursor.key()? {
                b"proto" => {
                    header.wide_proto = cursor.is_64_bit();
                    header.proto =
                        u16::try_from(cursor.integer()?).map_err(|_| Malformed("proto is not a 16-bit number"))?;
                    has_proto = true;
                }
                b"typ" => header.typ = cursor.text()?.unwrap_or(""),
                b"sid" => header.sid = cursor.text()?.unwrap_or(""),
                b"props" => {
                    let Some(len) = cursor.map()? else { continue };
                    let start = cursor.position();
                    for _ in 0..len {
                        cursor.key()?;
                        cursor.skip()?;
                    }
                    header.props = cursor.since(start);
                    header.props_len = len;
                }
                _ => cursor.skip()?,
            }
        }
        if has_proto { Ok(header) } else { Err(Malformed("no proto")) }
    }
}

fn read_body<'a>(cursor: &mut Cursor<'a>) -> Result<Body<'a>, Malformed> {
    if let Some(text) = cursor.text_bytes_if_text()? {
        return Ok(Body::Text(text));
    }
    if cursor.empty_map_if_map()? {
        return Ok(Body::Absent);
    }
    Ok(cursor.binary()?.map_or(Body::Absent, Body::Binary))
}

/// A message the hub itself says.
#[derive(Debug, Clone, Default)]
pub struct Compose<'a> {
    /// Protocol number, see [`proto`].
    pub proto: u16,
    /// Message type.
    pub typ: &'a str,
    /// Session id; left out when empty.
    pub sid: &'a str,
    /// Properties, in this order.
    pub props: &'a [(&'a str, Prop<'a>)],
    /// Body; left out when empty.
    pub body: &'a [u8],
}

/// A property value the hub itself writes.
#[derive(Debug, Clone, Copy)]
pub enum Prop<'a> {
    /// A small number, in the narrowest form: what devices expect of `status`.
    Small(u8),
    /// A number in the 16-bit form: what browsers take for a number of their own.
    Short(u16),
    /// A number in the 64-bit form: operators' clients recognise `status`, and devices `offset`, only so.
    Wide(i64),
    /// Text.
    Text(&'a str),
}

impl Compose<'_> {
    /// The message's bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(96 + self.sid.len() + self.body.len());
        let mut props = Vec::new();
        for (name, value) in self.props {
            cursor::write_str(&mut props, name);
            match *value {
                Prop::Small(number) => cursor::write_small(&mut props, number),
                Prop::Short(number) => cursor::write_proto(&mut props, number),
                Prop::Wide(number) => cursor::write_int64(&mut props, number),
                Prop::Text(text) => cursor::write_str(&mut props, text),
            }
        }
        let props_len = u32::try_from(self.props.len()).expect("a handful of properties");
        rewrite::write(&mut out, self.proto, self.typ, self.sid, props_len, &props, self.body);
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn reads_a_control_open() {
        let raw = bytes(
            "82 a3686472 83 a570726f746f cdffff a3747970 a46f70656e a3736964 a3616263 \
             a4626f6479 c40c 81 a876657273696f6e73 91 01",
        );
        let message = Message::read(&raw).unwrap();
        assert_eq!((message.proto, message.typ, message.sid), (proto::CONTROL, "open", "abc"));
        assert_eq!(message.body.bytes(), bytes("81 a876657273696f6e73 91 01"));
    }

    #[test]
    fn reads_a_shell_ping_and_its_properties() {
        let raw = bytes(
            "81 a3686472 84 a570726f746f cd0001 a3747970 a470696e67 a3736964 a173 \
             a570726f7073 82 a774696d656f7574 41 a6737461747573 03",
        );
        let message = Message::read(&raw).unwrap();
        assert_eq!((message.int_prop("timeout"), message.int_prop("status")), (Some(65), Some(3)));
        assert_eq!(message.int_prop("absent"), None);
        assert_eq!(message.body, Body::Absent);
    }

    #[test]
    fn reads_text_bodies_explicit_nils_and_unknown_keys() {
        let text = bytes("82 a3686472 81 a570726f746f 01 a4626f6479 a36c730d");
        assert_eq!(Message::read(&text).unwrap().body, Body::Text(b"ls\r"));

        let nils =
            bytes("83 a3686472 84 a570726f746f 01 a3747970 c0 a3736964 c0 a570726f7073 c0 a4626f6479 c0 a178 93010203");
        let message = Message::read(&nils).unwrap();
        assert_eq!((message.typ, message.sid, message.body), ("", "", Body::Absent));
    }

    #[test]
    fn an_empty_map_as_body_is_no_body() {
        let raw = bytes("82 a3686472 81 a570726f746f 01 a4626f6479 80");
        assert_eq!(Message::read(&raw).unwrap().body, Body::Absent);
    }

    #[test]
    fn refuses_what_no_peer_may_send() {
        for (raw, why) in [
            ("", "nothing"),
            ("c0", "nil"),
            ("93010203", "an array"),
            ("81 a3686472 80", "a header without proto"),
            ("81 a4626f6479 c40161", "a body without header"),
            ("81 a3686472 81 a570726f746f ce00010000", "proto beyond 16 bits"),
            ("82 a3686472 81 a570726f746f 01 a4626f6479 07", "a number as body"),
            ("82 a3686472 81 a570726f746f 01 a4626f6479 81a16101", "a filled map as body"),
            ("81 a3686472 82 a570726f746f 01 a570726f7073 81 01 01", "a property without a name"),
            ("82 a3686472 81 a570726f746f 01 a4626f6479 c4ff61", "a body cut short"),
            ("df ffffffff", "a map of four thousand million entries"),
        ] {
            assert!(Message::read(&bytes(raw)).is_err(), "{why} was read");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let mut raw = bytes("82 a178");
        raw.extend(std::iter::repeat_n(0x91, 100_000));
        raw.push(0x01);
        raw.extend(bytes("a3686472 81 a570726f746f 01"));
        assert!(Message::read(&raw).is_err());
    }

    #[test]
    fn composes_what_it_can_read() {
        let composed = Compose {
            proto: proto::SHELL,
            typ: "stop",
            sid: "s",
            props: &[("status", Prop::Small(2)), ("user_id", Prop::Text("u"))],
            body: b"user disconnected",
        }
        .to_bytes();
        let message = Message::read(&composed).unwrap();
        assert_eq!(
            (message.typ, message.int_prop("status"), message.text_prop("user_id")),
            ("stop", Some(2), Some("u"))
        );
        assert_eq!(message.body, Body::Binary(b"user disconnected"));
    }
}
