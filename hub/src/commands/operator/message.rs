//! A message of a session as it travels: a header and a body in `MessagePack`.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, IgnoredAny, Visitor},
};
use serde_bytes::{ByteBuf, Bytes};
use std::{collections::BTreeMap, fmt};

/// Protocol number of the shell.
pub const SHELL: u16 = 1;
/// Protocol number of port forwarding.
pub const PORT_FORWARD: u16 = 3;
/// Protocol number of what the hub itself and its own client tell each other.
pub const HUB: u16 = 64_000;
/// Protocol number of what concerns a session as a whole.
pub const CONTROL: u16 = 65_535;

/// A property in a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Prop {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
    /// Something that no property we know is.
    Other,
}

impl From<&str> for Prop {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A message to send.
#[derive(Debug, Serialize)]
pub struct Outgoing<'a> {
    hdr: OutgoingHeader<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a Bytes>,
}

#[derive(Debug, Serialize)]
struct OutgoingHeader<'a> {
    proto: u16,
    typ: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sid: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "as_map")]
    props: &'a [(&'static str, Prop)],
}

fn as_map<S: Serializer>(props: &[(&'static str, Prop)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(props.iter().map(|(name, value)| (name, value)))
}

impl<'a> Outgoing<'a> {
    /// A message of this protocol and type, with nothing else.
    pub fn new(proto: u16, typ: &'a str) -> Self {
        Self { hdr: OutgoingHeader { proto, typ, sid: "", props: &[] }, body: None }
    }

    /// Of this session; the hub knows which one a socket is for, so an empty id does.
    pub fn of(mut self, session: &'a str) -> Self {
        self.hdr.sid = session;
        self
    }

    /// With these properties.
    pub fn with(mut self, props: &'a [(&'static str, Prop)]) -> Self {
        self.hdr.props = props;
        self
    }

    /// With this body, which is absent when it is empty.
    pub fn carrying(mut self, body: &'a [u8]) -> Self {
        self.body = (!body.is_empty()).then(|| Bytes::new(body));
        self
    }

    /// The message as it travels.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("plain structs always have a form in MessagePack")
    }
}

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Incoming {
    /// The protocol's number.
    pub proto: u16,
    /// Its type in that protocol; empty if absent.
    pub typ: String,
    /// The session it belongs to; empty if absent.
    pub sid: String,
    props: BTreeMap<String, Prop>,
    /// Its body; empty if absent.
    pub body: Vec<u8>,
}

impl Incoming {
    /// Reads a message.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        #[derive(Deserialize)]
        struct Message {
            hdr: Header,
            #[serde(default)]
            body: Option<ByteBuf>,
        }
        #[derive(Deserialize)]
        struct Header {
            proto: u16,
            #[serde(default)]
            typ: Option<String>,
            #[serde(default)]
            sid: Option<String>,
            #[serde(default)]
            props: Option<BTreeMap<String, Prop>>,
        }
        let Message { hdr, body } = rmp_serde::from_slice(bytes)?;
        Ok(Self {
            proto: hdr.proto,
            typ: hdr.typ.unwrap_or_default(),
            sid: hdr.sid.unwrap_or_default(),
            props: hdr.props.unwrap_or_default(),
            body: body.map(ByteBuf::into_vec).unwrap_or_default(),
        })
    }

    /// The property with this name, if it is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.props.get(name) {
            Some(Prop::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// The property with this name, if it is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.props.get(name) {
            Some(Prop::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// What somebody else wrote, fit to be shown on one line.
pub fn printable(text: &str) -> String {
    /// Longer explanations help nobody.
    const MOST: usize = 400;
    let one_line = text.replace(['\r', '\n', '\t'], " ");
    let printable: String = one_line.chars().filter(|letter| !letter.is_control()).collect();
    printable.trim().chars().take(MOST).collect()
}

impl<'de> Deserialize<'de> for Prop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyProp;
        impl<'de> Visitor<'de> for AnyProp {
            type Value = Prop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a property")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Prop, E> {
                Ok(Prop::Number(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Prop, E> {
                Ok(u64::try_from(number).map_or(Prop::Other, Prop::Number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prop, E> {
                Ok(Prop::Text(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, is_true: bool) -> Result<Prop, E> {
                Ok(Prop::Number(u64::from(is_true)))
            }

            fn visit_f64<E: de::Error>(self, _number: f64) -> Result<Prop, E> {
                Ok(Prop::Other)
            }

            fn visit_bytes<E: de::Error>(self, _bytes: &[u8]) -> Result<Prop, E> {
                Ok(Prop::Other)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Prop, E> {
                Ok(Prop::Other)
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Prop, D::Error> {
                IgnoredAny::deserialize(inner).map(|_| Prop::Other)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Prop, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Prop::Other)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Prop, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Prop::Other)
            }
        }
        deserializer.deserialize_any(AnyProp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_left_out() {
        assert_eq!(Outgoing::new(SHELL, "new").encode(), b"\x81\xa3hdr\x82\xa5proto\x01\xa3typ\xa3new");
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let props = [("connection_id", Prop::from("c")), ("bytes", Prop::Number(u64::MAX))];
        let bytes = Outgoing::new(HUB, "input").of("s").with(&props).carrying(b"\x00\xff").encode();

        let read = Incoming::decode(&bytes).expect("a message");
        assert_eq!((read.proto, read.typ.as_str(), read.sid.as_str()), (HUB, "input", "s"));
        assert_eq!((read.text("connection_id"), read.number("bytes")), (Some("c"), Some(u64::MAX)));
        assert_eq!(read.body, b"\x00\xff");
    }

    #[test]
    fn any_width_and_kind_of_property_is_read() {
        // {hdr:{proto:uint64, props:{w:int64 80, n:-1, l:[1], f:1.5, t:timestamp, z:nil}}, body:str}
        let mut bytes = b"\x82\xa3hdr\x82\xa5proto\xcf\0\0\0\0\0\0\0\x01\xa5props\x86".to_vec();
        bytes.extend(b"\xa1w\xd3\0\0\0\0\0\0\0\x50\xa1n\xff\xa1l\x91\x01\xa1f\xcb\x3f\xf8\0\0\0\0\0\0");
        bytes.extend(b"\xa1t\xd6\xff\0\0\0\0\xa1z\xc0\xa4body\xa2ok");

        let read = Incoming::decode(&bytes).expect("a message");
        assert_eq!((read.proto, read.number("w"), read.number("n")), (SHELL, Some(80), None));
        assert_eq!(read.body, b"ok");
    }

    #[test]
    fn nonsense_is_no_message() {
        for nonsense in [&b""[..], b"\x80", b"\x81\xa3hdr\xc0", b"hello"] {
            assert!(Incoming::decode(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn a_text_of_others_is_shown_on_one_line() {
        assert_eq!(printable(" dial\n\x1b[2Jtcp\t \u{7}"), "dial [2Jtcp");
        assert_eq!(printable(&"x".repeat(1000)).len(), 400);
    }
}
