//! Reading recordings, chunk by chunk, so that the longest takes no more memory than a short one.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures_util::{Stream, TryStreamExt, stream};
use storage::{Objects, SessionId, StorageError};

use super::cast::{self, Frame};

/// The largest chunk that is read, packed or not. What is written stays below: a byte takes at most six in a line. A few
/// kilobytes of gzip can stand for gigabytes, and others may be able to write where recordings are.
const CHUNK_LIMIT: u64 = 8 * 1024 * 1024;

/// Where all recordings are.
const ROOT: &str = "recordings";

/// The recordings that are kept.
#[derive(Debug, Clone)]
pub struct Recordings {
    objects: Objects,
}

impl Recordings {
    /// Those in this store.
    pub fn new(objects: &Objects) -> Self {
        Self { objects: objects.clone() }
    }

    /// Whether anything of this session was recorded.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn exists(&self, session: SessionId) -> Result<bool, StorageError> {
        self.objects.contains(&chunk_path(session, 0)).await
    }

    /// What was recorded of this session so far, in order; nothing if nothing was.
    pub fn frames(&self, session: SessionId) -> impl Stream<Item = Result<Frame, StorageError>> + Send + use<> {
        self.cast(session)
            .and_then(async |lines| Ok(stream::iter(cast::decode(&lines)?.into_iter().map(Ok))))
            .try_flatten()
    }

    /// The same as the text of a `.cast` file, in pieces.
    pub fn cast(&self, session: SessionId) -> impl Stream<Item = Result<Bytes, StorageError>> + Send + use<> {
        let objects = self.objects.clone();
        stream::try_unfold(0_u32, move |number| {
            let objects = objects.clone();
            async move {
                let path = chunk_path(session, number);
                let Some(packed) = objects.get(&path, CHUNK_LIMIT).await? else { return Ok(None) };
                let unpacking = tokio::task::spawn_blocking(move || unpack(&path, &packed));
                Ok(Some((unpacking.await.expect("unpacking does not panic")?, number + 1)))
            }
        })
    }

    /// Forgets a recording, and says whether there was one.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Part of it may be gone then; repeating the call is safe.
    pub async fn remove(&self, session: SessionId) -> Result<bool, StorageError> {
        Ok(self.objects.delete_all(&prefix(session)).await? > 0)
    }
}

pub(super) fn prefix(session: SessionId) -> String {
    format!("{ROOT}/{session}")
}

pub(super) fn chunk_path(session: SessionId, number: u32) -> String {
    format!("{ROOT}/{session}/{number:08}.cast.gz")
}

/// The number in a chunk's path.
pub(super) fn chunk_number(path: &str) -> Option<u32> {
    path.rsplit('/').next()?.strip_suffix(".cast.gz")?.parse().ok()
}

pub(super) fn unpack(path: &str, packed: &[u8]) -> Result<Bytes, StorageError> {
    let mut lines = Vec::new();
    let read = MultiGzDecoder::new(packed).take(CHUNK_LIMIT + 1).read_to_end(&mut lines);
    read.map_err(|error| StorageError::Corrupt(format!("{path} is no gzip: {error}")))?;
    if lines.len() as u64 > CHUNK_LIMIT {
        return Err(StorageError::Corrupt(format!("{path} stands for more than {CHUNK_LIMIT} bytes")));
    }
    Ok(lines.into())
}
