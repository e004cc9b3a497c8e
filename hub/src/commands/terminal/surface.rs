//! What the output has made of the screen, as far as a line of our own must know: whether a program has the whole
//! screen, and whether the output stops in the middle of something.

/// Parameters of a control sequence that are looked at.
const MOST_PARAMETERS: usize = 32;

/// Follows the output.
#[derive(Debug, Default)]
pub struct Surface {
    state: State,
    parameters: Vec<u8>,
    has_whole_screen: bool,
    is_in_a_line: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between characters.
    #[default]
    Ground,
    /// So many bytes of a character are missing.
    Character(u8),
    /// After ESC.
    Escape,
    /// After `ESC [`.
    Control,
    /// In a text for the terminal itself, such as a title.
    Text,
    /// After an ESC in such a text.
    TextEscape,
}

impl Surface {
    /// Output was written.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = self.after(byte);
        }
    }

    /// Whether something of our own may be written now.
    pub fn is_at_rest(&self) -> bool {
        self.state == State::Ground
    }

    /// Whether a program such as an editor has the whole screen.
    pub fn has_whole_screen(&self) -> bool {
        self.has_whole_screen
    }

    /// Whether the cursor may stand in a line that has something in it.
    pub fn is_in_a_line(&self) -> bool {
        self.is_in_a_line
    }

    fn after(&mut self, byte: u8) -> State {
        /// These end whatever was begun.
        const CANCEL: [u8; 2] = [0x18, 0x1a];
        const ESCAPE: u8 = 0x1b;
        if CANCEL.contains(&byte) {
            return State::Ground;
        }
        match self.state {
            State::Text => match byte {
                0x07 => State::Ground,
                ESCAPE => State::TextEscape,
                _ => State::Text,
            },
            State::TextEscape if byte == b'\\' => State::Ground,
            _ if byte == ESCAPE => State::Escape,
            // What does not end the text breaks it off.
            State::Escape | State::TextEscape => self.after_escape(byte),
            State::Control => self.in_a_sequence(byte),
            State::Character(missing) if matches!(byte, 0x80..=0xbf) => match missing {
                0 | 1 => State::Ground,
                more => State::Character(more - 1),
            },
            State::Ground | State::Character(_) => self.between_characters(byte),
        }
    }

    fn after_escape(&mut self, byte: u8) -> State {
        match byte {
            b'[' => {
                self.parameters.clear();
                State::Control
            }
            b']' | b'P' | b'X' | b'^' | b'_' => State::Text,
            0x20..=0x2f => State::Escape,
            _ => {
                // ESC c: the terminal starts anew.
                self.has_whole_screen &= byte != b'c';
                State::Ground
            }
        }
    }

    fn in_a_sequence(&mut self, byte: u8) -> State {
        if matches!(byte, 0x40..=0x7e) {
            self.obey(byte);
            return State::Ground;
        }
        if self.parameters.len() < MOST_PARAMETERS {
            self.parameters.push(byte);
        }
        State::Control
    }

    fn between_characters(&mut self, byte: u8) -> State {
        match byte {
            b'\n' => self.is_in_a_line = false,
            // Bells and the like move nothing; a carriage return leaves what is in the line.
            0x00..=0x1f | 0x7f => {}
            _ => self.is_in_a_line = true,
        }
        match byte {
            0xc2..=0xdf => State::Character(1),
            0xe0..=0xef => State::Character(2),
            0xf0..=0xf4 => State::Character(3),
            _ => State::Ground,
        }
    }

    fn obey(&mut self, command: u8) {
        let whole = match command {
            b'h' => true,
            b'l' => false,
            _ => return,
        };
        let Some(modes) = self.parameters.strip_prefix(b"?") else { return };
        if modes.split(|&byte| byte == b';').any(|mode| matches!(mode, b"47" | b"1047" | b"1049")) {
            self.has_whole_screen = whole;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(bytes: &[u8]) -> Surface {
        let mut surface = Surface::default();
        // One by one: it must not matter how output is cut.
        bytes.chunks(1).for_each(|byte| surface.feed(byte));
        surface
    }

    #[test]
    fn a_program_with_the_whole_screen_is_noticed() {
        assert!(!after(b"$ vi\r\n").has_whole_screen());
        assert!(after(b"$ vi\r\n\x1b[?1049h\x1b[2J~").has_whole_screen());
        assert!(after(b"\x1b[?25;1049h").has_whole_screen());
        assert!(!after(b"\x1b[?1049hx\x1b[?1049l$ ").has_whole_screen());
        assert!(!after(b"\x1b[?1049hx\x1bc").has_whole_screen());
        assert!(!after(b"\x1b[1049h").has_whole_screen());
    }

    #[test]
    fn output_that_stops_in_the_middle_is_noticed() {
        for whole in [&b""[..], b"$ ", b"\x1b[1;31mred", b"\x1b]2;title\x07", b"\x1b]2;t\x1b\\", "für €".as_bytes()]
        {
            assert!(after(whole).is_at_rest(), "{whole:?}");
        }
        for half in [&b"\x1b"[..], b"\x1b[1;3", b"\x1b]2;tit", b"\x1b]2;t\x1b", b"\xe2\x82", b"\x1b(", b"\xf0"] {
            assert!(!after(half).is_at_rest(), "{half:?}");
        }
        // What is no UTF-8 does not keep us waiting.
        assert!(after(b"\xff\xfe").is_at_rest() && after(b"\xe2x").is_at_rest());
    }

    #[test]
    fn a_line_that_was_begun_is_noticed() {
        assert!(!after(b"").is_in_a_line() && !after(b"done\r\n").is_in_a_line());
        assert!(after(b"done\r\n$ ").is_in_a_line() && after(b"50 %\r").is_in_a_line());
    }

    #[test]
    fn parameters_are_bounded() {
        let mut surface = after(b"\x1b[");
        surface.feed(&[b'1'; 10_000]);
        assert_eq!(surface.parameters.len(), MOST_PARAMETERS);
    }
}
