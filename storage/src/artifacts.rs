//! Artifacts and the releases they make up, as far as is known about them; their bytes are in the object store.
//!
//! What a file says about itself is kept as one JSON document, which nothing here reads. What is asked for stands in columns
//! and small tables beside it. [`uploads`](crate::uploads) has artifacts that are still on their way.

mod releases;
mod search;

use sqlx::QueryBuilder;

use crate::database::{Database, Transaction, in_transaction, on_reader, on_writer};
use crate::dialect::without_nul;
use crate::{ArtifactId, DeploymentId, StorageError, Timestamp, UploadId};

pub use releases::{Release, ReleaseFilter, ReleaseSort, TagsOutcome};
pub use search::{ArtifactFilter, ArtifactSort, Direction, TextMatch};

/// An artifact to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewArtifact {
    /// Which.
    pub id: ArtifactId,
    /// Its name, at most 2000 bytes: that of its release.
    pub name: String,
    /// Whatever its uploader says about it.
    pub description: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// Path of the object that has the file.
    pub object: String,
    /// What the file says about itself, as JSON.
    pub document: String,
    /// Kinds of device it is for.
    pub device_types: Vec<String>,
    /// Types of its payloads, at most 256 bytes each.
    pub kinds: Vec<String>,
    /// Hashes of everything a device may be for it to fit.
    pub combinations: Vec<[u8; 32]>,
    /// The upload it comes from, which has to be going on still.
    pub upload: UploadId,
    /// Now.
    pub at: Timestamp,
}

/// An artifact that is kept.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct StoredArtifact {
    /// Which.
    pub id: ArtifactId,
    /// Its name.
    pub name: String,
    /// Whatever its uploader says about it.
    pub description: String,
    /// Bytes of the whole file.
    pub size: i64,
    /// When it was kept, or its description last changed.
    pub modified: Timestamp,
    /// Path of the object that has the file.
    pub object: String,
    /// What the file says about itself, as JSON.
    pub document: String,
}

/// What became of an artifact that was to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Insertion {
    /// It is.
    Kept,
    /// There is one with this id.
    IdTaken,
    /// One of the same name fits the same devices: the place of one such combination in the list.
    NotUnique(usize),
    /// All artifacts together would have more bytes than are allowed.
    NoRoom,
    /// The upload was given up by somebody else in the meantime.
    UploadGone,
}

/// What became of an artifact that was to be altered or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alteration<T> {
    /// It was.
    Done(T),
    /// There is none, or none of that name.
    Unknown,
    /// These deployments need it.
    InUse(Vec<DeploymentId>),
}

/// The columns of a [`StoredArtifact`].
macro_rules! artifact_columns {
    () => {
        "id, name, description, size, modified, object, document"
    };
}

pub(crate) use artifact_columns;

/// All artifacts and releases.
#[derive(Debug, Clone)]
pub struct Artifacts {
    db: Database,
}

impl Artifacts {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Makes an artifact known, and its release with the first of a name. With it goes the upload that it came by, and every
    /// unfinished deployment of its name may hand it out from now on. At most `room` bytes for all artifacts; 0: any number.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. It may be known then: [`Artifacts::find`] tells.
    pub async fn insert(&self, new: &NewArtifact, room: u64) -> Result<Insertion, StorageError> {
        let inserted = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_artifacts().await?;
            let refusal = refusal(&mut transaction, new, room).await?;
            if refusal != Insertion::Kept {
                return Ok(refusal);
            }
            write(&mut transaction, new).await?;
            transaction.commit().await?;
            Ok(Insertion::Kept)
        };
        self.db.within(Box::pin(inserted)).await
    }

    /// The artifact with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: ArtifactId) -> Result<Option<StoredArtifact>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(concat!("SELECT ", artifact_columns!(), " FROM artifacts WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })
    }

    /// The artifacts of this name, smallest first; of equally large ones in the order of their ids. With `device_type`, those
    /// for devices of that kind alone. Whether a device has what else they depend on, their documents tell.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn candidates(&self, name: &str, device_type: Option<&str>) -> Result<Vec<StoredArtifact>, StorageError> {
        on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!("SELECT ", artifact_columns!(), " FROM artifacts WHERE name = "));
            query.push_bind(name);
            if let Some(device_type) = device_type {
                query.push(
                    " AND EXISTS (SELECT 1 FROM artifact_device_types WHERE artifact = artifacts.id AND device_type = ",
                );
                query.push_bind(device_type).push(")");
            }
            query.push(" ORDER BY size, id");
            query.build_query_as().fetch_all(pool).await
        })
    }

    /// Of these artifacts, those for devices of this kind, as [`Artifacts::candidates`].
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn candidates_among(
        &self,
        deployment: DeploymentId,
        device_type: &str,
    ) -> Result<Vec<StoredArtifact>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                artifact_columns!(),
                " FROM artifacts WHERE id IN (SELECT artifact FROM deployment_artifacts WHERE deployment = $1) \
                 AND EXISTS (SELECT 1 FROM artifact_device_types WHERE artifact = artifacts.id AND device_type = $2) \
                 ORDER BY size, id"
            ))
            .bind(deployment)
            .bind(device_type)
            .fetch_all(pool)
            .await
        })
    }

    /// Bytes of all artifacts.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn usage(&self) -> Result<u64, StorageError> {
        let sum: i64 = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM artifacts").fetch_one(pool).await
        })?;
        Ok(sum.unsigned_abs())
    }

    /// Types of all payloads, sorted.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn kinds(&self) -> Result<Vec<String>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT DISTINCT kind FROM artifact_kinds ORDER BY kind").fetch_all(pool).await
        })
    }

    /// Gives an artifact another description, unless a deployment ever used it.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn describe(
        &self,
        id: ArtifactId,
        description: &str,
        at: Timestamp,
    ) -> Result<Alteration<()>, StorageError> {
        let described = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_artifacts().await?;
            // Uses are remembered longer than artifacts.
            let name: Option<String> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar("SELECT name FROM artifacts WHERE id = $1").bind(id).fetch_optional(connection).await
            })?;
            let Some(name) = name else { return Ok(Alteration::Unknown) };
            let users = users(&mut transaction, id, false).await?;
            if !users.is_empty() {
                return Ok(Alteration::InUse(users));
            }
            let description = without_nul(description);
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "UPDATE artifacts SET description = $2, description_folded = $3, modified = $4 WHERE id = $1",
                )
                .bind(id)
                .bind(&description)
                .bind(description.to_lowercase())
                .bind(at)
                .execute(connection)
                .await
                .map(drop)
            })?;
            touch_release(&mut transaction, &name, at).await?;
            transaction.commit().await?;
            Ok(Alteration::Done(()))
        };
        self.db.within(Box::pin(described)).await
    }

    /// Forgets an artifact, unless an unfinished deployment may hand it out; with the last of a name goes its release.
    /// Returns the path of its object, which is for the caller to remove.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove(&self, id: ArtifactId, at: Timestamp) -> Result<Alteration<String>, StorageError> {
        let removed = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_artifacts().await?;
            let users = users(&mut transaction, id, true).await?;
            if !users.is_empty() {
                return Ok(Alteration::InUse(users));
            }
            let found: Option<(String, String)> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_as("DELETE FROM artifacts WHERE id = $1 RETURNING name, object")
                    .bind(id)
                    .fetch_optional(connection)
                    .await
            })?;
            let Some((name, object)) = found else { return Ok(Alteration::Unknown) };
            in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "DELETE FROM releases WHERE name = $1 AND NOT EXISTS (SELECT 1 FROM artifacts WHERE name = $1)",
                )
                .bind(&name)
                .execute(connection)
                .await
                .map(drop)
            })?;
            touch_release(&mut transaction, &name, at).await?;
            leave_object(&mut transaction, &object, at).await?;
            transaction.commit().await?;
            Ok(Alteration::Done(object))
        };
        self.db.within(Box::pin(removed)).await
    }

    /// A deployment of this name begins: it may hand out every artifact that has the name now. Returns their ids; none
    /// leaves everything as it was.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn begin_use(&self, deployment: DeploymentId, name: &str) -> Result<Vec<ArtifactId>, StorageError> {
        let begun = async {
            let mut transaction = self.db.begin().await?;
            let ids = begin_use(&mut transaction, deployment, name).await?;
            transaction.commit().await?;
            Ok(ids)
        };
        self.db.within(Box::pin(begun)).await
    }

    /// A deployment is over: its artifacts may be removed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn end_use(&self, deployment: DeploymentId) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query("UPDATE deployment_artifacts SET is_active = FALSE WHERE deployment = $1")
                .bind(deployment)
                .execute(pool)
                .await
                .map(drop)
        })
    }
}

/// As [`Artifacts::begin_use`], within the transaction that makes the deployment known.
pub(crate) async fn begin_use(
    transaction: &mut Transaction,
    deployment: DeploymentId,
    name: &str,
) -> Result<Vec<ArtifactId>, StorageError> {
    transaction.lock_artifacts().await?;
    in_transaction!(transaction, |connection| {
        sqlx::query_scalar(
            "INSERT INTO deployment_artifacts (deployment, artifact, name, is_active) \
             SELECT $1, id, name, TRUE FROM artifacts WHERE name = $2 RETURNING artifact",
        )
        .bind(deployment)
        .bind(name)
        .fetch_all(connection)
        .await
    })
}

/// Why an artifact cannot be kept; `Kept` if it can.
async fn refusal(transaction: &mut Transaction, new: &NewArtifact, room: u64) -> Result<Insertion, StorageError> {
    let upload = in_transaction!(&mut *transaction, |connection| {
        sqlx::query("DELETE FROM uploads WHERE id = $1 AND state = 'writing'")
            .bind(new.upload)
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
    })?;
    if upload == 0 {
        return Ok(Insertion::UploadGone);
    }
    let is_taken: Option<ArtifactId> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT id FROM artifacts WHERE id = $1").bind(new.id).fetch_optional(connection).await
    })?;
    if is_taken.is_some() {
        return Ok(Insertion::IdTaken);
    }
    let taken: Vec<Vec<u8>> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT combination FROM artifact_combinations WHERE name = $1")
            .bind(&new.name)
            .fetch_all(connection)
            .await
    })?;
    let taken: std::collections::HashSet<Vec<u8>> = taken.into_iter().collect();
    if let Some(place) = new.combinations.iter().position(|combination| taken.contains(&combination[..])) {
        return Ok(Insertion::NotUnique(place));
    }
    if room > 0 {
        let used: i64 = in_transaction!(&mut *transaction, |connection| {
            sqlx::query_scalar("SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM artifacts")
                .fetch_one(connection)
                .await
        })?;
        if used.unsigned_abs().saturating_add(new.size) > room {
            return Ok(Insertion::NoRoom);
        }
    }
    Ok(Insertion::Kept)
}

async fn write(transaction: &mut Transaction, new: &NewArtifact) -> Result<(), StorageError> {
    let description = without_nul(&new.description);
    let size = i64::try_from(new.size).map_err(|error| StorageError::other("cannot keep an artifact", error))?;
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "INSERT INTO releases (name, name_folded, modified) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET modified = excluded.modified",
        )
        .bind(&new.name)
        .bind(new.name.to_lowercase())
        .bind(new.at)
        .execute(connection)
        .await
        .map(drop)
    })?;
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "INSERT INTO artifacts (id, name, name_folded, description, description_folded, size, modified, object, \
             document) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(new.id)
        .bind(&new.name)
        .bind(new.name.to_lowercase())
        .bind(&description)
        .bind(description.to_lowercase())
        .bind(size)
        .bind(new.at)
        .bind(&new.object)
        .bind(without_nul(&new.document))
        .execute(connection)
        .await
        .map(drop)
    })?;
    // Fewer than a statement takes, however many there are of each.
    for rows in new.device_types.chunks(500) {
        in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new("INSERT INTO artifact_device_types (artifact, device_type, folded) ");
            query.push_values(rows, |mut row, device_type| {
                row.push_bind(new.id).push_bind(device_type).push_bind(device_type.to_lowercase());
            });
            query.build().execute(connection).await.map(drop)
        })?;
    }
    let mut kinds: Vec<&String> = new.kinds.iter().collect();
    kinds.sort_unstable();
    kinds.dedup();
    for rows in kinds.chunks(500) {
        in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new("INSERT INTO artifact_kinds (artifact, kind) ");
            query.push_values(rows, |mut row, kind| {
                row.push_bind(new.id).push_bind(kind.as_str());
            });
            query.build().execute(connection).await.map(drop)
        })?;
    }
    for rows in new.combinations.chunks(500) {
        in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new("INSERT INTO artifact_combinations (name, combination, artifact) ");
            query.push_values(rows, |mut row, combination| {
                row.push_bind(&new.name).push_bind(combination.to_vec()).push_bind(new.id);
            });
            query.build().execute(connection).await.map(drop)
        })?;
    }
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "INSERT INTO deployment_artifacts (deployment, artifact, name, is_active) \
             SELECT DISTINCT uses.deployment, artifacts.id, artifacts.name, uses.is_active \
             FROM deployment_artifacts AS uses, artifacts \
             WHERE artifacts.id = $1 AND uses.name = artifacts.name AND uses.is_active",
        )
        .bind(new.id)
        .execute(connection)
        .await
        .map(drop)
    })?;
    Ok(())
}

async fn touch_release(transaction: &mut Transaction, name: &str, at: Timestamp) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query("UPDATE releases SET modified = $2 WHERE name = $1")
            .bind(name)
            .bind(at)
            .execute(connection)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// The deployments that use an artifact: unfinished ones, or all that are known.
async fn users(
    transaction: &mut Transaction,
    artifact: ArtifactId,
    active_only: bool,
) -> Result<Vec<DeploymentId>, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_scalar(
            "SELECT deployment FROM deployment_artifacts WHERE artifact = $1 AND (is_active OR NOT $2) \
             ORDER BY deployment",
        )
        .bind(artifact)
        .bind(active_only)
        .fetch_all(connection)
        .await
    })
}

/// Notes an object that nobody needs any more, so that it goes even if the process that was to remove it goes first.
async fn leave_object(transaction: &mut Transaction, object: &str, at: Timestamp) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO uploads (id, artifact, kind, state, object, request, created, expires, touched) \
             VALUES ($1, $2, 'file', 'removing', $3, '', $4, $4, $4)",
        )
        .bind(UploadId::random())
        .bind(ArtifactId::random())
        .bind(object)
        .bind(at)
        .execute(connection)
        .await
        .map(drop)
    })?;
    Ok(())
}
