//! A device with next to nothing behind its websocket: what it costs the tester is not to hide what a hub costs.
//!
//! It starts a shell for whoever asks, and says what the hub says to it, or only counts it.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::{Message as Frame, protocol::WebSocketConfig};

use crate::{
    Server,
    message::{DEVICE_MESSAGE_LIMIT, Message, SHELL, STATUS_NORMAL},
    server::Socket,
};

const CONNECT: &str = "/api/devices/v1/deviceconnect/connect";

/// What it does with what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Sends it back.
    Echoes,
    /// Counts it.
    Counts,
}

/// A connected device. It leaves when this is dropped.
#[derive(Debug)]
pub struct PlainDevice {
    out: Arc<Mutex<SplitSink<Socket, Frame>>>,
    heard: Arc<Heard>,
    session: watch::Receiver<String>,
    reader: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Heard {
    bytes: AtomicU64,
    changed: Notify,
}

impl PlainDevice {
    /// Connects with this token.
    ///
    /// # Errors
    /// When the hub refuses.
    pub async fn connect(server: &Server, token: &str, source: Option<IpAddr>, manner: Manner) -> anyhow::Result<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .write_buffer_size(0)
            .max_message_size(Some(DEVICE_MESSAGE_LIMIT));
        let socket = server.open_socket(CONNECT, token, source, config).await?;
        let (out, mut incoming) = socket.split();
        let (out, heard) = (Arc::new(Mutex::new(out)), Arc::<Heard>::default());
        let (says_session, session) = watch::channel(String::new());
        let reader = tokio::spawn({
            let (out, heard) = (out.clone(), heard.clone());
            async move {
                while let Some(Ok(frame)) = incoming.next().await {
                    let Frame::Binary(bytes) = frame else { continue };
                    let Ok(message) = Message::decode(&bytes) else { return };
                    let reply = match message.kind() {
                        "new" => {
                            says_session.send_replace(message.session_id().to_owned());
                            message.answered_by("new").integer("status", STATUS_NORMAL)
                        }
                        "shell" => {
                            heard.bytes.fetch_add(message.body().len() as u64, Relaxed);
                            heard.changed.notify_waiters();
                            if manner == Manner::Counts {
                                continue;
                            }
                            shell_output(message.session_id(), message.body())
                        }
                        _ => continue,
                    };
                    if out.lock().await.send(Frame::Binary(reply.encode())).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self { out, heard, session, reader })
    }

    /// Waits until so many bytes were typed since it connected.
    pub async fn heard(&self, bytes: u64) {
        loop {
            let changed = self.heard.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.heard.bytes.load(Relaxed) >= bytes {
                return;
            }
            changed.await;
        }
    }

    /// Prints in the terminal that was opened last.
    ///
    /// # Errors
    /// When there was none, or the connection is gone.
    pub async fn print(&self, output: &[u8]) -> anyhow::Result<()> {
        let session = self.session.borrow().clone();
        if session.is_empty() {
            bail!("nobody has opened a terminal");
        }
        let message = shell_output(&session, output);
        self.out.lock().await.send(Frame::Binary(message.encode())).await.context("the device was disconnected")
    }
}

impl Drop for PlainDevice {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn shell_output(session: &str, output: &[u8]) -> Message {
    Message::new(SHELL, "shell").session(session).integer("status", STATUS_NORMAL).with_body(output)
}
