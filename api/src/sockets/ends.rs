//! Sockets of one thread that end at the same moment end one after the other.
//!
//! To take down one idle device takes some 40 µs: its actor, its entries, its file. When a switch fails, thousands are due
//! at once, and every key of every terminal on the thread would wait until the last is gone. (`make storm`: of 10,000 devices
//! that were cut off, keys waited for up to 200 ms.)

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;

/// Time that an end is given on its thread; the rest of it is for those who are still there.
const EACH: Duration = Duration::from_micros(125);

/// Ends that nobody need wait for.
const AT_ONCE: u32 = 16;

/// No end waits for longer than this, however many there are.
const LIMIT: Duration = Duration::from_secs(2);

thread_local! {
    static TURNS: RefCell<Turns> = const { RefCell::new(Turns { next: None }) };
}

/// How long this socket may wait before it ends; zero while few do.
pub(super) fn turn() -> Duration {
    TURNS.with_borrow_mut(|turns| turns.take(Instant::now()))
}

struct Turns {
    /// When the next one's turn is, or was.
    next: Option<Instant>,
}

impl Turns {
    fn take(&mut self, now: Instant) -> Duration {
        let earliest = now.checked_sub(EACH * (AT_ONCE - 1)).unwrap_or(now);
        let mut next = self.next.map_or(earliest, |next| next.max(earliest));
        if next >= now + LIMIT {
            // More than there is time for: they share the second half of it.
            next = now + LIMIT / 2;
        }
        self.next = Some(next + EACH);
        next.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_ends_wait_for_nothing_and_many_for_their_turn() {
        let (mut turns, now) = (Turns { next: None }, Instant::now());
        let waits: Vec<Duration> = (0..20_000).map(|_| turns.take(now)).collect();
        let at_once = waits.iter().take_while(|wait| wait.is_zero()).count();
        assert_eq!(at_once, AT_ONCE as usize);
        assert!(waits[at_once] == EACH && waits[at_once + 999] == EACH * 1_000);
        assert!(waits.iter().all(|wait| *wait < LIMIT), "however many there are");
        let at_the_same_time = |moment: Duration| waits.iter().filter(|wait| **wait == moment).count();
        assert!(waits[at_once..].iter().all(|wait| at_the_same_time(*wait) <= 2), "they are spread");
        // Once all have gone, it is as it was.
        let later = now + 2 * LIMIT;
        assert!((0..AT_ONCE).all(|_| turns.take(later).is_zero()));
    }
}
