//! Deployments that begin on some devices first, and go on to the others later.
//!
//! A phase is a number of places. A device that asks takes the next place there is, so the first phase is whoever asks first;
//! when all places of the open phases are taken, others wait. A phase opens at its time, or, if it has none, once all devices
//! of the phase before are over with the deployment.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;

use super::safety::Safety;
use super::status::{Counts, DeploymentState, FIRST_ACTIVE, LAST_ACTIVE};
use super::{Deployments, happening};
use crate::database::{Transaction, in_transaction, on_reader};
use crate::{DeploymentId, NewEvent, PhaseId, StorageError, Timestamp, events};

/// How a deployment goes about its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Its phases, in order; none: all devices at once.
    pub phases: Vec<NewPhase>,
    /// How often a device that has failed is told again.
    pub retries: u32,
    /// What pauses it by itself.
    pub safety: Safety,
}

/// A phase to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewPhase {
    /// How many percent of the devices were asked for, if it was said so.
    pub percent: Option<u8>,
    /// How many devices are in it. All but the last phase say so; the last one does not if nobody knows.
    pub devices: Option<u64>,
    /// When it opens; `None`: at once if it is the first, else after the one before.
    pub starts: Option<Timestamp>,
}

/// A phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// Which.
    pub id: PhaseId,
    /// Its number, from 1.
    pub number: u32,
    /// How many percent of the devices were asked for, if it was said so.
    pub percent: Option<u8>,
    /// How many devices are in it; `None`: nobody knows.
    pub devices: Option<u64>,
    /// When it opens, if it has a time.
    pub starts: Option<Timestamp>,
    /// When it opened.
    pub opened: Option<Timestamp>,
    /// How many of its devices stand where.
    pub counts: Counts,
}

#[derive(sqlx::FromRow)]
struct PhaseRow {
    id: PhaseId,
    number: i64,
    percent: Option<i64>,
    devices: Option<i64>,
    starts: Option<Timestamp>,
    opened: Option<Timestamp>,
}

/// Which deployments have a phase that is to open, as part of a query: `$1` is now, and `d` and `p` are the deployment and its
/// next phase.
macro_rules! due {
    () => {
        " FROM deployments d JOIN deployment_phases p ON p.deployment = d.id AND p.number = d.phase + 1 \
         WHERE d.finished IS NULL AND d.paused IS NULL AND (p.starts <= $1 OR (p.starts IS NULL AND \
         (SELECT COALESCE(SUM(c.devices), 0) FROM deployment_phase_counts c WHERE c.deployment = d.id AND c.phase = d.phase \
         AND NOT c.status BETWEEN $2 AND $3) >= (SELECT q.devices FROM deployment_phases q \
         WHERE q.deployment = d.id AND q.number = d.phase)))"
    };
}

impl Deployments {
    /// The phases of a deployment, in order; none if it goes to all its devices at once.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn phases(&self, deployment: DeploymentId) -> Result<Vec<Phase>, StorageError> {
        Ok(self.phases_of(&[deployment]).await?.remove(&deployment).unwrap_or_default())
    }

    /// The phases of each of these deployments that has some.
    pub(super) async fn phases_of(
        &self,
        deployments: &[DeploymentId],
    ) -> Result<BTreeMap<DeploymentId, Vec<Phase>>, StorageError> {
        macro_rules! rows {
            ($columns:expr, $order:expr) => {
                on_reader!(self.db, |pool| {
                    let mut query =
                        QueryBuilder::new(concat!("SELECT deployment, ", $columns, " WHERE deployment IN ("));
                    let mut list = query.separated(", ");
                    for deployment in deployments {
                        list.push_bind(*deployment);
                    }
                    query.push($order);
                    query.build_query_as().persistent(deployments.len() == 1).fetch_all(pool).await
                })
            };
        }
        let phases: Vec<WithDeployment> = rows!(
            "id, number, percent, devices, starts, opened FROM deployment_phases",
            ") ORDER BY deployment, number"
        )?;
        if phases.is_empty() {
            return Ok(BTreeMap::new());
        }
        let counted: Vec<(DeploymentId, i64, i64, i64)> =
            rows!("phase, status, devices FROM deployment_phase_counts", ")")?;
        let mut counts: BTreeMap<(DeploymentId, i64), Counts> = BTreeMap::new();
        for (deployment, phase, status, devices) in counted {
            counts.entry((deployment, phase)).or_default().put(status, devices);
        }
        let mut found: BTreeMap<DeploymentId, Vec<Phase>> = BTreeMap::new();
        for WithDeployment { deployment, phase: row } in phases {
            found.entry(deployment).or_default().push(Phase {
                id: row.id,
                number: u32::try_from(row.number).unwrap_or(u32::MAX),
                percent: row.percent.and_then(|percent| u8::try_from(percent).ok()),
                devices: row.devices.map(i64::unsigned_abs),
                starts: row.starts,
                opened: row.opened,
                counts: counts.remove(&(deployment, row.number)).unwrap_or_default(),
            });
        }
        Ok(found)
    }

    /// Opens every phase whose turn it is; returns the deployments that have more places now, each as often as it got some.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be open then; repeating the call is safe.
    pub async fn open_due(&self, at: Timestamp) -> Result<Vec<DeploymentId>, StorageError> {
        let mut opened = Vec::new();
        loop {
            let due: Vec<DeploymentId> = on_reader!(self.db, |pool| {
                sqlx::query_scalar(concat!("SELECT d.id", due!(), " ORDER BY d.created"))
                    .bind(at)
                    .bind(FIRST_ACTIVE)
                    .bind(LAST_ACTIVE)
                    .fetch_all(pool)
                    .await
            })?;
            if due.is_empty() {
                return Ok(opened);
            }
            for deployment in due {
                if self.open_next(deployment, at).await? {
                    opened.push(deployment);
                }
            }
        }
    }

    /// Opens the next phase of a deployment if it is its turn, and nobody else did so meanwhile.
    async fn open_next(&self, deployment: DeploymentId, at: Timestamp) -> Result<bool, StorageError> {
        let opened = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_deployment(deployment).await?;
            let next: Option<(i64, String, String)> = in_transaction!(&mut transaction, |connection| {
                sqlx::query_as(concat!("SELECT p.number, d.name, d.state", due!(), " AND d.id = $4"))
                    .bind(at)
                    .bind(FIRST_ACTIVE)
                    .bind(LAST_ACTIVE)
                    .bind(deployment)
                    .fetch_optional(connection)
                    .await
            })?;
            let Some((number, name, state)) = next else { return Ok(false) };
            let state =
                if state == DeploymentState::Scheduled.as_str() { DeploymentState::Pending.as_str() } else { &state };
            open(&mut transaction, deployment, number, state, at).await?;
            let mut event = happening("deployment-phase-opened", deployment, &name, at);
            event.key = format!("{}/{number}", event.key);
            event.body["phase"] = number.into();
            events::append(&mut transaction, &[event]).await?;
            transaction.commit().await?;
            Ok(true)
        };
        self.db.within(Box::pin(opened)).await
    }
}

#[derive(sqlx::FromRow)]
struct WithDeployment {
    deployment: DeploymentId,
    #[sqlx(flatten)]
    phase: PhaseRow,
}

/// Opens a phase: its places may be taken from now on.
async fn open(
    transaction: &mut Transaction,
    deployment: DeploymentId,
    number: i64,
    state: &str,
    at: Timestamp,
) -> Result<(), StorageError> {
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query("UPDATE deployment_phases SET opened = $3 WHERE deployment = $1 AND number = $2")
            .bind(deployment)
            .bind(number)
            .bind(at)
            .execute(connection)
            .await
            .map(drop)
    })?;
    // The last one has room for whoever is left.
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "UPDATE deployments SET phase = $2, openings = openings + 1, state = $3, quota = CASE WHEN EXISTS \
             (SELECT 1 FROM deployment_phases WHERE deployment = $1 AND number > $2) THEN \
             (SELECT SUM(devices) FROM deployment_phases WHERE deployment = $1 AND number <= $2) END WHERE id = $1",
        )
        .bind(deployment)
        .bind(number)
        .bind(state)
        .execute(connection)
        .await
        .map(drop)
    })
}

/// Writes the phases of a new deployment, and opens the first if it is its turn.
pub(super) async fn begin(
    transaction: &mut Transaction,
    deployment: DeploymentId,
    plan: &Plan,
    at: Timestamp,
) -> Result<(), StorageError> {
    // What may pause a deployment is counted by phase.
    let only = [NewPhase::default()];
    let phases = if plan.phases.is_empty() && !plan.safety.is_empty() { &only[..] } else { &plan.phases[..] };
    let Some(first) = phases.first() else { return Ok(()) };
    let number_of = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    in_transaction!(&mut *transaction, |connection| {
        let mut query =
            QueryBuilder::new("INSERT INTO deployment_phases (deployment, number, id, percent, devices, starts) ");
        query.push_values((1_i64..).zip(phases), |mut row, (number, phase)| {
            row.push_bind(deployment)
                .push_bind(number)
                .push_bind(PhaseId::random())
                .push_bind(phase.percent.map(i64::from))
                .push_bind(phase.devices.map(number_of))
                .push_bind(phase.starts);
        });
        query.build().persistent(false).execute(connection).await.map(drop)
    })?;
    if first.starts.is_none_or(|starts| starts <= at) {
        return open(transaction, deployment, 1, DeploymentState::Pending.as_str(), at).await;
    }
    in_transaction!(transaction, |connection| {
        sqlx::query("UPDATE deployments SET quota = 0, state = $2 WHERE id = $1")
            .bind(deployment)
            .bind(DeploymentState::Scheduled.as_str())
            .execute(connection)
            .await
            .map(drop)
    })
}

/// Counts one more device that has been told, and says in which phase it is; 0 if there is none.
pub(super) async fn take_place(transaction: &mut Transaction, deployment: DeploymentId) -> Result<i64, StorageError> {
    let place: i64 = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar(
            "UPDATE deployments SET device_count = device_count + 1 WHERE id = $1 RETURNING device_count",
        )
        .bind(deployment)
        .fetch_one(connection)
        .await
    })?;
    let sizes: Vec<Option<i64>> = in_transaction!(transaction, |connection| {
        sqlx::query_scalar("SELECT devices FROM deployment_phases WHERE deployment = $1 ORDER BY number")
            .bind(deployment)
            .fetch_all(connection)
            .await
    })?;
    Ok(phase_at(place, &sizes))
}

/// The phase of the device with this place (from 1) among all that were told.
fn phase_at(place: i64, sizes: &[Option<i64>]) -> i64 {
    let mut end = 0_i64;
    let mut number = 0;
    for size in sizes {
        number += 1;
        end = end.saturating_add(size.unwrap_or(i64::MAX));
        if place <= end {
            break;
        }
    }
    number
}

/// What a phase is called in a text, of so many.
pub(super) fn phase_name(number: i64, phases: usize) -> String {
    if phases > 1 { format!("phase {number}") } else { "the deployment".to_owned() }
}

/// The events that a transaction tells when it is over with everything else.
pub(super) type Told = Vec<NewEvent>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_fill_one_phase_after_the_other() {
        let sizes = [Some(2), Some(3), None];
        let phases: Vec<i64> = (1..=7).map(|place| phase_at(place, &sizes)).collect();
        assert_eq!(phases, [1, 1, 2, 2, 2, 3, 3]);
        assert_eq!(phase_at(9, &[Some(2), Some(3)]), 2);
        assert_eq!(phase_at(1, &[]), 0);
    }
}
