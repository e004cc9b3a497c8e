//! How fast devices may come in: as fast as the threads of this node stay on time.
//!
//! A backend that answers quickly says nothing about the node itself. To let a device in takes some tenths of a
//! millisecond of processor time, and a storm that takes all there is makes every key of every terminal wait for its
//! turn on the same threads. So the pace grows while whoever is called comes at once, and shrinks when they come late. It
//! grows by shares until it is too fast for the first time, then by small steps: nodes that share a machine end up with
//! about the same. (As TCP does, RFC 5681 §3.1.)

use std::time::Duration;

use tokio::time::Instant;

/// Devices in a second: in the beginning, and at least, however late threads are.
const BEGIN: f64 = 200.0;
const LEAST: f64 = 50.0;

/// So many may come at once when nobody has come for a while.
const BURST: f64 = 16.0;

/// A thread that begins with what it is given later than this, on average, has too much to do. (Five hubs on two processors
/// let in 2,500 devices a second so, `measure.sh --hubs 5 storm --devices 90000`.)
const LATE: Duration = Duration::from_micros(200);

/// How often the pace changes, after how many have come at least, and by how much.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LEAST_SEEN: u32 = 8;
const FIRST_GROWTH: f64 = 1.1;
const GROWTH: f64 = 10.0;
const SHRINKAGE: f64 = 0.8;

/// What was found out is forgotten when nobody has been in line for so long.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Decides how many may come in now, without waiting itself.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    /// It has been too fast.
    is_known: bool,
    /// Who may come in at this moment.
    room: f64,
    filled: Instant,
    /// When somebody was in line last.
    awaited: Instant,
    /// Since the last change: who has come, how late they were together, and whether it was the pace that kept somebody
    /// in line.
    looked: Instant,
    seen: u32,
    late: Duration,
    was_reached: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            per_second: BEGIN,
            is_known: false,
            room: BURST,
            filled: now,
            awaited: now,
            looked: now,
            seen: 0,
            late: Duration::ZERO,
            was_reached: false,
        }
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

    /// Who was called came so late.
    pub(super) fn learn(&mut self, late: Duration) {
        self.seen += 1;
        self.late += late;
    }

    /// Somebody is in line, and maybe for the pace alone.
    pub(super) fn look(&mut self, is_reached: bool, now: Instant) {
        if now.saturating_duration_since(self.awaited) > REMEMBERED {
            *self = Self { room: self.room, filled: self.filled, ..Self::new(now) };
        }
        self.awaited = now;
        self.was_reached |= is_reached;
        if now.saturating_duration_since(self.looked) < LOOK_EVERY || self.seen < LEAST_SEEN {
            return;
        }
        if self.late / self.seen > LATE {
            self.per_second = (self.per_second * SHRINKAGE).max(LEAST);
            self.is_known = true;
        } else if self.was_reached {
            self.per_second = if self.is_known { self.per_second + GROWTH } else { self.per_second * FIRST_GROWTH };
        }
        (self.looked, self.seen, self.late, self.was_reached) = (now, 0, Duration::ZERO, false);
    }

    pub(super) const fn per_second(&self) -> f64 {
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A storm of this length on a machine that can let in so many a second, shared by all these: beyond that, what it
    /// cannot do piles up, and threads are late by as long as the pile takes. How many came in by each, and the latest that
    /// a thread was, in the second half.
    fn storm(paces: &mut [Pace], begin: Instant, length: Duration, able: f64) -> (Vec<f64>, Duration) {
        let step = Duration::from_millis(2);
        let (mut now, mut pile, mut latest) = (begin, 0.0_f64, Duration::ZERO);
        let mut came = vec![0.0; paces.len()];
        while now < begin + length {
            now += step;
            let late = Duration::from_secs_f64(pile / able);
            for (pace, came) in paces.iter_mut().zip(&mut came) {
                let room = pace.room(now);
                pace.spend(room);
                (0..room).for_each(|_| pace.learn(late));
                pace.look(true, now);
                let room = f64::from(u32::try_from(room).unwrap());
                pile += room;
                if now > begin + length / 2 {
                    *came += room;
                }
            }
            pile = (pile - able * step.as_secs_f64()).max(0.0);
            if now > begin + length / 2 {
                latest = latest.max(late);
            }
        }
        (came, latest)
    }

    #[test]
    fn devices_come_about_as_fast_as_the_node_can_and_its_threads_stay_nearly_on_time() {
        for able in [400.0, 2_000.0, 5_000.0] {
            let begin = Instant::now();
            let (came, latest) = storm(&mut [Pace::new(begin)], begin, Duration::from_mins(2), able);
            let share = came[0] / (60.0 * able);
            assert!((0.6..=1.0).contains(&share), "{share} of {able}");
            assert!(latest < Duration::from_millis(40), "{latest:?} with {able}");
        }
    }

    #[test]
    fn nodes_that_share_a_machine_end_up_with_about_the_same() {
        let begin = Instant::now();
        let mut paces = [(); 5].map(|()| Pace::new(begin));
        (paces[0].per_second, paces[0].is_known) = (3_000.0, true);
        let (came, _) = storm(&mut paces, begin, Duration::from_mins(4), 2_000.0);
        let (least, most) =
            came.iter().fold((f64::MAX, 0.0_f64), |(least, most), came| (least.min(*came), most.max(*came)));
        assert!(most < 2.0 * least, "{came:?}");
    }

    #[test]
    fn a_node_without_time_lets_some_in_all_the_same() {
        let (mut pace, mut now) = (Pace::new(Instant::now()), Instant::now());
        for _ in 0..10_000 {
            now += LOOK_EVERY;
            let room = pace.room(now);
            pace.spend(room);
            (0..room).for_each(|_| pace.learn(Duration::from_secs(1)));
            pace.look(true, now);
        }
        assert!((pace.per_second() - LEAST).abs() < f64::EPSILON);
        assert_eq!(pace.room(now + Duration::from_millis(200)), 10);
    }

    #[test]
    fn without_a_storm_the_pace_stays_and_a_few_may_come_at_once() {
        let (mut pace, mut now) = (Pace::new(Instant::now()), Instant::now());
        for _ in 0..1_000 {
            now += LOOK_EVERY;
            assert!(pace.room(now) > 0);
            pace.spend(1);
            pace.learn(Duration::ZERO);
            pace.look(false, now);
        }
        assert!((pace.per_second() - BEGIN).abs() < f64::EPSILON);
        assert_eq!(pace.room(now + Duration::from_hours(1)), 16);
    }

    #[test]
    fn the_next_storm_begins_as_the_first() {
        let (mut pace, begin) = (Pace::new(Instant::now()), Instant::now());
        for look in 1..100 {
            (0..LEAST_SEEN).for_each(|_| pace.learn(Duration::from_secs(1)));
            pace.look(true, begin + LOOK_EVERY * look);
        }
        assert!(pace.per_second() < BEGIN);
        // Also a long one in which nobody comes, since the backend hangs.
        for second in 5..100 {
            pace.look(false, begin + Duration::from_secs(second));
        }
        assert!(pace.per_second() < BEGIN, "it is the same storm");
        pace.look(true, begin + Duration::from_mins(3));
        assert!((pace.per_second() - BEGIN).abs() < f64::EPSILON);
    }
}
