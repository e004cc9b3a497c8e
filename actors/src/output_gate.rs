//! Terminal output for somebody who may read it more slowly than it comes.
//!
//! Nothing holds a device's socket, so what exceeds the credit of a slow reader is skipped, for that reader alone, and said
//! so; it goes on with the newest. (Architecture: credit, not buffers.)

/// Agents send terminal output in pieces of at most this many bytes.
const AGENT_PIECE: usize = 255;

/// How much output without a line end is passed over before the newest is shown regardless.
const RESYNC_LIMIT: usize = 16 * 1024;

/// What one reader is owed and what is skipped for them.
#[derive(Debug, Default)]
pub struct OutputGate {
    /// Credit in use.
    in_flight: usize,
    /// What was sent ahead of all this and is not yet taken.
    replayed: usize,
    skipping: Option<Skipping>,
}

/// Output that did not fit is being passed over.
#[derive(Debug)]
enum Skipping {
    /// The credit is used up.
    Full { bytes: u64 },
    /// There is room again; waiting for the start of a line.
    ToLineStart { passed: usize },
}

/// Where output goes on after some was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoOn {
    /// With the next byte: the reader counts bytes.
    AtOnce,
    /// At the start of a line, if one comes soon: the reader is a screen.
    AtLineStart,
}

impl OutputGate {
    /// Whether this piece of output, which costs `cost`, is shown. What is not shown is counted.
    pub fn admits(&mut self, body: &[u8], cost: usize, window: usize) -> bool {
        match &mut self.skipping {
            None if self.in_flight + cost <= window => {
                self.in_flight += cost;
                true
            }
            None => {
                self.skipping = Some(Skipping::Full { bytes: body.len() as u64 });
                false
            }
            Some(Skipping::Full { bytes }) => {
                *bytes += body.len() as u64;
                false
            }
            Some(Skipping::ToLineStart { passed }) => {
                // A piece that does not fill the agent's buffer is the last of what there was: the flood is over, and what
                // comes now may be a prompt.
                if body.len() < AGENT_PIECE {
                    self.skipping = None;
                    self.in_flight += cost;
                    return true;
                }
                *passed += body.len();
                if body.ends_with(b"\n") || *passed > RESYNC_LIMIT {
                    self.skipping = None;
                }
                false
            }
        }
    }

    /// Takes credit for something that is not output, within `limit`.
    pub fn takes(&mut self, cost: usize, limit: usize) -> bool {
        let fits = self.in_flight + cost <= limit;
        if fits {
            self.in_flight += cost;
        }
        fits
    }

    /// The reader has taken `bytes`. Some if output goes on now: how much was skipped.
    pub fn credit(&mut self, bytes: usize, window: usize, go_on: GoOn) -> Option<u64> {
        self.give_back(bytes);
        let Some(Skipping::Full { bytes: skipped }) = self.skipping else { return None };
        // Not at the first free byte: that would show one line of output between two notices.
        if self.in_flight > window / 2 {
            return None;
        }
        self.skipping = match go_on {
            GoOn::AtOnce => None,
            GoOn::AtLineStart => Some(Skipping::ToLineStart { passed: 0 }),
        };
        Some(skipped)
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
        self.skipping.is_some()
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
pub fn skip_notice(skipped: u64) -> String {
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
        assert_eq!(gate.credit(50, 1000, GoOn::AtOnce), None, "not at the first free byte");
        assert_eq!(gate.credit(400, 1000, GoOn::AtOnce), Some(510));
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
    fn a_screen_goes_on_at_the_start_of_a_line_or_at_a_short_piece() {
        let mut gate = OutputGate::default();
        assert!(gate.admits(b"a", 1000, 1000) && !gate.admits(b"b", 1, 1000));
        assert_eq!(gate.credit(1000, 1000, GoOn::AtLineStart), Some(1));
        let mut line = [b'x'; 255];
        assert!(!gate.admits(&line, 1, 1000));
        line[254] = b'\n';
        assert!(!gate.admits(&line, 1, 1000), "this line's beginning was not shown");
        assert!(gate.admits(&line, 1, 1000));
    }
}
