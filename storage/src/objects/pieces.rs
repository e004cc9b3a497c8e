//! Objects of any size, piece by piece: written from a stream of unknown length, read in ranges.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
};
use tracing::warn;

use super::{Objects, failure};
use crate::StorageError;

/// Smallest part of an object that S3 takes, but for the last. (Amazon S3: limits)
const SMALLEST_PART: u64 = 5 * 1024 * 1024;

/// Parts that S3 makes an object of at most.
const MOST_PARTS: u64 = 10_000;

/// Bytes that are in memory for one reader of a directory; there may be many.
const DIRECTORY_PIECE: u64 = 256 * 1024;

/// The same for a server, where a request takes longer than its bytes.
const REMOTE_PIECE: u64 = 4 * 1024 * 1024;

/// Pieces below this many bytes are put together: kept as they came, the smallest would take many times what is in them.
const SMALL_PIECE: usize = 16 * 1024;

/// Bytes that small pieces are put together to.
const JOINED_PIECES: usize = 64 * 1024;

/// An object that is being written. Nobody sees it before [`ObjectWriter::finish`]. Dropped, it is given up.
#[derive(Debug)]
pub struct ObjectWriter {
    path: String,
    objects: Objects,
    media_type: &'static str,
    part_size: u64,
    most: u64,
    written: u64,
    buffer: Vec<Bytes>,
    /// Small pieces behind those.
    tail: BytesMut,
    /// Bytes of both.
    buffered: u64,
    at_store: AtStore,
}

/// What the store has of an object that is being written. Dropped, that is removed.
#[derive(Debug)]
struct AtStore {
    location: Path,
    begun: Begun,
}

/// How far the store knows of an object that is being written.
enum Begun {
    /// Not at all: it may fit into one request.
    Nothing,
    /// Parts on a server.
    Parts { parts: Arc<dyn MultipartStore>, id: String, done: Vec<PartId> },
    /// A temporary file.
    File(Box<dyn MultipartUpload>),
    /// It is over.
    Done,
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Parts { .. } => "Parts",
            Self::File(_) => "File",
            Self::Done => "Done",
        })
    }
}

impl Objects {
    /// Starts to write an object of at most `most` bytes, in the place of any with this path.
    pub fn write(&self, path: &str, media_type: &'static str, most: u64) -> ObjectWriter {
        ObjectWriter {
            path: path.to_owned(),
            objects: self.clone(),
            media_type,
            part_size: most.div_ceil(MOST_PARTS * SMALLEST_PART).max(1) * SMALLEST_PART,
            most,
            written: 0,
            buffer: Vec::new(),
            tail: BytesMut::new(),
            buffered: 0,
            at_store: AtStore { location: Path::from(path), begun: Begun::Nothing },
        }
    }

    /// How many bytes the object with this path has; `None` if there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        match self.store.head(&Path::from(path)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure(format!("cannot look for object {path}"), error)),
        }
    }

    /// Reads these bytes of an object, which has to have them. Memory is taken for a piece at a time.
    pub fn read(&self, path: &str, range: Range<u64>) -> BoxStream<'static, Result<Bytes, StorageError>> {
        let (store, path) = (Arc::clone(&self.store), path.to_owned());
        let piece = if self.remote.is_some() { REMOTE_PIECE } else { DIRECTORY_PIECE };
        stream::try_unfold(range.start, move |at| {
            let (store, path) = (Arc::clone(&store), path.clone());
            let end = at.saturating_add(piece).min(range.end);
            async move {
                if at >= end {
                    return Ok(None);
                }
                let read = store.get_range(&Path::from(path.as_str()), at..end).await;
                let bytes = read.map_err(|error| failure(format!("cannot read object {path}"), error))?;
                if bytes.len() as u64 != end - at {
                    return Err(StorageError::Corrupt(format!("object {path} is shorter than it was")));
                }
                Ok(Some((bytes, end)))
            }
        })
        .boxed()
    }

    /// Removes what is left of an object whose writing was not finished: the object, if it was after all, and the parts or
    /// the temporary file. `parts` is what [`ObjectWriter::parts`] said.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn discard(&self, path: &str, parts: Option<&str>) -> Result<(), StorageError> {
        self.delete(path).await?;
        if let (Some(remote), Some(id)) = (&self.remote, parts) {
            match remote.parts.abort_multipart(&Path::from(path), &id.to_owned()).await {
                // Servers have several ways to say that there is no such upload (any more); some do not even tell whether
                // there was one.
                Ok(()) | Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => {}
                Err(error) if format!("{error:?}").contains("NoSuchUpload") => {}
                Err(error) => return Err(failure(format!("cannot remove the parts of object {path}"), error)),
            }
        }
        if let Some(directory) = &self.directory {
            let file = directory.join(path);
            let failed =
                |error| StorageError::unavailable(format!("cannot remove the temporary file of object {path}"), error);
            let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
                return Ok(());
            };
            // The library calls them after the object, with a number behind a hash.
            let prefix = format!("{name}#");
            let mut entries = match tokio::fs::read_dir(folder).await {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            while let Some(entry) = entries.next_entry().await.map_err(failed)? {
                if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                    match tokio::fs::remove_file(entry.path()).await {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

impl ObjectWriter {
    /// The next bytes. Waits while the store has enough to do.
    ///
    /// # Errors
    /// `Corrupt` beyond the size it may have, `Unavailable`, `Other`; the object cannot be finished then.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.written += bytes.len() as u64;
        if self.written > self.most {
            return Err(StorageError::Corrupt(format!("object {} is larger than {} bytes", self.path, self.most)));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = usize::try_from(self.part_size - self.buffered).unwrap_or(usize::MAX);
            let piece = rest.split_to(room.min(rest.len()));
            self.keep(piece);
            // All parts but the last are equally large, and a small object never becomes parts.
            if self.buffered == self.part_size && !rest.is_empty() {
                self.write_part().await?;
            }
        }
        Ok(())
    }

    /// Tells the server that there will be parts if the next `bytes` make it so. The number under which it will keep them,
    /// if that is new: noted before the first part is sent, it lets [`Objects::discard`] find every one.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn announce(&mut self, bytes: usize) -> Result<Option<&str>, StorageError> {
        let overflows = self.buffered + bytes as u64 > self.part_size;
        if self.objects.remote.is_none() || !overflows || !matches!(self.at_store.begun, Begun::Nothing) {
            return Ok(None);
        }
        self.begin().await?;
        Ok(self.parts())
    }

    fn keep(&mut self, piece: Bytes) {
        self.buffered += piece.len() as u64;
        if piece.len() >= SMALL_PIECE {
            self.close_tail();
            self.buffer.push(piece);
            return;
        }
        if self.tail.capacity() - self.tail.len() < piece.len() {
            self.close_tail();
            self.tail.reserve(JOINED_PIECES);
        }
        self.tail.extend_from_slice(&piece);
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.buffer.push(self.tail.split().freeze());
        }
    }

    /// All that was kept and not written yet.
    fn take_buffer(&mut self) -> PutPayload {
        self.close_tail();
        self.buffered = 0;
        std::mem::take(&mut self.buffer).into_iter().collect()
    }

    /// The number under which the server keeps the parts, as soon as there are some: what [`Objects::discard`] needs.
    pub fn parts(&self) -> Option<&str> {
        match &self.at_store.begun {
            Begun::Parts { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Bytes so far.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Makes the object whole. When this returns it is kept.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn finish(mut self) -> Result<u64, StorageError> {
        if matches!(self.at_store.begun, Begun::Nothing) {
            let content = self.take_buffer();
            let options = PutOptions { attributes: self.attributes(), ..PutOptions::default() };
            let put = self.objects.store.put_opts(&self.at_store.location, content, options).await;
            put.map_err(|error| self.failed(error))?;
        } else {
            self.write_part().await?;
            let AtStore { location, begun } = &mut self.at_store;
            let completed = match begun {
                Begun::Parts { parts, id, done } => {
                    let done = std::mem::take(done);
                    let store = self.objects.remote.as_ref().map_or(&*parts, |remote| &remote.completing);
                    store.complete_multipart(location, id, done).await.map(drop)
                }
                Begun::File(upload) => upload.complete().await.map(drop),
                Begun::Nothing | Begun::Done => Ok(()),
            };
            completed.map_err(|error| self.failed(error))?;
        }
        self.at_store.begun = Begun::Done;
        Ok(self.written)
    }

    /// Gives the object up and removes what the store has of it.
    ///
    /// # Errors
    /// `Unavailable`, `Other`; [`Objects::discard`] does the same later.
    pub async fn abort(mut self) -> Result<(), StorageError> {
        let begun = self.at_store.take();
        abandon(begun, &self.at_store.location).await.map_err(|error| self.failed(error))
    }

    async fn write_part(&mut self) -> Result<(), StorageError> {
        let part = self.take_buffer();
        if matches!(self.at_store.begun, Begun::Nothing) {
            self.begin().await?;
        }
        let AtStore { location, begun } = &mut self.at_store;
        let written = match begun {
            Begun::Parts { parts, id, done } => {
                let part = parts.put_part(location, id, done.len(), part).await;
                part.map(|part| done.push(part))
            }
            Begun::File(upload) => upload.put_part(part).await,
            Begun::Nothing | Begun::Done => Ok(()),
        };
        written.map_err(|error| self.failed(error))
    }

    async fn begin(&mut self) -> Result<(), StorageError> {
        let options = PutMultipartOptions { attributes: self.attributes(), ..PutMultipartOptions::default() };
        let location = self.at_store.location.clone();
        let begun = if let Some(remote) = &self.objects.remote {
            let parts = Arc::clone(&remote.parts);
            // A server carries the request out for one who is gone by then, too. So it is waited for in any case, and what has
            // begun is dropped, and with that removed, if nobody wants it any more.
            let creating = tokio::spawn(async move {
                let id = parts.create_multipart_opts(&location, options).await?;
                Ok(AtStore { location, begun: Begun::Parts { parts, id, done: Vec::new() } })
            });
            creating.await.map_err(|error| StorageError::Other(error.into()))?
        } else {
            let upload = self.objects.store.put_multipart_opts(&location, options).await;
            upload.map(|upload| AtStore { location, begun: Begun::File(upload) })
        };
        self.at_store = begun.map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// A directory keeps nothing but bytes.
    fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        if self.objects.remote.is_some() {
            attributes.insert(Attribute::ContentType, self.media_type.into());
        }
        attributes
    }

    fn failed(&self, error: object_store::Error) -> StorageError {
        failure(format!("cannot write object {}", self.path), error)
    }
}

impl AtStore {
    const fn take(&mut self) -> Begun {
        std::mem::replace(&mut self.begun, Begun::Done)
    }
}

impl Drop for AtStore {
    fn drop(&mut self) {
        let begun = self.take();
        if matches!(begun, Begun::Nothing | Begun::Done) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let location = self.location.clone();
        runtime.spawn(async move {
            if let Err(error) = abandon(begun, &location).await {
                warn!(%error, "the parts of an object that was given up are left for later");
            }
        });
    }
}

async fn abandon(begun: Begun, location: &Path) -> object_store::Result<()> {
    match begun {
        Begun::Parts { parts, id, .. } => parts.abort_multipart(location, &id).await,
        Begun::File(mut upload) => upload.abort().await,
        Begun::Nothing | Begun::Done => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn parts_are_large_enough_for_the_largest_object() {
        let objects = Objects::open(&Config::in_memory()).expect("memory opens");
        let part = |most: u64| objects.write("a", "text/plain", most).part_size;
        assert_eq!(part(0), SMALLEST_PART);
        assert_eq!(part(10 << 30), SMALLEST_PART);
        let limit = MOST_PARTS * SMALLEST_PART;
        assert_eq!((part(limit), part(limit + 1)), (SMALLEST_PART, 2 * SMALLEST_PART));
        assert!(part(5 << 40) * MOST_PARTS >= 5 << 40);
    }

    #[tokio::test]
    async fn small_pieces_take_no_more_than_is_in_them() {
        let objects = Objects::open(&Config::in_memory()).expect("memory opens");
        let mut writer = objects.write("a", "text/plain", 20_000_000);
        for _ in 0..1_000_000 {
            writer.write(Bytes::from_static(b"x")).await.expect("it is taken");
        }
        assert!(writer.buffer.len() <= 1_000_000 / JOINED_PIECES + 1, "{} pieces", writer.buffer.len());
        // A small one between large ones takes no room of its own either.
        let large = Bytes::from(vec![b'y'; SMALL_PIECE]);
        let before = writer.buffer.len();
        for _ in 0..100 {
            writer.write(large.clone()).await.expect("it is taken");
            writer.write(Bytes::from_static(b"z")).await.expect("it is taken");
        }
        assert!(writer.buffer.len() <= before + 200);
        let size = 1_000_000 + 100 * (SMALL_PIECE as u64 + 1);
        assert_eq!(writer.finish().await.expect("it is kept"), size);

        let mut wanted = vec![b'x'; 1_000_000];
        for _ in 0..100 {
            wanted.extend_from_slice(&large);
            wanted.push(b'z');
        }
        let found = objects.get("a", size).await.expect("an answer").expect("it is there");
        assert!(found == wanted, "in the order they came");
    }
}
