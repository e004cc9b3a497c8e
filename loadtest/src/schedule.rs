//! When the next request is due.
//!
//! At a fixed rate ([`Turns::at_rate`]) that is decided beforehand and does not depend on how the hub copes: whoever is late
//! counts from when it was due. At saturation ([`Turns::back_to_back`]) a request is due when the one before is answered,
//! which tells how many a second a hub can take, but nothing about how long they would take at a given rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// A request's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// How many came before.
    pub number: u64,
    /// When it is due.
    pub due: Instant,
}

/// Turns that many senders take, each once.
#[derive(Debug)]
pub struct Turns {
    begun: Instant,
    next: AtomicU64,
    pace: Pace,
}

#[derive(Debug)]
enum Pace {
    /// One permit for each turn that has come.
    Fixed {
        interval: Duration,
        total: u64,
        come: Semaphore,
    },
    Saturated {
        until: Option<Instant>,
        total: Option<u64>,
    },
}

impl Turns {
    /// So many a second (at least one in an hour) for so long, beginning now.
    ///
    /// A thread of its own waits for them: a runtime's timers are a millisecond coarse, and busy when it is.
    pub fn at_rate(per_second: f64, length: Duration) -> Arc<Self> {
        let interval = Duration::from_secs_f64(1.0 / per_second.max(1.0 / 3600.0));
        let total = whole(length.as_secs_f64() / interval.as_secs_f64());
        let pace = Pace::Fixed { interval, total, come: Semaphore::new(0) };
        let turns = Arc::new(Self { begun: Instant::now(), next: AtomicU64::new(0), pace });
        let weak = Arc::downgrade(&turns);
        std::thread::spawn(move || {
            for number in 0..total {
                // Nobody is left who would take them.
                let Some(due) = weak.upgrade().map(|turns| turns.due(number)) else { return };
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let Some(turns) = weak.upgrade() else { return };
                let Pace::Fixed { come, .. } = &turns.pace else { return };
                come.add_permits(1);
            }
            if let Some(turns) = weak.upgrade()
                && let Pace::Fixed { come, .. } = &turns.pace
            {
                // Wakes those who wait for more than there are.
                come.add_permits(MOST_SENDERS);
            }
        });
        turns
    }

    /// As many as the senders can take for so long, beginning now.
    pub fn back_to_back(length: Duration) -> Arc<Self> {
        let begun = Instant::now();
        let pace = Pace::Saturated { until: Some(begun + length), total: None };
        Arc::new(Self { begun, next: AtomicU64::new(0), pace })
    }

    /// So many, as fast as the senders can take them.
    pub fn count(total: u64) -> Arc<Self> {
        let pace = Pace::Saturated { until: None, total: Some(total) };
        Arc::new(Self { begun: Instant::now(), next: AtomicU64::new(0), pace })
    }

    /// Waits for the next turn; `None` when there are no more.
    pub async fn next(&self) -> Option<Turn> {
        match &self.pace {
            Pace::Fixed { total, come, .. } => {
                come.acquire().await.ok()?.forget();
                let number = self.next.fetch_add(1, Relaxed);
                (number < *total).then(|| Turn { number, due: self.due(number) })
            }
            Pace::Saturated { until, total } => {
                let now = Instant::now();
                if until.is_some_and(|until| now >= until) {
                    return None;
                }
                let number = self.next.fetch_add(1, Relaxed);
                total.is_none_or(|total| number < total).then_some(Turn { number, due: now })
            }
        }
    }

    /// How many there are, if that is known beforehand.
    pub fn total(&self) -> Option<u64> {
        match self.pace {
            Pace::Fixed { total, .. } => Some(total),
            Pace::Saturated { total, .. } => total,
        }
    }

    /// When the first one was due.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// When a turn is due; of turns back to back only [`next`](Self::next) knows.
    pub fn due(&self, number: u64) -> Instant {
        match self.pace {
            Pace::Fixed { interval, .. } => self.begun + multiply(interval, number),
            Pace::Saturated { .. } => self.begun,
        }
    }
}

/// More senders than this do not exist.
const MOST_SENDERS: usize = 1 << 20;

/// An interval may be a few nanoseconds short; over a million turns that must not add up to milliseconds of a second more.
fn multiply(interval: Duration, number: u64) -> Duration {
    let nanoseconds = interval.as_nanos().saturating_mul(u128::from(number));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(number: f64) -> u64 {
    number.round().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_at_a_rate_are_due_when_the_rate_says_however_late_they_are_taken() {
        let turns = Turns::at_rate(1000.0, Duration::from_millis(50));
        assert_eq!(turns.total(), Some(50));

        let mut taken = Vec::new();
        while let Some(turn) = turns.next().await {
            assert!(turn.due <= Instant::now(), "nobody gets a turn before it is due");
            taken.push(turn);
        }

        let numbers: Vec<u64> = taken.iter().map(|turn| turn.number).collect();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        assert_eq!(taken[49].due - taken[0].due, Duration::from_millis(49));
    }

    #[tokio::test]
    async fn every_sender_hears_that_there_are_no_more_turns() {
        let turns = Turns::at_rate(1000.0, Duration::from_millis(3));
        let senders = (0..20).map(|_| {
            let turns = turns.clone();
            async move {
                let mut taken = 0;
                while turns.next().await.is_some() {
                    taken += 1;
                }
                taken
            }
        });
        let taken = tokio::time::timeout(Duration::from_secs(10), futures_util::future::join_all(senders)).await;
        assert_eq!(taken.expect("they all end").iter().sum::<u64>(), 3);
    }

    #[tokio::test]
    async fn turns_back_to_back_end_with_the_time() {
        let turns = Turns::back_to_back(Duration::from_millis(20));
        let mut taken = 0;
        while turns.next().await.is_some() {
            taken += 1;
            tokio::task::yield_now().await;
        }
        assert!(taken > 1, "{taken}");
        assert!(turns.begun().elapsed() >= Duration::from_millis(20));
    }

    #[tokio::test]
    async fn a_count_of_turns_is_that_many() {
        let turns = Turns::count(3);
        let mut numbers = Vec::new();
        while let Some(turn) = turns.next().await {
            numbers.push(turn.number);
        }
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(turns.next().await, None);
    }

    #[test]
    fn a_long_run_does_not_drift() {
        assert_eq!(multiply(Duration::from_micros(1), 1 << 40), Duration::from_micros(1 << 40));
    }
}
