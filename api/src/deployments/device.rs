//! What devices ask and say. (Mender API: deployments, devices.)

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use actors::rollout::Asking;
use serde::{Deserialize, Serialize};
use storage::deployments::StateReported;
use storage::{ArtifactId, DeploymentId, DeviceId, DeviceState, Offer, StoredArtifact};

use super::{deployment_id, no_such};
use crate::artifacts::base;
use crate::auth::AuthenticatedDevice;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::paging::Query;
use crate::state::ApiState;

/// How long a device may fetch its artifact: slow ones need long. (Mender API.)
const LINK_LIFETIME: Duration = Duration::from_hours(24);

/// Characters of what a device says it runs, and is.
const NAME_LIMIT: usize = 4096;

/// Characters of what a device says beyond its status.
const SUBSTATE_LIMIT: usize = 200;

/// Where version 1 asks what to install, flat.
#[derive(Debug, Default, Deserialize)]
struct OldAsking {
    #[serde(default)]
    artifact_name: String,
    #[serde(default)]
    device_type: String,
    artifact_provides: Option<BTreeMap<String, String>>,
}

/// Where version 2 does.
#[derive(Debug, Deserialize)]
struct NewAsking {
    device_provides: BTreeMap<String, String>,
}

/// `GET /device/deployments/next`.
///
/// # Errors
/// 400 for a question without names, 409 for one that contradicts an earlier one.
pub async fn next(
    AuthenticatedDevice(device): AuthenticatedDevice,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let text = |name| query.first(name).unwrap_or_default().to_owned();
    let asking = asking(text("artifact_name"), text("device_type"), None)?;
    answer(&state, &request, device.device, &asking).await
}

/// `POST v1 /device/deployments/next`.
///
/// # Errors
/// As [`next`].
pub async fn next_with_provides(
    AuthenticatedDevice(device): AuthenticatedDevice,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let OldAsking { artifact_name, device_type, artifact_provides } = body.object("Validating request body")?;
    let asking = asking(artifact_name, device_type, artifact_provides)?;
    answer(&state, &request, device.device, &asking).await
}

/// `POST v2 /device/deployments/next`.
///
/// # Errors
/// As [`next`].
pub async fn next_v2(
    AuthenticatedDevice(device): AuthenticatedDevice,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let NewAsking { device_provides } = body.object("Validating request body")?;
    let text = |name| device_provides.get(name).cloned().unwrap_or_default();
    let asking = asking(text("artifact_name"), text("device_type"), Some(device_provides.clone()))?;
    answer(&state, &request, device.device, &asking).await
}

fn asking(
    artifact_name: String,
    device_type: String,
    provides: Option<BTreeMap<String, String>>,
) -> Result<Asking, ApiError> {
    for (name, text) in [("artifact_name", &artifact_name), ("device_type", &device_type)] {
        if text.is_empty() {
            return Err(ApiError::bad_request(format!("{name}: cannot be blank")));
        }
        if text.contains('\0') || text.chars().count() > NAME_LIMIT {
            return Err(ApiError::bad_request(format!("{name}: the length must be between 1 and {NAME_LIMIT}.")));
        }
    }
    let provides = provides.map(|mut provides| {
        // Said already.
        provides.retain(|name, _| name != "artifact_name" && name != "device_type");
        provides
    });
    Ok(Asking { artifact_name, device_type, provides })
}

/// What a device is to install. (Mender API: these members are what clients read.)
#[derive(Debug, Serialize)]
struct Instructions {
    id: DeploymentId,
    artifact: ArtifactToFetch,
}

#[derive(Debug, Serialize)]
struct ArtifactToFetch {
    id: String,
    artifact_name: String,
    source: Source,
    device_types_compatible: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Source {
    uri: String,
    expire: String,
    method: &'static str,
}

async fn answer(
    state: &ApiState,
    request: &HttpRequest,
    device: DeviceId,
    asking: &Asking,
) -> Result<HttpResponse, ApiError> {
    let instructions = match state.rollout.next(device, asking).await? {
        Offer::Nothing | Offer::Settled => return Ok(HttpResponse::NoContent().finish()),
        Offer::Contradiction => return Err(ApiError::Conflict("Device provided conflicting request data".into())),
        Offer::Artifact(deployment, artifact) => software(state, request, deployment, *artifact).await?,
        Offer::Configuration(deployment) => configuration(state, request, deployment, device, asking).await?,
    };
    Ok(answer_json(&mut HttpResponse::Ok(), &instructions))
}

async fn software(
    state: &ApiState,
    request: &HttpRequest,
    deployment: DeploymentId,
    artifact: StoredArtifact,
) -> Result<Instructions, ApiError> {
    let link = state.artifacts.download_link(&artifact, LINK_LIFETIME, &base(state, request)?).await?;
    let file = actors::artifacts::document(&artifact)?;
    let source = Source { uri: link.url, expire: link.expires.rfc3339(), method: "GET" };
    let id: ArtifactId = artifact.id;
    let artifact = ArtifactToFetch {
        id: id.to_string(),
        artifact_name: artifact.name,
        source,
        device_types_compatible: file.device_types,
    };
    Ok(Instructions { id: deployment, artifact })
}

/// A configuration has no artifact yet: the link makes one. (Mender API: its id is that of the deployment and of the device.)
async fn configuration(
    state: &ApiState,
    request: &HttpRequest,
    deployment: DeploymentId,
    device: DeviceId,
    asking: &Asking,
) -> Result<Instructions, ApiError> {
    let found = state.storage.deployments.find(deployment).await?.ok_or_else(no_such)?;
    let link = state.artifacts.configuration_link(deployment, &asking.device_type, device, &base(state, request)?);
    let artifact = ArtifactToFetch {
        id: format!("{deployment}{device}"),
        artifact_name: found.artifact_name,
        source: Source { uri: link.url, expire: link.expires.rfc3339(), method: "GET" },
        device_types_compatible: vec![asking.device_type.clone()],
    };
    Ok(Instructions { id: deployment, artifact })
}

#[derive(Debug, Deserialize)]
struct StatusBody {
    status: String,
    #[serde(default)]
    substate: String,
}

/// `PUT /device/deployments/{id}/status`.
///
/// # Errors
/// 400 for a status that is not for devices to say, 404 if it was never told of that deployment, 409 if it is to stop.
pub async fn report_status(
    AuthenticatedDevice(device): AuthenticatedDevice,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let deployment = deployment_id(&id)?;
    let StatusBody { status, substate } = body.object("Validating request body")?;
    let said = status.parse::<DeviceState>().ok().filter(|state| state.may_be_reported());
    let said = said.ok_or_else(|| ApiError::bad_request("Validating request body: status: must be a valid value."))?;
    if substate.chars().count() > SUBSTATE_LIMIT {
        let text = format!("Validating request body: substate: the length must be no more than {SUBSTATE_LIMIT}.");
        return Err(ApiError::bad_request(text));
    }
    match state.rollout.report(deployment, device.device, said, &substate).await? {
        StateReported::Written => Ok(HttpResponse::NoContent().finish()),
        StateReported::Unknown => Err(no_such()),
        StateReported::Stopped(DeviceState::Decommissioned) => Err(ApiError::Conflict("Device decommissioned".into())),
        StateReported::Stopped(_) => Err(ApiError::Conflict("Deployment aborted".into())),
    }
}

#[derive(Debug, Deserialize)]
struct LogBody {
    #[serde(default)]
    messages: Vec<LogLine>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogLine {
    timestamp: String,
    level: String,
    message: String,
}

impl LogLine {
    /// As it is shown. (Mender API: deployment log.)
    fn line(&self) -> Option<String> {
        let time = chrono::DateTime::parse_from_rfc3339(&self.timestamp).ok()?.to_utc();
        if self.level.is_empty() || self.message.is_empty() {
            return None;
        }
        let fraction = time.format("%.9f").to_string();
        let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
        Some(format!("{}{fraction} +0000 UTC {}: {}\n", time.format("%Y-%m-%d %H:%M:%S"), self.level, self.message))
    }
}

/// `PUT /device/deployments/{id}/log`.
///
/// # Errors
/// 400 for messages that lack something, 404 if it was never told of that deployment.
pub async fn send_log(
    AuthenticatedDevice(device): AuthenticatedDevice,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let deployment = deployment_id(&id)?;
    let LogBody { messages } = body.object("Validating request body")?;
    if messages.is_empty() {
        return Err(ApiError::bad_request("Validating request body: messages: cannot be blank."));
    }
    let lines: Option<String> = messages.iter().map(LogLine::line).collect();
    let lines = lines.ok_or_else(|| {
        ApiError::bad_request("Validating request body: messages: each needs timestamp, level and message")
    })?;
    if state.storage.deployments.keep_log(deployment, device.device, &lines).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(no_such())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(timestamp: &str, level: &str, message: &str) -> Option<String> {
        LogLine { timestamp: timestamp.to_owned(), level: level.to_owned(), message: message.to_owned() }.line()
    }

    #[test]
    fn a_message_is_a_line_in_utc() {
        let whole = line("2026-01-02T04:04:05+01:00", "error", "boom").unwrap();
        assert_eq!(whole, "2026-01-02 03:04:05 +0000 UTC error: boom\n");
        let part = line("2026-01-02T03:04:05.120Z", "info", "fine").unwrap();
        assert_eq!(part, "2026-01-02 03:04:05.12 +0000 UTC info: fine\n");
        for (timestamp, level, message) in [
            ("yesterday", "info", "x"),
            ("", "info", "x"),
            ("2026-01-02T03:04:05Z", "", "x"),
            ("2026-01-02T03:04:05Z", "x", ""),
        ] {
            assert_eq!(line(timestamp, level, message), None);
        }
    }

    #[test]
    fn what_a_device_says_of_itself_is_bounded() {
        let name = |length: usize| asking("ä".repeat(length), "rpi4".to_owned(), None).is_ok();
        assert!(name(1) && name(NAME_LIMIT));
        assert!(!name(0) && !name(NAME_LIMIT + 1));
        assert!(asking("app".to_owned(), String::new(), None).is_err());
        assert!(asking("app".to_owned(), "a\0".to_owned(), None).is_err());
    }
}
