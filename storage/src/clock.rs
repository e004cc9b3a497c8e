//! Points in time, as whole microseconds: that is all Postgres would keep, and both databases store a plain integer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: microseconds since the Unix epoch, UTC.
///
/// As text (and in JSON) always RFC 3339 with three fraction digits and `Z`, so that comparing the texts compares the
/// times; clients do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, sqlx::Type)]
#[sqlx(transparent)]
pub struct Timestamp(pub i64);

/// The current time by this machine's clock.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

impl Timestamp {
    /// Whole seconds since the Unix epoch, rounded down: the unit of token claims (RFC 7519 `NumericDate`).
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Whole milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// The time this many milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// The time this many seconds after the Unix epoch.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// This time and `later` more; stops at the end of time instead of wrapping around.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(later.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This time less `earlier`.
    #[must_use]
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(earlier.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This time, or the next moment after `other` if that is later: what is stamped so differs from what it replaces.
    #[must_use]
    pub fn after(self, other: Self) -> Self {
        self.max(Self(other.0.saturating_add(1)))
    }

    /// Number of the UTC day this time falls on, counted from the Unix epoch.
    #[must_use]
    pub const fn utc_day(self) -> i64 {
        self.seconds().div_euclid(86_400)
    }

    /// RFC 3339 text in UTC with exactly three fraction digits, such as `2031-05-04T10:00:00.100Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        DateTime::<Utc>::from_timestamp_micros(self.0)
            .unwrap_or(if self.0 < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC })
            .to_rfc3339_opts(SecondsFormat::Millis, true)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.rfc3339())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    /// Takes any RFC 3339 text. What was serialised comes back cut to milliseconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(time.timestamp_micros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_always_has_three_fraction_digits() {
        assert_eq!(Timestamp(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(1_935_000_000_100_999).rfc3339(), "2031-04-26T20:00:00.100Z");
        assert_eq!(Timestamp(-1).rfc3339(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        assert_eq!(Timestamp(1).plus(Duration::from_micros(2)), Timestamp(3));
        assert_eq!(Timestamp(i64::MAX).plus(Duration::from_secs(1)), Timestamp(i64::MAX));
        assert_eq!(Timestamp(0).plus(Duration::MAX), Timestamp(i64::MAX));
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(-1).seconds(), -1);
        assert!(!Timestamp(i64::MAX).rfc3339().is_empty());
    }

    #[test]
    fn json_comes_back_in_milliseconds() {
        let time = Timestamp(1_935_000_000_123_456);
        let json = serde_json::to_string(&time).expect("times are serialisable");
        assert_eq!(json, "\"2031-04-26T20:00:00.123Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("own output is readable").millis(), time.millis());
    }
}
