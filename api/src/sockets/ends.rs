//! Sockets of one thread that end at the same moment end one after the other.
//!
//! To take down one idle device takes some 40 µs: its actor, its entries, its file. When a switch fails, thousands are due
//! at once, and every key of every terminal on the thread would wait until the last is gone. (`make storm`: of 10,000 devices
//! that were cut off, keys waited for up to 200 ms.) So a few end every millisecond, and fewer while the thread is late:
//! what has to be done sooner is then waiting already.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// How often some end.
const EVERY: Duration = Duration::from_millis(1);

/// How many then: a third of the thread's time.
const EACH_TIME: usize = 8;

/// How many if the thread is late by more than this.
const LATE: Duration = Duration::from_millis(2);
const EACH_TIME_LATE: usize = 2;

/// Ends within one [`EVERY`] that nobody need wait for.
const AT_ONCE: usize = 16;

/// All have ended after about as long, however many there are.
const LIMIT: Duration = Duration::from_secs(5);

thread_local! {
    static TURNS: RefCell<Turns> = RefCell::default();
}

/// When it is this socket's turn to end; `None` while few do, which need not wait. Should nobody call, the turn has come too.
pub(super) fn turn() -> Option<oneshot::Receiver<()>> {
    let (turn, begins) = TURNS.with_borrow_mut(|turns| turns.take(Instant::now()));
    if begins {
        actix_rt::spawn(call());
    }
    turn
}

/// Calls those of this thread until nobody waits.
async fn call() {
    let mut last = Instant::now();
    loop {
        let due = last + EVERY;
        tokio::time::sleep_until(due).await;
        let now = Instant::now();
        let is_over = TURNS.with_borrow_mut(|turns| {
            turns.call(now, now - last, now.saturating_duration_since(due));
            turns.is_over()
        });
        if is_over {
            return;
        }
        last = now;
    }
}

#[derive(Default)]
struct Turns {
    /// At most as many as there are sockets.
    waiting: VecDeque<oneshot::Sender<()>>,
    /// Since when somebody has been waiting all the time.
    since: Option<Instant>,
    /// Since when so many have not had to wait.
    passed: Option<(Instant, usize)>,
}

impl Turns {
    /// A turn, if it is not at once; and whether somebody has to begin to call.
    fn take(&mut self, now: Instant) -> (Option<oneshot::Receiver<()>>, bool) {
        let (since, passed) = self.passed.filter(|(since, _)| now - *since < EVERY).unwrap_or((now, 0));
        if passed < AT_ONCE && self.waiting.is_empty() {
            self.passed = Some((since, passed + 1));
            return (None, false);
        }
        let (turn, waits) = oneshot::channel();
        self.waiting.push_back(turn);
        let begins = self.since.is_none();
        self.since.get_or_insert(now);
        (Some(waits), begins)
    }

    /// Calls those whose turn it is, when so much time has passed and the thread is so late.
    fn call(&mut self, now: Instant, passed: Duration, late: Duration) {
        let usual = if late > LATE { EACH_TIME_LATE } else { EACH_TIME };
        // As many as have to go for all to be gone in time.
        let left = LIMIT.saturating_sub(self.since.map_or(Duration::ZERO, |since| now - since)).max(passed);
        let share = passed.as_secs_f64() / left.as_secs_f64().max(f64::EPSILON);
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let needed = (self.waiting.len() as f64 * share).ceil() as usize;
        let mut called = 0;
        while called < usual.max(needed) {
            let Some(turn) = self.waiting.pop_front() else { break };
            // Who had to end before its turn is no work.
            called += usize::from(turn.send(()).is_ok());
        }
    }

    /// Whether nobody waits any more: then nobody calls either.
    fn is_over(&mut self) -> bool {
        let is_over = self.waiting.is_empty();
        if is_over {
            (self.waiting, self.since) = (VecDeque::new(), None);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many end at once on a thread that is so late each time; how many had not to wait, and how long it takes until all
    /// have had their turn.
    fn ends(count: usize, late: Duration) -> (usize, Duration) {
        let (mut turns, begin) = (Turns::default(), Instant::now());
        let mut waiting: Vec<_> = (0..count).filter_map(|_| turns.take(begin).0).collect();
        let (at_once, mut now, mut last) = (count - waiting.len(), begin, begin);
        while !turns.waiting.is_empty() {
            now += EVERY + late;
            turns.call(now, now - last, late);
            last = now;
        }
        assert!(waiting.iter_mut().all(|turn| turn.try_recv().is_ok()), "all were called");
        assert!(turns.is_over() && turns.waiting.capacity() == 0);
        (at_once, now - begin)
    }

    #[test]
    fn few_ends_wait_for_nothing_and_many_for_their_turn() {
        assert_eq!(ends(AT_ONCE, Duration::ZERO), (AT_ONCE, Duration::ZERO));
        assert_eq!(ends(AT_ONCE + 800, Duration::ZERO), (AT_ONCE, Duration::from_millis(100)));
    }

    #[test]
    fn a_thread_that_is_late_ends_fewer() {
        let late = Duration::from_millis(4);
        assert_eq!(ends(AT_ONCE + 200, late).1, Duration::from_millis(500));
    }

    #[test]
    fn all_end_in_time_however_many_there_are() {
        for late in [Duration::ZERO, Duration::from_millis(20)] {
            let (_, all) = ends(100_000, late);
            assert!(all <= LIMIT + Duration::from_millis(50), "{all:?} with {late:?}");
        }
    }

    #[test]
    fn only_the_first_who_waits_has_somebody_called_and_who_has_gone_counts_for_nothing() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let begun: Vec<_> = (0..AT_ONCE + 100).map(|_| turns.take(now)).collect();
        assert_eq!(begun.iter().filter(|(_, begins)| *begins).count(), 1);
        let mut waiting: Vec<_> = begun.into_iter().filter_map(|(turn, _)| turn).collect();
        drop(waiting.drain(..50));
        turns.call(now + EVERY, EVERY, Duration::ZERO);
        waiting.retain_mut(|turn| turn.try_recv().is_ok());
        assert_eq!(waiting.len(), EACH_TIME);
    }
}
