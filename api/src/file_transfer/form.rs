//! The form of an upload, read as it comes: parts in any order up to the file, which is passed on piece by piece.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap};
use actors::file_transfer::Target;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use multer::{Field, Multipart};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::check_path;
use crate::body::content_length;
use crate::error::ApiError;

/// Bytes in a part other than the file.
const VALUE_LIMIT: usize = 4096;

/// Bytes of a file's name: what file systems take.
const NAME_LIMIT: usize = 255;

/// Bytes that may be read without any of them being the content of a part: the headers of a part, and what is in front of
/// the first one.
const OVERHEAD_LIMIT: usize = 64 * 1024;

/// A form that is being read.
pub(super) struct Form {
    parts: Multipart<'static>,
    deadline: Duration,
    /// Bytes read since something of a part was last handed on.
    unused: Arc<AtomicUsize>,
}

/// The file of a form.
pub(super) struct File {
    /// `None` once it failed: the reader of the form would fail again and again.
    field: Option<Field<'static>>,
    unused: Arc<AtomicUsize>,
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
    pub(super) fn read(headers: &HeaderMap, body: Payload, limit: u64, deadline: Duration) -> Result<Self, ApiError> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = multer::parse_boundary(kind)
            .map_err(|_| ApiError::bad_request("request Content-Type isn't multipart/form-data"))?;
        if content_length(headers).is_some_and(|length| length > limit) {
            return Err(ApiError::TooLarge);
        }
        let unused = Arc::<AtomicUsize>::default();
        let parts = Multipart::new(bounded(body, limit, Arc::clone(&unused)), boundary);
        Ok(Self { parts, deadline, unused })
    }

    /// Reads up to the file: where it goes, and its bytes.
    pub(super) async fn until_file(&mut self) -> Result<(Target, File), ApiError> {
        let mut target = Target { path: String::new(), name: None, uid: None, gid: None, mode: None };
        while let Some(mut field) = self.next_part().await? {
            let name = field.name().unwrap_or_default().to_owned();
            match name.as_str() {
                "path" => target.path = self.value(&mut field, "path").await?,
                "uid" => target.uid = Some(decimal("uid", &self.value(&mut field, "uid").await?)?),
                "gid" => target.gid = Some(decimal("gid", &self.value(&mut field, "gid").await?)?),
                "mode" => target.mode = Some(octal(&self.value(&mut field, "mode").await?)?),
                "file" => {
                    check_path(&target.path)?;
                    target.name = base_name(field.file_name().unwrap_or_default())?;
                    return Ok((target, File { field: Some(field), unused: Arc::clone(&self.unused) }));
                }
                _ => while self.next_piece(&mut field).await?.is_some() {},
            }
        }
        check_path(&target.path)?;
        Err(ApiError::bad_request("file: upload file is required."))
    }

    /// Reads to the end and forgets it. What is wrong with it no longer matters.
    pub(super) async fn pass_over_rest(mut self) {
        while let Ok(Some(mut field)) = self.next_part().await {
            while let Ok(Some(_)) = self.next_piece(&mut field).await {}
        }
    }

    async fn next_part(&mut self) -> Result<Option<Field<'static>>, ApiError> {
        self.unused.store(0, Ordering::Relaxed);
        in_time(self.deadline, self.parts.next_field()).await
    }

    async fn next_piece(&self, field: &mut Field<'static>) -> Result<Option<Bytes>, ApiError> {
        self.unused.store(0, Ordering::Relaxed);
        in_time(self.deadline, field.chunk()).await
    }

    async fn value(&self, field: &mut Field<'static>, name: &str) -> Result<String, ApiError> {
        let mut value = Vec::new();
        while let Some(piece) = self.next_piece(field).await? {
            if value.len() + piece.len() > VALUE_LIMIT {
                return Err(ApiError::bad_request(format!("{name}: must be at most {VALUE_LIMIT} bytes long.")));
            }
            value.extend_from_slice(&piece);
        }
        String::from_utf8(value).map_err(|_| ApiError::bad_request(format!("{name}: must be text.")))
    }
}

impl Stream for File {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.unused.store(0, Ordering::Relaxed);
        let Some(field) = &mut self.field else { return Poll::Ready(None) };
        let piece = field.poll_next_unpin(cx).map_err(from_multipart);
        if matches!(piece, Poll::Ready(Some(Err(_)))) {
            self.field = None;
        }
        piece
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

fn decimal(name: &str, text: &str) -> Result<u32, ApiError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| is_number)
        .ok_or_else(|| ApiError::bad_request(format!("{name}: must be a whole number from 0 to 4294967295.")))
}

fn octal(text: &str) -> Result<u32, ApiError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|_| is_number)
        .ok_or_else(|| ApiError::bad_request("mode: must be an octal number such as 644."))
}

/// The last part of the name that the client gives the file: what it is called in a folder on the device.
fn base_name(name: &str) -> Result<Option<String>, ApiError> {
    let base = name.rsplit('/').find(|part| !part.is_empty()).filter(|part| !matches!(*part, "." | ".."));
    match base {
        Some(base) if base.len() > NAME_LIMIT => {
            Err(ApiError::bad_request(format!("file: its name must be at most {NAME_LIMIT} bytes long.")))
        }
        base => Ok(base.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use actix_http::h1;
    use actix_web::ResponseError;
    use actix_web::error::PayloadError;
    use actix_web::http::header::HeaderValue;

    use super::*;

    const BOUNDARY: &str = "multipart/form-data; boundary=b";

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(BOUNDARY));
        headers
    }

    /// A body in these pieces.
    fn body(pieces: Vec<Result<Bytes, PayloadError>>) -> Payload {
        Payload::Stream { payload: Box::pin(stream::iter(pieces)) }
    }

    fn part(disposition: &str, value: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{value}\r\n")
    }

    fn field(name: &str, value: &str) -> String {
        part(&format!("name=\"{name}\""), value)
    }

    fn file(name: &str, value: &str) -> String {
        part(&format!("name=\"file\"; filename=\"{name}\""), value)
    }

    fn form_of(text: &str, limit: u64) -> Form {
        // Cut in the most awkward way.
        let pieces = text.bytes().map(|byte| Ok(Bytes::copy_from_slice(&[byte]))).collect();
        Form::read(&headers(), body(pieces), limit, Duration::from_secs(5)).unwrap()
    }

    async fn read(parts: &[String]) -> Result<(Target, String), ApiError> {
        let mut form = form_of(&(parts.concat() + "--b--\r\n"), 1 << 20);
        let (target, mut file) = form.until_file().await?;
        let mut contents = Vec::new();
        while let Some(piece) = file.next().await {
            contents.extend_from_slice(&piece?);
        }
        drop(file);
        form.pass_over_rest().await;
        Ok((target, String::from_utf8(contents).unwrap()))
    }

    #[actix_web::test]
    async fn parts_come_in_any_order_before_the_file() {
        let wanted = Target {
            path: "/srv".into(),
            name: Some("a.bin".into()),
            uid: Some(1000),
            gid: Some(0),
            mode: Some(0o600),
        };
        let [path, uid, gid, mode] =
            [field("path", "/srv"), field("uid", "1000"), field("gid", "0"), field("mode", "0600")];
        let unknown = field("colour", &"blue".repeat(10_000));
        let file = file("/home/me/a.bin", "con\r\n--tents");
        for parts in [
            vec![path.clone(), uid.clone(), gid.clone(), mode.clone(), file.clone()],
            vec![mode.clone(), gid.clone(), unknown.clone(), uid.clone(), path.clone(), file.clone(), unknown],
        ] {
            assert_eq!(read(&parts).await.unwrap(), (wanted.clone(), "con\r\n--tents".to_owned()));
        }
        // As `mender-cli` sends it.
        let (target, _) = read(&[path, file, mode]).await.unwrap();
        assert_eq!((target.mode, target.uid), (None, None));
    }

    #[actix_web::test]
    async fn what_is_wrong_with_a_part_is_said() {
        let (path, whole) = (field("path", "/x"), file("x", "y"));
        for (parts, text) in [
            (vec![whole.clone()], "path: cannot be blank."),
            (vec![whole.clone(), path.clone()], "path: cannot be blank."),
            (vec![field("path", "x"), whole.clone()], "path: must be absolute."),
            (vec![path.clone()], "file: upload file is required."),
            (
                vec![field("uid", "-1"), path.clone(), whole.clone()],
                "uid: must be a whole number from 0 to 4294967295.",
            ),
            (
                vec![field("gid", "+1"), path.clone(), whole.clone()],
                "gid: must be a whole number from 0 to 4294967295.",
            ),
            (vec![field("gid", "4294967296"), whole.clone()], "gid: must be a whole number from 0 to 4294967295."),
            (vec![field("uid", ""), whole.clone()], "uid: must be a whole number from 0 to 4294967295."),
            (vec![field("mode", "rwx"), whole.clone()], "mode: must be an octal number such as 644."),
            (vec![field("mode", "888"), whole.clone()], "mode: must be an octal number such as 644."),
            (vec![field("mode", "-644"), whole.clone()], "mode: must be an octal number such as 644."),
            (vec![field("mode", ""), whole.clone()], "mode: must be an octal number such as 644."),
            (vec![field("path", &"/x".repeat(3000)), whole.clone()], "path: must be at most 4096 bytes long."),
        ] {
            let error = read(&parts).await.unwrap_err();
            assert_eq!((error.status_code().as_u16(), error.to_string()), (400, text.to_owned()));
        }
        let long = file(&"n".repeat(256), "y");
        assert!(read(&[path, long]).await.unwrap_err().to_string().starts_with("file: its name"));
        assert_eq!(read(&[]).await.unwrap_err().to_string(), "path: cannot be blank.");
    }

    #[actix_web::test]
    async fn a_body_that_is_no_form_is_refused() {
        for kind in ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=b"] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
            let error = Form::read(&headers, body(vec![]), 10, Duration::from_secs(5)).err().unwrap();
            assert_eq!(error.to_string(), "request Content-Type isn't multipart/form-data", "{kind}");
        }
        for text in ["", "--b", "--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/x"] {
            let error = form_of(text, 1 << 20).until_file().await.err().unwrap();
            assert_eq!(error.status_code().as_u16(), 400, "{text:?}");
        }
    }

    #[actix_web::test]
    async fn a_body_beyond_the_limit_is_cut_off_and_one_that_says_so_is_not_read() {
        let mut form = form_of(&(field("path", "/x") + &file("x", &"y".repeat(2000))), 1000);
        let (_, mut file) = form.until_file().await.unwrap();
        let error = loop {
            if let Err(error) = file.next().await.expect("it does not end well") {
                break error;
            }
        };
        assert!(matches!(error, ApiError::TooLarge));

        let mut headers = headers();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("1001"));
        let refused = Form::read(&headers, body(vec![]), 1000, Duration::from_secs(5));
        assert!(matches!(refused.err(), Some(ApiError::TooLarge)));
    }

    #[actix_web::test]
    async fn headers_without_end_are_not_kept() {
        let endless = "--b\r\n".to_owned() + &"X-Header: x\r\n".repeat(20_000);
        let pieces = endless.as_bytes().chunks(4096).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut form = Form::read(&headers(), body(pieces), 1 << 30, Duration::from_secs(5)).unwrap();
        let error = form.until_file().await.err().unwrap();
        assert_eq!(error.to_string(), "cannot read the form: the headers of a part are too large");
    }

    #[actix_web::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let (_sender, payload) = h1::Payload::create(false);
        let mut form = Form::read(&headers(), payload.into(), 1000, Duration::from_millis(10)).unwrap();
        assert!(matches!(form.until_file().await.err(), Some(ApiError::TooSlow)));
    }

    #[actix_web::test]
    async fn a_client_that_goes_away_leaves_no_whole_file() {
        let begun = field("path", "/x") + "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf";
        for end in [vec![], vec![Err(PayloadError::Incomplete(None))]] {
            let mut pieces = vec![Ok(Bytes::from(begun.clone()))];
            pieces.extend(end);
            let mut form = Form::read(&headers(), body(pieces), 1 << 20, Duration::from_secs(5)).unwrap();
            let (_, file) = form.until_file().await.unwrap();
            let last = file.collect::<Vec<_>>().await.pop().unwrap();
            assert!(last.is_err());
        }
    }
}
