//! Requests to become a websocket: authenticate, answer, and run the actor on the raw socket.
//!
//! Every request with `Upgrade: websocket` comes here instead of to the router. Order of the checks and their answers:
//! rows `deviceconnect-1` to `deviceconnect-6`.

use std::fmt::Display;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::Actor;
use actix_codec::{AsyncRead, AsyncWrite, Framed, FramedParts};
use actix_http::error::PayloadError;
use actix_http::header::HeaderMap;
use actix_http::{HttpMessage, Request, StatusCode, h1, ws};
use actix_web::http::header;
use actix_web_actors::ws::WebsocketContext;
use actors::audit::{RECORDING_VIEWED, SESSION_JOINED, Visit};
use actors::bus::NodeMessage;
use actors::concurrency_limit::ConcurrencyLimit;
use actors::credentials::DeviceClaims;
use actors::gate::{Gate, UserIdentity};
use actors::reach::Unreachable;
use actors::recording::Recordings;
use actors::session;
use actors::session::attachment::{Client, JoinRefused, Mode};
use actors::session::directory::{Directory, NotFound};
use actors::session::host::{Beginning, Parts};
use actors::tree::Tree;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use storage::{AuditLog, DeviceId, Epoch, Presence, SessionId, Sessions, StorageError, UserId, clock};
use tokio::io::AsyncWriteExt;
use tracing::{Instrument, debug, debug_span, error};

use super::Config;
use super::device::{self, DeviceSocket};
use super::operator::{self, OperatorSocket, Way};
use super::playback::{self, PlaybackSocket};
use super::pump::{Halves, Pump};
use crate::client_address::client_address;
use crate::error::ApiError;
use crate::middleware::canonical_path::canonical;
use crate::rate_limits::Call;
use crate::{auth, device_connect, headers, recordings};

/// The one sub-protocol that is echoed when offered.
const SUB_PROTOCOL: &str = "protomsg/msgpack";

/// When a user with too many sessions may try again.
const FEWER_SESSIONS: Duration = Duration::from_secs(1);

/// What sockets share: one per worker thread, handed to every actor.
#[derive(Clone)]
pub struct SocketState {
    /// Verifies tokens.
    pub gate: Gate,
    /// The running services.
    pub tree: Tree,
    /// Routes of devices.
    pub presence: Presence,
    /// Sessions as they are written down.
    pub records: Sessions,
    /// Where it is written down who joins sessions and views recordings.
    pub audit: AuditLog,
    /// What sessions showed.
    pub recordings: Recordings,
    /// Credits and limits.
    pub sessions: session::Config,
    /// Deadlines and bounds.
    pub config: Config,
    /// The settings of the API: which origins browsers may come from, and quotas.
    pub api: Arc<crate::Config>,
    /// Open sockets of this node.
    pub count: SocketCount,
    /// Devices on their way in.
    pub arrivals: ConcurrencyLimit,
    /// Whether the hub itself ends TLS, which decides on a response header.
    pub has_tls: bool,
}

impl SocketState {
    /// What hosts of sessions work with.
    pub(super) fn hosts(&self) -> Parts {
        self.tree.hosts(self.sessions.clone())
    }

    fn directory(&self) -> Directory {
        Directory::new(self.hosts(), self.records.clone())
    }
}

/// Counts open sockets, up to a limit; the framework's own does not see them after the upgrade.
#[derive(Clone)]
pub struct SocketCount(Arc<Places>);

struct Places {
    taken: AtomicUsize,
    limit: usize,
}

impl SocketCount {
    /// None yet, and at most `limit` sockets at a time.
    pub fn up_to(limit: usize) -> Self {
        Self(Arc::new(Places { taken: AtomicUsize::new(0), limit }))
    }

    /// Another socket, if there may be one.
    pub(super) fn enter(&self) -> bool {
        let Places { taken, limit } = &*self.0;
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < *limit).then_some(count + 1)).is_ok()
    }

    pub(super) fn leave(&self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether most of the places are taken.
    pub(super) fn is_scarce(&self) -> bool {
        self.0.taken.load(Ordering::Relaxed) > self.0.limit / 4 * 3
    }
}

/// The service's own answer: always at once, since the rest is a task's.
type Answer = Ready<Result<(), actix_http::Error>>;

/// The upgrade service of one worker.
pub fn upgrade<T: AsyncRead + AsyncWrite + Unpin + 'static>(
    state: Rc<SocketState>,
) -> impl Fn((Request, Framed<T, h1::Codec>)) -> Answer + Clone {
    move |(request, framed)| {
        // A task of its own, so that the HTTP dispatcher of this connection is freed.
        actix_rt::spawn(serve(Rc::clone(&state), request, framed));
        ready(Ok(()))
    }
}

async fn serve<T: AsyncRead + AsyncWrite + Unpin + 'static>(
    state: Rc<SocketState>,
    request: Request,
    framed: Framed<T, h1::Codec>,
) {
    // The framing's write buffer must not live as long as the socket, hence not `let parts = …`.
    let FramedParts { io, read_buf, write_buf, .. } = framed.into_parts();
    drop(write_buf);
    let request_id = headers::request_id(request.headers());
    let span = debug_span!("upgrade", request.id = %request_id, path = request.path());
    // Boxed, so that the long-lived task does not carry the room of the short handshake.
    let pump = Box::pin(shake_hands(state, request, request_id, io, read_buf).instrument(span)).await;
    if let Some(pump) = pump {
        pump.await;
    }
}

type ActorStream = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, actix_web::Error>>>>;

async fn shake_hands<T: AsyncRead + AsyncWrite + Unpin + 'static>(
    state: Rc<SocketState>,
    request: Request,
    request_id: String,
    mut io: T,
    read: BytesMut,
) -> Option<Pump<ActorStream, T>> {
    let admitted = match admit(&state, &request, &request_id).await {
        Ok(admitted) => admitted,
        Err(error) => {
            let answer = refusal(&error, &request_id, &state);
            // Whether the refused peer hears why is its own affair.
            let _ = io.write_all(&answer).await;
            let _ = io.shutdown().await;
            return None;
        }
    };
    let answer = switching_protocols(request.headers(), &request_id);
    let halves = Halves::new(io, read, answer.into(), &state.config, state.count.clone());
    let (flow, events) = (Rc::clone(&halves.flow), Box::pin(halves.inbound()));
    Some(match admitted {
        Admitted::Device(opening) => {
            let actor = DeviceSocket::new(opening, flow, events, Rc::clone(&state));
            halves.run(start(actor), &state.config)
        }
        Admitted::Operator(opening) => {
            let actor = OperatorSocket::new(opening, flow, events, Rc::clone(&state));
            halves.run(start(actor), &state.config)
        }
        Admitted::Viewer(opening) => {
            let actor = PlaybackSocket::new(opening, flow, events, Rc::clone(&state));
            halves.run(start(actor), &state.config)
        }
    })
}

fn start<A>(actor: A) -> ActorStream
where
    A: Actor<Context = WebsocketContext<A>> + actix::StreamHandler<Result<ws::Message, ws::ProtocolError>>,
{
    Box::pin(WebsocketContext::create(actor, stream::pending::<Result<Bytes, PayloadError>>()))
}

enum Admitted {
    Device(device::Opening),
    Operator(operator::Opening),
    Viewer(playback::Opening),
}

/// Everything that decides whether there will be a socket. On success it is counted already.
async fn admit(state: &SocketState, request: &Request, name: &str) -> Result<Admitted, ApiError> {
    // First of all, since a device that is claimed here leaves where it was.
    if state.tree.is_draining() || !state.count.enter() {
        return Err(ApiError::Unavailable);
    }
    let path = canonical(request.path());
    let admitted = match Endpoint::of(path.as_deref().unwrap_or(request.path())) {
        Endpoint::Device => admit_device(state, request).await,
        Endpoint::Operator(device) => admit_operator(state, request, device, Client::Stock).await,
        Endpoint::Terminal(device) => {
            let keep = query(request, "keep").as_deref() == Some("true");
            admit_operator(state, request, device, Client::Ours { from: None, replaces: None, keep }).await
        }
        Endpoint::Attach(session) => admit_attachment(state, request, name, session).await,
        Endpoint::Playback(session) => admit_viewer(state, request, name, session).await,
        Endpoint::None => Err(ApiError::not_found()),
    };
    if admitted.is_err() {
        state.count.leave();
    }
    admitted
}

async fn admit_device(state: &SocketState, request: &Request) -> Result<Admitted, ApiError> {
    let token = auth::device_token(request.headers()).map_err(ApiError::unauthorized)?;
    // Whose token it is is not proved yet, but only decides on who is looked at first.
    let is_awaited =
        || DeviceClaims::device_named_in(token).is_some_and(|device| state.tree.registry.is_awaited(device));
    let mut permit = state.arrivals.enter(is_awaited).await?;
    let identity = state.gate.device(token).await?;
    count_call(state, request, &identity.device).await?;
    verify_handshake(request)?;
    let (node, now) = (state.tree.bus.node(), clock::now());
    let epoch = match permit.timed(state.presence.claim(identity.device, node, now)).await {
        Ok(claim) => {
            if let Some(displaced) = claim.displaced.filter(|route| route.node != node) {
                let displace = NodeMessage::Displace { device: identity.device, epoch: claim.epoch };
                let _ = state.tree.bus.send(displaced.node, displace);
            }
            claim.epoch
        }
        Err(error) => {
            // Devices go on without the shared store: the clock keeps epochs growing until it is back.
            debug!(%error, "claiming a device by this node's clock");
            state.tree.registry.note_unannounced();
            let known = state.tree.registry.find(identity.device).map_or(0, |connection| connection.epoch.0 + 1);
            Epoch(known.max(now.0))
        }
    };
    let address = address_of(state, request);
    Ok(Admitted::Device(device::Opening {
        device: identity.device,
        auth_set: identity.auth_set,
        epoch,
        address,
        token: token.to_owned(),
    }))
}

fn address_of(state: &SocketState, request: &Request) -> Option<IpAddr> {
    request.peer_addr().map(|peer| client_address(request.headers(), peer.ip(), &state.api.trusted_proxies))
}

async fn admit_operator(
    state: &SocketState,
    request: &Request,
    id: &str,
    client: Client,
) -> Result<Admitted, ApiError> {
    let (identity, credential) = authenticate_operator(state, request).await?;
    // Malformed ids are unknown devices, and unknown devices are not connected.
    let device: DeviceId = id.parse().map_err(|_| Unreachable::Offline)?;
    let reachable = state.tree.reach.find(device).await?;
    verify_operator(state, request, &identity)?;
    let session = SessionId::random();
    let kept = matches!(client, Client::Ours { keep: true, .. });
    let end = reachable.into_end(device);
    let address = address_of(state, request);
    let beginning = Beginning { session, device, user: identity.user.clone(), end, kept, address };
    Ok(Admitted::Operator(operator::Opening {
        session,
        user: identity.user,
        token: identity.token,
        credential,
        way: Way::Begin(beginning),
        mode: Mode::Write,
        client,
    }))
}

async fn admit_attachment(state: &SocketState, request: &Request, name: &str, id: &str) -> Result<Admitted, ApiError> {
    let (identity, credential) = authenticate_operator(state, request).await?;
    let session: SessionId = id.parse().map_err(|_| NotFound::Unknown)?;
    let mode = match query(request, "mode").as_deref() {
        None | Some("watch") => Mode::Watch,
        Some("write") => Mode::Write,
        Some("take-over") => Mode::TakeOver,
        Some(_) => return Err(ApiError::bad_request("mode: expected write, watch or take-over")),
    };
    let from = match query(request, "from") {
        None => None,
        Some(from) => Some(from.parse().map_err(|_| ApiError::bad_request("from: expected a number of bytes"))?),
    };
    let replaces = match query(request, "replaces") {
        None => None,
        Some(id) => Some(id.parse().map_err(|_| ApiError::bad_request("replaces: expected an attachment's id"))?),
    };
    let keep = query(request, "keep").as_deref() != Some("false");
    verify_operator(state, request, &identity)?;
    let found = state.directory().find(session).await?;
    if mode == Mode::Write
        && let Some((user, attachment)) = found.writer
        && Some(attachment) != replaces
    {
        return Err(ApiError::Conflict(JoinRefused::InUse { user }.to_string().into()));
    }
    let word = match mode {
        Mode::Watch => "watch",
        Mode::Write => "write",
        Mode::TakeOver => "take-over",
    };
    let hosted = state.tree.registry.find_session(session);
    let is_theirs = hosted.as_ref().is_some_and(|hosted| hosted.user == identity.user);
    let device = hosted.map(|hosted| hosted.device);
    let written = note_visit(state, request, name, (SESSION_JOINED, word), (session, device), &identity.user).await;
    match written {
        // Who comes back to a session of their own has to get on also while the database is away.
        Err(fault) if is_theirs && fault.is_unavailable() => {
            error!(error = %fault, session.id = %session, "that a session was joined again was not written down");
        }
        written => written?,
    }
    Ok(Admitted::Operator(operator::Opening {
        session,
        user: identity.user,
        token: identity.token,
        credential,
        way: Way::Attach(found.side),
        mode,
        client: Client::Ours { from, replaces, keep },
    }))
}

async fn admit_viewer(state: &SocketState, request: &Request, name: &str, id: &str) -> Result<Admitted, ApiError> {
    let (identity, credential) = authenticate_operator(state, request).await?;
    let session: SessionId = id.parse().map_err(|_| recordings::not_found())?;
    if !state.recordings.exists(session).await? {
        return Err(recordings::not_found());
    }
    verify_handshake(request)?;
    verify_origin(state, request.headers())?;
    let pause = match query(request, "sleep_ms") {
        None => playback::USUAL_PAUSE,
        Some(millis) => {
            let millis =
                millis.parse().map_err(|_| ApiError::bad_request("sleep_ms: expected a number of milliseconds"))?;
            Duration::from_millis(millis).min(playback::LONGEST_PAUSE)
        }
    };
    note_visit(state, request, name, (RECORDING_VIEWED, "playback"), (session, None), &identity.user).await?;
    let frames = state.recordings.frames(session).boxed();
    Ok(Admitted::Viewer(playback::Opening { session, frames, pause, credential }))
}

/// Writes down that somebody joins a session, or views what it showed, and in which mode; before it is so.
async fn note_visit(
    state: &SocketState,
    request: &Request,
    name: &str,
    (action, mode): (&'static str, &'static str),
    (session, device): (SessionId, Option<DeviceId>),
    user: &UserId,
) -> Result<(), StorageError> {
    let device = match device {
        Some(device) => Some(device),
        None => state.records.find(session).await?.map(|record| record.device),
    };
    let visit = Visit {
        action,
        mode,
        session,
        device,
        user: user.clone(),
        address: address_of(state, request).map(|address| address.to_string()),
        request: Some(name.to_owned()),
    };
    state.audit.begin(&visit.into()).await.map(drop)
}

async fn authenticate_operator(state: &SocketState, request: &Request) -> Result<(UserIdentity, String), ApiError> {
    let token = auth::user_token(request.headers()).map_err(ApiError::unauthorized)?;
    let identity = state.gate.user(token).await?;
    count_call(state, request, &identity.user).await?;
    Ok((identity, token.to_string()))
}

/// The checks that come after the device or session was found.
fn verify_operator(state: &SocketState, request: &Request, identity: &UserIdentity) -> Result<(), ApiError> {
    verify_handshake(request)?;
    verify_origin(state, request.headers())?;
    if state.tree.registry.sockets_of(&identity.user) >= state.sessions.per_user
        || state.tree.registry.sessions_of(&identity.user) >= state.sessions.per_user
    {
        return Err(ApiError::TooManyRequests("too many open sessions".into(), FEWER_SESSIONS));
    }
    Ok(())
}

/// A parameter of the request's query.
fn query(request: &Request, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

async fn count_call(state: &SocketState, request: &Request, subject: &dyn Display) -> Result<(), ApiError> {
    let call = Call { subject, method: request.method().as_str(), path: request.path() };
    state.api.rate_limits.count(&state.presence, call, clock::now()).await
}

fn verify_handshake(request: &Request) -> Result<(), ApiError> {
    ws::verify_handshake(request.head()).map_err(|_| device_connect::no_socket_opened(request.headers()))
}

/// A browser sends its cookie along from any page, so a socket that came with a cookie has to come from a page of ours.
fn verify_origin(state: &SocketState, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("");
    if state.api.allowed_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    if !auth::uses_cookie(headers) && state.api.allowed_origins.is_empty() {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let is_same = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    if is_same { Ok(()) } else { Err(ApiError::Other(StatusCode::FORBIDDEN, "origin not allowed".into())) }
}

/// Which websocket a path asks for.
enum Endpoint<'a> {
    Device,
    Operator(&'a str),
    /// A terminal for a client that understands the hub's own messages.
    Terminal(&'a str),
    /// Part in a session that is there.
    Attach(&'a str),
    /// The recording of a session.
    Playback(&'a str),
    None,
}

impl<'a> Endpoint<'a> {
    fn of(path: &'a str) -> Self {
        if path == "/api/devices/v1/deviceconnect/connect" {
            return Self::Device;
        }
        let id = |prefix, suffix| {
            let rest: Option<&'a str> = path.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            rest.filter(|id| !id.contains('/'))
        };
        if let Some(device) = id("/api/management/v1/deviceconnect/devices/", "/connect") {
            return Self::Operator(device);
        }
        if let Some(device) = id("/api/management/v1/mooring/devices/", "/terminal") {
            return Self::Terminal(device);
        }
        if let Some(session) = id("/api/management/v1/deviceconnect/sessions/", "/playback") {
            return Self::Playback(session);
        }
        id("/api/management/v1/mooring/sessions/", "/attach").map_or(Self::None, Self::Attach)
    }
}

/// The 101 has neither length nor body: the forwarder on devices takes anything else for a failure.
fn switching_protocols(headers: &HeaderMap, request_id: &str) -> Vec<u8> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], header::HeaderValue::as_bytes);
    let accept = ws::hash_key(key);
    let mut answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".to_vec();
    answer.extend(b"Sec-WebSocket-Accept: ");
    answer.extend(accept);
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|value| value.to_str().ok());
    if offered.flat_map(|list| list.split(',')).any(|protocol| protocol.trim() == SUB_PROTOCOL) {
        answer.extend(b"\r\nSec-WebSocket-Protocol: ");
        answer.extend(SUB_PROTOCOL.as_bytes());
    }
    answer.extend(b"\r\nX-MEN-RequestID: ");
    answer.extend(request_id.as_bytes());
    answer.extend(b"\r\n\r\n");
    answer
}

fn refusal(error: &ApiError, request_id: &str, state: &SocketState) -> Vec<u8> {
    let (status, body, extra) = error.parts(request_id);
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\
         Sec-WebSocket-Version: 13\r\nX-MEN-RequestID: {request_id}\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        body.len(),
    )
    .into_bytes();
    let security = headers::security(state.has_tls).map(|(name, value)| (name, value.to_owned()));
    for (name, value) in extra.into_iter().chain(security) {
        answer.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    answer.extend(b"\r\n");
    answer.extend(body.as_bytes());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_endpoints() {
        assert!(matches!(Endpoint::of("/api/devices/v1/deviceconnect/connect"), Endpoint::Device));
        assert!(matches!(
            Endpoint::of("/api/management/v1/deviceconnect/devices/abc/connect"),
            Endpoint::Operator("abc")
        ));
        assert!(matches!(Endpoint::of("/api/management/v1/mooring/devices/abc/terminal"), Endpoint::Terminal("abc")));
        assert!(matches!(Endpoint::of("/api/management/v1/mooring/sessions/abc/attach"), Endpoint::Attach("abc")));
        assert!(matches!(
            Endpoint::of("/api/management/v1/deviceconnect/sessions/abc/playback"),
            Endpoint::Playback("abc")
        ));
        for path in
            ["/", "/api/management/v1/deviceconnect/devices/a/b/connect", "/api/devices/v1/deviceconnect/connect/x"]
        {
            assert!(matches!(Endpoint::of(path), Endpoint::None), "{path}");
        }
    }

    #[test]
    fn the_sub_protocol_is_echoed_only_if_offered() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, header::HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let plain = String::from_utf8(switching_protocols(&headers, "id")).unwrap();
        assert!(plain.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{plain}");
        assert!(!plain.contains("Sec-WebSocket-Protocol"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static("other"));
        assert!(!String::from_utf8(switching_protocols(&headers, "id")).unwrap().contains("Sec-WebSocket-Protocol"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static("other, protomsg/msgpack"));
        let echoed = String::from_utf8(switching_protocols(&headers, "id")).unwrap();
        assert!(echoed.contains("Sec-WebSocket-Protocol: protomsg/msgpack\r\n"));
    }

    #[test]
    fn sockets_have_a_limit() {
        let count = SocketCount::up_to(2);
        assert!(count.enter() && count.enter() && !count.enter());
        count.leave();
        assert!(count.enter());
    }
}
