//! Where deployments stand, and devices within them.

use std::collections::BTreeMap;

/// Where a device stands in a deployment. (Mender API: device deployment statuses; the numbers are those that lists are
/// sorted by.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i64)]
pub enum DeviceState {
    /// It did not get there.
    Failure = 256,
    /// A user stopped it.
    Aborted = 512,
    /// It waits before it installs.
    PauseBeforeInstalling = 768,
    /// It waits before it commits.
    PauseBeforeCommitting = 1024,
    /// It waits before it reboots.
    PauseBeforeRebooting = 1280,
    /// It fetches the file.
    Downloading = 1536,
    /// It installs.
    Installing = 1792,
    /// It reboots.
    Rebooting = 2048,
    /// Nothing has been heard of it yet.
    Pending = 2304,
    /// It has what it was to have.
    Success = 2560,
    /// There was nothing for a device of its kind.
    NoArtifact = 2816,
    /// It had it before.
    AlreadyInstalled = 3072,
    /// It was removed from the hub.
    Decommissioned = 3328,
}

/// No status of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown status")]
pub struct UnknownState;

impl DeviceState {
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::Failure,
        Self::Aborted,
        Self::PauseBeforeInstalling,
        Self::PauseBeforeCommitting,
        Self::PauseBeforeRebooting,
        Self::Downloading,
        Self::Installing,
        Self::Rebooting,
        Self::Pending,
        Self::Success,
        Self::NoArtifact,
        Self::AlreadyInstalled,
        Self::Decommissioned,
    ];

    /// The word for it. (Mender API.)
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Aborted => "aborted",
            Self::PauseBeforeInstalling => "pause_before_installing",
            Self::PauseBeforeCommitting => "pause_before_committing",
            Self::PauseBeforeRebooting => "pause_before_rebooting",
            Self::Downloading => "downloading",
            Self::Installing => "installing",
            Self::Rebooting => "rebooting",
            Self::Pending => "pending",
            Self::Success => "success",
            Self::NoArtifact => "noartifact",
            Self::AlreadyInstalled => "already-installed",
            Self::Decommissioned => "decommissioned",
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i64 {
        self as i64
    }

    /// The status with this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }

    /// Whether a device that stands here is still to do something.
    #[must_use]
    pub fn is_active(self) -> bool {
        FIRST_ACTIVE <= self.number() && self.number() <= LAST_ACTIVE
    }

    /// Whether a device that was told to stop stands here for good.
    #[must_use]
    pub const fn is_stopped(self) -> bool {
        matches!(self, Self::Aborted | Self::Decommissioned)
    }

    /// Whether a device may say of itself that it stands here.
    #[must_use]
    pub const fn may_be_reported(self) -> bool {
        !matches!(self, Self::Pending | Self::Aborted | Self::NoArtifact | Self::Decommissioned)
    }
}

/// The least number of a device that is still to do something.
pub(super) const FIRST_ACTIVE: i64 = DeviceState::PauseBeforeInstalling as i64;

/// The greatest.
pub(super) const LAST_ACTIVE: i64 = DeviceState::Pending as i64;

/// The number that earlier versions gave a device which was never told of a deployment before it was aborted: it counts
/// nowhere.
pub(super) const NEVER_TOLD: i64 = 0;

impl std::str::FromStr for DeviceState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or(UnknownState)
    }
}

/// Where a deployment stands. It only ever goes on to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeploymentState {
    /// Its time has not come.
    Scheduled,
    /// No device has done anything yet.
    Pending,
    /// Some have.
    InProgress,
    /// It is over.
    Finished,
}

impl DeploymentState {
    /// The word for it. (Mender API.)
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Pending => "pending",
            Self::InProgress => "inprogress",
            Self::Finished => "finished",
        }
    }

    /// Where a deployment stands by the devices in it: of a dynamic one `max_devices` is how many have to succeed (0: it
    /// ends only when it is aborted), of any other how many it is for.
    #[must_use]
    pub fn of(counts: &Counts, max_devices: u64, is_dynamic: bool) -> Self {
        let over: u64 = if is_dynamic {
            counts.of(DeviceState::Success)
        } else {
            DeviceState::ALL.into_iter().filter(|state| !state.is_active()).map(|state| counts.of(state)).sum()
        };
        if max_devices > 0 && over >= max_devices {
            return Self::Finished;
        }
        let quiet = [DeviceState::Pending, DeviceState::Decommissioned];
        let has_begun = DeviceState::ALL.into_iter().any(|state| !quiet.contains(&state) && counts.of(state) > 0);
        if has_begun { Self::InProgress } else { Self::Pending }
    }
}

impl std::str::FromStr for DeploymentState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        [Self::Scheduled, Self::Pending, Self::InProgress, Self::Finished]
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or(UnknownState)
    }
}

/// How many devices of a deployment stand where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<i64, u64>);

impl Counts {
    /// How many stand here.
    #[must_use]
    pub fn of(&self, state: DeviceState) -> u64 {
        self.0.get(&state.number()).copied().unwrap_or(0)
    }

    /// How many there are.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.0.values().sum()
    }

    /// Puts down how many more have the status of this number.
    pub(super) fn put(&mut self, status: i64, devices: i64) {
        if devices > 0 {
            *self.0.entry(status).or_default() += devices.unsigned_abs();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(DeviceState, i64)]) -> Counts {
        let mut counts = Counts::default();
        for &(state, devices) in of {
            counts.put(state.number(), devices);
        }
        counts
    }

    #[test]
    fn words_and_numbers_of_statuses_can_be_read_back() {
        for state in DeviceState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(DeviceState::from_number(state.number()), Some(state));
        }
        assert_eq!("foo".parse::<DeviceState>(), Err(UnknownState));
        assert_eq!(DeviceState::from_number(NEVER_TOLD), None);
        assert_eq!(DeviceState::ALL.into_iter().filter(|state| state.is_active()).count(), 7);
        assert_eq!(DeviceState::ALL.into_iter().filter(|state| state.may_be_reported()).count(), 9);
    }

    #[test]
    fn a_deployment_is_over_when_all_its_devices_are() {
        use DeviceState::{
            Aborted, AlreadyInstalled, Decommissioned, Downloading, Failure, NoArtifact, Pending, Success,
        };
        let of = |devices: &[_]| DeploymentState::of(&counts(devices), 2, false);
        assert_eq!(of(&[(Pending, 2)]), DeploymentState::Pending);
        assert_eq!(of(&[(Pending, 1), (Decommissioned, 1)]), DeploymentState::Pending);
        assert_eq!(of(&[(Pending, 1), (Downloading, 1)]), DeploymentState::InProgress);
        assert_eq!(of(&[(Pending, 1), (NoArtifact, 1)]), DeploymentState::InProgress);
        for over in [Success, Failure, NoArtifact, AlreadyInstalled, Aborted, Decommissioned] {
            assert_eq!(of(&[(over, 2)]), DeploymentState::Finished, "{over:?}");
        }
        assert_eq!(DeploymentState::of(&counts(&[(Success, 5)]), 0, false), DeploymentState::InProgress);
    }

    #[test]
    fn a_dynamic_deployment_is_over_when_enough_devices_succeeded() {
        use DeviceState::{Failure, Success};
        let of = |devices: &[_], most| DeploymentState::of(&counts(devices), most, true);
        assert_eq!(of(&[(Success, 1), (Failure, 7)], 2), DeploymentState::InProgress);
        assert_eq!(of(&[(Success, 2)], 2), DeploymentState::Finished);
        assert_eq!(of(&[(Success, 200)], 0), DeploymentState::InProgress);
        assert_eq!(of(&[], 0), DeploymentState::Pending);
    }
}
