//! A file from a device. What breaks off goes on where it was, if the hub can tell that the file is still the same.

use super::{Options, draft::Draft, place::Remote, progress::Progress};
use crate::commands::operator::{Backoff, Operator, refusal};
use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::io::AsyncWriteExt;

/// The hub gives up on a device after one minute, and then breaks the connection.
const STALL_LIMIT: Duration = Duration::from_secs(90);
/// Attempts in a row that bring nothing; with the waits between them about a minute.
const MOST_ATTEMPTS: u32 = 8;

/// Copies it; what was done, on one line.
pub async fn download(
    operator: &Operator,
    device: &str,
    from: &Remote,
    to: Option<&PathBuf>,
    options: &Options,
) -> anyhow::Result<String> {
    let target = match to {
        Some(path) => Target::File(target_path(path, from)?),
        None => Target::Standard,
    };
    let mut download = Download {
        operator,
        device,
        from,
        options,
        target,
        sink: None,
        progress: Progress::of(&from.path, None),
        tag: None,
        has_ranges: true,
    };
    download.run().await?;
    let Download { sink, progress, .. } = download;
    match sink {
        Some(Sink::File(draft)) => draft.finish(options.mode, (options.uid, options.gid)).await?,
        Some(Sink::Standard(mut output)) => output.flush().await.context("cannot write to standard output")?,
        None => {}
    }
    Ok(progress.summary())
}

/// A directory takes the name that the file has on the device.
fn target_path(path: &Path, from: &Remote) -> anyhow::Result<PathBuf> {
    if path.is_dir() {
        let name = from.base_name().with_context(|| format!("{} is no file", from.path))?;
        return Ok(path.join(name));
    }
    if path.as_os_str().to_string_lossy().ends_with('/') {
        bail!("{} is no directory", path.display());
    }
    Ok(path.to_owned())
}

enum Target {
    File(PathBuf),
    Standard,
}

enum Sink {
    File(Draft),
    Standard(tokio::io::Stdout),
}

struct Download<'a> {
    operator: &'a Operator,
    device: &'a str,
    from: &'a Remote,
    options: &'a Options,
    target: Target,
    /// Where the bytes go, once it is known that there are any.
    sink: Option<Sink>,
    progress: Progress,
    /// The hub's name for the state of the file that we have a part of.
    tag: Option<String>,
    /// Whether the hub has the address that can go on in the middle.
    has_ranges: bool,
}

/// Why an attempt was not the last.
enum Broken {
    /// Another one may do better.
    Perhaps(anyhow::Error),
    /// Another one will not.
    ForGood(anyhow::Error),
}

impl From<anyhow::Error> for Broken {
    fn from(error: anyhow::Error) -> Self {
        Self::ForGood(error)
    }
}

impl Download<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let before = self.progress.bytes();
            let error = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(Broken::ForGood(error)) => return Err(error),
                Err(Broken::Perhaps(error)) => error,
            };
            // What fails at once, before there is anything, is the answer.
            if self.sink.is_none() {
                return Err(error);
            }
            if self.progress.bytes() > before {
                backoff.worked();
            }
            if backoff.attempts() >= MOST_ATTEMPTS {
                return Err(error.context(format!("gave up after {MOST_ATTEMPTS} attempts to go on")));
            }
            self.progress.say(&format!("the copy broke off after {} bytes: {error:#}", self.progress.bytes()));
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn attempt(&mut self) -> Result<(), Broken> {
        let answer = self.ask().await?;
        let status = answer.status();
        match status {
            StatusCode::OK if self.progress.bytes() > 0 => self.start_again().await?,
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT if starts_at(&answer) == Some(self.progress.bytes()) => {}
            StatusCode::PARTIAL_CONTENT => {
                return Err(Broken::ForGood(anyhow!("the hub sends another part than the one it was asked for")));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.start_again().await?;
                return Err(Broken::Perhaps(anyhow!("the file has changed")));
            }
            StatusCode::CONFLICT => return Err(Broken::Perhaps(anyhow!("{} is not connected", self.from.device))),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                return Err(Broken::Perhaps(refusal(answer).await));
            }
            status if status.is_server_error() => return Err(Broken::Perhaps(refusal(answer).await)),
            _ => return Err(Broken::ForGood(refusal(answer).await)),
        }
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let size: Option<u64> = header("X-MEN-File-Size").and_then(|size| size.parse().ok());
        let mode = header("X-MEN-File-Mode").and_then(|mode| u32::from_str_radix(&mode, 8).ok());
        self.tag = header(ETAG.as_str());
        if self.sink.is_none() {
            self.progress = Progress::of(self.from.base_name().unwrap_or(&self.from.path), size);
            self.sink = Some(match &self.target {
                // The bits above those of POSIX mean something else where the device comes from.
                Target::File(path) => {
                    let mode = self.options.mode.or(mode).unwrap_or(0o644);
                    Sink::File(Draft::of(path, mode & 0o777).await?)
                }
                Target::Standard => Sink::Standard(tokio::io::stdout()),
            });
        }
        self.take(answer).await?;
        match size {
            // Files of /proc say that they are empty.
            Some(size) if size > 0 && self.progress.bytes() < size => {
                Err(Broken::Perhaps(anyhow!("only {} of {size} bytes have come", self.progress.bytes())))
            }
            Some(size) if size > 0 && self.progress.bytes() > size => {
                Err(Broken::ForGood(anyhow!("the file has changed while it was copied")))
            }
            _ => Ok(()),
        }
    }

    async fn ask(&mut self) -> Result<Response, Broken> {
        let cannot_reach = |error: reqwest::Error| {
            Broken::Perhaps(
                anyhow::Error::new(error).context(format!("cannot reach the hub at {}", self.operator.base())),
            )
        };
        if self.has_ranges {
            let path = format!("/api/management/v1/mooring/devices/{}/files", self.device);
            let mut request = self.operator.transfer(Method::GET, &path)?.query(&[("path", &self.from.path)]);
            if let Some(tag) = self.tag.as_ref().filter(|_| self.progress.bytes() > 0) {
                request = request.header(RANGE, format!("bytes={}-", self.progress.bytes())).header(IF_RANGE, tag);
            }
            let answer = request.send().await.map_err(cannot_reach)?;
            if answer.status() != StatusCode::NOT_FOUND {
                return Ok(answer);
            }
        }
        let path = format!("/api/management/v1/deviceconnect/devices/{}/download", self.device);
        let request = self.operator.transfer(Method::GET, &path)?.query(&[("path", &self.from.path)]);
        let answer = request.send().await.map_err(cannot_reach)?;
        // That address exists on every hub, so the other one does not exist on this.
        self.has_ranges = false;
        Ok(answer)
    }

    /// Takes the bytes of an answer.
    async fn take(&mut self, mut answer: Response) -> Result<(), Broken> {
        loop {
            let piece: Option<Bytes> = match tokio::time::timeout(STALL_LIMIT, answer.chunk()).await {
                Ok(piece) => piece.map_err(|error| Broken::Perhaps(error.into()))?,
                Err(_elapsed) => {
                    return Err(Broken::Perhaps(anyhow!("nothing has come for {} s", STALL_LIMIT.as_secs())));
                }
            };
            let Some(piece) = piece else { return Ok(()) };
            match &mut self.sink {
                Some(Sink::File(draft)) => draft.write(&piece).await?,
                Some(Sink::Standard(output)) => {
                    output.write_all(&piece).await.context("cannot write to standard output")?;
                }
                None => {}
            }
            self.progress.add(&piece);
        }
    }

    async fn start_again(&mut self) -> Result<(), Broken> {
        let can = match &mut self.sink {
            Some(Sink::File(draft)) => draft.start_again().await?,
            Some(Sink::Standard(_)) => false,
            None => true,
        };
        if !can {
            return Err(Broken::ForGood(anyhow!(
                "the copy broke off after {} bytes and cannot go on there",
                self.progress.bytes()
            )));
        }
        self.tag = None;
        self.progress.start_again();
        Ok(())
    }
}

/// The first byte that an answer with a part of the file brings.
fn starts_at(answer: &Response) -> Option<u64> {
    let range = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
