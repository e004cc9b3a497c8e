//! Every change and every remote session is written down: who, what, when, from where.

use harness::{
    ADMIN_EMAIL, Answer, KeptTerminal, LIMIT, Packet, Set, TestUser, answer_like_a_shell, both_sets, wait_until,
};
use serde_json::{Value, json};

use crate::recordings::{record, recording_path, see_all, shown, watch};

both_sets!([
    a_change_is_written_down_with_what_came_of_it,
    a_remote_session_is_written_down_from_beginning_to_end,
    who_joins_a_session_or_views_what_it_showed_is_written_down,
    logins_are_written_down_once_they_work_and_without_the_password,
    the_log_is_exported_whole_as_lines_and_as_a_table,
    other_services_changes_are_written_down_too,
]);

const LOG: &str = "/api/management/v1/mooring/auditlog";

async fn log(user: &TestUser, query: &str) -> Vec<Value> {
    user.get(&format!("{LOG}?per_page=500&{query}")).await.expect(200).json().as_array().unwrap().clone()
}

async fn a_change_is_written_down_with_what_came_of_it(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let path = format!("/api/management/v2/devauth/devices/{}/auth/{}/status", device.id, device.set());
    let named = |request: reqwest::RequestBuilder| Answer::to(request.header("X-MEN-RequestID", "mine-1"));
    named(user.request("PUT", &path).json(&json!({"status": "rejected", "secret": "hunter2"}))).await.expect(204);
    user.put(&path, &json!({"status": "nonsense"})).await.expect(400);
    user.delete(&format!("/api/management/v2/devauth/devices/{}", device.id)).await.expect(204);
    // Questions are not changes, whatever their method.
    user.get(LOG).await.expect(200);
    user.post("/api/management/v2/devauth/devices/search", &json!({})).await.expect(200);
    // Nor is what nobody was let in for, or what is nowhere.
    Answer::to(hub.request("DELETE", &path)).await.refuses_token();
    user.delete("/api/management/v1/useradm/nowhere").await.expect(404);

    let entries = log(&user, &format!("object={}", device.id)).await;
    let statuses: Vec<&Value> = entries.iter().map(|entry| &entry["status"]).collect();
    // Newest first; the oldest is what accepted it.
    assert_eq!(statuses, [204, 400, 204, 204], "{entries:?}");
    let rejected = &entries[2];
    assert_eq!(rejected["action"], "PUT /api/management/v2/devauth/devices/{id}/auth/{set}/status");
    assert_eq!((&rejected["path"], &rejected["request_id"]), (&json!(path), &json!("mine-1")));
    let actor = json!({"kind": "user", "id": user.id, "email": ADMIN_EMAIL});
    assert_eq!((&rejected["actor"], &rejected["address"]), (&actor, &json!("127.0.0.1")));
    assert!(rejected["time"].as_str().unwrap().ends_with('Z'));
    let all = user.get(&format!("{LOG}?per_page=500")).await.expect(200);
    assert!(!all.text().contains("hunter2") && !all.text().contains("/nowhere"), "{all}");
    assert!(!all.text().contains("devices/search"), "{all}");

    assert_eq!(log(&user, "action=DELETE").await.len(), 1);
    assert_eq!(log(&user, &format!("actor={}", user.id)).await.len(), entries.len());
    assert_eq!(log(&user, "actor=nobody").await.len(), 0);
    let time = entries[2]["time"].as_str().unwrap();
    assert!(log(&user, &format!("until={time}")).await.len() < log(&user, "").await.len());
    let page = user.get(&format!("{LOG}?per_page=1&page=2&object={}", device.id)).await.expect(200);
    assert_eq!((page.header("x-total-count"), &page.json()[0]), ("4", &entries[1]));
    for wrong in ["page=0", "since=yesterday", "per_page=501"] {
        user.get(&format!("{LOG}?{wrong}")).await.expect(400).error();
    }
}

async fn a_remote_session_is_written_down_from_beginning_to_end(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    user.sees(&device.id, "connected", LIMIT).await;
    let mut session = user.open(&device.id).await;
    session.say(&Packet::shell("new")).await;
    let sid = socket.hear().await.sid().to_owned();
    session.close(1000).await;
    let entries = wait_until(LIMIT, "the end of the session", async || {
        let entries = log(&user, &format!("object={}&action=session", device.id)).await;
        (entries.len() == 2).then_some(entries)
    })
    .await;
    let (closed, opened) = (&entries[0], &entries[1]);
    assert_eq!((&opened["action"], &closed["action"]), (&json!("session-opened"), &json!("session-closed")));
    assert_eq!((&opened["details"]["session"], &closed["details"]["session"]), (&json!(sid), &json!(sid)));
    assert_eq!((&opened["actor"]["id"], &opened["address"]), (&json!(user.id), &json!("127.0.0.1")));
    assert!(closed["details"]["reason"].is_string(), "{closed}");
}

async fn who_joins_a_session_or_views_what_it_showed_is_written_down(set: Set) {
    let hub = set.hub().await;
    let (user, other) = (hub.user().await, hub.another_user("other@example.com").await);
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut terminal = KeptTerminal::open(&user, &device.id).await;
    let session = terminal.session.clone();
    let entries = async |query: &str| log(&user, query).await;
    let modes = |entries: &[Value]| entries.iter().map(|entry| entry["details"]["mode"].clone()).collect::<Vec<_>>();

    let Err(refused) = KeptTerminal::attach(&other, &session, "write").await else { panic!("it is in use") };
    refused.expect(409);
    let watcher = KeptTerminal::attach(&other, &session, "watch").await.unwrap();
    let writer = KeptTerminal::attach(&other, &session, "take-over").await.unwrap();
    let joined = entries(&format!("object={}&action=session-joined", device.id)).await;
    assert_eq!(modes(&joined), ["take-over", "watch"], "newest first, and nobody who was refused: {joined:?}");
    for entry in &joined {
        assert_eq!((&entry["actor"]["id"], &entry["address"]), (&json!(other.id), &json!("127.0.0.1")));
        assert_eq!(entry["details"]["session"], json!(session));
        assert!(entry["request_id"].is_string(), "{entry}");
    }
    drop((watcher, writer));
    terminal.leave().await;

    // One of a session that the hub remembers, and one of a session that it does not.
    let unknown = "3f8f5c8e-0000-4000-8000-00000000000a";
    for (recorded, object) in [(session.as_str(), device.id.as_str()), (unknown, unknown)] {
        other.get(&recording_path(recorded)).await.expect(404);
        record(&hub, recorded, &[shown(0.0, b"secret")]).await;
        see_all(&mut watch(&other, &hub, recorded, "?sleep_ms=0").await).await;
        other.get(&recording_path(recorded)).await.expect(200);
        let viewed = entries(&format!("object={object}&action=recording-viewed")).await;
        assert_eq!(modes(&viewed), ["download", "playback"], "{viewed:?}");
        assert!(viewed.iter().all(|entry| entry["details"]["session"] == json!(recorded)), "{viewed:?}");
        assert!(viewed.iter().all(|entry| entry["actor"]["id"] == json!(other.id)), "{viewed:?}");
    }
}

async fn logins_are_written_down_once_they_work_and_without_the_password(set: Set) {
    let hub = set.hub().await;
    TestUser::try_log_in(&hub, ADMIN_EMAIL, "wrong password").await.expect(401);
    let user = hub.user().await;
    user.post("/api/management/v1/useradm/auth/logout", &json!({})).await.expect(202);
    let user = hub.user().await;
    let logins = log(&user, "action=POST+/api/management/v1/useradm/auth/login").await;
    assert_eq!(logins.len(), 2, "{logins:?}");
    let actor = json!({"kind": "address", "id": null, "email": ADMIN_EMAIL});
    assert!(logins.iter().all(|login| login["actor"] == actor && login["status"] == 200), "{logins:?}");
    assert_eq!(log(&user, "action=POST+/api/management/v1/useradm/auth/logout").await.len(), 1);
    let all = user.get(LOG).await.text();
    assert!(!all.contains("correct horse") && !all.contains("wrong password"));
}

async fn the_log_is_exported_whole_as_lines_and_as_a_table(set: Set) {
    const CHANGES: usize = 520;
    let hub = set.hub().await;
    let user = hub.user().await;
    let unknown = "3f8f5c8e-0000-4000-8000-000000000000";
    for number in 0..CHANGES {
        // More than is read at once; what they would change is not there.
        let path = format!("/api/management/v1/mooring/mutes/{unknown}?note=%22{number}%22,=1");
        user.delete(&path).await.expect(404);
    }
    let lines = user.get(&format!("{LOG}/export?object={unknown}")).await.expect(200);
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let text = lines.text();
    let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), CHANGES);
    assert!(entries.windows(2).all(|pair| pair[0]["id"].as_i64() < pair[1]["id"].as_i64()), "oldest first");
    assert!(entries.iter().all(|entry| entry["status"] == 404));

    let table = user.get(&format!("{LOG}/export?format=csv&object={unknown}")).await.expect(200);
    assert!(table.header("content-type").starts_with("text/csv"));
    assert!(table.header("content-disposition").contains("auditlog.csv"));
    let text = table.text();
    let mut rows = text.split("\r\n");
    assert_eq!(
        rows.next(),
        Some("id,time,actor_kind,actor_id,actor_email,action,path,object,address,request_id,status,details")
    );
    let first = rows.next().unwrap();
    assert!(first.contains(",\"/api/management/v1/mooring/mutes/") && first.contains(ADMIN_EMAIL), "{first}");
    assert_eq!(text.matches("\r\n").count(), CHANGES + 1);
    user.get(&format!("{LOG}/export?format=pdf")).await.expect(400).error();
    Answer::to(hub.request("GET", &format!("{LOG}/export"))).await.refuses_token();
}

async fn other_services_changes_are_written_down_too(set: Set) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let (user, door) = (hub.user().await, hub.internal_door());
    let device = hub.accepted_by(&user).await;
    let path = format!("/api/internal/v1/devicemonitor/tenants//devices/{}", device.id);
    Answer::to(door.request("DELETE", &path)).await.expect(204);
    let entries = log(&user, "action=DELETE").await;
    assert_eq!(entries.len(), 1);
    assert_eq!((&entries[0]["actor"]["kind"], &entries[0]["object"]), (&json!("service"), &json!(device.id)));
}
