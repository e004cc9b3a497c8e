//! What is behind a device's websocket, belongs to the device, and survives the websocket: its shells and its sessions.

use crate::{
    device::DeviceSettings,
    message::{Message, SHELL},
    sessions::{SessionEvent, Sessions},
    terminals::Terminals,
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

/// The agent of one device.
pub struct Agent {
    terminals: Terminals,
    sessions: Sessions,
    /// Whose turn it is to be asked first, so that neither can silence the other.
    shells_first: bool,
    settings: Arc<DeviceSettings>,
}

/// What the agent wants of its connection.
#[derive(Debug)]
pub(crate) enum Wish {
    /// To say this.
    Say(Message),
    /// To end as the real agent's process would, for this reason.
    Die(String),
}

impl Agent {
    pub(crate) fn new(settings: Arc<DeviceSettings>, terminals: Terminals, sessions: Sessions) -> Self {
        Self { terminals, sessions, shells_first: false, settings }
    }

    /// A websocket is there, or is not any more.
    pub(crate) fn set_online(&mut self, online: bool) {
        self.sessions.set_online(online);
    }

    /// A message from the hub; returns what is answered at once. Not before [`poll_ready`](Self::poll_ready) is ready.
    pub(crate) fn hear(&mut self, message: Message, now: Instant) -> Vec<Message> {
        if message.header.proto == SHELL {
            return self.terminals.hear(&message, now);
        }
        self.sessions.hear(message);
        vec![]
    }

    /// Whether the next message may be read: not while the last one waits for a busy session.
    pub(crate) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(waited) = std::task::ready!(self.sessions.poll_hand_over(context)) {
            self.settings.progress.waited(waited);
        }
        Poll::Ready(())
    }

    /// Whether a message waits for a busy session.
    pub(crate) fn is_busy(&self) -> bool {
        self.sessions.is_busy()
    }

    /// Polls for what it wants by itself.
    pub(crate) fn poll_wish(&mut self, context: &mut Context<'_>) -> Poll<Wish> {
        self.shells_first = !self.shells_first;
        if self.shells_first
            && let Poll::Ready(message) = self.terminals.poll_output(context)
        {
            return Poll::Ready(Wish::Say(message));
        }
        while let Poll::Ready(event) = self.sessions.poll_event(context) {
            match event {
                SessionEvent::Said(message) => return Poll::Ready(Wish::Say(message)),
                SessionEvent::Fault(fault) => return Poll::Ready(Wish::Die(fault)),
                SessionEvent::Ended { .. } => {}
            }
        }
        self.terminals.poll_output(context).map(Wish::Say)
    }

    /// What the shells' clocks ask for.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Message> {
        self.terminals.tick(now)
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.terminals.next_tick()
    }

    /// Does this work while there is no websocket: what the agent says meanwhile is lost.
    pub(crate) async fn offline<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            while self.poll_wish(context).is_ready() {}
            work.as_mut().poll(context)
        })
        .await
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shells = self.terminals.len();
        f.debug_struct("Agent").field("shells", &shells).field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}
