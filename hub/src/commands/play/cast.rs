//! A recording as it is read: asciicast v2, a header and one event a line.
//!
//! Bytes that are no UTF-8 cannot stand in an output event. The hub then lets an event `x-bytes` follow that has them
//! exactly, and that replaces the output event before it.

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// The longest line that is read; the hub writes far shorter ones.
const LONGEST_LINE: usize = 16 << 20;

/// What a recording says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The window it was recorded in.
    Started {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Something was printed, so long after the start.
    Printed(Duration, Vec<u8>),
    /// The window was changed.
    Resized(Duration, u16, u16),
}

/// Makes events of bytes.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    has_header: bool,
    /// Output that the next event may replace.
    held: Option<(Duration, Vec<u8>)>,
}

impl Reader {
    /// Reads more of the recording; the events that are complete.
    pub fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend(piece);
            if self.line.len() > LONGEST_LINE {
                bail!("a line of the recording is too long");
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.read(&line, &mut events)?;
            }
        }
        Ok(events)
    }

    /// What is left at the end of the recording.
    pub fn finish(&mut self) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        let line = std::mem::take(&mut self.line);
        self.read(&line, &mut events)?;
        events.extend(self.held.take().map(|(at, bytes)| Event::Printed(at, bytes)));
        Ok(events)
    }

    fn read(&mut self, line: &[u8], events: &mut Vec<Event>) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Header {
            version: u32,
            width: u16,
            height: u16,
        }
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        if !self.has_header {
            let header: Header = serde_json::from_slice(line).context("this is no recording")?;
            if header.version != 2 {
                bail!("this is a recording of version {}: only version 2 is known", header.version);
            }
            self.has_header = true;
            events.push(Event::Started { width: header.width, height: header.height });
            return Ok(());
        }
        let (at, code, data): (f64, String, Value) =
            serde_json::from_slice(line).context("the recording is damaged")?;
        let at = Duration::try_from_secs_f64(at).context("the recording is damaged: a time is none")?;
        let text = data.as_str().unwrap_or_default();
        if code == "x-bytes" {
            let bytes = STANDARD.decode(text).context("the recording is damaged: bytes are none")?;
            let at = self.held.take().map_or(at, |(at, _)| at);
            events.push(Event::Printed(at, bytes));
            return Ok(());
        }
        events.extend(self.held.take().map(|(at, bytes)| Event::Printed(at, bytes)));
        match code.as_str() {
            "o" => self.held = Some((at, text.as_bytes().to_vec())),
            "r" => {
                if let Some((width, height)) = text.split_once('x')
                    && let (Ok(width), Ok(height)) = (width.parse(), height.parse())
                {
                    events.push(Event::Resized(at, width, height));
                }
            }
            // Markers, and what later versions may add.
            _ => {}
        }
        Ok(())
    }
}

/// When to show an event: real time divided by the speed, with long waits cut short.
#[derive(Debug)]
pub struct Pace {
    speed: f64,
    longest_wait: Option<Duration>,
    last: Duration,
}

impl Pace {
    /// Of a playback.
    pub fn new(speed: f64, longest_wait: Option<Duration>) -> Self {
        Self { speed, longest_wait, last: Duration::ZERO }
    }

    /// How long to wait between the event before and this one.
    pub fn wait_until(&mut self, at: Duration) -> Duration {
        let passed = at.saturating_sub(self.last);
        self.last = self.last.max(at);
        let wait = passed.min(self.longest_wait.unwrap_or(Duration::MAX));
        Duration::try_from_secs_f64(wait.as_secs_f64() / self.speed).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDING: &str = concat!(
        "{\"version\": 2, \"width\": 80, \"height\": 24, \"timestamp\": 1, \"title\": \"x\"}\n",
        "[0.5, \"o\", \"$ \"]\n",
        "[1.0, \"o\", \"a\u{fffd}\"]\n",
        "[1.0, \"x-bytes\", \"Yf8=\"]\n",
        "[1.5, \"r\", \"132x43\"]\n",
        "[1.6, \"m\", \"truncated\"]\n",
        "[2.0, \"o\", \"für\\r\\n\"]",
    );

    fn printed(at: u64, bytes: &[u8]) -> Event {
        Event::Printed(Duration::from_millis(at), bytes.to_vec())
    }

    #[test]
    fn a_recording_is_read_however_it_is_cut() {
        for size in [1, 7, 1000] {
            let mut reader = Reader::default();
            let mut events = Vec::new();
            for piece in RECORDING.as_bytes().chunks(size) {
                events.extend(reader.feed(piece).expect("readable"));
            }
            events.extend(reader.finish().expect("readable"));
            let expected = [
                Event::Started { width: 80, height: 24 },
                printed(500, b"$ "),
                printed(1000, b"a\xff"),
                Event::Resized(Duration::from_millis(1500), 132, 43),
                printed(2000, "für\r\n".as_bytes()),
            ];
            assert_eq!(events, expected);
        }
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        for (text, reason) in [
            ("hello\n", "no recording"),
            ("{\"version\": 1, \"width\": 80, \"height\": 24}\n", "version 1"),
            ("{\"version\": 2, \"width\": 80, \"height\": 24}\n{}\n", "damaged"),
            ("{\"version\": 2, \"width\": 80, \"height\": 24}\n[-1, \"o\", \"\"]\n", "a time is none"),
            ("{\"version\": 2, \"width\": 80, \"height\": 24}\n[1, \"x-bytes\", \"!\"]\n", "bytes are none"),
        ] {
            let error = Reader::default().feed(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let mut reader = Reader::default();
        let endless = vec![b'x'; 1 << 20];
        assert!((0..17).any(|_| reader.feed(&endless).is_err()));
    }

    #[test]
    fn waits_follow_the_speed_and_the_longest_wait() {
        let mut pace = Pace::new(2.0, Some(Duration::from_secs(1)));
        assert_eq!(pace.wait_until(Duration::from_millis(500)), Duration::from_millis(250));
        assert_eq!(pace.wait_until(Duration::from_mins(1)), Duration::from_millis(500));
        // Time does not run backwards.
        assert_eq!(pace.wait_until(Duration::from_secs(50)), Duration::ZERO);
        assert_eq!(pace.wait_until(Duration::from_millis(60_500)), Duration::from_millis(250));
    }
}
