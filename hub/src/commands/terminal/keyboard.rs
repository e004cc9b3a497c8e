//! Standard input, read by a thread of its own: a read that waits for a key cannot be called off.

use anyhow::Context;
use std::io::Read;
use tokio::sync::mpsc;

/// What mender-cli sends at most in one message.
const MOST_KEYS: usize = 1024;
/// Messages that may wait for a slow hub; a paste then stays in the terminal's own buffer.
const WAITING: usize = 16;
/// Ctrl-], which leaves the terminal.
const LEAVE: u8 = 0x1d;

/// What came from the keyboard.
#[derive(Debug, PartialEq, Eq)]
pub enum Keys {
    /// Keys.
    Typed(Vec<u8>),
    /// Keys, and then Ctrl-].
    Leave(Vec<u8>),
    /// Nothing will come any more.
    End,
}

/// The keyboard.
#[derive(Debug)]
pub struct Keyboard {
    typed: mpsc::Receiver<Vec<u8>>,
    ended: bool,
}

impl Keyboard {
    /// Starts reading standard input.
    pub fn start() -> anyhow::Result<Self> {
        let (keys, typed) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("keyboard".to_owned())
            .spawn(move || read(std::io::stdin(), &keys))
            .context("cannot start the thread that reads the keyboard")?;
        Ok(Self { typed, ended: false })
    }

    /// Whether standard input has ended.
    pub fn is_at_end(&self) -> bool {
        self.ended
    }

    /// The next keys. Nothing is lost when this is called off.
    pub async fn next(&mut self) -> Keys {
        let Some(keys) = self.typed.recv().await else {
            self.ended = true;
            return Keys::End;
        };
        sort(keys)
    }
}

fn read(mut input: impl Read, keys: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; MOST_KEYS];
    loop {
        match input.read(&mut buffer) {
            Ok(length @ 1..) => {
                if keys.blocking_send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // The end, or a terminal that has gone away.
            Ok(_) | Err(_) => return,
        }
    }
}

fn sort(mut keys: Vec<u8>) -> Keys {
    match keys.iter().position(|&key| key == LEAVE) {
        Some(position) => {
            keys.truncate(position);
            Keys::Leave(keys)
        }
        None => Keys::Typed(keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bracket_leaves_after_what_was_typed_before() {
        assert_eq!(sort(b"ls\x1dmore".to_vec()), Keys::Leave(b"ls".to_vec()));
        assert_eq!(sort(b"ls".to_vec()), Keys::Typed(b"ls".to_vec()));
    }

    #[test]
    fn input_is_cut_into_messages_and_ends() {
        let (keys, mut typed) = mpsc::channel(WAITING);
        let long = vec![b'x'; MOST_KEYS + 1];
        read(&long[..], &keys);
        drop(keys);

        assert_eq!(typed.blocking_recv().map(|keys| keys.len()), Some(MOST_KEYS));
        assert_eq!(typed.blocking_recv().map(|keys| keys.len()), Some(1));
        assert_eq!(typed.blocking_recv(), None);
    }
}
