//! How a deployment is to go about its devices, as somebody asks for it.

use actors::rollout::{Size, WishedPhase};
use serde::Deserialize;
use storage::{Safety, Timestamp};

use super::making::invalid;
use crate::error::ApiError;

/// As often a device may be told again. (Mender API: retries.)
const RETRIES_LIMIT: u64 = 100;

/// Minutes that a device may be away at most before it counts: a week.
const AWAY_LIMIT: u32 = 7 * 24 * 60;

/// The members of a new deployment that say how it goes about its devices. (Mender API: `phases`, `retries`; `safety` and the
/// number of devices of a phase are Mooring's.)
#[derive(Debug, Default, Deserialize)]
pub struct PlanBody {
    phases: Option<Vec<PhaseBody>>,
    retries: Option<u64>,
    safety: Option<SafetyBody>,
}

/// A phase.
#[derive(Debug, Deserialize)]
struct PhaseBody {
    /// Percent of all devices.
    batch_size: Option<u64>,
    /// Or a number of them.
    devices: Option<u64>,
    start_ts: Option<String>,
}

/// What pauses it. Since it is there for safety, a limit that is spelt wrong is refused rather than passed over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SafetyBody {
    max_failed_percent: Option<u8>,
    max_failed: Option<u64>,
    max_alerting: Option<u64>,
    max_away: Option<u64>,
    away_minutes: Option<u32>,
}

/// What was asked for, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The phases, in order.
    pub phases: Vec<WishedPhase>,
    /// How often a device that has failed is told again.
    pub retries: u32,
    /// What pauses it by itself.
    pub safety: Safety,
}

impl PlanBody {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// A 400 that names what is wrong.
    pub fn read(self) -> Result<Plan, ApiError> {
        let retries = retries(self.retries)?;
        let phases = (1..).zip(self.phases.unwrap_or_default()).map(|(number, phase)| phase.read(number));
        let safety = self.safety.map_or_else(|| Ok(Safety::default()), SafetyBody::read)?;
        Ok(Plan { phases: phases.collect::<Result<_, _>>()?, retries, safety })
    }
}

/// How often a device that has failed is told again; never if nothing is said.
///
/// # Errors
/// A 400 if it is too often.
pub fn retries(wanted: Option<u64>) -> Result<u32, ApiError> {
    let wanted = wanted.unwrap_or(0);
    u32::try_from(wanted)
        .ok()
        .filter(|_| wanted <= RETRIES_LIMIT)
        .ok_or_else(|| invalid(&format!("retries: must be between 0 and {RETRIES_LIMIT}.")))
}

impl PhaseBody {
    fn read(self, number: usize) -> Result<WishedPhase, ApiError> {
        let invalid = |what: &str| invalid(&format!("phases: phase {number}: {what}"));
        let size = match (self.batch_size, self.devices) {
            (None, None) => None,
            (Some(_), Some(_)) => return Err(invalid("batch_size and devices exclude one another")),
            (Some(percent), None) => {
                let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
                Some(Size::Percent(percent.ok_or_else(|| invalid("batch_size: must be between 1 and 100 percent"))?))
            }
            (None, Some(devices)) if i64::try_from(devices).is_ok() => Some(Size::Devices(devices)),
            (None, Some(_)) => return Err(invalid("devices: is too large")),
        };
        let starts = self.start_ts.map(|text| {
            let time =
                chrono::DateTime::parse_from_rfc3339(&text).map_err(|_| invalid("start_ts: must be an RFC 3339 time"));
            time.map(|time| Timestamp(time.timestamp_micros()))
        });
        Ok(WishedPhase { size, starts: starts.transpose()? })
    }
}

impl SafetyBody {
    fn read(self) -> Result<Safety, ApiError> {
        let Self { max_failed_percent, max_failed, max_alerting, max_away, away_minutes } = self;
        if max_failed_percent.is_some_and(|percent| percent > 100) {
            return Err(invalid("safety: max_failed_percent: must be between 0 and 100"));
        }
        if max_away.is_some() != away_minutes.is_some() {
            return Err(invalid("safety: max_away and away_minutes go together"));
        }
        if away_minutes.is_some_and(|minutes| minutes == 0 || minutes > AWAY_LIMIT) {
            return Err(invalid(&format!("safety: away_minutes: must be between 1 and {AWAY_LIMIT}")));
        }
        Ok(Safety { max_failed_percent, max_failed, max_alerting, max_away, away_minutes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Plan, String> {
        serde_json::from_str::<PlanBody>(body)
            .map_err(|error| error.to_string())?
            .read()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn phases_are_shares_or_numbers_of_devices() {
        let plan = read(
            r#"{"phases":[{"batch_size":5},{"devices":7,"start_ts":"1970-01-01T01:00:10+01:00"},{}],"retries":100}"#,
        );
        let plan = plan.unwrap();
        let sizes: Vec<_> = plan.phases.iter().map(|phase| phase.size).collect();
        assert_eq!(sizes, [Some(Size::Percent(5)), Some(Size::Devices(7)), None]);
        assert_eq!(plan.phases[1].starts, Some(Timestamp::from_seconds(10)));
        assert_eq!(plan.retries, 100);
        assert_eq!(read("{}"), Ok(Plan::default()));
        assert_eq!(read(r#"{"phases":null,"retries":null,"safety":null}"#), Ok(Plan::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, name) in [
            (r#"{"phases":[{"batch_size":101}]}"#, "phase 1: batch_size"),
            (r#"{"phases":[{"batch_size":1,"devices":1}]}"#, "exclude"),
            (r#"{"phases":[{},{"start_ts":"tomorrow"}]}"#, "phase 2: start_ts"),
            (r#"{"phases":[{"devices":18446744073709551615}]}"#, "devices: is too large"),
            (r#"{"retries":101}"#, "retries"),
            (r#"{"safety":{"max_failures":1}}"#, "max_failures"),
            (r#"{"safety":{"max_failed_percent":101}}"#, "max_failed_percent"),
            (r#"{"safety":{"max_away":1}}"#, "go together"),
            (r#"{"safety":{"away_minutes":1}}"#, "go together"),
            (r#"{"safety":{"max_away":1,"away_minutes":0}}"#, "away_minutes"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.contains(name), "{body}: {error}");
        }
    }
}
