//! A device that keeps files in memory and transfers them as `mender-connect` does: its window, its acknowledgements, its
//! errors. A story may make it misbehave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::device::TestDevice;
use crate::message::{Heard, Packet};
use crate::msgpack::{self, Value};
use crate::socket::{Event, Socket};
use crate::wait::{LIMIT, wait_until};

/// Bytes in a chunk.
const CHUNK: usize = 4096;

/// Bytes that the agent sends ahead of the last acknowledgement.
const WINDOW: usize = 20 * CHUNK;

const CONTROL: u16 = 65535;
const FILE_TRANSFER: u16 = 2;

/// A connected device with files. Dropping it cuts the connection.
pub struct FileAgent {
    state: Arc<Mutex<State>>,
    outgoing: mpsc::UnboundedSender<Packet>,
    task: JoinHandle<()>,
}

/// How it misbehaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    #[default]
    None,
    /// It does not answer messages of this type; `eof` is the last chunk of an upload.
    Silent(&'static str),
    /// It answers messages of this type by an error, with this text and code.
    Refuses(&'static str, &'static str, Option<u16>),
    /// It answers the handshake with these protocols.
    Protocols(Vec<u8>),
    /// It answers the handshake as agents did that knew none.
    EchoesOpen,
    /// After so many bytes of a download it says nothing more.
    StopsAfter(usize),
    /// After so many bytes of a download it says that it cannot read on.
    FailsAfter(usize),
    /// After so many bytes of a download it goes on at another place.
    SkipsAfter(usize),
    /// It acknowledges no chunks until [`FileAgent::release`].
    Holds,
    /// It acknowledges the end of an upload and then fails to put the file into its place.
    FailsLate(&'static str),
}

#[derive(Default)]
struct State {
    files: HashMap<String, File>,
    fault: Fault,
    downloads: HashMap<String, Outgoing>,
    uploads: HashMap<String, Incoming>,
    finished: Vec<Incoming>,
    /// All that was heard, but for chunks.
    heard: Vec<Heard>,
    discards: bool,
}

/// A file on the device.
#[derive(Clone)]
pub struct File {
    /// Its bytes, repeated until `size` is reached.
    pub bytes: Arc<Vec<u8>>,
    /// Its size.
    pub size: usize,
    /// As Go writes it.
    pub mode: u32,
    /// In seconds.
    pub modified: u32,
}

struct Outgoing {
    file: File,
    sent: usize,
    acked: usize,
    has_ended: bool,
}

/// A file that was uploaded.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The body of `put_file`.
    pub put: Value,
    /// What came; only its length if the agent discards.
    pub bytes: Vec<u8>,
    /// How much came.
    pub size: usize,
    /// Where the last chunk began.
    last: usize,
}

impl File {
    /// A plain file.
    pub fn plain(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len(), bytes: Arc::new(bytes), mode: 0o644, modified: 1_700_000_000 }
    }

    /// A large file of which only a part is in memory.
    pub fn repeating(bytes: Vec<u8>, size: usize) -> Self {
        Self { size, ..Self::plain(bytes) }
    }

    /// Something that has this mode.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    fn read(&self, from: usize) -> Vec<u8> {
        let len = CHUNK.min(self.size - from);
        let start = from % self.bytes.len();
        match self.bytes.get(start..start + len) {
            Some(bytes) => bytes.to_vec(),
            None => (from..from + len).map(|at| self.bytes[at % self.bytes.len()]).collect(),
        }
    }
}

impl FileAgent {
    /// Connects the device.
    pub async fn connect(device: &TestDevice) -> Self {
        Self::on(device.connect().await)
    }

    /// Serves a connection.
    pub fn on(mut socket: Socket) -> Self {
        let state = Arc::<Mutex<State>>::default();
        // It holds what one test sends by hand.
        let (outgoing, mut packets) = mpsc::unbounded_channel::<Packet>();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let answers = tokio::select! {
                    event = socket.next() => match event {
                        Event::Message(heard) => lock(&shared).answer(heard),
                        Event::Pong(_) => vec![],
                        Event::Closed(_) => return,
                    },
                    Some(packet) = packets.recv() => vec![packet],
                };
                for packet in answers {
                    if socket.try_send(packet.bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { state, outgoing, task }
    }

    /// Puts a file onto the device.
    pub fn put(&self, path: &str, file: File) {
        lock(&self.state).files.insert(path.to_owned(), file);
    }

    /// From now on it misbehaves so.
    pub fn misbehave(&self, fault: Fault) {
        lock(&self.state).fault = fault;
    }

    /// Keeps only the size of what is uploaded.
    pub fn discard(&self) {
        lock(&self.state).discards = true;
    }

    /// Says something by itself.
    pub fn say(&self, packet: Packet) {
        let _ = self.outgoing.send(packet);
    }

    /// Acknowledges what it held back, and all that follows.
    pub fn release(&self) {
        let mut state = lock(&self.state);
        state.fault = Fault::None;
        for (sid, incoming) in &state.uploads {
            self.say(at("ack", sid, incoming.last));
        }
    }

    /// Messages of this type that it heard.
    pub fn heard(&self, typ: &str) -> Vec<Heard> {
        lock(&self.state).heard.iter().filter(|heard| heard.typ() == typ).cloned().collect()
    }

    /// Offsets of the acknowledgements that it heard.
    pub fn acks(&self) -> Vec<i64> {
        self.heard("ack").iter().map(|ack| ack.number("offset").expect("an offset")).collect()
    }

    /// Forgets what it heard and what was uploaded.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.heard.clear();
        state.finished.clear();
    }

    /// Files that were uploaded.
    pub fn uploaded(&self) -> Vec<Incoming> {
        lock(&self.state).finished.clone()
    }

    /// Bytes of downloads under way: sent, and acknowledged.
    pub fn progress(&self) -> (usize, usize) {
        let state = lock(&self.state);
        state.downloads.values().fold((0, 0), |(sent, acked), download| (sent + download.sent, acked + download.acked))
    }

    /// Waits until every session that was opened was closed; how many there were.
    pub async fn closed(&self) -> usize {
        let ids = |typ| {
            let mut ids: Vec<String> = self.heard(typ).iter().map(|heard| heard.sid().to_owned()).collect();
            ids.sort();
            ids
        };
        wait_until(LIMIT, "all transfers to be closed", async || (ids("open") == ids("close")).then_some(())).await;
        ids("open").len()
    }
}

impl Drop for FileAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panics with the lock")
}

impl State {
    fn answer(&mut self, heard: Heard) -> Vec<Packet> {
        let sid = heard.sid().to_owned();
        let is_end = heard.typ() == "file_chunk" && !heard.has_body();
        let kind = if is_end { "eof" } else { heard.typ() };
        let fault = self.fault.clone();
        let answers = match fault {
            Fault::Silent(typ) if typ == kind => vec![],
            Fault::Refuses(typ, text, code) if typ == kind => {
                self.downloads.remove(&sid);
                self.uploads.remove(&sid);
                let proto = if typ == "open" { CONTROL } else { FILE_TRANSFER };
                vec![error(proto, &sid, text, code)]
            }
            _ => self.proper_answer(&heard, kind, &sid),
        };
        // Chunks are many, and what came is kept elsewhere.
        if kind != "file_chunk" && !(self.discards && kind == "ack") {
            self.heard.push(heard);
        }
        answers
    }

    fn proper_answer(&mut self, heard: &Heard, kind: &str, sid: &str) -> Vec<Packet> {
        match kind {
            "open" => vec![match &self.fault {
                Fault::Protocols(protocols) => accept(sid, protocols),
                Fault::EchoesOpen => Packet::control("open").sid(sid).body(heard.body()),
                _ => accept(sid, &[4, 2, 1, 3]),
            }],
            "stat" => vec![match self.files.get(&path_of(heard)) {
                Some(file) => Packet::new(FILE_TRANSFER, "file_info").sid(sid).body(file_info(&path_of(heard), file)),
                None => error(FILE_TRANSFER, sid, "stat: no such file or directory", None),
            }],
            "get_file" => match self.files.get(&path_of(heard)) {
                Some(file) => {
                    let download = Outgoing { file: file.clone(), sent: 0, acked: 0, has_ended: false };
                    self.downloads.insert(sid.to_owned(), download);
                    self.send_more(sid)
                }
                None => vec![error(FILE_TRANSFER, sid, "open: no such file or directory", None)],
            },
            "ack" => {
                let offset = offset_of(heard);
                match self.downloads.get_mut(sid) {
                    Some(download) => {
                        download.acked = offset;
                        self.send_more(sid)
                    }
                    None => vec![],
                }
            }
            "put_file" => {
                let put = msgpack::read(heard.body()).expect("a body");
                self.uploads.insert(sid.to_owned(), Incoming { put, bytes: vec![], size: 0, last: 0 });
                vec![at("ack", sid, 0)]
            }
            "file_chunk" => self.take_chunk(heard, sid),
            "eof" => {
                let Some(incoming) = self.uploads.remove(sid) else { return vec![] };
                assert_eq!(offset_of(heard), incoming.size, "the end names the size");
                let mut answers = vec![at("ack", sid, incoming.size)];
                match self.fault {
                    Fault::FailsLate(text) => answers.push(error(FILE_TRANSFER, sid, text, None)),
                    _ => self.finished.push(incoming),
                }
                answers
            }
            "close" => {
                self.downloads.remove(sid);
                self.uploads.remove(sid);
                vec![]
            }
            _ => vec![],
        }
    }

    fn take_chunk(&mut self, heard: &Heard, sid: &str) -> Vec<Packet> {
        let (holds, discards) = (self.fault == Fault::Holds, self.discards);
        let Some(incoming) = self.uploads.get_mut(sid) else {
            return vec![error(FILE_TRANSFER, sid, "no file transfer in progress", None)];
        };
        assert_eq!(offset_of(heard), incoming.size, "chunks follow one another");
        let marker = heard.prop("offset").and_then(Value::int_marker);
        assert_eq!(marker, Some(0xd3), "devices read offsets only in eight bytes");
        assert!(heard.body().len() <= CHUNK);
        incoming.last = incoming.size;
        incoming.size += heard.body().len();
        if !discards {
            incoming.bytes.extend_from_slice(heard.body());
        }
        if holds { vec![] } else { vec![at("ack", sid, incoming.last)] }
    }

    /// What the window allows, and the end.
    fn send_more(&mut self, sid: &str) -> Vec<Packet> {
        let Some(download) = self.downloads.get_mut(sid) else { return vec![] };
        let mut packets = vec![];
        while download.sent < download.file.size && download.sent < download.acked + WINDOW {
            match self.fault {
                Fault::StopsAfter(limit) if download.sent >= limit => return packets,
                Fault::FailsAfter(limit) if download.sent >= limit => {
                    packets.push(error(FILE_TRANSFER, sid, "read: input/output error", None));
                    self.downloads.remove(sid);
                    return packets;
                }
                Fault::SkipsAfter(limit) if download.sent >= limit => download.sent += 1,
                _ => {}
            }
            let bytes = download.file.read(download.sent);
            packets.push(at("file_chunk", sid, download.sent).body(&bytes));
            download.sent += bytes.len();
        }
        if download.sent == download.file.size && !download.has_ended {
            download.has_ended = true;
            packets.push(at("file_chunk", sid, download.sent));
        }
        packets
    }
}

/// A message about a place in a file.
fn at(typ: &str, sid: &str, offset: usize) -> Packet {
    Packet::new(FILE_TRANSFER, typ).sid(sid).prop("offset", i64::try_from(offset).expect("a size"))
}

fn offset_of(heard: &Heard) -> usize {
    heard.number("offset").and_then(|offset| usize::try_from(offset).ok()).expect("an offset")
}

fn path_of(heard: &Heard) -> String {
    let body = msgpack::read(heard.body()).expect("a body");
    body.get("path").and_then(Value::text).expect("a path").to_owned()
}

fn accept(sid: &str, protocols: &[u8]) -> Packet {
    let count = 0x90 | u8::try_from(protocols.len()).expect("a handful");
    let mut body = [&[0x82][..], &text("version"), &[1], &text("protocols"), &[count]].concat();
    for protocol in protocols {
        body.extend([0xcd, 0, *protocol]);
    }
    Packet::control("accept").sid(sid).body(body)
}

fn error(proto: u16, sid: &str, err: &str, code: Option<u16>) -> Packet {
    let mut body = vec![0x82 + u8::from(code.is_some())];
    body.extend([text("err"), text(err), text("close"), vec![0xc2 + u8::from(proto == CONTROL)]].concat());
    if let Some(code) = code {
        body.extend([&text("code")[..], &[0xcd], &code.to_be_bytes()].concat());
    }
    Packet::new(proto, "error").sid(sid).body(body)
}

fn file_info(path: &str, file: &File) -> Vec<u8> {
    let size = i64::try_from(file.size).expect("a size").to_be_bytes();
    [
        &[0x86][..],
        &text("path"),
        &text(path),
        &text("size"),
        &[0xd3],
        &size,
        &text("uid"),
        &[0xce],
        &1000_u32.to_be_bytes(),
        &text("gid"),
        &[0xce],
        &1001_u32.to_be_bytes(),
        &text("mode"),
        &[0xce],
        &file.mode.to_be_bytes(),
        &text("modtime"),
        &[0xd6, 0xff],
        &file.modified.to_be_bytes(),
    ]
    .concat()
}

fn text(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).expect("a short text");
    [&[0xd9, len], text.as_bytes()].concat()
}
