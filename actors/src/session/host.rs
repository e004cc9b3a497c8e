//! The actor of one session: it finds the device, again if need be, and passes on what its link decides. What is
//! written down of it is in `record`.
//!
//! Its device's actor and the sockets of those who take part talk to it. It runs on the thread of the socket that opened
//! it. When it dies by a fault, the device is told and so is everybody who takes part; when its node dies, a session that
//! is kept goes on at the node to which its client returns ([`SessionHost::take_over`]).

mod record;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Recipient, SpawnHandle, WrapFuture};
use serde::{Deserialize, Serialize};
use storage::{
    AttachmentId, DeviceId, NodeId, Objects, OpenedSession, Participant, SessionChange, SessionFigures, SessionId,
    SessionKind, Timestamp, UserId, clock,
};
use tracing::{debug, info, warn};

use super::attachment::{AttachedEnd, AttachedSays, Leave, ToAttached, ToSession};
use super::link::{Effect, Past, SessionLink};
use super::{Binding, Config, DeviceEnd, FromDevice, HostEnd, HostSays, Open, SOCKET_MAILBOX, SessionEnd, left_shell};
use crate::bus::{Bus, DisconnectReason, Event};
use crate::reach::{Reach, Unreachable};
use crate::recording::{Recorder, RecordingConfig};
use crate::registry::{HostedSession, Registry};
use crate::status_writer::SessionQueue;

/// How often a device that is away is looked for on other nodes; on this one it announces itself.
const LOOK_FOR_DEVICE: Duration = Duration::from_millis(500);

/// How often it is made sure that the device's end is still there.
const CHECK_DEVICE: Duration = Duration::from_secs(2);

/// How long the device's end may take to answer.
const RESUME_LIMIT: Duration = Duration::from_secs(3);

/// How long a device may be away before those are told whose client cannot know.
const SAY_AWAY_AFTER: Duration = Duration::from_secs(2);

/// How often what a session has come to is written down.
const NOTE_PROGRESS: Duration = Duration::from_secs(10);

/// How long the beginning of a session that is kept may take to be written down before it begins regardless.
const WRITTEN_LIMIT: Duration = Duration::from_secs(1);

/// What a host works with.
#[derive(Clone)]
pub struct Parts {
    /// Who is connected here.
    pub registry: Registry,
    /// Finds devices.
    pub reach: Reach,
    /// The way to the other nodes.
    pub bus: Bus,
    /// Takes down when sessions begin and end.
    pub records: SessionQueue,
    /// Where and how terminals are recorded; `None` if they are not.
    pub recording: Option<(Objects, RecordingConfig)>,
    /// Credits and limits.
    pub config: Config,
}

impl Parts {
    /// Has the agent of a device, whose connection is over, stop a shell once it is back: it may not have heard that.
    pub fn stop_when_back(&self, device: DeviceId, session: SessionId, user: UserId) {
        left_shell::stop_when_back(self, device, session, user, Binding::ONLY);
    }
}

/// A session.
pub struct SessionHost {
    session: SessionId,
    device: DeviceId,
    user: UserId,
    link: SessionLink,
    /// How often it has moved to another node.
    generation: i32,
    end: DeviceEnd,
    attached: HashMap<AttachmentId, AttachedEnd>,
    parts: Parts,
    begins: bool,
    kept: bool,
    /// Where the operator connects from, if it begins here.
    address: Option<IpAddr>,
    is_looking: bool,
    /// Why the device was lost.
    lost: SessionEnd,
    grace: Option<SpawnHandle>,
    away_notice: Option<SpawnHandle>,
    resume_limit: Option<SpawnHandle>,
    vacancy: Option<SpawnHandle>,
    /// When the session began.
    opened: Timestamp,
    recorder: Option<Recorder>,
    /// Everybody who is or was in it, the last of them if there were many.
    people: Vec<Participant>,
    /// What was last written down.
    written: SessionFigures,
    /// This node is stopping and the session waits for another.
    is_draining: bool,
    /// It is over here, and who had to be told was.
    is_finished: bool,
}

/// A session that another node goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// All that was known here.
    pub past: Past,
}

/// What a session begins with.
pub struct Beginning {
    /// Its id.
    pub session: SessionId,
    /// On which device.
    pub device: DeviceId,
    /// Whose.
    pub user: UserId,
    /// The device's end.
    pub end: DeviceEnd,
    /// Whether it is to outlive its operator's socket.
    pub kept: bool,
    /// Where its operator connects from.
    pub address: Option<IpAddr>,
}

impl SessionHost {
    /// Opens a session.
    pub fn open(parts: Parts, beginning: Beginning) -> Recipient<ToSession> {
        let Beginning { session, device, user, end, kept, address } = beginning;
        let mut host = Self::new(parts, session, device, user, SessionLink::new(session), end);
        (host.begins, host.kept, host.address) = (true, kept, address);
        host.enter()
    }

    /// Goes on with a terminal whose node is gone or stopping, for the `generation`th time.
    pub fn take_over(
        parts: Parts,
        session: SessionId,
        device: DeviceId,
        user: UserId,
        generation: u32,
        opened: Timestamp,
        handed_over: Option<HandedOver>,
    ) -> Recipient<ToSession> {
        let link = match handed_over {
            Some(HandedOver { past }) => SessionLink::handed_over(session, generation, past),
            None => SessionLink::taken_over(session, generation),
        };
        let nowhere = DeviceEnd::There { node: parts.bus.node(), device };
        let mut host = Self::new(parts, session, device, user, link, nowhere);
        host.generation = i32::try_from(generation).unwrap_or(i32::MAX);
        host.opened = opened;
        host.enter()
    }

    /// Starts; it can be found as soon as this returns.
    fn enter(self) -> Recipient<ToSession> {
        let started = Self::create(|ctx| {
            let hosted = HostedSession {
                device: self.device,
                user: self.user.clone(),
                from_device: ctx.address().recipient(),
                host: Some(ctx.address().recipient()),
                device_node: if self.begins { self.end.node() } else { None },
                writer: None,
            };
            self.parts.registry.enter_session(self.session, hosted);
            self
        });
        started.recipient()
    }

    fn new(
        parts: Parts,
        session: SessionId,
        device: DeviceId,
        user: UserId,
        link: SessionLink,
        end: DeviceEnd,
    ) -> Self {
        Self {
            session,
            device,
            user,
            link,
            generation: 0,
            opened: clock::now(),
            recorder: None,
            people: Vec::new(),
            written: SessionFigures::default(),
            end,
            attached: HashMap::new(),
            parts,
            begins: false,
            kept: false,
            address: None,
            is_looking: false,
            lost: SessionEnd::DeviceGone(DisconnectReason::ConnectionLost),
            grace: None,
            away_notice: None,
            resume_limit: None,
            vacancy: None,
            is_draining: false,
            is_finished: false,
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Open { kept, resume } => {
                    let is_resumed = resume.is_some();
                    let host = HostEnd::Here(ctx.address().recipient());
                    let open = HostSays::Open(Open { user: self.user.clone(), kept, resume, host });
                    if self.tell_device(open) {
                        if is_resumed {
                            self.expect_resumption(ctx);
                        }
                    } else {
                        effects.extend(self.lose_device(SessionEnd::DeviceGone(DisconnectReason::ConnectionLost)));
                    }
                }
                Effect::ToDevice { number, message } => {
                    if !self.tell_device(HostSays::Deliver { number, message }) {
                        effects.extend(self.lose_device(SessionEnd::DeviceGone(DisconnectReason::ConnectionLost)));
                    }
                }
                Effect::Credit { bytes } => {
                    // A device's end that is gone needs none.
                    self.tell_device(HostSays::Credit { bytes });
                }
                Effect::ToAttached { attachment, says } => {
                    let Some(end) = self.attached.get(&attachment) else { continue };
                    if end.send(&self.parts.bus, attachment, says).is_err() {
                        debug!(session.id = %self.session, "the socket of one who takes part is gone");
                        effects.extend(self.link.lose_attached(attachment));
                    }
                }
                Effect::Forget { attachment } => {
                    self.attached.remove(&attachment);
                }
                Effect::Output(bytes) => {
                    let at = self.age();
                    let is_followed = self.link.is_followed();
                    if let Some(recorder) = self.recorder() {
                        if is_followed {
                            recorder.output(at, &bytes);
                        } else {
                            recorder.output_nobody_follows(at, &bytes);
                        }
                    }
                }
                Effect::Resized(width, height) => {
                    let at = self.age();
                    if let Some(recorder) = self.recorder() {
                        recorder.resize(at, width, height);
                    }
                }
                Effect::DeviceAway => self.await_device(ctx),
                Effect::DeviceBack => self.greet_device(ctx),
                Effect::Vacant(how) => self.await_operator(how, ctx),
                Effect::Occupied => {
                    if let Some(vacancy) = self.vacancy.take() {
                        ctx.cancel_future(vacancy);
                    }
                }
                Effect::People => self.note_writer(),
                Effect::Finish(why) => {
                    self.finish(why);
                    ctx.stop();
                }
            }
        }
    }

    fn tell_device(&self, says: HostSays) -> bool {
        self.end.send(&self.parts.bus, self.session, self.link.binding(), says).is_ok()
    }

    fn lose_device(&mut self, why: SessionEnd) -> Vec<Effect> {
        self.lost = why;
        self.link.lose_device(why)
    }

    fn await_device(&mut self, ctx: &mut Context<Self>) {
        debug!(session.id = %self.session, device.id = %self.device, why = self.lost.as_str(), "waiting for the device");
        if self.parts.registry.await_device(self.device, self.session)
            && let Err(error) = self.parts.bus.announce(&Event::DeviceAwaited { device: self.device })
        {
            debug!(%error, "other nodes were not told that a device is awaited");
        }
        self.parts.registry.update_session(self.session, |hosted| hosted.device_node = None);
        if let Some(limit) = self.resume_limit.take() {
            ctx.cancel_future(limit);
        }
        if self.grace.is_none() {
            self.grace = Some(ctx.run_later(self.parts.config.device_grace, |host, ctx| {
                let why = match host.lost {
                    SessionEnd::LinkLost => SessionEnd::DeviceGone(DisconnectReason::ConnectionLost),
                    why => why,
                };
                let effects = host.link.finish(why);
                host.carry_out(effects, ctx);
            }));
            self.away_notice = Some(ctx.run_later(SAY_AWAY_AFTER, |host, ctx| {
                let effects = host.link.say_away();
                host.carry_out(effects, ctx);
            }));
        }
        self.look_for_device(ctx);
    }

    fn look_for_device(&mut self, ctx: &mut Context<Self>) {
        if !self.link.is_away() || self.resume_limit.is_some() || std::mem::replace(&mut self.is_looking, true) {
            return;
        }
        let (reach, device) = (self.parts.reach.clone(), self.device);
        ctx.spawn(async move { reach.find(device).await }.into_actor(self).map(|found, host, ctx| {
            host.is_looking = false;
            match found {
                Ok(reachable) => {
                    host.end = reachable.into_end(host.device);
                    if host.end.is_gone() {
                        ctx.run_later(LOOK_FOR_DEVICE, Self::look_for_device);
                        return;
                    }
                    let effects = host.link.find_device();
                    host.carry_out(effects, ctx);
                }
                Err(Unreachable::Offline | Unreachable::NoAnswer | Unreachable::Unavailable(_)) => {
                    ctx.run_later(LOOK_FOR_DEVICE, Self::look_for_device);
                }
            }
        }));
    }

    fn expect_resumption(&mut self, ctx: &mut Context<Self>) {
        let node = self.end.node();
        self.parts.registry.update_session(self.session, |hosted| hosted.device_node = node);
        if let Some(limit) = self.resume_limit.replace(ctx.run_later(RESUME_LIMIT, |host, ctx| {
            host.resume_limit = None;
            let effects = host.lose_device(SessionEnd::LinkLost);
            host.carry_out(effects, ctx);
        })) {
            ctx.cancel_future(limit);
        }
    }

    fn greet_device(&mut self, ctx: &mut Context<Self>) {
        debug!(session.id = %self.session, device.id = %self.device, "the session goes on with its device");
        self.parts.registry.stop_awaiting(self.device, self.session);
        for timer in [self.grace.take(), self.away_notice.take(), self.resume_limit.take()].into_iter().flatten() {
            ctx.cancel_future(timer);
        }
    }

    fn await_operator(&mut self, how: Leave, ctx: &mut Context<Self>) {
        let config = &self.parts.config;
        let limit = if how == Leave::Detached { config.detached_limit } else { config.operator_grace };
        info!(session.id = %self.session, ?how, "nobody types in the session; it is kept");
        self.vacancy = Some(ctx.run_later(limit, |host, ctx| {
            let effects = host.link.finish(SessionEnd::OperatorGone);
            host.carry_out(effects, ctx);
        }));
    }

    fn check_device(&mut self, ctx: &mut Context<Self>) {
        if self.link.is_away() {
            return;
        }
        if self.end.is_gone() {
            // An actor that was ending took what it was told and died with it.
            let effects = self.lose_device(SessionEnd::DeviceGone(DisconnectReason::ConnectionLost));
            return self.carry_out(effects, ctx);
        }
        let Some(node) = self.end.node() else { return };
        let (reach, device, binding) = (self.parts.reach.clone(), self.device, self.link.binding());
        ctx.spawn(async move { reach.node_of(device).await }.into_actor(self).map(move |route, host, ctx| {
            let why = match route {
                // Without the shared store nobody is declared lost.
                Err(_) => return,
                Ok(Some(now)) if now == node => return,
                Ok(Some(_)) => DisconnectReason::Replaced,
                Ok(None) => DisconnectReason::NodeLost,
            };
            if host.link.binding() == binding {
                let effects = host.lose_device(SessionEnd::DeviceGone(why));
                host.carry_out(effects, ctx);
            }
        }));
    }

    /// This node is stopping: sessions that are kept wait for their clients to return to another node.
    fn drain(&mut self, ctx: &mut Context<Self>) {
        if !self.link.is_kept() {
            let effects = self.link.finish(SessionEnd::NodeShutdown);
            return self.carry_out(effects, ctx);
        }
        if self.attached.is_empty() && !self.is_draining {
            // Nobody is about to ask for it.
            ctx.stop();
        }
        self.is_draining = true;
        for (attachment, end) in self.attached.drain() {
            let _ = end.send(&self.parts.bus, attachment, ToAttached::End { why: SessionEnd::NodeShutdown });
        }
    }

    fn finish(&mut self, why: SessionEnd) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        info!(session.id = %self.session, user.id = %self.user, why = why.as_str(), "session closed");
        self.note_people();
        self.parts.records.note(SessionChange::Ended {
            session: self.session,
            generation: self.generation,
            at: clock::now(),
            reason: why.as_str().to_owned(),
            figures: self.figures(),
        });
        let at = self.age();
        // Its rest is written by a task of its own.
        drop(self.recorder.take().map(|recorder| recorder.finish(at)));
        self.tell_device(HostSays::HangUp);
        self.parts.registry.leave_session(self.session);
        if self.link.leaves_shell() {
            let (device, user) = (self.device, self.user.clone());
            left_shell::stop_when_back(&self.parts, device, self.session, user, self.link.binding());
        }
    }
}

impl Actor for SessionHost {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SOCKET_MAILBOX);
        metrics::gauge!(crate::metrics::SESSIONS_OPEN).increment(1.0);
        info!(session.id = %self.session, user.id = %self.user, device.id = %self.device, "session opened");
        ctx.run_interval(CHECK_DEVICE, Self::check_device);
        ctx.run_interval(NOTE_PROGRESS, Self::note_progress);
        if self.begins {
            self.parts.records.note(SessionChange::Opened(OpenedSession {
                session: self.session,
                device: self.device,
                user: self.user.clone(),
                node: self.parts.bus.node(),
                kind: SessionKind::Unknown,
                at: self.opened,
                address: self.address.map(|address| address.to_string()),
                kept: self.kept,
                recorded: self.parts.recording.is_some(),
            }));
            if self.kept {
                // Nobody is told that it is kept before another node could find it. Without a database it goes on.
                let (records, session) = (self.parts.records.clone(), self.session);
                let written =
                    async move { tokio::time::timeout(WRITTEN_LIMIT, records.beginning_written(session)).await };
                ctx.wait(written.into_actor(self).map(|_, _, _| ()));
            }
            let effects = self.link.begin(self.kept);
            self.carry_out(effects, ctx);
        } else {
            self.await_device(ctx);
            // Whoever took it over is about to join.
            self.await_operator(Leave::Lost, ctx);
        }
    }
}

impl Drop for SessionHost {
    fn drop(&mut self) {
        metrics::gauge!(crate::metrics::SESSIONS_OPEN).decrement(1.0);
        if self.is_draining {
            // Another node goes on with it, or its device's end gives it up in time.
            self.parts.registry.leave_session(self.session);
        } else if !self.is_finished {
            warn!(session.id = %self.session, "the actor of a session ended by a fault");
            for (attachment, end) in self.attached.drain() {
                let _ = end.send(&self.parts.bus, attachment, ToAttached::End { why: SessionEnd::HubFault });
            }
            self.finish(SessionEnd::HubFault);
        }
    }
}

impl Handler<FromDevice> for SessionHost {
    type Result = ();

    fn handle(&mut self, said: FromDevice, ctx: &mut Self::Context) {
        if let super::DeviceSays::End { why } = &said.says
            && said.binding == self.link.binding()
        {
            self.lost = *why;
        }
        let effects = self.link.hear_device(said.binding, said.says, clock::now(), &self.parts.config);
        self.carry_out(effects, ctx);
    }
}

impl Handler<ToSession> for SessionHost {
    type Result = ();

    fn handle(&mut self, message: ToSession, ctx: &mut Self::Context) {
        let effects = match message {
            ToSession::Attached { attachment, end, says } => {
                if let (AttachedSays::Join(_), Some(end)) = (&says, end) {
                    self.attached.insert(attachment, end);
                }
                self.link.hear(attachment, says, clock::now(), &self.parts.config)
            }
            ToSession::DeviceIsHere => return self.look_for_device(ctx),
            ToSession::NodeLost(node) => {
                let gone: Vec<AttachmentId> = self.attached_on(Some(node));
                let mut effects: Vec<Effect> =
                    gone.into_iter().flat_map(|attachment| self.link.lose_attached(attachment)).collect();
                if self.end.node() == Some(node) && !self.link.is_away() {
                    effects.extend(self.lose_device(SessionEnd::DeviceGone(DisconnectReason::NodeLost)));
                }
                effects
            }
            ToSession::LinkLost => {
                let gone: Vec<AttachmentId> = self.attached_on(None);
                let mut effects: Vec<Effect> =
                    gone.into_iter().flat_map(|attachment| self.link.lose_attached(attachment)).collect();
                if self.end.node().is_some() && !self.link.is_away() {
                    effects.extend(self.lose_device(SessionEnd::LinkLost));
                }
                effects
            }
            ToSession::HandOver(to) => {
                // Nothing may come between what is handed over and the end here.
                let _ = to.send(HandedOver { past: self.link.past() });
                self.is_draining = true;
                return ctx.stop();
            }
            ToSession::End { why: SessionEnd::NodeShutdown } => return self.drain(ctx),
            ToSession::End { why } => self.link.finish(why),
        };
        self.carry_out(effects, ctx);
    }
}

impl SessionHost {
    /// Attachments on another node, or on any other.
    fn attached_on(&self, node: Option<NodeId>) -> Vec<AttachmentId> {
        let is_meant = |end: &AttachedEnd| end.node().is_some_and(|at| node.is_none_or(|node| node == at));
        self.attached.iter().filter(|(_, end)| is_meant(end)).map(|(attachment, _)| *attachment).collect()
    }
}
