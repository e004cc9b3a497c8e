//! A reader of `MessagePack` that keeps what other readers throw away: how each value was written.
//!
//! Strictly typed clients depend on the width of an integer and on text not being bytes, so the stories look at it.

use std::fmt;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `nil`
    Nil,
    /// A boolean.
    Bool(bool),
    /// An integer and the marker byte it was written with.
    Int(i128, u8),
    /// A float of either width.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bin(Vec<u8>),
    /// A list.
    Array(Vec<Value>),
    /// A map, in the order written.
    Map(Vec<(Value, Value)>),
    /// An extension: its type and bytes.
    Ext(i8, Vec<u8>),
}

impl Value {
    /// A map's entry by its text key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| matches!(name, Self::Str(text) if text == key)).map(|(_, value)| value)
    }

    /// An integer's value.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number, _) => i64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The marker byte of an integer: `0xd3` for a 64-bit signed one, for instance.
    pub fn int_marker(&self) -> Option<u8> {
        match self {
            Self::Int(_, marker) => Some(*marker),
            _ => None,
        }
    }

    /// A text's characters.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }
}

/// The bytes are no `MessagePack`.
#[derive(Debug)]
pub struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not MessagePack")
    }
}

impl std::error::Error for Unreadable {}

/// Reads one value that fills all of `bytes`.
///
/// # Errors
/// When it is cut short or followed by something.
pub fn read(bytes: &[u8]) -> Result<Value, Unreadable> {
    let mut rest = bytes;
    let value = take_value(&mut rest)?;
    if rest.is_empty() { Ok(value) } else { Err(Unreadable) }
}

fn take_value(rest: &mut &[u8]) -> Result<Value, Unreadable> {
    let marker = take(rest, 1)?[0];
    Ok(match marker {
        0x00..=0x7f => Value::Int(i128::from(marker), marker),
        0x80..=0x8f => take_map(rest, usize::from(marker & 0x0f))?,
        0x90..=0x9f => take_array(rest, usize::from(marker & 0x0f))?,
        0xa0..=0xbf => take_text(rest, usize::from(marker & 0x1f))?,
        0xc0 => Value::Nil,
        0xc2 => Value::Bool(false),
        0xc3 => Value::Bool(true),
        0xc4..=0xc6 => {
            let length = take_length(rest, 1 << (marker - 0xc4))?;
            Value::Bin(take(rest, length)?.to_vec())
        }
        0xc7..=0xc9 => {
            let length = take_length(rest, 1 << (marker - 0xc7))?;
            take_extension(rest, length)?
        }
        0xca => Value::Float(f64::from(f32::from_be_bytes(array(take(rest, 4)?)))),
        0xcb => Value::Float(f64::from_be_bytes(array(take(rest, 8)?))),
        0xcc..=0xcf => {
            let bytes = take(rest, 1 << (marker - 0xcc))?;
            Value::Int(bytes.iter().fold(0, |number, byte| number << 8 | i128::from(*byte)), marker)
        }
        0xd0..=0xd3 => {
            let bytes = take(rest, 1 << (marker - 0xd0))?;
            let start = i128::from(bytes[0].cast_signed() >> 7);
            Value::Int(bytes.iter().fold(start, |number, byte| number << 8 | i128::from(*byte)), marker)
        }
        0xd4..=0xd8 => take_extension(rest, 1 << (marker - 0xd4))?,
        0xd9..=0xdb => {
            let length = take_length(rest, 1 << (marker - 0xd9))?;
            take_text(rest, length)?
        }
        0xdc | 0xdd => {
            let length = take_length(rest, 2 << (marker - 0xdc))?;
            take_array(rest, length)?
        }
        0xde | 0xdf => {
            let length = take_length(rest, 2 << (marker - 0xde))?;
            take_map(rest, length)?
        }
        0xe0..=0xff => Value::Int(i128::from(marker.cast_signed()), marker),
        0xc1 => return Err(Unreadable),
    })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Unreadable> {
    let (taken, left) = rest.split_at_checked(count).ok_or(Unreadable)?;
    *rest = left;
    Ok(taken)
}

fn take_length(rest: &mut &[u8], width: usize) -> Result<usize, Unreadable> {
    Ok(take(rest, width)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

fn take_text(rest: &mut &[u8], length: usize) -> Result<Value, Unreadable> {
    let bytes = take(rest, length)?.to_vec();
    String::from_utf8(bytes).map(Value::Str).map_err(|_| Unreadable)
}

fn take_array(rest: &mut &[u8], length: usize) -> Result<Value, Unreadable> {
    (0..length).map(|_| take_value(rest)).collect::<Result<_, _>>().map(Value::Array)
}

fn take_map(rest: &mut &[u8], length: usize) -> Result<Value, Unreadable> {
    (0..length).map(|_| Ok((take_value(rest)?, take_value(rest)?))).collect::<Result<_, _>>().map(Value::Map)
}

fn take_extension(rest: &mut &[u8], length: usize) -> Result<Value, Unreadable> {
    let kind = take(rest, 1)?[0].cast_signed();
    Ok(Value::Ext(kind, take(rest, length)?.to_vec()))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("that many bytes were taken")
}

/// Bytes written as hexadecimal digits; spaces are for the reader.
///
/// # Panics
/// When something else is among them.
pub fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_a_value_was_written_is_kept() {
        let value = read(&hex("84 a161 07  a162 cd0007  a163 d30000000000000007  a164 d0f9")).expect("readable");
        let marker = |key| value.get(key).and_then(Value::int_marker);
        assert_eq!((marker("a"), marker("b"), marker("c"), marker("d")), (Some(7), Some(0xcd), Some(0xd3), Some(0xd0)));
        assert_eq!(value.get("b").and_then(Value::int), Some(7));
        assert_eq!(value.get("d").and_then(Value::int), Some(-7));
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let value = read(&hex("97 c0 c3 c4026869 a26869 ff cb3ff0000000000000 d6ff00000001")).expect("readable");
        let wanted = vec![
            Value::Nil,
            Value::Bool(true),
            Value::Bin(b"hi".to_vec()),
            Value::Str("hi".into()),
            Value::Int(-1, 0xff),
            Value::Float(1.0),
            Value::Ext(-1, vec![0, 0, 0, 1]),
        ];
        assert_eq!(value, Value::Array(wanted));
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_refused() {
        for digits in ["", "81 a161", "c4 05 6869", "c1", "07 07"] {
            assert!(read(&hex(digits)).is_err(), "{digits}");
        }
    }
}
