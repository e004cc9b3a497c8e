//! Forms that bring a file, read as they come: the file is passed on piece by piece, and everything else is bounded.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use mime::Mime;
use multer::{Field, Multipart};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::body::content_length;
use crate::error::ApiError;

/// Bytes that may be read without any of them being the content of a part: the headers of a part, and what is in front of
/// the first one.
const OVERHEAD_LIMIT: usize = 64 * 1024;

/// A form that is being read.
pub struct Form {
    parts: Multipart<'static>,
    deadline: Duration,
    /// Bytes read since something of a part was last handed on.
    unused: Arc<AtomicUsize>,
}

/// A part whose content has not been read yet.
pub type Part = Field<'static>;

/// The content of a part, piece by piece.
pub struct File {
    /// `None` once it failed: the reader of the form would fail again and again.
    field: Option<Field<'static>>,
    unused: Arc<AtomicUsize>,
    deadline: Option<Duration>,
    waiting: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// Why the body cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unreadable {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body ends early")]
    CutShort,
    #[error("the headers of a part are too large")]
    Overhead,
}

impl Form {
    /// The form in a request's body, of at most `limit` bytes. Nobody waits longer than `deadline` for the next of them.
    ///
    /// # Errors
    /// 415 if the body is no form, 413 if it says that it is too large.
    pub fn read(headers: &HeaderMap, body: Payload, limit: u64, deadline: Duration) -> Result<Self, ApiError> {
        let boundary = boundary(headers).ok_or(ApiError::NotAForm)?;
        Self::with_boundary(headers, boundary, body, limit, deadline)
    }

    /// As [`Form::read`], with a boundary that somebody else has found.
    ///
    /// # Errors
    /// 413 if the body says that it is too large.
    pub fn with_boundary(
        headers: &HeaderMap,
        boundary: String,
        body: Payload,
        limit: u64,
        deadline: Duration,
    ) -> Result<Self, ApiError> {
        if content_length(headers).is_some_and(|length| length > limit) {
            return Err(ApiError::TooLarge);
        }
        let unused = Arc::<AtomicUsize>::default();
        let parts = Multipart::new(bounded(body, limit, Arc::clone(&unused)), boundary);
        Ok(Self { parts, deadline, unused })
    }

    /// The next part; `None` after the last.
    ///
    /// # Errors
    /// 400, 408, 413.
    pub async fn next_part(&mut self) -> Result<Option<Part>, ApiError> {
        self.unused.store(0, Ordering::Relaxed);
        in_time(self.deadline, self.parts.next_field()).await
    }

    /// The content of a part that is a short text.
    ///
    /// # Errors
    /// 400 if it is longer than `most` bytes or no text; 408, 413.
    pub async fn value(&self, part: &mut Part, name: &str, most: usize) -> Result<String, ApiError> {
        let mut value = Vec::new();
        while let Some(piece) = self.next_piece(part).await? {
            if value.len() + piece.len() > most {
                return Err(ApiError::bad_request(format!("{name}: must be at most {most} bytes long.")));
            }
            value.extend_from_slice(&piece);
        }
        String::from_utf8(value).map_err(|_| ApiError::bad_request(format!("{name}: must be text.")))
    }

    /// Reads a part and forgets it.
    ///
    /// # Errors
    /// 400, 408, 413.
    pub async fn pass_over(&self, part: &mut Part) -> Result<(), ApiError> {
        while self.next_piece(part).await?.is_some() {}
        Ok(())
    }

    /// The content of a part that is a file. Whoever reads it decides how long to wait.
    pub fn file(&self, part: Part) -> File {
        File { field: Some(part), unused: Arc::clone(&self.unused), deadline: None, waiting: None }
    }

    /// As [`Form::file`]. It fails if the next piece does not come within the form's deadline.
    pub fn file_in_time(&self, part: Part) -> File {
        File { deadline: Some(self.deadline), ..self.file(part) }
    }

    /// Reads to the end and forgets it. What is wrong with it no longer matters.
    pub async fn pass_over_rest(mut self) {
        while let Ok(Some(mut part)) = self.next_part().await {
            if self.pass_over(&mut part).await.is_err() {
                return;
            }
        }
    }

    async fn next_piece(&self, field: &mut Part) -> Result<Option<Bytes>, ApiError> {
        self.unused.store(0, Ordering::Relaxed);
        in_time(self.deadline, field.chunk()).await
    }
}

/// Where a form's parts meet, if a request has one: `multipart/form-data` or, as some clients write, `multipart/mixed`.
fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind: Mime = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.parse().ok()?;
    let is_form = kind.type_() == mime::MULTIPART && matches!(kind.subtype().as_str(), "form-data" | "mixed");
    let boundary = kind.get_param(mime::BOUNDARY)?.as_str().to_owned();
    // (RFC 2046 section 5.1.1)
    (is_form && (1..=70).contains(&boundary.len())).then_some(boundary)
}

impl Stream for File {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.unused.store(0, Ordering::Relaxed);
        let Some(field) = &mut self.field else { return Poll::Ready(None) };
        let piece = match field.poll_next_unpin(cx).map_err(from_multipart) {
            Poll::Ready(piece) => piece,
            Poll::Pending => {
                let Some(deadline) = self.deadline else { return Poll::Pending };
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(deadline)));
                if waiting.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                Some(Err(ApiError::TooSlow))
            }
        };
        self.waiting = None;
        if matches!(piece, Some(Err(_))) {
            self.field = None;
        }
        Poll::Ready(piece)
    }
}

async fn in_time<T>(deadline: Duration, reading: impl Future<Output = multer::Result<T>>) -> Result<T, ApiError> {
    timeout(deadline, reading).await.map_err(|_| ApiError::TooSlow)?.map_err(from_multipart)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn from_multipart(error: multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(cause) = &error
        && let Some(cause) = cause.downcast_ref::<Unreadable>()
    {
        return match cause {
            Unreadable::TooLarge => ApiError::TooLarge,
            Unreadable::CutShort => ApiError::bad_request("cannot read the request body"),
            Unreadable::Overhead => ApiError::bad_request(format!("cannot read the form: {cause}")),
        };
    }
    ApiError::bad_request(format!("cannot read the form: {error}"))
}

/// The body's pieces, one at a time: the next is read when the last was taken. The reader of the form takes whatever is
/// offered, and wants a stream that may change threads, which a request's body may not; so it is read by a task of its own.
fn bounded(
    mut body: Payload,
    limit: u64,
    unused: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, Unreadable>> + Send + 'static {
    let (sender, mut pieces) = mpsc::channel(1);
    actix_rt::spawn(async move {
        let mut left = limit;
        loop {
            let piece = tokio::select! {
                piece = body.next() => piece,
                // The request is answered.
                () = sender.closed() => return,
            };
            let piece = match piece {
                None => return,
                Some(Err(_)) => Err(Unreadable::CutShort),
                Some(Ok(piece)) => match left.checked_sub(piece.len() as u64) {
                    Some(rest) => {
                        left = rest;
                        Ok(piece)
                    }
                    None => Err(Unreadable::TooLarge),
                },
            };
            let is_last = piece.is_err();
            if sender.send(piece).await.is_err() || is_last {
                return;
            }
        }
    });
    stream::poll_fn(move |cx| {
        pieces.poll_recv(cx).map(|piece| {
            Some(piece?.and_then(|piece| {
                let before = unused.fetch_add(piece.len(), Ordering::Relaxed);
                if before > OVERHEAD_LIMIT { Err(Unreadable::Overhead) } else { Ok(piece) }
            }))
        })
    })
}
