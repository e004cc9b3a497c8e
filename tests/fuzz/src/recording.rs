//! The reader of recordings, and what it makes of what the recorder wrote.

use actors::message::Message;
use actors::recording::{
    Content,
    fuzzing::{read_chunk, read_lines, write_lines},
    playback::{PIECE, Script},
};

/// Nothing panics on any chunk; what was recorded is read byte for byte, and played in messages that can be read.
///
/// The first byte chooses between reading the rest as a stored chunk, as lines, and recording it as output.
pub fn run(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    match choice % 3 {
        0 => play(read_chunk(rest).unwrap_or_default()),
        1 => play(read_lines(rest).unwrap_or_default()),
        _ => {
            let lines = write_lines(rest.chunks(1 + usize::from(choice / 3)));
            assert!(std::str::from_utf8(&lines).is_ok(), "a recording is text");
            let frames = read_lines(&lines).expect("what was written can be read");
            assert_eq!(shown(&frames), rest, "what was recorded is read byte for byte");
            play(frames);
        }
    }
}

fn shown(frames: &[actors::recording::Frame]) -> Vec<u8> {
    let mut shown = Vec::new();
    for frame in frames {
        if let Content::Output(bytes) = &frame.content {
            shown.extend_from_slice(bytes);
        }
    }
    shown
}

fn play(frames: Vec<actors::recording::Frame>) {
    let expected = shown(&frames);
    let mut script = Script::of("00000000-0000-4000-8000-000000000000".parse().expect("an id"));
    let mut played: Vec<u8> = Vec::new();
    let mut take = |script: &mut Script| {
        while let Some(raw) = script.next_message() {
            let message = Message::read(&raw).expect("what is played can be read");
            assert!(message.body.bytes().len() <= PIECE);
            if message.typ == "shell" {
                played.extend(message.body.bytes());
            }
        }
    };
    for frame in frames {
        script.follow(frame);
        take(&mut script);
    }
    script.finish();
    take(&mut script);
    assert_eq!(played, expected, "all that was shown is played");
}
