//! Which local port leads where: `[tcp|udp/][BIND:]LOCAL:[HOST:]REMOTE`.

use anyhow::{Context, bail};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// How the two ends speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Its name on the wire and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A local port and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// How both ends speak.
    pub protocol: Protocol,
    /// Where connections are taken; port 0 is any free one.
    pub local: SocketAddr,
    /// The host that the device connects to; `None` is the device itself.
    pub host: Option<String>,
    /// The port that the device connects to.
    pub port: u16,
}

impl Mapping {
    /// The host as it travels to the device.
    pub fn remote_host(&self) -> &str {
        self.host.as_deref().unwrap_or("localhost")
    }

    /// Where it leads, for people: `demo:22`, or `10.0.0.7:22 through demo`.
    pub fn target(&self, device: &str) -> String {
        match &self.host {
            None => format!("{device}:{}", self.port),
            Some(host) if host.contains(':') => format!("[{host}]:{} through {device}", self.port),
            Some(host) => format!("{host}:{} through {device}", self.port),
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}:{}", self.protocol.name(), self.local, self.remote_host(), self.port)
    }
}

impl FromStr for Mapping {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (protocol, places) = match text.split_once('/') {
            None => (Protocol::Tcp, text),
            Some(("tcp", places)) => (Protocol::Tcp, places),
            Some(("udp", places)) => (Protocol::Udp, places),
            Some((other, _)) => bail!("the protocol is {other:?}: expected \"tcp\" or \"udp\""),
        };
        let parts = parts(places)?;
        let (bind, local, host, remote) = match parts.as_slice() {
            [local] => (None, *local, None, *local),
            [first, second] if is_number(first) => (None, *first, None, *second),
            [bind, local] => (Some(*bind), *local, None, *local),
            [first, host, remote] if is_number(first) => (None, *first, Some(*host), *remote),
            [bind, local, remote] => (Some(*bind), *local, None, *remote),
            [bind, local, host, remote] => (Some(*bind), *local, Some(*host), *remote),
            _ => bail!("expected [tcp|udp/][BIND:]LOCAL:[HOST:]REMOTE"),
        };
        let port = port(remote)?;
        if port == 0 {
            bail!("the port on the device is 0: expected 1 to 65535");
        }
        let bind = bind.map_or(Ok(Ipv4Addr::LOCALHOST.into()), address)?;
        let host = match host {
            Some("") => bail!("the host is empty: leave it out to mean the device itself"),
            other => other.map(str::to_owned),
        };
        Ok(Self { protocol, local: SocketAddr::new(bind, self::port(local)?), host, port })
    }
}

/// Between the colons; an IPv6 address stands in brackets.
fn parts(text: &str) -> anyhow::Result<Vec<&str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = match rest.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').context("a bracket is not closed")?,
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        parts.push(part);
        match after.strip_prefix(':') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(parts),
            None => bail!("expected a colon before {after:?}"),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_digit())
}

fn port(text: &str) -> anyhow::Result<u16> {
    text.parse().ok().with_context(|| format!("{text:?} is no port: expected 0 to 65535"))
}

fn address(text: &str) -> anyhow::Result<IpAddr> {
    match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        "*" => Ok(Ipv4Addr::UNSPECIFIED.into()),
        address => address.parse().ok().with_context(|| format!("{text:?} is no IP address of this machine")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        text.parse::<Mapping>().unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
    }

    #[test]
    fn every_form_is_understood() {
        for (text, meaning) in [
            ("8022", "tcp/127.0.0.1:8022:localhost:8022"),
            ("8022:22", "tcp/127.0.0.1:8022:localhost:22"),
            ("0:22", "tcp/127.0.0.1:0:localhost:22"),
            ("udp/5353:53", "udp/127.0.0.1:5353:localhost:53"),
            ("8080:10.0.0.7:80", "tcp/127.0.0.1:8080:10.0.0.7:80"),
            ("tcp/8080:camera.lan:80", "tcp/127.0.0.1:8080:camera.lan:80"),
            ("0.0.0.0:8080", "tcp/0.0.0.0:8080:localhost:8080"),
            ("*:8080:80", "tcp/0.0.0.0:8080:localhost:80"),
            ("localhost:8080:camera:80", "tcp/127.0.0.1:8080:camera:80"),
            ("[::1]:8022:22", "tcp/[::1]:8022:localhost:22"),
            ("8080:[fe80::1]:80", "tcp/127.0.0.1:8080:fe80::1:80"),
        ] {
            assert_eq!(read(text), meaning, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "no port"),
            ("0", "port on the device is 0"),
            ("8022:0", "port on the device is 0"),
            ("70000", "no port"),
            ("8022:22:", "no port"),
            ("8022::22", "host is empty"),
            ("sctp/1:2", "expected \"tcp\" or \"udp\""),
            ("host:1:2", "no IP address"),
            ("1:2:3:4:5", "expected [tcp|udp/]"),
            ("[::1:2", "not closed"),
            ("[::1]2", "expected a colon"),
        ] {
            let error = text.parse::<Mapping>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn people_read_where_it_leads() {
        let target = |text: &str| text.parse::<Mapping>().expect(text).target("demo");
        assert_eq!(target("8022:22"), "demo:22");
        assert_eq!(target("8022:10.0.0.7:22"), "10.0.0.7:22 through demo");
        assert_eq!(target("8022:[fe80::1]:22"), "[fe80::1]:22 through demo");
    }
}
