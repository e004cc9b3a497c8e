//! Listens to the other nodes and passes on what they say: sessions, credit, displacement, revocations.
//!
//! It remembers nothing of its own: who is here stands in the registry. What arrives while it restarts is lost, so every
//! session between nodes binds to its device anew then, which repeats what is missing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, StreamHandler, WrapFuture};
use futures_util::stream;
use storage::{DeviceId, NodeId, Presence, SessionId, StorageError, TokenId};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::bus::{Answer, Bus, DisconnectReason, Event, Incoming, NodeMessage, Question};
use crate::figures::DescribeDevice;
use crate::gate::Gate;
use crate::jobs::JobQueue;
use crate::reach::Reach;
use crate::registry::{ConnectedOperator, Guest, HostedSession, Registry};
use crate::rollout::Rollout;
use crate::session::attachment::{AttachedEnd, AttachedSays, ToAttached, ToSession};
use crate::session::{Binding, DeviceSays, FromDevice, HostEnd, HostSays, Open, SessionEnd, ToDevice};
use crate::supervisor::{Alive, Crash};

/// How often the nodes at the other end of open sessions are looked for.
const SWEEP_DEAD_NODES: Duration = Duration::from_secs(5);

/// How often it is made sure that who is connected may be, should word of a withdrawal have been lost with its node.
const LOOK_FOR_WITHDRAWALS: Duration = Duration::from_mins(2);

/// Devices asked about in one statement.
const CHECKED_AT_ONCE: usize = 1000;

/// After the bus is back, until every node may be taken to listen again.
const HEAR_AGAIN: Duration = Duration::from_secs(2);

/// Pause before the bus is listened to again when it was lost.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The service that listens to the bus.
pub struct Switchboard {
    parts: Parts,
    presence: Presence,
    reach: Reach,
    /// Whether this node is stopping: sessions are handed over to whoever asks.
    is_draining: Arc<AtomicBool>,
    is_looking_for_withdrawals: bool,
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
    /// Background work.
    pub jobs: JobQueue,
    /// What devices have to do.
    pub rollout: Rollout,
}

impl Parts {
    /// These, shared with their owners.
    pub fn new(registry: &Registry, gate: &Gate, bus: &Bus, jobs: &JobQueue, rollout: &Rollout) -> Self {
        Self {
            registry: registry.clone(),
            gate: gate.clone(),
            bus: bus.clone(),
            jobs: jobs.clone(),
            rollout: rollout.clone(),
        }
    }

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
                // Also those that nobody is attached to.
                for (_, hosted) in self.registry.sessions() {
                    if let Some(host) = hosted.host.filter(|_| hosted.user == *user) {
                        let _ = host.try_send(ToSession::End { why: SessionEnd::AccessWithdrawn });
                    }
                }
            }
            Event::WorkAdded => self.jobs.hear_of_work(),
            Event::DeploymentMade => self.rollout.hear_of_deployments(),
            Event::DeviceAwaited { device } => self.registry.await_for_another(*device, Instant::now()),
            Event::DeviceMayHaveWork { device } => self.rollout.hear_of(*device),
        }
    }

    fn end_operators(&self, is_meant: impl Fn(&ConnectedOperator) -> bool) {
        for (_, operator) in self.registry.operators() {
            if is_meant(&operator) {
                let _ = operator.to.try_send(ToAttached::End { why: SessionEnd::AccessWithdrawn });
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
    pub fn new(parts: Parts, presence: Presence, reach: Reach, is_draining: Arc<AtomicBool>, alive: Alive) -> Self {
        Self { parts, presence, reach, is_draining, is_looking_for_withdrawals: false, _alive: alive }
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

    fn take(&self, message: NodeMessage, ctx: &mut Context<Self>) {
        match message {
            NodeMessage::Ask { nonce, from, question } => self.answer(nonce, from, &question, ctx),
            NodeMessage::Answer { nonce, answer } => self.reach.answered(nonce, answer),
            NodeMessage::OpenSession { session, device, from, binding, user, kept, resume } => {
                self.parts.registry.enter_guest(session, Guest { device, from, binding });
                let open = Open { user, kept, resume, host: HostEnd::There(from) };
                if !self.tell_session_on(device, session, binding, HostSays::Open(open)) {
                    self.parts.registry.leave_guest(session);
                    self.refuse(session, from, binding);
                }
            }
            NodeMessage::ToDevice { session, device, from, binding, number, message } => {
                let guest = self.parts.registry.find_guest(session);
                if guest.is_none_or(|guest| guest.binding < binding) {
                    self.refuse(session, from, binding);
                } else {
                    self.tell_session_on(device, session, binding, HostSays::Deliver { number, message });
                }
            }
            NodeMessage::CreditToDevice { session, device, binding, bytes } => {
                self.tell_session_on(device, session, binding, HostSays::Credit { bytes });
            }
            NodeMessage::HangUp { session, device, binding } => {
                if self.parts.registry.find_guest(session).is_some_and(|guest| guest.binding == binding) {
                    self.parts.registry.leave_guest(session);
                }
                self.tell_session_on(device, session, binding, HostSays::HangUp);
            }
            NodeMessage::FromDevice { session, binding, says } => {
                if let Some(hosted) = self.parts.registry.find_session(session) {
                    let _ = hosted.from_device.try_send(FromDevice { binding, says });
                }
            }
            NodeMessage::FromAttached { session, attachment, from, says } => {
                let host = self.parts.registry.find_session(session).and_then(|hosted| hosted.host);
                let end = Some(AttachedEnd::There(from));
                let is_leaving = matches!(says, AttachedSays::Leave(_));
                let told =
                    host.is_some_and(|host| host.try_send(ToSession::Attached { attachment, end, says }).is_ok());
                if !told && !is_leaving {
                    let says = ToAttached::End { why: SessionEnd::LinkLost };
                    let _ = self.parts.bus.send(from, NodeMessage::ToAttached { attachment, says });
                }
            }
            NodeMessage::ToAttached { attachment, says } => {
                if let Some(operator) = self.parts.registry.find_operator(attachment) {
                    let _ = operator.try_send(says);
                }
            }
            NodeMessage::Displace { device, epoch } => {
                if let Some(connection) = self.parts.registry.find(device)
                    && connection.epoch < epoch
                {
                    let _ = connection.to.try_send(ToDevice::Close { why: DisconnectReason::Replaced });
                }
            }
        }
    }

    fn answer(&self, nonce: u64, from: NodeId, question: &Question, ctx: &mut Context<Self>) {
        let reply = |bus: &Bus, answer| {
            // Whoever asked gives up by itself.
            let _ = bus.send(from, NodeMessage::Answer { nonce, answer });
        };
        let registry = &self.parts.registry;
        match *question {
            Question::HasDevice(device) => reply(&self.parts.bus, Answer::Is(registry.find(device).is_some())),
            Question::HasSession(session) => {
                let Some(hosted) = registry.find_session(session) else {
                    return reply(&self.parts.bus, Answer::Is(false));
                };
                let Some(host) = hosted.host.filter(|_| self.is_draining.load(Ordering::Acquire)) else {
                    return reply(&self.parts.bus, Answer::Session(hosted.writer));
                };
                let (sender, handed_over) = oneshot::channel();
                if host.try_send(ToSession::HandOver(sender)).is_err() {
                    return reply(&self.parts.bus, Answer::Is(false));
                }
                let bus = self.parts.bus.clone();
                let handed_over = handed_over.into_actor(self).map(move |past, _, _| {
                    let answer = past.map_or(Answer::Is(false), |past| Answer::HandedOver(Box::new(past)));
                    let _ = bus.send(from, NodeMessage::Answer { nonce, answer });
                });
                ctx.spawn(handed_over);
            }
            Question::Describe(device) => {
                let Some(connection) = registry.find(device) else {
                    return reply(&self.parts.bus, Answer::Is(false));
                };
                let (sender, figures) = oneshot::channel();
                let _ = connection.to.try_send(ToDevice::Describe(DescribeDevice(sender)));
                let bus = self.parts.bus.clone();
                ctx.spawn(figures.into_actor(self).map(move |figures, _, _| {
                    let answer = figures.map_or(Answer::Is(false), |figures| Answer::Figures(Box::new(figures)));
                    let _ = bus.send(from, NodeMessage::Answer { nonce, answer });
                }));
            }
        }
    }

    /// Tells another node that the session's device is not here, or not in that binding.
    fn refuse(&self, session: SessionId, node: NodeId, binding: Binding) {
        let says = DeviceSays::End { why: SessionEnd::DeviceGone(DisconnectReason::ConnectionLost) };
        let _ = self.parts.bus.send(node, NodeMessage::FromDevice { session, binding, says });
    }

    /// Says something to a session's end on a device here. A device that has just left told the hosts itself.
    fn tell_session_on(&self, device: DeviceId, session: SessionId, binding: Binding, says: HostSays) -> bool {
        let Some(connection) = self.parts.registry.find(device) else { return false };
        connection.to.try_send(ToDevice::Session { session, binding, says }).is_ok()
    }

    /// What was said to or by another node may be missing: sessions find their devices again, sockets are ended so that
    /// their clients come back.
    fn lose_link(&self) {
        for (_, hosted) in self.parts.registry.sessions() {
            if let Some(host) = &hosted.host {
                let _ = host.try_send(ToSession::LinkLost);
            } else if hosted.device_node.is_some() {
                end_simple(&hosted, SessionEnd::LinkLost);
            }
        }
        for (_, operator) in self.parts.registry.operators() {
            if operator.host_node.is_some() {
                let _ = operator.to.try_send(ToAttached::End { why: SessionEnd::LinkLost });
            }
        }
    }

    /// Sessions with an end on a node that died.
    fn lose_nodes(&self, nodes: &[NodeId]) {
        for (_, hosted) in self.parts.registry.sessions() {
            for node in nodes {
                if let Some(host) = &hosted.host {
                    let _ = host.try_send(ToSession::NodeLost(*node));
                } else if hosted.device_node == Some(*node) {
                    end_simple(&hosted, SessionEnd::DeviceGone(DisconnectReason::NodeLost));
                }
            }
        }
        for (_, operator) in self.parts.registry.operators() {
            if operator.host_node.is_some_and(|node| nodes.contains(&node)) {
                let _ = operator.to.try_send(ToAttached::End { why: SessionEnd::LinkLost });
            }
        }
        for (session, guest) in self.parts.registry.guests() {
            if nodes.contains(&guest.from) {
                self.parts.registry.leave_guest(session);
                if let Some(connection) = self.parts.registry.find(guest.device) {
                    let _ = connection.to.try_send(ToDevice::HostLost { session });
                }
            }
        }
    }

    /// Cuts the sockets of devices and users whose access was withdrawn without word of it here. (`deviceconnect-47`)
    fn look_for_withdrawals(&mut self, ctx: &mut Context<Self>) {
        if self.is_looking_for_withdrawals || self.parts.bus.is_alone() {
            return;
        }
        self.is_looking_for_withdrawals = true;
        let parts = self.parts.clone();
        let looking = async move {
            if let Err(error) = cut_withdrawn(&parts).await {
                warn!(%error, "cannot look for access that was withdrawn elsewhere");
            }
        };
        ctx.spawn(looking.into_actor(self).map(|(), switchboard, _| switchboard.is_looking_for_withdrawals = false));
    }

    fn sweep_dead_nodes(&mut self, ctx: &mut Context<Self>) {
        let mut nodes: HashSet<NodeId> = HashSet::new();
        nodes.extend(self.parts.registry.operators().iter().filter_map(|(_, operator)| operator.host_node));
        nodes.extend(self.parts.registry.sessions().iter().filter_map(|(_, hosted)| hosted.device_node));
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
                info!(nodes = dead.len(), "sessions with nodes that died look for another");
                switchboard.lose_nodes(&dead);
            }
        }));
    }
}

async fn cut_withdrawn(parts: &Parts) -> Result<(), StorageError> {
    let devices = parts.registry.devices();
    for devices in devices.chunks(CHECKED_AT_ONCE) {
        let connections: Vec<_> =
            devices.iter().map(|(device, connection)| (*device, connection.auth_set, connection.since)).collect();
        for device in parts.gate.withdrawn(&connections).await? {
            parts.carry_out(&Event::DeviceRefused { device, why: DisconnectReason::AccessWithdrawn });
        }
    }
    let tokens: HashSet<TokenId> = parts.registry.operators().iter().map(|(_, operator)| operator.token).collect();
    for token in tokens {
        if !parts.gate.has_user_token(token).await? {
            parts.carry_out(&Event::TokensRevoked { tokens: vec![token.uuid()] });
        }
    }
    Ok(())
}

/// Ends a session that has one binding in its life.
fn end_simple(hosted: &HostedSession, why: SessionEnd) {
    let says = DeviceSays::End { why };
    let _ = hosted.from_device.try_send(FromDevice { binding: Binding::ONLY, says });
}

impl Actor for Switchboard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Whatever was said between two lives of this service is lost.
        self.lose_link();
        self.listen(ctx);
        ctx.run_interval(SWEEP_DEAD_NODES, Self::sweep_dead_nodes);
        ctx.run_later(HEAR_AGAIN, Self::look_for_withdrawals);
        ctx.run_interval(LOOK_FOR_WITHDRAWALS, Self::look_for_withdrawals);
    }
}

impl StreamHandler<Incoming> for Switchboard {
    fn handle(&mut self, incoming: Incoming, ctx: &mut Self::Context) {
        match incoming {
            Incoming::Message(message) => self.take(message, ctx),
            Incoming::Event(event) => self.parts.carry_out(&event),
            Incoming::LinkLost => self.lose_link(),
            Incoming::LinkBack => {
                self.parts.rollout.doubt();
                // A moment later: what is announced while the others still come back may be missed as well.
                ctx.run_later(HEAR_AGAIN, Self::look_for_withdrawals);
            }
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        self.lose_link();
        ctx.run_later(LISTEN_AGAIN, Self::listen);
    }
}

impl Handler<Crash> for Switchboard {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("crashed as asked");
    }
}
