//! Reading a file while it arrives. Unpacking and digests take a processor for as long as the file is, so a thread of its own
//! does that; between it and whoever feeds it lie a few pieces at most.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Artifact, ReadError, Rules, reader};

/// Pieces on their way to the reader.
const PIECES: usize = 4;

/// A file that is being read.
#[derive(Debug)]
pub struct Reading {
    /// `None` at the end. Closed before that: nobody will know how the file goes on.
    pieces: mpsc::Sender<Option<Bytes>>,
    outcome: JoinHandle<Result<Artifact, ReadError>>,
}

/// Nothing more is wanted of the file: [`Reading::finish`] tells why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader has stopped")]
pub struct Stopped;

impl Reading {
    /// Starts to read. Dropped before [`Reading::finish`], it stops.
    pub fn start(rules: Arc<Rules>) -> Self {
        let (pieces, receiver) = mpsc::channel(PIECES);
        let source = Pieces::new(receiver);
        let outcome = tokio::task::spawn_blocking(move || reader::read(source, &rules));
        Self { pieces, outcome }
    }

    /// The next bytes of the file. Waits while the reader has enough to do.
    ///
    /// # Errors
    /// [`Stopped`] if the reader found a fault.
    pub async fn feed(&self, bytes: Bytes) -> Result<(), Stopped> {
        // An empty piece would look like an end.
        if bytes.is_empty() {
            return Ok(());
        }
        self.pieces.send(Some(bytes)).await.map_err(|_| Stopped)
    }

    /// All bytes were fed. What the file says.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn finish(self) -> Result<Artifact, ReadError> {
        // A reader that has stopped has its outcome.
        let _ = self.pieces.send(None).await;
        self.outcome.await.map_err(|error| ReadError::Source(io::Error::other(error)))?
    }
}

/// What somebody sends from elsewhere, for a thread that may wait: pieces, and `None` at the end. A sender that goes without
/// having said so has failed.
pub(crate) struct Pieces {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    is_over: bool,
}

impl Pieces {
    pub(crate) const fn new(receiver: mpsc::Receiver<Option<Bytes>>) -> Self {
        Self { receiver, piece: Bytes::new(), is_over: false }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.is_over {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.is_over = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the file broke off")),
            }
        }
        let read = self.piece.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.piece.split_to(read));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact_file::{Fault, configuration};

    fn artifact() -> Vec<u8> {
        configuration::write("c-1", "toaster", serde_json::Map::new()).unwrap()
    }

    #[tokio::test]
    async fn pieces_of_any_size_make_the_same_file() {
        let bytes = artifact();
        for size in [1, 7, 512, bytes.len()] {
            let reading = Reading::start(Arc::default());
            for piece in bytes.chunks(size) {
                reading.feed(Bytes::copy_from_slice(piece)).await.unwrap();
                reading.feed(Bytes::new()).await.unwrap();
            }
            assert_eq!(reading.finish().await.unwrap().name, "c-1");
        }
    }

    #[tokio::test]
    async fn a_fault_stops_the_feeding() {
        let reading = Reading::start(Arc::default());
        // Far more than may lie between the two.
        let mut fed = 0;
        while reading.feed(Bytes::from_static(&[7; 1024])).await.is_ok() {
            fed += 1;
            assert!(fed < 1000, "it is read on and on");
        }
        let error = reading.finish().await.unwrap_err();
        assert!(matches!(error, ReadError::Fault(Fault::NotAnArtifact(_))), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_breaks_off_is_not_at_its_end() {
        let bytes = artifact();
        let Reading { pieces, outcome } = Reading::start(Arc::default());
        pieces.send(Some(Bytes::from(bytes))).await.unwrap();
        drop(pieces);
        let error = outcome.await.unwrap().unwrap_err();
        assert!(matches!(error, ReadError::Source(_)), "{error}");
    }
}
