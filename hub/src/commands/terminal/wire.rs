//! The shell protocol as an operator speaks it: a header and a body in `MessagePack`.

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};

/// Protocol number of the shell.
const SHELL: u16 = 1;
/// `props.status` that tells of an error, or of the shell's end.
const STATUS_ERROR: i64 = 2;

/// What an operator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say<'a> {
    /// Start a shell in a window of this size.
    New(Option<(u16, u16)>),
    /// These keys were typed.
    Keys(&'a [u8]),
    /// The window has this size now.
    Resize(u16, u16),
    /// Still here.
    Pong,
    /// End the shell.
    Stop,
}

/// What an operator hears about the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It runs; this is its session.
    Started(String),
    /// It printed this.
    Printed(Vec<u8>),
    /// It asks whether somebody is still there.
    Ping,
    /// It has ended, with this explanation.
    Stopped(String),
    /// Something did not work.
    Refused(String),
    /// Something else, for somebody else.
    Other,
}

#[derive(Serialize)]
struct Outgoing<'a> {
    hdr: OutgoingHeader<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a Bytes>,
}

#[derive(Serialize)]
struct OutgoingHeader<'a> {
    proto: u16,
    typ: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    props: Option<Window>,
}

#[derive(Serialize)]
struct Window {
    terminal_width: u16,
    terminal_height: u16,
}

#[derive(Deserialize)]
struct Incoming {
    hdr: IncomingHeader,
    #[serde(default)]
    body: Option<ByteBuf>,
}

#[derive(Deserialize)]
struct IncomingHeader {
    proto: u16,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    props: Option<IncomingProperties>,
}

#[derive(Default, Deserialize)]
struct IncomingProperties {
    #[serde(default)]
    status: Option<i64>,
}

/// The message as it travels.
pub fn encode(session: &str, say: Say<'_>) -> Vec<u8> {
    let window = |(terminal_width, terminal_height)| Window { terminal_width, terminal_height };
    let (typ, props, body) = match say {
        Say::New(size) => ("new", size.map(window), None),
        Say::Keys(keys) => ("shell", None, Some(Bytes::new(keys))),
        Say::Resize(width, height) => ("resize", Some(window((width, height))), None),
        Say::Pong => ("pong", None, None),
        Say::Stop => ("stop", None, None),
    };
    let message = Outgoing { hdr: OutgoingHeader { proto: SHELL, typ, sid: session, props }, body };
    rmp_serde::to_vec_named(&message).expect("plain structs always have a form in MessagePack")
}

/// Reads a message.
///
/// # Errors
/// When it is none.
pub fn decode(bytes: &[u8]) -> Result<Heard, rmp_serde::decode::Error> {
    let Incoming { hdr, body } = rmp_serde::from_slice(bytes)?;
    let body = body.map(ByteBuf::into_vec).unwrap_or_default();
    let failed = hdr.props.and_then(|props| props.status) == Some(STATUS_ERROR);
    let text = || String::from_utf8_lossy(&body).chars().filter(|letter| !letter.is_control()).collect::<String>();
    Ok(match (hdr.proto, hdr.typ.as_deref().unwrap_or_default()) {
        (SHELL, "new" | "shell") if failed => Heard::Refused(text()),
        (SHELL, "new") => Heard::Started(hdr.sid.unwrap_or_default()),
        (SHELL, "shell") => Heard::Printed(body),
        (SHELL, "ping") => Heard::Ping,
        (SHELL, "stop") => Heard::Stopped(text()),
        _ => Heard::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(hex: &str) -> Heard {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex"))
            .collect();
        decode(&bytes).expect("a message")
    }

    #[test]
    fn a_new_shell_is_asked_for_without_a_session_and_a_body() {
        assert_eq!(encode("", Say::New(None)), b"\x81\xa3hdr\x82\xa5proto\x01\xa3typ\xa3new");
    }

    #[test]
    fn keys_travel_as_bytes() {
        assert!(encode("s", Say::Keys(b"ls\r")).ends_with(b"\xa3sid\xa1s\xa4body\xc4\x03ls\r"));
    }

    #[test]
    fn what_the_agent_says_is_understood() {
        // A ping of mender-connect, then its answer to "new" with wide integers.
        let ping = "81 a3 686472 84 a5 70726f746f cd0001 a3 747970 a4 70696e67 a3 736964 a1 73
                    a5 70726f7073 82 a7 74696d656f7574 41 a6 737461747573 03";
        assert_eq!(heard(ping), Heard::Ping);
        let refused = "82 a3 686472 83 a5 70726f746f cd0001 a3 747970 a3 6e6577 a5 70726f7073 81 a6 737461747573
                       d30000000000000002 a4 626f6479 c402 6e6f";
        assert_eq!(heard(refused), Heard::Refused("no".to_owned()));
    }
}
