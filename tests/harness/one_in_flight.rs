//! A relay that forwards ports as the reference does: one frame per stream and direction, then a wait for its ack.
//!
//! It sits between a client and a hub and takes nothing away: each frame still gets exactly one ack, whoever makes it. It
//! only holds a stream's next frame until the ack of the last one has come by. What a hub that answers for the far side wins
//! is measured against it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::door::Door;
use crate::message::Heard;

/// Longest head of a request or answer.
const HEAD_LIMIT: usize = 64 * 1024;

/// The relay.
pub struct OneInFlight {
    door: Door,
    task: JoinHandle<()>,
}

impl OneInFlight {
    /// In front of `door`.
    ///
    /// # Panics
    /// When the loopback address cannot be used.
    pub async fn to(door: &Door) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let here = Door::plain(listener.local_addr().expect("it is bound"));
        let target = door.address();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that fails is felt by both its ends.
                tokio::spawn(async move { relay(client, target).await.unwrap_or_default() });
            }
        });
        Self { door: here, task }
    }

    /// Where clients knock.
    pub fn door(&self) -> &Door {
        &self.door
    }
}

impl Drop for OneInFlight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let mut hub = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    hub.set_nodelay(true)?;
    let request = read_head(&mut client).await?;
    hub.write_all(&request).await?;
    let is_upgrade = String::from_utf8_lossy(&request).to_ascii_lowercase().contains("upgrade: websocket");
    if is_upgrade {
        let answer = read_head(&mut hub).await?;
        client.write_all(&answer).await?;
        if answer.starts_with(b"HTTP/1.1 101") {
            return relay_frames(client, hub).await;
        }
    }
    copy_bidirectional(&mut client, &mut hub).await.map(|_| ())
}

/// Reads up to the empty line and not a byte further.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        if head.len() > HEAD_LIMIT {
            return Err(io::Error::other("a head without an end"));
        }
    }
    Ok(head)
}

async fn relay_frames(client: TcpStream, hub: TcpStream) -> io::Result<()> {
    let (mut client_reads, client_writes) = client.into_split();
    let (mut hub_reads, hub_writes) = hub.into_split();
    // Without bounds of their own: a client sends one frame and a hub a window before either waits for an ack.
    let (to_client, from_hub) = mpsc::unbounded_channel::<Vec<u8>>();
    let (to_hub, from_client) = mpsc::unbounded_channel::<Vec<u8>>();
    let held = Arc::new(Mutex::new(Held::new(to_client, to_hub)));
    let reading = |held: Arc<Mutex<Held>>, way: Way| {
        move |frame: Frame| {
            held.lock().expect("nobody panics with the lock").take(way, frame);
        }
    };
    let (up, down) = (reading(Arc::clone(&held), Way::Up), reading(held, Way::Down));
    // The first end is the end: everything is dropped, and both connections close.
    tokio::select! {
        ended = read_frames(&mut client_reads, up) => ended,
        ended = read_frames(&mut hub_reads, down) => ended,
        ended = write_frames(client_writes, from_hub) => ended,
        ended = write_frames(hub_writes, from_client) => ended,
    }
}

async fn read_frames(from: &mut (impl AsyncReadExt + Unpin), mut take: impl FnMut(Frame)) -> io::Result<()> {
    loop {
        take(Frame::read(from).await?);
    }
}

async fn write_frames(
    mut to: impl AsyncWriteExt + Unpin,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        to.write_all(&frame).await?;
    }
    Ok(())
}

/// One websocket frame, as it came and as it reads.
struct Frame {
    raw: Vec<u8>,
    is_message: bool,
    payload: Vec<u8>,
}

impl Frame {
    async fn read(from: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Self> {
        let mut raw = vec![0; 2];
        from.read_exact(&mut raw).await?;
        let is_masked = raw[1] & 0x80 != 0;
        let more = match raw[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let start = raw.len();
        raw.resize(start + more + if is_masked { 4 } else { 0 }, 0);
        from.read_exact(&mut raw[start..]).await?;
        let length = match more {
            0 => usize::from(raw[1] & 0x7f),
            _ => raw[2..2 + more].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
        };
        let mask: [u8; 4] = if is_masked { raw[2 + more..].try_into().expect("four bytes") } else { [0; 4] };
        let start = raw.len();
        raw.resize(start + length, 0);
        from.read_exact(&mut raw[start..]).await?;
        let payload = raw[start..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        // Final, binary.
        let is_message = raw[0] == 0x82;
        Ok(Self { raw, is_message, payload })
    }

    /// Type and stream, if it belongs to a forwarded port.
    fn stream(&self) -> Option<(String, String)> {
        if !self.is_message {
            return None;
        }
        let heard = Heard::read(self.payload.clone());
        let stream = heard.text("connection_id")?.to_owned();
        (heard.proto() == 3).then(|| (heard.typ().to_owned(), stream))
    }
}

/// The direction of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    /// To the hub.
    Up,
    /// To the client.
    Down,
}

impl Way {
    fn back(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// Whether a frame carries data, for which an ack is owed, and the frame.
type Waiting = (bool, Vec<u8>);

/// What waits for acks.
struct Held {
    /// Streams with a frame that is not acknowledged yet, and what has come after it.
    waiting: HashMap<(Way, String), VecDeque<Waiting>>,
    to_client: mpsc::UnboundedSender<Vec<u8>>,
    to_hub: mpsc::UnboundedSender<Vec<u8>>,
}

impl Held {
    fn new(to_client: mpsc::UnboundedSender<Vec<u8>>, to_hub: mpsc::UnboundedSender<Vec<u8>>) -> Self {
        Self { waiting: HashMap::new(), to_client, to_hub }
    }

    fn take(&mut self, way: Way, frame: Frame) {
        let Some((typ, stream)) = frame.stream() else { return self.pass(way, frame.raw) };
        if typ == "ack" {
            self.pass(way, frame.raw);
            return self.acknowledged(way.back(), stream);
        }
        let is_data = typ == "forward";
        if let Some(queue) = self.waiting.get_mut(&(way, stream.clone())) {
            // The order of a stream is kept: an end does not overtake what was said before.
            queue.push_back((is_data, frame.raw));
            return;
        }
        if is_data {
            self.waiting.insert((way, stream), VecDeque::new());
        }
        self.pass(way, frame.raw);
    }

    fn acknowledged(&mut self, way: Way, stream: String) {
        let Some(mut queue) = self.waiting.remove(&(way, stream.clone())) else { return };
        while let Some((is_data, raw)) = queue.pop_front() {
            self.pass(way, raw);
            if is_data {
                self.waiting.insert((way, stream), queue);
                return;
            }
        }
    }

    fn pass(&self, way: Way, raw: Vec<u8>) {
        let to = if way == Way::Up { &self.to_hub } else { &self.to_client };
        // A connection that has ended takes nothing, and its end is on the way.
        let _ = to.send(raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Packet;

    fn frame(typ: &str, stream: &str, body: &str) -> Frame {
        let payload = Packet::new(3, typ).prop("connection_id", stream).body(body).bytes();
        Frame { raw: body.as_bytes().to_vec(), is_message: true, payload }
    }

    #[test]
    fn the_next_frame_of_a_stream_waits_for_the_ack_of_the_last_and_other_streams_do_not() {
        let (to_client, mut client) = mpsc::unbounded_channel();
        let (to_hub, mut hub) = mpsc::unbounded_channel();
        let mut held = Held::new(to_client, to_hub);
        for (typ, stream, body) in
            [("forward", "a", "a1"), ("forward", "a", "a2"), ("stop", "a", "a3"), ("forward", "b", "b1")]
        {
            held.take(Way::Down, frame(typ, stream, body));
        }
        let passed = |receiver: &mut mpsc::UnboundedReceiver<Vec<u8>>| {
            std::iter::from_fn(|| receiver.try_recv().ok())
                .map(|raw| String::from_utf8(raw).expect("text"))
                .collect::<Vec<_>>()
        };
        assert_eq!(passed(&mut client), ["a1", "b1"]);
        held.take(Way::Up, frame("ack", "a", "ack"));
        assert_eq!((passed(&mut client), passed(&mut hub)), (vec!["a2".to_owned()], vec!["ack".to_owned()]));
        held.take(Way::Up, frame("ack", "a", "ack"));
        assert_eq!(passed(&mut client), ["a3"]);
        // The other direction was never in the way.
        held.take(Way::Up, frame("forward", "a", "up"));
        assert_eq!(passed(&mut hub), ["ack", "up"]);
    }
}
