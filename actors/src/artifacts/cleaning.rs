//! Gives up what nobody works on, takes over what somebody left, and removes what is left of both.

use std::time::Duration;

use storage::{StorageError, Timestamp};
use tracing::{info, warn};

use super::Artifacts;

/// Uploads looked at in one go.
const AT_ONCE: u32 = 100;

/// How long a worker may be silent, who says every few seconds that it is at work, before another node goes on.
const TAKE_OVER: Duration = Duration::from_mins(2);

/// What one round has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Uploads that were given up.
    pub given_up: usize,
    /// Uploads that were taken over from a node that died.
    pub taken_over: usize,
    /// Uploads whose objects were removed for good.
    pub forgotten: usize,
}

impl Artifacts {
    /// One round. What fails is left for the next.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn clean(&self, now: Timestamp) -> Result<Cleaned, StorageError> {
        let before = now.minus(self.config.abandoned_after);
        let mut cleaned = Cleaned::default();
        loop {
            let orphans = self.storage.uploads.orphans(before, now, AT_ONCE).await?;
            cleaned.given_up += orphans.len();
            for orphan in &orphans {
                info!(artifact.id = %orphan.artifact, "an upload was given up");
                // The row stays for a second removal.
                if let Err(error) = self.storage.objects.discard(&orphan.object, orphan.parts.as_deref()).await {
                    warn!(%error, "what is left of an upload is removed later");
                }
            }
            if orphans.len() < AT_ONCE as usize {
                break;
            }
        }
        loop {
            let mut forgotten = 0;
            let uploads = self.storage.uploads.to_forget(before, AT_ONCE).await?;
            for upload in &uploads {
                let removed = async {
                    self.storage.objects.discard(&upload.object, upload.parts.as_deref()).await?;
                    self.storage.uploads.forget(upload.id).await
                };
                match removed.await {
                    Ok(()) => forgotten += 1,
                    Err(error) => warn!(%error, "what is left of an upload is removed later"),
                }
            }
            cleaned.forgotten += forgotten;
            // Those that cannot be removed now would come again.
            if uploads.len() < AT_ONCE as usize || forgotten == 0 {
                break;
            }
        }
        let silent = now.minus(self.config.abandoned_after.min(TAKE_OVER));
        let interrupted = self.storage.uploads.interrupted(silent, now, AT_ONCE).await?;
        cleaned.taken_over = interrupted.len();
        for upload in interrupted {
            self.work_on(upload);
        }
        Ok(cleaned)
    }
}
