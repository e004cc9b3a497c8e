//! One HTTP/1.1 connection that costs the tester little: at saturation hub and tester share the processor, and what the
//! tester takes is missing from the hub's figures.
//!
//! It reads what hubs answer (a length, chunks, or neither until the end) and nothing else; nothing is sent twice.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Server, wire::Wire};

/// Longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A connection that was idle for longer is not used again: the hub may be closing it at this moment.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

/// Largest head of an answer, and largest piece of a body that is read at once.
const HEAD_LIMIT: usize = 16 * 1024;

/// Largest body that is kept; of larger ones only the length counts.
const KEPT_LIMIT: usize = 4 << 20;

/// What the hub answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    /// The body, unless it was to be thrown away.
    pub body: Vec<u8>,
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// There is no connection to be had.
    Unreachable,
    /// The connection ended before the answer did.
    Lost,
    /// There was no answer for 30 s.
    Late,
    /// The answer is none.
    Unreadable,
}

impl Failure {
    /// In a word or two, as reports count them.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Lost => "connection lost",
            Self::Late => "no answer in 30 s",
            Self::Unreadable => "unreadable answer",
        }
    }
}

/// Whether a body is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Keep it.
    Keep,
    /// Count its bytes.
    Count,
}

/// A connection that is opened when it is needed.
#[derive(Debug)]
pub struct Line {
    server: Server,
    source: Option<IpAddr>,
    stream: Option<Wire>,
    used: Instant,
    /// What was read and not consumed.
    unread: Vec<u8>,
}

impl Line {
    /// A line to this hub from this address; nothing is connected yet.
    pub fn new(server: &Server, source: Option<IpAddr>) -> Self {
        Self { server: server.clone(), source, stream: None, used: Instant::now(), unread: Vec::new() }
    }

    /// Sends a request ([`write_request`]) and reads its answer.
    ///
    /// # Errors
    /// See [`Failure`]. Whether the hub has done what was asked is not known then.
    pub async fn exchange(&mut self, request: &[u8], body: Body) -> Result<Answer, Failure> {
        if self.stream.is_some() && self.used.elapsed() > IDLE_LIMIT {
            self.stream = None;
        }
        let exchanged = tokio::time::timeout(ANSWER_LIMIT, self.try_exchange(request, body)).await;
        let outcome = exchanged.unwrap_or(Err(Failure::Late));
        if outcome.is_err() {
            self.hang_up();
        }
        self.used = Instant::now();
        outcome
    }

    fn hang_up(&mut self) {
        self.stream = None;
        self.unread.clear();
    }

    async fn try_exchange(&mut self, request: &[u8], body: Body) -> Result<Answer, Failure> {
        if self.stream.is_none() {
            self.unread.clear();
            let opened = self.server.open_line(self.source).await;
            self.stream = Some(opened.map_err(|_| Failure::Unreachable)?);
        }
        let stream = self.stream.as_mut().ok_or(Failure::Unreachable)?;
        stream.write_all(request).await.map_err(|_| Failure::Lost)?;
        stream.flush().await.map_err(|_| Failure::Lost)?;
        let head = self.read_head().await?;
        let mut sink = Sink { keeps: body == Body::Keep, length: 0, body: Vec::new() };
        match head.framing {
            Framing::Nothing => {}
            Framing::Length(length) => self.read_exactly(length, &mut sink).await?,
            Framing::Chunks => self.read_chunks(&mut sink).await?,
            Framing::UntilEnd => while self.read_some(&mut sink).await? {},
        }
        if head.closes {
            self.hang_up();
        }
        Ok(Answer { status: head.status, length: sink.length, body: sink.body })
    }

    async fn read_head(&mut self) -> Result<Head, Failure> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head = Head::parse(&self.unread[..end]).ok_or(Failure::Unreadable)?;
                self.unread.drain(..end + 4);
                if head.status == 100 {
                    continue;
                }
                return Ok(head);
            }
            if self.unread.len() > HEAD_LIMIT {
                return Err(Failure::Unreadable);
            }
            if !self.fill().await? {
                return Err(Failure::Lost);
            }
        }
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> Result<bool, Failure> {
        let stream = self.stream.as_mut().ok_or(Failure::Lost)?;
        self.unread.reserve(HEAD_LIMIT);
        Ok(stream.read_buf(&mut self.unread).await.map_err(|_| Failure::Lost)? > 0)
    }

    async fn read_exactly(&mut self, mut left: u64, sink: &mut Sink) -> Result<(), Failure> {
        while left > 0 {
            if self.unread.is_empty() && !self.fill().await? {
                return Err(Failure::Lost);
            }
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(self.unread.len());
            sink.take(&self.unread[..piece]);
            self.unread.drain(..piece);
            left -= piece as u64;
        }
        Ok(())
    }

    async fn read_some(&mut self, sink: &mut Sink) -> Result<bool, Failure> {
        let goes_on = self.fill().await?;
        sink.take(&self.unread);
        self.unread.clear();
        Ok(goes_on)
    }

    async fn read_chunks(&mut self, sink: &mut Sink) -> Result<(), Failure> {
        loop {
            let line = self.read_line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = u64::from_str_radix(digits, 16).map_err(|_| Failure::Unreadable)?;
            if length == 0 {
                // Trailers, up to an empty line.
                while !self.read_line().await?.is_empty() {}
                return Ok(());
            }
            self.read_exactly(length, sink).await?;
            if !self.read_line().await?.is_empty() {
                return Err(Failure::Unreadable);
            }
        }
    }

    async fn read_line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..end + 2);
                return Ok(line);
            }
            if self.unread.len() > HEAD_LIMIT {
                return Err(Failure::Unreadable);
            }
            if !self.fill().await? {
                return Err(Failure::Lost);
            }
        }
    }
}

/// Writes a request into `request`, which is emptied before.
pub fn write_request(
    request: &mut Vec<u8>,
    server: &Server,
    method: &str,
    path: &str,
    token: &str,
    json: Option<&[u8]>,
) {
    request.clear();
    let mut push = |text: &str| request.extend_from_slice(text.as_bytes());
    for text in [method, " ", path, " HTTP/1.1\r\nHost: ", server.authority(), "\r\n"] {
        push(text);
    }
    if !token.is_empty() {
        for text in ["Authorization: Bearer ", token, "\r\n"] {
            push(text);
        }
    }
    if let Some(json) = json {
        push(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len()));
    }
    push("\r\n");
    request.extend_from_slice(json.unwrap_or_default());
}

struct Sink {
    keeps: bool,
    length: u64,
    body: Vec<u8>,
}

impl Sink {
    fn take(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if self.keeps && self.body.len() + bytes.len() <= KEPT_LIMIT {
            self.body.extend_from_slice(bytes);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Nothing,
    Length(u64),
    Chunks,
    UntilEnd,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    framing: Framing,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let status: u16 = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let mut framing = Framing::UntilEnd;
        let mut closes = false;
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") && framing != Framing::Chunks {
                framing = Framing::Length(value.parse().ok()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
                framing = Framing::Chunks;
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.eq_ignore_ascii_case("close");
            }
        }
        if matches!(status, 100..=199 | 204 | 304) {
            framing = Framing::Nothing;
        }
        closes |= framing == Framing::UntilEnd;
        Some(Self { status, framing, closes })
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each request on a connection with the next of these, and then closes it.
    async fn answering(answers: &'static [&'static str]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                for answer in answers {
                    assert!(stream.read(&mut buffer).await.expect("a request") > 0, "the client has left");
                    // In two pieces, since nothing says where a segment ends.
                    let (first, second) = answer.split_at(answer.len() / 2);
                    for piece in [first, second] {
                        stream.write_all(piece.as_bytes()).await.expect("room");
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        Server::at(&format!("http://{address}")).await.expect("a server")
    }

    async fn answers(server: &Server, count: usize) -> Vec<Result<Answer, Failure>> {
        let mut line = Line::new(server, None);
        let mut request = Vec::new();
        write_request(&mut request, server, "GET", "/x", "t", None);
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(line.exchange(&request, Body::Keep).await);
        }
        found
    }

    #[tokio::test]
    async fn answers_of_all_kinds_are_read_from_one_connection() {
        let server = answering(&[
            "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nt: u\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\nhello",
        ])
        .await;
        let answers = answers(&server, 5).await;
        let seen: Vec<(u16, String)> = answers
            .into_iter()
            .map(|answer| answer.expect("an answer"))
            .map(|answer| (answer.status, String::from_utf8(answer.body).expect("text")))
            .collect();
        let hello = || (200, "hello".to_owned());
        assert_eq!(seen, [(204, String::new()), hello(), hello(), (404, "{}".to_owned()), hello()]);
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_short_is_a_failure_and_the_next_is_not() {
        let server = answering(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"]).await;
        for outcome in answers(&server, 2).await {
            assert_eq!(outcome, Err(Failure::Lost));
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_failure() {
        for nonsense in [&["SSH-2.0-x\r\n\r\n"], &["HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]] {
            let server = answering(nonsense).await;
            assert_eq!(answers(&server, 1).await, [Err(Failure::Unreadable)]);
        }
    }

    #[tokio::test]
    async fn nobody_at_home_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let server = Server::at(&format!("http://{address}")).await.expect("a server");
        assert_eq!(answers(&server, 1).await, [Err(Failure::Unreachable)]);
    }

    #[tokio::test]
    async fn a_request_is_written_as_it_has_to_be() {
        let server = Server::at("http://127.0.0.1:8080").await.expect("a server");
        let mut request = b"old".to_vec();
        write_request(&mut request, &server, "PATCH", "/a?b=c", "t.o.k", Some(b"[]"));
        assert_eq!(
            String::from_utf8(request).expect("text"),
            "PATCH /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer t.o.k\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"
        );
    }
}
