//! Where a webhook may lead: not into places that only this machine can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What an address is to somebody on the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Everybody can reach it.
    Public,
    /// Only machines near it can: this one, a private network.
    Private,
    /// Nothing that a request is meant for: link-local (where clouds keep credentials), multicast, reserved.
    Nowhere,
}

/// Which addresses a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedAddresses {
    /// Also private ones.
    pub private: bool,
}

impl AllowedAddresses {
    /// Whether a request may go to this address.
    pub fn allow(self, address: IpAddr) -> bool {
        match place(address) {
            Place::Public => true,
            Place::Private => self.private,
            Place::Nowhere => false,
        }
    }
}

/// Resolves names, and leaves out what is not allowed. The connection goes to what was looked at here: a name cannot mean
/// another address a moment later.
#[derive(Debug, Clone, Copy)]
pub struct Resolver(pub AllowedAddresses);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| allowed.allow(address.ip())).collect();
            if allowed.is_empty() {
                return Err("its name leads to no address that is allowed".into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(address) => place_v4(address),
        IpAddr::V6(address) => place_v6(address),
    }
}

fn place_v4(address: Ipv4Addr) -> Place {
    let [a, b, c, _] = address.octets();
    if address.is_loopback() || address.is_private() || (a == 100 && (64..128).contains(&b)) {
        return Place::Private;
    }
    let is_nowhere = a == 0
        || address.is_link_local()
        || address.is_documentation()
        || a >= 224
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    if is_nowhere { Place::Nowhere } else { Place::Public }
}

fn place_v6(address: Ipv6Addr) -> Place {
    if let Some(mapped) = embedded_v4(address) {
        return place_v4(mapped);
    }
    if address.is_loopback() || address.is_unique_local() {
        return Place::Private;
    }
    let is_documentation = address.segments()[..2] == [0x2001, 0x0db8];
    // Only these are given out to anybody. (RFC 4291 §2.4, IANA's registry.)
    let is_global = address.segments()[0] & 0xe000 == 0x2000;
    if is_global && !is_documentation { Place::Public } else { Place::Nowhere }
}

/// The IPv4 address that an IPv6 one stands for: mapped (RFC 4291), translated (RFC 6052), tunnelled (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let from = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(from(high, low))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_in_every_disguise() {
        for (text, wanted) in [
            ("93.184.215.14", Place::Public),
            ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", Place::Public),
            ("127.0.0.1", Place::Private),
            ("127.255.0.9", Place::Private),
            ("10.1.2.3", Place::Private),
            ("172.31.0.1", Place::Private),
            ("192.168.1.1", Place::Private),
            ("100.100.0.1", Place::Private),
            ("::1", Place::Private),
            ("fd00::1", Place::Private),
            ("::ffff:10.0.0.1", Place::Private),
            ("64:ff9b::7f00:1", Place::Private),
            ("2002:7f00:1::", Place::Private),
            ("169.254.169.254", Place::Nowhere),
            ("::ffff:169.254.169.254", Place::Nowhere),
            ("64:ff9b::a9fe:a9fe", Place::Nowhere),
            ("fe80::1", Place::Nowhere),
            ("ff02::1", Place::Nowhere),
            ("0.0.0.0", Place::Nowhere),
            ("::", Place::Nowhere),
            ("224.0.0.1", Place::Nowhere),
            ("255.255.255.255", Place::Nowhere),
            ("192.0.2.1", Place::Nowhere),
            ("2001:db8::1", Place::Nowhere),
        ] {
            assert_eq!(place(text.parse().unwrap()), wanted, "{text}");
        }
    }

    #[test]
    fn private_places_are_open_only_if_it_was_said_so() {
        let allowed = |private, text: &str| AllowedAddresses { private }.allow(text.parse().unwrap());
        assert!(!allowed(false, "127.0.0.1") && allowed(true, "127.0.0.1"));
        assert!(allowed(false, "93.184.215.14"));
        assert!(!allowed(true, "169.254.169.254"));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_not_followed() {
        let resolve = |private| Resolver(AllowedAddresses { private }).resolve("localhost".parse().unwrap());
        assert!(resolve(false).await.is_err());
        assert!(resolve(true).await.unwrap().all(|address| address.ip().is_loopback()));
    }
}
