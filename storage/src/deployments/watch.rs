//! Deployments that are watched for what their devices do not report themselves: alerts, and that they stay away.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;

use super::phases::{Told, phase_name};
use super::safety::{Safety, pause};
use super::status::{DeviceState, FIRST_ACTIVE};
use super::{Deployments, DeviceDeploymentId};
use crate::database::{ROWS_PER_STATEMENT, Transaction, in_transaction, on_reader};
use crate::{AlertLevel, DeploymentId, DeviceId, StorageError, Timestamp, events};

/// Alerts are looked at again for so many microseconds: one may be committed later than others that came after it.
const OVERLAP: i64 = 10_000_000;

/// A deployment that is watched.
#[derive(sqlx::FromRow)]
struct Watched {
    id: DeploymentId,
    created: Timestamp,
    resumed: Timestamp,
    /// Until when its devices' alerts were looked at.
    #[sqlx(rename = "watched")]
    alerts_seen: Timestamp,
    safety: String,
}

/// A device that is at a deployment.
#[derive(sqlx::FromRow)]
struct Underway {
    device: String,
    offered: Timestamp,
    phase: i64,
}

impl Deployments {
    /// Pauses every deployment of which too many devices have raised alerts or stay away; returns which.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`. Some may be paused then; repeating the call is safe.
    pub async fn watch(&self, at: Timestamp) -> Result<Vec<DeploymentId>, StorageError> {
        let watched: Vec<Watched> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT id, created, resumed, watched, safety FROM deployments \
                 WHERE finished IS NULL AND paused IS NULL AND safety IS NOT NULL ORDER BY created",
            )
            .fetch_all(pool)
            .await
        })?;
        let mut paused = Vec::new();
        for deployment in watched {
            let safety: Safety = serde_json::from_str(&deployment.safety)
                .map_err(|_| StorageError::Corrupt(format!("safety of deployment {}", deployment.id)))?;
            let mut found = None;
            if let Some(most) = safety.max_alerting {
                found = self.alerting(&deployment, most, at).await?;
            }
            if let (None, Some(most), Some(minutes)) = (&found, safety.max_away, safety.away_minutes) {
                found = self.away(&deployment, most, minutes, at).await?;
            }
            if let Some((phase, what)) = found
                && self.pause_for(deployment.id, phase, &what, at).await?
            {
                paused.push(deployment.id);
            }
        }
        Ok(paused)
    }

    /// The phase in which more devices than allowed have raised a critical alert since they were told; and what to say.
    async fn alerting(
        &self,
        deployment: &Watched,
        most: u64,
        at: Timestamp,
    ) -> Result<Option<(i64, String)>, StorageError> {
        let since = Timestamp(deployment.alerts_seen.0 - OVERLAP).max(deployment.resumed).max(deployment.created);
        let mut after: Option<DeviceId> = None;
        let mut is_news = false;
        loop {
            let alerts: Vec<(DeviceId, Timestamp)> = on_reader!(self.db, |pool| {
                let mut query = QueryBuilder::new("SELECT device, MAX(received) FROM alerts WHERE received > ");
                query.push_bind(since).push(" AND level IN (").push_bind(AlertLevel::Critical.as_str());
                query.push(", ").push_bind(AlertLevel::CriticalFlapping.as_str()).push(")");
                if let Some(after) = after {
                    query.push(" AND device > ").push_bind(after);
                }
                query.push(" GROUP BY device ORDER BY device LIMIT ").push_bind(page());
                query.build_query_as().fetch_all(pool).await
            })?;
            let Some((last, _)) = alerts.last() else { break };
            after = Some(*last);
            is_news |= self.mark_alerting(deployment.id, &alerts).await?;
            if alerts.len() < ROWS_PER_STATEMENT {
                break;
            }
        }
        self.note_watched(deployment.id, at).await?;
        if !is_news {
            return Ok(None);
        }
        let counted: Vec<(i64, i64)> = on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT phase, COUNT(*) FROM device_deployments WHERE deployment = $1 AND is_current AND alerted \
                 GROUP BY phase ORDER BY phase",
            )
            .bind(deployment.id)
            .fetch_all(pool)
            .await
        })?;
        let too_many = counted.into_iter().find(|(_, devices)| devices.unsigned_abs() > most);
        Ok(too_many.map(|(phase, devices)| (phase, format!("more than {most} devices ({devices}) raised alerts"))))
    }

    /// Marks the devices that were told before their alert; says whether there are any that were not marked before.
    async fn mark_alerting(
        &self,
        deployment: DeploymentId,
        alerts: &[(DeviceId, Timestamp)],
    ) -> Result<bool, StorageError> {
        let marked = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_deployment(deployment).await?;
            let told: Vec<(DeviceDeploymentId, String, Timestamp)> = in_transaction!(&mut transaction, |connection| {
                let mut query = QueryBuilder::new(
                    "SELECT id, device, offered FROM device_deployments WHERE is_current AND NOT alerted \
                     AND offered IS NOT NULL AND deployment = ",
                );
                query.push_bind(deployment).push(" AND device IN (");
                let mut list = query.separated(", ");
                for (device, _) in alerts {
                    list.push_bind(device.to_string());
                }
                query.push(")");
                query.build_query_as().persistent(false).fetch_all(connection).await
            })?;
            let times: BTreeMap<String, Timestamp> =
                alerts.iter().map(|(device, received)| (device.to_string(), *received)).collect();
            let alerted: Vec<DeviceDeploymentId> = told
                .into_iter()
                .filter(|(_, device, offered)| times.get(device).is_some_and(|received| received > offered))
                .map(|(id, ..)| id)
                .collect();
            if alerted.is_empty() {
                transaction.roll_back().await?;
                return Ok(false);
            }
            in_transaction!(&mut transaction, |connection| {
                let mut query = QueryBuilder::new("UPDATE device_deployments SET alerted = TRUE WHERE id IN (");
                let mut list = query.separated(", ");
                for id in &alerted {
                    list.push_bind(*id);
                }
                query.push(")");
                query.build().persistent(false).execute(connection).await.map(drop)
            })?;
            transaction.commit().await?;
            Ok(true)
        };
        self.db.within(Box::pin(marked)).await
    }

    async fn note_watched(&self, deployment: DeploymentId, at: Timestamp) -> Result<(), StorageError> {
        let noted = async {
            let mut transaction = self.db.begin().await?;
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE deployments SET watched = $2 WHERE id = $1 AND watched < $2")
                    .bind(deployment)
                    .bind(at)
                    .execute(connection)
                    .await
                    .map(drop)
            })?;
            transaction.commit().await
        };
        self.db.within(Box::pin(noted)).await
    }

    /// The phase of which more devices than allowed have begun and have been away for so long; and what to say.
    async fn away(
        &self,
        deployment: &Watched,
        most: u64,
        minutes: u32,
        at: Timestamp,
    ) -> Result<Option<(i64, String)>, StorageError> {
        let gone_before = Timestamp(at.0 - i64::from(minutes) * 60_000_000);
        let mut away: BTreeMap<i64, u64> = BTreeMap::new();
        let begun = (FIRST_ACTIVE..DeviceState::Pending.number()).filter_map(DeviceState::from_number);
        for state in begun {
            let mut after = String::new();
            loop {
                let underway = self.underway(deployment.id, state, &after).await?;
                let Some(last) = underway.last() else { break };
                after.clone_from(&last.device);
                let is_last = underway.len() < ROWS_PER_STATEMENT;
                for one in self.gone(underway, gone_before, deployment.resumed).await? {
                    *away.entry(one.phase).or_default() += 1;
                }
                if is_last {
                    break;
                }
            }
        }
        let too_many = away.into_iter().find(|(_, devices)| *devices > most);
        Ok(too_many.map(|(phase, devices)| {
            (phase, format!("more than {most} devices ({devices}) have been away for {minutes} minutes"))
        }))
    }

    async fn underway(
        &self,
        deployment: DeploymentId,
        state: DeviceState,
        after: &str,
    ) -> Result<Vec<Underway>, StorageError> {
        on_reader!(self.db, |pool| {
            sqlx::query_as(
                "SELECT device, offered, phase FROM device_deployments WHERE deployment = $1 AND status = $2 \
                 AND device > $3 AND is_current AND offered IS NOT NULL ORDER BY device LIMIT $4",
            )
            .bind(deployment)
            .bind(state.number())
            .bind(after)
            .bind(page())
            .fetch_all(pool)
            .await
        })
    }

    /// Those whose connection ended after they were told, and after `since`, and did not come back until `gone_before`. Who
    /// never connects is not away.
    async fn gone(
        &self,
        underway: Vec<Underway>,
        gone_before: Timestamp,
        since: Timestamp,
    ) -> Result<Vec<Underway>, StorageError> {
        let devices: Vec<DeviceId> = underway.iter().filter_map(|one| one.device.parse().ok()).collect();
        if devices.is_empty() {
            return Ok(vec![]);
        }
        let gone: Vec<(DeviceId, Timestamp)> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "SELECT device, updated_at FROM connections WHERE NOT connected AND epoch > 0 AND updated_at <= ",
            );
            query.push_bind(gone_before).push(" AND updated_at > ").push_bind(since).push(" AND device IN (");
            let mut list = query.separated(", ");
            for device in &devices {
                list.push_bind(*device);
            }
            query.push(")");
            query.build_query_as().persistent(false).fetch_all(pool).await
        })?;
        let gone: BTreeMap<String, Timestamp> =
            gone.into_iter().map(|(device, since)| (device.to_string(), since)).collect();
        let has_gone = |one: &Underway| gone.get(&one.device).is_some_and(|since| *since > one.offered);
        Ok(underway.into_iter().filter(has_gone).collect())
    }

    /// Pauses a deployment for what was seen in a phase, unless somebody did so meanwhile or it is over.
    async fn pause_for(
        &self,
        deployment: DeploymentId,
        phase: i64,
        what: &str,
        at: Timestamp,
    ) -> Result<bool, StorageError> {
        let paused = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_deployment(deployment).await?;
            let Some((name, phases)) = going_on(&mut transaction, deployment).await? else { return Ok(false) };
            let why = format!("in {}, {what}", phase_name(phase, usize::try_from(phases).unwrap_or(0)));
            let mut told = Told::new();
            pause(&mut transaction, deployment, &name, &why, at, &mut told).await?;
            events::append(&mut transaction, &told).await?;
            transaction.commit().await?;
            Ok(true)
        };
        self.db.within(Box::pin(paused)).await
    }
}

/// The name of a deployment that is neither over nor paused, and how many phases it has.
async fn going_on(
    transaction: &mut Transaction,
    deployment: DeploymentId,
) -> Result<Option<(String, i64)>, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_as(
            "SELECT name, (SELECT COUNT(*) FROM deployment_phases WHERE deployment = $1) FROM deployments \
             WHERE id = $1 AND finished IS NULL AND paused IS NULL",
        )
        .bind(deployment)
        .fetch_optional(connection)
        .await
    })
}

/// Rows of one page.
fn page() -> i64 {
    i64::try_from(ROWS_PER_STATEMENT).unwrap_or(i64::MAX)
}
