//! One session on a device, of which the hub itself is host and operator.
//!
//! Everything that ties a transfer to the way sessions work stands here: the registry, credits both ways, numbers, the
//! record of the session. Dropping a [`Peer`] ends its session, and the device is told `close`.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, Context, Handler};
use bytes::Bytes;
use storage::{
    AttachmentId, DeviceId, OpenedSession, SessionChange, SessionFigures, SessionId, SessionKind, TokenId, UserId,
    clock,
};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tracing::{debug, info};

use super::{Failure, Transfers};
use crate::bus::DisconnectReason;
use crate::gate::Refusal;
use crate::reach::Unreachable;
use crate::registry::{ConnectedOperator, HostedSession};
use crate::session::attachment::ToAttached;
use crate::session::{
    Binding, DeviceEnd, DeviceSays, FromDevice, HostEnd, HostSays, Open, SOCKET_MAILBOX, SessionEnd, charge,
};

/// Messages of a device that may wait for a transfer. Credit keeps them below: its largest window, all in empty messages.
const INBOX: usize = 4096;

/// Messages that may wait for credit. A transfer says little at a time; only a device that asks for answers and takes none
/// gets here.
const OUTBOX: usize = 64;

/// How often a transfer makes sure that there is still a device's actor.
const LOOK_FOR_THE_DEVICE: Duration = Duration::from_secs(2);

/// How long the last words of a transfer may take to leave for the device.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Who transfers a file, and with which device.
#[derive(Debug, Clone)]
pub struct Whom {
    /// The device.
    pub device: DeviceId,
    /// The user.
    pub user: UserId,
    /// The token they came with: its revocation ends the transfer.
    pub token: TokenId,
    /// The credential itself, for a second look once the session is known.
    pub credential: String,
    /// Where they connect from.
    pub address: IpAddr,
}

/// A session on a device.
pub(super) struct Peer {
    session: SessionId,
    /// Counts among the user's sockets, and is how a withdrawal of their access gets here.
    attachment: AttachmentId,
    user: UserId,
    kind: SessionKind,
    device: DeviceEnd,
    transfers: Transfers,
    inbox: mpsc::Receiver<Heard>,
    _ear: Addr<Ear>,
    outbox: VecDeque<Bytes>,
    /// Credit in use towards the device.
    in_flight: usize,
    /// Credit for the device's messages that were heard and not yet given back.
    unreturned: usize,
    /// Number of the next message from the device.
    next_from_device: u32,
    /// Number of the next message to it.
    next_to_device: u32,
    look: Interval,
    /// Bytes of the file that were moved.
    moved: i64,
    /// Why it ends, unless the transfer itself does.
    why: SessionEnd,
}

impl Peer {
    /// Opens a session.
    pub(super) async fn open(transfers: &Transfers, whom: Whom, kind: SessionKind) -> Result<Self, Failure> {
        let Whom { device, user, token, credential, address } = whom;
        let parts = &transfers.parts;
        let end = parts.reach.find(device).await?.into_end(device);
        let (session, attachment) = (SessionId::random(), AttachmentId::random());
        let (sender, inbox) = mpsc::channel(INBOX);
        let ear = Ear(sender).start();
        let operator = ConnectedOperator { user: user.clone(), token, to: ear.clone().recipient(), host_node: None };
        parts
            .registry
            .enter_operator(attachment, operator, parts.config.per_user)
            .map_err(|_| Failure::TooManySessions)?;
        let hosted = HostedSession {
            device,
            user: user.clone(),
            from_device: ear.clone().recipient(),
            host: None,
            device_node: end.node(),
            writer: None,
        };
        parts.registry.enter_session(session, hosted);
        metrics::gauge!(crate::metrics::SESSIONS_OPEN).increment(1.0);
        info!(session.id = %session, user.id = %user, device.id = %device, kind = kind.as_str(), "session opened");
        parts.records.note(SessionChange::Opened(OpenedSession {
            session,
            device,
            user: user.clone(),
            node: parts.bus.node(),
            kind,
            at: clock::now(),
            address: Some(address.to_string()),
            kept: false,
            recorded: false,
        }));
        let mut look = interval(LOOK_FOR_THE_DEVICE);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut peer = Self {
            session,
            attachment,
            user: user.clone(),
            kind,
            device: end,
            transfers: transfers.clone(),
            inbox,
            _ear: ear.clone(),
            outbox: VecDeque::new(),
            in_flight: 0,
            unreturned: 0,
            next_from_device: 0,
            next_to_device: 0,
            look,
            moved: 0,
            why: SessionEnd::OperatorLeft,
        };
        let open = Open { user, kept: false, resume: None, host: HostEnd::Here(ear.recipient()) };
        peer.tell(HostSays::Open(open)).map_err(|_| Unreachable::Offline)?;
        // Access withdrawn between the request's arrival and the registry would have found nobody to cut.
        if matches!(transfers.gate.user(&credential).await, Err(Refusal::Refused(_))) {
            return Err(peer.over(SessionEnd::AccessWithdrawn));
        }
        Ok(peer)
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Says something to the device, at once or when there is credit for it.
    pub(super) fn say(&mut self, message: Bytes) -> Result<(), Failure> {
        if self.outbox.len() >= OUTBOX {
            return Err(Failure::OutOfStep("it asks more than it listens"));
        }
        self.outbox.push_back(message);
        self.flush()
    }

    /// Whether everything that was said is on its way.
    pub(super) fn is_clear(&self) -> bool {
        self.outbox.is_empty()
    }

    /// What the device says next; `None` when there is merely room again for what is to be said to it. Nothing is lost when
    /// this is given up half-way.
    pub(super) async fn hear(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let heard = tokio::select! {
                heard = self.inbox.recv() => heard,
                _ = self.look.tick() => {
                    // A device's actor that was ending may have taken the session and died with it.
                    if self.device.is_gone() {
                        return Err(self.over(DEVICE_GONE));
                    }
                    continue;
                }
            };
            return match heard {
                Some(Heard::Device(DeviceSays::Deliver { number, message })) => {
                    if number != self.next_from_device {
                        return Err(self.over(SessionEnd::LinkLost));
                    }
                    self.next_from_device = number.wrapping_add(1);
                    self.return_credit(message.len())?;
                    Ok(Some(message))
                }
                Some(Heard::Device(DeviceSays::Credit { bytes })) => {
                    self.in_flight = self.in_flight.saturating_sub(bytes);
                    self.flush()?;
                    Ok(None)
                }
                // Only of sessions that are bound anew.
                Some(Heard::Device(DeviceSays::Resumed(_))) => continue,
                Some(Heard::Device(DeviceSays::End { why }) | Heard::Cut(why)) => Err(self.over(why)),
                // The ear has overflowed, which credit rules out, or fell over.
                None => Err(self.over(SessionEnd::HubFault)),
            };
        }
    }

    /// Waits until everything that was said has left for the device: what has not when the session ends never does.
    pub(super) async fn settle(&mut self) {
        let leaving = async {
            while self.in_flight > 0 || !self.outbox.is_empty() {
                if self.hear().await.is_err() {
                    return;
                }
            }
        };
        // A device that takes nothing loses its connection for that.
        let _ = timeout(SETTLE_LIMIT, leaving).await;
    }

    /// How much of the file was moved so far.
    pub(super) fn note_moved(&mut self, bytes: i64) {
        self.moved = bytes;
    }

    /// Notes why the session ends.
    fn over(&mut self, why: SessionEnd) -> Failure {
        self.why = why;
        Failure::Ended(why)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        while let Some(message) = self.outbox.front() {
            let cost = charge(message.len());
            // A message larger than the whole window goes alone rather than never.
            if self.in_flight > 0 && self.in_flight + cost > self.transfers.parts.config.to_device_window {
                break;
            }
            self.in_flight += cost;
            if let Some(message) = self.outbox.pop_front() {
                let number = self.next_to_device;
                self.next_to_device = number.wrapping_add(1);
                self.tell(HostSays::Deliver { number, message })?;
            }
        }
        Ok(())
    }

    fn return_credit(&mut self, len: usize) -> Result<(), Failure> {
        self.unreturned += charge(len);
        if self.unreturned < self.transfers.parts.config.to_operator_window / 4 {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.unreturned);
        self.tell(HostSays::Credit { bytes })
    }

    fn tell(&mut self, says: HostSays) -> Result<(), Failure> {
        let told = self.device.send(&self.transfers.parts.bus, self.session, Binding::ONLY, says);
        told.map_err(|_| self.over(DEVICE_GONE))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let why = self.why;
        // The device hears `close`: its end knows that this session used the session layer.
        if self.tell(HostSays::HangUp).is_err() {
            debug!(session.id = %self.session, "the device's end was gone first");
        }
        let parts = &self.transfers.parts;
        parts.registry.leave_session(self.session);
        parts.registry.leave_operator(self.attachment);
        metrics::gauge!(crate::metrics::SESSIONS_OPEN).decrement(1.0);
        info!(session.id = %self.session, user.id = %self.user, why = why.as_str(), "session closed");
        let is_upload = self.kind == SessionKind::FileUpload;
        let (bytes_to_device, bytes_to_operator) = if is_upload { (self.moved, 0) } else { (0, self.moved) };
        parts.records.note(SessionChange::Ended {
            session: self.session,
            generation: 0,
            at: clock::now(),
            reason: why.as_str().to_owned(),
            figures: SessionFigures {
                kind: self.kind,
                bytes_to_device,
                bytes_to_operator,
                ..SessionFigures::default()
            },
        });
    }
}

const DEVICE_GONE: SessionEnd = SessionEnd::DeviceGone(DisconnectReason::ConnectionLost);

/// What a transfer hears.
enum Heard {
    /// From the device's end.
    Device(DeviceSays),
    /// The hub ends it.
    Cut(SessionEnd),
}

/// Hears what the device's actor says, as a session's host would, and what an operator's socket would be told, and passes
/// it on.
struct Ear(mpsc::Sender<Heard>);

impl Actor for Ear {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SOCKET_MAILBOX);
    }
}

impl Ear {
    fn pass_on(&self, heard: Heard, ctx: &mut Context<Self>) {
        if self.0.try_send(heard).is_err() {
            ctx.stop();
        }
    }
}

impl Handler<FromDevice> for Ear {
    type Result = ();

    fn handle(&mut self, said: FromDevice, ctx: &mut Self::Context) {
        self.pass_on(Heard::Device(said.says), ctx);
    }
}

impl Handler<ToAttached> for Ear {
    type Result = ();

    fn handle(&mut self, said: ToAttached, ctx: &mut Self::Context) {
        // Nobody else takes part, so that is all there is to be told.
        if let ToAttached::End { why } = said {
            self.pass_on(Heard::Cut(why), ctx);
        }
    }
}
