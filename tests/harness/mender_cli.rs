//! The unmodified `mender-cli`, with a home directory of its own.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::door::Door;
use crate::process::{Output, Process, run};
use crate::traffic::listens;
use crate::wait::LIMIT;
use crate::workspace::temporary_directory;

/// Terminals that are tried before a test fails.
const ATTEMPTS: usize = 4;

/// How long a terminal may print nothing of what is waited for.
const SILENCE: Duration = Duration::from_secs(12);

/// How often its output is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Somebody with `mender-cli`.
pub struct MenderCli {
    home: PathBuf,
    server: String,
}

impl MenderCli {
    /// Not logged in yet.
    pub fn new(door: &Door) -> Self {
        Self { home: temporary_directory(), server: door.url() }
    }

    /// The same person with the same login, at another address.
    #[must_use]
    pub fn at(&self, door: &Door) -> Self {
        Self { home: self.home.clone(), server: door.url() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("mender-cli");
        command.args(["--server", &self.server]).args(arguments).current_dir(&self.home);
        command.env("HOME", &self.home).env("XDG_CACHE_HOME", self.home.join("cache"));
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        self.run_within(LIMIT, arguments).await
    }

    /// The same for one that may take longer.
    pub async fn run_within(&self, limit: Duration, arguments: &[&str]) -> Output {
        run(&self.command(arguments), "", limit).await
    }

    /// Logs in.
    ///
    /// # Panics
    /// When refused.
    pub async fn log_in(&self, email: &str, password: &str) {
        let output = self.run(&["login", "--username", email, "--password", password]).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// A file of this user's, for commands that take one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Opens a terminal; type with [`Process::type_in`], read with [`Process::printed`].
    pub fn terminal(&self, device: &str) -> Process {
        Process::start_interactive(&self.command(&["terminal", device]), &temporary_directory().join("terminal.log"))
    }

    /// Forwards ports, each given as `[udp/]PORT:HOST:PORT`, and waits until all of them listen.
    ///
    /// # Panics
    /// When they do not.
    pub async fn port_forward(&self, device: &str, mappings: &[String]) -> Process {
        let mut arguments = vec!["port-forward", device];
        arguments.extend(mappings.iter().map(String::as_str));
        let log = temporary_directory().join("port-forward.log");
        let process = Process::start(&self.command(&arguments), &log);
        for mapping in mappings {
            let (protocol, rest) = mapping.split_once('/').unwrap_or(("tcp", mapping));
            let port = rest.split(':').next().and_then(|port| port.parse().ok()).expect("a mapping names a port");
            listens(protocol, port).await;
        }
        process
    }

    /// Opens a terminal, waits for the prompt, types `text` and waits until the device prints `expected`.
    ///
    /// A terminal that ends or stays silent is given up and another one opened, as a person would: an agent whose token has
    /// just been renewed connects anew, which ends the terminals it had, and now and then one opened in its first seconds
    /// shows no prompt although the shell on the device waits at it.
    ///
    /// # Panics
    /// When several terminals in a row have not printed it.
    pub async fn terminal_that_prints(&self, device: &str, text: &str, expected: &str) -> Process {
        let mut said = Vec::new();
        for _ in 0..ATTEMPTS {
            let mut terminal = self.terminal(device);
            if prints(&mut terminal, "# ").await {
                terminal.type_in(text);
                if prints(&mut terminal, expected).await {
                    return terminal;
                }
            }
            said.push(terminal.log());
        }
        panic!("no terminal printed {expected:?} but: {said:#?}");
    }
}

/// Waits until a terminal has printed `text`; `false` if it has ended without, or is silent for too long.
async fn prints(terminal: &mut Process, text: &str) -> bool {
    let deadline = Instant::now() + SILENCE;
    loop {
        // Asked first, so that the last output of one that has ended is not missed.
        let is_over = terminal.ended().is_some() || Instant::now() > deadline;
        let has_printed = terminal.log().contains(text);
        if has_printed || is_over {
            return has_printed;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
