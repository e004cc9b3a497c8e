//! One session on a device, with the hub where an operator would be.
//!
//! Everything that ties a transfer to the way sessions work stands here: the registry, credits both ways, numbers across
//! nodes. Dropping a [`Peer`] ends its session, and the device is told `close`.

use std::collections::VecDeque;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, Context, Handler};
use bytes::Bytes;
use storage::{DeviceId, SessionId, TokenId, UserId};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, info};

use super::{Failure, Transfers};
use crate::bus::DisconnectReason;
use crate::gate::Refusal;
use crate::reach::Unreachable;
use crate::registry::ConnectedOperator;
use crate::session::{DeviceEnd, OperatorEnd, SOCKET_MAILBOX, SessionEnd, ToDevice, ToOperator, charge};

/// Messages of a device that may wait for a transfer. Credit keeps them below: its largest window, all in empty messages.
const INBOX: usize = 4096;

/// Messages that may wait for credit. A transfer says little at a time; only a device that asks for answers and takes none
/// gets here.
const OUTBOX: usize = 64;

/// How often a transfer makes sure that there is still a device's actor.
const LOOK_FOR_THE_DEVICE: Duration = Duration::from_secs(2);

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
}

/// A session on a device.
pub(super) struct Peer {
    session: SessionId,
    user: UserId,
    device: DeviceEnd,
    transfers: Transfers,
    inbox: mpsc::Receiver<ToOperator>,
    _ear: Addr<Ear>,
    outbox: VecDeque<Bytes>,
    /// Credit in use towards the device.
    in_flight: usize,
    /// Credit for the device's messages that were heard and not yet given back.
    unreturned: usize,
    /// Number of the next message from another node.
    next_number: u32,
    look: Interval,
}

impl Peer {
    /// Opens a session.
    pub(super) async fn open(transfers: &Transfers, whom: Whom) -> Result<Self, Failure> {
        let Whom { device, user, token, credential } = whom;
        let reachable = transfers.reach.find(device).await?;
        let session = SessionId::random();
        let (sender, inbox) = mpsc::channel(INBOX);
        let ear = Ear(sender).start();
        let operator =
            ConnectedOperator { user: user.clone(), token, to: ear.clone().recipient(), device_node: reachable.node() };
        transfers
            .registry
            .enter_operator(session, operator, transfers.sessions.per_user)
            .map_err(|_| Failure::TooManySessions)?;
        metrics::gauge!(crate::metrics::SESSIONS_OPEN).increment(1.0);
        info!(session.id = %session, user.id = %user, device.id = %device, "file transfer opened");
        let mut look = interval(LOOK_FOR_THE_DEVICE);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let peer = Self {
            session,
            user: user.clone(),
            device: reachable.into_end(device),
            transfers: transfers.clone(),
            inbox,
            _ear: ear.clone(),
            outbox: VecDeque::new(),
            in_flight: 0,
            unreturned: 0,
            next_number: 0,
            look,
        };
        peer.tell(ToDevice::Open { session, user, operator: OperatorEnd::Here(ear.recipient()) })
            .map_err(|_| Unreachable::Offline)?;
        // Access withdrawn between the request's arrival and the registry would have found nobody to cut.
        if matches!(transfers.gate.user(&credential).await, Err(Refusal::Refused(_))) {
            return Err(Failure::Ended(SessionEnd::AccessWithdrawn));
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
                        return Err(device_gone());
                    }
                    continue;
                }
            };
            return match heard {
                Some(ToOperator::Deliver { number, message }) => {
                    if number.is_some_and(|number| number != self.next_number) {
                        return Err(Failure::Ended(SessionEnd::LinkLost));
                    }
                    self.next_number = self.next_number.wrapping_add(1);
                    self.return_credit(message.len())?;
                    Ok(Some(message))
                }
                Some(ToOperator::Credit { bytes }) => {
                    self.in_flight = self.in_flight.saturating_sub(bytes);
                    self.flush()?;
                    Ok(None)
                }
                Some(ToOperator::End { why }) => Err(Failure::Ended(why)),
                // The ear has overflowed, which credit rules out, or fell over.
                None => Err(Failure::Ended(SessionEnd::LinkLost)),
            };
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        while let Some(message) = self.outbox.front() {
            let cost = charge(message.len());
            // A message larger than the whole window goes alone rather than never.
            if self.in_flight > 0 && self.in_flight + cost > self.transfers.sessions.to_device_window {
                break;
            }
            self.in_flight += cost;
            if let Some(message) = self.outbox.pop_front() {
                self.tell(ToDevice::Deliver { session: self.session, number: None, message })?;
            }
        }
        Ok(())
    }

    fn return_credit(&mut self, len: usize) -> Result<(), Failure> {
        self.unreturned += charge(len);
        if self.unreturned < self.transfers.sessions.to_operator_window / 4 {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.unreturned);
        self.tell(ToDevice::Credit { session: self.session, bytes })
    }

    fn tell(&self, message: ToDevice) -> Result<(), Failure> {
        self.device.send(&self.transfers.bus, message).map_err(|_| device_gone())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.transfers.registry.leave_operator(self.session);
        metrics::gauge!(crate::metrics::SESSIONS_OPEN).decrement(1.0);
        info!(session.id = %self.session, user.id = %self.user, "file transfer closed");
        // The device hears `close`: its end knows that this session used the session layer.
        if self.tell(ToDevice::HangUp { session: self.session }).is_err() {
            debug!(session.id = %self.session, "the device's end was gone first");
        }
    }
}

const fn device_gone() -> Failure {
    Failure::Ended(SessionEnd::DeviceGone(DisconnectReason::ConnectionLost))
}

/// Hears what the device's actor says, as an operator's socket would, and passes it on.
struct Ear(mpsc::Sender<ToOperator>);

impl Actor for Ear {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(SOCKET_MAILBOX);
    }
}

impl Handler<ToOperator> for Ear {
    type Result = ();

    fn handle(&mut self, message: ToOperator, ctx: &mut Self::Context) {
        if self.0.try_send(message).is_err() {
            ctx.stop();
        }
    }
}
