//! A file to a device.

use super::{Options, place::Remote, progress::Progress};
use crate::commands::operator::{Operator, refusal};
use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::{Stream, stream};
use reqwest::{
    Body, Method, StatusCode,
    multipart::{Form, Part},
};
use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Read at once.
const PIECE: usize = 64 << 10;
/// A hub that takes nothing for this long has lost the device or itself; it gives up on a device after one minute.
const STALL_LIMIT: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Source = Box<dyn AsyncRead + Send + Unpin>;

/// What the sending half tells the watching half.
struct Watched {
    progress: Mutex<Progress>,
    /// It is the source that we wait for, not the hub.
    is_reading: AtomicBool,
}

/// Copies it; what was done, on one line.
pub async fn upload(
    operator: &Operator,
    device: &str,
    source: Option<&PathBuf>,
    to: &Remote,
    options: &Options,
) -> anyhow::Result<String> {
    let (reading, name, size, mode) = if let Some(path) = source {
        open(path).await?
    } else {
        let name = to.base_name().context("standard input has no name: give the whole path on the device")?;
        let input: Source = Box::new(tokio::io::stdin());
        (input, name.to_owned(), None, None)
    };
    let watched =
        Arc::new(Watched { progress: Mutex::new(Progress::of(&name, size)), is_reading: AtomicBool::new(false) });
    let content = Body::wrap_stream(pieces(reading, size, watched.clone()));
    let part = match size {
        Some(size) => Part::stream_with_length(content, size),
        None => Part::stream(content),
    };
    // The file ends what devices' hubs read of a form, so it stands last.
    let mut form = Form::new().percent_encode_noop().text("path", to.path.clone());
    for (field, number) in [("uid", options.uid), ("gid", options.gid)] {
        if let Some(number) = number {
            form = form.text(field, number.to_string());
        }
    }
    if let Some(mode) = options.mode.or(mode) {
        form = form.text("mode", format!("{mode:o}"));
    }
    let form = form.part("file", part.file_name(name));
    let path = format!("/api/management/v1/deviceconnect/devices/{device}/upload");
    let sending = operator.transfer(Method::PUT, &path)?.multipart(form).send();
    let answer = tokio::select! {
        answer = sending => answer.context("the connection to the hub broke")?,
        () = stalled(&watched) => bail!("the hub has taken nothing for {} s", STALL_LIMIT.as_secs()),
    };
    match answer.status() {
        StatusCode::CREATED => Ok(watched.progress().summary()),
        StatusCode::CONFLICT => bail!("{} is not connected", to.device),
        _ => Err(refusal(answer).await),
    }
}

/// What to read, its name, its size if it cannot change, and its mode.
async fn open(path: &Path) -> anyhow::Result<(Source, String, Option<u64>, Option<u32>)> {
    let context = || format!("cannot read {}", path.display());
    let metadata = tokio::fs::metadata(path).await.with_context(context)?;
    if metadata.is_dir() {
        bail!("{0} is a directory: `tar c {0} | mooring cp - …` makes one file of it", path.display());
    }
    let name = path.file_name().with_context(context)?.to_string_lossy().into_owned();
    let file = tokio::fs::File::open(path).await.with_context(context)?;
    // Files of /proc say that they are empty, and pipes too.
    let size = Some(metadata.len()).filter(|&size| size > 0 && metadata.is_file());
    Ok((Box::new(file), name, size, Some(metadata.permissions().mode() & 0o777)))
}

/// What the source holds, piece by piece; no more than was announced.
fn pieces(
    source: Source,
    size: Option<u64>,
    watched: Arc<Watched>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let source = source.take(size.unwrap_or(u64::MAX));
    stream::try_unfold((source, watched), |(mut source, watched)| async move {
        let mut piece = vec![0; PIECE];
        watched.is_reading.store(true, Ordering::Relaxed);
        let length = source.read(&mut piece).await?;
        watched.is_reading.store(false, Ordering::Relaxed);
        piece.truncate(length);
        watched.progress().add(&piece);
        Ok((length > 0).then(|| (Bytes::from(piece), (source, watched))))
    })
}

/// Waits until the hub has taken nothing for too long.
async fn stalled(watched: &Watched) {
    let (mut bytes, mut moved) = (0, Instant::now());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = watched.progress().bytes();
        if now != bytes || watched.is_reading.load(Ordering::Relaxed) {
            (bytes, moved) = (now, Instant::now());
        } else if moved.elapsed() > STALL_LIMIT {
            return;
        }
    }
}

impl Watched {
    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
