//! Files by link: whoever has the link needs no token. Artifacts and uploads only for object stores without a server of
//! their own; configurations, which the hub writes while they are fetched, always.

use std::ops::Range;

use actix_web::http::header::{self, HeaderMap};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use actors::artifact_file::{MEDIA_TYPE, configuration};
use actors::artifacts::{LinkRefusal, Target};
use bytes::Bytes;
use futures_util::StreamExt;
use storage::{clock, objects::attachment};

use super::no_such;
use crate::error::ApiError;
use crate::state::ApiState;

/// `GET` and `HEAD …/download/objects/{id}`: the file, or a part of it.
///
/// # Errors
/// 400 or 403 for a link that opens nothing, 404 for a file that is gone, 416 for a part that is not there.
pub async fn fetch(request: HttpRequest, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let Target::Fetch { object, file_name } = open(&request, &state)? else { return Err(no_such()) };
    let size = state.storage.objects.size(&object).await?.ok_or_else(no_such)?;
    let (mut answer, range) = begin(request.headers(), size, &file_name);
    let Some(range) = range else { return Ok(answer.finish()) };
    // The name changes when the file does.
    answer.insert_header((header::ETAG, format!("\"{}\"", object.rsplit('/').next().unwrap_or_default())));
    if request.method() == Method::HEAD {
        return Ok(answer.streaming(futures_util::stream::empty::<Result<web::Bytes, ApiError>>()));
    }
    Ok(answer.streaming(state.storage.objects.read(&object, range).map(|piece| piece.map_err(ApiError::from))))
}

/// `GET` and `HEAD …/download/configuration/{deployment}/{device type}/{device}`: an artifact with the configuration that a
/// deployment brings to a device, or a part of it. It is made anew each time, of the same bytes.
///
/// # Errors
/// 400 or 403 for a link that opens nothing, 404 for what is gone, 416 for a part that is not there.
pub async fn fetch_configuration(
    request: HttpRequest,
    path: web::Path<(String, String, String)>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    /// What it is to be saved as.
    const FILE_NAME: &str = "artifact.mender";
    let (deployment, device_type, device) = path.into_inner();
    let named = [deployment.as_str(), &device_type, &device];
    state.artifacts.open_configuration_link(named, request.query_string(), clock::now()).map_err(refused)?;
    let (Ok(deployment), Ok(device)) = (deployment.parse(), device.parse()) else { return Err(no_such()) };
    let deployed = state.storage.device_configs.deployed(deployment, device).await?.ok_or_else(no_such)?;
    let bytes = configuration::write(&deployed.artifact_name, &device_type, deployed.configuration);
    let bytes = Bytes::from(bytes.map_err(|error| ApiError::Internal(error.into()))?);
    let (mut answer, range) = begin(request.headers(), bytes.len() as u64, FILE_NAME);
    let Some(range) = range else { return Ok(answer.finish()) };
    let place = |place: u64| usize::try_from(place).expect("no further than the bytes in memory");
    Ok(answer.body(bytes.slice(place(range.start)..place(range.end))))
}

/// Begins the answer that serves a file, and says which part of it is asked for; without one, the answer is whole.
fn begin(headers: &HeaderMap, size: u64, file_name: &str) -> (HttpResponseBuilder, Option<Range<u64>>) {
    let (mut answer, range) = match wanted(headers, size) {
        Wanted::All => (HttpResponse::Ok(), 0..size),
        Wanted::Part(range) => {
            let mut answer = HttpResponse::PartialContent();
            let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            answer.insert_header((header::CONTENT_RANGE, content_range));
            (answer, range)
        }
        Wanted::Nothing => {
            let mut answer = HttpResponse::RangeNotSatisfiable();
            answer.insert_header((header::CONTENT_RANGE, format!("bytes */{size}")));
            return (answer, None);
        }
    };
    answer
        .content_type(MEDIA_TYPE)
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::CONTENT_DISPOSITION, attachment(file_name)))
        .no_chunking(range.end - range.start);
    (answer, Some(range))
}

/// `PUT …/download/uploads/{id}`: the file of an upload that was announced.
///
/// # Errors
/// 400 or 403 for a link that opens nothing, 404 for an upload that is none any more, 413.
pub async fn bring(
    request: HttpRequest,
    state: web::Data<ApiState>,
    mut body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let Target::Bring(number) = open(&request, &state)? else { return Err(no_such()) };
    let deadline = state.artifacts.config().deadline;
    let body = async_pieces(&mut body, deadline);
    if state.artifacts.bring(number, Box::pin(body)).await? { Ok(HttpResponse::Ok().finish()) } else { Err(no_such()) }
}

fn async_pieces(
    body: &mut web::Payload,
    deadline: std::time::Duration,
) -> impl futures_util::Stream<Item = Result<web::Bytes, ApiError>> {
    futures_util::stream::unfold(Some(body), move |body| async move {
        let body = body?;
        match tokio::time::timeout(deadline, body.next()).await {
            Err(_) => Some((Err(ApiError::TooSlow), None)),
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(_))) => Some((Err(ApiError::bad_request("cannot read the request body")), None)),
        }
    })
}

fn open(request: &HttpRequest, state: &ApiState) -> Result<Target, ApiError> {
    let method = request.method().as_str();
    state.artifacts.open_link(method, request.path(), request.query_string(), clock::now()).map_err(refused)
}

fn refused(refusal: LinkRefusal) -> ApiError {
    let status = match refusal {
        LinkRefusal::Malformed => StatusCode::BAD_REQUEST,
        LinkRefusal::Expired | LinkRefusal::Forged => StatusCode::FORBIDDEN,
    };
    ApiError::Other(status, refusal.to_string().into())
}

/// Which bytes are asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    /// None that are there.
    Nothing,
}

/// One range is served, as RFC 9110 section 14 has it; several, or what is none, as if none was asked for. A range of an older
/// state (`If-Range`) cannot be meant: a link shows one file for ever.
fn wanted(headers: &HeaderMap, size: u64) -> Wanted {
    let Some(range) = headers.get(header::RANGE) else { return Wanted::All };
    let spec = range.to_str().ok().and_then(|range| range.trim().strip_prefix("bytes="));
    let Some((first, last)) = spec.and_then(|spec| spec.trim().split_once('-')) else { return Wanted::All };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More than any file has is as good as the end.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first.is_empty(), last.is_empty()) {
        (false, true) => number(first).map(|first| first..size),
        (true, false) => number(last).map(|last| size.saturating_sub(last)..size),
        (false, false) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(size)),
            _ => None,
        },
        (true, true) => None,
    };
    match range {
        None => Wanted::All,
        Some(range) if range.start >= range.end => Wanted::Nothing,
        Some(range) => Wanted::Part(range),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn of(range: &str, size: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
        wanted(&headers, size)
    }

    #[test]
    fn ranges_are_read_as_clients_write_them() {
        assert_eq!(wanted(&HeaderMap::new(), 10), Wanted::All);
        assert_eq!(of("bytes=3-9", 10), Wanted::Part(3..10));
        assert_eq!(of("bytes=3-", 10), Wanted::Part(3..10));
        assert_eq!(of("bytes=0-0", 10), Wanted::Part(0..1));
        assert_eq!(of("bytes=3-99999999999999999999999", 10), Wanted::Part(3..10));
        assert_eq!(of("bytes=-4", 10), Wanted::Part(6..10));
        assert_eq!(of("bytes=-40", 10), Wanted::Part(0..10));
        for range in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(of(range, 10), Wanted::Nothing, "{range}");
        }
        for range in ["bytes=", "bytes=-", "bytes=4-3", "bytes=a-b", "bytes=0-1,3-4", "bits=0-1", "bytes=+1-2"] {
            assert_eq!(of(range, 10), Wanted::All, "{range}");
        }
        assert_eq!(of("bytes=0-", 0), Wanted::Nothing);
    }
}
