//! What a device that asks has to do.

use super::change::{advance, pass_over, place};
use super::devices::{DeviceDeploymentId, DeviceRow, device_columns};
use super::phases::{Told, take_place};
use super::settle::count;
use super::status::{FIRST_ACTIVE, LAST_ACTIVE};
use super::{DeploymentKind, Deployments, DeviceState};
use crate::artifacts::artifact_columns;
use crate::database::{Transaction, in_transaction};
use crate::{DeploymentId, DeviceId, StorageError, StoredArtifact, Timestamp, events};

/// A device asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll<'a> {
    /// Which.
    pub device: DeviceId,
    /// What it says it runs.
    pub artifact_name: &'a str,
    /// What it says it is.
    pub device_type: &'a str,
    /// Hash of what it says it has beyond that, if it says so: not every way of asking can.
    pub provides: Option<[u8; 32]>,
    /// The deployments that go by a filter which it passes.
    pub passes: &'a [DeploymentId],
    /// Now.
    pub at: Timestamp,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// There is nothing to do.
    Nothing,
    /// There is nothing to do now, and there may be at once: what it was at is over.
    Settled,
    /// What it says is not what it said before about the same: that has failed.
    Contradiction,
    /// To install this artifact.
    Artifact(DeploymentId, Box<StoredArtifact>),
    /// To install the configuration of this deployment.
    Configuration(DeploymentId),
}

/// What may come next for a device.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct Candidate {
    deployment: DeploymentId,
    created: Timestamp,
    /// Its row; none if the device has no part in the deployment yet.
    id: Option<DeviceDeploymentId>,
    /// Whether it is older than what the device went through last.
    #[sqlx(default)]
    is_passed_over: bool,
}

/// What a deployment has to say to a device.
#[derive(sqlx::FromRow)]
struct Order {
    kind: String,
    forced: bool,
    is_dynamic: bool,
    max_devices: i64,
    device_count: i64,
    finished: Option<Timestamp>,
    quota: Option<i64>,
    paused: Option<Timestamp>,
}

impl Order {
    /// Whether a device may be told that was not told before.
    fn has_place(&self) -> bool {
        self.finished.is_none() && self.paused.is_none() && self.quota.is_none_or(|quota| self.device_count < quota)
    }
}

/// Whether a deployment may tell a device something that it has not told it before, as part of a query.
macro_rules! has_place {
    () => {
        "d.finished IS NULL AND d.paused IS NULL AND (d.quota IS NULL OR d.device_count < d.quota)"
    };
}

impl Deployments {
    /// Tells a device what to do: to go on with the oldest thing it is at, or else to begin the oldest that is newer than
    /// what it went through last. Asking again changes nothing.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn offer(&self, poll: Poll<'_>) -> Result<Offer, StorageError> {
        let offered = async {
            loop {
                let mut transaction = self.db.begin().await?;
                transaction.lock_poll(poll.device).await?;
                let Some(candidate) = choose(&mut transaction, poll).await? else { return Ok(Offer::Nothing) };
                transaction.lock_deployment(candidate.deployment).await?;
                if candidate.is_passed_over {
                    let row = part(&mut transaction, candidate, poll).await?;
                    if let Some(row) = row.filter(|row| row.status == DeviceState::Pending.number()) {
                        pass_over(&mut transaction, row, poll.at).await?;
                    }
                    transaction.commit().await?;
                    continue;
                }
                // What was chosen before the lock may be over by now; then something else is.
                if let Some(row) = take(&mut transaction, candidate, poll).await? {
                    let mut told = Told::new();
                    let offer = answer(&mut transaction, &row, poll, &mut told).await?;
                    events::append(&mut transaction, &told).await?;
                    transaction.commit().await?;
                    return Ok(offer);
                }
                transaction.roll_back().await?;
            }
        };
        self.db.within(Box::pin(offered)).await
    }
}

async fn choose(transaction: &mut Transaction, poll: Poll<'_>) -> Result<Option<Candidate>, StorageError> {
    let device = poll.device.to_string();
    let last: Option<Timestamp> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar(
            "SELECT MAX(created) FROM device_deployments WHERE device = $1 AND offered IS NOT NULL \
             AND deleted IS NULL AND NOT status BETWEEN $2 AND $3",
        )
        .bind(&device)
        .bind(FIRST_ACTIVE)
        .bind(LAST_ACTIVE)
        .fetch_one(connection)
        .await
    })?;
    let last = last.unwrap_or_default();
    let passed_over: Option<Candidate> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_as(
            "SELECT deployment, created, id, TRUE AS is_passed_over FROM device_deployments WHERE device = $1 \
             AND created < $2 AND is_current AND deleted IS NULL AND status = $3 LIMIT 1",
        )
        .bind(&device)
        .bind(last)
        .bind(DeviceState::Pending.number())
        .fetch_optional(connection)
        .await
    })?;
    if passed_over.is_some() {
        return Ok(passed_over);
    }
    // While a deployment is paused, a device that has not begun with it may go on to a newer one.
    let going_on: Option<Candidate> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_as(
            "SELECT p.deployment, p.created, p.id FROM device_deployments p JOIN deployments d ON d.id = p.deployment \
             WHERE p.device = $1 AND p.is_current AND p.offered IS NOT NULL AND p.deleted IS NULL \
             AND p.status BETWEEN $2 AND $3 AND (p.status < $3 OR d.paused IS NULL) ORDER BY p.created LIMIT 1",
        )
        .bind(&device)
        .bind(FIRST_ACTIVE)
        .bind(DeviceState::Pending.number())
        .fetch_optional(connection)
        .await
    })?;
    if going_on.is_some() {
        return Ok(going_on);
    }
    let named: Option<Candidate> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_as(concat!(
            "SELECT p.deployment, p.created, p.id FROM device_deployments p \
             JOIN deployments d ON d.id = p.deployment WHERE p.device = $1 AND p.is_current AND p.created > $2 AND ",
            has_place!(),
            " AND ((p.offered IS NULL AND p.status = $3) \
             OR (p.deleted IS NOT NULL AND (d.max_devices = 0 OR d.device_count < d.max_devices))) \
             ORDER BY p.created LIMIT 1"
        ))
        .bind(&device)
        .bind(last)
        .bind(DeviceState::Pending.number())
        .fetch_optional(connection)
        .await
    })?;
    let passed = choose_passed(transaction, poll, &device, last).await?;
    Ok([named, passed].into_iter().flatten().min_by_key(|candidate| candidate.created))
}

/// The oldest deployment by a filter that the device passes, and has no part in yet.
async fn choose_passed(
    transaction: &mut Transaction,
    poll: Poll<'_>,
    device: &str,
    last: Timestamp,
) -> Result<Option<Candidate>, StorageError> {
    let mut oldest: Option<Candidate> = None;
    if poll.passes.is_empty() || !exists(transaction, poll.device).await? {
        return Ok(oldest);
    }
    for deployment in poll.passes {
        let created: Option<Timestamp> = in_transaction!(&mut *transaction, |connection| {
            sqlx::query_scalar(concat!(
                "SELECT created FROM deployments d WHERE id = $1 AND is_dynamic AND created > $2 AND ",
                has_place!(),
                " AND NOT EXISTS (SELECT 1 FROM device_deployments p WHERE p.deployment = d.id AND p.device = $3 \
                     AND p.is_current)"
            ))
            .bind(*deployment)
            .bind(last)
            .bind(device)
            .fetch_optional(connection)
            .await
        })?;
        if let Some(created) = created
            && oldest.is_none_or(|oldest| created < oldest.created)
        {
            oldest = Some(Candidate { deployment: *deployment, created, id: None, is_passed_over: false });
        }
    }
    Ok(oldest)
}

/// Whether the device was not removed meanwhile. Nobody removes it while it is at its poll.
async fn exists(transaction: &mut Transaction, device: DeviceId) -> Result<bool, StorageError> {
    let found: Option<DeviceId> = in_transaction!(transaction, |connection| {
        sqlx::query_scalar("SELECT id FROM devices WHERE id = $1").bind(device).fetch_optional(connection).await
    })?;
    Ok(found.is_some())
}

/// The device's row in what was chosen, told of it from now on; `None` if there is nothing for it there any more.
async fn take(
    transaction: &mut Transaction,
    candidate: Candidate,
    poll: Poll<'_>,
) -> Result<Option<DeviceRow>, StorageError> {
    let order = order(transaction, candidate.deployment).await?;
    let row = part(transaction, candidate, poll).await?;
    // What a device is at it may finish, also when enough others have.
    if let Some(row) = &row
        && row.offered.is_some()
        && row.deleted.is_none()
    {
        return go_on(transaction, row.clone(), &order, poll).await;
    }
    if !order.has_place() {
        return Ok(None);
    }
    let Some(row) = row else {
        if candidate.id.is_some() || !order.is_dynamic {
            return Ok(None);
        }
        let phase = take_place(transaction, candidate.deployment).await?;
        let row = begin(transaction, candidate, phase, poll).await?;
        count(transaction, candidate.deployment, (row.phase, row.status), 1).await?;
        return Ok(Some(row));
    };
    if row.deleted.is_some() {
        if order.max_devices > 0 && order.device_count >= order.max_devices {
            return Ok(None);
        }
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query("UPDATE device_deployments SET is_current = FALSE WHERE id = $1")
                .bind(row.id)
                .execute(connection)
                .await
                .map(drop)
        })?;
        // Its place is taken by the new row, so a device still counts once.
        count(transaction, row.deployment, (row.phase, row.status), -1).await?;
        let begun = begin(transaction, candidate, row.phase, poll).await?;
        count(transaction, row.deployment, (begun.phase, begun.status), 1).await?;
        return Ok(Some(begun));
    }
    if !row.is_untold() {
        return Ok(None);
    }
    let row = place(transaction, row, poll.at).await?;
    note_request(transaction, row, poll).await.map(Some)
}

/// The row of a device that was told of a deployment before, if there is still something to do.
async fn go_on(
    transaction: &mut Transaction,
    row: DeviceRow,
    order: &Order,
    poll: Poll<'_>,
) -> Result<Option<DeviceRow>, StorageError> {
    let is_pending = row.status == DeviceState::Pending.number();
    if !row.state()?.is_active() || (is_pending && order.paused.is_some()) {
        return Ok(None);
    }
    // Who tries again may say anything else than before.
    if row.is_to_try_again() { note_request(transaction, row, poll).await.map(Some) } else { Ok(Some(row)) }
}

/// The part that a device has in what was chosen.
async fn part(
    transaction: &mut Transaction,
    candidate: Candidate,
    poll: Poll<'_>,
) -> Result<Option<DeviceRow>, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_as(concat!(
            "SELECT ",
            device_columns!(),
            " FROM device_deployments WHERE deployment = $1 AND device = $2 AND is_current"
        ))
        .bind(candidate.deployment)
        .bind(poll.device.to_string())
        .fetch_optional(connection)
        .await
    })
}

/// Keeps what a device says when it is told, by which it is measured later.
async fn note_request(
    transaction: &mut Transaction,
    row: DeviceRow,
    poll: Poll<'_>,
) -> Result<DeviceRow, StorageError> {
    let row = DeviceRow { request: Some(request(poll)), provides: poll.provides.map(|hash| hash.to_vec()), ..row };
    in_transaction!(transaction, |connection| {
        sqlx::query("UPDATE device_deployments SET request = $2, provides = $3 WHERE id = $1")
            .bind(row.id)
            .bind(&row.request)
            .bind(&row.provides)
            .execute(connection)
            .await
            .map(drop)
    })?;
    Ok(row)
}

async fn order(transaction: &mut Transaction, deployment: DeploymentId) -> Result<Order, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_as(
            "SELECT kind, forced, is_dynamic, max_devices, device_count, finished, quota, paused FROM deployments \
             WHERE id = $1",
        )
        .bind(deployment)
        .fetch_one(connection)
        .await
    })
}

/// A new row for a device that is told of a deployment now, in this phase.
async fn begin(
    transaction: &mut Transaction,
    candidate: Candidate,
    phase: i64,
    poll: Poll<'_>,
) -> Result<DeviceRow, StorageError> {
    let row = DeviceRow {
        id: DeviceDeploymentId::random(),
        deployment: candidate.deployment,
        device: poll.device.to_string(),
        status: DeviceState::Pending.number(),
        created: candidate.created,
        offered: Some(poll.at),
        started: None,
        finished: None,
        deleted: None,
        substate: String::new(),
        request: Some(request(poll)),
        provides: poll.provides.map(|hash| hash.to_vec()),
        artifact: None,
        has_log: false,
        phase,
        attempts: 0,
    };
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO device_deployments (id, deployment, device, status, is_current, created, offered, request, \
             provides, phase) VALUES ($1, $2, $3, $4, TRUE, $5, $6, $7, $8, $9)",
        )
        .bind(row.id)
        .bind(row.deployment)
        .bind(&row.device)
        .bind(row.status)
        .bind(row.created)
        .bind(row.offered)
        .bind(&row.request)
        .bind(&row.provides)
        .bind(row.phase)
        .execute(connection)
        .await
        .map(drop)
    })?;
    Ok(row)
}

/// What a device says whichever way it asks, in one: neither text has the character between them.
fn request(poll: Poll<'_>) -> Vec<u8> {
    format!("{}\0{}", poll.artifact_name, poll.device_type).into_bytes()
}

async fn answer(
    transaction: &mut Transaction,
    row: &DeviceRow,
    poll: Poll<'_>,
    told: &mut Told,
) -> Result<Offer, StorageError> {
    let says_otherwise = row.request.as_deref().is_some_and(|before| before != request(poll));
    let has_otherwise = match (&row.provides, poll.provides) {
        (Some(before), Some(now)) => before[..] != now[..],
        _ => false,
    };
    if says_otherwise || has_otherwise {
        advance(transaction, row, DeviceState::Failure, poll.at, told).await?;
        return Ok(Offer::Contradiction);
    }
    let order = order(transaction, row.deployment).await?;
    if order.kind == DeploymentKind::Configuration.as_str() {
        return Ok(Offer::Configuration(row.deployment));
    }
    let Some(artifact) = artifact_for(transaction, row, poll).await? else {
        advance(transaction, row, DeviceState::NoArtifact, poll.at, told).await?;
        return Ok(Offer::Settled);
    };
    let is_installed =
        !order.forced && row.status == DeviceState::Pending.number() && artifact.name == poll.artifact_name;
    if row.artifact.is_none() {
        assign(transaction, row, &artifact, if is_installed { 0 } else { artifact.size }).await?;
    }
    if is_installed {
        advance(transaction, row, DeviceState::AlreadyInstalled, poll.at, told).await?;
        return Ok(Offer::Settled);
    }
    Ok(Offer::Artifact(row.deployment, Box::new(artifact)))
}

/// What the device was given before, or the smallest of what there is for its kind.
async fn artifact_for(
    transaction: &mut Transaction,
    row: &DeviceRow,
    poll: Poll<'_>,
) -> Result<Option<StoredArtifact>, StorageError> {
    if let Some(artifact) = row.artifact {
        return in_transaction!(transaction, |connection| {
            sqlx::query_as(concat!("SELECT ", artifact_columns!(), " FROM deployed_artifacts WHERE id = $1"))
                .bind(artifact)
                .fetch_optional(connection)
                .await
        });
    }
    in_transaction!(transaction, |connection| {
        sqlx::query_as(concat!(
            "SELECT ",
            artifact_columns!(),
            " FROM artifacts WHERE id IN (SELECT artifact FROM deployment_artifacts WHERE deployment = $1) \
             AND EXISTS (SELECT 1 FROM artifact_device_types WHERE artifact = artifacts.id AND device_type = $2) \
             ORDER BY size, id LIMIT 1"
        ))
        .bind(row.deployment)
        .bind(poll.device_type)
        .fetch_optional(connection)
        .await
    })
}

async fn assign(
    transaction: &mut Transaction,
    row: &DeviceRow,
    artifact: &StoredArtifact,
    given: i64,
) -> Result<(), StorageError> {
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query("UPDATE device_deployments SET artifact = $2 WHERE id = $1")
            .bind(row.id)
            .bind(artifact.id)
            .execute(connection)
            .await
            .map(drop)
    })?;
    in_transaction!(&mut *transaction, |connection| {
        sqlx::query(
            "INSERT INTO deployed_artifacts (id, name, description, size, modified, object, document) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE SET name = excluded.name, \
             description = excluded.description, size = excluded.size, modified = excluded.modified, \
             object = excluded.object, document = excluded.document \
             WHERE deployed_artifacts.object <> excluded.object",
        )
        .bind(artifact.id)
        .bind(&artifact.name)
        .bind(&artifact.description)
        .bind(artifact.size)
        .bind(artifact.modified)
        .bind(&artifact.object)
        .bind(&artifact.document)
        .execute(connection)
        .await
        .map(drop)
    })?;
    in_transaction!(transaction, |connection| {
        sqlx::query("UPDATE deployments SET total_size = total_size + $2 WHERE id = $1")
            .bind(row.deployment)
            .bind(given)
            .execute(connection)
            .await
            .map(drop)
    })
}
