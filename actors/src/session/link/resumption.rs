//! How a session goes on: after its device was away, and at another node.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::{SessionId, Timestamp};

use super::{Device, Effect, NOBODY, Progress, SessionLink, Unconfirmed, Use, output_message, skipped};
use crate::bus::DisconnectReason;
use crate::session::attachment::Client;
use crate::session::scrollback::Scrollback;
use crate::session::{Binding, Resume, Resumed, SessionEnd};

/// Most of the scrollback that is handed over to another node: what one message between nodes holds.
const HANDED_OVER_LIMIT: usize = 384 * 1024;

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

impl SessionLink {
    /// A terminal taken over from a node that is gone; where it stands is known once its device is found.
    pub(in crate::session) fn taken_over(session: SessionId, generation: u32) -> Self {
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
    pub(in crate::session) fn handed_over(session: SessionId, generation: u32, past: Past) -> Self {
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
    pub(in crate::session) fn past(&self) -> Past {
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

    /// The device's connection, or the way to it, is lost.
    pub(in crate::session) fn lose_device(&mut self, why: SessionEnd) -> Vec<Effect> {
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
    pub(in crate::session) fn say_away(&mut self) -> Vec<Effect> {
        let notice = output_message(&self.sid, b"\r\n\x1b[0m[mooring: the device is away; waiting for it]\r\n");
        self.attached.iter_mut().filter(|it| !it.ours).map(|it| it.force(notice.clone())).collect()
    }

    /// The device is connected again: binds to the new connection.
    pub(in crate::session) fn find_device(&mut self) -> Vec<Effect> {
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

    pub(super) fn seen_by_waiting(&self) -> u64 {
        let seen = self.waiting.iter().filter_map(|join| match join.client {
            Client::Ours { from, .. } => from,
            Client::Stock => None,
        });
        seen.max().unwrap_or(0)
    }

    pub(super) fn resumed(&mut self, resumed: Resumed, now: Timestamp) -> Vec<Effect> {
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
}
