//! How many devices there are by the values of attributes, and within those by the values of others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use sqlx::{AssertSqlSafe, Row};

use super::attribute::{self, Column};
use super::search::{Question, Search};
use super::statement::{Statement, with_arguments};
use super::{Inventory, term};
use crate::database::{Reading, in_transaction};
use crate::{StorageError, Timestamp};

/// Values that are told apart by one aggregation, at most.
pub const LARGEST_LIMIT: u32 = 1_000;

/// Groups that come out of one aggregation within others.
const GROUPS: usize = 100_000;

/// Values of all levels above one within which it is counted: each is a value of the statement.
const VALUES_KEPT: usize = 10_000;

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

/// How many devices have each value of an attribute. Of an array each element counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// As the aggregation was called.
    pub name: String,
    /// The values that the most devices have, those first.
    pub items: Vec<Bucket>,
    /// How many have others.
    pub other: u64,
}

/// How many devices have a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The value; a number as JSON writes it.
    pub key: String,
    /// How many have it.
    pub count: u64,
    /// What was counted within them.
    pub within: Vec<Buckets>,
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
            let mut counting = Counting { question, reading, deadline: Instant::now() + self.search_limit };
            let mut buckets = Vec::new();
            for aggregation in aggregations {
                let mut counted = counting.count(aggregation, &mut Vec::new()).await?;
                buckets.push(counted.take(&[], aggregation));
            }
            counting.reading.transaction.commit().await?;
            Ok(buckets)
        };
        self.db.within(counted).await
    }
}

/// A value of an attribute as its table keeps it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Term(Vec<u8>),
    Text(String),
    Time(i64),
}

impl Key {
    fn shown(&self) -> String {
        match self {
            Self::Term(term) => term::shown(term).unwrap_or_default(),
            Self::Text(text) => text.clone(),
            Self::Time(at) => Timestamp(*at).rfc3339(),
        }
    }
}

/// One attribute on the way from the top, with the values that are kept of it.
struct Step {
    level: Level,
    kept: BTreeSet<Key>,
}

/// Where the values of an attribute come from.
#[derive(Clone)]
struct Level {
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

    fn write_kept(&self, number: usize, kept: &BTreeSet<Key>, statement: &mut Statement) {
        statement.push(" AND ").push(&self.value(number)).push(" IN (");
        for (place, key) in kept.iter().enumerate() {
            statement.push(if place > 0 { ", " } else { "" });
            match key {
                Key::Term(term) => statement.bind(term.clone()),
                Key::Text(text) => statement.bind(text.clone()),
                Key::Time(at) => statement.bind(*at),
            };
        }
        statement.push(")");
    }
}

/// By the way down to them, values with their numbers, the largest first, and how many devices have any.
type Ranked = BTreeMap<Vec<Key>, (Vec<(Key, u64)>, u64)>;

/// What one aggregation found: for each way down to it the largest values, and how many there are of all.
struct Counted {
    by_path: Ranked,
    within: Vec<Counted>,
}

impl Counted {
    /// The answer for one way down.
    fn take(&mut self, path: &[Key], aggregation: &Aggregation) -> Buckets {
        let (values, total) = self.by_path.remove(path).unwrap_or_default();
        let shown: u64 = values.iter().map(|(_, count)| count).sum();
        let items = values.into_iter().map(|(key, count)| {
            let path = [path, std::slice::from_ref(&key)].concat();
            let pairs = self.within.iter_mut().zip(&aggregation.within);
            let within = pairs.map(|(counted, aggregation)| counted.take(&path, aggregation)).collect();
            Bucket { key: key.shown(), count, within }
        });
        let items = items.collect();
        Buckets { name: aggregation.name.clone(), items, other: total.saturating_sub(shown) }
    }
}

struct Counting<'a> {
    question: Question<'a>,
    reading: Reading,
    deadline: Instant,
}

impl Counting<'_> {
    /// Counts an aggregation below `path`, and what is within it.
    async fn count(&mut self, aggregation: &Aggregation, path: &mut Vec<Step>) -> Result<Counted, StorageError> {
        if Instant::now() > self.deadline {
            return Err(StorageError::TooExpensive("the aggregation takes too long: ask for fewer levels or devices"));
        }
        let level = Level::of(aggregation);
        let by_path = self.rank(&level, aggregation.limit.clamp(1, LARGEST_LIMIT), path).await?;
        let kept: BTreeSet<Key> =
            by_path.values().flat_map(|(values, _)| values.iter().map(|(key, _)| key.clone())).collect();
        let mut within = Vec::new();
        if !kept.is_empty() && !aggregation.within.is_empty() {
            if path.iter().map(|step| step.kept.len()).sum::<usize>() + kept.len() > VALUES_KEPT {
                return Err(StorageError::TooExpensive(
                    "the aggregation is within too many values: ask for fewer levels or lower limits",
                ));
            }
            path.push(Step { level, kept });
            for inner in &aggregation.within {
                // A future that holds itself has to be boxed.
                within.push(Box::pin(self.count(inner, path)).await?);
            }
            path.pop();
        }
        Ok(Counted { by_path, within })
    }

    async fn rank(&mut self, level: &Level, limit: u32, path: &[Step]) -> Result<Ranked, StorageError> {
        let statement = self.statement(level, limit, path);
        let columns: Vec<Option<Column>> = path.iter().map(|step| step.level.column).chain([level.column]).collect();
        let depth = columns.len();
        let rows: Vec<(Vec<Key>, i64, i64)> = in_transaction!(&mut self.reading.transaction, |connection| async {
            let query = with_arguments!(statement, sqlx::query(AssertSqlSafe(statement.text.clone())));
            let rows = query.fetch_all(connection).await?;
            rows.iter()
                .map(|row| {
                    let key = |(place, column): (usize, &Option<Column>)| {
                        Ok(match column {
                            Some(Column::Text(_)) => Key::Text(row.try_get(place)?),
                            Some(Column::Time(_)) => Key::Time(row.try_get(place)?),
                            Some(Column::Id) | None => Key::Term(row.try_get(place)?),
                        })
                    };
                    let keys: Result<Vec<Key>, sqlx::Error> = columns.iter().enumerate().map(key).collect();
                    Ok((keys?, row.try_get(depth)?, row.try_get(depth + 1)?))
                })
                .collect::<Result<Vec<_>, sqlx::Error>>()
        }
        .await)?;
        if rows.len() > GROUPS {
            return Err(StorageError::TooExpensive("the aggregation has too many groups: ask for fewer levels"));
        }
        let mut by_path = Ranked::new();
        for (mut keys, count, total) in rows {
            let Some(key) = keys.pop() else { continue };
            let found = by_path.entry(keys).or_default();
            found.0.push((key, count.unsigned_abs()));
            found.1 = total.unsigned_abs();
        }
        Ok(by_path)
    }

    /// The largest values of an attribute for each way down to it, with their numbers and that of all.
    fn statement(&self, level: &Level, limit: u32, path: &[Step]) -> Statement {
        let mut statement = Statement::new(self.reading.transaction.dialect(), "SELECT ");
        let depth = path.len();
        let names: Vec<String> = (0..=depth).map(|number| format!("v{number}")).collect();
        let (above, all) = (names[..depth].join(", "), names.join(", "));
        let partition = if depth == 0 { String::new() } else { format!("PARTITION BY {above} ") };
        statement.push(&all).push(", devices, total FROM (SELECT ").push(&all).push(&format!(
            ", devices, CAST(SUM(devices) OVER ({partition}) AS BIGINT) AS total, \
             ROW_NUMBER() OVER ({partition}ORDER BY devices DESC, v{depth}) AS place FROM (SELECT "
        ));
        for (number, step) in path.iter().enumerate() {
            statement.push(&format!("{} AS v{number}, ", step.level.value(number)));
        }
        statement.push(&format!("{} AS v{depth}, COUNT(*) AS devices", level.value(depth)));
        self.question.write_tables(&mut statement);
        for (number, step) in path.iter().enumerate() {
            step.level.write_join(number, &mut statement);
        }
        level.write_join(depth, &mut statement);
        statement.push(" WHERE ");
        self.question.write_conditions(&mut statement);
        for (number, step) in path.iter().enumerate() {
            step.level.write_kept(number, &step.kept, &mut statement);
        }
        statement.push(&format!(" AND {} IS NOT NULL GROUP BY {all}", level.value(depth)));
        statement.push(") AS counted) AS ranked WHERE place <= ").bind(i64::from(limit));
        statement.push(&format!(" ORDER BY {}place LIMIT ", if depth == 0 { String::new() } else { above + ", " }));
        statement.bind(i64::try_from(GROUPS + 1).unwrap_or(i64::MAX));
        statement
    }
}
