//! Last known connections: the newest one counts, whoever writes last.

use std::net::IpAddr;
use std::time::Duration;

use sqlx::Connection as _;
use storage::{
    Connection, ConnectionChange, DeviceId, DeviceKey, Epoch, NodeId, PastConnection, SetStatus, Storage, Timestamp,
};

use crate::backends::{TestDatabase, eventually, remove, stored_device, write};

pub fn change(device: DeviceId, node: NodeId, epoch: i64, connected: bool, at: i64) -> ConnectionChange {
    let reason = (!connected).then_some("closed by the device");
    ConnectionChange {
        device,
        node,
        epoch: Epoch(epoch),
        connected,
        at: Timestamp(at),
        reason,
        address: None,
        bytes_in: 0,
        bytes_out: 0,
        round_trip: None,
    }
}

async fn history(storage: &Storage, device: DeviceId) -> Vec<PastConnection> {
    storage.connections.history(device, 10_000).await.expect("a list")
}

/// Epoch, since, until.
async fn times(storage: &Storage, device: DeviceId) -> Vec<(i64, Option<i64>, Option<i64>)> {
    let history = history(storage, device).await;
    history.iter().map(|past| (past.epoch.0, past.since.map(|at| at.0), past.until.map(|at| at.0))).collect()
}

async fn find(storage: &Storage, device: DeviceId) -> Connection {
    storage.connections.find(device).await.expect("an answer").expect("a connection")
}

pub async fn a_connection_begins_and_ends(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let device = stored_device(storage, 1, SetStatus::Pending).await.id;
    assert_eq!(storage.connections.find(device).await.expect("an answer"), None);

    storage.connections.record(&[change(device, node, 10, true, 100)]).await.expect("recorded");
    let begun = find(storage, device).await;
    assert!(begun.connected);
    assert_eq!((begun.node, begun.epoch, begun.reason), (Some(node), Epoch(10), None));
    assert_eq!((begun.created, begun.updated), (Timestamp(100), Timestamp(100)));

    // Saying it again is no transition.
    storage.connections.record(&[change(device, node, 10, true, 150)]).await.expect("recorded");
    assert_eq!(find(storage, device).await.updated, Timestamp(100));

    storage.connections.record(&[change(device, node, 10, false, 200)]).await.expect("recorded");
    let ended = find(storage, device).await;
    assert!(!ended.connected);
    assert_eq!((ended.created, ended.updated), (Timestamp(100), Timestamp(200)));
    assert_eq!(ended.reason.as_deref(), Some("closed by the device"));

    storage.connections.record(&[change(device, node, 11, true, 300)]).await.expect("recorded");
    let again = find(storage, device).await;
    assert_eq!((again.connected, again.reason, again.updated), (true, None, Timestamp(300)));
    storage.connections.record(&[]).await.expect("nothing to record");
}

pub async fn an_older_connection_changes_nothing(database: &TestDatabase) {
    let (storage, old, new) = (&database.storage, NodeId::random(), NodeId::random());
    let device = stored_device(storage, 1, SetStatus::Pending).await.id;
    storage.connections.record(&[change(device, old, 10, true, 100)]).await.expect("recorded");
    storage.connections.record(&[change(device, new, 11, true, 110)]).await.expect("recorded");
    let newest = find(storage, device).await;
    for late in
        [change(device, old, 10, false, 120), change(device, old, 10, true, 130), change(device, old, 9, true, 140)]
    {
        storage.connections.record(&[late]).await.expect("ignored");
        assert_eq!(find(storage, device).await, newest);
    }
    storage.connections.record(&[change(device, new, 11, false, 150)]).await.expect("recorded");
    let ended = find(storage, device).await;
    assert_eq!((ended.connected, ended.epoch, ended.node), (false, Epoch(11), Some(new)));
}

pub async fn five_thousand_changes_in_one_call(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let devices: Vec<DeviceId> = (0..5_000).map(|_| DeviceId::random()).collect();
    for chunk in devices.chunks(500) {
        let provisioned = chunk.iter().map(|device| storage.connections.provision(*device, Timestamp(1)));
        for row in provisioned {
            row.await.expect("provisioned");
        }
    }
    let begun: Vec<ConnectionChange> = devices.iter().map(|device| change(*device, node, 5, true, 100)).collect();
    storage.connections.record(&begun).await.expect("recorded");
    let held = storage.connections.connected_on(node).await.expect("a list");
    assert_eq!(held.len(), 5_000);
    assert!(held.is_sorted() && held.iter().all(|(_, epoch)| *epoch == Epoch(5)));

    // Half of them end; for a third a stale end arrives as well.
    let mut changes: Vec<ConnectionChange> =
        devices[..2_500].iter().map(|device| change(*device, node, 5, false, 200)).collect();
    changes.extend(devices[2_500..4_000].iter().map(|device| change(*device, node, 4, false, 200)));
    storage.connections.record(&changes).await.expect("recorded");
    assert_eq!(storage.connections.connected_on(node).await.expect("a list").len(), 2_500);
    assert!(find(storage, devices[3_000]).await.connected);
    assert!(!find(storage, devices[0]).await.connected);
}

pub async fn a_removed_device_is_not_brought_back(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    storage.connections.record(&[change(device, node, 10, true, 100)]).await.expect("recorded");
    remove(storage, device).await;
    for late in [change(device, node, 10, false, 200), change(device, node, 11, true, 300)] {
        storage.connections.record(&[late]).await.expect("ignored");
        assert_eq!(storage.connections.find(device).await.expect("an answer"), None);
    }
}

pub async fn several_changes_of_one_device_in_one_call(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let device = stored_device(storage, 1, SetStatus::Pending).await.id;
    let brief = [change(device, node, 10, true, 100), change(device, node, 10, false, 101)];
    storage.connections.record(&brief).await.expect("recorded");
    let ended = find(storage, device).await;
    assert_eq!((ended.connected, ended.epoch, ended.updated), (false, Epoch(10), Timestamp(101)));

    let busy = [
        change(device, node, 11, true, 110),
        change(device, node, 12, true, 120),
        change(device, node, 11, false, 121),
    ];
    storage.connections.record(&busy).await.expect("recorded");
    let newest = find(storage, device).await;
    assert_eq!((newest.connected, newest.epoch), (true, Epoch(12)));
}

pub async fn nodes_recording_the_same_devices_do_not_fail(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let mut devices = Vec::new();
    for serial in 0..50 {
        devices.push(stored_device(&database.storage, serial, SetStatus::Pending).await.id);
    }
    let mut work = tokio::task::JoinSet::new();
    for number in 0..8_i64 {
        let (storage, mut devices) = (nodes[usize::from(number % 2 == 0)].clone(), devices.clone());
        work.spawn(async move {
            if number % 3 == 0 {
                devices.reverse();
            }
            let node = NodeId::random();
            for round in 0..5 {
                let epoch = round * 8 + number + 1;
                let changes: Vec<_> = devices.iter().map(|device| change(*device, node, epoch, true, epoch)).collect();
                storage.connections.record(&changes).await.expect("recorded");
                let check_ins: Vec<_> = devices.iter().map(|device| (*device, Timestamp(epoch))).collect();
                storage.devices.record_check_ins(&check_ins).await.expect("recorded");
            }
        });
    }
    // Decisions about the same devices go on meanwhile.
    for device in devices.iter().take(10) {
        let change = database.storage.devices.change(DeviceKey::Id(*device), |before, _| {
            let mut after = before.cloned().expect("the device");
            after.auth_sets[0].status = SetStatus::Accepted;
            write(after)
        });
        change.await.expect("the decision is written");
    }
    work.join_all().await;
    for device in devices {
        assert_eq!(find(&database.storage, device).await.epoch, Epoch(40));
        let stored = database.storage.devices.find(device).await.expect("an answer").expect("the device");
        assert_eq!(stored.checked_in, Some(Timestamp(40)));
    }
}

pub async fn what_a_dead_node_left_behind_is_found(database: &TestDatabase) {
    let (storage, dead, alive) = (&database.storage, NodeId::random(), NodeId::random());
    let mut devices = Vec::new();
    for serial in 0..3 {
        devices.push(stored_device(storage, serial, SetStatus::Pending).await.id);
    }
    devices.sort_unstable();
    let begun: Vec<_> = devices.iter().map(|device| change(*device, dead, 10, true, 100)).collect();
    storage.connections.record(&begun).await.expect("recorded");
    storage.connections.record(&[change(devices[1], alive, 11, true, 110)]).await.expect("recorded");
    // The one whose device has moved on is left in the log.
    let left: Vec<_> = devices.iter().map(|device| (*device, Epoch(10))).collect();
    assert_eq!(storage.connections.connected_on(dead).await.expect("a list"), left);
    let mut nodes = vec![dead, alive];
    nodes.sort_unstable();
    assert_eq!(storage.connections.nodes().await.expect("a list"), nodes);

    let ends: Vec<_> = left.iter().map(|(device, epoch)| change(*device, dead, epoch.0, false, 120)).collect();
    storage.connections.record(&ends).await.expect("recorded");
    assert!(storage.connections.connected_on(dead).await.expect("a list").is_empty());
    assert_eq!(storage.connections.nodes().await.expect("a list"), vec![alive]);
    assert!(find(storage, devices[1]).await.connected);
    assert_eq!(times(storage, devices[1]).await, [(11, Some(110), None), (10, Some(100), Some(120))]);
}

pub async fn a_change_costs_the_same_however_many_devices_there_are(database: &TestDatabase) {
    // How much was read is known of Postgres alone.
    let Some(mut connection) = database.postgres_connection().await else { return };
    let fill = [
        "INSERT INTO connections (device, connected, node, epoch, created_at, updated_at) \
         SELECT gen_random_uuid(), TRUE, '00000000-0000-4000-8000-000000000001', 1, 1, 1 FROM generate_series(1, 20000)",
        "INSERT INTO connection_log (device, epoch, node, since_at, bytes_in, bytes_out) \
         SELECT device, epoch, node, 1, 0, 0 FROM connections",
        "ANALYZE connections, connection_log",
    ];
    for statement in fill {
        sqlx::query(statement).execute(&mut connection).await.expect("a statement that works");
    }
    let devices: Vec<DeviceId> =
        sqlx::query_scalar("SELECT device FROM connections LIMIT 200").fetch_all(&mut connection).await.expect("ids");
    connection.close().await.expect("closed");
    database.storage.close().await;
    let before = rows_read(database).await;

    let (storage, node) = (database.another_node().await, NodeId::random());
    for connected in [true, false] {
        let changes: Vec<_> = devices.iter().map(|device| change(*device, node, 2, connected, 5)).collect();
        storage.connections.record(&changes).await.expect("recorded");
    }
    assert_eq!(storage.connections.nodes().await.expect("a list").len(), 1);
    storage.close().await;
    let read = rows_read(database).await - before;
    assert!(read < 20_000, "{read} rows were read, one after the other");
}

/// How many rows of connections were read without an index until now, by connections that have ended. (Before, they may not
/// have told.)
async fn rows_read(database: &TestDatabase) -> i64 {
    eventually("nobody else is connected", async || {
        let mut connection = database.postgres_connection().await.expect("Postgres");
        let others = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
                      AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        sqlx::query_scalar::<_, i64>(others).fetch_one(&mut connection).await.expect("a count") == 0
    })
    .await;
    let mut connection = database.postgres_connection().await.expect("Postgres");
    let read =
        "SELECT COALESCE(SUM(seq_tup_read), 0)::BIGINT FROM pg_stat_user_tables WHERE relname LIKE 'connection%'";
    sqlx::query_scalar(read).fetch_one(&mut connection).await.expect("a count")
}

pub async fn provisioning_and_forgetting(database: &TestDatabase) {
    let connections = &database.storage.connections;
    let device = DeviceId::random();
    connections.provision(device, Timestamp(1)).await.expect("provisioned");
    connections.provision(device, Timestamp(2)).await.expect("provisioned again");
    let known = find(&database.storage, device).await;
    assert_eq!((known.connected, known.node, known.epoch), (false, None, Epoch(0)));
    assert_eq!((known.created, known.updated), (Timestamp(1), Timestamp(1)));
    let node = NodeId::random();
    connections.record(&[change(device, node, 1, true, 5), change(device, node, 1, false, 6)]).await.expect("recorded");
    assert_eq!(times(&database.storage, device).await, [(1, Some(5), Some(6))]);
    assert!(connections.forget(device).await.expect("an answer"));
    assert!(history(&database.storage, device).await.is_empty());
    connections.record(&[change(device, node, 1, false, 7)]).await.expect("ignored");
    assert!(history(&database.storage, device).await.is_empty());
    assert!(!connections.forget(device).await.expect("an answer"));
    assert_eq!(connections.find(device).await.expect("an answer"), None);

    // Accepting a device makes it known here.
    let accepted = stored_device(&database.storage, 1, SetStatus::Accepted).await.id;
    assert!(!find(&database.storage, accepted).await.connected);
}

pub async fn every_connection_is_in_the_log(database: &TestDatabase) {
    let (storage, node, other) = (&database.storage, NodeId::random(), NodeId::random());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    assert!(history(storage, device).await.is_empty());

    // A whole connection, then two more of which the first is closed only after the second has begun.
    let address: IpAddr = "2001:db8::17".parse().expect("an address");
    let ended = ConnectionChange {
        address: Some(address),
        bytes_in: 4_000_000_000,
        bytes_out: 7,
        round_trip: Some(Duration::from_micros(31_500)),
        ..change(device, node, 10, false, 110)
    };
    let batch = [
        change(device, node, 10, true, 100),
        ended,
        change(device, node, 11, true, 120),
        change(device, other, 12, true, 130),
    ];
    storage.connections.record(&batch).await.expect("recorded");
    storage.connections.record(&[change(device, node, 11, false, 131)]).await.expect("recorded");

    let all = history(storage, device).await;
    assert_eq!(
        all[2],
        PastConnection {
            epoch: Epoch(10),
            node,
            address: Some(address),
            since: Some(Timestamp(100)),
            until: Some(Timestamp(110)),
            reason: Some("closed by the device".to_owned()),
            bytes_in: 4_000_000_000,
            bytes_out: 7,
            round_trip: Some(Duration::from_micros(31_500)),
        }
    );
    assert_eq!(
        times(storage, device).await,
        [(12, Some(130), None), (11, Some(120), Some(131)), (10, Some(100), Some(110))]
    );
    assert_eq!((all[0].node, &all[0].reason), (other, &None));
    assert!(find(storage, device).await.connected);
    assert_eq!(storage.connections.history(device, 2).await.expect("a list"), all[..2]);
    assert!(history(storage, DeviceId::random()).await.is_empty());

    // A batch whose commit was uncertain is sent again.
    storage.connections.record(&batch[..3]).await.expect("recorded");
    let last = find(storage, device).await;
    assert_eq!((last.epoch, last.connected), (Epoch(12), true));
    assert_eq!(history(storage, device).await[2], all[2]);
}

pub async fn of_several_ends_of_a_connection_the_first_counts(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let begun = ConnectionChange { bytes_in: 5, ..change(device, node, 10, true, 100) };
    storage.connections.record(&[begun]).await.expect("recorded");
    let lost = ConnectionChange { reason: Some("node-lost"), ..change(device, node, 10, false, 200) };
    storage.connections.record(&[lost]).await.expect("recorded");
    // The node was only out of sight, and knows more.
    let ended = ConnectionChange { bytes_in: 9, ..change(device, node, 10, false, 300) };
    storage.connections.record(&[ended]).await.expect("recorded");
    let past = history(storage, device).await.remove(0);
    assert_eq!((past.since, past.until), (Some(Timestamp(100)), Some(Timestamp(200))));
    assert_eq!((past.reason.as_deref(), past.bytes_in), (Some("node-lost"), 9));

    // Word that it goes on after all opens it again, here as in the last known connection.
    storage.connections.record(&[change(device, node, 10, true, 400)]).await.expect("recorded");
    let past = history(storage, device).await.remove(0);
    assert_eq!((past.since, past.until, past.reason, past.bytes_in), (Some(Timestamp(100)), None, None, 9));
    assert!(find(storage, device).await.connected);
}

pub async fn the_log_of_a_removed_device_goes_with_it_and_late_word_brings_nothing_back(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    storage.connections.record(&[change(device, node, 10, true, 100)]).await.expect("recorded");
    remove(storage, device).await;
    let late = [change(device, node, 10, false, 200), change(device, node, 11, true, 300)];
    storage.connections.record(&late).await.expect("ignored");
    assert_eq!(times(storage, device).await, []);
}

pub async fn an_end_without_a_beginning_is_in_the_log(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    storage.connections.record(&[change(device, node, 10, false, 100)]).await.expect("recorded");
    assert_eq!(times(storage, device).await, [(10, None, Some(100))]);
}

pub async fn old_connections_leave_the_log(database: &TestDatabase) {
    let (storage, node) = (&database.storage, NodeId::random());
    let mut devices = Vec::new();
    for serial in 0..3 {
        devices.push(stored_device(storage, serial, SetStatus::Accepted).await.id);
    }
    let [restless, steady, moved] = devices[..] else { panic!("three devices") };
    // More than retention removes at a time.
    let mut changes = Vec::new();
    for epoch in 1..=2_500 {
        changes.push(change(restless, node, epoch, true, epoch * 10));
        changes.push(change(restless, node, epoch, false, epoch * 10 + 5));
    }
    changes.push(change(steady, node, 1, true, 10));
    changes.push(change(moved, node, 1, true, 10));
    changes.push(change(moved, NodeId::random(), 2, true, 20));
    storage.connections.record(&changes).await.expect("recorded");

    assert_eq!(storage.connections.expire_history(Timestamp(10), 10_000).await.expect("an answer"), 0);
    // Those that ended before; and one that is open only because nobody wrote its end.
    let expired = storage.connections.expire_history(Timestamp(15_000), 10_000).await.expect("an answer");
    assert_eq!(expired, 1_499 + 1);
    assert_eq!(times(storage, moved).await, [(2, Some(20), None)]);
    assert_eq!(times(storage, steady).await, [(1, Some(10), None)]);
    assert_eq!(times(storage, restless).await.last(), Some(&(1_500, Some(15_000), Some(15_005))));

    let expired = storage.connections.expire_history(Timestamp(15_000), 10).await.expect("an answer");
    assert_eq!(expired, 1_001 - 10);
    let kept = times(storage, restless).await;
    assert_eq!((kept.len(), kept[0].0, kept[9].0), (10, 2_500, 2_491));
    assert_eq!(times(storage, steady).await, [(1, Some(10), None)]);
}
