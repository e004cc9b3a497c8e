//! Removes what has run out: tokens that expired, and what happened longer ago than is remembered.
//!
//! Nothing depends on it being on time, since every reader checks the expiry itself; it keeps the tables small.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use futures_util::future::BoxFuture;
use storage::{JobState, SessionId, Storage, StorageError, Timestamp, clock};
use tracing::{debug, warn};

use crate::artifacts::Artifacts;
use crate::config::Retention;
use crate::supervisor::{Alive, Crash};

/// How often expired rows are removed.
const SWEEP_EXPIRED_TOKENS: Duration = Duration::from_hours(1);

/// How often old connections and sessions are removed.
const SWEEP_HISTORY: Duration = Duration::from_hours(1);

/// How often old events are removed, or more often if they are kept for less.
const SWEEP_EVENTS: Duration = Duration::from_mins(5);

/// How often uploads are looked at that nobody works on.
const SWEEP_UPLOADS: Duration = Duration::from_secs(30);

/// Sessions removed at once, with their recordings.
const SESSIONS_AT_ONCE: u32 = 100;

/// Jobs that were given up or called off, of which the oldest go first: who is to look at more?
const JOBS_TO_LOOK_AT: u32 = 100_000;

/// Removes the recordings of these sessions, as far as there are any.
pub type RemoveRecordings = Arc<dyn Fn(Vec<SessionId>) -> BoxFuture<'static, Result<(), StorageError>> + Send + Sync>;

/// The service that removes what has run out.
pub struct Housekeeping {
    storage: Storage,
    retention: Retention,
    remove_recordings: RemoveRecordings,
    artifacts: Artifacts,
    /// Of sweeps that may take long, one runs at a time.
    is_sweeping: bool,
    is_sweeping_uploads: bool,
    _alive: Alive,
}

impl Housekeeping {
    /// Keeps the tables of `storage` small.
    pub fn new(
        storage: Storage,
        retention: Retention,
        remove_recordings: RemoveRecordings,
        artifacts: Artifacts,
        alive: Alive,
    ) -> Self {
        Self {
            storage,
            retention,
            remove_recordings,
            artifacts,
            is_sweeping: false,
            is_sweeping_uploads: false,
            _alive: alive,
        }
    }

    fn sweep_uploads(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_sweeping_uploads, true) {
            return;
        }
        let artifacts = self.artifacts.clone();
        let swept = async move { artifacts.clean(clock::now()).await };
        ctx.spawn(swept.into_actor(self).map(|swept, this, _| {
            this.is_sweeping_uploads = false;
            match swept {
                Ok(cleaned) => debug!(?cleaned, "looked after uploads"),
                Err(error) => warn!(%error, "uploads were not looked after and will be next time"),
            }
        }));
    }

    fn sweep_expired_tokens(&mut self, ctx: &mut Context<Self>) {
        let (devices, users) = (self.storage.devices.clone(), self.storage.users.clone());
        let swept = async move {
            let now = clock::now();
            Ok::<_, StorageError>((devices.remove_expired_tokens(now).await?, users.remove_expired_tokens(now).await?))
        };
        ctx.spawn(swept.into_actor(self).map(|swept, _, _| match swept {
            Ok((devices, users)) => debug!(devices, users, "removed expired tokens"),
            Err(error) => warn!(%error, "expired tokens were not removed and will be next time"),
        }));
    }

    fn sweep_events(&mut self, ctx: &mut Context<Self>) {
        let (events, before) = (self.storage.events.clone(), ago(self.retention.events, clock::now()));
        ctx.spawn(async move { events.expire(before).await }.into_actor(self).map(|swept, _, _| match swept {
            Ok(events) => debug!(events, "removed old events"),
            Err(error) => warn!(%error, "old events were not removed and will be next time"),
        }));
    }

    fn sweep_history(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_sweeping, true) {
            return;
        }
        let swept = sweep_history(
            self.storage.clone(),
            self.retention.clone(),
            Arc::clone(&self.remove_recordings),
            clock::now(),
        );
        ctx.spawn(swept.into_actor(self).map(|swept, this, _| {
            this.is_sweeping = false;
            if let Err(error) = swept {
                warn!(%error, "old connections and sessions were not removed and will be next time");
            }
        }));
    }
}

async fn sweep_history(
    storage: Storage,
    retention: Retention,
    remove_recordings: RemoveRecordings,
    now: Timestamp,
) -> Result<(), StorageError> {
    let before = ago(retention.connections, now);
    let connections = storage.connections.expire_history(before, retention.connections_per_device).await?;
    let mut sessions = 0;
    loop {
        let expired = storage.sessions.expired(ago(retention.sessions, now), SESSIONS_AT_ONCE).await?;
        if expired.is_empty() {
            break;
        }
        // The row goes last: without it nobody would know of the recording.
        remove_recordings(expired.clone()).await?;
        sessions += storage.sessions.remove(&expired).await?;
    }
    let jobs = sweep_jobs(&storage, &retention, now).await?;
    let alerts = storage.alerts.expire(ago(retention.alerts, now)).await?;
    let audit = storage.audit.expire(ago(retention.audit, now)).await?;
    debug!(connections, sessions, jobs, alerts, audit, "removed old connections, sessions, jobs and alerts");
    Ok(())
}

async fn sweep_jobs(storage: &Storage, retention: &Retention, now: Timestamp) -> Result<u64, StorageError> {
    let mut removed = storage.jobs.expire(JobState::Done, ago(retention.jobs, now)).await?;
    for state in [JobState::Dead, JobState::Cancelled] {
        removed += storage.jobs.expire(state, ago(retention.dead_jobs, now)).await?;
        removed += storage.jobs.trim(state, JOBS_TO_LOOK_AT).await?;
    }
    Ok(removed)
}

fn ago(age: Duration, now: Timestamp) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)))
}

/// Forgets everything that is known about connections and sessions, recordings and events included. (Mender API: device
/// connect, internal, removal of a tenant.)
///
/// # Errors
/// When the database or the object store cannot be reached; some may be forgotten then, and doing it again is safe.
pub async fn forget_everything(storage: &Storage, remove_recordings: &RemoveRecordings) -> Result<(), StorageError> {
    loop {
        let (sessions, _) = storage.sessions.list(&storage::SessionFilter::default(), 0, SESSIONS_AT_ONCE).await?;
        if sessions.is_empty() {
            break;
        }
        let ids: Vec<SessionId> = sessions.into_iter().map(|session| session.id).collect();
        remove_recordings(ids.clone()).await?;
        storage.sessions.forget(&ids).await?;
    }
    storage.connections.clear().await?;
    storage.events.expire(Timestamp(i64::MAX)).await?;
    Ok(())
}

impl Actor for Housekeeping {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.sweep_expired_tokens(ctx);
        ctx.run_interval(SWEEP_EXPIRED_TOKENS, Self::sweep_expired_tokens);
        self.sweep_history(ctx);
        ctx.run_interval(SWEEP_HISTORY, Self::sweep_history);
        self.sweep_events(ctx);
        self.sweep_uploads(ctx);
        ctx.run_interval(SWEEP_UPLOADS, Self::sweep_uploads);
        ctx.run_interval(SWEEP_EVENTS.min(self.retention.events), Self::sweep_events);
    }
}

impl Handler<Crash> for Housekeeping {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}

#[cfg(test)]
mod tests {
    use storage::{ConnectionChange, DeviceId, Epoch, NodeId};

    use super::*;

    #[actix::test]
    async fn the_log_of_connections_has_an_age_and_a_length() {
        let storage = Storage::open(&storage::Config::in_memory()).await.unwrap();
        let (connections, now, retention) = (storage.connections.clone(), clock::now(), Retention::default());
        let past = |device, epoch: i64, age: Duration| {
            let began = ConnectionChange {
                device,
                node: NodeId::random(),
                epoch: Epoch(epoch),
                connected: true,
                at: ago(age, now),
                reason: None,
                address: None,
                bytes_in: 0,
                bytes_out: 0,
                round_trip: None,
            };
            [began, ConnectionChange { connected: false, reason: Some("silent"), ..began }]
        };
        let (restless, old) = (DeviceId::random(), DeviceId::random());
        for device in [restless, old] {
            connections.provision(device, now).await.unwrap();
        }
        let limit = i64::from(retention.connections_per_device);
        let mut changes: Vec<_> = (0..limit + 5).flat_map(|epoch| past(restless, epoch + 1, Duration::ZERO)).collect();
        changes.extend(past(old, 1, retention.connections + Duration::from_secs(1)));
        changes.extend(past(old, 2, retention.connections / 2));
        connections.record(&changes).await.unwrap();

        let no_recordings: RemoveRecordings = Arc::new(|_| Box::pin(async { Ok(()) }));
        sweep_history(storage, retention.clone(), no_recordings, now).await.unwrap();
        let left = connections.history(restless, 1000).await.unwrap();
        assert_eq!(left.len(), usize::try_from(limit).unwrap());
        assert_eq!(left[0].epoch, Epoch(limit + 5));
        let left = connections.history(old, 1000).await.unwrap();
        assert_eq!(left.iter().map(|past| past.epoch).collect::<Vec<_>>(), [Epoch(2)]);
    }
}
