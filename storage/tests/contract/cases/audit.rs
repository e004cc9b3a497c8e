//! Who changed what: appended, and never altered.

use serde_json::json;
use storage::{Actor, AuditEntry, AuditFilter, NewAuditEntry, Storage, Timestamp, User, UserId};

use crate::backends::TestDatabase;

fn entry(actor: Actor, action: &str, object: &str, at: i64) -> NewAuditEntry {
    NewAuditEntry {
        key: None,
        at: Timestamp(at),
        actor,
        action: action.to_owned(),
        path: Some(format!("/{object}?\0")),
        object: Some(object.to_owned()),
        address: Some("192.0.2.7".to_owned()),
        request: Some("r".to_owned()),
        details: Some(json!({"nul": "\0"})),
    }
}

fn user(id: &str) -> Actor {
    Actor::User(UserId::new(id))
}

async fn list(storage: &Storage, filter: &AuditFilter) -> Vec<AuditEntry> {
    let (entries, total) = storage.audit.list(filter, 0, 100).await.expect("a list");
    assert_eq!(entries.len() as u64, total);
    entries
}

pub async fn an_entry_says_what_was_done_and_what_came_of_it(database: &TestDatabase) {
    let storage = &database.storage;
    let frida = User {
        id: UserId::new("frida"),
        email: "frida@example.com".to_owned(),
        password_hash: "x".into(),
        created: Timestamp(1),
        updated: Timestamp(1),
        logged_in: None,
    };
    storage.users.create(&frida).await.expect("created");
    let first = storage.audit.begin(&entry(user("frida"), "PUT /x", "lamp", 10)).await.expect("begun");
    let second = storage.audit.begin(&entry(Actor::Service, "DELETE /x", "door", 20)).await.expect("begun");
    storage.audit.conclude(first, 204, None, Timestamp(11)).await.expect("concluded");
    storage.audit.conclude(first, 500, Some(&json!({"late": true})), Timestamp(12)).await.expect("an answer");
    let third = storage.audit.begin(&entry(Actor::Service, "PUT /x", "gate", 30)).await.expect("begun");
    storage.audit.conclude(third, 204, Some(&json!({"seen": "\0"})), Timestamp(31)).await.expect("concluded");
    // She leaves, and is still known to have done it.
    storage.users.remove(&frida.id).await.expect("removed");

    let entries = list(storage, &AuditFilter::default()).await;
    assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [third, second, first]);
    // What was known in the end counts.
    assert_eq!((entries[0].status, entries[0].details.clone()), (Some(204), Some(json!({"seen": "\0"}))));
    let done = &entries[2];
    assert_eq!((done.actor_kind.as_str(), done.actor.as_deref()), ("user", Some("frida")));
    assert_eq!((done.actor_email.as_deref(), done.status), (Some("frida@example.com"), Some(204)));
    assert_eq!((done.path.as_deref(), done.details.clone()), (Some("/lamp?\u{fffd}"), Some(json!({"nul": "\0"}))));
    assert_eq!((entries[1].actor_kind.as_str(), entries[1].status), ("service", None));
}

pub async fn entries_are_found_by_who_what_and_when(database: &TestDatabase) {
    let storage = &database.storage;
    for (actor, action, object, at) in [
        (user("a"), "PUT /devices", "lamp", 10),
        (user("b"), "DELETE /devices", "lamp", 20),
        (Actor::Address("c@x.org".to_owned()), "log-in", "", 30),
        (user("a"), "PUT /devices/ä", "door", 40),
    ] {
        storage.audit.begin(&entry(actor, action, object, at)).await.expect("begun");
    }
    let found =
        async |filter: AuditFilter| list(storage, &filter).await.iter().map(|entry| entry.at.0).collect::<Vec<_>>();
    let none = AuditFilter::default();
    assert_eq!(found(none.clone()).await, [40, 30, 20, 10]);
    assert_eq!(found(AuditFilter { actor: Some("a".to_owned()), ..none.clone() }).await, [40, 10]);
    assert_eq!(found(AuditFilter { actor: Some("c@x.org".to_owned()), ..none.clone() }).await, [30]);
    assert_eq!(found(AuditFilter { object: Some("lamp".to_owned()), ..none.clone() }).await, [20, 10]);
    assert_eq!(found(AuditFilter { action: Some("PUT".to_owned()), ..none.clone() }).await, [40, 10]);
    assert_eq!(found(AuditFilter { action: Some("PUT /devices/ä".to_owned()), ..none.clone() }).await, [40]);
    assert_eq!(found(AuditFilter { action: Some("%".to_owned()), ..none.clone() }).await, [0_i64; 0]);
    let span = AuditFilter { since: Some(Timestamp(20)), until: Some(Timestamp(40)), ..none.clone() };
    assert_eq!(found(span).await, [30, 20]);
    let (page, total) = storage.audit.list(&none, 1, 2).await.expect("a list");
    assert_eq!((page.iter().map(|entry| entry.at.0).collect::<Vec<_>>(), total), (vec![30, 20], 4));

    let first = storage.audit.after(&none, 0, 3).await.expect("a list");
    let rest = storage.audit.after(&none, first[2].id, 3).await.expect("a list");
    let order: Vec<i64> = first.iter().chain(&rest).map(|entry| entry.at.0).collect();
    assert_eq!(order, [10, 20, 30, 40]);
}

pub async fn what_happened_is_appended_once(database: &TestDatabase) {
    let storage = &database.storage;
    let keyed = |key: &str| NewAuditEntry { key: Some(key.to_owned()), ..entry(user("a"), "session-opened", key, 1) };
    storage.audit.append(&[keyed("s/1/+"), keyed("s/2/+"), keyed("s/1/+")]).await.expect("appended");
    storage.audit.append(&[keyed("s/2/+"), keyed("s/1/-"), entry(user("a"), "x", "y", 1)]).await.expect("appended");
    storage.audit.append(&[]).await.expect("nothing");
    assert_eq!(list(storage, &AuditFilter::default()).await.len(), 4);
}

pub async fn old_entries_go_with_their_outcomes(database: &TestDatabase) {
    let storage = &database.storage;
    for at in [10, 20, 30] {
        let begun = storage.audit.begin(&entry(user("a"), "x", "y", at)).await.expect("begun");
        storage.audit.conclude(begun, 200, None, Timestamp(at)).await.expect("concluded");
    }
    assert_eq!(storage.audit.expire(Timestamp(30)).await.expect("removed"), 2);
    let left = list(storage, &AuditFilter::default()).await;
    assert_eq!(left.iter().map(|entry| (entry.at.0, entry.status)).collect::<Vec<_>>(), [(30, Some(200))]);
}
