//! A line to a hub on which every byte takes its time, in each direction, and none is held up by another.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

/// Pieces that are on the line in one direction: 64 MiB, more than any window here.
const PIECES: usize = 4096;
const PIECE: usize = 16 * 1024;

/// The line. It is cut when this is dropped.
#[derive(Debug)]
pub struct SlowLine {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl SlowLine {
    /// A line to `to` that takes `delay` each way.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn to(to: SocketAddr, delay: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port is free")?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, to, delay));
            }
        });
        Ok(Self { address, task })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SlowLine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(near: TcpStream, to: SocketAddr, delay: Duration) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(one_way(near_in, far_out, delay), one_way(far_in, near_out, delay));
}

async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (enters, mut leaves) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let entering = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            if enters.send((Instant::now() + delay, piece[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let leaving = async move {
        while let Some((due, piece)) = leaves.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _gone_already = to.shutdown().await;
    };
    tokio::join!(entering, leaving);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_their_time_each_way_and_all_arrive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let delay = Duration::from_millis(40);
        let line = SlowLine::to(listener.local_addr().expect("an address"), delay).await.expect("a line");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.expect("an echo");
        });
        let mut stream = TcpStream::connect(line.address()).await.expect("a connection");
        let begun = Instant::now();
        let sent = vec![7; 100_000];
        stream.write_all(&sent).await.expect("room");
        stream.shutdown().await.expect("an end");
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("an echo");
        assert_eq!(heard, sent);
        assert!(begun.elapsed() >= delay * 2);
    }
}
