//! In which portions a deployment goes about its devices, as it is typed: `10%,50%@+2h,rest`.

use serde_json::{Value, json};
use std::str::FromStr;
use storage::{Timestamp, clock, units};

/// All phases, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phases(Vec<Phase>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Phase {
    size: Size,
    starts: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Percent(u8),
    Devices(u64),
    Rest,
}

impl Phases {
    /// The same, the first of them not before this time; one for all devices if there are none.
    pub fn starting(mut self, at: Timestamp) -> anyhow::Result<Self> {
        match self.0.first_mut() {
            None => self.0.push(Phase { size: Size::Rest, starts: Some(at) }),
            Some(Phase { starts: Some(_), .. }) => {
                anyhow::bail!("--start and the time of the first phase exclude one another")
            }
            Some(first) => first.starts = Some(at),
        }
        Ok(self)
    }

    /// As the hub takes them; nothing if there are none.
    pub fn body(&self) -> Option<Value> {
        (!self.0.is_empty()).then(|| self.0.iter().map(Phase::body).collect())
    }
}

impl Phase {
    fn body(&self) -> Value {
        let mut body = match self.size {
            Size::Percent(percent) => json!({ "batch_size": percent }),
            Size::Devices(devices) => json!({ "devices": devices }),
            Size::Rest => json!({}),
        };
        if let Some(starts) = self.starts {
            body["start_ts"] = json!(starts);
        }
        body
    }
}

impl FromStr for Phases {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let phases = text.split(',').map(str::parse).collect::<Result<Vec<Phase>, String>>()?;
        if phases.iter().rev().skip(1).any(|phase| phase.size == Size::Rest) {
            return Err("only the last phase can be \"rest\"".to_owned());
        }
        Ok(Self(phases))
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (size, starts) = match text.trim().split_once('@') {
            Some((size, starts)) => (size, Some(time(starts)?)),
            None => (text.trim(), None),
        };
        Ok(Self { size: size.parse()?, starts })
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = match (text, text.strip_suffix('%')) {
            ("rest", _) => Some(Self::Rest),
            (_, Some(percent)) => percent.parse().ok().filter(|percent| (1..=100).contains(percent)).map(Self::Percent),
            (devices, None) => devices.parse().ok().filter(|devices| *devices > 0).map(Self::Devices),
        };
        size.ok_or_else(|| format!("{text:?} is no phase: expected a share such as 10%, a number of devices, or rest"))
    }
}

/// A time as it is typed: RFC 3339, or from now on with a plus.
pub fn time(text: &str) -> Result<Timestamp, String> {
    let expected = || format!("{text:?} is no time: expected one such as 2031-05-04T10:00:00Z, or +2h");
    match text.strip_prefix('+') {
        Some(later) => units::parse_duration(later).map(|later| clock::now().plus(later)).map_err(|_| expected()),
        None => serde_json::from_value(json!(text)).map_err(|_| expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn body(text: &str) -> Result<Value, String> {
        text.parse::<Phases>().map(|phases| phases.body().expect("there are some"))
    }

    #[test]
    fn phases_are_shares_or_numbers_and_the_rest() {
        assert_eq!(body("10%,50%,rest"), Ok(json!([{ "batch_size": 10 }, { "batch_size": 50 }, {}])));
        let timed = json!([{ "devices": 100 }, { "batch_size": 5, "start_ts": "2031-05-04T08:00:00.000Z" }]);
        assert_eq!(body("100, 5%@2031-05-04T10:00:00+02:00"), Ok(timed));
        for wrong in ["", "10%,,rest", "0%", "101%", "0", "-1", "ten", "rest,10%", "10%@", "10%@tomorrow", "10%@+soon"]
        {
            assert!(body(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_start_is_that_of_the_first_phase() {
        let at = Timestamp::from_seconds(0);
        let alone = Phases::default().starting(at).expect("a phase").body();
        assert_eq!(alone, Some(json!([{ "start_ts": "1970-01-01T00:00:00.000Z" }])));
        let first = "10%,rest".parse::<Phases>().expect("phases").starting(at).expect("phases").body();
        assert_eq!(first, Some(json!([{ "batch_size": 10, "start_ts": "1970-01-01T00:00:00.000Z" }, {}])));
        assert!("10%@+1h,rest".parse::<Phases>().expect("phases").starting(at).is_err());
        assert_eq!(Phases::default().body(), None);
    }

    #[test]
    fn a_time_may_be_given_from_now_on() {
        let later = time("+2h").expect("a time").since(clock::now());
        assert!(later <= Duration::from_hours(2) && later > Duration::from_hours(1), "{later:?}");
    }
}
