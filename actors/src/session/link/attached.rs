//! Those who take part in a session: who may, in which role, and how each is told.

use bytes::Bytes;
use serde::Serialize;
use storage::{AttachmentId, Timestamp, UserId};

use super::{Device, Effect, SessionLink, Use, output_message, signed};
use crate::message::{Compose, Prop, proto};
use crate::output_gate::OutputGate;
use crate::session::attachment::{ATTACHMENTS_LIMIT, Client, Join, JoinRefused, Leave, Mode, Role, ToAttached};
use crate::session::{SessionEnd, charge};

/// One who takes part, through a socket on any node.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) id: AttachmentId,
    pub(super) user: UserId,
    pub(super) role: Role,
    /// Whether it understands our own messages.
    pub(super) ours: bool,
    pub(super) since: Timestamp,
    pub(super) gate: OutputGate,
    /// Offset of the next byte of output for it.
    pub(super) next: u64,
    /// What its client is known to have.
    pub(super) seen: u64,
    /// Number of the next message to it.
    pub(super) next_to: u32,
    /// Number of the next message from it.
    pub(super) next_from: u32,
}

/// Who takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::session) struct Person {
    pub(in crate::session) attachment: AttachmentId,
    pub(in crate::session) user: UserId,
    pub(in crate::session) role: Role,
    pub(in crate::session) since: Timestamp,
}

impl SessionLink {
    pub(in crate::session) fn people(&self) -> Vec<Person> {
        self.attached
            .iter()
            .map(|it| Person { attachment: it.id, user: it.user.clone(), role: it.role, since: it.since })
            .collect()
    }

    /// Whether somebody may take part.
    pub(in crate::session) fn may_join(
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

    /// Somebody takes part.
    pub(in crate::session) fn join(&mut self, join: Join, now: Timestamp) -> Vec<Effect> {
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

    pub(super) fn leave(&mut self, at: usize, how: Leave) -> Vec<Effect> {
        let left = self.attached.remove(at);
        let attachment = left.id;
        let answer = (how == Leave::Detached).then_some(Effect::ToAttached { attachment, says: ToAttached::Left });
        let mut effects = vec![];
        if left.role == Role::Writer {
            let goes_on = self.kept && self.shell && how != Leave::Refused;
            if !goes_on {
                effects.extend(answer);
                effects.extend(self.finish(match how {
                    Leave::Refused => SessionEnd::AccessWithdrawn,
                    _ if self.use_of == Use::Terminal && !self.shell => SessionEnd::ShellEnded,
                    _ => SessionEnd::OperatorLeft,
                }));
                return effects;
            }
            effects.push(Effect::Vacant(how));
        }
        self.tell_people(&mut effects);
        // Once everybody can see that the place is free.
        effects.extend(answer);
        effects.push(Effect::Forget { attachment });
        effects
    }

    pub(super) fn drop_attached(&mut self, at: usize, why: SessionEnd, how: Leave) -> Vec<Effect> {
        let attachment = self.attached[at].id;
        let mut effects = vec![Effect::ToAttached { attachment, says: ToAttached::End { why } }];
        effects.extend(self.leave(at, how));
        effects
    }

    /// Attachments whose sockets cannot be reached are gone.
    pub(in crate::session) fn lose_attached(&mut self, attachment: AttachmentId) -> Vec<Effect> {
        let Some(at) = self.attached.iter().position(|it| it.id == attachment) else { return vec![] };
        self.leave(at, Leave::Lost)
    }

    pub(super) fn demote_writer(&mut self, by: &UserId, effects: &mut Vec<Effect>) {
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

    pub(super) fn tell_people(&mut self, effects: &mut Vec<Effect>) {
        let body = serde_json::to_vec(&self.people()).expect("plain structs encode");
        let people =
            Compose { proto: proto::MOORING, typ: "people", sid: &self.sid, body: &body, ..Compose::default() };
        let people = people.to_bytes();
        for attached in self.attached.iter_mut().filter(|it| it.ours) {
            effects.push(attached.force(people.clone()));
        }
        effects.push(Effect::People);
    }
}

impl Attached {
    /// A message whose credit is taken.
    pub(super) fn deliver(&mut self, message: Bytes) -> Effect {
        let number = self.next_to;
        self.next_to = number.wrapping_add(1);
        Effect::ToAttached { attachment: self.id, says: ToAttached::Deliver { number, message } }
    }

    /// A message that goes whatever the credit: small, or bounded by what asked for it.
    pub(super) fn force(&mut self, message: Bytes) -> Effect {
        self.gate.force(charge(message.len()));
        self.deliver(message)
    }
}
