//! A hub of a few lines.

use futures_util::{SinkExt, StreamExt};
use loadtest::{DeviceHandle, DeviceKey, DeviceSettings, Server, Services, Shell, SimulatedDevice, message::Message};
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

pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the hub was asked.
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        Some(self.head.lines().find(is_it)?.split_once(':')?.1.trim())
    }
}

/// A hub that refuses the first request to join, grants the second, and hands out its websockets.
pub struct SmallHub {
    pub server: Server,
    requests: mpsc::UnboundedReceiver<Request>,
    sockets: mpsc::UnboundedReceiver<WebSocketStream<TcpStream>>,
}

impl SmallHub {
    pub async fn start() -> Self {
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

    pub async fn request(&mut self) -> Request {
        tokio::time::timeout(PATIENCE, self.requests.recv()).await.expect("in time").expect("a request")
    }

    pub async fn socket(&mut self) -> WebSocketStream<TcpStream> {
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

pub async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    loop {
        let frame =
            tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").expect("open").expect("a frame");
        if frame.is_binary() {
            return Message::decode(&frame.into_data()).expect("a message");
        }
    }
}

pub fn device_of(hub: &SmallHub) -> (SimulatedDevice, Arc<DeviceSettings>) {
    let settings = Arc::new(DeviceSettings {
        join_interval: Duration::from_millis(20),
        first_wait: Duration::from_millis(20),
        ..DeviceSettings::new(hub.server.clone(), Shell::Echo)
    });
    let device = SimulatedDevice::new(settings.clone(), r#"{"mac":"02:01"}"#.to_owned(), DeviceKey::random(), None);
    (device, settings)
}

/// A device that does not report, with these services.
pub fn device_with(hub: &SmallHub, services: Services, shell: Shell) -> (SimulatedDevice, Arc<DeviceSettings>) {
    let settings = Arc::new(DeviceSettings {
        services,
        reports: false,
        join_interval: Duration::from_millis(20),
        first_wait: Duration::from_millis(20),
        ..DeviceSettings::new(hub.server.clone(), shell)
    });
    let device = SimulatedDevice::new(settings.clone(), r#"{"mac":"02:01"}"#.to_owned(), DeviceKey::random(), None);
    (device, settings)
}

/// Waits until it is so.
pub async fn wait_for(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}

/// A device with services, whose websocket is open.
pub struct Device {
    pub hub: SmallHub,
    pub socket: WebSocketStream<TcpStream>,
    pub settings: Arc<DeviceSettings>,
    pub handle: DeviceHandle,
}

impl Device {
    pub async fn with(services: Services) -> Self {
        let mut hub = SmallHub::start().await;
        let (device, settings) = device_with(&hub, services, Shell::Echo);
        let handle = device.start();
        let socket = hub.socket().await;
        Self { hub, socket, settings, handle }
    }

    pub async fn say(&mut self, message: Message) {
        self.socket.send(Frame::Binary(message.encode())).await.expect("sent");
    }

    pub async fn hear(&mut self) -> Message {
        next(&mut self.socket).await
    }

    /// Whether the device says nothing although it answers pings.
    pub async fn is_quiet(&mut self) -> bool {
        self.socket.send(Frame::Ping("quiet?".into())).await.expect("sent");
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("in time").expect("open");
            match frame.expect("a frame") {
                Frame::Pong(_) => return true,
                Frame::Binary(_) => return false,
                _ => {}
            }
        }
    }
}

/// The body of a request, as the hub writes it.
pub fn packed(body: &serde_json::Value) -> Vec<u8> {
    rmp_serde::to_vec_named(body).expect("packed")
}

/// The body of an answer.
pub fn unpacked(message: &Message) -> serde_json::Value {
    rmp_serde::from_slice(message.body()).expect("a body")
}
