//! Releases: all artifacts of one name, with tags and notes.

use std::collections::HashMap;

use sqlx::QueryBuilder;

use super::search::restrict_text;
use super::{
    Alteration, Artifacts, Direction, StoredArtifact, TextMatch, artifact_columns, leave_object, touch_release,
};
use crate::database::{Transaction, in_transaction, on_reader};
use crate::{DeploymentId, StorageError, Timestamp};

/// All artifacts of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The name.
    pub name: String,
    /// When it last changed.
    pub modified: Timestamp,
    /// Whatever somebody wrote about it.
    pub notes: String,
    /// Its tags in the order they were given.
    pub tags: Vec<String>,
    /// Its artifacts by id.
    pub artifacts: Vec<StoredArtifact>,
}

/// Which releases to list; `None` and no tags ask for no filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseFilter {
    /// By name.
    pub name: Option<TextMatch>,
    /// By the description of one of its artifacts.
    pub description: Option<TextMatch>,
    /// By a kind of device that one of its artifacts is for.
    pub device_type: Option<TextMatch>,
    /// By the type of a payload of one of its artifacts.
    pub kind: Option<String>,
    /// Having any of these tags.
    pub tags: Vec<String>,
}

/// What to sort releases by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReleaseSort {
    /// The name.
    #[default]
    Name,
    /// The last change.
    Modified,
    /// How many artifacts.
    Artifacts,
    /// The first tag.
    Tags,
}

/// What became of tags that were to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagsOutcome {
    /// The release has them now.
    Given,
    /// There is no such release.
    Unknown,
    /// All releases together would have more different tags than are allowed.
    TooMany,
}

#[derive(sqlx::FromRow)]
struct ReleaseRow {
    name: String,
    modified: Timestamp,
    notes: String,
}

/// Adds what a filter asks for.
macro_rules! restrict {
    ($query:ident, $filter:ident) => {
        if let Some(name) = &$filter.name {
            restrict_text!($query, "releases.name", "releases.name_folded", name);
        }
        if let Some(description) = &$filter.description {
            $query.push(" AND EXISTS (SELECT 1 FROM artifacts WHERE artifacts.name = releases.name");
            restrict_text!($query, "description", "description_folded", description);
            $query.push(")");
        }
        if let Some(device_type) = &$filter.device_type {
            $query.push(
                " AND EXISTS (SELECT 1 FROM artifacts JOIN artifact_device_types ON artifact = artifacts.id \
                 WHERE artifacts.name = releases.name",
            );
            restrict_text!($query, "device_type", "folded", device_type);
            $query.push(")");
        }
        if let Some(kind) = &$filter.kind {
            $query.push(
                " AND EXISTS (SELECT 1 FROM artifacts JOIN artifact_kinds ON artifact = artifacts.id \
                 WHERE artifacts.name = releases.name AND kind = ",
            );
            $query.push_bind(kind.as_str()).push(")");
        }
        if !$filter.tags.is_empty() {
            $query.push(" AND EXISTS (SELECT 1 FROM release_tags WHERE release = releases.name AND tag IN (");
            let mut list = $query.separated(", ");
            for tag in &$filter.tags {
                list.push_bind(tag.as_str());
            }
            $query.push("))");
        }
    };
}

impl Artifacts {
    /// A page of the releases a filter asks for, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn releases(
        &self,
        filter: &ReleaseFilter,
        (sort, direction): (ReleaseSort, Direction),
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Release>, u64), StorageError> {
        let page: Vec<ReleaseRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT name, modified, notes FROM releases WHERE TRUE");
            restrict!(query, filter);
            query.push(" ORDER BY ").push(match sort {
                ReleaseSort::Name => "name",
                ReleaseSort::Modified => "modified",
                ReleaseSort::Artifacts => "(SELECT COUNT(*) FROM artifacts WHERE artifacts.name = releases.name)",
                // One without tags stands where an empty one would.
                ReleaseSort::Tags => "COALESCE((SELECT MIN(tag) FROM release_tags WHERE release = releases.name), '')",
            });
            query.push(direction.sql()).push(", name LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM releases WHERE TRUE");
            restrict!(query, filter);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((self.complete(page).await?, total.unsigned_abs()))
    }

    /// The release of this name.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn release(&self, name: &str) -> Result<Option<Release>, StorageError> {
        let found: Option<ReleaseRow> = on_reader!(self.db, |pool| {
            sqlx::query_as("SELECT name, modified, notes FROM releases WHERE name = $1")
                .bind(name)
                .fetch_optional(pool)
                .await
        })?;
        Ok(self.complete(found.into_iter().collect()).await?.pop())
    }

    /// Adds tags and artifacts.
    async fn complete(&self, rows: Vec<ReleaseRow>) -> Result<Vec<Release>, StorageError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let artifacts: Vec<StoredArtifact> = on_reader!(self.db, |pool| {
            let mut query =
                QueryBuilder::new(concat!("SELECT ", artifact_columns!(), " FROM artifacts WHERE name IN ("));
            let mut list = query.separated(", ");
            for row in &rows {
                list.push_bind(row.name.as_str());
            }
            query.push(") ORDER BY id");
            query.build_query_as().fetch_all(pool).await
        })?;
        let tags: Vec<(String, String)> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT release, tag FROM release_tags WHERE release IN (");
            let mut list = query.separated(", ");
            for row in &rows {
                list.push_bind(row.name.as_str());
            }
            query.push(") ORDER BY release, place");
            query.build_query_as().fetch_all(pool).await
        })?;
        let mut by_name: HashMap<String, (Vec<String>, Vec<StoredArtifact>)> = HashMap::new();
        for (release, tag) in tags {
            by_name.entry(release).or_default().0.push(tag);
        }
        for artifact in artifacts {
            by_name.entry(artifact.name.clone()).or_default().1.push(artifact);
        }
        let release = |row: ReleaseRow| {
            let (tags, artifacts) = by_name.remove(&row.name).unwrap_or_default();
            Release { name: row.name, modified: row.modified, notes: row.notes, tags, artifacts }
        };
        Ok(rows.into_iter().map(release).collect())
    }

    /// All tags, sorted.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn tags(&self) -> Result<Vec<String>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT DISTINCT tag FROM release_tags ORDER BY tag").fetch_all(pool).await
        })
    }

    /// Gives a release these tags, each once, in the place of those it has. At most `most` different ones for all releases.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn set_tags(
        &self,
        name: &str,
        tags: &[String],
        most: u32,
        at: Timestamp,
    ) -> Result<TagsOutcome, StorageError> {
        let given = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_artifacts().await?;
            if !exists(&mut transaction, name).await? {
                return Ok(TagsOutcome::Unknown);
            }
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("DELETE FROM release_tags WHERE release = $1")
                    .bind(name)
                    .execute(connection)
                    .await
                    .map(drop)
            })?;
            if !tags.is_empty() {
                in_transaction!(&mut transaction, |connection| {
                    let mut query = QueryBuilder::new("INSERT INTO release_tags (release, place, tag) ");
                    query.push_values((0_i64..).zip(tags), |mut row, (place, tag)| {
                        row.push_bind(name).push_bind(place).push_bind(tag.as_str());
                    });
                    query.build().execute(connection).await.map(drop)
                })?;
            }
            let count: i64 = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar("SELECT COUNT(DISTINCT tag) FROM release_tags").fetch_one(connection).await
            })?;
            if count > i64::from(most) {
                return Ok(TagsOutcome::TooMany);
            }
            touch_release(&mut transaction, name, at).await?;
            transaction.commit().await?;
            Ok(TagsOutcome::Given)
        };
        self.db.within(Box::pin(given)).await
    }

    /// Writes something about a release. `false` if there is none of this name.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn set_notes(&self, name: &str, notes: &str, at: Timestamp) -> Result<bool, StorageError> {
        let written = async {
            let mut transaction = self.db.begin().await?;
            let rows = in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE releases SET notes = $2, modified = $3 WHERE name = $1")
                    .bind(name)
                    .bind(notes)
                    .bind(at)
                    .execute(connection)
                    .await
                    .map(|done| done.rows_affected())
            })?;
            transaction.commit().await?;
            Ok(rows > 0)
        };
        self.db.within(Box::pin(written)).await
    }

    /// Forgets all releases of these names, or none of them if an unfinished deployment uses one. Names without a release
    /// count as done. Returns the paths of their objects, which are for the caller to remove.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove_releases(
        &self,
        names: &[String],
        at: Timestamp,
    ) -> Result<Alteration<Vec<String>>, StorageError> {
        let removed = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_artifacts().await?;
            let mut users: Vec<DeploymentId> = Vec::new();
            for names in names.chunks(500) {
                let some: Vec<DeploymentId> = in_transaction!(&mut transaction, |connection| {
                    let mut query = QueryBuilder::new(
                        "SELECT DISTINCT deployment FROM deployment_artifacts WHERE is_active AND name IN (",
                    );
                    let mut list = query.separated(", ");
                    for name in names {
                        list.push_bind(name.as_str());
                    }
                    query.push(") ORDER BY deployment");
                    query.build_query_scalar().fetch_all(connection).await
                })?;
                users.extend(some);
            }
            if !users.is_empty() {
                return Ok(Alteration::InUse(users));
            }
            let mut objects: Vec<String> = Vec::new();
            for name in names {
                let some: Vec<String> = in_transaction!(&mut transaction, |connection| {
                    sqlx::query_scalar("DELETE FROM artifacts WHERE name = $1 RETURNING object")
                        .bind(name)
                        .fetch_all(connection)
                        .await
                })?;
                in_transaction!(&mut transaction, |connection| {
                    sqlx::query("DELETE FROM releases WHERE name = $1").bind(name).execute(connection).await.map(drop)
                })?;
                objects.extend(some);
            }
            for object in &objects {
                leave_object(&mut transaction, object, at).await?;
            }
            transaction.commit().await?;
            Ok(Alteration::Done(objects))
        };
        self.db.within(Box::pin(removed)).await
    }
}

async fn exists(transaction: &mut Transaction, name: &str) -> Result<bool, StorageError> {
    let found: Option<String> = in_transaction!(transaction, |connection| {
        sqlx::query_scalar("SELECT name FROM releases WHERE name = $1").bind(name).fetch_optional(connection).await
    })?;
    Ok(found.is_some())
}
