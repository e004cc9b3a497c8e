//! What happens to devices and sessions, as a stream of server-sent events. Not part of the Mender API.
//!
//! A client that was cut off sends the number of the last event it saw (`Last-Event-ID`, as browsers do, or `?after=`) and
//! goes on there, on whichever node, without a gap and without hearing anything twice. What is no longer kept by then is
//! told by an event of its own, `gap`.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use actors::events::{Heard, Kind, ListenError, Listener};
use actors::gate::{Gate, Refusal};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use storage::{DeviceId, Event};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::auth::{AuthenticatedUser, user_token};
use crate::error::ApiError;
use crate::paging::Query;
use crate::state::ApiState;

/// A client that hears nothing for a while cannot tell silence from a dead connection.
const SAY_THAT_WE_LIVE: Duration = Duration::from_secs(15);

/// How often the token of a stream is verified again: how long a stream outlives it.
const RECHECK_TOKEN: Duration = Duration::from_secs(2);

/// When a client should connect again that was cut off, in milliseconds.
const RETRY_MS: u32 = 1000;

/// When a user with too many streams may try again.
const FEWER_STREAMS: Duration = Duration::from_secs(5);

/// `GET /events`: optional filters `device` and `kind`, each as often as wanted.
///
/// # Errors
/// 400 for a position or kind that does not exist, 429 for too many streams, 503 while this node shuts down.
pub async fn stream_events(
    AuthenticatedUser(user): AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let filter = Filter::from_query(&query)?;
    let after = position(request.headers(), &query)?;
    let token = user_token(request.headers()).map_err(ApiError::TokenRefused)?.to_owned();
    let listener = state.events.listen(user.user, after).await?;
    let feed = Feed::new(listener, filter, state.gate.clone(), token);
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // Proxies that gather answers before they pass them on know this one.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(feed.into_stream()))
}

impl From<ListenError> for ApiError {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::TooMany => Self::TooManyRequests(error.to_string().into(), FEWER_STREAMS),
            ListenError::Closed => Self::Unavailable,
            ListenError::Unavailable(error) => error.into(),
        }
    }
}

/// After which event the stream begins; `None`: with the next one.
fn position(headers: &HeaderMap, query: &Query) -> Result<Option<i64>, ApiError> {
    // What a browser adds by itself is newer than the address it was given once.
    let theirs = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    let Some(text) = theirs.or_else(|| query.first("after")) else { return Ok(None) };
    let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
    number.map(Some).ok_or_else(|| ApiError::bad_request("after must be the id of an event: a number"))
}

/// Which events a client wants; empty lists mean all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Filter {
    devices: Vec<DeviceId>,
    /// Devices were named, but none that could be ours.
    no_device: bool,
    kinds: Vec<&'static str>,
}

impl Filter {
    fn from_query(query: &Query) -> Result<Self, ApiError> {
        let named: Vec<&str> = query.all("device").collect();
        let devices: Vec<DeviceId> = named.iter().filter_map(|id| id.parse().ok()).collect();
        let kinds: Option<Vec<Kind>> = query.all("kind").map(Kind::named).collect();
        let kinds = kinds.ok_or_else(|| {
            let all = Kind::ALL.map(Kind::as_str).join(", ");
            ApiError::bad_request(format!("kind must be one of: {all}"))
        })?;
        Ok(Self {
            no_device: devices.is_empty() && !named.is_empty(),
            devices,
            kinds: kinds.into_iter().map(Kind::as_str).collect(),
        })
    }

    fn passes(&self, event: &Event) -> bool {
        let device = !self.no_device
            && (self.devices.is_empty() || event.device.is_some_and(|device| self.devices.contains(&device)));
        device && (self.kinds.is_empty() || self.kinds.contains(&event.kind.as_str()))
    }
}

/// What one client is sent.
struct Feed {
    listener: Listener,
    filter: Filter,
    gate: Gate,
    token: String,
    sign_of_life: Interval,
    recheck: Interval,
    has_begun: bool,
}

impl Feed {
    fn new(listener: Listener, filter: Filter, gate: Gate, token: String) -> Self {
        let every = |period| {
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (sign_of_life, recheck) = (every(SAY_THAT_WE_LIVE), every(RECHECK_TOKEN));
        Self { listener, filter, gate, token, sign_of_life, recheck, has_begun: false }
    }

    /// Pulled by the connection when it has room, so a client that does not read costs one piece.
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut feed| async move {
            let text = feed.next().await?;
            Some((Ok(Bytes::from(text)), feed))
        })
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.has_begun, true) {
            // The position is told before anything happens, so that who is cut off before that misses nothing.
            return Some(format!("retry: {RETRY_MS}\nid: {}\n\n", self.listener.position()));
        }
        loop {
            let mut text = String::new();
            tokio::select! {
                heard = self.listener.next() => match heard {
                    Heard::Events(events) => self.write_passing(&mut text, &events),
                    Heard::Gap { from } => write_gap(&mut text, from),
                    Heard::Closed => return None,
                },
                _ = self.sign_of_life.tick() => {
                    // Filters may have kept everything from this client; its position moves all the same.
                    let _infallible = write!(text, ": still here\nid: {}\n\n", self.listener.position());
                }
                _ = self.recheck.tick() => {}
            }
            // From memory, nearly always.
            if matches!(self.gate.user(&self.token).await, Err(Refusal::Refused(_))) {
                return None;
            }
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    fn write_passing(&self, text: &mut String, events: &[Arc<Event>]) {
        for event in events.iter().filter(|event| self.filter.passes(event)) {
            write_event(text, event);
        }
    }
}

/// One event as it goes over the wire. (WHATWG HTML, server-sent events.)
fn write_event(text: &mut String, event: &Event) {
    let mut data = json!({ "id": event.id, "at": event.at, "kind": event.kind, "device": event.device });
    if let (Some(data), Value::Object(body)) = (data.as_object_mut(), &event.body) {
        for (name, value) in body {
            data.entry(name).or_insert_with(|| value.clone());
        }
    }
    // JSON on one line has no line ends that could be taken for the protocol's.
    let _infallible = write!(text, "id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind);
}

fn write_gap(text: &mut String, from: i64) {
    let data = json!({ "kind": "gap", "from": from });
    let _infallible = write!(text, "id: {}\nevent: gap\ndata: {data}\n\n", from - 1);
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};
    use storage::Timestamp;

    use super::*;

    fn event(kind: Kind, device: DeviceId) -> Event {
        Event {
            id: 7,
            at: Timestamp(1_900_000_000_120_000),
            kind: kind.as_str().to_owned(),
            device: Some(device),
            body: json!({ "reason": "two\nlines", "id": "never" }),
        }
    }

    fn asked(last_event_id: &str, query: &str) -> Result<Option<i64>, String> {
        let mut headers = HeaderMap::new();
        if !last_event_id.is_empty() {
            let name = HeaderName::from_static("last-event-id");
            headers.insert(name, HeaderValue::from_str(last_event_id).unwrap());
        }
        position(&headers, &Query::parse(query)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_header_goes_over_the_address() {
        assert_eq!(asked("", ""), Ok(None));
        assert_eq!(asked("", "after=5"), Ok(Some(5)));
        assert_eq!(asked("9", "after=5"), Ok(Some(9)));
        for wrong in ["-1", "x", "99999999999999999999"] {
            assert!(asked(wrong, "").unwrap_err().contains("id of an event"), "{wrong}");
        }
    }

    #[test]
    fn a_filter_that_names_nothing_of_ours_lets_nothing_pass() {
        let device = DeviceId::random();
        let passes = |query: &str| {
            let filter = Filter::from_query(&Query::parse(query)).unwrap();
            filter.passes(&event(Kind::Connected, device))
        };
        assert!(passes("") && passes("kind=connected&kind=disconnected"));
        assert!(!passes("kind=disconnected") && !passes("device=nonsense"));
        assert!(passes(&format!("device=nonsense&device={device}")));
        assert!(!passes(&format!("device={}", DeviceId::random())));
        let unknown = Filter::from_query(&Query::parse("kind=exploded")).unwrap_err().to_string();
        assert!(unknown.contains("session-closed"), "{unknown}");
    }

    #[test]
    fn an_event_is_one_line_of_data_under_its_number() {
        let device = DeviceId::random();
        let mut text = String::new();
        write_event(&mut text, &event(Kind::Disconnected, device));
        let data = text.strip_prefix("id: 7\nevent: disconnected\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!data.contains('\n'));
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            data,
            json!({
                "id": 7, "at": "2030-03-17T17:46:40.120Z", "kind": "disconnected", "device": device,
                "reason": "two\nlines"
            })
        );
    }
}
