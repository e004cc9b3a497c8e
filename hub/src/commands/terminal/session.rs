//! One websocket to the hub and the shell behind it.

use super::{
    TerminalSignals,
    keyboard::{Keyboard, MOST_KEYS},
    ledger::Ledger,
    menu::{Menu, Pressed},
    people::People,
    screen::Screen,
    wire::{Attached, Heard, Say, decode, encode},
};
use crate::commands::operator::{Operator, Refused, Socket};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message as Frame;

/// How long the device may take to start a shell; an agent that ends another one answers nobody for 6 s.
const START_LIMIT: Duration = Duration::from_secs(20);
/// The hub learns within this time what is on the screen.
const REPORT_WITHIN: Duration = Duration::from_millis(200);
/// What a hub gives as the reason of a `stop` that is not the shell's own end.
const LOSSES: &[&str] = &["device disconnected"];
/// The same, where the hub may have kept the session nevertheless: one that was asked to will tell.
const MOVES: &[&str] = &[
    "the hub is restarting",
    "the link between two hub nodes was lost",
    "the session goes on at another hub node",
    "internal error",
];
/// What an agent says to a second request for the same shell.
const RUNS_ALREADY: &str = "shell is already running";

/// Why a websocket was left.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The shell ended by itself, as after `exit`.
    Exited,
    /// The person ended the shell, or stopped watching.
    Left,
    /// The person left; the shell runs on.
    Detached,
    /// The person's terminal is gone.
    HungUp,
    /// The websocket broke.
    Lost(String),
    /// The session is over, but not because the shell ended.
    Gone(String),
    /// There is no shell to be had.
    Failed(String),
}

/// What outlives a websocket: the person, and how far the session has got.
#[derive(Debug)]
pub struct Desk {
    /// What is typed.
    pub keyboard: Keyboard,
    /// What is shown.
    pub screen: Screen,
    /// What happens to the person's terminal.
    pub signals: TerminalSignals,
    /// What was typed and printed.
    pub ledger: Ledger,
    /// Where to go on, if the hub keeps the session.
    pub kept: Option<Kept>,
    /// Who is at the session.
    pub people: People,
    /// Whether we type, and do not only watch.
    pub is_writer: bool,
    menu: Menu,
}

/// A session that the hub keeps when its websocket is lost.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The session.
    pub session: String,
    /// The websocket's name in it.
    pub attachment: String,
}

impl Desk {
    /// Nothing has happened yet.
    pub fn new(keyboard: Keyboard, screen: Screen, signals: TerminalSignals) -> Self {
        Self {
            keyboard,
            screen,
            signals,
            ledger: Ledger::default(),
            kept: None,
            people: People::default(),
            is_writer: true,
            menu: Menu::default(),
        }
    }

    /// Whether more may be typed now.
    pub fn takes_keys(&self) -> bool {
        // A watching pipe has nothing to say.
        self.ledger.has_room() && (self.is_writer || self.screen.is_raw())
    }

    /// Sorts what was typed; what it means, if that is to leave.
    pub fn typed(&mut self, keys: &[u8]) -> Option<Ended> {
        if !self.screen.is_raw() {
            // Nobody sits there who could choose from a menu.
            self.ledger.typed(keys);
            return None;
        }
        for pressed in self.menu.sort(keys) {
            match pressed {
                Pressed::Keys(keys) if self.is_writer => self.ledger.typed(&keys),
                Pressed::Keys(_) | Pressed::Nothing => {}
                Pressed::Menu => self.screen.say(match (&self.kept, self.is_writer) {
                    (Some(_), true) => "d detach, q end the shell, s who is here, Ctrl-] send Ctrl-]",
                    (Some(_), false) => "d or q stop watching, s who is here",
                    (None, _) => "q end the shell, Ctrl-] send Ctrl-]",
                }),
                Pressed::Detach if self.kept.is_some() => return Some(Ended::Detached),
                Pressed::Detach => self.screen.say("this hub does not keep a shell that nobody is at; q ends it"),
                Pressed::End => return Some(Ended::Left),
                Pressed::Who => self.screen.say(&self.people.line()),
            }
        }
        None
    }
}

/// An open websocket to a device's shell.
#[derive(Debug)]
pub struct Session {
    socket: Socket,
    id: String,
    /// Whether the hub counts with us.
    is_counted: bool,
    is_attached: bool,
    has_started: bool,
}

impl Session {
    /// Opens a websocket of the Mender API: it is the session, and the session ends with it.
    pub async fn open_plain(operator: &Operator, device: &str) -> Result<Self, Refused> {
        Self::open(operator, &format!("/api/management/v1/deviceconnect/devices/{device}/connect"), false).await
    }

    /// Opens a websocket to a session that outlives it.
    pub async fn open_counted(operator: &Operator, path: &str) -> Result<Self, Refused> {
        Self::open(operator, path, true).await
    }

    async fn open(operator: &Operator, path: &str, is_counted: bool) -> Result<Self, Refused> {
        let socket = Socket::open(operator, path).await?;
        Ok(Self { socket, id: String::new(), is_counted, is_attached: false, has_started: false })
    }

    /// Passes keys and output to and fro until one side ends it.
    pub async fn serve(mut self, desk: &mut Desk) -> Ended {
        if !self.is_counted {
            desk.kept = None;
            desk.ledger.attached(0, 0);
            self.say(Say::New(desk.screen.size()));
        }
        let ended = self.relay(desk).await;
        match ended {
            // What is lost, the hub keeps or ends as it was asked to.
            Ended::Lost(_) | Ended::HungUp => return ended,
            Ended::Detached => self.say(Say::Leave),
            Ended::Left if !desk.is_writer => self.say(Say::Leave),
            // Also after the shell's own end: the agent keeps a slot until it hears this.
            Ended::Exited | Ended::Left | Ended::Gone(_) | Ended::Failed(_) if desk.is_writer => self.say(Say::Stop),
            _ => {}
        }
        if !matches!(ended, Ended::Left | Ended::Detached) {
            // What cannot be written any more is nobody's loss.
            let _gone = desk.screen.finish().await;
        }
        self.socket.close().await;
        ended
    }

    async fn relay(&mut self, desk: &mut Desk) -> Ended {
        let opened = Instant::now();
        let outgoing: mpsc::Sender<Frame> = self.socket.outgoing().clone();
        let mut report_by = None;
        loop {
            let takes_keys = self.has_started && desk.takes_keys();
            let has_keys = self.has_started && desk.is_writer && desk.ledger.has_unsent();
            if report_by.is_none() && self.is_counted && desk.ledger.owes_report() {
                report_by = Some(Instant::now() + REPORT_WITHIN);
            }
            tokio::select! {
                message = self.socket.next(), if desk.screen.has_room() => {
                    let ended = match message {
                        Ok(message) => self.hear(&message, desk),
                        Err(why) => Some(Ended::Lost(why)),
                    };
                    if let Some(ended) = ended {
                        return ended;
                    }
                }
                keys = desk.keyboard.next(), if takes_keys => {
                    if let Some(ended) = keys.and_then(|keys| desk.typed(&keys)) {
                        return ended;
                    }
                }
                permit = outgoing.reserve(), if has_keys => match permit {
                    Ok(permit) => {
                        let keys = desk.ledger.send(MOST_KEYS);
                        permit.send(Frame::Binary(encode(&self.id, Say::Keys(&keys)).into()));
                        if !self.is_counted {
                            desk.ledger.sent_is_taken();
                        }
                    }
                    Err(_ended) => return Ended::Lost("it broke off".to_owned()),
                },
                written = desk.screen.write(), if desk.screen.has_work() => match written {
                    Ok(length) => {
                        desk.ledger.show(length);
                        if self.is_counted && desk.ledger.owes_much() {
                            self.say(Say::Shown(desk.ledger.report()));
                            report_by = None;
                        }
                    }
                    Err(error) => return Ended::Failed(format!("cannot write to standard output: {error}")),
                },
                () = tokio::time::sleep_until(report_by.unwrap_or(opened).into()), if report_by.is_some() => {
                    self.say(Say::Shown(desk.ledger.report()));
                    report_by = None;
                }
                _ = desk.signals.resized.recv() => {
                    if let Some((width, height)) = desk.screen.size().filter(|_| self.has_started && desk.is_writer) {
                        self.say(Say::Resize(width, height));
                    }
                }
                () = tokio::time::sleep_until((opened + START_LIMIT).into()), if !self.has_started => {
                    // The hub has not said that the session is ours: it may be on its way to another node.
                    if self.is_counted && !self.is_attached && desk.kept.is_some() {
                        return Ended::Lost("the hub does not answer".to_owned());
                    }
                    return Ended::Failed("the device does not start a shell".to_owned());
                }
                _ = desk.signals.hung_up.recv() => return Ended::HungUp,
                _ = desk.signals.interrupted.recv() => return Ended::Left,
                _ = desk.signals.terminated.recv() => return Ended::Left,
            }
        }
    }

    fn hear(&mut self, message: &[u8], desk: &mut Desk) -> Option<Ended> {
        let heard = match decode(message) {
            Ok(heard) => heard,
            Err(error) => return Some(Ended::Lost(format!("unreadable message: {error}"))),
        };
        match heard {
            Heard::Started(id) => {
                self.id = id;
                self.has_started = true;
            }
            Heard::Printed(bytes) => {
                let new = desk.ledger.receive(&bytes);
                desk.screen.add(new);
            }
            Heard::Ping if desk.is_writer => self.say(Say::Pong),
            Heard::Stopped(why) => return Some(stopped(why, self.is_counted)),
            Heard::Refused(why) if why.contains(RUNS_ALREADY) => self.has_started = true,
            Heard::Refused(why) if self.has_started => return Some(Ended::Gone(why)),
            Heard::Refused(why) => return Some(Ended::Failed(why)),
            Heard::Attached(attached) => self.attached(attached, desk),
            Heard::Taken(total) => {
                if !desk.ledger.take(total) {
                    return Some(Ended::Lost("the hub miscounts what was typed".to_owned()));
                }
            }
            Heard::People(list) => {
                for news in desk.people.now(&list) {
                    desk.screen.say(&news);
                }
            }
            Heard::DeviceIsAway(true) => desk.screen.say("the device is away; what you type waits for it"),
            Heard::DeviceIsAway(false) => desk.screen.say("the device is back"),
            Heard::Skipped(bytes) => {
                desk.ledger.skip(bytes);
                desk.screen.say(&format!("{bytes} bytes of output were left out: this end was too slow"));
            }
            Heard::WeType(is_writer, by) => {
                if desk.is_writer && !is_writer {
                    let who = by.map_or_else(|| "somebody else".to_owned(), |by| desk.people.name(&by));
                    desk.screen.say(&format!("{who} has taken over; you are watching"));
                } else if !desk.is_writer && is_writer {
                    desk.screen.say("you are typing now");
                }
                desk.is_writer = is_writer;
            }
            Heard::Ping | Heard::Other => {}
        }
        None
    }

    fn attached(&mut self, attached: Attached, desk: &mut Desk) {
        let Attached { session, attachment, is_writer, output, input, size, has_shell } = attached;
        self.is_attached = true;
        desk.people.i_am(&attachment);
        self.id.clone_from(&session);
        desk.kept = Some(Kept { session, attachment });
        desk.is_writer = is_writer;
        let gap = desk.ledger.attached(output, input);
        if gap.output > 0 {
            desk.screen.say(&format!("{} bytes of output are lost", gap.output));
        }
        if gap.input && is_writer {
            desk.screen.say("others have typed meanwhile; what you typed last was not sent");
        }
        let ours = desk.screen.size();
        if !is_writer {
            self.has_started = true;
            if let (Some((width, height)), Some((columns, rows))) = (size, ours)
                && (width > columns.into() || height > rows.into())
            {
                desk.screen.say(&format!("the shell's window is larger than yours: {width} columns, {height} rows"));
            }
        } else if has_shell {
            self.has_started = true;
            if let Some((width, height)) = ours {
                self.say(Say::Resize(width, height));
            }
        } else {
            self.say(Say::New(ours));
        }
    }

    /// Says it if the hub listens.
    fn say(&self, say: Say<'_>) {
        self.socket.say(encode(&self.id, say));
    }
}

fn stopped(why: String, is_counted: bool) -> Ended {
    let is_one_of = |reasons: &[&str]| reasons.iter().any(|reason| why.contains(reason));
    if is_one_of(MOVES) {
        return if is_counted { Ended::Lost(why) } else { Ended::Gone(why) };
    }
    if is_one_of(LOSSES) {
        return Ended::Gone(why);
    }
    if why.starts_with("session ended:") {
        return Ended::Failed(why);
    }
    Ended::Exited
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shells_own_end_is_told_from_a_lost_way_to_it() {
        let ended = |why: &str| stopped(why.to_owned(), false);
        assert_eq!(ended("read /dev/ptmx: input/output error"), Ended::Exited);
        assert_eq!(ended(""), Ended::Exited);
        assert!(matches!(ended("device disconnected"), Ended::Gone(_)));
        assert!(matches!(ended("session ended: the hub is restarting"), Ended::Gone(_)));
        assert!(matches!(ended("session ended: access was withdrawn"), Ended::Failed(_)));
    }

    #[test]
    fn a_session_that_the_hub_may_have_kept_is_asked_for_again() {
        let ended = |why: &str| stopped(why.to_owned(), true);
        for why in ["session ended: the hub is restarting", "the session goes on at another hub node"] {
            assert!(matches!(ended(why), Ended::Lost(_)), "{why}");
        }
        assert!(matches!(ended("device disconnected"), Ended::Gone(_)));
        assert!(matches!(ended("session ended: nobody came back to it in time"), Ended::Failed(_)));
    }
}
