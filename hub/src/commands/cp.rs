//! `mooring cp`: one file to a device, or from one.

mod download;
mod draft;
mod place;
mod progress;
mod upload;

use super::operator::{self, Interrupts, Operator};
use anyhow::Context;
use place::Copying;

pub use draft::Draft;
use std::process::ExitCode;

/// Shown under the options of `mooring cp --help`.
pub const EXAMPLES: &str = "Examples:
  mooring cp app.conf demo:/etc/app.conf              To a device
  mooring cp demo:/var/log/syslog .                   From a device, under its own name
  mooring cp --mode 755 --uid 0 --gid 0 run.sh demo:/usr/local/bin/
  mooring cp demo:/etc/os-release -                   To standard output
  tar c config | mooring cp - demo:/tmp/config.tar    From standard input

One side is DEVICE:/path, where DEVICE is an id, the beginning of one or a value of the identity. An existing file is
overwritten, and keeps its mode on this machine; a new one gets the mode of the other side unless --mode is given. A file
is there whole or not at all: Ctrl-C leaves nothing. A download that breaks off goes on where it was.

Status 0 when the file was copied, 1 when it was not, 2 for wrong usage, 130 after Ctrl-C.";

/// What to copy.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A file, `DEVICE:/path`, or - for standard input
    #[arg(value_name = "SRC")]
    source: String,
    /// A file or directory, `DEVICE:/path`, or - for standard output
    #[arg(value_name = "DST")]
    destination: String,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

/// What the copy shall be like.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Permissions of the copy, in octal such as 644
    #[arg(long, value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,
    /// Owner of the copy, as a number
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// Group of the copy, as a number
    #[arg(long, value_name = "GID")]
    gid: Option<u32>,
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o7777);
    mode.ok_or_else(|| "expected octal digits such as 644".to_owned())
}

/// Copies it.
pub async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let copying = Copying::between(&arguments.source, &arguments.destination)?;
    let operator = Operator::arrive(&arguments.operator).await?;
    let mut interrupts = Interrupts::catch()?;
    tokio::select! {
        done = copy(&operator, &copying, &arguments.options) => {
            let Arguments { source, destination, .. } = arguments;
            let summary = done.with_context(|| format!("cannot copy {source} to {destination}"))?;
            let line = format!("{source} → {destination}: {summary}");
            // Where the file itself went, nothing else may go.
            if matches!(copying, Copying::Down(_, None)) { eprintln!("{line}") } else { println!("{line}") }
            Ok(ExitCode::SUCCESS)
        }
        // Dropping the copy removes what there is of it; the hub tells the device.
        interrupt = interrupts.next() => Ok(interrupt.exit_code()),
    }
}

async fn copy(operator: &Operator, copying: &Copying, options: &Options) -> anyhow::Result<String> {
    match copying {
        Copying::Up(source, to) => {
            let device = operator.find(&to.device).await?;
            upload::upload(operator, &device.id, source.as_ref(), to, options).await
        }
        Copying::Down(from, target) => {
            let device = operator.find(&from.device).await?;
            download::download(operator, &device.id, from, target.as_ref(), options).await
        }
    }
}

#[cfg(test)]
mod tests;
