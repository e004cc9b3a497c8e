//! Ctrl-], and what may be pressed after it.

/// Ctrl-].
const KEY: u8 = 0x1d;

/// What is typed, sorted into what is for the device and what is for us.
#[derive(Debug, Default)]
pub struct Menu {
    is_open: bool,
}

/// What the keys mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pressed {
    /// Keys for the device.
    Keys(Vec<u8>),
    /// Ctrl-]: what can be chosen is to be shown.
    Menu,
    /// Leave, and let the shell run on.
    Detach,
    /// End the shell.
    End,
    /// Say who is here.
    Who,
    /// None of these.
    Nothing,
}

impl Menu {
    /// Sorts keys.
    pub fn sort(&mut self, keys: &[u8]) -> Vec<Pressed> {
        let mut pressed = Vec::new();
        let mut rest = keys;
        while !rest.is_empty() {
            if self.is_open {
                self.is_open = false;
                pressed.push(match rest[0] {
                    KEY => Pressed::Keys(vec![KEY]),
                    b'd' | b'D' => Pressed::Detach,
                    b'q' | b'Q' => Pressed::End,
                    b's' | b'S' => Pressed::Who,
                    _ => Pressed::Nothing,
                });
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|&key| key == KEY).unwrap_or(rest.len());
            if end > 0 {
                pressed.push(Pressed::Keys(rest[..end].to_vec()));
            }
            if end < rest.len() {
                pressed.push(Pressed::Menu);
                self.is_open = true;
            }
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        pressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_before_between_and_after_the_menu_are_for_the_device() {
        let keys = |keys: &str| Pressed::Keys(keys.as_bytes().to_vec());
        let mut menu = Menu::default();
        assert_eq!(menu.sort(b"ls\x1dsmore"), [keys("ls"), Pressed::Menu, Pressed::Who, keys("more")]);
        assert_eq!(menu.sort(b"\x1d"), [Pressed::Menu]);
        assert_eq!(menu.sort(b"d"), [Pressed::Detach]);
        assert_eq!(menu.sort(b"\x1dq"), [Pressed::Menu, Pressed::End]);
        assert_eq!(menu.sort(b"\x1dxy"), [Pressed::Menu, Pressed::Nothing, keys("y")]);
        assert_eq!(menu.sort(b""), []);
    }

    #[test]
    fn pressed_twice_it_goes_to_the_device() {
        assert_eq!(Menu::default().sort(b"\x1d\x1d"), [Pressed::Menu, Pressed::Keys(vec![KEY])]);
    }
}
