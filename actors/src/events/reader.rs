//! The service that keeps the newest events in memory.

use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, StreamHandler, WrapFuture};
use futures_util::stream;
use tracing::warn;

use super::EventTail;
use crate::supervisor::{Alive, Crash};

/// How long events of other nodes may go unnoticed; those of this node are noticed at once.
const LOOK_FOR_EVENTS: Duration = Duration::from_millis(250);

/// The service that reads new events while anybody listens.
pub struct EventReader {
    tail: EventTail,
    is_reading: bool,
    /// It will look soon.
    is_due: bool,
    /// There was a nudge while it read.
    once_more: bool,
    failures: u32,
    _alive: Alive,
}

impl EventReader {
    /// A reader for the listeners of `tail`.
    pub fn new(tail: EventTail, alive: Alive) -> Self {
        Self { tail, is_reading: false, is_due: false, once_more: false, failures: 0, _alive: alive }
    }

    fn read(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_reading, true) {
            self.once_more = true;
            return;
        }
        let tail = self.tail.clone();
        ctx.spawn(async move { tail.catch_up().await }.into_actor(self).map(|result, reader, ctx| {
            reader.is_reading = false;
            match result {
                Ok(()) => {
                    reader.failures = 0;
                    if std::mem::take(&mut reader.once_more) {
                        reader.read(ctx);
                    }
                }
                Err(error) => {
                    if reader.failures == 0 {
                        warn!(%error, "events cannot be read; whoever listens waits");
                    }
                    reader.failures += 1;
                }
            }
        }));
    }

    /// Looks every now and then while anybody listens: a nudge of another node may get lost. Who comes first nudges.
    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.tail.listener_count() > 0 && !std::mem::replace(&mut self.is_due, true) {
            ctx.run_later(LOOK_FOR_EVENTS, |reader, ctx| {
                reader.is_due = false;
                reader.read(ctx);
                reader.look(ctx);
            });
        }
    }
}

impl Actor for EventReader {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look(ctx);
        let tail = self.tail.clone();
        ctx.add_stream(stream::unfold(tail, |tail| async move {
            tail.0.nudge.notified().await;
            Some((Nudge, tail))
        }));
    }
}

/// Look for new events now.
struct Nudge;

impl StreamHandler<Nudge> for EventReader {
    fn handle(&mut self, _: Nudge, ctx: &mut Self::Context) {
        self.read(ctx);
        self.look(ctx);
    }
}

impl Handler<Crash> for EventReader {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}
