//! What is sent through forwarded ports: bytes that can be told apart, and peers that send, take, echo and stall.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::wait::{LIMIT, wait_until, within};

/// Bytes written or read at a time.
const CHUNK: usize = 64 * 1024;

/// A digest of everything that was sent or taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Bytes.
    pub length: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
}

impl Digest {
    /// The hash as texts have it.
    pub fn hex(&self) -> String {
        self.sha256.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }
}

/// Counts and hashes bytes.
pub struct Hasher {
    length: u64,
    context: Context,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { length: 0, context: Context::new(&SHA256) }
    }
}

impl Hasher {
    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.context.update(bytes);
    }

    /// Of all that came.
    ///
    /// # Panics
    /// Never: the digest has its length.
    pub fn finish(self) -> Digest {
        let sha256 = self.context.finish().as_ref().try_into().expect("that is its length");
        Digest { length: self.length, sha256 }
    }
}

/// The digest of these bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// A stream of bytes that looks random and is the same for the same seed.
pub struct Pattern {
    state: u64,
}

impl Pattern {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next bytes. A number of them that is no multiple of eight ends the stream's sense, so that comes last.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            // Splitmix64: a counter, stirred.
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.state;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            let word = (word ^ word >> 31).to_le_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }

    /// The next bytes in a list of their own.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}

/// Writes this many bytes of the seed's stream; what was written.
///
/// # Errors
/// When the connection ends first.
pub async fn send_pattern(to: &mut (impl AsyncWriteExt + Unpin), seed: u64, length: u64) -> std::io::Result<Digest> {
    let (mut pattern, mut hasher) = (Pattern::new(seed), Hasher::default());
    let mut chunk = vec![0; CHUNK];
    while hasher.length < length {
        let next = usize::try_from(length - hasher.length).map_or(CHUNK, |left| left.min(CHUNK));
        pattern.fill(&mut chunk[..next]);
        hasher.update(&chunk[..next]);
        to.write_all(&chunk[..next]).await?;
    }
    to.flush().await?;
    Ok(hasher.finish())
}

/// The digest of this many bytes of the seed's stream.
///
/// # Panics
/// Never.
pub async fn pattern_digest(seed: u64, length: u64) -> Digest {
    send_pattern(&mut tokio::io::sink(), seed, length).await.expect("nothing is written anywhere")
}

/// Reads this many bytes, or fewer if the stream ends first; what was read.
pub async fn receive(from: &mut (impl AsyncReadExt + Unpin), length: u64) -> Digest {
    let mut hasher = Hasher::default();
    let mut chunk = vec![0; CHUNK];
    while hasher.length < length {
        let next = usize::try_from(length - hasher.length).map_or(CHUNK, |left| left.min(CHUNK));
        match from.read(&mut chunk[..next]).await {
            // What has come so far is what the test looks at.
            Ok(0) | Err(_) => break,
            Ok(count) => hasher.update(&chunk[..count]),
        }
    }
    hasher.finish()
}

/// What a [`Peer`] does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends this many bytes of this seed's stream, then ends it.
    Send(u64, u64),
    /// Takes everything to the end and says what it was.
    Take,
    /// Takes this many bytes and says what they were, then waits for the end.
    TakeExactly(u64),
    /// Sends everything back.
    Echo,
    /// Reads nothing.
    Stall,
}

/// A server next to the device, to which ports are forwarded.
pub struct Peer {
    address: SocketAddr,
    taken: mpsc::UnboundedReceiver<Digest>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Starts it.
    ///
    /// # Panics
    /// When the loopback address cannot be used.
    pub async fn tcp(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        // One entry per connection.
        let (sender, taken) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Some(digest) = behave(stream, behaviour).await {
                        // The test may have seen enough.
                        let _ = sender.send(digest);
                    }
                });
            }
        });
        Self { address, taken, task }
    }

    /// A UDP server that sends each datagram back.
    ///
    /// # Panics
    /// When the loopback address cannot be used.
    pub async fn udp_echo() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let (_, taken) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut datagram = vec![0; CHUNK];
            while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
                let _ = socket.send_to(&datagram[..length], from).await;
            }
        });
        Self { address, taken, task }
    }

    /// Its port on the loopback address.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What the next connection that is through has brought.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn taken(&mut self, limit: Duration) -> Digest {
        within(limit, "bytes at the far side", self.taken.recv()).await.expect("the server runs")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn behave(mut stream: TcpStream, behaviour: Behaviour) -> Option<Digest> {
    match behaviour {
        Behaviour::Send(seed, length) => {
            send_pattern(&mut stream, seed, length).await.ok()?;
            stream.shutdown().await.ok()?;
            receive(&mut stream, u64::MAX).await;
            None
        }
        Behaviour::Take => Some(receive(&mut stream, u64::MAX).await),
        Behaviour::TakeExactly(length) => {
            let digest = receive(&mut stream, length).await;
            tokio::spawn(async move { receive(&mut stream, u64::MAX).await });
            Some(digest)
        }
        Behaviour::Echo => {
            let (mut reads, mut writes) = stream.split();
            let _ = tokio::io::copy(&mut reads, &mut writes).await;
            let _ = writes.shutdown().await;
            None
        }
        Behaviour::Stall => {
            // For as long as anybody is interested in it.
            tokio::time::sleep(Duration::from_hours(1)).await;
            drop(stream);
            None
        }
    }
}

/// Waits until somebody on this machine listens on the port of the loopback address, without touching it: a forwarded port
/// opens a stream for each connection.
pub async fn listens(protocol: &str, port: u16) {
    // Local address and state as the kernel prints them: listening is 0A, an unconnected UDP socket 07.
    let (state, suffix) = (if protocol == "tcp" { "0A" } else { "07" }, format!(":{port:04X}"));
    let has_listener = |table: String| {
        table.lines().skip(1).any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let (local, _, is) = (columns.next(), columns.next(), columns.next());
            local.is_some_and(|local| local.ends_with(&suffix)) && is == Some(state)
        })
    };
    wait_until(LIMIT, &format!("a listener on {protocol} port {port}"), async || {
        let tables = [format!("/proc/net/{protocol}"), format!("/proc/net/{protocol}6")];
        tables.iter().filter_map(|table| std::fs::read_to_string(table).ok()).any(has_listener).then_some(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_peer_sends_is_the_pattern_of_its_seed() {
        let length = 300_001;
        let source = Peer::tcp(Behaviour::Send(7, length)).await;
        listens("tcp", source.port()).await;
        let mut sink = Peer::tcp(Behaviour::Take).await;
        let mut stream = TcpStream::connect(source.address).await.expect("it listens");
        let got = receive(&mut stream, u64::MAX).await;

        let mut to_sink = TcpStream::connect(sink.address).await.expect("it listens");
        let sent = send_pattern(&mut to_sink, 7, length).await.expect("it takes");
        drop(to_sink);
        assert_eq!((got, sink.taken(LIMIT).await), (sent, sent));
        let other = Pattern::new(8).take(300_001);
        assert_ne!(digest(&other), sent);
    }
}
