//! Device admission: how devices ask to join, and how users decide. (Mender API: device authentication.)

pub mod device;
pub mod management;

use std::borrow::Cow;
use std::time::Duration;

use actors::admission::AdmissionError;
use serde::Serialize;
use serde_json::Value;
use storage::{AuthSet, AuthSetId, Device, SetStatus, Timestamp};

use crate::error::ApiError;

/// When a device whose request found too many waiting before it should ask again. An operator has to act first.
const RETRY_WHEN_CROWDED: Duration = Duration::from_mins(5);

/// A device as management sees it.
#[derive(Debug, Serialize)]
pub struct DeviceBody {
    id: storage::DeviceId,
    identity_data: Value,
    status: &'static str,
    decommissioning: bool,
    created_ts: Timestamp,
    updated_ts: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    check_in_time: Option<Timestamp>,
    auth_sets: Vec<AuthSetBody>,
}

#[derive(Debug, Serialize)]
struct AuthSetBody {
    id: AuthSetId,
    identity_data: Value,
    pubkey: String,
    status: &'static str,
    ts: Timestamp,
}

impl From<Device> for DeviceBody {
    fn from(device: Device) -> Self {
        // Stored canonical, so it parses; were it corrupt, its text would say more than nothing.
        let identity = serde_json::from_str(&device.identity).unwrap_or_else(|_| Value::from(device.identity.as_str()));
        let status = device.status().as_str();
        let body_of = |set: AuthSet| AuthSetBody {
            id: set.id,
            identity_data: identity.clone(),
            pubkey: set.pubkey,
            status: set.status.as_str(),
            ts: set.created,
        };
        Self {
            id: device.id,
            status,
            decommissioning: device.decommissioning,
            created_ts: device.created,
            updated_ts: device.updated,
            check_in_time: device.checked_in,
            auth_sets: device.auth_sets.into_iter().map(body_of).collect(),
            identity_data: identity,
        }
    }
}

/// What a user may ask a set to become.
fn wanted_status(text: &str) -> Option<SetStatus> {
    match text {
        "accepted" => Some(SetStatus::Accepted),
        "rejected" => Some(SetStatus::Rejected),
        "pending" => Some(SetStatus::Pending),
        _ => None,
    }
}

impl From<AdmissionError> for ApiError {
    fn from(error: AdmissionError) -> Self {
        use Cow::Borrowed;
        match error {
            AdmissionError::Invalid(text) => Self::BadRequest(text.into()),
            AdmissionError::SignatureMissing => Self::BadRequest(Borrowed("missing request signature header")),
            AdmissionError::SignatureWrong => Self::Unauthorized(Borrowed("signature verification failed")),
            AdmissionError::Unauthorized => Self::Unauthorized(Borrowed("dev auth: unauthorized")),
            AdmissionError::LimitAtJoin => Self::Unauthorized(Borrowed("unauthorized")),
            AdmissionError::LimitReached => Self::Unprocessable(Borrowed("maximum number of accepted devices reached")),
            AdmissionError::DeviceNotFound => Self::unknown("device not found"),
            AdmissionError::SetNotFound => Self::unknown("authorization set not found"),
            AdmissionError::Mismatch => Self::BadRequest(Borrowed("dev auth: dev ID and auth ID mismatch")),
            AdmissionError::TransitionRefused => Self::BadRequest(Borrowed("dev auth: bad request")),
            AdmissionError::TooManyPending => Self::too_many_requests(RETRY_WHEN_CROWDED),
            AdmissionError::Crowded(crowded) => crowded.into(),
            AdmissionError::Unavailable(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::DeviceId;

    use super::*;

    #[test]
    fn a_device_is_rendered_as_clients_read_it() {
        let (id, set) = (DeviceId::random(), AuthSetId::random());
        let device = Device {
            id,
            identity: r#"{"mac":"52:54:00:12:34:56","n":18446744073709551615}"#.into(),
            identity_hash: [0; 32],
            decommissioning: false,
            created: Timestamp(1_900_000_000_120_000),
            updated: Timestamp(1_900_000_000_100_000),
            checked_in: None,
            revision: 1,
            auth_sets: vec![AuthSet {
                id: set,
                pubkey: "PEM".into(),
                status: SetStatus::Pending,
                created: Timestamp(1_900_000_000_000_000),
            }],
        };
        let text = serde_json::to_string(&DeviceBody::from(device)).unwrap();
        let identity = r#"{"mac":"52:54:00:12:34:56","n":18446744073709551615}"#;
        assert_eq!(
            text,
            format!(
                concat!(
                    r#"{{"id":"{}","identity_data":{},"status":"pending","decommissioning":false,"#,
                    r#""created_ts":"2030-03-17T17:46:40.120Z","updated_ts":"2030-03-17T17:46:40.100Z","#,
                    r#""auth_sets":[{{"id":"{}","identity_data":{},"pubkey":"PEM","status":"pending","#,
                    r#""ts":"2030-03-17T17:46:40.000Z"}}]}}"#
                ),
                id, identity, set, identity
            )
        );
    }

    #[test]
    fn users_cannot_ask_for_preauthorized() {
        assert_eq!(wanted_status("preauthorized"), None);
        assert_eq!(wanted_status("noauth"), None);
        assert_eq!(wanted_status("accepted"), Some(SetStatus::Accepted));
    }
}
