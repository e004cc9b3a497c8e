//! `mooring terminal`: a shell on a device, as if one sat at it.
//!
//! ```text
//! keyboard ──▶ menu ──▶ ledger ──▶ session ──▶ hub ──▶ device     keyboard   a thread that reads standard input
//! screen   ◀── surface ◀───────── session ◀── hub ◀── device     session    one websocket and the shell behind it
//! ```
//!
//! The hub keeps the session when a websocket is lost; another websocket then goes on where the first one stopped, and
//! the [ledger](ledger) sees to it that no byte is lost or doubled. A hub that keeps no sessions gives a new shell.

mod keyboard;
mod ledger;
mod menu;
mod people;
mod screen;
mod session;
mod surface;
mod wire;

use super::{
    operator::{self, Backoff, Operator, Refused},
    sessions,
};
use anyhow::bail;
use keyboard::Keyboard;
use ledger::Ledger;
use people::People;
use screen::Screen;
use session::{Desk, Ended, Kept, Session};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use surface::Surface;

/// It gives up when it could not connect again for this long; a hub keeps no session longer.
const LONGEST_ABSENCE: Duration = Duration::from_mins(5);
/// A session that lasted this long was a success: the next loss starts counting anew.
const LASTED: Duration = Duration::from_secs(20);

/// Shown under the options of `mooring terminal --help`.
pub const EXAMPLES: &str = "Examples:
  mooring terminal 3f8f7c1e                   By the beginning of its id
  mooring terminal demo                       By its name, or any other value of its identity
  mooring terminal --server https://hub.example.com 02:00:00:00:00:01
  printf 'uname -a\\nexit\\n' | mooring terminal demo
  mooring sessions                            What runs, with the ids for the next three
  mooring terminal --attach 6b1d              Come back to a shell that was left running
  mooring terminal --watch 6b1d               Look on while somebody works
  mooring terminal --take-over 6b1d           Type instead of whoever types now

`exit` leaves. Ctrl-] opens a menu, whose next key counts: d leaves and lets the shell run on, q ends it, s says who is
here, and Ctrl-] itself goes to the device.

When the connection is lost, the command connects again and goes on where it was: nothing typed or printed is lost or
doubled. The hub keeps the shell for some minutes meanwhile. Without a terminal on standard input, what comes in is typed
as it is, and at its end the command waits for the shell to end.

Status 0 when the shell has ended or was left, 1 when there is none to be had or it was lost, 2 for wrong usage.";

/// Which device, or which session.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Its id, the beginning of its id, or a value of its identity such as its name or MAC address
    #[arg(required_unless_present_any = ["attach", "watch", "take_over"])]
    device: Option<String>,
    /// Come back to this session, which nobody types in
    #[arg(long, value_name = "SESSION", conflicts_with_all = ["device", "watch", "take_over"])]
    attach: Option<String>,
    /// Look on in this session
    #[arg(long, value_name = "SESSION", conflicts_with_all = ["device", "take_over"])]
    watch: Option<String>,
    /// Type in this session instead of whoever does now
    #[arg(long, value_name = "SESSION", conflicts_with = "device")]
    take_over: Option<String>,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// Signals that concern a terminal.
#[derive(Debug)]
pub(crate) struct TerminalSignals {
    resized: Signal,
    hung_up: Signal,
    interrupted: Signal,
    terminated: Signal,
}

impl TerminalSignals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            hung_up: signal(SignalKind::hangup())?,
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal that asks the command to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.hung_up.recv() => {}
            _ = self.interrupted.recv() => {}
            _ = self.terminated.recv() => {}
        }
    }
}

/// How to be at a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Write,
    Watch,
    TakeOver,
}

/// What the command is about.
struct Subject {
    operator: Operator,
    /// In the person's words.
    name: String,
    /// The device, if a new shell may be opened on it.
    device: Option<String>,
}

/// Opens a terminal and stays until it ends.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let (subject, session) = match (&arguments.device, chosen(arguments)) {
        (Some(device), _) => {
            let id = operator.find(device).await?.id;
            let subject = Subject { operator, name: device.clone(), device: Some(id) };
            let session = subject.open_new().await.map_err(|refused| match refused {
                Refused::NotThere(_) => anyhow::anyhow!("{device} is not connected"),
                other => other.into(),
            })?;
            (subject, session)
        }
        (None, Some((wanted, mode))) => {
            let id = sessions::find(&operator, wanted).await?;
            let subject = Subject { operator, name: format!("session {id}"), device: None };
            let session = subject.attach(&id, mode, None).await.map_err(|refused| match refused {
                Refused::NotThere(_) => anyhow::anyhow!("there is no session {id} that runs: see `mooring sessions`"),
                Refused::InUse => anyhow::anyhow!(
                    "somebody else types in session {id}: --watch looks on, --take-over takes the keyboard"
                ),
                other => other.into(),
            })?;
            (subject, session)
        }
        (None, None) => bail!("neither a device nor a session is given"),
    };
    let signals = TerminalSignals::catch()?;
    let names = subject.operator.user_names().await;
    let mut desk = Desk::new(Keyboard::start()?, Screen::take_over()?, signals);
    desk.people = People::called(names);
    let is_detached = stay(&subject, session, &mut desk).await?;
    let kept = desk.kept.take().filter(|_| is_detached && desk.is_writer);
    // Only now is the terminal as it was.
    drop(desk);
    if let Some(kept) = kept {
        eprintln!("left; the shell on {} runs on for a while. To come back:", subject.name);
        eprintln!("  mooring terminal --attach {}{}", kept.session, arguments.operator.flags());
    }
    Ok(())
}

fn chosen(arguments: &Arguments) -> Option<(&str, Mode)> {
    let modes =
        [(&arguments.attach, Mode::Write), (&arguments.watch, Mode::Watch), (&arguments.take_over, Mode::TakeOver)];
    modes.into_iter().find_map(|(session, mode)| Some((session.as_deref()?, mode)))
}

/// Stays over any number of lost websockets; whether the shell was left running.
async fn stay(subject: &Subject, mut session: Session, desk: &mut Desk) -> anyhow::Result<bool> {
    let name = &subject.name;
    let mut backoff = Backoff::default();
    loop {
        let opened = Instant::now();
        let why = match session.serve(desk).await {
            // Nobody is left to be told how to come back when the terminal is gone.
            Ended::Exited | Ended::Left | Ended::HungUp => return Ok(false),
            Ended::Detached => return Ok(true),
            Ended::Failed(why) => bail!("{name}: {why}"),
            Ended::Lost(why) => why,
            Ended::Gone(why) => {
                desk.kept = None;
                why
            }
        };
        if desk.kept.is_none() && (desk.keyboard.is_at_end() || subject.device.is_none()) {
            // Nobody is left to type into a new shell, so it would never end; or there is no device to open one on.
            bail!("the connection to {name} was lost: {why}");
        }
        if opened.elapsed() > LASTED {
            backoff.worked();
        }
        let was_kept = desk.kept.is_some();
        desk.screen.say(&format!("connection to {name} lost: {why}; connecting again"));
        session = match reconnect(subject, desk, &mut backoff).await? {
            Reconnected::Yes(session) => session,
            Reconnected::GaveUp { is_kept } => return Ok(is_kept),
        };
        desk.screen.say(match (was_kept, desk.kept.is_some()) {
            (true, true) => "connected again",
            (true, false) => "connected again, but the hub has not kept the shell: this is a new one",
            (false, _) => "connected again: this is a new shell",
        });
    }
}

enum Reconnected {
    Yes(Session),
    GaveUp { is_kept: bool },
}

/// Tries until it works, it never will, or the person gives up.
async fn reconnect(subject: &Subject, desk: &mut Desk, backoff: &mut Backoff) -> anyhow::Result<Reconnected> {
    let lost = Instant::now();
    let mut mode = if desk.is_writer { Mode::Write } else { Mode::Watch };
    loop {
        if lost.elapsed() > LONGEST_ABSENCE {
            bail!("gave up: could not connect to {} again", subject.name);
        }
        let wait = backoff.next_wait();
        let attempt = subject.come_back(desk.kept.clone(), desk.ledger.received(), mode, wait);
        tokio::pin!(attempt);
        let opened = loop {
            let takes_keys = desk.takes_keys();
            tokio::select! {
                opened = &mut attempt => break opened,
                keys = desk.keyboard.next(), if takes_keys => match keys.and_then(|keys| desk.typed(&keys)) {
                    Some(Ended::Detached) => return Ok(Reconnected::GaveUp { is_kept: true }),
                    Some(_) => return Ok(Reconnected::GaveUp { is_kept: false }),
                    None => {}
                },
                written = desk.screen.write(), if desk.screen.has_work() => desk.ledger.show(written?),
                () = desk.signals.end() => return Ok(Reconnected::GaveUp { is_kept: false }),
            }
        };
        match opened {
            Ok(session) => {
                if desk.kept.is_none() {
                    // What was typed and printed is not the next shell's.
                    desk.screen.finish().await?;
                    desk.ledger = Ledger::default();
                    desk.is_writer = true;
                }
                return Ok(Reconnected::Yes(session));
            }
            Err(refused @ (Refused::NotLoggedIn | Refused::Pointless(_))) => return Err(refused.into()),
            Err(Refused::InUse) => {
                desk.screen.say("somebody else types in this session now; you are watching");
                mode = Mode::Watch;
            }
            Err(Refused::NotThere(_)) if desk.kept.is_some() => {
                if desk.keyboard.is_at_end() || subject.device.is_none() || !desk.is_writer {
                    bail!("{}: the session has ended meanwhile", subject.name);
                }
                desk.kept = None;
            }
            Err(_not_yet) => {}
        }
    }
}

impl Subject {
    async fn come_back(&self, kept: Option<Kept>, from: u64, mode: Mode, after: Duration) -> Result<Session, Refused> {
        tokio::time::sleep(after).await;
        match kept {
            Some(kept) => self.attach(&kept.session, mode, Some((from, &kept.attachment))).await,
            None => self.open_new().await,
        }
    }

    /// A session with a new shell.
    async fn open_new(&self) -> Result<Session, Refused> {
        let device = self.device.as_deref().unwrap_or_default();
        let path = format!("/api/management/v1/mooring/devices/{device}/terminal?keep=true");
        match Session::open_counted(&self.operator, &path).await {
            Err(Refused::NotThere(why)) if why.contains("disconnected") => Err(Refused::NotThere(why)),
            // A hub without this path, or an answer whose words have not come with it: the other path will tell.
            Err(Refused::NotThere(_)) => Session::open_plain(&self.operator, device).await,
            opened => opened,
        }
    }

    async fn attach(&self, session: &str, mode: Mode, again: Option<(u64, &str)>) -> Result<Session, Refused> {
        Session::open_counted(&self.operator, &attach_path(session, mode, again)).await
    }
}

fn attach_path(session: &str, mode: Mode, again: Option<(u64, &str)>) -> String {
    let mode = match mode {
        Mode::Write => "write",
        Mode::Watch => "watch",
        Mode::TakeOver => "take-over",
    };
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("mode", mode);
    if let Some((from, replaces)) = again {
        query.append_pair("from", &from.to_string()).append_pair("replaces", replaces);
    }
    format!("/api/management/v1/mooring/sessions/{session}/attach?{}", query.finish())
}

#[cfg(test)]
mod tests;
