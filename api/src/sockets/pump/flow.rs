//! What a socket's parts tell one another: how much waits, who may read, what was counted.

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Duration;

use actors::figures::Traffic;
use tokio::time::Instant;

/// What an actor sees of its socket's load, and how it holds the reading. One thread.
#[derive(Default)]
pub(in crate::sockets) struct Flow {
    pub(super) unwritten: Cell<usize>,
    pub(super) is_paused: Cell<bool>,
    pub(super) is_idle: Cell<bool>,
    /// Its turn to be read has not come, or what there was has not all been read since.
    pub(super) is_in_line: Cell<bool>,
    pub(super) wants_room: Cell<bool>,
    pub(super) has_room: Cell<bool>,
    pub(super) reader: RefCell<Option<Waker>>,
    pub(super) received: Cell<Traffic>,
    pub(super) sent: Cell<Traffic>,
    /// When the ping that was not answered yet was sent.
    pub(super) pinged: Cell<Option<Instant>>,
    pub(super) round_trip: Cell<Option<Duration>>,
}

impl Flow {
    /// Messages received and their bytes.
    pub(in crate::sockets) fn received(&self) -> Traffic {
        self.received.get()
    }

    /// Messages handed over and their bytes.
    pub(in crate::sockets) fn sent(&self) -> Traffic {
        self.sent.get()
    }

    /// How long the peer took to answer the last ping.
    pub(in crate::sockets) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.get()
    }

    /// Bytes handed over and not yet taken by the peer's side of the connection.
    pub(in crate::sockets) fn unwritten(&self) -> usize {
        self.unwritten.get()
    }

    /// The actor hands over a message of `bytes`.
    pub(in crate::sockets) fn hand_over(&self, bytes: usize) {
        self.unwritten.set(self.unwritten.get() + bytes);
        let mut sent = self.sent.get();
        sent.count(bytes);
        self.sent.set(sent);
    }

    /// Asks for [`SocketEvent::Room`] once.
    pub(in crate::sockets) fn ask_for_room(&self) {
        self.wants_room.set(true);
    }

    /// The socket is not read until [`Flow::resume`].
    pub(in crate::sockets) fn pause(&self) {
        self.is_paused.set(true);
    }

    /// The socket is read again.
    pub(in crate::sockets) fn resume(&self) {
        if self.is_paused.replace(false) {
            self.wake();
        }
    }

    /// Nobody waits for what this socket says: it takes turns with others in reading.
    pub(in crate::sockets) fn set_idle(&self, is_idle: bool) {
        if self.is_idle.replace(is_idle) && !is_idle {
            self.wake();
        }
    }

    /// What the peer has said, maybe its end, has not all been heard. [`SocketEvent::Room`] comes when it has, if asked for.
    pub(in crate::sockets) fn is_unheard(&self) -> bool {
        self.is_in_line.get()
    }

    pub(super) fn wake(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }
}
