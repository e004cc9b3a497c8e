//! A session as a pure state machine: what goes where. Who takes part is in `attached`, how it outlives its device's
//! connection and its node in `resumption`.

mod attached;
mod resumption;

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::{AttachmentId, SessionId, Timestamp};

pub use self::resumption::Past;

use self::attached::Attached;
use super::attachment::{AttachedSays, Join, Leave, Role, ToAttached};
use super::scrollback::Scrollback;
use super::{Binding, Config, DeviceSays, LEAST_CREDIT, Resume, SIGNAL_RESERVE, SessionEnd, charge};
use crate::message::{Body, Compose, Message, Prop, proto, status};

/// Who said what the hub itself says.
const NOBODY: AttachmentId = AttachmentId::from_uuid(uuid::Uuid::nil());

/// A session.
#[derive(Debug)]
pub(super) struct SessionLink {
    sid: String,
    kept: bool,
    device: Device,
    binding: Binding,
    /// Number of the next message from the device.
    next_from_device: u32,
    /// Messages received in this binding: what a resumption need not repeat.
    former: Option<(Binding, u32)>,
    /// Number of the next message to the device.
    next_to_device: u32,
    /// What was said for the device and is not known to have left for it.
    unconfirmed: VecDeque<Unconfirmed>,
    /// Credit received beyond what completed a message.
    credited: usize,
    use_of: Use,
    /// A shell runs.
    shell: bool,
    /// It is over while its device was away, whose shell may not know.
    leaves_shell: bool,
    /// Size of the writer's screen, in columns and rows.
    size: Option<(u16, u16)>,
    output: u64,
    input: u64,
    scrollback: Scrollback,
    /// What the device is owed credit for: the output offset after it, and its charge.
    uncredited: VecDeque<(u64, usize)>,
    attached: Vec<Attached>,
    /// Taken over from a node that is gone: where it stands is not known until its device's end says so.
    is_blank: bool,
    /// Its device was away: the agent may have been started anew meanwhile.
    was_away: bool,
    /// Those who came while it was blank.
    waiting: Vec<Join>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    /// On its way, or taken over and not yet found.
    Resuming,
    Bound,
    Away,
    Ended,
}

/// What a session is used for, as far as its life matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Nothing was said yet.
    Unknown,
    /// A terminal and nothing else: it outlives its device's socket.
    Terminal,
    /// Protocols that do not survive a lost socket.
    Layered(u16),
}

#[derive(Debug)]
struct Unconfirmed {
    attachment: AttachmentId,
    message: Bytes,
    progress: Progress,
}

/// How far a message for the device is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Progress {
    /// It waits for the device.
    Waiting,
    /// It was sent in this binding, under this number.
    Sent(u32),
    /// The device's end has it.
    Accepted,
}

/// What the acting half has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Bind to the device's connection.
    Open { kept: bool, resume: Option<Resume> },
    /// Say something to the device's end.
    ToDevice { number: u32, message: Bytes },
    /// Give the device's end credit.
    Credit { bytes: usize },
    /// Say something to an attachment.
    ToAttached { attachment: AttachmentId, says: ToAttached },
    /// Forget the way to an attachment.
    Forget { attachment: AttachmentId },
    /// Terminal output, for the recording.
    Output(Bytes),
    /// The writer's screen has this size.
    Resized(u16, u16),
    /// The device is away: look for it, within the grace time.
    DeviceAway,
    /// It is back.
    DeviceBack,
    /// Nobody types: wait that long for somebody.
    Vacant(Leave),
    /// Somebody types.
    Occupied,
    /// Who takes part has changed.
    People,
    /// It is over.
    Finish(SessionEnd),
}

impl SessionLink {
    /// A new session whose device is connected.
    pub(super) fn new(session: SessionId) -> Self {
        Self {
            sid: session.to_string(),
            kept: false,
            device: Device::Bound,
            binding: Binding::ONLY,
            next_from_device: 0,
            former: None,
            next_to_device: 0,
            unconfirmed: VecDeque::new(),
            credited: 0,
            use_of: Use::Unknown,
            leaves_shell: false,
            shell: false,
            size: None,
            output: 0,
            input: 0,
            scrollback: Scrollback::default(),
            uncredited: VecDeque::new(),
            attached: Vec::new(),
            is_blank: false,
            was_away: false,
            waiting: Vec::new(),
        }
    }

    pub(super) fn binding(&self) -> Binding {
        self.binding
    }

    pub(super) fn size(&self) -> Option<(u16, u16)> {
        self.size
    }

    /// Whether anybody takes the output as fast as it comes.
    pub(super) fn is_followed(&self) -> bool {
        self.attached.iter().any(|it| !it.gate.is_skipping())
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(super) fn use_of(&self) -> Use {
        self.use_of
    }

    pub(super) fn leaves_shell(&self) -> bool {
        self.leaves_shell
    }

    pub(super) fn is_away(&self) -> bool {
        matches!(self.device, Device::Away | Device::Resuming)
    }

    pub(super) fn figures(&self) -> (u64, u64) {
        (self.input, self.output)
    }

    /// Begins: binds to the device.
    pub(super) fn begin(&mut self, kept: bool) -> Vec<Effect> {
        self.kept = kept;
        vec![Effect::Open { kept, resume: None }]
    }

    /// An attachment said something.
    pub(super) fn hear(
        &mut self,
        attachment: AttachmentId,
        says: AttachedSays,
        now: Timestamp,
        limits: &Config,
    ) -> Vec<Effect> {
        let Some(at) = self.attached.iter().position(|it| it.id == attachment) else {
            return match says {
                AttachedSays::Join(join) => self.join(join, now),
                AttachedSays::Leave(how) => {
                    self.waiting.retain(|join| join.attachment != attachment);
                    let answer = Effect::ToAttached { attachment, says: ToAttached::Left };
                    let answer = (how == Leave::Detached).then_some(answer);
                    answer.into_iter().chain([Effect::Forget { attachment }]).collect()
                }
                _ => vec![],
            };
        };
        match says {
            AttachedSays::Join(_) => vec![],
            AttachedSays::Deliver { number, message } => {
                let attached = &mut self.attached[at];
                if number != attached.next_from {
                    // The link between two nodes lost something; clients that can come back and repeat it.
                    return self.drop_attached(at, SessionEnd::LinkLost, Leave::Lost);
                }
                attached.next_from = number.wrapping_add(1);
                self.hear_message(at, message)
            }
            AttachedSays::Took { bytes } => self.took(at, bytes, limits),
            AttachedSays::Seen { output } => {
                let attached = &mut self.attached[at];
                attached.seen = attached.seen.max(output.min(self.output));
                self.give_credit(limits)
            }
            AttachedSays::Leave(how) => self.leave(at, how),
        }
    }

    fn hear_message(&mut self, at: usize, message: Bytes) -> Vec<Effect> {
        let attachment = self.attached[at].id;
        let unheard = || {
            let says = ToAttached::Credit { bytes: charge(message.len()) };
            vec![Effect::ToAttached { attachment, says }]
        };
        let Ok(read) = Message::read(&message) else { return unheard() };
        if self.attached[at].role == Role::Watcher {
            return unheard();
        }
        let mut effects = Vec::new();
        match (read.proto, read.typ) {
            (proto::SHELL, typ) => {
                if self.use_of == Use::Unknown {
                    self.use_of = Use::Terminal;
                }
                match typ {
                    "shell" => self.input += read.body.bytes().len() as u64,
                    "stop" => self.shell = false,
                    "new" | "resize" => {
                        let side = |name| read.int_prop(name).and_then(|side| u16::try_from(side).ok());
                        if let (Some(columns @ 1..), Some(rows @ 1..)) =
                            (side("terminal_width"), side("terminal_height"))
                        {
                            self.size = Some((columns, rows));
                            effects.push(Effect::Resized(columns, rows));
                        }
                    }
                    _ => {}
                }
            }
            (other, _) => {
                if !matches!(self.use_of, Use::Layered(_)) || matches!(self.use_of, Use::Layered(proto::CONTROL)) {
                    self.use_of = Use::Layered(other);
                }
            }
        }
        effects.extend(self.say_to_device(attachment, message));
        effects
    }

    /// An attachment's socket has taken bytes.
    fn took(&mut self, at: usize, bytes: usize, limits: &Config) -> Vec<Effect> {
        let attached = &mut self.attached[at];
        let mut effects = Vec::new();
        if let Some(missed) = attached.gate.credit(bytes, limits.to_operator_window) {
            let (notice, newest) = if attached.ours {
                attached.next += missed.bytes();
                let (missing, newest) = missed.for_program();
                ((missing > 0).then(|| skipped(&self.sid, missing)), newest)
            } else {
                let (notice, newest) = missed.for_screen();
                (notice.map(|notice| output_message(&self.sid, notice.as_bytes())), newest)
            };
            let newest = (!newest.is_empty()).then(|| output_message(&self.sid, &newest));
            effects.extend(notice.into_iter().chain(newest).map(|message| attached.force(message)));
        }
        if matches!(self.use_of, Use::Layered(_)) && self.attached[at].role == Role::Writer {
            // Also what was due while it was but a terminal.
            effects.push(Effect::Credit { bytes });
            effects.extend(self.give_credit(limits));
        }
        effects
    }

    /// Gives the device's end the credit that is due, a terminal's once it is more than [`LEAST_CREDIT`]. What a client that
    /// may come back has not confirmed is kept there for a while, in case this node is lost with it.
    fn give_credit(&mut self, limits: &Config) -> Vec<Effect> {
        let confirmed = self
            .attached
            .iter()
            .filter(|it| it.ours && it.role == Role::Writer && self.kept)
            .map(|it| it.seen)
            .min()
            .unwrap_or(u64::MAX);
        let mut total: usize = self.uncredited.iter().map(|(_, cost)| cost).sum();
        if total <= LEAST_CREDIT && !matches!(self.use_of, Use::Layered(_)) {
            return vec![];
        }
        let mut bytes = 0;
        while let Some((end, cost)) = self.uncredited.front().copied() {
            if end > confirmed && total <= limits.to_operator_window / 2 {
                break;
            }
            self.uncredited.pop_front();
            bytes += cost;
            total -= cost;
        }
        if bytes > 0 { vec![Effect::Credit { bytes }] } else { vec![] }
    }

    /// The device's end said something in this binding.
    pub(super) fn hear_device(
        &mut self,
        binding: Binding,
        says: DeviceSays,
        now: Timestamp,
        limits: &Config,
    ) -> Vec<Effect> {
        if binding != self.binding || matches!(self.device, Device::Away | Device::Ended) {
            return vec![];
        }
        match says {
            DeviceSays::Deliver { number, message } => {
                if self.device != Device::Bound {
                    return vec![];
                }
                if number != self.next_from_device {
                    return self.lose_device(SessionEnd::LinkLost);
                }
                self.next_from_device = number.wrapping_add(1);
                self.hear_output(message, limits)
            }
            DeviceSays::Credit { bytes } => self.confirm(bytes),
            DeviceSays::Resumed(resumed) => self.resumed(resumed, now),
            DeviceSays::End { why } => self.lose_device(why),
        }
    }

    fn hear_output(&mut self, message: Bytes, limits: &Config) -> Vec<Effect> {
        let cost = charge(message.len());
        let Ok(read) = Message::read(&message) else { return vec![Effect::Credit { bytes: cost }] };
        let mut effects = Vec::new();
        match (read.proto, read.typ) {
            (proto::SHELL, "shell") if read.int_prop("status") != Some(status::ERROR.into()) => {
                let body = match read.body {
                    Body::Absent => Bytes::new(),
                    Body::Binary(bytes) | Body::Text(bytes) => message.slice_ref(bytes),
                };
                return self.hear_terminal(&message, body, limits);
            }
            (proto::SHELL, "new") => {
                if read.int_prop("status") != Some(status::ERROR.into()) {
                    self.shell = true;
                }
                self.tell_writer(message, cost, limits, &mut effects);
            }
            (proto::SHELL, "stop") => {
                self.shell = false;
                self.tell_all(&message, cost, limits, &mut effects);
                if self.attached.is_empty() {
                    effects.extend(self.finish(SessionEnd::ShellEnded));
                    return effects;
                }
            }
            (proto::SHELL, "ping") => {
                self.tell_all(&message, cost, limits, &mut effects);
                if !self.has_writer() {
                    // Nobody is there to say that the shell is still wanted.
                    let pong = Compose { proto: proto::SHELL, typ: "pong", sid: &self.sid, ..Compose::default() };
                    effects.extend(self.say_to_device(NOBODY, pong.to_bytes()));
                }
            }
            (proto::SHELL, "shell") if self.was_away => {
                // After its device was away: the agent was started anew and knows no such shell.
                self.shell = false;
                effects.extend(self.finish(SessionEnd::ShellEnded));
                return effects;
            }
            _ => self.tell_writer(message, cost, limits, &mut effects),
        }
        if matches!(self.use_of, Use::Layered(_)) && self.has_writer() {
            // Given back when the writer's socket has taken it.
            return effects;
        }
        self.uncredited.push_back((self.output, cost));
        effects.extend(self.give_credit(limits));
        effects
    }

    fn hear_terminal(&mut self, message: &Bytes, body: Bytes, limits: &Config) -> Vec<Effect> {
        let cost = charge(message.len());
        let start = self.output;
        self.output += body.len() as u64;
        // A session that nobody asked to keep is joined by watchers only, who need its last screens.
        let scrollback = if self.kept { limits.scrollback } else { limits.scrollback / 4 };
        self.scrollback.push(&body, scrollback);
        let mut effects = Vec::new();
        let is_layered = matches!(self.use_of, Use::Layered(_));
        for attached in &mut self.attached {
            if attached.ours && attached.next > start {
                // It has (some of) this already: repeated by the device's end after this node took over.
                let known = usize::try_from(attached.next - start).unwrap_or(usize::MAX);
                if known >= body.len() {
                    continue;
                }
                let rest = output_message(&self.sid, &body[known..]);
                attached.next = self.output;
                effects.push(attached.force(rest));
                continue;
            }
            if attached.gate.admits(&body, cost, limits.to_operator_window) {
                if attached.ours {
                    attached.next = self.output;
                }
                effects.push(attached.deliver(message.clone()));
            }
        }
        effects.push(Effect::Output(body));
        if is_layered && self.has_writer() {
            return effects;
        }
        self.uncredited.push_back((self.output, cost));
        effects.extend(self.give_credit(limits));
        effects
    }

    /// Messages of `bytes` have left for the device.
    fn confirm(&mut self, bytes: usize) -> Vec<Effect> {
        self.credited += bytes;
        let mut effects = Vec::new();
        let mut per_attachment: Vec<(AttachmentId, usize)> = Vec::new();
        let mut has_keys = false;
        while let Some(first) = self.unconfirmed.front() {
            let cost = charge(first.message.len());
            if cost > self.credited {
                break;
            }
            self.credited -= cost;
            match per_attachment.iter_mut().find(|(attachment, _)| *attachment == first.attachment) {
                Some((_, sum)) => *sum += cost,
                None => per_attachment.push((first.attachment, cost)),
            }
            has_keys |=
                Message::read(&first.message).is_ok_and(|read| (read.proto, read.typ) == (proto::SHELL, "shell"));
            self.unconfirmed.pop_front();
        }
        if self.unconfirmed.is_empty() {
            (self.credited, self.unconfirmed) = (0, VecDeque::new());
        }
        for (attachment, bytes) in per_attachment {
            if self.attached.iter().any(|it| it.id == attachment) {
                effects.push(Effect::ToAttached { attachment, says: ToAttached::Credit { bytes } });
            }
        }
        if has_keys {
            self.tell_input(&mut effects);
        }
        effects
    }

    /// Keystrokes that are known to have left for the device.
    fn handed_on(&self) -> u64 {
        let waiting: u64 = self
            .unconfirmed
            .iter()
            .filter_map(|unconfirmed| Message::read(&unconfirmed.message).ok())
            .filter(|read| (read.proto, read.typ) == (proto::SHELL, "shell"))
            .map(|read| read.body.bytes().len() as u64)
            .sum();
        self.input.saturating_sub(waiting)
    }

    /// Tells a client of ours up to where its keystrokes have left for the device.
    fn tell_input(&mut self, effects: &mut Vec<Effect>) {
        let taken = self.handed_on();
        if let Some(writer) = self.attached.iter_mut().find(|it| it.ours && it.role == Role::Writer) {
            let input = Compose {
                proto: proto::MOORING,
                typ: "input",
                sid: &self.sid,
                props: &[("bytes", Prop::Wide(signed(taken)))],
                body: &[],
            };
            effects.push(writer.force(input.to_bytes()));
        }
    }

    /// The session is over: everybody is told.
    pub(super) fn finish(&mut self, why: SessionEnd) -> Vec<Effect> {
        if self.device == Device::Ended {
            return vec![];
        }
        let goes_on = matches!(why, SessionEnd::Moved | SessionEnd::NodeShutdown);
        self.leaves_shell = self.is_away() && self.use_of == Use::Terminal && !goes_on;
        self.device = Device::Ended;
        let mut effects: Vec<Effect> = std::mem::take(&mut self.attached)
            .into_iter()
            .map(|it| Effect::ToAttached { attachment: it.id, says: ToAttached::End { why } })
            .collect();
        for join in std::mem::take(&mut self.waiting) {
            effects.push(Effect::ToAttached { attachment: join.attachment, says: ToAttached::End { why } });
        }
        effects.push(Effect::Finish(why));
        effects
    }

    fn tell_writer(&mut self, message: Bytes, cost: usize, limits: &Config, effects: &mut Vec<Effect>) {
        let Some(at) = self.attached.iter().position(|it| it.role == Role::Writer) else { return };
        if self.attached[at].gate.takes(cost, limits.to_operator_window + SIGNAL_RESERVE) {
            effects.push(self.attached[at].deliver(message));
        } else {
            effects.extend(self.finish(SessionEnd::OperatorTooSlow));
        }
    }

    /// Something small for everybody; who is too slow for it does without.
    fn tell_all(&mut self, message: &Bytes, cost: usize, limits: &Config, effects: &mut Vec<Effect>) {
        for attached in &mut self.attached {
            if attached.gate.takes(cost, limits.to_operator_window + SIGNAL_RESERVE) {
                effects.push(attached.deliver(message.clone()));
            }
        }
    }

    /// Sends a message to the device, now or when it is back.
    fn say_to_device(&mut self, attachment: AttachmentId, message: Bytes) -> Option<Effect> {
        let is_bound = self.device == Device::Bound;
        let number = self.next_to_device;
        let progress = if is_bound { Progress::Sent(number) } else { Progress::Waiting };
        self.unconfirmed.push_back(Unconfirmed { attachment, message: message.clone(), progress });
        is_bound.then(|| {
            self.next_to_device = number.wrapping_add(1);
            Effect::ToDevice { number, message }
        })
    }

    fn has_writer(&self) -> bool {
        self.attached.iter().any(|it| it.role == Role::Writer)
    }

    fn output_message(&self, body: &[u8]) -> Bytes {
        output_message(&self.sid, body)
    }

    fn device_state(&self, state: &str) -> Bytes {
        let props = [("state", Prop::Text(state))];
        Compose { proto: proto::MOORING, typ: "device", sid: &self.sid, props: &props, body: &[] }.to_bytes()
    }
}

fn output_message(sid: &str, body: &[u8]) -> Bytes {
    let props = [("status", Prop::Wide(status::NORMAL.into()))];
    Compose { proto: proto::SHELL, typ: "shell", sid, props: &props, body }.to_bytes()
}

/// Tells a client that counts what it did not get.
fn skipped(sid: &str, bytes: u64) -> Bytes {
    let props = [("bytes", Prop::Wide(signed(bytes)))];
    Compose { proto: proto::MOORING, typ: "skipped", sid, props: &props, body: &[] }.to_bytes()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
