//! One websocket to the hub: opened, kept alive, and given up when the hub is silent.

use super::Operator;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitStream};
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{Interval, MissedTickBehavior},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Error, Message as Frame, error::ProtocolError, protocol::WebSocketConfig},
};

const OPEN_LIMIT: Duration = Duration::from_secs(20);
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Without a sign of the hub for this long the connection counts as lost.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);
/// How long the last words may take.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// Messages that may wait for a slow hub.
const WAITING: usize = 64;
/// What the hub itself takes at most, so it sends no more either.
const LARGEST_MESSAGE: usize = 8 << 20;

/// Why no websocket opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The hub no longer takes the token.
    NotLoggedIn,
    /// What was asked for is not there: the device is away, the session has ended, or the hub knows no such path. With
    /// the hub's own words, as far as they came with its answer.
    NotThere(String),
    /// Somebody else has it.
    InUse,
    /// The request makes no sense to the hub.
    Pointless(String),
    /// Anything else: the hub may be away.
    Other(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLoggedIn => f.write_str("the hub no longer takes the token: run `mooring login`"),
            Self::NotThere(why) if why.is_empty() => f.write_str("the hub knows no such thing"),
            Self::InUse => f.write_str("somebody else uses it"),
            Self::NotThere(why) | Self::Pointless(why) | Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refused {}

/// A websocket to the hub.
#[derive(Debug)]
pub struct Socket {
    incoming: SplitStream<WebSocketStream<MaybeTlsStream<TcpStream>>>,
    outgoing: mpsc::Sender<Frame>,
    writer: JoinHandle<()>,
    pings: Interval,
    heard_last: Instant,
}

impl Socket {
    /// Opens a websocket at this path of the hub.
    pub async fn open(operator: &Operator, path: &str) -> Result<Self, Refused> {
        let request = operator.upgrade_request(path).map_err(|error| Refused::Other(format!("{error:#}")))?;
        let config =
            WebSocketConfig::default().max_message_size(Some(LARGEST_MESSAGE)).max_frame_size(Some(LARGEST_MESSAGE));
        // Every key is a packet of its own and must not wait for the next.
        let opening = connect_async_with_config(request, Some(config), true);
        let (socket, _answer) = match tokio::time::timeout(OPEN_LIMIT, opening).await {
            Ok(opened) => opened.map_err(refused)?,
            Err(_elapsed) => return Err(Refused::Other("the hub does not answer".to_owned())),
        };
        let (mut sink, incoming) = socket.split();
        let (outgoing, mut waiting) = mpsc::channel(WAITING);
        // Apart from the reading half: a hub that is slow to take messages still gets its pings answered.
        let writer = tokio::spawn(async move {
            while let Some(frame) = waiting.recv().await {
                let is_last = matches!(frame, Frame::Close(_));
                // Of an error the reading half learns too.
                if sink.send(frame).await.is_err() || is_last {
                    break;
                }
            }
        });
        let mut pings = tokio::time::interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { incoming, outgoing, writer, pings, heard_last: Instant::now() })
    }

    /// Where messages for the hub go. Whoever sends waits for a slow hub.
    pub fn outgoing(&self) -> &mpsc::Sender<Frame> {
        &self.outgoing
    }

    /// Says it if the hub listens; whoever does not take 64 messages takes no 65th.
    pub fn say(&self, message: Vec<u8>) {
        let _full = self.outgoing.try_send(Frame::Binary(message.into()));
    }

    /// The next message, or why there will be none. Nothing is lost when this is called off.
    pub async fn next(&mut self) -> Result<Bytes, String> {
        loop {
            tokio::select! {
                frame = self.incoming.next() => {
                    self.heard_last = Instant::now();
                    if let Some(message) = message(frame)? {
                        return Ok(message);
                    }
                }
                _ = self.pings.tick() => {
                    if self.heard_last.elapsed() > SILENCE_LIMIT {
                        return Err("the hub is silent".to_owned());
                    }
                    let _full = self.outgoing.try_send(Frame::Ping(Bytes::from_static(b"60")));
                }
            }
        }
    }

    /// Says what still waits to be said, then closes the websocket.
    pub async fn close(mut self) {
        let last_words = async {
            let _gone = self.outgoing.send(Frame::Close(None)).await;
            let _ended = (&mut self.writer).await;
        };
        let _in_time = tokio::time::timeout(GOODBYE_LIMIT, last_words).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// The message in a frame, if it is one.
fn message(frame: Option<Result<Frame, Error>>) -> Result<Option<Bytes>, String> {
    match frame {
        Some(Ok(frame @ (Frame::Binary(_) | Frame::Text(_)))) => Ok(Some(frame.into_data())),
        Some(Ok(Frame::Close(frame))) => {
            let reason = frame.map(|frame| frame.reason.to_string()).filter(|reason| !reason.is_empty());
            Err(reason.unwrap_or_else(|| "closed by the hub".to_owned()))
        }
        // Pings are answered by the library.
        Some(Ok(_)) => Ok(None),
        // How a killed hub, or a network between, looks from here.
        Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => Err("it broke off".to_owned()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("closed by the hub".to_owned()),
    }
}

fn refused(error: Error) -> Refused {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let Error::Http(answer) = error else { return Refused::Other(format!("cannot reach the hub: {error}")) };
    let body = answer.body().as_deref().unwrap_or_default();
    // What came in the same packet as the headers; often nothing.
    let why = serde_json::from_slice(body).map_or_else(|_| String::new(), |refusal: Refusal| refusal.error);
    let why = super::message::printable(&why);
    match answer.status().as_u16() {
        401 => Refused::NotLoggedIn,
        404 => Refused::NotThere(why),
        409 => Refused::InUse,
        status if why.is_empty() => match status {
            400..=499 => Refused::Pointless(format!("the hub answered with status {status}")),
            _ => Refused::Other(format!("the hub answered with status {status}")),
        },
        status @ 400..=499 if status != 429 => Refused::Pointless(format!("the hub refused: {why} (status {status})")),
        status => Refused::Other(format!("the hub refused: {why} (status {status})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::http::Response;

    fn answer(status: u16, body: &str) -> Refused {
        let body = Some(body.as_bytes().to_vec());
        let response = Response::builder().status(status).body(body).expect("a response");
        refused(Error::Http(response.into()))
    }

    #[test]
    fn what_the_hub_refuses_is_told_in_its_words() {
        assert_eq!(answer(401, ""), Refused::NotLoggedIn);
        assert_eq!(answer(404, r#"{"error":"not found"}"#), Refused::NotThere("not found".to_owned()));
        assert_eq!(answer(404, ""), Refused::NotThere(String::new()));
        assert_eq!(answer(409, ""), Refused::InUse);
        let limit = answer(503, r#"{"error":"too many\nsessions","request_id":"1"}"#);
        assert_eq!(limit, Refused::Other("the hub refused: too many sessions (status 503)".to_owned()));
        assert_eq!(answer(502, "<html>"), Refused::Other("the hub answered with status 502".to_owned()));
    }
}
