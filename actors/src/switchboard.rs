//! Listens to the other nodes and passes on what they say: sessions, credit, displacement, revocations.
//!
//! It remembers nothing of its own: who is here stands in the registry. What arrives while it restarts is lost, so every
//! session between nodes ends then, with a reason instead of with a gap.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, StreamHandler, WrapFuture};
use futures_util::stream;
use storage::{NodeId, Presence};
use tracing::{info, warn};

use crate::bus::{Bus, DisconnectReason, Event, Incoming, NodeMessage};
use crate::gate::Gate;
use crate::reach::Reach;
use crate::registry::{ConnectedOperator, Guest, Registry};
use crate::session::{OperatorEnd, SessionEnd, ToDevice, ToOperator};
use crate::supervisor::{Alive, Crash};

/// How often the nodes at the other end of open sessions are looked for.
const SWEEP_DEAD_NODES: Duration = Duration::from_secs(5);

/// Pause before the bus is listened to again when it was lost.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The service that listens to the bus.
pub struct Switchboard {
    parts: Parts,
    presence: Presence,
    reach: Reach,
    _alive: Alive,
}

/// What carrying out an event takes; shared with those who announce one on this node.
#[derive(Clone)]
pub struct Parts {
    /// Who is connected here.
    pub registry: Registry,
    /// Whose tokens are known here.
    pub gate: Gate,
    /// The way to the other nodes.
    pub bus: Bus,
}

impl Parts {
    /// Carries out an event on this node.
    pub fn carry_out(&self, event: &Event) {
        match event {
            Event::TokensRevoked { tokens } => {
                self.gate.void(tokens);
                self.end_operators(|operator| tokens.contains(&operator.token.uuid()));
            }
            Event::DeviceRefused { device, why } => {
                self.gate.void_device(*device);
                if let Some(connection) = self.registry.find(*device) {
                    let _ = connection.to.try_send(ToDevice::Close { why: *why });
                }
            }
            Event::UserRefused { user } => {
                self.gate.void_user(user);
                self.end_operators(|operator| operator.user == *user);
            }
        }
    }

    fn end_operators(&self, is_meant: impl Fn(&ConnectedOperator) -> bool) {
        for (_, operator) in self.registry.operators() {
            if is_meant(&operator) {
                let _ = operator.to.try_send(ToOperator::End { why: SessionEnd::AccessWithdrawn });
            }
        }
    }

    /// Carries out an event here and tells the other nodes.
    pub fn announce(&self, event: &Event) {
        self.carry_out(event);
        if let Err(error) = self.bus.announce(event) {
            // Other nodes ask the database again within the recheck time of their gates.
            warn!(%error, "other nodes were not told of a change of access");
        }
    }
}

impl Switchboard {
    /// Connects `parts` to the bus.
    pub fn new(parts: Parts, presence: Presence, reach: Reach, alive: Alive) -> Self {
        Self { parts, presence, reach, _alive: alive }
    }

    fn listen(&mut self, ctx: &mut Context<Self>) {
        let bus = self.parts.bus.clone();
        ctx.spawn(async move { bus.listen().await }.into_actor(self).map(|listening, _, ctx| match listening {
            Ok(receiver) => {
                ctx.add_stream(stream::unfold(receiver, |mut receiver| async {
                    receiver.recv().await.map(|incoming| (incoming, receiver))
                }));
            }
            Err(error) => {
                warn!(%error, "cannot listen to the other nodes yet");
                ctx.run_later(LISTEN_AGAIN, Self::listen);
            }
        }));
    }

    fn take(&self, message: NodeMessage) {
        match message {
            NodeMessage::Probe { nonce, device, from } => {
                let here = self.parts.registry.find(device).is_some();
                let _ = self.parts.bus.send(from, NodeMessage::Probed { nonce, here });
            }
            NodeMessage::Probed { nonce, here } => self.reach.probed(nonce, here),
            NodeMessage::OpenSession { session, device, user, from } => {
                let operator = OperatorEnd::There { node: from, sent: Arc::default() };
                let opened = self.parts.registry.find(device).is_some_and(|connection| {
                    self.parts.registry.enter_guest(session, Guest { device, from });
                    connection.to.try_send(ToDevice::Open { session, user, operator }).is_ok()
                });
                if !opened {
                    self.parts.registry.leave_guest(session);
                    let why = SessionEnd::DeviceGone(DisconnectReason::ConnectionLost);
                    let _ = self.parts.bus.send(from, NodeMessage::EndSession { session, why });
                }
            }
            NodeMessage::ToDevice { session, from, .. } if !self.parts.registry.has_guest(session) => {
                let why = SessionEnd::DeviceGone(DisconnectReason::ConnectionLost);
                let _ = self.parts.bus.send(from, NodeMessage::EndSession { session, why });
            }
            NodeMessage::ToDevice { session, device, number, message, .. } => {
                self.tell_device(device, ToDevice::Deliver { session, number: Some(number), message });
            }
            NodeMessage::CreditToDevice { session, device, bytes } => {
                self.tell_device(device, ToDevice::Credit { session, bytes });
            }
            NodeMessage::HangUp { session, device } => {
                self.parts.registry.leave_guest(session);
                self.tell_device(device, ToDevice::HangUp { session });
            }
            NodeMessage::ToOperator { session, number, message } => {
                self.tell_operator(session, ToOperator::Deliver { number: Some(number), message });
            }
            NodeMessage::CreditToOperator { session, bytes } => {
                self.tell_operator(session, ToOperator::Credit { bytes });
            }
            NodeMessage::EndSession { session, why } => self.tell_operator(session, ToOperator::End { why }),
            NodeMessage::Displace { device, epoch } => {
                if let Some(connection) = self.parts.registry.find(device)
                    && connection.epoch < epoch
                {
                    let _ = connection.to.try_send(ToDevice::Close { why: DisconnectReason::Replaced });
                }
            }
        }
    }

    fn tell_device(&self, device: storage::DeviceId, message: ToDevice) {
        // A device that has just left told the operators of its sessions itself.
        if let Some(connection) = self.parts.registry.find(device) {
            let _ = connection.to.try_send(message);
        }
    }

    fn tell_operator(&self, session: storage::SessionId, message: ToOperator) {
        if let Some(operator) = self.parts.registry.find_operator(session) {
            let _ = operator.try_send(message);
        }
    }

    /// Ends every session whose other end is on one of `nodes`, or on any other node if `None`.
    fn end_sessions_with(&self, nodes: Option<&[NodeId]>, why: SessionEnd) {
        let is_meant = |node: NodeId| nodes.is_none_or(|nodes| nodes.contains(&node));
        for (_, operator) in self.parts.registry.operators() {
            if operator.device_node.is_some_and(is_meant) {
                let _ = operator.to.try_send(ToOperator::End { why });
            }
        }
        for (session, guest) in self.parts.registry.guests() {
            if is_meant(guest.from) {
                self.parts.registry.leave_guest(session);
                self.tell_device(guest.device, ToDevice::HangUp { session });
                let _ = self.parts.bus.send(guest.from, NodeMessage::EndSession { session, why });
            }
        }
    }

    fn sweep_dead_nodes(&mut self, ctx: &mut Context<Self>) {
        let mut nodes: HashSet<NodeId> = HashSet::new();
        nodes.extend(self.parts.registry.operators().iter().filter_map(|(_, operator)| operator.device_node));
        for (session, guest) in self.parts.registry.guests() {
            if self.parts.registry.find(guest.device).is_none() {
                self.parts.registry.leave_guest(session);
            } else {
                nodes.insert(guest.from);
            }
        }
        if nodes.is_empty() {
            return;
        }
        let presence = self.presence.clone();
        let dead = async move {
            let mut dead = Vec::new();
            for node in nodes {
                // Without the shared store nobody is declared dead.
                if matches!(presence.is_alive(node).await, Ok(false)) {
                    dead.push(node);
                }
            }
            dead
        };
        ctx.spawn(dead.into_actor(self).map(|dead, switchboard, _| {
            if !dead.is_empty() {
                info!(nodes = dead.len(), "ending sessions with nodes that died");
                switchboard.end_sessions_with(Some(&dead), SessionEnd::DeviceGone(DisconnectReason::NodeLost));
            }
        }));
    }
}

impl Actor for Switchboard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Whatever was said between two lives of this service is lost.
        self.end_sessions_with(None, SessionEnd::LinkLost);
        self.listen(ctx);
        ctx.run_interval(SWEEP_DEAD_NODES, Self::sweep_dead_nodes);
    }
}

impl StreamHandler<Incoming> for Switchboard {
    fn handle(&mut self, incoming: Incoming, _: &mut Self::Context) {
        match incoming {
            Incoming::Message(message) => self.take(message),
            Incoming::Event(event) => self.parts.carry_out(&event),
            Incoming::LinkLost => self.end_sessions_with(None, SessionEnd::LinkLost),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        self.end_sessions_with(None, SessionEnd::LinkLost);
        ctx.run_later(LISTEN_AGAIN, Self::listen);
    }
}

impl Handler<Crash> for Switchboard {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}
