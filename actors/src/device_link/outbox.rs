//! Messages that wait for a socket, and what they cost.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::session::charge;

/// A queue of messages that knows its charge. Takes no memory while empty.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<Bytes>,
    charge: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, message: Bytes) {
        self.charge += charge(message.len());
        self.messages.push_back(message);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let message = self.messages.pop_front()?;
        self.charge -= charge(message.len());
        if self.messages.is_empty() {
            // Ten thousand idle devices should not each keep the room of their busiest moment.
            self.messages = VecDeque::new();
        }
        Some(message)
    }

    pub(super) fn head_len(&self) -> Option<usize> {
        self.messages.front().map(Bytes::len)
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The credit that the waiting messages hold, in bytes.
    pub(super) fn charge(&self) -> usize {
        self.charge
    }
}
