//! The `mooring` program as people run it.

use std::process::Command;

use crate::process::{Output, run};
use crate::site::Site;
use crate::wait::LIMIT;
use crate::workspace::{program, temporary_directory};

/// Runs subcommands of `mooring`, with a home directory of its own.
pub struct Mooring {
    environment: Vec<(String, String)>,
}

impl Mooring {
    /// With the settings of the hubs in this site.
    pub fn in_site(site: &Site) -> Self {
        let mut this = Self::alone();
        this.environment.extend(site.environment());
        this
    }

    /// Without any settings.
    pub fn alone() -> Self {
        let home = temporary_directory().display().to_string();
        let environment = ["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"].map(|name| (name.to_owned(), home.clone()));
        Self { environment: environment.to_vec() }
    }

    /// The command with these arguments, to be started by other means.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("mooring"));
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a subcommand to its end.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Output {
        run(&self.command(arguments), input, LIMIT).await
    }

    /// `mooring user add`; the new user's id.
    ///
    /// # Panics
    /// When it fails.
    pub async fn add_user(&self, email: &str, password: &str) -> String {
        let output = self.run(&["user", "add", email, "--password-stdin"], &format!("{password}\n")).await;
        assert!(output.status.success(), "{output:?}");
        output.stdout.trim_end().to_owned()
    }
}
