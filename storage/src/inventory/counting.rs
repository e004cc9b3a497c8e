//! Counting rows of some table by the values of a column, and within those by the values of others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::statement::{Argument, Statement, with_arguments};
use crate::StorageError;
use crate::database::{Reading, in_transaction};

/// Values that are told apart by one aggregation, at most.
pub const LARGEST_LIMIT: u32 = 1_000;

/// Groups that come out of one aggregation within others.
const GROUPS: usize = 100_000;

/// Values of all levels above one within which it is counted: each is a value of the statement.
const VALUES_KEPT: usize = 10_000;

/// How many rows have each value. Of a list each element counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// As the aggregation was called.
    pub name: String,
    /// The values that the most rows have, those first.
    pub items: Vec<Bucket>,
    /// How many have others.
    pub other: u64,
}

/// How many rows have a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The value; a number as JSON writes it.
    pub key: String,
    /// How many have it.
    pub count: u64,
    /// What was counted within them.
    pub within: Vec<Buckets>,
}

/// A wish to count rows by the values of a column.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<L> {
    /// What the answer is called.
    pub(crate) name: String,
    /// What is told apart.
    pub(crate) level: L,
    /// How many values are told apart, those that the most rows have; at most [`LARGEST_LIMIT`].
    pub(crate) limit: u32,
    /// What to count within each of them.
    pub(crate) within: Vec<Self>,
}

/// What is counted.
pub(crate) trait Rows {
    /// Where values come from.
    type Level: Level;

    /// Adds the tables, from `FROM` on.
    fn write_tables(&self, statement: &mut Statement);

    /// Adds the conditions, without `WHERE`; there is at least one.
    fn write_conditions(&self, statement: &mut Statement);
}

/// Where the values of a level come from; `number` counts the levels from the top.
pub(crate) trait Level: Clone + Send + Sync {
    /// What the database keeps there.
    fn kind(&self) -> Kind;

    /// The column.
    fn value(&self, number: usize) -> String;

    /// Adds the tables that it needs.
    fn write_join(&self, number: usize, statement: &mut Statement);

    /// A value as it is told.
    fn shown(&self, key: &Key) -> String;
}

/// What the database keeps in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bytes,
    Text,
    Number,
    Boolean,
    Id,
}

/// A value as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Bytes(Vec<u8>),
    Text(String),
    Number(i64),
    Boolean(bool),
    Id(Uuid),
}

/// One column on the way from the top, with the values that are kept of it.
struct Step<L> {
    level: L,
    kept: BTreeSet<Key>,
}

fn write_kept<L: Level>(number: usize, Step { level, kept }: &Step<L>, statement: &mut Statement) {
    statement.push(" AND ").push(&level.value(number)).push(" IN (");
    for (place, key) in kept.iter().enumerate() {
        statement.push(if place > 0 { ", " } else { "" });
        match key {
            Key::Bytes(bytes) => statement.bind(bytes.clone()),
            Key::Text(text) => statement.bind(text.clone()),
            Key::Number(number) => statement.bind(*number),
            Key::Boolean(true) => statement.push("TRUE"),
            Key::Boolean(false) => statement.push("FALSE"),
            Key::Id(id) => statement.bind(Argument::Id(*id)),
        };
    }
    statement.push(")");
}

/// By the way down to them, values with their numbers, the largest first, and how many rows have any.
type Ranked = BTreeMap<Vec<Key>, (Vec<(Key, u64)>, u64)>;

/// What one aggregation found: for each way down to it the largest values, and how many there are of all.
struct Counted {
    by_path: Ranked,
    within: Vec<Counted>,
}

impl Counted {
    /// The answer for one way down.
    fn take<L: Level>(&mut self, path: &[Key], wanted: &Wanted<L>) -> Buckets {
        let (values, total) = self.by_path.remove(path).unwrap_or_default();
        let shown: u64 = values.iter().map(|(_, count)| count).sum();
        let items = values.into_iter().map(|(key, count)| {
            let path = [path, std::slice::from_ref(&key)].concat();
            let pairs = self.within.iter_mut().zip(&wanted.within);
            let within = pairs.map(|(counted, wanted)| counted.take(&path, wanted)).collect();
            Bucket { key: wanted.level.shown(&key), count, within }
        });
        let items = items.collect();
        Buckets { name: wanted.name.clone(), items, other: total.saturating_sub(shown) }
    }
}

/// Counts rows in one state of the database.
///
/// # Errors
/// `TooExpensive` if it would take longer than until `deadline`, or too much memory; `Unavailable`, `Other`.
pub(crate) async fn count<R: Rows + Sync>(
    rows: &R,
    wanted: &[Wanted<R::Level>],
    reading: &mut Reading,
    deadline: Instant,
) -> Result<Vec<Buckets>, StorageError> {
    let mut counting = Counting { rows, reading, deadline };
    let mut buckets = Vec::new();
    for wanted in wanted {
        let mut counted = counting.count(wanted, &mut Vec::new()).await?;
        buckets.push(counted.take(&[], wanted));
    }
    Ok(buckets)
}

struct Counting<'a, R> {
    rows: &'a R,
    reading: &'a mut Reading,
    deadline: Instant,
}

impl<R: Rows + Sync> Counting<'_, R> {
    /// Counts an aggregation below `path`, and what is within it.
    async fn count(
        &mut self,
        wanted: &Wanted<R::Level>,
        path: &mut Vec<Step<R::Level>>,
    ) -> Result<Counted, StorageError> {
        if Instant::now() > self.deadline {
            return Err(StorageError::TooExpensive("the aggregation takes too long: ask for fewer levels or devices"));
        }
        let level = wanted.level.clone();
        let by_path = self.rank(&level, wanted.limit.clamp(1, LARGEST_LIMIT), path).await?;
        let kept: BTreeSet<Key> =
            by_path.values().flat_map(|(values, _)| values.iter().map(|(key, _)| key.clone())).collect();
        let mut within = Vec::new();
        if !kept.is_empty() && !wanted.within.is_empty() {
            if path.iter().map(|step| step.kept.len()).sum::<usize>() + kept.len() > VALUES_KEPT {
                return Err(StorageError::TooExpensive(
                    "the aggregation is within too many values: ask for fewer levels or lower limits",
                ));
            }
            path.push(Step { level, kept });
            for inner in &wanted.within {
                // A future that holds itself has to be boxed.
                within.push(Box::pin(self.count(inner, path)).await?);
            }
            path.pop();
        }
        Ok(Counted { by_path, within })
    }

    async fn rank(&mut self, level: &R::Level, limit: u32, path: &[Step<R::Level>]) -> Result<Ranked, StorageError> {
        let statement = self.statement(level, limit, path);
        let kinds: Vec<Kind> = path.iter().map(|step| step.level.kind()).chain([level.kind()]).collect();
        let depth = kinds.len();
        let rows: Vec<(Vec<Key>, i64, i64)> = in_transaction!(&mut self.reading.transaction, |connection| async {
            let query = with_arguments!(statement, sqlx::query(AssertSqlSafe(statement.text.clone())));
            let rows = query.fetch_all(connection).await?;
            rows.iter()
                .map(|row| {
                    let key = |(place, kind): (usize, &Kind)| {
                        Ok(match kind {
                            Kind::Bytes => Key::Bytes(row.try_get(place)?),
                            Kind::Text => Key::Text(row.try_get(place)?),
                            Kind::Number => Key::Number(row.try_get(place)?),
                            Kind::Boolean => Key::Boolean(row.try_get(place)?),
                            Kind::Id => Key::Id(row.try_get(place)?),
                        })
                    };
                    let keys: Result<Vec<Key>, sqlx::Error> = kinds.iter().enumerate().map(key).collect();
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

    /// The largest values of a column for each way down to it, with their numbers and that of all.
    fn statement(&self, level: &R::Level, limit: u32, path: &[Step<R::Level>]) -> Statement {
        let mut statement = Statement::new(self.reading.transaction.dialect(), "SELECT ");
        let depth = path.len();
        let names: Vec<String> = (0..=depth).map(|number| format!("v{number}")).collect();
        let (above, all) = (names[..depth].join(", "), names.join(", "));
        let by_bytes = if level.kind() == Kind::Text { statement.dialect.by_bytes() } else { "" };
        let partition = if depth == 0 { String::new() } else { format!("PARTITION BY {above} ") };
        statement.push(&all).push(", counted, total FROM (SELECT ").push(&all).push(&format!(
            ", counted, CAST(SUM(counted) OVER ({partition}) AS BIGINT) AS total, \
             ROW_NUMBER() OVER ({partition}ORDER BY counted DESC, v{depth}{by_bytes}) AS place FROM (SELECT "
        ));
        for (number, step) in path.iter().enumerate() {
            statement.push(&format!("{} AS v{number}, ", step.level.value(number)));
        }
        statement.push(&format!("{} AS v{depth}, COUNT(*) AS counted", level.value(depth)));
        self.rows.write_tables(&mut statement);
        for (number, step) in path.iter().enumerate() {
            step.level.write_join(number, &mut statement);
        }
        level.write_join(depth, &mut statement);
        statement.push(" WHERE ");
        self.rows.write_conditions(&mut statement);
        for (number, step) in path.iter().enumerate() {
            write_kept(number, step, &mut statement);
        }
        statement.push(&format!(" AND {} IS NOT NULL GROUP BY {all}", level.value(depth)));
        statement.push(") AS grouped) AS ranked WHERE place <= ").bind(i64::from(limit));
        statement.push(&format!(" ORDER BY {}place LIMIT ", if depth == 0 { String::new() } else { above + ", " }));
        statement.bind(i64::try_from(GROUPS + 1).unwrap_or(i64::MAX));
        statement
    }
}
