//! Rollouts that begin on some devices, wait for their time, pause when too much goes wrong, and let devices try again.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use harness::{
    ArtifactRecipe, DEPLOYMENTS, EventStream, LIMIT, Set, TestDevice, TestHub, TestUser, both_sets, id_of, wait_until,
};
use serde_json::{Value, json};

use crate::monitoring::{alert, report};

both_sets!([
    a_rollout_goes_on_phase_by_phase,
    a_rollout_waits_for_its_time,
    a_rollout_that_fails_pauses_itself,
    a_device_that_failed_tries_again,
    what_an_operator_may_ask_of_a_rollout_is_checked,
    alerts_pause_a_rollout,
]);

const ROLLOUTS: &str = "/api/management/v1/mooring/deployments";

/// A user, and devices for which there is an artifact.
async fn fleet<const N: usize>(hub: &TestHub) -> (TestUser, [TestDevice; N]) {
    let user = hub.user().await;
    user.has_uploaded(&ArtifactRecipe::module("app-1", "rpi4").make()).await;
    let mut devices = Vec::new();
    for _ in 0..N {
        devices.push(hub.accepted_by(&user).await);
    }
    (user, devices.try_into().ok().expect("so many"))
}

/// Makes a deployment to these devices with what else there is to say about it.
async fn rollout(user: &TestUser, devices: &[TestDevice], more: Value) -> String {
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    let mut body = json!({"name": "fleet-7", "artifact_name": "app-1", "devices": ids});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    id_of(&user.post(DEPLOYMENTS, &body).await.expect(201))
}

async fn detail(user: &TestUser, id: &str) -> Value {
    user.get(&format!("{ROLLOUTS}/{id}")).await.expect(200).json()
}

async fn steer(user: &TestUser, id: &str, how: &str, status: u16) {
    user.put(&format!("{ROLLOUTS}/{id}/{how}"), &json!({})).await.expect(status);
}

async fn is_told(device: &TestDevice, id: &str) -> bool {
    let answer = device.polls("old", "rpi4").await;
    if answer.status == 204 {
        return false;
    }
    assert_eq!(answer.expect(200).json()["id"], id);
    true
}

/// Waits until a device is told.
async fn comes_to(device: &TestDevice, id: &str) {
    wait_until(LIMIT, "the device's turn", async || is_told(device, id).await.then_some(())).await;
}

async fn a_rollout_goes_on_phase_by_phase(set: Set) {
    let hub = set.hub().await;
    let (user, devices) = fleet::<4>(&hub).await;
    let [one, two, three, four] = &devices;
    let mut events = EventStream::open(&user, "", None).await;
    let id = rollout(&user, &devices, json!({"phases": [{"batch_size": 25}, {"devices": 2}, {}]})).await;
    assert!(is_told(three, &id).await);
    for device in [one, two, four] {
        assert!(!is_told(device, &id).await);
    }
    three.says(&id, "success").await.expect(204);
    comes_to(one, &id).await;
    comes_to(four, &id).await;
    assert!(!is_told(two, &id).await);
    let deployment = user.deployment(&id).await;
    let phases = deployment["phases"].as_array().unwrap();
    let members = |name: &str| phases.iter().map(|phase| phase[name].clone()).collect::<Vec<_>>();
    assert_eq!(members("batch_size"), [json!(25), Value::Null, Value::Null]);
    assert_eq!(members("device_count"), [1, 2, 0]);
    assert!(phases[1]["start_ts"].is_string() && phases[2].get("start_ts").is_none());
    for device in [one, four] {
        device.says(&id, "failure").await.expect(204);
    }
    comes_to(two, &id).await;
    two.says(&id, "success").await.expect(204);
    let detail = detail(&user, &id).await;
    assert_eq!((&detail["status"], &detail["paused"]), (&json!("finished"), &Value::Null));
    assert_eq!(detail["phases"][1]["statistics"]["failure"], 2);
    assert_eq!(detail["phases"][2]["devices"], 1);
    let mut kinds = vec![];
    while kinds.last().is_none_or(|kind| kind != "deployment-finished") {
        let event = events.hear().await;
        if event.data["deployment"] == id.as_str() {
            assert_eq!(event.data["name"], "fleet-7");
            kinds.push(event.kind);
        }
    }
    let opened = "deployment-phase-opened";
    assert_eq!(kinds, ["deployment-created", opened, opened, "deployment-finished"]);
}

async fn a_rollout_waits_for_its_time(set: Set) {
    let hub = set.hub().await;
    let (user, devices) = fleet::<1>(&hub).await;
    let at = |seconds| (Utc::now() + TimeDelta::seconds(seconds)).to_rfc3339();
    let later = rollout(&user, &devices, json!({"phases": [{"start_ts": at(3600)}]})).await;
    assert_eq!(user.deployment(&later).await["status"], "scheduled");
    let scheduled = user.get(&format!("{DEPLOYMENTS}?status=scheduled")).await.expect(200).json();
    assert_eq!((scheduled.as_array().unwrap().len(), &scheduled[0]["id"]), (1, &json!(later)));
    assert!(!is_told(&devices[0], &later).await);
    // A newer one does not wait for it, and it does not come after the newer one.
    let soon = rollout(&user, &devices, json!({"name": "soon", "phases": [{"start_ts": at(2)}]})).await;
    comes_to(&devices[0], &soon).await;
    devices[0].says(&soon, "success").await.expect(204);
    devices[0].polls("old", "rpi4").await.expect(204);
    assert_eq!(user.deployment(&later).await["status"], "finished");
    assert_eq!(user.counts(&later).await, json!({"aborted": 1}));
    // What was due in the past begins at once.
    let past = rollout(&user, &devices, json!({"name": "past", "phases": [{"start_ts": at(-60)}]})).await;
    assert!(is_told(&devices[0], &past).await);
}

async fn a_rollout_that_fails_pauses_itself(set: Set) {
    let hub = set.hub().await;
    let (user, devices) = fleet::<4>(&hub).await;
    let [one, two, three, four] = &devices;
    let mut events = EventStream::open(&user, "", None).await;
    let plan = json!({"phases": [{"devices": 3}, {}], "safety": {"max_failed_percent": 34}});
    let id = rollout(&user, &devices, plan).await;
    for device in [one, two] {
        assert!(is_told(device, &id).await);
        device.says(&id, "failure").await.expect(204);
    }
    let event = events.hear_of_deployment("deployment-paused", &id).await;
    let reason = "in phase 1, more than 34 % (2 of 3 devices) failed";
    assert_eq!(event.data["reason"], reason);
    let paused = detail(&user, &id).await;
    assert_eq!((&paused["paused"]["reason"], &paused["safety"]), (&json!(reason), &json!({"max_failed_percent": 34})));
    assert!(!is_told(three, &id).await);
    assert_eq!(user.deployment(&id).await["status"], "inprogress");
    steer(&user, &id, "resume", 204).await;
    comes_to(three, &id).await;
    three.says(&id, "success").await.expect(204);
    comes_to(four, &id).await;
    steer(&user, &id, "pause", 204).await;
    assert_eq!(detail(&user, &id).await["paused"]["reason"], "by an operator");
    // Who was told and has not begun need not; who has begun goes on.
    assert!(!is_told(four, &id).await);
    four.says(&id, "downloading").await.expect(204);
    assert!(is_told(four, &id).await);
    four.says(&id, "success").await.expect(204);
    assert_eq!(detail(&user, &id).await["status"], "finished");
    for how in ["pause", "resume"] {
        steer(&user, &id, how, 422).await;
        steer(&user, "3f8f5c8e-0000-4000-8000-000000000000", how, 404).await;
        steer(&user, "x", how, 400).await;
    }
    user.get(&format!("{ROLLOUTS}/x")).await.expect(400).error();
    user.get(&format!("{ROLLOUTS}/3f8f5c8e-0000-4000-8000-000000000000")).await.expect(404).error();
}

async fn a_device_that_failed_tries_again(set: Set) {
    let hub = set.hub().await;
    let (user, devices) = fleet::<1>(&hub).await;
    let id = rollout(&user, &devices, json!({"retries": 2})).await;
    assert_eq!(user.deployment(&id).await["retries"], 2);
    for attempts in 1..=2 {
        assert!(is_told(&devices[0], &id).await);
        devices[0].says(&id, "installing").await.expect(204);
        // It repeats what it says, as devices do.
        for _ in 0..2 {
            devices[0].says(&id, "failure").await.expect(204);
        }
        let log = json!({"messages": [{"timestamp": "2026-01-02T03:04:05Z", "level": "error", "message": "boom"}]});
        devices[0].logs(&id, &log).await.expect(204);
        let listed = user.deployed(&id).await;
        assert_eq!((&listed[0]["status"], &listed[0]["attempts"]), (&json!("pending"), &json!(attempts)));
        assert_eq!(listed[0]["log"], true);
    }
    assert!(is_told(&devices[0], &id).await);
    devices[0].says(&id, "failure").await.expect(204);
    assert_eq!(user.counts(&id).await, json!({"failure": 1}));
    assert_eq!(user.deployment(&id).await["status"], "finished");
    assert!(!is_told(&devices[0], &id).await);
}

async fn what_an_operator_may_ask_of_a_rollout_is_checked(set: Set) {
    let hub = set.hub().await;
    let (user, devices) = fleet::<1>(&hub).await;
    let body = json!({"name": "a", "artifact_name": "app-1", "devices": [&devices[0].id, "other"]});
    for (member, wrong, what) in [
        ("phases", json!([{}, {"batch_size": 10}]), "phase 1: must have"),
        ("phases", json!([{"batch_size": 1}, {}]), "phase 1: there would be no device"),
        ("phases", json!([{"batch_size": 101}, {}]), "phase 1: batch_size"),
        ("phases", json!([{"devices": 2}, {}]), "phase 2: there would be no device"),
        ("phases", json!([{"devices": 1, "batch_size": 1}, {}]), "exclude one another"),
        ("phases", json!([{"devices": 1, "start_ts": "soon"}, {}]), "start_ts"),
        ("phases", json!(vec![json!({"devices": 1}); 101]), "at most"),
        ("retries", json!(101), "retries"),
        ("safety", json!({"max_failed_percent": 101}), "max_failed_percent"),
        ("safety", json!({"max_failde": 1}), "max_failde"),
        ("safety", json!({"max_away": 1}), "away_minutes"),
    ] {
        let mut body = body.clone();
        body[member] = wrong;
        let error = user.post(DEPLOYMENTS, &body).await.expect(400).error();
        assert!(error.starts_with("Validating request body") && error.contains(what), "{error}");
    }
    assert_eq!(user.get(DEPLOYMENTS).await.expect(200).json(), json!([]));
}

async fn alerts_pause_a_rollout(set: Set) {
    let hub = set.hub().await;
    let (user, devices) = fleet::<2>(&hub).await;
    let plan = json!({"phases": [{"devices": 1}, {}], "safety": {"max_alerting": 0}});
    let id = rollout(&user, &devices, plan).await;
    assert!(is_told(&devices[0], &id).await);
    report(&devices[0], &json!([alert("CRITICAL", "disk", &Utc::now().to_rfc3339())])).await.expect(204);
    let reason = wait_until(Duration::from_secs(30), "the pause", async || {
        detail(&user, &id).await["paused"]["reason"].as_str().map(ToOwned::to_owned)
    });
    assert_eq!(reason.await, "in phase 1, more than 0 devices (1) raised alerts");
    devices[0].says(&id, "success").await.expect(204);
    assert!(!is_told(&devices[1], &id).await);
}
