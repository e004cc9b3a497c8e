//! Where a request really comes from, seen through the proxies we trust.

use std::net::IpAddr;

use actix_web::http::header::{HeaderMap, HeaderName};

use crate::config::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The nearest address that is not a trusted proxy. Whatever stands further out in the header was written by someone we
/// do not know.
pub fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let mut nearest = peer.to_canonical();
    let named: Vec<&str> = headers
        .get_all(&FORWARDED_FOR)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    for address in named.iter().rev() {
        if !is_trusted(nearest, trusted) {
            break;
        }
        let Ok(address) = address.parse::<IpAddr>() else { break };
        nearest = address.to_canonical();
    }
    nearest
}

/// Whether the client speaks TLS, to us or to a trusted proxy.
pub fn came_over_tls(headers: &HeaderMap, peer: Option<IpAddr>, speaks_tls: bool, trusted: &[Network]) -> bool {
    let proxied = || {
        peer.is_some_and(|peer| is_trusted(peer, trusted))
            && headers.get(&FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
    };
    speaks_tls || proxied()
}

fn is_trusted(address: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn forwarded(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        headers
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_stranger_cannot_choose_its_address() {
        let headers = forwarded(&["198.51.100.1"]);
        assert_eq!(client_address(&headers, ip("203.0.113.9"), &[]), ip("203.0.113.9"));
    }

    #[test]
    fn a_trusted_proxy_names_its_client() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let headers = forwarded(&["192.0.2.66, 198.51.100.1", "10.0.0.3"]);
        assert_eq!(client_address(&headers, ip("10.0.0.2"), &trusted), ip("198.51.100.1"));
        assert_eq!(client_address(&forwarded(&["nonsense"]), ip("10.0.0.2"), &trusted), ip("10.0.0.2"));
        assert_eq!(client_address(&forwarded(&[]), ip("10.0.0.2"), &trusted), ip("10.0.0.2"));
    }

    #[test]
    fn tls_at_a_proxy_counts_only_if_the_proxy_does() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert!(came_over_tls(&headers, Some(ip("10.0.0.2")), false, &trusted));
        assert!(!came_over_tls(&headers, Some(ip("203.0.113.9")), false, &trusted));
        assert!(came_over_tls(&HeaderMap::new(), None, true, &[]));
    }
}
