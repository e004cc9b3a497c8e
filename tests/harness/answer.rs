//! What a hub answered to a request.

use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, as it came.
    pub body: Bytes,
    /// What was asked, for messages of failed tests.
    asked: String,
}

impl Answer {
    /// Sends the request and reads the answer to its end.
    ///
    /// # Panics
    /// When there is none.
    pub async fn to(request: reqwest::RequestBuilder) -> Self {
        Self::try_to(request).await.expect("the hub answers")
    }

    /// The same, for a hub that may be away.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn try_to(request: reqwest::RequestBuilder) -> Result<Self, reqwest::Error> {
        let (client, request) = request.build_split();
        let request = request?;
        let asked = format!("{} {}", request.method(), request.url().path());
        let response = client.execute(request).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, body: response.bytes().await?, asked })
    }

    /// An answer read by other means.
    #[must_use]
    pub fn new(asked: String, status: u16, headers: HeaderMap, body: Bytes) -> Self {
        Self { status, headers, body, asked }
    }

    /// This very answer, if it has the status.
    ///
    /// # Panics
    /// When it has another.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "most answers have no more to say than their status")]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {self}"),
        }
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The `error` member of a well-formed error body.
    ///
    /// # Panics
    /// When the body is not the error envelope.
    #[track_caller]
    pub fn error(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json; charset=utf-8", "{self}");
        let body = self.json();
        let Some(text) = body["error"].as_str() else { panic!("no error text: {self}") };
        assert!(!text.is_empty(), "{self}");
        assert_eq!(body["request_id"].as_str(), Some(self.header("x-men-requestid")), "{self}");
        text.to_owned()
    }

    /// Asserts that this is a 401 of the kind every refused token gets.
    #[track_caller]
    pub fn refuses_token(&self) {
        assert_eq!(self.status, 401, "{self}");
        assert_eq!(self.header("www-authenticate"), r#"Bearer realm="ManagementJWT""#, "{self}");
        if !self.asked.starts_with("HEAD ") {
            self.error();
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: String = self.text().chars().take(300).collect();
        write!(formatter, "{} was answered {}: {shown:?}", self.asked, self.status)
    }
}
