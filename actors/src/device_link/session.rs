//! What is known of one session at its device's end.

use std::collections::VecDeque;

use bytes::Bytes;
use storage::{SessionId, UserId};

use super::Effect;
use super::outbox::Outbox;
use super::port_forward::Forwarding;
use crate::figures::Traffic;
use crate::message::{Message, proto};
use crate::output_gate::OutputGate;
use crate::session::{Binding, DeviceSays, charge};

/// A session, bound to its host or waiting for one.
#[derive(Debug)]
pub(super) struct Session<E> {
    pub(super) id: SessionId,
    pub(super) user: UserId,
    /// `None` while nobody has claimed it on this connection, or its host's node died.
    pub(super) host: Option<E>,
    pub(super) binding: Binding,
    pub(super) kept: bool,
    /// A shell may be running: the device has to be told `stop` when the operator goes.
    pub(super) shell: bool,
    /// The device confirmed a shell that nobody has stopped since; another `new` that fails changes nothing about it.
    pub(super) has_shell: bool,
    /// The device said `stop`: nobody answers its health check any more.
    pub(super) shell_ended: bool,
    /// Used a protocol of the session layer: the device has to be told `close`.
    pub(super) layered: bool,
    pub(super) outbox: Outbox,
    /// Frames of forwarded connections; their credit was given back when they were accepted.
    pub(super) frames: Outbox,
    /// Credit used up by messages that have left for the device, not yet given back.
    pub(super) owed: usize,
    /// What the host was sent and has not given credit for.
    pub(super) retained: VecDeque<Bytes>,
    /// Credit received beyond what completed a retained message.
    pub(super) credited: usize,
    pub(super) gate: OutputGate,
    /// Number of the next message to the host.
    pub(super) next_to_host: u32,
    /// Number of the next message from the host.
    pub(super) next_from_host: u32,
    /// Bytes of terminal output sent to the host so far.
    pub(super) output: u64,
    /// Bytes of keystrokes accepted so far.
    pub(super) input: u64,
    pub(super) forwarding: Option<Box<Forwarding>>,
    pub(super) from_device: Traffic,
    pub(super) to_device: Traffic,
    pub(super) stalls: u64,
}

impl<E> Session<E> {
    pub(super) fn new(id: SessionId) -> Self {
        Self {
            id,
            user: UserId::new(""),
            host: None,
            binding: Binding::default(),
            kept: false,
            shell: false,
            has_shell: false,
            shell_ended: false,
            layered: false,
            outbox: Outbox::default(),
            frames: Outbox::default(),
            owed: 0,
            retained: VecDeque::new(),
            credited: 0,
            gate: OutputGate::default(),
            next_to_host: 0,
            next_from_host: 0,
            output: 0,
            input: 0,
            forwarding: None,
            from_device: Traffic::default(),
            to_device: Traffic::default(),
            stalls: 0,
        }
    }

    pub(super) fn head_len(&self) -> Option<usize> {
        self.outbox.head_len().or_else(|| self.frames.head_len())
    }

    pub(super) fn forwards_on(&self, stream: SessionId) -> bool {
        self.forwarding.as_ref().is_some_and(|forwarding| forwarding.owns(stream))
    }

    /// Sends a message whose credit is taken to the host, and keeps it until the host has it.
    pub(super) fn send(&mut self, message: Bytes) -> Option<Effect<E>> {
        self.from_device.count(message.len());
        let number = self.next_to_host;
        self.next_to_host = number.wrapping_add(1);
        self.retained.push_back(message.clone());
        self.host
            .is_some()
            .then_some(Effect::ToHost { session: self.id, says: DeviceSays::Deliver { number, message } })
    }

    /// The host has the oldest message; the credit it held.
    pub(super) fn release_one(&mut self) -> usize {
        let Some(message) = self.retained.pop_front() else { return 0 };
        let cost = charge(message.len());
        // What the gate says now is asked for by the caller.
        self.gate.give_back(cost);
        cost
    }

    pub(super) fn retained_output(&self) -> u64 {
        self.retained
            .iter()
            .filter_map(|message| Message::read(message).ok())
            .filter(|read| (read.proto, read.typ) == (proto::SHELL, "shell"))
            .map(|read| read.body.bytes().len() as u64)
            .sum()
    }
}
