//! The actor of one operator's websocket: one session on one device.
//!
//! Its device's actor talks to it, through the switchboard if on another node. When it dies, for whatever reason, the
//! device's end is told, which stops what the session left running on the device.

use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Handler, StreamHandler, WrapFuture};
use actix_http::ws::{CloseCode, Message, ProtocolError};
use actix_web_actors::ws::WebsocketContext;
use actors::bus::DisconnectReason;
use actors::gate::Refusal;
use actors::operator_link::{Heard, OperatorLink};
use actors::registry::ConnectedOperator;
use actors::session::{DeviceEnd, OperatorEnd, SOCKET_MAILBOX, SessionEnd, ToDevice, ToOperator, charge};
use storage::{
    DeviceId, NodeId, OpenedSession, SessionChange, SessionFigures, SessionId, SessionKind, TokenId, UserId, clock,
};
use tracing::{debug, info};

use super::device::Events;
use super::pump::{End, Flow, SocketEvent};
use super::upgrade::SocketState;

/// Answers of the hub's own are left out while this much waits for an operator who does not read.
const REPLY_LIMIT: usize = 64 * 1024;

/// How often an operator's actor makes sure that there is still a device's.
const LOOK_FOR_THE_DEVICE: Duration = Duration::from_secs(2);

/// One operator's session.
pub(super) struct OperatorSocket {
    session: SessionId,
    user: UserId,
    token: TokenId,
    link: OperatorLink,
    device: DeviceEnd,
    device_id: DeviceId,
    device_node: Option<NodeId>,
    /// Why it ended; its operator left unless something else was found first.
    reason: &'static str,
    flow: Rc<Flow>,
    /// For [`Actor::started`]: the messages, and the credential the operator came with.
    start: Option<(Events, String)>,
    shared: Rc<SocketState>,
    /// Credit for the device's output that has reached the operator and was not yet given back.
    unreturned: usize,
    has_entered: bool,
}

/// What an operator's socket is opened with.
pub(super) struct Opening {
    pub(super) session: SessionId,
    pub(super) user: UserId,
    pub(super) token: TokenId,
    pub(super) credential: String,
    pub(super) device: DeviceEnd,
    pub(super) device_id: DeviceId,
    pub(super) device_node: Option<NodeId>,
}

impl OperatorSocket {
    pub(super) fn new(opening: Opening, flow: Rc<Flow>, events: Events, shared: Rc<SocketState>) -> Self {
        let Opening { session, user, token, credential, device, device_id, device_node } = opening;
        Self {
            link: OperatorLink::new(session, user.clone(), shared.sessions.to_device_window),
            session,
            user,
            token,
            device,
            device_id,
            device_node,
            reason: "operator-left",
            flow,
            start: Some((events, credential)),
            shared,
            unreturned: 0,
            has_entered: false,
        }
    }

    /// Sends the device what credit allows; the socket is read again when nothing waits.
    fn pass_on(&mut self, ctx: &mut WebsocketContext<Self>) {
        while let Some(message) = self.link.next_for_device() {
            let deliver = ToDevice::Deliver { session: self.session, number: None, message };
            if self.device.send(&self.shared.tree.bus, deliver).is_err() {
                return self.end(ctx, SessionEnd::DeviceGone(DisconnectReason::ConnectionLost));
            }
        }
        if self.link.is_backlogged() { self.flow.pause() } else { self.flow.resume() }
    }

    fn say(&mut self, message: bytes::Bytes, ctx: &mut WebsocketContext<Self>) {
        self.flow.hand_over(message.len());
        ctx.binary(message);
    }

    fn end(&mut self, ctx: &mut WebsocketContext<Self>, why: SessionEnd) {
        self.reason = why.as_str();
        if let Some(stop) = self.link.farewell(why) {
            self.say(stop, ctx);
        }
        let code = match why {
            SessionEnd::DeviceGone(_) => CloseCode::Normal,
            SessionEnd::NodeShutdown => CloseCode::Restart,
            SessionEnd::AccessWithdrawn | SessionEnd::OperatorTooSlow => CloseCode::Policy,
            SessionEnd::TooManySessions => CloseCode::Again,
            SessionEnd::LinkLost => CloseCode::Error,
        };
        ctx.close(Some((code, why.text()).into()));
        ctx.stop();
    }
}

impl Actor for OperatorSocket {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SOCKET_MAILBOX);
        let Some((events, credential)) = self.start.take() else { return };
        ctx.add_stream(events);
        let operator = ConnectedOperator {
            user: self.user.clone(),
            token: self.token,
            to: ctx.address().recipient(),
            device_node: self.device_node,
        };
        let limit = self.shared.sessions.per_user;
        if self.shared.tree.registry.enter_operator(self.session, operator, limit).is_err() {
            return self.end(ctx, SessionEnd::TooManySessions);
        }
        self.has_entered = true;
        metrics::gauge!(actors::metrics::SESSIONS_OPEN).increment(1.0);
        info!(session.id = %self.session, user.id = %self.user, "session opened");
        self.shared.tree.sessions.note(SessionChange::Opened(OpenedSession {
            session: self.session,
            device: self.device_id,
            user: self.user.clone(),
            node: self.shared.tree.bus.node(),
            kind: SessionKind::Unknown,
            at: clock::now(),
            address: None,
            kept: false,
            recorded: false,
        }));
        let open = ToDevice::Open {
            session: self.session,
            user: self.user.clone(),
            operator: OperatorEnd::Here(ctx.address().recipient()),
        };
        if self.device.send(&self.shared.tree.bus, open).is_err() {
            return self.end(ctx, SessionEnd::DeviceGone(DisconnectReason::ConnectionLost));
        }
        // A device's actor that was ending took the session and died with it.
        ctx.run_interval(LOOK_FOR_THE_DEVICE, |socket, ctx| {
            if socket.device.is_gone() {
                socket.end(ctx, SessionEnd::DeviceGone(DisconnectReason::ConnectionLost));
            }
        });
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
            self.shared.tree.registry.leave_operator(self.session);
            metrics::gauge!(actors::metrics::SESSIONS_OPEN).decrement(1.0);
            info!(session.id = %self.session, user.id = %self.user, "session closed");
            self.shared.tree.sessions.note(SessionChange::Ended {
                session: self.session,
                generation: 0,
                at: clock::now(),
                reason: self.reason.to_owned(),
                figures: SessionFigures::default(),
            });
            let _ = self.device.send(&self.shared.tree.bus, ToDevice::HangUp { session: self.session });
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
                Err(error) => {
                    debug!(session.id = %self.session, %error, "closing a session that does not keep to the protocol");
                    ctx.close(Some((CloseCode::Invalid, "not a message").into()));
                    ctx.stop();
                }
            },
            SocketEvent::Room => {
                let bytes = std::mem::take(&mut self.unreturned);
                let credit = ToDevice::Credit { session: self.session, bytes };
                if bytes > 0 && self.device.send(&self.shared.tree.bus, credit).is_err() {
                    self.end(ctx, SessionEnd::DeviceGone(DisconnectReason::ConnectionLost));
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

impl Handler<ToOperator> for OperatorSocket {
    type Result = ();

    fn handle(&mut self, message: ToOperator, ctx: &mut Self::Context) {
        match message {
            ToOperator::Deliver { number, message } => {
                if !self.link.from_device(number, &message) {
                    return self.end(ctx, SessionEnd::LinkLost);
                }
                self.unreturned += charge(message.len());
                self.say(message, ctx);
                if self.unreturned >= self.shared.sessions.to_operator_window / 4 {
                    self.flow.ask_for_room();
                }
            }
            ToOperator::Credit { bytes } => {
                self.link.credit(bytes);
                self.pass_on(ctx);
            }
            ToOperator::End { why } => self.end(ctx, why),
        }
    }
}
