//! The actor of one connected device: it holds the websocket and carries out what its [`DeviceLink`] decides.
//!
//! The hosts of its sessions and the switchboard talk to it. When it dies, for whatever reason, its entry in the registry goes
//! with it, the end is recorded, and every open session is told; the device connects again by itself.

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Handler, StreamHandler, WrapFuture};
use actix_http::ws::{CloseCode, Message, ProtocolError};
use actix_web_actors::ws::WebsocketContext;
use actors::bus::DisconnectReason;
use actors::device_link::{DeviceLink, Effect, Ended};
use actors::figures::{DescribeDevice, DeviceFigures, Traffic};
use actors::gate::Refusal;
use actors::registry::{ConnectedDevice, Entered};
use actors::session::attachment::ToSession;
use actors::session::{Binding, DeviceSays, HostEnd, HostSays, SOCKET_MAILBOX, SessionEnd, ToDevice};
use futures_util::Stream;
use storage::{AuthSetId, ConnectionChange, DeviceId, Epoch, SessionId, clock};
use tracing::{debug, warn};

use super::pump::{End, Flow, SocketEvent};
use super::upgrade::SocketState;

/// No more than this waits for the socket at once; the rest waits in the link, where turns are fair. Twice as much as before,
/// and twice the window with it, let a message of 4 KiB cost 9 µs instead of 11 to 12 (`make bench`): threads wake one
/// another half as often. Still more would have keys wait longer behind another session's bytes on a slow line.
const HIGH_WATER: usize = 32 * 1024;

/// How long a shell that outlived its device's former connection may speak before its session's host has found this one.
const CLAIM_LIMIT: Duration = Duration::from_secs(15);

/// How long a device that is sent away because its node stops may take to say that it has heard.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// The messages of a socket, whatever its transport.
pub(super) type Events = Pin<Box<dyn Stream<Item = SocketEvent>>>;

/// One device's connection.
pub(super) struct DeviceSocket {
    device: DeviceId,
    auth_set: AuthSetId,
    epoch: Epoch,
    address: Option<IpAddr>,
    link: DeviceLink<HostEnd>,
    flow: Rc<Flow>,
    /// For [`Actor::started`]: the messages, and the token the device came with.
    start: Option<(Events, String)>,
    shared: Rc<SocketState>,
    /// Why it ended; a fault of ours unless something else was found first.
    reason: DisconnectReason,
    has_entered: bool,
    /// It was sent away with a Close frame and is heard until it answers that; nothing is written to it any more.
    is_leaving: bool,
}

/// What a device's socket is opened with.
pub(super) struct Opening {
    pub(super) device: DeviceId,
    pub(super) auth_set: AuthSetId,
    pub(super) epoch: Epoch,
    /// Where it connected from, as far as trusted proxies tell.
    pub(super) address: Option<IpAddr>,
    pub(super) token: String,
}

impl DeviceSocket {
    pub(super) fn new(opening: Opening, flow: Rc<Flow>, events: Events, shared: Rc<SocketState>) -> Self {
        Self {
            device: opening.device,
            auth_set: opening.auth_set,
            epoch: opening.epoch,
            address: opening.address,
            link: DeviceLink::default(),
            flow,
            start: Some((events, opening.token)),
            shared,
            reason: DisconnectReason::HubFault,
            has_entered: false,
            is_leaving: false,
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect<HostEnd>>, ctx: &mut WebsocketContext<Self>) {
        for effect in effects {
            match effect {
                Effect::ToHost { session, says } => self.tell(session, says),
                Effect::End { session, host, binding, why } => {
                    self.forget_guest(session, binding);
                    let _ = host.send(&self.shared.tree.bus, session, binding, DeviceSays::End { why });
                }
                Effect::Unclaimed { session } => {
                    let limit = CLAIM_LIMIT.min(self.shared.sessions.device_grace);
                    ctx.run_later(limit, move |socket, ctx| socket.give_up(session, ctx));
                }
            }
        }
    }

    /// A host that cannot be told is gone.
    fn tell(&mut self, session: SessionId, says: DeviceSays) {
        let Some((host, binding)) = self.link.host(session) else { return };
        if host.send(&self.shared.tree.bus, session, binding, says).is_err() {
            debug!(%session, "the session's host is gone");
            self.link.hang_up(session, binding);
        }
    }

    fn give_up(&mut self, session: SessionId, ctx: &mut WebsocketContext<Self>) {
        self.link.give_up(session);
        self.write(ctx);
    }

    fn forget_guest(&self, session: SessionId, binding: Binding) {
        let registry = &self.shared.tree.registry;
        if registry.find_guest(session).is_some_and(|guest| guest.binding == binding) {
            registry.leave_guest(session);
        }
    }

    /// Moves what may go now from the link to the socket.
    fn write(&mut self, ctx: &mut WebsocketContext<Self>) {
        self.flow.set_idle(self.link.is_idle());
        if self.is_leaving {
            // Nothing follows a Close frame; it is said on the device's next connection.
            return;
        }
        if self.flow.is_unheard() {
            // Its end may be among it, and what was written before it would be taken for sent.
            self.flow.ask_for_room();
            return;
        }
        while self.flow.unwritten() < HIGH_WATER {
            let Some(outgoing) = self.link.next_outgoing(&self.shared.sessions) else { return };
            self.flow.hand_over(outgoing.message.len());
            ctx.binary(outgoing.message);
            if let Some((session, bytes)) = outgoing.credit {
                self.tell(session, DeviceSays::Credit { bytes });
            }
        }
        self.flow.ask_for_room();
    }

    fn describe(&self) -> DeviceFigures {
        let Traffic { messages: messages_in, bytes: bytes_in } = self.flow.received();
        let Traffic { messages: messages_out, bytes: bytes_out } = self.flow.sent();
        DeviceFigures {
            bytes_in,
            bytes_out,
            messages_in,
            messages_out,
            round_trip_us: self.flow.round_trip().and_then(|time| u64::try_from(time.as_micros()).ok()),
            unwritten: self.flow.unwritten(),
            sessions: self.link.figures(),
        }
    }

    fn close(&mut self, ctx: &mut WebsocketContext<Self>, reason: DisconnectReason) {
        if self.is_leaving {
            // It was told already. Only one that is elsewhere by now has nothing more to say here.
            if reason != DisconnectReason::NodeShutdown {
                ctx.stop();
            }
            return;
        }
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
        if reason == DisconnectReason::NodeShutdown {
            // What it prints before it hears of this belongs to terminals that go on elsewhere.
            self.is_leaving = true;
            ctx.run_later(LAST_WORDS_LIMIT, |_, ctx| ctx.stop());
        } else {
            ctx.stop();
        }
    }
}

impl Actor for DeviceSocket {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SOCKET_MAILBOX);
        let Some((events, token)) = self.start.take() else { return };
        ctx.add_stream(events);
        self.flow.set_idle(self.link.is_idle());
        let now = clock::now();
        let connection =
            ConnectedDevice { epoch: self.epoch, auth_set: self.auth_set, to: ctx.address().recipient(), since: now };
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
        for waiting in self.shared.tree.registry.awaiting(self.device) {
            let _ = waiting.try_send(ToSession::DeviceIsHere);
        }
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
        let mut left = self.link.unstopped();
        for Ended { session, host, binding, shell_of, owed } in self.link.end_all() {
            self.forget_guest(session, binding);
            let bus = &self.shared.tree.bus;
            if owed > 0 {
                // What has left must not be repeated elsewhere.
                let _ = host.send(bus, session, binding, DeviceSays::Credit { bytes: owed });
            }
            if host.send(bus, session, binding, DeviceSays::End { why }).is_ok() {
                // What becomes of the shell is up to the host.
                left.retain(|(other, _)| *other != session);
            } else if let Some(user) = shell_of {
                // It has ended, and its word about that did not get here.
                left.push((session, user));
            }
        }
        if !left.is_empty() && !self.shared.tree.is_draining() {
            let hosts = self.shared.hosts();
            for (session, user) in left {
                hosts.stop_when_back(self.device, session, user);
            }
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
            bytes_in: i64::try_from(self.flow.received().bytes).unwrap_or(i64::MAX),
            bytes_out: i64::try_from(self.flow.sent().bytes).unwrap_or(i64::MAX),
            round_trip: self.flow.round_trip(),
        });
    }
}

impl StreamHandler<SocketEvent> for DeviceSocket {
    fn handle(&mut self, event: SocketEvent, ctx: &mut Self::Context) {
        match event {
            SocketEvent::Message(message) => match self.link.hear(&message, &self.shared.sessions) {
                Ok(effects) => {
                    self.carry_out(effects, ctx);
                    self.write(ctx);
                }
                Err(error) => {
                    debug!(device.id = %self.device, %error, "closing a device that does not keep to the protocol");
                    self.close(ctx, DisconnectReason::ProtocolError);
                }
            },
            SocketEvent::Room => self.write(ctx),
            SocketEvent::Ended(_) if self.is_leaving => ctx.stop(),
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
        let limits = &self.shared.sessions;
        let effects = match message {
            ToDevice::Session { session, binding, says } => match says {
                HostSays::Open(open) => self.link.open(session, binding, open, limits),
                HostSays::Deliver { number, message } => self.link.deliver(session, binding, number, message, limits),
                HostSays::Credit { bytes } => self.link.credit(session, binding, bytes, limits),
                HostSays::HangUp => {
                    self.link.hang_up(session, binding);
                    vec![]
                }
            },
            ToDevice::HostLost { session } => {
                if self.link.host_lost(session) {
                    let limit = limits.operator_grace;
                    ctx.run_later(limit, move |socket, ctx| socket.give_up(session, ctx));
                }
                vec![]
            }
            ToDevice::Describe(DescribeDevice(answer)) => {
                // Whoever asked may have given up.
                let _ = answer.send(self.describe());
                return;
            }
            ToDevice::Close { why } => return self.close(ctx, why),
            ToDevice::Crash => panic!("crashed as asked"),
        };
        self.carry_out(effects, ctx);
        self.write(ctx);
    }
}
