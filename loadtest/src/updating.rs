//! A device that is told what to install: it polls, downloads, reports how far it is, and fails now and then.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::{
    Server,
    latency::Latency,
    line::{Answer, Body, Failure, write_request},
    line_pool::LinePool,
    roster::Member,
};

const API: &str = "/api/devices/v1/deployments/device/deployments";

/// How often a report is repeated that the hub has no time for, as the real client repeats it.
const REPEATS: usize = 60;

/// Pause between repetitions.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// What devices of a rollout have in common.
#[derive(Debug)]
pub struct Updating {
    /// The hub they ask.
    pub server: Server,
    /// Their connections.
    pub lines: LinePool,
    /// What they say they run and are.
    pub artifact_name: String,
    /// The type that artifacts have to be for.
    pub device_type: String,
    /// From one poll to the next, give or take a half.
    pub poll_every: Duration,
    /// From one step of an installation to the next, give or take a half.
    pub step: Duration,
    /// What they did.
    pub record: Record,
}

/// What the devices of a rollout did and saw.
#[derive(Debug, Default)]
pub struct Record {
    /// How long polls, downloads and reports took.
    pub poll: Latency,
    /// See [`poll`](Self::poll).
    pub download: Latency,
    /// See [`poll`](Self::poll).
    pub report: Latency,
    polls: AtomicU64,
    downloaded_bytes: AtomicU64,
    downloads: AtomicU64,
    /// Final states: about to be said, and acknowledged. What the hub says lies between the two at every moment.
    said: Mutex<BTreeMap<&'static str, u64>>,
    acknowledged: Mutex<BTreeMap<&'static str, u64>>,
    /// Acknowledged final state by device.
    finals: Mutex<BTreeMap<String, &'static str>>,
    flaws: Mutex<BTreeMap<String, u64>>,
}

impl Record {
    /// Polls so far.
    pub fn polls(&self) -> u64 {
        self.polls.load(Relaxed)
    }

    /// Downloads that came to their end.
    pub fn downloads(&self) -> u64 {
        self.downloads.load(Relaxed)
    }

    /// Bytes of artifacts so far.
    pub fn downloaded_bytes(&self) -> u64 {
        self.downloaded_bytes.load(Relaxed)
    }

    /// Final states that devices have said or are saying, by how many.
    pub fn said(&self) -> BTreeMap<&'static str, u64> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Final states that were acknowledged, by how many devices.
    pub fn acknowledged(&self) -> BTreeMap<&'static str, u64> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The acknowledged final state of each device that has one.
    pub fn finals(&self) -> BTreeMap<String, &'static str> {
        self.finals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What went wrong, and how often.
    pub fn flaws(&self) -> BTreeMap<String, u64> {
        self.flaws.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn flaw(&self, what: &str) {
        *self.flaws.lock().unwrap_or_else(PoisonError::into_inner).entry(what.to_owned()).or_default() += 1;
    }

    fn about_to_say(&self, state: &'static str) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner).entry(state).or_default() += 1;
    }

    fn was_acknowledged(&self, device: &str, state: &'static str) {
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).entry(state).or_default() += 1;
        self.finals.lock().unwrap_or_else(PoisonError::into_inner).insert(device.to_owned(), state);
    }
}

/// What the hub tells a device to install.
#[derive(Debug, Deserialize)]
struct Instructions {
    id: String,
    artifact: Artifact,
}

#[derive(Debug, Deserialize)]
struct Artifact {
    source: Source,
}

#[derive(Debug, Deserialize)]
struct Source {
    uri: String,
}

/// How an installation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Well.
    Succeeds,
    /// With a failure and its log.
    Fails,
}

/// A device's life, which does not end by itself: it polls on after an installation, and must not be told of the same
/// deployment again.
pub async fn live(member: Member, fate: Fate, updating: Arc<Updating>) {
    let device = Device { member, updating };
    let mut over = Vec::new();
    // A fleet does not poll in step.
    tokio::time::sleep(device.updating.poll_every.mul_f64(rand::random())).await;
    loop {
        if let Some(instructions) = device.poll().await {
            if over.contains(&instructions.id) {
                device.updating.record.flaw("told to install again what was over");
            } else if device.install(&instructions, fate).await {
                over.push(instructions.id);
            }
        }
        tokio::time::sleep(jitter(device.updating.poll_every)).await;
    }
}

struct Device {
    member: Member,
    updating: Arc<Updating>,
}

impl Device {
    async fn poll(&self) -> Option<Instructions> {
        let Updating { artifact_name, device_type, record, .. } = &*self.updating;
        let path = format!("{API}/next?artifact_name={artifact_name}&device_type={device_type}");
        let due = Instant::now();
        let outcome = self.send("GET", &path, None, Body::Keep).await;
        record.poll.record(due.elapsed());
        record.polls.fetch_add(1, Relaxed);
        match outcome {
            Ok(Answer { status: 204, .. }) => None,
            Ok(answer) if answer.status == 200 => {
                let read = serde_json::from_slice(&answer.body);
                read.inspect_err(|error| record.flaw(&format!("unreadable instructions: {error}"))).ok()
            }
            Ok(answer) => {
                record.flaw(&format!("poll answered with {}", answer.status));
                None
            }
            Err(failure) => {
                record.flaw(&format!("poll: {}", failure.as_str()));
                None
            }
        }
    }

    /// Goes through an installation; whether it came to a final state.
    async fn install(&self, instructions: &Instructions, fate: Fate) -> bool {
        let record = &self.updating.record;
        if !self.report(instructions, "downloading").await || !self.download(&instructions.artifact.source.uri).await {
            return false;
        }
        for state in ["installing", "rebooting"] {
            tokio::time::sleep(jitter(self.updating.step)).await;
            if !self.report(instructions, state).await {
                return false;
            }
        }
        tokio::time::sleep(jitter(self.updating.step)).await;
        let last = match fate {
            Fate::Succeeds => "success",
            Fate::Fails => {
                self.send_log(instructions).await;
                "failure"
            }
        };
        record.about_to_say(last);
        let is_acknowledged = self.report(instructions, last).await;
        if is_acknowledged {
            record.was_acknowledged(&self.member.id, last);
        }
        is_acknowledged
    }

    /// Says how far it is, until it is heard; false if it is to stop.
    async fn report(&self, instructions: &Instructions, state: &str) -> bool {
        let path = format!("{API}/{}/status", instructions.id);
        self.repeat(&path, &json!({"status": state}), &format!("report of {state}")).await
    }

    async fn send_log(&self, instructions: &Instructions) {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let line = json!({"timestamp": now, "level": "error", "message": "this device was made to fail"});
        let path = format!("{API}/{}/log", instructions.id);
        self.repeat(&path, &json!({"messages": [line]}), "log").await;
    }

    async fn repeat(&self, path: &str, body: &Value, what: &str) -> bool {
        let (record, body) = (&self.updating.record, body.to_string());
        let due = Instant::now();
        for _attempt in 0..REPEATS {
            match self.send("PUT", path, Some(body.as_bytes()), Body::Count).await {
                Ok(Answer { status: 204, .. }) => {
                    record.report.record(due.elapsed());
                    return true;
                }
                // The deployment was aborted.
                Ok(Answer { status: 409, .. }) => return false,
                Ok(Answer { status: 429 | 500..=599, .. }) | Err(_) => tokio::time::sleep(REPEAT_AFTER).await,
                Ok(answer) => {
                    record.flaw(&format!("{what} answered with {}", answer.status));
                    return false;
                }
            }
        }
        record.flaw(&format!("{what} not acknowledged"));
        false
    }

    async fn download(&self, uri: &str) -> bool {
        let record = &self.updating.record;
        let due = Instant::now();
        match self.fetch(uri).await {
            Ok(bytes) => {
                record.download.record(due.elapsed());
                record.downloads.fetch_add(1, Relaxed);
                record.downloaded_bytes.fetch_add(bytes, Relaxed);
                true
            }
            Err(why) => {
                record.flaw(&why);
                false
            }
        }
    }

    /// How many bytes there are behind a link, of the hub or of an object store beside it.
    async fn fetch(&self, uri: &str) -> Result<u64, String> {
        let url = Url::parse(uri).map_err(|error| format!("unreadable link: {error}"))?;
        let is_hub = url.port_or_known_default() == Some(self.updating.server.address().port());
        if is_hub {
            let path = uri.splitn(4, '/').nth(3).map_or_else(|| "/".to_owned(), |path| format!("/{path}"));
            let mut request = Vec::new();
            // The link says who may; a token would be none of its business.
            write_request(&mut request, &self.updating.server, "GET", &path, "", None);
            let answer = self.updating.lines.exchange(&request, Body::Count).await;
            return match answer {
                Ok(answer) if answer.status == 200 => Ok(answer.length),
                Ok(answer) => Err(format!("download answered with {}", answer.status)),
                Err(failure) => Err(format!("download: {}", failure.as_str())),
            };
        }
        let client = self.updating.server.http(None).map_err(|error| format!("download: {error}"))?;
        let mut answer = client.get(url).send().await.map_err(|_| "download: unreachable".to_owned())?;
        if answer.status().as_u16() != 200 {
            return Err(format!("download answered with {}", answer.status()));
        }
        let mut bytes = 0;
        while let Some(chunk) = answer.chunk().await.map_err(|_| "download: connection lost".to_owned())? {
            bytes += chunk.len() as u64;
        }
        Ok(bytes)
    }

    async fn send(&self, method: &str, path: &str, json: Option<&[u8]>, body: Body) -> Result<Answer, Failure> {
        let mut request = Vec::new();
        write_request(&mut request, &self.updating.server, method, path, &self.member.token, json);
        self.updating.lines.exchange(&request, body).await
    }
}

fn jitter(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.5..1.5))
}
