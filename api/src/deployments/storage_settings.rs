//! Where new artifacts go, if not to the hub's own object store. (Mender API: deployments, internal, storage settings.)

use std::error::Error;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use storage::{StorageError, StoreRefusal, StoreSettings, clock};

use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::internal::ours;
use crate::state::ApiState;

/// Members that are texts.
const TEXTS: [&str; 9] = ["type", "region", "bucket", "key", "secret", "token", "uri", "external_uri", "proxy_uri"];

/// What failed if the body is at fault.
const VALIDATING: &str = "Validating request body";

/// `GET /tenants/{tenant}/storage/settings`: what was set, or `null`.
///
/// # Errors
/// 404 for another tenant.
pub async fn read(tenant: web::Path<String>, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let settings = state.storage.artifact_stores.settings().await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &settings))
}

/// `PUT /tenants/{tenant}/storage/settings`: from now on new artifacts go there, or, with nothing in the body, to the hub's
/// own store again. The store is tried first.
///
/// # Errors
/// 404 for another tenant, 400 for settings that make no sense, 409 for too many stores, 500 for a store that does not do what is
/// asked of it; everything is as it was then.
pub async fn write(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    let settings = settings(&body)?;
    match state.storage.artifact_stores.set(settings.as_ref(), clock::now()).await {
        Ok(()) => Ok(HttpResponse::NoContent().finish()),
        Err(StoreRefusal::Fault(fault)) => Err(ApiError::bad_request(format!("{VALIDATING}: {fault}"))),
        Err(refusal @ StoreRefusal::TooMany) => Err(ApiError::Conflict(refusal.to_string().into())),
        Err(StoreRefusal::Unusable(error)) => {
            let why = match &error {
                StorageError::Unavailable(_) => "it does not answer",
                StorageError::Corrupt(_) => "it does not keep what it is given",
                _ => "it refuses: is the bucket there, and may this key list, write, read and remove in it?",
            };
            // What a server says that anybody may name is for the log alone.
            tracing::warn!(error = &error as &dyn Error, "a store of artifacts was not taken");
            Err(ApiError::Other(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot use this store: {why}").into()))
        }
        Err(StoreRefusal::Storage(error)) => Err(error.into()),
    }
}

/// What the body asks for: nothing, `null` and an object without members are the hub's own store.
fn settings(body: &RawJson) -> Result<Option<StoreSettings>, ApiError> {
    if body.is_empty() || body.0.trim_ascii() == b"null" {
        return Ok(None);
    }
    let members: serde_json::Map<String, serde_json::Value> = body.object(VALIDATING)?;
    if members.is_empty() {
        return Ok(None);
    }
    // What is not said is no different from what is `null`.
    let members: serde_json::Map<_, _> = members.into_iter().filter(|(_, value)| !value.is_null()).collect();
    for (name, value) in &members {
        let is_flag = matches!(name.as_str(), "force_path_style" | "literal_bucket_uri" | "use_accelerate");
        let is_known = is_flag || TEXTS.contains(&name.as_str());
        if is_known && !(if is_flag { value.is_boolean() } else { value.is_string() }) {
            // Without its value, which may be a secret.
            let expected = if is_flag { "true or false" } else { "a text" };
            return Err(ApiError::bad_request(format!("{VALIDATING}: {name}: must be {expected}.")));
        }
    }
    let settings: StoreSettings =
        serde_json::from_value(serde_json::Value::Object(members)).map_err(|error| ApiError::Internal(error.into()))?;
    Ok(Some(settings.without_blanks()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &'static str) -> Result<Option<StoreSettings>, String> {
        settings(&RawJson(body.into())).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_the_store_of_the_hub() {
        for body in ["", " null\n", "{}", " {} "] {
            assert_eq!(read(body), Ok(None), "{body}");
        }
        assert!(read("[]").unwrap_err().starts_with("Validating request body: expected an object"));
        assert_eq!(read("{\"secret\":12345678}").unwrap_err(), "Validating request body: secret: must be a text.");
        let flag = read("{\"use_accelerate\":\"yes\"}").unwrap_err();
        assert_eq!(flag, "Validating request body: use_accelerate: must be true or false.");
        let whole =
            r#"{"type":null,"region":"eu-west-1","bucket":"fleet","key":"mooring","secret":"hunter2","token":""}"#;
        let settings = read(whole).unwrap().unwrap();
        assert_eq!((settings.kind, settings.token, &*settings.bucket), (None, None, "fleet"));
    }
}
