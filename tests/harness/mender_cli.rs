//! The unmodified `mender-cli`, with a home directory of its own.

use std::path::PathBuf;
use std::process::Command;

use crate::door::Door;
use crate::process::{Output, Process, run};
use crate::wait::LIMIT;
use crate::workspace::temporary_directory;

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

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("mender-cli");
        command.args(["--server", &self.server]).args(arguments).current_dir(&self.home);
        command.env("HOME", &self.home).env("XDG_CACHE_HOME", self.home.join("cache"));
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        run(&self.command(arguments), "", LIMIT).await
    }

    /// Logs in.
    ///
    /// # Panics
    /// When refused.
    pub async fn log_in(&self, email: &str, password: &str) {
        let output = self.run(&["login", "--username", email, "--password", password]).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// Opens a terminal; type with [`Process::type_in`], read with [`Process::printed`].
    pub fn terminal(&self, device: &str) -> Process {
        Process::start_interactive(&self.command(&["terminal", device]), &temporary_directory().join("terminal.log"))
    }
}
