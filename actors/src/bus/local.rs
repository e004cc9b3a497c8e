//! The bus within one process: one node when embedded, several in tests.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use storage::NodeId;
use tokio::sync::mpsc;

use super::{BusError, Event, INBOX_LIMIT, Incoming, NodeMessage};

type Inboxes = Arc<Mutex<HashMap<NodeId, mpsc::Sender<Incoming>>>>;

/// A node's place on the in-process bus.
#[derive(Clone)]
pub struct LocalBus {
    node: NodeId,
    inboxes: Inboxes,
}

impl LocalBus {
    /// A bus of its own for `node`.
    pub fn new(node: NodeId) -> Self {
        Self { node, inboxes: Inboxes::default() }
    }

    /// A place for another node on the same bus.
    #[must_use]
    pub fn join(&self, node: NodeId) -> Self {
        Self { node, inboxes: Arc::clone(&self.inboxes) }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn send(&self, to: NodeId, message: NodeMessage) -> Result<(), BusError> {
        let inboxes = self.inboxes.lock();
        inboxes
            .get(&to)
            .ok_or(BusError::NoSuchNode)?
            .try_send(Incoming::Message(message))
            .map_err(|error| refused(&error))
    }

    pub(super) fn announce(&self, event: &Event) -> Result<(), BusError> {
        for (node, inbox) in self.inboxes.lock().iter() {
            if *node != self.node {
                inbox.try_send(Incoming::Event(event.clone())).map_err(|error| refused(&error))?;
            }
        }
        Ok(())
    }

    pub(super) fn listen(&self) -> mpsc::Receiver<Incoming> {
        let (sender, receiver) = mpsc::channel(INBOX_LIMIT);
        self.inboxes.lock().insert(self.node, sender);
        receiver
    }
}

fn refused(error: &mpsc::error::TrySendError<Incoming>) -> BusError {
    match error {
        mpsc::error::TrySendError::Full(_) => BusError::Full,
        mpsc::error::TrySendError::Closed(_) => BusError::NoSuchNode,
    }
}
