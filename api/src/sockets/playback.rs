//! The actor of a websocket on which somebody watches a recording.
//!
//! It holds one chunk of the recording and sends as fast as was asked and the viewer takes it. When it dies, nothing is
//! left of it: a viewer starts again. (`deviceconnect-44`, `deviceconnect-45`)

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, StreamHandler, WrapFuture};
use actix_http::ws::{CloseCode, Message, ProtocolError};
use actix_web_actors::ws::WebsocketContext;
use actors::gate::Refusal;
use actors::recording::Frame;
use actors::recording::playback::Script;
use futures_util::{Stream, StreamExt};
use storage::{SessionId, StorageError};
use tracing::warn;

use super::device::Events;
use super::pump::{Flow, SocketEvent};
use super::upgrade::SocketState;

/// Before the first message: the web UI listens only once it has drawn itself anew, and loses what comes earlier than
/// 100 ms after the handshake.
const OVERTURE: Duration = Duration::from_millis(150);

/// Between two messages, unless somebody asks for another time.
pub(super) const USUAL_PAUSE: Duration = Duration::from_millis(100);

/// The longest time between two messages, whatever somebody asks for: the web UI takes a second of silence for the end.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// No more than this waits for the socket at once.
const HIGH_WATER: usize = 16 * 1024;

/// How often it makes sure that the viewer may still watch.
const CHECK_ACCESS: Duration = Duration::from_secs(5);

/// What is left of a recording.
pub(super) type Frames = Pin<Box<dyn Stream<Item = Result<Frame, StorageError>> + Send>>;

/// One viewer of one recording.
pub(super) struct PlaybackSocket {
    session: SessionId,
    /// What to send next, and what comes after it; elsewhere while they are being read.
    reel: Option<(Script, Frames)>,
    pause: Duration,
    /// The pause after the last message is over.
    is_due: bool,
    /// All has been read.
    is_over: bool,
    flow: Rc<Flow>,
    /// For [`Actor::started`].
    start: Option<(Events, String)>,
    shared: Rc<SocketState>,
}

/// What a viewer's socket is opened with.
pub(super) struct Opening {
    pub(super) session: SessionId,
    pub(super) frames: Frames,
    pub(super) pause: Duration,
    pub(super) credential: String,
}

impl PlaybackSocket {
    pub(super) fn new(opening: Opening, flow: Rc<Flow>, events: Events, shared: Rc<SocketState>) -> Self {
        let Opening { session, frames, pause, credential } = opening;
        Self {
            session,
            reel: Some((Script::of(session), frames)),
            pause,
            is_due: false,
            is_over: false,
            flow,
            start: Some((events, credential)),
            shared,
        }
    }

    /// Sends what is due, and has the next message ready by the time it is due.
    fn play(&mut self, ctx: &mut WebsocketContext<Self>) {
        // While it is elsewhere, this is called again when it is back.
        while let Some((script, _)) = &mut self.reel {
            if !script.is_ready() && !self.is_over {
                return self.read(ctx);
            }
            if !self.is_due {
                return;
            }
            if self.shared.tree.is_draining() {
                return close(ctx, CloseCode::Restart, "the hub is restarting");
            }
            if self.flow.unwritten() > HIGH_WATER {
                return self.flow.ask_for_room();
            }
            let Some(message) = script.next_message() else { return close(ctx, CloseCode::Normal, "") };
            self.flow.hand_over(message.len());
            ctx.binary(message);
            if !self.pause.is_zero() {
                self.wait(self.pause, ctx);
            }
        }
    }

    fn wait(&mut self, pause: Duration, ctx: &mut WebsocketContext<Self>) {
        self.is_due = false;
        ctx.run_later(pause, |socket, ctx| {
            socket.is_due = true;
            socket.play(ctx);
        });
    }

    fn read(&mut self, ctx: &mut WebsocketContext<Self>) {
        let Some((mut script, mut frames)) = self.reel.take() else { return };
        let reading = async move {
            let outcome = read_on(&mut script, &mut frames).await;
            (script, frames, outcome)
        };
        ctx.spawn(reading.into_actor(self).map(|(script, frames, outcome), socket, ctx| {
            socket.reel = Some((script, frames));
            match outcome {
                Ok(is_over) => {
                    socket.is_over = is_over;
                    socket.play(ctx);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(session.id = %socket.session, error, "a recording cannot be played to its end");
                    close(ctx, CloseCode::Error, "the recording cannot be read");
                }
            }
        }));
    }
}

/// Reads until there is something to send. Whether that was the end.
async fn read_on(script: &mut Script, frames: &mut Frames) -> Result<bool, StorageError> {
    while !script.is_ready() {
        let Some(frame) = frames.next().await else {
            script.finish();
            return Ok(true);
        };
        script.follow(frame?);
    }
    Ok(false)
}

fn close(ctx: &mut WebsocketContext<PlaybackSocket>, code: CloseCode, why: &str) {
    ctx.close(Some((code, why).into()));
    ctx.stop();
}

impl Actor for PlaybackSocket {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some((events, credential)) = self.start.take() else { return };
        ctx.add_stream(events);
        self.wait(OVERTURE, ctx);
        self.play(ctx);
        ctx.run_interval(CHECK_ACCESS, move |socket, ctx| {
            let (gate, credential) = (socket.shared.gate.clone(), credential.clone());
            let asking = async move { gate.user(&credential).await };
            ctx.spawn(asking.into_actor(socket).map(|verdict, _, ctx| {
                if matches!(verdict, Err(Refusal::Refused(_))) {
                    close(ctx, CloseCode::Policy, "access was withdrawn");
                }
            }));
        });
    }
}

impl Drop for PlaybackSocket {
    fn drop(&mut self) {
        self.shared.count.leave();
    }
}

impl StreamHandler<SocketEvent> for PlaybackSocket {
    fn handle(&mut self, event: SocketEvent, ctx: &mut Self::Context) {
        match event {
            // A viewer has nothing to say.
            SocketEvent::Message(_) => {}
            SocketEvent::Room => self.play(ctx),
            SocketEvent::Ended(end) => {
                if let Some(reason) = end.close_reason() {
                    ctx.close(Some(reason));
                }
                ctx.stop();
            }
        }
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl StreamHandler<Result<Message, ProtocolError>> for PlaybackSocket {
    /// The context asks for a payload stream; ours never yields, since frames come as [`SocketEvent`]s.
    fn handle(&mut self, _: Result<Message, ProtocolError>, _: &mut Self::Context) {}

    fn finished(&mut self, _: &mut Self::Context) {}
}
