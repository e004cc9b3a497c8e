//! The listener: ordinary requests go to the router, requests to become a websocket to [`crate::sockets`].

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_server::{Server, ServerHandle};
use actix_service::{fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::web::ServiceConfig;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use crate::sockets::{SocketState, upgrade};
use crate::state::ApiState;
use crate::{gateway, routes};

/// Connections that may wait to be accepted: a storm of them is better queued in the kernel than refused.
const BACKLOG: i32 = 4096;

/// A client has this long to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(15);

/// How long an idle connection is kept for the next request. Longer than the shortest poll intervals in use, since closing
/// in the moment of the next request costs the client an error; not much longer, since such a connection takes 10 kB.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long what a client still sends is read and thrown away after an answer that did not wait for it: a connection that is
/// closed at once is reset, and many a client then never reads why.
const LINGER: Duration = Duration::from_secs(5);

/// Threads of one worker that may wait for files. The framework would divide this number by the processors of the machine,
/// but one worker may get all uploads of a node, and each keeps one of them waiting for what others do.
const BLOCKING_THREADS: usize = 512;

/// A running listener.
pub struct Listening {
    /// Where it listens.
    pub address: SocketAddr,
    /// Stops it.
    pub handle: ServerHandle,
    /// Runs until it is stopped.
    pub server: Server,
    /// The socket that listens; the server has it too.
    listener: TcpListener,
}

/// Ends the listening of a [`Listening`] whose server goes on with the connections it has.
#[derive(Debug)]
pub struct Door {
    handle: ServerHandle,
    listener: TcpListener,
}

impl Listening {
    /// For closing it before the server is stopped.
    ///
    /// # Errors
    /// When the process has no file left.
    pub fn door(&self) -> io::Result<Door> {
        Ok(Door { handle: self.handle.clone(), listener: self.listener.try_clone()? })
    }
}

impl Door {
    /// Takes no new connection. They are refused, so that a balancer tries another node; left in the queue of a listener
    /// that only pauses, they would wait for this one to end.
    pub async fn close(&self) {
        self.handle.pause().await;
        if let Err(error) = SockRef::from(&self.listener).shutdown(Shutdown::Both) {
            tracing::warn!(%error, "new connections are left waiting instead of refused");
        }
    }
}

/// Starts to listen on `address`, with TLS if `tls` is given, on `workers` threads.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(
    address: SocketAddr,
    tls: Option<rustls::ServerConfig>,
    workers: usize,
    state: ApiState,
    sockets: SocketState,
) -> io::Result<Listening> {
    let listener = bind(address)?;
    let (address, door) = (listener.local_addr()?, listener.try_clone()?);
    let stall_limit = sockets.config.stall_limit;
    let builder = Server::build()
        .workers(workers)
        .worker_max_blocking_threads(BLOCKING_THREADS)
        // The hub counts its sockets itself; this limit would only stop requests from reaching that count.
        .max_concurrent_connections(sockets.config.sockets_limit)
        .disable_signals()
        .shutdown_timeout(5);
    let builder = match tls {
        None => builder.listen("http", listener, move || {
            let (state, sockets) = (state.clone(), Rc::new(sockets.clone()));
            HttpService::build()
                .client_request_timeout(HEAD_LIMIT)
                .keep_alive(KEEP_ALIVE)
                .client_disconnect_timeout(LINGER)
                .on_connect_ext(move |io: &actix_rt::net::TcpStream, _| tune(&SockRef::from(io), stall_limit))
                .upgrade(fn_service(upgrade(sockets)))
                .finish(map_config(crate::app(state, routes::routes), |()| AppConfig::default()))
                .tcp()
        })?,
        Some(tls) => builder.listen("https", listener, move || {
            let (state, sockets) = (state.clone(), Rc::new(sockets.clone()));
            HttpService::build()
                .client_request_timeout(HEAD_LIMIT)
                .keep_alive(KEEP_ALIVE)
                .client_disconnect_timeout(LINGER)
                .secure()
                .on_connect_ext(move |io: &TlsStream, _| tune(&SockRef::from(io.get_ref().0), stall_limit))
                .upgrade(fn_service(upgrade(sockets)))
                .finish(map_config(crate::app(state, routes::routes), |()| AppConfig::default()))
                .rustls_0_23(tls.clone())
        })?,
    };
    let server = builder.run();
    Ok(Listening { address, handle: server.handle(), server, listener: door })
}

/// Serves `/metrics` and `/health` on a listener of its own: for a network that only monitoring reaches.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen_metrics(address: SocketAddr, state: ApiState) -> io::Result<Listening> {
    listen_privately(address, "metrics", state, routes::private_routes)
}

/// Serves the internal API on a listener of its own.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen_internally(address: SocketAddr, state: ApiState) -> io::Result<Listening> {
    let state = ApiState { access: gateway::internal_access, ..state };
    listen_privately(address, "internal", state, routes::internal_routes)
}

fn listen_privately(
    address: SocketAddr,
    name: &str,
    state: ApiState,
    routes: fn(&mut ServiceConfig),
) -> io::Result<Listening> {
    let listener = bind(address)?;
    let (address, door) = (listener.local_addr()?, listener.try_clone()?);
    let server = Server::build()
        .workers(1)
        .disable_signals()
        .listen(name, listener, move || {
            let app = crate::app(state.clone(), routes);
            HttpService::build().finish(map_config(app, |()| AppConfig::default())).tcp()
        })?
        .run();
    Ok(Listening { address, handle: server.handle(), server, listener: door })
}

type TlsStream = actix_tls::accept::rustls_0_23::TlsStream<actix_rt::net::TcpStream>;

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Small messages go at once, and the kernel gives up on a peer that is gone without a word.
fn tune(socket: &SockRef<'_>, stall_limit: Duration) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(15));
    let tuned = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(stall_limit)));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a socket could not be tuned");
    }
}

/// Reads a certificate chain and key, both PEM, into a server's TLS settings: TLS 1.2 and 1.3, session tickets.
///
/// # Errors
/// When a file cannot be read, holds nothing usable, or the key does not belong to the certificate.
pub fn tls_settings(certificate: &std::path::Path, key: &std::path::Path) -> io::Result<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let invalid = |error: &dyn std::fmt::Display, path: &std::path::Path| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| invalid(&error, certificate))?;
    if chain.is_empty() {
        return Err(invalid(&"no certificate in it", certificate));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| invalid(&error, key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut settings = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error, certificate))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| invalid(&error, key))?;
    // Reconnecting devices resume instead of paying for a full handshake; the keys rotate by themselves.
    settings.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| invalid(&error, key))?;
    Ok(settings)
}
