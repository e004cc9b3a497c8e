//! A client of the hub's event stream, as a browser's would be.

use std::time::Duration;

use serde_json::Value;

use crate::answer::Answer;
use crate::user::TestUser;
use crate::wait::{LIMIT, within};

/// An open event stream.
pub struct EventStream {
    response: reqwest::Response,
    unread: Vec<u8>,
    /// What to send as `Last-Event-ID` to go on here.
    pub position: i64,
    /// Comments heard so far.
    pub comments: usize,
}

/// An event as the hub told it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerEvent {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub kind: String,
    /// Its data.
    pub data: Value,
}

impl EventStream {
    /// Listens from now on, or from after an event; `query` filters.
    ///
    /// # Panics
    /// When refused.
    pub async fn open(user: &TestUser, query: &str, after: Option<i64>) -> Self {
        Self::try_open(user, query, after).await.unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// The same.
    ///
    /// # Errors
    /// The refusal.
    pub async fn try_open(user: &TestUser, query: &str, after: Option<i64>) -> Result<Self, Answer> {
        let path = format!("/api/management/v1/mooring/events?{query}");
        let mut request = user.request("GET", &path).timeout(Duration::from_mins(5));
        request = request.header("Accept", "text/event-stream").header("Accept-Encoding", "gzip");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after.to_string());
        }
        let response = request.send().await.expect("the hub answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status != 200 {
            let body = response.bytes().await.expect("the body of a refusal");
            return Err(Answer::new(format!("GET {path}"), status, headers, body));
        }
        assert_eq!(headers.get("content-type").map(|value| value.to_str().expect("text")), Some("text/event-stream"));
        assert_eq!(headers.get("content-encoding"), None, "what is live is not held back");
        let mut stream = Self { response, unread: vec![], position: 0, comments: 0 };
        // The first thing that is said is the position.
        let first = stream.block().await.expect("a position");
        stream.read(&first);
        Ok(stream)
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<ServerEvent> {
        loop {
            let block = self.block().await?;
            if let Some(event) = self.read(&block) {
                return Some(event);
            }
        }
    }

    /// The next event, which has to come in time.
    ///
    /// # Panics
    /// When the stream ends.
    pub async fn hear(&mut self) -> ServerEvent {
        within(LIMIT, "an event", self.next()).await.expect("the stream goes on")
    }

    /// The next event of this kind and device.
    pub async fn hear_of(&mut self, kind: &str, device: &str) -> ServerEvent {
        loop {
            let event = self.hear().await;
            if event.kind == kind && event.data["device"] == device {
                return event;
            }
        }
    }

    /// The next event of this kind and deployment.
    pub async fn hear_of_deployment(&mut self, kind: &str, deployment: &str) -> ServerEvent {
        loop {
            let event = self.hear().await;
            if event.kind == kind && event.data["deployment"] == deployment {
                return event;
            }
        }
    }

    /// Waits until the hub ends the stream.
    pub async fn end(&mut self, limit: Duration) {
        within(limit, "the end of an event stream", async { while self.next().await.is_some() {} }).await;
    }

    /// Waits for a sign of life that is no event.
    pub async fn comment(&mut self, limit: Duration) {
        let before = self.comments;
        let waiting = async {
            while self.comments == before {
                let block = self.block().await.expect("the stream goes on");
                assert_eq!(self.read(&block), None, "an event in place of a comment");
            }
        };
        within(limit, "a comment", waiting).await;
    }

    /// Lines up to an empty one.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Some(String::from_utf8(block).expect("the stream is text"));
            }
            // A stream that is cut has ended for its reader.
            let chunk = self.response.chunk().await.unwrap_or(None)?;
            self.unread.extend_from_slice(&chunk);
        }
    }

    fn read(&mut self, block: &str) -> Option<ServerEvent> {
        let (mut kind, mut data) = (String::new(), None);
        for line in block.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            match name {
                "id" => self.position = value.parse().expect("a number"),
                "event" => value.clone_into(&mut kind),
                "data" => data = Some(serde_json::from_str(value).expect("JSON")),
                "retry" => assert!(value.parse::<u32>().is_ok(), "{line}"),
                "" => self.comments += 1,
                other => panic!("an unknown field {other}"),
            }
        }
        let data: Value = data?;
        Some(ServerEvent { id: self.position, kind, data })
    }
}
