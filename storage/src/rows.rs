//! Many rows in one statement, as a table `given(column1, column2, …)`.
//!
//! In Postgres each column travels as one array, so the statement reads the same however many rows there are, and is
//! parsed once on each connection. A list of values as long as the rows are many was parsed and planned anew each time,
//! which took longer than what was to be done. `SQLite` has no arrays, and hardly parses: it gets such a list.

use sqlx::{Postgres, QueryBuilder, Sqlite};
use uuid::Uuid;

use crate::database::ROWS_PER_STATEMENT;

/// Rows to be handed to a statement, column by column.
#[derive(Debug)]
pub(crate) struct Rows<'a, T> {
    rows: &'a [T],
    columns: Vec<Column>,
}

/// The values of all rows in one column.
#[derive(Debug)]
enum Column {
    Ids(Vec<Option<Uuid>>),
    Numbers(Vec<Option<i64>>),
    Flags(Vec<bool>),
    Texts(Vec<Option<String>>),
}

impl<'a, T> Rows<'a, T> {
    /// These rows, without a column yet.
    pub(crate) const fn of(rows: &'a [T]) -> Self {
        Self { rows, columns: Vec::new() }
    }

    /// Another column, of identifiers.
    pub(crate) fn id<V: Into<Option<Uuid>>>(self, value: impl Fn(&T) -> V) -> Self {
        self.with(value, Column::Ids)
    }

    /// Another column, of whole numbers, times among them.
    pub(crate) fn number<V: Into<Option<i64>>>(self, value: impl Fn(&T) -> V) -> Self {
        self.with(value, Column::Numbers)
    }

    /// Another column, of truth values.
    pub(crate) fn flag(self, value: impl Fn(&T) -> bool) -> Self {
        self.with(value, Column::Flags)
    }

    /// Another column, of text without NUL.
    pub(crate) fn text<V: Into<Option<String>>>(self, value: impl Fn(&T) -> V) -> Self {
        self.with(value, Column::Texts)
    }

    fn with<V, W>(mut self, value: impl Fn(&T) -> V, column: impl FnOnce(Vec<W>) -> Column) -> Self
    where
        V: Into<W>,
    {
        self.columns.push(column(self.rows.iter().map(|row| value(row).into()).collect()));
        self
    }

    fn names(&self) -> String {
        let names: Vec<String> = (1..=self.columns.len()).map(|number| format!("column{number}")).collect();
        names.join(", ")
    }
}

/// A statement that takes [`Rows`].
pub(crate) trait BulkStatement {
    /// Adds a table with these rows, at least one, in parentheses and with its name: `(…) AS given`.
    fn push_rows<T>(&mut self, rows: &Rows<'_, T>);

    /// Whether a statement with these rows will come again as it is, and is worth being kept.
    fn recurs<T>(&self, rows: &Rows<'_, T>) -> bool;
}

impl BulkStatement for QueryBuilder<Postgres> {
    fn push_rows<T>(&mut self, rows: &Rows<'_, T>) {
        self.push("(SELECT * FROM UNNEST(");
        let mut arrays = self.separated(", ");
        for column in &rows.columns {
            match column {
                Column::Ids(values) => arrays.push_bind(values.clone()),
                Column::Numbers(values) => arrays.push_bind(values.clone()),
                Column::Flags(values) => arrays.push_bind(values.clone()),
                Column::Texts(values) => arrays.push_bind(values.clone()),
            };
        }
        self.push(") AS arrays(").push(rows.names()).push(")) AS given");
    }

    fn recurs<T>(&self, _: &Rows<'_, T>) -> bool {
        true
    }
}

impl BulkStatement for QueryBuilder<Sqlite> {
    fn push_rows<T>(&mut self, rows: &Rows<'_, T>) {
        self.push("(");
        self.push_values(0..rows.rows.len(), |mut row, number| {
            for column in &rows.columns {
                match column {
                    Column::Ids(values) => row.push_bind(values[number]),
                    Column::Numbers(values) => row.push_bind(values[number]),
                    Column::Flags(values) => row.push_bind(values[number]),
                    Column::Texts(values) => row.push_bind(values[number].clone()),
                };
            }
        });
        self.push(") AS given");
    }

    fn recurs<T>(&self, rows: &Rows<'_, T>) -> bool {
        rows.rows.len() == ROWS_PER_STATEMENT
    }
}
