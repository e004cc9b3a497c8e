//! Carries out what [`Download`] and [`Upload`] decide: one session on the device, one deadline at a time, one HTTP body.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use storage::SessionKind;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::peer::{Peer, Whom};
use super::{ACK_EVERY, Config, Download, Failure, FileInfo, Target, Upload, download, upload};
use crate::gate::Gate;
use crate::session::host;

/// How long after the last acknowledgement of an upload a failure to give the file its name, owner or mode is waited for.
const GRACE: Duration = Duration::from_millis(200);

/// A download's answer begins when more than this was received: until then a refusal can still be told as one.
const CERTAIN: i64 = 4096;

/// Transfers files. Cloning is cheap.
#[derive(Clone)]
pub struct Transfers {
    pub(super) parts: host::Parts,
    pub(super) gate: Gate,
    config: Config,
}

/// A regular file on a device, and the session in which it was found. Dropping this ends the session.
pub struct Found {
    /// What the device says about it.
    pub info: FileInfo,
    peer: Peer,
    machine: Download,
    deadline: Duration,
}

/// The bytes of a file as they come. It ends after the last byte, and with an error when that never comes.
#[derive(Debug)]
pub struct Contents {
    pieces: mpsc::Receiver<Piece>,
    state: ContentsState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContentsState {
    Flowing,
    /// Broken off; whoever reads has yet to be told.
    BrokenOff,
    Over,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    /// Without this the end of the channel is the end of whoever filled it, not of the file.
    End,
}

/// The transfer broke off after its beginning had been handed on.
#[derive(Debug, thiserror::Error)]
#[error("the file transfer broke off")]
pub struct BrokenOff;

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError<E> {
    /// By the device, or on the way to it.
    #[error(transparent)]
    Device(#[from] Failure),
    /// The file could not be read to its end.
    #[error("cannot read the file")]
    Input(#[source] E),
    /// The file did not come.
    #[error("the file did not come in time")]
    InputTooSlow,
}

impl Transfers {
    /// Transfers in sessions of this node.
    pub fn new(parts: host::Parts, gate: Gate, config: Config) -> Self {
        Self { parts, gate, config }
    }

    /// The limits.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Looks for a regular file.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn find(&self, whom: Whom, path: String) -> Result<Found, Failure> {
        let deadline = self.config.deadline;
        let user = whom.user.clone();
        let mut peer = Peer::open(self, whom, SessionKind::FileDownload).await?;
        let (mut machine, open) = Download::start(peer.session(), user, path);
        peer.say(open)?;
        let mut until = Instant::now() + deadline;
        loop {
            let heard = tokio::select! {
                heard = peer.hear() => heard?,
                () = sleep_until(until) => return Err(Failure::TimedOut),
            };
            let Some(message) = heard else { continue };
            for effect in machine.hear(&message)? {
                match effect {
                    download::Effect::Found(info) => return Ok(Found { info, peer, machine, deadline }),
                    download::Effect::Answer(answer) => peer.say(answer)?,
                    download::Effect::Say(message) => {
                        until = Instant::now() + deadline;
                        peer.say(message)?;
                    }
                    download::Effect::Data(_) | download::Effect::Received | download::Effect::Finished => {}
                }
            }
        }
    }

    /// Sends a file to a device and waits until the device has it.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn upload<S, E>(&self, whom: Whom, target: Target, mut input: S) -> Result<(), UploadError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let deadline = self.config.deadline;
        let user = whom.user.clone();
        let mut peer = Peer::open(self, whom, SessionKind::FileUpload).await?;
        let (mut machine, open) = Upload::start(peer.session(), user, target);
        peer.say(open)?;
        let mut until = Instant::now() + deadline;
        while !machine.is_written() {
            while peer.is_clear()
                && let Some(chunk) = machine.next_chunk()
            {
                peer.say(chunk)?;
                peer.note_moved(machine.sent());
            }
            tokio::select! {
                heard = peer.hear() => {
                    let Some(message) = heard? else { continue };
                    for effect in machine.hear(&message)? {
                        match effect {
                            upload::Effect::Answer(answer) => peer.say(answer)?,
                            upload::Effect::Advanced => until = Instant::now() + deadline,
                            upload::Effect::Say(message) => {
                                until = Instant::now() + deadline;
                                peer.say(message)?;
                            }
                        }
                    }
                }
                // A device that takes nothing leaves the client waiting, and so does one whose socket is behind.
                piece = input.next(), if machine.wants_input() && peer.is_clear() => {
                    match piece {
                        Some(Ok(piece)) => machine.feed(&piece),
                        Some(Err(error)) => return Err(UploadError::Input(error)),
                        None => machine.end_input(),
                    }
                    until = Instant::now() + deadline;
                }
                () = sleep_until(until) => {
                    let is_the_clients_turn = machine.wants_input() && peer.is_clear();
                    return Err(if is_the_clients_turn { UploadError::InputTooSlow } else { Failure::TimedOut.into() });
                }
            }
        }
        match timeout(GRACE, late_failure(&mut peer, &mut machine)).await {
            Ok(failure) => Err(failure.into()),
            Err(_) => Ok(()),
        }
    }
}

/// What goes wrong after everything was written.
async fn late_failure(peer: &mut Peer, machine: &mut Upload) -> Failure {
    loop {
        match peer.hear().await {
            Ok(None) => {}
            Ok(Some(message)) => {
                if let Err(failure) = machine.hear(&message) {
                    return failure;
                }
            }
            Err(failure) => return failure,
        }
    }
}

impl Found {
    /// Fetches the file from byte `skip` on. Comes back when it is certain that the device sends it.
    ///
    /// # Errors
    /// When the device does not: see [`Failure`].
    pub async fn fetch(self, skip: i64) -> Result<Contents, Failure> {
        let (sender, pieces) = mpsc::channel(ACK_EVERY);
        let (begun, beginning) = oneshot::channel();
        let fetch = Fetch { queue: VecDeque::new(), skip, begun: Some(begun), pieces: sender };
        actix::spawn(fetch.run(self));
        // While this waits, nobody takes pieces; but no more can come than there is room for.
        beginning.await.unwrap_or(Err(Failure::OutOfStep("the transfer ended by a fault")))?;
        Ok(Contents { pieces, state: ContentsState::Flowing })
    }
}

/// A download under way, in a task of its own: a client that takes its time must not keep pings from being answered.
struct Fetch {
    /// What was received and is not yet in the channel: the bytes to hand on, and how long their chunk was.
    queue: VecDeque<(Bytes, usize)>,
    /// Bytes that are still to be left out.
    skip: i64,
    /// Told when the answer may begin.
    begun: Option<oneshot::Sender<Result<(), Failure>>>,
    pieces: mpsc::Sender<Piece>,
}

impl Fetch {
    async fn run(mut self, found: Found) {
        match self.transfer(found).await {
            Ok(()) => {
                self.begin();
                // The session is over by now; a client that takes the last bytes slowly keeps nobody waiting.
                let _ = self.pieces.send(Piece::End).await;
            }
            Err(failure) => {
                debug!(%failure, "a download failed");
                if let Some(begun) = self.begun.take() {
                    // Whoever asked may be gone.
                    let _ = begun.send(Err(failure));
                    return;
                }
                // A client that comes back for the rest should have to ask for little again.
                for (piece, _) in std::mem::take(&mut self.queue) {
                    if self.pieces.send(Piece::Data(piece)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn transfer(&mut self, found: Found) -> Result<(), Failure> {
        let Found { mut peer, mut machine, deadline, .. } = found;
        peer.say(machine.fetch())?;
        let mut until = Instant::now() + deadline;
        loop {
            let effects = tokio::select! {
                heard = peer.hear() => match heard? {
                    Some(message) => machine.hear(&message)?,
                    None => continue,
                },
                permit = self.pieces.reserve(), if !self.queue.is_empty() => {
                    let (Ok(permit), Some((piece, len))) = (permit, self.queue.pop_front()) else {
                        return Err(Failure::ClientGone);
                    };
                    permit.send(Piece::Data(piece));
                    // The time in which the client took nothing was not the device's.
                    until = Instant::now() + deadline;
                    machine.taken(len)
                }
                () = self.pieces.closed() => return Err(Failure::ClientGone),
                () = sleep_until(until), if self.queue.is_empty() => return Err(Failure::TimedOut),
            };
            for effect in effects {
                if !matches!(effect, download::Effect::Answer(_)) {
                    until = Instant::now() + deadline;
                }
                if self.carry_out(effect, &mut peer, &mut machine)? == Progress::Finished {
                    peer.note_moved(machine.received());
                    peer.settle().await;
                    return Ok(());
                }
            }
            peer.note_moved(machine.received());
            if machine.received() > CERTAIN {
                self.begin();
            }
        }
    }

    fn carry_out(
        &mut self,
        effect: download::Effect,
        peer: &mut Peer,
        machine: &mut Download,
    ) -> Result<Progress, Failure> {
        match effect {
            download::Effect::Say(message) | download::Effect::Answer(message) => peer.say(message)?,
            download::Effect::Data(chunk) => {
                let len = chunk.len();
                let left_out = usize::try_from(self.skip).unwrap_or(usize::MAX).min(len);
                self.skip -= i64::try_from(left_out).unwrap_or(0);
                if left_out < len {
                    self.queue.push_back((chunk.slice(left_out..), len));
                } else {
                    for effect in machine.taken(len) {
                        if self.carry_out(effect, peer, machine)? == Progress::Finished {
                            return Ok(Progress::Finished);
                        }
                    }
                }
            }
            download::Effect::Received => self.begin(),
            download::Effect::Finished => return Ok(Progress::Finished),
            download::Effect::Found(_) => {}
        }
        Ok(Progress::UnderWay)
    }

    fn begin(&mut self) {
        if let Some(begun) = self.begun.take() {
            // Whoever asked may be gone; the channel is closed then.
            let _ = begun.send(Ok(()));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    UnderWay,
    Finished,
}

impl Stream for Contents {
    type Item = Result<Bytes, BrokenOff>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.state {
            ContentsState::Over => return Poll::Ready(None),
            ContentsState::BrokenOff => {
                self.state = ContentsState::Over;
                return Poll::Ready(Some(Err(BrokenOff)));
            }
            ContentsState::Flowing => {}
        }
        match self.pieces.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Piece::Data(bytes))) => Poll::Ready(Some(Ok(bytes))),
            Poll::Ready(Some(Piece::End)) => {
                self.state = ContentsState::Over;
                Poll::Ready(None)
            }
            Poll::Ready(None) => {
                // The server throws away what it has not written when the body fails. When there is nothing to read for a
                // moment, it writes first.
                self.state = ContentsState::BrokenOff;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn contents_without_an_end_are_broken_off() {
        let (sender, pieces) = mpsc::channel(2);
        let mut contents = Contents { pieces, state: ContentsState::Flowing };
        sender.send(Piece::Data(Bytes::from_static(b"x"))).await.unwrap();
        drop(sender);
        assert_eq!(contents.next().await.unwrap().unwrap(), "x");
        assert!(contents.next().await.unwrap().is_err());
        assert!(contents.next().await.is_none());

        let (sender, pieces) = mpsc::channel(2);
        let mut contents = Contents { pieces, state: ContentsState::Flowing };
        sender.send(Piece::End).await.unwrap();
        drop(sender);
        assert!(contents.next().await.is_none());
    }
}
