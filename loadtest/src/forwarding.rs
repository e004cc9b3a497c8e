//! An operator's end of forwarded ports: streams to whatever a device reaches, over one websocket.

use std::collections::HashMap;

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio_tungstenite::tungstenite::{Message as Frame, protocol::WebSocketConfig};

use crate::{
    message::{CONTROL, Message, PORT_FORWARD},
    operator::Operator,
    server::Socket,
};

/// The most bytes in one message, as `mender-cli` and the agent have it.
pub const PIECE: usize = 4096;

/// A session with forwarded streams.
#[derive(Debug)]
pub struct Forwarding {
    socket: Socket,
    session: String,
    /// Bytes of each stream so far.
    received: HashMap<String, u64>,
}

/// What happened to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// So many bytes have come.
    Bytes(String, usize),
    /// What was sent was taken; the next piece may go.
    Acknowledged(String),
    /// It has ended.
    Ended(String),
}

#[derive(Serialize)]
struct Versions {
    versions: [u8; 1],
}

#[derive(Serialize)]
struct New<'a> {
    remote_host: &'a str,
    remote_port: u16,
    protocol: &'a str,
}

impl Forwarding {
    /// Opens a session on a device.
    ///
    /// # Errors
    /// When the device is not connected or does not forward ports.
    pub async fn open(operator: &Operator, device: &str) -> anyhow::Result<Self> {
        let config = WebSocketConfig::default().read_buffer_size(64 * 1024).write_buffer_size(0);
        let socket = operator.open_device(device, config).await?;
        let mut forwarding = Self { socket, session: String::new(), received: HashMap::new() };
        let body = rmp_serde::to_vec_named(&Versions { versions: [1] })?;
        forwarding.send(&Message::new(CONTROL, "open").with_body(body)).await?;
        let accepted = forwarding.next().await?;
        if accepted.header.proto != CONTROL || accepted.kind() != "accept" {
            bail!("the device does not take sessions: {}", accepted.kind());
        }
        accepted.session_id().clone_into(&mut forwarding.session);
        Ok(forwarding)
    }

    /// Connects a stream of this name to a TCP port that the device reaches.
    ///
    /// # Errors
    /// When the device cannot reach it.
    pub async fn connect(&mut self, stream: &str, host: &str, port: u16) -> anyhow::Result<()> {
        let new = New { remote_host: host, remote_port: port, protocol: "tcp" };
        let message = self.message("new", stream).with_body(rmp_serde::to_vec_named(&new)?);
        self.send(&message).await?;
        loop {
            let answer = self.next().await?;
            match answer.kind() {
                "new" if answer.text_property("connection_id") == Some(stream) => return Ok(()),
                "error" => bail!("the device cannot connect: {}", String::from_utf8_lossy(answer.body())),
                // Of a stream that was connected before.
                _ => {
                    self.handle(&answer).await?;
                }
            }
        }
    }

    /// Sends a piece of at most [`PIECE`] bytes; the next one of this stream has to wait for its acknowledgement.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn forward(&mut self, stream: &str, piece: &[u8]) -> anyhow::Result<()> {
        let message = self.message("forward", stream).with_body(piece);
        self.send(&message).await
    }

    /// What happens next.
    ///
    /// # Errors
    /// When the connection is gone, or the device reports an error.
    pub async fn happened(&mut self) -> anyhow::Result<Happened> {
        loop {
            let message = self.next().await?;
            if let Some(happened) = self.handle(&message).await? {
                return Ok(happened);
            }
        }
    }

    /// Bytes that have come on each stream so far.
    pub fn received(&self) -> &HashMap<String, u64> {
        &self.received
    }

    async fn handle(&mut self, message: &Message) -> anyhow::Result<Option<Happened>> {
        let stream = message.text_property("connection_id").unwrap_or_default().to_owned();
        Ok(match message.kind() {
            "forward" => {
                let length = message.body().len();
                *self.received.entry(stream.clone()).or_default() += length as u64;
                let ack = self.message("ack", &stream);
                self.send(&ack).await?;
                Some(Happened::Bytes(stream, length))
            }
            "ack" => Some(Happened::Acknowledged(stream)),
            "stop" => Some(Happened::Ended(stream)),
            "error" => bail!("the device says: {}", String::from_utf8_lossy(message.body())),
            "ping" => {
                let pong = message.answered_by("pong");
                self.send(&pong).await?;
                None
            }
            _ => None,
        })
    }

    fn message(&self, kind: &str, stream: &str) -> Message {
        Message::new(PORT_FORWARD, kind).session(&self.session).text("connection_id", stream)
    }

    async fn send(&mut self, message: &Message) -> anyhow::Result<()> {
        self.socket.send(Frame::Binary(message.encode())).await.context("cannot send to the forwarded port")
    }

    async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            match self.socket.next().await {
                Some(Ok(frame @ (Frame::Binary(_) | Frame::Text(_)))) => {
                    return Message::decode(&frame.into_data()).context("cannot read a message of the hub");
                }
                Some(Ok(Frame::Close(_))) | None => bail!("the hub closed the session"),
                // The library answers pings by itself.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the session's connection broke"),
            }
        }
    }
}
