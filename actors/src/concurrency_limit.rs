//! How many devices may be on their way in at the same time. A storm of them, when a network or a node is back, must slow
//! neither those that are connected nor the database.
//!
//! The limit is found as TCP Vegas finds its window: it grows as long as the backend answers about as fast as it ever
//! did, and shrinks as soon as requests wait for one another there, or for this process's own threads. So the rate at
//! which devices come in follows what the database can take, without a number that somebody would have to tune. Who comes
//! above it waits in line, those with open sessions first; who finds the line full, or has waited too long, is told to
//! come back, before anything was done for it.
//!
//! The backend is not all that a storm can overwhelm: how fast those in line are called also follows from how late this
//! node's own threads are (`pace`).

mod pace;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use serde::{Deserialize, Serialize};
use storage::units;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::metrics::{ARRIVALS_INSIDE, ARRIVALS_LIMIT, ARRIVALS_PACE, ARRIVALS_SHED, ARRIVALS_WAITING};
use pace::Pace;

/// The limit in the beginning, and again whenever the fastest answer is looked for anew: few enough to hardly wait for one
/// another, so that a backend is not judged by how it is in a storm.
const BEGIN: f64 = 4.0;

/// The limit grows while fewer requests than this seem to wait for one another, and shrinks when more do. (Vegas: alpha
/// and beta.)
const FEW: f64 = 3.0;
const MANY: f64 = 6.0;

/// By how much it does so in a step.
const GROWTH: f64 = 1.1;
const SHRINKAGE: f64 = 0.8;

/// Answers that are faster than this are all the same: below it the clock tells more of the machine than of the backend.
const FASTEST: Duration = Duration::from_millis(1);

/// The fastest answer counts for so long, and at most for twice as long: a backend may become slower for good.
const REMEMBERED: Duration = Duration::from_secs(30);

/// How often those are called who wait for no more than time to pass.
const CALL_EVERY: Duration = Duration::from_millis(2);

/// Who is sent away is asked to wait between these.
const SHORTEST_AWAY: Duration = Duration::from_secs(1);
const LONGEST_AWAY: Duration = Duration::from_mins(1);

/// Settings of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Devices that may be on their way in at once, however fast the database answers.
    pub at_once: usize,
    /// Devices that may wait in line for that; more are told to come back later.
    pub waiting: usize,
    /// How long a device may wait in line before it is told to come back later.
    #[serde(with = "units::duration")]
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { at_once: 256, waiting: 8192, patience: Duration::from_secs(10) }
    }
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub(crate) fn fault(&self) -> Option<String> {
        (self.at_once == 0).then(|| "at_once is 0: expected at least 1".to_owned())
    }
}

/// Too many are on their way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many devices are on their way in")]
pub struct Crowded {
    /// When to come back.
    pub retry_after: Duration,
}

/// Limits how many are on their way in. Cloning is cheap; all clones are one limit.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    door: Mutex<Door>,
    patience: Duration,
}

/// What decides on who comes in.
#[derive(Debug)]
struct Door {
    state: State<Ticket>,
    pace: Pace,
    /// Somebody calls those in line as time passes.
    has_usher: bool,
}

impl Door {
    fn try_enter(&mut self, now: Instant) -> bool {
        // Nobody overtakes those in line.
        let enters = self.pace.room(now) > 0 && self.state.try_enter();
        if enters {
            self.pace.spend(1);
        }
        enters
    }

    /// Time has passed.
    fn tick(&mut self, now: Instant) -> Vec<Ticket> {
        // Where the backend has no room, a faster pace would change nothing, and be too fast once it has.
        let is_reached = self.state.waiting() > 0 && self.state.has_room();
        self.pace.look(is_reached, now);
        self.call(now)
    }

    fn call(&mut self, now: Instant) -> Vec<Ticket> {
        let called = self.state.call(now, self.pace.room(now), |ticket| !ticket.is_closed());
        self.pace.spend(called.len());
        called
    }
}

/// Leave to be on the way in; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    limit: ConcurrencyLimit,
    /// How long it took from when it was given until it was used.
    lag: Duration,
    granted: Instant,
    /// How long the backend took.
    took: Option<Duration>,
}

impl ConcurrencyLimit {
    /// A limit that is told from others by `name` in metrics.
    pub fn new(name: &'static str, config: &Config) -> Self {
        let door = Door { state: State::new(config), pace: Pace::new(Instant::now()), has_usher: false };
        Self(Arc::new(Shared { name, door: Mutex::new(door), patience: config.patience }))
    }

    /// Waits for leave to come in. `is_urgent` is only asked if there is something to wait for: the urgent go first.
    ///
    /// # Errors
    /// [`Crowded`], at once if the line is full.
    pub async fn enter(&self, is_urgent: impl FnOnce() -> bool) -> Result<Permit, Crowded> {
        if self.try_enter() {
            return Ok(Permit::new(self.clone()));
        }
        // Not under the lock: all threads come by here in a storm.
        let is_urgent = is_urgent();
        let (ticket, mut called) = oneshot::channel();
        let needs_usher = {
            let (mut door, now) = (self.0.door.lock(), Instant::now());
            // Everybody may have left meanwhile: then nobody would call.
            if door.try_enter(now) {
                self.report(&door);
                return Ok(Permit::new(self.clone()));
            }
            if !door.state.line_up(ticket, is_urgent, now) {
                return Err(self.shed(&door));
            }
            self.report(&door);
            !std::mem::replace(&mut door.has_usher, true)
        };
        if needs_usher {
            tokio::spawn(Usher { limit: self.clone(), is_over: false }.call_as_time_passes());
        }
        let in_time = tokio::time::timeout(self.0.patience, &mut called).await;
        // It may have been called in the very moment in which it gave up.
        called.close();
        let permit = in_time.ok().and_then(Result::ok).or_else(|| called.try_recv().ok());
        let Some(mut permit) = permit else { return Err(self.shed(&self.0.door.lock())) };
        permit.lag = permit.granted.elapsed();
        self.0.door.lock().pace.learn(permit.lag);
        Ok(permit)
    }

    fn try_enter(&self) -> bool {
        let mut door = self.0.door.lock();
        let enters = door.try_enter(Instant::now());
        if enters {
            self.report(&door);
        }
        enters
    }

    fn leave(&self, took: Option<Duration>) {
        let now = Instant::now();
        let called = {
            let mut door = self.0.door.lock();
            door.state.leave(took, now);
            let called = door.call(now);
            self.report(&door);
            called
        };
        self.admit(called);
    }

    fn admit(&self, called: Vec<Ticket>) {
        for ticket in called {
            // Who has left the line since gives its permit back by dropping it.
            drop(ticket.send(Permit::new(self.clone())));
        }
    }

    fn shed(&self, door: &Door) -> Crowded {
        metrics::counter!(ARRIVALS_SHED, "door" => self.0.name).increment(1);
        // Apart from one another, or they would all be back at once.
        let spread = rand::rng().random_range(1.0..2.0);
        let retry_after = door.state.last_wait.mul_f64(2.0).max(SHORTEST_AWAY).mul_f64(spread).min(LONGEST_AWAY);
        Crowded { retry_after }
    }

    fn report(&self, Door { state, pace, .. }: &Door) {
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        metrics::gauge!(ARRIVALS_WAITING, "door" => self.0.name).set(count(state.waiting()));
        metrics::gauge!(ARRIVALS_INSIDE, "door" => self.0.name).set(count(state.inside));
        metrics::gauge!(ARRIVALS_LIMIT, "door" => self.0.name).set(state.limit.floor());
        metrics::gauge!(ARRIVALS_PACE, "door" => self.0.name).set(pace.per_second().floor());
    }
}

/// Calls those in line as time passes, until nobody is left in it. Were it to break off, the next one in line begins another.
struct Usher {
    limit: ConcurrencyLimit,
    is_over: bool,
}

impl Usher {
    async fn call_as_time_passes(mut self) {
        while !self.is_over {
            tokio::time::sleep(CALL_EVERY).await;
            let called = {
                let mut door = self.limit.0.door.lock();
                let called = door.tick(Instant::now());
                self.is_over = door.state.waiting() == 0;
                door.has_usher = !self.is_over;
                self.limit.report(&door);
                called
            };
            self.limit.admit(called);
        }
    }
}

impl Drop for Usher {
    fn drop(&mut self) {
        if !self.is_over {
            self.limit.0.door.lock().has_usher = false;
        }
    }
}

impl Permit {
    fn new(limit: ConcurrencyLimit) -> Self {
        Self { limit, lag: Duration::ZERO, granted: Instant::now(), took: None }
    }

    /// Does the backend's part of letting somebody in. How long that takes decides on how many may come in: time the same
    /// kind of work each time.
    pub async fn timed<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let result = work.await;
        self.took = Some(self.lag + begun.elapsed());
        result
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.leave(self.took);
    }
}

/// Calls who waits in line.
type Ticket = oneshot::Sender<Permit>;

/// Who is inside and who waits; decides without waiting itself.
#[derive(Debug)]
struct State<T> {
    most: f64,
    line: usize,
    limit: f64,
    inside: usize,
    urgent: VecDeque<(T, Instant)>,
    others: VecDeque<(T, Instant)>,
    /// How long those waited who were called last.
    last_wait: Duration,
    /// Since the limit was last looked at: answers, their time together, and whether anybody had to wait.
    answers: u32,
    answer_time: Duration,
    was_reached: bool,
    fastest: Fastest,
}

impl<T> State<T> {
    fn new(config: &Config) -> Self {
        let most = f64::from(u32::try_from(config.at_once).unwrap_or(u32::MAX));
        Self {
            most,
            line: config.waiting,
            limit: BEGIN.min(most),
            inside: 0,
            urgent: VecDeque::new(),
            others: VecDeque::new(),
            last_wait: Duration::ZERO,
            answers: 0,
            answer_time: Duration::ZERO,
            was_reached: false,
            fastest: Fastest::default(),
        }
    }

    fn waiting(&self) -> usize {
        self.urgent.len() + self.others.len()
    }

    fn has_room(&self) -> bool {
        f64::from(u32::try_from(self.inside).unwrap_or(u32::MAX)) + 1.0 <= self.limit
    }

    /// In at once, unless somebody waits already.
    fn try_enter(&mut self) -> bool {
        let enters = self.waiting() == 0 && self.has_room();
        if enters {
            self.inside += 1;
        } else {
            self.was_reached = true;
        }
        enters
    }

    /// Waits in line, unless that is full. Each kind has a line of its own.
    fn line_up(&mut self, ticket: T, is_urgent: bool, now: Instant) -> bool {
        let line = if is_urgent { &mut self.urgent } else { &mut self.others };
        let has_place = line.len() < self.line;
        if has_place {
            line.push_back((ticket, now));
        }
        has_place
    }

    /// Takes those out of the line who may come in now, at most so many, and counts them as inside.
    fn call(&mut self, now: Instant, most: usize, is_there: impl Fn(&T) -> bool) -> Vec<T> {
        let mut called = Vec::new();
        while self.has_room() && called.len() < most {
            let Some((ticket, since)) = self.urgent.pop_front().or_else(|| self.others.pop_front()) else {
                // A storm is over; its room is not kept.
                self.urgent = VecDeque::new();
                self.others = VecDeque::new();
                break;
            };
            if is_there(&ticket) {
                self.last_wait = now - since;
                self.inside += 1;
                called.push(ticket);
            }
        }
        called
    }

    /// Somebody is in, or was refused; the backend took so long for it, if it was asked.
    fn leave(&mut self, took: Option<Duration>, now: Instant) {
        self.inside -= 1;
        let Some(took) = took else { return };
        if self.fastest.see(took, now) {
            self.limit = BEGIN.min(self.most);
        }
        self.answers += 1;
        self.answer_time += took;
        if f64::from(self.answers) >= self.limit {
            let mean = self.answer_time / self.answers;
            self.adapt(mean);
            (self.answers, self.answer_time, self.was_reached) = (0, Duration::ZERO, false);
        }
    }

    fn adapt(&mut self, mean: Duration) {
        let (fastest, mean) = (self.fastest.get().max(FASTEST), mean.max(FASTEST));
        // Of those inside, so many waited for another.
        let queued = self.limit * (1.0 - fastest.as_secs_f64() / mean.as_secs_f64().max(fastest.as_secs_f64()));
        if queued > MANY {
            // Not without an end: fewer than `MANY` are never too many.
            self.limit *= SHRINKAGE;
        } else if queued < FEW && self.was_reached {
            self.limit = (self.limit * GROWTH).min(self.most);
        }
    }
}

/// The fastest answer of this period and of the one before.
#[derive(Debug, Default)]
struct Fastest {
    since: Option<Instant>,
    before: Option<Duration>,
    now: Option<Duration>,
}

impl Fastest {
    /// Says whether a new period begins with this answer.
    fn see(&mut self, took: Duration, now: Instant) -> bool {
        let is_new = self.since.is_none_or(|since| now - since >= REMEMBERED);
        if is_new {
            self.since = Some(now);
            self.before = self.now.take();
        }
        self.now = Some(self.now.map_or(took, |known| known.min(took)));
        is_new
    }

    fn get(&self) -> Duration {
        self.now.into_iter().chain(self.before).min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
