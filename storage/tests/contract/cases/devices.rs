//! Devices: changed one step at a time, written as a whole.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::Connection as _;
use storage::{
    AuthSetId, Decision, DeviceChange, DeviceFilter, DeviceId, DeviceKey, DeviceStatus, IssuedToken, Repaired,
    SetStatus, StorageError, Timestamp,
};

use crate::backends::{TestDatabase, accept, device, eventually, remove, set, stored_device, write};

pub async fn keeping_writes_nothing(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let answer = devices.change(DeviceKey::Identity(&[7; 32]), |before, fleet| {
        assert!(before.is_none());
        Decision::Keep((fleet.accepted, fleet.limit, fleet.pending))
    });
    assert_eq!(answer.await.expect("an answer"), (0, None, 0));
    let unknown = devices.change(DeviceKey::Id(DeviceId::random()), |before, _| Decision::Keep(before.is_none()));
    assert!(unknown.await.expect("an answer"));
    assert_eq!(devices.count(None).await.expect("a count"), 0);
    assert_eq!(devices.find(DeviceId::random()).await.expect("an answer"), None);
}

pub async fn a_change_is_written_as_a_whole(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let mut new = device(1, SetStatus::Accepted);
    new.auth_sets.push(set("second key", SetStatus::Pending));
    new.auth_sets[1].created = new.created.plus(Duration::from_secs(1));
    new.checked_in = Some(Timestamp(5));
    let (first, hash) = (new.auth_sets[0].id, new.identity_hash);

    let written = devices.change(DeviceKey::Identity(&hash), |_, _| {
        let issued = Some(IssuedToken { auth_set: first, expires: Timestamp(99) });
        Decision::Write(DeviceChange { after: Some(new.clone()), revoked: vec![], issued }, ())
    });
    written.await.expect("the change is written");

    new.revision = 1;
    let stored = devices.find(new.id).await.expect("an answer").expect("the device");
    assert_eq!(stored, new);
    let token = devices.token(first).await.expect("an answer").expect("the token");
    assert_eq!((token.device, token.auth_set, token.expires), (new.id, first, Timestamp(99)));
    assert_eq!((token.set_status, token.decommissioning), (SetStatus::Accepted, false));
    assert_eq!(devices.token(new.auth_sets[1].id).await.expect("an answer"), None);

    // A token alone is no change of the device.
    let again = devices.change(DeviceKey::Id(new.id), |before, _| {
        let mut after = before.cloned().expect("the device");
        after.checked_in = Some(Timestamp(7));
        let issued = Some(IssuedToken { auth_set: first, expires: Timestamp(100) });
        Decision::Write(DeviceChange { after: Some(after), revoked: vec![], issued }, ())
    });
    again.await.expect("the change is written");
    let stored = devices.find(new.id).await.expect("an answer").expect("the device");
    assert_eq!((stored.revision, stored.checked_in), (1, Some(Timestamp(7))));
    assert_eq!(devices.token(first).await.expect("an answer").expect("the token").expires, Timestamp(100));
}

pub async fn a_contradictory_change_writes_nothing(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let stored = stored_device(&database.storage, 1, SetStatus::Accepted).await;

    let mut same_key = stored.clone();
    same_key.auth_sets.push(set(&stored.auth_sets[0].pubkey, SetStatus::Pending));
    let mut two_accepted = stored.clone();
    two_accepted.auth_sets.push(set("another key", SetStatus::Accepted));
    let mut other_id = stored.clone();
    other_id.id = DeviceId::random();
    for wrong in [same_key, two_accepted, other_id] {
        let refused = devices.change(DeviceKey::Id(stored.id), |_, _| write(wrong.clone())).await;
        assert!(matches!(refused, Err(StorageError::Conflict(_))), "{refused:?}");
    }

    // Refused by the database in the middle of the transaction: the token belongs to no set.
    let half = devices.change(DeviceKey::Id(stored.id), |before, _| {
        let mut after = before.cloned().expect("the device");
        after.auth_sets[0].status = SetStatus::Rejected;
        let issued = Some(IssuedToken { auth_set: storage::AuthSetId::random(), expires: Timestamp(1) });
        Decision::Write(DeviceChange { after: Some(after), revoked: vec![], issued }, ())
    });
    half.await.expect_err("no such set");
    assert_eq!(devices.find(stored.id).await.expect("an answer"), Some(stored));
    assert_eq!(devices.count(Some(DeviceStatus::Accepted)).await.expect("a count"), 1);
}

pub async fn parallel_first_requests_make_one_device(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..24 {
        let storage = nodes[number % 2].clone();
        requests.spawn(async move {
            let new = device(42, SetStatus::Pending);
            let hash = new.identity_hash;
            let request = storage.devices.change(DeviceKey::Identity(&hash), |before, _| {
                if let Some(known) = before {
                    return Decision::Keep(known.id);
                }
                let after = Some(new.clone());
                Decision::Write(DeviceChange { after, revoked: vec![], issued: None }, new.id)
            });
            request.await.expect("an answer")
        });
    }
    let answers: HashSet<DeviceId> = requests.join_all().await.into_iter().collect();
    assert_eq!(answers.len(), 1);
    let listed = database.storage.devices.list(&DeviceFilter::default(), 0, 10).await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].auth_sets.len(), 1);
    assert_eq!(database.storage.devices.count(Some(DeviceStatus::Pending)).await.expect("a count"), 1);
}

pub async fn parallel_accepts_at_limit_one_let_one_through(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    database.storage.devices.set_limit(Some(1)).await.expect("the limit is set");
    let mut pending = Vec::new();
    for serial in 0..12 {
        pending.push(stored_device(&database.storage, serial, SetStatus::Pending).await.id);
    }
    let mut decisions = tokio::task::JoinSet::new();
    for (number, device) in pending.into_iter().enumerate() {
        let storage = nodes[number % 2].clone();
        decisions.spawn(async move {
            let decision = storage.devices.change(DeviceKey::Id(device), |before, fleet| {
                if fleet.limit.is_some_and(|limit| fleet.accepted >= limit) {
                    return Decision::Keep(false);
                }
                let mut after = before.cloned().expect("the device");
                after.auth_sets[0].status = SetStatus::Accepted;
                Decision::Write(DeviceChange { after: Some(after), revoked: vec![], issued: None }, true)
            });
            decision.await.expect("an answer")
        });
    }
    let accepted = decisions.join_all().await.into_iter().filter(|accepted| *accepted).count();
    assert_eq!(accepted, 1);
    assert_eq!(database.storage.devices.count(Some(DeviceStatus::Accepted)).await.expect("a count"), 1);
    assert_eq!(database.storage.devices.count(Some(DeviceStatus::Pending)).await.expect("a count"), 11);
}

pub async fn parallel_new_devices_with_room_for_one_let_one_in(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let mut requests = tokio::task::JoinSet::new();
    for serial in 0..12 {
        let storage = nodes[usize::from(serial % 2 == 0)].clone();
        requests.spawn(async move {
            let new = device(serial, SetStatus::Pending);
            let hash = new.identity_hash;
            let request = storage.devices.change(DeviceKey::Identity(&hash), |_, fleet| {
                if fleet.pending > 0 { Decision::Keep(()) } else { write(new.clone()) }
            });
            request.await.expect("an answer");
        });
    }
    requests.join_all().await;
    assert_eq!(database.storage.devices.count(Some(DeviceStatus::Pending)).await.expect("a count"), 1);
}

pub async fn new_devices_do_not_wait_for_one_another_until_there_are_many(database: &TestDatabase) {
    let Some(mut past) = database.postgres_connection().await else { return };
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (holds, is_held) = tokio::sync::oneshot::channel();
    let node = database.another_node().await;
    let refused = tokio::spawn(async move {
        let mut holds = Some(holds);
        let decided = node.devices.change(DeviceKey::Identity(&[9; 32]), move |_, fleet| {
            if fleet.pending == 0 {
                // The counts are held still now. No decision may do this; here it stands for a slow database.
                holds.take().expect("asked once").send(()).expect("somebody waits");
                let _ = tokio::task::block_in_place(|| held.recv_timeout(Duration::from_secs(20)));
            }
            Decision::Keep(())
        });
        decided.await.expect("an answer");
    });
    is_held.await.expect("it holds");
    stored_device(&database.storage, 1, SetStatus::Pending).await;

    // One more is let in only if there are not many, so it waits, and is decided about with what the counts came to.
    let (devices, new) = (database.storage.devices.clone(), device(2, SetStatus::Pending));
    let last = tokio::spawn(async move {
        let hash = new.identity_hash;
        let decided = devices.change(DeviceKey::Identity(&hash), |_, fleet| {
            if fleet.pending > 1 { Decision::Keep(()) } else { write(new.clone()) }
        });
        decided.await.expect("it is written");
    });
    eventually("it waits", async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut past).await.expect("a count") > 0
    })
    .await;
    release.send(()).expect("the other waits");
    refused.await.expect("it ends");
    last.await.expect("it ends");
    assert_eq!(database.storage.devices.count(Some(DeviceStatus::Pending)).await.expect("a count"), 2);
}

pub async fn parallel_changes_of_one_device_lose_nothing(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let stored = stored_device(&database.storage, 1, SetStatus::Pending).await;
    let mut changes = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (storage, hash) = (nodes[number % 2].clone(), stored.identity_hash);
        changes.spawn(async move {
            let key = if number % 3 == 0 { DeviceKey::Id(stored.id) } else { DeviceKey::Identity(&hash) };
            let change = storage.devices.change(key, |before, _| {
                let mut after = before.cloned().expect("the device");
                after.auth_sets.push(set(&format!("key {number}"), SetStatus::Pending));
                write(after)
            });
            change.await.expect("the change is written");
        });
    }
    changes.join_all().await;
    let after = database.storage.devices.find(stored.id).await.expect("an answer").expect("the device");
    assert_eq!((after.auth_sets.len(), after.revision), (21, 21));
}

pub async fn accepting_another_set_ends_the_token_of_the_first(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let stored = stored_device(&database.storage, 1, SetStatus::Pending).await;
    let first = accept(&database.storage, stored.id, Timestamp(99)).await;
    let second = set("new key", SetStatus::Accepted);
    let rotated = devices.change(DeviceKey::Id(stored.id), |before, _| {
        let mut after = before.cloned().expect("the device");
        after.auth_sets[0].status = SetStatus::Rejected;
        after.auth_sets.push(second.clone());
        let issued = Some(IssuedToken { auth_set: second.id, expires: Timestamp(100) });
        Decision::Write(DeviceChange { after: Some(after), revoked: vec![first], issued }, ())
    });
    rotated.await.expect("the change is written");
    assert_eq!(devices.token(first).await.expect("an answer"), None);
    assert!(devices.token(second.id).await.expect("an answer").is_some());

    // And back, with the sets in the other order: the one that is accepted is never a second one.
    let back = devices.change(DeviceKey::Id(stored.id), |before, _| {
        let mut after = before.cloned().expect("the device");
        for set in &mut after.auth_sets {
            set.status = if set.id == first { SetStatus::Accepted } else { SetStatus::Rejected };
        }
        after.auth_sets.reverse();
        Decision::Write(DeviceChange { after: Some(after), revoked: vec![second.id], issued: None }, ())
    });
    back.await.expect("the change is written");
    let after = devices.find(stored.id).await.expect("an answer").expect("the device");
    assert_eq!(after.status(), DeviceStatus::Accepted);
    assert_eq!(devices.token(second.id).await.expect("an answer"), None);
}

pub async fn a_removed_device_leaves_nothing_behind(database: &TestDatabase) {
    let storage = &database.storage;
    let stored = stored_device(storage, 1, SetStatus::Pending).await;
    let set = accept(storage, stored.id, Timestamp(99)).await;
    assert!(storage.connections.find(stored.id).await.expect("an answer").is_some());

    remove(storage, stored.id).await;
    assert_eq!(storage.devices.find(stored.id).await.expect("an answer"), None);
    assert_eq!(storage.devices.token(set).await.expect("an answer"), None);
    assert_eq!(storage.inventory.find(stored.id).await.expect("an answer"), None);
    assert_eq!(storage.connections.find(stored.id).await.expect("an answer"), None);
    assert_eq!(storage.devices.count(None).await.expect("a count"), 0);

    // Removing it again is nothing, and the same identity may come back as another device.
    remove(storage, stored.id).await;
    let returned = stored_device(storage, 1, SetStatus::Pending).await;
    assert_ne!(returned.id, stored.id);
}

/// Only Postgres locks single rows.
pub async fn a_removal_and_a_check_in_wait_for_one_another(database: &TestDatabase) {
    let Some(mut node) = database.postgres_connection().await else { return };
    let id = stored_device(&database.storage, 1, SetStatus::Accepted).await.id;
    let mut check_in = node.begin().await.expect("a transaction");
    let process: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *check_in).await.expect("a process");
    sqlx::query("UPDATE devices SET checked_in_at = 9").execute(&mut *check_in).await.expect("a check-in");
    let storage = database.storage.clone();
    let removal = tokio::spawn(async move { remove(&storage, id).await });
    let mut observer = database.postgres_connection().await.expect("another connection");
    eventually("the removal waits for the check-in", async || {
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))";
        let waiting: i64 = sqlx::query_scalar(waiting).bind(process).fetch_one(&mut observer).await.expect("a number");
        waiting > 0
    })
    .await;
    sqlx::query("UPDATE inventory SET checked_in_at = 9").execute(&mut *check_in).await.expect("no deadlock");
    check_in.commit().await.expect("the check-in is kept");
    removal.await.expect("the device is removed");
}

pub async fn counts_follow_every_change(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let stored = stored_device(&database.storage, 1, SetStatus::Pending).await;
    stored_device(&database.storage, 2, SetStatus::Preauthorized).await;
    let steps = [
        (Some(SetStatus::Accepted), DeviceStatus::Accepted),
        (Some(SetStatus::Rejected), DeviceStatus::Rejected),
        (None, DeviceStatus::NoAuth),
    ];
    for (status, expected) in steps {
        let step = devices.change(DeviceKey::Id(stored.id), |before, _| {
            let mut after = before.cloned().expect("the device");
            match status {
                Some(status) => after.auth_sets[0].status = status,
                None => after.auth_sets.clear(),
            }
            write(after)
        });
        step.await.expect("the change is written");
        for status in DeviceStatus::ALL {
            let there = u64::from(status == expected) + u64::from(status == DeviceStatus::Preauthorized);
            assert_eq!(devices.count(Some(status)).await.expect("a count"), there, "{status} after {expected}");
        }
        assert_eq!(devices.count(None).await.expect("a count"), 2);
    }
}

pub async fn lists_by_status_and_id_without_gaps(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let statuses = [SetStatus::Pending, SetStatus::Accepted, SetStatus::Rejected, SetStatus::Preauthorized];
    let mut stored = Vec::new();
    for (serial, status) in (0..).zip(statuses.iter().cycle().take(23)) {
        let mut new = device(serial, *status);
        new.auth_sets.push(set("rejected key", SetStatus::Rejected));
        new.auth_sets[1].created = new.created.plus(Duration::from_secs(1));
        let hash = new.identity_hash;
        devices.change(DeviceKey::Identity(&hash), |_, _| write(new.clone())).await.expect("the device is written");
        stored.push(new);
    }
    stored.sort_by_key(|device| (device.status().as_str(), device.id));
    let ids = |devices: &[storage::Device]| devices.iter().map(|device| device.id).collect::<Vec<_>>();

    let mut paged = Vec::new();
    for page in 0..5 {
        paged.extend(devices.list(&DeviceFilter::default(), page * 5, 5).await.expect("a page"));
    }
    assert_eq!(ids(&paged), ids(&stored));
    assert!(paged.iter().all(|device| device.auth_sets.len() == 2));
    assert!(devices.list(&DeviceFilter::default(), 23, 5).await.expect("a page").is_empty());

    let wanted = [DeviceStatus::Pending, DeviceStatus::Rejected];
    let filter = DeviceFilter { statuses: wanted.to_vec(), ..DeviceFilter::default() };
    let some: Vec<_> = stored.iter().filter(|device| wanted.contains(&device.status())).cloned().collect();
    assert_eq!(ids(&devices.list(&filter, 0, 100).await.expect("a page")), ids(&some));

    let filter = DeviceFilter { ids: vec![stored[20].id, stored[3].id, DeviceId::random()], ..DeviceFilter::default() };
    assert_eq!(ids(&devices.list(&filter, 0, 100).await.expect("a page")), vec![stored[3].id, stored[20].id]);
    let filter = DeviceFilter { statuses: vec![stored[3].status()], ids: filter.ids };
    assert_eq!(ids(&devices.list(&filter, 0, 100).await.expect("a page")), vec![stored[3].id]);
}

pub async fn tokens_end_when_revoked_or_expired(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let mut tokens = Vec::new();
    for serial in 0..3 {
        let stored = stored_device(&database.storage, serial, SetStatus::Pending).await;
        let expires = Timestamp(1_000 + i64::try_from(serial).expect("small"));
        tokens.push(accept(&database.storage, stored.id, expires).await);
    }
    assert!(devices.revoke_token(tokens[2], Timestamp(900)).await.expect("an answer"));
    assert!(!devices.revoke_token(tokens[2], Timestamp(900)).await.expect("an answer"));
    assert_eq!(devices.remove_expired_tokens(Timestamp(1_001)).await.expect("a count"), 1);
    let left: Vec<AuthSetId> =
        devices.tokens(&tokens).await.expect("an answer").into_iter().map(|token| token.auth_set).collect();
    assert_eq!(left, [tokens[1]]);
    assert!(devices.tokens(&[]).await.expect("an answer").is_empty());
    assert_eq!(devices.token(tokens[0]).await.expect("an answer"), None);
    assert_eq!(
        devices.token(tokens[1]).await.expect("an answer"),
        devices.tokens(&tokens[1..2]).await.expect("an answer").pop()
    );
    assert_eq!(devices.token(tokens[2]).await.expect("an answer"), None);
}

pub async fn revoked_tokens_do_not_come_back_with_the_next_one(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let stored = stored_device(&database.storage, 0, SetStatus::Pending).await;
    let set = accept(&database.storage, stored.id, Timestamp(i64::MAX)).await;
    let valid_from = async || devices.token(set).await.expect("an answer").expect("the token").valid_from;
    assert_eq!(valid_from().await, Timestamp(0));
    assert!(devices.revoke_token(set, Timestamp(5_999_999)).await.expect("an answer"));
    accept(&database.storage, stored.id, Timestamp(i64::MAX)).await;
    assert_eq!(valid_from().await, Timestamp::from_seconds(6));

    // Nor when they ended with a decision.
    let revoked = devices.change(DeviceKey::Id(stored.id), |before, _| {
        let mut after = before.cloned().expect("the device");
        after.updated = Timestamp(9_000_000);
        Decision::Write(DeviceChange { after: Some(after), revoked: vec![set], issued: None }, ())
    });
    revoked.await.expect("the change is written");
    assert_eq!(devices.token(set).await.expect("an answer"), None);
    accept(&database.storage, stored.id, Timestamp(i64::MAX)).await;
    assert_eq!(valid_from().await, Timestamp::from_seconds(10));
}

pub async fn connections_of_withdrawn_keys_do_not_stand(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let since = Timestamp(5_000_000);
    let (mut stored, mut sets) = (Vec::new(), Vec::new());
    for serial in 0..5 {
        let device = stored_device(&database.storage, serial, SetStatus::Pending).await.id;
        stored.push(device);
        // All but the last of the tokens have run out.
        let expires = if serial < 4 { Timestamp(1) } else { Timestamp(i64::MAX) };
        sets.push(if serial == 0 {
            storage::AuthSetId::random()
        } else {
            accept(&database.storage, device, expires).await
        });
    }
    devices.remove_expired_tokens(Timestamp(2)).await.expect("a count");
    // More than one statement takes; the first of each thousand has a set that is not accepted.
    let connections: Vec<_> = (0..2_000).map(|at| (stored[at % 4], sets[at % 4], since)).collect();
    let withdrawn = devices.withdrawn(&connections).await.expect("an answer");
    assert_eq!((withdrawn.len(), withdrawn.iter().all(|device| *device == stored[0])), (500, true));

    // Somebody else's set does not count, nor does a token revoked after the connection began.
    assert!(devices.revoke_token(sets[4], Timestamp(7_000_000)).await.expect("an answer"));
    let connections =
        [(stored[1], sets[2], since), (stored[4], sets[4], since), (stored[4], sets[4], Timestamp(9_000_000))];
    assert_eq!(devices.withdrawn(&connections).await.expect("an answer"), [stored[1], stored[4]]);
    assert_eq!(devices.withdrawn(&[]).await.expect("an answer"), []);
}

pub async fn a_set_has_one_owner(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let stored = stored_device(&database.storage, 0, SetStatus::Pending).await;
    stored_device(&database.storage, 1, SetStatus::Pending).await;
    assert_eq!(devices.owner(stored.auth_sets[0].id).await.expect("an answer"), Some(stored.id));
    assert_eq!(devices.owner(storage::AuthSetId::random()).await.expect("an answer"), None);
}

pub async fn check_ins_are_written_in_bulk_and_never_go_back(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let mut stored = Vec::new();
    for serial in 0..30 {
        stored.push(stored_device(&database.storage, serial, SetStatus::Pending).await);
    }
    // Some of them twice, among more strangers than one statement takes.
    let mut check_ins: Vec<_> = (0..2_500).map(|_| (DeviceId::random(), Timestamp(5))).collect();
    check_ins.extend(stored.iter().map(|device| (device.id, Timestamp(70))));
    check_ins.extend(stored.iter().map(|device| (device.id, Timestamp(60))));
    devices.record_check_ins(&check_ins).await.expect("they are written");
    devices.record_check_ins(&[(stored[0].id, Timestamp(50)), (stored[1].id, Timestamp(80))]).await.expect("written");
    devices.record_check_ins(&[]).await.expect("nothing to write");

    for (number, before) in stored.into_iter().enumerate() {
        let after = devices.find(before.id).await.expect("an answer").expect("the device");
        assert_eq!(after.checked_in, Some(Timestamp(if number == 1 { 80 } else { 70 })));
        assert_eq!((after.updated, after.revision), (before.updated, before.revision));
    }
}

pub async fn the_limit_is_kept(database: &TestDatabase) {
    let devices = &database.storage.devices;
    assert_eq!(devices.limit().await.expect("an answer"), None);
    for limit in [Some(0), Some(5), None] {
        devices.set_limit(limit).await.expect("the limit is set");
        assert_eq!(devices.limit().await.expect("an answer"), limit);
        let seen = devices.change(DeviceKey::Identity(&[9; 32]), |_, fleet| Decision::Keep(fleet.limit)).await;
        assert_eq!(seen.expect("an answer"), limit);
    }
}

pub async fn devices_being_removed_are_listed(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let stored = stored_device(&database.storage, 1, SetStatus::Accepted).await;
    stored_device(&database.storage, 2, SetStatus::Accepted).await;
    assert!(devices.decommissioning().await.expect("a list").is_empty());
    let marked = devices.change(DeviceKey::Id(stored.id), |before, _| {
        let mut after = before.cloned().expect("the device");
        after.decommissioning = true;
        let issued = Some(IssuedToken { auth_set: after.auth_sets[0].id, expires: Timestamp(1) });
        Decision::Write(DeviceChange { after: Some(after), revoked: vec![], issued }, ())
    });
    marked.await.expect("the change is written");
    assert_eq!(devices.decommissioning().await.expect("a list"), vec![stored.id]);
    let token = devices.token(stored.auth_sets[0].id).await.expect("an answer").expect("the token");
    assert!(token.decommissioning);
}

pub async fn settings_lift_only_what_settings_said(database: &TestDatabase) {
    let devices = &database.storage.devices;
    for (configured, limit) in [(Some(7), Some(7)), (None, None)] {
        devices.apply_configured_limit(configured).await.expect("the limit is set");
        assert_eq!(devices.limit().await.expect("an answer"), limit);
    }
    devices.set_limit(Some(3)).await.expect("the limit is set");
    for (configured, limit) in [(None, Some(3)), (Some(7), Some(7)), (None, None)] {
        devices.apply_configured_limit(configured).await.expect("the limit is set");
        assert_eq!(devices.limit().await.expect("an answer"), limit);
    }
    devices.set_limit(Some(3)).await.expect("the limit is set");
    devices.set_limit(None).await.expect("the limit is lifted");
    devices.apply_configured_limit(None).await.expect("the limit is set");
    assert_eq!(devices.limit().await.expect("an answer"), None);
}

pub async fn what_an_import_left_wrong_is_put_right(database: &TestDatabase) {
    let devices = &database.storage.devices;
    let one = stored_device(&database.storage, 1, SetStatus::Accepted).await;
    stored_device(&database.storage, 2, SetStatus::Pending).await;
    let healthy = Repaired { looked_at: 2, ..Repaired::default() };
    for dry_run in [true, false] {
        assert_eq!(devices.repair(dry_run).await.expect("a report"), healthy);
    }

    let broken = database
        .execute(&[
            "UPDATE devices SET status = 'rejected' WHERE status = 'accepted'",
            "UPDATE inventory SET document = '{}'",
            "UPDATE fleet SET accepted = 7, noauth = 1",
        ])
        .await;
    if !broken {
        return;
    }
    let expected = Repaired { looked_at: 2, statuses: 1, inventories: 2, counts: true };
    for dry_run in [true, true, false] {
        assert_eq!(devices.repair(dry_run).await.expect("a report"), expected, "dry run: {dry_run}");
    }
    assert_eq!(devices.repair(true).await.expect("a report"), healthy);
    assert_eq!(devices.count(None).await.expect("a count"), 2);
    let filter = DeviceFilter { statuses: vec![DeviceStatus::Accepted], ..DeviceFilter::default() };
    let listed = devices.list(&filter, 0, 10).await.expect("a list");
    assert_eq!(listed.iter().map(|device| device.id).collect::<Vec<_>>(), [one.id]);
    let shown = database.storage.inventory.find(one.id).await.expect("an answer").expect("the device");
    let status = shown.attributes.iter().find(|attribute| attribute.scope == "identity" && attribute.name == "status");
    assert_eq!(status.expect("a status").value, "accepted");
}
