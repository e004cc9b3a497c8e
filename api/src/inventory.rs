//! What devices say about themselves, in and out. (Mender API: inventory.)

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use storage::{Attribute, DeviceId, InventoryDevice, Report, Reported, Timestamp, clock};

use crate::auth::{AuthenticatedDevice, AuthenticatedUser};
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query};
use crate::state::ApiState;

/// Where lists say their pages are, whichever alias was asked.
const DEVICES: &str = "/api/management/v1/inventory/devices";

/// Bytes in the name of an attribute.
const NAME_LIMIT: usize = 1024;

/// What a device reports when nothing names a scope.
const OWN_SCOPE: &str = "inventory";

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
/// 400 for a body against the rules, of which then nothing is stored; 401 for a device that is being removed.
pub async fn replace_attributes(
    device: AuthenticatedDevice,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    report(&state, device.0.device, &body, Report::Replace).await
}

async fn report(state: &ApiState, device: DeviceId, body: &RawJson, kind: Report) -> Result<HttpResponse, ApiError> {
    let reported: Vec<ReportedAttribute> = body.array("failed to decode attributes")?;
    let attributes: Result<Vec<Attribute>, ApiError> = reported.into_iter().map(Attribute::try_from).collect();
    let limit = state.config.inventory_attributes_limit;
    match state.storage.inventory.report(device, attributes?, kind, limit, clock::now()).await? {
        // Exactly 200: devices take any other success for a failure.
        Reported::Stored | Reported::Unchanged => Ok(HttpResponse::Ok().finish()),
        Reported::TooMany => Err(ApiError::bad_request("the number of attributes in the scope is above the limit")),
        Reported::NoDevice => Err(ApiError::TokenRefused("dev auth: unauthorized".into())),
    }
}

/// One element of a report. What it says about scope and time is the hub's to say, and ignored.
#[derive(Debug, Deserialize)]
struct ReportedAttribute {
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    description: Option<String>,
}

impl TryFrom<ReportedAttribute> for Attribute {
    type Error = ApiError;

    fn try_from(reported: ReportedAttribute) -> Result<Self, ApiError> {
        let ReportedAttribute { name, value, description } = reported;
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
        Ok(Self { scope: OWN_SCOPE.to_owned(), name, value, description, timestamp: None })
    }
}

fn is_attribute_value(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Number(_) => true,
        Value::Array(items) => items.iter().all(Value::is_string) || items.iter().all(Value::is_number),
        Value::Null | Value::Bool(_) | Value::Object(_) => false,
    }
}

/// `GET /devices`: a page of the fleet, in order of the ids so that paging meets every device once.
///
/// # Errors
/// 400 for paging and for filters and sorting, which this hub does not have yet: a list that ignored them would look like
/// the answer.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    if let Some((name, _)) = query.pairs().find(|(name, _)| !matches!(*name, "page" | "per_page")) {
        let name: String = name.chars().take(64).collect();
        return Err(ApiError::bad_request(format!("unsupported query parameter {name:?}: expected page or per_page")));
    }
    let page = Page::from_query(&query)?;
    let (devices, total) = state.storage.inventory.list(page.offset(), page.size).await?;
    let mut answer = HttpResponse::Ok();
    for link in page.links(DEVICES, &query, Extent::Total(total)) {
        answer.append_header(link);
    }
    answer.insert_header(("X-Total-Count", total.to_string()));
    Ok(answer_json(&mut answer, &devices.into_iter().map(DeviceBody::from).collect::<Vec<_>>()))
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
    let not_found = || ApiError::unknown("Device not found");
    let id: DeviceId = id.parse().map_err(|_| not_found())?;
    let device = state.storage.inventory.find(id).await?.ok_or_else(not_found)?;
    let mut answer = HttpResponse::Ok();
    // The tag is the version of the tags alone: a cache that took it for the whole would hide new reports.
    answer.insert_header((header::CACHE_CONTROL, "no-cache"));
    if let Some(etag) = &device.tags_etag {
        answer.insert_header((header::ETAG, etag.as_str()));
    }
    Ok(answer_json(&mut answer, &DeviceBody::from(device)))
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
        let mut reported: Vec<ReportedAttribute> = body.array("cannot read").map_err(|error| error.to_string())?;
        Attribute::try_from(reported.remove(0)).map_err(|error| error.to_string())
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
