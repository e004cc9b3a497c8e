//! A terminal as an operator speaks it: the shell protocol, and what the hub adds so that a session outlives a lost
//! websocket and can have several people at it.

use crate::commands::operator::message::{HUB, Incoming, Outgoing, Prop, SHELL, printable};

/// `props.status` that tells of an error, or of the shell's end.
const STATUS_ERROR: u64 = 2;

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
    /// So much of the session's output is on the screen.
    Shown(u64),
    /// Leave on purpose; the shell shall run on.
    Leave,
}

/// What an operator hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The shell runs; this is its session.
    Started(String),
    /// It printed this.
    Printed(Vec<u8>),
    /// It asks whether somebody is still there.
    Ping,
    /// It has ended, with this explanation.
    Stopped(String),
    /// Something did not work.
    Refused(String),
    /// This websocket belongs to a session now.
    Attached(Attached),
    /// The session has taken so many keystrokes.
    Taken(u64),
    /// Who is at the session, as JSON.
    People(Vec<u8>),
    /// The device is away, or back.
    DeviceIsAway(bool),
    /// So many bytes of output were left out, since we were too slow for them.
    Skipped(u64),
    /// We type from now on, or only watch; who brought that about, if the hub says so.
    WeType(bool, Option<String>),
    /// Something else, for somebody else.
    Other,
}

/// What a websocket is to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The session.
    pub session: String,
    /// This websocket's name in it.
    pub attachment: String,
    /// Whether we type, and do not only watch.
    pub is_writer: bool,
    /// Where in the session's output the bytes that follow start.
    pub output: u64,
    /// Keystrokes that the session has taken.
    pub input: u64,
    /// Columns and rows, if a shell has them.
    pub size: Option<(u64, u64)>,
    /// Whether a shell was started.
    pub has_shell: bool,
}

/// The message as it travels.
pub fn encode(session: &str, say: Say<'_>) -> Vec<u8> {
    let number = |number: u16| Prop::Number(number.into());
    let window = |(width, height)| vec![("terminal_width", number(width)), ("terminal_height", number(height))];
    let (proto, typ, props, body): (_, _, Vec<(&'static str, Prop)>, &[u8]) = match say {
        Say::New(size) => (SHELL, "new", size.map(window).unwrap_or_default(), &[]),
        Say::Keys(keys) => (SHELL, "shell", vec![], keys),
        Say::Resize(width, height) => (SHELL, "resize", window((width, height)), &[]),
        Say::Pong => (SHELL, "pong", vec![], &[]),
        Say::Stop => (SHELL, "stop", vec![], &[]),
        Say::Shown(bytes) => (HUB, "output", vec![("bytes", Prop::Number(bytes))], &[]),
        Say::Leave => (HUB, "leave", vec![], &[]),
    };
    Outgoing::new(proto, typ).of(session).with(&props).carrying(body).encode()
}

/// Reads a message.
///
/// # Errors
/// When it is none.
pub fn decode(bytes: &[u8]) -> Result<Heard, rmp_serde::decode::Error> {
    let message = Incoming::decode(bytes)?;
    let failed = message.number("status") == Some(STATUS_ERROR);
    let text = || printable(&String::from_utf8_lossy(&message.body));
    let is_writer = || message.text("role") == Some("writer");
    Ok(match (message.proto, message.typ.as_str()) {
        (SHELL, "new" | "shell") if failed => Heard::Refused(text()),
        (SHELL, "new") => Heard::Started(message.sid),
        (SHELL, "shell") => Heard::Printed(message.body),
        (SHELL, "ping") => Heard::Ping,
        (SHELL, "stop") => Heard::Stopped(text()),
        (HUB, "attached") => Heard::Attached(Attached {
            session: message.text("session").unwrap_or(&message.sid).to_owned(),
            attachment: name(&message, "attachment"),
            is_writer: is_writer(),
            output: message.number("output").unwrap_or(0),
            input: message.number("input").unwrap_or(0),
            size: message
                .number("width")
                .zip(message.number("height"))
                .filter(|&(width, height)| width > 0 && height > 0),
            has_shell: message.number("shell") == Some(1),
        }),
        (HUB, "input") => message.number("bytes").map_or(Heard::Other, Heard::Taken),
        (HUB, "people") => Heard::People(message.body),
        (HUB, "device") => Heard::DeviceIsAway(message.text("state") == Some("away")),
        (HUB, "skipped") => message.number("bytes").map_or(Heard::Other, Heard::Skipped),
        (HUB, "role") => Heard::WeType(is_writer(), message.text("by").map(printable)),
        _ => Heard::Other,
    })
}

/// A name, which may also be a number.
fn name(message: &Incoming, property: &str) -> String {
    match (message.text(property), message.number(property)) {
        (Some(text), _) => text.to_owned(),
        (None, Some(number)) => number.to_string(),
        (None, None) => String::new(),
    }
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
    fn what_is_on_the_screen_is_told_as_a_number() {
        assert!(encode("", Say::Shown(5)).ends_with(b"\xa3typ\xa6output\xa5props\x81\xa5bytes\x05"));
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

    #[test]
    fn what_the_hub_adds_is_understood() {
        let props = [
            ("session", Prop::from("s")),
            ("attachment", Prop::Number(7)),
            ("role", Prop::from("writer")),
            ("output", Prop::Number(1 << 40)),
            ("input", Prop::Number(3)),
            ("width", Prop::Number(80)),
            ("height", Prop::Number(24)),
            ("shell", Prop::Number(1)),
        ];
        let attached = Attached {
            session: "s".to_owned(),
            attachment: "7".to_owned(),
            is_writer: true,
            output: 1 << 40,
            input: 3,
            size: Some((80, 24)),
            has_shell: true,
        };
        let read = |typ: &str, props: &[(&'static str, Prop)]| {
            decode(&Outgoing::new(HUB, typ).with(props).encode()).expect("a message")
        };
        assert_eq!(read("attached", &props), Heard::Attached(attached));
        assert_eq!(read("input", &[("bytes", Prop::Number(9))]), Heard::Taken(9));
        assert_eq!(read("device", &[("state", Prop::from("away"))]), Heard::DeviceIsAway(true));
        assert_eq!(read("skipped", &[("bytes", Prop::Number(9))]), Heard::Skipped(9));
        let role = [("role", Prop::from("watcher")), ("by", Prop::from("anna"))];
        assert_eq!(read("role", &role), Heard::WeType(false, Some("anna".to_owned())));
        assert_eq!(read("of a later version", &[]), Heard::Other);
    }
}
