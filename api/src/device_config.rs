//! What devices are told to be, and what they say they are. (Mender API: device configuration.)
//!
//! | who asks | where |
//! |---|---|
//! | devices | [`device`] |
//! | users | [`management`] |
//! | other services | [`internal`] |
//!
//! Values may be secrets: no error and no entry of the audit log shows more of one than its beginning.

pub mod device;
pub mod internal;
pub mod management;

use std::collections::BTreeMap;

use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use actors::device_configs;
use actors::trigger::Asker;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use storage::{Configuration, ConfigurationFault, DeviceId};

use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::middleware::audit::AuditDetails;
use crate::state::ApiState;

/// How often a device may be offered again what it failed to install. (Mender API: deployments, `retries`.)
const RETRIES: u32 = 100;

/// The settings in a body; `null` are none. (A device that was given nothing stores `null`, and reports that.)
fn settings(body: &RawJson) -> Result<Configuration, ApiError> {
    let failed = |error: serde_json::Error| {
        let what = if error.is_data() { "expected an object with texts" } else { "this is not JSON" };
        // Without what the reader says, which shows the value.
        let (line, column) = (error.line(), error.column());
        ApiError::bad_request(format!("failed to decode configuration: {what}, at line {line} column {column}"))
    };
    let settings: Option<BTreeMap<String, String>> = serde_json::from_slice(&body.0).map_err(failed)?;
    Ok(Configuration::new(settings.unwrap_or_default())?)
}

impl From<ConfigurationFault> for ApiError {
    fn from(fault: ConfigurationFault) -> Self {
        Self::bad_request(format!("failed to decode configuration: {fault}"))
    }
}

/// Lets the audit log say what was written.
fn note(request: &HttpRequest, configuration: &Configuration) {
    request.extensions_mut().insert(AuditDetails(json!({ "configuration": configuration.masked() })));
}

/// What is asked of a deployment. Members of other editions are taken and mean nothing.
#[derive(Debug, Deserialize)]
struct DeployBody {
    #[serde(default)]
    retries: u64,
    #[serde(default, rename = "update_control_map")]
    _control_map: Option<Map<String, Value>>,
}

impl DeployBody {
    fn retries(&self) -> Result<u32, ApiError> {
        u32::try_from(self.retries).ok().filter(|retries| *retries <= RETRIES).ok_or_else(|| {
            ApiError::bad_request(format!("failed to decode deployment: retries must be at most {RETRIES}"))
        })
    }
}

/// Deploys what a device is told to be. Whether there is such a device is looked at before the body is.
async fn deploy(
    id: &str,
    request: &HttpRequest,
    state: &ApiState,
    body: &RawJson,
    asker: Asker,
) -> Result<HttpResponse, ApiError> {
    let device: DeviceId = id.parse().map_err(|_| no_device())?;
    state.storage.device_configs.find(device).await?.ok_or_else(no_device)?;
    let retries = body.object::<DeployBody>("failed to decode deployment")?.retries()?;
    let deployment = device_configs::deploy(&state.storage, &state.rollout, device, retries, asker).await?;
    let answer = json!({ "deployment_id": deployment.ok_or_else(no_device)? });
    request.extensions_mut().insert(AuditDetails(answer.clone()));
    Ok(answer_json(&mut HttpResponse::Ok(), &answer))
}

fn no_device() -> ApiError {
    ApiError::unknown("device not found")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(body: &str) -> Result<usize, String> {
        let configuration = settings(&RawJson(Bytes::from(body.to_owned())));
        configuration.map(|configuration| configuration.settings().len()).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_texts_by_name_or_nothing() {
        assert_eq!(read(r#"{"a":"1","b":""}"#), Ok(2));
        assert_eq!(read(" null "), Ok(0));
        assert_eq!(read("{}"), Ok(0));
        for body in [
            "",
            "{",
            "[]",
            r#""a""#,
            "1",
            r#"{"a":1}"#,
            r#"{"a":null}"#,
            r#"{"a":{}}"#,
            r#"{"a":"1"} x"#,
            r#"{"":"1"}"#,
        ] {
            let error = read(body).unwrap_err();
            assert!(error.starts_with("failed to decode configuration: "), "{body}: {error}");
        }
    }

    #[test]
    fn a_refusal_shows_no_value() {
        for body in [r#"{"a":472}"#, r#"{"a":["472"]}"#, r#"{"a":"472"#] {
            assert!(!read(body).unwrap_err().contains("472"), "{body}");
        }
    }
}
