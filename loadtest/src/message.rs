//! The messages that devices and operators exchange through a hub: a header and a body, in `MessagePack`.
//!
//! Written as mender-connect writes them (`proto` always as a 16 bit integer, small integers compact, empty members
//! left out); read generously, as every peer has to: any width, any order, unknown keys, a text as body.

use bytes::Bytes;
use serde::Deserialize;
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// Protocol number of the terminal.
pub const SHELL: u16 = 1;
/// Protocol number of session control.
pub const CONTROL: u16 = 65535;

/// The largest message a device accepts, in bytes; mender-connect drops its connection at one byte more.
pub const DEVICE_MESSAGE_LIMIT: usize = 8192;

/// `props.status` of an ordinary shell message.
pub const STATUS_NORMAL: i64 = 1;
/// `props.status` of a shell message that tells of an error, or of the shell's end.
pub const STATUS_ERROR: i64 = 2;
/// `props.status` of a shell message about the session itself.
pub const STATUS_CONTROL: i64 = 3;

/// One message.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Message {
    /// What it is and whom it concerns.
    #[serde(rename = "hdr")]
    pub header: Header,
    /// Its content; structured bodies are `MessagePack` themselves.
    #[serde(default)]
    body: Option<ByteBuf>,
}

/// The header of a [`Message`].
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Header {
    /// The protocol, see [`SHELL`] and [`CONTROL`].
    pub proto: u16,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    props: Option<BTreeMap<String, Property>>,
}

/// A value in a header's properties.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Property {
    /// Any integer that fits.
    Integer(i64),
    /// A text.
    Text(String),
    /// Something this crate has no use for: read, never written.
    Other(serde::de::IgnoredAny),
}

impl Message {
    /// A message without session, properties and body.
    pub fn new(proto: u16, kind: &str) -> Self {
        Self { header: Header { proto, typ: Some(kind.to_owned()), sid: None, props: None }, body: None }
    }

    /// The same for the session `id`.
    #[must_use]
    pub fn session(mut self, id: &str) -> Self {
        self.header.sid = Some(id.to_owned());
        self
    }

    /// The same with one more integer property.
    #[must_use]
    pub fn integer(mut self, name: &str, value: i64) -> Self {
        self.header.props.get_or_insert_default().insert(name.to_owned(), Property::Integer(value));
        self
    }

    /// The same with one more text property.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.header.props.get_or_insert_default().insert(name.to_owned(), Property::Text(value.to_owned()));
        self
    }

    /// The same with this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(ByteBuf::from(body.into()));
        self
    }

    /// The message type, empty if there is none.
    pub fn kind(&self) -> &str {
        self.header.typ.as_deref().unwrap_or_default()
    }

    /// The session, empty if there is none.
    pub fn session_id(&self) -> &str {
        self.header.sid.as_deref().unwrap_or_default()
    }

    /// The integer property of this name.
    pub fn integer_property(&self, name: &str) -> Option<i64> {
        match self.header.props.as_ref()?.get(name)? {
            Property::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The text property of this name.
    pub fn text_property(&self, name: &str) -> Option<&str> {
        match self.header.props.as_ref()?.get(name)? {
            Property::Text(value) => Some(value),
            _ => None,
        }
    }

    /// The body, empty if there is none.
    pub fn body(&self) -> &[u8] {
        self.body.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When the bytes do not begin with a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        rmp_serde::from_slice(bytes)
    }

    /// The message as it travels.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 + self.body().len());
        let has_body = !self.body().is_empty();
        put_map(&mut out, if has_body { 2 } else { 1 });
        put_text(&mut out, "hdr");
        self.header.encode(&mut out);
        if has_body {
            put_text(&mut out, "body");
            put_bytes(&mut out, self.body());
        }
        out.into()
    }
}

impl Header {
    fn encode(&self, out: &mut Vec<u8>) {
        let typ = self.typ.as_deref().filter(|text| !text.is_empty());
        let sid = self.sid.as_deref().filter(|text| !text.is_empty());
        let props = self.props.as_ref().filter(|map| !map.is_empty());
        put_map(out, 1 + usize::from(typ.is_some()) + usize::from(sid.is_some()) + usize::from(props.is_some()));
        put_text(out, "proto");
        out.push(0xcd);
        out.extend_from_slice(&self.proto.to_be_bytes());
        if let Some(typ) = typ {
            put_text(out, "typ");
            put_text(out, typ);
        }
        if let Some(sid) = sid {
            put_text(out, "sid");
            put_text(out, sid);
        }
        if let Some(props) = props {
            put_text(out, "props");
            put_map(out, props.len());
            for (name, value) in props {
                put_text(out, name);
                match value {
                    Property::Integer(value) => put_integer(out, *value),
                    Property::Text(text) => put_text(out, text),
                    Property::Other(_) => out.push(0xc0),
                }
            }
        }
    }
}

fn put_map(out: &mut Vec<u8>, members: usize) {
    match u8::try_from(members) {
        Ok(few) if few < 16 => out.push(0x80 | few),
        _ => {
            out.push(0xdf);
            out.extend_from_slice(&length(members));
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(short) if short < 32 => out.push(0xa0 | short),
        Ok(short) => out.extend_from_slice(&[0xd9, short]),
        Err(_) => {
            out.push(0xdb);
            out.extend_from_slice(&length(text.len()));
        }
    }
    out.extend_from_slice(text.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if let Ok(short) = u8::try_from(bytes.len()) {
        out.extend_from_slice(&[0xc4, short]);
    } else {
        out.push(0xc6);
        out.extend_from_slice(&length(bytes.len()));
    }
    out.extend_from_slice(bytes);
}

fn put_integer(out: &mut Vec<u8>, value: i64) {
    match u8::try_from(value) {
        Ok(small) if small < 128 => out.push(small),
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("nothing in a message is longer than 4 GiB").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex"))
            .collect()
    }

    #[test]
    fn a_shell_ping_has_the_bytes_of_the_real_agent() {
        let ping = Message::new(SHELL, "ping").session("s").integer("timeout", 65).integer("status", STATUS_CONTROL);

        // The order of properties is free; ours is alphabetical.
        let expected = bytes(
            "81 a3 686472 84 a5 70726f746f cd0001 a3 747970 a4 70696e67 a3 736964 a1 73
             a5 70726f7073 82 a6 737461747573 03 a7 74696d656f7574 41",
        );
        assert_eq!(ping.encode(), expected);
    }

    #[test]
    fn keystrokes_of_the_web_ui_are_read_from_a_text_body() {
        let keys =
            Message::decode(&bytes("82 a3 686472 82 a5 70726f746f 01 a3 747970 a5 7368656c6c a4 626f6479 a3 6c730d"))
                .expect("a message");

        assert_eq!((keys.kind(), keys.body()), ("shell", &b"ls\r"[..]));
    }

    #[test]
    fn wide_integers_nils_and_unknown_members_are_read() {
        let spawn = Message::decode(&bytes(
            "83 a1 78 01 a3 686472 84 a5 70726f746f cd0001 a3 747970 a3 6e6577 a3 736964 c0
             a5 70726f7073 81 ae 7465726d696e616c5f7769647468 d30000000000000050 a4 626f6479 c0",
        ))
        .expect("a message");

        assert_eq!(spawn.integer_property("terminal_width"), Some(80));
        assert_eq!((spawn.session_id(), spawn.body()), ("", &b""[..]));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let long = "x".repeat(40);
        let message = Message::new(CONTROL, "open")
            .session(&long)
            .integer("big", 1 << 40)
            .text("user_id", "u")
            .with_body([7; 300]);

        assert_eq!(Message::decode(&message.encode()).expect("a message"), message);
    }
}
