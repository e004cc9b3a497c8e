//! Users who make deployments and end them.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use actors::rollout::{Chosen, MakeError, Wish};
use serde::Deserialize;
use storage::{Abortion, DeploymentId, FilterId};

use super::plan::{Plan, PlanBody};
use super::query::may_be_device;
use super::{DEPLOYMENTS, deployment_id, device_name, no_such};
use crate::auth::AuthenticatedUser;
use crate::body::RawJson;
use crate::error::ApiError;
use crate::state::ApiState;

/// Characters of a deployment's name.
const NAME_LIMIT: usize = 256;

/// Characters of the name of what is deployed.
const ARTIFACT_NAME_LIMIT: usize = 4096;

/// A deployment to be made. What else clients send belongs to other editions, and is passed over.
#[derive(Debug, Deserialize)]
struct NewDeploymentBody {
    #[serde(default)]
    name: String,
    #[serde(default)]
    artifact_name: String,
    devices: Option<Vec<String>>,
    #[serde(default)]
    all_devices: Option<bool>,
    #[serde(default)]
    force_installation: Option<bool>,
    filter_id: Option<String>,
    max_devices: Option<u64>,
    #[serde(flatten)]
    plan: PlanBody,
}

impl NewDeploymentBody {
    fn read(body: &RawJson) -> Result<Self, ApiError> {
        let wanted: Self = body.object("Validating request body")?;
        for (member, text, limit) in
            [("name", &wanted.name, NAME_LIMIT), ("artifact_name", &wanted.artifact_name, ARTIFACT_NAME_LIMIT)]
        {
            if text.is_empty() {
                return Err(invalid(&format!("{member}: cannot be blank.")));
            }
            if text.contains('\0') || text.chars().count() > limit {
                return Err(invalid(&format!("{member}: the length must be between 1 and {limit}.")));
            }
        }
        Ok(wanted)
    }

    fn is_for_all(&self) -> bool {
        self.all_devices == Some(true)
    }

    fn has_devices(&self) -> bool {
        self.devices.as_ref().is_some_and(|devices| !devices.is_empty())
    }

    fn wish(self, chosen: Chosen) -> Result<Wish, ApiError> {
        let forced = self.force_installation == Some(true);
        let Plan { phases, retries, safety } = self.plan.read()?;
        Ok(Wish { name: self.name, artifact_name: self.artifact_name, forced, chosen, phases, retries, safety })
    }
}

pub(super) fn invalid(why: &str) -> ApiError {
    ApiError::bad_request(format!("Validating request body: {why}"))
}

/// `POST /deployments`: for devices that are listed, or for all.
///
/// # Errors
/// 400 for a wish against the rules, 409 if an equal one goes on, 422 if there is nothing of that name.
pub async fn create(_: AuthenticatedUser, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    let mut wanted = NewDeploymentBody::read(&body)?;
    let chosen = match (wanted.is_for_all(), wanted.has_devices()) {
        (true, true) => return Err(invalid("devices and all_devices exclude one another")),
        (false, false) => return Err(invalid("devices: cannot be blank.")),
        (true, false) => Chosen::All,
        (false, true) => {
            let devices = wanted.devices.take().unwrap_or_default();
            if !devices.iter().all(|device| may_be_device(device)) {
                return Err(invalid("devices: each must be an id of 1 to 256 characters"));
            }
            Chosen::Devices(devices)
        }
    };
    make(&state, wanted.wish(chosen)?).await
}

/// `POST /deployments/group/{name}`: for the accepted devices of a group.
///
/// # Errors
/// As [`create`]; 400 for a group that is empty.
pub async fn create_for_group(
    _: AuthenticatedUser,
    group: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let wanted = NewDeploymentBody::read(&body)?;
    if wanted.is_for_all() || wanted.has_devices() {
        return Err(invalid("a deployment for a group has neither devices nor all_devices"));
    }
    make(&state, wanted.wish(Chosen::Group(group.into_inner()))?).await
}

/// `POST v2 /deployments`: for whoever passes a saved filter when it asks.
///
/// # Errors
/// As [`create`]; 400 for a filter that is not there.
pub async fn create_by_filter(
    _: AuthenticatedUser,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let wanted = NewDeploymentBody::read(&body)?;
    if wanted.is_for_all() || wanted.has_devices() {
        return Err(invalid("a deployment by a filter has neither devices nor all_devices"));
    }
    let unknown = || invalid("filter_id: must be the id of a saved filter");
    let filter: FilterId = wanted.filter_id.as_deref().unwrap_or_default().parse().map_err(|_| unknown())?;
    let terms = state.storage.filters.find(filter).await?.ok_or_else(unknown)?.terms;
    let max_devices = wanted.max_devices.unwrap_or(0);
    if i64::try_from(max_devices).is_err() {
        return Err(invalid("max_devices: is too large"));
    }
    make(&state, wanted.wish(Chosen::Filter { terms, max_devices })?).await
}

async fn make(state: &ApiState, wish: Wish) -> Result<HttpResponse, ApiError> {
    Ok(made(state.rollout.make(wish).await?))
}

/// The answer about a deployment that was made.
fn made(id: DeploymentId) -> HttpResponse {
    HttpResponse::Created().insert_header((header::LOCATION, format!("{DEPLOYMENTS}/{id}"))).finish()
}

impl From<MakeError> for ApiError {
    fn from(error: MakeError) -> Self {
        let text = error.to_string().into();
        match error {
            MakeError::NoDevices | MakeError::BadPhases(_) => Self::BadRequest(text),
            MakeError::NoArtifact => Self::Unprocessable(text),
            MakeError::Equal | MakeError::IdTaken => Self::Conflict(text),
            MakeError::Storage(error) => error.into(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct StatusBody {
    status: String,
}

/// `PUT /deployments/{id}/status`: ends it.
///
/// # Errors
/// 400 for any status but `aborted`, 404, 422 if it is over.
pub async fn abort(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let id = deployment_id(&id)?;
    let StatusBody { status } = body.object("Validating request body")?;
    if status != "aborted" {
        return Err(invalid("status: must be aborted"));
    }
    match state.rollout.abort(id).await? {
        Abortion::Aborted => Ok(HttpResponse::NoContent().finish()),
        Abortion::Unknown => Err(no_such()),
        Abortion::Finished => Err(ApiError::Unprocessable("Deployment already finished".into())),
    }
}

/// `DELETE /deployments/devices/{device}`: ends everything a device is at, or is still to be told of.
///
/// # Errors
/// 404 for what is no id.
pub async fn abort_device(
    _: AuthenticatedUser,
    device: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    state.rollout.abort_device(device_name(&device)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /deployments/devices/{device}/history`: lets a device forget what it went through.
///
/// # Errors
/// 404 for what is no id.
pub async fn delete_history(
    _: AuthenticatedUser,
    device: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    state.rollout.delete_history(device_name(&device)?).await?;
    Ok(HttpResponse::NoContent().finish())
}
