//! What can be measured, one file each.

pub mod alerts;
pub mod bench;
pub mod connect;
pub mod fill;
pub mod forward;
pub mod idle;
pub mod inventory;
pub mod keystrokes;
pub mod mixed;
pub mod poll;
pub mod rollout;
pub mod searches;
pub mod storm;
pub mod transfer;

use crate::{Server, Shell, fleet::Fleet, operator::Operator, report::Output};
use anyhow::{Context, bail};
use std::{io::BufRead, time::Duration};

/// What every scenario needs to know.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Where the hub is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", env = "MOORING_SERVER")]
    pub server: String,
    /// E-mail address of an operator who lets the devices in; without one, somebody else has to
    #[arg(long, value_name = "EMAIL", env = "MOORING_USER", requires = "password_stdin")]
    pub user: Option<String>,
    /// Read the operator's password from the first line of standard input
    #[arg(long, requires = "user")]
    pub password_stdin: bool,
    /// Name of the fleet; the same name gives the same devices again [default: a random one]
    #[arg(long, value_name = "NAME")]
    pub fleet: Option<String>,
    /// How long the devices may take to connect
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub patience: u64,
    /// What becomes of the report
    #[command(flatten)]
    pub output: Output,
}

impl Target {
    /// The hub under test.
    async fn hub(&self) -> anyhow::Result<Server> {
        Server::at(&self.server).await
    }

    /// The operator, without whom this cannot be done.
    async fn needed_operator(&self, server: &Server, what: &str) -> anyhow::Result<Operator> {
        let operator = self.operator(server).await?;
        operator.with_context(|| format!("{what} takes an operator: give --user and --password-stdin"))
    }

    async fn operator(&self, server: &Server) -> anyhow::Result<Option<Operator>> {
        let Some((user, password)) = self.credentials()? else { return Ok(None) };
        Operator::log_in(server, user, &password).await.map(Some)
    }

    /// The operator's e-mail address and password. They can be had once: the password is taken from standard input.
    fn credentials(&self) -> anyhow::Result<Option<(&str, String)>> {
        let Some(user) = &self.user else { return Ok(None) };
        let mut password = String::new();
        std::io::stdin().lock().read_line(&mut password).context("cannot read the password from standard input")?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            bail!("standard input holds no password in its first line");
        }
        Ok(Some((user, password.to_owned())))
    }

    fn fleet(&self, server: &Server, shell: Shell) -> Fleet {
        let random = || format!("load-{:08x}", rand::random::<u32>());
        Fleet::new(&self.fleet.clone().unwrap_or_else(random), server.clone(), shell)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| *number > 0.0 && number.is_finite())
        .ok_or_else(|| "must be more than 0".into())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be a number from 1".to_owned())
}
