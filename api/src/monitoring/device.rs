//! What devices report: alerts, and which checks they make. (Mender API: device monitor, devices.)
//!
//! A device throws away a whole batch that it is told is wrong, so one bad element must not cost the others: it is dropped,
//! and the rest is stored. What is too much for now is told to come again later, which devices do.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use actors::monitor::ReportError;
use serde::Deserialize;
use serde_json::{Map, Value};
use storage::{AlertLevel, Details, NewAlert, Timestamp, clock};

use crate::auth::AuthenticatedDevice;
use crate::body::RawJson;
use crate::error::ApiError;
use crate::state::ApiState;

/// Bytes of the names of an alert and of what it is about.
const NAME_LIMIT: usize = 1024;

/// Bytes of a line of a log; what is longer is cut.
const LINE_LIMIT: usize = 16 * 1024;

/// Bytes of a description; what is longer is cut.
const DESCRIPTION_LIMIT: usize = 16 * 1024;

/// Bytes of all that is said beside the description and the lines, of an alert and of each of its lines; the rest is left
/// out.
const OTHER_LIMIT: usize = 16 * 1024;
const OTHER_LIMIT_OF_LINE: usize = 256;

/// Lines of a log on either side of the one that matched; of more the nearest stay.
const LINES: usize = 64;

/// What a device's subjects may not be called: the hub's own alerts are about these.
const OURS: &str = "mooring.";

/// When a device may try again whose alerts were too many.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// `POST /alert`.
///
/// # Errors
/// 400 if the body is no array, or none of its elements is an alert; 401 for a device that is being removed; 429 when too
/// much waits.
pub async fn report_alerts(
    device: AuthenticatedDevice,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let elements: Vec<Value> = body.array("failed to decode alerts")?;
    let (mut alerts, mut fault) = (Vec::with_capacity(elements.len()), None);
    for element in elements {
        match read(element) {
            Ok(alert) => alerts.push(alert),
            Err(text) => {
                metrics::counter!(actors::metrics::ALERTS_INVALID).increment(1);
                fault = fault.or(Some(text));
            }
        }
    }
    if let (true, Some(fault)) = (alerts.is_empty(), fault) {
        return Err(ApiError::bad_request(format!("no element is a valid alert: {fault}")));
    }
    state.monitor.report(device.0.device, alerts).await?;
    Ok(HttpResponse::NoContent().finish())
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::TooMuch => Self::TooManyRequests(error.to_string().into(), TRY_AGAIN),
            ReportError::NoDevice => Self::TokenRefused("dev auth: unauthorized".into()),
            ReportError::Storage(error) => error.into(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct AlertBody {
    name: String,
    level: String,
    timestamp: Timestamp,
    subject: SubjectBody,
}

#[derive(Debug, Deserialize)]
struct SubjectBody {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    details: Option<Map<String, Value>>,
}

fn read(element: Value) -> Result<NewAlert, String> {
    let AlertBody { name, level, timestamp, subject } =
        serde_json::from_value(element).map_err(|error| error.to_string())?;
    let level = AlertLevel::named(&level).ok_or("level: must be OK, WARNING, CRITICAL or CRITICAL_FLAPPING")?;
    for (what, text) in [("name", &name), ("subject.name", &subject.name), ("subject.type", &subject.kind)] {
        if text.is_empty() {
            return Err(format!("{what}: cannot be blank"));
        }
    }
    let status = [("subject.status", &subject.status)];
    for (what, text) in
        [("name", &name), ("subject.name", &subject.name), ("subject.type", &subject.kind)].into_iter().chain(status)
    {
        if text.len() > NAME_LIMIT {
            return Err(format!("{what}: must not be longer than {NAME_LIMIT}"));
        }
    }
    if subject.kind.starts_with(OURS) {
        return Err(format!("subject.type: must not begin with {OURS}"));
    }
    Ok(NewAlert {
        name,
        level,
        subject_type: subject.kind,
        subject_name: subject.name,
        status: subject.status,
        details: subject.details.map(details).transpose()?,
        at: timestamp,
    })
}

/// Details within their bounds; clients rely on lines being arrays whenever they are there.
fn details(mut details: Map<String, Value>) -> Result<Details, String> {
    details.retain(|_, value| !value.is_null());
    for (member, keeps_end) in [("lines_before", true), ("lines_after", false)] {
        let Some(lines) = details.get_mut(member) else { continue };
        let lines = lines.as_array_mut().ok_or_else(|| format!("{member}: must be an array"))?;
        if keeps_end {
            lines.drain(..lines.len().saturating_sub(LINES));
        } else {
            lines.truncate(LINES);
        }
        for line in lines {
            cut_line(line).ok_or_else(|| format!("{member}: must hold lines"))?;
        }
    }
    if let Some(line) = details.get_mut("line_matching") {
        cut_line(line).ok_or("line_matching: must be a line")?;
    }
    if let Some(Value::String(description)) = details.get_mut("description") {
        cut(description, DESCRIPTION_LIMIT);
    }
    leave_out(&mut details, OTHER_LIMIT, |name, value| match name {
        "description" => value.is_string(),
        _ => ["lines_before", "line_matching", "lines_after"].contains(&name),
    });
    Ok(Value::Object(details).into())
}

/// Leaves out members that are not bounded otherwise, from the first on that does not fit any more.
fn leave_out(members: &mut Map<String, Value>, limit: usize, is_bounded: impl Fn(&str, &Value) -> bool) {
    let mut room = limit;
    members.retain(|name, value| {
        if is_bounded(name, value) {
            return true;
        }
        let fits = room.checked_sub(name.len() + value.to_string().len());
        room = fits.unwrap_or(0);
        fits.is_some()
    });
}

/// Cuts a line that is too long; `None` if it is no line.
fn cut_line(line: &mut Value) -> Option<()> {
    let line = line.as_object_mut()?;
    if let Some(data) = line.get_mut("data") {
        let Value::String(text) = data else { return None };
        cut(text, LINE_LIMIT);
    }
    leave_out(line, OTHER_LIMIT_OF_LINE, |name, _| name == "data");
    Some(())
}

/// Cuts a text between two characters.
fn cut(text: &mut String, limit: usize) {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// `POST /config`: these are all checks the device makes.
///
/// # Errors
/// 400 for a body against the rules, of which then nothing is stored; 401 for a device that is being removed.
pub async fn report_checks(
    device: AuthenticatedDevice,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    check_checks(&body)?;
    // As it came: whatever else stands in it is between the device and its users.
    let text = std::str::from_utf8(&body.0).map_err(|_| ApiError::bad_request("the body is no text"))?;
    if state.storage.alerts.set_checks(device.0.device, text.trim(), clock::now()).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(ReportError::NoDevice.into())
    }
}

#[derive(Debug, Deserialize)]
struct CheckBody {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

fn check_checks(body: &RawJson) -> Result<(), ApiError> {
    let checks: Vec<CheckBody> = body.array("failed to decode checks")?;
    for check in &checks {
        for (what, text) in [("name", &check.name), ("type", &check.kind), ("status", &check.status)] {
            if text.is_empty() {
                return Err(ApiError::bad_request(format!("{what}: cannot be blank")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn alert() -> Value {
        json!({
            "name": "down", "level": "CRITICAL", "timestamp": "2031-05-04T10:00:00.123456Z", "more": 1,
            "subject": {"name": "sshd", "type": "service", "status": "stopped"},
        })
    }

    fn with_details(details: &Value) -> Result<NewAlert, String> {
        let mut alert = alert();
        alert["subject"]["details"] = details.clone();
        read(alert)
    }

    fn stored(details: &Value) -> Value {
        serde_json::from_str(with_details(details).unwrap().details.unwrap().text()).unwrap()
    }

    #[test]
    fn an_alert_is_read_with_its_time_to_the_microsecond() {
        let read = read(alert()).unwrap();
        assert_eq!((read.level, read.at.0 % 1_000_000), (AlertLevel::Critical, 123_456));
        assert_eq!(read.details, None);
    }

    #[test]
    fn what_is_required_is_required() {
        for path in ["/name", "/level", "/timestamp", "/subject", "/subject/name", "/subject/type", "/subject/status"] {
            for wrong in [Value::Null, json!(1)] {
                let mut alert = alert();
                *alert.pointer_mut(path).unwrap() = wrong;
                assert!(read(alert).is_err(), "{path}");
            }
        }
        for (path, wrong) in [
            ("/name", ""),
            ("/level", "critical"),
            ("/level", "UNKNOWN"),
            ("/timestamp", "yesterday"),
            ("/subject/type", "mooring.rule"),
        ] {
            let mut alert = alert();
            *alert.pointer_mut(path).unwrap() = json!(wrong);
            assert!(read(alert).is_err(), "{path} {wrong}");
        }
        for level in ["OK", "WARNING", "CRITICAL", "CRITICAL_FLAPPING"] {
            let mut alert = alert();
            alert["level"] = json!(level);
            assert_eq!(read(alert).unwrap().level.as_str(), level);
        }
        let mut long = alert();
        long["name"] = json!("x".repeat(NAME_LIMIT + 1));
        assert!(read(long).is_err());
    }

    #[test]
    fn lines_are_arrays_within_bounds_or_not_there() {
        let details = with_details(&json!({"lines_before": null, "line_matching": null, "description": "d"}));
        assert_eq!(details.unwrap().details, Some(json!({"description": "d"}).into()));
        assert!(with_details(&json!({"lines_before": "x"})).is_err());
        assert!(with_details(&json!({"lines_after": ["x"]})).is_err());
        let lines: Vec<Value> = (0..100).map(|number| json!({"line_number": number, "data": ""})).collect();
        let details = stored(&json!({"lines_before": lines, "lines_after": lines}));
        let first =
            |member: &str| (details[member].as_array().unwrap().len(), details[member][0]["line_number"].clone());
        assert_eq!(first("lines_before"), (LINES, json!(36)));
        assert_eq!(first("lines_after"), (LINES, json!(0)));
        let long = json!({"line_matching": {"line_number": 1, "data": "ä".repeat(LINE_LIMIT)}});
        assert_eq!(stored(&long)["line_matching"]["data"].as_str().unwrap().len(), LINE_LIMIT);
    }

    #[test]
    fn what_is_said_beside_the_lines_has_bounds_too() {
        let most = stored(&json!({"a": "x".repeat(OTHER_LIMIT - 3), "description": "ä".repeat(DESCRIPTION_LIMIT)}));
        assert_eq!(most["description"].as_str().unwrap().len(), DESCRIPTION_LIMIT);
        assert_eq!(most["a"].as_str().unwrap().len(), OTHER_LIMIT - 3);
        let more = json!({
            "a": "x".repeat(OTHER_LIMIT), "b": 1, "description": ["x".repeat(OTHER_LIMIT)],
            "line_matching": {"line_number": 7, "data": "d", "more": "x".repeat(OTHER_LIMIT_OF_LINE)},
        });
        assert_eq!(stored(&more), json!({"line_matching": {"line_number": 7, "data": "d"}}));
        let numbered: Map<String, Value> = (0..10_000).map(|number| (number.to_string(), json!([number]))).collect();
        assert!(stored(&Value::Object(numbered)).to_string().len() < 2 * OTHER_LIMIT);
    }

    #[test]
    fn checks_have_a_name_a_type_and_a_status() {
        let check = |text: &'static str| check_checks(&RawJson(Bytes::from_static(text.as_bytes()))).is_ok();
        assert!(check("[]"));
        assert!(check(r#"[{"name":"a.sh","type":"log","status":"enabled","log":{"pattern":"x"}}]"#));
        for wrong in ["", "{}", "[1]", r#"[{"name":"a","type":"log"}]"#, r#"[{"name":"","type":"log","status":"x"}]"#] {
            assert!(!check(wrong), "{wrong}");
        }
    }
}
