//! The person's own terminal: raw while a session lasts, and as it was on every way out.

use anyhow::Context;
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use std::{
    io::{IsTerminal, Write},
    sync::Once,
};
use tokio::io::AsyncWriteExt;

/// The screen. Dropping it gives the terminal back as it was.
#[derive(Debug)]
pub struct Screen {
    is_raw: bool,
    output: tokio::io::Stdout,
}

impl Screen {
    /// Switches the terminal to raw mode, if standard input is one.
    pub fn take_over() -> anyhow::Result<Self> {
        let is_raw = std::io::stdin().is_terminal();
        if is_raw {
            restore_before_a_panic_is_told();
            enable_raw_mode().context("cannot switch the terminal to raw mode")?;
        }
        Ok(Self { is_raw, output: tokio::io::stdout() })
    }

    /// Columns and rows, if there is a terminal.
    pub fn size(&self) -> Option<(u16, u16)> {
        let size = crossterm::terminal::size().ok();
        size.filter(|&(columns, rows)| self.is_raw && columns > 0 && rows > 0)
    }

    /// Shows what the device printed.
    pub async fn show(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.output.write_all(bytes).await?;
        self.output.flush().await
    }

    /// A line of our own, apart from what the device prints.
    pub fn say(&self, line: &str) {
        let end = if self.is_raw { "\r\n" } else { "\n" };
        // Without a place to say it there is nothing to do about it.
        let _ = write!(std::io::stderr(), "{end}[mooring] {line}{end}");
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_raw {
            // The terminal may be gone, and then needs no restoring.
            let _ = disable_raw_mode();
        }
    }
}

/// A panic is told before anything is dropped; in raw mode its lines would run down the screen as a staircase.
fn restore_before_a_panic_is_told() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = disable_raw_mode();
            tell(panic);
        }));
    });
}
