//! Lines on their way into the store: gathered into chunks, held while the store is away, bounded.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use parking_lot::Mutex;
use storage::{Objects, SessionId, StorageError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::{NodeRoom, RecordingConfig, RecordingSummary, reader};

/// A chunk is closed once it has this many bytes.
const CHUNK: usize = 256 * 1024;

/// What memory a chunk costs beside its bytes.
const CHUNK_OVERHEAD: usize = 128;

/// Between a [`super::Recorder`] and the task that writes for it.
#[derive(Debug)]
pub(super) struct Spool {
    state: Mutex<State>,
    changed: Notify,
    limit: usize,
    node: NodeRoom,
}

#[derive(Debug)]
struct State {
    open: Chunk,
    /// When the open chunk got its first byte. At the beginning there is none, but a header to write.
    opened: Option<Instant>,
    closed: VecDeque<Chunk>,
    /// Bytes in all chunks, with the one that is being written.
    waiting: usize,
    finished: Option<Instant>,
    is_truncated: bool,
}

#[derive(Debug, Default)]
struct Chunk {
    lines: Vec<u8>,
    /// Bytes of output that the lines stand for.
    output: u64,
    /// What counts as waiting until it is written.
    cost: usize,
}

impl Spool {
    pub(super) fn new(limit: usize, node: NodeRoom) -> Self {
        let state = State {
            open: Chunk::default(),
            opened: Some(Instant::now()),
            closed: VecDeque::new(),
            waiting: 0,
            finished: None,
            is_truncated: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), limit, node }
    }

    /// Appends what `encode` writes, which stands for `output` bytes. `false`, and nothing is appended, if there is no
    /// more room.
    pub(super) fn append(&self, output: usize, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state.lock();
        if state.waiting >= self.limit || !self.node.has_room() {
            return false;
        }
        state.open.output += output as u64;
        self.append_to(&mut state, encode);
        true
    }

    /// Appends a few last bytes, whatever waits already.
    pub(super) fn append_the_last(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.append_to(&mut self.state.lock(), encode);
    }

    fn append_to(&self, state: &mut State, encode: impl FnOnce(&mut Vec<u8>)) {
        let before = state.open.lines.len();
        encode(&mut state.open.lines);
        let mut cost = state.open.lines.len() - before;
        if cost == 0 {
            return;
        }
        if before == 0 {
            cost += CHUNK_OVERHEAD;
        }
        state.open.cost += cost;
        state.waiting += cost;
        self.node.take(cost);
        let is_full = state.open.lines.len() >= CHUNK;
        if is_full {
            let full = std::mem::take(&mut state.open);
            state.closed.push_back(full);
            state.opened = None;
        } else if state.opened.is_none() {
            state.opened = Some(Instant::now());
        } else {
            return;
        }
        self.changed.notify_one();
    }

    /// Nothing follows.
    pub(super) fn finish(&self, is_truncated: bool) {
        let mut state = self.state.lock();
        state.finished = Some(Instant::now());
        state.is_truncated |= is_truncated;
        self.changed.notify_one();
    }

    /// The next chunk to write; `None` when all are written and nothing follows.
    async fn next(&self, gather: Duration) -> Option<Chunk> {
        loop {
            let due = {
                let mut state = self.state.lock();
                if let Some(chunk) = state.closed.pop_front() {
                    return Some(chunk);
                }
                match (state.opened.map(|opened| opened + gather), state.finished) {
                    (None, Some(_)) => return None,
                    (None, None) => None,
                    (Some(due), finished) => {
                        if finished.is_some() || due <= Instant::now() {
                            state.opened = None;
                            return Some(std::mem::take(&mut state.open));
                        }
                        Some(due)
                    }
                }
            };
            match due {
                None => self.changed.notified().await,
                // Either way the loop looks again.
                Some(due) => drop(timeout_at(due, self.changed.notified()).await),
            }
        }
    }

    /// A chunk is stored.
    fn written(&self, cost: usize) {
        self.state.lock().waiting -= cost;
        self.node.give_back(cost);
    }

    /// How long ago the session ended, if it has.
    fn over_for(&self) -> Option<Duration> {
        self.state.lock().finished.map(|finished| finished.elapsed())
    }

    fn is_truncated(&self) -> bool {
        self.state.lock().is_truncated
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What will never be written waits no more.
        self.node.give_back(self.state.get_mut().waiting);
    }
}

/// Writes what comes through `spool`, in order and without a gap, until nothing follows or it is in vain.
pub(super) async fn write(
    spool: Arc<Spool>,
    objects: Objects,
    config: RecordingConfig,
    session: SessionId,
    header: Vec<u8>,
) -> RecordingSummary {
    let mut writer = Writer { spool, objects, config, session, header, next: None };
    let mut bytes = 0;
    while let Some(chunk) = writer.spool.next(writer.config.gather).await {
        let (output, cost) = (chunk.output, chunk.cost);
        if !writer.keep(chunk).await {
            warn!(session.id = %session, stored_bytes = bytes, "the rest of a recording is given up");
            metrics::counter!(crate::metrics::RECORDINGS_TRUNCATED).increment(1);
            return RecordingSummary { bytes, is_truncated: true };
        }
        bytes += output;
        writer.spool.written(cost);
    }
    RecordingSummary { bytes, is_truncated: writer.spool.is_truncated() }
}

struct Writer {
    spool: Arc<Spool>,
    objects: Objects,
    config: RecordingConfig,
    session: SessionId,
    header: Vec<u8>,
    /// Number of the next chunk, once it is known.
    next: Option<u32>,
}

impl Writer {
    /// Stores a chunk, however often it has to be tried. `false` once that is in vain.
    async fn keep(&mut self, chunk: Chunk) -> bool {
        let mut lines = Bytes::from(chunk.lines);
        let mut pause = self.config.shortest_pause;
        let mut failures = 0_u32;
        loop {
            match self.try_to_keep(&mut lines).await {
                Ok(()) if failures == 0 => return true,
                Ok(()) => {
                    info!(session.id = %self.session, failures, "a recording is written again");
                    return true;
                }
                Err(error) => {
                    if failures == 0 {
                        warn!(session.id = %self.session, error = &error as &dyn std::error::Error,
                            "a recording cannot be written and waits");
                    }
                    failures += 1;
                    metrics::counter!(crate::metrics::RECORDING_RETRIES).increment(1);
                }
            }
            if self.spool.over_for().is_some_and(|over| over >= self.config.patience) {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.config.longest_pause);
        }
    }

    async fn try_to_keep(&mut self, lines: &mut Bytes) -> Result<(), StorageError> {
        let number = match self.next {
            Some(number) => number,
            None => self.first_free_number().await?,
        };
        self.next = Some(number);
        let header = if number == 0 { Bytes::copy_from_slice(&self.header) } else { Bytes::new() };
        if header.is_empty() && lines.is_empty() {
            return Ok(());
        }
        let packing = {
            let lines = lines.clone();
            tokio::task::spawn_blocking(move || pack(&header, &lines))
        };
        let packed = packing.await.expect("packing does not panic");
        self.objects.put(&reader::chunk_path(self.session, number), packed).await?;
        self.next = Some(number + 1);
        Ok(())
    }

    /// Another node may have begun this recording.
    async fn first_free_number(&self) -> Result<u32, StorageError> {
        let stored = self.objects.list(&reader::prefix(self.session)).await?;
        let newest = stored.iter().filter_map(|path| reader::chunk_number(path)).max();
        Ok(newest.map_or(0, |newest| newest + 1))
    }
}

fn pack(header: &[u8], lines: &[u8]) -> Bytes {
    const INFALLIBLE: &str = "writing to memory";
    let mut packed = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
    packed.write_all(header).expect(INFALLIBLE);
    packed.write_all(lines).expect(INFALLIBLE);
    packed.finish().expect(INFALLIBLE).into()
}
