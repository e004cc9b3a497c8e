//! Just enough MessagePack to find the way through a message.

use super::Malformed;

/// Deepest nesting that a field nobody reads may have.
const DEPTH_LIMIT: u32 = 32;

const CUT_SHORT: Malformed = Malformed("cut short");

/// A place in encoded bytes.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The bytes between `start` and here.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// Number of entries of the map that starts here; `None` for nil.
    pub(super) fn map(&mut self) -> Result<Option<u32>, Malformed> {
        let len = match self.byte()? {
            0xc0 => return Ok(None),
            marker @ 0x80..=0x8f => u32::from(marker & 0x0f),
            0xde => u32::from(self.be_u16()?),
            0xdf => self.be_u32()?,
            _ => return Err(Malformed("not a map")),
        };
        // Each entry takes two bytes at least, so a length beyond what is there is a lie not worth looping over.
        if len as usize > (self.bytes.len() - self.at) / 2 { Err(CUT_SHORT) } else { Ok(Some(len)) }
    }

    /// A map's key: text, as bytes.
    pub(super) fn key(&mut self) -> Result<&'a [u8], Malformed> {
        self.text_bytes()?.ok_or(Malformed("nil as a key"))
    }

    /// Text; `None` for nil.
    pub(super) fn text(&mut self) -> Result<Option<&'a str>, Malformed> {
        self.text_bytes()?.map(|text| std::str::from_utf8(text).map_err(|_| Malformed("text is not UTF-8"))).transpose()
    }

    fn text_bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = match self.byte()? {
            0xc0 => return Ok(None),
            marker @ 0xa0..=0xbf => usize::from(marker & 0x1f),
            0xd9 => usize::from(self.byte()?),
            0xda => usize::from(self.be_u16()?),
            0xdb => self.be_u32()? as usize,
            _ => return Err(Malformed("not text")),
        };
        self.take(len).map(Some)
    }

    /// The text that starts here, or `None`, without moving, if it is something else.
    pub(super) fn text_bytes_if_text(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.peek()? {
            0xa0..=0xbf | 0xd9..=0xdb => self.text_bytes(),
            _ => Ok(None),
        }
    }

    /// Passes over an empty map; `false`, without moving, if it is something else.
    pub(super) fn empty_map_if_map(&mut self) -> Result<bool, Malformed> {
        match self.peek()? {
            0x80..=0x8f | 0xde | 0xdf => match self.map()? {
                Some(0) => Ok(true),
                _ => Err(Malformed("a map as body")),
            },
            _ => Ok(false),
        }
    }

    /// Bytes; `None` for nil.
    pub(super) fn binary(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = match self.byte()? {
            0xc0 => return Ok(None),
            0xc4 => usize::from(self.byte()?),
            0xc5 => usize::from(self.be_u16()?),
            0xc6 => self.be_u32()? as usize,
            _ => return Err(Malformed("not binary")),
        };
        self.take(len).map(Some)
    }

    /// An integer of any width.
    pub(super) fn integer(&mut self) -> Result<i64, Malformed> {
        Ok(match self.byte()? {
            marker @ 0x00..=0x7f => i64::from(marker),
            marker @ 0xe0..=0xff => i64::from(i8::from_be_bytes([marker])),
            0xcc => i64::from(self.byte()?),
            0xcd => i64::from(self.be_u16()?),
            0xce => i64::from(self.be_u32()?),
            0xcf => i64::try_from(u64::from_be_bytes(self.array()?)).map_err(|_| Malformed("number too large"))?,
            0xd0 => i64::from(i8::from_be_bytes(self.array()?)),
            0xd1 => i64::from(i16::from_be_bytes(self.array()?)),
            0xd2 => i64::from(i32::from_be_bytes(self.array()?)),
            0xd3 => i64::from_be_bytes(self.array()?),
            _ => return Err(Malformed("not an integer")),
        })
    }

    /// Whether the integer that starts here is written in 64 bits.
    pub(super) fn is_64_bit(&self) -> bool {
        matches!(self.bytes.get(self.at), Some(0xcf | 0xd3))
    }

    /// Passes over one value of any kind.
    pub(super) fn skip(&mut self) -> Result<(), Malformed> {
        self.skip_within(DEPTH_LIMIT)
    }

    fn skip_within(&mut self, depth: u32) -> Result<(), Malformed> {
        let inner = depth.checked_sub(1).ok_or(Malformed("nested too deeply"))?;
        let (bytes, values) = match self.byte()? {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (0, 0),
            marker @ 0x80..=0x8f => (0, 2 * usize::from(marker & 0x0f)),
            marker @ 0x90..=0x9f => (0, usize::from(marker & 0x0f)),
            marker @ 0xa0..=0xbf => (usize::from(marker & 0x1f), 0),
            0xc4 | 0xd9 => (usize::from(self.byte()?), 0),
            0xc5 | 0xda => (usize::from(self.be_u16()?), 0),
            0xc6 | 0xdb => (self.be_u32()? as usize, 0),
            0xc7 => (usize::from(self.byte()?) + 1, 0),
            0xc8 => (usize::from(self.be_u16()?) + 1, 0),
            0xc9 => ((self.be_u32()? as usize).saturating_add(1), 0),
            0xca | 0xce | 0xd2 => (4, 0),
            0xcb | 0xcf | 0xd3 => (8, 0),
            0xcc | 0xd0 => (1, 0),
            0xcd | 0xd1 | 0xd4 => (2, 0),
            0xd5 => (3, 0),
            0xd6 => (5, 0),
            0xd7 => (9, 0),
            0xd8 => (17, 0),
            0xdc => (0, usize::from(self.be_u16()?)),
            0xdd => (0, self.be_u32()? as usize),
            0xde => (0, 2 * usize::from(self.be_u16()?)),
            0xdf => (0, (self.be_u32()? as usize).saturating_mul(2)),
            0xc1 => return Err(Malformed("a marker that is never used")),
        };
        self.take(bytes)?;
        for _ in 0..values {
            self.skip_within(inner)?;
        }
        Ok(())
    }

    fn peek(&self) -> Result<u8, Malformed> {
        self.bytes.get(self.at).copied().ok_or(CUT_SHORT)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len()).ok_or(CUT_SHORT)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("took exactly as many"))
    }

    fn be_u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn be_u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }
}

pub(super) fn write_map(out: &mut Vec<u8>, len: u32) {
    match len {
        0..=15 => out.push(0x80 | u8::try_from(len).expect("at most 15")),
        16..=0xffff => {
            out.push(0xde);
            out.extend(u16::try_from(len).expect("at most 16 bits").to_be_bytes());
        }
        _ => {
            out.push(0xdf);
            out.extend(len.to_be_bytes());
        }
    }
}

pub(super) fn write_str(out: &mut Vec<u8>, text: &str) {
    let len = text.len();
    if let Ok(short) = u8::try_from(len) {
        if short < 32 {
            out.push(0xa0 | short);
        } else {
            out.extend([0xd9, short]);
        }
    } else if let Ok(medium) = u16::try_from(len) {
        out.push(0xda);
        out.extend(medium.to_be_bytes());
    } else {
        out.push(0xdb);
        out.extend(u32::try_from(len).expect("messages are far below 4 GiB").to_be_bytes());
    }
    out.extend(text.as_bytes());
}

pub(super) fn write_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = bytes.len();
    if let Ok(short) = u8::try_from(len) {
        out.extend([0xc4, short]);
    } else if let Ok(medium) = u16::try_from(len) {
        out.push(0xc5);
        out.extend(medium.to_be_bytes());
    } else {
        out.push(0xc6);
        out.extend(u32::try_from(len).expect("messages are far below 4 GiB").to_be_bytes());
    }
    out.extend(bytes);
}

/// `proto` in the form every peer's reader takes: 16 bits.
pub(super) fn write_proto(out: &mut Vec<u8>, proto: u16) {
    out.push(0xcd);
    out.extend(proto.to_be_bytes());
}

pub(super) fn write_small(out: &mut Vec<u8>, number: u8) {
    if number < 0x80 {
        out.push(number);
    } else {
        out.extend([0xcc, number]);
    }
}

pub(super) fn write_int64(out: &mut Vec<u8>, number: i64) {
    out.push(0xd3);
    out.extend(number.to_be_bytes());
}
