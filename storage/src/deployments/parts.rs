//! Devices' parts in deployments as one table that is searched, in the words of reporting: a row for each device that was
//! told of a deployment. Nothing is kept for it; these are the rows that deployments go by.

mod aggregate;
mod field;

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;

use super::{Deployments, DeviceState};
use crate::artifacts::artifact_columns;
use crate::database::{Reading, in_transaction};
use crate::inventory::filter::{Filter, Test};
use crate::inventory::statement::{Statement, with_arguments};
use crate::{
    ArtifactId, DeploymentId, DeploymentKind, DeviceDeploymentId, PhaseId, StorageError, StoredArtifact, Timestamp,
};

pub use aggregate::PartAggregation;
pub use field::PartField;
use field::{Asked, Column, known_words};

/// Different values of one field on which an expression is tried.
const VALUES_TRIED: usize = 200_000;

/// Different values that the expressions of one question may match: each is a value of the statement, and either database
/// takes some 32,000 of those.
const VALUES_MATCHED: usize = 10_000;

/// Whether a deployment has phases that somebody asked for.
const IS_PHASED: &str = "(EXISTS (SELECT 1 FROM deployment_phases f WHERE f.deployment = d.id \
    AND (f.number > 1 OR f.percent IS NOT NULL OR f.starts IS NOT NULL)))";

const TABLES: &str = " FROM device_deployments r JOIN deployments d ON d.id = r.deployment \
    LEFT JOIN deployed_artifacts a ON a.id = r.artifact \
    LEFT JOIN deployment_phases p ON p.deployment = r.deployment AND p.number = r.phase";

/// What makes a row a part of which somebody was told.
const IS_PART: &str = "r.is_current AND r.offered IS NOT NULL";

/// A question about parts, and which part of the answer is wanted.
#[derive(Debug, Clone, Default)]
pub struct PartSearch {
    /// Conditions that all have to hold, made by [`PartField::condition`].
    pub filter: Filter,
    /// Only of these devices; `None`: all.
    pub devices: Option<Vec<String>>,
    /// Only in these deployments; `None`: all.
    pub deployments: Option<Vec<DeploymentId>>,
    /// The order, and whether the largest comes first; parts that are equal in it stand in order of their ids.
    pub order: Vec<(PartField, bool)>,
    /// How many to pass over.
    pub offset: u64,
    /// How many to return.
    pub limit: u32,
}

impl PartSearch {
    /// Whether every key of the order is one that parts can be in order by.
    #[must_use]
    pub fn is_sortable(&self) -> bool {
        self.order.iter().all(|(field, _)| field.is_sortable())
    }
}

/// A device's part in a deployment, with what is told of the deployment and the artifact beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub id: DeviceDeploymentId,
    /// Whose.
    pub device: String,
    /// In which deployment.
    pub deployment: DeploymentId,
    /// The deployment's name.
    pub deployment_name: String,
    /// Name of its release.
    pub artifact_name: String,
    /// What it installs.
    pub kind: DeploymentKind,
    /// When it was made.
    pub deployment_created: Timestamp,
    /// How its devices were chosen, as JSON.
    pub chosen_by: String,
    /// Whether its devices are whoever passes its filter.
    pub is_dynamic: bool,
    /// Whether devices that have it already install it again.
    pub forced: bool,
    /// The groups they were chosen by.
    pub groups: Vec<String>,
    /// Whether it has phases that somebody asked for.
    pub is_phased: bool,
    /// The phase in which the device was told.
    pub phase: Option<PhaseId>,
    /// How often a device that has failed is told again.
    pub retries: u32,
    /// How many devices it is for, or how many have to succeed.
    pub max_devices: u64,
    /// When this part was made.
    pub created: Timestamp,
    /// When the device was over with it.
    pub finished: Option<Timestamp>,
    /// When it was made to forget it.
    pub deleted: Option<Timestamp>,
    /// Where it stands.
    pub state: DeviceState,
    /// Whether it has sent a log.
    pub has_log: bool,
    /// How often it has failed and was to try again.
    pub attempts: u32,
    /// What it was given, or had already.
    pub artifact: Option<StoredArtifact>,
}

#[derive(sqlx::FromRow)]
struct PartRow {
    id: DeviceDeploymentId,
    device: String,
    deployment: DeploymentId,
    deployment_name: String,
    artifact_name: String,
    kind: String,
    deployment_created: Timestamp,
    targets: String,
    is_dynamic: bool,
    forced: bool,
    target_groups: String,
    is_phased: bool,
    phase: Option<PhaseId>,
    retries: i64,
    max_devices: i64,
    created: Timestamp,
    finished: Option<Timestamp>,
    deleted: Option<Timestamp>,
    status: i64,
    has_log: bool,
    attempts: i64,
    artifact: Option<ArtifactId>,
}

impl Deployments {
    /// A page of the parts that pass, and how many there are on all pages.
    ///
    /// # Errors
    /// `TooExpensive` if it would take longer than any search may; `Unavailable`, `Corrupt`, `Other`.
    pub async fn search_parts(&self, search: &PartSearch) -> Result<(Vec<Part>, u64), StorageError> {
        self.db.within(Box::pin(self.search_in_one_state(search))).await
    }

    async fn search_in_one_state(&self, search: &PartSearch) -> Result<(Vec<Part>, u64), StorageError> {
        let mut reading = self.db.begin_reading(self.search_limit).await?;
        let asked = ask(search, &mut reading, self.search_limit).await?;
        let mut counting = Statement::new(reading.transaction.dialect(), "SELECT COUNT(*)");
        counting.push(TABLES).push(" WHERE ");
        write_conditions(search, &asked, &mut counting);
        let total: i64 = in_transaction!(&mut reading.transaction, |connection| {
            let query = sqlx::query_scalar(AssertSqlSafe(counting.text.clone()));
            with_arguments!(counting, query).fetch_one(connection).await
        })?;
        let total = total.unsigned_abs();
        if search.offset >= total || search.limit == 0 {
            reading.transaction.commit().await?;
            return Ok((Vec::new(), total));
        }
        let page = page(search, &asked, &reading);
        let rows: Vec<PartRow> = in_transaction!(&mut reading.transaction, |connection| {
            let query = sqlx::query_as(AssertSqlSafe(page.text.clone()));
            with_arguments!(page, query).fetch_all(connection).await
        })?;
        let artifacts = artifacts(&rows, &mut reading).await?;
        reading.transaction.commit().await?;
        let whole = |row: PartRow| row.whole(&artifacts);
        Ok((rows.into_iter().map(whole).collect::<Result<_, _>>()?, total))
    }
}

/// The conditions of a search, whose expressions are known by what they match.
async fn ask<'a>(
    search: &'a PartSearch,
    reading: &mut Reading,
    limit: Duration,
) -> Result<Vec<Asked<'a>>, StorageError> {
    // One for all expressions: each of them alone could take nearly as long.
    let deadline = Instant::now() + limit;
    let (mut asked, mut left) = (Vec::new(), VALUES_MATCHED);
    for condition in search.filter.conditions() {
        let column = PartField::named(&condition.name).map_err(|bad| StorageError::Corrupt(bad.0))?.column();
        let matching = match &condition.test {
            Test::Matches(pattern) => match known_words(column) {
                Some(words) => words.into_iter().filter(|word| pattern.matches(word)).map(str::to_owned).collect(),
                None if pattern.is_valid() => texts_matching(column, pattern, reading, deadline, left).await?,
                None => Vec::new(),
            },
            _ => Vec::new(),
        };
        left = left.saturating_sub(matching.len());
        asked.push(Asked { column, test: &condition.test, matching });
    }
    Ok(asked)
}

/// Finds what an expression matches, by trying it on each different value once; no more than `most` values.
async fn texts_matching(
    column: Column,
    pattern: &crate::inventory::pattern::Pattern,
    reading: &mut Reading,
    deadline: Instant,
    most: usize,
) -> Result<Vec<String>, StorageError> {
    let tried_at_most = VALUES_TRIED + 1;
    let text = match column {
        Column::Text { table, column } => {
            format!("SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL LIMIT {tried_at_most}")
        }
        Column::Texts { table, document, member } => {
            let elements = reading.transaction.dialect().elements("e", document, member);
            format!("SELECT DISTINCT e.value FROM {table}, {elements} LIMIT {tried_at_most}")
        }
        // No texts.
        _ => return Ok(Vec::new()),
    };
    let texts = in_transaction!(&mut reading.transaction, |connection| async {
        let mut values = sqlx::query_scalar::<_, String>(AssertSqlSafe(text)).persistent(false).fetch(connection);
        let (mut tried, mut texts) = (0, Vec::new());
        while let Some(text) = values.try_next().await? {
            tried += 1;
            if pattern.matches(&text) {
                texts.push(text);
            }
            if tried > VALUES_TRIED || texts.len() > most || Instant::now() > deadline {
                return Ok(None);
            }
        }
        Ok::<_, sqlx::Error>(Some(texts))
    }
    .await)?;
    texts.ok_or(StorageError::TooExpensive("the expression is tried on, or matches, too many different values"))
}

/// Adds every condition.
fn write_conditions(search: &PartSearch, asked: &[Asked<'_>], statement: &mut Statement) {
    statement.push(IS_PART);
    for asked in asked {
        statement.push(" AND ");
        asked.write(statement);
    }
    match search.devices.as_deref() {
        None => {}
        Some([]) => {
            statement.push(" AND FALSE");
        }
        Some(devices) => {
            statement.push(" AND r.device IN (").bind_all(devices.iter().cloned()).push(")");
        }
    }
    match search.deployments.as_deref() {
        None => {}
        Some([]) => {
            statement.push(" AND FALSE");
        }
        Some(deployments) => {
            statement.push(" AND r.deployment IN (").bind_all(deployments.iter().copied()).push(")");
        }
    }
}

fn page(search: &PartSearch, asked: &[Asked<'_>], reading: &Reading) -> Statement {
    let mut statement = Statement::new(
        reading.transaction.dialect(),
        "SELECT r.id, r.device, r.deployment, d.name AS deployment_name, d.artifact_name, d.kind, \
         d.created AS deployment_created, d.targets, d.is_dynamic, d.forced, d.target_groups, ",
    );
    statement.push(IS_PHASED).push(
        " AS is_phased, p.id AS phase, d.retries, d.max_devices, r.created, r.finished, r.deleted, r.status, r.has_log, \
         r.attempts, r.artifact",
    );
    statement.push(TABLES).push(" WHERE ");
    write_conditions(search, asked, &mut statement);
    statement.push(" ORDER BY ");
    for (field, is_descending) in &search.order {
        field.write_order(*is_descending, &mut statement);
        statement.push(", ");
    }
    statement.push("r.id LIMIT ").bind(i64::from(search.limit));
    statement.push(" OFFSET ").bind(i64::try_from(search.offset).unwrap_or(i64::MAX));
    statement
}

/// What the devices of these rows were given.
async fn artifacts(rows: &[PartRow], reading: &mut Reading) -> Result<Vec<StoredArtifact>, StorageError> {
    let mut ids: Vec<ArtifactId> = rows.iter().filter_map(|row| row.artifact).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut statement = Statement::new(
        reading.transaction.dialect(),
        concat!("SELECT ", artifact_columns!(), " FROM deployed_artifacts WHERE id IN ("),
    );
    statement.bind_all(ids).push(") ORDER BY id");
    in_transaction!(&mut reading.transaction, |connection| {
        let query = sqlx::query_as(AssertSqlSafe(statement.text.clone()));
        with_arguments!(statement, query).fetch_all(connection).await
    })
}

impl PartRow {
    /// The row with its artifact, which is one of these in order of their ids.
    fn whole(self, artifacts: &[StoredArtifact]) -> Result<Part, StorageError> {
        let corrupt = |what: &str| StorageError::Corrupt(format!("{what} of a device's deployment {}", self.id));
        let place = |id: ArtifactId| artifacts.binary_search_by_key(&id, |artifact| artifact.id).ok();
        Ok(Part {
            kind: self.kind.parse().map_err(|_| corrupt("kind"))?,
            groups: serde_json::from_str(&self.target_groups).map_err(|_| corrupt("groups"))?,
            state: DeviceState::from_number(self.status).ok_or_else(|| corrupt("status"))?,
            artifact: self.artifact.and_then(place).map(|place| artifacts[place].clone()),
            retries: u32::try_from(self.retries).unwrap_or(u32::MAX),
            max_devices: self.max_devices.unsigned_abs(),
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            id: self.id,
            device: self.device,
            deployment: self.deployment,
            deployment_name: self.deployment_name,
            artifact_name: self.artifact_name,
            deployment_created: self.deployment_created,
            chosen_by: self.targets,
            is_dynamic: self.is_dynamic,
            forced: self.forced,
            is_phased: self.is_phased,
            phase: self.phase,
            created: self.created,
            finished: self.finished,
            deleted: self.deleted,
            has_log: self.has_log,
        })
    }
}
