//! Requests of many devices over a few connections, at a rate or at saturation, and what became of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    Server,
    latency::Latency,
    line::{Answer, Body, Failure, Line},
    schedule::{Turn, Turns},
    server::source_of,
};

/// Pause of a sender whose hub cannot be reached.
const WHEN_UNREACHABLE: Duration = Duration::from_millis(100);

/// What is sent.
pub trait Traffic: Send + Sync + 'static {
    /// Writes the request of this number ([`crate::line::write_request`]).
    fn write(&self, number: u64, request: &mut Vec<u8>);

    /// It was answered.
    fn answered(&self, turn: Turn, answer: &Answer) {
        let _ = (turn, answer);
    }
}

/// What became of the requests so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// From when they were due to their answers.
    pub answer: Latency,
    /// From when they were due to when they were sent: how late the tester was, or how long a connection was not free.
    pub sent_late: Latency,
    sent: AtomicU64,
    succeeded: AtomicU64,
    outcomes: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Requests that were sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Requests that were answered with a status from 200 to 299.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Relaxed)
    }

    /// How many requests ended how: by status, or by the kind of failure.
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those of them that did not end well.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.outcomes().into_iter().filter(|(outcome, _)| !outcome.starts_with('2')).collect()
    }

    fn count(&self, outcome: &Result<Answer, Failure>, due: Instant) {
        let name = match outcome {
            Ok(answer) => {
                self.answer.record(due.elapsed());
                if (200..300).contains(&answer.status) {
                    self.succeeded.fetch_add(1, Relaxed);
                }
                answer.status.to_string()
            }
            Err(failure) => failure.as_str().to_owned(),
        };
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }
}

/// Sends requests to a hub over so many connections until there are no more turns and the last one is answered.
///
/// # Errors
/// When a sender panics.
pub async fn drive(
    server: &Server,
    connections: usize,
    turns: &Arc<Turns>,
    traffic: &Arc<impl Traffic>,
    tally: &Arc<Tally>,
) -> anyhow::Result<()> {
    let senders: Vec<_> = (0..connections.max(1))
        .map(|number| {
            let line = Line::new(server, source_of(number, server.address()));
            tokio::spawn(send(line, turns.clone(), traffic.clone(), tally.clone()))
        })
        .collect();
    for sender in senders {
        sender.await.context("a sender panicked")?;
    }
    Ok(())
}

async fn send(mut line: Line, turns: Arc<Turns>, traffic: Arc<impl Traffic>, tally: Arc<Tally>) {
    let mut request = Vec::new();
    while let Some(turn) = turns.next().await {
        traffic.write(turn.number, &mut request);
        tally.sent_late.record(turn.due.elapsed());
        tally.sent.fetch_add(1, Relaxed);
        let outcome = line.exchange(&request, Body::Keep).await;
        tally.count(&outcome, turn.due);
        match outcome {
            Ok(answer) => traffic.answered(turn, &answer),
            // A hub that is gone is not asked as fast as a processor can.
            Err(Failure::Unreachable) => tokio::time::sleep(WHEN_UNREACHABLE).await,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::line::write_request;

    struct Asking(Server);

    impl Traffic for Asking {
        fn write(&self, _: u64, request: &mut Vec<u8>) {
            write_request(request, &self.0, "GET", "/", "", None);
        }
    }

    /// A server that takes a request from every connection at once and answers after `delay`; the one with this number
    /// after `stall`.
    async fn slow(delay: Duration, stalls_at: u64, stall: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = Arc::new(AtomicU64::new(0));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        let is_stalling = served.fetch_add(1, Relaxed) == stalls_at;
                        tokio::time::sleep(if is_stalling { stall } else { delay }).await;
                        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Server::at(&format!("http://{address}")).await.expect("a server")
    }

    #[tokio::test]
    async fn the_latency_of_a_server_with_a_known_delay_is_that_delay() {
        let (delay, nobody) = (Duration::from_millis(50), u64::MAX);
        let server = slow(delay, nobody, delay).await;
        let (turns, tally) = (Turns::at_rate(100.0, Duration::from_secs(1)), Arc::<Tally>::default());

        drive(&server, 32, &turns, &Arc::new(Asking(server.clone())), &tally).await.expect("a run");

        let answer = tally.answer.report().expect("answers").percentiles;
        assert_eq!((answer.samples, tally.succeeded()), (100, 100));
        assert_eq!(tally.outcomes(), BTreeMap::from([("204".to_owned(), 100)]));
        // Nothing is faster than the delay; how much slower the middle may be depends on the machine, so the bound is wide.
        assert!((49_900..90_000).contains(&answer.p50_us), "{answer}");
    }

    #[tokio::test]
    async fn who_waits_behind_a_stall_is_counted_from_when_it_was_due() {
        let stall = Duration::from_millis(500);
        let server = slow(Duration::ZERO, 10, stall).await;
        let (turns, tally) = (Turns::at_rate(100.0, Duration::from_secs(1)), Arc::<Tally>::default());

        // One connection: everything behind the stalled request waits.
        drive(&server, 1, &turns, &Arc::new(Asking(server.clone())), &tally).await.expect("a run");

        let answer = tally.answer.report().expect("answers").percentiles;
        // Fifty requests were due within the stall, one of them would have shown it if counted from when it was sent.
        assert!(answer.samples == 100 && answer.max_us >= 499_000, "{answer}");
        assert!(answer.p90_us >= 390_000, "{answer}");
        assert!(tally.sent_late.report().expect("lateness").percentiles.p90_us >= 390_000);
    }

    #[tokio::test]
    async fn a_hub_that_is_away_is_an_outcome() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let server = Server::at(&format!("http://{address}")).await.expect("a server");
        let (turns, tally) = (Turns::at_rate(100.0, Duration::from_millis(30)), Arc::<Tally>::default());

        drive(&server, 3, &turns, &Arc::new(Asking(server.clone())), &tally).await.expect("a run");

        assert_eq!(tally.errors(), BTreeMap::from([("unreachable".to_owned(), 3)]));
        assert_eq!((tally.succeeded(), tally.answer.report()), (0, None));
    }
}
