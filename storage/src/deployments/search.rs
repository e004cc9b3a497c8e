//! Lists of deployments.

use std::collections::HashMap;

use sqlx::QueryBuilder;

use super::{Counts, Deployment, DeploymentKind, DeploymentState, Deployments};
use crate::database::{ROWS_PER_STATEMENT, on_reader};
use crate::{ArtifactId, DeploymentId, Direction, StorageError, Timestamp, dialect};

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
}

/// The columns of a [`DeploymentRow`].
macro_rules! deployment_columns {
    () => {
        "id, kind, name, artifact_name, created, finished, state, forced, targets, target_groups, is_dynamic, \
         max_devices, device_count, total_size, configuration"
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

    /// The deployments that go on and were made after `since`, in the order of their making: which, when, and whether they
    /// go by a filter (as JSON).
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn going_on(
        &self,
        since: Timestamp,
    ) -> Result<Vec<(DeploymentId, Timestamp, Option<String>)>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT id, created, CASE WHEN is_dynamic THEN targets END FROM deployments \
                 WHERE finished IS NULL AND created > $1 ORDER BY created",
            )
            .bind(since)
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
        let whole = |row: DeploymentRow| {
            let corrupt = |what: &str| StorageError::Corrupt(format!("{what} of deployment {}", row.id));
            Ok(Deployment {
                kind: row.kind.parse().map_err(|_| corrupt("kind"))?,
                state: row.state.parse().map_err(|_| corrupt("state"))?,
                groups: serde_json::from_str(&row.target_groups).map_err(|_| corrupt("groups"))?,
                artifacts: artifacts.remove(&row.id).unwrap_or_default(),
                counts: counts.remove(&row.id).unwrap_or_default(),
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
                configuration: row.configuration,
            })
        };
        rows.into_iter().map(whole).collect()
    }
}
