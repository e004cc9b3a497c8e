//! The reader of websocket frames, whatever pieces they arrive in.

use api::sockets::fuzzing::{Heard, holds_at_most, read};

/// Small, so that inputs of a fuzzer's size meet it.
const MESSAGE_LIMIT: usize = 600;

/// Nothing panics, memory is bounded, and the messages do not depend on where the network cuts the bytes.
///
/// The first byte chooses the cuts, the rest is what the peer sends.
pub fn run(bytes: &[u8]) {
    let Some((&cuts, said)) = bytes.split_first() else { return };
    let whole = heard(said, std::iter::empty());
    let bytewise = heard(said, std::iter::repeat(1));
    let mut size = usize::from(cuts);
    let uneven = heard(
        said,
        std::iter::from_fn(move || {
            size = (size * 5 + 3) % 257;
            Some(size)
        }),
    );
    assert_eq!(whole.messages, bytewise.messages, "read byte by byte");
    assert_eq!(whole.messages, uneven.messages, "read in uneven pieces");
    assert_eq!(whole.end, uneven.end, "read in uneven pieces");
    assert_eq!(whole.end, bytewise.end, "read byte by byte");
}

fn heard(said: &[u8], pieces: impl Iterator<Item = usize> + Unpin + 'static) -> Heard {
    let heard = read(said, pieces, MESSAGE_LIMIT);
    assert!(heard.most_held <= holds_at_most(MESSAGE_LIMIT), "{} bytes are held", heard.most_held);
    for message in &heard.messages {
        assert!(message.len() <= MESSAGE_LIMIT, "a message of {} bytes", message.len());
    }
    heard
}
