//! The last of a terminal's output, for those who come to it later.

use std::collections::VecDeque;

use bytes::Bytes;

/// The newest output, up to a limit in bytes. Its pieces keep whole messages alive; small ones are gathered.
#[derive(Debug, Default)]
pub(super) struct Scrollback {
    pieces: VecDeque<Vec<u8>>,
    len: usize,
    /// Bytes of output before the first piece.
    start: u64,
}

/// Pieces are gathered up to this many bytes.
const PIECE: usize = 4096;

impl Scrollback {
    /// Empty, with so many bytes gone before.
    pub(super) fn after(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    pub(super) fn push(&mut self, output: &[u8], limit: usize) {
        match self.pieces.back_mut() {
            Some(last) if last.len() + output.len() <= PIECE => last.extend_from_slice(output),
            _ => self.pieces.push_back(output.to_vec()),
        }
        self.len += output.len();
        while self.len > limit {
            let Some(oldest) = self.pieces.pop_front() else { return };
            self.len -= oldest.len();
            self.start += oldest.len() as u64;
        }
    }

    /// What is kept from `offset` on, in pieces; with the offset of the first byte given.
    pub(super) fn from(&self, offset: u64) -> (u64, Vec<Bytes>) {
        let first = offset.max(self.start);
        let mut skip = usize::try_from(first - self.start).unwrap_or(usize::MAX);
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            pieces.push(Bytes::copy_from_slice(&piece[skip..]));
            skip = 0;
        }
        (first, pieces)
    }

    /// The newest of it in one piece, at most `limit` bytes.
    pub(super) fn newest(&self, limit: usize) -> Bytes {
        let end = self.start + self.len as u64;
        self.from(end.saturating_sub(limit as u64)).1.concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(scrollback: &Scrollback, from: u64) -> (u64, Vec<u8>) {
        let (first, pieces) = scrollback.from(from);
        (first, pieces.concat())
    }

    #[test]
    fn keeps_the_newest_within_the_limit_and_knows_its_offsets() {
        let mut scrollback = Scrollback::after(100);
        for n in 0..100_u8 {
            scrollback.push(&[n; 1000], 10_000);
        }
        assert!(scrollback.len <= 10_000, "{}", scrollback.len);
        let end = 100 + 100_000;
        let (first, kept) = all(&scrollback, 0);
        assert_eq!(first + kept.len() as u64, end);
        assert_eq!(kept.last(), Some(&99));
        assert_eq!(all(&scrollback, end - 1500), (end - 1500, [[98; 500].as_slice(), &[99; 1000]].concat()));
        assert_eq!(all(&scrollback, end), (end, vec![]));
    }
}
