//! A file on its way from the hub: into a temporary file beside the target, which takes the target's place at the end.

use super::{Failure, Outlet, file_mode, offset, os_error, report};
use crate::{
    handover::{Taker, Waiting},
    message::{FILE_TRANSFER, Message},
};
use serde::Deserialize;
use std::{
    fs::{OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// An ack stands for so many chunks at most.
const CHUNKS_PER_ACK: usize = 10;
const DEFAULT_MODE: u32 = 0o644;
const NAMES_TRIED: usize = 100;

/// What becomes of the bytes, from the body of `put_file`.
#[derive(Debug, Deserialize)]
pub(super) struct Target {
    #[serde(default)]
    pub(super) path: String,
    #[serde(default)]
    src_path: Option<String>,
    #[serde(default)]
    uid: Option<u32>,
    #[serde(default)]
    gid: Option<u32>,
    #[serde(default)]
    mode: Option<u32>,
}

impl Target {
    pub(super) fn of(message: &Message) -> Result<Self, String> {
        let target: Self =
            rmp_serde::from_slice(message.body()).map_err(|error| format!("malformed request parameters: {error}"))?;
        if target.path.is_empty() {
            return Err("invalid request parameters: path: cannot be blank.".to_owned());
        }
        Ok(target)
    }

    /// Finds the place in a folder, and refuses what is no ordinary file.
    pub(super) async fn check(mut self) -> Result<Self, String> {
        let name = self.src_path.as_deref().and_then(|source| Path::new(source).file_name());
        if let Some(name) = name
            && tokio::fs::metadata(&self.path).await.is_ok_and(|found| found.is_dir())
        {
            self.path = Path::new(&self.path).join(name).to_string_lossy().into_owned();
        }
        match tokio::fs::symlink_metadata(&self.path).await {
            Ok(found) if !found.is_file() => Err("conflicting file path: cannot overwrite irregular file".to_owned()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("error checking file location: lstat {}: {}", self.path, os_error(&error)))
            }
            _ => Ok(self),
        }
    }
}

pub(super) async fn run(target: Target, request: Message, chunks: Taker<Message>, outlet: Outlet) {
    let path = target.path.clone();
    let file = match blocking(move || TemporaryFile::beside(&path)).await {
        Ok(file) => file,
        Err(why) => {
            // The agent says it twice.
            report(Failure::Told(format!("failed to create target file: {why}")), &request, &outlet).await;
            return report(Failure::Told(why), &request, &outlet).await;
        }
    };
    let mut upload = Upload { file: Some(file), chunks, outlet, written: 0 };
    if let Err(failure) = upload.receive(&request, target).await {
        report(failure, &request, &upload.outlet).await;
    }
}

struct Upload {
    /// Away only while it is being written to.
    file: Option<TemporaryFile>,
    chunks: Taker<Message>,
    outlet: Outlet,
    written: i64,
}

/// Whether the file has ended.
#[derive(PartialEq, Eq)]
enum Chunk {
    Written,
    End,
}

impl Upload {
    async fn receive(&mut self, request: &Message, target: Target) -> Result<(), Failure> {
        let ready = Message::new(FILE_TRANSFER, "ack").session(request.session_id());
        self.outlet.say(ready.wide("offset", 0)).await?;
        let mut ended = false;
        while !ended {
            let mut last = self.chunks.take().await.ok_or(Failure::Silent)?;
            ended |= self.write(&last).await? == Chunk::End;
            for _ in 1..CHUNKS_PER_ACK {
                match self.chunks.take_waiting().await {
                    Waiting::Item(message) => {
                        ended |= self.write(&message).await? == Chunk::End;
                        last = message;
                    }
                    Waiting::Nobody => break,
                    Waiting::Gone => return Err(Failure::Silent),
                }
            }
            // An ack is the header of the last chunk with another type: its offset is where that chunk began.
            self.outlet.say(last.answered_by("ack")).await?;
        }
        let Some(file) = self.file.take() else { return Ok(()) };
        blocking(move || file.commit(&target)).await.map_err(Failure::Told)
    }

    async fn write(&mut self, message: &Message) -> Result<Chunk, Failure> {
        let told = |why: &str| Err(Failure::Told(why.to_owned()));
        match message.kind() {
            "file_chunk" => {}
            "error" => return Err(Failure::Silent),
            other => return told(&format!("received unexpected message type '{other}' during file upload")),
        }
        let Some(offset) = offset(message) else {
            return told("invalid file chunk message: missing offset property");
        };
        if offset != self.written {
            return told("received unexpected chunk offset");
        }
        let bytes = message.body().to_vec();
        if bytes.is_empty() {
            return Ok(Chunk::End);
        }
        self.written += i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let Some(mut file) = self.file.take() else { return Err(Failure::Silent) };
        let written = blocking(move || match file.file.write_all(&bytes) {
            Ok(()) => Ok(file),
            Err(error) => {
                Err(format!("failed to write file chunk: write {}: {}", file.name.display(), os_error(&error)))
            }
        });
        self.file = Some(written.await.map_err(Failure::Told)?);
        Ok(Chunk::Written)
    }
}

/// A file that is removed unless it is committed.
#[derive(Debug)]
struct TemporaryFile {
    file: std::fs::File,
    name: PathBuf,
}

impl TemporaryFile {
    fn beside(path: &str) -> Result<Self, String> {
        static SUFFIX: AtomicU32 = AtomicU32::new(1);
        for attempt in 0..NAMES_TRIED {
            let name = PathBuf::from(format!("{path}.{:08x}{attempt:02x}", SUFFIX.fetch_add(1, Relaxed)));
            match OpenOptions::new().write(true).create_new(true).mode(0o200).open(&name) {
                Ok(file) => return Ok(Self { file, name }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(format!("failed to create file: open {}: {}", name.display(), os_error(&error)));
                }
            }
        }
        Err(format!("failed to create file: open {path}: file exists"))
    }

    /// Gives it the target's mode, owner and name.
    fn commit(self, target: &Target) -> Result<(), String> {
        let name = self.name.display();
        let mode = Permissions::from_mode(file_mode::from_wire(target.mode.unwrap_or(DEFAULT_MODE)));
        self.file
            .set_permissions(mode.clone())
            .map_err(|error| format!("failed to set file permissions: chmod {name}: {}", os_error(&error)))?;
        if target.uid.is_some() || target.gid.is_some() {
            fchown(&self.file, target.uid, target.gid)
                .map_err(|error| format!("failed to set file owner: chown {name}: {}", os_error(&error)))?;
            // A change of owner takes the set-user-id bits away.
            self.file
                .set_permissions(mode)
                .map_err(|error| format!("failed to preserve file mode: chmod {name}: {}", os_error(&error)))?;
        }
        std::fs::rename(&self.name, &target.path).map_err(|error| {
            format!("failed to commit uploaded file: rename {name} {}: {}", target.path, os_error(&error))
        })
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // After a commit there is nothing left of this name.
        let _committed = std::fs::remove_file(&self.name);
    }
}

/// Runs what waits for a disk where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_panic| Err("internal error".to_owned()))
}
