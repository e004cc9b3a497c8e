//! One change of one device, as one transaction.
//!
//! Locks are taken in one order: the identity, then the fleet if the decision may depend on its counts, then rows as
//! they are written, the device's before its inventory's, the fleet's counts last, since every change of status anywhere wants that row.

use super::row::{self, DeviceRow, FleetRow, select_device};
use super::{AuthSet, Decision, Device, DeviceChange, DeviceKey, DeviceStatus, IssuedToken, SetStatus};
use crate::database::{Database, Transaction, in_transaction};
use crate::{
    AuthSetId, DeviceId, DeviceState, Fleet, StorageError, Timestamp, clock, deployments, device_configs, events,
    inventory,
};

/// More new devices than are written while one is: each holds a connection of the database, and is done in milliseconds.
const UNDER_WAY: u64 = 4096;

/// See [`Devices::change`](super::Devices::change).
pub(super) async fn change<T>(
    db: &Database,
    key: DeviceKey<'_>,
    decide: impl FnMut(Option<&Device>, &Fleet) -> Decision<T> + Send,
) -> Result<T, StorageError> {
    let mut transaction = db.begin().await?;
    let before = load_locked(&mut transaction, key).await?;
    let (change, answer) = match decide_on(&mut transaction, before.as_ref(), decide).await? {
        Decision::Keep(answer) => {
            // Ends the transaction now; dropping it would keep the locks until the connection is used again.
            transaction.commit().await?;
            return Ok(answer);
        }
        Decision::Write(change, answer) => (change, answer),
    };
    check(key, before.as_ref(), &change)?;
    write(&mut transaction, before.as_ref(), &change).await?;
    transaction.commit().await?;
    Ok(answer)
}

pub(super) async fn load_locked(
    transaction: &mut Transaction,
    key: DeviceKey<'_>,
) -> Result<Option<Device>, StorageError> {
    let by_id;
    let hash = match key {
        DeviceKey::Identity(hash) => hash,
        DeviceKey::Id(id) => {
            let found: Option<Vec<u8>> = in_transaction!(&mut *transaction, |connection| {
                sqlx::query_scalar("SELECT identity_hash FROM devices WHERE id = $1")
                    .bind(id)
                    .fetch_optional(connection)
                    .await
            })?;
            let Some(found) = found else { return Ok(None) };
            by_id = <[u8; 32]>::try_from(found)
                .map_err(|_| StorageError::Corrupt(format!("identity hash of device {id}")))?;
            &by_id
        }
    };
    // The lock is on the identity even if the device was asked for by id: an identity never changes hands.
    transaction.lock_identity(hash).await?;
    let rows: Vec<DeviceRow> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_as(select_device!("d.identity_hash = $1")).bind(&hash[..]).fetch_all(connection).await
    })?;
    let device = row::one_device(rows)?;
    // While we waited, the device may have been removed and have come back under another id.
    Ok(device.filter(|device| !matches!(key, DeviceKey::Id(id) if id != device.id)))
}

/// Has it decided, with the counts held still if the decision may depend on them.
async fn decide_on<T>(
    transaction: &mut Transaction,
    before: Option<&Device>,
    mut decide: impl FnMut(Option<&Device>, &Fleet) -> Decision<T> + Send,
) -> Result<Decision<T>, StorageError> {
    let fleet = read_fleet(transaction).await?;
    match before {
        None => {
            // What is let in even after all others who may be on their way need not wait for them: new devices that did
            // wait for one another came at 240 a second, whatever the number of hubs.
            let (accepted, pending) =
                (fleet.accepted.saturating_add(UNDER_WAY), fleet.pending.saturating_add(UNDER_WAY));
            let decision = decide(before, &Fleet { accepted, pending, ..fleet });
            if matches!(decision, Decision::Write(..)) {
                return Ok(decision);
            }
        }
        Some(device) if fleet.limit.is_none() || device.status() == DeviceStatus::Accepted => {
            return Ok(decide(before, &fleet));
        }
        Some(_) => {}
    }
    transaction.lock_fleet().await?;
    let fleet = read_fleet(transaction).await?;
    Ok(decide(before, &fleet))
}

async fn read_fleet(transaction: &mut Transaction) -> Result<Fleet, StorageError> {
    let fleet: FleetRow =
        in_transaction!(transaction, |connection| { sqlx::query_as(row::SELECT_FLEET).fetch_one(connection).await })?;
    Ok(fleet.into())
}

/// Refuses what would leave the tables contradicting themselves, in a way the schema cannot.
fn check(key: DeviceKey<'_>, before: Option<&Device>, change: &DeviceChange) -> Result<(), StorageError> {
    let Some(after) = &change.after else { return Ok(()) };
    let same_device = match (before, key) {
        (Some(before), _) => before.id == after.id && before.identity_hash == after.identity_hash,
        (None, DeviceKey::Identity(hash)) => after.identity_hash == *hash,
        (None, DeviceKey::Id(_)) => false,
    };
    if !same_device {
        return Err(StorageError::Conflict("identity"));
    }
    let mut keys: Vec<&str> = after.auth_sets.iter().map(|set| set.pubkey.as_str()).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(StorageError::Conflict("pubkey"));
    }
    if after.auth_sets.iter().filter(|set| set.status == SetStatus::Accepted).count() > 1 {
        return Err(StorageError::Conflict("accepted set"));
    }
    Ok(())
}

async fn write(
    transaction: &mut Transaction,
    before: Option<&Device>,
    change: &DeviceChange,
) -> Result<(), StorageError> {
    let Some(after) = &change.after else {
        return match before {
            Some(device) => remove(transaction, device).await,
            None => Ok(()),
        };
    };
    write_device(transaction, before, after).await?;
    write_sets(transaction, before.map_or(&[], |device| &device.auth_sets), after).await?;
    for set in &change.revoked {
        revoke(transaction, *set, after.updated).await?;
    }
    if let Some(token) = change.issued {
        issue(transaction, token).await?;
    }
    let _changed = inventory::show_identity(transaction, after).await?;

    let (was, is) = (before.map(Device::status), after.status());
    if was != Some(is) {
        if is == DeviceStatus::Accepted {
            provision_connection(transaction, after.id, after.updated).await?;
        }
        count(transaction, was, Some(is)).await?;
    }
    Ok(())
}

async fn write_device(
    transaction: &mut Transaction,
    before: Option<&Device>,
    after: &Device,
) -> Result<(), StorageError> {
    let Some(before) = before else {
        return in_transaction!(transaction, |connection| {
            sqlx::query(
                "INSERT INTO devices (id, identity, identity_hash, status, decommissioning, created_at, updated_at, \
                 checked_in_at, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1)",
            )
            .bind(after.id)
            .bind(&after.identity)
            .bind(&after.identity_hash[..])
            .bind(after.status().as_str())
            .bind(after.decommissioning)
            .bind(after.created)
            .bind(after.updated)
            .bind(after.checked_in)
            .execute(connection)
            .await
            .map(drop)
        });
    };
    let altered = before.decommissioning != after.decommissioning
        || before.updated != after.updated
        || before.auth_sets != after.auth_sets;
    if !altered && before.checked_in == after.checked_in {
        return Ok(());
    }
    in_transaction!(transaction, |connection| {
        sqlx::query(
            // A check-in that was written meanwhile and is later than the one known here stays.
            "UPDATE devices SET status = $2, decommissioning = $3, updated_at = $4, revision = revision + $5, \
             checked_in_at = CASE WHEN checked_in_at IS NULL OR checked_in_at < $6 THEN $6 ELSE checked_in_at END \
             WHERE id = $1",
        )
        .bind(after.id)
        .bind(after.status().as_str())
        .bind(after.decommissioning)
        .bind(after.updated)
        .bind(i64::from(altered))
        .bind(after.checked_in)
        .execute(connection)
        .await
        .map(drop)
    })
}

async fn write_sets(transaction: &mut Transaction, before: &[AuthSet], after: &Device) -> Result<(), StorageError> {
    let kept = |set: &&AuthSet| after.auth_sets.iter().any(|other| other.id == set.id);
    for gone in before.iter().filter(|set| !kept(set)) {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query("DELETE FROM auth_sets WHERE id = $1").bind(gone.id).execute(connection).await.map(drop)
        })?;
    }
    let changed = after.auth_sets.iter().filter(|set| !before.contains(set));
    let (accepted, others): (Vec<&AuthSet>, Vec<&AuthSet>) = changed.partition(|set| set.status == SetStatus::Accepted);
    // The accepted one last: there is never more than one, not even in between.
    for set in others.into_iter().chain(accepted) {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query(
                "INSERT INTO auth_sets (id, device, pubkey, status, created_at) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (id) DO UPDATE SET status = excluded.status",
            )
            .bind(set.id)
            .bind(after.id)
            .bind(&set.pubkey)
            .bind(set.status.as_str())
            .bind(set.created)
            .execute(connection)
            .await
            .map(drop)
        })?;
    }
    Ok(())
}

/// Ends the tokens of a set; says whether there was one. Those issued until now stay void when the set gets another.
pub(super) async fn revoke(
    transaction: &mut Transaction,
    set: AuthSetId,
    now: Timestamp,
) -> Result<bool, StorageError> {
    let removed = in_transaction!(&mut *transaction, |connection| {
        sqlx::query("DELETE FROM device_tokens WHERE auth_set = $1")
            .bind(set)
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
    })?;
    // Tokens count in seconds, and one may have been issued in this one.
    let next_second = Timestamp::from_seconds(now.seconds().saturating_add(1));
    in_transaction!(transaction, |connection| {
        sqlx::query("UPDATE auth_sets SET tokens_from = $2 WHERE id = $1 AND tokens_from < $2")
            .bind(set)
            .bind(next_second)
            .execute(connection)
            .await
            .map(drop)
    })?;
    Ok(removed > 0)
}

async fn issue(transaction: &mut Transaction, token: IssuedToken) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO device_tokens (auth_set, expires_at) VALUES ($1, $2) \
             ON CONFLICT (auth_set) DO UPDATE SET expires_at = excluded.expires_at",
        )
        .bind(token.auth_set)
        .bind(token.expires)
        .execute(connection)
        .await
        .map(drop)
    })
}

/// An accepted device is known to the connection table before it first connects, so that asking for its connection says
/// "disconnected" and not "unknown".
async fn provision_connection(
    transaction: &mut Transaction,
    device: DeviceId,
    now: Timestamp,
) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO connections (device, connected, created_at, updated_at) VALUES ($1, FALSE, $2, $2) \
             ON CONFLICT (device) DO NOTHING",
        )
        .bind(device)
        .bind(now)
        .execute(connection)
        .await
        .map(drop)
    })
}

async fn remove(transaction: &mut Transaction, device: &Device) -> Result<(), StorageError> {
    // Who asks for work at this moment is told before, and stopped here, or finds that it is gone.
    transaction.lock_poll(device.id).await?;
    // Check-ins and alerts take this row first too, and the inventory's after it.
    transaction.lock_device(device.id).await?;
    // Sets and tokens go with the device, by their foreign keys.
    inventory::forget(transaction, device.id).await?;
    let name = device.id.to_string();
    let told = deployments::withdraw(transaction, &name, DeviceState::Decommissioned, clock::now()).await?;
    device_configs::forget_deployed(transaction, device.id).await?;
    for table in [
        "DELETE FROM connection_log WHERE device = $1",
        "DELETE FROM connections WHERE device = $1",
        "DELETE FROM devices WHERE id = $1",
    ] {
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query(table).bind(device.id).execute(connection).await.map(drop)
        })?;
    }
    count(transaction, Some(device.status()), None).await?;
    events::append(transaction, &told).await
}

/// Moves one device from one count to another.
async fn count(
    transaction: &mut Transaction,
    from: Option<DeviceStatus>,
    to: Option<DeviceStatus>,
) -> Result<(), StorageError> {
    let moved = |status| i64::from(to == Some(status)) - i64::from(from == Some(status));
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "UPDATE fleet SET accepted = accepted + $1, preauthorized = preauthorized + $2, pending = pending + $3, \
             rejected = rejected + $4, noauth = noauth + $5",
        )
        .bind(moved(DeviceStatus::Accepted))
        .bind(moved(DeviceStatus::Preauthorized))
        .bind(moved(DeviceStatus::Pending))
        .bind(moved(DeviceStatus::Rejected))
        .bind(moved(DeviceStatus::NoAuth))
        .execute(connection)
        .await
        .map(drop)
    })
}
