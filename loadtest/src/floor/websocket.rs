//! Bare websockets on tokio-tungstenite: `/echo` sends back what it is sent, and of two that open the same `/pair/NAME`
//! each hears what the other says. All are pinged every 30 s, as a hub's devices are.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex as SharedSink,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::WebSocketConfig,
    },
};

const PING_EVERY: Duration = Duration::from_secs(30);

/// So many wait for the other of their name at most.
const WAITING: usize = 20_000;

type Socket = WebSocketStream<TcpStream>;
type Out = Arc<SharedSink<SplitSink<Socket, Message>>>;

/// Those who wait for the other of their name.
type Waiting = Arc<Mutex<HashMap<String, Socket>>>;

/// Serves until the process ends.
///
/// # Errors
/// When no connection can be accepted any more.
pub async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let waiting = Waiting::default();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(enter(stream, waiting.clone()));
    }
}

async fn enter(stream: TcpStream, waiting: Waiting) {
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the library says what this returns")]
    let note_path = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        request.uri().path().clone_into(&mut path);
        Ok(response)
    };
    // The smallest buffers that still take a message of 4 KiB at once.
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Ok(socket) = accept_hdr_async_with_config(stream, note_path, Some(config)).await else { return };
    match path.strip_prefix("/pair/") {
        None => echo(socket).await,
        Some(name) => {
            let other = {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                match waiting.remove(name) {
                    Some(other) => other,
                    None if waiting.len() < WAITING => {
                        waiting.insert(name.to_owned(), socket);
                        return;
                    }
                    None => return,
                }
            };
            join(socket, other).await;
        }
    }
}

async fn echo(mut socket: Socket) {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let said = tokio::select! {
            heard = socket.next() => match heard {
                Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => message,
                // The library answers pings by itself.
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        if socket.send(said).await.is_err() {
            return;
        }
    }
}

async fn join(one: Socket, other: Socket) {
    let ((one_out, one_in), (other_out, other_in)) = (one.split(), other.split());
    let (one_out, other_out): (Out, Out) = (Arc::new(SharedSink::new(one_out)), Arc::new(SharedSink::new(other_out)));
    tokio::select! {
        () = pass_on(one_in, other_out.clone()) => {}
        () = pass_on(other_in, one_out.clone()) => {}
    }
    for out in [one_out, other_out] {
        let _gone_already = out.lock().await.close().await;
    }
}

async fn pass_on(mut from: SplitStream<Socket>, to: Out) {
    while let Some(Ok(message)) = from.next().await {
        if matches!(message, Message::Binary(_) | Message::Text(_)) && to.lock().await.send(message).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::{MaybeTlsStream, connect_async};

    use super::*;

    type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

    async fn open(address: std::net::SocketAddr, path: &str) -> Client {
        connect_async(format!("ws://{address}{path}")).await.expect("a websocket").0
    }

    async fn hears(client: &mut Client, text: &str) {
        let heard = tokio::time::timeout(Duration::from_secs(10), client.next()).await.expect("in time");
        assert_eq!(heard.expect("a message").expect("no error"), Message::text(text));
    }

    #[tokio::test]
    async fn an_echo_says_what_it_hears_and_a_pair_hears_one_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener));

        let mut alone = open(address, "/echo").await;
        alone.send(Message::text("hello")).await.expect("room");
        hears(&mut alone, "hello").await;

        let (mut user, mut device) = (open(address, "/pair/x").await, open(address, "/pair/x").await);
        user.send(Message::text("key")).await.expect("room");
        hears(&mut device, "key").await;
        device.send(Message::text("echo")).await.expect("room");
        hears(&mut user, "echo").await;
    }
}
