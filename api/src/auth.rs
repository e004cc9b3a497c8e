//! Who is asking: the token in a request's headers, and the extractors that give handlers a verified caller.
//!
//! [`crate::middleware::authenticate()`] verifies the token that the path calls for and puts the identity into the
//! request; the extractors only take it out again. No handler ever sees a token that nobody verified.

use std::borrow::Cow;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use actors::gate::{DeviceIdentity, Refusal, UserIdentity};

use crate::error::{ApiError, Text};

/// The cookie in which the web UI hands its token to a websocket. (Mender API: terminal and playback.)
const USER_COOKIE: &str = "JWT";

/// How much of an unknown scheme is repeated to the caller.
const ECHOED_SCHEME: usize = 32;

/// The device that makes this request.
#[derive(Debug, Clone)]
pub struct AuthenticatedDevice(pub DeviceIdentity);

/// The user who makes this request.
#[derive(Debug, Clone)]
pub struct AuthenticatedUser(pub UserIdentity);

impl FromRequest for AuthenticatedDevice {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.extensions().get::<Self>().cloned().ok_or_else(|| ApiError::TokenRefused(nobody())))
    }
}

impl FromRequest for AuthenticatedUser {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.extensions().get::<Self>().cloned().ok_or_else(|| ApiError::TokenRefused(nobody())))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Refused(text) => Self::TokenRefused(Cow::Borrowed(text)),
            // Not a 401, for which the web UI would log its user out.
            Refusal::OutOfScope => Self::Other(StatusCode::FORBIDDEN, Cow::Borrowed("unauthorized")),
            Refusal::Unavailable(error) => error.into(),
        }
    }
}

/// The token of a device: only ever in the `Authorization` header.
///
/// # Errors
/// What is wrong with the header, for the body of the 401.
pub fn device_token(headers: &HeaderMap) -> Result<&str, Text> {
    match authorization(headers)? {
        Some(value) => bearer(value),
        None => Err(nobody()),
    }
}

/// The token of a user: in the `Authorization` header or, when that is absent or empty, in the cookie of the web UI.
///
/// # Errors
/// What is wrong with the header, for the body of the 401.
pub fn user_token(headers: &HeaderMap) -> Result<&str, Text> {
    match authorization(headers)? {
        Some(value) => bearer(value),
        None => cookie(headers, USER_COOKIE).ok_or_else(nobody),
    }
}

/// Whether the user's token comes from the cookie, which browsers send along whoever's page asks.
pub fn uses_cookie(headers: &HeaderMap) -> bool {
    matches!(authorization(headers), Ok(None)) && cookie(headers, USER_COOKIE).is_some()
}

/// The header's value, `None` when it is absent or empty.
fn authorization(headers: &HeaderMap) -> Result<Option<&str>, Text> {
    let mut values = headers.get_all(header::AUTHORIZATION);
    let Some(value) = values.next() else { return Ok(None) };
    // Two headers are two opinions; whichever we took, a proxy in front may have taken the other.
    if values.next().is_some() {
        return Err(malformed());
    }
    let value = value.to_str().map_err(|_| malformed())?;
    Ok(Some(value).filter(|value| !value.is_empty()))
}

/// The token after `Bearer`, which may be spelled in any case and is followed by exactly one space.
fn bearer(value: &str) -> Result<&str, Text> {
    let (scheme, token) = value.split_once(' ').ok_or_else(malformed)?;
    if token.contains(' ') {
        return Err(malformed());
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        let scheme: String = scheme.chars().take(ECHOED_SCHEME).collect();
        return Err(format!("unknown Authorization method {scheme}").into());
    }
    if token.is_empty() {
        return Err(Cow::Borrowed("identity: incorrect token format"));
    }
    Ok(token)
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value.trim_matches('"'))
        .filter(|value| !value.is_empty())
}

const fn nobody() -> Text {
    Cow::Borrowed("Authorization not present in header")
}

const fn malformed() -> Text {
    Cow::Borrowed("malformed Authorization header")
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(header::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn text(result: Result<&str, Text>) -> String {
        result.unwrap_err().into_owned()
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            assert_eq!(device_token(&headers(&[("authorization", value)])).unwrap(), "a.b.c");
        }
    }

    #[test]
    fn every_wrong_header_is_told_apart() {
        assert_eq!(text(device_token(&headers(&[]))), "Authorization not present in header");
        for value in ["Bearer", "Bearer  a.b.c", "Bearer a b", "a.b.c"] {
            assert_eq!(
                text(user_token(&headers(&[("authorization", value)]))),
                "malformed Authorization header",
                "{value}"
            );
        }
        assert_eq!(text(user_token(&headers(&[("authorization", "Basic abc")]))), "unknown Authorization method Basic");
        assert_eq!(text(user_token(&headers(&[("authorization", "Bearer ")]))), "identity: incorrect token format");
        let two = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
        assert_eq!(text(user_token(&two)), "malformed Authorization header");
    }

    #[test]
    fn the_cookie_counts_for_users_without_a_header() {
        let with_cookie = headers(&[("cookie", "theme=dark; JWT=a.b.c")]);
        assert_eq!(user_token(&with_cookie).unwrap(), "a.b.c");
        assert!(uses_cookie(&with_cookie));

        let empty_header = headers(&[("authorization", ""), ("cookie", "JWT=a.b.c")]);
        assert_eq!(user_token(&empty_header).unwrap(), "a.b.c");

        let both = headers(&[("authorization", "Bearer x.y.z"), ("cookie", "JWT=a.b.c")]);
        assert_eq!(user_token(&both).unwrap(), "x.y.z");
        assert!(!uses_cookie(&both));

        let wrong_header = headers(&[("authorization", "Basic x"), ("cookie", "JWT=a.b.c")]);
        assert!(user_token(&wrong_header).is_err());
        assert!(user_token(&headers(&[("cookie", "XJWT=a.b.c; JWT=")])).is_err());
    }

    #[test]
    fn the_cookie_never_counts_for_devices() {
        assert_eq!(text(device_token(&headers(&[("cookie", "JWT=a.b.c")]))), "Authorization not present in header");
    }

    #[test]
    fn a_long_scheme_is_not_repeated_whole() {
        let value: &'static str = Box::leak(format!("{} token", "x".repeat(5000)).into_boxed_str());
        assert!(text(device_token(&headers(&[("authorization", value)]))).len() < 100);
    }
}
