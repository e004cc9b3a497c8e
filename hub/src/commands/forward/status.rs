//! What a person sees while ports are forwarded: one line with figures on a terminal, and lines about what happens.

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{cell::Cell, io::Write};

/// Standard error; the line with figures is there only if that is a terminal.
#[derive(Debug)]
pub struct Status {
    line: ProgressBar,
    has_said_once: Cell<bool>,
}

impl Status {
    /// With no figures yet.
    pub fn new() -> Self {
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        line.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self { line, has_said_once: Cell::new(false) }
    }

    /// The figures of now: connections that are open, and bytes to and from the device.
    pub fn show(&self, connections: usize, (up, down): (u64, u64)) {
        let plural = if connections == 1 { "" } else { "s" };
        let figures =
            format!("{connections} open connection{plural}, {} sent, {} received", HumanBytes(up), HumanBytes(down));
        self.line.set_message(figures);
        self.line.tick();
    }

    /// A line of its own.
    pub fn say(&self, line: &str) {
        // Without a place to say it there is nothing to do about it.
        self.line.suspend(|| drop(writeln!(std::io::stderr(), "mooring: {line}")));
    }

    /// A line that would be tiresome a second time.
    pub fn say_once(&self, line: &str) {
        if !self.has_said_once.replace(true) {
            self.say(line);
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        // Figures of something that has ended.
        self.line.finish_and_clear();
    }
}
