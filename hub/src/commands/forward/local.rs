//! The local ports: they stay open while the way to the device is lost and found again.

use super::{
    mapping::{Mapping, Protocol},
    udp::{self, Datagram},
};
use anyhow::Context;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    task::JoinSet,
};

/// Without a file for it, a connection cannot be accepted; some other connection has to end first.
const WAIT_AFTER_AN_ERROR: Duration = Duration::from_millis(500);

/// All of them.
#[derive(Debug)]
pub struct Local {
    /// The ports, in the order of the command line.
    pub ports: Vec<Port>,
    /// Connections of local programs.
    pub connections: mpsc::Receiver<Connection>,
    /// Datagrams of local programs.
    pub datagrams: mpsc::Receiver<Datagram>,
    _readers: JoinSet<()>,
}

/// One of them.
#[derive(Debug)]
pub struct Port {
    /// Where it leads.
    pub mapping: Mapping,
    /// Its address, with the real port.
    pub address: SocketAddr,
    /// The socket, if it is for datagrams.
    pub socket: Option<Arc<UdpSocket>>,
}

/// A connection that a local program has made.
#[derive(Debug)]
pub struct Connection {
    /// On which of the ports.
    pub port: usize,
    /// By whom.
    pub from: SocketAddr,
    /// The connection.
    pub stream: TcpStream,
}

impl Local {
    /// Opens every port, or none.
    pub async fn open(mappings: &[Mapping]) -> anyhow::Result<Self> {
        // One waits here, the others in the kernel's own queue.
        let (accepted, connections) = mpsc::channel(1);
        let (arrived, datagrams) = mpsc::channel(udp::WAITING);
        let mut readers = JoinSet::new();
        let mut ports = Vec::new();
        for (index, mapping) in mappings.iter().enumerate() {
            let context = || format!("cannot listen on {} ({})", mapping.local, mapping.protocol.name());
            let (address, socket) = match mapping.protocol {
                Protocol::Tcp => {
                    let listener = TcpListener::bind(mapping.local).await.with_context(context)?;
                    let address = listener.local_addr().with_context(context)?;
                    readers.spawn(accept(listener, index, accepted.clone()));
                    (address, None)
                }
                Protocol::Udp => {
                    let socket = Arc::new(UdpSocket::bind(mapping.local).await.with_context(context)?);
                    let address = socket.local_addr().with_context(context)?;
                    readers.spawn(udp::read(socket.clone(), index, arrived.clone()));
                    (address, Some(socket))
                }
            };
            ports.push(Port { mapping: mapping.clone(), address, socket });
        }
        Ok(Self { ports, connections, datagrams, _readers: readers })
    }
}

async fn accept(listener: TcpListener, port: usize, accepted: mpsc::Sender<Connection>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if accepted.send(Connection { port, from, stream }).await.is_err() {
                    return;
                }
            }
            Err(_error) => tokio::time::sleep(WAIT_AFTER_AN_ERROR).await,
        }
    }
}
