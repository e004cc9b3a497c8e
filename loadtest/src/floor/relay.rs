//! A relay of bare TCP: two that name the same name are joined, and every byte of one goes to the other.
//!
//! The name is the first 16 bytes that each sends. Nothing else is looked at.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Bytes of a name.
pub const NAME: usize = 16;

/// So many wait for the other of their name at most.
const WAITING: usize = 20_000;

/// Bytes read at once, unless told otherwise: a message of the row that this is the floor of. A hub keeps messages apart, so a
/// relay that takes several in one piece would do something else.
pub const PIECE: usize = 4096;

/// Those who wait for the other of their name.
type Waiting = Arc<Mutex<HashMap<[u8; NAME], TcpStream>>>;

/// Joins pairs until the process ends.
///
/// # Errors
/// When no connection can be accepted any more.
pub async fn serve(listener: TcpListener, piece: usize) -> anyhow::Result<()> {
    let waiting = Waiting::default();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(enter(stream, waiting.clone(), piece));
    }
}

async fn enter(mut stream: TcpStream, waiting: Waiting, piece: usize) {
    let mut name = [0; NAME];
    if stream.set_nodelay(true).is_err() || stream.read_exact(&mut name).await.is_err() {
        return;
    }
    let other = {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.remove(&name) {
            Some(other) => other,
            None if waiting.len() < WAITING => {
                waiting.insert(name, stream);
                return;
            }
            None => return,
        }
    };
    let ((one_in, one_out), (other_in, other_out)) = (stream.into_split(), other.into_split());
    tokio::join!(copy(one_in, other_out, piece), copy(other_in, one_out, piece));
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, piece: usize) {
    let mut buffer = vec![0; piece];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    // Whoever reads the other end learns that this one has ended.
    let _gone_already = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_of_one_name_hear_one_another_until_one_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, PIECE));
        let mut ends = Vec::new();
        for name in [b"a device of ours", b"a device of mine", b"a device of ours"] {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(name).await.expect("room");
            ends.push(stream);
        }
        let mut user = ends.pop().expect("the third");
        let device = &mut ends[0];
        let mut heard = [0; 5];

        user.write_all(b"hello").await.expect("room");
        device.read_exact(&mut heard).await.expect("bytes");
        assert_eq!(&heard, b"hello");
        device.write_all(b"there").await.expect("room");
        user.read_exact(&mut heard).await.expect("bytes");
        assert_eq!(&heard, b"there");

        drop(user);
        assert_eq!(ends[0].read(&mut heard).await.expect("an end"), 0);
    }
}
