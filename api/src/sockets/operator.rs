//! The actor of one operator's websocket: their part in one session.
//!
//! The session's host talks to it, through the switchboard if on another node. When it dies, for whatever reason, the host
//! is told, which decides whether the session goes on.

use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Handler, StreamHandler, WrapFuture};
use actix_http::ws::{CloseCode, Message, ProtocolError};
use actix_web_actors::ws::WebsocketContext;
use actors::bus::{Answer, Question};
use actors::gate::Refusal;
use actors::operator_link::{Heard, OperatorLink};
use actors::registry::ConnectedOperator;
use actors::session::attachment::{AttachedSays, Client, Join, Leave, Mode, SessionSide, ToAttached};
use actors::session::host::{Beginning, SessionHost};
use actors::session::{SOCKET_MAILBOX, SessionEnd, charge};
use storage::{AttachmentId, SessionId, TokenId, UserId};
use tracing::debug;

use super::device::Events;
use super::pump::{End, Flow, SocketEvent};
use super::upgrade::SocketState;

/// Answers of the hub's own are left out while this much waits for an operator who does not read.
const REPLY_LIMIT: usize = 64 * 1024;

/// How often an operator's actor makes sure that there is still a session.
const CHECK_SESSION: Duration = Duration::from_secs(2);

/// How long the answer to a wish to leave may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Questions to the session's node that may go unanswered before it is taken for dead.
const UNANSWERED_LIMIT: u8 = 2;

/// One operator's part in a session.
pub(super) struct OperatorSocket {
    session: SessionId,
    attachment: AttachmentId,
    user: UserId,
    token: TokenId,
    link: OperatorLink,
    /// `None` until it has begun.
    side: Option<SessionSide>,
    flow: Rc<Flow>,
    /// For [`Actor::started`].
    start: Option<(Events, Way, Mode, Client, String)>,
    shared: Rc<SocketState>,
    /// Credit for output that has reached the operator and was not yet given back.
    unreturned: usize,
    unanswered: u8,
    how: Leave,
    has_entered: bool,
}

/// Which session.
pub(super) enum Way {
    /// A new one.
    Begin(Beginning),
    /// One that is there.
    Attach(SessionSide),
}

/// What an operator's socket is opened with.
pub(super) struct Opening {
    pub(super) session: SessionId,
    pub(super) user: UserId,
    pub(super) token: TokenId,
    pub(super) credential: String,
    pub(super) way: Way,
    pub(super) mode: Mode,
    pub(super) client: Client,
}

impl OperatorSocket {
    pub(super) fn new(opening: Opening, flow: Rc<Flow>, events: Events, shared: Rc<SocketState>) -> Self {
        let Opening { session, user, token, credential, way, mode, client } = opening;
        let is_ours = client != Client::Stock;
        Self {
            link: OperatorLink::new(session, user.clone(), shared.sessions.to_device_window, is_ours),
            session,
            attachment: AttachmentId::random(),
            user,
            token,
            side: None,
            flow,
            start: Some((events, way, mode, client, credential)),
            shared,
            unreturned: 0,
            unanswered: 0,
            how: Leave::Lost,
            has_entered: false,
        }
    }

    /// Says something to the session; without one, the socket ends.
    fn tell(&mut self, says: AttachedSays, ctx: &mut WebsocketContext<Self>) {
        let Some(side) = &self.side else { return };
        if side.send(&self.shared.tree.bus, self.session, self.attachment, says, None).is_err() {
            self.end(ctx, SessionEnd::LinkLost);
        }
    }

    /// Sends the session what credit allows; the socket is read again when nothing waits.
    fn pass_on(&mut self, ctx: &mut WebsocketContext<Self>) {
        while let Some((number, message)) = self.link.next_for_device() {
            self.tell(AttachedSays::Deliver { number, message }, ctx);
        }
        if self.link.is_backlogged() { self.flow.pause() } else { self.flow.resume() }
    }

    fn say(&mut self, message: bytes::Bytes, ctx: &mut WebsocketContext<Self>) {
        self.flow.hand_over(message.len());
        ctx.binary(message);
    }

    fn end(&mut self, ctx: &mut WebsocketContext<Self>, why: SessionEnd) {
        if let Some(stop) = self.link.farewell(why) {
            self.say(stop, ctx);
        }
        let code = match why {
            SessionEnd::DeviceGone(_)
            | SessionEnd::OperatorLeft
            | SessionEnd::OperatorGone
            | SessionEnd::ShellEnded => CloseCode::Normal,
            SessionEnd::NodeShutdown | SessionEnd::Moved => CloseCode::Restart,
            SessionEnd::AccessWithdrawn | SessionEnd::OperatorTooSlow => CloseCode::Policy,
            SessionEnd::TooManySessions => CloseCode::Again,
            SessionEnd::LinkLost | SessionEnd::HubFault => CloseCode::Error,
        };
        if why == SessionEnd::AccessWithdrawn {
            self.how = Leave::Refused;
        }
        ctx.close(Some((code, why.text()).into()));
        ctx.stop();
    }

    fn close_detached(ctx: &mut WebsocketContext<Self>) {
        ctx.close(Some((CloseCode::Normal, "detached").into()));
        ctx.stop();
    }

    fn check_session(&mut self, ctx: &mut WebsocketContext<Self>) {
        let Some(side) = &self.side else { return };
        if side.is_gone() {
            return self.end(ctx, SessionEnd::HubFault);
        }
        let Some(node) = side.node() else { return };
        let (reach, session) = (self.shared.tree.reach.clone(), self.session);
        let question = async move { reach.ask(node, Question::HasSession(session)).await };
        ctx.spawn(question.into_actor(self).map(|answer, socket, ctx| match answer {
            Some(Answer::Session(_)) => socket.unanswered = 0,
            // Its client comes back, and the session goes on here.
            Some(_) => socket.end(ctx, SessionEnd::Moved),
            None => {
                socket.unanswered += 1;
                if socket.unanswered >= UNANSWERED_LIMIT {
                    socket.end(ctx, SessionEnd::LinkLost);
                }
            }
        }));
    }
}

impl Actor for OperatorSocket {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SOCKET_MAILBOX);
        let Some((events, way, mode, client, credential)) = self.start.take() else { return };
        ctx.add_stream(events);
        let host_node = if let Way::Attach(side) = &way { side.node() } else { None };
        let operator =
            ConnectedOperator { user: self.user.clone(), token: self.token, to: ctx.address().recipient(), host_node };
        let limit = self.shared.sessions.per_user;
        if self.shared.tree.registry.enter_operator(self.attachment, operator, limit).is_err() {
            return self.end(ctx, SessionEnd::TooManySessions);
        }
        self.has_entered = true;
        let side = match way {
            Way::Begin(beginning) => SessionSide::Here(SessionHost::open(self.shared.hosts(), beginning)),
            Way::Attach(side) => side,
        };
        let join = Join { attachment: self.attachment, user: self.user.clone(), mode, client };
        let way_back = Some(ctx.address().recipient());
        let says = AttachedSays::Join(join);
        let joined = side.send(&self.shared.tree.bus, self.session, self.attachment, says, way_back);
        self.side = Some(side);
        if joined.is_err() {
            return self.end(ctx, SessionEnd::LinkLost);
        }
        ctx.run_interval(CHECK_SESSION, Self::check_session);
        // Access withdrawn between the handshake and the registry would have found nobody to cut.
        let gate = self.shared.gate.clone();
        ctx.spawn(async move { gate.user(&credential).await }.into_actor(self).map(|verdict, socket, ctx| {
            if matches!(verdict, Err(Refusal::Refused(_))) {
                socket.end(ctx, SessionEnd::AccessWithdrawn);
            }
        }));
    }
}

impl Drop for OperatorSocket {
    fn drop(&mut self) {
        self.shared.count.leave();
        if self.has_entered {
            self.shared.tree.registry.leave_operator(self.attachment);
        }
        if let Some(side) = &self.side {
            let leave = AttachedSays::Leave(self.how);
            let _ = side.send(&self.shared.tree.bus, self.session, self.attachment, leave, None);
        }
    }
}

impl StreamHandler<SocketEvent> for OperatorSocket {
    fn handle(&mut self, event: SocketEvent, ctx: &mut Self::Context) {
        match event {
            SocketEvent::Message(message) => match self.link.hear(&message) {
                Ok(Heard::Accepted) => self.pass_on(ctx),
                Ok(Heard::Refused(answer)) => {
                    if self.flow.unwritten() < REPLY_LIMIT {
                        self.say(answer, ctx);
                    }
                }
                Ok(Heard::Seen(output)) => self.tell(AttachedSays::Seen { output }, ctx),
                Ok(Heard::Leave) => {
                    self.how = Leave::Detached;
                    self.tell(AttachedSays::Leave(self.how), ctx);
                    // Whoever comes after the answer finds the place free; a host that does not answer is not waited for.
                    ctx.run_later(LEAVE_LIMIT, |_, ctx| Self::close_detached(ctx));
                }
                Err(error) => {
                    debug!(session.id = %self.session, %error, "closing a session that does not keep to the protocol");
                    ctx.close(Some((CloseCode::Invalid, "not a message").into()));
                    ctx.stop();
                }
            },
            SocketEvent::Room => {
                let bytes = std::mem::take(&mut self.unreturned);
                if bytes > 0 {
                    self.tell(AttachedSays::Took { bytes }, ctx);
                }
            }
            SocketEvent::Ended(end) => {
                if end != End::Closed {
                    debug!(session.id = %self.session, ?end, "an operator's socket ended");
                }
                if let Some(reason) = end.close_reason() {
                    ctx.close(Some(reason));
                }
                ctx.stop();
            }
        }
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl StreamHandler<Result<Message, ProtocolError>> for OperatorSocket {
    /// The context asks for a payload stream; ours never yields, since frames come as [`SocketEvent`]s.
    fn handle(&mut self, _: Result<Message, ProtocolError>, _: &mut Self::Context) {}

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<ToAttached> for OperatorSocket {
    type Result = ();

    fn handle(&mut self, message: ToAttached, ctx: &mut Self::Context) {
        match message {
            ToAttached::Deliver { number, message } => {
                if !self.link.from_session(number, &message) {
                    return self.end(ctx, SessionEnd::LinkLost);
                }
                self.unreturned += charge(message.len());
                self.say(message, ctx);
                if self.unreturned >= self.shared.sessions.to_operator_window / 4 {
                    self.flow.ask_for_room();
                }
            }
            ToAttached::Credit { bytes } => {
                self.link.credit(bytes);
                self.pass_on(ctx);
            }
            ToAttached::End { why } => self.end(ctx, why),
            ToAttached::Left => Self::close_detached(ctx),
            ToAttached::Refused(refused) => {
                ctx.close(Some((CloseCode::Policy, refused.to_string()).into()));
                ctx.stop();
            }
        }
    }
}
