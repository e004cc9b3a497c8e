//! The hub's stream of events (server-sent events), read with the moment at which each piece arrived.

use std::time::Instant;

use anyhow::{Context, bail};
use serde::Deserialize;

/// A stream without an end of an event within so many bytes is none.
const EVENT_LIMIT: usize = 1 << 20;

/// An open stream.
#[derive(Debug)]
pub struct EventFeed {
    answer: reqwest::Response,
    unread: Vec<u8>,
    arrived: Instant,
    /// Where to go on after a loss.
    position: Option<i64>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HubEvent {
    /// What happened, e.g. `alert`; `gap` says that events are missing.
    pub kind: String,
    /// On which device.
    #[serde(default)]
    pub device: Option<String>,
    /// Of an alert: its name.
    #[serde(default)]
    pub name: Option<String>,
}

impl EventFeed {
    /// The stream that this answer is; returns once the hub has said where it begins.
    pub(crate) async fn begin(answer: reqwest::Response) -> anyhow::Result<Self> {
        let mut feed = Self { answer, unread: Vec::new(), arrived: Instant::now(), position: None };
        let first = feed.block().await?.context("the event stream ended before it began")?;
        feed.read(&first)?;
        if feed.position.is_none() {
            bail!("the event stream does not begin with a position");
        }
        Ok(feed)
    }

    /// Where to go on after a loss.
    pub fn position(&self) -> Option<i64> {
        self.position
    }

    /// The next event and when it arrived; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the hub sends what is no event.
    pub async fn next(&mut self) -> anyhow::Result<Option<(HubEvent, Instant)>> {
        while let Some(block) = self.block().await? {
            if let Some(event) = self.read(&block)? {
                return Ok(Some((event, self.arrived)));
            }
        }
        Ok(None)
    }

    /// Lines up to an empty one.
    async fn block(&mut self) -> anyhow::Result<Option<String>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.unread[searched..].windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..searched + end + 2).collect();
                return Ok(Some(String::from_utf8(block).context("the event stream is no text")?));
            }
            if self.unread.len() > EVENT_LIMIT {
                bail!("an event of more than {EVENT_LIMIT} bytes");
            }
            searched = self.unread.len().saturating_sub(1);
            // A stream that is cut has ended for its reader.
            let Ok(Some(chunk)) = self.answer.chunk().await else { return Ok(None) };
            self.arrived = Instant::now();
            self.unread.extend_from_slice(&chunk);
        }
    }

    fn read(&mut self, block: &str) -> anyhow::Result<Option<HubEvent>> {
        let mut event = None;
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => self.position = Some(id.parse().context("the id of an event is no number")?),
                Some(("data", data)) => event = Some(serde_json::from_str(data).context("cannot read an event")?),
                _ => {}
            }
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// The answer of a server that streams these pieces and closes.
    async fn streaming(pieces: &'static [&'static str]) -> reqwest::Response {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.expect("a request") > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.expect("room");
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.expect("room");
                tokio::task::yield_now().await;
            }
        });
        crate::install_tls_provider();
        reqwest::Client::builder().no_proxy().build().expect("a client").get(url).send().await.expect("an answer")
    }

    #[tokio::test]
    async fn events_are_read_however_they_are_cut() {
        let answer = streaming(&[
            "retry: 1000\nid: 6\n\n: still here\nid: 7\n\nid: 8\nevent: alert\nda",
            "ta: {\"kind\":\"alert\",\"device\":\"d\",\"name\":\"n\",\"more\":1}\n",
            "\nid: 9\nevent: gap\ndata: {\"kind\":\"gap\",\"from\":10}\n\n",
        ])
        .await;
        let mut feed = EventFeed::begin(answer).await.expect("a beginning");
        assert_eq!(feed.position(), Some(6));

        let (alert, _) = feed.next().await.expect("readable").expect("an event");
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(alert, HubEvent { kind: "alert".to_owned(), device: text("d"), name: text("n") });
        let (gap, _) = feed.next().await.expect("readable").expect("an event");
        assert_eq!((gap.kind.as_str(), feed.position()), ("gap", Some(9)));
        assert_eq!(feed.next().await.expect("readable"), None);
    }

    #[tokio::test]
    async fn what_is_no_stream_of_events_is_refused() {
        for nonsense in [&["hello\n\n"][..], &[], &["id: x\n\n"]] {
            assert!(EventFeed::begin(streaming(nonsense).await).await.is_err(), "{nonsense:?}");
        }
    }
}
