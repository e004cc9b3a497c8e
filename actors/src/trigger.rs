//! Commands to a device's update client: look for an update now, send the inventory now. (Wire: protocol 4.)
//!
//! Each command has a session of its own on the device, since the agent runs it in that session's worker: a second message
//! in the same session would hold up everything else that device does. For the same reason the session is closed only
//! after the reply. Whoever asked is answered as soon as the command is on its way; what became of it is counted.
//!
//! Nothing is lost when the actor of a command dies but the knowledge of how it ended.

mod under_way;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, ArbiterHandle, AsyncContext, Context, Handler, Message};
use parking_lot::Mutex;
use serde::Deserialize;
use storage::{DeviceId, SessionId, StorageError, UserId};
use tracing::{debug, warn};

use crate::bus::Bus;
use crate::message::{self, Compose, Prop, proto, status};
use crate::reach::{Reach, Unreachable};
use crate::registry::{HostedSession, Registry};
use crate::session::{Binding, DeviceEnd, DeviceSays, FromDevice, HostEnd, HostSays, Open};
use under_way::{Turn, UnderWay};

/// A reply that comes later than the time it is waited for still ends its session in good order, if it comes within this.
/// An agent that is busy installing answers late.
const LATE_REPLY_LIMIT: Duration = Duration::from_mins(5);

/// Longest part of a device's error text that is written down.
const TEXT_LIMIT: usize = 200;

/// What a device can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Ask the hub for an update now.
    CheckUpdate,
    /// Send the inventory now.
    SendInventory,
}

impl Command {
    /// The message type that carries it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CheckUpdate => "check-update",
            Self::SendInventory => "send-inventory",
        }
    }
}

/// On whose behalf a device is told something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// A user.
    User(UserId),
    /// Another service of the installation.
    Service,
}

/// Why a command is not on its way.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// The device is not connected, or not known at all.
    #[error("device not connected")]
    NotConnected,
    /// The node that should hold the device does not answer.
    #[error("internal error")]
    NoAnswer,
    /// The device has not answered several commands yet.
    #[error("the device has not answered earlier commands yet")]
    Busy,
    /// The shared store cannot say where the device is.
    #[error("service unavailable")]
    Unavailable(#[source] StorageError),
}

/// Sends commands to devices. Cloning is cheap; all clones share what is under way.
#[derive(Clone)]
pub struct Triggers(Arc<Inner>);

struct Inner {
    registry: Registry,
    reach: Reach,
    bus: Bus,
    arbiter: ArbiterHandle,
    reply_limit: Duration,
    under_way: Mutex<UnderWay>,
}

impl Triggers {
    /// Sends commands to the devices that `reach` finds, and waits `reply_limit` for each reply. The commands' actors run
    /// on `arbiter`.
    pub fn new(registry: Registry, reach: Reach, bus: Bus, reply_limit: Duration, arbiter: ArbiterHandle) -> Self {
        Self(Arc::new(Inner { registry, reach, bus, arbiter, reply_limit, under_way: Mutex::default() }))
    }

    /// Tells a device something, on somebody's behalf. When the same command is under way already, the
    /// device is told once more after its reply, however often it was asked for meanwhile: so at least one begins after
    /// every call.
    ///
    /// # Errors
    /// When the command is not on its way.
    pub async fn send(&self, device: DeviceId, command: Command, asker: Asker) -> Result<(), TriggerError> {
        let reachable = self.0.reach.find(device).await.map_err(|error| match error {
            Unreachable::Offline => TriggerError::NotConnected,
            Unreachable::NoAnswer => TriggerError::NoAnswer,
            Unreachable::Unavailable(error) => TriggerError::Unavailable(error),
        })?;
        match self.0.under_way.lock().ask(device, command, asker.clone()) {
            Turn::Start => {}
            Turn::Joined => return Ok(()),
            Turn::Refused => return Err(TriggerError::Busy),
        }
        let errand = Errand {
            triggers: self.clone(),
            session: SessionId::random(),
            device,
            command,
            end: reachable.into_end(device),
            has_reported: false,
        };
        errand.begin(asker).map_err(|()| TriggerError::NotConnected)
    }

    /// The device was told and is not waited for any longer; tells it once more if somebody asked meanwhile.
    fn reported(&self, device: DeviceId, command: Command) {
        let Some(asker) = self.0.under_way.lock().reported(device, command) else { return };
        let this = self.clone();
        let again = async move {
            if let Err(error) = this.send(device, command, asker).await {
                debug!(device.id = %device, command = command.as_str(), %error, "a command was not repeated");
            }
        };
        self.0.arbiter.spawn(again);
    }
}

/// One command on its way: the host of its session.
struct Errand {
    triggers: Triggers,
    session: SessionId,
    device: DeviceId,
    command: Command,
    end: DeviceEnd,
    has_reported: bool,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done,
    Failed(String),
    NoReply,
    DeviceGone,
}

impl Outcome {
    const fn label(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::NoReply => "no-reply",
            Self::DeviceGone => "device-gone",
        }
    }
}

/// What the device says in the session of a command, if it ends it.
fn outcome(command: Command, raw: &[u8]) -> Option<Outcome> {
    #[derive(Deserialize)]
    struct ErrorBody {
        err: String,
    }
    let read = message::Message::read(raw).ok()?;
    let body = read.body.bytes();
    match (read.proto, read.typ) {
        (proto::UPDATE_CLIENT, typ) if typ == command.as_str() => match read.int_prop("status") {
            Some(code) if code == i64::from(status::ERROR) => Some(Outcome::Failed(shortened(body))),
            _ => Some(Outcome::Done),
        },
        (proto::CONTROL, "error") => {
            let text = rmp_serde::from_slice::<ErrorBody>(body).map_or_else(|_| String::new(), |body| body.err);
            Some(Outcome::Failed(shortened(text.as_bytes())))
        }
        (proto::CONTROL, "close") => Some(Outcome::DeviceGone),
        _ => None,
    }
}

fn shortened(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(TEXT_LIMIT)]).into_owned()
}

impl Errand {
    /// Starts the actor, opens the session and says the command. An error means that the device is gone.
    fn begin(self, asker: Asker) -> Result<(), ()> {
        let triggers = self.triggers.clone();
        let Inner { registry, bus, arbiter, .. } = &*triggers.0;
        let (session, device, end, command) = (self.session, self.device, self.end.clone(), self.command);
        let address: Addr<Self> = Self::start_in_arbiter(arbiter, |_| self);
        let user = match asker {
            Asker::User(user) => user,
            Asker::Service => UserId::new(""),
        };
        let from_device = address.clone().recipient();
        registry.enter_session(
            session,
            HostedSession {
                device,
                user: user.clone(),
                from_device: from_device.clone(),
                host: None,
                device_node: end.node(),
                writer: None,
            },
        );
        let (sid, user_id) = (session.to_string(), [("user_id", Prop::Text(user.as_str()))]);
        let props = if user.as_str().is_empty() { &[][..] } else { &user_id[..] };
        let order = Compose { proto: proto::UPDATE_CLIENT, typ: command.as_str(), sid: &sid, props, body: &[] };
        let open = Open { user: user.clone(), kept: false, resume: None, host: HostEnd::Here(from_device) };
        let deliver = HostSays::Deliver { number: 0, message: order.to_bytes() };
        end.send(bus, session, Binding::ONLY, HostSays::Open(open))
            .and_then(|()| end.send(bus, session, Binding::ONLY, deliver))
            .map_err(|_| address.do_send(Abandon))
    }

    fn report(&mut self, outcome: &Outcome) {
        if std::mem::replace(&mut self.has_reported, true) {
            return;
        }
        let (command, device) = (self.command.as_str(), self.device);
        metrics::counter!(crate::metrics::TRIGGERS, "command" => command, "outcome" => outcome.label()).increment(1);
        match outcome {
            Outcome::Failed(text) => warn!(device.id = %device, command, text, "a device could not do as it was told"),
            outcome => debug!(device.id = %device, command, outcome = outcome.label(), "a command has ended"),
        }
        self.triggers.reported(device, self.command);
    }
}

impl Actor for Errand {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_later(self.triggers.0.reply_limit, |errand, _| errand.report(&Outcome::NoReply));
        ctx.run_later(LATE_REPLY_LIMIT.max(self.triggers.0.reply_limit), |_, ctx| ctx.stop());
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.report(&Outcome::DeviceGone);
        self.triggers.0.under_way.lock().gone(self.device);
        self.triggers.0.registry.leave_session(self.session);
        // The device's end says `close`; it is gone if the device is.
        let _ = self.end.send(&self.triggers.0.bus, self.session, Binding::ONLY, HostSays::HangUp);
    }
}

/// The command could not be said.
#[derive(Message)]
#[rtype(result = "()")]
struct Abandon;

impl Handler<Abandon> for Errand {
    type Result = ();

    fn handle(&mut self, _: Abandon, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<FromDevice> for Errand {
    type Result = ();

    fn handle(&mut self, said: FromDevice, ctx: &mut Self::Context) {
        match said.says {
            DeviceSays::Deliver { message, .. } => {
                if let Some(outcome) = outcome(self.command, &message) {
                    self.report(&outcome);
                    ctx.stop();
                }
            }
            DeviceSays::Credit { .. } | DeviceSays::Resumed(_) => {}
            DeviceSays::End { .. } => ctx.stop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(proto: u16, typ: &str, status: Option<u8>, body: &[u8]) -> Vec<u8> {
        let props: Vec<_> = status.map(|status| ("status", Prop::Small(status))).into_iter().collect();
        Compose { proto, typ, sid: "s", props: &props, body }.to_bytes().to_vec()
    }

    #[test]
    fn a_reply_of_the_same_type_ends_a_command() {
        let command = Command::CheckUpdate;
        assert_eq!(outcome(command, &said(4, "check-update", Some(1), b"")), Some(Outcome::Done));
        let failed = outcome(command, &said(4, "check-update", Some(2), b"exit status 1"));
        assert_eq!(failed, Some(Outcome::Failed("exit status 1".to_owned())));
        assert_eq!(outcome(command, &said(4, "send-inventory", Some(1), b"")), None);
    }

    #[test]
    fn an_error_of_the_session_ends_a_command_and_a_ping_does_not() {
        let body = rmp_serde::to_vec_named(&serde_json::json!({"err": "no handler", "close": false})).unwrap();
        let failed = outcome(Command::SendInventory, &said(proto::CONTROL, "error", None, &body));
        assert_eq!(failed, Some(Outcome::Failed("no handler".to_owned())));
        assert_eq!(outcome(Command::SendInventory, &said(proto::CONTROL, "ping", None, b"")), None);
        assert_eq!(outcome(Command::SendInventory, b"nonsense"), None);
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(shortened(&[b'x'; 5000]).len(), TEXT_LIMIT);
    }
}
