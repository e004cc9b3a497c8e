//! Forgetting everything that is known about connections and sessions.

use storage::{
    ConnectionChange, DeviceId, Epoch, NewEvent, NodeId, OpenedSession, SessionChange, SessionFigures, SessionFilter,
    SessionId, SessionKind, SetStatus, Timestamp, UserId,
};

use crate::backends::{TestDatabase, stored_device};

fn connection(device: DeviceId, epoch: i64, connected: bool) -> ConnectionChange {
    ConnectionChange {
        device,
        node: NodeId::from_uuid(uuid::Uuid::from_u128(1)),
        epoch: Epoch(epoch),
        connected,
        at: Timestamp(epoch),
        reason: (!connected).then_some("silent"),
        address: None,
        bytes_in: 0,
        bytes_out: 0,
        round_trip: None,
    }
}

pub async fn cleared_connections_are_gone_with_their_log(database: &TestDatabase) {
    let connections = &database.storage.connections;
    let mut devices = vec![];
    for serial in 0..2 {
        devices.push(stored_device(&database.storage, serial, SetStatus::Accepted).await.id);
    }
    for &device in &devices {
        connections.record(&[connection(device, 1, true), connection(device, 1, false)]).await.expect("recorded");
        connections.record(&[connection(device, 2, true)]).await.expect("recorded");
    }

    connections.clear().await.expect("cleared");

    for &device in &devices {
        assert_eq!(connections.find(device).await.expect("an answer"), None);
        assert_eq!(connections.history(device, 10).await.expect("an answer"), []);
        // One that lasts is written down anew with its next beginning.
        connections.record(&[connection(device, 3, true)]).await.expect("recorded");
        assert_eq!(connections.history(device, 10).await.expect("an answer").len(), 1);
    }
}

pub async fn forgotten_sessions_are_gone_whether_they_are_over_or_not(database: &TestDatabase) {
    let sessions = &database.storage.sessions;
    let ids = [SessionId::random(), SessionId::random(), SessionId::random()];
    let opened = ids.map(|session| {
        SessionChange::Opened(OpenedSession {
            session,
            device: DeviceId::random(),
            user: UserId::new("u"),
            node: NodeId::random(),
            kind: SessionKind::Terminal,
            at: Timestamp(1),
            address: None,
            kept: false,
            recorded: false,
        })
    });
    let ended = SessionChange::Ended {
        session: ids[0],
        generation: 0,
        at: Timestamp(2),
        reason: "left".to_owned(),
        figures: SessionFigures::default(),
    };
    sessions.record(&opened).await.expect("recorded");
    sessions.record(std::slice::from_ref(&ended)).await.expect("recorded");

    assert_eq!(sessions.forget(&ids[..2]).await.expect("a count"), 2);
    assert_eq!(sessions.forget(&ids[..2]).await.expect("a count"), 0);

    // What is said later about one that goes on does not bring it back.
    sessions.record(&[ended]).await.expect("recorded");
    let (left, total) = sessions.list(&SessionFilter::default(), 0, 10).await.expect("a list");
    assert_eq!((left.len(), left[0].id, total), (1, ids[2], 1));
}

pub async fn expired_events_leave_their_numbers_taken(database: &TestDatabase) {
    let events = &database.storage.events;
    let event = |key: &str| NewEvent {
        key: key.to_owned(),
        at: Timestamp(1),
        kind: "connected".to_owned(),
        device: None,
        body: serde_json::json!({}),
    };
    events.append(&[event("a"), event("b")]).await.expect("appended");

    assert_eq!(events.expire(Timestamp(i64::MAX)).await.expect("a count"), 2);

    assert_eq!((events.newest().await.expect("a number"), events.whole_from().await.expect("a number")), (2, 3));
    assert_eq!(events.append(&[event("c")]).await.expect("appended"), [3]);
}
