//! Alerts by HTTP request, signed so that the receiver can trust them. (Standard Webhooks 1.0.)
//!
//! The receiver is told the id of the notification, which stays the same, the time of this attempt, and a signature over
//! both and the body; an old request that is sent again by somebody else has an old time. What the receiver answers is not
//! read beyond its status, and it is not followed anywhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use serde_json::json;
use storage::{Job, JobId, Secret, Storage, Timestamp, clock};
use url::{Host, Url};

use super::addresses::{AllowedAddresses, Resolver};
use super::{AlertInput, Config, channel};
use crate::jobs::{self, Failure};

/// What a signing secret begins with; the rest is its key in base64.
const SECRET_PREFIX: &str = "whsec_";

/// Bytes of a key.
const KEY_SIZES: std::ops::RangeInclusive<usize> = 16..=64;

/// Bytes of a URL.
const URL_LIMIT: usize = 2048;

/// Sends requests to receivers.
pub(super) struct Client {
    http: reqwest::Client,
    allowed: AllowedAddresses,
}

impl Client {
    pub(super) fn new(config: &Config) -> Result<Self, String> {
        let allowed = AllowedAddresses { private: config.webhook_private_networks };
        // Whoever was first chose the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .timeout(config.time_limit)
            .dns_resolver(Arc::new(Resolver(allowed)))
            .user_agent(concat!("mooring/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|error| format!("cannot set up webhooks: {error}"))?;
        Ok(Self { http, allowed })
    }
}

/// Sends one alert to one receiver.
pub(super) async fn send(client: &Client, storage: &Storage, job: &Job) -> Result<(), Failure> {
    let input: AlertInput = jobs::input(job)?;
    let channel = channel(storage, input.channel).await?;
    let (Some(url), Some(secret)) = (&channel.url, &channel.secret) else {
        return Err(Failure::Hopeless("its channel has no URL or no secret".to_owned()));
    };
    let url: Url = url.parse().map_err(|_| Failure::Hopeless("the URL of its channel is none".to_owned()))?;
    check_host(&url, client.allowed)?;
    let body = json!({
        "type": "alert", "timestamp": Timestamp(input.received), "data": { "alert": input.alert },
    })
    .to_string();
    let at = clock::now().seconds();
    let signature = signature(secret, job.id, at, &body)
        .ok_or_else(|| Failure::Hopeless("the secret of its channel is none".to_owned()))?;
    let request = client
        .http
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", job.id.to_string())
        .header("webhook-timestamp", at.to_string())
        .header("webhook-signature", signature)
        .body(body);
    let answer = request.send().await.map_err(|error| Failure::Again(describe(&error)))?;
    judge(answer.status(), answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()))
}

/// The resolver is only asked about names.
fn check_host(url: &Url, allowed: AllowedAddresses) -> Result<(), Failure> {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        Some(Host::Domain(_)) => return Ok(()),
        None => return Err(Failure::Hopeless("the URL of its channel has no host".to_owned())),
    };
    if allowed.allow(address) {
        return Ok(());
    }
    Err(Failure::Hopeless(format!("{address} is no address that webhooks may go to")))
}

/// What the receiver's status means.
fn judge(status: StatusCode, retry_after: Option<&str>) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let text = format!("the receiver answered {status}");
    if status == StatusCode::GONE {
        return Err(Failure::Hopeless(text));
    }
    match retry_after.and_then(|seconds| seconds.parse().ok()) {
        Some(seconds) => Err(Failure::AgainAfter(Duration::from_secs(seconds), text)),
        None => Err(Failure::Again(text)),
    }
}

/// Without the URL, which may hold a password.
fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "the receiver took too long"
    } else if error.is_connect() {
        "the receiver cannot be reached"
    } else {
        "the request to the receiver failed"
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // The innermost cause comes from the system or the peer and knows no URL.
    if std::ptr::eq(cause, error) { what.to_owned() } else { format!("{what}: {cause}") }
}

fn signature(secret: &Secret, id: JobId, at: i64, body: &str) -> Option<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key(secret.expose())?);
    let tag = hmac::sign(&key, format!("{id}.{at}.{body}").as_bytes());
    Some(format!("v1,{}", BASE64_STANDARD.encode(tag)))
}

fn key(secret: &str) -> Option<Vec<u8>> {
    let key = BASE64_STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
    KEY_SIZES.contains(&key.len()).then_some(key)
}

/// Whether this is a secret to sign with: `whsec_` and 16 to 64 bytes in base64.
pub fn is_secret(text: &str) -> bool {
    key(text).is_some()
}

/// A new secret to sign with.
pub fn new_secret() -> Secret {
    let key: [u8; 32] = rand::random();
    Secret::from(format!("{SECRET_PREFIX}{}", BASE64_STANDARD.encode(key)).as_str())
}

/// Why this cannot be the URL of a webhook; `None` if it can. Where its host leads is looked at when it is used.
pub fn url_fault(text: &str) -> Option<&'static str> {
    if text.len() > URL_LIMIT {
        return Some("url is too long");
    }
    let Ok(url) = text.parse::<Url>() else { return Some("url must be an http or https URL") };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Some("url must be an http or https URL");
    }
    (url.fragment().is_some()).then_some("url must not have a fragment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // Computed with Python's `hmac` over the same.
        let secret = Secret::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let id: JobId = "0c5b8a0e-8d6e-4d1f-9c55-1a8f7c1d2e3f".parse().unwrap();
        let signed = signature(&secret, id, 1_614_265_330, r#"{"test": 2432232314}"#).unwrap();
        assert_eq!(signed, "v1,85v8YnHz8khf/RZh1z72mIJ19kGku8PeQmHUYdlkBjw=");
        assert_ne!(signature(&secret, id, 1_614_265_331, r#"{"test": 2432232314}"#).unwrap(), signed);
    }

    #[test]
    fn secrets_have_their_form_and_never_repeat() {
        let (one, other) = (new_secret(), new_secret());
        assert!(is_secret(one.expose()) && one.expose() != other.expose());
        for wrong in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64!"] {
            assert!(!is_secret(wrong), "{wrong}");
        }
    }

    #[test]
    fn statuses_say_whether_to_come_again() {
        assert_eq!(judge(StatusCode::NO_CONTENT, None), Ok(()));
        let text = |status: &str| format!("the receiver answered {status}");
        assert_eq!(judge(StatusCode::FOUND, None), Err(Failure::Again(text("302 Found"))));
        assert_eq!(judge(StatusCode::GONE, None), Err(Failure::Hopeless(text("410 Gone"))));
        let wait = Failure::AgainAfter(Duration::from_secs(9), text("429 Too Many Requests"));
        assert_eq!(judge(StatusCode::TOO_MANY_REQUESTS, Some("9")), Err(wait));
    }

    #[test]
    fn urls_are_checked_before_they_are_kept() {
        assert_eq!(url_fault("https://me:secret@example.com/hook?x=1"), None);
        for wrong in ["", "ftp://example.com", "file:///etc/passwd", "example.com", "http://", "https://a/#b"] {
            assert!(url_fault(wrong).is_some(), "{wrong}");
        }
        assert!(url_fault(&format!("https://a/{}", "x".repeat(URL_LIMIT))).is_some());
        let literal = |url: &str, private| check_host(&url.parse().unwrap(), AllowedAddresses { private }).is_ok();
        assert!(!literal("http://127.0.0.1:9/", false) && literal("http://127.0.0.1:9/", true));
        assert!(!literal("http://2130706433/", false), "an address as one number");
        assert!(!literal("http://[::ffff:a9fe:a9fe]/", true));
    }
}
