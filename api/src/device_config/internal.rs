//! What other services write about devices' configurations. (Mender API: device configuration, internal.)

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::rollout::MakeError;
use actors::trigger::Asker;
use serde::Deserialize;
use serde_json::{Map, Value};
use storage::{DeploymentId, DeviceId, Merged, Provisioned, clock};

use super::{no_device, note, settings};
use crate::body::RawJson;
use crate::deployments::retries;
use crate::error::ApiError;
use crate::internal::ours;
use crate::state::ApiState;

/// `DELETE /tenants/`: empties the configurations of all devices.
///
/// # Errors
/// When the database cannot be asked; some may be empty then.
pub async fn wipe(state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    state.storage.device_configs.clear().await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /tenants/{tenant}/devices`: makes an empty record for a device. One that nobody has written to is as good as none.
///
/// # Errors
/// 400 for a body without the id of a device, 404 for an unknown device and another tenant, 409 if there is a record.
pub async fn provision(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let wanted: ProvisionBody = body.object("failed to decode device")?;
    let device: DeviceId =
        wanted.device_id.parse().map_err(|error| ApiError::bad_request(format!("device_id: {error}")))?;
    match state.storage.device_configs.provision(device, clock::now()).await? {
        Provisioned::Made => Ok(HttpResponse::Created().finish()),
        Provisioned::WasThere => Err(ApiError::Conflict("the device has a configuration already".into())),
        Provisioned::NoDevice => Err(no_device()),
    }
}

#[derive(Debug, Deserialize)]
struct ProvisionBody {
    #[serde(default)]
    device_id: String,
}

/// `DELETE /tenants/{tenant}/devices/{id}`: empties the configuration of a device.
///
/// # Errors
/// 404 if there is nothing in it, for an unknown device and another tenant.
pub async fn forget(path: web::Path<(String, String)>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let device: DeviceId = path.1.parse().map_err(|_| no_device())?;
    if state.storage.device_configs.forget(device).await? {
        return Ok(HttpResponse::NoContent().finish());
    }
    Err(no_device())
}

/// `PATCH /tenants/{tenant}/configurations/device/{id}`: changes some of what a device is told to be.
///
/// # Errors
/// 400 for a body against the rules and for too many settings, 404 for an unknown device and another tenant.
pub async fn merge(
    path: web::Path<(String, String)>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    let changes = settings(&body)?;
    let device: DeviceId = path.1.parse().map_err(|_| no_device())?;
    match state.storage.device_configs.merge(device, &changes, clock::now()).await? {
        Merged::Stored(configured) => {
            note(&request, &configured);
            Ok(HttpResponse::NoContent().finish())
        }
        Merged::Refused(fault) => Err(fault.into()),
        Merged::NoDevice => Err(no_device()),
    }
}

/// `POST /tenants/{tenant}/configurations/device/{id}/deploy`.
///
/// # Errors
/// As for users, and 404 for another tenant.
pub async fn deploy(
    path: web::Path<(String, String)>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&path.0)?;
    super::deploy(&path.1, &request, &state, &body, Asker::Service).await
}

/// `POST /tenants/{tenant}/configuration/deployments/{deployment}/devices/{device}` of deployments: brings a device this
/// configuration, whatever it is told to be.
///
/// # Errors
/// 400 for ids and a body against the rules, 404 for another tenant, 409 if there is such a deployment.
pub async fn bring(
    path: web::Path<(String, String, String)>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let (tenant, deployment, device) = path.into_inner();
    ours(&tenant)?;
    let malformed = |_| ApiError::bad_request("ID is not a valid UUID");
    let deployment: DeploymentId = deployment.parse().map_err(malformed)?;
    let device: DeviceId = device.parse().map_err(malformed)?;
    let wanted: BringBody = body.object("failed to decode deployment")?;
    if wanted.name.is_empty() || wanted.name.len() > NAME_LIMIT {
        return Err(ApiError::bad_request(format!("name: must have 1 to {NAME_LIMIT} bytes.")));
    }
    let configuration = Value::Object(wanted.configuration.read()?).to_string();
    let retries = retries(wanted.retries)?;
    match state.rollout.make_configuration(deployment, device, &wanted.name, configuration, retries).await {
        Ok(_) => {}
        Err(MakeError::Storage(error)) => return Err(error.into()),
        Err(error) => return Err(ApiError::Conflict(error.to_string().into())),
    }
    let location = format!("./deployments/{deployment}");
    Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).finish())
}

/// Bytes of the name of a deployment.
const NAME_LIMIT: usize = 2000;

#[derive(Debug, Deserialize)]
struct BringBody {
    #[serde(default)]
    name: String,
    retries: Option<u64>,
    configuration: Written,
}

/// A configuration: an object, or a text that holds one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Object(Map<String, Value>),
    Text(String),
}

impl Written {
    fn read(self) -> Result<Map<String, Value>, ApiError> {
        match self {
            Self::Object(object) => Ok(object),
            Self::Text(text) => {
                let object = serde_json::from_str(&text);
                object.map_err(|_| ApiError::bad_request("configuration: must be an object, or a text that holds one"))
            }
        }
    }
}

impl std::fmt::Debug for Written {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("***")
    }
}
