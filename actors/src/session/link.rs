//! A session as a pure state machine: who takes part, what goes where, and what happens when an end is lost.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::{AttachmentId, SessionId, Timestamp, UserId};

use super::attachment::{ATTACHMENTS_LIMIT, AttachedSays, Client, Join, JoinRefused, Leave, Mode, Role, ToAttached};
use super::scrollback::Scrollback;
use super::{Binding, Config, DeviceSays, Resume, Resumed, SIGNAL_RESERVE, SessionEnd, charge};
use crate::bus::DisconnectReason;
use crate::message::{Body, Compose, Message, Prop, proto, status};
use crate::output_gate::{GoOn, OutputGate, skip_notice};

/// Who said what the hub itself says.
const NOBODY: AttachmentId = AttachmentId::from_uuid(uuid::Uuid::nil());

/// Most of the scrollback that is handed over to another node: what one message between nodes holds.
const HANDED_OVER_LIMIT: usize = 384 * 1024;

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

#[derive(Debug)]
struct Attached {
    id: AttachmentId,
    user: UserId,
    role: Role,
    /// Whether it understands our own messages.
    ours: bool,
    since: Timestamp,
    gate: OutputGate,
    /// Offset of the next byte of output for it.
    next: u64,
    /// What its client is known to have.
    seen: u64,
    /// Number of the next message to it.
    next_to: u32,
    /// Number of the next message from it.
    next_from: u32,
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

/// Who takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Person {
    pub(super) attachment: AttachmentId,
    pub(super) user: UserId,
    pub(super) role: Role,
    pub(super) since: Timestamp,
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

    /// A terminal taken over from a node that is gone; where it stands is known once its device is found.
    pub(super) fn taken_over(session: SessionId, generation: u32) -> Self {
        Self {
            kept: true,
            device: Device::Resuming,
            binding: Binding::of_generation(generation),
            use_of: Use::Terminal,
            shell: true,
            is_blank: true,
            was_away: true,
            ..Self::new(session)
        }
    }

    /// A terminal taken over with all that its former node knew.
    pub(super) fn handed_over(session: SessionId, generation: u32, past: Past) -> Self {
        if past.is_blank {
            return Self::taken_over(session, generation);
        }
        let start = past.output - past.scrollback.len() as u64;
        let mut scrollback = Scrollback::after(start);
        scrollback.push(&past.scrollback, usize::MAX);
        Self {
            size: past.size,
            output: past.output,
            input: past.input,
            former: past.received,
            scrollback,
            is_blank: false,
            unconfirmed: past
                .unconfirmed
                .into_iter()
                .map(|(progress, message)| Unconfirmed { attachment: NOBODY, message, progress })
                .collect(),
            ..Self::taken_over(session, generation)
        }
    }

    /// All that another node needs to go on with it.
    pub(super) fn past(&self) -> Past {
        Past {
            size: self.size,
            output: self.output,
            input: self.input,
            // A binding that has not been confirmed counts for nothing.
            received: if self.device == Device::Bound {
                Some((self.binding, self.next_from_device))
            } else {
                self.former
            },
            is_blank: self.is_blank,
            scrollback: self.scrollback.newest(HANDED_OVER_LIMIT),
            unconfirmed: self.unconfirmed.iter().map(|it| (it.progress, it.message.clone())).collect(),
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

    pub(super) fn is_away(&self) -> bool {
        matches!(self.device, Device::Away | Device::Resuming)
    }

    pub(super) fn figures(&self) -> (u64, u64) {
        (self.input, self.output)
    }

    pub(super) fn people(&self) -> Vec<Person> {
        self.attached
            .iter()
            .map(|it| Person { attachment: it.id, user: it.user.clone(), role: it.role, since: it.since })
            .collect()
    }

    /// Whether somebody may take part.
    pub(super) fn may_join(
        &self,
        user: &UserId,
        mode: Mode,
        replaces: Option<AttachmentId>,
    ) -> Result<(), JoinRefused> {
        let others = self.attached.iter().filter(|it| Some(it.id) != replaces || it.user != *user);
        if others.clone().count() + self.waiting.len() >= ATTACHMENTS_LIMIT {
            return Err(JoinRefused::Full);
        }
        let writer = others.clone().find(|it| it.role == Role::Writer);
        match (mode, writer) {
            (Mode::Write, Some(writer)) => Err(JoinRefused::InUse { user: writer.user.clone() }),
            _ => Ok(()),
        }
    }

    /// Begins: binds to the device.
    pub(super) fn begin(&mut self, kept: bool) -> Vec<Effect> {
        self.kept = kept;
        vec![Effect::Open { kept, resume: None }]
    }

    /// Somebody takes part.
    pub(super) fn join(&mut self, join: Join, now: Timestamp) -> Vec<Effect> {
        let replaces = if let Client::Ours { replaces, .. } = &join.client { *replaces } else { None };
        if let Err(refused) = self.may_join(&join.user, join.mode, replaces) {
            let attachment = join.attachment;
            return vec![
                Effect::ToAttached { attachment, says: ToAttached::Refused(refused) },
                Effect::Forget { attachment },
            ];
        }
        if self.is_blank {
            self.waiting.push(join);
            return vec![];
        }
        let mut effects = Vec::new();
        if let Some(at) = self.attached.iter().position(|it| Some(it.id) == replaces && it.user == join.user) {
            let former = self.attached.remove(at);
            effects.push(Effect::ToAttached {
                attachment: former.id,
                says: ToAttached::End { why: SessionEnd::OperatorLeft },
            });
            effects.push(Effect::Forget { attachment: former.id });
        }
        let role = if join.mode == Mode::Watch { Role::Watcher } else { Role::Writer };
        if role == Role::Writer {
            self.demote_writer(&join.user, &mut effects);
            effects.push(Effect::Occupied);
        }
        let mut attached = Attached {
            id: join.attachment,
            user: join.user,
            role,
            ours: false,
            since: now,
            gate: OutputGate::default(),
            next: self.output,
            seen: 0,
            next_to: 0,
            next_from: 0,
        };
        if let Client::Ours { from, keep, .. } = join.client {
            attached.ours = true;
            if keep && role == Role::Writer {
                self.kept = true;
            }
            let from = from.unwrap_or(0);
            // A client may have more than a session that was taken over: its device's end repeats what nobody confirmed.
            let (first, pieces) = if from > self.output { (from, Vec::new()) } else { self.scrollback.from(from) };
            (attached.seen, attached.next) = (first, first.max(self.output));
            let (columns, rows) = self.size.unwrap_or_default();
            let greeting = Compose {
                proto: proto::MOORING,
                typ: "attached",
                sid: &self.sid,
                props: &[
                    ("session", Prop::Text(&self.sid)),
                    ("attachment", Prop::Text(&attached.id.to_string())),
                    ("role", Prop::Text(role.as_str())),
                    ("output", Prop::Wide(signed(first))),
                    ("input", Prop::Wide(signed(self.input))),
                    ("width", Prop::Wide(columns.into())),
                    ("height", Prop::Wide(rows.into())),
                    ("shell", Prop::Wide(i64::from(self.shell))),
                ],
                body: &[],
            };
            effects.push(attached.force(greeting.to_bytes()));
            for piece in pieces {
                let message = self.output_message(&piece);
                attached.gate.replay(charge(message.len()));
                effects.push(attached.deliver(message));
            }
            if self.device == Device::Away {
                effects.push(attached.force(self.device_state("away")));
            }
        }
        self.attached.push(attached);
        self.tell_people(&mut effects);
        effects
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
                AttachedSays::Leave(_) => {
                    self.waiting.retain(|join| join.attachment != attachment);
                    vec![Effect::Forget { attachment }]
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
        let go_on = if attached.ours { GoOn::AtOnce } else { GoOn::AtLineStart };
        if let Some(bytes) = attached.gate.credit(bytes, limits.to_operator_window, go_on) {
            let message = if attached.ours {
                attached.next += bytes;
                skipped(&self.sid, bytes)
            } else {
                output_message(&self.sid, skip_notice(bytes).as_bytes())
            };
            effects.push(attached.force(message));
        }
        if matches!(self.use_of, Use::Layered(_)) && self.attached[at].role == Role::Writer {
            effects.push(Effect::Credit { bytes });
        }
        effects
    }

    /// Gives the device's end the credit that is due: for output at once, but what a client that may come back has not
    /// confirmed is kept there for a while, in case this node is lost with it.
    fn give_credit(&mut self, limits: &Config) -> Vec<Effect> {
        let confirmed = self
            .attached
            .iter()
            .filter(|it| it.ours && it.role == Role::Writer && self.kept)
            .map(|it| it.seen)
            .min()
            .unwrap_or(u64::MAX);
        let mut total: usize = self.uncredited.iter().map(|(_, cost)| cost).sum();
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

    fn leave(&mut self, at: usize, how: Leave) -> Vec<Effect> {
        let left = self.attached.remove(at);
        let mut effects = vec![Effect::Forget { attachment: left.id }];
        if left.role == Role::Watcher {
            self.tell_people(&mut effects);
            return effects;
        }
        let goes_on = self.kept && self.shell && how != Leave::Refused;
        if !goes_on {
            return self.finish(match how {
                Leave::Refused => SessionEnd::AccessWithdrawn,
                _ if self.use_of == Use::Terminal && !self.shell => SessionEnd::ShellEnded,
                _ => SessionEnd::OperatorLeft,
            });
        }
        effects.push(Effect::Vacant(how));
        self.tell_people(&mut effects);
        effects
    }

    fn drop_attached(&mut self, at: usize, why: SessionEnd, how: Leave) -> Vec<Effect> {
        let attachment = self.attached[at].id;
        let mut effects = vec![Effect::ToAttached { attachment, says: ToAttached::End { why } }];
        effects.extend(self.leave(at, how));
        effects
    }

    /// Attachments whose sockets cannot be reached are gone.
    pub(super) fn lose_attached(&mut self, attachment: AttachmentId) -> Vec<Effect> {
        let Some(at) = self.attached.iter().position(|it| it.id == attachment) else { return vec![] };
        self.leave(at, Leave::Lost)
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

    /// The device's connection, or the way to it, is lost.
    pub(super) fn lose_device(&mut self, why: SessionEnd) -> Vec<Effect> {
        let is_final = matches!(
            why,
            SessionEnd::DeviceGone(DisconnectReason::AccessWithdrawn | DisconnectReason::Decommissioned)
                | SessionEnd::TooManySessions
                | SessionEnd::OperatorTooSlow
                | SessionEnd::Moved
        );
        if is_final || matches!(self.use_of, Use::Layered(_)) {
            return self.finish(why);
        }
        if matches!(self.device, Device::Away | Device::Ended) {
            return vec![];
        }
        if self.device == Device::Bound {
            self.former = Some((self.binding, self.next_from_device));
        }
        (self.device, self.was_away) = (Device::Away, true);
        // What the device's end keeps is credited anew.
        self.uncredited.clear();
        let mut effects = vec![Effect::DeviceAway];
        let state = self.device_state("away");
        for attached in self.attached.iter_mut().filter(|it| it.ours) {
            effects.push(attached.force(state.clone()));
        }
        effects
    }

    /// Tells those whose client cannot know that their device is away.
    pub(super) fn say_away(&mut self) -> Vec<Effect> {
        let notice = output_message(&self.sid, b"\r\n\x1b[0m[mooring: the device is away; waiting for it]\r\n");
        self.attached.iter_mut().filter(|it| !it.ours).map(|it| it.force(notice.clone())).collect()
    }

    /// The device is connected again: binds to the new connection.
    pub(super) fn find_device(&mut self) -> Vec<Effect> {
        self.device = Device::Resuming;
        if self.former.is_some() {
            self.binding = self.binding.next();
        }
        // If nobody else knows how far a terminal has come, those who watched it do.
        let output = if self.is_blank { self.seen_by_waiting() } else { self.output };
        // The rest is said again.
        let resume = Resume { shell: self.shell, output, input: self.handed_on(), received: self.former };
        vec![Effect::Open { kept: self.kept, resume: Some(resume) }]
    }

    fn seen_by_waiting(&self) -> u64 {
        let seen = self.waiting.iter().filter_map(|join| match join.client {
            Client::Ours { from, .. } => from,
            Client::Stock => None,
        });
        seen.max().unwrap_or(0)
    }

    fn resumed(&mut self, resumed: Resumed, now: Timestamp) -> Vec<Effect> {
        if self.device != Device::Resuming {
            return vec![];
        }
        self.device = Device::Bound;
        (self.next_from_device, self.next_to_device) = (0, 0);
        let mut effects = vec![Effect::DeviceBack];
        if std::mem::take(&mut self.is_blank) {
            self.input = resumed.input;
            self.output = resumed.output;
            self.scrollback = Scrollback::after(resumed.output);
        }
        if resumed.output > self.output {
            // Lost with the node that had it.
            let lost = resumed.output - self.output;
            self.output = resumed.output;
            self.scrollback = Scrollback::after(resumed.output);
            for attached in self.attached.iter_mut().filter(|it| it.ours) {
                attached.next = resumed.output;
                effects.push(attached.force(skipped(&self.sid, lost)));
            }
        }
        let state = self.device_state("back");
        for attached in self.attached.iter_mut().filter(|it| it.ours) {
            effects.push(attached.force(state.clone()));
        }
        for unconfirmed in &mut self.unconfirmed {
            unconfirmed.progress = match (unconfirmed.progress, resumed.accepted) {
                (Progress::Sent(number), Some(accepted)) if number < accepted => Progress::Accepted,
                (Progress::Accepted, Some(_)) => Progress::Accepted,
                _ => {
                    let number = self.next_to_device;
                    self.next_to_device += 1;
                    effects.push(Effect::ToDevice { number, message: unconfirmed.message.clone() });
                    Progress::Sent(number)
                }
            };
        }
        self.credited = 0;
        for join in std::mem::take(&mut self.waiting) {
            effects.extend(self.join(join, now));
        }
        effects
    }

    /// The session is over: everybody is told.
    pub(super) fn finish(&mut self, why: SessionEnd) -> Vec<Effect> {
        if self.device == Device::Ended {
            return vec![];
        }
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

    fn demote_writer(&mut self, by: &UserId, effects: &mut Vec<Effect>) {
        let Some(writer) = self.attached.iter_mut().find(|it| it.role == Role::Writer) else { return };
        writer.role = Role::Watcher;
        let message = if writer.ours {
            let props = [("role", Prop::Text(Role::Watcher.as_str())), ("by", Prop::Text(by.as_str()))];
            Compose { proto: proto::MOORING, typ: "role", sid: &self.sid, props: &props, body: &[] }.to_bytes()
        } else {
            output_message(
                &self.sid,
                b"\r\n\x1b[0m[mooring: somebody has taken this terminal over; you are watching]\r\n",
            )
        };
        effects.push(writer.force(message));
    }

    fn tell_people(&mut self, effects: &mut Vec<Effect>) {
        let body = serde_json::to_vec(&self.people()).expect("plain structs encode");
        let people =
            Compose { proto: proto::MOORING, typ: "people", sid: &self.sid, body: &body, ..Compose::default() };
        let people = people.to_bytes();
        for attached in self.attached.iter_mut().filter(|it| it.ours) {
            effects.push(attached.force(people.clone()));
        }
        effects.push(Effect::People);
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

impl Attached {
    /// A message whose credit is taken.
    fn deliver(&mut self, message: Bytes) -> Effect {
        let number = self.next_to;
        self.next_to = number.wrapping_add(1);
        Effect::ToAttached { attachment: self.id, says: ToAttached::Deliver { number, message } }
    }

    /// A message that goes whatever the credit: small, or bounded by what asked for it.
    fn force(&mut self, message: Bytes) -> Effect {
        self.gate.force(charge(message.len()));
        self.deliver(message)
    }
}

/// All that another node needs to go on with a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    size: Option<(u16, u16)>,
    output: u64,
    input: u64,
    /// Up to which message of which binding.
    received: Option<(Binding, u32)>,
    /// Nothing of the session was known: it had been taken over itself and had not found its device yet.
    is_blank: bool,
    scrollback: Bytes,
    unconfirmed: Vec<(Progress, Bytes)>,
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
