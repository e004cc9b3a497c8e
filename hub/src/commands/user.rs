//! `mooring user`: the people who may log in.
//!
//! Writes to the hub's database, whether a hub runs on it or not.

use super::{SettingsArguments, operator::password_from_terminal_or_stdin};
use crate::config::Config;
use actors::{
    accounts::Accounts,
    bus::{Announcer, Bus, NatsBus},
    credentials::Keyring,
    gate::Gate,
};
use anyhow::{Context, bail};
use std::sync::Arc;
use storage::{NodeId, Storage, UserId};

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
        #[command(flatten)]
        user: UserArguments,
        /// The user's id, instead of a random one
        #[arg(long)]
        id: Option<String>,
    },
    /// Give a user another password, and log them out everywhere
    #[command(after_help = "Examples:
  mooring user set-password you@example.com
  echo \"$PASSWORD\" | mooring user set-password you@example.com --password-stdin

Works while the hub runs, and needs its settings as `mooring user add` does. Former tokens end within 30 s, or at once on
hubs that share a NATS server. A password has 8 to 256 characters.")]
    SetPassword {
        #[command(flatten)]
        user: UserArguments,
    },
}

/// Who, and where their password comes from.
#[derive(Debug, clap::Args)]
pub struct UserArguments {
    /// E-mail address to log in with
    email: String,
    /// Read the password from the first line of standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    settings: SettingsArguments,
}

impl UserArguments {
    fn password(&self) -> anyhow::Result<String> {
        let prompt = format!("New password for {}: ", self.email);
        let password = password_from_terminal_or_stdin(&prompt, self.password_stdin)?;
        if !self.password_stdin && password_from_terminal_or_stdin("Once more: ", false)? != password {
            bail!("the two passwords differ");
        }
        Ok(password)
    }
}

/// Carries out a command about users.
pub async fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Add { user, id } => {
            let config = user.settings.load()?;
            let password = user.password()?;
            // A new user has no token that anybody could have to forget.
            let (accounts, storage) = open(&config, Arc::new(|_event| ())).await?;
            let id = id.as_deref().map(UserId::new);
            let added = accounts.add_user_by_operator(&user.email, &password, id).await;
            storage.close().await;
            println!("{}", added.with_context(|| format!("cannot add {}", user.email))?);
        }
        Command::SetPassword { user } => {
            let config = user.settings.load()?;
            let password = user.password()?;
            let bus = bus(&config).await?;
            let announce = {
                let bus = bus.clone();
                // Hubs that do not hear it ask the database again soon.
                Arc::new(move |event| {
                    let _ = bus.announce(&event);
                })
            };
            let (accounts, storage) = open(&config, announce).await?;
            let changed = accounts.set_password(&user.email, &password).await;
            let told = bus.flush().await;
            storage.close().await;
            told.context("the hubs that run were not told and will notice within 30 s")?;
            changed.with_context(|| format!("cannot change the password of {}", user.email))?;
        }
    }
    Ok(())
}

async fn open(config: &Config, announce: Announcer) -> anyhow::Result<(Accounts, Storage)> {
    let storage = Storage::open(&config.storage).await.context("cannot open the storage")?;
    let keyring = Arc::new(Keyring::load(&storage.keys, &config.actors).await?);
    let gate = Gate::new(storage.devices.clone(), storage.users.clone(), keyring.clone(), &config.actors);
    Ok((Accounts::new(storage.users.clone(), gate, keyring, announce, &config.actors), storage))
}

/// The way to the hubs that run, if they have one in common.
async fn bus(config: &Config) -> anyhow::Result<Bus> {
    let node = NodeId::random();
    let Some(url) = &config.actors.nats_url else { return Ok(Bus::alone(node)) };
    let connected = NatsBus::connect(url.expose(), &config.actors.nats_prefix, node).await;
    Ok(Bus::from(connected.context("cannot connect to the NATS server named by actors.nats_url")?))
}
