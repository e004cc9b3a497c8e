//! The reader and the writer of recordings for `tests/fuzz`, without a store.

use super::cast::{Encoder, Frame, PIECE, decode};
use super::reader::unpack;
use std::time::Duration;
use storage::StorageError;

/// What a stored chunk says.
///
/// # Errors
/// `Corrupt` if it is no gzip of asciicast lines, or stands for more than a chunk may hold.
pub fn read_chunk(packed: &[u8]) -> Result<Vec<Frame>, StorageError> {
    decode(&unpack("a chunk", packed)?)
}

/// What the lines of a chunk say.
///
/// # Errors
/// `Corrupt` if they are no asciicast lines.
pub fn read_lines(lines: &[u8]) -> Result<Vec<Frame>, StorageError> {
    decode(lines)
}

/// Output in these pieces as lines, one second after the other.
pub fn write_lines<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut encoder, mut lines) = (Encoder::default(), Vec::new());
    let mut at = Duration::ZERO;
    for piece in pieces.flat_map(|piece| piece.chunks(PIECE)) {
        at += Duration::from_secs(1);
        encoder.output(at, piece, &mut lines);
    }
    encoder.flush(at, &mut lines);
    lines
}
