//! One websocket to the hub that carries all forwarded connections.

use super::{
    local::{Connection, Local},
    openings::Openings,
    status::Status,
    stream::{Carried, End, FromDevice, TunnelEnd, pair},
    tcp, udp,
    udp::Datagram,
    wire::{Heard, Say, decode, encode},
};
use crate::commands::operator::{Operator, Refused, Socket, message::PORT_FORWARD};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
    time::MissedTickBehavior,
};
use tokio_tungstenite::tungstenite::Message as Frame;
use uuid::Uuid;

/// How long the device may take to say what it can do; an agent that ends a shell answers nobody for 6 s.
const ACCEPT_LIMIT: Duration = Duration::from_secs(20);
/// Connections at the same time. The hub has a limit of its own and says so; this one bounds what we hold.
const MOST_CONNECTIONS: usize = 1024;
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How long connections may take to notice that the tunnel is gone.
const BREAK_LIMIT: Duration = Duration::from_secs(1);

/// Why there is no tunnel.
#[derive(Debug, PartialEq, Eq)]
pub enum NoTunnel {
    /// The hub did not open a websocket.
    Refused(Refused),
    /// The device does not forward ports.
    Disabled(String),
    /// The way to the device broke before it answered.
    Lost(String),
}

/// The tunnel.
#[derive(Debug)]
pub struct Tunnel {
    socket: Socket,
    streams: HashMap<Uuid, Stream>,
    openings: Openings,
    /// Senders of datagrams, by port and address.
    programs: HashMap<(usize, SocketAddr), Program>,
    tasks: JoinSet<End>,
    /// Which connection a task is for.
    connections: HashMap<Id, Uuid>,
    carried: Arc<Carried>,
}

#[derive(Debug)]
struct Stream {
    /// `None` once the device has said its last word.
    end: Option<TunnelEnd>,
    /// On which port.
    port: usize,
}

#[derive(Debug)]
struct Program {
    connection: Uuid,
    datagrams: mpsc::Sender<Vec<u8>>,
}

impl Tunnel {
    /// Opens it, and asks the device whether it forwards ports.
    pub async fn open(operator: &Operator, device: &str, carried: &Arc<Carried>) -> Result<Self, NoTunnel> {
        let path = format!("/api/management/v1/deviceconnect/devices/{device}/connect");
        let mut socket = Socket::open(operator, &path).await.map_err(NoTunnel::Refused)?;
        socket.say(encode(Say::Open));
        let accepted = async {
            loop {
                let message = socket.next().await.map_err(NoTunnel::Lost)?;
                match decode(&message) {
                    Ok(Heard::Accepted(protocols)) if protocols.contains(&PORT_FORWARD) => return Ok(()),
                    Ok(Heard::Accepted(_)) => {
                        let why = "port forwarding is disabled on the device (PortForward in mender-connect.conf)";
                        return Err(NoTunnel::Disabled(why.to_owned()));
                    }
                    Ok(Heard::ShellsOnly) => {
                        let why = "the agent on the device is too old to forward ports";
                        return Err(NoTunnel::Disabled(why.to_owned()));
                    }
                    Ok(Heard::Complaint(why, _)) => {
                        return Err(NoTunnel::Disabled(format!("the device does not forward ports: {why}")));
                    }
                    Ok(_) => {}
                    Err(error) => return Err(NoTunnel::Lost(format!("unreadable message: {error}"))),
                }
            }
        };
        match tokio::time::timeout(ACCEPT_LIMIT, accepted).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => return Err(NoTunnel::Lost("the device does not answer".to_owned())),
        }
        Ok(Self {
            socket,
            streams: HashMap::new(),
            openings: Openings::default(),
            programs: HashMap::new(),
            tasks: JoinSet::new(),
            connections: HashMap::new(),
            carried: carried.clone(),
        })
    }

    /// Carries what local programs and the device say, until the way to the device is lost; the reason.
    pub async fn serve(&mut self, local: &mut Local, status: &Status) -> String {
        let mut updates = tokio::time::interval(STATUS_EVERY);
        updates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outgoing = self.socket.outgoing().clone();
        loop {
            let overdue = self.openings.due();
            tokio::select! {
                message = self.socket.next() => {
                    let heard = message.and_then(|message| {
                        decode(&message).map_err(|error| format!("unreadable message: {error}"))
                    });
                    match heard.map(|heard| self.hear(heard)) {
                        Ok(None) => {}
                        Ok(Some(why)) | Err(why) => return why,
                    }
                }
                (connection, permit) = with_room(&mut local.connections, &outgoing) => {
                    let (Some(connection), Some(permit)) = (connection, permit) else { continue };
                    self.connect(connection, local, permit, status);
                }
                (datagram, permit) = with_room(&mut local.datagrams, &outgoing) => {
                    let (Some(datagram), Some(permit)) = (datagram, permit) else { continue };
                    self.send_datagram(datagram, local, permit, status);
                }
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    let (task, end) = match ended {
                        Ok(ended) => ended,
                        // A connection whose task has panicked has ended; the panic was told already.
                        Err(error) => (error.id(), End::Lost),
                    };
                    self.end(task, &end, local, status);
                }
                () = tokio::time::sleep_until(overdue.unwrap_or_else(Instant::now).into()), if overdue.is_some() => {
                    while let Some((connection, why)) = self.openings.overdue(Instant::now()) {
                        self.last_word(connection, FromDevice::Refused(why));
                    }
                }
                _ = updates.tick() => status.show(self.streams.len(), self.carried.both()),
            }
        }
    }

    /// Tells the device that this was it.
    pub async fn close(self) {
        self.socket.say(encode(Say::Close));
        self.socket.close().await;
    }

    /// Ends the connections of a tunnel that is lost.
    pub async fn break_connections(mut self) -> usize {
        let broken = self.streams.len();
        self.streams.clear();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _in_time = tokio::time::timeout(BREAK_LIMIT, all).await;
        broken
    }

    /// Takes in what the device, or the hub, says; the reason if the session is over.
    fn hear(&mut self, heard: Heard) -> Option<String> {
        match heard {
            Heard::Ping => self.socket.say(encode(Say::Pong)),
            Heard::Complaint(why, true) => return Some(why),
            Heard::Opened(connection) => self.openings.settled(connection),
            Heard::Forward(connection, bytes) => {
                // Whoever sends is connected. An acknowledgement shows nothing: it may be the hub's.
                self.openings.settled(connection);
                let end = self.streams.get(&connection).and_then(|stream| stream.end.as_ref());
                // Nothing from a connection that has just ended here is missed by anybody.
                if end.is_some_and(|end| !end.hear(FromDevice::Data(bytes))) {
                    return Some("the hub sends more than was acknowledged".to_owned());
                }
            }
            Heard::Ack(connection) => {
                if let Some(end) = self.streams.get(&connection).and_then(|stream| stream.end.as_ref()) {
                    end.acknowledged();
                }
            }
            Heard::Stop(connection) => {
                let refused = self.openings.ended(connection).map(FromDevice::Refused);
                self.last_word(connection, refused.unwrap_or(FromDevice::Stopped));
            }
            Heard::Failed { connection: Some(connection), of, why } if of == "new" => {
                self.openings.settled(connection);
                self.last_word(connection, FromDevice::Refused(why));
            }
            Heard::Failed { connection: None, of, why } if of == "new" || of.is_empty() => {
                self.openings.refused(Instant::now(), why);
            }
            // What failed was on its way when its connection ended.
            Heard::Failed { .. } | Heard::Complaint(..) | Heard::Accepted(_) | Heard::ShellsOnly | Heard::Other => {}
        }
        None
    }

    fn last_word(&mut self, connection: Uuid, word: FromDevice) {
        if let Some(end) = self.streams.get_mut(&connection).and_then(|stream| stream.end.take()) {
            end.hear(word);
        }
    }

    fn connect(&mut self, connection: Connection, local: &Local, permit: mpsc::Permit<'_, Frame>, status: &Status) {
        let Connection { port, from, stream } = connection;
        if self.streams.len() >= MOST_CONNECTIONS {
            status.say(&format!("{from} is turned away: {MOST_CONNECTIONS} connections are open"));
            return;
        }
        let id = Uuid::new_v4();
        permit.send(Frame::Binary(encode(Say::New(id, &local.ports[port].mapping)).into()));
        let (end, local_end) = pair(id, self.socket.outgoing().clone(), self.carried.clone());
        self.enter(id, port, end, tcp::carry(stream, local_end));
    }

    fn send_datagram(&mut self, datagram: Datagram, local: &Local, permit: mpsc::Permit<'_, Frame>, status: &Status) {
        if datagram.is_too_long() {
            status.say_once(&format!(
                "datagrams over {} bytes do not fit into the protocol and are dropped (the first came from {})",
                super::wire::LARGEST_FRAME,
                datagram.from
            ));
            return;
        }
        let Datagram { mapping: port, from, bytes } = datagram;
        if let Some(program) = self.programs.get(&(port, from)) {
            // A full queue: the datagram is dropped, as on any network.
            let _full = program.datagrams.try_send(bytes);
            return;
        }
        let Some(socket) = local.ports[port].socket.clone() else { return };
        if self.streams.len() >= MOST_CONNECTIONS {
            status.say_once(&format!("datagrams are dropped: {MOST_CONNECTIONS} connections are open"));
            return;
        }
        let id = Uuid::new_v4();
        permit.send(Frame::Binary(encode(Say::New(id, &local.ports[port].mapping)).into()));
        let (datagrams, queue) = mpsc::channel(udp::WAITING);
        let _room_for_one = datagrams.try_send(bytes);
        self.programs.insert((port, from), Program { connection: id, datagrams });
        let (end, local_end) = pair(id, self.socket.outgoing().clone(), self.carried.clone());
        self.enter(id, port, end, udp::carry(socket, from, queue, local_end, udp::IDLE));
    }

    fn enter(&mut self, id: Uuid, port: usize, end: TunnelEnd, task: impl Future<Output = End> + Send + 'static) {
        self.openings.asked(id);
        self.streams.insert(id, Stream { end: Some(end), port });
        let task = self.tasks.spawn(task);
        self.connections.insert(task.id(), id);
    }

    fn end(&mut self, task: Id, end: &End, local: &Local, status: &Status) {
        let Some(connection) = self.connections.remove(&task) else { return };
        self.openings.settled(connection);
        self.programs.retain(|_, program| program.connection != connection);
        let Some(stream) = self.streams.remove(&connection) else { return };
        if let End::Refused(why) = end {
            let port = &local.ports[stream.port];
            let target = format!("{}:{}", port.mapping.remote_host(), port.mapping.port);
            status.say(&format!("{}: the device cannot connect to {target}: {why}", port.address));
        }
    }
}

/// The next of something, once there is room for a message to the hub. Nothing is lost when this is called off.
async fn with_room<'a, T>(
    next: &mut mpsc::Receiver<T>,
    outgoing: &'a mpsc::Sender<Frame>,
) -> (Option<T>, Option<mpsc::Permit<'a, Frame>>) {
    // An error means that the writer has ended, which the reading half reports.
    match outgoing.reserve().await {
        Ok(permit) => (next.recv().await, Some(permit)),
        Err(_ended) => std::future::pending().await,
    }
}
