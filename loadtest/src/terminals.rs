//! The shells of one device, with the rules of mender-connect: how many, who may speak to them, when they end.
//!
//! Shells belong to the device and not to its websocket: they survive a reconnect and go on under their old session.
//! Deciding is synchronous: a message in, replies out. What a PTY prints arrives through a bounded channel, so a shell
//! that floods waits for the websocket and never fills memory.

mod pty;

pub use pty::PtyCommand;

use crate::message::{Message, SHELL, STATUS_CONTROL, STATUS_ERROR, STATUS_NORMAL};
use pty::PtyShell;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The most bytes of output in one message; mender-connect reads its PTYs in pieces of this size.
pub const OUTPUT_PIECE: usize = 255;
/// Shells one device runs at most, mender-connect's limit.
pub const SHELLS_PER_DEVICE: usize = 16;

const PING_INTERVAL: Duration = Duration::from_mins(1);
const PONG_TIMEOUT: Duration = Duration::from_secs(65);
/// Pieces of output on their way from the shells to the websocket.
const OUTPUT_CAPACITY: usize = 64;
const DEFAULT_WIDTH: u16 = 80;
const DEFAULT_HEIGHT: u16 = 40;

/// What runs in a simulated device's terminal.
#[derive(Debug, Clone, Default)]
pub enum Shell {
    /// Sends back what is typed, from memory; Ctrl-D (byte 4) ends it as `exit` ends a shell.
    #[default]
    Echo,
    /// A program in a pseudo terminal.
    Pty(PtyCommand),
}

/// Something a shell did by itself.
#[derive(Debug)]
pub(crate) struct ShellEvent {
    session: String,
    /// Tells this shell from an earlier one of the same session.
    number: u64,
    what: ShellAction,
}

#[derive(Debug)]
enum ShellAction {
    Printed(Vec<u8>),
    Ended(String),
}

/// The shells of one device.
#[derive(Debug)]
pub struct Terminals {
    shell: Shell,
    per_user: usize,
    running: HashMap<String, Running>,
    started: u64,
    /// Made with the first PTY: most devices of a fleet never have one.
    output: Option<(mpsc::Sender<ShellEvent>, mpsc::Receiver<ShellEvent>)>,
}

#[derive(Debug)]
struct Running {
    user: String,
    number: u64,
    next_ping: Instant,
    last_pong: Instant,
    program: Program,
}

#[derive(Debug)]
enum Program {
    Echo,
    Pty(PtyShell),
    /// It has ended; the slot stays taken until somebody says `stop`, as in the real agent.
    Ended,
}

impl Terminals {
    /// No shells yet; each user may have `per_user` of them at once (mender-connect: 1).
    pub fn new(shell: Shell, per_user: usize) -> Self {
        Self { shell, per_user, running: HashMap::new(), started: 0, output: None }
    }

    /// How many slots are taken.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether no slot is taken.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// A shell message of an operator; returns what the device answers.
    pub fn hear(&mut self, message: &Message, now: Instant) -> Vec<Message> {
        match message.kind() {
            "new" => vec![self.start(message, now)],
            "shell" => self.type_in(message),
            "resize" => {
                self.resize(message);
                vec![]
            }
            "pong" => {
                if let Some(shell) = self.running.get_mut(message.session_id()) {
                    shell.last_pong = now;
                }
                vec![]
            }
            "stop" => self.stop(message),
            other => vec![refuse(message, &format!("unknown message protocol and type: {SHELL}/{other}"))],
        }
    }

    /// What the shells' clocks ask for: pings, and the end of shells whose operator no longer answers them.
    ///
    /// mender-connect ends such a shell without a word, and keeps its slot. So do we.
    pub fn tick(&mut self, now: Instant) -> Vec<Message> {
        let mut pings = vec![];
        for (session, shell) in &mut self.running {
            if matches!(shell.program, Program::Ended) {
                continue;
            }
            if now.duration_since(shell.last_pong) > PONG_TIMEOUT {
                shell.program = Program::Ended;
                continue;
            }
            if now >= shell.next_ping {
                shell.next_ping = now + PING_INTERVAL;
                let timeout = i64::try_from(PONG_TIMEOUT.as_secs()).unwrap_or(i64::MAX);
                let ping = Message::new(SHELL, "ping").session(session);
                pings.push(ping.integer("timeout", timeout).integer("status", STATUS_CONTROL));
            }
        }
        pings
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub fn next_tick(&self) -> Option<Instant> {
        self.running
            .values()
            .filter(|shell| !matches!(shell.program, Program::Ended))
            .map(|shell| shell.next_ping.min(shell.last_pong + PONG_TIMEOUT + Duration::from_millis(1)))
            .min()
    }

    /// Polls for what the shells print; returns the message that tells the operator.
    pub(crate) fn poll_output(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Message> {
        loop {
            let Some((_, events)) = &mut self.output else { return std::task::Poll::Pending };
            match events.poll_recv(context) {
                std::task::Poll::Ready(Some(event)) => {
                    if let Some(message) = self.tell(event) {
                        return std::task::Poll::Ready(message);
                    }
                }
                // The sender is ours, so the channel never ends.
                std::task::Poll::Ready(None) | std::task::Poll::Pending => return std::task::Poll::Pending,
            }
        }
    }

    fn tell(&mut self, event: ShellEvent) -> Option<Message> {
        let shell = self.running.get_mut(&event.session).filter(|shell| shell.number == event.number)?;
        match event.what {
            ShellAction::Printed(bytes) => Some(output(&event.session, &bytes)),
            ShellAction::Ended(why) => {
                shell.program = Program::Ended;
                Some(ended(&event.session, &why))
            }
        }
    }

    fn start(&mut self, new: &Message, now: Instant) -> Message {
        let session = new.session_id();
        let user = new.text_property("user_id").unwrap_or_default();
        if self.running.contains_key(session) {
            return refuse(new, "failed to start shell: shell is already running");
        }
        if self.running.len() >= SHELLS_PER_DEVICE {
            return refuse(new, "too many shells spawned");
        }
        if self.running.values().filter(|shell| shell.user == user).count() >= self.per_user {
            return refuse(new, "user has too many open sessions");
        }
        self.started += 1;
        let number = self.started;
        let program = match &self.shell {
            Shell::Echo => Program::Echo,
            Shell::Pty(command) => {
                let (sender, _) = self.output.get_or_insert_with(|| mpsc::channel(OUTPUT_CAPACITY));
                let (width, height) = size(new).unwrap_or((DEFAULT_WIDTH, DEFAULT_HEIGHT));
                let reporter = Reporter { session: session.to_owned(), number, events: sender.clone() };
                match PtyShell::start(command, width, height, reporter) {
                    Ok(shell) => Program::Pty(shell),
                    Err(error) => return refuse(new, &format!("failed to start shell: {error}")),
                }
            }
        };
        let shell = Running { user: user.to_owned(), number, next_ping: now + PING_INTERVAL, last_pong: now, program };
        self.running.insert(session.to_owned(), shell);
        reply(new, STATUS_NORMAL).with_body("Shell started")
    }

    fn type_in(&mut self, keys: &Message) -> Vec<Message> {
        let Some(shell) = self.running.get_mut(keys.session_id()) else {
            return vec![refuse(keys, "session not found")];
        };
        match &shell.program {
            Program::Echo => {
                let pieces = keys.body().chunks(OUTPUT_PIECE);
                let mut said: Vec<Message> = pieces.map(|piece| output(keys.session_id(), piece)).collect();
                if keys.body().contains(&4) {
                    shell.program = Program::Ended;
                    said.push(ended(keys.session_id(), "end of input"));
                }
                said
            }
            Program::Pty(pty) => match pty.type_in(keys.body()) {
                Ok(()) => vec![],
                Err(why) => vec![refuse(keys, why)],
            },
            Program::Ended => vec![refuse(keys, "session not found")],
        }
    }

    fn resize(&mut self, resize: &Message) {
        if let (Some(Running { program: Program::Pty(pty), .. }), Some((width, height))) =
            (self.running.get(resize.session_id()), size(resize))
        {
            pty.resize(width, height);
        }
    }

    fn stop(&mut self, stop: &Message) -> Vec<Message> {
        let session = stop.session_id();
        if session.is_empty() {
            // Without a session it means every shell of this user.
            let user = stop.text_property("user_id").unwrap_or_default();
            self.running.retain(|_, shell| shell.user != user);
            return vec![reply(stop, STATUS_NORMAL)];
        }
        match self.running.remove(session) {
            // Dropping the shell ends its program.
            Some(_shell) => vec![reply(stop, STATUS_NORMAL)],
            None => vec![refuse(stop, "session not found")],
        }
    }
}

/// How a PTY tells its device what happened.
#[derive(Debug)]
pub(crate) struct Reporter {
    session: String,
    number: u64,
    events: mpsc::Sender<ShellEvent>,
}

impl Reporter {
    /// Waits until there is room; false when the device is gone.
    async fn printed(&self, bytes: &[u8]) -> bool {
        self.send(ShellAction::Printed(bytes.to_vec())).await
    }

    async fn ended(&self, why: String) {
        let _device_gone = self.send(ShellAction::Ended(why)).await;
    }

    async fn send(&self, what: ShellAction) -> bool {
        let event = ShellEvent { session: self.session.clone(), number: self.number, what };
        self.events.send(event).await.is_ok()
    }
}

fn size(message: &Message) -> Option<(u16, u16)> {
    let side =
        |name| message.integer_property(name).and_then(|cells| u16::try_from(cells).ok()).filter(|&cells| cells > 0);
    Some((side("terminal_width")?, side("terminal_height")?))
}

fn reply(to: &Message, status: i64) -> Message {
    Message::new(SHELL, to.kind()).session(to.session_id()).integer("status", status)
}

fn refuse(message: &Message, why: &str) -> Message {
    reply(message, STATUS_ERROR).with_body(why)
}

fn output(session: &str, bytes: &[u8]) -> Message {
    Message::new(SHELL, "shell").session(session).integer("status", STATUS_NORMAL).with_body(bytes)
}

fn ended(session: &str, why: &str) -> Message {
    Message::new(SHELL, "stop").session(session).integer("status", STATUS_ERROR).with_body(why)
}

#[cfg(test)]
mod tests;
