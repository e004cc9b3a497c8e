//! Restarts a service that ends for any reason, with back-off.
//!
//! The framework's own supervisor revives an actor that stops, but after a panic its mailbox is closed for good. Here the
//! actor holds an [`Alive`], which notices both; callers keep a [`Service`] and ask it for the current address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::{Actor, Addr, ArbiterHandle, Context, Message};
use parking_lot::RwLock;
use tokio::sync::oneshot;
use tracing::error;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A service that ran this long has recovered: its next restart is quick again.
const RECOVERED_AFTER: Duration = Duration::from_mins(1);

/// Held by a service's actor; its end is the actor's end.
pub struct Alive(#[expect(dead_code, reason = "its drop is the signal")] oneshot::Sender<()>);

/// Die by a panic. Every service takes it; only tests of the supervision send it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Crash;

/// A supervised actor. Clones refer to the same one.
pub struct Service<A: Actor<Context = Context<A>>> {
    name: &'static str,
    current: Arc<RwLock<Option<Addr<A>>>>,
    restarts: Arc<AtomicU64>,
    retired: Arc<AtomicBool>,
}

impl<A: Actor<Context = Context<A>>> Clone for Service<A> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            current: Arc::clone(&self.current),
            restarts: Arc::clone(&self.restarts),
            retired: Arc::clone(&self.retired),
        }
    }
}

impl<A: Actor<Context = Context<A>>> Service<A> {
    /// Starts the actor that `make` builds on `arbiter`, and again whenever it ends.
    pub fn start(name: &'static str, arbiter: &ArbiterHandle, make: impl Fn(Alive) -> A + Send + 'static) -> Self {
        let service = Self { name, current: Arc::default(), restarts: Arc::default(), retired: Arc::default() };
        let watched = service.clone();
        arbiter.spawn(async move {
            let mut pause = FIRST_PAUSE;
            while !watched.retired.load(Ordering::Acquire) {
                let (alive, ended) = oneshot::channel();
                let started = Instant::now();
                *watched.current.write() = Some(make(Alive(alive)).start());
                // An error is the signal: the sender was dropped with the actor.
                let _ = ended.await;
                if watched.retired.load(Ordering::Acquire) {
                    break;
                }
                watched.restarts.fetch_add(1, Ordering::Relaxed);
                metrics::counter!(crate::metrics::RESTARTS, "service" => name).increment(1);
                error!(service = name, "a service ended and is restarted");
                pause = if started.elapsed() > RECOVERED_AFTER { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                tokio::time::sleep(pause).await;
            }
        });
        service
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The actor that runs now, or that ran last: ask again for each message.
    pub fn address(&self) -> Option<Addr<A>> {
        self.current.read().clone()
    }

    /// How often it had to be restarted.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// It is not started again when it ends from now on.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// What an actor holds, and who notices when it ends.
    pub(crate) fn alive() -> (Alive, oneshot::Receiver<()>) {
        let (alive, ended) = oneshot::channel();
        (Alive(alive), ended)
    }
}

#[cfg(test)]
mod tests {
    use actix::{Arbiter, Handler};

    use super::*;

    struct Fragile {
        _alive: Alive,
    }

    #[derive(Message)]
    #[rtype(result = "u8")]
    struct Ask;

    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    impl Handler<Crash> for Fragile {
        type Result = ();
        fn handle(&mut self, _: Crash, _: &mut Self::Context) {
            panic!("as asked");
        }
    }

    impl Handler<Ask> for Fragile {
        type Result = u8;
        fn handle(&mut self, _: Ask, _: &mut Self::Context) -> u8 {
            7
        }
    }

    async fn answer(service: &Service<Fragile>) -> u8 {
        let asking = async {
            loop {
                if let Some(address) = service.address()
                    && let Ok(answer) = address.send(Ask).await
                {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), asking).await.expect("the service answers again")
    }

    #[actix::test]
    async fn a_service_is_back_after_a_panic() {
        let service = Service::start("fragile", &Arbiter::current(), |alive| Fragile { _alive: alive });
        assert_eq!(answer(&service).await, 7);
        for crashes in 1..=2 {
            service.address().unwrap().do_send(Crash);
            while service.restarts() < crashes {
                tokio::task::yield_now().await;
            }
            assert_eq!(answer(&service).await, 7);
        }
    }
}
