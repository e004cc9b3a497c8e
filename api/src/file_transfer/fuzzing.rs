//! The reader of upload forms for `tests/fuzz`: bytes in, parts out, without a request.

use super::form::Form;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actors::file_transfer::Target;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use std::{pin::Pin, time::Duration};

/// Long enough never to pass: the bytes are there already.
const DEADLINE: Duration = Duration::from_mins(10);

thread_local! {
    static RUNTIME: actix_rt::Runtime = actix_rt::Runtime::new().expect("a runtime");
}

/// Reads a form of boundary `b` whose body comes in these pieces: where the file goes, and its bytes. An error is what the
/// client would be told.
///
/// # Errors
/// If the body is no form with a path and a file in it.
pub fn read_form(pieces: Vec<Bytes>, limit: u64) -> Result<(Target, Vec<u8>), String> {
    RUNTIME.with(|runtime| runtime.block_on(read(pieces, limit))).map_err(|error| error.to_string())
}

async fn read(pieces: Vec<Bytes>, limit: u64) -> Result<(Target, Vec<u8>), crate::ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=b"));
    let stream: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> =
        Box::pin(stream::iter(pieces.into_iter().map(Ok)));
    let body = Payload::Stream { payload: stream };
    let mut form = Form::read(&headers, body, limit, DEADLINE)?;
    let (target, mut file) = form.until_file().await?;
    let mut bytes = Vec::new();
    while let Some(piece) = file.next().await {
        bytes.extend_from_slice(&piece?);
    }
    drop(file);
    form.pass_over_rest().await;
    Ok((target, bytes))
}
