//! Searching the inventory: conditions, free text and places become one `WHERE`, the order becomes one `ORDER BY`.
//!
//! A search is three statements in one state of the database: how many devices pass (from kept counts where they know),
//! which are on the page (from indexes alone where they serve), and what is known about those. Each is broken off when it
//! takes too long.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, QueryBuilder};

use super::attribute::{self, Column};
use super::condition::{Asked, Matching};
use super::filter::{Condition, Filter, Test};
use super::order::SortKey;
use super::place::Area;
use super::statement::{Statement, with_arguments};
use super::{Inventory, InventoryDevice, Stored, index, term};
use crate::database::{Reading, in_transaction};
use crate::{DeviceId, StorageError, dialect};

/// Different values of one attribute on which an expression is tried.
const VALUES_TRIED: usize = 200_000;

/// Different values that the expressions of one question may match: each is a value of the statement, and either database
/// takes some 32,000 of those.
const VALUES_MATCHED: usize = 10_000;

/// Words of a free text that count.
const WORDS_ASKED: usize = 16;

/// Characters of a free text that are looked for as they stand.
const WHOLE_ASKED: usize = 256;

/// A question about the fleet, and which part of the answer is wanted.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Conditions that all have to hold.
    pub filter: Filter,
    /// Only these devices; `None`: all.
    pub devices: Option<Vec<DeviceId>>,
    /// Only devices with ids behind this one; `None`: all.
    pub after: Option<DeviceId>,
    /// Words of which one has to be found; those that hold more of them come first, whatever the order says.
    pub text: Option<FreeText>,
    /// Where devices have to be.
    pub areas: Vec<Area>,
    /// The order; devices that are equal in it stand in order of their ids.
    pub order: Vec<SortKey>,
    /// How many devices to pass over.
    pub offset: u64,
    /// How many devices to return.
    pub limit: u32,
}

/// A page of devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The devices on the page.
    pub devices: Vec<InventoryDevice>,
    /// How many there are on all pages.
    pub total: u64,
    /// How long it took to count them, which is part of the answer and may be most of its time.
    pub counting: Duration,
}

/// What somebody typed to find a device: words, each of which may be the beginning of a word of the device (id, group,
/// texts of identity, inventory and tags), or a part of what it is known by (id, identity, tag `name`). Case does not
/// matter. A device that is known by all of it as it stands comes before those that hold its words here and there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeText {
    words: Vec<String>,
    whole: String,
}

impl FreeText {
    /// The words of a text; `None` if it is blank.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text.trim().is_empty() {
            return None;
        }
        let mut words = BTreeSet::new();
        index::words(text, &mut words);
        let whole = dialect::without_nul(text.trim()).chars().take(WHOLE_ASKED).collect::<String>().to_lowercase();
        Some(Self { words: words.into_iter().take(WORDS_ASKED).collect(), whole })
    }

    /// How many of the words are found in this device.
    #[must_use]
    pub fn found_in(&self, device: &InventoryDevice) -> usize {
        let index = super::record::Record::shown(device).index();
        let found = |word: &&String| {
            index.words.iter().any(|known| known.starts_with(word.as_str())) || index.names.contains(word.as_str())
        };
        self.words.iter().filter(found).count()
    }
}

impl Inventory {
    /// The devices that pass.
    ///
    /// # Errors
    /// `TooExpensive` if it would take longer than any search may; `Unavailable`, `Corrupt`, `Other`.
    pub async fn search(&self, search: &Search) -> Result<Found, StorageError> {
        self.db.within(self.search_in_one_state(search)).await
    }

    /// The ids of some devices that pass, in order after `after`: for whoever reads all of them while others come and go.
    ///
    /// # Errors
    /// `TooExpensive` if it would take longer than any search may; `Unavailable`, `Corrupt`, `Other`.
    pub async fn passing(
        &self,
        filter: &Filter,
        after: Option<DeviceId>,
        limit: u32,
    ) -> Result<Vec<DeviceId>, StorageError> {
        let search = Search { filter: filter.clone(), after, ..Search::default() };
        let asked = async {
            let mut reading = self.db.begin_reading(self.search_limit).await?;
            let question = Question::ask(&search, &mut reading, self.search_limit).await?;
            let page = question.page(&reading, false, 0, u64::from(limit));
            let ids = in_transaction!(&mut reading.transaction, |connection| {
                let query = sqlx::query_scalar(AssertSqlSafe(page.text.clone()));
                with_arguments!(page, query).fetch_all(connection).await
            })?;
            reading.transaction.commit().await?;
            Ok(ids)
        };
        self.db.within(asked).await
    }

    async fn search_in_one_state(&self, search: &Search) -> Result<Found, StorageError> {
        let mut reading = self.db.begin_reading(self.search_limit).await?;
        let found = Question::ask(search, &mut reading, self.search_limit).await?.answer(&mut reading).await?;
        reading.transaction.commit().await?;
        Ok(found)
    }
}

/// A search whose expressions are known by what they match.
pub(super) struct Question<'a> {
    search: &'a Search,
    asked: Vec<Asked<'a>>,
}

impl<'a> Question<'a> {
    pub(super) async fn ask(search: &'a Search, reading: &mut Reading, limit: Duration) -> Result<Self, StorageError> {
        let (mut asked, mut left) = (Vec::new(), VALUES_MATCHED);
        // One for all expressions: each of them alone could take nearly as long.
        let deadline = Instant::now() + limit;
        for condition in search.filter.conditions() {
            let matching = matching(condition, reading, deadline, left).await?;
            left -= matching.values();
            asked.push(Asked { condition, matching });
        }
        Ok(Self { search, asked })
    }

    async fn answer(&self, reading: &mut Reading) -> Result<Found, StorageError> {
        let begun = Instant::now();
        let total = count(self.total(reading), reading).await?;
        let counting = begun.elapsed();
        let ids = self.ids_of(total, reading).await?;
        let devices = if ids.is_empty() { Vec::new() } else { load(&ids, reading).await? };
        Ok(Found { devices, total, counting })
    }

    /// The devices on the page, and how many there are on all.
    pub(super) async fn ids(&self, reading: &mut Reading) -> Result<(Vec<DeviceId>, u64), StorageError> {
        let total = count(self.total(reading), reading).await?;
        Ok((self.ids_of(total, reading).await?, total))
    }

    /// The devices on the page, of `total` on all.
    async fn ids_of(&self, total: u64, reading: &mut Reading) -> Result<Vec<DeviceId>, StorageError> {
        let left = total.saturating_sub(self.search.offset);
        let wanted = left.min(u64::from(self.search.limit));
        if wanted == 0 {
            return Ok(Vec::new());
        }
        // The end of a long list is the beginning of the same list read backwards.
        let backwards = left - wanted < self.search.offset;
        let skipped = if backwards { left - wanted } else { self.search.offset };
        let page = self.page(reading, backwards, skipped, wanted);
        let mut ids: Vec<DeviceId> = in_transaction!(&mut reading.transaction, |connection| {
            let query = sqlx::query_scalar(AssertSqlSafe(page.text.clone()));
            with_arguments!(page, query).fetch_all(connection).await
        })?;
        if backwards {
            ids.reverse();
        }
        Ok(ids)
    }

    /// Adds every condition to a statement over the inventory `i`, and the text `x` if there is one.
    pub(super) fn write_conditions(&self, statement: &mut Statement) {
        statement.push("TRUE");
        for asked in &self.asked {
            statement.push(" AND ");
            asked.write(statement);
        }
        match self.search.devices.as_deref() {
            None => {}
            Some([]) => {
                statement.push(" AND FALSE");
            }
            Some(devices) => {
                statement.push(" AND i.device IN (").bind_all(devices.iter().copied()).push(")");
            }
        }
        if let Some(after) = self.search.after {
            statement.push(" AND i.device > ").bind(after);
        }
        for area in &self.search.areas {
            statement.push(" AND ");
            area.write(statement);
        }
        if let Some(text) = &self.search.text {
            statement.push(" AND (FALSE");
            for word in &text.words {
                statement.push(" OR ");
                holds_word(word, statement);
            }
            statement.push(")");
        }
    }

    /// What the conditions are over.
    pub(super) fn write_tables(&self, statement: &mut Statement) {
        statement.push(" FROM inventory i");
        if self.search.text.is_some() {
            statement.push(" JOIN inventory_text x ON x.device = i.device");
        }
    }

    fn total(&self, reading: &Reading) -> Statement {
        let mut statement = Statement::new(reading.transaction.dialect(), "SELECT ");
        let Search { devices, after, text, areas, .. } = self.search;
        let conditions_alone = devices.is_none() && after.is_none() && text.is_none() && areas.is_empty();
        if conditions_alone && self.asked.iter().all(Asked::is_counted) {
            statement.push(
                "CAST(COALESCE(SUM(i.devices), 0) AS BIGINT) FROM (SELECT NULLIF(status, '') AS status, \
                 NULLIF(group_name, '') AS group_name, devices FROM inventory_counts) AS i WHERE ",
            );
            self.write_conditions(&mut statement);
            return statement;
        }
        if conditions_alone
            && let [asked] = self.asked.as_slice()
            && let Some(term) = asked.single_term()
        {
            statement.push("COUNT(*) FROM inventory_terms WHERE term = ").bind(term);
            return statement;
        }
        statement.push("COUNT(*)");
        self.write_tables(&mut statement);
        statement.push(" WHERE ");
        self.write_conditions(&mut statement);
        statement
    }

    fn page(&self, reading: &Reading, backwards: bool, offset: u64, limit: u64) -> Statement {
        let mut statement = Statement::new(reading.transaction.dialect(), "SELECT i.device");
        self.write_tables(&mut statement);
        let order = if self.search.text.is_some() { &[][..] } else { &self.search.order };
        for (number, key) in order.iter().enumerate() {
            key.write_join(number, &mut statement);
        }
        statement.push(" WHERE ");
        self.write_conditions(&mut statement);
        statement.push(" ORDER BY ");
        if let Some(text) = &self.search.text {
            statement.push("0");
            for word in &text.words {
                statement.push(" + CASE WHEN ");
                holds_word(word, &mut statement);
                statement.push(" THEN 1 ELSE 0 END");
            }
            statement.push(" + CASE WHEN x.names LIKE ").bind(format!("%{}%", dialect::literally(&text.whole)));
            statement.push(" ESCAPE '!' THEN 1 ELSE 0 END");
            statement.push(if backwards { " ASC, " } else { " DESC, " });
        }
        for (number, key) in order.iter().enumerate() {
            key.write_order(number, backwards, &mut statement);
            statement.push(", ");
        }
        // In the direction of the last key, so that an index of both serves either direction.
        let descending = order.last().is_some_and(|key| key.descending) != backwards;
        statement.push(if descending { "i.device DESC" } else { "i.device" });
        statement.push(" LIMIT ").bind(i64::try_from(limit).unwrap_or(i64::MAX));
        statement.push(" OFFSET ").bind(i64::try_from(offset).unwrap_or(i64::MAX));
        statement
    }
}

/// A number of devices.
pub(super) async fn count(statement: Statement, reading: &mut Reading) -> Result<u64, StorageError> {
    let count: i64 = in_transaction!(&mut reading.transaction, |connection| {
        let query = sqlx::query_scalar(AssertSqlSafe(statement.text.clone()));
        with_arguments!(statement, query).fetch_one(connection).await
    })?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// These devices, in this order, as far as they are there.
async fn load(ids: &[DeviceId], reading: &mut Reading) -> Result<Vec<InventoryDevice>, StorageError> {
    let rows: Vec<Stored> = in_transaction!(&mut reading.transaction, |connection| {
        let mut query = QueryBuilder::new(
            "SELECT device, document, reported_at, checked_in_at, revision, tags_etag FROM inventory WHERE device IN (",
        );
        let mut any = query.separated(", ");
        for id in ids {
            any.push_bind(*id);
        }
        query.push(")");
        query.build_query_as().persistent(false).fetch_all(connection).await
    })?;
    let mut devices: HashMap<DeviceId, InventoryDevice> =
        rows.into_iter().map(Stored::into_device).map(|device| (device.id, device)).collect();
    Ok(ids.iter().filter_map(|id| devices.remove(id)).collect())
}

fn holds_word(word: &str, statement: &mut Statement) {
    let (before, after, beginning) = statement.dialect.word_begins(word);
    statement.push("(").push(before).bind(beginning).push(after);
    statement.push(" OR x.names LIKE ").bind(format!("%{word}%")).push(")");
}

/// Finds what an expression matches, by trying it on each different value once; no more than `most` values.
async fn matching(
    condition: &Condition,
    reading: &mut Reading,
    deadline: Instant,
    most: usize,
) -> Result<Matching, StorageError> {
    let Condition { scope, name, test: Test::Matches(pattern) } = condition else { return Ok(Matching::NotAsked) };
    let range = match attribute::column(scope, name) {
        Some(Column::Time(_)) => return Ok(Matching::NotAsked),
        Some(Column::Text(column)) => return texts_matching(column, condition, reading, most).await,
        Some(Column::Id) | None => term::texts(term::fingerprint(scope, name), pattern.beginning()),
    };
    if !pattern.is_valid() {
        return Ok(Matching::Terms(Vec::new()));
    }
    if pattern.is_beginning_alone() {
        return Ok(Matching::Range(range));
    }
    let terms = in_transaction!(&mut reading.transaction, |connection| async {
        let query = sqlx::query_scalar::<_, Vec<u8>>(
            "SELECT DISTINCT term FROM inventory_terms WHERE term >= $1 AND term < $2 LIMIT $3",
        );
        let tried_at_most = i64::try_from(VALUES_TRIED + 1).unwrap_or(i64::MAX);
        let mut values = query.bind(&range.0).bind(&range.1).bind(tried_at_most).persistent(false).fetch(connection);
        let (mut tried, mut terms) = (0, Vec::new());
        while let Some(value) = values.try_next().await? {
            tried += 1;
            if term::text(&value).is_some_and(|text| pattern.matches(&text)) {
                terms.push(value);
            }
            if tried > VALUES_TRIED || terms.len() > most || Instant::now() > deadline {
                return Ok(None);
            }
        }
        Ok::<_, sqlx::Error>(Some(terms))
    }
    .await)?;
    terms.map(Matching::Terms).ok_or(StorageError::TooExpensive(
        "the expression is tried on too many different values: begin it with the characters the value begins with",
    ))
}

/// The texts of a column that an expression matches; the kept counts know them all.
async fn texts_matching(
    column: &str,
    condition: &Condition,
    reading: &mut Reading,
    most: usize,
) -> Result<Matching, StorageError> {
    let Test::Matches(pattern) = &condition.test else { return Ok(Matching::NotAsked) };
    let statement = if column == "i.status" {
        "SELECT DISTINCT status FROM inventory_counts WHERE status <> ''"
    } else {
        "SELECT DISTINCT group_name FROM inventory_counts WHERE group_name <> ''"
    };
    let mut texts: Vec<String> = in_transaction!(&mut reading.transaction, |connection| {
        sqlx::query_scalar(statement).fetch_all(connection).await
    })?;
    texts.retain(|text| pattern.matches(text));
    if texts.len() > most {
        return Err(StorageError::TooExpensive("the expression matches too many groups"));
    }
    Ok(Matching::Texts(texts))
}
