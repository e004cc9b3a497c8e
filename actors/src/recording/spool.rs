//! Events on their way into the store: gathered into chunks, held while the store is away, bounded.

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

use super::cast::Encoder;
use super::{NodeRoom, RecordingConfig, RecordingSummary, reader};

/// A chunk is closed once it holds this many bytes.
const CHUNK: usize = 64 * 1024;

/// With more than this waiting a recording is behind.
const BEHIND: usize = 2 * CHUNK;

/// So much goes into one object when chunks are waiting: a store far away takes as long over a small object as over a
/// larger one, and would fall behind a device that shows a lot.
const OBJECT: usize = 1024 * 1024;

/// What an event costs in memory beside its bytes, which bounds a flood of tiny ones.
const EVENT_OVERHEAD: usize = size_of::<(Duration, Event)>();

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// The next so many bytes of the chunk were shown.
    Output(usize),
    /// Columns and rows.
    Resize(u16, u16),
    /// The recording ends early, and why.
    EndsHere(&'static str),
}

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
    /// When the open chunk began. At first it holds nothing, but there is a header to write.
    opened: Option<Instant>,
    closed: VecDeque<Chunk>,
    /// What all chunks cost, with the one that is being written.
    waiting: usize,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    /// When the session ended, by the clock of this process.
    since: Instant,
    /// The same by the clock of the recording.
    at: Duration,
    is_truncated: bool,
}

#[derive(Debug, Default)]
struct Chunk {
    output: Vec<u8>,
    events: Vec<(Duration, Event)>,
}

impl Chunk {
    fn absorb(&mut self, next: Self) {
        self.output.extend(next.output);
        self.events.extend(next.events);
    }

    fn cost(&self) -> usize {
        self.output.len() + self.events.len() * EVENT_OVERHEAD
    }
}

impl Spool {
    pub(super) fn new(limit: usize, node: NodeRoom) -> Self {
        let state = State {
            open: Chunk::default(),
            opened: Some(Instant::now()),
            closed: VecDeque::new(),
            waiting: 0,
            end: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), limit, node }
    }

    /// The device showed these bytes. `false`, and nothing is kept, if there is no more room.
    pub(super) fn output(&self, at: Duration, bytes: &[u8]) -> bool {
        self.push_if_there_is_room(at, Event::Output(bytes.len()), bytes)
    }

    /// The terminal has another size. `false`, and nothing is kept, if there is no more room.
    pub(super) fn resize(&self, at: Duration, width: u16, height: u16) -> bool {
        self.push_if_there_is_room(at, Event::Resize(width, height), &[])
    }

    /// No more is recorded. For this there is always room.
    pub(super) fn end_early(&self, at: Duration, why: &'static str) {
        self.push(&mut self.state.lock(), at, Event::EndsHere(why), &[]);
    }

    /// The session is over; nothing follows.
    pub(super) fn finish(&self, at: Duration, is_truncated: bool) {
        self.state.lock().end = Some(End { since: Instant::now(), at, is_truncated });
        self.changed.notify_one();
    }

    fn push_if_there_is_room(&self, at: Duration, event: Event, bytes: &[u8]) -> bool {
        let mut state = self.state.lock();
        let cost = bytes.len() + EVENT_OVERHEAD;
        if state.waiting + cost > self.limit || !self.node.has_room() {
            return false;
        }
        self.push(&mut state, at, event, bytes);
        true
    }

    fn push(&self, state: &mut State, at: Duration, event: Event, bytes: &[u8]) {
        let before = state.open.cost();
        state.open.output.extend(bytes);
        state.open.events.push((at, event));
        let cost = state.open.cost() - before;
        state.waiting += cost;
        self.node.take(cost);
        if state.open.cost() >= CHUNK {
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

    /// The next chunk to write; `None` when nothing follows.
    async fn next(&self, gather: Duration) -> Option<Chunk> {
        loop {
            let due = {
                let mut state = self.state.lock();
                if let Some(mut chunk) = state.closed.pop_front() {
                    while chunk.cost() < OBJECT
                        && let Some(next) = state.closed.pop_front()
                    {
                        chunk.absorb(next);
                    }
                    return Some(chunk);
                }
                let due = state.opened.map(|opened| opened + gather);
                if due.is_none() && state.end.is_some() {
                    return None;
                }
                if due.is_some_and(|due| state.end.is_some() || due <= Instant::now()) {
                    state.opened = None;
                    return Some(std::mem::take(&mut state.open));
                }
                due
            };
            if let Some(due) = due {
                // Either way it looks again.
                let _ = timeout_at(due, self.changed.notified()).await;
            } else {
                self.changed.notified().await;
            }
        }
    }

    /// A chunk of this cost is stored.
    fn written(&self, cost: usize) {
        self.state.lock().waiting -= cost;
        self.node.give_back(cost);
    }

    /// Whether more waits than a store that works would leave.
    pub(super) fn is_behind(&self) -> bool {
        self.state.lock().waiting > BEHIND
    }

    fn end(&self) -> Option<End> {
        self.state.lock().end
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
    let encoder = Encoder::default();
    let mut writer = Writer { spool, objects, config, session, header, encoder, next: None };
    let mut bytes = 0;
    let is_truncated = if writer.write_all(&mut bytes).await.is_ok() {
        writer.spool.end().is_some_and(|end| end.is_truncated)
    } else {
        warn!(session.id = %session, stored_bytes = bytes, "the rest of a recording is given up");
        metrics::counter!(crate::metrics::RECORDINGS_TRUNCATED).increment(1);
        true
    };
    RecordingSummary { bytes, is_truncated }
}

struct Writer {
    spool: Arc<Spool>,
    objects: Objects,
    config: RecordingConfig,
    session: SessionId,
    header: Vec<u8>,
    encoder: Encoder,
    /// Number of the next chunk, once it is known.
    next: Option<u32>,
}

/// The store has been away for too long.
struct InVain;

impl Writer {
    async fn write_all(&mut self, stored: &mut u64) -> Result<(), InVain> {
        while let Some(chunk) = self.spool.next(self.config.gather).await {
            let (output, cost) = (chunk.output.len() as u64, chunk.cost());
            self.keep(chunk, None).await?;
            *stored += output;
            self.spool.written(cost);
        }
        match self.spool.end() {
            Some(end) if self.encoder.has_rest() => self.keep(Chunk::default(), Some(end.at)).await,
            _ => Ok(()),
        }
    }

    /// Stores a chunk; after the last one, also what the encoder still holds.
    async fn keep(&mut self, chunk: Chunk, end: Option<Duration>) -> Result<(), InVain> {
        let number = match self.next {
            Some(number) => number,
            None => self.first_free_number().await?,
        };
        self.next = Some(number);
        let lines = if number == 0 { self.header.clone() } else { Vec::new() };
        let encoder = std::mem::take(&mut self.encoder);
        // Here and not on a thread of its own: a chunk is small, and every such thread would keep memory of its own.
        let (encoder, packed) = pack(lines, encoder, &chunk, end);
        self.encoder = encoder;
        let Some(packed) = packed else { return Ok(()) };
        let path = reader::chunk_path(self.session, number);
        let put = || self.objects.put(&path, packed.clone());
        self.persist(put).await?;
        self.next = Some(number + 1);
        Ok(())
    }

    /// Another node may have begun this recording.
    async fn first_free_number(&self) -> Result<u32, InVain> {
        let prefix = reader::prefix(self.session);
        let stored = self.persist(|| self.objects.list(&prefix)).await?;
        let newest = stored.iter().filter_map(|path| reader::chunk_number(path)).max();
        Ok(newest.map_or(0, |newest| newest + 1))
    }

    /// Tries until it works, or until the session has been over for as long as the settings allow.
    async fn persist<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, InVain>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let mut pause = self.config.shortest_pause;
        let mut failures = 0_u32;
        loop {
            match attempt().await {
                Ok(value) => {
                    if failures > 0 {
                        info!(session.id = %self.session, failures, "a recording is written again");
                    }
                    return Ok(value);
                }
                Err(error) => {
                    if failures == 0 {
                        let error = &error as &dyn std::error::Error;
                        warn!(session.id = %self.session, error, "a recording cannot be written and waits");
                    }
                    failures += 1;
                    metrics::counter!(crate::metrics::RECORDING_RETRIES).increment(1);
                }
            }
            if self.spool.end().is_some_and(|end| end.since.elapsed() >= self.config.patience) {
                return Err(InVain);
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.config.longest_pause);
        }
    }
}

/// The lines of a chunk behind those that stand there already, packed; no object if there are none.
fn pack(mut lines: Vec<u8>, mut encoder: Encoder, chunk: &Chunk, end: Option<Duration>) -> (Encoder, Option<Bytes>) {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let mut is_empty = true;
    // Line by line: lines may take six times the bytes that they tell of.
    let mut pack_lines = |lines: &mut Vec<u8>| {
        is_empty &= lines.is_empty();
        packed.write_all(lines).expect("writing to memory");
        lines.clear();
    };
    pack_lines(&mut lines);
    let mut output = &chunk.output[..];
    for &(at, event) in &chunk.events {
        match event {
            Event::Output(len) => {
                let (shown, rest) = output.split_at(len);
                output = rest;
                encoder.output(at, shown, &mut lines);
            }
            Event::Resize(width, height) => encoder.resize(at, width, height, &mut lines),
            Event::EndsHere(why) => encoder.end_early(at, why, &mut lines),
        }
        pack_lines(&mut lines);
    }
    if let Some(at) = end {
        encoder.flush(at, &mut lines);
        pack_lines(&mut lines);
    }
    let packed = (!is_empty).then(|| packed.finish().expect("writing to memory").into());
    (encoder, packed)
}
