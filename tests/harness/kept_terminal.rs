//! An operator's terminal that is kept when its socket is lost: it attaches again, from anywhere, and nothing is missing.
//!
//! Both ends count bytes. The hub says how much of the output the operator has and how many keystrokes it has taken; the
//! operator keeps every key until then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::answer::Answer;
use crate::message::{Heard, Packet};
use crate::socket::{Closed, Event, Socket};
use crate::user::TestUser;
use crate::wait::{LIMIT, wait_until, within};

/// Protocol of the messages between the hub and clients that want more than the Mender API has.
pub const HUB: u16 = 64000;

/// Output that may be unreported while more of it comes, and for how long.
const REPORT_EVERY: u64 = 8 * 1024;
const REPORT_AFTER: Duration = Duration::from_millis(100);

/// Shells of a real agent that are tried, and how long one may say nothing.
const ATTEMPTS: usize = 4;
const SILENCE: Duration = Duration::from_secs(8);

/// Keystrokes sent as one message.
const PIECE: usize = 4096;

/// An operator's end of a session.
pub struct KeptTerminal {
    user: TestUser,
    socket: Option<Socket>,
    /// The session's id.
    pub session: String,
    /// The id of this operator's end.
    pub attachment: String,
    /// `writer` or `watcher`.
    pub role: String,
    /// All output so far.
    shown: Vec<u8>,
    /// Where in the session's output that begins.
    begins: u64,
    reported: u64,
    last_report: Instant,
    /// Keystrokes that the session has not said to have taken.
    untaken: VecDeque<u8>,
    /// How many it has taken.
    taken: u64,
    /// Who is in the session, as last told.
    pub people: Vec<Value>,
    /// What was told about the device: `away`, `back`.
    pub device: Vec<String>,
    /// The reason of a `stop`, once there was one.
    pub stopped: Option<String>,
    /// How often it has attached again.
    pub returns: usize,
}

impl KeptTerminal {
    /// Opens a session that is kept, and a shell in it.
    ///
    /// # Panics
    /// When the device is not connected, or the shell does not start.
    pub async fn open(user: &TestUser, device: &str) -> Self {
        let path = format!("/api/management/v1/mooring/devices/{device}/terminal?keep=true");
        // The hub may learn from another node that the device is there.
        let socket = wait_until(LIMIT, "a session that is kept", async || match connect(user, &path).await {
            Ok(socket) => Some(socket),
            Err(refusal) if refusal.status == 404 => None,
            Err(refusal) => panic!("{refusal}"),
        })
        .await;
        let mut this = Self::attached(user, socket).await;
        assert_eq!((this.role.as_str(), this.begins, this.taken), ("writer", 0, 0));
        this.say(&Packet::shell("new").prop("terminal_width", 80).prop("terminal_height", 24)).await;
        let started = within(LIMIT, "a shell", async {
            loop {
                let heard = this.hear().await.expect("the session goes on");
                if heard.is(1, "new") {
                    return heard;
                }
            }
        })
        .await;
        assert_eq!((started.number("status"), started.body()), (Some(1), &b"Shell started"[..]), "{started:?}");
        this
    }

    /// The same on a real agent, with a shell that speaks. Some are born mute: the agent starts to read what a shell prints
    /// before it has noted that the shell runs, and gives up if it looks too early. A person opens another one then.
    ///
    /// # Panics
    /// When several in a row stay silent.
    pub async fn open_real(user: &TestUser, device: &str) -> Self {
        for _ in 0..ATTEMPTS {
            let mut this = Self::open(user, device).await;
            this.type_in("echo sum-$((40+2))\n").await;
            let speaking = this.told("a shell to speak", LIMIT, |this| contains(&this.shown, b"sum-42"));
            if tokio::time::timeout(SILENCE, speaking).await.is_ok() {
                return this;
            }
            this.say(&Packet::shell("stop")).await;
        }
        panic!("no shell of the device prints anything");
    }

    /// Attaches to somebody's session: `mode` is `write`, `watch` or `take-over`.
    ///
    /// # Errors
    /// The refusal.
    pub async fn attach(user: &TestUser, session: &str, mode: &str) -> Result<Self, Answer> {
        let socket = connect(user, &attach_path(session, mode)).await?;
        Ok(Self::attached(user, socket).await)
    }

    /// Attaches as soon as the hub lets it, also where the session has to be found again first.
    pub async fn attach_soon(user: &TestUser, session: &str, mode: &str) -> Self {
        wait_until(LIMIT, "to be let into the session", async || Self::attach(user, session, mode).await.ok()).await
    }

    async fn attached(user: &TestUser, mut socket: Socket) -> Self {
        let hello = socket.hear().await;
        assert!(hello.is(HUB, "attached"), "{hello:?}");
        let begins = offset(&hello, "output");
        Self {
            user: user.clone(),
            session: said(&hello, "session"),
            attachment: said(&hello, "attachment"),
            role: said(&hello, "role"),
            shown: vec![],
            begins,
            reported: begins,
            last_report: Instant::now(),
            untaken: VecDeque::new(),
            taken: offset(&hello, "input"),
            people: vec![],
            device: vec![],
            stopped: None,
            returns: 0,
            socket: Some(socket),
        }
    }

    /// The output so far.
    pub fn shown(&self) -> &[u8] {
        &self.shown
    }

    /// The output so far as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Where in the session's output the part that it has begins.
    pub fn begins(&self) -> u64 {
        self.begins
    }

    /// Keystrokes that the session has not said to have taken.
    pub fn untaken(&self) -> usize {
        self.untaken.len()
    }

    fn has(&self) -> u64 {
        self.begins + self.shown.len() as u64
    }

    /// Types something. Without a socket it is kept for the next one.
    pub async fn type_in(&mut self, keys: impl AsRef<[u8]>) {
        let keys = keys.as_ref();
        self.untaken.extend(keys);
        self.send_keys(keys).await;
    }

    async fn send_keys(&mut self, keys: &[u8]) {
        for piece in keys.chunks(PIECE) {
            self.say(&Packet::shell("shell").body(piece)).await;
        }
    }

    /// Says something, if there is anybody to say it to. A socket that has ended is noticed by reading.
    pub async fn say(&mut self, packet: &Packet) {
        if let Some(socket) = &mut self.socket {
            let sending = socket.try_send(packet.bytes());
            if !matches!(tokio::time::timeout(LIMIT, sending).await, Ok(Ok(()))) {
                self.socket = None;
            }
        }
    }

    /// The next message, after what it says about the session was noted; how the socket ended, if that comes first.
    ///
    /// # Errors
    /// How it ended.
    pub async fn hear(&mut self) -> Result<Heard, Closed> {
        loop {
            let Some(socket) = &mut self.socket else { return Err(Closed::Cut) };
            let Ok(event) = tokio::time::timeout(REPORT_AFTER, socket.next()).await else {
                self.report().await;
                continue;
            };
            match event {
                Event::Message(heard) => {
                    self.note(&heard);
                    if self.has() - self.reported >= REPORT_EVERY || self.last_report.elapsed() > REPORT_AFTER {
                        self.report().await;
                    }
                    return Ok(heard);
                }
                Event::Pong(_) => {}
                Event::Closed(closed) => {
                    self.socket = None;
                    return Err(closed);
                }
            }
        }
    }

    fn note(&mut self, heard: &Heard) {
        match (u16::try_from(heard.proto()).unwrap_or_default(), heard.typ()) {
            (1, "shell") => self.shown.extend_from_slice(heard.body()),
            (1, "stop") => self.stopped = Some(String::from_utf8_lossy(heard.body()).into_owned()),
            (HUB, "input") => self.took(offset(heard, "bytes")),
            (HUB, "people") => {
                self.people = serde_json::from_slice(heard.body()).expect("people are a list in JSON");
            }
            (HUB, "device") => self.device.push(said(heard, "state")),
            (HUB, "skipped") => panic!("output was skipped after {} bytes: {heard:?}", self.has()),
            (HUB, "role") => self.role = said(heard, "role"),
            _ => {}
        }
    }

    /// The session has taken this many keystrokes.
    fn took(&mut self, bytes: u64) {
        let more = bytes.checked_sub(self.taken).expect("what was taken stays taken");
        let more = usize::try_from(more).expect("a count that fits");
        assert!(more <= self.untaken.len(), "keystrokes were taken that nobody typed");
        self.untaken.drain(..more);
        self.taken = bytes;
    }

    async fn report(&mut self) {
        let has = self.has();
        if has > self.reported {
            (self.reported, self.last_report) = (has, Instant::now());
            let bytes = i64::try_from(has).expect("a count that fits");
            self.say(&Packet::new(HUB, "output").prop("bytes", bytes)).await;
        }
    }

    /// Loses its socket without a word.
    pub fn lose(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.reset();
        }
    }

    /// Detaches on purpose; the session stays.
    pub async fn leave(&mut self) {
        self.say(&Packet::new(HUB, "leave")).await;
        if let Some(mut socket) = self.socket.take() {
            socket.end(LIMIT).await;
        }
    }

    /// Attaches again where it was, through `user`'s address; what was typed meanwhile is sent.
    ///
    /// # Panics
    /// When the hub does not let it in, or output is missing or comes twice.
    pub async fn again(&mut self, user: &TestUser) {
        self.user = user.clone();
        let (from, replaces) = (self.has(), &self.attachment);
        let path = format!("{}&from={from}&replaces={replaces}", attach_path(&self.session, "write"));
        // A node that has died has to be missed first; a socket that was lost may not be known to be.
        let mut last = None;
        let deadline = Instant::now() + LIMIT;
        let mut socket =
            wait_until(LIMIT, "the session to be there", async || match connect_if_open(&self.user, &path).await {
                Some(Ok(socket)) => Some(socket),
                Some(Err(refusal)) => {
                    assert!(Instant::now() + Duration::from_secs(1) < deadline, "the last answer: {refusal}");
                    last = Some(refusal);
                    None
                }
                None => None,
            })
            .await;
        let hello = socket.hear().await;
        assert!(hello.is(HUB, "attached"), "{hello:?} after {last:?}");
        assert_eq!(offset(&hello, "output"), from, "output goes on where it was");
        (self.attachment, self.role) = (said(&hello, "attachment"), said(&hello, "role"));
        // What the session has and the device has not may be lost with its node, so it is kept here for now. A node that
        // found neither the session's former node nor the device's counts anew.
        let input = offset(&hello, "input");
        self.taken = self.taken.min(input);
        let had = usize::try_from(input - self.taken).expect("a count that fits");
        assert!(had <= self.untaken.len(), "keystrokes were taken that nobody typed");
        self.reported = from;
        self.returns += 1;
        self.socket = Some(socket);
        let keys: Vec<u8> = self.untaken.iter().skip(had).copied().collect();
        self.send_keys(&keys).await;
    }

    /// Reads until the text stands in the output; attaches again if the socket is lost on the way.
    ///
    /// # Panics
    /// When it does not come in time, or the shell is stopped first.
    pub async fn shows(&mut self, text: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut looked = 0;
        while !contains(&self.shown[looked..], text.as_bytes()) {
            looked = self.shown.len().saturating_sub(text.len());
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(heard) = tokio::time::timeout(left, self.hear()).await else {
                panic!("{text:?} was not shown within {limit:?}, but {:?}", self.last_lines());
            };
            if heard.is_err() {
                assert_eq!(self.stopped, None, "the shell has ended");
                let user = self.user.clone();
                self.again(&user).await;
            }
        }
        self.report().await;
    }

    /// Reads until the hub has told something that `is_told` looks for.
    ///
    /// # Panics
    /// When the socket ends first or nothing of the kind comes in time.
    pub async fn told(&mut self, what: &str, limit: Duration, mut is_told: impl FnMut(&Self) -> bool) {
        let hearing = async {
            while !is_told(self) {
                if let Err(closed) = self.hear().await {
                    panic!("waited for {what}, but the socket ended: {closed:?}");
                }
            }
        };
        within(limit, what, hearing).await;
    }

    /// Reads for as long as anything comes at once, and a round trip of the socket more.
    pub async fn catch_up(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        socket.ping(b"caught up?").await;
        let deadline = Instant::now() + LIMIT;
        loop {
            assert!(Instant::now() < deadline, "no answer to a ping");
            let Some(socket) = &mut self.socket else { return };
            match within(LIMIT, "a pong", socket.next()).await {
                Event::Message(heard) => self.note(&heard),
                Event::Pong(payload) if payload == b"caught up?" => break,
                Event::Pong(_) => {}
                Event::Closed(closed) => panic!("the socket ended: {closed:?}"),
            }
        }
        self.report().await;
    }

    /// Waits for the socket's end, noting what is said before.
    pub async fn end(&mut self, limit: Duration) -> Closed {
        let ending = async {
            loop {
                if let Err(closed) = self.hear().await {
                    return closed;
                }
            }
        };
        within(limit, "the end of the socket", ending).await
    }

    fn last_lines(&self) -> String {
        let text = self.text();
        let start = text.char_indices().rev().nth(300).map_or(0, |(at, _)| at);
        text[start..].to_owned()
    }
}

/// The path of attaching to a session.
pub fn attach_path(session: &str, mode: &str) -> String {
    format!("/api/management/v1/mooring/sessions/{session}/attach?mode={mode}")
}

async fn connect(user: &TestUser, path: &str) -> Result<Socket, Answer> {
    let bearer = format!("Bearer {}", user.token);
    Socket::connect(user.door(), path, &[("Authorization", &bearer)]).await
}

/// The same for an address where nobody may be at the moment.
async fn connect_if_open(user: &TestUser, path: &str) -> Option<Result<Socket, Answer>> {
    let bearer = format!("Bearer {}", user.token);
    Socket::try_connect(user.door(), path, &[("Authorization", &bearer)]).await
}

fn offset(heard: &Heard, name: &str) -> u64 {
    let number = heard.number(name).unwrap_or_else(|| panic!("no {name} in {heard:?}"));
    u64::try_from(number).expect("an offset is not negative")
}

fn said(heard: &Heard, name: &str) -> String {
    match (heard.text(name), heard.number(name)) {
        (Some(text), _) => text.to_owned(),
        (None, Some(number)) => number.to_string(),
        (None, None) => panic!("no {name} in {heard:?}"),
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
