//! How fast devices may come in: as fast as the threads of this node stay on time.
//!
//! A backend that answers quickly says nothing about the node itself. To let a device in takes some tenths of a
//! millisecond of processor time, and a storm that takes all there is makes every key of every terminal wait for its
//! turn on the same threads. So the pace grows while whoever is called comes at once, and shrinks when threads are late.

use std::time::Duration;

use tokio::time::Instant;

/// Devices in a second: in the beginning, and at least, however late threads are.
const BEGIN: f64 = 500.0;
const LEAST: f64 = 200.0;
/// And at most: where it is the backend that keeps them in line, the pace must not grow beyond reach.
const MOST: f64 = 50_000.0;

/// So many may come at once when nobody has come for a while.
const BURST: f64 = 64.0;

/// A thread that is later than this has too much to do.
const LATE: Duration = Duration::from_millis(3);

/// How often the pace changes, and by how much.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const GROWTH: f64 = 1.1;
const SHRINKAGE: f64 = 0.75;

/// Decides how many may come in now, without waiting itself.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    /// Who may come in at this moment.
    room: f64,
    filled: Instant,
    /// Since the last change: the latest that a thread was, and whether somebody was in line.
    looked: Instant,
    latest: Duration,
    was_awaited: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        let looked = now;
        Self { per_second: BEGIN, room: BURST, filled: now, looked, latest: Duration::ZERO, was_awaited: false }
    }

    /// How many may come in now.
    pub(super) fn room(&mut self, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = now;
        self.room = (self.room + passed.as_secs_f64() * self.per_second).min(BURST);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and BURST")]
        {
            self.room.max(0.0) as usize
        }
    }

    /// So many have come in.
    pub(super) fn spend(&mut self, count: usize) {
        self.room -= f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// A thread that had something to do began with it so late; and whether somebody is in line.
    pub(super) fn learn(&mut self, late: Duration, is_awaited: bool, now: Instant) {
        self.latest = self.latest.max(late);
        self.was_awaited |= is_awaited;
        if now.saturating_duration_since(self.looked) < LOOK_EVERY {
            return;
        }
        if self.latest > LATE {
            self.per_second = (self.per_second * SHRINKAGE).max(LEAST);
        } else if self.was_awaited {
            self.per_second = (self.per_second * GROWTH).min(MOST);
        }
        (self.looked, self.latest, self.was_awaited) = (now, Duration::ZERO, false);
    }

    pub(super) const fn per_second(&self) -> f64 {
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A storm of this length on a node that can let in so many a second: beyond that, what it cannot do piles up, and
    /// its threads are late by as long as the pile takes. How many came in, and the latest that a thread was in the
    /// second half.
    fn storm(pace: &mut Pace, begin: Instant, length: Duration, able: f64) -> (usize, Duration) {
        let step = Duration::from_millis(2);
        let (mut now, mut came, mut pile, mut latest) = (begin, 0, 0.0_f64, Duration::ZERO);
        while now < begin + length {
            now += step;
            let room = pace.room(now);
            pace.spend(room);
            came += room;
            pile = (pile + f64::from(u32::try_from(room).unwrap()) - able * step.as_secs_f64()).max(0.0);
            let late = Duration::from_secs_f64(pile / able);
            pace.learn(late, true, now);
            if now > begin + length / 2 {
                latest = latest.max(late);
            }
        }
        (came, latest)
    }

    #[test]
    fn devices_come_about_as_fast_as_the_node_can_and_its_threads_stay_nearly_on_time() {
        for able in [2_000.0, 5_000.0, 20_000.0] {
            let begin = Instant::now();
            let mut pace = Pace::new(begin);
            let (came, latest) = storm(&mut pace, begin, Duration::from_secs(20), able);
            let share = f64::from(u32::try_from(came).unwrap()) / (20.0 * able);
            assert!((0.5..=1.0).contains(&share), "{share} of {able}");
            assert!(latest < Duration::from_millis(40), "{latest:?} with {able}");
        }
    }

    #[test]
    fn a_node_without_time_lets_some_in_all_the_same() {
        let (mut pace, mut now) = (Pace::new(Instant::now()), Instant::now());
        for _ in 0..1_000 {
            now += LOOK_EVERY;
            let room = pace.room(now);
            pace.spend(room);
            pace.learn(Duration::from_secs(1), true, now);
        }
        assert!((pace.per_second() - LEAST).abs() < f64::EPSILON);
        assert_eq!(pace.room(now + Duration::from_millis(100)), 20);
    }

    #[test]
    fn without_a_storm_the_pace_stays_and_a_few_may_come_at_once() {
        let (mut pace, mut now) = (Pace::new(Instant::now()), Instant::now());
        for _ in 0..1_000 {
            now += LOOK_EVERY;
            assert!(pace.room(now) > 0);
            pace.spend(1);
            pace.learn(Duration::ZERO, false, now);
        }
        assert!((pace.per_second() - BEGIN).abs() < f64::EPSILON);
        assert_eq!(pace.room(now + Duration::from_hours(1)), 64);
    }
}
