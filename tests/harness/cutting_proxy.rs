//! A line to a server that breaks once, when so much of an answer has come over it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::door::Door;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Passes TCP connections on to a server. The first that has brought so many bytes from it is reset, and no other.
pub struct CuttingProxy {
    door: Door,
    line: Arc<Line>,
    task: JoinHandle<()>,
}

struct Line {
    target: SocketAddr,
    cut_after: u64,
    /// Bytes that each connection has brought from the server.
    brought: Mutex<Vec<u64>>,
    /// Which of them was cut.
    cut: Mutex<Option<usize>>,
}

impl CuttingProxy {
    /// A line to `door` that breaks when a connection has brought `cut_after` bytes.
    ///
    /// # Panics
    /// When the loopback address cannot be used.
    pub async fn to(door: &Door, cut_after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let here = Door::plain(listener.local_addr().expect("it is bound"));
        let line =
            Arc::new(Line { target: door.address(), cut_after, brought: Mutex::default(), cut: Mutex::default() });
        let accepting = Arc::clone(&line);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepting).carry(client));
            }
        });
        Self { door: here, line, task }
    }

    /// The near end, where clients knock.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Bytes that came over the connection that was cut, and the most that came over any later one; `None` before the cut.
    ///
    /// # Panics
    /// Never.
    pub fn brought(&self) -> Option<(u64, u64)> {
        let cut = (*self.line.cut.lock().expect("nobody panics with the lock"))?;
        let brought = self.line.brought.lock().expect("nobody panics with the lock");
        Some((brought[cut], brought[cut + 1..].iter().copied().max().unwrap_or(0)))
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(self.target).await else { return };
        let number = {
            let mut brought = self.brought.lock().expect("nobody panics with the lock");
            brought.push(0);
            brought.len() - 1
        };
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        let was_cut = tokio::select! {
            was_cut = self.down(number, server_reads, client_writes) => was_cut,
            was_cut = up(client_reads, server_writes) => was_cut,
        };
        if was_cut {
            // Both feel a reset rather than an end once the streams are dropped.
            for stream in [&client, &server] {
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// Carries what the server says to its end, or until it has to be cut.
    async fn down(&self, number: usize, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> bool {
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = match from.read(&mut chunk).await {
                Ok(0) | Err(_) => return false,
                Ok(length) => length,
            };
            if to.write_all(&chunk[..length]).await.is_err() {
                return false;
            }
            if self.has_to_cut(number, length as u64) {
                return true;
            }
        }
    }

    /// Counts what a connection has brought; says whether it is the one to be cut, now.
    fn has_to_cut(&self, number: usize, length: u64) -> bool {
        let mut brought = self.brought.lock().expect("nobody panics with the lock");
        brought[number] += length;
        let mut cut = self.cut.lock().expect("nobody panics with the lock");
        let is_due = cut.is_none() && brought[number] >= self.cut_after;
        if is_due {
            *cut = Some(number);
        }
        is_due
    }
}

/// Carries what the client says for as long as it is there.
async fn up(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> bool {
    // A client that says no more may still listen.
    if copy(&mut from, &mut to).await.is_ok() && to.shutdown().await.is_ok() {
        std::future::pending::<()>().await;
    }
    false
}
