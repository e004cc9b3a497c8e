//! What was typed and what was printed, counted so that a lost websocket loses and doubles nothing.
//!
//! Both sides count the bytes of a session from its beginning. The hub says how many keystrokes it has taken; until then
//! they are kept here. We say how much output we have; the hub keeps the rest. After a loss each side goes on exactly
//! where the other one is.

use std::collections::VecDeque;

/// Keystrokes that may wait to be taken; then the keyboard waits.
const MOST_UNTAKEN: usize = 64 << 10;
/// Output is acknowledged after so many bytes, and also after a short time.
const REPORT_AFTER: u64 = 16 << 10;

/// The counts of one session.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Keystrokes that were handed on to the device.
    taken: u64,
    /// Keystrokes after those.
    untaken: VecDeque<u8>,
    /// So many of `untaken` were sent over the present websocket.
    sent: usize,
    /// Output that has come.
    received: u64,
    /// Output still to come again, because the hub starts earlier than we asked.
    repeated: u64,
    /// Output that is on the screen.
    shown: u64,
    /// Output the hub knows to be on the screen.
    reported: u64,
    has_begun: bool,
}

/// What is not as it should be after an attachment; both are nothing when all goes well.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Bytes of output that are lost.
    pub output: u64,
    /// Whether keystrokes are lost, or others have typed.
    pub input: bool,
}

impl Ledger {
    /// A websocket was opened: the hub's counts.
    pub fn attached(&mut self, output: u64, input: u64) -> Gap {
        self.sent = 0;
        if !self.has_begun {
            self.has_begun = true;
            (self.taken, self.received, self.shown, self.reported) = (input, output, output, output);
            return Gap::default();
        }
        let mut gap = Gap::default();
        self.repeated = self.received.saturating_sub(output);
        if output > self.received {
            gap.output = output - self.received;
            // What waits to be shown stays in order before what follows the gap.
            self.received = output;
            self.shown += gap.output;
        }
        self.reported = self.reported.min(self.shown);
        match input.checked_sub(self.taken).map(usize::try_from) {
            // The hub has those, but may die before it has handed them on: they are kept until it says that it has.
            Some(Ok(had)) if had <= self.untaken.len() => self.sent = had,
            Some(_) => {
                gap.input = true;
                // Half a command that was meant for another moment does more harm than none.
                self.untaken.clear();
                self.taken = input;
            }
            // A hub that took the session over from another one may count anew; what was taken stays taken.
            None => self.taken = input,
        }
        gap
    }

    /// The hub has left out output, since we were too slow for it.
    pub fn skip(&mut self, length: u64) {
        self.received += length;
        self.shown += length;
    }

    /// Where the hub shall go on with its output.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether more may be typed.
    pub fn has_room(&self) -> bool {
        self.untaken.len() < MOST_UNTAKEN
    }

    /// Keys were typed.
    pub fn typed(&mut self, keys: &[u8]) {
        self.untaken.extend(keys);
    }

    /// Whether there are keys to send.
    pub fn has_unsent(&self) -> bool {
        self.sent < self.untaken.len()
    }

    /// The next keys to send, at most so many.
    pub fn send(&mut self, most: usize) -> Vec<u8> {
        let keys: Vec<u8> = self.untaken.iter().skip(self.sent).take(most).copied().collect();
        self.sent += keys.len();
        keys
    }

    /// Nobody will say what was taken: what was sent counts.
    pub fn sent_is_taken(&mut self) {
        self.taken += self.sent as u64;
        self.untaken.drain(..self.sent);
        self.sent = 0;
    }

    /// So many keystrokes were handed on since the session began; `false` if that cannot be. It may tell less than when the
    /// websocket was opened, since then it speaks of all that it has.
    #[must_use]
    pub fn take(&mut self, total: u64) -> bool {
        let Some(more) = total.checked_sub(self.taken) else { return true };
        let Some(more) = usize::try_from(more).ok().filter(|&more| more <= self.untaken.len()) else { return false };
        self.untaken.drain(..more);
        self.sent = self.sent.saturating_sub(more);
        self.taken = total;
        true
    }

    /// Output has come; what of it is new.
    pub fn receive<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let old = bytes.len().min(usize::try_from(self.repeated).unwrap_or(usize::MAX));
        self.repeated -= old as u64;
        let new = &bytes[old..];
        self.received += new.len() as u64;
        new
    }

    /// Output is on the screen.
    pub fn show(&mut self, length: usize) {
        self.shown += length as u64;
    }

    /// Whether there is output that the hub does not know to be on the screen.
    pub fn owes_report(&self) -> bool {
        self.shown > self.reported
    }

    /// Whether so much is owed that it cannot wait.
    pub fn owes_much(&self) -> bool {
        self.shown - self.reported >= REPORT_AFTER
    }

    /// What to tell the hub is on the screen.
    pub fn report(&mut self) -> u64 {
        self.reported = self.shown;
        self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    /// A hub and the websocket to it, as far as counting goes.
    #[derive(Default)]
    struct Hub {
        input: Vec<u8>,
        output: Vec<u8>,
        /// Output up to here was sent over the present websocket.
        sent: usize,
        from_client: VecDeque<Vec<u8>>,
        to_client: VecDeque<ToClient>,
    }

    enum ToClient {
        Output(Vec<u8>),
        Input(u64),
    }

    impl Hub {
        fn hear(&mut self) {
            if let Some(keys) = self.from_client.pop_front() {
                self.input.extend(keys);
            }
        }

        /// Tells what has been handed on, which is at times less than was taken.
        fn tell_input(&mut self, random: &mut StdRng) {
            let told = self.input.len() - random.random_range(0..=self.input.len().min(10));
            self.to_client.push_back(ToClient::Input(told as u64));
        }

        fn print(&mut self, random: &mut StdRng) {
            let bytes: Vec<u8> = (0..random.random_range(0..300)).map(|_| random.random()).collect();
            self.output.extend(bytes);
        }

        fn send(&mut self, random: &mut StdRng) {
            let end = random.random_range(self.sent..=self.output.len());
            self.to_client.push_back(ToClient::Output(self.output[self.sent..end].to_vec()));
            self.sent = end;
        }

        /// The websocket is lost at whatever point it was, and another one opened.
        fn attach(&mut self, ledger: &mut Ledger, random: &mut StdRng) {
            self.from_client.clear();
            self.to_client.clear();
            let from = usize::try_from(ledger.received()).expect("small");
            // A hub may start earlier than it is asked to.
            self.sent = from.saturating_sub(if random.random_bool(0.3) { random.random_range(0..50) } else { 0 });
            assert_eq!(ledger.attached(self.sent as u64, self.input.len() as u64), Gap::default());
        }
    }

    struct Client {
        ledger: Ledger,
        typed: Vec<u8>,
        waiting: VecDeque<Vec<u8>>,
        screen: Vec<u8>,
    }

    impl Client {
        fn hear(&mut self, hub: &mut Hub) {
            match hub.to_client.pop_front() {
                Some(ToClient::Output(bytes)) => self.waiting.push_back(self.ledger.receive(&bytes).to_vec()),
                Some(ToClient::Input(total)) => assert!(self.ledger.take(total)),
                None => {}
            }
        }

        fn show(&mut self) {
            if let Some(bytes) = self.waiting.pop_front() {
                self.screen.extend(&bytes);
                self.ledger.show(bytes.len());
            }
        }
    }

    #[test]
    fn whenever_the_websocket_is_lost_nothing_is_lost_and_nothing_doubled() {
        for seed in 0..300 {
            let random = &mut StdRng::seed_from_u64(seed);
            let mut hub = Hub::default();
            let mut client =
                Client { ledger: Ledger::default(), typed: vec![], waiting: VecDeque::new(), screen: vec![] };
            hub.attach(&mut client.ledger, random);
            for _ in 0..2000 {
                match random.random_range(0..100) {
                    0..15 => {
                        let keys: Vec<u8> = (0..random.random_range(1..40)).map(|_| random.random()).collect();
                        client.typed.extend(&keys);
                        client.ledger.typed(&keys);
                    }
                    15..35 if client.ledger.has_unsent() => hub.from_client.push_back(client.ledger.send(25)),
                    35..45 => hub.hear(),
                    45..50 => hub.tell_input(random),
                    50..60 => hub.print(random),
                    60..72 => hub.send(random),
                    72..85 => client.hear(&mut hub),
                    85..97 => client.show(),
                    97 => {
                        let told = client.ledger.report();
                        assert_eq!(told, client.screen.len() as u64);
                        assert!(!client.ledger.owes_report());
                    }
                    98 => hub.attach(&mut client.ledger, random),
                    _ => {}
                }
            }
            // At the end all of it arrives.
            while client.ledger.has_unsent() {
                hub.from_client.push_back(client.ledger.send(25));
            }
            while !hub.from_client.is_empty() {
                hub.hear();
            }
            hub.to_client.push_back(ToClient::Input(hub.input.len() as u64));
            while hub.sent < hub.output.len() {
                hub.send(random);
            }
            while !hub.to_client.is_empty() {
                client.hear(&mut hub);
            }
            while !client.waiting.is_empty() {
                client.show();
            }
            assert!(hub.input == client.typed, "seed {seed}: the keystrokes");
            assert!(hub.output == client.screen, "seed {seed}: the output");
            assert!(client.ledger.untaken.is_empty(), "seed {seed}");
        }
    }

    #[test]
    fn output_the_hub_no_longer_has_is_told_as_a_gap() {
        let mut ledger = Ledger::default();
        ledger.attached(1000, 0);
        ledger.receive(&[0; 100]);
        assert_eq!(ledger.attached(1500, 0), Gap { output: 400, input: false });
        assert_eq!(ledger.received(), 1500);
        ledger.show(100);
        assert_eq!(ledger.report(), 1500);
    }

    #[test]
    fn keys_are_not_sent_again_when_somebody_else_has_typed() {
        let mut ledger = Ledger::default();
        ledger.attached(0, 10);
        ledger.typed(b"rm -r");
        assert_eq!(ledger.send(3), b"rm ");
        assert_eq!(ledger.attached(0, 100), Gap { output: 0, input: true });
        assert!(!ledger.has_unsent());
        // Nor is a hub believed that has taken more than was typed.
        ledger.typed(b"ls");
        assert!(ledger.take(99) && !ledger.take(103) && ledger.take(102));
    }

    #[test]
    fn a_hub_that_counts_anew_gets_what_was_not_taken() {
        let mut ledger = Ledger::default();
        ledger.attached(0, 10);
        ledger.typed(b"ls -l");
        ledger.send(5);
        assert!(ledger.take(12));
        assert_eq!(ledger.attached(0, 3), Gap::default());
        assert_eq!(ledger.send(100), b" -l");
        assert!(ledger.take(6) && ledger.untaken.is_empty());
    }

    #[test]
    fn output_the_hub_leaves_out_is_counted() {
        let mut ledger = Ledger::default();
        ledger.attached(0, 0);
        ledger.receive(b"abc");
        ledger.show(3);
        ledger.skip(1000);
        assert_eq!((ledger.received(), ledger.report()), (1003, 1003));
    }

    #[test]
    fn what_waits_to_be_taken_is_bounded() {
        let mut ledger = Ledger::default();
        while ledger.has_room() {
            ledger.typed(&[b'x'; 1024]);
        }
        assert_eq!(ledger.untaken.len(), MOST_UNTAKEN);
        while ledger.has_unsent() {
            ledger.send(1024);
        }
        ledger.sent_is_taken();
        assert!(ledger.has_room());
    }

    #[test]
    fn a_report_is_due_after_so_many_bytes() {
        let mut ledger = Ledger::default();
        ledger.attached(0, 0);
        ledger.show(1);
        assert!(ledger.owes_report() && !ledger.owes_much());
        ledger.show(16 << 10);
        assert!(ledger.owes_much());
    }
}
