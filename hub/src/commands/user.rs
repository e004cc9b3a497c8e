//! `mooring user`: the people who may log in.
//!
//! Writes to the hub's database, whether a hub runs on it or not.

use super::{SettingsArguments, operator::password_from_terminal_or_stdin};
use actors::{accounts::Accounts, credentials::Keyring, gate::Gate};
use anyhow::{Context, bail};
use std::sync::Arc;
use storage::Storage;

/// What can be done with users.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add a user and print their id
    #[command(after_help = "Examples:
  mooring user add you@example.com
  echo \"$PASSWORD\" | mooring user add you@example.com --password-stdin

Works while the hub runs. Needs the hub's settings (its --config, --data-dir or MOORING_*), since it writes to its
database. A password has 8 to 256 characters.")]
    Add {
        /// E-mail address to log in with
        email: String,
        /// Read the password from the first line of standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        settings: SettingsArguments,
    },
}

/// Carries out a command about users.
pub async fn run(command: &Command) -> anyhow::Result<()> {
    let Command::Add { email, password_stdin, settings } = command;
    let config = settings.load()?;
    let password = password_from_terminal_or_stdin(&format!("New password for {email}: "), *password_stdin)?;
    if !*password_stdin && password_from_terminal_or_stdin("Once more: ", false)? != password {
        bail!("the two passwords differ");
    }
    let storage = Storage::open(&config.storage).await.context("cannot open the storage")?;
    let keyring = Arc::new(Keyring::load(&storage.keys, &config.actors).await?);
    let gate = Gate::new(storage.devices.clone(), storage.users.clone(), keyring.clone(), &config.actors);
    // A new user has no token that anybody could have to forget.
    let announce = Arc::new(|_event| ());
    let accounts = Accounts::new(storage.users.clone(), gate, keyring, announce, &config.actors);
    let added = accounts.add_user_by_operator(email, &password, None).await;
    storage.close().await;
    println!("{}", added.with_context(|| format!("cannot add {email}"))?);
    Ok(())
}
