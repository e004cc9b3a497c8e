//! A hub that is killed at any moment: what it acknowledged is there, and nothing is half done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::traffic::Pattern;
use harness::{
    Answer, Delivery, LIMIT, Receiver, Set, Settings, Site, TestDevice, TestHub, TestUser, both_sets, wait_until,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::monitoring::alert;

both_sets!([a_hub_that_is_killed_at_any_moment_loses_nothing_acknowledged]);

const SETTINGS: &Settings = &[
    ("MOORING_ACTORS__NOTIFICATIONS__WEBHOOK_PRIVATE_NETWORKS", "true"),
    ("MOORING_ACTORS__JOBS__LEASE", "1s"),
    ("MOORING_ACTORS__JOBS__FIRST_PAUSE", "50ms"),
    ("MOORING_ACTORS__JOBS__LONGEST_PAUSE", "1s"),
    ("MOORING_ACTORS__JOBS__ATTEMPTS", "1000"),
    ("MOORING_API__AUTH_REQUEST_LIMIT__QUOTA", "0"),
    ("MOORING_API__LOGIN_LIMIT__QUOTA", "0"),
];

/// Where users find devices and decide about them.
const ADMISSION: &str = "/api/management/v2/devauth/devices";

/// Devices of a round that report all the time, are let in, and are removed.
const REPORTING: usize = 2;
const JOINING: usize = 4;
const LEAVING: usize = 4;

/// A hub is killed at the latest after so many acknowledgements.
const LATEST: u64 = 60;

/// What a task said and whether the hub had acknowledged it when it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    Open,
}

/// Acknowledgements of a round.
pub type Count = Arc<AtomicU64>;

/// The status of the answer; none if the hub died over it.
pub async fn status(request: reqwest::RequestBuilder, count: &Count) -> Option<u16> {
    let answer = Answer::try_to(request).await.ok()?;
    count.fetch_add(1, Ordering::Relaxed);
    Some(answer.status)
}

/// Counts up in the inventory; the last number that was acknowledged.
async fn report_on(device: &TestDevice, count: &Count) -> u64 {
    for number in 1.. {
        let attributes = json!([{"name": "number", "value": number}]);
        match status(device.request("PATCH", TestDevice::ATTRIBUTES).json(&attributes), count).await {
            Some(200) => {}
            Some(other) => panic!("a report was answered {other}"),
            None => return number - 1,
        }
    }
    unreachable!("the hub is killed");
}

/// Says one alert after the other; how many were acknowledged.
async fn alert_on(device: &TestDevice, round: usize, count: &Count) -> usize {
    for number in 0.. {
        let alerts = json!([alert("CRITICAL", &format!("{round}-{number}"), "2031-05-04T10:00:00Z")]);
        match status(device.request("POST", "/api/devices/v1/devicemonitor/alert").json(&alerts), count).await {
            Some(204) => {}
            Some(429) => tokio::task::yield_now().await,
            Some(other) => panic!("an alert was answered {other}"),
            None => return number,
        }
    }
    unreachable!("the hub is killed");
}

/// A device that waits to be let in; its id and its set.
async fn pending(hub: &TestHub, user: &TestUser) -> (TestDevice, String, String) {
    let device = hub.device();
    device.ask().await.expect(401);
    let known = user.device_with(&device.identity).await.expect("it has asked");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (device, text(&known["id"]), text(&known["auth_sets"][0]["id"]))
}

async fn fates(paths: Vec<String>, count: &Count, request: impl Fn(&str) -> reqwest::RequestBuilder) -> Vec<Fate> {
    let mut fates = vec![Fate::Open; paths.len()];
    for (path, fate) in paths.iter().zip(&mut fates) {
        match status(request(path), count).await {
            Some(204) => *fate = Fate::Acknowledged,
            Some(other) => panic!("{path} was answered {other}"),
            None => break,
        }
    }
    fates
}

/// One life of a hub and its end.
async fn round(site: &Site, number: usize, pattern: &mut Pattern, receiver: &Receiver, said: &mut BTreeSet<String>) {
    let mut hub = site.process(SETTINGS).await;
    let user = hub.user().await;
    if number == 0 {
        let channel = json!({"kind": "webhook", "name": "ops", "url": receiver.url()});
        user.post("/api/management/v1/mooring/channels", &channel).await.expect(201);
    }
    let mut reporting = Vec::new();
    for _ in 0..REPORTING {
        reporting.push(Arc::new(hub.accepted_by(&user).await));
    }
    let mut joining = Vec::new();
    for _ in 0..JOINING {
        joining.push(pending(&hub, &user).await);
    }
    let mut leaving = Vec::new();
    for _ in 0..LEAVING {
        leaving.push(hub.accepted_by(&user).await);
    }

    let mut random = [0; 8];
    pattern.fill(&mut random);
    let enough = u64::from_be_bytes(random) % LATEST;
    let count = Count::default();
    let mut counts = JoinSet::new();
    for (place, device) in reporting.iter().enumerate() {
        let (device, count) = (device.clone(), count.clone());
        counts.spawn(async move { (place, report_on(&device, &count).await) });
    }
    let alerts = tokio::spawn({
        let (device, count) = (reporting[0].clone(), count.clone());
        async move { alert_on(&device, number, &count).await }
    });
    let let_in = tokio::spawn({
        let (user, count) = (user.clone(), count.clone());
        let paths = joining.iter().map(|(_, id, set)| format!("{ADMISSION}/{id}/auth/{set}/status")).collect();
        async move { fates(paths, &count, |path| user.request("PUT", path).json(&json!({"status": "accepted"}))).await }
    });
    let removed = tokio::spawn({
        let (user, count) = (user.clone(), count.clone());
        let paths = leaving.iter().map(|device| format!("{ADMISSION}/{}", device.id)).collect();
        async move { fates(paths, &count, |path| user.request("DELETE", path)).await }
    });
    wait_until(LIMIT, "the moment", async || (count.load(Ordering::Relaxed) >= enough).then_some(())).await;
    hub.kill();
    let (counts, alerts) = (counts.join_all().await, alerts.await.unwrap());
    let (let_in, removed) = (let_in.await.unwrap(), removed.await.unwrap());

    let hub = site.process(SETTINGS).await;
    let user = user.at(&hub);
    for (place, acknowledged) in counts {
        let shown = crate::device_list::scope(&user, &reporting[place].id, "inventory").await;
        let shown = shown["number"].as_u64().unwrap_or(0);
        // The one that was on the way may be there.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&shown),
            "{acknowledged} was acknowledged and {shown} is there"
        );
    }
    let path = format!("/api/management/v1/devicemonitor/devices/{}/alerts?per_page=500", reporting[0].id);
    let stored = user.get(&path).await.expect(200).json();
    let names = |alert: &Value| alert["subject"]["name"].as_str().expect("a name").to_owned();
    let stored: Vec<String> = stored.as_array().unwrap().iter().map(names).collect();
    let different: BTreeSet<&String> = stored.iter().collect();
    assert_eq!(different.len(), stored.len(), "an alert is there twice");
    assert!((alerts..=alerts + 1).contains(&stored.len()), "{alerts} were acknowledged and {} are there", stored.len());
    said.extend(stored);
    let mut done_with = vec![reporting[1].id.clone()];
    for ((mut device, id, _), fate) in joining.into_iter().zip(let_in) {
        let status = user.device(&id).await["status"].as_str().unwrap().to_owned();
        let shown = crate::device_list::scope(&user, &id, "identity").await;
        assert_eq!(shown["status"], json!(status), "the inventory of {id} says something else");
        assert!(fate == Fate::Open || status == "accepted", "{id} was accepted and is {status}");
        device.go_to(&hub);
        device.ask().await.expect(if status == "accepted" { 200 } else { 401 });
        done_with.push(id);
    }
    for (device, fate) in leaving.iter().zip(removed) {
        let known = async || {
            let admission = user.get(&format!("{ADMISSION}/{}", device.id)).await.status;
            let inventory = user.get(&format!("/api/management/v1/inventory/devices/{}", device.id)).await.status;
            (admission, inventory)
        };
        // A removal that was begun is ended by the next hub.
        let (admission, _) = wait_until(LIMIT, "a removal to be whole", async || {
            Some(known().await).filter(|(one, other)| one == other)
        })
        .await;
        assert!(fate == Fate::Open || admission == 404, "{} was removed and is there", device.id);
        done_with.extend((admission != 404).then(|| device.id.clone()));
    }
    // What is listed stays within a page; the device that said alerts stays, with what is still to be delivered of them.
    for id in done_with {
        user.delete(&format!("{ADMISSION}/{id}")).await.expect(204);
    }
}

/// `kill -9` in the middle of reports, alerts, decisions, removals and webhooks, again and again on the same data.
async fn rounds(set: Set, rounds: usize, seed: u64) {
    let _turn = harness::turn_of_the_heavy().await;
    let receiver = Receiver::start().await;
    let site = set.site().await;
    let mut pattern = Pattern::new(seed);
    let mut said = BTreeSet::new();
    for number in 0..rounds {
        eprintln!("round {number} of seed {seed}");
        round(&site, number, &mut pattern, &receiver, &mut said).await;
    }
    let _hub = site.process(SETTINGS).await;
    wait_until(LIMIT * 4, "every alert to reach its receiver", async || {
        // A hub that died over one left it unfinished.
        let whole = |delivery: &Delivery| serde_json::from_str::<Value>(&delivery.body).ok();
        let of = |said: Value| said["data"]["alert"]["subject"]["name"].as_str().unwrap().to_owned();
        let heard: BTreeSet<String> = receiver.deliveries().iter().filter_map(whole).map(of).collect();
        said.is_subset(&heard).then_some(())
    })
    .await;
}

async fn a_hub_that_is_killed_at_any_moment_loses_nothing_acknowledged(set: Set) {
    rounds(set, 3, seed()).await;
}

/// `cargo test -p tests --test e2e -- --ignored a_hundred_kills`
#[tokio::test]
#[ignore = "takes minutes; run it by its name"]
async fn a_hundred_kills_of_an_embedded_hub_lose_nothing_acknowledged() {
    rounds(Set::Embedded, 100, seed()).await;
}

#[tokio::test]
#[ignore = "takes minutes; run it by its name"]
async fn a_hundred_kills_of_a_production_hub_lose_nothing_acknowledged() {
    rounds(Set::Production, 100, seed()).await;
}

/// A seed that the output shows.
pub fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
