//! The actor of one connected device: it holds the websocket and carries out what its [`DeviceLink`] decides.
//!
//! Operators' actors and the switchboard talk to it. When it dies, for whatever reason, its entry in the registry goes
//! with it, the end is recorded, and every open session is told; the device connects again by itself.

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Handler, StreamHandler, WrapFuture};
use actix_http::ws::{CloseCode, Message, ProtocolError};
use actix_web_actors::ws::WebsocketContext;
use actors::bus::DisconnectReason;
use actors::device_link::{DeviceLink, Effect};
use actors::gate::Refusal;
use actors::registry::{ConnectedDevice, Entered};
use actors::session::{OperatorEnd, SOCKET_MAILBOX, SessionEnd, ToDevice, ToOperator};
use futures_util::Stream;
use storage::{ConnectionChange, DeviceId, Epoch, SessionId, clock};
use tracing::{debug, warn};

use super::pump::{End, Flow, SocketEvent};
use super::upgrade::SocketState;

/// No more than this waits for the socket at once; the rest waits in the link, where turns are fair.
const HIGH_WATER: usize = 16 * 1024;

/// The messages of a socket, whatever its transport.
pub(super) type Events = Pin<Box<dyn Stream<Item = SocketEvent>>>;

/// One device's connection.
pub(super) struct DeviceSocket {
    device: DeviceId,
    epoch: Epoch,
    address: Option<IpAddr>,
    link: DeviceLink<OperatorEnd>,
    flow: Rc<Flow>,
    /// For [`Actor::started`]: the messages, and the token the device came with.
    start: Option<(Events, String)>,
    shared: Rc<SocketState>,
    /// Why it ended; a fault of ours unless something else was found first.
    reason: DisconnectReason,
    has_entered: bool,
}

/// What a device's socket is opened with.
pub(super) struct Opening {
    pub(super) device: DeviceId,
    pub(super) epoch: Epoch,
    /// Where it connected from, as far as trusted proxies tell.
    pub(super) address: Option<IpAddr>,
    pub(super) token: String,
}

impl DeviceSocket {
    pub(super) fn new(opening: Opening, flow: Rc<Flow>, events: Events, shared: Rc<SocketState>) -> Self {
        Self {
            device: opening.device,
            epoch: opening.epoch,
            address: opening.address,
            link: DeviceLink::default(),
            flow,
            start: Some((events, opening.token)),
            shared,
            reason: DisconnectReason::HubFault,
            has_entered: false,
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect<OperatorEnd>>) {
        for effect in effects {
            match effect {
                Effect::ToOperator { session, message } => {
                    self.tell(session, ToOperator::Deliver { number: None, message });
                }
                Effect::ReturnCredit { session, bytes } => self.tell(session, ToOperator::Credit { bytes }),
                Effect::End { session, operator, why } => {
                    self.forget_guest(session, &operator);
                    let _ = operator.send(&self.shared.tree.bus, session, ToOperator::End { why });
                }
            }
        }
    }

    /// An operator who cannot be told is gone.
    fn tell(&mut self, session: SessionId, message: ToOperator) {
        let Some(operator) = self.link.operator(session) else { return };
        if operator.send(&self.shared.tree.bus, session, message).is_err() {
            debug!(%session, "the operator's end is gone");
            self.link.hang_up(session);
        }
    }

    fn forget_guest(&self, session: SessionId, operator: &OperatorEnd) {
        if matches!(operator, OperatorEnd::There { .. }) {
            self.shared.tree.registry.leave_guest(session);
        }
    }

    /// Moves what may go now from the link to the socket.
    fn write(&mut self, ctx: &mut WebsocketContext<Self>) {
        while self.flow.unwritten() < HIGH_WATER {
            let Some(outgoing) = self.link.next_outgoing(&self.shared.sessions) else { return };
            self.flow.hand_over(outgoing.message.len());
            ctx.binary(outgoing.message);
            if let Some((session, bytes)) = outgoing.credit {
                self.tell(session, ToOperator::Credit { bytes });
            }
        }
        self.flow.ask_for_room();
    }

    fn close(&mut self, ctx: &mut WebsocketContext<Self>, reason: DisconnectReason) {
        self.reason = reason;
        let (code, text) = match reason {
            DisconnectReason::Replaced => (CloseCode::Normal, "replaced by a newer connection"),
            DisconnectReason::AccessWithdrawn | DisconnectReason::Decommissioned => {
                (CloseCode::Policy, "access withdrawn")
            }
            DisconnectReason::NodeShutdown => (CloseCode::Restart, "hub is restarting"),
            DisconnectReason::ProtocolError => (CloseCode::Invalid, "not a message"),
            _ => (CloseCode::Error, "internal error"),
        };
        ctx.close(Some((code, text).into()));
        ctx.stop();
    }
}

impl Actor for DeviceSocket {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SOCKET_MAILBOX);
        let Some((events, token)) = self.start.take() else { return };
        ctx.add_stream(events);
        let now = clock::now();
        let connection = ConnectedDevice { epoch: self.epoch, to: ctx.address().recipient(), since: now };
        match self.shared.tree.registry.enter(self.device, connection) {
            Entered::First => {}
            Entered::Replaced(older) => {
                let _ = older.try_send(ToDevice::Close { why: DisconnectReason::Replaced });
            }
            Entered::Superseded => return self.close(ctx, DisconnectReason::Replaced),
        }
        self.has_entered = true;
        self.shared.tree.statuses.note(ConnectionChange {
            device: self.device,
            node: self.shared.tree.bus.node(),
            epoch: self.epoch,
            connected: true,
            at: now,
            reason: None,
            address: self.address,
            bytes_in: 0,
            bytes_out: 0,
            round_trip: None,
        });
        metrics::gauge!(actors::metrics::DEVICES_CONNECTED).increment(1.0);
        // Access withdrawn between the handshake and the registry would have found nobody to cut.
        let (gate, presence, has_peers) =
            (self.shared.gate.clone(), self.shared.presence.clone(), self.shared.tree.bus.has_peers());
        let (device, epoch) = (self.device, self.epoch);
        let verdict = async move {
            if matches!(gate.device(&token).await, Err(Refusal::Refused(_))) {
                return Some(DisconnectReason::AccessWithdrawn);
            }
            // And so would word from another node that the device had moved there meanwhile.
            let has_moved = has_peers && matches!(presence.find(device).await, Ok(Some(route)) if route.epoch > epoch);
            has_moved.then_some(DisconnectReason::Replaced)
        };
        ctx.spawn(verdict.into_actor(self).map(|verdict, socket, ctx| {
            if let Some(reason) = verdict {
                socket.close(ctx, reason);
            }
        }));
    }
}

impl Drop for DeviceSocket {
    fn drop(&mut self) {
        let why = SessionEnd::DeviceGone(self.reason);
        for (session, operator) in self.link.end_all() {
            self.forget_guest(session, &operator);
            let _ = operator.send(&self.shared.tree.bus, session, ToOperator::End { why });
        }
        self.shared.count.leave();
        if !self.has_entered {
            return;
        }
        metrics::gauge!(actors::metrics::DEVICES_CONNECTED).decrement(1.0);
        metrics::counter!(actors::metrics::DISCONNECTS, "reason" => self.reason.as_str()).increment(1);
        if self.reason == DisconnectReason::HubFault {
            warn!(device.id = %self.device, "the actor of a device ended by a fault; the device will connect again");
        }
        self.shared.tree.registry.leave(self.device, self.epoch);
        self.shared.tree.statuses.note(ConnectionChange {
            device: self.device,
            node: self.shared.tree.bus.node(),
            epoch: self.epoch,
            connected: false,
            at: clock::now(),
            reason: Some(self.reason.as_str()),
            address: self.address,
            bytes_in: self.flow.received(),
            bytes_out: self.flow.sent(),
            round_trip: self.flow.round_trip(),
        });
    }
}

impl StreamHandler<SocketEvent> for DeviceSocket {
    fn handle(&mut self, event: SocketEvent, ctx: &mut Self::Context) {
        match event {
            SocketEvent::Message(message) => match self.link.hear(&message, &self.shared.sessions) {
                Ok(effects) => {
                    self.carry_out(effects);
                    self.write(ctx);
                }
                Err(error) => {
                    debug!(device.id = %self.device, %error, "closing a device that does not keep to the protocol");
                    self.close(ctx, DisconnectReason::ProtocolError);
                }
            },
            SocketEvent::Room => self.write(ctx),
            SocketEvent::Ended(end) => {
                self.reason = match end {
                    End::Closed => DisconnectReason::ClosedByDevice,
                    End::Lost => DisconnectReason::ConnectionLost,
                    End::Silent => DisconnectReason::Silent,
                    End::Stalled => DisconnectReason::Stalled,
                    End::TooLarge | End::Broken => DisconnectReason::ProtocolError,
                };
                if let Some(reason) = end.close_reason() {
                    ctx.close(Some(reason));
                }
                ctx.stop();
            }
        }
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl StreamHandler<Result<Message, ProtocolError>> for DeviceSocket {
    /// The context asks for a payload stream; ours never yields, since frames come as [`SocketEvent`]s.
    fn handle(&mut self, _: Result<Message, ProtocolError>, _: &mut Self::Context) {}

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<ToDevice> for DeviceSocket {
    type Result = ();

    fn handle(&mut self, message: ToDevice, ctx: &mut Self::Context) {
        let sessions = &self.shared.sessions;
        let effects = match message {
            ToDevice::Open { session, user, operator } => self.link.open(session, user, operator, sessions),
            ToDevice::Deliver { session, number, message } => self.link.deliver(session, number, message, sessions),
            ToDevice::Credit { session, bytes } => self.link.credit(session, bytes, sessions),
            ToDevice::HangUp { session } => {
                self.link.hang_up(session);
                vec![]
            }
            ToDevice::Close { why } => return self.close(ctx, why),
            ToDevice::Crash => panic!("crashed as asked"),
        };
        self.carry_out(effects);
        self.write(ctx);
    }
}
