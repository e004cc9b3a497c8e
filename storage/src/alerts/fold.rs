//! What alerts do to their subjects: pure.

use std::collections::HashMap;

use super::{CLOCK_AHEAD, CLOCK_BEHIND, Folded, NewAlert, SUBJECTS_PER_DEVICE};
use crate::{AlertId, AlertLevel, DeviceId, Timestamp};

/// Which subject of which device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SubjectKey {
    pub(super) device: DeviceId,
    pub(super) kind: String,
    pub(super) name: String,
}

/// What the alerts of a subject have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SubjectState {
    pub(super) latest: AlertId,
    pub(super) level: AlertLevel,
    /// When its latest alert happened, as far as that can be believed.
    pub(super) at: Timestamp,
}

impl SubjectState {
    pub(super) fn is_open(&self) -> bool {
        self.level != AlertLevel::Ok
    }
}

/// Subjects that alerts speak of, and open ones of each device.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    pub(super) states: HashMap<SubjectKey, SubjectState>,
    pub(super) open: HashMap<DeviceId, i64>,
    /// Those that changed.
    pub(super) changed: Vec<SubjectKey>,
}

impl Subjects {
    /// Takes in an alert; says what it did.
    pub(super) fn fold(&mut self, device: DeviceId, id: AlertId, alert: &NewAlert, now: Timestamp) -> Folded {
        let key = SubjectKey { device, kind: alert.subject_type.clone(), name: alert.subject_name.clone() };
        let next = SubjectState { latest: id, level: alert.level, at: believed(alert.at, now) };
        let before = self.states.get(&key).copied();
        if before.is_some_and(|before| next.at < before.at) {
            return Folded::Nothing;
        }
        let open = self.open.entry(device).or_default();
        let was_open = before.is_some_and(|before| before.is_open());
        if next.is_open() && !was_open && *open >= SUBJECTS_PER_DEVICE {
            return Folded::Nothing;
        }
        let folded = match (was_open, next.is_open()) {
            (false, true) => Folded::Opened,
            (true, true) => Folded::StaysOpen,
            (true, false) => Folded::Closed,
            (false, false) => Folded::Nothing,
        };
        *open += i64::from(next.is_open()) - i64::from(was_open);
        self.states.insert(key.clone(), next);
        self.changed.push(key);
        folded
    }
}

/// The time that orders an alert. One that a clock gives that is plainly wrong is replaced by its arrival: an unset clock
/// must not leave a subject open for ever.
fn believed(at: Timestamp, now: Timestamp) -> Timestamp {
    if (now.minus(CLOCK_BEHIND)..=now.plus(CLOCK_AHEAD)).contains(&at) { at } else { now }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp(2_000_000_000_000_000);

    fn alert(level: AlertLevel, name: &str, at: Timestamp) -> NewAlert {
        NewAlert {
            name: "whatever".to_owned(),
            level,
            subject_type: "service".to_owned(),
            subject_name: name.to_owned(),
            status: "x".to_owned(),
            details: None,
            at,
        }
    }

    fn fold(subjects: &mut Subjects, device: DeviceId, level: AlertLevel, seconds: i64) -> Folded {
        let at = Timestamp(NOW.0 + seconds * 1_000_000);
        subjects.fold(device, AlertId::random(), &alert(level, "sshd", at), NOW)
    }

    #[test]
    fn a_subject_opens_stays_open_and_closes() {
        let (mut subjects, device) = (Subjects::default(), DeviceId::random());
        assert_eq!(fold(&mut subjects, device, AlertLevel::Ok, -9), Folded::Nothing);
        assert_eq!(fold(&mut subjects, device, AlertLevel::Warning, -8), Folded::Opened);
        assert_eq!(fold(&mut subjects, device, AlertLevel::CriticalFlapping, -7), Folded::StaysOpen);
        assert_eq!(subjects.open[&device], 1);
        assert_eq!(fold(&mut subjects, device, AlertLevel::Ok, -6), Folded::Closed);
        assert_eq!(fold(&mut subjects, device, AlertLevel::Ok, -5), Folded::Nothing);
        assert_eq!(subjects.open[&device], 0);
    }

    #[test]
    fn what_comes_late_neither_opens_nor_closes_and_of_equals_the_last_counts() {
        let (mut subjects, device) = (Subjects::default(), DeviceId::random());
        assert_eq!(fold(&mut subjects, device, AlertLevel::Ok, -5), Folded::Nothing);
        assert_eq!(fold(&mut subjects, device, AlertLevel::Critical, -6), Folded::Nothing);
        assert_eq!(fold(&mut subjects, device, AlertLevel::Critical, -5), Folded::Opened);
        assert_eq!(fold(&mut subjects, device, AlertLevel::Ok, -6), Folded::Nothing);
        assert_eq!(subjects.open[&device], 1);
        assert_eq!(fold(&mut subjects, device, AlertLevel::Ok, -5), Folded::Closed);
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_replaced_by_ours() {
        let day = Duration::from_hours(24);
        assert_eq!(believed(Timestamp(0), NOW), NOW);
        assert_eq!(believed(NOW.plus(Duration::from_mins(6)), NOW), NOW);
        for possible in [NOW, NOW.plus(Duration::from_mins(5)), NOW.minus(30 * day)] {
            assert_eq!(believed(possible, NOW), possible);
        }
        // A device without a battery: its first alert is of 1970, and so is the OK after it.
        let (mut subjects, device) = (Subjects::default(), DeviceId::random());
        let unset = |level| alert(level, "sshd", Timestamp(5));
        assert_eq!(subjects.fold(device, AlertId::random(), &unset(AlertLevel::Critical), NOW), Folded::Opened);
        assert_eq!(subjects.fold(device, AlertId::random(), &unset(AlertLevel::Ok), NOW), Folded::Closed);
    }

    #[test]
    fn no_more_subjects_open_than_may() {
        let (mut subjects, device, other) = (Subjects::default(), DeviceId::random(), DeviceId::random());
        let open = |subjects: &mut Subjects, device, name: i64| {
            subjects.fold(device, AlertId::random(), &alert(AlertLevel::Critical, &name.to_string(), NOW), NOW)
        };
        for name in 0..SUBJECTS_PER_DEVICE {
            assert_eq!(open(&mut subjects, device, name), Folded::Opened);
        }
        assert_eq!(open(&mut subjects, device, -1), Folded::Nothing);
        assert_eq!(open(&mut subjects, device, 0), Folded::StaysOpen);
        assert_eq!(open(&mut subjects, other, -1), Folded::Opened);
        assert_eq!(subjects.open[&device], SUBJECTS_PER_DEVICE);
    }
}
