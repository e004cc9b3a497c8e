//! Where the hub is, and how to reach it from a chosen source address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{client::IntoClientRequest, handshake::client::Request, protocol::WebSocketConfig},
};
use url::Url;

use crate::wire::Wire;

/// How long to wait for a connection and the upgrade; mender-connect's own limit.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(45);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// More connections than this from one address and the kernel's search for a free port is what gets measured.
pub const CONNECTIONS_PER_SOURCE: usize = 6000;

/// Bounds how many sources we keep a client for; a fleet of a million needs fewer.
const MAX_SOURCES: usize = 1024;

/// A websocket to the hub.
pub type Socket = WebSocketStream<Wire>;

/// The hub under test. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    base: Url,
    /// Host and port, as they stand in a request.
    authority: String,
    address: SocketAddr,
    /// For connections of our own to a hub behind TLS.
    tls: OnceLock<TlsConnector>,
    /// One HTTP client per source address, made when first needed: connections are pooled in the client.
    clients: Mutex<HashMap<Option<IpAddr>, reqwest::Client>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Server {
    /// The hub at `url` (`http://…` or `https://…`); its name is resolved once, here.
    ///
    /// # Errors
    /// When the URL is of another kind or its name does not resolve.
    pub async fn at(url: &str) -> anyhow::Result<Self> {
        let base = Url::parse(url).with_context(|| format!("cannot read the server's URL {url:?}"))?;
        if !matches!(base.scheme(), "http" | "https") {
            bail!("the server's URL {url:?} has to begin with http:// or https://");
        }
        let host = base.host_str().with_context(|| format!("the server's URL {url:?} names no host"))?.to_owned();
        let port = base.port_or_known_default().unwrap_or(80);
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let address = tokio::net::lookup_host((name, port))
            .await
            .with_context(|| format!("cannot resolve {host}"))?
            // Source addresses of a fleet are 127.x.y.z, so the older family first.
            .min_by_key(SocketAddr::is_ipv6)
            .with_context(|| format!("{host} has no address"))?;
        let authority = base.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let (tls, clients) = (OnceLock::new(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { base, authority, address, tls, clients }) })
    }

    /// Host and port, as they stand in a request.
    pub fn authority(&self) -> &str {
        &self.shared.authority
    }

    /// The address the hub's name resolved to.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The URL of a path of the hub.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.shared.base.as_str().trim_end_matches('/'))
    }

    /// The HTTP client that calls from this address.
    ///
    /// # Errors
    /// When a client cannot be made, or there are too many sources.
    pub fn http(&self, source: Option<IpAddr>) -> anyhow::Result<reqwest::Client> {
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&source) {
            return Ok(client.clone());
        }
        if clients.len() >= MAX_SOURCES {
            bail!("more than {MAX_SOURCES} source addresses");
        }
        crate::install_tls_provider();
        let client = reqwest::Client::builder()
            .local_address(source)
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(64)
            .pool_idle_timeout(Duration::from_secs(5))
            .build()
            .context("cannot make an HTTP client")?;
        clients.insert(source, client.clone());
        Ok(client)
    }

    /// Opens a websocket on `path` with this bearer token.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] with the status if the hub answered, otherwise [`ConnectError::Unreachable`].
    pub async fn open_socket(
        &self,
        path: &str,
        token: &str,
        source: Option<IpAddr>,
        config: WebSocketConfig,
    ) -> Result<Socket, ConnectError> {
        let request = self.upgrade_request(path, token)?;
        let opening = async {
            let wire = self.open_line(source).await.map_err(ConnectError::unreachable)?;
            client_async_with_config(request, wire, Some(config)).await.map_err(ConnectError::from)
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, opening).await {
            Ok(opened) => opened.map(|(socket, _response)| socket),
            Err(_elapsed) => Err(ConnectError::Unreachable("no answer in 45 s".to_owned())),
        }
    }

    fn upgrade_request(&self, path: &str, token: &str) -> Result<Request, ConnectError> {
        // `http` becomes `ws` and `https` becomes `wss`.
        let url = self.url(path).replacen("http", "ws", 1);
        let mut request = url.into_client_request().map_err(ConnectError::unreachable)?;
        let bearer = format!("Bearer {token}").parse().map_err(ConnectError::unreachable)?;
        request.headers_mut().insert("Authorization", bearer);
        Ok(request)
    }

    /// A connection to the hub, TLS included.
    pub(crate) async fn open_line(&self, source: Option<IpAddr>) -> std::io::Result<Wire> {
        let opening = async {
            let stream = self.dial(source).await?;
            if self.shared.base.scheme() == "http" {
                return Ok(Wire::Plain(stream));
            }
            let host = self.shared.base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            let connector = self.shared.tls.get_or_init(tls_connector);
            connector.connect(name, stream).await.map(|stream| Wire::Tls(Box::new(stream)))
        };
        let timed_out = |_elapsed| std::io::Error::from(std::io::ErrorKind::TimedOut);
        tokio::time::timeout(HANDSHAKE_TIMEOUT, opening).await.map_err(timed_out)?
    }

    async fn dial(&self, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
        let socket = if self.shared.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(self.shared.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Trusts whom the machine trusts.
fn tls_connector() -> TlsConnector {
    crate::install_tls_provider();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Why a websocket did not open.
#[derive(Debug)]
pub enum ConnectError {
    /// The hub said no.
    Refused {
        /// The HTTP status of its answer.
        status: u16,
        /// Seconds after which it asks to be called again.
        retry_after: Option<u64>,
    },
    /// There was no answer.
    Unreachable(String),
}

impl ConnectError {
    fn unreachable(error: impl std::fmt::Display) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { status, .. } => write!(f, "the hub refused the connection with status {status}"),
            Self::Unreachable(why) => write!(f, "cannot reach the hub: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<tokio_tungstenite::tungstenite::Error> for ConnectError {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        match error {
            tokio_tungstenite::tungstenite::Error::Http(answer) => Self::Refused {
                status: answer.status().as_u16(),
                retry_after: answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok()),
            },
            other => Self::unreachable(other),
        }
    }
}

/// Source addresses for a fleet on a loopback hub: 127.0.1.1, 127.0.1.2, …, at most
/// [`CONNECTIONS_PER_SOURCE`] devices on each. A hub elsewhere is called from the one address the kernel picks.
pub fn source_of(index: usize, hub: SocketAddr) -> Option<IpAddr> {
    if !hub.ip().is_loopback() || hub.is_ipv6() {
        return None;
    }
    let number = index / CONNECTIONS_PER_SOURCE;
    let third = u8::try_from(1 + number / 250).ok()?;
    let fourth = u8::try_from(1 + number % 250).ok()?;
    Some(Ipv4Addr::new(127, 0, third, fourth).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_spread_over_loopback_addresses() {
        let hub = "127.0.0.1:8080".parse().expect("an address");

        assert_eq!(source_of(0, hub), Some(Ipv4Addr::new(127, 0, 1, 1).into()));
        assert_eq!(source_of(5999, hub), Some(Ipv4Addr::new(127, 0, 1, 1).into()));
        assert_eq!(source_of(6000, hub), Some(Ipv4Addr::new(127, 0, 1, 2).into()));
        assert_eq!(source_of(6000 * 250, hub), Some(Ipv4Addr::new(127, 0, 2, 1).into()));
    }

    #[test]
    fn a_hub_elsewhere_is_called_from_where_the_kernel_likes() {
        assert_eq!(source_of(7, "192.0.2.1:443".parse().expect("an address")), None);
    }

    #[tokio::test]
    async fn a_slash_at_the_end_of_the_url_does_no_harm() {
        let server = Server::at("http://127.0.0.1:8080/").await.expect("a server");
        assert_eq!(server.url("/api/x"), "http://127.0.0.1:8080/api/x");
    }

    #[tokio::test]
    async fn a_url_of_another_kind_is_refused_with_a_reason() {
        let error = Server::at("ftp://127.0.0.1").await.expect_err("refused");
        assert!(error.to_string().contains("http://"), "{error}");
    }
}
