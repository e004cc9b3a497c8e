//! Alerts reach people and programs, whatever is restarted meanwhile; what comes twice can be told by its id.

use std::collections::BTreeSet;

use harness::{
    ADMIN_EMAIL, LIMIT, MailServer, Received, Receiver, Set, TestDevice, TestHub, TestUser, both_sets, wait_until,
};
use serde_json::{Value, json};

use crate::monitoring::{alert, report};

both_sets!([
    a_webhook_is_signed_and_says_what_the_alert_says,
    every_webhook_arrives_although_its_receiver_is_restarted,
    a_killed_hub_s_webhooks_are_delivered_by_the_next,
    webhooks_go_nowhere_near_the_hub_unless_they_may,
    an_answer_is_not_followed,
    channels_are_made_changed_and_removed,
    what_is_muted_is_not_sent,
    an_alert_is_an_e_mail_to_every_user,
    every_e_mail_arrives_although_the_mail_server_is_restarted,
    a_storm_of_alerts_ends_in_one_e_mail,
    an_operator_calls_jobs_off_and_retries_them,
]);

const CHANNELS: &str = "/api/management/v1/mooring/channels";
const MUTES: &str = "/api/management/v1/mooring/mutes";
const JOBS: &str = "/api/management/v1/mooring/jobs";
const AT: &str = "2031-05-04T10:00:00Z";

/// A hub whose failures are short, and which may send to this machine.
async fn hub(set: Set, mails: Option<&MailServer>) -> TestHub {
    let url = mails.map(MailServer::url);
    set.hub_with(|config| {
        let actors = &mut config.actors;
        actors.notifications.webhook_private_networks = true;
        actors.notifications.smtp_url = url.as_deref().map(Into::into);
        "Mooring <no-reply@hub.example.com>".clone_into(&mut actors.notifications.mail_from);
        actors.jobs.first_pause = std::time::Duration::from_millis(50);
        actors.jobs.longest_pause = std::time::Duration::from_millis(200);
        actors.jobs.attempts = 10_000;
    })
    .await
}

async fn webhook(user: &TestUser, url: &str) -> Value {
    user.post(CHANNELS, &json!({"kind": "webhook", "name": "ops", "url": url})).await.expect(201).json()
}

async fn say(device: &TestDevice, level: &str, subject: &str) {
    report(device, &json!([alert(level, subject, AT)])).await.expect(204);
}

fn subjects(deliveries: &[harness::Delivery]) -> BTreeSet<String> {
    let subject =
        |delivery: &harness::Delivery| delivery.json()["data"]["alert"]["subject"]["name"].as_str().unwrap().to_owned();
    deliveries.iter().map(subject).collect()
}

async fn jobs(user: &TestUser, query: &str) -> Vec<Value> {
    user.get(&format!("{JOBS}?{query}")).await.expect(200).json().as_array().unwrap().clone()
}

async fn a_webhook_is_signed_and_says_what_the_alert_says(set: Set) {
    let receiver = Receiver::start().await;
    let hub = hub(set, None).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let channel = webhook(&user, &receiver.url()).await;
    let secret = channel["secret"].as_str().unwrap();
    say(&device, "CRITICAL", "${HOME} {{x}}").await;
    let delivery = receiver.receives(1).await.remove(0);
    assert!(delivery.is_signed_with(secret), "{delivery:?}");
    assert!(!delivery.is_signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    assert_eq!(delivery.headers["content-type"], "application/json");
    let said = delivery.json();
    assert_eq!(said["type"], "alert");
    let told = &said["data"]["alert"];
    let stored = user.get(&format!("/api/management/v1/devicemonitor/devices/{}/alerts", device.id)).await.json();
    assert_eq!(*told, stored[0]);
    assert_eq!(told["subject"]["name"], "${HOME} {{x}}", "nothing in it is expanded");
    let job = wait_until(LIMIT, "the job to be done", async || jobs(&user, "state=done").await.pop()).await;
    assert_eq!((&job["kind"], &job["id"]), (&json!("webhook"), &json!(delivery.id())));
    let whole = user.get(&format!("{JOBS}/{}", delivery.id())).await.expect(200).text();
    assert!(!whole.contains(secret), "secrets stay with their channel");
}

async fn every_webhook_arrives_although_its_receiver_is_restarted(set: Set) {
    const ALERTS: usize = 30;
    let mut receiver = Receiver::stopped();
    let hub = hub(set, None).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let channel = webhook(&user, &receiver.url()).await;
    let batch = |from: usize, to: usize| -> Value {
        (from..to).map(|number| alert("CRITICAL", &number.to_string(), AT)).collect()
    };
    report(&device, &batch(0, ALERTS / 3)).await.expect(204);
    wait_until(LIMIT, "a failed attempt", async || {
        jobs(&user, "kind=webhook").await.into_iter().find(|job| job["attempts"].as_i64() > Some(1))
    })
    .await;
    receiver.begin().await;
    // Taken, but the answer says otherwise: it comes again, under the same id.
    receiver.answer("500 Internal Server Error");
    report(&device, &batch(ALERTS / 3, ALERTS * 2 / 3)).await.expect(204);
    receiver.receives(5).await;
    receiver.end().await;
    report(&device, &batch(ALERTS * 2 / 3, ALERTS)).await.expect(204);
    receiver.begin().await;
    receiver.receives(ALERTS).await;
    wait_until(LIMIT, "all jobs to be done", async || {
        (jobs(&user, "state=done&per_page=100").await.len() == ALERTS).then_some(())
    })
    .await;

    let deliveries = receiver.deliveries();
    let expected: BTreeSet<String> = (0..ALERTS).map(|number| number.to_string()).collect();
    assert_eq!(subjects(&deliveries), expected);
    assert!(deliveries.len() > ALERTS, "one came twice");
    let ids: BTreeSet<&str> = deliveries.iter().map(harness::Delivery::id).collect();
    assert_eq!(ids.len(), ALERTS, "an id for each alert, however often it came");
    for delivery in &deliveries {
        assert!(delivery.is_signed_with(channel["secret"].as_str().unwrap()));
    }
}

async fn a_killed_hub_s_webhooks_are_delivered_by_the_next(set: Set) {
    const SETTINGS: &harness::Settings = &[
        ("MOORING_ACTORS__NOTIFICATIONS__WEBHOOK_PRIVATE_NETWORKS", "true"),
        ("MOORING_ACTORS__JOBS__LEASE", "1s"),
        ("MOORING_ACTORS__JOBS__LONGEST_PAUSE", "1s"),
        ("MOORING_ACTORS__JOBS__ATTEMPTS", "1000"),
    ];
    let mut receiver = Receiver::stopped();
    let site = set.site().await;
    let mut first = site.process(SETTINGS).await;
    let user = first.user().await;
    let device = first.accepted_by(&user).await;
    webhook(&user, &receiver.url()).await;
    let batch: Value = (0..20).map(|number| alert("CRITICAL", &number.to_string(), AT)).collect();
    report(&device, &batch).await.expect(204);
    first.kill();

    let second = site.process(SETTINGS).await;
    receiver.begin().await;
    receiver.receives(20).await;
    let user = second.user().await;
    wait_until(LIMIT, "all jobs to be done", async || {
        (jobs(&user, "state=done&per_page=100").await.len() == 20).then_some(())
    })
    .await;
    let ids: BTreeSet<String> = receiver.deliveries().iter().map(|delivery| delivery.id().to_owned()).collect();
    assert_eq!(ids.len(), 20);
    assert_eq!(subjects(&receiver.deliveries()).len(), 20);
}

async fn webhooks_go_nowhere_near_the_hub_unless_they_may(set: Set) {
    let receiver = Receiver::start().await;
    let hub = set.hub_with(|config| config.actors.jobs.attempts = 1).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let port = receiver.url().rsplit_once(':').unwrap().1.to_owned();
    for (number, host) in
        ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "169.254.169.254"].into_iter().enumerate()
    {
        let channel = json!({"kind": "webhook", "name": number.to_string(), "url": format!("http://{host}:{port}")});
        user.post(CHANNELS, &channel).await.expect(201);
    }
    say(&device, "CRITICAL", "sshd").await;
    let dead = wait_until(LIMIT, "all of them to be given up", async || {
        let dead = jobs(&user, "state=dead").await;
        (dead.len() == 5).then_some(dead)
    })
    .await;
    for job in dead {
        let error = job["error"].as_str().unwrap();
        assert!(error.contains("may go to") || error.contains("allowed"), "{error}");
    }
    assert!(receiver.deliveries().is_empty());
}

async fn an_answer_is_not_followed(set: Set) {
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let hub = hub(set, None).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    webhook(&user, &receiver.url()).await;
    receiver.answer(&format!("307 Temporary Redirect\r\nLocation: {}", elsewhere.url()));
    say(&device, "CRITICAL", "sshd").await;
    wait_until(LIMIT, "another attempt", async || (receiver.deliveries().len() == 2).then_some(())).await;
    assert!(elsewhere.deliveries().is_empty());
    // A receiver that wants no more gets no more.
    receiver.answer("410 Gone");
    say(&device, "OK", "sshd").await;
    let dead = wait_until(LIMIT, "it to be given up", async || jobs(&user, "state=dead").await.pop()).await;
    assert_eq!((&dead["attempts"], dead["error"].as_str()), (&json!(1), Some("the receiver answered 410 Gone")));
}

async fn channels_are_made_changed_and_removed(set: Set) {
    let receiver = Receiver::start().await;
    let hub = hub(set, None).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let made = webhook(&user, &receiver.url()).await;
    let path = format!("{CHANNELS}/{}", made["id"].as_str().unwrap());
    assert_eq!(user.get(&path).await.expect(200).json().get("secret"), None, "a secret is shown once");
    user.post(CHANNELS, &json!({"kind": "webhook", "name": "ops", "url": receiver.url()})).await.expect(409).error();
    user.post(CHANNELS, &json!({"kind": "webhook", "name": "x", "url": "file:///x"})).await.expect(400).error();
    let change = async |body: Value| harness::Answer::to(user.request("PATCH", &path).json(&body)).await;
    change(json!({"kind": "email"})).await.expect(400).error();
    change(json!({"enabled": false})).await.expect(204);
    say(&device, "CRITICAL", "off").await;
    change(json!({"enabled": true, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})).await.expect(204);
    say(&device, "CRITICAL", "on").await;
    let deliveries = receiver.receives(1).await;
    assert_eq!(subjects(&deliveries).into_iter().collect::<Vec<_>>(), ["on"]);
    assert!(deliveries[0].is_signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));

    // Two who change different things at once both get their way.
    for round in 0..10 {
        let (name, is_on) = (json!(format!("ops {round}")), json!(round % 2 == 0));
        let (one, two) = tokio::join!(change(json!({ "name": name })), change(json!({ "enabled": is_on })));
        one.expect(204);
        two.expect(204);
        let channel = user.get(&path).await.expect(200).json();
        assert_eq!((&channel["name"], &channel["enabled"]), (&name, &is_on));
    }

    let listed = user.get(CHANNELS).await.expect(200).json();
    let builtin = listed.as_array().unwrap().iter().find(|channel| channel["builtin"] == true).unwrap();
    let builtin_path = format!("{CHANNELS}/{}", builtin["id"].as_str().unwrap());
    user.delete(&builtin_path).await.expect(409).error();
    user.delete(&path).await.expect(204);
    user.delete(&path).await.expect(404).error();
    user.get(&format!("{CHANNELS}/nonsense")).await.expect(404).error();
    assert_eq!(user.get(CHANNELS).await.json().as_array().unwrap().len(), 1);
}

async fn what_is_muted_is_not_sent(set: Set) {
    let receiver = Receiver::start().await;
    let hub = hub(set, None).await;
    let user = hub.user().await;
    let (device, other) = (hub.accepted_by(&user).await, hub.accepted_by(&user).await);
    let channel = webhook(&user, &receiver.url()).await;
    let mute = async |body: Value| user.post(MUTES, &body).await;
    let of_subject = mute(json!({"device_id": device.id, "subject_name": "sshd", "comment": "known"})).await;
    let of_subject = of_subject.expect(201).json();
    assert_eq!(of_subject["created_by"], json!(user.id));
    mute(json!({"device_id": other.id, "channel_id": channel["id"]})).await.expect(201);
    mute(json!({"until": "2001-01-01T00:00:00Z"})).await.expect(400).error();
    mute(json!({"channel_id": "3f8f5c8e-0000-4000-8000-000000000000"})).await.expect(404).error();
    for (device, subject) in [(&device, "sshd"), (&other, "cron"), (&device, "cron")] {
        say(device, "CRITICAL", subject).await;
    }
    receiver.receives(1).await;
    assert_eq!(user.get(MUTES).await.expect(200).json().as_array().unwrap().len(), 2);
    user.delete(&format!("{MUTES}/{}", of_subject["id"].as_str().unwrap())).await.expect(204);
    user.delete(&format!("{MUTES}/{}", of_subject["id"].as_str().unwrap())).await.expect(404).error();
    say(&device, "OK", "sshd").await;
    let deliveries = receiver.receives(2).await;
    let said = deliveries.iter().map(|delivery| delivery.json()["data"]["alert"]["name"].clone());
    let said: Vec<Value> = said.collect();
    assert_eq!(said, ["Service cron not running", "Service sshd not running"]);
    assert_eq!(deliveries[1].json()["data"]["alert"]["level"], "OK", "and not what happened while it was muted");
}

fn to(mail: &Received) -> String {
    mail.header("Bcc")
}

async fn an_alert_is_an_e_mail_to_every_user(set: Set) {
    let server = MailServer::start().await;
    let hub = hub(set, Some(&server)).await;
    let user = hub.another_user("second@example.com").await;
    let device = hub.accepted_by(&user).await;
    say(&device, "CRITICAL", "sshd").await;
    say(&device, "OK", "sshd").await;
    let mails = server.receives(4).await;
    for (level, address) in [
        ("CRITICAL", ADMIN_EMAIL),
        ("OK", ADMIN_EMAIL),
        ("CRITICAL", "second@example.com"),
        ("OK", "second@example.com"),
    ] {
        let subject = format!("{level}: Monitor Alert for Service sshd not running on {}", device.id);
        let found: Vec<_> =
            mails.iter().filter(|mail| to(mail) == address && mail.header("Subject") == subject).collect();
        assert_eq!(found.len(), 1, "{subject} to {address} in {mails:?}");
        let mail = found[0];
        assert!(mail.header("From").contains("no-reply@hub.example.com"));
        assert!(mail.header("Content-Type").starts_with("multipart/alternative"));
        let body = mail.body();
        for part in [device.id.as_str(), "sshd", "Sun, 04 May 2031 10:00:00 GMT", "text/plain", "text/html"] {
            assert!(body.contains(part), "{part} in {body}");
        }
        assert!(!body.contains("{{") && !body.contains("${"), "{body}");
    }

    let switch = "/api/management/v1/devicemonitor/settings/global/channel/alerts/email/status";
    user.put(switch, &json!({"enabled": false})).await.expect(204);
    say(&device, "CRITICAL", "muted").await;
    user.put(switch, &json!({"enabled": true})).await.expect(204);
    let mut log = alert("WARNING", "syslog", AT);
    log["subject"]["type"] = json!("log");
    log["subject"]["details"] = json!({
        "description": "a pattern", "lines_before": [{"line_number": 41, "data": "all is well"}],
        "line_matching": {"line_number": 42, "data": "kernel panic"}, "lines_after": [],
    });
    let checks = json!([{"name": "syslog", "type": "log", "status": "enabled",
        "log": {"pattern": "pan.c", "path": "/var/log/messages"}}]);
    let config = device.request("POST", "/api/devices/v1/devicemonitor/config").json(&checks);
    harness::Answer::to(config).await.expect(204);
    report(&device, &json!([log])).await.expect(204);
    let mails = server.receives(6).await;
    assert!(!mails.iter().any(|mail| mail.header("Subject").contains("muted")));
    let mail = mails.iter().find(|mail| mail.header("Subject").starts_with("WARNING: ")).unwrap();
    for part in ["pan.c", "/var/log/messages", "all is well", "kernel panic"] {
        assert!(mail.body().contains(part), "{part} in {mail:?}");
    }
}

async fn every_e_mail_arrives_although_the_mail_server_is_restarted(set: Set) {
    const ALERTS: usize = 12;
    let mut server = MailServer::stopped();
    let hub = hub(set, Some(&server)).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    say(&device, "CRITICAL", "0").await;
    wait_until(LIMIT, "a failed attempt", async || {
        jobs(&user, "kind=email").await.into_iter().find(|job| job["attempts"].as_i64() > Some(1))
    })
    .await;
    server.begin().await;
    server.receives(1).await;
    for number in 1..ALERTS / 2 {
        say(&device, "CRITICAL", &number.to_string()).await;
    }
    server.end();
    for number in ALERTS / 2..ALERTS {
        say(&device, "CRITICAL", &number.to_string()).await;
    }
    server.begin().await;
    let mails = server.receives(ALERTS).await;
    let subjects: BTreeSet<String> = mails.iter().map(|mail| mail.header("Subject")).collect();
    assert_eq!((mails.len(), subjects.len()), (ALERTS, ALERTS), "one id for each alert");
}

async fn a_storm_of_alerts_ends_in_one_e_mail(set: Set) {
    let server = MailServer::start().await;
    let url = server.url();
    let hub = set
        .hub_with(|config| {
            config.actors.notifications.smtp_url = Some(url.as_str().into());
            config.actors.notifications.mails_per_hour = 2;
        })
        .await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let batch: Value = (0..20).map(|number| alert("CRITICAL", &number.to_string(), AT)).collect();
    report(&device, &batch).await.expect(204);
    let mails = server.receives(2).await;
    assert_eq!(mails.len(), 2);
    let digests = jobs(&user, "kind=email-digest").await;
    assert_eq!(digests.len(), 1, "{digests:?}");
    assert!(digests[0]["due"].as_str().unwrap().ends_with(":00:00.000Z"), "at the end of the hour");
    // Nobody waits for that here.
    user.post(&format!("{JOBS}/{}/retry", digests[0]["id"].as_str().unwrap()), &json!({})).await.expect(204);
    let mails = server.receives(3).await;
    let digest = mails.iter().find(|mail| mail.header("Subject").contains("Monitor Alerts on")).unwrap();
    assert!(digest.header("Subject").contains(&device.id) && digest.body().contains("Service 19 not running"));
}

async fn an_operator_calls_jobs_off_and_retries_them(set: Set) {
    let mut receiver = Receiver::stopped();
    let hub = hub(set, None).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    webhook(&user, &receiver.url()).await;
    say(&device, "CRITICAL", "sshd").await;
    let job = wait_until(LIMIT, "a job", async || jobs(&user, "kind=webhook").await.pop()).await;
    let path = format!("{JOBS}/{}", job["id"].as_str().unwrap());
    let tell = async |what: &str| user.post(&format!("{path}/{what}"), &json!({})).await;
    tell("cancel").await.expect(204);
    assert_eq!(user.get(&path).await.expect(200).json()["state"], "cancelled");
    tell("cancel").await.expect(409).error();
    receiver.begin().await;
    tell("retry").await.expect(204);
    assert_eq!(receiver.receives(1).await[0].id(), job["id"]);
    wait_until(LIMIT, "the job to be done", async || (user.get(&path).await.json()["state"] == "done").then_some(()))
        .await;
    tell("retry").await.expect(409).error();
    user.get(&format!("{JOBS}?state=tired")).await.expect(400).error();
    user.post(&format!("{JOBS}/nonsense/retry"), &json!({})).await.expect(404).error();
    assert_eq!(jobs(&user, "state=waiting").await.len(), 0);
}
