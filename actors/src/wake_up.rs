//! Tells devices that there is something to install, a few of them at a time.
//!
//! A device that is told asks at once, and then fetches its artifact: so how fast devices are told is how fast the object
//! store is asked. Whoever is not told, because it is not connected, too many wait, or this node dies, finds what there is
//! when it asks by itself.
//!
//! Several lots of devices wait beside one another and take turns, so that one device needs not wait for a fleet.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ArbiterHandle, AsyncContext, Context, Handler, WrapFuture};
use parking_lot::Mutex;
use storage::DeviceId;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::debug;

use crate::reach::Reach;
use crate::supervisor::{Alive, Crash, Service};
use crate::trigger::{Asker, Command, TriggerError, Triggers};

/// Devices that may wait. At the pace that is the default the last of them would wait longer than clients do between two
/// questions of their own.
pub(crate) const WAITING_LIMIT: usize = 100_000;

/// Devices that are being told at once: each may be on a node that does not answer.
const AT_ONCE: usize = 64;

/// Timers are coarse. What they take too long is made good up to this.
const ARREARS: Duration = Duration::from_millis(20);

/// Devices that are to be told, on whosever behalf. Cloning is cheap; all clones share one queue.
#[derive(Debug, Clone, Default)]
pub struct WakeUps(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    came: Notify,
}

impl WakeUps {
    /// Starts the service that tells them, so many each second.
    pub fn start(
        &self,
        triggers: &Triggers,
        reach: &Reach,
        per_second: u32,
        arbiter: &ArbiterHandle,
    ) -> Service<WakeUpCaller> {
        let (wake_ups, triggers, reach) = (self.clone(), triggers.clone(), reach.clone());
        Service::start("wake_up_caller", arbiter, move |alive| WakeUpCaller {
            wake_ups: wake_ups.clone(),
            triggers: triggers.clone(),
            reach: reach.clone(),
            per_second,
            _alive: alive,
        })
    }

    /// Has devices told, those of them that are connected, to whatever node. What is more than may wait is passed over.
    pub fn nudge(&self, devices: impl IntoIterator<Item = DeviceId>, asker: Asker) {
        let passed_over = self.0.queue.lock().put(devices, asker);
        if passed_over > 0 {
            metrics::counter!(crate::metrics::WAKE_UPS_DROPPED).increment(passed_over as u64);
            debug!(devices = passed_over, "devices are not told of a deployment, because too many are to be told");
        }
        self.0.came.notify_one();
    }

    /// Who waits, in no order.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> Vec<DeviceId> {
        self.0.queue.lock().lots.iter().flat_map(|lot| lot.devices.iter().copied()).collect()
    }

    /// The next one, once there is one.
    async fn next(&self) -> (DeviceId, Asker) {
        loop {
            if let Some(next) = self.0.queue.lock().take() {
                return next;
            }
            self.0.came.notified().await;
        }
    }
}

/// Lots of devices that take turns.
#[derive(Debug, Default)]
struct Queue {
    lots: VecDeque<Lot>,
    waiting: usize,
}

#[derive(Debug)]
struct Lot {
    asker: Asker,
    devices: VecDeque<DeviceId>,
}

impl Queue {
    /// Adds a lot; says how many of it found no room.
    fn put(&mut self, devices: impl IntoIterator<Item = DeviceId>, asker: Asker) -> usize {
        let mut devices = devices.into_iter();
        let taken: VecDeque<DeviceId> = devices.by_ref().take(WAITING_LIMIT - self.waiting).collect();
        if !taken.is_empty() {
            self.waiting += taken.len();
            self.lots.push_back(Lot { asker, devices: taken });
        }
        devices.count()
    }

    /// The next device of the lot whose turn it is.
    fn take(&mut self) -> Option<(DeviceId, Asker)> {
        let mut lot = self.lots.pop_front()?;
        let device = lot.devices.pop_front()?;
        self.waiting -= 1;
        let asker = lot.asker.clone();
        if !lot.devices.is_empty() {
            self.lots.push_back(lot);
        }
        Some((device, asker))
    }
}

/// How fast devices are told.
#[derive(Debug)]
struct Pace {
    /// Between two of them; none are told without it.
    period: Option<Duration>,
    next: Option<Instant>,
}

impl Pace {
    /// So many; 0: none.
    fn per_second(devices: u32) -> Self {
        Self { period: Duration::from_secs(1).checked_div(devices), next: None }
    }

    /// When one who comes at `now` is to be told, after all who came before; `None`: not at all.
    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let period = self.period?;
        let earliest = now.checked_sub(ARREARS).unwrap_or(now);
        let turn = self.next.map_or(now, |next| next.max(earliest));
        self.next = Some(turn + period);
        Some(turn)
    }
}

/// The service that tells devices. Who waits is remembered outside of it, so nobody is lost when it dies but whom it was
/// just telling.
pub struct WakeUpCaller {
    wake_ups: WakeUps,
    triggers: Triggers,
    reach: Reach,
    per_second: u32,
    _alive: Alive,
}

impl Actor for WakeUpCaller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (wake_ups, triggers, reach) = (self.wake_ups.clone(), self.triggers.clone(), self.reach.clone());
        let mut pace = Pace::per_second(self.per_second);
        let calling = async move {
            let slots = Arc::new(Semaphore::new(AT_ONCE));
            loop {
                let (device, asker) = wake_ups.next().await;
                // Most of a fleet may be away: they take no time of those who are not.
                if !is_connected(&reach, device).await {
                    tokio::task::yield_now().await;
                    continue;
                }
                let Some(turn) = pace.turn(Instant::now()) else { continue };
                tokio::time::sleep_until(turn).await;
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                let triggers = triggers.clone();
                actix::spawn(async move {
                    tell(&triggers, device, asker).await;
                    drop(slot);
                });
            }
        };
        ctx.spawn(calling.into_actor(self));
    }
}

impl Handler<Crash> for WakeUpCaller {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

async fn is_connected(reach: &Reach, device: DeviceId) -> bool {
    reach
        .node_of(device)
        .await
        .unwrap_or_else(|error| {
            debug!(error = &error as &dyn Error, device.id = %device, "a device was not looked for to be told of work");
            None
        })
        .is_some()
}

async fn tell(triggers: &Triggers, device: DeviceId, asker: Asker) {
    match triggers.send(device, Command::CheckUpdate, asker).await {
        Ok(()) | Err(TriggerError::NotConnected) => {}
        Err(error) => debug!(error = &error as &dyn Error, device.id = %device, "a device was not told of work"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(count: usize) -> Vec<DeviceId> {
        (0..count).map(|_| DeviceId::random()).collect()
    }

    fn taken(queue: &mut Queue) -> Vec<DeviceId> {
        std::iter::from_fn(|| queue.take()).map(|(device, _)| device).collect()
    }

    #[test]
    fn lots_take_turns() {
        let mut queue = Queue::default();
        let (fleet, single) = (devices(3), devices(1));
        queue.put(fleet.clone(), Asker::Service);
        queue.put(single.clone(), Asker::Service);
        assert_eq!(taken(&mut queue), [fleet[0], single[0], fleet[1], fleet[2]]);
        assert_eq!(queue.waiting, 0);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut queue = Queue::default();
        assert_eq!(queue.put(devices(WAITING_LIMIT - 1), Asker::Service), 0);
        assert_eq!(queue.put(devices(3), Asker::Service), 2);
        assert_eq!(queue.put(devices(1), Asker::Service), 1);
        // Lots without anybody would grow without bound.
        assert_eq!((queue.waiting, queue.lots.len()), (WAITING_LIMIT, 2));
        assert_eq!(taken(&mut queue).len(), WAITING_LIMIT);
        assert_eq!(queue.put(devices(1), Asker::Service), 0);
    }

    #[test]
    fn devices_are_told_at_a_steady_pace() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::per_second(50);
        let turns: Vec<_> = (0..4).map(|_| pace.turn(at(0)).unwrap()).collect();
        assert_eq!(turns, [at(0), at(20), at(40), at(60)]);
        // A timer that came late is made good, a pause is not.
        assert_eq!(pace.turn(at(85)), Some(at(80)));
        assert_eq!(pace.turn(at(100)), Some(at(100)));
        assert_eq!(pace.turn(at(60_000)), Some(at(59_980)));
        assert_eq!(pace.turn(at(60_000)), Some(at(60_000)));
        assert_eq!(pace.turn(at(60_000)), Some(at(60_020)));
    }

    #[test]
    fn nobody_is_told_at_no_pace() {
        assert_eq!(Pace::per_second(0).turn(Instant::now()), None);
    }
}
