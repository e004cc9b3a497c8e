//! Who is connected, and was, and which sessions there are, written to the database in batches, with their events.
//!
//! Sockets note each change in a shared [`StatusQueue`], sessions in a [`SessionQueue`]; this service writes what has
//! gathered, one statement for
//! thousands. The queue keeps a change until it is committed, so neither a panic here nor a database that is down loses
//! one. The latest connection of each device is never dropped, which bounds them by the number of devices; earlier ones,
//! which only the log still wants, are bounded by `WAITING_FOR_LOG`.

mod sessions;

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, StreamHandler, WrapFuture};
use futures_util::stream;
use parking_lot::Mutex;
use storage::{
    AuditLog, ConnectionChange, Connections, DeviceId, Devices, Epoch, Presence, Sessions, Storage, StorageError,
    Timestamp,
};
use tokio::sync::Notify;
use tracing::warn;

use crate::events::{EventTail, Telling};
use crate::gate::Gate;
use crate::supervisor::{Alive, Crash};
pub use sessions::SessionQueue;

/// How long a change may wait for company. The command line client refuses to start until the status says connected.
const GATHER: Duration = Duration::from_millis(100);

/// The same where writing takes long: so many times as long as it took the last time, up to this. In a storm batches are then
/// large, and the database has time for others. (Written as soon as the batch before was, 1,150 devices a second that came back
/// to five hubs made 127 batches, and kept Postgres busy for two thirds of a core.)
const GATHER_TIMES: u32 = 5;
const LONGEST_GATHER: Duration = Duration::from_secs(1);

/// How often devices' latest visits are written. Nobody waits for those: a hub at which nothing changes sleeps meanwhile.
const WRITE_CHECK_INS: Duration = Duration::from_secs(1);

/// Most connections in one transaction.
const BATCH: usize = 5000;

/// Most finished connections that wait for the log alone; beyond it the oldest are dropped.
const WAITING_FOR_LOG: usize = 200_000;

/// Changes that have not been committed yet.
#[derive(Clone, Default)]
pub struct StatusQueue {
    waiting: Arc<Mutex<Waiting>>,
    /// There is something to write.
    noted: Arc<Notify>,
}

impl StatusQueue {
    /// A device has connected or disconnected.
    pub fn note(&self, change: ConnectionChange) {
        let dropped = self.waiting.lock().note(change, WAITING_FOR_LOG);
        self.noted.notify_one();
        if dropped {
            metrics::counter!(crate::metrics::CONNECTIONS_UNLOGGED).increment(1);
        }
    }

    /// Connections with changes not yet committed.
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Whether all is committed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes all that has gathered until now; what comes meanwhile may be left for another time.
    ///
    /// # Errors
    /// When the database refuses; nothing is lost then.
    pub async fn flush(
        &self,
        connections: &Connections,
        presence: &Presence,
        tail: &EventTail,
    ) -> Result<(), StorageError> {
        loop {
            let batch = self.waiting.lock().batch(BATCH);
            if batch.is_empty() {
                return Ok(());
            }
            let is_last = batch.len() < BATCH;
            metrics::histogram!(crate::metrics::STATUS_BATCH)
                .record(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
            let changes: Vec<ConnectionChange> = batch.iter().flat_map(Noted::changes).collect();
            let events = Telling::of_connections(&changes);
            tail.append(&events.before).await?;
            connections.record(&changes).await?;
            tail.append(&events.after).await?;
            let gone = self.waiting.lock().settle(&batch);
            let ended: Vec<(DeviceId, Epoch)> = gone.iter().map(|gone| (gone.device, gone.epoch)).collect();
            if let Err(error) = presence.release(&ended).await {
                // The routes name epochs that no socket has any more; whoever follows one hears "not here".
                warn!(%error, "routes of devices that left stay until they return");
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

/// What was noted about one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Noted {
    /// The last word on it.
    last: ConnectionChange,
    /// When it began, if that was noted too.
    began: Option<Timestamp>,
}

impl Noted {
    fn new(change: ConnectionChange) -> Self {
        Self { last: change, began: change.connected.then_some(change.at) }
    }

    /// Takes in what was noted later.
    fn add(&mut self, later: Self) {
        self.last = later.last;
        self.began = self.began.or(later.began);
    }

    const fn key(&self) -> (DeviceId, Epoch) {
        (self.last.device, self.last.epoch)
    }

    /// Whether the log would know all of this connection from this alone.
    const fn is_whole(&self) -> bool {
        self.began.is_some() && !self.last.connected
    }

    /// The same in the words of storage: the beginning, if there was one, and what came last.
    fn changes(&self) -> impl Iterator<Item = ConnectionChange> + use<> {
        let began = self.began.map(|at| ConnectionChange { connected: true, at, reason: None, ..self.last });
        began.into_iter().chain((began != Some(self.last)).then_some(self.last))
    }
}

/// The queue itself.
#[derive(Default)]
struct Waiting {
    /// The newest connection of each device.
    latest: HashMap<DeviceId, Noted>,
    /// Connections that a newer one has followed: the log wants them. Those that are not whole are at most as many as
    /// there were sockets when the first of them was noted, since a socket notes one beginning and one end.
    earlier: HashMap<(DeviceId, Epoch), Noted>,
    /// Those of them that are whole, in the order in which they became both.
    finished: VecDeque<(DeviceId, Epoch)>,
}

impl Waiting {
    fn len(&self) -> usize {
        self.latest.len() + self.earlier.len()
    }

    /// Takes a change in; says whether a finished connection had to be dropped for it.
    fn note(&mut self, change: ConnectionChange, most_finished: usize) -> bool {
        let noted = Noted::new(change);
        let Some(latest) = self.latest.get_mut(&change.device) else {
            self.latest.insert(change.device, noted);
            return false;
        };
        match change.epoch.cmp(&latest.last.epoch) {
            Ordering::Equal => {
                latest.add(noted);
                false
            }
            Ordering::Greater => {
                let earlier = std::mem::replace(latest, noted);
                self.keep_earlier(earlier, most_finished)
            }
            // The late end of an older connection says nothing about the newer one.
            Ordering::Less => self.keep_earlier(noted, most_finished),
        }
    }

    fn keep_earlier(&mut self, noted: Noted, most_finished: usize) -> bool {
        let key = noted.key();
        let (was_whole, is_whole) = match self.earlier.entry(key) {
            Entry::Vacant(place) => (false, place.insert(noted).is_whole()),
            Entry::Occupied(mut place) => {
                let was_whole = place.get().is_whole();
                place.get_mut().add(noted);
                (was_whole, place.get().is_whole())
            }
        };
        if was_whole || !is_whole {
            return false;
        }
        self.finished.push_back(key);
        if self.finished.len() <= most_finished {
            return false;
        }
        self.finished.pop_front().is_some_and(|oldest| self.earlier.remove(&oldest).is_some())
    }

    /// Up to this many connections to be written. Earlier ones first: the log of a device then grows in order.
    fn batch(&self, most: usize) -> Vec<Noted> {
        let finished = self.finished.iter().filter_map(|key| self.earlier.get(key));
        let unfinished = self.earlier.values().filter(|noted| !noted.is_whole());
        finished.chain(unfinished).chain(self.latest.values()).take(most).copied().collect()
    }

    /// Lets go of what was written, unless more was noted about it meanwhile. Returns the ends after which nothing is
    /// known of their device: its route may go.
    fn settle(&mut self, batch: &[Noted]) -> Vec<ConnectionChange> {
        let mut gone = Vec::new();
        for written in batch {
            let key = written.key();
            if self.earlier.get(&key) == Some(written) {
                self.earlier.remove(&key);
            }
            if self.latest.get(&key.0) == Some(written) {
                self.latest.remove(&key.0);
                gone.extend((!written.last.connected).then_some(written.last));
            }
        }
        while self.finished.front().is_some_and(|key| !self.earlier.contains_key(key)) {
            self.finished.pop_front();
        }
        if self.len() == 0 {
            self.latest.shrink_to(BATCH);
            self.earlier.shrink_to(BATCH);
            self.finished.shrink_to(BATCH);
        }
        gone
    }
}

/// The service that empties a [`StatusQueue`], and writes when devices were last heard of.
pub struct StatusWriter {
    queue: StatusQueue,
    session_queue: SessionQueue,
    tail: EventTail,
    connections: Connections,
    sessions: Sessions,
    audit: AuditLog,
    presence: Presence,
    devices: Devices,
    gate: Gate,
    is_writing: bool,
    /// It will write soon.
    is_due: bool,
    gather: Duration,
    failures: u32,
    _alive: Alive,
}

impl StatusWriter {
    /// A writer for these queues.
    pub fn new(
        (queue, session_queue): (StatusQueue, SessionQueue),
        tail: EventTail,
        storage: &Storage,
        gate: Gate,
        alive: Alive,
    ) -> Self {
        Self {
            queue,
            session_queue,
            tail,
            connections: storage.connections.clone(),
            sessions: storage.sessions.clone(),
            audit: storage.audit.clone(),
            presence: storage.presence.clone(),
            devices: storage.devices.clone(),
            gate,
            is_writing: false,
            is_due: false,
            gather: GATHER,
            failures: 0,
            _alive: alive,
        }
    }

    /// Writes once there was time for company.
    fn write_soon(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.is_due, true) {
            ctx.run_later(self.gather, |writer, ctx| {
                writer.is_due = false;
                writer.write(ctx);
            });
        }
    }

    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.is_writing {
            return;
        }
        let check_ins = self.gate.take_check_ins(BATCH);
        if self.queue.is_empty() && self.session_queue.is_empty() && check_ins.is_empty() {
            return;
        }
        self.is_writing = true;
        let begun = Instant::now();
        let (queue, connections, presence) = (self.queue.clone(), self.connections.clone(), self.presence.clone());
        let (session_queue, sessions, tail) = (self.session_queue.clone(), self.sessions.clone(), self.tail.clone());
        let (devices, audit) = (self.devices.clone(), self.audit.clone());
        let may_be_more = check_ins.len() == BATCH;
        let written = async move {
            queue.flush(&connections, &presence, &tail).await?;
            session_queue.flush(&sessions, &tail, &audit).await?;
            // A check-in that is not written is no loss: the device's next request brings another.
            if check_ins.is_empty() { Ok(()) } else { devices.record_check_ins(&check_ins).await }
        };
        ctx.spawn(written.into_actor(self).map(move |result, writer, ctx| {
            writer.is_writing = false;
            writer.gather = (begun.elapsed() * GATHER_TIMES).clamp(GATHER, LONGEST_GATHER);
            // What was noted meanwhile, and what could not be written.
            if may_be_more || !writer.queue.is_empty() || !writer.session_queue.is_empty() {
                writer.write_soon(ctx);
            }
            match result {
                Ok(()) => writer.failures = 0,
                Err(error) => {
                    metrics::counter!(crate::metrics::STATUS_RETRIES).increment(1);
                    if writer.failures == 0 {
                        warn!(%error, "connection statuses cannot be written and are kept");
                    }
                    writer.failures += 1;
                }
            }
        }));
    }
}

impl Actor for StatusWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for noted in [&self.queue.noted, self.session_queue.noted()] {
            ctx.add_stream(stream::unfold(noted.clone(), |noted| async move {
                noted.notified().await;
                Some((Noticed, noted))
            }));
        }
        ctx.run_interval(WRITE_CHECK_INS, Self::write);
        // What a writer before this one has left.
        self.write_soon(ctx);
    }
}

/// Something was noted.
struct Noticed;

impl StreamHandler<Noticed> for StatusWriter {
    fn handle(&mut self, _: Noticed, ctx: &mut Self::Context) {
        self.write_soon(ctx);
    }
}

impl Handler<Crash> for StatusWriter {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

#[cfg(test)]
mod tests {
    use storage::NodeId;

    use super::*;

    fn change(device: DeviceId, epoch: i64, connected: bool) -> ConnectionChange {
        ConnectionChange {
            device,
            node: NodeId::random(),
            epoch: Epoch(epoch),
            connected,
            at: Timestamp(epoch * 10 + i64::from(!connected)),
            reason: (!connected).then_some("silent"),
            address: None,
            bytes_in: 0,
            bytes_out: 0,
            round_trip: None,
        }
    }

    /// Epoch, whether connected, when: of everything that waits, in the order in which it would be written.
    fn told(waiting: &Waiting) -> Vec<(i64, bool, i64)> {
        let changes = waiting.batch(usize::MAX).into_iter().flat_map(|noted| noted.changes());
        changes.map(|change| (change.epoch.0, change.connected, change.at.0)).collect()
    }

    #[test]
    fn every_connection_is_told_with_its_beginning_and_its_end() {
        let (mut waiting, device) = (Waiting::default(), DeviceId::random());
        for (epoch, connected) in [(2, true), (1, false), (2, false), (3, true)] {
            assert!(!waiting.note(change(device, epoch, connected), 10));
        }
        assert_eq!(waiting.len(), 3);
        assert_eq!(told(&waiting), [(2, true, 20), (2, false, 21), (1, false, 11), (3, true, 30)]);
        assert_eq!(waiting.latest[&device].last.epoch, Epoch(3));
    }

    #[test]
    fn what_was_written_goes_and_what_was_noted_meanwhile_stays() {
        let (mut waiting, device) = (Waiting::default(), DeviceId::random());
        waiting.note(change(device, 1, true), 10);
        let begun = waiting.batch(BATCH);
        waiting.note(change(device, 1, false), 10);
        assert!(waiting.settle(&begun).is_empty());
        assert_eq!(told(&waiting), [(1, true, 10), (1, false, 11)]);

        let ended = waiting.batch(BATCH);
        waiting.note(change(device, 2, true), 10);
        assert!(waiting.settle(&ended).is_empty(), "the device is back and keeps its route");
        assert_eq!(told(&waiting), [(2, true, 20)]);

        let back = waiting.batch(BATCH);
        waiting.settle(&back);
        let last = change(device, 2, false);
        waiting.note(last, 10);
        let ended = waiting.batch(BATCH);
        assert_eq!(waiting.settle(&ended), [last]);
        assert_eq!((waiting.len(), waiting.finished.len()), (0, 0));
    }

    #[test]
    fn an_earlier_connection_that_ends_while_it_is_written_is_written_again() {
        let (mut waiting, device) = (Waiting::default(), DeviceId::random());
        waiting.note(change(device, 1, true), 10);
        waiting.note(change(device, 2, true), 10);
        let begun = waiting.batch(BATCH);
        waiting.note(change(device, 1, false), 10);
        waiting.settle(&begun);
        assert_eq!(told(&waiting), [(1, true, 10), (1, false, 11)]);
        let ended = waiting.batch(BATCH);
        waiting.settle(&ended);
        assert_eq!((waiting.len(), waiting.finished.len()), (0, 0));
    }

    #[test]
    fn beyond_the_bound_the_oldest_finished_connections_are_dropped_and_no_latest_one() {
        let mut waiting = Waiting::default();
        let (restless, others) = (DeviceId::random(), [DeviceId::random(), DeviceId::random(), DeviceId::random()]);
        for device in others {
            waiting.note(change(device, 1, true), 2);
        }
        let mut dropped = 0;
        for epoch in 1..=6 {
            dropped += usize::from(waiting.note(change(restless, epoch, true), 2));
            dropped += usize::from(waiting.note(change(restless, epoch, false), 2));
        }
        assert_eq!((dropped, waiting.latest.len(), waiting.earlier.len()), (3, 4, 2));
        let epochs: Vec<i64> = told(&waiting).into_iter().map(|(epoch, ..)| epoch).filter(|epoch| *epoch > 1).collect();
        assert_eq!(epochs, [4, 4, 5, 5, 6, 6]);
    }
}
