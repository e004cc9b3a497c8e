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

use actix_web::{HttpMessage, HttpRequest};
use serde_json::json;
use std::collections::BTreeMap;
use storage::{Configuration, ConfigurationFault};

use crate::body::RawJson;
use crate::error::ApiError;
use crate::middleware::audit::AuditDetails;

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
