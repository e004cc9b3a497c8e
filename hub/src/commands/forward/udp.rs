//! The datagrams of one local program: whoever sends from one address is one connection to the device.

use super::{
    stream::{End, FromDevice, LocalEnd},
    wire::LARGEST_FRAME,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::UdpSocket, sync::mpsc, time::Instant};

/// Without a datagram either way for this long the connection ends; the next datagram makes a new one.
pub const IDLE: Duration = Duration::from_mins(1);
/// Datagrams that may wait; beyond that they are dropped, as on any network.
pub const WAITING: usize = 32;

/// Reads datagrams and hands them on with their sender, until the command ends.
pub async fn read(socket: Arc<UdpSocket>, mapping: usize, arrived: mpsc::Sender<Datagram>) {
    // One byte more than is taken, to see what is too long.
    let mut buffer = [0; LARGEST_FRAME + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Mostly about an earlier answer that nobody took; should it stay, it must not keep a processor busy.
            Err(_error) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let datagram = Datagram { mapping, from, bytes: buffer[..length].to_vec() };
        if arrived.send(datagram).await.is_err() {
            return;
        }
    }
}

/// A datagram that a local program has sent.
#[derive(Debug)]
pub struct Datagram {
    /// On which of the mappings.
    pub mapping: usize,
    /// By whom.
    pub from: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// Whether the protocol can carry it; no peer takes more in one message, and half a datagram is worth nothing.
    pub fn is_too_long(&self) -> bool {
        self.bytes.len() > LARGEST_FRAME
    }
}

/// Carries datagrams both ways until the device ends it or nothing comes any more.
pub async fn carry(
    socket: Arc<UdpSocket>,
    program: SocketAddr,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
    mut stream: LocalEnd,
    idle: Duration,
) -> End {
    let up = stream.upwards();
    let mut expires = Instant::now() + idle;
    loop {
        tokio::select! {
            datagram = datagrams.recv() => {
                let Some(datagram) = datagram else { break End::LocalEnded };
                expires = Instant::now() + idle;
                // No room: the datagram is dropped, as on any network.
                if up.has_room() && !up.forward(&datagram).await {
                    break End::Lost;
                }
            }
            said = stream.hear() => match said {
                Some(FromDevice::Data(bytes)) => {
                    expires = Instant::now() + idle;
                    let _nobody_there = socket.send_to(&bytes, program).await;
                    stream.delivered(bytes.len()).await;
                }
                Some(FromDevice::Stopped) => break End::Stopped,
                Some(FromDevice::Refused(why)) => break End::Refused(why),
                None => break End::Lost,
            },
            () = tokio::time::sleep_until(expires) => {
                up.stop().await;
                break End::LocalEnded;
            }
        }
    }
}
