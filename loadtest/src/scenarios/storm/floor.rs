//! The same storm of bare TCP connections, joined by `floor relay`: the least that it takes on this machine.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Server, floor::relay::NAME, server::source_of, wire::Wire};

/// Pairs of connections that are opened at the same time before the storm.
const OPENING: usize = 128;

/// Who comes back comes from other addresses than before, as by pairs beyond this one: where connections have just ended
/// the kernel looks long for a free port.
const RETURNING: usize = 30_000;

/// Two connections that the relay has joined.
type Pair = (Wire, Wire);

/// Opens this many connections to the relay, cuts all of them, opens each again after a random time within `away`
/// (milliseconds), and returns the seconds until 99.9 % were back. A connection is back when a byte has passed it.
pub(super) async fn nearly_all_back_seconds(
    relay: SocketAddr,
    connections: usize,
    away: (u64, u64),
) -> anyhow::Result<f64> {
    let server = Server::at(&format!("http://{relay}")).await?;
    let pairs = connections.div_ceil(2);
    let held: Vec<Pair> =
        stream::iter(0..pairs).map(|pair| open(&server, pair)).buffer_unordered(OPENING).try_collect().await?;
    let cut = Instant::now();
    drop(held);
    let coming = stream::iter(0..pairs).map(async |pair| {
        tokio::time::sleep(Duration::from_millis(rand::random_range(away.0..=away.1))).await;
        let ends = open(&server, RETURNING + pair).await?;
        anyhow::Ok((cut.elapsed(), ends))
    });
    // All of them at once, as devices come.
    let mut back: Vec<(Duration, Pair)> = coming.buffer_unordered(pairs).try_collect().await?;
    back.sort_by_key(|(when, _)| *when);
    let nearly_all = (pairs * 999).div_ceil(1000);
    let (when, _) = back.get(nearly_all.saturating_sub(1)).context("no connection")?;
    Ok(when.as_secs_f64())
}

async fn open(server: &Server, pair: usize) -> anyhow::Result<Pair> {
    let source = source_of(2 * pair, server.address());
    let name: [u8; NAME] = rand::random();
    let opening = async {
        let (mut one, mut other) = (server.open_line(source).await?, server.open_line(source).await?);
        one.write_all(&name).await?;
        other.write_all(&name).await?;
        one.write_all(b".").await?;
        one.flush().await?;
        other.flush().await?;
        let mut byte = [0];
        other.read_exact(&mut byte).await?;
        std::io::Result::Ok((one, other))
    };
    opening.await.context("the relay cannot be reached, or joins nobody")
}
