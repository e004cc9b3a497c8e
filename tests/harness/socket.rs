//! One end of a websocket: a device's or an operator's.
//!
//! Nothing is read in the background: an end that is not asked for the next message stalls, as a peer in trouble would.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, client::IntoClientRequest};

use crate::answer::Answer;
use crate::door::Door;
use crate::message::{Heard, Packet};
use crate::wait::{LIMIT, within};

/// Small, so that an end that stops reading is felt by its peer at once and not after megabytes in the kernel.
const RECEIVE_BUFFER: u32 = 16 * 1024;

/// An open websocket.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// The answer to the handshake.
    pub handshake: Answer,
    /// Payloads of the pings heard so far, and when.
    pub pings: Vec<(Instant, Vec<u8>)>,
}

/// What came next.
#[derive(Debug)]
pub enum Event {
    /// A message.
    Message(Heard),
    /// A pong with this payload.
    Pong(Vec<u8>),
    /// The end.
    Closed(Closed),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// By a Close frame: its code and text.
    Properly(u16, String),
    /// Without one.
    Cut,
}

impl Closed {
    /// The code of the Close frame, if there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Properly(code, _) => Some(*code),
            Self::Cut => None,
        }
    }
}

impl Socket {
    /// Shakes hands.
    ///
    /// # Errors
    /// The answer, if it is not 101.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn connect(door: &Door, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let stream = Self::reach(door).await.expect("the hub listens");
        match Self::shake_hands(stream, door, path, headers).await {
            Ok(outcome) => outcome,
            Err(error) => panic!("no answer to a handshake: {error}"),
        }
    }

    async fn reach(door: &Door) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a size the kernel takes");
        let stream = socket.connect(door.address()).await?;
        stream.set_nodelay(true).expect("an open socket");
        Ok(stream)
    }

    async fn shake_hands(
        stream: TcpStream,
        door: &Door,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Result<Self, Answer>, Error> {
        let mut request = format!("ws://{}{path}", door.address()).into_client_request().expect("a request");
        for (name, value) in headers {
            let name: reqwest::header::HeaderName = name.parse().expect("a header name");
            request.headers_mut().insert(name, value.parse().expect("a header value"));
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(None)
            .max_frame_size(None);
        let shaking = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let asked = format!("GET {path} (upgrade)");
        match within(LIMIT, "an answer to a handshake", shaking).await {
            Ok((stream, answer)) => {
                let handshake = Answer::new(asked, 101, answer.headers().clone(), bytes::Bytes::new());
                Ok(Ok(Self { stream, handshake, pings: vec![] }))
            }
            Err(Error::Http(answer)) => {
                let (parts, body) = answer.into_parts();
                let body = body.unwrap_or_default().into();
                Ok(Err(Answer::new(asked, parts.status.as_u16(), parts.headers, body)))
            }
            Err(error) => Err(error),
        }
    }

    /// Shakes hands where nobody may be at the moment; `None` if that is so.
    pub async fn try_connect(door: &Door, path: &str, headers: &[(&str, &str)]) -> Option<Result<Self, Answer>> {
        let stream = Self::reach(door).await.ok()?;
        Self::shake_hands(stream, door, path, headers).await.ok()
    }

    /// Says something.
    pub async fn say(&mut self, packet: &Packet) {
        self.send(packet.bytes()).await;
    }

    /// Sends a binary message.
    ///
    /// # Panics
    /// When the connection is gone or the peer does not take it in time.
    pub async fn send(&mut self, bytes: impl Into<bytes::Bytes>) {
        let sending = self.stream.send(Message::Binary(bytes.into()));
        within(LIMIT, "the peer to take a message", sending).await.expect("the connection is open");
    }

    /// Sends a binary message on a connection that may be over.
    ///
    /// # Errors
    /// When it is.
    pub async fn try_send(&mut self, bytes: impl Into<bytes::Bytes>) -> Result<(), Error> {
        self.stream.send(Message::Binary(bytes.into())).await
    }

    /// Sends a text frame.
    pub async fn send_text(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.expect("the connection is open");
    }

    /// Sends one message in fragments, with a ping between them.
    pub async fn send_in_fragments(&mut self, bytes: &[u8], size: usize) {
        use tokio_tungstenite::tungstenite::protocol::frame::Frame;
        use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
        let count = bytes.chunks(size).count();
        for (number, piece) in bytes.chunks(size).enumerate() {
            let kind = if number == 0 { Data::Binary } else { Data::Continue };
            let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), number + 1 == count);
            self.stream.send(Message::Frame(frame)).await.expect("the connection is open");
            self.ping(b"between").await;
        }
    }

    /// Sends a ping.
    pub async fn ping(&mut self, payload: &[u8]) {
        self.stream.send(Message::Ping(payload.to_vec().into())).await.expect("the connection is open");
    }

    /// What comes next; pings are answered on the way.
    pub async fn next(&mut self) -> Event {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Binary(bytes))) => return Event::Message(Heard::read(bytes.to_vec())),
                Some(Ok(Message::Ping(payload))) => {
                    self.pings.push((Instant::now(), payload.to_vec()));
                    // The library has put the pong in its queue; a connection that ends now ends the loop.
                    let _ = self.stream.flush().await;
                }
                Some(Ok(Message::Pong(payload))) => return Event::Pong(payload.to_vec()),
                Some(Ok(Message::Close(frame))) => {
                    let closed = frame.map_or_else(
                        || Closed::Properly(1005, String::new()),
                        |frame| Closed::Properly(frame.code.into(), frame.reason.to_string()),
                    );
                    // Answers the Close frame.
                    let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.flush()).await;
                    return Event::Closed(closed);
                }
                Some(Ok(other)) => panic!("the hub sent a frame of another kind: {other:?}"),
                Some(Err(_)) | None => return Event::Closed(Closed::Cut),
            }
        }
    }

    /// The next message.
    ///
    /// # Panics
    /// When the connection ends first or nothing comes in time.
    pub async fn hear(&mut self) -> Heard {
        self.hear_within(LIMIT).await
    }

    /// The next message, for which somebody promised a time.
    pub async fn hear_within(&mut self, limit: Duration) -> Heard {
        let next = async {
            loop {
                match self.next().await {
                    Event::Message(heard) => return heard,
                    Event::Pong(_) => {}
                    Event::Closed(closed) => panic!("expected a message, but the connection ended: {closed:?}"),
                }
            }
        };
        within(limit, "a message", next).await
    }

    /// The next message of this protocol and type, passing over others.
    pub async fn hear_for(&mut self, proto: u16, typ: &str, limit: Duration) -> Heard {
        let waiting = async {
            loop {
                let heard = self.hear_within(limit).await;
                if heard.is(proto, typ) {
                    return heard;
                }
            }
        };
        within(limit, &format!("a message {proto}/{typ}"), waiting).await
    }

    /// The payload of the next pong.
    pub async fn hear_pong(&mut self, limit: Duration) -> Vec<u8> {
        let next = async {
            loop {
                match self.next().await {
                    Event::Pong(payload) => return payload,
                    Event::Message(_) => {}
                    Event::Closed(closed) => panic!("expected a pong, but the connection ended: {closed:?}"),
                }
            }
        };
        within(limit, "a pong", next).await
    }

    /// Asserts that no message comes until a round trip of the websocket itself is over.
    ///
    /// The hub answers a ping after what it has sent before, so nothing that was on its way is missed.
    pub async fn hears_nothing(&mut self) {
        self.ping(b"anything?").await;
        loop {
            match within(LIMIT, "a pong", self.next()).await {
                Event::Pong(payload) if payload == b"anything?" => return,
                Event::Pong(_) => {}
                other => panic!("expected nothing, but heard {other:?}"),
            }
        }
    }

    /// Waits for the end, passing over messages.
    pub async fn end(&mut self, limit: Duration) -> Closed {
        let waiting = async {
            loop {
                if let Event::Closed(closed) = self.next().await {
                    return closed;
                }
            }
        };
        within(limit, "the end of the connection", waiting).await
    }

    /// Serves the socket until its end: every message goes to `answer`, what that returns is sent.
    pub async fn serve(&mut self, mut answer: impl FnMut(&Heard) -> Vec<Packet>) -> Closed {
        loop {
            match self.next().await {
                Event::Message(heard) => {
                    for packet in answer(&heard) {
                        if self.try_send(packet.bytes()).await.is_err() {
                            return Closed::Cut;
                        }
                    }
                }
                Event::Pong(_) => {}
                Event::Closed(closed) => return closed,
            }
        }
    }

    /// Says goodbye and leaves.
    pub async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        // The other side may have left before us.
        let _ = self.stream.close(Some(frame)).await;
        let _ = tokio::time::timeout(LIMIT, self.end(LIMIT)).await;
    }

    /// Leaves without a word: the connection is reset.
    pub fn reset(self) {
        // Pending data is thrown away and the peer gets a reset instead of an end.
        SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO)).expect("an open socket");
    }

    /// Leaves as `mender-cli` does: the TCP connection is closed without a Close frame.
    pub fn hang_up(self) {
        drop(self);
    }

    /// Writes bytes past the websocket layer.
    pub async fn write_raw(&mut self, bytes: &[u8]) {
        use tokio::io::AsyncWriteExt;
        self.stream.get_mut().write_all(bytes).await.expect("the connection is open");
    }
}
