//! Everything that can go wrong with a request, and its one mapping to HTTP.

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use actors::concurrency_limit::Crowded;
use serde::Serialize;
use storage::{StorageError, clock};

/// What a caller is asked to wait when a backend is away: long enough for a failover, short enough to go unnoticed.
const RETRY_WHEN_UNAVAILABLE: Duration = Duration::from_secs(5);

/// The challenge of every refused token, devices' too. (Mender API: all clients know this realm.)
const CHALLENGE: &str = r#"Bearer realm="ManagementJWT""#;

/// Text for the `error` member of an answer.
pub type Text = Cow<'static, str>;

/// Why a request was not served. Each variant is one way of answering.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 400: the request itself is wrong.
    #[error("{0}")]
    BadRequest(Text),
    /// 400 to somebody who should have opened a websocket.
    #[error("{0}")]
    NotAWebsocket(&'static str),
    /// 401 for a token that is missing or refused, with a challenge.
    #[error("{0}")]
    TokenRefused(Text),
    /// 401 for anything else that was not believed: a password, a device's signature.
    #[error("{0}")]
    Unauthorized(Text),
    /// 404.
    #[error("{0}")]
    NotFound(Text),
    /// 405, with the methods that would work.
    #[error("method not allowed")]
    MethodNotAllowed(Vec<&'static str>),
    /// 406: none of the encodings the caller takes is known here.
    #[error("not acceptable")]
    NotAcceptable,
    /// 408: the body did not arrive in time.
    #[error("request body took too long")]
    TooSlow,
    /// 409.
    #[error("{0}")]
    Conflict(Text),
    /// 413. (Mender API: this text.)
    #[error("http: request body too large")]
    TooLarge,
    /// 415.
    #[error("Bad Content-Type, expected 'application/json'")]
    UnsupportedMediaType,
    /// 415 to somebody who should have sent a form.
    #[error("Bad Content-Type, expected 'multipart/form-data'")]
    NotAForm,
    /// Any other status, with members beside the text.
    #[error("{1}")]
    Detailed(StatusCode, Text, serde_json::Map<String, serde_json::Value>),
    /// 422: well-formed, but against a rule.
    #[error("{0}")]
    Unprocessable(Text),
    /// 426: the `Upgrade` header names another protocol.
    #[error("{0}")]
    UpgradeRequired(&'static str),
    /// 429, with the time to wait.
    #[error("{0}")]
    TooManyRequests(Text, Duration),
    /// Any other status that comes without headers of its own, with a text that clients look for.
    #[error("{1}")]
    Other(StatusCode, Text),
    /// 500; the cause goes to the log and never to the caller.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// 503, with the time to wait: a backend cannot be reached.
    #[error("service unavailable")]
    Unavailable,
    /// 503, with the time to wait: too many came at the same time.
    #[error("too busy")]
    Busy(Duration),
}

impl ApiError {
    /// The 404 of a path nobody serves.
    pub const fn not_found() -> Self {
        Self::NotFound(Cow::Borrowed("not found"))
    }

    /// A 400 with this text.
    pub fn bad_request(text: impl Into<Text>) -> Self {
        Self::BadRequest(text.into())
    }

    /// A 401 with this text, for a token.
    pub fn unauthorized(text: impl Into<Text>) -> Self {
        Self::TokenRefused(text.into())
    }

    /// A 404 with this text: the path is served, but not for this device, user or file.
    pub fn unknown(text: impl Into<Text>) -> Self {
        Self::NotFound(text.into())
    }

    /// A 429 for who asks too often, with the time until more is served.
    pub const fn too_many_requests(wait: Duration) -> Self {
        Self::TooManyRequests(Cow::Borrowed("too many requests"), wait)
    }

    /// The whole answer, for those who write responses without the framework: status, JSON body, and the headers beyond
    /// content type and request id. Logs the cause of a 500.
    pub fn parts(&self, request_id: &str) -> (StatusCode, String, Vec<(&'static str, String)>) {
        self.log();
        (self.status_code(), envelope(&self.to_string(), request_id), self.headers())
    }

    /// Names in lower case, which is how the framework wants them.
    fn headers(&self) -> Vec<(&'static str, String)> {
        let our_websocket = || ("sec-websocket-version", "13".to_owned());
        match self {
            Self::TokenRefused(_) => vec![("www-authenticate", CHALLENGE.to_owned())],
            Self::NotAWebsocket(_) => vec![our_websocket()],
            Self::UpgradeRequired(_) => vec![("upgrade", "websocket".to_owned()), our_websocket()],
            Self::MethodNotAllowed(allowed) => allowed.iter().map(|method| ("allow", (*method).to_owned())).collect(),
            Self::TooManyRequests(_, wait) | Self::Busy(wait) => vec![retry_after(*wait)],
            Self::Unavailable => vec![retry_after(RETRY_WHEN_UNAVAILABLE)],
            _ => vec![],
        }
    }

    /// The only place where the cause of a 500 is written down.
    fn log(&self) {
        if let Self::Internal(cause) = self {
            tracing::error!(error = &**cause as &dyn std::error::Error, "request failed");
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::NotAWebsocket(_) => StatusCode::BAD_REQUEST,
            Self::TokenRefused(_) | Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType | Self::NotAForm => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::UpgradeRequired(_) => StatusCode::UPGRADE_REQUIRED,
            Self::TooManyRequests(..) => StatusCode::TOO_MANY_REQUESTS,
            Self::Other(status, _) | Self::Detailed(status, ..) => *status,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable | Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Without a body: [`crate::middleware::envelope`] knows the request's id and writes it.
    fn error_response(&self) -> HttpResponse {
        self.log();
        let mut response = HttpResponse::new(self.status_code());
        for (name, value) in self.headers() {
            // Texts of ours, all of them in visible ASCII.
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().append(HeaderName::from_static(name), value);
            }
        }
        response.extensions_mut().insert(ErrorText(self.to_string()));
        if let Self::Detailed(_, _, members) = self {
            response.extensions_mut().insert(ErrorMembers(members.clone()));
        }
        response
    }
}

impl From<Crowded> for ApiError {
    fn from(crowded: Crowded) -> Self {
        Self::Busy(crowded.retry_after)
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Unavailable(_) => {
                warn_of_outage(&error);
                Self::Unavailable
            }
            StorageError::TooExpensive(why) => Self::Unprocessable(Cow::Borrowed(why)),
            StorageError::Conflict(what) => Self::Conflict(Cow::Borrowed(what)),
            other => Self::Internal(other.into()),
        }
    }
}

/// During an outage every request fails alike; one line in a while says as much as all of them.
fn warn_of_outage(error: &StorageError) {
    static LAST_SECOND: AtomicI64 = AtomicI64::new(0);
    let second = clock::now().seconds();
    if LAST_SECOND.swap(second, Ordering::Relaxed) != second {
        tracing::warn!(error = error as &dyn std::error::Error, "cannot serve requests without this backend");
    }
}

/// Marks a response that still needs its envelope, with the text for it.
#[derive(Debug)]
pub struct ErrorText(pub String);

/// What an error says beside its text.
#[derive(Debug)]
pub struct ErrorMembers(pub serde_json::Map<String, serde_json::Value>);

/// The body of an error that says more than its text.
pub fn detailed_envelope(
    error: &str,
    members: &serde_json::Map<String, serde_json::Value>,
    request_id: &str,
) -> String {
    let mut body = members.clone();
    body.insert("error".to_owned(), error.into());
    if !request_id.is_empty() {
        body.insert("request_id".to_owned(), request_id.into());
    }
    serde_json::Value::Object(body).to_string()
}

/// The body of every error. (Mender API: `error` is always text; `request_id` is left out when there is none.)
pub fn envelope(error: &str, request_id: &str) -> String {
    #[derive(Serialize)]
    struct Envelope<'a> {
        error: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        request_id: &'a str,
    }
    serde_json::to_string(&Envelope { error, request_id }).expect("two texts always have a JSON form")
}

/// `Retry-After` in whole seconds, rounded up so that nobody comes back too early.
fn retry_after(wait: Duration) -> (&'static str, String) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    ("retry-after", seconds.max(1).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_without_a_request_id_leaves_it_out() {
        assert_eq!(envelope("not \"found\"", ""), r#"{"error":"not \"found\""}"#);
        assert_eq!(envelope("x", "42"), r#"{"error":"x","request_id":"42"}"#);
    }

    #[test]
    fn a_refused_token_carries_the_challenge_and_a_refused_password_does_not() {
        let (status, _, headers) = ApiError::TokenRefused("x".into()).parts("1");
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(headers, [("www-authenticate", CHALLENGE.to_owned())]);
        assert_eq!(ApiError::Unauthorized("x".into()).headers(), []);
    }

    #[test]
    fn waiting_times_are_rounded_up() {
        let waits = |millis| retry_after(Duration::from_millis(millis)).1;
        assert_eq!(waits(1), "1");
        assert_eq!(waits(59_001), "60");
        assert_eq!(waits(60_000), "60");
    }

    #[test]
    fn the_cause_of_a_failure_stays_inside() {
        let (status, body, _) = ApiError::Internal("password=hunter2".into()).parts("");
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body, r#"{"error":"internal error"}"#);
    }

    #[test]
    fn an_unavailable_backend_says_when_to_come_back() {
        assert!(ApiError::Unavailable.headers().iter().any(|(name, _)| *name == "retry-after"));
    }
}
