//! MessagePack as mender-connect writes it: typed fields in their full width, plain integers as short as they go.

use std::time::{Duration, SystemTime};

pub(crate) fn map(out: &mut Vec<u8>, members: usize) {
    match u8::try_from(members) {
        Ok(few) if few < 16 => out.push(0x80 | few),
        _ => {
            out.push(0xdf);
            out.extend_from_slice(&length(members));
        }
    }
}

pub(crate) fn array(out: &mut Vec<u8>, members: usize) {
    match u8::try_from(members) {
        Ok(few) if few < 16 => out.push(0x90 | few),
        _ => {
            out.push(0xdd);
            out.extend_from_slice(&length(members));
        }
    }
}

pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(short) if short < 32 => out.push(0xa0 | short),
        Ok(short) => out.extend_from_slice(&[0xd9, short]),
        Err(_) => {
            out.push(0xdb);
            out.extend_from_slice(&length(text.len()));
        }
    }
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if let Ok(short) = u8::try_from(bytes.len()) {
        out.extend_from_slice(&[0xc4, short]);
    } else {
        out.push(0xc6);
        out.extend_from_slice(&length(bytes.len()));
    }
    out.extend_from_slice(bytes);
}

pub(crate) fn integer(out: &mut Vec<u8>, value: i64) {
    match u8::try_from(value) {
        Ok(small) if small < 128 => out.push(small),
        _ => int64(out, value),
    }
}

pub(crate) fn int64(out: &mut Vec<u8>, value: i64) {
    out.push(0xd3);
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn uint32(out: &mut Vec<u8>, value: u32) {
    out.push(0xce);
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn uint16(out: &mut Vec<u8>, value: u16) {
    out.push(0xcd);
    out.extend_from_slice(&value.to_be_bytes());
}

/// A point in time as the extension of type -1, in the shortest of its three forms; before 1970 counts as 1970.
pub(crate) fn timestamp(out: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (seconds, nanoseconds) = (since.as_secs(), since.subsec_nanos());
    match u32::try_from(seconds) {
        Ok(seconds) if nanoseconds == 0 => {
            out.extend_from_slice(&[0xd6, 0xff]);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        _ if seconds < 1 << 34 => {
            out.extend_from_slice(&[0xd7, 0xff]);
            out.extend_from_slice(&(u64::from(nanoseconds) << 34 | seconds).to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[0xc7, 12, 0xff]);
            out.extend_from_slice(&nanoseconds.to_be_bytes());
            out.extend_from_slice(&seconds.to_be_bytes());
        }
    }
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("nothing in a message is longer than 4 GiB").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_take_the_shortest_form_that_holds_them() {
        for (since, expected) in [
            (Duration::from_secs(1), &[0xd6, 0xff, 0, 0, 0, 1][..]),
            (Duration::new(1, 1), &[0xd7, 0xff, 0, 0, 0, 4, 0, 0, 0, 1]),
            (Duration::new(1 << 34, 1), &[0xc7, 12, 0xff, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0]),
        ] {
            let mut out = vec![];
            timestamp(&mut out, SystemTime::UNIX_EPOCH + since);
            assert_eq!(out, expected);
        }
    }
}
