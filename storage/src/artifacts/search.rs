//! Lists of artifacts: what can be asked for, and in which order.

use sqlx::QueryBuilder;

use super::{Artifacts, StoredArtifact, artifact_columns};
use crate::database::on_reader;
use crate::{StorageError, dialect};

/// What a text has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMatch {
    /// It has this in it, in upper or lower case.
    Contains(String),
    /// It is one of these.
    OneOf(Vec<String>),
    /// It begins with this, in upper or lower case.
    StartsWith(String),
    /// It begins with exactly this.
    StartsExactlyWith(String),
}

/// Which artifacts to list; `None` asks for no filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArtifactFilter {
    /// By name.
    pub name: Option<TextMatch>,
    /// By description.
    pub description: Option<TextMatch>,
    /// By kind of device: one of theirs.
    pub device_type: Option<TextMatch>,
}

/// Which way to sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    #[default]
    Ascending,
    /// Largest first.
    Descending,
}

impl Direction {
    pub(crate) const fn sql(self) -> &'static str {
        match self {
            Self::Ascending => " ASC",
            Self::Descending => " DESC",
        }
    }
}

/// What to sort by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArtifactSort {
    /// The name.
    #[default]
    Name,
    /// The last change.
    Modified,
}

impl TextMatch {
    /// The pattern for `LIKE … ESCAPE '!'` over folded text, if it is one.
    pub(super) fn pattern(&self) -> Option<String> {
        let escaped = |text: &str| dialect::literally(&text.to_lowercase());
        match self {
            Self::Contains(text) => Some(format!("%{}%", escaped(text))),
            Self::StartsWith(text) => Some(format!("{}%", escaped(text))),
            Self::OneOf(_) | Self::StartsExactlyWith(_) => None,
        }
    }
}

/// Adds `AND …` for a text in `column`, folded in `folded`, to a query of either database.
macro_rules! restrict_text {
    ($query:ident, $column:expr, $folded:expr, $wanted:expr) => {
        match $wanted {
            $crate::artifacts::TextMatch::OneOf(values) => {
                $query.push(concat!(" AND ", $column, " IN ("));
                let mut list = $query.separated(", ");
                for value in values {
                    list.push_bind(value.as_str());
                }
                $query.push(")");
            }
            $crate::artifacts::TextMatch::StartsExactlyWith(prefix) => {
                $query.push(concat!(" AND substr(", $column, ", 1, length(")).push_bind(prefix.as_str());
                $query.push(")) = ").push_bind(prefix.as_str());
            }
            other => {
                let pattern = other.pattern().unwrap_or_default();
                $query.push(concat!(" AND ", $folded, " LIKE ")).push_bind(pattern).push(" ESCAPE '!'");
            }
        }
    };
}

pub(super) use restrict_text;

/// Adds what a filter asks for.
macro_rules! restrict {
    ($query:ident, $filter:ident) => {
        if let Some(name) = &$filter.name {
            restrict_text!($query, "name", "name_folded", name);
        }
        if let Some(description) = &$filter.description {
            restrict_text!($query, "description", "description_folded", description);
        }
        if let Some(device_type) = &$filter.device_type {
            $query.push(" AND EXISTS (SELECT 1 FROM artifact_device_types WHERE artifact = artifacts.id");
            restrict_text!($query, "device_type", "folded", device_type);
            $query.push(")");
        }
    };
}

impl Artifacts {
    /// A page of the artifacts a filter asks for, and how many there are; sorted by name and id, or as asked for and then by
    /// name and id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(
        &self,
        filter: &ArtifactFilter,
        (sort, direction): (ArtifactSort, Direction),
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<StoredArtifact>, u64), StorageError> {
        let page = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!("SELECT ", artifact_columns!(), " FROM artifacts WHERE TRUE"));
            restrict!(query, filter);
            query.push(" ORDER BY ").push(match sort {
                ArtifactSort::Name => "name",
                ArtifactSort::Modified => "modified",
            });
            query.push(direction.sql()).push(", name, id LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM artifacts WHERE TRUE");
            restrict!(query, filter);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((page, total.unsigned_abs()))
    }
}
