//! The reader of messages between devices and operators, and what the hub forwards of them.

use actors::message::{DEVICE_MESSAGE_LIMIT, Message, SHELL_PIECE, for_device, for_operator, proto};
use bytes::Bytes;

const SESSION: &str = "3b0c2f5e-8d0e-4f43-9d0a-6f3f0d7f5a11";
const USER: &str = "b7c2e6aa-33f2-4a55-8a3a-0f4f6d3c1e22";

/// Nothing panics; what is forwarded reads as what was said, and no device is sent more than it takes.
pub fn run(bytes: &[u8]) {
    let raw = Bytes::copy_from_slice(bytes);
    let Ok(message) = Message::read(&raw) else { return };
    let _status = message.int_prop("status");
    let _claimed = message.text_prop("user_id");

    let forwarded = for_operator(&message, &raw);
    let read = Message::read(&forwarded).expect("what an operator is sent can be read");
    assert_same(&read, &message);
    assert_eq!(read.sid, message.sid);
    assert_eq!(for_operator(&read, &forwarded), forwarded, "forwarding twice changes nothing more");

    let Ok(pieces) = for_device(&message, SESSION, USER) else { return };
    assert!(!pieces.is_empty(), "every message is sent");
    let mut body: Vec<u8> = Vec::new();
    for piece in &pieces {
        assert!(piece.len() <= DEVICE_MESSAGE_LIMIT, "{} bytes to a device", piece.len());
        let read = Message::read(piece).expect("what a device is sent can be read");
        assert_eq!((read.sid, read.text_prop("user_id")), (SESSION, Some(USER)));
        assert_eq!((read.proto, read.typ), (message.proto, message.typ));
        assert_eq!(read.int_prop("status"), message.int_prop("status"));
        body.extend(read.body.bytes());
    }
    assert_eq!(body, message.body.bytes(), "the pieces together are the body");
    assert!(pieces.len() == 1 || message.proto == proto::SHELL, "only what is typed may be split");
    assert!(pieces.len() <= 1 + message.body.bytes().len() / SHELL_PIECE);
}

fn assert_same(forwarded: &Message<'_>, original: &Message<'_>) {
    assert_eq!((forwarded.proto, forwarded.typ), (original.proto, original.typ));
    assert_eq!(forwarded.body.bytes(), original.body.bytes());
    for name in ["status", "timeout", "offset", "terminal_width"] {
        assert_eq!(forwarded.int_prop(name), original.int_prop(name), "{name}");
    }
    for name in ["user_id", "connection_id"] {
        assert_eq!(forwarded.text_prop(name), original.text_prop(name), "{name}");
    }
}
