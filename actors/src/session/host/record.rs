//! What is written down of a session: who took part, how much went through it, and what its terminal showed.

use std::time::Duration;

use actix::Context;
use storage::{Participant, ParticipantRole, SessionChange, SessionFigures, SessionKind, clock};

use super::SessionHost;
use crate::message::proto;
use crate::recording::{CastHeader, Recorder};
use crate::session::attachment::Role;
use crate::session::link::Use;

/// People of a session that are remembered.
const PEOPLE_LIMIT: usize = 64;

/// The size of a terminal whose client has not said it. (Mender: the agent's default.)
const DEFAULT_SIZE: (u16, u16) = (80, 40);

impl SessionHost {
    /// Since the session began.
    pub(super) fn age(&self) -> Duration {
        Duration::from_micros(u64::try_from(clock::now().0 - self.opened.0).unwrap_or_default())
    }

    /// The recording, begun with the first that there is to record.
    pub(super) fn recorder(&mut self) -> Option<&mut Recorder> {
        if self.recorder.is_none() {
            let (objects, config) = self.parts.recording.as_ref()?;
            let (width, height) = self.link.size().unwrap_or(DEFAULT_SIZE);
            let title = format!("{} on device {}", self.user, self.device);
            let header = CastHeader { width, height, started: self.opened, title };
            self.recorder = Some(Recorder::start(objects, config, self.session, &header));
        }
        self.recorder.as_mut()
    }

    pub(super) fn note_people(&mut self) {
        let (now, here) = (clock::now(), self.link.people());
        for person in self.people.iter_mut().filter(|person| person.until.is_none()) {
            let role = person.role;
            if !here.iter().any(|it| it.user == person.user && it.since == person.since && participant(it.role) == role)
            {
                person.until = Some(now);
            }
        }
        for it in here {
            let role = participant(it.role);
            if !self.people.iter().any(|other| other.user == it.user && other.since == it.since && other.role == role) {
                if self.people.len() >= PEOPLE_LIMIT {
                    self.people.remove(0);
                }
                self.people.push(Participant { user: it.user, role, since: it.since, until: None });
            }
        }
    }

    /// Writes down what the session has come to, if it has changed.
    pub(super) fn note_progress(&mut self, _: &mut Context<Self>) {
        let figures = self.figures();
        if figures != self.written && !self.is_finished {
            self.written = figures.clone();
            let (session, generation) = (self.session, self.generation);
            self.parts.records.note(SessionChange::Progress { session, generation, figures });
        }
    }

    pub(super) fn note_writer(&mut self) {
        self.note_people();
        let writer = self.link.people().into_iter().find(|person| person.role == Role::Writer);
        self.parts.registry.update_session(self.session, |hosted| {
            hosted.writer = writer.map(|person| (person.user, person.attachment));
        });
    }

    pub(super) fn figures(&self) -> SessionFigures {
        let (input, output) = self.link.figures();
        let kind = match self.link.use_of() {
            Use::Unknown => SessionKind::Unknown,
            Use::Terminal => SessionKind::Terminal,
            Use::Layered(proto::PORT_FORWARD) => SessionKind::PortForward,
            Use::Layered(_) => SessionKind::Other,
        };
        SessionFigures {
            kind,
            bytes_to_device: i64::try_from(input).unwrap_or(i64::MAX),
            bytes_to_operator: i64::try_from(output).unwrap_or(i64::MAX),
            recorded_bytes: self
                .recorder
                .as_ref()
                .map_or(0, |recorder| i64::try_from(recorder.recorded_bytes()).unwrap_or(i64::MAX)),
            truncated: self.recorder.as_ref().is_some_and(Recorder::is_truncated),
            people: self.people.clone(),
        }
    }
}

const fn participant(role: Role) -> ParticipantRole {
    match role {
        Role::Writer => ParticipantRole::Writer,
        Role::Watcher => ParticipantRole::Watcher,
    }
}
