//! Which commands are under way, and what to do with another one.

use std::collections::HashMap;

use storage::DeviceId;

use super::{Asker, Command};

/// Sessions that commands may have on one device, those included whose reply is late.
const PER_DEVICE: usize = 4;

/// Devices with commands under way on one node.
const DEVICES: usize = 10_000;

/// Commands under way on this node.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    devices: HashMap<DeviceId, OfDevice>,
}

#[derive(Debug, Default)]
struct OfDevice {
    /// Sessions that are open.
    open: usize,
    /// Commands whose reply is waited for.
    waited_for: Vec<WaitedFor>,
}

#[derive(Debug)]
struct WaitedFor {
    command: Command,
    /// Asked for once more meanwhile; by whom last.
    again: Option<Asker>,
}

/// What to do with a command that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Send it; it is noted.
    Start,
    /// The same is under way: it will be repeated.
    Joined,
    /// There are too many.
    Refused,
}

impl UnderWay {
    pub(super) fn ask(&mut self, device: DeviceId, command: Command, asker: Asker) -> Turn {
        if self.devices.len() >= DEVICES && !self.devices.contains_key(&device) {
            return Turn::Refused;
        }
        let of_device = self.devices.entry(device).or_default();
        if let Some(same) = of_device.waited_for.iter_mut().find(|waited| waited.command == command) {
            same.again = Some(asker);
            return Turn::Joined;
        }
        if of_device.open >= PER_DEVICE {
            return Turn::Refused;
        }
        of_device.open += 1;
        of_device.waited_for.push(WaitedFor { command, again: None });
        Turn::Start
    }

    /// A command was answered, or is not waited for any longer. Says who asked for it meanwhile, if anybody.
    pub(super) fn reported(&mut self, device: DeviceId, command: Command) -> Option<Asker> {
        let waited_for = &mut self.devices.get_mut(&device)?.waited_for;
        let at = waited_for.iter().position(|waited| waited.command == command)?;
        waited_for.swap_remove(at).again
    }

    /// The session of a command has ended.
    pub(super) fn gone(&mut self, device: DeviceId) {
        let Some(of_device) = self.devices.get_mut(&device) else { return };
        of_device.open = of_device.open.saturating_sub(1);
        if of_device.open == 0 {
            self.devices.remove(&device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_commands_in_a_row_are_two_at_most() {
        let (mut under_way, device) = (UnderWay::default(), DeviceId::random());
        assert_eq!(under_way.ask(device, Command::CheckUpdate, Asker::Service), Turn::Start);
        for _ in 0..100 {
            assert_eq!(under_way.ask(device, Command::CheckUpdate, Asker::Service), Turn::Joined);
        }
        assert_eq!(under_way.ask(device, Command::SendInventory, Asker::Service), Turn::Start);
        assert_eq!(under_way.reported(device, Command::CheckUpdate), Some(Asker::Service), "once more");
        assert_eq!(under_way.ask(device, Command::CheckUpdate, Asker::Service), Turn::Start);
        assert_eq!(under_way.reported(device, Command::CheckUpdate), None, "and that is all");
    }

    #[test]
    fn a_device_that_never_answers_is_left_alone() {
        let (mut under_way, device) = (UnderWay::default(), DeviceId::random());
        for _ in 0..PER_DEVICE {
            assert_eq!(under_way.ask(device, Command::CheckUpdate, Asker::Service), Turn::Start);
            assert_eq!(under_way.reported(device, Command::CheckUpdate), None);
        }
        assert_eq!(under_way.ask(device, Command::CheckUpdate, Asker::Service), Turn::Refused);
        under_way.gone(device);
        assert_eq!(under_way.ask(device, Command::CheckUpdate, Asker::Service), Turn::Start);
    }

    #[test]
    fn nothing_is_remembered_of_devices_that_are_done() {
        let mut under_way = UnderWay::default();
        for _ in 0..DEVICES {
            assert_eq!(under_way.ask(DeviceId::random(), Command::CheckUpdate, Asker::Service), Turn::Start);
        }
        assert_eq!(under_way.ask(DeviceId::random(), Command::CheckUpdate, Asker::Service), Turn::Refused);
        let device = *under_way.devices.keys().next().unwrap();
        under_way.reported(device, Command::CheckUpdate);
        under_way.gone(device);
        assert_eq!(under_way.devices.len(), DEVICES - 1);
    }
}
