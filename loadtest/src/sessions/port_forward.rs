//! Port forwarding as mender-connect does it: one unacknowledged message per connection and direction.
//!
//! Dialling and writing happen in the session's worker, which takes no other message meanwhile; each connection has a
//! task that reads.

use super::{Outlet, SessionEvent, Task, error_body, os_error};
use crate::message::{Message, PORT_FORWARD};
use serde::Deserialize;
use std::{
    collections::HashMap,
    io,
    net::Shutdown,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
    time::timeout,
};

/// The most bytes in one message; a longer datagram loses its end.
const PIECE: usize = 4096;
/// Connections of one session at most. The agent has no such limit; a simulated device must not fill its machine.
pub const CONNECTIONS_PER_SESSION: usize = 256;

const INVALID: &str = "invalid port-forward message: missing connection_id, remort_port or protocol";
const UNKNOWN_CONNECTION: &str = "unknown connection";

/// The connections of one session.
pub(super) struct PortForward {
    session: String,
    timeout: Duration,
    outlet: Outlet,
    connections: HashMap<String, Connection>,
}

struct Connection {
    writer: Writer,
    state: Arc<State>,
    _reader: Task,
}

/// What the worker and the reading task of a connection share.
struct State {
    /// The permit to send one message; an ack gives it back.
    turn: Semaphore,
    unacknowledged: AtomicBool,
    closed: AtomicBool,
}

enum Writer {
    Tcp(OwnedWriteHalf),
    Udp(Arc<UdpSocket>),
}

enum Reader {
    Tcp(OwnedReadHalf),
    Udp(Arc<UdpSocket>),
}

#[derive(Deserialize)]
struct New {
    remote_host: Option<String>,
    remote_port: Option<u16>,
    protocol: Option<String>,
}

impl PortForward {
    pub(super) fn new(session: String, timeout: Duration, outlet: Outlet) -> Self {
        Self { session, timeout, outlet, connections: HashMap::new() }
    }

    pub(super) async fn hear(&mut self, message: &Message) {
        let id = message.text_property("connection_id").unwrap_or_default();
        let done = match message.kind() {
            "new" => self.open(id, message).await,
            "forward" => self.forward(id, message.body()).await,
            "ack" => self.acknowledged(id).await,
            "stop" => self.stop(id).await,
            _ => Err("unknown message type".to_owned()),
        };
        if let Err(why) = done {
            // Without the connection's id: so does the agent.
            let error = Message::new(PORT_FORWARD, "error").session(&self.session);
            let _offline = self.outlet.say(error.with_body(error_body(&why, message.kind()))).await;
        }
    }

    async fn open(&mut self, id: &str, message: &Message) -> Result<(), String> {
        let new: New = rmp_serde::from_slice(message.body()).map_err(|error| error.to_string())?;
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (Some(host), Some(port), Some(protocol)) =
            (filled(new.remote_host), new.remote_port.filter(|&port| port != 0), filled(new.protocol))
        else {
            return Err(INVALID.to_owned());
        };
        if id.is_empty() {
            return Err(INVALID.to_owned());
        }
        if self.connections.len() >= CONNECTIONS_PER_SESSION {
            // Those whose far end has closed stay until somebody says `stop`.
            self.connections.retain(|_, connection| !connection.state.closed.load(Relaxed));
            if self.connections.len() >= CONNECTIONS_PER_SESSION {
                return Err("too many connections".to_owned());
            }
        }
        let failed = |error: io::Error| format!("dial {protocol} {host}:{port}: connect: {}", os_error(&error));
        let (reader, writer) = match &*protocol {
            "tcp" => {
                let (reader, writer) = TcpStream::connect((&*host, port)).await.map_err(failed)?.into_split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            "udp" => {
                let socket = Arc::new(dial_udp(&host, port).await.map_err(failed)?);
                (Reader::Udp(socket.clone()), Writer::Udp(socket))
            }
            other => return Err(format!("unknown protocol: {other}")),
        };
        let _offline = self.outlet.say(said(&self.session, "new", id)).await;
        let state = Arc::new(State {
            turn: Semaphore::new(1),
            unacknowledged: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let reading = Reading {
            reader,
            state: state.clone(),
            outlet: self.outlet.clone(),
            session: self.session.clone(),
            id: id.to_owned(),
            timeout: self.timeout,
        };
        let connection = Connection { writer, state, _reader: Task::spawn(reading.run()) };
        self.connections.insert(id.to_owned(), connection);
        Ok(())
    }

    async fn forward(&mut self, id: &str, bytes: &[u8]) -> Result<(), String> {
        let connection = self.connections.get_mut(id).ok_or(UNKNOWN_CONNECTION)?;
        let written = if connection.state.closed.load(Relaxed) {
            Err("use of closed network connection".to_owned())
        } else {
            connection.writer.write(bytes).await.map_err(|error| format!("write: {}", os_error(&error)))
        };
        // Also for what could not be written; an error follows.
        let _offline = self.outlet.say(said(&self.session, "ack", id)).await;
        written
    }

    async fn acknowledged(&self, id: &str) -> Result<(), String> {
        let connection = self.connections.get(id).ok_or(UNKNOWN_CONNECTION)?;
        if connection.state.unacknowledged.swap(false, Relaxed) {
            connection.state.turn.add_permits(1);
        } else {
            let fault = "the hub acknowledged what was not sent, or sent an ack twice: unlock of unlocked mutex";
            self.outlet.tell(SessionEvent::Fault(fault.to_owned())).await;
        }
        Ok(())
    }

    async fn stop(&mut self, id: &str) -> Result<(), String> {
        // Dropping the connection closes it.
        self.connections.remove(id).ok_or(UNKNOWN_CONNECTION)?;
        let _offline = self.outlet.say(said(&self.session, "stop", id)).await;
        Ok(())
    }
}

fn said(session: &str, kind: &str, connection: &str) -> Message {
    Message::new(PORT_FORWARD, kind).session(session).text("connection_id", connection)
}

async fn dial_udp(host: &str, port: u16) -> io::Result<UdpSocket> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in tokio::net::lookup_host((host, port)).await? {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

impl Writer {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Udp(socket) => socket.send(bytes).await.map(|_| ()),
        }
    }
}

impl Reader {
    /// The next bytes; 0 of them when a stream has ended.
    async fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(piece).await,
            Self::Udp(socket) => loop {
                // An empty datagram is no end, and no data either.
                match socket.recv(piece).await? {
                    0 => {}
                    length => return Ok(length),
                }
            },
        }
    }

    /// Closes both directions now; the other half of a stream stays with the worker until somebody says `stop`.
    fn close(&self) {
        if let Self::Tcp(stream) = self
            && let Ok(stream) = stream.as_ref().as_fd().try_clone_to_owned()
        {
            let _closed_already = std::net::TcpStream::from(stream).shutdown(Shutdown::Both);
        }
    }
}

/// The reading task of a connection.
struct Reading {
    reader: Reader,
    state: Arc<State>,
    outlet: Outlet,
    session: String,
    id: String,
    timeout: Duration,
}

impl Reading {
    async fn run(mut self) {
        let mut piece = [0; PIECE];
        // The end of the connection, an error and a long silence are all told as `stop`.
        while let Ok(Ok(length @ 1..)) = timeout(self.timeout, self.reader.read(&mut piece)).await {
            let Ok(turn) = self.state.turn.acquire().await else { break };
            turn.forget();
            self.state.unacknowledged.store(true, Relaxed);
            // What is said while there is no websocket is lost, and its ack never comes: the agent stalls likewise.
            let _offline = self.outlet.say(said(&self.session, "forward", &self.id).with_body(&piece[..length])).await;
        }
        self.state.closed.store(true, Relaxed);
        self.reader.close();
        let _offline = self.outlet.say(said(&self.session, "stop", &self.id)).await;
    }
}
