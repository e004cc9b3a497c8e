//! Filters that somebody gave a name. Who passes one is asked when it is asked, so it is a group that changes by itself.

use crate::database::{Database, on_reader, on_writer};
use crate::{FilterId, StorageError, Timestamp};

/// Filters that may be saved.
pub const SAVED_LIMIT: i64 = 10_000;

/// A filter with a name.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SavedFilter {
    /// Which.
    pub id: FilterId,
    /// What it is called; no other is called so.
    pub name: String,
    /// Its conditions as they came: JSON.
    pub terms: String,
}

/// What became of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterSaved {
    /// It is saved.
    Saved,
    /// There is none with this id.
    Unknown,
    /// There are as many as there may be.
    TooMany,
}

/// All saved filters.
#[derive(Debug, Clone)]
pub struct SavedFilters {
    db: Database,
}

impl SavedFilters {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Saves a new filter.
    ///
    /// # Errors
    /// `Conflict` if its name is taken; `Unavailable`, `Other`.
    pub async fn add(&self, filter: &SavedFilter, now: Timestamp) -> Result<FilterSaved, StorageError> {
        let added = on_writer!(self.db, |pool| {
            sqlx::query(
                "INSERT INTO saved_filters (id, name, terms, created_at) SELECT $1, $2, $3, $4 \
                 WHERE (SELECT COUNT(*) FROM saved_filters) < $5",
            )
            .bind(filter.id)
            .bind(&filter.name)
            .bind(&filter.terms)
            .bind(now)
            .bind(SAVED_LIMIT)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        });
        Ok(if added.map_err(name_is_taken)? > 0 { FilterSaved::Saved } else { FilterSaved::TooMany })
    }

    /// Gives a filter another name and other conditions.
    ///
    /// # Errors
    /// `Conflict` if the name is another's; `Unavailable`, `Other`.
    pub async fn change(&self, filter: &SavedFilter) -> Result<FilterSaved, StorageError> {
        let changed = on_writer!(self.db, |pool| {
            sqlx::query("UPDATE saved_filters SET name = $2, terms = $3 WHERE id = $1")
                .bind(filter.id)
                .bind(&filter.name)
                .bind(&filter.terms)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        });
        Ok(if changed.map_err(name_is_taken)? > 0 { FilterSaved::Saved } else { FilterSaved::Unknown })
    }

    /// The filter with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn find(&self, id: FilterId) -> Result<Option<SavedFilter>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as("SELECT id, name, terms FROM saved_filters WHERE id = $1")
                .bind(id)
                .fetch_optional(pool)
                .await
        })
    }

    /// A page of filters in order of their names, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn list(&self, offset: u32, limit: u32) -> Result<(Vec<SavedFilter>, u64), StorageError> {
        let filters = on_reader!(self.db, |pool| {
            sqlx::query_as("SELECT id, name, terms FROM saved_filters ORDER BY name LIMIT $1 OFFSET $2")
                .bind(i64::from(limit))
                .bind(i64::from(offset))
                .fetch_all(pool)
                .await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT COUNT(*) FROM saved_filters").fetch_one(pool).await
        })?;
        Ok((filters, total.unsigned_abs()))
    }

    /// Removes a filter; says whether it was there.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove(&self, id: FilterId) -> Result<bool, StorageError> {
        let removed = on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM saved_filters WHERE id = $1")
                .bind(id)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok(removed > 0)
    }
}

fn name_is_taken(error: StorageError) -> StorageError {
    match error {
        StorageError::Conflict(_) => StorageError::Conflict("name"),
        other => other,
    }
}
