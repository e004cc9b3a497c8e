//! A recording as the messages a viewer gets: what they are and in which order, not when.
//!
//! Output goes in pieces that the web UI's player takes; silence and sizes are messages of their own between them, each
//! at its place in the output. (Mender API: device connect, session playback.)

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use storage::SessionId;

use super::{Content, Frame};
use crate::message::{Compose, Prop, proto};

/// The longest body of a piece of output.
pub const PIECE: usize = 1024;

/// Silence that is told.
const TOLD_SILENCE: Duration = Duration::from_millis(1500);

/// Turns frames into messages. Holds less than one frame and its messages.
#[derive(Debug)]
pub struct Script {
    session: String,
    /// Output that is no message yet.
    rest: BytesMut,
    /// When there was output last.
    shown: Duration,
    ready: VecDeque<Bytes>,
}

impl Script {
    /// The script of this session.
    pub fn of(session: SessionId) -> Self {
        Self { session: session.to_string(), rest: BytesMut::new(), shown: Duration::ZERO, ready: VecDeque::new() }
    }

    /// What was recorded next.
    pub fn follow(&mut self, frame: Frame) {
        match frame.content {
            Content::Output(bytes) => {
                let silence = frame.at.saturating_sub(self.shown);
                if silence >= TOLD_SILENCE {
                    self.finish();
                    let millis = u16::try_from(silence.as_millis()).unwrap_or(u16::MAX);
                    self.say("delay", &[("delay_value", Prop::Short(millis))], &[]);
                }
                self.shown = self.shown.max(frame.at);
                self.rest.extend_from_slice(&bytes);
                while self.rest.len() > PIECE {
                    let piece = self.rest.split_to(cut(&self.rest));
                    self.say("shell", &[], &piece);
                }
            }
            Content::Resize { width, height } => {
                self.finish();
                let size = [("terminal_height", Prop::Short(height)), ("terminal_width", Prop::Short(width))];
                self.say("resize", &size, &[]);
            }
        }
    }

    /// Nothing was recorded after this.
    pub fn finish(&mut self) {
        let piece = self.rest.split();
        if !piece.is_empty() {
            self.say("shell", &[], &piece);
        }
    }

    /// Whether a message is ready.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next message, if one is ready.
    pub fn next_message(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    fn say(&mut self, typ: &str, props: &[(&str, Prop<'_>)], body: &[u8]) {
        let message = Compose { proto: proto::SHELL, typ, sid: &self.session, props, body };
        self.ready.push_back(message.to_bytes());
    }
}

/// Where output that is longer than a piece is cut: not within a character, since players read each body by itself.
fn cut(bytes: &[u8]) -> usize {
    let is_inside = |at: &usize| bytes[*at] & 0b1100_0000 == 0b1000_0000;
    (PIECE - 3..=PIECE).rev().find(|at| !is_inside(at)).unwrap_or(PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn output(millis: u64, bytes: &[u8]) -> Frame {
        Frame { at: Duration::from_millis(millis), content: Content::Output(Bytes::copy_from_slice(bytes)) }
    }

    /// The messages of these frames, each as its type and what it carries.
    fn played(frames: Vec<Frame>) -> Vec<(String, Vec<u8>)> {
        let session = SessionId::random();
        let mut script = Script::of(session);
        for frame in frames {
            script.follow(frame);
        }
        script.finish();
        std::iter::from_fn(|| script.next_message())
            .map(|raw| {
                let message = Message::read(&raw).unwrap();
                assert_eq!((message.proto, message.sid), (proto::SHELL, session.to_string().as_str()));
                let body = message.body.bytes();
                assert_eq!(message.typ == "shell", !body.is_empty(), "an empty body stalls the player");
                let said = match message.typ {
                    "delay" => message.int_prop("delay_value").unwrap().to_string().into_bytes(),
                    "resize" => {
                        let size = |name| message.int_prop(name).unwrap();
                        format!("{}x{}", size("terminal_width"), size("terminal_height")).into_bytes()
                    }
                    _ => body.to_vec(),
                };
                (message.typ.to_owned(), said)
            })
            .collect()
    }

    fn say(typ: &str, said: &[u8]) -> (String, Vec<u8>) {
        (typ.to_owned(), said.to_vec())
    }

    #[test]
    fn silence_is_told_from_a_second_and_a_half_on_and_capped() {
        let frames = vec![
            output(1_499, b"a"),
            output(2_998, b"b"),
            output(4_498, b"c"),
            output(4_498 + 65_535, b"d"),
            output(999_999_999, b"e"),
            output(5, b"f"),
        ];
        let expected = [
            say("shell", b"ab"),
            say("delay", b"1500"),
            say("shell", b"c"),
            say("delay", b"65535"),
            say("shell", b"d"),
            say("delay", b"65535"),
            say("shell", b"ef"),
        ];
        assert_eq!(played(frames), expected);
        assert_eq!(played(vec![output(1_500, b"a")]), [say("delay", b"1500"), say("shell", b"a")]);
    }

    #[test]
    fn sizes_stand_at_their_place_in_the_output() {
        let resize =
            |at, width, height| Frame { at: Duration::from_millis(at), content: Content::Resize { width, height } };
        let frames = vec![resize(0, 80, 24), output(10, b"a"), resize(20, 300, 200), output(30, b"b")];
        let expected = [say("resize", b"80x24"), say("shell", b"a"), say("resize", b"300x200"), say("shell", b"b")];
        assert_eq!(played(frames), expected);
    }

    #[test]
    fn a_size_is_no_output_so_the_silence_goes_on() {
        let resize = Frame { at: Duration::from_secs(1), content: Content::Resize { width: 1, height: 1 } };
        let expected = [say("resize", b"1x1"), say("delay", b"2000"), say("shell", b"a")];
        assert_eq!(played(vec![resize, output(2_000, b"a")]), expected);
    }

    #[test]
    fn every_length_comes_out_whole_in_pieces_that_players_take() {
        for len in [0, 1, 1_023, 1_024, 1_025, 3_000, 16_384] {
            let bytes: Vec<u8> = (0..len).map(|n: u32| (n * 31 % 251).to_be_bytes()[3]).collect();
            for size in [1, 7, 1_024, 5_000] {
                let frames = bytes.chunks(size).map(|piece| output(0, piece)).collect();
                let messages = played(frames);
                assert!(messages.iter().all(|(typ, said)| typ == "shell" && said.len() <= PIECE));
                let count = bytes.len().div_ceil(PIECE - 3);
                assert!(messages.len() <= count, "{} messages of {len} bytes", messages.len());
                assert_eq!(messages.into_iter().flat_map(|(_, said)| said).collect::<Vec<_>>(), bytes);
            }
        }
    }

    #[test]
    fn a_piece_ends_where_a_character_does() {
        let text = format!("a{}", "€".repeat(1_000));
        for (_, piece) in played(vec![output(0, text.as_bytes())]) {
            assert!(String::from_utf8(piece).is_ok());
        }
    }

    #[test]
    fn numbers_are_narrow_enough_for_browsers() {
        let mut script = Script::of(SessionId::random());
        script.follow(output(2_000, b"x"));
        let delay = script.next_message().unwrap();
        assert!(delay.ends_with(&[b'e', 0xcd, 0x07, 0xd0]), "{delay:?}");
    }
}
