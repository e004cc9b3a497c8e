//! Standard input, read by a thread of its own: a read that waits for a key cannot be called off.

use anyhow::Context;
use std::io::Read;
use tokio::sync::mpsc;

/// What mender-cli sends at most in one message.
pub const MOST_KEYS: usize = 1024;
/// Messages that may wait for a slow hub; a paste then stays in the terminal's own buffer.
const WAITING: usize = 16;

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

    /// A keyboard on which this is typed.
    #[cfg(test)]
    pub fn of(typed: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { typed, ended: false }
    }

    /// Whether standard input has ended.
    pub fn is_at_end(&self) -> bool {
        self.ended
    }

    /// The next keys; `None` once when nothing will come any more, and never again. Nothing is lost when this is called
    /// off.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        if self.ended {
            return std::future::pending().await;
        }
        let keys = self.typed.recv().await;
        self.ended = keys.is_none();
        keys
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

#[cfg(test)]
mod tests {
    use super::*;

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
