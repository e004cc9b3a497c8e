//! The bus over NATS core: one subject per node, one for events.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, ConnectOptions, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use storage::NodeId;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{BusError, Event, INBOX_LIMIT, Incoming, NodeMessage};

/// How long a connection to the server may take at the start.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Messages that may wait to be written to the server.
const OUTBOX_LIMIT: usize = 64 * 1024;

/// A node's connection to the others through a NATS server.
#[derive(Clone)]
pub struct NatsBus {
    node: NodeId,
    prefix: String,
    client: Client,
    outbox: mpsc::Sender<(Subject, Bytes)>,
    link: tokio::sync::watch::Receiver<Link>,
}

/// How often the connection to the server was lost, and made.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    lost: u64,
    made: u64,
}

#[derive(Serialize, serde::Deserialize)]
struct Announcement {
    from: NodeId,
    event: Event,
}

impl NatsBus {
    /// Connects `node` to the server at `url`. Hubs with different `prefix`es do not hear one another.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(url: &str, prefix: &str, node: NodeId) -> Result<Self, BusError> {
        let (changed, link) = tokio::sync::watch::channel(Link::default());
        let client = ConnectOptions::new()
            .name("mooring")
            .connection_timeout(CONNECT_LIMIT)
            .subscription_capacity(INBOX_LIMIT)
            .ping_interval(Duration::from_secs(10))
            .event_callback(move |event| {
                match event {
                    async_nats::Event::Connected => {
                        info!("connected to the message bus");
                        changed.send_modify(|link| link.made += 1);
                    }
                    async_nats::Event::Disconnected | async_nats::Event::SlowConsumer(_) => {
                        warn!(%event, "messages between nodes may have been lost");
                        changed.send_modify(|link| link.lost += 1);
                    }
                    _ => {}
                }
                std::future::ready(())
            })
            .connect(url)
            .await
            .map_err(unavailable)?;
        let (outbox, waiting) = mpsc::channel(OUTBOX_LIMIT);
        tokio::spawn(write_out(client.clone(), waiting));
        Ok(Self { node, prefix: prefix.to_owned(), client, outbox, link })
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn send(&self, to: NodeId, message: &NodeMessage) -> Result<(), BusError> {
        self.enqueue(self.node_subject(to), message)
    }

    pub(super) fn announce(&self, event: &Event) -> Result<(), BusError> {
        self.enqueue(self.event_subject(), &Announcement { from: self.node, event: event.clone() })
    }

    pub(super) async fn listen(&self) -> Result<mpsc::Receiver<Incoming>, BusError> {
        let mut to_this_node = self.client.subscribe(self.node_subject(self.node)).await.map_err(unavailable)?;
        let mut events = self.client.subscribe(self.event_subject()).await.map_err(unavailable)?;
        // Flushing says nothing about the server; what comes back over the new subscription does.
        let marker = Bytes::new();
        self.client.publish(self.node_subject(self.node), marker).await.map_err(unavailable)?;
        let mut early = Vec::new();
        let until_marker = async {
            while let Some(message) = to_this_node.next().await {
                if message.payload.is_empty() {
                    return Ok(());
                }
                early.push(message);
            }
            Err(BusError::Unavailable("the subscription ended".into()))
        };
        tokio::time::timeout(CONNECT_LIMIT, until_marker).await.map_err(unavailable)??;
        let mut link = self.link.clone();
        let mut known = *link.borrow_and_update();
        let node = self.node;
        let (inbox, receiver) = mpsc::channel(INBOX_LIMIT);
        tokio::spawn(async move {
            for message in early {
                let Some(incoming) = read_message(&message.payload) else { continue };
                if inbox.send(incoming).await.is_err() {
                    return;
                }
            }
            loop {
                let incoming = tokio::select! {
                    message = to_this_node.next() => match message {
                        Some(message) => read_message(&message.payload),
                        None => break,
                    },
                    message = events.next() => match message {
                        Some(message) => rmp_serde::from_slice::<Announcement>(&message.payload)
                            .ok()
                            .filter(|announcement| announcement.from != node)
                            .map(|announcement| Incoming::Event(announcement.event)),
                        None => break,
                    },
                    changed = link.changed() => {
                        if changed.is_err() {
                            break;
                        }
                        let now = *link.borrow_and_update();
                        let before = std::mem::replace(&mut known, now);
                        if now.lost > before.lost && inbox.send(Incoming::LinkLost).await.is_err() {
                            break;
                        }
                        (now.made > before.made).then_some(Incoming::LinkBack)
                    }
                    () = inbox.closed() => break,
                };
                if let Some(incoming) = incoming
                    && inbox.send(incoming).await.is_err()
                {
                    break;
                }
            }
        });
        Ok(receiver)
    }

    /// Messages of one connection keep their order, so what comes back over it shows that those before have arrived.
    pub(super) async fn flush(&self) -> Result<(), BusError> {
        let mut echo = self.client.subscribe(self.node_subject(self.node)).await.map_err(unavailable)?;
        let marker = (self.node_subject(self.node), Bytes::new());
        self.outbox.send(marker).await.map_err(unavailable)?;
        tokio::time::timeout(CONNECT_LIMIT, echo.next()).await.map_err(unavailable)?;
        Ok(())
    }

    pub(super) async fn ping(&self) -> Result<(), BusError> {
        if self.client.connection_state() != async_nats::connection::State::Connected {
            return Err(BusError::Unavailable("not connected".into()));
        }
        // Nobody listens to this subject, and it takes the server to say so.
        let question = self.client.request(format!("{}.ping", self.prefix), Bytes::new());
        match tokio::time::timeout(Duration::from_secs(2), question).await.map_err(unavailable)? {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    fn enqueue(&self, subject: Subject, message: &impl Serialize) -> Result<(), BusError> {
        let payload = rmp_serde::to_vec(message).map_err(unavailable)?;
        if payload.len() > self.client.server_info().max_payload {
            return Err(BusError::Full);
        }
        self.outbox.try_send((subject, payload.into())).map_err(|_| BusError::Full)
    }

    fn node_subject(&self, node: NodeId) -> Subject {
        format!("{}.node.{node}", self.prefix).into()
    }

    fn event_subject(&self) -> Subject {
        format!("{}.events", self.prefix).into()
    }
}

fn read_message(payload: &[u8]) -> Option<Incoming> {
    rmp_serde::from_slice(payload).ok().map(Incoming::Message)
}

async fn write_out(client: Client, mut waiting: mpsc::Receiver<(Subject, Bytes)>) {
    while let Some((subject, payload)) = waiting.recv().await {
        if let Err(error) = client.publish(subject, payload).await {
            warn!(%error, "a message to another node was not sent");
        }
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> BusError {
    BusError::Unavailable(Box::new(error))
}
