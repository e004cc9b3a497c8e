//! Devices say what is the matter with them, and users see it.

use std::collections::BTreeSet;

use harness::{Answer, EventStream, Set, TestDevice, TestUser, both_sets};
use serde_json::{Value, json};

both_sets!([
    open_subjects_stand_in_the_inventory_before_the_answer,
    the_history_is_newest_first_and_what_is_open_oldest_first,
    one_bad_alert_costs_no_other_and_none_is_stored_twice,
    too_many_alerts_are_sent_back_for_later,
    lines_of_a_log_come_back_as_they_were,
    a_device_s_checks_are_what_it_said_last,
    alerts_are_heard_live,
    what_was_acknowledged_outlives_a_killed_hub,
    a_decommissioned_device_leaves_no_alerts,
    other_services_see_what_is_open_and_make_the_hub_forget,
    questions_about_alerts_that_make_no_sense_are_refused,
]);

const ALERT: &str = "/api/devices/v1/devicemonitor/alert";
const CONFIG: &str = "/api/devices/v1/devicemonitor/config";

pub fn alert(level: &str, subject: &str, at: &str) -> Value {
    json!({
        "name": format!("Service {subject} not running"), "level": level, "timestamp": at,
        "subject": {"name": subject, "type": "service", "status": "not-running"},
    })
}

pub async fn report(device: &TestDevice, alerts: &Value) -> Answer {
    Answer::to(device.request("POST", ALERT).json(alerts)).await
}

fn of(device: &TestDevice, rest: &str) -> String {
    format!("/api/management/v1/devicemonitor/devices/{}/{rest}", device.id)
}

async fn names(user: &TestUser, path: &str) -> (Vec<String>, String) {
    let answer = user.get(path).await.expect(200);
    let alerts = answer.json();
    let name = |alert: &Value| format!("{} {}", alert["level"], alert["subject"]["name"]).replace('"', "");
    (alerts.as_array().unwrap().iter().map(name).collect(), answer.header("x-total-count").to_owned())
}

async fn monitored(user: &TestUser, device: &TestDevice) -> Vec<Value> {
    let device = user.get(&format!("/api/management/v1/inventory/devices/{}", device.id)).await.expect(200).json();
    let attributes = device["attributes"].as_array().unwrap();
    attributes.iter().filter(|attribute| attribute["scope"] == "monitor").cloned().collect()
}

fn shown(count: u64) -> Vec<Value> {
    vec![
        json!({"scope": "monitor", "name": "alert_count", "value": count}),
        json!({"scope": "monitor", "name": "alerts", "value": count > 0}),
    ]
}

async fn open_subjects_stand_in_the_inventory_before_the_answer(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    assert_eq!(monitored(&user, &device).await, Vec::<Value>::new());
    assert!(report(&device, &json!([])).await.expect(204).body.is_empty());
    assert_eq!(monitored(&user, &device).await, Vec::<Value>::new());

    report(&device, &json!([alert("CRITICAL", "sshd", "2031-05-04T10:00:00.5Z")])).await.expect(204);
    assert_eq!(monitored(&user, &device).await, shown(1));
    report(&device, &json!([alert("OK", "sshd", "2031-05-04T10:00:01Z")])).await.expect(204);
    assert_eq!(monitored(&user, &device).await, shown(0));
    let batch = json!([
        alert("OK", "never seen", "2031-05-04T10:00:02Z"),
        alert("CRITICAL", "sshd", "2031-05-04T10:00:02Z"),
        alert("CRITICAL", "cron", "2031-05-04T10:00:02Z"),
    ]);
    report(&device, &batch).await.expect(204);
    assert_eq!(monitored(&user, &device).await, shown(2));
}

async fn the_history_is_newest_first_and_what_is_open_oldest_first(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    for path in ["alerts", "alerts/latest"] {
        assert_eq!(names(&user, &of(&device, path)).await, (vec![], "0".to_owned()));
        user.get(&format!("/api/management/v1/devicemonitor/devices/nonsense/{path}")).await.expect(200);
    }
    // With a clock that is right, so that its times order what it says.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let at = |second: u64| rfc3339(now - 100 + second);
    let batch = json!([
        alert("CRITICAL", "a", &at(1)),
        alert("CRITICAL", "b", &at(2)),
        alert("WARNING", "c", &at(3)),
        alert("OK", "b", &at(4)),
        alert("CRITICAL_FLAPPING", "a", &at(5)),
    ]);
    report(&device, &batch).await.expect(204);
    // It was kept back on the way and changes nothing any more.
    report(&device, &json!([alert("OK", "a", &at(0))])).await.expect(204);

    let history = |query: &str| of(&device, &format!("alerts?{query}"));
    let newest_first = ["CRITICAL_FLAPPING a", "OK b", "WARNING c", "CRITICAL b", "CRITICAL a", "OK a"];
    assert_eq!(names(&user, &history("")).await, (newest_first.map(str::to_owned).to_vec(), "6".to_owned()));
    let (ascending, _) = names(&user, &history("sort_ascending=true")).await;
    assert_eq!(ascending, newest_first.iter().rev().map(ToString::to_string).collect::<Vec<_>>());
    let page = names(&user, &history("page=2&per_page=4")).await;
    assert_eq!(page, (vec!["CRITICAL a".to_owned(), "OK a".to_owned()], "6".to_owned()));
    let bounds = format!("issued_after={}&issued_before={}", at(2), at(4));
    assert_eq!(names(&user, &history(&bounds)).await.0, ["OK b", "WARNING c", "CRITICAL b"]);

    let latest = |query: &str| of(&device, &format!("alerts/latest?{query}"));
    assert_eq!(names(&user, &latest("")).await, (vec!["WARNING c".into(), "CRITICAL_FLAPPING a".into()], "2".into()));
    assert_eq!(names(&user, &latest("level_from=CRITICAL")).await.0, ["CRITICAL_FLAPPING a"]);
    assert_eq!(names(&user, &latest("level_from=OK")).await.0, ["WARNING c", "OK b", "CRITICAL_FLAPPING a"]);
    assert_eq!(names(&user, &latest("per_page=1&page=2")).await, (vec!["CRITICAL_FLAPPING a".into()], "2".into()));

    let first = user.get(&latest("")).await.json()[0].clone();
    assert_eq!((first["id"].as_str().unwrap().len(), &first["device_id"]), (36, &json!(device.id)));
    let timestamp = first["timestamp"].as_str().unwrap();
    assert_eq!((timestamp.len(), &timestamp[19..]), (24, ".000Z"));
}

fn rfc3339(seconds: u64) -> String {
    // Howard Hinnant's algorithm for a day of the civil calendar.
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + carry;
    format!("{year}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

async fn one_bad_alert_costs_no_other_and_none_is_stored_twice(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let good = alert("CRITICAL", "sshd", "2031-05-04T10:00:00.123456789Z");
    let mut wrong = alert("LOUD", "sshd", "2031-05-04T10:00:00Z");
    let batch = json!([wrong, good, 7, {"name": "x"}, alert("OK", "cron", "2031-05-04T10:00:00Z")]);
    for _ in 0..3 {
        report(&device, &batch).await.expect(204);
    }
    assert_eq!(names(&user, &of(&device, "alerts")).await.1, "2");

    for body in [json!({"name": "x"}), json!("x"), json!([1, 2])] {
        report(&device, &body).await.expect(400).error();
    }
    wrong["level"] = json!("CRITICAL");
    wrong["subject"]["type"] = json!("mooring.rule");
    report(&device, &json!([wrong])).await.expect(400).error();
    let empty = device.request("POST", ALERT).header("Content-Type", "application/json");
    Answer::to(empty).await.expect(400).error();
    assert_eq!(names(&user, &of(&device, "alerts")).await.1, "2");
}

async fn too_many_alerts_are_sent_back_for_later(set: Set) {
    let hub = set.hub_with(|config| config.actors.alerts_waiting_limit = 4096).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let many: Vec<Value> = (0..50).map(|name| alert("CRITICAL", &name.to_string(), "2031-05-04T10:00:00Z")).collect();
    let refused = report(&device, &json!(many)).await.expect(429);
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    refused.error();
    assert_eq!(names(&user, &of(&device, "alerts")).await.1, "0");
    report(&device, &json!(many[..3])).await.expect(204);
    assert_eq!(names(&user, &of(&device, "alerts")).await.1, "3");
}

async fn lines_of_a_log_come_back_as_they_were(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let lines = |from: u32| -> Vec<Value> {
        (from..from + 30).map(|number| json!({"line_number": number, "data": ""})).collect()
    };
    let details = json!({
        "description": "kernel \u{0} panic", "lines_before": lines(1),
        "line_matching": {"line_number": 31, "data": "panic: ${HOME} <b>"}, "lines_after": lines(32),
    });
    let mut log = alert("CRITICAL", "syslog", "2031-05-04T10:00:00Z");
    log["subject"]["type"] = json!("log");
    log["subject"]["details"] = details.clone();
    let mut bare = alert("CRITICAL", "other", "2031-05-04T10:00:01Z");
    bare["subject"]["details"] = json!({"lines_before": null, "lines_after": null, "line_matching": null});
    report(&device, &json!([log, bare])).await.expect(204);
    let alerts = user.get(&of(&device, "alerts?sort_ascending=true")).await.expect(200).json();
    assert_eq!(alerts[0]["subject"]["details"], details);
    assert_eq!(alerts[1]["subject"]["details"], json!({}));
}

async fn a_device_s_checks_are_what_it_said_last(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let checks = async || user.get(&of(&device, "config")).await.expect(200).json();
    let say = async |checks: &Value| Answer::to(device.request("POST", CONFIG).json(checks)).await;
    assert_eq!(checks().await, json!([]));
    let four = json!([
        {"name": "sshd.sh", "type": "service", "status": "enabled", "service": {"name": "sshd", "type": "systemd"}},
        {"name": "syslog.sh", "type": "log", "status": "enabled",
         "log": {"pattern": "pan.c", "path": "/var/log/syslog", "expire_seconds": 10}},
        {"name": "usb.sh", "type": "dbus", "status": "disabled", "dbus": {"name": "usb", "watch": "type='signal'"}},
        {"name": "cron.sh", "type": "service", "status": "enabled", "ours": [1, null, 1.5]},
    ]);
    say(&four).await.expect(204);
    assert_eq!(checks().await, four);
    say(&json!([four[2]])).await.expect(204);
    assert_eq!(checks().await, json!([four[2]]));
    for wrong in [json!({}), json!([1]), json!([{"name": "x", "type": "log"}]), json!([four[0], {"name": "x"}])] {
        say(&wrong).await.expect(400).error();
    }
    assert_eq!(checks().await, json!([four[2]]));
    say(&json!([])).await.expect(204);
    assert_eq!(checks().await, json!([]));
}

async fn alerts_are_heard_live(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut stream = EventStream::open(&user, "kind=alert", None).await;
    let batch =
        json!([alert("CRITICAL", "sshd", "2031-05-04T10:00:00Z"), alert("OK", "sshd", "2031-05-04T10:00:00Z"),]);
    report(&device, &batch).await.expect(204);
    report(&device, &batch).await.expect(204);
    let (opened, closed) = (stream.hear().await, stream.hear().await);
    assert_eq!((&opened.data["change"], &opened.data["open_alerts"]), (&json!("opened"), &json!(1)));
    assert_eq!((&closed.data["change"], &closed.data["open_alerts"]), (&json!("closed"), &json!(0)));
    assert_eq!((&closed.data["device"], &closed.data["level"]), (&json!(device.id), &json!("OK")));
    assert_eq!(closed.data["subject"]["name"], "sshd");
    report(&device, &json!([alert("WARNING", "cron", "2031-05-04T10:00:00Z")])).await.expect(204);
    assert_eq!(stream.hear().await.id, closed.id + 1, "what came again was not told again");
}

async fn a_decommissioned_device_leaves_no_alerts(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let batch = json!([alert("CRITICAL", "sshd", "2031-05-04T10:00:00Z")]);
    report(&device, &batch).await.expect(204);
    user.delete(&format!("/api/management/v2/devauth/devices/{}", device.id)).await.expect(204);
    report(&device, &batch).await.refuses_token();
    harness::wait_until(harness::LIMIT, "the alerts to go", async || {
        (names(&user, &of(&device, "alerts")).await.1 == "0").then_some(())
    })
    .await;
    assert_eq!(names(&user, &of(&device, "alerts/latest")).await.1, "0");
}

async fn other_services_see_what_is_open_and_make_the_hub_forget(set: Set) {
    let hub = set.hub_with(|config| config.api.internal_listen = Some(([127, 0, 0, 1], 0).into())).await;
    let (user, door) = (hub.user().await, hub.internal_door());
    let (one, two) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    for device in [&one, &two] {
        let batch = json!([
            alert("CRITICAL", "a", "2031-05-04T10:00:00Z"),
            alert("OK", "a", "2031-05-04T10:00:00Z"),
            alert("CRITICAL", "b", "2031-05-04T10:00:00Z"),
        ]);
        report(device, &batch).await.expect(204);
    }
    let base = "/api/internal/v1/devicemonitor/tenants//devices";
    let ask = async |method: &str, path: &str| Answer::to(door.request(method, path)).await;
    let listed = ask("GET", &format!("{base}?id={}&id=nonsense", one.id)).await.expect(200).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["id"], &listed[0]["alerts_open_count"]), (&json!(one.id), &json!(1)));
    assert_eq!(
        (&listed[0]["alerts_total_count"], &listed[0]["alerts"][0]["name"]),
        (&json!(3), &json!("Service b not running"))
    );
    assert_eq!(ask("GET", base).await.expect(200).json().as_array().unwrap().len(), 2);
    let latest = ask("GET", &format!("{base}/{}/alerts/latest?level_from=OK", one.id)).await.expect(200).json();
    assert_eq!(latest.as_array().unwrap().len(), 2);
    ask("GET", "/api/internal/v1/devicemonitor/tenants/other/devices").await.expect(404).error();
    hub.get("/api/internal/v1/devicemonitor/tenants//devices").await.expect(404).error();

    ask("DELETE", &format!("{base}/{}", one.id)).await.expect(204);
    assert_eq!(names(&user, &of(&one, "alerts")).await.1, "0");
    assert_eq!(monitored(&user, &one).await, Vec::<Value>::new());
    assert_eq!(monitored(&user, &two).await, shown(1));
    // This one makes checks and never sent an alert.
    let silent = hub.accepted_by(&user).await;
    let checks = json!([{"name": "a.sh", "type": "log", "status": "enabled"}]);
    Answer::to(silent.request("POST", CONFIG).json(&checks)).await.expect(204);
    assert_eq!(user.get(&of(&silent, "config")).await.expect(200).json(), checks);
    ask("DELETE", "/api/internal/v1/devicemonitor/tenants/").await.expect(204);
    assert_eq!(user.get(&of(&silent, "config")).await.expect(200).json(), json!([]));
    assert_eq!(monitored(&user, &two).await, Vec::<Value>::new());
    assert_eq!(ask("GET", base).await.expect(200).json(), json!([]));
}

async fn questions_about_alerts_that_make_no_sense_are_refused(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    for question in [
        "alerts?page=0",
        "alerts?per_page=501",
        "alerts?sort_ascending=maybe",
        "alerts?issued_before=yesterday",
        "alerts/latest?level_from=LOUD",
        "alerts/latest?issued_after=0",
        "alerts/latest?page=x",
    ] {
        user.get(&of(&device, question)).await.expect(400).error();
    }
    let switch =
        |channel: &str| format!("/api/management/v1/devicemonitor/settings/global/channel/alerts/{channel}/status");
    user.put(&switch("pigeon"), &json!({"enabled": true})).await.expect(400).error();
    user.put(&switch("email"), &json!({"enabled": "no"})).await.expect(400).error();
    user.put(&switch("email"), &json!({"enabled": false})).await.expect(204);
}

async fn what_was_acknowledged_outlives_a_killed_hub(set: Set) {
    const SENDERS: usize = 4;
    let site = set.site().await;
    let mut first = site.process(&[]).await;
    let user = first.user().await;
    let device = std::sync::Arc::new(first.accepted_by(&user).await);
    let acknowledged = std::sync::Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (device, acknowledged) = (std::sync::Arc::clone(&device), std::sync::Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for number in 0..10_000 {
                    let name = format!("{sender}/{number}");
                    let body = json!([alert("CRITICAL", &name, "2031-05-04T10:00:00Z")]);
                    match Answer::try_to(device.request("POST", ALERT).json(&body)).await {
                        Ok(answer) if answer.status == 204 => acknowledged.lock().unwrap().insert(name),
                        _ => return,
                    };
                }
            })
        })
        .collect();
    harness::wait_until(harness::LIMIT, "a hundred alerts", async || {
        (acknowledged.lock().unwrap().len() > 100).then_some(())
    })
    .await;
    first.kill();
    for sender in senders {
        sender.await.unwrap();
    }

    let second = site.process(&[]).await;
    let user = second.user().await;
    let mut stored = BTreeSet::new();
    for page in 1.. {
        let (names, _) = names(&user, &of(&device, &format!("alerts?per_page=500&page={page}"))).await;
        if names.is_empty() {
            break;
        }
        stored.extend(names.into_iter().map(|name| name.replace("CRITICAL ", "")));
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.is_subset(&stored), "{} of {} are there", stored.len(), acknowledged.len());
    let shown_count = monitored(&user, &device).await[0]["value"].as_u64().unwrap();
    assert_eq!(shown_count, stored.len() as u64, "and the inventory agrees with what is stored");
}
