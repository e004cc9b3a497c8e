//! The latest events in memory: without a hole, and not more than so many.

use std::collections::VecDeque;
use std::sync::Arc;

use storage::Event;

/// Events kept in memory, of at most about 1 kB each.
const KEPT: usize = 4096;

/// The latest events, while anybody listens.
#[derive(Debug, Default)]
pub(super) struct Recent {
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    /// Every event after this number, up to `last`, is here.
    floor: i64,
    last: i64,
    events: VecDeque<Arc<Event>>,
}

/// What there is after a number.
#[derive(Debug)]
pub(super) enum Found {
    /// These come next.
    Events(Vec<Arc<Event>>),
    /// Nothing yet.
    Nothing,
    /// That is further back than memory goes.
    Older,
}

impl Recent {
    /// Somebody listens: what comes after `newest` is kept from now on, unless that began before.
    pub(super) fn activate(&mut self, newest: i64) {
        self.window.get_or_insert_with(|| Window { floor: newest, last: newest, events: VecDeque::new() });
    }

    /// Nobody listens any more.
    pub(super) fn deactivate(&mut self) {
        self.window = None;
    }

    /// The newest that is known, if anybody listens.
    pub(super) fn last(&self) -> Option<i64> {
        self.window.as_ref().map(|window| window.last)
    }

    /// Where memory begins, if anybody listens.
    pub(super) fn floor(&self) -> Option<i64> {
        self.window.as_ref().map(|window| window.floor)
    }

    /// Takes in what follows `last`, and says which is the newest then; `None` if there was nothing to take in, or if that
    /// was read for another time of listening.
    pub(super) fn extend(&mut self, last: i64, rows: Vec<Event>) -> Option<i64> {
        let window = self.window.as_mut().filter(|window| window.last == last)?;
        window.last = rows.last()?.id;
        window.events.extend(rows.into_iter().map(Arc::new));
        while window.events.len() > KEPT {
            if let Some(dropped) = window.events.pop_front() {
                window.floor = dropped.id;
            }
        }
        Some(window.last)
    }

    /// At most `limit` events after this number.
    pub(super) fn after(&self, position: i64, limit: usize) -> Found {
        let Some(window) = self.window.as_ref().filter(|window| position >= window.floor) else { return Found::Older };
        let begin = window.events.partition_point(|event| event.id <= position);
        let events: Vec<_> = window.events.range(begin..).take(limit).cloned().collect();
        if events.is_empty() { Found::Nothing } else { Found::Events(events) }
    }
}
