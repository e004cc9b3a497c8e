//! The reading half of a socket for `tests/fuzz`: bytes in, messages out, without a network.

use super::{
    AsyncRead, AsyncWrite, Bytes, BytesMut, Config, Context, Halves, Inbound, Pin, Poll, READ_SIZE, ReadBuf,
    SocketCount, SocketEvent, Stream, Waker,
};
use std::io;

/// What a socket made of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    /// The messages, in order.
    pub messages: Vec<Bytes>,
    /// Why it ended, as its name in the code: the peer closed it, broke the protocol, or said no more.
    pub end: String,
    /// The most bytes it held at once that no message had taken yet.
    pub most_held: usize,
}

/// The most a socket with this message limit may ever hold: what it has read and not understood yet, the fragments so
/// far, one pong.
pub fn holds_at_most(message_limit: usize) -> usize {
    2 * message_limit + READ_SIZE + 1024
}

/// Reads `bytes` as a peer would send them, so many at a time as `pieces` says (0 counts as 1), and then the end.
pub fn read(bytes: &[u8], pieces: impl Iterator<Item = usize> + Unpin + 'static, message_limit: usize) -> Heard {
    let config = Config { message_limit, ..Config::default() };
    let io = Peer { bytes: Bytes::copy_from_slice(bytes), pieces };
    let halves = Halves::new(io, BytesMut::new(), Bytes::new(), &config, SocketCount::up_to(1));
    let mut inbound = halves.inbound();
    let mut heard = Heard { messages: vec![], end: String::new(), most_held: 0 };
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let event = Pin::new(&mut inbound).poll_next(&mut context);
        heard.most_held = heard.most_held.max(held(&inbound));
        match event {
            Poll::Ready(Some(SocketEvent::Message(message))) => heard.messages.push(message),
            Poll::Ready(Some(SocketEvent::Ended(end))) => heard.end = format!("{end:?}"),
            Poll::Ready(Some(SocketEvent::Room)) => {}
            Poll::Ready(None) => return heard,
            // The peer never waits, so neither may the socket.
            Poll::Pending => panic!("the socket waits for a peer that has said all"),
        }
    }
}

fn held<T>(inbound: &Inbound<T>) -> usize {
    let wire = inbound.wire.borrow();
    let pong = wire.pong.as_ref().map_or(0, Bytes::len);
    wire.incoming.len() + wire.joined.as_ref().map_or(0, BytesMut::len) + pong + wire.outgoing_len
}

struct Peer<P> {
    bytes: Bytes,
    pieces: P,
}

impl<P: Iterator<Item = usize> + Unpin> AsyncRead for Peer<P> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let peer = self.get_mut();
        let wanted = peer.pieces.next().unwrap_or(usize::MAX).max(1);
        let piece = peer.bytes.split_to(wanted.min(buffer.remaining()).min(peer.bytes.len()));
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

/// Takes whatever is written.
impl<P: Unpin> AsyncWrite for Peer<P> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
