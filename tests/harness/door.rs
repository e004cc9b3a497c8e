//! Where clients knock: the address of a hub, or of something in front of hubs.

use std::net::SocketAddr;
use std::sync::OnceLock;

use crate::answer::Answer;
use crate::tls::Certificate;

/// An address, and what it takes to speak to it.
#[derive(Clone)]
pub struct Door {
    address: SocketAddr,
    certificate: Option<Certificate>,
    client: reqwest::Client,
}

impl Door {
    /// Plain HTTP at `address`.
    pub fn plain(address: SocketAddr) -> Self {
        // One pool of connections per runtime would be right; connections that outlive their runtime are of no use to the
        // next test, so each door has its own.
        Self { address, certificate: None, client: client(None) }
    }

    /// HTTPS at `address`, with this certificate.
    pub fn tls(address: SocketAddr, certificate: Certificate) -> Self {
        let client = client(Some(&certificate));
        Self { address, certificate: Some(certificate), client }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:12345`
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// A request with nothing but its method and path.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("{}{path}", self.url()))
    }

    /// A GET without a token.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request("GET", path)).await
    }

    /// Whether somebody answers there.
    pub async fn is_open(&self) -> bool {
        tokio::net::TcpStream::connect(self.address).await.is_ok()
    }
}

fn client(certificate: Option<&Certificate>) -> reqwest::Client {
    install_provider();
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        // Redirects are answers here.
        .redirect(reqwest::redirect::Policy::none())
        .timeout(crate::LIMIT);
    if let Some(certificate) = certificate {
        builder = builder.add_root_certificate(certificate.for_reqwest());
    }
    builder.build().expect("a client can be made")
}

/// The process-wide choice that rustls asks for.
fn install_provider() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // A hub in this process may have chosen already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}
