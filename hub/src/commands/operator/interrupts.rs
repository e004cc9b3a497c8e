//! Signals that ask a command to end.

use anyhow::Context;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals.
#[derive(Debug)]
pub struct Interrupts {
    interrupted: Signal,
    terminated: Signal,
    hung_up: Signal,
}

/// Which one came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// The terminal is gone.
    HungUp,
}

impl Interrupt {
    /// What a shell gives a program that died of the signal: 128 and the signal's number.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::HungUp => 129,
        })
    }
}

impl Interrupts {
    /// From now on these signals no longer end the process by themselves.
    pub fn catch() -> anyhow::Result<Self> {
        let caught = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            interrupted: caught(SignalKind::interrupt())?,
            terminated: caught(SignalKind::terminate())?,
            hung_up: caught(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.interrupted.recv() => Interrupt::Interrupted,
            _ = self.terminated.recv() => Interrupt::Terminated,
            _ = self.hung_up.recv() => Interrupt::HungUp,
        }
    }
}
