//! A file to a device, as a pure state machine.

use bytes::{Bytes, BytesMut};
use storage::{SessionId, UserId};

use super::dialogue::{self, Dialogue, Said};
use super::{CHUNK, Failure, WINDOW, wire};
use crate::message::Message;

/// Where an uploaded file goes. What is `None` is the device's to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The file, or the folder that gets it.
    pub path: String,
    /// Its name in that folder.
    pub name: Option<String>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permissions.
    pub mode: Option<u32>,
}

/// One upload.
#[derive(Debug)]
pub struct Upload {
    dialogue: Dialogue,
    target: Target,
    state: State,
    /// What the client has sent and the device was not; less than two pieces of the client's.
    input: BytesMut,
    has_all_input: bool,
    /// Bytes of the file that were sent to the device.
    sent: i64,
    /// The greatest offset it acknowledged: where the last chunk that it has written *began*.
    acked: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waiting for the answer to `open`.
    Opening,
    /// Waiting for the answer to `put_file`.
    Asking,
    /// The device takes chunks.
    Sending,
    /// Everything was sent; waiting until it is written.
    Ending,
    /// Everything is written. What is left is to give the file its name, owner and mode, and only failures of that are told.
    Written,
}

/// What the acting half has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say this to the device: the next step of the transfer.
    Say(Bytes),
    /// Say this to the device; it is no step.
    Answer(Bytes),
    /// Nothing: the device is at work.
    Advanced,
}

impl Upload {
    /// An upload to `target`, and the first message for the device.
    pub fn start(session: SessionId, user: UserId, target: Target) -> (Self, Bytes) {
        let (dialogue, open) = Dialogue::start(session, user);
        let (state, input) = (State::Opening, BytesMut::new());
        (Self { dialogue, target, state, input, has_all_input: false, sent: 0, acked: None }, open)
    }

    /// The device said something.
    ///
    /// # Errors
    /// When the transfer is over by it.
    pub fn hear(&mut self, raw: &[u8]) -> Result<Vec<Effect>, Failure> {
        match self.dialogue.hear(raw)? {
            Said::Nothing => Ok(vec![]),
            Said::Ping(pong) => Ok(vec![Effect::Answer(pong)]),
            Said::Accepted => {
                self.state = State::Asking;
                let Target { path, name, uid, gid, mode } = &self.target;
                let put = wire::Put { src_path: name.as_deref(), path, uid: *uid, gid: *gid, mode: *mode };
                Ok(vec![Effect::Say(self.dialogue.request("put_file", &put))])
            }
            Said::Error(error) => Err(Failure::PutRefused(error)),
            Said::Message(message) if message.typ == "ack" => self.acknowledged(&message),
            Said::Message(_) => Err(Failure::OutOfStep("an unexpected message")),
        }
    }

    /// The next chunk for the device, if its window is open and there is one. An empty one is the last.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if self.state != State::Sending || self.is_window_full() {
            return None;
        }
        if self.input.len() < CHUNK && !self.has_all_input {
            return None;
        }
        let body = self.input.split_to(self.input.len().min(CHUNK));
        let chunk = self.dialogue.at("file_chunk", self.sent, &body);
        if body.is_empty() {
            self.state = State::Ending;
        }
        self.sent += i64::try_from(body.len()).expect("a chunk is small");
        Some(chunk)
    }

    /// Whether more of the file is wanted: as long as not, the client waits.
    pub fn wants_input(&self) -> bool {
        self.state == State::Sending && !self.has_all_input && self.input.len() < CHUNK && !self.is_window_full()
    }

    /// More of the file.
    pub fn feed(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
    }

    /// That was all of it.
    pub fn end_input(&mut self) {
        self.has_all_input = true;
    }

    /// Whether the device has written the whole file.
    pub fn is_written(&self) -> bool {
        self.state == State::Written
    }

    /// Bytes of the file that were sent so far.
    pub fn sent(&self) -> i64 {
        self.sent
    }

    fn is_window_full(&self) -> bool {
        self.sent > self.acked.unwrap_or(0) + WINDOW
    }

    fn acknowledged(&mut self, ack: &Message<'_>) -> Result<Vec<Effect>, Failure> {
        let offset = dialogue::offset(ack)?;
        match self.state {
            State::Asking => {
                self.state = State::Sending;
                return Ok(vec![Effect::Advanced]);
            }
            State::Sending | State::Ending if offset <= self.sent => {}
            // A file that has its last acknowledgement needs no more.
            State::Written => return Ok(vec![]),
            _ => return Err(Failure::OutOfStep("an acknowledgement of what was not sent")),
        }
        // The last chunk is empty, so its acknowledgement alone names the size. For an empty file that is 0, like the
        // acknowledgement of the request, which was heard before anything was sent.
        if self.state == State::Ending && offset == self.sent {
            self.state = State::Written;
            return Ok(vec![Effect::Advanced]);
        }
        if self.acked.is_some_and(|acked| offset <= acked) {
            return Ok(vec![]);
        }
        self.acked = Some(offset);
        Ok(vec![Effect::Advanced])
    }
}

#[cfg(test)]
mod tests {
    use super::super::dialogue::testing::{accept, error, heard, said, said_at};
    use super::*;
    use crate::message::proto;

    fn target() -> Target {
        Target { path: "/srv".into(), name: Some("a.bin".into()), uid: None, gid: Some(7), mode: Some(0o600) }
    }

    fn asking() -> Upload {
        let (mut upload, open) = Upload::start(SessionId::random(), UserId::new("u"), target());
        assert_eq!(heard(&open).0, "open");
        assert!(!upload.wants_input(), "nothing is read before the device is ready");
        let effects = upload.hear(&accept(&[2])).unwrap();
        let [Effect::Say(put)] = effects.as_slice() else { panic!("{effects:?}") };
        let read = Message::read(put).unwrap();
        assert_eq!((read.typ, read.text_prop("user_id")), ("put_file", Some("u")));
        let wanted = wire::Put { src_path: Some("a.bin"), path: "/srv", uid: None, gid: Some(7), mode: Some(384) };
        assert_eq!(read.body.bytes(), wire::body(&wanted));
        upload
    }

    fn ack(offset: i64) -> Bytes {
        said_at("ack", offset, &[])
    }

    fn sending() -> Upload {
        let mut upload = asking();
        assert!(!upload.wants_input());
        assert_eq!(upload.next_chunk(), None);
        assert_eq!(upload.hear(&ack(0)).unwrap(), [Effect::Advanced]);
        upload
    }

    /// The offsets and lengths of what may be sent now.
    fn chunks(upload: &mut Upload) -> Vec<(i64, usize)> {
        std::iter::from_fn(|| upload.next_chunk())
            .map(|chunk| {
                let (typ, offset, len) = heard(&chunk);
                assert_eq!(typ, "file_chunk");
                (offset.unwrap(), len)
            })
            .collect()
    }

    #[test]
    fn a_file_goes_in_chunks_and_ends_with_an_empty_one() {
        let mut upload = sending();
        // The pieces of a request are cut anywhere.
        for piece in [&[1; 3000][..], &[2; 6000], &[3; 1000]] {
            upload.feed(piece);
        }
        assert_eq!(chunks(&mut upload), [(0, 4096), (4096, 4096)]);
        assert!(upload.wants_input());
        upload.end_input();
        assert_eq!(chunks(&mut upload), [(8192, 1808), (10_000, 0)]);
        assert_eq!(upload.hear(&ack(8192)).unwrap(), [Effect::Advanced]);
        assert!(!upload.is_written());
        assert_eq!(upload.hear(&ack(10_000)).unwrap(), [Effect::Advanced]);
        assert!(upload.is_written());
        assert_eq!(upload.next_chunk(), None);
    }

    #[test]
    fn an_empty_file_is_written_when_its_end_is_acknowledged() {
        let mut upload = sending();
        upload.end_input();
        assert!(!upload.is_written());
        assert_eq!(chunks(&mut upload), [(0, 0)]);
        assert!(!upload.is_written());
        assert_eq!(upload.hear(&ack(0)).unwrap(), [Effect::Advanced]);
        assert!(upload.is_written());
    }

    #[test]
    fn a_device_that_acknowledges_nothing_gets_one_window_and_then_nobody_is_read() {
        let mut upload = sending();
        let mut sent = 0;
        while upload.wants_input() {
            upload.feed(&vec![0; 32 * 1024]);
            sent += chunks(&mut upload).iter().map(|(_, len)| len).sum::<usize>();
        }
        assert_eq!(i64::try_from(sent).unwrap(), WINDOW + 4096);
        assert_eq!(upload.next_chunk(), None);
        assert!(upload.input.len() <= 32 * 1024, "what waits is at most one piece");
        // It names the beginning of the chunk.
        assert_eq!(upload.hear(&ack(4096)).unwrap(), [Effect::Advanced]);
        assert_eq!(chunks(&mut upload).len(), 1);
        assert_eq!(upload.hear(&ack(4096)).unwrap(), [], "the same again is no progress");
    }

    #[test]
    fn offsets_go_beyond_what_32_bits_hold() {
        let mut upload = sending();
        let far = i64::from(u32::MAX) * 3;
        (upload.sent, upload.acked) = (far, Some(far - 4096));
        upload.feed(&[1]);
        upload.end_input();
        assert_eq!(chunks(&mut upload), [(far, 1), (far + 1, 0)]);
        upload.hear(&ack(far)).unwrap();
        upload.hear(&ack(far + 1)).unwrap();
        assert!(upload.is_written());
    }

    #[test]
    fn a_refusal_at_any_time_ends_it_with_the_devices_words() {
        let refusal =
            || error(proto::FILE_TRANSFER, "access denied: the target file path is outside chroot", Some(403));
        let written = || {
            let mut upload = sending();
            upload.end_input();
            upload.next_chunk();
            upload.hear(&ack(0)).unwrap();
            assert!(upload.is_written());
            upload
        };
        for mut upload in [asking(), sending(), written()] {
            let failure = upload.hear(&refusal()).unwrap_err();
            assert_eq!(failure.to_string(), "access denied: the target file path is outside chroot");
            assert!(matches!(failure, Failure::PutRefused(said) if said.code == Some(403)));
        }
        let timeout = error(proto::CONTROL, "session timeout", None);
        assert!(matches!(sending().hear(&timeout), Err(Failure::PutRefused(_))));
    }

    #[test]
    fn messages_out_of_turn_end_it() {
        assert!(matches!(sending().hear(&ack(1)), Err(Failure::OutOfStep(_))), "nothing was sent yet");
        assert!(matches!(sending().hear(&said_at("file_chunk", 0, b"x")), Err(Failure::OutOfStep(_))));
        let without_offset = said(proto::FILE_TRANSFER, "ack", &[]);
        assert!(matches!(sending().hear(&without_offset), Err(Failure::OutOfStep(_))));
        assert!(matches!(sending().hear(&ack(-1)), Err(Failure::OutOfStep(_))));
    }

    #[test]
    fn a_ping_is_answered_and_is_no_progress() {
        let effects = sending().hear(&said(proto::CONTROL, "ping", b"")).unwrap();
        assert!(matches!(effects.as_slice(), [Effect::Answer(pong)] if heard(pong).0 == "pong"));
    }
}
