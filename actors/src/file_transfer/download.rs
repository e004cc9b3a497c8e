//! A file from a device, as a pure state machine.

use bytes::Bytes;
use storage::{SessionId, UserId};

use super::dialogue::{self, Dialogue, Said};
use super::wire::{self, FileInfo};
use super::{ACK_EVERY, CHUNK, Failure};
use crate::message::Message;
use crate::session::charge;

/// What a device may have sent that the client has not taken yet, as counted by [`charge`]. Twice the window of the
/// protocol: a device that sends more does not wait for acknowledgements.
const UNTAKEN_LIMIT: usize = 40 * CHUNK;

/// One download.
#[derive(Debug)]
pub struct Download {
    dialogue: Dialogue,
    path: String,
    state: State,
    /// Bytes of the file that the device has sent.
    received: i64,
    /// Bytes of the file that the client has taken.
    taken: i64,
    /// Chunks that it has taken since the last acknowledgement.
    taken_chunks: usize,
    /// What lies between the two, as counted by [`charge`].
    untaken: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waiting for the answer to `open`.
    Opening,
    /// Waiting for the answer to `stat`.
    Looking,
    /// The file is there; nobody has asked for it yet.
    Found,
    /// The device sends.
    Receiving,
    /// It has sent everything.
    Received,
    /// And the client has taken everything.
    Finished,
}

/// What the acting half has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say this to the device: the next step of the transfer.
    Say(Bytes),
    /// Say this to the device; it is no step.
    Answer(Bytes),
    /// The file is there, and regular. [`Download::fetch`] asks for it.
    Found(FileInfo),
    /// The next bytes of the file. [`Download::taken`] says that the client has them.
    Data(Bytes),
    /// Everything was received.
    Received,
    /// Everything was taken and acknowledged.
    Finished,
}

impl Download {
    /// A download of `path`, and the first message for the device.
    pub fn start(session: SessionId, user: UserId, path: String) -> (Self, Bytes) {
        let (dialogue, open) = Dialogue::start(session, user);
        let this = Self { dialogue, path, state: State::Opening, received: 0, taken: 0, taken_chunks: 0, untaken: 0 };
        (this, open)
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
                self.state = State::Looking;
                Ok(vec![Effect::Say(self.dialogue.request("stat", &wire::Path { path: &self.path }))])
            }
            // It does not like the last acknowledgement, which it did not need.
            Said::Error(_) if matches!(self.state, State::Received | State::Finished) => Ok(vec![]),
            Said::Error(error) if self.state == State::Looking => Err(Failure::StatRefused(error)),
            Said::Error(error) => Err(Failure::GetRefused(error)),
            Said::Message(message) => match (self.state, message.typ) {
                (State::Looking, "file_info") => self.found(&message),
                (State::Receiving, "file_chunk") => self.chunk(&message),
                _ => Err(Failure::OutOfStep("an unexpected message")),
            },
        }
    }

    /// Asks for the file that was found.
    pub fn fetch(&mut self) -> Bytes {
        debug_assert_eq!(self.state, State::Found);
        self.state = State::Receiving;
        self.dialogue.request("get_file", &wire::Path { path: &self.path })
    }

    /// The client has taken a chunk of `len` bytes; chunks are taken in the order they came.
    pub fn taken(&mut self, len: usize) -> Vec<Effect> {
        self.taken += i64::try_from(len).expect("a chunk is far smaller");
        self.untaken -= charge(len);
        self.taken_chunks += 1;
        let mut effects = vec![];
        if self.taken_chunks == ACK_EVERY {
            self.taken_chunks = 0;
            effects.push(Effect::Say(self.dialogue.at("ack", self.taken, &[])));
        }
        effects.extend(self.finish());
        effects
    }

    /// Bytes received so far.
    pub fn received(&self) -> i64 {
        self.received
    }

    fn found(&mut self, message: &Message<'_>) -> Result<Vec<Effect>, Failure> {
        let info = FileInfo::read(message.body.bytes()).ok_or(Failure::OutOfStep("a file_info that cannot be read"))?;
        if !info.is_regular() {
            return Err(Failure::NotRegular);
        }
        self.state = State::Found;
        Ok(vec![Effect::Found(info)])
    }

    fn chunk(&mut self, message: &Message<'_>) -> Result<Vec<Effect>, Failure> {
        if dialogue::offset(message)? != self.received {
            return Err(Failure::OutOfStep("a chunk of another place in the file"));
        }
        let body = message.body.bytes();
        if body.is_empty() {
            self.state = State::Received;
            let mut effects = vec![Effect::Received];
            effects.extend(self.finish());
            return Ok(effects);
        }
        self.untaken += charge(body.len());
        if self.untaken > UNTAKEN_LIMIT {
            return Err(Failure::OutOfStep("chunks beyond the window"));
        }
        let end = i64::try_from(body.len()).ok().and_then(|len| self.received.checked_add(len));
        self.received = end.ok_or(Failure::OutOfStep("a file without end"))?;
        // A copy, so that a queue of these does not keep the larger buffers alive that they were read into.
        Ok(vec![Effect::Data(Bytes::copy_from_slice(body))])
    }

    /// The last acknowledgement, once nothing is missing on either side.
    fn finish(&mut self) -> Vec<Effect> {
        if self.state != State::Received || self.taken != self.received {
            return vec![];
        }
        self.state = State::Finished;
        vec![Effect::Say(self.dialogue.at("ack", self.received, &[])), Effect::Finished]
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::super::WINDOW;
    use super::super::dialogue::testing::{accept, error, heard, said, said_at};
    use super::*;
    use crate::message::proto;

    #[derive(Serialize)]
    struct Info<'a> {
        path: &'a str,
        size: i64,
        mode: u32,
    }

    fn info(size: i64, mode: u32) -> Bytes {
        said(proto::FILE_TRANSFER, "file_info", &wire::body(&Info { path: "/f", size, mode }))
    }

    fn opened() -> Download {
        let (mut download, open) = Download::start(SessionId::random(), UserId::new("u"), "/f".to_owned());
        assert_eq!(heard(&open).0, "open");
        let effects = download.hear(&accept(&[1, 2])).unwrap();
        let [Effect::Say(stat)] = effects.as_slice() else { panic!("{effects:?}") };
        let read = Message::read(stat).unwrap();
        assert_eq!((read.typ, read.text_prop("user_id")), ("stat", Some("u")));
        assert_eq!(read.body.bytes(), wire::body(&wire::Path { path: "/f" }));
        download
    }

    fn receiving(size: i64) -> Download {
        let mut download = opened();
        let effects = download.hear(&info(size, 0o644)).unwrap();
        assert!(matches!(effects.as_slice(), [Effect::Found(found)] if found.size == size));
        let get = download.fetch();
        let read = Message::read(&get).unwrap();
        assert_eq!((read.typ, read.text_prop("user_id")), ("get_file", Some("u")));
        download
    }

    fn chunk(offset: i64, len: usize) -> Bytes {
        said_at("file_chunk", offset, &vec![7; len])
    }

    /// Sends a file of `size` to a client that takes everything at once; the offsets of all acknowledgements.
    fn acks_of(size: usize) -> Vec<i64> {
        let mut download = receiving(0);
        let (mut acks, mut at, mut is_finished) = (vec![], 0, false);
        let mut note = |effects: Vec<Effect>| {
            for effect in effects {
                match effect {
                    Effect::Say(ack) => acks.push(heard(&ack).1.unwrap()),
                    Effect::Finished => is_finished = true,
                    other => panic!("{other:?}"),
                }
            }
        };
        while at < size {
            let len = CHUNK.min(size - at);
            let effects = download.hear(&chunk(at.try_into().unwrap(), len)).unwrap();
            assert!(matches!(effects.as_slice(), [Effect::Data(data)] if data.len() == len));
            note(download.taken(len));
            at += len;
        }
        let mut effects = download.hear(&chunk(at.try_into().unwrap(), 0)).unwrap();
        assert_eq!(effects.remove(0), Effect::Received);
        note(effects);
        assert!(is_finished);
        acks
    }

    #[test]
    fn every_tenth_chunk_is_acknowledged_by_its_end_and_so_is_the_whole() {
        assert_eq!(acks_of(0), [0]);
        assert_eq!(acks_of(1), [1]);
        assert_eq!(acks_of(10_000), [10_000]);
        assert_eq!(acks_of(81_920), [40_960, 81_920, 81_920]);
        assert_eq!(acks_of(81_921), [40_960, 81_920, 81_921]);
    }

    #[test]
    fn nothing_is_acknowledged_that_the_client_has_not_taken() {
        let mut download = receiving(0);
        for n in 0..20 {
            let effects = download.hear(&chunk(n * 4096, CHUNK)).unwrap();
            assert!(matches!(effects.as_slice(), [Effect::Data(_)]), "chunk {n}: {effects:?}");
        }
        for _ in 0..9 {
            assert_eq!(download.taken(CHUNK), []);
        }
        let effects = download.taken(CHUNK);
        assert!(matches!(effects.as_slice(), [Effect::Say(ack)] if heard(ack).1 == Some(40_960)));

        // Everything was sent; the client is still at it.
        assert_eq!(download.hear(&chunk(81_920, 0)).unwrap(), [Effect::Received]);
        for _ in 0..9 {
            assert_eq!(download.taken(CHUNK), []);
        }
        let effects = download.taken(CHUNK);
        let [Effect::Say(tenth), Effect::Say(last), Effect::Finished] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        assert_eq!((heard(tenth).1, heard(last).1), (Some(81_920), Some(81_920)));
    }

    #[test]
    fn a_device_that_does_not_wait_for_acknowledgements_is_given_up() {
        for size in [1, CHUNK] {
            let mut download = receiving(0);
            let mut at = 0;
            let failure = loop {
                match download.hear(&chunk(at, size)) {
                    Ok(_) => at += i64::try_from(size).unwrap(),
                    Err(failure) => break failure,
                }
            };
            assert!(matches!(failure, Failure::OutOfStep(_)));
            assert!(at <= 2 * WINDOW, "{at} bytes in chunks of {size}");
            assert!(size < CHUNK || at >= WINDOW, "only {at} bytes in chunks of {size}");
        }
    }

    #[test]
    fn offsets_go_beyond_what_32_bits_hold() {
        let mut download = receiving(0);
        let far = i64::from(u32::MAX) * 3;
        (download.received, download.taken) = (far, far);
        assert_eq!(download.hear(&chunk(far, 1)).unwrap(), [Effect::Data(Bytes::from_static(&[7]))]);
        assert_eq!(download.taken(1), []);
        let effects = download.hear(&chunk(far + 1, 0)).unwrap();
        let [Effect::Received, Effect::Say(ack), Effect::Finished] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!(heard(ack).1, Some(far + 1));
        // In the one width that devices read.
        assert!(ack.windows(9).any(|bytes| bytes == [&[0xd3], &(far + 1).to_be_bytes()[..]].concat()));
    }

    #[test]
    fn a_chunk_of_another_place_ends_it() {
        for wrong in [chunk(0, 1), chunk(5000, 1), chunk(4095, 0), said(proto::FILE_TRANSFER, "file_chunk", b"x")] {
            let mut download = receiving(0);
            download.hear(&chunk(0, CHUNK)).unwrap();
            assert!(matches!(download.hear(&wrong), Err(Failure::OutOfStep(_))), "{wrong:?}");
        }
    }

    #[test]
    fn an_error_means_what_it_is_an_answer_to() {
        let refusal = error(proto::FILE_TRANSFER, "no such file or directory", None);
        let failure = opened().hear(&refusal).unwrap_err();
        assert!(matches!(failure, Failure::StatRefused(_)));
        assert_eq!(
            failure.to_string(),
            "failed to retrieve file info: error received from device: no such file or directory"
        );

        let failure = receiving(5).hear(&error(proto::FILE_TRANSFER, "access denied: x", Some(403))).unwrap_err();
        assert_eq!(failure.to_string(), "error received from device: access denied: x");
        assert!(matches!(failure, Failure::GetRefused(said) if said.code == Some(403)));

        let mut download = receiving(5);
        download.hear(&chunk(0, CHUNK)).unwrap();
        assert!(matches!(download.hear(&error(proto::CONTROL, "session timeout", None)), Err(Failure::GetRefused(_))));
    }

    #[test]
    fn an_error_after_the_end_changes_nothing() {
        let mut download = receiving(0);
        let effects = download.hear(&chunk(0, 0)).unwrap();
        assert!(matches!(effects.as_slice(), [Effect::Received, Effect::Say(_), Effect::Finished]));
        let late = error(proto::FILE_TRANSFER, "no file transfer in progress", None);
        assert_eq!(download.hear(&late).unwrap(), []);
    }

    #[test]
    fn what_is_no_regular_file_is_not_asked_for() {
        for mode in [1 << 31 | 0o755, 1 << 27, 1 << 25, 1 << 24, 1 << 26 | 1 << 21] {
            assert!(matches!(opened().hear(&info(0, mode)), Err(Failure::NotRegular)), "{mode:o}");
        }
        assert_eq!(Failure::NotRegular.to_string(), "path is not a regular file");
    }

    #[test]
    fn messages_out_of_turn_end_it() {
        assert!(matches!(opened().hear(&chunk(0, 1)), Err(Failure::OutOfStep(_))));
        assert!(matches!(receiving(0).hear(&info(0, 0)), Err(Failure::OutOfStep(_))));
        let unreadable = said(proto::FILE_TRANSFER, "file_info", b"\xc1");
        assert!(matches!(opened().hear(&unreadable), Err(Failure::OutOfStep(_))));
    }

    #[test]
    fn a_ping_is_answered_and_is_no_progress() {
        let effects = receiving(0).hear(&said(proto::CONTROL, "ping", b"")).unwrap();
        assert!(matches!(effects.as_slice(), [Effect::Answer(pong)] if heard(pong).0 == "pong"));
    }
}
