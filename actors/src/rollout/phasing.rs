//! How the devices of a deployment are divided into phases.

use storage::{NewPhase, Timestamp};

/// As many phases a deployment may have.
const PHASES_LIMIT: usize = 100;

/// How many devices somebody wants in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many percent of all.
    Percent(u8),
    /// So many.
    Devices(u64),
}

/// A phase as somebody wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WishedPhase {
    /// How many devices; the last phase has whoever is left, whatever it says.
    pub size: Option<Size>,
    /// When it opens; `None`: at once if it is the first, else once all devices of the one before are over with it.
    pub starts: Option<Timestamp>,
}

/// Why devices cannot be divided as somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPhases {
    /// There are more than are taken.
    #[error("there may be {PHASES_LIMIT} at most")]
    TooMany,
    /// One that is not the last says nothing about its size.
    #[error("phase {0}: must have a batch_size (percent) or a number of devices")]
    NoSize(usize),
    /// A share of a number that is not known.
    #[error("phase {0}: a percentage needs max_devices, since nobody knows how many devices there will be")]
    OfUnknown(usize),
    /// There is no device in it.
    #[error("phase {0}: there would be no device in it")]
    Empty(usize),
    /// It opens before the one before it.
    #[error("phase {0}: starts before the phase before it")]
    TooEarly(usize),
}

/// The phases for so many devices (`None`: nobody knows). No wish, no phases: all devices at once.
///
/// # Errors
/// See [`BadPhases`].
pub fn divide(wished: &[WishedPhase], total: Option<u64>) -> Result<Vec<NewPhase>, BadPhases> {
    if wished.len() > PHASES_LIMIT {
        return Err(BadPhases::TooMany);
    }
    let mut phases: Vec<NewPhase> = Vec::with_capacity(wished.len());
    let mut left = total;
    let mut latest = None;
    for (number, wish) in (1..).zip(wished) {
        if wish.starts.is_some() && wish.starts < latest {
            return Err(BadPhases::TooEarly(number));
        }
        latest = wish.starts.or(latest);
        let percent = match wish.size {
            Some(Size::Percent(percent)) => Some(percent),
            _ => None,
        };
        let devices = if number == wished.len() {
            left
        } else {
            Some(match (wish.size, total) {
                (None, _) => return Err(BadPhases::NoSize(number)),
                (Some(Size::Devices(devices)), _) => devices,
                (Some(Size::Percent(_)), None) => return Err(BadPhases::OfUnknown(number)),
                (Some(Size::Percent(percent)), Some(total)) => share(total, percent),
            })
        };
        left = match (left, devices) {
            (Some(left), Some(devices)) => Some(left.checked_sub(devices).ok_or(BadPhases::Empty(number + 1))?),
            _ => None,
        };
        if devices == Some(0) {
            return Err(BadPhases::Empty(number));
        }
        phases.push(NewPhase { percent, devices, starts: wish.starts });
    }
    Ok(phases)
}

/// So many percent, rounded to the next whole number and up from a half.
fn share(total: u64, percent: u8) -> u64 {
    u64::try_from((u128::from(total) * u128::from(percent) + 50) / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(percent: u8) -> WishedPhase {
        WishedPhase { size: Some(Size::Percent(percent)), starts: None }
    }

    fn devices(devices: u64) -> WishedPhase {
        WishedPhase { size: Some(Size::Devices(devices)), starts: None }
    }

    fn sizes(wished: &[WishedPhase], total: Option<u64>) -> Result<Vec<Option<u64>>, BadPhases> {
        Ok(divide(wished, total)?.into_iter().map(|phase| phase.devices).collect())
    }

    #[test]
    fn the_last_phase_has_whoever_is_left() {
        assert_eq!(sizes(&[], Some(7)), Ok(vec![]));
        assert_eq!(sizes(&[percent(20)], Some(7)), Ok(vec![Some(7)]));
        assert_eq!(
            sizes(&[percent(10), percent(50), percent(5)], Some(1000)),
            Ok(vec![Some(100), Some(500), Some(400)])
        );
        assert_eq!(sizes(&[devices(1), WishedPhase::default()], Some(7)), Ok(vec![Some(1), Some(6)]));
        assert_eq!(sizes(&[devices(1), WishedPhase::default()], None), Ok(vec![Some(1), None]));
        // Rounded, and never more than there are.
        assert_eq!(sizes(&[percent(50), percent(50)], Some(3)), Ok(vec![Some(2), Some(1)]));
    }

    #[test]
    fn every_phase_has_devices() {
        assert_eq!(sizes(&[percent(1), percent(99)], Some(7)), Err(BadPhases::Empty(1)));
        assert_eq!(sizes(&[devices(0), percent(99)], Some(7)), Err(BadPhases::Empty(1)));
        assert_eq!(sizes(&[devices(7), percent(99)], Some(7)), Err(BadPhases::Empty(2)));
        assert_eq!(sizes(&[devices(8), percent(99)], Some(7)), Err(BadPhases::Empty(2)));
        assert_eq!(sizes(&[percent(200), percent(1)], Some(7)), Err(BadPhases::Empty(2)));
        assert_eq!(sizes(&[WishedPhase::default(), percent(1)], Some(7)), Err(BadPhases::NoSize(1)));
        assert_eq!(sizes(&[percent(10), percent(1)], None), Err(BadPhases::OfUnknown(1)));
        assert_eq!(sizes(&[devices(u64::MAX), devices(1)], Some(u64::MAX)), Err(BadPhases::Empty(2)));
    }

    #[test]
    fn phases_are_in_the_order_of_their_times_and_bounded() {
        let at = |seconds| WishedPhase { size: Some(Size::Devices(1)), starts: Some(Timestamp::from_seconds(seconds)) };
        assert!(divide(&[at(1), devices(1), at(1), at(2)], Some(9)).is_ok());
        assert_eq!(divide(&[at(2), devices(1), at(1), at(2)], Some(9)), Err(BadPhases::TooEarly(3)));
        assert!(divide(&[devices(1); PHASES_LIMIT], Some(1000)).is_ok());
        assert_eq!(divide(&[devices(1); PHASES_LIMIT + 1], Some(1000)), Err(BadPhases::TooMany));
    }
}
