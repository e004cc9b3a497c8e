//! The operator's client: which hub, who is asking, and the questions.

mod backoff;
mod connection;
mod device;
mod interrupts;
pub mod message;
mod socket;
#[cfg(test)]
pub mod stand_in;

pub use backoff::Backoff;
pub use connection::{Operator, TokenStore, refusal};
pub use device::ListedDevice;
pub use interrupts::Interrupts;
pub use socket::{Refused, Socket};

use anyhow::{Context, bail};
use std::io::{BufRead, IsTerminal};

/// Where a hub listens when nothing else was said.
const USUAL_SERVER: &str = "http://127.0.0.1:8080";

/// Which hub, and who asks.
#[derive(Debug, Clone, clap::Args)]
pub struct OperatorArguments {
    /// The hub
    #[arg(long, value_name = "URL", env = "MOORING_SERVER", default_value = USUAL_SERVER)]
    pub server: String,
    /// E-mail address to log in with, if there is no valid token from an earlier login
    #[arg(long, value_name = "EMAIL", env = "MOORING_USER")]
    pub user: Option<String>,
    /// Read the password from the first line of standard input instead of asking for it
    #[arg(long)]
    pub password_stdin: bool,
}

impl OperatorArguments {
    /// What has to follow a command so that it speaks to the same hub.
    pub fn flags(&self) -> String {
        let is_known = self.server == USUAL_SERVER || std::env::var("MOORING_SERVER").is_ok_and(|it| it == self.server);
        if is_known { String::new() } else { format!(" --server {}", self.server) }
    }
}

/// Asks for a password without showing it, or takes the first line of standard input.
pub fn password_from_terminal_or_stdin(prompt: &str, from_stdin: bool) -> anyhow::Result<String> {
    if !from_stdin {
        if !std::io::stdin().is_terminal() {
            bail!("there is no terminal to ask for a password: give --password-stdin");
        }
        return rpassword::prompt_password(prompt).context("cannot read the password");
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the password from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("the first line of standard input is empty: expected a password");
    }
    Ok(password.to_owned())
}

/// Asks for a line of text on the terminal.
fn ask(prompt: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        bail!("not logged in: run `mooring login` first, or give --user and --password-stdin");
    }
    eprint!("{prompt}");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("cannot read from the terminal")?;
    match line.trim() {
        "" => bail!("nothing was entered"),
        line => Ok(line.to_owned()),
    }
}
