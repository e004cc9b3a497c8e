//! The compressions an archive may have, told by the ending of its name.

use std::io::{self, BufReader, Read, Write};

use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::archive::too_large;

/// Memory that unpacking may take. The window of what the standard tool writes is 64 MiB at most; a file that asks for more
/// could ask for any amount.
const XZ_MEMORY: u64 = 72 * 1024 * 1024;

/// As [`XZ_MEMORY`], as the power of two of the window.
const ZSTD_WINDOW_LOG: u32 = 26;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// xz.
    Lzma,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Gzip, Self::Lzma, Self::Zstd];

    /// What the name of an archive ends with after `.tar`.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Lzma => ".xz",
            Self::Zstd => ".zst",
        }
    }

    /// The compression of an archive called `name`, if it is `stem` (which ends in `.tar`) and one of the endings.
    pub(super) fn of(name: &str, stem: &str) -> Option<Self> {
        let suffix = name.strip_prefix(stem)?;
        Self::ALL.into_iter().find(|compression| compression.suffix() == suffix)
    }
}

/// Unpacks what is read from it.
pub(super) enum Unpacker<R: Read> {
    None(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Lzma(Box<XzDecoder<R>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Unpacker<R> {
    pub(super) fn new(source: R, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(source),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Lzma => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                Self::Lzma(Box::new(XzDecoder::new_stream(source, stream)))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::new(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }
}

impl<R: Read> Read for Unpacker<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Lzma(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Fails once more was read than is allowed.
pub(super) struct Bounded<'a, R> {
    source: R,
    left: &'a mut u64,
    what: &'static str,
    limit: u64,
}

impl<'a, R> Bounded<'a, R> {
    /// Takes what is read from `source` off `left`, which was `limit` before anything was.
    pub(super) const fn new(source: R, left: &'a mut u64, what: &'static str, limit: u64) -> Self {
        Self { source, left, what, limit }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        *self.left = self.left.checked_sub(read as u64).ok_or_else(|| too_large(self.what, self.limit).into_io())?;
        Ok(read)
    }
}

/// Packs what is written to it.
pub(super) enum Packer<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
}

impl<W: Write> Packer<W> {
    /// The best that gzip can do takes little longer than the default, and devices download over slow links.
    pub(super) fn new(sink: W, compression: WrittenCompression) -> Self {
        match compression {
            WrittenCompression::None => Self::None(sink),
            WrittenCompression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(sink, flate2::Compression::best())),
        }
    }

    /// Writes what is left and gives the sink back.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::None(sink) => Ok(sink),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(sink) => sink.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(sink) => sink.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }
}

/// How the hub packs what it writes: in a way that every device can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenCompression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
}

impl WrittenCompression {
    /// What the name of an archive ends with after `.tar`.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => Compression::None.suffix(),
            Self::Gzip => Compression::Gzip.suffix(),
        }
    }
}
