//! Sockets of one thread that have something to do at the same moment do it one after the other.
//!
//! When a switch fails, thousands of connections end at once. To take down one idle device takes some 40 µs (its actor,
//! its entries, its file), and every key of every terminal on the thread would wait until the last is gone. So sockets
//! without a session wait for their turn before they even look at what woke them, and one has it every millisecond.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// How often somebody is called: a twenty-fifth of the thread's time, if all of them end. (Four each time, and all within
/// five seconds, was too much when five hubs on two processors lost 90,000 devices: the slowest key of each second took 13
/// to 39 ms meanwhile, and while they came back 6 to 27 ms; of all keys, 1 in 100 took 2.2 times as long as before the storm.
/// With one each time it is 1.7 and 1.9 times.)
const EVERY: Duration = Duration::from_millis(1);

/// Turns within one [`EVERY`] that nobody need wait for.
const AT_ONCE: usize = 16;

/// All have had their turn after about as long, however many there are.
const LIMIT: Duration = Duration::from_secs(10);

thread_local! {
    static LINE: RefCell<Line> = RefCell::default();
}

/// Where a socket stands among those of its thread.
#[derive(Default)]
pub(super) enum Turn {
    /// It has not asked.
    #[default]
    Away,
    /// It waits to be called.
    Waiting(Rc<Place>),
    /// It is its turn, until [`Turn::over`].
    Here,
}

impl Turn {
    /// Ready when it is this socket's turn; until then its task is woken for it, once.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Here => return Poll::Ready(()),
            Self::Waiting(place) if !place.is_called.get() => {
                place.wait(cx.waker());
                return Poll::Pending;
            }
            Self::Waiting(_) => {}
            Self::Away => {
                let (place, begins) = LINE.with_borrow_mut(|line| line.enter(Instant::now()));
                if begins {
                    actix_rt::spawn(Caller.call());
                }
                if let Some(place) = place {
                    place.wait(cx.waker());
                    *self = Self::Waiting(place);
                    return Poll::Pending;
                }
            }
        }
        *self = Self::Here;
        Poll::Ready(())
    }

    /// It has done what it had to.
    pub(super) fn over(&mut self) {
        if matches!(self, Self::Here) {
            *self = Self::Away;
        }
    }
}

/// A socket's place in the line.
#[derive(Default)]
pub(super) struct Place {
    is_called: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Place {
    fn wait(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn call(&self) {
        self.is_called.set(true);
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

/// Calls those of this thread until nobody waits.
struct Caller;

impl Caller {
    async fn call(self) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep_until(last + EVERY).await;
            let now = Instant::now();
            let is_over = LINE.with_borrow_mut(|line| {
                line.call(now, now - last);
                line.is_over()
            });
            if is_over {
                return;
            }
            last = now;
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // Should it break off, nobody waits for ever; at its end nobody does. A thread that ends may have no line any more.
        let _ = LINE.try_with(|line| line.take().waiting.iter().for_each(|place| place.call()));
    }
}

#[derive(Default)]
struct Line {
    /// At most as many as there are sockets, and those that are gone before their turn.
    waiting: VecDeque<Rc<Place>>,
    /// Since when somebody has been waiting all the time.
    since: Option<Instant>,
    /// Since when so many have not had to wait.
    passed: Option<(Instant, usize)>,
}

impl Line {
    /// A place, unless it is its turn at once; and whether somebody has to begin to call.
    fn enter(&mut self, now: Instant) -> (Option<Rc<Place>>, bool) {
        let (since, passed) = self.passed.filter(|(since, _)| now - *since < EVERY).unwrap_or((now, 0));
        if passed < AT_ONCE && self.waiting.is_empty() {
            self.passed = Some((since, passed + 1));
            return (None, false);
        }
        let place = Rc::<Place>::default();
        self.waiting.push_back(Rc::clone(&place));
        let begins = self.since.is_none();
        self.since.get_or_insert(now);
        (Some(place), begins)
    }

    /// Calls those whose turn it is, when so much time has passed.
    fn call(&mut self, now: Instant, passed: Duration) {
        // As many as have to go for all to have been called in time.
        let left = LIMIT.saturating_sub(self.since.map_or(Duration::ZERO, |since| now - since)).max(passed);
        let share = passed.as_secs_f64() / left.as_secs_f64().max(f64::EPSILON);
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let needed = (self.waiting.len() as f64 * share).ceil() as usize;
        let mut called = 0;
        while called < needed.max(1) {
            let Some(place) = self.waiting.pop_front() else { break };
            // A socket that is gone is no work.
            called += usize::from(Rc::strong_count(&place) > 1);
            place.call();
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

/// So many are in line on this thread, in front of whoever comes.
#[cfg(test)]
pub(super) fn crowd(count: usize) -> Vec<Turn> {
    let cx = Context::from_waker(Waker::noop());
    LINE.with_borrow_mut(|line| line.passed = Some((Instant::now() + LIMIT, AT_ONCE)));
    let mut turns: Vec<_> = (0..count).map(|_| Turn::default()).collect();
    assert!(turns.iter_mut().all(|turn| turn.poll(&cx).is_pending()));
    turns
}

#[cfg(test)]
pub(super) fn in_line() -> usize {
    LINE.with_borrow(|line| line.waiting.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many sockets are woken at once on a thread that is so late each time; how many need not wait, and how long it
    /// takes until all have had their turn.
    fn turns(count: usize, late: Duration) -> (usize, Duration) {
        let (mut line, begin) = (Line::default(), Instant::now());
        let places: Vec<_> = (0..count).filter_map(|_| line.enter(begin).0).collect();
        let (at_once, mut now, mut last) = (count - places.len(), begin, begin);
        while !line.waiting.is_empty() {
            now += EVERY + late;
            line.call(now, now - last);
            last = now;
        }
        assert!(places.iter().all(|place| place.is_called.get()), "all were called");
        assert!(line.is_over() && line.waiting.capacity() == 0);
        (at_once, now - begin)
    }

    #[test]
    fn few_sockets_wait_for_nothing_and_many_for_their_turn() {
        assert_eq!(turns(AT_ONCE, Duration::ZERO), (AT_ONCE, Duration::ZERO));
        assert_eq!(turns(AT_ONCE + 400, Duration::ZERO), (AT_ONCE, Duration::from_millis(400)));
    }

    #[test]
    fn a_thread_that_is_late_calls_fewer() {
        let late = Duration::from_millis(4);
        assert_eq!(turns(AT_ONCE + 100, late).1, Duration::from_millis(500));
    }

    #[test]
    fn all_are_called_in_time_however_many_there_are() {
        for late in [Duration::ZERO, Duration::from_millis(20)] {
            let (_, all) = turns(100_000, late);
            assert!(all <= LIMIT + Duration::from_millis(50), "{all:?} with {late:?}");
        }
    }

    #[test]
    fn only_the_first_who_waits_has_somebody_called_and_who_has_gone_counts_for_nothing() {
        let (mut line, now) = (Line::default(), Instant::now());
        let begun: Vec<_> = (0..AT_ONCE + 100).map(|_| line.enter(now)).collect();
        assert_eq!(begun.iter().filter(|(_, begins)| *begins).count(), 1);
        let mut places: Vec<_> = begun.into_iter().filter_map(|(place, _)| place).collect();
        drop(places.drain(..50));
        line.call(now + EVERY, EVERY);
        assert_eq!(places.iter().filter(|place| place.is_called.get()).count(), 1);
    }

    #[actix_rt::test]
    async fn who_waits_is_woken_for_it_also_when_nobody_calls_any_more() {
        let cx = Context::from_waker(Waker::noop());
        let (mut first, mut last) = (crowd(AT_ONCE), Turn::default());
        std::future::poll_fn(|cx| last.poll(cx)).await;
        assert!(first.iter_mut().all(|turn| turn.poll(&cx).is_ready()), "they were in front");
        last.over();
        assert!(matches!(last, Turn::Away));

        let mut lost = crowd(1);
        drop(Caller);
        assert!(lost[0].poll(&cx).is_ready());
        assert!(LINE.with_borrow(|line| line.since.is_none()), "the next one has somebody called again");
    }
}
