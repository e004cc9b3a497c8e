//! Artifacts: how they get in, what is known about them, how they get out.
//!
//! | file | what it does |
//! |---|---|
//! | `intake.rs` | a file that is written to the object store while it is read and checked; nothing of a bad one stays |
//! | `background.rs` | files that a client brought to the object store by itself, and files that the hub makes |
//! | `cleaning.rs` | what was given up or interrupted |
//! | `links.rs` | links by which somebody without a token fetches or brings a file |
//!
//! An artifact exists once its row does, and the row is written last, in one transaction with the end of its upload.

mod background;
mod cleaning;
mod combinations;
pub mod config;
mod intake;
mod links;
mod pipe;

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use storage::{Alteration, ArtifactId, Storage, StorageError, StoredArtifact, Timestamp, UploadId, clock};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::artifact_file::{Artifact, ArtifactKey, Limits, Rules};

pub use background::{Announced, GenerateError, NewFile};
pub use cleaning::Cleaned;
pub use config::Config;
pub use intake::{UploadError, Wish};
pub use links::{EXPIRE, Link, LinkRefusal, LinkSigner, SIGNATURE, Target, expire_text, is_base};

/// Name of the secret that links of the hub itself are signed with.
const LINK_SECRET: &str = "links";

/// Bytes of that secret.
const LINK_SECRET_LENGTH: usize = 32;

/// Files that one node makes at the same time, each on a thread that waits for whoever reads the file. They must never take
/// all threads there are, or none is left for the readers.
const MADE_AT_ONCE: usize = 4;

/// Artifacts of a hub. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Artifacts {
    storage: Storage,
    config: Arc<Config>,
    rules: Arc<Rules>,
    links: LinkSigner,
    /// Reading a file takes memory and a thread.
    at_once: Arc<Semaphore>,
    /// Making one takes another thread.
    made_at_once: Arc<Semaphore>,
}

/// The settings of artifacts make no sense, or the secret for links cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A key that artifacts may be signed with.
    #[error("cannot read {path}, a key that artifacts may be signed with: {why}")]
    Key {
        /// Its file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// See [`StorageError`].
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Artifacts {
    /// Reads the keys that the settings name, and the secret that all nodes share.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn load(storage: &Storage, config: &Config) -> Result<Self, LoadError> {
        let mut keys = Vec::with_capacity(config.signed_by.len());
        for path in &config.signed_by {
            let failed = |why: String| LoadError::Key { path: path.display().to_string(), why };
            let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
            keys.push(ArtifactKey::parse(&text).map_err(|error| failed(error.to_string()))?);
        }
        let limits = Limits { unpacked: config.unpacked_limit, ..Limits::default() };
        let secret = storage.keys.get_or_create(LINK_SECRET, || {
            let mut secret = [0; LINK_SECRET_LENGTH];
            aws_lc_rs::rand::fill(&mut secret).expect("the system gives random bytes");
            BASE64_STANDARD.encode(secret)
        });
        Ok(Self {
            storage: storage.clone(),
            rules: Arc::new(Rules { limits, keys, must_be_signed: config.must_be_signed }),
            links: LinkSigner::new(secret.await?.as_bytes()),
            at_once: Arc::new(Semaphore::new(config.at_once)),
            made_at_once: Arc::new(Semaphore::new(MADE_AT_ONCE)),
            config: Arc::new(config.clone()),
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Signs links that the hub itself serves.
    pub const fn links(&self) -> &LinkSigner {
        &self.links
    }

    /// Removes an artifact and its object.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove(&self, id: ArtifactId) -> Result<Alteration<()>, StorageError> {
        Ok(match self.storage.artifacts.remove(id, clock::now()).await? {
            Alteration::Done(object) => {
                self.remove_objects(vec![object]).await;
                Alteration::Done(())
            }
            Alteration::Unknown => Alteration::Unknown,
            Alteration::InUse(users) => Alteration::InUse(users),
        })
    }

    /// Removes releases with all their artifacts, or none of them.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove_releases(&self, names: &[String]) -> Result<Alteration<()>, StorageError> {
        Ok(match self.storage.artifacts.remove_releases(names, clock::now()).await? {
            Alteration::Done(objects) => {
                self.remove_objects(objects).await;
                Alteration::Done(())
            }
            Alteration::Unknown => Alteration::Unknown,
            Alteration::InUse(users) => Alteration::InUse(users),
        })
    }

    /// Removes what is left of an object, see [`storage::Objects::discard`].
    async fn discard(&self, object: &str, parts: Option<&str>) -> Result<(), StorageError> {
        let (objects, path) = self.storage.artifact_stores.at(object).await?;
        objects.discard(path, parts).await
    }

    /// The artifacts are not known any more, so this is only about room: what fails is done later.
    async fn remove_objects(&self, objects: Vec<String>) {
        for object in objects {
            let removed = async {
                let (objects, path) = self.storage.artifact_stores.at(&object).await?;
                objects.delete(path).await?;
                self.storage.uploads.forget_object(&object).await
            };
            if let Err(error) = removed.await {
                warn!(%error, "the file of a removed artifact is left for later");
            }
        }
    }
}

/// What the file of a stored artifact says about itself.
///
/// # Errors
/// `Corrupt` if the database holds something else.
pub fn document(stored: &StoredArtifact) -> Result<Artifact, StorageError> {
    serde_json::from_str(&stored.document)
        .map_err(|error| StorageError::Corrupt(format!("the document of artifact {}: {error}", stored.id)))
}

/// Path of the object with this number, in whatever store it is.
fn object_path(number: impl std::fmt::Display) -> String {
    format!("artifacts/{number}")
}

/// Where files are that are not artifacts yet.
const RAW_FILES: &str = "uploads";

/// Path of a file that is not an artifact yet.
fn raw_path(number: impl std::fmt::Display) -> String {
    format!("{RAW_FILES}/{number}.tmp")
}

/// The number of the file with this path in its store, if it is one that is not an artifact yet.
fn raw_number(path: &str) -> Option<UploadId> {
    path.strip_prefix(RAW_FILES)?.strip_prefix('/')?.strip_suffix(".tmp")?.parse().ok()
}

fn after(lifetime: std::time::Duration) -> Timestamp {
    clock::now().plus(lifetime)
}
