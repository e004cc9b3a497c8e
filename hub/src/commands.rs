//! What can be typed after `mooring`.
//!
//! One file per command. Those of the hub (`serve`, `user`, `migrate`, `repair`, `config`, `demo`) read the settings; those
//! of the operator (`login`, `logout`, `devices`, `accept`, `terminal`, `forward`, `cp`, `sessions`, `play`, `artifact`,
//! `deploy`, and `config` for a device) speak to a hub over the network and read none.

mod accept;
mod artifact;
mod cp;
mod demo;
mod deploy;
mod device_config;
mod devices;
mod forward;
mod login;
mod migrate;
mod operator;
mod play;
mod private_file;
mod repair;
mod serve;
mod sessions;
mod show_config;
mod terminal;
mod user;

use crate::config::{Config, Flag, Sources};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

/// Exit code of a command that failed; wrong usage is 2, from clap.
const FAILURE: u8 = 1;

#[derive(Debug, Parser)]
#[command(
    name = "mooring",
    version,
    about = "A hub that your devices stay connected to",
    long_about = "A hub that your devices stay connected to: they keep one websocket open, you open a terminal on any of \
                  them. Speaks the API of the open Mender server, so its agents, its mender-cli and its web UI work \
                  unchanged.",
    after_help = "Examples:
  mooring demo                       A hub, a user and a device on this machine
  mooring serve                      A hub on 127.0.0.1:8080, kept in ./mooring-data
  mooring user add you@example.com   The first user (asks for a password)
  mooring devices                    What is there, and what is connected
  mooring accept 3f8f                Let a device in
  mooring terminal 3f8f              Open a shell on it; Ctrl-] opens a menu
  mooring forward 3f8f 8022:22       Its port 22 as port 8022 of this machine
  mooring cp 3f8f:/etc/hostname .    Copy a file from it, or to it
  mooring deploy app-2.1 --all       Update the fleet, and see how far it is

`mooring COMMAND --help` says more about each."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a hub
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArguments),
    /// Hub, first user and a device with a real shell, all on this machine
    ///
    /// The device is this machine: whoever is logged in to the demo's hub has your shell, reads and writes your files,
    /// and reaches the ports that this machine reaches. The hub therefore listens on 127.0.0.1 only, and its one user has
    /// a random password.
    Demo(demo::Arguments),
    /// Manage the people who may log in
    #[command(subcommand)]
    User(user::Command),
    /// Bring the database to this version's schema (`serve` does it by itself)
    Migrate(SettingsArguments),
    /// Compare statuses, inventories and counts with the devices they belong to, and put right what differs
    ///
    /// Nothing differs unless somebody wrote to the database by other means, such as an import.
    Repair(repair::Arguments),
    /// Look at the settings of the hub, or at what devices are told to be
    #[command(subcommand, after_help = device_config::EXAMPLES)]
    Config(ConfigCommand),
    /// Log in to a hub and keep the token for the commands below
    Login(operator::OperatorArguments),
    /// Make the kept token worthless and forget it
    Logout(operator::OperatorArguments),
    /// List the devices, and which of them are connected
    Devices(devices::Arguments),
    /// Let a device in
    Accept(accept::Arguments),
    /// Open a terminal on a device, or come back to one
    #[command(after_help = terminal::EXAMPLES)]
    Terminal(terminal::Arguments),
    /// Reach ports of a device, or of what is near it, as ports of this machine
    #[command(after_help = forward::EXAMPLES)]
    Forward(forward::Arguments),
    /// Copy a file to a device or from it
    #[command(after_help = cp::EXAMPLES)]
    Cp(cp::Arguments),
    /// List the sessions that run, or all that are remembered
    #[command(after_help = sessions::EXAMPLES)]
    Sessions(sessions::Arguments),
    /// Play the recording of a terminal
    #[command(after_help = play::EXAMPLES)]
    Play(play::Arguments),
    /// Bring artifacts into the hub, and list them
    #[command(subcommand, after_help = artifact::EXAMPLES)]
    Artifact(artifact::Command),
    /// Bring a release to devices, and see how far they are
    #[command(after_help = deploy::EXAMPLES)]
    Deploy(Box<deploy::Arguments>),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective settings of the hub and where each one comes from; secrets are masked
    Show(ServeArguments),
    /// Print what a device is told to be, and what it says it is
    Get(device_config::DeviceArguments),
    /// Change what a device is told to be; it stays as it is until that is deployed
    Set(device_config::SetArguments),
    /// Bring a device what it is told to be; prints the id of the deployment
    Deploy(device_config::DeployArguments),
}

const SERVE_EXAMPLES: &str = "Examples:
  mooring serve
  mooring serve --listen 0.0.0.0:443 --tls-cert hub.crt --tls-key hub.key
  MOORING_DATABASE_URL=postgres://hub@db/mooring MOORING_REDIS_URL=redis://cache \\
    MOORING_NATS_URL=nats://bus MOORING_OBJECTS_URL=s3://recordings mooring serve

Settings, the first that is given counts: flags, environment, file, defaults. Every setting SECTION.KEY of the file is
also MOORING_SECTION__KEY in the environment; short names: MOORING_DATABASE_URL, MOORING_REDIS_URL, MOORING_NATS_URL,
MOORING_OBJECTS_URL, MOORING_OBJECTS_ENDPOINT, MOORING_OBJECTS_PUBLIC_ENDPOINT, MOORING_OBJECTS_REGION,
MOORING_OBJECTS_ACCESS_KEY, MOORING_OBJECTS_SECRET_KEY, MOORING_LISTEN, MOORING_PUBLIC_URL, MOORING_DATA_DIR,
MOORING_TLS_CERT, MOORING_TLS_KEY, MOORING_UI_DIR, MOORING_LOG, MOORING_LOG_FORMAT, MOORING_METRICS_LISTEN, MOORING_METRICS_TOKEN, MOORING_INTERNAL_LISTEN,
MOORING_INTERNAL_TOKEN. `mooring config show` prints what is in force.";

/// Where a command of the hub finds its settings.
#[derive(Debug, Clone, Args)]
pub struct SettingsArguments {
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE", env = "MOORING_CONFIG")]
    config: Option<PathBuf>,
    /// Folder for the embedded database and files [default: mooring-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Settings that matter to a hub which serves.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    settings: SettingsArguments,
    /// Certificate chain (PEM); with it the hub speaks TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl SettingsArguments {
    fn sources(&self) -> Sources {
        let mut flags = Vec::new();
        push_flag(&mut flags, "--data-dir", "data_dir", self.data_dir.as_ref().map(|path| path.display()));
        Sources::of_this_process(self.config.clone(), flags)
    }

    /// The settings, with the data directory made and the embedded database in it.
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = self.sources().load()?;
        config.settle_in()?;
        Ok(config)
    }
}

impl ServeArguments {
    fn sources(&self) -> Sources {
        let mut sources = self.settings.sources();
        push_flag(&mut sources.flags, "--listen", "api.listen", self.listen);
        push_flag(&mut sources.flags, "--tls-cert", "api.tls_cert", self.tls_cert.as_ref().map(|path| path.display()));
        push_flag(&mut sources.flags, "--tls-key", "api.tls_key", self.tls_key.as_ref().map(|path| path.display()));
        sources
    }
}

fn push_flag(flags: &mut Vec<Flag>, name: &'static str, key: &'static str, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        flags.push(Flag { name, key, value: value.to_string() });
    }
}

/// Reads the command line and does what it says. Errors are one line on standard error.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    install_tls_provider();
    match carry_out(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mooring: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::from(FAILURE)
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments)?,
        Command::Demo(arguments) => demo::run(&arguments)?,
        Command::User(command) => in_runtime(user::run(&command))?,
        Command::Migrate(settings) => in_runtime(migrate::run(&settings))?,
        Command::Repair(arguments) => in_runtime(repair::run(&arguments))?,
        Command::Config(ConfigCommand::Show(arguments)) => show_config::run(&arguments)?,
        Command::Config(ConfigCommand::Get(arguments)) => in_runtime(device_config::get(&arguments))?,
        Command::Config(ConfigCommand::Set(arguments)) => in_runtime(device_config::set(&arguments))?,
        Command::Config(ConfigCommand::Deploy(arguments)) => in_runtime(device_config::deploy(&arguments))?,
        Command::Login(arguments) => in_runtime(login::log_in(&arguments))?,
        Command::Logout(arguments) => in_runtime(login::log_out(&arguments))?,
        Command::Devices(arguments) => in_runtime(devices::run(&arguments))?,
        Command::Accept(arguments) => in_runtime(accept::run(&arguments))?,
        Command::Terminal(arguments) => in_runtime(terminal::run(&arguments))?,
        Command::Forward(arguments) => in_runtime(forward::run(&arguments))?,
        Command::Cp(arguments) => return in_runtime(cp::run(&arguments)),
        Command::Sessions(arguments) => in_runtime(sessions::run(&arguments))?,
        Command::Artifact(command) => in_runtime(artifact::run(&command))?,
        Command::Deploy(arguments) => return in_runtime(deploy::run(*arguments)),
        Command::Play(arguments) => return in_runtime(play::run(&arguments)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that waits for the network or the database, but serves nobody.
fn in_runtime<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start a runtime")?;
    let result = runtime.block_on(command);
    // A thread that still waits for somebody to type must not keep the process.
    runtime.shutdown_background();
    result
}

/// Without a provider every TLS connection of this process would panic.
fn install_tls_provider() {
    // An error means that there is one already.
    let _already_there = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_certificate_without_its_key_is_wrong_usage() {
        let error = Arguments::try_parse_from(["mooring", "serve", "--tls-cert", "x"]).expect_err("refused");
        assert_eq!(error.exit_code(), 2);
    }
}
