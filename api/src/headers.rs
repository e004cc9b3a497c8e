//! Headers that every answer has, whoever writes it.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header that names a request across logs and answers. (Mender API; any spelling of its case is the same header.)
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-men-requestid");

/// In which a gateway says what a request that it asks about was.
pub const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");

/// As [`FORWARDED_METHOD`]: path and query.
pub const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What the caller's own name for a request may measure.
const REQUEST_ID_LIMIT: usize = 128;

/// Headers with which a gateway restricts a user to groups. From outside they are forgeries.
const RESTRICTIONS: &str = "x-men-rbac-";

/// The caller's name for this request or, without a usable one, a fresh one. Usable is what can do no harm in a log:
/// short printable ASCII.
pub fn request_id(headers: &HeaderMap) -> String {
    let theirs = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    match theirs {
        Some(theirs) if is_harmless(theirs) => theirs.to_owned(),
        _ => Uuid::new_v4().to_string(),
    }
}

/// The headers that tell browsers to be careful. Browsers remember HSTS, so it is only said over TLS: otherwise one visit
/// to a hub without would lock them out.
pub fn security(tls: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    let strict = ("strict-transport-security", "max-age=31536000; includeSubDomains; preload");
    [("x-content-type-options", "nosniff"), ("x-xss-protection", "1; mode=block")]
        .into_iter()
        .chain(tls.then_some(strict))
}

/// Adds those headers to an answer.
pub fn add_security(headers: &mut HeaderMap, tls: bool) {
    for (name, value) in security(tls) {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// Takes out what only a gateway may say.
pub fn strip_restrictions(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(RESTRICTIONS)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

fn is_harmless(id: &str) -> bool {
    !id.is_empty() && id.len() <= REQUEST_ID_LIMIT && id.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_id(id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
        headers
    }

    #[test]
    fn a_callers_request_id_is_kept() {
        assert_eq!(request_id(&with_id("my request 7")), "my request 7");
    }

    #[test]
    fn a_harmful_request_id_is_replaced() {
        for id in ["", "tab\tinside", "ümlaut", &"x".repeat(129)] {
            assert!(Uuid::parse_str(&request_id(&with_id(id))).is_ok(), "{id:?}");
        }
        assert!(Uuid::parse_str(&request_id(&HeaderMap::new())).is_ok());
    }

    #[test]
    fn strict_transport_is_only_demanded_over_tls() {
        assert_eq!(security(false).count(), 2);
        assert!(security(true).any(|(name, _)| name == "strict-transport-security"));
    }

    #[test]
    fn forged_restrictions_are_removed() {
        let mut headers = with_id("1");
        headers.insert(HeaderName::from_static("x-men-rbac-inventory-groups"), HeaderValue::from_static("kitchen"));
        headers.insert(HeaderName::from_static("x-men-rbac-releases-tags"), HeaderValue::from_static("a"));
        strip_restrictions(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
