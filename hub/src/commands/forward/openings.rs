//! Which connection a refusal is about.
//!
//! Devices answer a `new` with a `new` that names the connection, or with an `error` that names none. A hub that knows
//! better lets a `stop` with the name follow; any other relays the answers in the order of the questions.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a hub may take to name the connection that an `error` was about.
const NAMED_WITHIN: Duration = Duration::from_millis(500);
/// Refusals that are kept; a device has no more to say than it was asked.
const MOST_REFUSALS: usize = 128;

/// The connections that were asked for and not yet answered, and the refusals not yet placed.
#[derive(Debug, Default)]
pub struct Openings {
    asked: VecDeque<Uuid>,
    refusals: VecDeque<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    at: Instant,
    why: String,
}

impl Openings {
    /// A connection was asked for.
    pub fn asked(&mut self, connection: Uuid) {
        self.asked.push_back(connection);
    }

    /// It was made, or nobody waits for it any more.
    pub fn settled(&mut self, connection: Uuid) {
        self.asked.retain(|&asked| asked != connection);
        if self.asked.is_empty() {
            self.refusals.clear();
        }
    }

    /// Some connection was refused.
    pub fn refused(&mut self, now: Instant, why: String) {
        if !self.asked.is_empty() && self.refusals.len() < MOST_REFUSALS {
            self.refusals.push_back(Refusal { at: now, why });
        }
    }

    /// This connection has ended. If it had not even been made, why.
    pub fn ended(&mut self, connection: Uuid) -> Option<String> {
        let was_asked = self.asked.contains(&connection);
        let why = if was_asked { self.refusals.pop_front().map(|refusal| refusal.why) } else { None };
        self.settled(connection);
        was_asked.then(|| why.unwrap_or_else(|| "the device gave no reason".to_owned()))
    }

    /// When [`overdue`](Self::overdue) is to be asked.
    pub fn due(&self) -> Option<Instant> {
        self.refusals.front().map(|refusal| refusal.at + NAMED_WITHIN)
    }

    /// A refusal that the hub gave no name to, with the connection that has waited longest.
    pub fn overdue(&mut self, now: Instant) -> Option<(Uuid, String)> {
        self.due().filter(|&due| due <= now)?;
        let why = self.refusals.pop_front()?.why;
        let connection = self.asked.pop_front()?;
        if self.asked.is_empty() {
            self.refusals.clear();
        }
        Some((connection, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> [Uuid; 3] {
        [1, 2, 3].map(Uuid::from_u128)
    }

    fn asked() -> Openings {
        let mut openings = Openings::default();
        for id in ids() {
            openings.asked(id);
        }
        openings
    }

    #[test]
    fn a_refusal_that_gets_a_name_goes_to_that_connection() {
        let [first, second, third] = ids();
        let mut openings = asked();
        let now = Instant::now();
        openings.refused(now, "no".to_owned());
        assert_eq!(openings.ended(second), Some("no".to_owned()));
        openings.settled(first);
        assert_eq!(openings.due(), None);
        assert_eq!(openings.ended(third), Some("the device gave no reason".to_owned()));
    }

    #[test]
    fn a_refusal_without_a_name_goes_to_whoever_has_waited_longest() {
        let [first, second, third] = ids();
        let mut openings = asked();
        let now = Instant::now();
        openings.settled(first);
        openings.refused(now, "no".to_owned());
        // The answer to the third comes before the refusal is placed.
        openings.settled(third);
        assert_eq!(openings.overdue(now), None);
        assert_eq!(openings.overdue(now + NAMED_WITHIN), Some((second, "no".to_owned())));
        assert_eq!(openings.overdue(now + NAMED_WITHIN), None);
        assert_eq!(openings.ended(second), None, "it is not refused twice");
    }

    #[test]
    fn a_refusal_that_nobody_waits_for_is_forgotten() {
        let mut openings = Openings::default();
        openings.refused(Instant::now(), "no".to_owned());
        assert_eq!(openings.due(), None);
        let mut openings = asked();
        for _ in 0..1000 {
            openings.refused(Instant::now(), "no".to_owned());
        }
        assert_eq!(openings.refusals.len(), MOST_REFUSALS);
    }
}
