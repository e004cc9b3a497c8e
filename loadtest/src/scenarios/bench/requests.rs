//! Rows about polls, and about connections from the first byte to the open websocket.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Bench, Stage, as_f64, processor_us, rows};
use crate::{
    Server,
    bench_row::{Budget, Row},
    connection::lean_socket,
    roster::Member,
    scenarios::poll::Asking,
    server::{Socket, source_of},
};

/// Polls under way at the same time.
const POLLS_AT_ONCE: usize = 64;

/// Connections on their way in at the same time.
const CONNECTS_AT_ONCE: usize = 64;

/// What follows from a connection (its status is written in batches) has come by then.
const AFTERWARDS: Duration = Duration::from_secs(1);

impl Bench {
    pub(super) async fn measure_polls(&self, stage: &Stage) -> anyhow::Result<Vec<Row>> {
        let to_hub = Arc::new(Asking::new(&stage.hub.server, &stage.members));
        let to_floor = Arc::new(Asking::new(&stage.http.server, &stage.members));
        let (mut rates, mut times) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let hub = stage.hub.round(POLLS_AT_ONCE, self.length(), &to_hub).await?;
            let floor = stage.http.round(POLLS_AT_ONCE, self.length(), &to_floor).await?;
            ensure!(hub.errors.is_empty() && floor.errors.is_empty(), "refused: {:?}, {:?}", hub.errors, floor.errors);
            rates.push((hub.rate, floor.rate));
            times.extend(hub.processor_us.zip(floor.processor_us));
        }
        rows([
            Row::compared(
                "update polls with nothing to do, to an empty handler with the same check of the token",
                "polls/s",
                Budget::AtLeast(0.5),
                &rates,
            ),
            Row::compared("processor time of such a poll", "µs", Budget::Shown, &times),
        ])
    }

    pub(super) async fn measure_connects(&self, stage: &Stage) -> anyhow::Result<Vec<Row>> {
        let members = &stage.members[..self.connects];
        let (hub_pid, floor_pid) = (stage.hub.needed_pid()?, stage.websocket.needed_pid()?);
        let path = "/api/devices/v1/deviceconnect/connect";
        let per_connect = |used: f64| used / as_f64(self.connects);
        // So that tokens are verified already, as those of a fleet that comes back are.
        open_all(&stage.hub.server, path, members).await?;
        tokio::time::sleep(AFTERWARDS).await;
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let (sockets, hub) = processor_us(hub_pid, open_all(&stage.hub.server, path, members)).await?;
            drop(sockets);
            tokio::time::sleep(AFTERWARDS).await;
            let (sockets, floor) = processor_us(floor_pid, open_all(&stage.websocket.server, "/echo", members)).await?;
            drop(sockets);
            tokio::time::sleep(AFTERWARDS).await;
            rounds.push((per_connect(hub), per_connect(floor)));
        }
        rows([Row::compared(
            "processor time of an accepted device, token verified before, to a bare websocket's",
            "µs",
            Budget::AtMost(2.5),
            &rounds,
        )])
    }
}

/// Opens a websocket for each of these, and waits for what follows from it.
async fn open_all(server: &Server, path: &str, members: &[Member]) -> anyhow::Result<Vec<Socket>> {
    let opening = members.iter().enumerate().map(async |(number, member)| {
        let source = source_of(number, server.address());
        server.open_socket(path, &member.token, source, lean_socket()).await
    });
    let sockets = stream::iter(opening).buffer_unordered(CONNECTS_AT_ONCE).try_collect().await?;
    tokio::time::sleep(AFTERWARDS).await;
    Ok(sockets)
}
