//! `mooring terminal`: a shell on a device, as if one sat at it.
//!
//! ```text
//! keyboard ──▶ session ──▶ hub ──▶ device        keyboard   a thread that reads standard input
//! screen   ◀── session ◀── hub ◀── device        session    one websocket and the shell behind it
//! ```
//!
//! When the websocket is lost the command says so, connects again and opens a new shell, until it has tried in vain for
//! a while.

mod keyboard;
mod screen;
mod session;
mod wire;

use super::operator::{self, Operator};
use anyhow::bail;
use keyboard::{Keyboard, Keys};
use screen::Screen;
use session::{Ended, Refused, Session};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Attempts in a row before it gives up; with the waits below that is about two minutes.
const MOST_ATTEMPTS: u32 = 12;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A session that lasted this long was a success: the next loss starts counting anew.
const LASTED: Duration = Duration::from_secs(20);

/// Shown under the options of `mooring terminal --help`.
pub const EXAMPLES: &str = "Examples:
  mooring terminal 3f8f7c1e                   By the beginning of its id
  mooring terminal demo                       By its name, or any other value of its identity
  mooring terminal --server https://hub.example.com 02:00:00:00:00:01
  printf 'uname -a\\nexit\\n' | mooring terminal demo

`exit` or Ctrl-] leaves. Without a terminal on standard input, what comes in is typed as it is, and at its end the command
waits for the shell to end.";

/// Which device.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Its id, the beginning of its id, or a value of its identity such as its name or MAC address
    device: String,
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

/// Opens a terminal and stays until it ends.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let device = operator.find(&arguments.device).await?;
    let mut signals = TerminalSignals::catch()?;
    let name = &arguments.device;
    let mut session = match Session::open(&operator, &device.id).await {
        Ok(session) => session,
        Err(Refused::NotConnected) => bail!("{name} is not connected"),
        Err(error) => return Err(error.into()),
    };
    let mut screen = Screen::take_over()?;
    let mut keyboard = Keyboard::start()?;
    let mut attempts = 0;
    loop {
        let opened = Instant::now();
        let why = match session.serve(&mut keyboard, &mut screen, &mut signals).await {
            Ended::Exited | Ended::Left => return Ok(()),
            Ended::Failed(why) => bail!("{name}: {why}"),
            Ended::Lost(why) => why,
        };
        if keyboard.is_at_end() {
            // Nobody is left to type into a new shell, so it would never end.
            bail!("the connection to {name} was lost: {why}");
        }
        if opened.elapsed() > LASTED {
            attempts = 0;
        }
        screen.say(&format!("connection to {name} lost: {why}; connecting again, Ctrl-] gives up"));
        session = match reconnect(&operator, &device.id, &mut attempts, &mut keyboard, &mut signals).await? {
            Some(session) => session,
            None => return Ok(()),
        };
        screen.say("connected again: this is a new shell");
    }
}

/// Tries until it works; `None` if the person gave up first.
async fn reconnect(
    operator: &Operator,
    device: &str,
    attempts: &mut u32,
    keyboard: &mut Keyboard,
    signals: &mut TerminalSignals,
) -> anyhow::Result<Option<Session>> {
    loop {
        if *attempts >= MOST_ATTEMPTS {
            bail!("gave up after {MOST_ATTEMPTS} attempts to connect again");
        }
        let wait = FIRST_WAIT.saturating_mul(1 << *attempts).min(LONGEST_WAIT);
        *attempts += 1;
        let attempt = async {
            tokio::time::sleep(wait).await;
            Session::open(operator, device).await
        };
        tokio::select! {
            opened = attempt => match opened {
                Ok(session) => return Ok(Some(session)),
                Err(error @ Refused::NotLoggedIn) => return Err(error.into()),
                Err(_not_yet) => {}
            },
            () = gives_up(keyboard) => return Ok(None),
            () = signals.end() => return Ok(None),
        }
    }
}

/// Waits for Ctrl-]; what else is typed while there is no shell is lost.
async fn gives_up(keyboard: &mut Keyboard) {
    loop {
        match keyboard.next().await {
            Keys::Typed(_) => {}
            Keys::Leave(_) => return,
            Keys::End => std::future::pending().await,
        }
    }
}
