//! Removes what has run out: rows of tokens that expired.
//!
//! Nothing depends on it being on time, since every reader checks the expiry itself; it keeps the tables small.

use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use storage::{Devices, StorageError, Users, clock};
use tracing::{debug, warn};

use crate::supervisor::{Alive, Crash};

/// How often expired rows are removed.
const SWEEP_EXPIRED_TOKENS: Duration = Duration::from_hours(1);

/// The service that removes what has run out.
pub struct Housekeeping {
    devices: Devices,
    users: Users,
    _alive: Alive,
}

impl Housekeeping {
    /// Keeps these tables small.
    pub fn new(devices: Devices, users: Users, alive: Alive) -> Self {
        Self { devices, users, _alive: alive }
    }

    fn sweep_expired_tokens(&mut self, ctx: &mut Context<Self>) {
        let (devices, users) = (self.devices.clone(), self.users.clone());
        let swept = async move {
            let now = clock::now();
            Ok::<_, StorageError>((devices.remove_expired_tokens(now).await?, users.remove_expired_tokens(now).await?))
        };
        ctx.spawn(swept.into_actor(self).map(|swept, _, _| match swept {
            Ok((devices, users)) => debug!(devices, users, "removed expired tokens"),
            Err(error) => warn!(%error, "expired tokens were not removed and will be next time"),
        }));
    }
}

impl Actor for Housekeeping {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.sweep_expired_tokens(ctx);
        ctx.run_interval(SWEEP_EXPIRED_TOKENS, Self::sweep_expired_tokens);
    }
}

impl Handler<Crash> for Housekeeping {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}
