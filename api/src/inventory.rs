//! What devices say about themselves, what users note about them, and how they are found. (Mender API: inventory.)

use std::collections::HashSet;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use actors::inventory_writer::{RETRY_AFTER, ReportError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use storage::inventory::{self, NAME_LIMIT, TEXT_LIMIT, VALUES_LIMIT, is_attribute_value};
use storage::{Attribute, DeviceId, DeviceReport, InventoryDevice, Report, Reported, Timestamp, clock};

use crate::auth::{AuthenticatedDevice, AuthenticatedUser};
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::state::ApiState;

pub mod groups;
pub mod internal;
pub mod list;
pub mod overview;
pub mod saved_filters;
pub mod search;
pub mod tags;

/// What a device reports when nothing names a scope.
const OWN_SCOPE: &str = inventory::INVENTORY;

/// `PATCH …/inventory/device/attributes`: these attributes changed.
///
/// # Errors
/// As [`replace_attributes`].
pub async fn merge_attributes(
    device: AuthenticatedDevice,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    report(&state, device.0.device, &body, Report::Merge).await
}

/// `PUT …/inventory/device/attributes`: these are all attributes.
///
/// # Errors
/// 400 for a body against the rules, of which then nothing is stored; 401 for a device that is being removed; 429 when too
/// many reports wait.
pub async fn replace_attributes(
    device: AuthenticatedDevice,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    report(&state, device.0.device, &body, Report::Replace).await
}

async fn report(state: &ApiState, device: DeviceId, body: &RawJson, report: Report) -> Result<HttpResponse, ApiError> {
    let attributes = written_attributes(body, OWN_SCOPE)?;
    let limit = state.config.inventory_attributes_limit;
    let taken = state.reports.take(DeviceReport { device, attributes, report, limit, now: clock::now() });
    match taken.await? {
        // Exactly 200: devices take any other success for a failure.
        Reported::Stored | Reported::Unchanged => Ok(HttpResponse::Ok().finish()),
        Reported::TooMany => Err(too_many_attributes()),
        Reported::TooLarge => Err(too_large()),
        Reported::NoDevice => Err(ApiError::TokenRefused("dev auth: unauthorized".into())),
    }
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Overloaded => Self::too_many_requests(RETRY_AFTER),
            ReportError::Storage(error) => error.into(),
        }
    }
}

fn too_many_attributes() -> ApiError {
    ApiError::bad_request("the number of attributes in the scope is above the limit")
}

fn too_large() -> ApiError {
    ApiError::bad_request(format!(
        "the attributes in the scope hold more than {VALUES_LIMIT} values or {TEXT_LIMIT} bytes"
    ))
}

fn no_device() -> ApiError {
    ApiError::unknown("Device not found")
}

/// The attributes in a body, all in this scope.
fn written_attributes(body: &RawJson, scope: &str) -> Result<Vec<Attribute>, ApiError> {
    let written: Vec<WrittenAttribute> = body.array("failed to decode attributes")?;
    written.into_iter().map(|attribute| attribute.in_scope(scope)).collect()
}

/// One attribute as it is written. What it says about its time is the hub's to say, and ignored.
#[derive(Debug, Deserialize)]
struct WrittenAttribute {
    #[serde(default)]
    name: String,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    description: Option<String>,
}

impl WrittenAttribute {
    fn in_scope(self, scope: &str) -> Result<Attribute, ApiError> {
        let Self { name, value, description, .. } = self;
        if name.is_empty() {
            return Err(ApiError::bad_request("name: cannot be blank."));
        }
        if name.len() > NAME_LIMIT {
            return Err(ApiError::bad_request(format!("name: the length must be between 1 and {NAME_LIMIT}.")));
        }
        if !is_attribute_value(&value) {
            return Err(ApiError::bad_request(
                "value: must be a text, a number, or an array of only texts or only numbers.",
            ));
        }
        Ok(Attribute { scope: scope.to_owned(), name, value, description, timestamp: None })
    }
}

/// `GET /devices/{id}`.
///
/// # Errors
/// 404 for an unknown device.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let id: DeviceId = id.parse().map_err(|_| no_device())?;
    let device = state.storage.inventory.find(id).await?.ok_or_else(no_device)?;
    let mut answer = HttpResponse::Ok();
    // The tag is the version of the tags alone: a cache that took it for the whole would hide new reports.
    answer.insert_header((header::CACHE_CONTROL, "no-cache"));
    if let Some(etag) = &device.tags_etag {
        answer.insert_header((header::ETAG, etag.as_str()));
    }
    Ok(answer_json(&mut answer, &DeviceBody::from(device)))
}

/// `DELETE /devices/{id}`: forgets what the device has reported, and nothing else.
///
/// # Errors
/// When the database cannot be asked.
pub async fn clear(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    if let Ok(id) = id.parse() {
        state.storage.inventory.clear_report(id).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// Which attributes an answer shows: all of them, or these and when the device last reported.
type Projection = Option<HashSet<(String, String)>>;

fn project(device: InventoryDevice, projection: &Projection) -> DeviceBody {
    let Some(wanted) = projection else { return DeviceBody::from(device) };
    let mut body = DeviceBody::from(device);
    body.identities.clear();
    body.attributes.retain(|attribute| {
        let is_time = attribute.scope == inventory::SYSTEM && attribute.name == "updated_ts";
        is_time || wanted.contains(&(attribute.scope.clone(), attribute.name.clone()))
    });
    body
}

#[derive(Debug, Serialize)]
struct DeviceBody {
    id: DeviceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_ts: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    identities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<AttributeBody>,
}

#[derive(Debug, Serialize)]
struct AttributeBody {
    name: String,
    scope: String,
    value: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
}

impl From<InventoryDevice> for DeviceBody {
    fn from(device: InventoryDevice) -> Self {
        let identities = device.attributes.iter().filter(|attribute| is_identity(attribute)).flat_map(texts).collect();
        let body_of = |attribute: Attribute| AttributeBody {
            name: attribute.name,
            scope: attribute.scope,
            value: attribute.value,
            description: attribute.description,
            timestamp: attribute.timestamp,
        };
        let mut attributes: Vec<AttributeBody> = device.attributes.into_iter().map(body_of).collect();
        // Clients look for it in both places.
        attributes.extend(device.updated.map(|updated| AttributeBody {
            name: "updated_ts".to_owned(),
            scope: "system".to_owned(),
            value: Value::String(updated.rfc3339()),
            description: None,
            timestamp: None,
        }));
        Self { id: device.id, updated_ts: device.updated, identities, attributes }
    }
}

/// By what people know a device: its identity, and the name they gave it. Its status is kept beside the identity without
/// being part of it.
fn is_identity(attribute: &Attribute) -> bool {
    match attribute.scope.as_str() {
        "identity" => attribute.name != "status",
        "tags" => attribute.name == "name",
        _ => false,
    }
}

fn texts(attribute: &Attribute) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match &attribute.value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => vec![text(value)],
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn attribute(text: &str) -> Result<Attribute, String> {
        let body = RawJson(Bytes::from(format!("[{text}]")));
        written_attributes(&body, OWN_SCOPE).map(|mut written| written.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_attribute_holds_texts_and_numbers() {
        for value in [r#""""#, r#""a""#, "1", "1.5", "[]", r#"["a","b"]"#, "[1,2]"] {
            assert!(attribute(&format!(r#"{{"name":"n","value":{value}}}"#)).is_ok(), "{value}");
        }
        for value in ["null", "true", "{}", r#"[1,"a"]"#, "[[1]]", "[null]"] {
            assert!(attribute(&format!(r#"{{"name":"n","value":{value}}}"#)).is_err(), "{value}");
        }
        assert!(attribute(r#"{"name":"n"}"#).is_err());
    }

    #[test]
    fn a_name_is_needed_and_bounded() {
        assert!(attribute(r#"{"value":"v"}"#).is_err());
        assert!(attribute(r#"{"name":"","value":"v"}"#).is_err());
        assert!(attribute(&format!(r#"{{"name":"{}","value":"v"}}"#, "n".repeat(1025))).is_err());
        let dotted = attribute(r#"{"name":"rootfs-image.version","value":"v","scope":"system","timestamp":"x"}"#);
        assert_eq!(dotted.map(|dotted| dotted.scope), Ok("inventory".to_owned()));
    }

    #[test]
    fn a_device_is_known_by_its_identity_and_its_name() {
        let attribute = |scope: &str, name: &str, value: Value| Attribute {
            scope: scope.into(),
            name: name.into(),
            value,
            description: None,
            timestamp: None,
        };
        let device = InventoryDevice {
            id: DeviceId::random(),
            attributes: vec![
                attribute("identity", "mac", json!("02:00")),
                attribute("identity", "serials", json!([7, 8])),
                attribute("identity", "status", json!("accepted")),
                attribute("tags", "name", json!("Kitchen lamp")),
                attribute("tags", "floor", json!("1")),
            ],
            updated: None,
            revision: 1,
            tags_etag: None,
        };
        let body = serde_json::to_value(DeviceBody::from(device)).unwrap();
        assert_eq!(body["identities"], json!(["02:00", "7", "8", "Kitchen lamp"]));
        assert_eq!(body["attributes"][0], json!({"name": "mac", "scope": "identity", "value": "02:00"}));
        assert_eq!(body.get("updated_ts"), None);
    }
}
