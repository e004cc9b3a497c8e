//! What a session showed, kept as an asciicast that any player plays.
//!
//! ```text
//!  session ──output, resize──▶ Recorder ──events──▶ Spool ──chunks──▶ its task ──▶ objects
//!                              never waits          bounded           lines, gzip, retries
//!
//!  objects ──▶ Recordings ──▶ .cast file, or frames ──▶ playback::Script ──▶ messages for a viewer
//! ```
//!
//! A recording is the objects `recordings/{session}/{number}.cast.gz`, counted from 0. Each is a gzip of whole lines, so
//! that all of them, one after the other, are the file; what is stored can be read while the session goes on. When the
//! process dies, what was shown in the last [`RecordingConfig::gather`] is lost; a session that moves to another node goes on in
//! the same recording.
//!
//! The session never suffers: while the store is away chunks wait in memory up to a limit, and beyond it the recording
//! ends, says so, and counts as truncated.

mod cast;
#[doc(hidden)]
pub mod fuzzing;
pub mod playback;
mod reader;
mod spool;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use storage::{Objects, SessionId, Timestamp};
use tokio::task::JoinHandle;
use tracing::warn;

pub use cast::{Content, Frame};
pub use reader::Recordings;

use spool::Spool;

/// Bounds of recordings. Clones share the room of their node.
#[derive(Debug, Clone)]
pub struct RecordingConfig {
    /// How long the first byte of a chunk waits for more: what is lost when the process dies.
    pub gather: Duration,
    /// Bytes of one recording that may wait for a store that is slow or away.
    pub waiting_limit: usize,
    /// Where all recordings of this node wait.
    pub node: NodeRoom,
    /// Bytes of output after which a recording ends. Terminals make two bytes of each line end: `yes | head -c 1G` is one and
    /// a half gibibytes.
    pub limit: u64,
    /// How soon a chunk that could not be written is tried again; the time doubles up to [`RecordingConfig::longest_pause`].
    pub shortest_pause: Duration,
    /// The longest time between two attempts.
    pub longest_pause: Duration,
    /// How long after the end of its session a recording goes on trying to write its rest.
    pub patience: Duration,
}

impl Default for RecordingConfig {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(2),
            waiting_limit: 16 * 1024 * 1024,
            node: NodeRoom::of(256 * 1024 * 1024),
            limit: 4 * 1024 * 1024 * 1024,
            shortest_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(15),
            patience: Duration::from_mins(10),
        }
    }
}

/// The memory in which recordings of one node may wait. Clones are the same room.
#[derive(Debug, Clone)]
pub struct NodeRoom {
    limit: usize,
    used: Arc<AtomicUsize>,
}

impl NodeRoom {
    /// Room for so many bytes; one more event of each recording may exceed it.
    pub fn of(limit: usize) -> Self {
        Self { limit, used: Arc::default() }
    }

    fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.limit
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Why a recording ends before its session.
const STORE_TOO_SLOW: &str = "the store of recordings does not keep up";
const LIMIT_REACHED: &str = "its limit is reached";

/// What a change of the terminal's size takes of [`RecordingConfig::limit`]: about what it takes in the recording.
const RESIZE_CHARGE: u64 = 32;

/// How a recording begins.
#[derive(Debug, Clone)]
pub struct CastHeader {
    /// Columns of the terminal.
    pub width: u16,
    /// Rows of the terminal.
    pub height: u16,
    /// When the session began; all times of the recording count from here.
    pub started: Timestamp,
    /// What players show; cut if it is long.
    pub title: String,
}

/// What became of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordingSummary {
    /// Bytes of output that are stored.
    pub bytes: u64,
    /// Whether it ended before its session did.
    pub is_truncated: bool,
}

/// Records one session. Owned by it; never blocks and never waits. Dropping it ends the recording as
/// [`Recorder::finish`] does.
#[derive(Debug)]
pub struct Recorder {
    spool: Arc<Spool>,
    session: SessionId,
    /// What is left of [`RecordingConfig::limit`].
    left: u64,
    recorded: u64,
    last: Duration,
    is_truncated: bool,
    /// Output that was left out since the last that was not.
    skipped: u64,
    has_gaps: bool,
    writing: Option<JoinHandle<RecordingSummary>>,
}

impl Recorder {
    /// Begins a recording, or goes on with one that another node began. There is something to read from now on, at the
    /// latest after [`RecordingConfig::gather`], also if nothing is ever shown: start it when a terminal is asked for.
    ///
    /// Has to be called within the runtime that is to write it.
    pub fn start(objects: &Objects, config: &RecordingConfig, session: SessionId, header: &CastHeader) -> Self {
        let spool = Arc::new(Spool::new(config.waiting_limit, config.node.clone()));
        let task = spool::write(Arc::clone(&spool), objects.clone(), config.clone(), session, cast::header(header));
        Self {
            spool,
            session,
            left: config.limit,
            recorded: 0,
            last: Duration::ZERO,
            is_truncated: false,
            skipped: 0,
            has_gaps: false,
            writing: Some(tokio::spawn(task)),
        }
    }

    /// The device showed something, `at` so long after the session began.
    pub fn output(&mut self, at: Duration, bytes: &[u8]) {
        if self.skipped > 0 {
            let notice = format!("\r\n\x1b[0m[mooring: {} bytes of output were not recorded]\r\n", self.skipped);
            self.skipped = 0;
            self.keep(at, notice.as_bytes());
        }
        self.keep(at, bytes);
    }

    /// The device shows something that nobody reads as fast as it comes: it is left out while the recording is behind, so
    /// that it costs no memory.
    pub fn output_nobody_follows(&mut self, at: Duration, bytes: &[u8]) {
        if self.is_truncated || !self.spool.is_behind() {
            return self.output(at, bytes);
        }
        self.skipped += bytes.len() as u64;
        self.has_gaps = true;
    }

    fn keep(&mut self, at: Duration, bytes: &[u8]) {
        let at = self.not_before_the_last(at);
        let allowed = usize::try_from(self.left).unwrap_or(usize::MAX);
        for piece in bytes[..bytes.len().min(allowed)].chunks(cast::PIECE) {
            if self.is_truncated {
                return;
            }
            if !self.spool.output(at, piece) {
                return self.truncate(STORE_TOO_SLOW);
            }
            self.recorded += piece.len() as u64;
            self.left -= piece.len() as u64;
        }
        if bytes.len() > allowed && !self.is_truncated {
            self.truncate(LIMIT_REACHED);
        }
    }

    /// The terminal has another size, `at` so long after the session began.
    pub fn resize(&mut self, at: Duration, width: u16, height: u16) {
        let at = self.not_before_the_last(at);
        if self.is_truncated {
            return;
        }
        let Some(left) = self.left.checked_sub(RESIZE_CHARGE) else { return self.truncate(LIMIT_REACHED) };
        self.left = left;
        if !self.spool.resize(at, width, height) {
            self.truncate(STORE_TOO_SLOW);
        }
    }

    /// The session is over. The handle waits until everything is stored, or will never be.
    pub fn finish(mut self, at: Duration) -> JoinHandle<RecordingSummary> {
        self.not_before_the_last(at);
        self.spool.finish(self.last, self.is_truncated());
        self.writing.take().expect("only this takes it, and consumes the recorder")
    }

    /// Bytes of output that were recorded, though perhaps not stored yet.
    pub const fn recorded_bytes(&self) -> u64 {
        self.recorded
    }

    /// Whether it has ended before its session, or something is left out of it.
    pub const fn is_truncated(&self) -> bool {
        self.is_truncated || self.has_gaps
    }

    /// Times never go back in a recording, whatever the caller's clock did.
    fn not_before_the_last(&mut self, at: Duration) -> Duration {
        self.last = self.last.max(at);
        self.last
    }

    fn truncate(&mut self, why: &'static str) {
        warn!(session.id = %self.session, recorded_bytes = self.recorded, why, "a recording ends before its session");
        metrics::counter!(crate::metrics::RECORDINGS_TRUNCATED).increment(1);
        self.is_truncated = true;
        self.spool.end_early(self.last, why);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.writing.is_some() {
            self.spool.finish(self.last, self.is_truncated());
        }
    }
}
