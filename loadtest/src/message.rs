//! The messages that devices and operators exchange through a hub: a header and a body, in `MessagePack`.
//!
//! Written as mender-connect writes them (`proto` always as a 16 bit integer, small integers compact, empty members
//! left out); read generously, as every peer has to: any width, any order, unknown keys, a text as body.

pub(crate) mod pack;

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{EnumAccess, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// Protocol number of the terminal.
pub const SHELL: u16 = 1;
/// Protocol number of file transfer.
pub const FILE_TRANSFER: u16 = 2;
/// Protocol number of port forwarding.
pub const PORT_FORWARD: u16 = 3;
/// Protocol number of commands to the update client.
pub const UPDATE_CLIENT: u16 = 4;
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
    /// The protocol, from [`SHELL`] to [`CONTROL`].
    pub proto: u16,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    props: Option<BTreeMap<String, Property>>,
}

/// A value in a header's properties.
#[derive(Debug, Clone, PartialEq)]
pub enum Property {
    /// An integer, written as short as it goes.
    Integer(i64),
    /// An integer in 64 bits: agents take an offset in no other form.
    Wide(i64),
    /// A text.
    Text(String),
    /// Something this crate has no use for: read, and written as nil.
    Other,
}

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PropertyVisitor)
    }
}

struct PropertyVisitor;

impl<'de> Visitor<'de> for PropertyVisitor {
    type Value = Property;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a property")
    }

    // The reader calls the method of the width it met.
    fn visit_i8<E>(self, value: i8) -> Result<Property, E> {
        Ok(Property::Integer(value.into()))
    }

    fn visit_i16<E>(self, value: i16) -> Result<Property, E> {
        Ok(Property::Integer(value.into()))
    }

    fn visit_i32<E>(self, value: i32) -> Result<Property, E> {
        Ok(Property::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Property, E> {
        Ok(Property::Wide(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Property, E> {
        Ok(i64::try_from(value).map_or(Property::Other, Property::Integer))
    }

    fn visit_str<E>(self, value: &str) -> Result<Property, E> {
        Ok(Property::Text(value.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Property, E> {
        Ok(Property::Other)
    }

    fn visit_f32<E>(self, _: f32) -> Result<Property, E> {
        Ok(Property::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Property, E> {
        Ok(Property::Other)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Property, E> {
        Ok(Property::Other)
    }

    fn visit_none<E>(self) -> Result<Property, E> {
        Ok(Property::Other)
    }

    fn visit_unit<E>(self) -> Result<Property, E> {
        Ok(Property::Other)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Property, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Property, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Property::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, members: A) -> Result<Property, A::Error> {
        IgnoredAny.visit_seq(members).map(|_| Property::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Property, A::Error> {
        IgnoredAny.visit_map(members).map(|_| Property::Other)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, value: A) -> Result<Property, A::Error> {
        IgnoredAny.visit_enum(value).map(|_| Property::Other)
    }
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

    /// The same with one more integer property of 64 bits, whatever its value.
    #[must_use]
    pub fn wide(mut self, name: &str, value: i64) -> Self {
        self.header.props.get_or_insert_default().insert(name.to_owned(), Property::Wide(value));
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

    /// A message of another type with the rest of this one's header, and without a body.
    #[must_use]
    pub fn answered_by(&self, kind: &str) -> Self {
        Self { header: Header { typ: Some(kind.to_owned()), ..self.header.clone() }, body: None }
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
            Property::Integer(value) | Property::Wide(value) => Some(*value),
            _ => None,
        }
    }

    /// The property of this name, with its form.
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.header.props.as_ref()?.get(name)
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
        pack::map(&mut out, if has_body { 2 } else { 1 });
        pack::text(&mut out, "hdr");
        self.header.encode(&mut out);
        if has_body {
            pack::text(&mut out, "body");
            pack::bytes(&mut out, self.body());
        }
        out.into()
    }
}

impl Header {
    fn encode(&self, out: &mut Vec<u8>) {
        let typ = self.typ.as_deref().filter(|text| !text.is_empty());
        let sid = self.sid.as_deref().filter(|text| !text.is_empty());
        let props = self.props.as_ref().filter(|map| !map.is_empty());
        pack::map(out, 1 + usize::from(typ.is_some()) + usize::from(sid.is_some()) + usize::from(props.is_some()));
        pack::text(out, "proto");
        pack::uint16(out, self.proto);
        if let Some(typ) = typ {
            pack::text(out, "typ");
            pack::text(out, typ);
        }
        if let Some(sid) = sid {
            pack::text(out, "sid");
            pack::text(out, sid);
        }
        if let Some(props) = props {
            pack::text(out, "props");
            pack::map(out, props.len());
            for (name, value) in props {
                pack::text(out, name);
                match value {
                    Property::Integer(value) => pack::integer(out, *value),
                    Property::Wide(value) => pack::int64(out, *value),
                    Property::Text(text) => pack::text(out, text),
                    Property::Other => out.push(0xc0),
                }
            }
        }
    }
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
        let message =
            Message::new(CONTROL, "open").session(&long).wide("offset", 0).text("user_id", "u").with_body([7; 300]);

        assert_eq!(Message::decode(&message.encode()).expect("a message"), message);
    }
    #[test]
    fn the_width_of_an_integer_is_known() {
        let read = |hex: &str| {
            let header = format!("81 a3 686472 82 a5 70726f746f 02 a5 70726f7073 81 a1 6f {hex}");
            Message::decode(&bytes(&header)).expect("a message").property("o").cloned()
        };

        assert_eq!(read("d3 0000000000000007"), Some(Property::Wide(7)));
        for narrow in ["07", "cc 07", "cd 0007", "ce 00000007", "d1 0007", "cf 0000000000000007"] {
            assert_eq!(read(narrow), Some(Property::Integer(7)), "{narrow}");
        }
        for other in ["c0", "c3", "92 01 02", "81 01 02", "d6 ff 00000000", "ca 00000000", "cf ffffffffffffffff"] {
            assert_eq!(read(other), Some(Property::Other), "{other}");
        }
    }
}
