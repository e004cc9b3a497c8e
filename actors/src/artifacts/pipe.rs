//! From a thread that writes to a task that reads.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::mpsc;

/// Bytes that are handed over at once.
const PIECE: usize = 64 * 1024;

/// Pieces on their way.
const PIECES: usize = 4;

/// The end for a thread that may wait. [`Sink::finish`] says that all was written; dropped without, it was not.
pub(super) struct Sink {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    is_finished: bool,
}

/// Both ends.
pub(super) fn pipe() -> (Sink, impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static) {
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let sink = Sink { sender, buffer: Vec::with_capacity(PIECE), is_finished: false };
    (sink, stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

impl Sink {
    /// Ends it well or, with an error, badly.
    pub(super) fn finish(mut self, outcome: io::Result<()>) {
        self.is_finished = true;
        let ended = outcome.and_then(|()| self.flush());
        if let Err(error) = ended {
            // Whoever has stopped reading need not know.
            let _ = self.sender.blocking_send(Err(error));
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.buffer.len();
        let taken = &bytes[..room.min(bytes.len())];
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() == PIECE {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.is_finished {
            // The thread panicked. It must not be waited for here, and the queue may be full: then the reader finds the end
            // of the queue in the middle of an archive, which is an error as well.
            let _ = self.sender.try_send(Err(io::Error::other("what was being written broke off")));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read() {
        let content: Vec<u8> = (0..400_000_u32).map(|number| number.to_be_bytes()[3]).collect();
        let (mut sink, source) = pipe();
        let written = content.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let outcome = sink.write_all(&written);
            sink.finish(outcome);
        });
        let read: Vec<Bytes> = source.try_collect().await.unwrap();
        assert_eq!(read.concat(), content);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn an_end_that_is_none_is_told() {
        let (sink, source) = pipe();
        drop(sink);
        assert!(source.try_collect::<Vec<_>>().await.is_err());
        let (sink, source) = pipe();
        tokio::task::spawn_blocking(move || sink.finish(Err(io::Error::other("full")))).await.unwrap();
        assert!(source.try_collect::<Vec<_>>().await.is_err());
    }
}
