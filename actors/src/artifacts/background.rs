//! Artifacts that appear some time after they were asked for: files that a client brings to the object store by itself, and
//! files that the hub makes around one of a user's.
//!
//! Both are rows, taken by one node, which says every now and then that it is at work. If it dies, another node goes on.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use storage::{ArtifactId, StorageError, Timestamp, Upload, UploadId, UploadKind, UploadState, clock};
use tokio::sync::mpsc;
use tracing::{Instrument, info, info_span, warn};

use super::pipe::pipe;
use super::{Artifacts, UploadError, Wish, after, document, raw_path};
use crate::artifact_file::Fault;
use crate::artifact_file::header::DEVICE_TYPE;
use crate::artifact_file::single_file::SingleFile;
use crate::artifact_file::stream::Pieces;

/// How often a worker says that it is at work.
const TOUCH: Duration = Duration::from_secs(20);

/// Media type of a file that is not an artifact yet.
const RAW: &str = "application/octet-stream";

/// How long a raw file is kept if nothing becomes of it.
const KEEP_RAW: Duration = Duration::from_hours(7 * 24);

/// An artifact to be made of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// What it is to become.
    pub single: SingleFile,
    /// What to say about it.
    pub description: String,
    /// Bytes the file has to have, if somebody said so.
    pub size: Option<u64>,
}

/// What is remembered of a [`NewFile`].
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    single: SingleFile,
    description: String,
    size: u64,
}

/// An upload that a client will make by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The id of the upload and of the artifact.
    pub id: ArtifactId,
    /// Until when.
    pub expires: Timestamp,
    /// The address its file is to be brought to, see [`storage::artifact_stores`].
    pub object: String,
}

/// Why no artifact will be made of a file.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError<E: Error + 'static> {
    /// There is one of this name for one of these kinds of device.
    #[error("Artifact not unique")]
    NotUnique,
    /// The file is larger than it may be, or than was said.
    #[error("Artifact file too large")]
    TooLarge,
    /// It is smaller than was said.
    #[error("the file has {found} bytes, but {announced} were announced")]
    TooShort {
        /// Bytes that came.
        found: u64,
        /// Bytes that were to come.
        announced: u64,
    },
    /// The upload took too long to do anything and was given up.
    #[error("the upload was given up because nothing happened for too long")]
    GivenUp,
    /// The bytes did not come.
    #[error("the file broke off")]
    Broken(#[source] E),
    /// See [`StorageError`].
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Artifacts {
    /// A client says that it will bring a file.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn announce(&self) -> Result<Announced, StorageError> {
        let id = ArtifactId::random();
        let expires = after(self.config.upload_link);
        let number = UploadId::from_uuid(id.uuid());
        let object = self.storage.artifact_stores.address(&raw_path(number)).await?;
        let upload = Upload {
            id: number,
            artifact: id,
            kind: UploadKind::Direct,
            state: UploadState::Pending,
            object: object.clone(),
            parts: None,
            request: String::new(),
            created: clock::now(),
            expires,
            touched: clock::now(),
            reason: None,
        };
        self.storage.uploads.begin(&upload).await?;
        Ok(Announced { id, expires, object })
    }

    /// Takes the bytes of an announced upload, for a store that clients cannot reach. `false` if none is pending with this
    /// number.
    ///
    /// # Errors
    /// See [`UploadError`]; nothing stays of the file then.
    pub async fn bring<S, E>(&self, number: UploadId, mut file: S) -> Result<bool, UploadError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Error + Send + Sync + 'static,
    {
        let Some(upload) = self.storage.uploads.find(number).await? else { return Ok(false) };
        let is_open = upload.kind == UploadKind::Direct && upload.state == UploadState::Pending;
        if !is_open || upload.expires <= clock::now() {
            return Ok(false);
        }
        let (objects, path) = self.storage.artifact_stores.at(&upload.object).await?;
        let mut writer = objects.write(path, RAW, self.config.size_limit);
        while let Some(piece) = file.next().await {
            let piece = piece.map_err(UploadError::Broken)?;
            if writer.written() + piece.len() as u64 > self.config.size_limit {
                return Err(UploadError::TooLarge);
            }
            writer.write(piece).await?;
        }
        writer.finish().await?;
        Ok(true)
    }

    /// A client says that it has brought a file. `false` if none was announced under this id or none is there; else work on it
    /// has begun.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn brought(&self, id: ArtifactId) -> Result<bool, StorageError> {
        let number = UploadId::from_uuid(id.uuid());
        let Some(found) = self.storage.uploads.find(number).await? else { return Ok(false) };
        if found.kind != UploadKind::Direct {
            return Ok(false);
        }
        let (objects, path) = self.storage.artifact_stores.at(&found.object).await?;
        if objects.size(path).await?.is_none() {
            return Ok(false);
        }
        let Some(upload) = self.storage.uploads.take(number, clock::now()).await? else { return Ok(false) };
        self.work_on(upload);
        Ok(true)
    }

    /// Takes a file in and makes an artifact of it, later. Goes on to its end, good or bad, even if nobody waits for the outcome
    /// any more.
    ///
    /// # Errors
    /// See [`GenerateError`]. Nothing of the file stays then.
    pub async fn generate<S, E>(&self, new: NewFile, file: S) -> Result<ArtifactId, GenerateError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Error + Send + Sync + 'static,
    {
        let this = self.clone();
        let taken = tokio::spawn(async move { this.take_raw(new, file).await });
        taken.await.map_err(|error| GenerateError::Storage(StorageError::Other(error.into())))?
    }

    async fn take_raw<S, E>(&self, new: NewFile, mut file: S) -> Result<ArtifactId, GenerateError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Error + Send + Sync + 'static,
    {
        let most = new.size.unwrap_or(self.config.generate_limit).min(self.config.generate_limit);
        if new.size.is_some_and(|size| size > self.config.generate_limit) {
            return Err(GenerateError::TooLarge);
        }
        if self.has_same(&new.single).await? {
            return Err(GenerateError::NotUnique);
        }
        let (id, number) = (ArtifactId::random(), UploadId::random());
        let address = self.storage.artifact_stores.address(&raw_path(number)).await?;
        let (objects, path) = self.storage.artifact_stores.at(&address).await?;
        let upload = Upload {
            id: number,
            artifact: id,
            kind: UploadKind::Generate,
            state: UploadState::Writing,
            object: address.clone(),
            parts: None,
            request: String::new(),
            created: clock::now(),
            expires: after(KEEP_RAW),
            touched: clock::now(),
            reason: None,
        };
        self.storage.uploads.begin(&upload).await?;
        let mut writer = objects.write(path, RAW, most);
        let received = async {
            let mut touched = tokio::time::Instant::now();
            while let Some(piece) = file.next().await {
                let piece = piece.map_err(GenerateError::Broken)?;
                if writer.written() + piece.len() as u64 > most {
                    return Err(GenerateError::TooLarge);
                }
                // Without the number of the parts nobody could remove them if this node died.
                let has_new_parts = writer.announce(piece.len()).await?.is_some();
                if has_new_parts || touched.elapsed() >= TOUCH {
                    touched = tokio::time::Instant::now();
                    if !self.storage.uploads.touch(number, writer.parts(), clock::now()).await? {
                        return Err(GenerateError::GivenUp);
                    }
                }
                writer.write(piece).await?;
            }
            match new.size {
                Some(announced) if writer.written() < announced => {
                    Err(GenerateError::TooShort { found: writer.written(), announced })
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = received.await {
            let parts = writer.parts().map(str::to_owned);
            if let Err(error) = writer.abort().await {
                warn!(%error, "the parts of a raw file are left for later");
            }
            self.drop_raw(&upload, parts.as_deref()).await;
            return Err(error);
        }
        let size = writer.finish().await?;
        let request = Request { single: new.single, description: new.description, size };
        let request = serde_json::to_string(&request).expect("a request has a JSON form");
        let upload = self.storage.uploads.written(number, &request, clock::now()).await?;
        let upload = upload.ok_or(GenerateError::GivenUp)?;
        self.work_on(upload);
        Ok(id)
    }

    /// Whether an artifact of this name is for one of these kinds of device, whatever else a device is.
    async fn has_same(&self, single: &SingleFile) -> Result<bool, StorageError> {
        for stored in self.storage.artifacts.candidates(single.name(), None).await? {
            let artifact = document(&stored)?;
            let asks_for_more = artifact.depends.keys().any(|key| key != DEVICE_TYPE);
            if !asks_for_more && artifact.device_types.iter().any(|kind| single.device_types().contains(kind)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins to work on an upload that was taken.
    pub(super) fn work_on(&self, upload: Upload) {
        let this = self.clone();
        let span = info_span!("upload", artifact.id = %upload.artifact);
        tokio::spawn(async move { this.work(&upload).await }.instrument(span));
    }

    async fn work(&self, upload: &Upload) {
        let making = async {
            match upload.kind {
                UploadKind::Generate => self.make(upload).await,
                UploadKind::Direct | UploadKind::File => self.read_brought(upload).await,
            }
        };
        tokio::pin!(making);
        let mut alive = tokio::time::interval(TOUCH);
        let outcome = loop {
            tokio::select! {
                outcome = &mut making => break outcome,
                _ = alive.tick() => match self.storage.uploads.touch(upload.id, None, clock::now()).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => warn!(%error, "cannot say that an upload goes on"),
                },
            }
        };
        let concluded = match &outcome {
            Ok(()) => self.storage.uploads.conclude(upload.id, None, clock::now()).await,
            Err(Unmade::ForGood(reason)) => {
                info!(reason, "there will be no artifact");
                self.storage.uploads.conclude(upload.id, Some(reason), clock::now()).await
            }
            // Nobody touches it any more, so somebody will try again.
            Err(Unmade::ForNow(error)) => {
                warn!(error = &**error as &dyn Error, "an upload will be tried again");
                return;
            }
        };
        if let Err(error) = concluded {
            warn!(%error, "the end of an upload was not written down; it will be tried again");
            return;
        }
        // What a client brought by itself goes when its link has run out: until then it could bring it again.
        if upload.kind == UploadKind::Generate && outcome.is_ok() {
            self.drop_raw(upload, None).await;
        }
    }

    async fn read_brought(&self, upload: &Upload) -> Result<(), Unmade> {
        let (objects, path) = self.storage.artifact_stores.at(&upload.object).await?;
        let size = objects.size(path).await?;
        let size = size.ok_or_else(|| Unmade::ForGood("the file is not there".to_owned()))?;
        let file = objects.read(path, 0..size);
        let wish = Wish { id: Some(upload.artifact), description: String::new(), size: Some(size) };
        self.publish(upload, wish, file).await
    }

    async fn make(&self, upload: &Upload) -> Result<(), Unmade> {
        let request: Request =
            serde_json::from_str(&upload.request).map_err(|error| Unmade::ForGood(error.to_string()))?;
        let slot = Arc::clone(&self.made_at_once).acquire_owned().await.expect("it is never closed");
        let (pieces, receiver) = mpsc::channel(4);
        let (objects, path) = self.storage.artifact_stores.at(&upload.object).await?;
        let mut raw = objects.read(path, 0..request.size);
        // Ends when the writer does, since nobody takes the pieces then.
        tokio::spawn(async move {
            while let Some(Ok(piece)) = raw.next().await {
                if pieces.send(Some(piece)).await.is_err() {
                    return;
                }
            }
        });
        let (mut sink, file) = pipe();
        let Request { single, description, size } = request;
        tokio::task::spawn_blocking(move || {
            let outcome = single.write(size, Pieces::new(receiver), &mut sink);
            sink.finish(outcome);
            drop(slot);
        });
        let wish = Wish { id: Some(upload.artifact), description, size: None };
        self.publish(upload, wish, file).await
    }

    async fn publish<S, E>(&self, upload: &Upload, wish: Wish, file: S) -> Result<(), Unmade>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Error + Send + Sync + 'static,
    {
        match self.upload(wish, file).await {
            // If the id is taken, whoever worked on it before came further than it could say.
            Ok(_) | Err(UploadError::IdTaken) => Ok(()),
            Err(error) if error.is_final() => Err(Unmade::ForGood(error.to_string())),
            Err(error) => Err(Unmade::ForNow(Arc::new(error))),
        }
        .inspect(|()| info!(artifact.id = %upload.artifact, "an artifact appeared"))
    }

    async fn drop_raw(&self, upload: &Upload, parts: Option<&str>) {
        let dropped = async {
            self.storage.uploads.give_up(upload.id, clock::now()).await?;
            self.discard(&upload.object, parts).await?;
            self.storage.uploads.forget(upload.id).await
        };
        if let Err(error) = dropped.await {
            let error: StorageError = error;
            warn!(%error, "a raw file is removed later");
        }
    }
}

/// Why nothing became of an upload.
enum Unmade {
    /// It would not become anything another time either.
    ForGood(String),
    /// Another time may do.
    ForNow(Arc<dyn Error + Send + Sync>),
}

impl From<StorageError> for Unmade {
    fn from(error: StorageError) -> Self {
        Self::ForNow(Arc::new(error))
    }
}

impl From<Fault> for Unmade {
    fn from(fault: Fault) -> Self {
        Self::ForGood(fault.to_string())
    }
}

impl From<io::Error> for Unmade {
    fn from(error: io::Error) -> Self {
        Self::ForNow(Arc::new(error))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use storage::Storage;

    use super::*;
    use crate::artifacts::{Config, MADE_AT_ONCE};

    fn single(name: &str) -> SingleFile {
        SingleFile::parse(name, vec!["toaster".to_owned()], r#"{"dest_dir":"/","filename":"a"}"#).unwrap()
    }

    /// A file that all of came.
    async fn written(storage: &Storage, name: &str, content: Bytes) -> Upload {
        let request = Request { single: single(name), description: String::new(), size: content.len() as u64 };
        let number = UploadId::random();
        let upload = Upload {
            id: number,
            artifact: ArtifactId::random(),
            kind: UploadKind::Generate,
            state: UploadState::Processing,
            object: raw_path(number),
            parts: None,
            request: serde_json::to_string(&request).unwrap(),
            created: clock::now(),
            expires: after(KEEP_RAW),
            touched: clock::now(),
            reason: None,
        };
        storage.objects.put(&upload.object, content).await.unwrap();
        assert!(storage.uploads.begin(&upload).await.unwrap());
        upload
    }

    #[test]
    fn files_that_are_made_leave_threads_for_those_who_read_them() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MADE_AT_ONCE + 2)
            .build()
            .unwrap();
        runtime.block_on(async {
            let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
            let artifacts = Artifacts::load(&storage, &Config::default()).await.unwrap();
            // More than may lie between writer and reader, however it is packed.
            let noise: Vec<u8> =
                (0..250_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
            let noise = Bytes::from(noise);
            let mut uploads = Vec::new();
            for number in 0..MADE_AT_ONCE + 4 {
                uploads.push(written(&storage, &format!("app-{number}"), noise.clone()).await);
            }
            let making = futures_util::future::join_all(uploads.iter().map(|upload| artifacts.make(upload)));
            let made = tokio::time::timeout(Duration::from_mins(2), making).await.expect("nobody waits for ever");
            assert!(made.iter().all(Result::is_ok));
        });
    }

    #[tokio::test]
    async fn a_file_that_was_given_up_while_it_came_becomes_nothing() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let artifacts = Artifacts::load(&storage, &Config::default()).await.unwrap();
        let new = NewFile { single: single("app"), description: String::new(), size: None };
        let uploads = storage.uploads.clone();
        let file = stream::once(async move {
            let late = clock::now().plus(Duration::from_hours(1));
            assert_eq!(uploads.orphans(late, late, 10).await.unwrap().len(), 1);
            Ok::<_, io::Error>(Bytes::from_static(b"late"))
        });
        let refused = artifacts.generate(new, Box::pin(file)).await;
        assert!(matches!(refused, Err(GenerateError::GivenUp)), "{refused:?}");
    }
}
