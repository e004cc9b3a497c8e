//! A simulated device against a hub of a few lines: what it asks, in which order, and that it comes back.

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use loadtest::{
    DeviceKey, DeviceSettings, Server, Shell, SimulatedDevice,
    message::{Message, SHELL},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message as Frame, handshake::derive_accept_key, protocol::Role},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the hub was asked.
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        Some(self.head.lines().find(is_it)?.split_once(':')?.1.trim())
    }
}

/// A hub that refuses the first request to join, grants the second, and hands out its websockets.
struct SmallHub {
    server: Server,
    requests: mpsc::UnboundedReceiver<Request>,
    sockets: mpsc::UnboundedReceiver<WebSocketStream<TcpStream>>,
}

impl SmallHub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        // Both hold what one device of the test does, which ends with the test.
        let (tell, requests) = mpsc::unbounded_channel();
        let (opened, sockets) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut joins = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                while let Some(request) = read(&mut stream).await {
                    let upgrade = request.header("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes()));
                    let is_join = request.head.contains("/auth_requests ");
                    joins += usize::from(is_join);
                    let answer = match (&upgrade, is_join) {
                        (Some(key), _) => format!(
                            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Accept: {key}\r\n\r\n"
                        ),
                        (None, true) if joins == 1 => answer("401 Unauthorized", "{}"),
                        (None, true) => answer("200 OK", "the-token"),
                        (None, false) => answer("200 OK", ""),
                    };
                    tell.send(request).expect("somebody listens");
                    stream.write_all(answer.as_bytes()).await.expect("written");
                    if upgrade.is_some() {
                        opened.send(WebSocketStream::from_raw_socket(stream, Role::Server, None).await).expect("sent");
                        break;
                    }
                }
            }
        });
        Self { server: Server::at(&url).await.expect("a server"), requests, sockets }
    }

    async fn request(&mut self) -> Request {
        tokio::time::timeout(PATIENCE, self.requests.recv()).await.expect("in time").expect("a request")
    }

    async fn socket(&mut self) -> WebSocketStream<TcpStream> {
        tokio::time::timeout(PATIENCE, self.sockets.recv()).await.expect("in time").expect("a websocket")
    }
}

/// Every answer ends its connection, so that requests come one by one.
fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut request = Request { head: String::from_utf8(head).expect("text"), body: vec![] };
    let length = request.header("content-length").map_or(0, |length| length.parse().expect("a length"));
    request.body = vec![0; length];
    stream.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    loop {
        let frame =
            tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").expect("open").expect("a frame");
        if frame.is_binary() {
            return Message::decode(&frame.into_data()).expect("a message");
        }
    }
}

fn device_of(hub: &SmallHub) -> (SimulatedDevice, Arc<DeviceSettings>) {
    let settings = Arc::new(DeviceSettings {
        join_interval: Duration::from_millis(20),
        first_wait: Duration::from_millis(20),
        ..DeviceSettings::new(hub.server.clone(), Shell::Echo)
    });
    let device = SimulatedDevice::new(settings.clone(), r#"{"mac":"02:01"}"#.to_owned(), DeviceKey::random(), None);
    (device, settings)
}

#[tokio::test]
async fn a_device_asks_until_it_is_let_in_then_reports_and_connects() {
    let mut hub = SmallHub::start().await;
    let (device, settings) = device_of(&hub);
    let pem = device.public_pem();
    let _running = device.start();

    for _ in 0..2 {
        let join = hub.request().await;
        let body: serde_json::Value = serde_json::from_slice(&join.body).expect("JSON");
        assert_eq!((body["id_data"].as_str(), body["pubkey"].as_str()), (Some(r#"{"mac":"02:01"}"#), Some(&*pem)));
        let signature = STANDARD.decode(join.header("x-men-signature").expect("a signature")).expect("base64");
        assert_eq!(signature.len(), 64);
    }
    let inventory = hub.request().await;
    assert!(inventory.head.starts_with("PUT /api/devices/v1/inventory/device/attributes "), "{}", inventory.head);
    assert_eq!(inventory.header("authorization"), Some("Bearer the-token"));
    assert!(hub.request().await.head.starts_with("POST /api/devices/v2/deployments/device/deployments/next "));
    assert!(hub.request().await.head.starts_with("GET /api/devices/v1/deviceconnect/connect "));
    settings.progress.wait_until(|progress| progress.connected() == 1).await;
}

#[tokio::test]
async fn a_shell_survives_a_lost_websocket() {
    let mut hub = SmallHub::start().await;
    let (device, settings) = device_of(&hub);
    let _running = device.start();
    let say = |kind| Message::new(SHELL, kind).session("s");

    let mut socket = hub.socket().await;
    socket.send(Frame::Binary(say("new").encode())).await.expect("sent");
    assert_eq!(next(&mut socket).await.body(), b"Shell started");
    drop(socket);

    let mut socket = hub.socket().await;
    socket.send(Frame::Ping("60".into())).await.expect("sent");
    let pong = tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").expect("open").expect("a frame");
    assert_eq!(pong, Frame::Pong("60".into()));
    socket.send(Frame::Binary(say("shell").with_body("x").encode())).await.expect("sent");
    let echo = next(&mut socket).await;
    assert_eq!((echo.kind(), echo.body()), ("shell", &b"x"[..]));
    assert_eq!((settings.progress.connections(), settings.progress.losses()), (2, 1));
}

#[tokio::test]
async fn a_message_larger_than_8192_bytes_makes_the_device_leave_and_return() {
    let mut hub = SmallHub::start().await;
    let (device, settings) = device_of(&hub);
    let _running = device.start();

    let mut socket = hub.socket().await;
    let fitting = Message::new(SHELL, "shell").session("s").with_body(vec![b'x'; 8100]);
    socket.send(Frame::Binary(fitting.encode())).await.expect("sent");
    assert_eq!(next(&mut socket).await.body(), b"session not found");
    socket.send(Frame::Binary(vec![0; 8193].into())).await.expect("sent");

    hub.socket().await;
    assert!(settings.progress.losses() >= 1);
}
