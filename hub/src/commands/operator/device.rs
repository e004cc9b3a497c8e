//! A device as the hub lists it, and which one a person means.

use super::connection::ConnectionState;
use anyhow::bail;
use serde::Deserialize;
use serde_json::{Map, Value};

/// So many are named when a word fits several devices.
const CANDIDATES_NAMED: usize = 5;

/// A device in a list.
#[derive(Debug, Clone, Deserialize)]
pub struct ListedDevice {
    /// Its id.
    pub id: String,
    /// What it says it is.
    #[serde(rename = "identity_data", default)]
    pub identity: Map<String, Value>,
    /// `accepted`, `pending`, …
    pub status: String,
    /// When its admission changed last, RFC 3339.
    #[serde(rename = "updated_ts", default)]
    pub changed: Option<String>,
    /// The keys it has shown.
    #[serde(default)]
    pub auth_sets: Vec<ListedSet>,
    /// The state of its connection, if that was asked for and it ever had one.
    #[serde(skip)]
    pub connection: Option<ConnectionState>,
}

/// A key that a device has shown.
#[derive(Debug, Clone, Deserialize)]
pub struct ListedSet {
    /// Its id.
    pub id: String,
    /// `accepted`, `pending`, …
    pub status: String,
}

impl ListedDevice {
    /// Its identity on one line, the name first if it has one.
    pub fn identity_line(&self) -> String {
        let mut members: Vec<_> = self.identity.iter().collect();
        members.sort_by_key(|(name, _)| (*name != "name", *name != "mac"));
        members.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" ")
    }

    fn has_identity(&self, wanted: &str) -> bool {
        self.identity.values().any(|value| plain(value).eq_ignore_ascii_case(wanted))
    }
}

/// The one device that is meant by an id, the beginning of an id, or a value of its identity.
pub(super) fn choose(devices: &[ListedDevice], wanted: &str) -> anyhow::Result<ListedDevice> {
    let fits: [&dyn Fn(&ListedDevice) -> bool; 3] =
        [&|device| device.id.eq_ignore_ascii_case(wanted), &|device| device.has_identity(wanted), &|device| {
            !wanted.is_empty() && device.id.starts_with(&wanted.to_ascii_lowercase())
        }];
    for fit in fits {
        let mut found: Vec<&ListedDevice> = devices.iter().filter(|device| fit(device)).collect();
        if found.len() > 1 {
            // Of devices that look alike only the connected kind can be meant: those that are let in.
            let accepted: Vec<_> = found.iter().copied().filter(|device| device.status == "accepted").collect();
            if accepted.len() == 1 {
                found = accepted;
            }
        }
        match found.as_slice() {
            [] => {}
            [only] => return Ok((*only).clone()),
            several => {
                let ids: Vec<&str> = several.iter().take(CANDIDATES_NAMED).map(|device| device.id.as_str()).collect();
                let more = if several.len() > CANDIDATES_NAMED { ", …" } else { "" };
                bail!("{wanted:?} fits {} devices: {}{more}", several.len(), ids.join(", "));
            }
        }
    }
    bail!("no device {wanted:?}: `mooring devices` lists those there are")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().filter(|letter| !letter.is_control()).collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str, status: &str, name: &str) -> ListedDevice {
        serde_json::from_value(serde_json::json!({
            "id": id, "status": status, "identity_data": { "mac": format!("02:{id}"), "name": name },
            "decommissioning": false, "created_ts": "2026-01-01T00:00:00.000Z", "updated_ts": "2026-01-01T00:00:00.000Z",
            "auth_sets": [],
        }))
        .expect("a device")
    }

    fn three() -> Vec<ListedDevice> {
        vec![device("aa11", "accepted", "demo"), device("aa22", "pending", "twin"), device("bb33", "accepted", "twin")]
    }

    #[test]
    fn a_device_is_found_by_id_prefix_or_identity() {
        for (wanted, id) in [("aa11", "aa11"), ("b", "bb33"), ("demo", "aa11"), ("02:AA22", "aa22"), ("DEMO", "aa11")] {
            assert_eq!(choose(&three(), wanted).expect(wanted).id, id);
        }
    }

    #[test]
    fn of_two_alike_the_accepted_one_is_meant() {
        assert_eq!(choose(&three(), "twin").expect("a device").id, "bb33");
    }

    #[test]
    fn what_fits_several_or_none_is_refused() {
        let twins = vec![device("aa11", "pending", "x"), device("aa22", "pending", "y")];
        let several = choose(&twins, "aa").expect_err("refused").to_string();
        assert!(several.contains("fits 2 devices: aa11, aa22"), "{several}");
        assert!(choose(&three(), "nobody").expect_err("refused").to_string().contains("no device \"nobody\""));
        assert!(choose(&three(), "").is_err());
    }

    #[test]
    fn an_identity_is_shown_with_its_name_first_and_without_control_characters() {
        let mut shown = device("aa11", "accepted", "de\u{1b}[2Jmo");
        shown.identity.insert("rack".to_owned(), serde_json::json!(["a", 7]));
        assert_eq!(shown.identity_line(), r#"name=de[2Jmo mac=02:aa11 rack=["a",7]"#);
    }
}
