//! Where and when a device was connected. Not part of the Mender API.

use std::net::IpAddr;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use storage::{DeviceId, NodeId, PastConnection, Timestamp};

use crate::auth::AuthenticatedUser;
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Connections of one device that are looked at. Not more are kept, except for the moments between two sweeps.
const MOST: u32 = 10_000;

#[derive(Debug, Serialize)]
struct ConnectionBody {
    /// Larger for every later connection of a device.
    connection: i64,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    reason: Option<String>,
    node: NodeId,
    address: Option<IpAddr>,
    bytes_in: i64,
    bytes_out: i64,
    round_trip_ms: Option<f64>,
}

impl From<PastConnection> for ConnectionBody {
    fn from(past: PastConnection) -> Self {
        Self {
            connection: past.epoch.0,
            since: past.since,
            until: past.until,
            reason: past.reason,
            node: past.node,
            address: past.address,
            bytes_in: past.bytes_in,
            bytes_out: past.bytes_out,
            round_trip_ms: past.round_trip.map(|time| time.as_secs_f64() * 1000.0),
        }
    }
}

/// `GET /devices/{id}/connections`: newest first, the one that lasts included.
///
/// # Errors
/// 404 for an unknown device, 400 for paging.
pub async fn list(
    _: AuthenticatedUser,
    id: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let not_found = || ApiError::unknown("device not found");
    let device: DeviceId = id.parse().map_err(|_| not_found())?;
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let history = state.storage.connections.history(device, MOST).await?;
    if history.is_empty()
        && state.storage.devices.find(device).await?.is_none()
        && state.storage.connections.find(device).await?.is_none()
    {
        return Err(not_found());
    }
    let total = history.len() as u64;
    let (offset, size) = (page.offset() as usize, page.size as usize);
    let bodies: Vec<ConnectionBody> = history.into_iter().skip(offset).take(size).map(ConnectionBody::from).collect();
    Ok(answer_page(request.path(), &query, page, Extent::Total(total), &bodies))
}
