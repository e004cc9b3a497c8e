//! Artifacts on their way into the hub, so that nothing of one that does not arrive stays behind.
//!
//! ```text
//! file:              writing ──▶ (gone: the artifact is known)       given up ──▶ removing ──▶ (gone)
//! direct, generate:  pending ──▶ processing ──▶ completed | aborted ──▶ (gone, with the object)
//! ```
//!
//! Whoever works on an upload touches it now and then. One that was not touched for long has lost its worker: it is claimed in
//! one statement, after which the worker, should it come back, can no longer make the artifact known. That one can be taken over
//! only so often, since what it does may be what ends its workers. An object is removed
//! twice, the second time long after the first, since a request of such a worker may still be under way to the store.

use crate::database::{Database, on_reader, on_writer};
use crate::dialect::without_nul;
use crate::{ArtifactId, StorageError, Timestamp, UploadId};

/// How an artifact gets here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UploadKind {
    /// Its file is written to its place.
    File,
    /// A client brings the file to the object store by itself.
    Direct,
    /// The hub makes the file.
    Generate,
}

impl UploadKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Direct => "direct",
            Self::Generate => "generate",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::File, Self::Direct, Self::Generate].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What is going on with an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UploadState {
    /// The object is being written.
    Writing,
    /// Nobody has said yet that the object is there.
    Pending,
    /// The object is being read.
    Processing,
    /// The artifact is known.
    Completed,
    /// There will be no artifact.
    Aborted,
    /// What is left of it is being removed.
    Removing,
}

impl UploadState {
    const ALL: [Self; 6] =
        [Self::Writing, Self::Pending, Self::Processing, Self::Completed, Self::Aborted, Self::Removing];

    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Removing => "removing",
        }
    }
}

/// An upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Which.
    pub id: UploadId,
    /// The artifact it is to become.
    pub artifact: ArtifactId,
    /// How it gets here.
    pub kind: UploadKind,
    /// What is going on with it.
    pub state: UploadState,
    /// Path of its object.
    pub object: String,
    /// Number of its parts at the object store, while it has some.
    pub parts: Option<String>,
    /// What was asked for, as JSON.
    pub request: String,
    /// When it began.
    pub created: Timestamp,
    /// When it is given up if nothing happens.
    pub expires: Timestamp,
    /// When its worker last said that it is at work.
    pub touched: Timestamp,
    /// Why there will be no artifact.
    pub reason: Option<String>,
}

#[derive(sqlx::FromRow)]
struct UploadRow {
    id: UploadId,
    artifact: ArtifactId,
    kind: String,
    state: String,
    object: String,
    parts: Option<String>,
    request: String,
    created: Timestamp,
    expires: Timestamp,
    touched: Timestamp,
    reason: Option<String>,
}

impl TryFrom<UploadRow> for Upload {
    type Error = StorageError;

    fn try_from(row: UploadRow) -> Result<Self, StorageError> {
        let unknown = |what: &str| StorageError::Corrupt(format!("upload {} has the unknown {what}", row.id));
        Ok(Self {
            kind: UploadKind::from_word(&row.kind).ok_or_else(|| unknown("kind"))?,
            state: UploadState::ALL
                .into_iter()
                .find(|state| state.as_str() == row.state)
                .ok_or_else(|| unknown("state"))?,
            id: row.id,
            artifact: row.artifact,
            object: row.object,
            parts: row.parts,
            request: row.request,
            created: row.created,
            expires: row.expires,
            touched: row.touched,
            reason: row.reason,
        })
    }
}

/// The columns of an [`Upload`].
macro_rules! upload_columns {
    () => {
        "id, artifact, kind, state, object, parts, request, created, expires, touched, reason"
    };
}

/// All uploads.
#[derive(Debug, Clone)]
pub struct Uploads {
    db: Database,
}

impl Uploads {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Writes an upload down, before a byte of its object is written. `false` if its artifact's id is taken.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn begin(&self, upload: &Upload) -> Result<bool, StorageError> {
        let rows = on_writer!(self.db, |pool| {
            sqlx::query(
                "INSERT INTO uploads (id, artifact, kind, state, object, parts, request, created, expires, touched) \
                 SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 \
                 WHERE NOT EXISTS (SELECT 1 FROM artifacts WHERE id = $2)",
            )
            .bind(upload.id)
            .bind(upload.artifact)
            .bind(upload.kind.as_str())
            .bind(upload.state.as_str())
            .bind(&upload.object)
            .bind(upload.parts.as_deref())
            .bind(without_nul(&upload.request))
            .bind(upload.created)
            .bind(upload.expires)
            .bind(upload.touched)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        Ok(rows > 0)
    }

    /// The upload with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: UploadId) -> Result<Option<Upload>, StorageError> {
        let found: Option<UploadRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!("SELECT ", upload_columns!(), " FROM uploads WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?;
        found.map(TryInto::try_into).transpose()
    }

    /// The latest upload that is to become this artifact, or was, and is still remembered.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn of_artifact(&self, artifact: ArtifactId) -> Result<Option<Upload>, StorageError> {
        let found: Option<UploadRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                upload_columns!(),
                " FROM uploads WHERE artifact = $1 AND kind <> 'file' ORDER BY created DESC LIMIT 1"
            ))
            .bind(artifact)
            .fetch_optional(pool)
            .await
        })?;
        found.map(TryInto::try_into).transpose()
    }

    /// Its worker is at work, with these parts at the object store. `false` if the upload was taken from it.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn touch(&self, id: UploadId, parts: Option<&str>, at: Timestamp) -> Result<bool, StorageError> {
        let rows = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE uploads SET touched = $3, parts = COALESCE($2, parts) \
                 WHERE id = $1 AND state IN ('writing', 'processing')",
            )
            .bind(id)
            .bind(parts)
            .bind(at)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        Ok(rows > 0)
    }

    /// The object of a pending upload is there: whoever gets the upload has to work on it. `None` if it is not pending.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn take(&self, id: UploadId, at: Timestamp) -> Result<Option<Upload>, StorageError> {
        let taken: Option<UploadRow> = on_writer!(self.db, |pool| {
            sqlx::query_as(concat!(
                "UPDATE uploads SET state = 'processing', touched = $2 WHERE id = $1 AND state = 'pending' \
                 AND expires > $2 RETURNING ",
                upload_columns!()
            ))
            .bind(id)
            .bind(at)
            .fetch_optional(pool)
            .await
        })?;
        taken.map(TryInto::try_into).transpose()
    }

    /// All of an object is written: whoever gets the upload has to work on it, as `request` says. `None` if it was given up.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn written(&self, id: UploadId, request: &str, at: Timestamp) -> Result<Option<Upload>, StorageError> {
        let taken: Option<UploadRow> = on_writer!(self.db, |pool| {
            sqlx::query_as(concat!(
                "UPDATE uploads SET state = 'processing', request = $2, touched = $3 \
                 WHERE id = $1 AND state = 'writing' RETURNING ",
                upload_columns!()
            ))
            .bind(id)
            .bind(without_nul(request))
            .bind(at)
            .fetch_optional(pool)
            .await
        })?;
        taken.map(TryInto::try_into).transpose()
    }

    /// Work on an upload is over: the artifact is known, or `reason` says why there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn conclude(&self, id: UploadId, reason: Option<&str>, at: Timestamp) -> Result<(), StorageError> {
        let state = if reason.is_some() { UploadState::Aborted } else { UploadState::Completed };
        on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE uploads SET state = $2, reason = $3, touched = $4 WHERE id = $1 AND state = 'processing'",
            )
            .bind(id)
            .bind(state.as_str())
            .bind(reason.map(without_nul))
            .bind(at)
            .execute(pool)
            .await
            .map(drop)
        })
    }

    /// Gives a file up: from now on it can no longer become an artifact.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn give_up(&self, id: UploadId, at: Timestamp) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query("UPDATE uploads SET state = 'removing', touched = $2 WHERE id = $1 AND state = 'writing'")
                .bind(id)
                .bind(at)
                .execute(pool)
                .await
                .map(drop)
        })
    }

    /// Gives up to `limit` files up that were not touched since `before`, and returns them: what they have left behind is to be
    /// removed, and once more after [`Uploads::to_forget`] says so.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn orphans(&self, before: Timestamp, at: Timestamp, limit: u32) -> Result<Vec<Upload>, StorageError> {
        let rows: Vec<UploadRow> = on_writer!(self.db, |pool| {
            sqlx::query_as(concat!(
                "UPDATE uploads SET state = 'removing', touched = $2 WHERE id IN \
                 (SELECT id FROM uploads WHERE state = 'writing' AND touched < $1 ORDER BY touched LIMIT $3) \
                 AND state = 'writing' AND touched < $1 RETURNING ",
                upload_columns!()
            ))
            .bind(before)
            .bind(at)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
        })?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    /// Up to `limit` uploads whose objects have to be removed (once more) before they are forgotten: files given up before
    /// `before`, and all others that expired before it and that nobody is working on. The first `skipped` are passed over.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn to_forget(&self, before: Timestamp, skipped: u64, limit: u32) -> Result<Vec<Upload>, StorageError> {
        let rows: Vec<UploadRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                upload_columns!(),
                " FROM uploads WHERE (state = 'removing' AND touched < $1) \
                 OR (state IN ('pending', 'completed', 'aborted') AND expires < $1) \
                 ORDER BY touched, id LIMIT $2 OFFSET $3"
            ))
            .bind(before)
            .bind(i64::from(limit))
            .bind(i64::try_from(skipped).unwrap_or(i64::MAX))
            .fetch_all(pool)
            .await
        })?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    /// Forgets an upload whose object is removed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn forget(&self, id: UploadId) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM uploads WHERE id = $1 AND state NOT IN ('writing', 'processing')")
                .bind(id)
                .execute(pool)
                .await
                .map(drop)
        })
    }

    /// The object of an artifact that is no longer known was removed, which nobody can have written to meanwhile.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn forget_object(&self, object: &str) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM uploads WHERE object = $1 AND state = 'removing'")
                .bind(object)
                .execute(pool)
                .await
                .map(drop)
        })
    }

    /// Ends, with this reason, uploads that somebody worked on, but not since `before`, and that were either taken over
    /// `retries` times already or had expired by `expired`. Returns how many.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn end_hopeless(
        &self,
        (before, expired): (Timestamp, Timestamp),
        retries: u32,
        reason: &str,
        at: Timestamp,
    ) -> Result<u64, StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE uploads SET state = 'aborted', reason = $5, touched = $4 \
                 WHERE state = 'processing' AND touched < $1 AND (retries >= $3 OR expires < $2)",
            )
            .bind(before)
            .bind(expired)
            .bind(i64::from(retries))
            .bind(at)
            .bind(reason)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })
    }

    /// Takes over up to `limit` uploads that somebody worked on, but not since `before`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn interrupted(&self, before: Timestamp, at: Timestamp, limit: u32) -> Result<Vec<Upload>, StorageError> {
        let rows: Vec<UploadRow> = on_writer!(self.db, |pool| {
            sqlx::query_as(concat!(
                "UPDATE uploads SET touched = $2, retries = retries + 1 WHERE id IN \
                 (SELECT id FROM uploads WHERE state = 'processing' AND touched < $1 ORDER BY touched LIMIT $3) \
                 AND state = 'processing' AND touched < $1 RETURNING ",
                upload_columns!()
            ))
            .bind(before)
            .bind(at)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
        })?;
        rows.into_iter().map(TryInto::try_into).collect()
    }
}
