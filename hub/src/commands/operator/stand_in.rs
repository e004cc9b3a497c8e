//! Something that answers like a hub, for tests of the operator's commands.

use super::{
    Operator,
    message::{Incoming, Outgoing},
};
use futures_util::{SinkExt, StreamExt};
use std::{collections::HashMap, fmt::Write, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message as Frame,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

/// Nothing in a test takes longer.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A hub that does what the test says.
pub struct StandIn {
    listener: TcpListener,
}

/// A websocket somebody has opened.
pub struct Opened {
    /// Its path and query.
    pub path: String,
    socket: WebSocketStream<TcpStream>,
}

/// A request somebody has made.
pub struct Asked {
    /// Method, path and query.
    pub line: String,
    /// Headers, their names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    stream: BufReader<TcpStream>,
}

impl StandIn {
    /// On a free port, with somebody who is logged in to it.
    pub async fn start() -> (Self, Operator) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        (Self { listener }, Operator::of_a_test(base.parse().expect("a URL")))
    }

    async fn accept(&self) -> TcpStream {
        let accepted = tokio::time::timeout(LIMIT, self.listener.accept()).await.expect("somebody connects");
        accepted.expect("a connection").0
    }

    /// The next websocket.
    pub async fn websocket(&self) -> Opened {
        let mut path = String::new();
        // The shape of this function is the library's.
        #[expect(clippy::result_large_err)]
        let take_path = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            path = request.uri().to_string();
            Ok(response)
        };
        let socket = accept_hdr_async(self.accept().await, take_path).await.expect("a websocket");
        Opened { path, socket }
    }

    /// The next request.
    pub async fn request(&self) -> Asked {
        let mut stream = BufReader::new(self.accept().await);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a line");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let line = lines.remove(0);
        let headers: HashMap<String, String> = lines
            .iter()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().expect("a number"))];
        stream.read_exact(&mut body).await.expect("a body");
        Asked { line, headers, body, stream }
    }

    /// Refuses whatever is asked next.
    pub async fn refuse(&self, status: u16, error: &str) -> String {
        let asked = self.request().await;
        let line = asked.line.clone();
        let body = serde_json::json!({ "error": error }).to_string();
        asked.answer(status, &[("Content-Type", "application/json")], body.as_bytes()).await;
        line
    }
}

impl Opened {
    /// Says something.
    pub async fn say(&mut self, message: Outgoing<'_>) {
        self.socket.send(Frame::Binary(message.encode().into())).await.expect("said");
    }

    /// The next message; `None` when the other side has closed the websocket.
    pub async fn hear(&mut self) -> Option<Incoming> {
        loop {
            let frame = tokio::time::timeout(LIMIT, self.socket.next()).await.expect("something is said");
            match frame {
                Some(Ok(Frame::Binary(bytes))) => return Some(Incoming::decode(&bytes).expect("a message")),
                Some(Ok(Frame::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next message of this type.
    pub async fn hears(&mut self, typ: &str) -> Incoming {
        loop {
            let message = self.hear().await.unwrap_or_else(|| panic!("{typ:?} is said before the end"));
            if message.typ == typ {
                return message;
            }
        }
    }
}

impl Asked {
    /// Answers, and closes the connection.
    pub async fn answer(self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        self.answer_short(status, headers, body, body.len()).await;
    }

    /// Announces a body of this length, but breaks off after what there is.
    pub async fn answer_short(mut self, status: u16, headers: &[(&str, &str)], body: &[u8], length: usize) {
        let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {length}\r\n");
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").expect("written");
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await.expect("answered");
        self.stream.write_all(body).await.expect("answered");
        self.stream.shutdown().await.expect("closed");
    }
}
