//! Gives up what nobody works on, takes over what somebody left, and removes what is left of both.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use storage::{ArtifactStores, StorageError, StoreId, Timestamp, Upload};
use tracing::{info, warn};

use super::{Artifacts, RAW_FILES, raw_number};

/// Uploads looked at in one go.
const AT_ONCE: u32 = 100;

/// Uploads that are given up in one round, or passed over because they cannot be removed now.
const MOST: usize = 10_000;

/// After so many refusals a store is left alone for the rest of a round.
const REFUSALS: u32 = 10;

/// How long a worker may be silent, who says every few seconds that it is at work, before another node goes on.
const TAKE_OVER: Duration = Duration::from_mins(2);

/// How often another node goes on: what an upload makes its workers do may be what ends them.
const RETRIES: u32 = 4;

/// How long after its time an upload may still be worked on.
const GRACE: Duration = Duration::from_hours(24);

/// What is said of an upload that was worked on in vain.
const HOPELESS: &str = "the hub has tried several times, and never came to an end";

/// What one round has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Uploads that were given up.
    pub given_up: usize,
    /// Uploads that were worked on too often or for too long.
    pub hopeless: u64,
    /// Uploads that were taken over from a node that died.
    pub taken_over: usize,
    /// Uploads whose objects were removed for good.
    pub forgotten: usize,
    /// Objects that nobody knows of: what a client brought by a link after its upload was forgotten.
    pub unknown: usize,
}

impl Artifacts {
    /// One round. What fails is left for the next.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn clean(&self, now: Timestamp) -> Result<Cleaned, StorageError> {
        let before = now.minus(self.config.abandoned_after);
        let mut cleaned = Cleaned::default();
        let mut given_up = Vec::new();
        while given_up.len() < MOST {
            let orphans = self.storage.uploads.orphans(before, now, AT_ONCE).await?;
            let is_last = orphans.len() < AT_ONCE as usize;
            given_up.extend(orphans);
            if is_last {
                break;
            }
        }
        cleaned.given_up = given_up.len();
        // After what nobody works on has been given up, or what is worked on from here would be; and before the rest, which waits
        // for stores.
        self.take_over(now, &mut cleaned).await?;
        let mut removal = Removal { artifacts: self, refusals: BTreeMap::new() };
        for orphan in &given_up {
            info!(artifact.id = %orphan.artifact, "an upload was given up");
            // The row stays for a second removal.
            removal.discard(orphan).await;
        }
        // Those that cannot be removed now would come again, in front of all others.
        let mut skipped = 0;
        loop {
            let uploads = self.storage.uploads.to_forget(before, skipped, AT_ONCE).await?;
            for upload in &uploads {
                if removal.discard(upload).await {
                    self.storage.uploads.forget(upload.id).await?;
                    cleaned.forgotten += 1;
                } else {
                    skipped += 1;
                }
            }
            if uploads.len() < AT_ONCE as usize || skipped >= MOST as u64 {
                break;
            }
        }
        cleaned.unknown = self.remove_unknown().await?;
        Ok(cleaned)
    }

    /// Goes on where another node has died, and gives up what was tried too often.
    async fn take_over(&self, now: Timestamp, cleaned: &mut Cleaned) -> Result<(), StorageError> {
        let silent = now.minus(self.config.abandoned_after.min(TAKE_OVER));
        let times = (silent, now.minus(GRACE));
        let hopeless = self.storage.uploads.end_hopeless(times, RETRIES, HOPELESS, now).await?;
        if hopeless > 0 {
            warn!(uploads = hopeless, "uploads were given up after several attempts");
        }
        cleaned.hopeless = hopeless;
        let interrupted = self.storage.uploads.interrupted(silent, now, AT_ONCE).await?;
        cleaned.taken_over = interrupted.len();
        for upload in interrupted {
            self.work_on(upload);
        }
        Ok(())
    }

    /// Removes raw files of which no upload is known. Uploads are written down before their files, and forgotten after
    /// them, so there is none but what came by a link that was followed in time, and took longer than its upload was kept.
    async fn remove_unknown(&self) -> Result<usize, StorageError> {
        let folders = self.storage.artifact_stores.all(RAW_FILES).await?;
        // One that is away keeps no other waiting.
        let removals = folders.iter().map(|folder| self.remove_unknown_below(folder));
        let mut removed = 0;
        for outcome in join_all(removals).await {
            match outcome {
                Ok(count) => removed += count,
                Err(error) => warn!(%error, "raw files that nobody knows of are looked for later"),
            }
        }
        Ok(removed)
    }

    /// The same in one store.
    async fn remove_unknown_below(&self, folder: &str) -> Result<usize, StorageError> {
        let (objects, path) = self.storage.artifact_stores.at(folder).await?;
        let mut removed = 0;
        for file in objects.list(path).await? {
            let Some(number) = raw_number(&file) else { continue };
            if self.storage.uploads.find(number).await?.is_none() {
                objects.delete(&file).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// The removals of one round.
struct Removal<'a> {
    artifacts: &'a Artifacts,
    /// How often each store could not do it. One that does not answer is asked once.
    refusals: BTreeMap<Option<StoreId>, u32>,
}

impl Removal<'_> {
    /// Removes what is left of an upload; says whether it did.
    async fn discard(&mut self, upload: &Upload) -> bool {
        let store = ArtifactStores::store_of(&upload.object);
        let refusals = self.refusals.entry(store).or_default();
        if *refusals >= REFUSALS {
            return false;
        }
        match self.artifacts.discard(&upload.object, upload.parts.as_deref()).await {
            Ok(()) => true,
            Err(error) => {
                *refusals += if error.is_unavailable() { REFUSALS } else { 1 };
                warn!(%error, "what is left of an upload is removed later");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::{ArtifactId, Storage, UploadId, UploadKind, UploadState, clock};

    use super::*;
    use crate::artifacts::{Config, raw_path};

    #[tokio::test]
    async fn a_file_that_came_too_late_is_removed() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let config = Config { direct_upload: true, ..Config::default() };
        let artifacts = Artifacts::load(&storage, &config).await.unwrap();
        let [late, early] = [artifacts.announce().await.unwrap(), artifacts.announce().await.unwrap()];
        let path = |id: ArtifactId| raw_path(id.uuid());
        let bring = async |id| storage.objects.put(&path(id), bytes::Bytes::from_static(b"x")).await.unwrap();
        let is_there = async |id| storage.objects.contains(&path(id)).await.unwrap();
        bring(early.id).await;
        assert_eq!(artifacts.clean(clock::now()).await.unwrap(), Cleaned::default());
        assert!(is_there(early.id).await, "it may still become an artifact");
        let cleaned = artifacts.clean(clock::now().plus(Duration::from_hours(48))).await.unwrap();
        assert_eq!((cleaned.forgotten, cleaned.unknown), (2, 0));
        bring(late.id).await;
        // Others keep files there, too.
        storage.objects.put("uploads/notes.txt", bytes::Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(artifacts.clean(clock::now()).await.unwrap().unknown, 1);
        assert!(!is_there(late.id).await);
        assert!(storage.objects.contains("uploads/notes.txt").await.unwrap());
    }

    #[tokio::test]
    async fn a_store_that_is_lost_keeps_no_other_from_being_cleaned() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let artifacts = Artifacts::load(&storage, &Config::default()).await.unwrap();
        let begun = clock::now();
        let lost = storage::StoreId::random();
        let count = AT_ONCE as usize + 1;
        // What can be removed comes last.
        for place in 0..=count {
            let number = UploadId::random();
            let path = format!("artifacts/{number}");
            let upload = Upload {
                id: number,
                artifact: ArtifactId::random(),
                kind: UploadKind::File,
                state: UploadState::Removing,
                object: if place < count { format!("{lost}:{path}") } else { path },
                parts: None,
                request: String::new(),
                created: begun,
                expires: begun,
                touched: begun.plus(Duration::from_micros(place as u64)),
                reason: None,
            };
            assert!(storage.uploads.begin(&upload).await.unwrap());
        }
        let cleaned = artifacts.clean(begun.plus(Duration::from_hours(48))).await.unwrap();
        assert_eq!(cleaned.forgotten, 1);
        let left = storage.uploads.to_forget(begun.plus(Duration::from_hours(47)), 0, 1_000).await.unwrap();
        assert_eq!(left.len(), count);
    }

    #[tokio::test]
    async fn what_never_comes_to_an_end_is_given_up() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let artifacts = Artifacts::load(&storage, &Config::default()).await.unwrap();
        let begun = clock::now();
        let upload = Upload {
            id: UploadId::random(),
            artifact: ArtifactId::random(),
            kind: UploadKind::Generate,
            state: UploadState::Processing,
            object: "uploads/none.tmp".to_owned(),
            parts: None,
            request: String::new(),
            created: begun,
            expires: begun.plus(Duration::from_hours(24)),
            touched: begun,
            reason: None,
        };
        assert!(storage.uploads.begin(&upload).await.unwrap());
        let after = |rounds: u32| begun.plus(TAKE_OVER * rounds + Duration::from_secs(u64::from(rounds)));
        for round in 1..=RETRIES {
            // As a node that takes it over and dies of it.
            let silent = after(round).minus(TAKE_OVER);
            let taken = storage.uploads.interrupted(silent, after(round), 10).await.unwrap();
            assert_eq!(taken.len(), 1, "round {round}");
        }
        let cleaned = artifacts.clean(after(RETRIES + 1)).await.unwrap();
        assert_eq!((cleaned.hopeless, cleaned.taken_over), (1, 0));
        let found = storage.uploads.find(upload.id).await.unwrap().unwrap();
        assert_eq!((found.state, found.reason.as_deref()), (UploadState::Aborted, Some(HOPELESS)));
    }
}
