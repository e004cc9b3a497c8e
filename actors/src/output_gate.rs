//! Terminal output for somebody who may read it more slowly than it comes.
//!
//! Nothing holds a device's socket, so what exceeds the credit of a slow reader is skipped, for that reader alone, and said
//! so; it goes on with the newest. (Architecture: credit, not buffers.)

use std::collections::VecDeque;

/// Bytes of what was passed over that are shown all the same when there is room again: the last screen or two.
const SHOWN_AGAIN: usize = 4 * 1024;

/// What one reader is owed and what is skipped for them.
#[derive(Debug, Default)]
pub struct OutputGate {
    /// Credit in use.
    in_flight: usize,
    /// What was sent ahead of all this and is not yet taken.
    replayed: usize,
    /// Output that did not fit is being passed over.
    passing: Option<Missed>,
}

/// Output that was passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Bytes, the newest included.
    bytes: u64,
    /// The newest: what comes last may be the last for a long time, as a prompt is.
    newest: VecDeque<u8>,
}

impl Missed {
    fn pass_over(&mut self, body: &[u8]) {
        self.bytes += body.len() as u64;
        let excess = (self.newest.len() + body.len()).saturating_sub(SHOWN_AGAIN);
        self.newest.drain(..excess.min(self.newest.len()));
        self.newest.extend(&body[body.len().saturating_sub(SHOWN_AGAIN)..]);
    }

    /// Bytes, the newest included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For a reader that counts bytes: how many are missing, and those that follow them.
    pub fn for_program(mut self) -> (u64, Vec<u8>) {
        let newest = self.newest.make_contiguous().to_vec();
        (self.bytes - newest.len() as u64, newest)
    }

    /// For a screen, which goes on at the start of a line: what it shows.
    pub fn for_screen(self) -> (Option<String>, Vec<u8>) {
        let (missing, newest) = self.for_program();
        if missing == 0 {
            return (None, newest);
        }
        let line = newest.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        (Some(skip_notice(missing + line as u64)), newest[line..].to_vec())
    }
}

impl OutputGate {
    /// Whether this piece of output, which costs `cost`, is shown. What is not shown is counted.
    pub fn admits(&mut self, body: &[u8], cost: usize, window: usize) -> bool {
        if self.passing.is_none() && self.in_flight + cost <= window {
            self.in_flight += cost;
            return true;
        }
        self.passing.get_or_insert_default().pass_over(body);
        false
    }

    /// Takes credit for something that is not output, within `limit`.
    pub fn takes(&mut self, cost: usize, limit: usize) -> bool {
        let fits = self.in_flight + cost <= limit;
        if fits {
            self.in_flight += cost;
        }
        fits
    }

    /// The reader has taken `bytes`. Some if output goes on now: what was passed over.
    pub fn credit(&mut self, bytes: usize, window: usize) -> Option<Missed> {
        self.give_back(bytes);
        // Not at the first free byte: that would show one line of output between two notices.
        if self.in_flight > window / 2 {
            return None;
        }
        self.passing.take()
    }

    /// Gives credit back without asking whether output goes on; [`OutputGate::credit`] with 0 asks.
    pub fn give_back(&mut self, bytes: usize) {
        let of_replay = bytes.min(self.replayed);
        self.replayed -= of_replay;
        self.in_flight = self.in_flight.saturating_sub(bytes - of_replay);
    }

    /// Credit in use.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether output is being passed over.
    pub fn is_skipping(&self) -> bool {
        self.passing.is_some()
    }

    /// Sends older output that costs `cost` before anything else: live output has the whole window besides.
    pub fn replay(&mut self, cost: usize) {
        self.replayed += cost;
    }

    /// Uses credit unconditionally, for what has to go whatever the credit.
    pub fn force(&mut self, cost: usize) {
        self.in_flight += cost;
    }
}

/// What a screen shows where output is missing.
fn skip_notice(skipped: u64) -> String {
    format!("\r\n\x1b[0m[mooring: {skipped} bytes of output skipped, this terminal reads too slowly]\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_window_is_counted_and_said_once() {
        let mut gate = OutputGate::default();
        assert!(gate.admits(b"a", 600, 1000));
        assert!(!gate.admits(&[b'b'; 255], 600, 1000));
        assert!(!gate.admits(&[b'c'; 255], 100, 1000), "nothing overtakes what was skipped");
        assert_eq!(gate.credit(50, 1000), None, "not at the first free byte");
        assert_eq!(gate.credit(400, 1000).expect("room").bytes(), 510);
        assert!(gate.admits(b"d", 600, 1000));
    }

    #[test]
    fn what_is_replayed_takes_no_room_from_live_output() {
        let mut gate = OutputGate::default();
        gate.replay(5000);
        assert!(gate.admits(b"a", 1000, 1000));
        gate.give_back(5000);
        assert_eq!(gate.in_flight(), 1000, "it is taken first");
        gate.give_back(1000);
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn the_newest_is_kept_within_a_bound_and_shown() {
        let missed = |pieces: &[&[u8]]| {
            let mut missed = Missed::default();
            for piece in pieces {
                missed.pass_over(piece);
            }
            missed
        };
        assert_eq!(missed(&[b"ab", b"c"]).for_program(), (0, b"abc".to_vec()));
        assert_eq!(missed(&[b"a\nb"]).for_screen(), (None, b"a\nb".to_vec()));

        let long = vec![b'x'; SHOWN_AGAIN - 3];
        let (missing, newest) = missed(&[b"ab", &long, b"\r\n$ "]).for_program();
        assert_eq!((missing, newest.len()), (3, SHOWN_AGAIN));
        let (notice, newest) = missed(&[b"ab", &long, b"\r\n$ "]).for_screen();
        assert!(notice.expect("some is missing").contains(&format!(": {} bytes", SHOWN_AGAIN + 1)));
        assert_eq!(newest, b"$ ");

        let (missing, newest) = missed(&[&vec![b'y'; 10 * SHOWN_AGAIN], b"z"]).for_program();
        assert_eq!((missing, newest.len()), (9 * SHOWN_AGAIN as u64 + 1, SHOWN_AGAIN));
        assert!(newest.ends_with(b"yz"));
    }
}
