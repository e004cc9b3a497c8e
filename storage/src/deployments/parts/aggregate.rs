//! How many parts there are by the values of their fields, and within those by the values of others.

use std::time::Instant;

use super::field::{Asked, Column};
use super::{PartField, PartSearch, TABLES, ask, write_conditions};
use crate::deployments::{Deployments, DeviceState};
use crate::inventory::aggregate::Buckets;
use crate::inventory::counting::{self, Key, Kind, Wanted};
use crate::inventory::statement::Statement;
use crate::{StorageError, Timestamp};

/// A wish to count parts by the values of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartAggregation {
    /// What the answer is called.
    pub name: String,
    /// What is told apart.
    pub field: PartField,
    /// How many values are told apart, those that the most parts have; at most
    /// [`LARGEST_LIMIT`](crate::inventory::aggregate::LARGEST_LIMIT).
    pub limit: u32,
    /// What to count within each of them.
    pub within: Vec<PartAggregation>,
}

impl Deployments {
    /// Counts the parts that pass by the values of fields; order and page of the search do not matter.
    ///
    /// # Errors
    /// `TooExpensive` if it would take longer than any search may; `Unavailable`, `Corrupt`, `Other`.
    pub async fn aggregate_parts(
        &self,
        search: &PartSearch,
        aggregations: &[PartAggregation],
    ) -> Result<Vec<Buckets>, StorageError> {
        let counted = async {
            let mut reading = self.db.begin_reading(self.search_limit).await?;
            let asked = ask(search, &mut reading, self.search_limit).await?;
            let wanted: Vec<_> = aggregations.iter().map(PartAggregation::wanted).collect();
            let deadline = Instant::now() + self.search_limit;
            let buckets = counting::count(&Parts { search, asked }, &wanted, &mut reading, deadline).await?;
            reading.transaction.commit().await?;
            Ok(buckets)
        };
        self.db.within(Box::pin(counted)).await
    }
}

impl PartAggregation {
    fn wanted(&self) -> Wanted<Column> {
        let within = self.within.iter().map(Self::wanted).collect();
        Wanted { name: self.name.clone(), level: self.field.column(), limit: self.limit, within }
    }
}

/// The parts that pass.
struct Parts<'a> {
    search: &'a PartSearch,
    asked: Vec<Asked<'a>>,
}

impl counting::Rows for Parts<'_> {
    type Level = Column;

    fn write_tables(&self, statement: &mut Statement) {
        statement.push(TABLES);
    }

    fn write_conditions(&self, statement: &mut Statement) {
        write_conditions(self.search, &self.asked, statement);
    }
}

impl counting::Level for Column {
    fn kind(&self) -> Kind {
        match self {
            Self::Text { .. } | Self::Texts { .. } => Kind::Text,
            Self::Id(_) => Kind::Id,
            Self::Number(_) | Self::Time(_) | Self::Status => Kind::Number,
            Self::Boolean(_) => Kind::Boolean,
        }
    }

    fn value(&self, number: usize) -> String {
        match self {
            Self::Text { column, .. } | Self::Id(column) | Self::Number(column) | Self::Boolean(column) => {
                (*column).to_owned()
            }
            // As it is shown and asked about.
            Self::Time(column) => format!("({column} - {column} % 1000)"),
            Self::Texts { .. } => format!("e{number}.value"),
            Self::Status => "r.status".to_owned(),
        }
    }

    fn write_join(&self, number: usize, statement: &mut Statement) {
        if let Self::Texts { document, member, .. } = self {
            let elements = statement.dialect.elements(&format!("e{number}"), document, *member);
            statement.push(" CROSS JOIN ").push(&elements);
        }
    }

    fn shown(&self, key: &Key) -> String {
        match (self, key) {
            (Self::Status, Key::Number(number)) => {
                DeviceState::from_number(*number).map(DeviceState::as_str).unwrap_or_default().to_owned()
            }
            (Self::Time(_), Key::Number(at)) => Timestamp(*at).rfc3339(),
            (_, Key::Number(number)) => number.to_string(),
            (_, Key::Text(text)) => text.clone(),
            (_, Key::Boolean(is_so)) => is_so.to_string(),
            (_, Key::Id(id)) => id.to_string(),
            (_, Key::Bytes(_)) => String::new(),
        }
    }
}
