//! File transfer as mender-connect does it: one transfer per session, in a task of its own that the session hands its
//! acks and chunks to.
//!
//! A transfer holds one chunk at a time. It ends with its session, and an unfinished upload leaves nothing behind.

mod download;
mod upload;

use super::{FileService, Outlet, Task, error_body, file_mode, os_error};
use crate::{
    handover::{self, Giver},
    message::{FILE_TRANSFER, Message, Property, pack},
};
use serde::Deserialize;
use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Component, Path},
};

/// The most bytes of a file in one message.
const CHUNK: usize = 4096;

/// The file transfers of one session.
pub(super) struct FileTransfer {
    service: FileService,
    outlet: Outlet,
    running: Option<Transfer>,
}

struct Transfer {
    messages: Giver<Message>,
    _task: Task,
}

/// The body of `stat` and `get_file`.
#[derive(Deserialize)]
struct WhichFile {
    path: Option<String>,
}

/// Why a transfer ends before its end.
enum Failure {
    /// The peer is told.
    Told(String),
    /// The peer is told, with its own message in the header.
    Blamed(String, Box<Message>),
    /// The peer is gone, or has given up.
    Silent,
}

impl From<super::Offline> for Failure {
    fn from(_: super::Offline) -> Self {
        Self::Silent
    }
}

impl FileTransfer {
    pub(super) fn new(service: FileService, outlet: Outlet) -> Self {
        Self { service, outlet, running: None }
    }

    pub(super) async fn hear(&mut self, message: Message) {
        let done = match message.kind() {
            "stat" => self.stat(&message).await,
            "get_file" => self.get(&message).await,
            "put_file" => self.put(&message).await,
            "ack" | "file_chunk" | "error" => return self.pass_on(message).await,
            other => Err(format!("session: filetransfer message type '{other}' not supported")),
        };
        if let Err(why) = done {
            let _offline = self.outlet.say(error(&message, &why)).await;
        }
    }

    async fn pass_on(&mut self, message: Message) {
        let left = match &self.running {
            Some(transfer) => transfer.messages.give(message).await.err(),
            None => Some(message),
        };
        if let Some(message) = left
            && message.kind() != "error"
        {
            let _offline = self.outlet.say(error(&message, "no file transfer in progress")).await;
        }
    }

    async fn stat(&self, message: &Message) -> Result<(), String> {
        let path = which_file(message)?;
        let found = tokio::fs::metadata(&path).await;
        let found = found.map_err(|error| {
            format!("failed to get file info from path '{path}': stat {path}: {}", os_error(&error))
        })?;
        let info = Message::new(FILE_TRANSFER, "file_info").session(message.session_id());
        let _offline = self.outlet.say(info.with_body(file_info(&path, &found))).await;
        Ok(())
    }

    async fn get(&mut self, message: &Message) -> Result<(), String> {
        let path = which_file(message)?;
        self.check_chroot(&path).map_err(|why| format!("access denied: {why}"))?;
        let failed =
            |error: std::io::Error| format!("failed to open file for reading: open {path}: {}", os_error(&error));
        let found = tokio::fs::metadata(&path).await.map_err(failed)?;
        if found.is_dir() {
            return Err(format!("failed to copy file chunk to session: read {path}: is a directory"));
        }
        if !found.is_file() {
            // The agent would wait for a pipe to be opened by its other end, and read a device for ever.
            return Err(format!("failed to open file for reading: open {path}: not a regular file"));
        }
        let file = tokio::fs::File::open(&path).await.map_err(failed)?;
        let outlet = self.outlet.clone();
        self.start(message, |request, messages| download::run(file, request, messages, outlet))
    }

    async fn put(&mut self, message: &Message) -> Result<(), String> {
        let target = upload::Target::of(message)?;
        self.check_chroot(&target.path).map_err(|why| format!("access denied: {why}"))?;
        let target = target.check().await?;
        let outlet = self.outlet.clone();
        self.start(message, |request, messages| upload::run(target, request, messages, outlet))
    }

    fn start<F>(
        &mut self,
        request: &Message,
        transfer: impl FnOnce(Message, handover::Taker<Message>) -> F,
    ) -> Result<(), String>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.running.as_ref().is_some_and(|transfer| !transfer.messages.is_gone()) {
            return Err("another file transfer is in progress".to_owned());
        }
        let (messages, taker) = handover::channel();
        self.running = Some(Transfer { messages, _task: Task::spawn(transfer(request.clone(), taker)) });
        Ok(())
    }

    fn check_chroot(&self, path: &str) -> Result<(), &'static str> {
        let Some(chroot) = &self.service.chroot else { return Ok(()) };
        let path = Path::new(path);
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if path.starts_with(chroot) && !climbs { Ok(()) } else { Err("the target file path is outside chroot") }
    }
}

fn which_file(message: &Message) -> Result<String, String> {
    let request: WhichFile =
        rmp_serde::from_slice(message.body()).map_err(|error| format!("malformed request parameters: {error}"))?;
    match request.path {
        Some(path) if !path.is_empty() => Ok(path),
        _ => Err("invalid request parameters: path: cannot be blank.".to_owned()),
    }
}

fn file_info(path: &str, found: &Metadata) -> Vec<u8> {
    let mut body = vec![];
    pack::map(&mut body, 6);
    pack::text(&mut body, "path");
    pack::text(&mut body, path);
    pack::text(&mut body, "size");
    pack::int64(&mut body, i64::try_from(found.len()).unwrap_or(i64::MAX));
    for (name, value) in [("uid", found.uid()), ("gid", found.gid()), ("mode", file_mode::to_wire(found.mode()))] {
        pack::text(&mut body, name);
        pack::uint32(&mut body, value);
    }
    pack::text(&mut body, "modtime");
    pack::timestamp(&mut body, found.modified().unwrap_or(std::time::SystemTime::UNIX_EPOCH));
    body
}

/// The agent puts its error into the header of the message that it blames.
fn error(of: &Message, why: &str) -> Message {
    of.answered_by("error").with_body(error_body(why, of.kind()))
}

/// The offset of an ack or a chunk: only the 64-bit form counts.
fn offset(message: &Message) -> Option<i64> {
    match message.property("offset") {
        Some(Property::Wide(offset)) => Some(*offset),
        _ => None,
    }
}

/// Tells of the failure of what `request` began.
async fn report(failure: Failure, request: &Message, outlet: &Outlet) {
    let (why, blamed) = match &failure {
        Failure::Told(why) => (why, request),
        Failure::Blamed(why, message) => (why, &**message),
        Failure::Silent => return,
    };
    let _offline = outlet.say(error(blamed, why)).await;
}
