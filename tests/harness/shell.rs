//! A device that answers like one with a shell, and an operator's terminal on it.

use crate::message::{Heard, Packet};
use crate::socket::Socket;

/// Answers of a device whose shell says back what it is told. Status values as `mender-connect` sends them.
pub fn answer_like_a_shell(heard: &Heard) -> Vec<Packet> {
    let reply = |typ: &str| Packet::shell(typ).sid(heard.sid()).prop("status", 1);
    match (heard.proto(), heard.typ()) {
        (1, "new") => vec![reply("new").body("Shell started")],
        (1, "shell") => vec![reply("shell").body(heard.body())],
        (1, "stop") => vec![reply("stop")],
        _ => vec![],
    }
}

/// An operator's terminal: a session in which a shell was started.
pub struct Shell {
    /// The operator's socket.
    pub socket: Socket,
    /// The session's id, as the device's answer says.
    pub sid: String,
}

impl Shell {
    /// Starts a shell in the session.
    ///
    /// # Panics
    /// When the device does not answer that it runs.
    pub async fn start(mut socket: Socket) -> Self {
        socket.say(&Packet::shell("new").prop("terminal_width", 80).prop("terminal_height", 24)).await;
        let started = socket.hear().await;
        assert!(started.is(1, "new"), "{started:?}");
        assert_eq!((started.number("status"), started.body()), (Some(1), &b"Shell started"[..]));
        Self { sid: started.sid().to_owned(), socket }
    }

    /// Types something.
    pub async fn type_in(&mut self, keys: impl AsRef<[u8]>) {
        self.socket.say(&Packet::shell("shell").body(keys)).await;
    }

    /// Reads until exactly this was shown.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn shows(&mut self, wanted: impl AsRef<[u8]>) {
        let wanted = wanted.as_ref();
        let mut shown = Vec::new();
        while shown.len() < wanted.len() {
            let heard = self.socket.hear().await;
            assert!(heard.is(1, "shell"), "{heard:?}");
            assert_eq!(heard.sid(), self.sid, "output of another session");
            shown.extend_from_slice(heard.body());
        }
        assert!(shown == wanted, "{} bytes were shown, not the {} wanted", shown.len(), wanted.len());
    }

    /// Types something and sees it come back.
    pub async fn echoes(&mut self, keys: impl AsRef<[u8]>) {
        self.type_in(&keys).await;
        self.shows(keys).await;
    }
}
