//! The sessions of one device that are not shells: file transfers, port forwards, commands to the update client.
//!
//! As in mender-connect, each session has a worker that handles one message at a time, and the reading of the websocket
//! hands messages over without a buffer: a second message for a busy session holds up everything. Sessions belong to the
//! device and survive its websocket; what they say while there is none is lost, and they are told.

mod file_mode;
mod file_transfer;
mod port_forward;
mod services;
mod worker;

pub use port_forward::CONNECTIONS_PER_SESSION;
pub use services::{FileService, Services};

use crate::{
    handover::{self, Giver, NotNow},
    message::Message,
    update_client::UpdateClient,
};
use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// Sessions one device has at most. The agent has no such limit; a simulated device must not fill its machine.
pub const SESSIONS_PER_DEVICE: usize = 1024;
/// Messages on their way from the sessions to the websocket.
const OUTPUT_CAPACITY: usize = 64;

/// Something a session wants.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// To say this.
    Said(Message),
    /// It has met what would end the real agent's process.
    Fault(String),
    /// It is over.
    Ended { session: String, number: u64 },
}

/// The sessions of one device.
pub struct Sessions {
    services: Arc<Services>,
    update_client: Arc<UpdateClient>,
    running: HashMap<String, Running>,
    started: u64,
    /// Made with the first session: most devices of a fleet never have one.
    channel: Option<(Outlet, mpsc::Receiver<SessionEvent>)>,
    online: Arc<AtomicBool>,
    waiting: Option<HandOver>,
}

struct HandOver {
    since: Instant,
    given: Pin<Box<dyn Future<Output = Result<(), Message>> + Send>>,
}

struct Running {
    number: u64,
    messages: Giver<Message>,
    _worker: Task,
}

/// A task that ends with its handle.
#[derive(Debug)]
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a session speaks.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    events: mpsc::Sender<SessionEvent>,
    online: Arc<AtomicBool>,
}

/// Nothing can be said: there is no websocket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offline;

impl Outlet {
    /// Waits until there is room.
    pub(crate) async fn say(&self, message: Message) -> Result<(), Offline> {
        if !self.online.load(Relaxed) {
            return Err(Offline);
        }
        self.events.send(SessionEvent::Said(message)).await.map_err(|_device_gone| Offline)
    }

    async fn tell(&self, event: SessionEvent) {
        let _device_gone = self.events.send(event).await;
    }
}

impl Sessions {
    /// No sessions yet.
    pub fn new(services: Arc<Services>, update_client: Arc<UpdateClient>) -> Self {
        Self {
            services,
            update_client,
            running: HashMap::new(),
            started: 0,
            channel: None,
            online: Arc::default(),
            waiting: None,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// A websocket is there, or is not any more.
    pub(crate) fn set_online(&mut self, online: bool) {
        self.online.store(online, Relaxed);
        // What was read from the old socket and not handed over is lost with it.
        self.waiting = None;
    }

    /// A message for one of them. Until [`poll_hand_over`](Self::poll_hand_over) is ready the websocket must not be read.
    pub(crate) fn hear(&mut self, message: Message) {
        debug_assert!(self.waiting.is_none(), "the websocket was read while a session was busy");
        let message = match self.running.get(message.session_id()) {
            None => message,
            Some(session) => match session.messages.try_give(message) {
                Ok(()) => return,
                Err(NotNow::Busy(message)) => {
                    let messages = session.messages.clone();
                    let given = Box::pin(async move { messages.give(message).await });
                    self.waiting = Some(HandOver { since: Instant::now(), given });
                    return;
                }
                Err(NotNow::Gone(message)) => {
                    self.running.remove(message.session_id());
                    message
                }
            },
        };
        self.start(message);
    }

    /// Whether a message waits for a busy session.
    pub(crate) fn is_busy(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether the last message has been taken; says for how long its session was busy.
    pub(crate) fn poll_hand_over(&mut self, context: &mut Context<'_>) -> Poll<Option<Duration>> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(None) };
        match waiting.given.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            // A message for a session that ended meanwhile is lost, in the agent as well.
            Poll::Ready(_taken) => {
                let waited = waiting.since.elapsed();
                self.waiting = None;
                Poll::Ready(Some(waited))
            }
        }
    }

    /// Polls for what they want of the device.
    pub(crate) fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<SessionEvent> {
        let Some((_, events)) = &mut self.channel else { return Poll::Pending };
        // The sender is ours, so the channel never ends.
        let Poll::Ready(Some(event)) = events.poll_recv(context) else { return Poll::Pending };
        if let SessionEvent::Ended { session, number } = &event
            && self.running.get(session).is_some_and(|running| running.number == *number)
        {
            self.running.remove(session);
        }
        Poll::Ready(event)
    }

    fn start(&mut self, first: Message) {
        let (outlet, _) = self.channel.get_or_insert_with(|| {
            let (events, wanted) = mpsc::channel(OUTPUT_CAPACITY);
            (Outlet { events, online: self.online.clone() }, wanted)
        });
        if self.running.len() >= SESSIONS_PER_DEVICE {
            let _full = outlet.events.try_send(SessionEvent::Fault("the hub opened too many sessions".to_owned()));
            return;
        }
        self.started += 1;
        let (session, number) = (first.session_id().to_owned(), self.started);
        let (messages, taker) = handover::channel();
        let worker =
            worker::Worker::new(session.clone(), self.services.clone(), self.update_client.clone(), outlet.clone());
        let ended = SessionEvent::Ended { session: session.clone(), number };
        let outlet = outlet.clone();
        let task = Task::spawn(async move {
            worker.run(taker).await;
            outlet.tell(ended).await;
        });
        // The worker is new, and therefore free.
        let _given = messages.try_give(first);
        self.running.insert(session, Running { number, messages, _worker: task });
    }
}

/// The error of the operating system in the words of a Go program.
fn os_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// The body of an error in file transfers and port forwards.
fn error_body(why: &str, of: &str) -> Vec<u8> {
    let body = serde_json::json!({ "err": why, "msgtype": of });
    rmp_serde::to_vec_named(&body).expect("JSON always has a form in MessagePack")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_sound_like_the_agents() {
        let error = std::fs::metadata("/no/such/file").expect_err("an error");
        assert_eq!(os_error(&error), "no such file or directory");
    }
}
