//! Taking alerts in: one transaction for many devices.
//!
//! Rows are locked in the order of the devices' ids: the devices themselves, so that they stay, then the row of each that
//! makes its alerts come one after the other. The log of events comes last, since all who append to it wait.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::QueryBuilder;

use super::fold::{SubjectKey, SubjectState, Subjects};
use super::{
    ALERTS_PER_DEVICE, Alert, AlertReport, Details, FollowUp, MailCount, NewAlert, Recorded, RecordedAlert, SAME_ALERT,
    SUBJECTS_PER_DEVICE,
};
use crate::channels;
use crate::database::{Database, ROWS_PER_STATEMENT, Transaction, in_transaction};
use crate::dialect::without_nul;
use crate::{AlertId, AlertLevel, DeviceId, StorageError, Timestamp, events, inventory, jobs};

/// Alerts, and keys of subjects, in one statement: they have several columns.
const WIDE_ROWS_PER_STATEMENT: usize = 500;

/// Users who are sent alerts by default.
const USERS: i64 = 1_000;

/// See [`Alerts::record`](super::Alerts::record).
pub(super) async fn record(
    db: &Database,
    reports: &[AlertReport],
    now: Timestamp,
    follow: &(impl Fn(&Recorded) -> FollowUp + Send + Sync),
) -> Result<Vec<bool>, StorageError> {
    let mut transaction = db.begin().await?;
    let mut devices: Vec<DeviceId> = reports.iter().map(|report| report.device).collect();
    devices.sort_unstable();
    devices.dedup();
    let known: HashSet<DeviceId> = keep_devices(db, &mut transaction, &devices).await?.into_iter().collect();
    devices.retain(|device| known.contains(device));

    let said: Vec<(DeviceId, NewAlert)> = reports
        .iter()
        .filter(|report| known.contains(&report.device))
        .flat_map(|report| report.alerts.iter().map(|alert| (report.device, storable(alert))))
        .collect();
    // Before looking for duplicates, which another node may be about to write.
    let mut rows = lock(&mut transaction, &devices).await?;
    let fresh = without_known(&mut transaction, said, now).await?;
    if !fresh.is_empty() {
        let recorded = write(&mut transaction, fresh, &mut rows, now).await?;
        let follow_up = follow(&recorded);
        count_mails(&mut transaction, &follow_up.mails).await?;
        jobs::insert(&mut transaction, &follow_up.jobs, now).await?;
        events::append(&mut transaction, &follow_up.events).await?;
    }
    transaction.commit().await?;
    Ok(reports.iter().map(|report| known.contains(&report.device)).collect())
}

/// Which of these devices exist and are not being removed; none of them is until the end of the transaction.
pub(super) async fn keep_devices(
    db: &Database,
    transaction: &mut Transaction,
    devices: &[DeviceId],
) -> Result<Vec<DeviceId>, StorageError> {
    let mut kept = Vec::with_capacity(devices.len());
    for devices in devices.chunks(ROWS_PER_STATEMENT) {
        let keep = db.keep();
        let found: Vec<DeviceId> = in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new("SELECT id FROM devices WHERE NOT decommissioning AND id IN (");
            let mut any = query.separated(", ");
            for device in devices {
                any.push_bind(*device);
            }
            any.push_unseparated(") ORDER BY id");
            query.push(keep);
            query.build_query_scalar().fetch_all(connection).await
        })?;
        kept.extend(found);
    }
    Ok(kept)
}

/// A device's row of `alert_devices`.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct DeviceRow {
    device: DeviceId,
    newest: i64,
    open: i64,
    mail_hour: i64,
    mails: i64,
}

/// Makes the rows of these devices, if they are not there, and keeps others waiting for them. `devices` is sorted.
async fn lock(
    transaction: &mut Transaction,
    devices: &[DeviceId],
) -> Result<HashMap<DeviceId, DeviceRow>, StorageError> {
    let mut locked = HashMap::with_capacity(devices.len());
    for devices in devices.chunks(ROWS_PER_STATEMENT) {
        let rows: Vec<DeviceRow> = in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new("INSERT INTO alert_devices (device) ");
            query.push_values(devices, |mut row, device| {
                row.push_bind(*device);
            });
            query.push(
                " ON CONFLICT (device) DO UPDATE SET newest = alert_devices.newest \
                 RETURNING device, newest, open, mail_hour, mails",
            );
            query.build_query_as().fetch_all(connection).await
        })?;
        locked.extend(rows.into_iter().map(|row| (row.device, row)));
    }
    Ok(locked)
}

/// What makes two alerts the same.
type Likeness = (DeviceId, Timestamp, String, String, String, String, String);

fn likeness(device: DeviceId, alert: &NewAlert) -> Likeness {
    (
        device,
        alert.at,
        alert.subject_type.clone(),
        alert.subject_name.clone(),
        alert.level.as_str().to_owned(),
        alert.status.clone(),
        alert.name.clone(),
    )
}

/// Leaves out what arrived before: a device repeats a batch whose answer it did not hear.
async fn without_known(
    transaction: &mut Transaction,
    said: Vec<(DeviceId, NewAlert)>,
    now: Timestamp,
) -> Result<Vec<(DeviceId, NewAlert)>, StorageError> {
    let mut met: HashSet<Likeness> = HashSet::with_capacity(said.len());
    let mut times: Vec<(DeviceId, Timestamp)> = said.iter().map(|(device, alert)| (*device, alert.at)).collect();
    times.sort_unstable();
    times.dedup();
    for times in times.chunks(WIDE_ROWS_PER_STATEMENT) {
        let known: Vec<Likeness> = in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new(
                "SELECT device, at, subject_type, subject_name, level, status, name FROM alerts WHERE received >= ",
            );
            query.push_bind(now.minus(SAME_ALERT)).push(" AND (device, at) IN (");
            query.push_values(times, |mut row, (device, at)| {
                row.push_bind(*device).push_bind(*at);
            });
            query.push(")");
            query.build_query_as().fetch_all(connection).await
        })?;
        met.extend(known);
    }
    Ok(said.into_iter().filter(|(device, alert)| met.insert(likeness(*device, alert))).collect())
}

async fn write(
    transaction: &mut Transaction,
    fresh: Vec<(DeviceId, NewAlert)>,
    rows: &mut HashMap<DeviceId, DeviceRow>,
    now: Timestamp,
) -> Result<Recorded, StorageError> {
    let mut subjects = load_subjects(transaction, &fresh).await?;
    let mut numbered = Vec::with_capacity(fresh.len());
    let mut recorded = Vec::with_capacity(fresh.len());
    for (device, said) in fresh {
        let Some(row) = rows.get_mut(&device) else { continue };
        row.newest += 1;
        let id = AlertId::random();
        let folded = subjects.fold(device, id, &said, now);
        let open = subjects.open.get(&device).copied().unwrap_or(0).unsigned_abs();
        numbered.push(row.newest);
        recorded.push(RecordedAlert { alert: Alert { id, device, said, received: now }, folded, open });
    }
    insert(transaction, &numbered, &recorded).await?;
    store_subjects(transaction, &subjects).await?;

    let mut spoken: Vec<DeviceId> = recorded.iter().map(|recorded| recorded.alert.device).collect();
    spoken.sort_unstable();
    spoken.dedup();
    let mut moved = BTreeMap::new();
    for device in &spoken {
        let Some(row) = rows.get_mut(device) else { continue };
        let open = subjects.open.get(device).copied().unwrap_or(0);
        trim(transaction, row).await?;
        if row.open != open {
            moved.insert(*device, Some(open.unsigned_abs()));
            row.open = open;
        }
    }
    inventory::show_open_alerts(transaction, &moved).await?;
    store_rows(transaction, &spoken, rows).await?;

    let channels = channels::enabled(transaction).await?;
    let (mutes, users) = if channels.is_empty() {
        (vec![], vec![])
    } else {
        let to_all = channels.iter().any(channels::Channel::is_for_all_users);
        let users = if to_all { channels::addresses(transaction, USERS).await? } else { vec![] };
        (channels::mutes_now(transaction, now).await?, users)
    };
    let mails = spoken
        .iter()
        .filter_map(|device| rows.get(device))
        .map(|row| (row.device, MailCount { hour: row.mail_hour, mails: row.mails }))
        .collect();
    Ok(Recorded { alerts: recorded, channels, mutes, users, mails })
}

/// The subjects these alerts speak of, and how many of each device are open.
async fn load_subjects(
    transaction: &mut Transaction,
    fresh: &[(DeviceId, NewAlert)],
) -> Result<Subjects, StorageError> {
    let mut keys: Vec<SubjectKey> = fresh
        .iter()
        .map(|(device, alert)| SubjectKey {
            device: *device,
            kind: alert.subject_type.clone(),
            name: alert.subject_name.clone(),
        })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let mut subjects = Subjects::default();
    for keys in keys.chunks(WIDE_ROWS_PER_STATEMENT) {
        let rows: Vec<(DeviceId, String, String, AlertId, String, Timestamp)> =
            in_transaction!(&mut *transaction, |connection| {
                let mut query = QueryBuilder::new(
                    "SELECT device, subject_type, subject_name, latest, level, at FROM alert_subjects \
                     WHERE (device, subject_type, subject_name) IN (",
                );
                query.push_values(keys, |mut row, key| {
                    row.push_bind(key.device).push_bind(key.kind.as_str()).push_bind(key.name.as_str());
                });
                query.push(")");
                query.build_query_as().fetch_all(connection).await
            })?;
        for (device, kind, name, latest, level, at) in rows {
            let level = AlertLevel::named(&level)
                .ok_or_else(|| StorageError::Corrupt(format!("level of a subject of device {device}")))?;
            subjects.states.insert(SubjectKey { device, kind, name }, SubjectState { latest, level, at });
        }
    }
    let mut devices: Vec<DeviceId> = keys.iter().map(|key| key.device).collect();
    devices.dedup();
    for devices in devices.chunks(ROWS_PER_STATEMENT) {
        let open: Vec<(DeviceId, i64)> = in_transaction!(&mut *transaction, |connection| {
            let mut query =
                QueryBuilder::new("SELECT device, COUNT(*) FROM alert_subjects WHERE is_open AND device IN (");
            let mut any = query.separated(", ");
            for device in devices {
                any.push_bind(*device);
            }
            any.push_unseparated(") GROUP BY device");
            query.build_query_as().fetch_all(connection).await
        })?;
        subjects.open.extend(open);
    }
    Ok(subjects)
}

async fn insert(
    transaction: &mut Transaction,
    numbers: &[i64],
    recorded: &[RecordedAlert],
) -> Result<(), StorageError> {
    let rows: Vec<(i64, &Alert, Option<&str>)> = numbers
        .iter()
        .zip(recorded)
        .map(|(number, recorded)| (*number, &recorded.alert, recorded.alert.said.details.as_ref().map(Details::text)))
        .collect();
    for rows in rows.chunks(WIDE_ROWS_PER_STATEMENT) {
        in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new(
                "INSERT INTO alerts (id, device, number, name, level, subject_type, subject_name, status, details, at, \
                 received) ",
            );
            query.push_values(rows, |mut row, (number, alert, details)| {
                row.push_bind(alert.id)
                    .push_bind(alert.device)
                    .push_bind(*number)
                    .push_bind(alert.said.name.as_str())
                    .push_bind(alert.said.level.as_str())
                    .push_bind(alert.said.subject_type.as_str())
                    .push_bind(alert.said.subject_name.as_str())
                    .push_bind(alert.said.status.as_str())
                    .push_bind(*details)
                    .push_bind(alert.said.at)
                    .push_bind(alert.received);
            });
            query.build().persistent(rows.len() == WIDE_ROWS_PER_STATEMENT).execute(connection).await.map(drop)
        })?;
    }
    Ok(())
}

async fn store_subjects(transaction: &mut Transaction, subjects: &Subjects) -> Result<(), StorageError> {
    // Each once, in order.
    let changed: BTreeMap<&SubjectKey, SubjectState> =
        subjects.changed.iter().filter_map(|key| Some((key, *subjects.states.get(key)?))).collect();
    let rows: Vec<(&SubjectKey, SubjectState)> = changed.into_iter().collect();
    for rows in rows.chunks(WIDE_ROWS_PER_STATEMENT) {
        in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new(
                "INSERT INTO alert_subjects (device, subject_type, subject_name, latest, level, at, is_open) ",
            );
            query.push_values(rows, |mut row, (key, state)| {
                row.push_bind(key.device)
                    .push_bind(key.kind.as_str())
                    .push_bind(key.name.as_str())
                    .push_bind(state.latest)
                    .push_bind(state.level.as_str())
                    .push_bind(state.at)
                    .push_bind(state.is_open());
            });
            query.push(
                " ON CONFLICT (device, subject_type, subject_name) DO UPDATE SET latest = excluded.latest, \
                 level = excluded.level, at = excluded.at, is_open = excluded.is_open",
            );
            query.build().persistent(rows.len() == WIDE_ROWS_PER_STATEMENT).execute(connection).await.map(drop)
        })?;
    }
    Ok(())
}

/// Lets go of what is beyond the bounds of one device: its oldest alerts, its oldest closed subjects.
async fn trim(transaction: &mut Transaction, row: &DeviceRow) -> Result<(), StorageError> {
    if row.newest > ALERTS_PER_DEVICE {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query(
                "DELETE FROM alerts WHERE device = $1 AND number <= $2 AND NOT EXISTS \
                 (SELECT 1 FROM alert_subjects s WHERE s.latest = alerts.id AND s.is_open)",
            )
            .bind(row.device)
            .bind(row.newest - ALERTS_PER_DEVICE)
            .execute(connection)
            .await
            .map(drop)
        })?;
    }
    if row.newest > SUBJECTS_PER_DEVICE {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query(
                "DELETE FROM alert_subjects WHERE device = $1 AND NOT is_open AND (at, subject_type, subject_name) <= \
                 (SELECT at, subject_type, subject_name FROM alert_subjects WHERE device = $1 AND NOT is_open \
                 ORDER BY at DESC, subject_type DESC, subject_name DESC LIMIT 1 OFFSET $2)",
            )
            .bind(row.device)
            .bind(SUBJECTS_PER_DEVICE)
            .execute(connection)
            .await
            .map(drop)
        })?;
    }
    Ok(())
}

async fn store_rows(
    transaction: &mut Transaction,
    devices: &[DeviceId],
    rows: &HashMap<DeviceId, DeviceRow>,
) -> Result<(), StorageError> {
    for devices in devices.chunks(ROWS_PER_STATEMENT) {
        in_transaction!(&mut *transaction, |connection| {
            let mut query = QueryBuilder::new("UPDATE alert_devices SET newest = column2, open = column3 FROM (");
            query.push_values(devices.iter().filter_map(|device| rows.get(device)), |mut row, state| {
                row.push_bind(state.device).push_bind(state.newest).push_bind(state.open);
            });
            query.push(") AS states WHERE device = column1");
            query.build().persistent(devices.len() == ROWS_PER_STATEMENT).execute(connection).await.map(drop)
        })?;
    }
    Ok(())
}

async fn count_mails(transaction: &mut Transaction, mails: &HashMap<DeviceId, MailCount>) -> Result<(), StorageError> {
    for (device, count) in mails {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query("UPDATE alert_devices SET mail_hour = $2, mails = $3 WHERE device = $1")
                .bind(device)
                .bind(count.hour)
                .bind(count.mails)
                .execute(connection)
                .await
                .map(drop)
        })?;
    }
    Ok(())
}

/// An alert in a form both databases can keep.
fn storable(alert: &NewAlert) -> NewAlert {
    NewAlert {
        name: without_nul(&alert.name).into_owned(),
        subject_type: without_nul(&alert.subject_type).into_owned(),
        subject_name: without_nul(&alert.subject_name).into_owned(),
        status: without_nul(&alert.status).into_owned(),
        ..alert.clone()
    }
}
