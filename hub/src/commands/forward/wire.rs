//! Port forwarding as an operator speaks it.

use super::mapping::Mapping;
use crate::commands::operator::message::{CONTROL, Incoming, Outgoing, PORT_FORWARD, Prop, printable};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most that one frame carries: what every peer of the protocol sends, and all that some of them take.
pub const LARGEST_FRAME: usize = 4096;

/// What an operator says.
#[derive(Debug, Clone, Copy)]
pub enum Say<'a> {
    /// May this session forward ports?
    Open,
    /// Connect to this place.
    New(Uuid, &'a Mapping),
    /// Bytes for it.
    Forward(Uuid, &'a [u8]),
    /// One frame was taken.
    Ack(Uuid),
    /// End this connection.
    Stop(Uuid),
    /// Still here.
    Pong,
    /// The end of the session.
    Close,
}

/// What an operator hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The device takes these protocols.
    Accepted(Vec<u16>),
    /// An agent of old, which knows only shells.
    ShellsOnly,
    /// Is somebody still there?
    Ping,
    /// Something did not work; if the flag is set, the session is over.
    Complaint(String, bool),
    /// The device has connected.
    Opened(Uuid),
    /// Bytes from there.
    Forward(Uuid, Vec<u8>),
    /// One frame was taken.
    Ack(Uuid),
    /// This connection has ended.
    Stop(Uuid),
    /// A message of this type about a connection did not work. Devices do not say which connection.
    Failed {
        /// The connection, if the hub has found out.
        connection: Option<Uuid>,
        /// The type of the message that failed.
        of: String,
        /// Why.
        why: String,
    },
    /// Something else, for somebody else.
    Other,
}

/// The message as it travels.
pub fn encode(say: Say<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Versions {
        versions: [u8; 1],
    }
    #[derive(Serialize)]
    struct New<'a> {
        remote_host: &'a str,
        remote_port: u16,
        protocol: &'a str,
    }
    let (proto, typ, connection, body) = match say {
        Say::Open => (CONTROL, "open", None, structured(&Versions { versions: [1] })),
        Say::New(id, mapping) => {
            let (remote_host, protocol) = (mapping.remote_host(), mapping.protocol.name());
            (PORT_FORWARD, "new", Some(id), structured(&New { remote_host, remote_port: mapping.port, protocol }))
        }
        Say::Forward(id, bytes) => (PORT_FORWARD, "forward", Some(id), bytes.to_vec()),
        Say::Ack(id) => (PORT_FORWARD, "ack", Some(id), vec![]),
        Say::Stop(id) => (PORT_FORWARD, "stop", Some(id), vec![]),
        Say::Pong => (CONTROL, "pong", None, vec![]),
        Say::Close => (CONTROL, "close", None, vec![]),
    };
    let props: Vec<_> = connection.map(|id| ("connection_id", Prop::Text(id.to_string()))).into_iter().collect();
    Outgoing::new(proto, typ).with(&props).carrying(&body).encode()
}

fn structured(body: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(body).expect("plain structs always have a form in MessagePack")
}

/// Reads a message.
///
/// # Errors
/// When it is none.
pub fn decode(bytes: &[u8]) -> Result<Heard, rmp_serde::decode::Error> {
    #[derive(Deserialize)]
    struct Accept {
        #[serde(default)]
        protocols: Vec<u16>,
    }
    #[derive(Default, Deserialize)]
    struct Failure {
        #[serde(default)]
        err: String,
        #[serde(default)]
        close: bool,
        #[serde(default)]
        msgtype: Option<String>,
    }
    let message = Incoming::decode(bytes)?;
    let connection = message.text("connection_id").and_then(|id| id.parse::<Uuid>().ok());
    let failure = || rmp_serde::from_slice::<Failure>(&message.body).unwrap_or_default();
    Ok(match (message.proto, message.typ.as_str(), connection) {
        (CONTROL, "accept", _) => Heard::Accepted(rmp_serde::from_slice::<Accept>(&message.body)?.protocols),
        (CONTROL, "open", _) => Heard::ShellsOnly,
        (CONTROL, "ping", _) => Heard::Ping,
        (CONTROL, "close", _) => Heard::Complaint("the session was closed".to_owned(), true),
        (CONTROL, "error", _) => {
            let failure = failure();
            Heard::Complaint(printable(&failure.err), failure.close)
        }
        (PORT_FORWARD, "new", Some(id)) => Heard::Opened(id),
        (PORT_FORWARD, "forward", Some(id)) => Heard::Forward(id, message.body),
        (PORT_FORWARD, "ack", Some(id)) => Heard::Ack(id),
        (PORT_FORWARD, "stop", Some(id)) => Heard::Stop(id),
        (PORT_FORWARD, "error", connection) => {
            let failure = failure();
            Heard::Failed { connection, of: failure.msgtype.unwrap_or_default(), why: printable(&failure.err) }
        }
        _ => Heard::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_as_documented() {
        let open = b"\x82\xa3hdr\x82\xa5proto\xcd\xff\xff\xa3typ\xa4open\xa4body\xc4\x0c\x81\xa8versions\x91\x01";
        assert_eq!(encode(Say::Open), open);
        // An `accept` of mender-connect.
        let body = b"\x82\xa7version\x01\xa9protocols\x94\xcd\0\x01\xcd\0\x02\xcd\0\x03\xcd\0\x04";
        let accept = Outgoing::new(CONTROL, "accept").carrying(body).encode();
        assert_eq!(decode(&accept).expect("a message"), Heard::Accepted(vec![1, 2, 3, 4]));
    }

    #[test]
    fn a_connection_is_asked_for_by_host_port_and_protocol() {
        let id = Uuid::from_u128(7);
        let mapping = "8022:22".parse().expect("a mapping");
        let bytes = encode(Say::New(id, &mapping));
        let body = b"\x83\xabremote_host\xa9localhost\xabremote_port\x16\xa8protocol\xa3tcp";
        assert!(bytes.ends_with(body), "{bytes:x?}");
        let read = Incoming::decode(&bytes).expect("a message");
        assert_eq!(read.text("connection_id"), Some("00000000-0000-0000-0000-000000000007"));
    }

    #[test]
    fn an_error_names_a_connection_only_if_the_hub_knows_it() {
        let body = structured(&serde_json::json!({ "err": "dial tcp:\nrefused", "msgtype": "new" }));
        let id = Uuid::from_u128(7);
        let props = [("connection_id", Prop::Text(id.to_string()))];
        for (props, connection) in [(&props[..], Some(id)), (&[], None)] {
            let bytes = Outgoing::new(PORT_FORWARD, "error").with(props).carrying(&body).encode();
            let why = "dial tcp: refused".to_owned();
            assert_eq!(decode(&bytes).expect("a message"), Heard::Failed { connection, of: "new".to_owned(), why });
        }
    }

    #[test]
    fn frames_of_no_connection_are_for_nobody() {
        let props = [("connection_id", Prop::from("no uuid"))];
        let bytes = Outgoing::new(PORT_FORWARD, "forward").with(&props).carrying(b"x").encode();
        assert_eq!(decode(&bytes).expect("a message"), Heard::Other);
    }
}
