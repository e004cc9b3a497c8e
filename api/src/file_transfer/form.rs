//! The form of an upload to a device: parts in any order up to the file.

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap};
use actors::file_transfer::Target;

use super::check_path;
use crate::error::ApiError;
use crate::form;
pub(super) use crate::form::File;

/// Bytes in a part other than the file.
const VALUE_LIMIT: usize = 4096;

/// Bytes of a file's name: what file systems take.
const NAME_LIMIT: usize = 255;

/// A form that is being read.
pub(super) struct Form(form::Form);

impl Form {
    /// The form in a request's body, of at most `limit` bytes. Nobody waits longer than `deadline` for the next of them.
    pub(super) fn read(headers: &HeaderMap, body: Payload, limit: u64, deadline: Duration) -> Result<Self, ApiError> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = multer::parse_boundary(kind)
            .map_err(|_| ApiError::bad_request("request Content-Type isn't multipart/form-data"))?;
        form::Form::with_boundary(headers, boundary, body, limit, deadline).map(Self)
    }

    /// Reads up to the file: where it goes, and its bytes.
    pub(super) async fn until_file(&mut self) -> Result<(Target, File), ApiError> {
        let mut target = Target { path: String::new(), name: None, uid: None, gid: None, mode: None };
        while let Some(mut field) = self.0.next_part().await? {
            let name = field.name().unwrap_or_default().to_owned();
            match name.as_str() {
                "path" => target.path = self.0.value(&mut field, "path", VALUE_LIMIT).await?,
                "uid" => target.uid = Some(decimal("uid", &self.0.value(&mut field, "uid", VALUE_LIMIT).await?)?),
                "gid" => target.gid = Some(decimal("gid", &self.0.value(&mut field, "gid", VALUE_LIMIT).await?)?),
                "mode" => target.mode = Some(octal(&self.0.value(&mut field, "mode", VALUE_LIMIT).await?)?),
                "file" => {
                    check_path(&target.path)?;
                    target.name = base_name(field.file_name().unwrap_or_default())?;
                    return Ok((target, self.0.file(field)));
                }
                _ => self.0.pass_over(&mut field).await?,
            }
        }
        check_path(&target.path)?;
        Err(ApiError::bad_request("file: upload file is required."))
    }

    /// Reads to the end and forgets it. What is wrong with it no longer matters.
    pub(super) async fn pass_over_rest(self) {
        self.0.pass_over_rest().await;
    }
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
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};

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
