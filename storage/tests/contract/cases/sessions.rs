//! Sessions: written in batches, moved between nodes, ended once.

use storage::{
    DeviceId, NodeId, OpenedSession, Participant, ParticipantRole, SessionChange, SessionFigures, SessionFilter,
    SessionId, SessionKind, SessionRecord, Storage, Timestamp, User, UserId,
};

use crate::backends::TestDatabase;

fn opened(at: i64) -> OpenedSession {
    OpenedSession {
        session: SessionId::random(),
        device: DeviceId::random(),
        user: UserId::random(),
        node: NodeId::random(),
        kind: SessionKind::Unknown,
        at: Timestamp(at),
        address: Some("192.0.2.7".to_owned()),
        kept: false,
        recorded: true,
    }
}

fn figures(kind: SessionKind, bytes: i64) -> SessionFigures {
    SessionFigures {
        kind,
        bytes_to_device: bytes,
        bytes_to_operator: bytes * 2,
        recorded_bytes: bytes / 2,
        truncated: false,
        people: vec![person("frida", None)],
    }
}

fn person(user: &str, until: Option<i64>) -> Participant {
    Participant {
        user: user.into(),
        role: ParticipantRole::Writer,
        since: Timestamp::from_seconds(1),
        until: until.map(Timestamp::from_seconds),
    }
}

fn progress(session: SessionId, generation: i32, figures: SessionFigures) -> SessionChange {
    SessionChange::Progress { session, generation, figures }
}

fn ended(session: SessionId, generation: i32, at: i64, figures: SessionFigures) -> SessionChange {
    SessionChange::Ended { session, generation, at: Timestamp(at), reason: "closed by the user".to_owned(), figures }
}

async fn find(storage: &Storage, session: SessionId) -> SessionRecord {
    storage.sessions.find(session).await.expect("an answer").expect("a session")
}

async fn record(storage: &Storage, changes: &[SessionChange]) {
    storage.sessions.record(changes).await.expect("recorded");
}

pub async fn a_session_is_opened_goes_on_and_ends(database: &TestDatabase) {
    let storage = &database.storage;
    let user = User {
        id: "frida".into(),
        email: "frida@example.com".to_owned(),
        password_hash: String::new(),
        created: Timestamp(1),
        updated: Timestamp(1),
        logged_in: None,
    };
    storage.users.create(&user).await.expect("created");
    let opened = OpenedSession { user: user.id.clone(), kept: true, ..opened(100) };
    let id = opened.session;
    assert_eq!(storage.sessions.find(id).await.expect("an answer"), None);
    record(storage, &[]).await;
    record(storage, &[SessionChange::Opened(opened.clone())]).await;
    let mut expected = SessionRecord {
        id,
        device: opened.device,
        user: user.id.clone(),
        user_email: Some("frida@example.com".to_owned()),
        node: opened.node,
        generation: 0,
        kind: SessionKind::Unknown,
        address: opened.address.clone(),
        kept: true,
        recorded: true,
        opened: Timestamp(100),
        ended: None,
        reason: None,
        bytes_to_device: 0,
        bytes_to_operator: 0,
        recorded_bytes: 0,
        truncated: false,
        people: vec![],
    };
    assert_eq!(find(storage, id).await, expected);

    record(storage, &[progress(id, 0, figures(SessionKind::Terminal, 8))]).await;
    expected.kind = SessionKind::Terminal;
    (expected.bytes_to_device, expected.bytes_to_operator, expected.recorded_bytes) = (8, 16, 4);
    expected.people = vec![person("frida", None)];
    assert_eq!(find(storage, id).await, expected);

    let people = vec![
        person("frida", Some(9)),
        Participant { role: ParticipantRole::Watcher, ..person("zo\u{eb} \0 \"quoted\"", None) },
    ];
    let last = SessionFigures { truncated: true, people: people.clone(), ..figures(SessionKind::Unknown, 10) };
    record(storage, &[ended(id, 0, 300, last)]).await;
    expected.ended = Some(Timestamp(300));
    expected.reason = Some("closed by the user".to_owned());
    (expected.bytes_to_device, expected.bytes_to_operator, expected.recorded_bytes) = (10, 20, 5);
    (expected.truncated, expected.people) = (true, people);
    assert_eq!(find(storage, id).await, expected);

    let other = User { id: "zoe".into(), email: "zoe@example.com".to_owned(), ..user.clone() };
    storage.users.create(&other).await.expect("created");
    storage.users.remove(&user.id).await.expect("removed");
    expected.user_email = None;
    assert_eq!(find(storage, id).await, expected);
}

pub async fn an_end_is_final_whatever_arrives_later(database: &TestDatabase) {
    let storage = &database.storage;
    let opened = opened(100);
    let id = opened.session;
    // All at once and in no order.
    let batch = [
        ended(id, 0, 300, figures(SessionKind::Terminal, 8)),
        progress(id, 0, figures(SessionKind::Other, 4)),
        SessionChange::Opened(opened.clone()),
    ];
    record(storage, &batch).await;
    let over = find(storage, id).await;
    assert_eq!((over.ended, over.kind, over.bytes_to_device), (Some(Timestamp(300)), SessionKind::Terminal, 8));
    for late in [
        SessionChange::Opened(OpenedSession { at: Timestamp(999), ..opened }),
        progress(id, 1, figures(SessionKind::Other, 99)),
        SessionChange::Moved { session: id, generation: 1, node: NodeId::random() },
        ended(id, 1, 999, figures(SessionKind::Other, 99)),
    ] {
        record(storage, &[late]).await;
        assert_eq!(find(storage, id).await, over);
    }
    record(storage, &batch).await;
    assert_eq!(find(storage, id).await, over);
    assert_eq!(storage.sessions.adopt(id, 0, NodeId::random()).await.expect("an answer"), None);

    // What nobody opened is not made up.
    let unknown = SessionId::random();
    record(storage, &[progress(unknown, 0, figures(SessionKind::Terminal, 8))]).await;
    assert_eq!(storage.sessions.find(unknown).await.expect("an answer"), None);
}

pub async fn one_node_adopts_a_session(database: &TestDatabase) {
    let nodes = [database.storage.clone(), database.another_node().await];
    let opened = opened(100);
    let id = opened.session;
    record(&nodes[0], &[SessionChange::Opened(opened.clone())]).await;
    record(&nodes[0], &[progress(id, 0, figures(SessionKind::Terminal, 8))]).await;

    let mut work = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (storage, node) = (nodes[number % 2].clone(), NodeId::random());
        work.spawn(async move { (node, storage.sessions.adopt(id, 0, node).await.expect("an answer")) });
    }
    let outcomes = work.join_all().await;
    let adopted: Vec<_> = outcomes.iter().filter(|(_, generation)| generation.is_some()).collect();
    assert_eq!(adopted.len(), 1);
    let (home, generation) = *adopted[0];
    assert_eq!(generation, Some(1));
    let moved = find(&nodes[0], id).await;
    assert_eq!((moved.node, moved.generation, moved.ended), (home, 1, None));

    // The node before was only slow; what it says is late.
    let late = [
        progress(id, 0, figures(SessionKind::Other, 99)),
        ended(id, 0, 200, figures(SessionKind::Other, 99)),
        SessionChange::Moved { session: id, generation: 0, node: opened.node },
    ];
    for change in late {
        record(&nodes[0], &[change]).await;
        assert_eq!(find(&nodes[0], id).await, moved);
    }
    // A move that was agreed upon is told, not asked for; figures never shrink.
    let next = NodeId::random();
    record(&nodes[1], &[SessionChange::Moved { session: id, generation: 2, node: next }]).await;
    record(&nodes[1], &[progress(id, 2, figures(SessionKind::Unknown, 6))]).await;
    let moved = find(&nodes[0], id).await;
    assert_eq!((moved.node, moved.generation, moved.bytes_to_device), (next, 2, 8));
    assert_eq!(nodes[0].sessions.adopt(id, 1, home).await.expect("an answer"), None);
    assert_eq!(nodes[0].sessions.adopt(SessionId::random(), 0, home).await.expect("an answer"), None);
}

pub async fn sessions_a_dead_node_left_behind_end(database: &TestDatabase) {
    let storage = &database.storage;
    let (dead, alive) = (NodeId::random(), NodeId::random());
    let sessions: Vec<OpenedSession> = (0..5)
        .map(|number| OpenedSession { node: if number == 4 { alive } else { dead }, ..opened(100 + number) })
        .collect();
    let ids: Vec<SessionId> = sessions.iter().map(|opened| opened.session).collect();
    let changes: Vec<_> = sessions.into_iter().map(SessionChange::Opened).collect();
    record(storage, &changes).await;
    record(storage, &[ended(ids[0], 0, 200, figures(SessionKind::Terminal, 1))]).await;
    assert_eq!(storage.sessions.adopt(ids[1], 0, alive).await.expect("an answer"), Some(1));
    let mut nodes = vec![dead, alive];
    nodes.sort_unstable();
    assert_eq!(storage.sessions.nodes().await.expect("a list"), nodes);
    let left: Vec<_> = storage.sessions.open_on(dead).await.expect("a list").iter().map(|left| left.id).collect();
    assert_eq!(left, ids[2..4]);

    let ended = storage.sessions.end_left_on(dead, Timestamp(300), "node-lost").await.expect("ended");
    let mut told: Vec<_> = ended.iter().map(|over| (over.id, over.ended, over.reason.as_deref())).collect();
    told.sort_unstable();
    let mut expected =
        vec![(ids[2], Some(Timestamp(300)), Some("node-lost")), (ids[3], Some(Timestamp(300)), Some("node-lost"))];
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert!(storage.sessions.end_left_on(dead, Timestamp(400), "node-lost").await.expect("ended").is_empty());
    assert_eq!(find(storage, ids[0]).await.ended, Some(Timestamp(200)));
    assert_eq!(find(storage, ids[1]).await.ended, None);
    assert_eq!(storage.sessions.nodes().await.expect("a list"), [alive]);
}

pub async fn lists_newest_first_by_device_user_and_state(database: &TestDatabase) {
    let storage = &database.storage;
    let (device, user) = (DeviceId::random(), UserId::random());
    let mut all = Vec::new();
    for number in 0..12 {
        let mut opened = opened(100 + number / 2);
        if number % 2 == 0 {
            opened.device = device;
        }
        if number % 3 == 0 {
            opened.user = user.clone();
        }
        all.push(opened);
    }
    let mut changes: Vec<_> = all.iter().cloned().map(SessionChange::Opened).collect();
    changes.extend(all[..6].iter().map(|past| ended(past.session, 0, 200, figures(SessionKind::Terminal, 1))));
    record(storage, &changes).await;

    let past: Vec<SessionId> = all[..6].iter().map(|opened| opened.session).collect();
    all.sort_by_key(|opened| std::cmp::Reverse((opened.at, opened.session)));
    let filters = [
        (None, None, None),
        (Some(device), None, None),
        (None, Some(user.clone()), None),
        (Some(device), Some(user.clone()), Some(false)),
        (None, None, Some(true)),
        (None, None, Some(false)),
        (Some(DeviceId::random()), None, None),
    ];
    for (device, user, open) in filters {
        let filter = SessionFilter { device, user: user.clone(), open };
        let expected: Vec<SessionId> = all
            .iter()
            .filter(|opened| device.is_none_or(|device| opened.device == device))
            .filter(|opened| user.as_ref().is_none_or(|user| opened.user == *user))
            .filter(|opened| open.is_none_or(|open| past.contains(&opened.session) != open))
            .map(|opened| opened.session)
            .collect();
        let mut listed = Vec::new();
        for page in 0..4 {
            let (sessions, total) = storage.sessions.list(&filter, page * 4, 4).await.expect("a page");
            assert!(sessions.len() <= 4);
            assert_eq!(total, expected.len() as u64, "{filter:?}");
            listed.extend(sessions.into_iter().map(|session| session.id));
        }
        assert_eq!(listed, expected, "{filter:?}");
    }
}

pub async fn thousands_of_sessions_in_one_call(database: &TestDatabase) {
    let storage = &database.storage;
    let node = NodeId::random();
    let mut changes = Vec::new();
    for number in 0..2_500 {
        let opened = OpenedSession { node, ..opened(number) };
        let id = opened.session;
        changes.push(SessionChange::Opened(opened));
        changes.push(progress(id, 0, figures(SessionKind::PortForward, number)));
        if number % 2 == 0 {
            changes.push(ended(id, 0, 10_000 + number, figures(SessionKind::PortForward, number)));
        }
    }
    for _ in 0..2 {
        record(storage, &changes).await;
    }
    assert_eq!(storage.sessions.open_on(node).await.expect("a list").len(), 1_250);
    let (page, total) = storage.sessions.list(&SessionFilter::default(), 0, 1).await.expect("a page");
    assert_eq!((total, page[0].bytes_to_device, page[0].kind), (2_500, 2_499, SessionKind::PortForward));
}

pub async fn sessions_that_ended_long_ago_are_removed(database: &TestDatabase) {
    let storage = &database.storage;
    let sessions: Vec<OpenedSession> = (0..5).map(opened).collect();
    let ids: Vec<SessionId> = sessions.iter().map(|opened| opened.session).collect();
    let mut changes: Vec<_> = sessions.into_iter().map(SessionChange::Opened).collect();
    for (session, at) in ids[..4].iter().zip([400, 300, 200, 100]) {
        changes.push(ended(*session, 0, at, figures(SessionKind::Terminal, 1)));
    }
    record(storage, &changes).await;
    let expired = storage.sessions.expired(Timestamp(400), 10).await.expect("a list");
    assert_eq!(expired, [ids[3], ids[2], ids[1]]);
    assert_eq!(storage.sessions.expired(Timestamp(400), 2).await.expect("a list"), expired[..2]);
    // The open one is never removed.
    assert_eq!(storage.sessions.remove(&[expired[0], expired[1], ids[4]]).await.expect("removed"), 2);
    assert_eq!(storage.sessions.remove(&[]).await.expect("removed"), 0);
    assert_eq!(storage.sessions.expired(Timestamp(400), 10).await.expect("a list"), [ids[1]]);
    let (left, total) = storage.sessions.list(&SessionFilter::default(), 0, 10).await.expect("a page");
    assert_eq!((left.len(), total), (3, 3));
}
