//! A line between clients and a server: what goes over it takes its time, and it can be cut.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::door::Door;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Chunks on their way in one direction. With the kernel's buffers that is far more than any sender here has unanswered, so
/// the line adds time and takes no throughput.
const ON_THE_WAY: usize = 1024;

/// Passes TCP connections on to a server, each byte a fixed time after it came.
pub struct DelayProxy {
    door: Door,
    line: Arc<Line>,
    task: JoinHandle<()>,
}

struct Line {
    target: Mutex<SocketAddr>,
    delay: Duration,
    is_whole: AtomicBool,
    cuts: watch::Sender<()>,
    carried: AtomicUsize,
}

impl DelayProxy {
    /// A line to `door` that takes `delay` in each direction.
    ///
    /// # Panics
    /// When the loopback address cannot be used.
    pub async fn to(door: &Door, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let here = Door::plain(listener.local_addr().expect("it is bound"));
        let line = Arc::new(Line {
            target: Mutex::new(door.address()),
            delay,
            is_whole: AtomicBool::new(true),
            cuts: watch::Sender::new(()),
            carried: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&line);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, Arc::clone(&accepting)));
            }
        });
        Self { door: here, line, task }
    }

    /// The near end, where clients knock.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Resets every connection. New ones are carried as before.
    pub fn cut(&self) {
        self.line.cuts.send_replace(());
    }

    /// Resets every connection, and every new one until it is mended.
    pub fn cut_for_now(&self) {
        self.line.is_whole.store(false, Ordering::SeqCst);
        self.cut();
    }

    /// Carries new connections again.
    pub fn mend(&self) {
        self.line.is_whole.store(true, Ordering::SeqCst);
    }

    /// From now on new connections go elsewhere.
    ///
    /// # Panics
    /// Never.
    pub fn lead_to(&self, door: &Door) {
        *self.line.target.lock().expect("nobody panics with the lock") = door.address();
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.line.carried.load(Ordering::SeqCst)
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn carry(mut client: TcpStream, line: Arc<Line>) {
    let mut cuts = line.cuts.subscribe();
    let target = *line.target.lock().expect("nobody panics with the lock");
    if !line.is_whole.load(Ordering::SeqCst) {
        return reset(&client);
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return reset(&client) };
    // Waiting for more to come in one packet would be a delay of its own.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    line.carried.fetch_add(1, Ordering::SeqCst);
    let ended = {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        let up = one_way(client_reads, server_writes, line.delay);
        let down = one_way(server_reads, client_writes, line.delay);
        tokio::select! {
            both = async { tokio::try_join!(up, down) } => both.is_ok(),
            _ = cuts.changed() => false,
        }
    };
    line.carried.fetch_sub(1, Ordering::SeqCst);
    if !ended {
        reset(&client);
        reset(&server);
    }
}

/// Carries one direction to its end, which is carried too.
async fn one_way(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, delay: Duration) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(ON_THE_WAY);
    let reading = async move {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            if from.read_buf(&mut chunk).await? == 0 {
                return Ok::<(), io::Error>(());
            }
            if sender.send((Instant::now() + delay, chunk.freeze())).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

/// Lets the peer feel a reset rather than an end once the stream is dropped.
fn reset(stream: &TcpStream) {
    // The peer may have left already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let door = Door::plain(listener.local_addr().expect("it is bound"));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = client.split();
                    // Ends with the client.
                    let _ = tokio::io::copy(&mut reads, &mut writes).await;
                    let _ = writes.shutdown().await;
                });
            }
        });
        door
    }

    #[tokio::test]
    async fn it_adds_its_delay_and_no_more_for_each_byte() {
        let line = DelayProxy::to(&echo().await, Duration::from_millis(50)).await;
        let mut stream = TcpStream::connect(line.door().address()).await.expect("it listens");
        let started = Instant::now();
        stream.write_all(b"key").await.expect("it is open");
        stream.read_exact(&mut [0; 3]).await.expect("an echo");
        assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());

        // Were each chunk delayed after the last, this would take longer than anybody waits.
        let (mut reads, mut writes) = stream.split();
        let sent = vec![7; 16 * 1024 * 1024];
        let mut back = Vec::new();
        let sending = async {
            writes.write_all(&sent).await?;
            writes.shutdown().await
        };
        tokio::try_join!(sending, reads.read_to_end(&mut back)).expect("it is open");
        assert!(back == sent);
    }

    #[tokio::test]
    async fn a_cut_is_felt_on_both_sides_and_can_be_mended() {
        let line = DelayProxy::to(&echo().await, Duration::ZERO).await;
        let mut stream = TcpStream::connect(line.door().address()).await.expect("it listens");
        stream.write_all(b"key").await.expect("it is open");
        stream.read_exact(&mut [0; 3]).await.expect("an echo");
        assert_eq!(line.connections(), 1);

        line.cut_for_now();

        assert!(stream.read_exact(&mut [0; 1]).await.is_err());
        let mut refused = TcpStream::connect(line.door().address()).await.expect("it listens");
        assert!(refused.read_exact(&mut [0; 1]).await.is_err());
        line.mend();
        let mut again = TcpStream::connect(line.door().address()).await.expect("it listens");
        again.write_all(b"key").await.expect("it is open");
        again.read_exact(&mut [0; 3]).await.expect("an echo");
    }
}
