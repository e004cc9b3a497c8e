//! The lines of a recording: asciicast v2 (<https://docs.asciinema.org/manual/asciicast/v2/>), exact to the byte.
//!
//! Its text is UTF-8, terminals are not bound to that. A character that arrives in pieces waits for its rest. Bytes that
//! are no text stand as U+FFFD in an ordinary output event, for players, and exactly in the event behind it, whose code
//! `bytes` players skip and which counts instead of the first for our reader.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;
use storage::StorageError;

use super::CastHeader;

/// Most bytes of output in one event, which bounds a line: a byte takes at most six in JSON.
pub(super) const PIECE: usize = 16 * 1024;

/// The longest character in UTF-8 has four bytes, so an unfinished one at most three.
const UNFINISHED: usize = 3;

/// Characters of a title that are kept.
const TITLE: usize = 256;

/// What was shown at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// How long after the session began.
    pub at: Duration,
    /// What happened.
    pub content: Content,
}

/// One thing that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The device showed these bytes.
    Output(Bytes),
    /// The terminal got another size.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// The version stands first, where tools that only peek look for it.
#[derive(Serialize)]
struct Header {
    version: u8,
    width: u16,
    height: u16,
    timestamp: i64,
    title: String,
}

/// The first line.
pub(super) fn header(header: &CastHeader) -> Vec<u8> {
    let mut title: String = header.title.chars().take(TITLE).collect();
    title.retain(|letter| !letter.is_control());
    let (width, height, timestamp) = (header.width, header.height, header.started.seconds());
    let mut line =
        serde_json::to_vec(&Header { version: 2, width, height, timestamp, title }).expect("plain structs encode");
    line.push(b'\n');
    line
}

/// Output as lines.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// The beginning of a character whose rest has not come yet.
    unfinished: Vec<u8>,
}

impl Encoder {
    /// Appends the events for at most [`PIECE`] bytes of output.
    pub(super) fn output(&mut self, at: Duration, bytes: &[u8], out: &mut Vec<u8>) {
        debug_assert!(bytes.len() <= PIECE, "an event of {} bytes", bytes.len());
        let joined = if self.unfinished.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            self.unfinished.extend(bytes);
            Cow::Owned(std::mem::take(&mut self.unfinished))
        };
        let (whole, unfinished) = joined.split_at(joined.len() - unfinished_len(&joined));
        self.unfinished.extend(unfinished);
        events(at, whole, out);
    }

    /// Appends the event of another terminal size.
    #[expect(clippy::unused_self, reason = "all events are the encoder's")]
    pub(super) fn resize(&self, at: Duration, width: u16, height: u16, out: &mut Vec<u8>) {
        event(at, "r", &format!("{width}x{height}"), out);
    }

    /// Appends a mark, which players show in their time line: no more was recorded.
    pub(super) fn end_early(&mut self, at: Duration, why: &str, out: &mut Vec<u8>) {
        self.flush(at, out);
        event(at, "m", &format!("The recording ends here: {why}"), out);
    }

    /// Whether something waits for more.
    pub(super) fn has_rest(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Appends what waits: no more will come.
    pub(super) fn flush(&mut self, at: Duration, out: &mut Vec<u8>) {
        events(at, &std::mem::take(&mut self.unfinished), out);
    }
}

/// How many bytes at the end begin a character without finishing it.
fn unfinished_len(bytes: &[u8]) -> usize {
    let longest = bytes.len().min(UNFINISHED);
    let begins_one = |len: &usize| match std::str::from_utf8(&bytes[bytes.len() - len..]) {
        Ok(_) => false,
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
    };
    (1..=longest).find(begins_one).unwrap_or(0)
}

fn events(at: Duration, bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(bytes);
    event(at, "o", &text, out);
    if matches!(text, Cow::Owned(_)) {
        event(at, "bytes", &BASE64_STANDARD.encode(bytes), out);
    }
}

fn event(at: Duration, code: &str, data: &str, out: &mut Vec<u8>) {
    const INFALLIBLE: &str = "writing to memory";
    write!(out, "[{}.{:06}, \"{code}\", ", at.as_secs(), at.subsec_micros()).expect(INFALLIBLE);
    serde_json::to_writer(&mut *out, data).expect(INFALLIBLE);
    out.extend(b"]\n");
}

/// What the lines of a chunk say; events that are for players alone are left out.
///
/// # Errors
/// `Corrupt` if they are not such lines.
pub(super) fn decode(lines: &[u8]) -> Result<Vec<Frame>, StorageError> {
    let mut frames: Vec<Frame> = Vec::new();
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        if line.starts_with(b"{") {
            continue;
        }
        let (at, code, data): (f64, Cow<'_, str>, Cow<'_, str>) =
            serde_json::from_slice(line).map_err(|error| corrupt(&error.to_string()))?;
        let at = time(at)?;
        match &*code {
            "o" => frames.push(Frame { at, content: Content::Output(data.into_owned().into_bytes().into()) }),
            "bytes" => {
                let exact = BASE64_STANDARD.decode(&*data).map_err(|error| corrupt(&error.to_string()))?;
                match frames.last_mut().map(|frame| &mut frame.content) {
                    Some(Content::Output(output)) => *output = exact.into(),
                    _ => return Err(corrupt("bytes without an output event before them")),
                }
            }
            "r" => {
                let size =
                    data.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
                let (width, height) = size.ok_or_else(|| corrupt("a size that is none"))?;
                frames.push(Frame { at, content: Content::Resize { width, height } });
            }
            _ => {}
        }
    }
    Ok(frames)
}

/// Seconds as they are written, in microseconds.
fn time(seconds: f64) -> Result<Duration, StorageError> {
    let exact = Duration::try_from_secs_f64(seconds).map_err(|_| corrupt("a time that is none"))?;
    // The decimal fraction has no exact binary form: back to the nearest microsecond.
    let nearest = exact.saturating_add(Duration::from_nanos(500));
    Ok(Duration::new(nearest.as_secs(), nearest.subsec_micros() * 1_000))
}

fn corrupt(what: &str) -> StorageError {
    StorageError::Corrupt(format!("a recording holds a line that is no asciicast: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_micros(1_500_001);

    fn encoded(pieces: &[&[u8]]) -> String {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        for piece in pieces {
            encoder.output(AT, piece, &mut out);
        }
        encoder.flush(AT, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn decoded(lines: &str) -> Vec<u8> {
        let frames = decode(lines.as_bytes()).unwrap();
        let output = |frame: &Frame| match &frame.content {
            Content::Output(bytes) => bytes.to_vec(),
            Content::Resize { .. } => vec![],
        };
        frames.iter().flat_map(output).collect()
    }

    #[test]
    fn text_is_one_event_as_players_read_it() {
        assert_eq!(encoded(&[b"\x1b[1mgr\xc3\xbcn\r\n"]), "[1.500001, \"o\", \"\\u001b[1mgrün\\r\\n\"]\n");
    }

    #[test]
    fn a_character_in_pieces_waits_for_its_rest() {
        let euro = "€".as_bytes();
        assert_eq!(encoded(&[&euro[..1], &euro[1..2], &euro[2..]]), "[1.500001, \"o\", \"€\"]\n");
        assert_eq!(encoded(&[b"a\xf0\x9f", b"\x98\x80b"]), "[1.500001, \"o\", \"a\"]\n[1.500001, \"o\", \"😀b\"]\n");
    }

    #[test]
    fn bytes_that_are_no_text_stand_exactly_behind_what_players_show() {
        let lines = encoded(&[b"a\xffb"]);
        assert_eq!(lines, "[1.500001, \"o\", \"a\u{fffd}b\"]\n[1.500001, \"bytes\", \"Yf9i\"]\n");
        assert_eq!(decoded(&lines), b"a\xffb");
    }

    #[test]
    fn a_character_that_never_ends_is_kept() {
        let lines = encoded(&[b"a\xe2\x82"]);
        assert_eq!(decoded(&lines), b"a\xe2\x82");
    }

    #[test]
    fn times_and_sizes_come_back() {
        let mut out = Vec::new();
        for micros in [0, 1, 999_999, 1_000_001, 86_400_000_007, 30_000_000_123_457] {
            out.clear();
            Encoder::default().resize(Duration::from_micros(micros), 65_535, 0, &mut out);
            let content = Content::Resize { width: 65_535, height: 0 };
            assert_eq!(decode(&out).unwrap(), [Frame { at: Duration::from_micros(micros), content }]);
        }
    }

    #[test]
    fn what_is_for_players_alone_is_left_out() {
        let mut out = header(&CastHeader {
            width: 80,
            height: 24,
            started: storage::Timestamp::from_seconds(1_700_000_000),
            title: format!("one\nline {}", "x".repeat(9_999)),
        });
        assert!(out.len() < 1_000 && out.ends_with(b"\n") && !out[..out.len() - 1].contains(&b'\n'));
        Encoder::default().end_early(AT, "because", &mut out);
        out.extend(b"[2, \"i\", \"secret\"]\n[3.5, \"o\", \"x\"]\n");
        assert_eq!(
            decode(&out).unwrap(),
            [Frame { at: Duration::from_millis(3_500), content: Content::Output(Bytes::from_static(b"x")) }]
        );
    }

    #[test]
    fn lines_that_are_none_are_corrupt() {
        for line in
            ["x", "[1]", "[-1, \"o\", \"\"]", "[1e300, \"o\", \"\"]", "[1, \"r\", \"80\"]", "[1, \"bytes\", \"YQ==\"]"]
        {
            assert!(matches!(decode(line.as_bytes()), Err(StorageError::Corrupt(_))), "{line}");
        }
        assert!(decode(b"[1, \"o\", \"\"]\n[1, \"bytes\", \"?\"]").is_err());
    }
}
