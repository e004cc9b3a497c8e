//! Hands devices what they have to do next, and says of most of them from memory that there is nothing.
//!
//! What is remembered is which devices may have work: never fewer than storage has, so who is not among them need not be
//! looked up. Storage says who has work after all, and those that it knows nothing for are forgotten here. Memory grows by
//! what this node or another does (an event says so), and, should that go unheard, by a look at storage every few seconds.
//! When the service dies nothing is lost: until it has read everything again, storage is asked about every device.

mod making;
mod phasing;
mod waking;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ArbiterHandle, AsyncContext, Context, Handler, WrapFuture};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use storage::deployments::StateReported;
use storage::inventory::filter::{BadFilter, Condition, Filter, Grammar};
use storage::inventory::search::Search;
use storage::{
    Abortion, DeploymentId, Deployments, DeviceId, DeviceState, GoingOn, Inventory, Offer, Poll, StateReport, Steered,
    Storage, StorageError, clock,
};
use tokio::sync::{Mutex as TurnMutex, Notify, Semaphore};
use tracing::{debug, info, warn};

use crate::bus::{Bus, Event};
use crate::supervisor::{Alive, Crash, Service};
use crate::wake_up::WakeUps;

pub use making::{Chosen, MakeError, Wish, terms_for_all};
pub use phasing::{BadPhases, Size, WishedPhase};

/// How often storage is looked at for deployments that nobody told this node of.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Devices read at a time.
const PAGE: u32 = 5_000;

/// As many devices at a time are looked up or written down: those of one deployment wait for one another, and must leave
/// connections to the database for everybody else.
const AT_ONCE: usize = 5;

/// A device asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asking {
    /// What it says it runs.
    pub artifact_name: String,
    /// What it says it is.
    pub device_type: String,
    /// What it says it has beyond that, if it says so.
    pub provides: Option<std::collections::BTreeMap<String, String>>,
}

/// A filter by which a deployment goes.
#[derive(Debug, Clone)]
struct ByFilter {
    deployment: DeploymentId,
    filter: Filter,
}

/// A deployment whose devices are remembered.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// How often it had been opened to more devices.
    openings: i64,
    has_more_phases: bool,
}

/// What is remembered.
#[derive(Debug, Default)]
struct Memory {
    /// Whether it holds all that storage does. Until then it says nothing.
    is_whole: bool,
    /// With each device the generation in which it came in last.
    busy: HashMap<DeviceId, u64>,
    by_filter: Vec<ByFilter>,
    /// The deployments whose devices are in it.
    going_on: HashMap<DeploymentId, Seen>,
    /// Grows whenever something may have gone unheard.
    doubts: u64,
    /// How often other nodes told of a deployment, and how many of these are in it. A device that was woken for one asks
    /// at once, maybe here, and is looked up until that is read.
    told: u64,
    read: u64,
    /// Grows whenever devices come in, so that who looked before that forgets none of them.
    generation: u64,
}

impl Memory {
    /// Whether a device need not be looked up.
    fn is_idle(&self, device: DeviceId) -> bool {
        self.is_whole && self.told == self.read && self.by_filter.is_empty() && !self.busy.contains_key(&device)
    }

    fn take_in(&mut self, devices: impl IntoIterator<Item = DeviceId>) {
        self.generation += 1;
        self.busy.extend(devices.into_iter().map(|device| (device, self.generation)));
    }

    /// Forgets a device that storage knew nothing for, unless it came in again since that was asked.
    fn forget(&mut self, device: DeviceId, generation: u64) {
        if self.busy.get(&device).is_some_and(|came| *came <= generation) {
            self.busy.remove(&device);
        }
    }
}

/// Deployments of a hub, for those who make them and those who go through them. Cloning is cheap.
#[derive(Clone)]
pub struct Rollout(Arc<Shared>);

struct Shared {
    deployments: Deployments,
    inventory: Inventory,
    bus: Bus,
    memory: Mutex<Memory>,
    /// Whoever looks at storage.
    turn: TurnMutex<()>,
    wake: Notify,
    devices_at_once: Semaphore,
    wake_ups: WakeUps,
}

impl Rollout {
    /// Deployments in `storage`, of which the nodes on `bus` tell one another.
    pub fn new(storage: &Storage, bus: Bus) -> Self {
        Self(Arc::new(Shared {
            deployments: storage.deployments.clone(),
            inventory: storage.inventory.clone(),
            bus,
            memory: Mutex::default(),
            turn: TurnMutex::default(),
            wake: Notify::new(),
            devices_at_once: Semaphore::new(AT_ONCE),
            wake_ups: WakeUps::default(),
        }))
    }

    /// The same, with the service that keeps its memory whole.
    pub fn start(storage: &Storage, bus: Bus, arbiter: &ArbiterHandle) -> (Self, Service<RolloutWatcher>) {
        let rollout = Self::new(storage, bus);
        let kept = rollout.clone();
        let service = Service::start("rollout", arbiter, move |alive| RolloutWatcher::new(kept.clone(), alive));
        (rollout, service)
    }

    /// What a device has to do now.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`; never for a device that has nothing to do and is known not to.
    pub async fn next(&self, device: DeviceId, asking: &Asking) -> Result<Offer, StorageError> {
        let (generation, by_filter) = {
            let memory = self.0.memory.lock();
            if memory.is_idle(device) {
                return Ok(Offer::Nothing);
            }
            (memory.generation, memory.by_filter.clone())
        };
        let mut passes = Vec::new();
        for ByFilter { deployment, filter } in by_filter {
            let search = Search { filter, devices: Some(vec![device]), ..Search::default() };
            if self.0.inventory.search(&search).await?.total > 0 {
                passes.push(deployment);
            }
        }
        let poll = Poll {
            device,
            artifact_name: &asking.artifact_name,
            device_type: &asking.device_type,
            provides: asking.provides.as_ref().map(hash),
            passes: &passes,
            at: clock::now(),
        };
        let permit = self.0.devices_at_once.acquire().await;
        let offer = self.0.deployments.offer(poll).await?;
        drop(permit);
        let mut memory = self.0.memory.lock();
        match offer {
            Offer::Nothing => memory.forget(device, generation),
            // Also what it came to by a filter is its own from now on.
            Offer::Artifact(..) | Offer::Configuration(_) | Offer::Settled | Offer::Contradiction => {
                memory.take_in([device]);
            }
        }
        Ok(offer)
    }

    /// Writes down how far a device is.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn report(
        &self,
        deployment: DeploymentId,
        device: DeviceId,
        state: DeviceState,
        substate: &str,
    ) -> Result<StateReported, StorageError> {
        let report = StateReport { state, substate, at: clock::now() };
        let permit = self.0.devices_at_once.acquire().await;
        let reported = self.0.deployments.report(deployment, device, report).await?;
        drop(permit);
        if reported == StateReported::Written {
            let mut memory = self.0.memory.lock();
            // After what is over something newer may come; and what was over may go on.
            memory.take_in([device]);
            // It may have been the last of its phase.
            if !state.is_active() && memory.going_on.get(&deployment).is_some_and(|seen| seen.has_more_phases) {
                self.0.wake.notify_one();
            }
        }
        Ok(reported)
    }

    /// Lets a deployment tell no device anything new; devices that are at it go on.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn pause(&self, deployment: DeploymentId, why: &str) -> Result<Steered, StorageError> {
        self.0.deployments.pause(deployment, why, clock::now()).await
    }

    /// Lets a paused deployment go on: its devices find it on this node from then on, and on others once they have heard.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn resume(&self, deployment: DeploymentId) -> Result<Steered, StorageError> {
        let steered = self.0.deployments.resume(deployment, clock::now()).await?;
        if steered == Steered::Done {
            self.publish().await;
            self.wake_whoever_waits(deployment).await;
        }
        Ok(steered)
    }

    /// Ends a deployment.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn abort(&self, deployment: DeploymentId) -> Result<Abortion, StorageError> {
        self.0.deployments.abort(deployment, clock::now()).await
    }

    /// Ends everything that a device is at, or is still to be told of.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn abort_device(&self, device: &str) -> Result<(), StorageError> {
        self.0.deployments.abort_device(device, clock::now()).await
    }

    /// The same for a device that is removed.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn decommission(&self, device: &str) -> Result<(), StorageError> {
        self.0.deployments.decommission(device, clock::now()).await
    }

    /// Lets a device forget what it went through, so that it may be told of it again.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn delete_history(&self, device: &str) -> Result<(), StorageError> {
        let is_known = self.0.deployments.delete_history(device, clock::now()).await?;
        // Memory holds nobody whom storage does not know, however many are asked about.
        if is_known && let Ok(device) = device.parse::<DeviceId>() {
            self.0.memory.lock().take_in([device]);
            self.tell(&Event::DeviceMayHaveWork { device });
        }
        Ok(())
    }

    /// There is work for some devices since just now, of which other nodes are told, too.
    pub(crate) fn hear_of_devices(&self, devices: impl IntoIterator<Item = DeviceId>) {
        for device in devices {
            self.0.memory.lock().take_in([device]);
            self.tell(&Event::DeviceMayHaveWork { device });
        }
    }

    /// Another node knows of work for a device.
    pub fn hear_of(&self, device: DeviceId) {
        self.0.memory.lock().take_in([device]);
    }

    /// Another node has made a deployment.
    pub fn hear_of_deployments(&self) {
        self.0.memory.lock().told += 1;
        self.0.wake.notify_one();
    }

    /// Something may have gone unheard: storage is asked about every device until all is read again.
    pub fn doubt(&self) {
        let mut memory = self.0.memory.lock();
        memory.is_whole = false;
        memory.doubts += 1;
        self.0.wake.notify_one();
    }

    fn tell(&self, event: &Event) {
        if let Err(error) = self.0.bus.announce(event) {
            debug!(%error, "other nodes were not told of a deployment and look by themselves");
        }
    }

    /// Pauses what goes wrong, opens the phases whose turn it is, and takes in whom they are for.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    async fn go_on(&self) -> Result<(), StorageError> {
        let now = clock::now();
        for deployment in self.0.deployments.watch(now).await? {
            info!(%deployment, "a deployment has paused itself");
        }
        let opened = self.0.deployments.open_due(now).await?;
        self.look().await?;
        if !opened.is_empty() {
            self.tell(&Event::DeploymentMade);
        }
        for deployment in opened {
            self.wake_whoever_waits(deployment).await;
        }
        Ok(())
    }

    /// Takes in what storage has and memory has not: everything, if memory is not whole.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Memory holds what it did then.
    async fn look(&self) -> Result<(), StorageError> {
        let _turn = self.0.turn.lock().await;
        let (was_whole, doubts, told, seen, mut were_by_filter) = {
            let memory = self.0.memory.lock();
            let by_filter: HashSet<DeploymentId> = memory.by_filter.iter().map(|one| one.deployment).collect();
            let seen = if memory.is_whole { memory.going_on.clone() } else { HashMap::new() };
            (memory.is_whole, memory.doubts, memory.told, seen, by_filter)
        };
        let going_on = self.0.deployments.going_on().await?;
        let mut by_filter = Vec::new();
        for GoingOn { id, terms, openings, is_open, .. } in &going_on {
            if let Some(terms) = terms.as_ref().filter(|_| *is_open) {
                were_by_filter.remove(id);
                match read_filter(terms) {
                    Ok(filter) => by_filter.push(ByFilter { deployment: *id, filter }),
                    Err(error) => warn!(%error, deployment = %id, "the filter of a deployment cannot be read"),
                }
            }
            if seen.get(id).is_none_or(|seen| seen.openings != *openings) {
                self.take_in_pages(async |after| self.0.deployments.devices_with_work(*id, after, PAGE).await).await?;
            }
        }
        // Who is at one that tells nobody anything new any more may finish it.
        let mut left = were_by_filter;
        if !was_whole {
            left.extend(self.0.deployments.with_devices_behind().await?);
        }
        for id in left {
            self.take_in_pages(async |after| self.0.deployments.devices_with_work(id, after, PAGE).await).await?;
        }
        let mut memory = self.0.memory.lock();
        memory.by_filter = by_filter;
        memory.read = told;
        let seen = |one: &GoingOn| Seen { openings: one.openings, has_more_phases: one.has_more_phases };
        memory.going_on = going_on.iter().map(|one| (one.id, seen(one))).collect();
        // Who doubted meanwhile has this read everything once more.
        memory.is_whole = memory.doubts == doubts;
        Ok(())
    }

    async fn take_in_pages(
        &self,
        read: impl AsyncFn(&str) -> Result<Vec<String>, StorageError>,
    ) -> Result<(), StorageError> {
        let mut after = String::new();
        loop {
            let page = read(&after).await?;
            let is_last = page.len() < PAGE as usize;
            // What is no id is no device that could ask.
            self.0.memory.lock().take_in(page.iter().filter_map(|device| device.parse().ok()));
            match page.into_iter().next_back() {
                Some(last) if !is_last => after = last,
                _ => return Ok(()),
            }
        }
    }
}

/// A condition as the API of the inventory has it.
#[derive(Debug, Deserialize)]
struct Term {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    attribute: String,
    #[serde(default, rename = "type")]
    operator: String,
    #[serde(default)]
    value: Value,
}

fn read_filter(terms: &str) -> Result<Filter, BadFilter> {
    let terms: Vec<Term> = serde_json::from_str(terms).map_err(|error| BadFilter(error.to_string()))?;
    Filter::of_each(
        terms.iter().map(|term| {
            Condition::parse(Grammar::Inventory, &term.scope, &term.attribute, &term.operator, &term.value)
        }),
    )
}

fn hash(provides: &std::collections::BTreeMap<String, String>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (name, value) in provides {
        // Each with its length, so that no two maps read alike.
        for text in [name, value] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
    hash.finalize().into()
}

/// The service that keeps the memory whole.
pub struct RolloutWatcher {
    rollout: Rollout,
    _alive: Alive,
}

impl RolloutWatcher {
    /// Keeps the memory of `rollout`.
    pub fn new(rollout: Rollout, alive: Alive) -> Self {
        Self { rollout, _alive: alive }
    }
}

impl Actor for RolloutWatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let rollout = self.rollout.clone();
        // Whoever was here before may have died half-way.
        rollout.doubt();
        let watching = async move {
            loop {
                if let Err(error) = rollout.go_on().await {
                    warn!(%error, "deployments cannot be looked at and will be later");
                }
                // Either way it is time to look again.
                let _ = tokio::time::timeout(LOOK_EVERY, rollout.0.wake.notified()).await;
            }
        };
        ctx.spawn(watching.into_actor(self));
    }
}

impl Handler<Crash> for RolloutWatcher {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

#[cfg(test)]
mod tests;
