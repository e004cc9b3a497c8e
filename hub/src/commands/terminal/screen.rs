//! The person's own terminal: raw while a session lasts, and as it was on every way out.

use super::surface::Surface;
use anyhow::Context;
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use std::{
    collections::VecDeque,
    io::{IsTerminal, Write},
    os::fd::AsFd,
    sync::Once,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Output that may wait for a terminal that was stopped with Ctrl-S; then the hub has to keep it.
const MOST_WAITING: usize = 1 << 20;
/// Lines of our own that may wait for a place between the output.
const MOST_NOTICES: usize = 8;

/// The screen. Dropping it gives the terminal back as it was.
pub struct Screen {
    is_raw: bool,
    is_terminal: bool,
    output: Box<dyn AsyncWrite + Send + Unpin>,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// So many bytes of the first that waits are written.
    written: usize,
    surface: Surface,
    notices: VecDeque<String>,
    /// What is being written of our own.
    own: Vec<u8>,
    has_set_title: bool,
}

impl Screen {
    /// Switches the terminal to raw mode, if standard input is one.
    pub fn take_over() -> anyhow::Result<Self> {
        let is_raw = std::io::stdin().is_terminal();
        if is_raw {
            restore_before_a_panic_is_told();
            enable_raw_mode().context("cannot switch the terminal to raw mode")?;
        }
        // Not the standard library's handle, which keeps what follows the last line end, such as a prompt.
        let output = std::io::stdout().as_fd().try_clone_to_owned().context("cannot write to standard output")?;
        let mut screen = Self::on(Box::new(tokio::fs::File::from_std(output.into())));
        screen.is_raw = is_raw;
        screen.is_terminal = is_raw && std::io::stdout().is_terminal();
        Ok(screen)
    }

    /// A screen that writes here, where nobody sits.
    pub fn on(output: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self {
            is_raw: false,
            is_terminal: false,
            output,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            written: 0,
            surface: Surface::default(),
            notices: VecDeque::new(),
            own: vec![],
            has_set_title: false,
        }
    }

    /// Whether a person types.
    pub fn is_raw(&self) -> bool {
        self.is_raw
    }

    /// Columns and rows, if there is a terminal.
    pub fn size(&self) -> Option<(u16, u16)> {
        let size = crossterm::terminal::size().ok();
        size.filter(|&(columns, rows)| self.is_raw && columns > 0 && rows > 0)
    }

    /// Whether more output may be [added](Self::add).
    pub fn has_room(&self) -> bool {
        self.waiting_bytes < MOST_WAITING
    }

    /// Adds what the device printed to what is to be written.
    pub fn add(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.waiting_bytes += bytes.len();
            self.waiting.push_back(bytes.to_vec());
        }
    }

    /// Whether there is anything to [write](Self::write) now.
    pub fn has_work(&self) -> bool {
        !self.own.is_empty() || !self.waiting.is_empty() || (!self.notices.is_empty() && self.surface.is_at_rest())
    }

    /// Writes something of what waits; how many bytes of the device's. Nothing is lost when this is called off.
    pub async fn write(&mut self) -> std::io::Result<usize> {
        if self.own.is_empty()
            && self.surface.is_at_rest()
            && let Some(notice) = self.notices.pop_front()
        {
            self.own = self.spelled(&notice);
        }
        if !self.own.is_empty() {
            let length = self.output.write(&self.own).await?;
            self.own.drain(..length);
            return Ok(0);
        }
        let Some(first) = self.waiting.front() else { return Ok(0) };
        let length = self.output.write(&first[self.written..]).await?;
        self.surface.feed(&first[self.written..self.written + length]);
        self.written += length;
        if self.written == first.len() {
            self.waiting_bytes -= first.len();
            self.written = 0;
            self.waiting.pop_front();
        }
        Ok(length)
    }

    /// Writes all that waits.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        while self.has_work() {
            self.write().await?;
        }
        self.output.flush().await
    }

    /// Something of our own for the person, apart from what the device prints: a line, or the title when a program has
    /// the whole screen.
    pub fn say(&mut self, line: &str) {
        if !self.is_terminal {
            let end = if self.is_raw { "\r\n" } else { "\n" };
            // Without a place to say it there is nothing to do about it.
            let _ = write!(std::io::stderr(), "[mooring] {line}{end}");
            return;
        }
        if self.notices.len() == MOST_NOTICES {
            self.notices.pop_front();
        }
        self.notices.push_back(line.to_owned());
    }

    fn spelled(&mut self, line: &str) -> Vec<u8> {
        if self.surface.has_whole_screen() {
            // The title before ours is kept by the terminal, if it can.
            let keep = if self.has_set_title { "" } else { "\x1b[22;2t" };
            self.has_set_title = true;
            return format!("{keep}\x1b]2;mooring: {line}\x07").into_bytes();
        }
        let start = if self.surface.is_in_a_line() { "\r\n" } else { "" };
        let spelled = format!("{start}\x1b[2m[mooring] {line}\x1b[22m\r\n").into_bytes();
        self.surface.feed(b"\n");
        spelled
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen")
            .field("is_raw", &self.is_raw)
            .field("waiting", &self.waiting_bytes)
            .finish_non_exhaustive()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.has_set_title {
            let _ = write!(std::io::stdout(), "\x1b[23;2t").and_then(|()| std::io::stdout().flush());
        }
        if self.is_terminal && self.surface.has_whole_screen() {
            // The program that had it is no longer connected and cannot give it back.
            let _ = write!(std::io::stdout(), "\x1b[?1049l\x1b[0m\x1b[?25h").and_then(|()| std::io::stdout().flush());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_line_of_ours_waits_until_it_breaks_nothing() {
        let (output, mut shown) = tokio::io::duplex(1 << 16);
        let mut screen = Screen::on(Box::new(output));
        screen.is_terminal = true;
        screen.add(b"$ ls\x1b[1");
        screen.write().await.expect("written");
        screen.say("anna is watching");
        assert!(!screen.has_work(), "in the middle of a sequence nothing of ours is written");
        screen.add(b"mx");
        screen.finish().await.expect("written");
        screen.add(b"\x1b[?1049h~");
        screen.finish().await.expect("written");
        screen.say("anna has left");
        screen.finish().await.expect("written");
        screen.is_terminal = false;
        screen.has_set_title = false;
        drop(screen);

        let mut text = String::new();
        shown.read_to_string(&mut text).await.expect("text");
        assert_eq!(
            text,
            "$ ls\x1b[1mx\r\n\x1b[2m[mooring] anna is watching\x1b[22m\r\n\
             \x1b[?1049h~\x1b[22;2t\x1b]2;mooring: anna has left\x07"
        );
    }

    #[test]
    fn lines_of_ours_that_wait_are_bounded() {
        let mut screen = Screen::on(Box::new(tokio::io::sink()));
        screen.is_terminal = true;
        for number in 0..100 {
            screen.say(&number.to_string());
        }
        assert_eq!(screen.notices.len(), MOST_NOTICES);
        assert_eq!(screen.notices.back().map(String::as_str), Some("99"));
        screen.is_terminal = false;
    }
}
