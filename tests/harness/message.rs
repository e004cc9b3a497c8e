//! Messages between devices and operators: made from parts, and taken apart.

use crate::msgpack::{self, Value};

/// A message to be sent. Properties stand in the order given.
#[derive(Debug, Clone)]
pub struct Packet {
    proto: u16,
    typ: String,
    sid: Option<String>,
    props: Vec<(String, Prop)>,
    body: Option<Vec<u8>>,
}

/// A property's value and the way it is written.
#[derive(Debug, Clone)]
pub enum Prop {
    /// A number in the fewest bytes.
    Small(u8),
    /// A number in eight bytes, signed (marker `0xd3`).
    Wide(i64),
    /// Text.
    Text(String),
}

impl From<i32> for Prop {
    /// Numbers as they stand in a test are small ones.
    fn from(number: i32) -> Self {
        Self::Small(u8::try_from(number).expect("a small number"))
    }
}

impl From<i64> for Prop {
    fn from(number: i64) -> Self {
        Self::Wide(number)
    }
}

impl From<&str> for Prop {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Packet {
    /// A message of a protocol and type.
    pub fn new(proto: u16, typ: &str) -> Self {
        Self { proto, typ: typ.to_owned(), sid: None, props: vec![], body: None }
    }

    /// A terminal message.
    pub fn shell(typ: &str) -> Self {
        Self::new(1, typ)
    }

    /// A message of the session layer.
    pub fn control(typ: &str) -> Self {
        Self::new(65535, typ)
    }

    /// In this session.
    #[must_use]
    pub fn sid(mut self, sid: &str) -> Self {
        self.sid = Some(sid.to_owned());
        self
    }

    /// With this property.
    #[must_use]
    pub fn prop(mut self, name: &str, value: impl Into<Prop>) -> Self {
        self.props.push((name.to_owned(), value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// As it goes over the wire, in the forms that the Go clients use.
    pub fn bytes(&self) -> Vec<u8> {
        let fields = 2 + usize::from(self.sid.is_some()) + usize::from(!self.props.is_empty());
        let mut out = vec![0x81 + u8::from(self.body.is_some())];
        text(&mut out, "hdr");
        out.push(0x80 | small(fields));
        text(&mut out, "proto");
        out.push(0xcd);
        out.extend(self.proto.to_be_bytes());
        text(&mut out, "typ");
        text(&mut out, &self.typ);
        if let Some(sid) = &self.sid {
            text(&mut out, "sid");
            text(&mut out, sid);
        }
        if !self.props.is_empty() {
            text(&mut out, "props");
            out.push(0x80 | small(self.props.len()));
            for (name, value) in &self.props {
                text(&mut out, name);
                match value {
                    Prop::Small(number @ 0..=0x7f) => out.push(*number),
                    Prop::Small(number) => out.extend([0xcc, *number]),
                    Prop::Wide(number) => {
                        out.push(0xd3);
                        out.extend(number.to_be_bytes());
                    }
                    Prop::Text(value) => text(&mut out, value),
                }
            }
        }
        if let Some(body) = &self.body {
            text(&mut out, "body");
            out.push(0xc6);
            out.extend(u32::try_from(body.len()).expect("a body that fits").to_be_bytes());
            out.extend(body);
        }
        out
    }
}

fn small(count: usize) -> u8 {
    u8::try_from(count).ok().filter(|count| *count < 16).expect("a handful")
}

fn text(out: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()).expect("a short text") {
        length @ 0..32 => out.push(0xa0 | length),
        length => out.extend([0xd9, length]),
    }
    out.extend(text.as_bytes());
}

/// A message that was received.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Its bytes.
    pub raw: Vec<u8>,
    value: Value,
}

impl Heard {
    /// Takes it apart.
    ///
    /// # Panics
    /// When it is no message: the hub must never send such a thing.
    pub fn read(raw: Vec<u8>) -> Self {
        let value = msgpack::read(&raw).unwrap_or_else(|error| panic!("{error}: {raw:02x?}"));
        assert!(value.get("hdr").and_then(|header| header.get("proto")).is_some(), "no message: {value:?}");
        Self { raw, value }
    }

    fn header(&self, field: &str) -> Option<&Value> {
        self.value.get("hdr")?.get(field)
    }

    /// Protocol number.
    pub fn proto(&self) -> i64 {
        self.header("proto").and_then(Value::int).expect("proto is a number")
    }

    /// The marker byte that the protocol number was written with.
    pub fn proto_marker(&self) -> u8 {
        self.header("proto").and_then(Value::int_marker).expect("proto is a number")
    }

    /// Type; empty if absent.
    pub fn typ(&self) -> &str {
        self.header("typ").and_then(Value::text).unwrap_or_default()
    }

    /// Session; empty if absent.
    pub fn sid(&self) -> &str {
        self.header("sid").and_then(Value::text).unwrap_or_default()
    }

    /// A property.
    pub fn prop(&self, name: &str) -> Option<&Value> {
        self.header("props")?.get(name)
    }

    /// A property that is a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.prop(name)?.int()
    }

    /// A property that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.prop(name)?.text()
    }

    /// The body's bytes; empty if absent.
    ///
    /// # Panics
    /// When it is not bytes.
    pub fn body(&self) -> &[u8] {
        match self.value.get("body") {
            None => &[],
            Some(Value::Bin(bytes)) => bytes,
            Some(other) => panic!("a body that is not bytes: {other:?}"),
        }
    }

    /// Whether there is a body at all, be it empty.
    pub fn has_body(&self) -> bool {
        self.value.get("body").is_some()
    }

    /// Whether it is of this protocol and type.
    pub fn is(&self, proto: u16, typ: &str) -> bool {
        self.proto() == i64::from(proto) && self.typ() == typ
    }
}
