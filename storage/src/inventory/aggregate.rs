//! How many devices there are by the values of attributes, and within those by the values of others.

use std::time::Instant;

use super::attribute::{self, Column};
use super::counting::{self, Key, Kind, Wanted};
use super::search::{Question, Search};
use super::statement::Statement;
use super::{Inventory, term};
use crate::{StorageError, Timestamp};

pub use super::counting::{Bucket, Buckets, LARGEST_LIMIT};

/// A wish to count devices by the values of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregation {
    /// What the answer is called.
    pub name: String,
    /// The attribute's scope.
    pub scope: String,
    /// The attribute's name.
    pub attribute: String,
    /// How many values are told apart, those that the most devices have; at most [`LARGEST_LIMIT`].
    pub limit: u32,
    /// What to count within each of them.
    pub within: Vec<Aggregation>,
}

impl Inventory {
    /// Counts the devices that pass by the values of attributes.
    ///
    /// # Errors
    /// `TooExpensive` if it would take longer than any search may; `Unavailable`, `Corrupt`, `Other`.
    pub async fn aggregate(&self, search: &Search, aggregations: &[Aggregation]) -> Result<Vec<Buckets>, StorageError> {
        let counted = async {
            let mut reading = self.db.begin_reading(self.search_limit).await?;
            let question = Question::ask(search, &mut reading, self.search_limit).await?;
            let wanted: Vec<_> = aggregations.iter().map(Aggregation::wanted).collect();
            let deadline = Instant::now() + self.search_limit;
            let buckets = counting::count(&question, &wanted, &mut reading, deadline).await?;
            reading.transaction.commit().await?;
            Ok(buckets)
        };
        self.db.within(counted).await
    }
}

impl Aggregation {
    fn wanted(&self) -> Wanted<Level> {
        let within = self.within.iter().map(Self::wanted).collect();
        Wanted { name: self.name.clone(), level: Level::of(self), limit: self.limit, within }
    }
}

/// Where the values of an attribute come from.
#[derive(Clone)]
pub(crate) struct Level {
    column: Option<Column>,
    attribute: [u8; 8],
}

impl Level {
    fn of(aggregation: &Aggregation) -> Self {
        let column = attribute::column(&aggregation.scope, &aggregation.attribute);
        Self {
            // Ids are among the terms too, where all of them have one form.
            column: column.filter(|column| *column != Column::Id),
            attribute: term::fingerprint(&aggregation.scope, &aggregation.attribute),
        }
    }
}

impl counting::Level for Level {
    fn kind(&self) -> Kind {
        match self.column {
            Some(Column::Text(_)) => Kind::Text,
            Some(Column::Time(_)) => Kind::Number,
            Some(Column::Id) | None => Kind::Bytes,
        }
    }

    fn value(&self, number: usize) -> String {
        match self.column {
            Some(Column::Text(column) | Column::Time(column)) => column.to_owned(),
            Some(Column::Id) | None => format!("g{number}.term"),
        }
    }

    fn write_join(&self, number: usize, statement: &mut Statement) {
        if self.column.is_none() {
            let (start, end) = term::all(self.attribute);
            let alias = format!("g{number}");
            statement.push(&format!(" JOIN inventory_terms {alias} ON {alias}.device = i.device AND {alias}.term >= "));
            statement.bind(start).push(&format!(" AND {alias}.term < ")).bind(end);
            statement.push(&format!(" AND {alias}.role IN (0, 1)"));
        }
    }

    fn shown(&self, key: &Key) -> String {
        match key {
            Key::Bytes(term) => term::shown(term).unwrap_or_default(),
            Key::Text(text) => text.clone(),
            Key::Number(at) => Timestamp(*at).rfc3339(),
            Key::Boolean(_) | Key::Id(_) => String::new(),
        }
    }
}

impl counting::Rows for Question<'_> {
    type Level = Level;

    fn write_tables(&self, statement: &mut Statement) {
        self.write_tables(statement);
    }

    fn write_conditions(&self, statement: &mut Statement) {
        self.write_conditions(statement);
    }
}
