//! A file on its way in: written to the object store while it is read and checked. Nobody sees an artifact before all of it
//! was good, and of one that was not, nothing stays.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde_json::{Map, Value};
use storage::{
    ArtifactId, Insertion, NewArtifact, ObjectWriter, StorageError, Upload, UploadId, UploadKind, UploadState, clock,
};
use tracing::{info, warn};

use super::combinations::Combinations;
use super::{Artifacts, after, object_path};
use crate::artifact_file::stream::Reading;
use crate::artifact_file::{Artifact, Fault, MEDIA_TYPE, ReadError};

/// How often an upload says that it goes on, at most.
const TOUCH: Duration = Duration::from_secs(30);

/// Bytes of a name that fit an index.
const NAME_LIMIT: usize = 2000;

/// Bytes of the type of a payload.
const KIND_LIMIT: usize = 256;

/// What is asked for beside the file itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The id the artifact is to have.
    pub id: Option<ArtifactId>,
    /// What to say about it.
    pub description: String,
    /// Bytes the file has to have.
    pub size: Option<u64>,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum UploadError<E: Error + 'static> {
    /// The file is none that we take.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The file says something that cannot be kept.
    #[error("{0}")]
    Unfit(String),
    /// It is larger than it may be, or than was said.
    #[error("Artifact file too large")]
    TooLarge,
    /// It is smaller than was said.
    #[error("the artifact has {found} bytes, but {announced} were announced")]
    TooShort {
        /// Bytes that came.
        found: u64,
        /// Bytes that were to come.
        announced: u64,
    },
    /// There is an artifact with this id.
    #[error("an artifact with this id already exists")]
    IdTaken,
    /// One of the same name fits the same devices. (Mender API: this text.)
    #[error("an artifact with the same name and depends already exists")]
    NotUnique(Map<String, Value>),
    /// All artifacts together would take more than is allowed.
    #[error("there is no room left for this artifact: remove others, or raise the limit")]
    NoRoom,
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

impl<E: Error + 'static> UploadError<E> {
    /// Whether the file itself is to blame, so that it would fail again.
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Broken(_) | Self::Storage(_) | Self::GivenUp)
    }
}

impl Artifacts {
    /// Takes a file in. Goes on to its end, good or bad, even if nobody waits for the outcome any more.
    ///
    /// # Errors
    /// See [`UploadError`]. Nothing of the file stays then.
    pub async fn upload<S, E>(&self, wish: Wish, file: S) -> Result<ArtifactId, UploadError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Error + Send + Sync + 'static,
    {
        let this = self.clone();
        let taken = tokio::spawn(async move { this.take_in(wish, file).await });
        taken.await.map_err(|error| UploadError::Storage(StorageError::Other(error.into())))?
    }

    async fn take_in<S, E>(&self, wish: Wish, file: S) -> Result<ArtifactId, UploadError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Error + Send + Sync + 'static,
    {
        if wish.size.is_some_and(|size| size > self.config.size_limit) {
            return Err(UploadError::TooLarge);
        }
        let _slot = self.at_once.acquire().await.expect("it is never closed");
        let (id, number) = (wish.id.unwrap_or_else(ArtifactId::random), UploadId::random());
        let address = self.storage.artifact_stores.address(&object_path(number)).await?;
        let (objects, path) = self.storage.artifact_stores.at(&address).await?;
        let upload = Upload {
            id: number,
            artifact: id,
            kind: UploadKind::File,
            state: UploadState::Writing,
            object: address.clone(),
            parts: None,
            request: String::new(),
            created: clock::now(),
            expires: after(self.config.abandoned_after),
            touched: clock::now(),
            reason: None,
        };
        if !self.storage.uploads.begin(&upload).await? {
            return Err(UploadError::IdTaken);
        }
        let mut writer = objects.write(path, MEDIA_TYPE, self.config.size_limit);
        let received = self.receive(&wish, file, number, &mut writer).await;
        let parts = writer.parts().map(str::to_owned);
        let outcome = match received {
            Ok(artifact) => self.keep(&wish, &upload, artifact, writer).await,
            Err(error) => {
                if let Err(error) = writer.abort().await {
                    warn!(%error, "the parts of an upload are left for later");
                }
                Err(error)
            }
        };
        match &outcome {
            Ok(()) => info!(artifact.id = %id, "an artifact was uploaded"),
            // A request to the store that was not answered in time may still be carried out.
            Err(error) => {
                let is_over = !matches!(error, UploadError::Storage(_));
                self.clean_up(&upload, parts.as_deref(), is_over).await;
            }
        }
        outcome.map(|()| id)
    }

    /// Reads and writes the file at once, piece by piece.
    async fn receive<S, E>(
        &self,
        wish: &Wish,
        mut file: S,
        number: UploadId,
        writer: &mut ObjectWriter,
    ) -> Result<Artifact, UploadError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Error + Send + Sync + 'static,
    {
        let most = wish.size.unwrap_or(self.config.size_limit);
        let reading = Reading::start(Arc::clone(&self.rules));
        let mut touched = tokio::time::Instant::now();
        let mut is_whole = true;
        while let Some(piece) = file.next().await {
            let piece = piece.map_err(UploadError::Broken)?;
            if writer.written() + piece.len() as u64 > most {
                return Err(UploadError::TooLarge);
            }
            if reading.feed(piece.clone()).await.is_err() {
                is_whole = false;
                break;
            }
            // Without the number of the parts nobody could remove them if this node died.
            let has_new_parts = writer.announce(piece.len()).await?.is_some();
            if has_new_parts || touched.elapsed() >= TOUCH {
                touched = tokio::time::Instant::now();
                if !self.storage.uploads.touch(number, writer.parts(), clock::now()).await? {
                    return Err(UploadError::GivenUp);
                }
            }
            writer.write(piece).await?;
        }
        let read = reading.finish().await;
        let found = writer.written();
        if let Some(announced) = wish.size.filter(|&announced| is_whole && found < announced) {
            return Err(UploadError::TooShort { found, announced });
        }
        match read {
            Ok(artifact) => Ok(artifact),
            Err(ReadError::Fault(fault)) => Err(fault.into()),
            Err(ReadError::Source(error)) => Err(StorageError::Other(error.into()).into()),
        }
    }

    async fn keep<E: Error + Send + Sync + 'static>(
        &self,
        wish: &Wish,
        upload: &Upload,
        artifact: Artifact,
        writer: ObjectWriter,
    ) -> Result<(), UploadError<E>> {
        // There may be thousands of hashes to take.
        let prepared = tokio::task::spawn_blocking(move || Prepared::new(artifact)).await;
        let Prepared { artifact, document, combinations } = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(why)) => {
                if let Err(error) = writer.abort().await {
                    warn!(%error, "the parts of an upload are left for later");
                }
                return Err(UploadError::Unfit(why));
            }
            Err(error) => return Err(StorageError::Other(error.into()).into()),
        };
        let size = writer.finish().await?;
        let new = NewArtifact {
            id: upload.artifact,
            name: artifact.name.clone(),
            description: wish.description.clone(),
            size,
            object: upload.object.clone(),
            document,
            device_types: artifact.device_types.clone(),
            kinds: artifact.updates.iter().filter_map(|update| update.kind.clone()).collect(),
            combinations,
            upload: upload.id,
            at: clock::now(),
        };
        match self.storage.artifacts.insert(&new, self.config.storage_limit).await {
            Ok(Insertion::Kept) => Ok(()),
            Ok(Insertion::IdTaken) => Err(UploadError::IdTaken),
            Ok(Insertion::NoRoom) => Err(UploadError::NoRoom),
            Ok(Insertion::UploadGone) => Err(UploadError::GivenUp),
            Ok(Insertion::NotUnique(place)) => {
                let conflict = Combinations::of(&artifact.depends).map(|all| all.at(place)).unwrap_or_default();
                let mut conflict: Map<String, Value> =
                    conflict.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
                conflict.insert("artifact_name".to_owned(), artifact.name.as_str().into());
                Err(UploadError::NotUnique(conflict))
            }
            Err(error) => {
                // It may be written all the same: then the object has to stay.
                match self.storage.artifacts.find(upload.artifact).await {
                    Ok(Some(found)) if found.object == upload.object => Ok(()),
                    _ => Err(error.into()),
                }
            }
        }
    }

    /// Removes what is left of an upload that became nothing. What fails here is done later; unless `is_over`, that is also done
    /// once more later, since something of it may come into being after all.
    async fn clean_up(&self, upload: &Upload, parts: Option<&str>, is_over: bool) {
        let cleaned = async {
            // From here on it cannot become an artifact, if it had not failed so far.
            self.storage.uploads.give_up(upload.id, clock::now()).await?;
            if self.storage.artifacts.find(upload.artifact).await?.is_some_and(|found| found.object == upload.object) {
                return Ok(());
            }
            self.discard(&upload.object, parts).await?;
            if is_over { self.storage.uploads.forget(upload.id).await } else { Ok(()) }
        };
        if let Err(error) = cleaned.await {
            let error: StorageError = error;
            warn!(%error, "what is left of an upload is removed later");
        }
    }
}

/// What is kept of a good file.
struct Prepared {
    artifact: Artifact,
    document: String,
    combinations: Vec<[u8; 32]>,
}

impl Prepared {
    /// What cannot be kept is an error, in words for whoever uploaded the file.
    fn new(artifact: Artifact) -> Result<Self, String> {
        check(&artifact)?;
        let combinations = Combinations::of(&artifact.depends)
            .ok_or_else(|| "the artifact depends on too many combinations of values".to_owned())?
            .hashes();
        let document = serde_json::to_string(&artifact).expect("an artifact has a JSON form");
        // One that could not be read again would break every list that it is in.
        serde_json::from_str::<Artifact>(&document).map_err(|error| format!("the artifact cannot be kept: {error}"))?;
        Ok(Self { artifact, document, combinations })
    }
}

/// What cannot be kept of an otherwise good file.
fn check(artifact: &Artifact) -> Result<(), String> {
    if artifact.name.len() > NAME_LIMIT {
        return Err(format!("the artifact's name is longer than {NAME_LIMIT} bytes"));
    }
    if artifact.updates.iter().filter_map(|update| update.kind.as_ref()).any(|kind| kind.len() > KIND_LIMIT) {
        return Err(format!("the type of a payload is longer than {KIND_LIMIT} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use storage::Storage;

    use super::*;
    use crate::artifact_file::{Rules, configuration, reader};
    use crate::artifacts::Config;

    fn artifact() -> Artifact {
        let file = configuration::write("c-1", "toaster", Map::new()).unwrap();
        reader::read(&file[..], &Rules::default()).unwrap()
    }

    #[tokio::test]
    async fn what_the_store_may_still_write_is_removed_once_more() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let artifacts = Artifacts::load(&storage, &Config::default()).await.unwrap();
        for is_over in [true, false] {
            let number = UploadId::random();
            let upload = Upload {
                id: number,
                artifact: ArtifactId::random(),
                kind: UploadKind::File,
                state: UploadState::Writing,
                object: object_path(number),
                parts: None,
                request: String::new(),
                created: clock::now(),
                expires: after(Duration::from_hours(1)),
                touched: clock::now(),
                reason: None,
            };
            assert!(storage.uploads.begin(&upload).await.unwrap());
            artifacts.clean_up(&upload, None, is_over).await;
            let left = storage.uploads.find(number).await.unwrap();
            assert_eq!(left.map(|upload| upload.state), (!is_over).then_some(UploadState::Removing));
            // The request that seemed to have failed.
            storage.objects.put(&upload.object, Bytes::from_static(b"late")).await.unwrap();
            artifacts.clean(after(Duration::from_hours(3))).await.unwrap();
            assert_eq!(storage.uploads.find(number).await.unwrap(), None);
            assert_eq!(storage.objects.contains(&upload.object).await.unwrap(), is_over);
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_not_kept() {
        let nested = |levels: usize| {
            let mut artifact = artifact();
            let value = (1..levels).fold(Value::Null, |value, _| Value::Array(vec![value]));
            artifact.updates[0].meta_data = Map::from_iter([("a".to_owned(), value)]);
            Prepared::new(artifact).map(|prepared| prepared.document)
        };
        assert!(nested(64).is_ok());
        assert!(nested(127).unwrap_err().starts_with("the artifact cannot be kept: "));
    }
}
