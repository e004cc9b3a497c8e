//! Lists of deployments.

use std::collections::{BTreeMap, HashMap};

use sqlx::QueryBuilder;

use super::{Counts, Deployment, DeploymentKind, DeploymentState, Deployments, Pause, Safety};
use crate::database::{ROWS_PER_STATEMENT, on_reader};
use crate::{ArtifactId, DeploymentId, Direction, Secret, StorageError, Timestamp, dialect};

/// Which deployments to list; `None` and empty lists ask for no filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentFilter {
    /// Where they stand.
    pub state: Option<DeploymentState>,
    /// What they install.
    pub kind: Option<DeploymentKind>,
    /// What their names, or those of their releases, have in them.
    pub text: Option<String>,
    /// Any of these.
    pub ids: Vec<DeploymentId>,
    /// With any of these names.
    pub names: Vec<String>,
    /// For, or named like, any of these devices.
    pub devices: Vec<String>,
    /// Made then or later.
    pub from: Option<Timestamp>,
    /// Made then or earlier.
    pub until: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct DeploymentRow {
    id: DeploymentId,
    kind: String,
    name: String,
    artifact_name: String,
    created: Timestamp,
    finished: Option<Timestamp>,
    state: String,
    forced: bool,
    targets: String,
    target_groups: String,
    is_dynamic: bool,
    max_devices: i64,
    device_count: i64,
    total_size: i64,
    configuration: Option<String>,
    retries: i64,
    safety: Option<String>,
    paused: Option<Timestamp>,
    paused_by: Option<String>,
}

/// A deployment that goes on, as those see it who remember whom it is for.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct GoingOn {
    /// Which.
    pub id: DeploymentId,
    /// The filter it goes by, as JSON, if it does.
    pub terms: Option<String>,
    /// How often it was opened to more devices.
    pub openings: i64,
    /// Whether it has something to tell a device that it has not told before.
    pub is_open: bool,
    /// Whether there are phases that are still to open.
    pub has_more_phases: bool,
}

/// The columns of a [`DeploymentRow`].
macro_rules! deployment_columns {
    () => {
        "id, kind, name, artifact_name, created, finished, state, forced, targets, target_groups, is_dynamic, \
         max_devices, device_count, total_size, configuration, retries, safety, paused, paused_by"
    };
}

/// Adds `AND column IN (…)`, or as `$before` has it.
macro_rules! any_of {
    ($query:ident, $before:expr, $values:expr) => {
        $query.push($before).push(" IN (");
        let mut list = $query.separated(", ");
        for value in $values {
            list.push_bind(value.clone());
        }
        $query.push(")");
    };
}

macro_rules! restrict {
    ($query:ident, $filter:ident) => {
        if let Some(state) = $filter.state {
            $query.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(kind) = $filter.kind {
            $query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(text) = &$filter.text {
            let pattern = format!("%{}%", dialect::literally(&text.to_lowercase()));
            $query.push(" AND (name_folded LIKE ").push_bind(pattern.clone());
            $query.push(" ESCAPE '!' OR artifact_name_folded LIKE ").push_bind(pattern).push(" ESCAPE '!')");
        }
        if !$filter.ids.is_empty() {
            any_of!($query, " AND id", &$filter.ids);
        }
        if !$filter.names.is_empty() {
            any_of!($query, " AND name", &$filter.names);
        }
        if !$filter.devices.is_empty() {
            any_of!($query, " AND (name", &$filter.devices);
            any_of!(
                $query,
                " OR EXISTS (SELECT 1 FROM device_deployments WHERE deployment = deployments.id AND is_current AND device",
                &$filter.devices
            );
            $query.push("))");
        }
        if let Some(from) = $filter.from {
            $query.push(" AND created >= ").push_bind(from);
        }
        if let Some(until) = $filter.until {
            $query.push(" AND created <= ").push_bind(until);
        }
    };
}

impl Deployments {
    /// A page of the deployments a filter asks for in the order of their making, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(
        &self,
        filter: &DeploymentFilter,
        direction: Direction,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Deployment>, u64), StorageError> {
        let rows: Vec<DeploymentRow> = on_reader!(self.db, |pool| {
            let mut query =
                QueryBuilder::new(concat!("SELECT ", deployment_columns!(), " FROM deployments WHERE TRUE"));
            restrict!(query, filter);
            query.push(" ORDER BY created").push(direction.sql()).push(" LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM deployments WHERE TRUE");
            restrict!(query, filter);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((self.complete(rows).await?, total.unsigned_abs()))
    }

    /// The deployment with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: DeploymentId) -> Result<Option<Deployment>, StorageError> {
        Ok(self.find_all(&[id]).await?.pop())
    }

    /// Those of these deployments that there are, in the order of their making.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find_all(&self, ids: &[DeploymentId]) -> Result<Vec<Deployment>, StorageError> {
        let mut rows: Vec<DeploymentRow> = Vec::new();
        for ids in ids.chunks(ROWS_PER_STATEMENT) {
            rows.extend::<Vec<DeploymentRow>>(on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new(concat!("SELECT ", deployment_columns!(), " FROM deployments"));
                any_of!(query, " WHERE id", ids);
                query.push(" ORDER BY created");
                query.build_query_as().persistent(ids.len() == 1).fetch_all(pool).await
            })?);
        }
        self.complete(rows).await
    }

    /// The deployments that go on, in the order of their making.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn going_on(&self) -> Result<Vec<GoingOn>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT id, CASE WHEN is_dynamic THEN targets END AS terms, openings, \
                 paused IS NULL AND (quota IS NULL OR device_count < quota) AS is_open, \
                 EXISTS (SELECT 1 FROM deployment_phases WHERE deployment = deployments.id \
                 AND number > deployments.phase) AS has_more_phases \
                 FROM deployments WHERE finished IS NULL ORDER BY created",
            )
            .fetch_all(pool)
            .await
        })
    }

    /// Adds counts and artifacts.
    async fn complete(&self, rows: Vec<DeploymentRow>) -> Result<Vec<Deployment>, StorageError> {
        let mut counts: HashMap<DeploymentId, Counts> = HashMap::new();
        let mut artifacts: HashMap<DeploymentId, Vec<ArtifactId>> = HashMap::new();
        for rows in rows.chunks(ROWS_PER_STATEMENT) {
            let ids: Vec<DeploymentId> = rows.iter().map(|row| row.id).collect();
            let counted: Vec<(DeploymentId, i64, i64)> = on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new("SELECT deployment, status, devices FROM deployment_counts");
                any_of!(query, " WHERE deployment", &ids);
                query.build_query_as().persistent(ids.len() == 1).fetch_all(pool).await
            })?;
            for (deployment, status, devices) in counted {
                counts.entry(deployment).or_default().put(status, devices);
            }
            let used: Vec<(DeploymentId, ArtifactId)> = on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new("SELECT deployment, artifact FROM deployment_artifacts");
                any_of!(query, " WHERE deployment", &ids);
                query.push(" ORDER BY deployment, artifact");
                query.build_query_as().persistent(ids.len() == 1).fetch_all(pool).await
            })?;
            for (deployment, artifact) in used {
                artifacts.entry(deployment).or_default().push(artifact);
            }
        }
        let mut phases = BTreeMap::new();
        for rows in rows.chunks(ROWS_PER_STATEMENT) {
            phases.extend(self.phases_of(&rows.iter().map(|row| row.id).collect::<Vec<_>>()).await?);
        }
        let whole = |row: DeploymentRow| {
            let corrupt = |what: &str| StorageError::Corrupt(format!("{what} of deployment {}", row.id));
            Ok(Deployment {
                kind: row.kind.parse().map_err(|_| corrupt("kind"))?,
                state: row.state.parse().map_err(|_| corrupt("state"))?,
                groups: serde_json::from_str(&row.target_groups).map_err(|_| corrupt("groups"))?,
                artifacts: artifacts.remove(&row.id).unwrap_or_default(),
                counts: counts.remove(&row.id).unwrap_or_default(),
                phases: phases.remove(&row.id).unwrap_or_default(),
                safety: match row.safety {
                    Some(safety) => serde_json::from_str(&safety).map_err(|_| corrupt("safety"))?,
                    None => Safety::default(),
                },
                paused: row.paused.map(|since| Pause { since, reason: row.paused_by.unwrap_or_default() }),
                retries: u32::try_from(row.retries).unwrap_or(u32::MAX),
                id: row.id,
                name: row.name,
                artifact_name: row.artifact_name,
                created: row.created,
                finished: row.finished,
                forced: row.forced,
                chosen_by: row.targets,
                is_dynamic: row.is_dynamic,
                max_devices: row.max_devices.unsigned_abs(),
                device_count: row.device_count.unsigned_abs(),
                total_size: row.total_size.unsigned_abs(),
                configuration: row.configuration.as_deref().map(Secret::from),
            })
        };
        rows.into_iter().map(whole).collect()
    }
}
