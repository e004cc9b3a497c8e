//! Request bodies: their type checked, their size bounded, their JSON read.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{FromRequest, HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use mime::Mime;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::state::ApiState;

/// How long a body within the limit may take. Devices on slow links send a few hundred bytes; this is for the others.
const BODY_DEADLINE: Duration = Duration::from_mins(1);

/// The bytes of a body that says it is JSON, or of none.
#[derive(Debug)]
pub struct RawJson(pub Bytes);

impl FromRequest for RawJson {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limit = usize::try_from(ApiState::of(request).config.body_limit).unwrap_or(usize::MAX);
        let type_of_body = content_type(request.headers());
        let announced = content_length(request.headers()).is_some_and(|length| length > 0);
        let payload = payload.take();
        Box::pin(async move {
            // A wrong type is refused before its bytes are awaited, if it is known that there are any.
            if announced {
                type_of_body.map_err(WrongType::into_error)?;
            }
            let read = tokio::time::timeout(BODY_DEADLINE, read(payload, limit));
            let bytes = read.await.map_err(|_| ApiError::TooSlow)??;
            if !bytes.is_empty() {
                type_of_body.map_err(WrongType::into_error)?;
            }
            Ok(Self(bytes))
        })
    }
}

/// The bytes of a body whose type does not matter: that of a DELETE. (Mender API: the web UI sends such.)
#[derive(Debug)]
pub struct UntypedJson(pub RawJson);

impl FromRequest for UntypedJson {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limit = usize::try_from(ApiState::of(request).config.body_limit).unwrap_or(usize::MAX);
        let payload = payload.take();
        Box::pin(async move {
            let read = tokio::time::timeout(BODY_DEADLINE, read(payload, limit));
            Ok(Self(RawJson(read.await.map_err(|_| ApiError::TooSlow)??)))
        })
    }
}

impl RawJson {
    /// Whether there is no body at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The JSON object in the body. Unknown members are ignored.
    ///
    /// # Errors
    /// A 400 whose text starts with `what` failed.
    pub fn object<T: DeserializeOwned>(&self, what: &str) -> Result<T, ApiError> {
        self.starting_with(b'{', "expected an object", what)
    }

    /// The JSON array in the body.
    ///
    /// # Errors
    /// A 400 whose text starts with `what` failed.
    pub fn array<T: DeserializeOwned>(&self, what: &str) -> Result<Vec<T>, ApiError> {
        self.starting_with(b'[', "expected an array", what)
    }

    /// Our JSON reader would also fill a struct from an array, member by member; no client means that.
    fn starting_with<T: DeserializeOwned>(&self, first: u8, otherwise: &str, what: &str) -> Result<T, ApiError> {
        let failed = |why: &dyn Display| ApiError::bad_request(format!("{what}: {why}"));
        let Some(begin) = self.0.iter().find(|byte| !byte.is_ascii_whitespace()) else {
            return Err(failed(&"the body is empty"));
        };
        if *begin != first {
            return Err(failed(&otherwise));
        }
        serde_json::from_slice(&self.0).map_err(|error| failed(&error))
    }
}

/// The length the client announced.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// An answer with a JSON body. (Mender API: the type names its charset.)
pub fn answer_json(answer: &mut HttpResponseBuilder, body: &impl Serialize) -> HttpResponse {
    answer.content_type("application/json; charset=utf-8").json(body)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WrongType {
    Unreadable,
    Other,
}

impl WrongType {
    const fn into_error(self) -> ApiError {
        match self {
            Self::Unreadable => ApiError::BadRequest(Cow::Borrowed(
                "Invalid value for Content-Type header: expected 'application/json'",
            )),
            Self::Other => ApiError::UnsupportedMediaType,
        }
    }
}

/// JSON may be announced with parameters, such as a charset, and in any case.
fn content_type(headers: &HeaderMap) -> Result<(), WrongType> {
    let value = headers.get(header::CONTENT_TYPE).ok_or(WrongType::Unreadable)?;
    let value: Mime = value.to_str().ok().and_then(|value| value.parse().ok()).ok_or(WrongType::Unreadable)?;
    if value.essence_str() == "application/json" { Ok(()) } else { Err(WrongType::Other) }
}

async fn read(mut payload: Payload, limit: usize) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| ApiError::bad_request("cannot read the request body"))?;
        if body.len() + chunk.len() > limit {
            return Err(ApiError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use serde::Deserialize;

    use super::*;

    fn kind(value: &str) -> Result<(), WrongType> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(value).unwrap());
        content_type(&headers)
    }

    #[test]
    fn json_is_accepted_with_parameters_and_in_any_case() {
        for value in ["application/json", "application/json; charset=UTF-8", "Application/JSON;charset=utf-8"] {
            assert_eq!(kind(value), Ok(()), "{value}");
        }
    }

    #[test]
    fn other_types_and_no_type_are_told_apart() {
        assert_eq!(kind("text/plain"), Err(WrongType::Other));
        assert_eq!(kind("application/json-patch+json"), Err(WrongType::Other));
        assert_eq!(kind("json"), Err(WrongType::Unreadable));
        assert_eq!(kind(""), Err(WrongType::Unreadable));
        assert_eq!(content_type(&HeaderMap::new()), Err(WrongType::Unreadable));
        assert!(WrongType::Unreadable.into_error().to_string().starts_with("Invalid value for Content-Type header"));
    }

    #[derive(Debug, Deserialize)]
    struct Wish {
        status: String,
    }

    #[test]
    fn only_an_object_is_an_object() {
        let parse =
            |text: &'static str| RawJson(Bytes::from_static(text.as_bytes())).object::<Wish>("cannot read wish");
        assert_eq!(parse(r#" {"status":"accepted","more":1}"#).unwrap().status, "accepted");
        for text in ["", "null", r#""accepted""#, r#"["accepted"]"#, "{", r#"{"status":1}"#, "{}"] {
            assert!(parse(text).unwrap_err().to_string().starts_with("cannot read wish: "), "{text}");
        }
    }
}
