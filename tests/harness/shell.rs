//! A device that answers like one with a shell, and an operator's terminal on it.

use std::time::Duration;

use crate::message::{Heard, Packet};
use crate::socket::Socket;
use crate::user::TestUser;
use crate::wait::LIMIT;

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

/// Shells of a real agent that are tried, and how long one may say nothing.
const ATTEMPTS: usize = 4;
const SILENCE: Duration = Duration::from_secs(8);

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

    /// Starts a shell that speaks, on a real agent: see [`crate::KeptTerminal::open_real`] for those that do not.
    ///
    /// # Panics
    /// When several in a row stay silent.
    pub async fn start_real(user: &TestUser, device: &str) -> Self {
        for _ in 0..ATTEMPTS {
            // The agent may be busy with ending others: it takes four seconds for each.
            let mut socket = user.open_soon(device).await;
            socket.say(&Packet::shell("new").prop("terminal_width", 80).prop("terminal_height", 24)).await;
            let started = socket.hear_for(1, "new", LIMIT * 2).await;
            assert_eq!((started.number("status"), started.body()), (Some(1), &b"Shell started"[..]), "{started:?}");
            let mut this = Self { sid: started.sid().to_owned(), socket };
            this.type_in("echo sum-$((40+2))\n").await;
            if tokio::time::timeout(SILENCE, this.prints("sum-42")).await.is_ok() {
                return this;
            }
        }
        panic!("no shell of the device prints anything");
    }

    /// Reads until this is among what the device prints.
    pub async fn prints(&mut self, wanted: &str) {
        let mut shown = String::new();
        while !shown.contains(wanted) {
            shown += &String::from_utf8_lossy(self.socket.hear_within(LIMIT * 4).await.body());
        }
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
