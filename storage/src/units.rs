//! Durations and sizes in settings files: numbers with their unit, such as `"30s"` or `"64 KiB"`.
//!
//! Use with serde: `#[serde(with = "storage::units::duration")]`, `units::optional_duration`, `units::size`.

use std::time::Duration;

/// The text is not a number with a known unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("invalid duration {0:?}: expected a whole number with a unit (ms, s, m, h, d), such as \"30s\" or \"15m\"")]
    Duration(String),
    /// Not a size.
    #[error("invalid size {0:?}: expected a whole number with a unit (B, KiB, MiB, GiB), such as \"64 KiB\"")]
    Size(String),
}

/// Units of time, largest first, in milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of size, largest first, in bytes.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads `"500ms"`, `"30s"`, `"15m"`, `"1h"`, `"7d"` or several of them, `"1h 30m"`; `"0"` needs no unit.
///
/// # Errors
/// [`UnitError::Duration`] with the text.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let invalid = || UnitError::Duration(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (amount, unit, tail) = take(rest).ok_or_else(invalid)?;
        let (_, millis) = TIMES.into_iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        total = amount.checked_mul(millis).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// Reads `"64 KiB"`, `"1MiB"`, `"512 B"`; `"0"` needs no unit. Units are binary: 1 KiB is 1024 bytes.
///
/// # Errors
/// [`UnitError::Size`] with the text.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let invalid = || UnitError::Size(text.to_owned());
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(0);
    }
    let (amount, unit, tail) = take(trimmed).ok_or_else(invalid)?;
    let (_, bytes) = SIZES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(invalid)?;
    if !tail.is_empty() {
        return Err(invalid());
    }
    amount.checked_mul(bytes).ok_or_else(invalid)
}

/// The duration as text that [`parse_duration`] reads, in the largest unit that divides it. Below a millisecond is cut.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, size) = TIMES.into_iter().find(|(_, size)| millis.is_multiple_of(*size)).unwrap_or(("ms", 1));
    if millis == 0 { "0s".to_owned() } else { format!("{}{unit}", millis / size) }
}

/// The size as text that [`parse_size`] reads, in the largest unit that divides it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let (unit, size) = SIZES.into_iter().find(|(_, size)| bytes.is_multiple_of(*size)).unwrap_or(("B", 1));
    if bytes == 0 { "0 B".to_owned() } else { format!("{} {unit}", bytes / size) }
}

/// Splits `12ms rest` into number, unit and what follows.
fn take(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let amount = text[..digits].parse().ok()?;
    let unit_on = text[digits..].trim_start();
    let end = unit_on.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(unit_on.len());
    Some((amount, &unit_on[..end], unit_on[end..].trim_start()))
}

/// A [`Duration`] as text with a unit.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the value with its unit.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*value))
    }

    /// Reads a value with its unit.
    ///
    /// # Errors
    /// If the text is not a whole number with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = super::Text::deserialize(deserializer)?;
        super::parse_duration(&text.0).map_err(serde::de::Error::custom)
    }
}

/// An `Option<Duration>` as text with a unit, or nothing. Pair it with `#[serde(default)]`.
pub mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the value with its unit.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(super::format_duration).serialize(serializer)
    }

    /// Reads a value with its unit.
    ///
    /// # Errors
    /// If the text is not a whole number with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<super::Text>::deserialize(deserializer)?;
        text.map(|text| super::parse_duration(&text.0)).transpose().map_err(serde::de::Error::custom)
    }
}

/// A number of bytes (`u64`, `usize`, `u32`) as text with a unit.
pub mod size {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the value with its unit.
    ///
    /// # Errors
    /// Those of the serializer, or if the number does not fit 64 bits.
    pub fn serialize<T, S>(value: &T, serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Copy + TryInto<u64>,
        S: Serializer,
    {
        let bytes = (*value).try_into().map_err(|_| serde::ser::Error::custom("size out of range"))?;
        serializer.serialize_str(&super::format_size(bytes))
    }

    /// Reads a value with its unit.
    ///
    /// # Errors
    /// If the text is not a whole number with a unit, or too large for the setting.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: TryFrom<u64>,
        D: Deserializer<'de>,
    {
        let text = super::Text::deserialize(deserializer)?;
        let bytes = super::parse_size(&text.0).map_err(serde::de::Error::custom)?;
        T::try_from(bytes).map_err(|_| serde::de::Error::custom(format!("size {:?} is too large", text.0)))
    }
}

/// Text as written in a file. An environment variable with nothing but digits arrives as a number, and a number without
/// a unit deserves the message about units, not one about types.
struct Text(String);

impl<'de> serde::Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("text with a number and a unit, such as \"30s\" or \"64 KiB\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_with_units() {
        let cases = [
            ("500ms", 500),
            ("30s", 30_000),
            ("15m", 900_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("1h 30m", 5_400_000),
            (" 2 s ", 2_000),
            ("0", 0),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn durations_without_a_known_unit_are_refused_with_an_example() {
        for text in ["", "30", "s", "30 parsecs", "-1s", "1.5h", "99999999999999999999s", "9999999999999999d", "30S"] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.to_string().contains("such as \"30s\""), "{error}");
        }
    }

    #[test]
    fn sizes_with_units() {
        let cases = [("64 KiB", 65_536), ("1MiB", 1_048_576), ("2 gib", 2_147_483_648), ("12 B", 12), ("0", 0)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "64", "1 MB", "1 KiB 2", "99999999999 GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        for millis in [0, 1, 500, 1_000, 90_000, 3_600_000, 86_400_000, 604_800_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1_023, 1_024, 1_536, 1 << 20, 3 << 30] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        assert_eq!(format_duration(Duration::from_hours(168)), "7d");
        assert_eq!(format_size(1 << 20), "1 MiB");
    }

    #[test]
    fn a_bare_number_in_a_file_is_told_about_units() {
        #[derive(Debug, serde::Deserialize)]
        struct Settings {
            #[serde(with = "duration")]
            #[expect(dead_code, reason = "only the refusal is looked at")]
            wait: Duration,
        }
        let error = serde_json::from_str::<Settings>(r#"{"wait": 30}"#).expect_err("no unit");
        assert!(error.to_string().contains("with a unit"), "{error}");
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        struct Settings {
            #[serde(with = "size")]
            limit: u32,
        }
        let settings: Settings = serde_json::from_str(r#"{"limit": "1 MiB"}"#).expect("fits");
        assert_eq!(settings.limit, 1 << 20);
        assert_eq!(serde_json::to_string(&settings).expect("serialisable"), r#"{"limit":"1 MiB"}"#);
        assert!(serde_json::from_str::<Settings>(r#"{"limit": "8 GiB"}"#).is_err());
    }
}
