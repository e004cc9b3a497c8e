//! Devices that go through a phased deployment while its hub is killed, and what has to be known of them afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use harness::traffic::Pattern;
use harness::{Answer, DEPLOYMENTS, LIMIT, TestDevice, TestHub, TestUser, id_of, wait_until};
use serde_json::{Value, json};

use crate::crashes::Count;

/// What is installed.
pub(super) const RELEASE: &str = "app-1";

/// Where phases are told.
const ROLLOUTS: &str = "/api/management/v1/mooring/deployments";

/// What a device says on its way.
const STEPS: [&str; 3] = ["downloading", "installing", "rebooting"];

/// A device and what it knows of its part.
struct Member {
    device: TestDevice,
    /// How it will end.
    end: &'static str,
    /// The deployment, once it was told.
    told: Option<String>,
    /// How many steps the hub has acknowledged.
    acknowledged: usize,
}

/// All devices of a round.
pub(super) struct Fleet {
    name: String,
    members: Vec<Member>,
}

/// How a poll ended.
enum Polled {
    Told(String),
    Dead,
}

impl Fleet {
    /// These devices, some of which will fail.
    pub(super) fn new(devices: Vec<TestDevice>, round: usize, pattern: &mut Pattern) -> Self {
        let fates = pattern.take(devices.len());
        let members = devices.into_iter().zip(fates).map(|(device, fate)| {
            let end = if fate % 4 == 0 { "failure" } else { "success" };
            Member { device, end, told: None, acknowledged: 0 }
        });
        Self { name: format!("round-{round}"), members: members.collect() }
    }

    /// Makes the deployment and lets the devices go through it, until the hub is gone.
    pub(super) async fn goes_through_it(&mut self, user: &TestUser, count: &Count) {
        let ids: Vec<&str> = self.members.iter().map(|member| member.device.id.as_str()).collect();
        let phases = json!([{"devices": 1}, {"devices": 2}, {}]);
        let body = json!({"name": self.name, "artifact_name": RELEASE, "devices": ids, "phases": phases});
        let made = async {
            let answer = Answer::try_to(user.request("POST", DEPLOYMENTS).json(&body)).await.ok()?;
            count.fetch_add(1, Ordering::Relaxed);
            Some(id_of(&answer.expect(201)))
        };
        let goes_on = self.members.iter_mut().map(|member| member.goes_on(Some(count)));
        let (made, _) = tokio::join!(made, join_all(goes_on));
        for member in &self.members {
            assert!(made.is_none() || member.told.is_none() || member.told == made, "a device was told of another");
        }
    }

    /// What the hub counts is what it knows of each device, and that is what the devices have been acknowledged.
    pub(super) async fn is_told_truly(&mut self, hub: &TestHub, user: &TestUser) {
        for member in &mut self.members {
            member.device.go_to(hub);
        }
        let found = self.found(user).await;
        let Some(id) = found else {
            assert!(self.members.iter().all(|member| member.told.is_none()), "what devices were told of is gone");
            return;
        };
        self.adds_up(user, &id).await;
        let rows: BTreeMap<String, Value> = user.deployed(&id).await.into_iter().map(|row| (name(&row), row)).collect();
        for member in &self.members {
            let status = rows.get(&member.device.id).map(|row| row["status"].as_str().unwrap());
            let Some(told) = &member.told else { continue };
            assert_eq!(told, &id, "a device was told of another");
            // The one that was on the way may be there.
            let may_be = [member.said(member.acknowledged), member.said(member.acknowledged + 1)];
            assert!(status.is_some_and(|status| may_be.contains(&status)), "{status:?} is none of {may_be:?}");
        }
    }

    /// Whoever is not over with it goes on; the deployment ends, and nobody is told of it again.
    pub(super) async fn comes_to_its_end(&mut self, user: &TestUser) {
        let Some(id) = self.found(user).await else { return };
        // What was on its way when the hub died may have ended it.
        let rows = user.deployed(&id).await;
        let over = rows.iter().filter(|row| ["success", "failure"].contains(&row["status"].as_str().unwrap()));
        let over: BTreeSet<String> = over.map(name).collect();
        for member in self.members.iter_mut().filter(|member| over.contains(&member.device.id)) {
            member.acknowledged = STEPS.len() + 1;
        }
        let left = self.members.iter_mut().filter(|member| member.acknowledged <= STEPS.len());
        join_all(left.map(|member| member.goes_on(None))).await;
        wait_until(LIMIT, "the end of the deployment", async || {
            (user.deployment(&id).await["status"] == "finished").then_some(())
        })
        .await;
        let counts = self.adds_up(user, &id).await;
        let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
        for member in &self.members {
            *expected.entry(member.end).or_default() += 1;
            member.device.polls("old", "rpi4").await.expect(204);
        }
        assert_eq!(counts, json!(expected));
    }

    /// The devices again.
    pub(super) fn into_devices(self) -> Vec<TestDevice> {
        self.members.into_iter().map(|member| member.device).collect()
    }

    /// The deployment of this round, if it was made.
    async fn found(&self, user: &TestUser) -> Option<String> {
        let list = user.get(&format!("{DEPLOYMENTS}?per_page=20")).await.expect(200).json();
        let ours: Vec<String> =
            list.as_array().unwrap().iter().filter(|one| one["name"] == self.name.as_str()).map(name).collect();
        assert!(ours.len() <= 1, "a deployment is there twice");
        ours.into_iter().next()
    }

    /// The numbers of the deployment and of its phases are those of its devices; the first of them.
    async fn adds_up(&self, user: &TestUser, id: &str) -> Value {
        let counts = user.counts(id).await;
        let mut by_row: BTreeMap<String, u64> = BTreeMap::new();
        let rows = user.deployed(id).await;
        for row in &rows {
            *by_row.entry(row["status"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        // Who was not told yet waits.
        let untold = (self.members.len() - rows.len()) as u64;
        if untold > 0 {
            *by_row.entry("pending".to_owned()).or_default() += untold;
        }
        assert_eq!(counts, json!(by_row), "the numbers are not those of the devices");
        let detail = user.get(&format!("{ROLLOUTS}/{id}")).await.expect(200).json();
        assert_eq!(detail["device_count"], rows.len(), "others are counted as told");
        let mut by_phase: BTreeMap<String, u64> = BTreeMap::new();
        for phase in detail["phases"].as_array().unwrap() {
            for (status, devices) in phase["statistics"].as_object().unwrap() {
                let devices = devices.as_u64().unwrap();
                if devices > 0 {
                    *by_phase.entry(status.clone()).or_default() += devices;
                }
            }
        }
        let mut of_told: BTreeMap<String, u64> = BTreeMap::new();
        for row in &rows {
            *of_told.entry(row["status"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        assert_eq!(by_phase, of_told, "the numbers of the phases are not those of the devices");
        counts
    }
}

impl Member {
    /// What it has said when so many steps are done.
    fn said(&self, steps: usize) -> &'static str {
        match steps {
            0 => "pending",
            steps if steps <= STEPS.len() => STEPS[steps - 1],
            _ => self.end,
        }
    }

    /// Asks, installs and reports; with a `count`, until the hub is gone, else until its part is over.
    async fn goes_on(&mut self, count: Option<&Count>) {
        let id = match self.is_told().await {
            Polled::Told(id) => id,
            Polled::Dead => return,
        };
        let before = self.told.replace(id.clone());
        assert!(before.is_none_or(|before| before == id), "a device was told of another");
        while self.acknowledged <= STEPS.len() {
            let path = format!("/api/devices/v1/deployments/device/deployments/{id}/status");
            let body = json!({"status": self.said(self.acknowledged + 1)});
            let Ok(answer) = Answer::try_to(self.device.request("PUT", &path).json(&body)).await else { return };
            answer.expect(204);
            self.acknowledged += 1;
            if let Some(count) = count {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        // A device asks for ever; this one has nothing to do any more.
        if count.is_some()
            && let Polled::Told(again) = self.is_told().await
        {
            panic!("a device that is over with {id} was told to install {again}");
        }
    }

    /// Asks until there is something to do, or no hub.
    async fn is_told(&self) -> Polled {
        let path = "/api/devices/v1/deployments/device/deployments/next?artifact_name=old&device_type=rpi4".to_owned();
        wait_until(LIMIT * 4, "the device's turn", async || {
            match Answer::try_to(self.device.request("GET", &path)).await {
                Err(_) => Some(Polled::Dead),
                Ok(answer) if answer.status == 204 => None,
                Ok(answer) => Some(Polled::Told(answer.expect(200).json()["id"].as_str().unwrap().to_owned())),
            }
        })
        .await
    }
}

fn name(listed: &Value) -> String {
    listed["id"].as_str().unwrap().to_owned()
}
