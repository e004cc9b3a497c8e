//! One websocket to the hub and the shell behind it.

use super::{
    TerminalSignals,
    keyboard::{Keyboard, Keys},
    screen::Screen,
    wire::{Heard, Say, decode, encode},
};
use crate::commands::operator::Operator;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitStream};
use std::time::{Duration, Instant};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle, time::MissedTickBehavior};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Error, Message as Frame, error::ProtocolError, protocol::WebSocketConfig},
};

const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// How long the device may take to start a shell; an agent that ends another one answers nobody for 6 s.
const START_LIMIT: Duration = Duration::from_secs(20);
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Without a sign of the hub for this long the connection counts as lost.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);
/// How long the last words may take.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// Messages that may wait for a slow hub; beyond that the keyboard waits.
const WAITING: usize = 32;
/// What a hub gives as the reason of a `stop` that is not the shell's own end.
const LOSSES: &[&str] = &["device disconnected", "the hub is restarting", "the link between two hub nodes was lost"];

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The shell ended by itself, as after `exit`.
    Exited,
    /// The person left.
    Left,
    /// The way to the shell broke.
    Lost(String),
    /// There is no shell to be had.
    Failed(String),
}

/// Why no session opened.
#[derive(Debug)]
pub enum Refused {
    /// The hub no longer takes the token.
    NotLoggedIn,
    /// The device is not connected.
    NotConnected,
    /// Anything else.
    Other(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLoggedIn => f.write_str("the hub no longer takes the token: run `mooring login`"),
            Self::NotConnected => f.write_str("the device is not connected"),
            Self::Other(why) => write!(f, "cannot open a terminal: {why}"),
        }
    }
}

impl std::error::Error for Refused {}

type Incoming = SplitStream<WebSocketStream<MaybeTlsStream<TcpStream>>>;

/// An open websocket to a device's shell.
#[derive(Debug)]
pub struct Session {
    incoming: Incoming,
    outgoing: mpsc::Sender<Frame>,
    writer: JoinHandle<()>,
    id: String,
    has_started: bool,
}

impl Session {
    /// Opens the websocket; the shell starts with [`serve`](Self::serve).
    pub async fn open(operator: &Operator, device: &str) -> Result<Self, Refused> {
        let request = operator.upgrade_request(device).map_err(|error| Refused::Other(format!("{error:#}")))?;
        // Every key is a packet of its own and must not wait for the next.
        let opening = connect_async_with_config(request, Some(WebSocketConfig::default()), true);
        let (socket, _answer) = match tokio::time::timeout(OPEN_LIMIT, opening).await {
            Ok(opened) => opened.map_err(refused)?,
            Err(_elapsed) => return Err(Refused::Other("the hub does not answer".to_owned())),
        };
        let (mut sink, incoming) = socket.split();
        let (outgoing, mut waiting) = mpsc::channel(WAITING);
        // Apart from the reading half: a hub that is slow to take keys still gets its pings answered.
        let writer = tokio::spawn(async move {
            while let Some(frame) = waiting.recv().await {
                if sink.send(frame).await.is_err() {
                    // The reading half learns of it too.
                    break;
                }
            }
        });
        Ok(Self { incoming, outgoing, writer, id: String::new(), has_started: false })
    }

    /// Starts a shell and passes keys and output to and fro until one side ends it.
    pub async fn serve(mut self, keyboard: &mut Keyboard, screen: &mut Screen, signals: &mut TerminalSignals) -> Ended {
        self.say(Say::New(screen.size()));
        let ended = self.relay(keyboard, screen, signals).await;
        if !matches!(ended, Ended::Lost(_)) {
            // Also after the shell's own end: the agent keeps a slot until it hears this.
            self.say(Say::Stop);
            let _full = self.outgoing.try_send(Frame::Close(None));
        }
        drop(self.outgoing);
        let _last_words = tokio::time::timeout(GOODBYE_LIMIT, &mut self.writer).await;
        self.writer.abort();
        ended
    }

    async fn relay(&mut self, keyboard: &mut Keyboard, screen: &mut Screen, signals: &mut TerminalSignals) -> Ended {
        let opened = Instant::now();
        let mut heard_last = opened;
        let mut pings = tokio::time::interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outgoing = self.outgoing.clone();
        let TerminalSignals { resized, hung_up, interrupted, terminated } = signals;
        loop {
            let is_at_end = keyboard.is_at_end();
            tokio::select! {
                frame = self.incoming.next() => {
                    heard_last = Instant::now();
                    if let Some(ended) = self.hear(frame, screen).await {
                        return ended;
                    }
                }
                (keys, permit) = next_keys(keyboard, &outgoing), if self.has_started && !is_at_end => {
                    let (typed, leaves) = match keys {
                        Keys::Typed(typed) => (typed, false),
                        Keys::Leave(typed) => (typed, true),
                        Keys::End => continue,
                    };
                    if let Some(permit) = permit.filter(|_| !typed.is_empty()) {
                        permit.send(Frame::Binary(encode(&self.id, Say::Keys(&typed)).into()));
                    }
                    if leaves {
                        return Ended::Left;
                    }
                }
                _ = resized.recv() => {
                    if let Some((width, height)) = screen.size() {
                        self.say(Say::Resize(width, height));
                    }
                }
                _ = pings.tick() => {
                    if heard_last.elapsed() > SILENCE_LIMIT {
                        return Ended::Lost("the hub is silent".to_owned());
                    }
                    let _full = self.outgoing.try_send(Frame::Ping(Bytes::from_static(b"60")));
                }
                () = tokio::time::sleep_until((opened + START_LIMIT).into()), if !self.has_started => {
                    return Ended::Failed("the device does not start a shell".to_owned());
                }
                _ = hung_up.recv() => return Ended::Left,
                _ = interrupted.recv() => return Ended::Left,
                _ = terminated.recv() => return Ended::Left,
            }
        }
    }

    async fn hear(&mut self, frame: Option<Result<Frame, Error>>, screen: &mut Screen) -> Option<Ended> {
        let bytes = match frame {
            Some(Ok(frame @ (Frame::Binary(_) | Frame::Text(_)))) => frame.into_data(),
            Some(Ok(Frame::Close(frame))) => {
                let reason = frame.map(|frame| frame.reason.to_string()).filter(|reason| !reason.is_empty());
                return Some(Ended::Lost(reason.unwrap_or_else(|| "closed by the hub".to_owned())));
            }
            // Pings are answered by the library.
            Some(Ok(_)) => return None,
            // How a killed hub, or a network between, looks from here.
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                return Some(Ended::Lost("it broke off".to_owned()));
            }
            Some(Err(error)) => return Some(Ended::Lost(error.to_string())),
            None => return Some(Ended::Lost("closed by the hub".to_owned())),
        };
        match decode(&bytes) {
            Ok(Heard::Started(id)) => {
                self.id = id;
                self.has_started = true;
            }
            Ok(Heard::Printed(bytes)) => {
                if let Err(error) = screen.show(&bytes).await {
                    return Some(Ended::Failed(format!("cannot write to standard output: {error}")));
                }
            }
            Ok(Heard::Ping) => self.say(Say::Pong),
            Ok(Heard::Stopped(why)) => return Some(stopped(why)),
            Ok(Heard::Refused(why)) if self.has_started => return Some(Ended::Lost(why)),
            Ok(Heard::Refused(why)) => return Some(Ended::Failed(why)),
            Ok(Heard::Other) => {}
            Err(error) => return Some(Ended::Lost(format!("unreadable message: {error}"))),
        }
        None
    }

    /// Says it if the hub listens; whoever does not take 32 messages takes no 33rd.
    fn say(&self, say: Say<'_>) {
        let _full = self.outgoing.try_send(Frame::Binary(encode(&self.id, say).into()));
    }
}

/// The next keys, once there is room to send them.
async fn next_keys<'a>(
    keyboard: &mut Keyboard,
    outgoing: &'a mpsc::Sender<Frame>,
) -> (Keys, Option<mpsc::Permit<'a, Frame>>) {
    // An error means that the writer has ended, which the reading half reports.
    let permit = outgoing.reserve().await.ok();
    (keyboard.next().await, permit)
}

fn stopped(why: String) -> Ended {
    if LOSSES.iter().any(|loss| why.contains(loss)) {
        return Ended::Lost(why);
    }
    if why.starts_with("session ended:") {
        return Ended::Failed(why);
    }
    Ended::Exited
}

fn refused(error: Error) -> Refused {
    match error {
        Error::Http(answer) => match answer.status().as_u16() {
            401 => Refused::NotLoggedIn,
            404 => Refused::NotConnected,
            status => Refused::Other(format!("the hub answered with status {status}")),
        },
        other => Refused::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shells_own_end_is_told_from_a_lost_way_to_it() {
        let ended = |why: &str| stopped(why.to_owned());
        assert_eq!(ended("read /dev/ptmx: input/output error"), Ended::Exited);
        assert_eq!(ended(""), Ended::Exited);
        assert!(matches!(ended("device disconnected"), Ended::Lost(_)));
        assert!(matches!(ended("session ended: the hub is restarting"), Ended::Lost(_)));
        assert!(matches!(ended("session ended: access was withdrawn"), Ended::Failed(_)));
    }
}
