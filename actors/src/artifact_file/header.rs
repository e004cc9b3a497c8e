//! The JSON documents of the header, and how they become one statement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fault::Fault;
use super::{Limits, OneOrMany, TEXT_LIMIT};

/// Key under which a device's kind is asked for.
pub const DEVICE_TYPE: &str = "device_type";

/// Key of the name of what is installed.
pub const ARTIFACT_NAME: &str = "artifact_name";

/// Key of the group of artifacts.
pub const ARTIFACT_GROUP: &str = "artifact_group";

/// Objects and lists that may stand in one another in a `meta-data`, itself among them. What is read has to fit into other
/// documents later, and readers of JSON go so far only.
pub const NESTING_LIMIT: usize = 64;

/// `header-info` of either version, as far as they agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeaderInfo {
    pub name: String,
    pub device_types: Vec<String>,
    /// Type of each payload.
    pub payloads: Vec<Option<String>>,
    pub group: Option<String>,
    pub depends_name: Vec<String>,
    pub depends_group: Vec<String>,
}

/// `header-info` of version 3.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderInfo3 {
    pub payloads: Vec<PayloadType>,
    pub artifact_provides: HeaderProvides,
    pub artifact_depends: HeaderDepends,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PayloadType {
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderProvides {
    pub artifact_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_group: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderDepends {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_name: Option<Vec<String>>,
    #[serde(default)]
    pub device_type: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_group: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderInfo2 {
    updates: Vec<PayloadType>,
    artifact_name: String,
    device_types_compatible: Vec<String>,
}

/// `type-info`. Members that are not known are for somebody else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TypeInfo {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_depends: Option<BTreeMap<String, OneOrMany>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_provides: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clears_artifact_provides: Option<Vec<String>>,
}

/// What a header says about one payload.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PayloadHeader {
    pub info: TypeInfo,
    pub meta_data: Map<String, Value>,
}

impl PayloadHeader {
    /// What is said additionally, which counts more.
    pub(super) fn augment(&mut self, more: Self) {
        let depends = more.info.artifact_depends.unwrap_or_default();
        self.info.artifact_depends.get_or_insert_default().extend(depends);
        let provides = more.info.artifact_provides.unwrap_or_default();
        self.info.artifact_provides.get_or_insert_default().extend(provides);
        if let Some(clears) = more.info.clears_artifact_provides {
            self.info.clears_artifact_provides.get_or_insert_default().extend(clears);
        }
        self.meta_data.extend(more.meta_data);
    }
}

impl HeaderInfo {
    /// Reads `header-info` and looks whether it makes sense.
    pub(super) fn read(content: &[u8], version: u8, limits: &Limits) -> Result<Self, Fault> {
        let malformed = |error: serde_json::Error| malformed("header-info", &error);
        let this = if version == 2 {
            let info: HeaderInfo2 = serde_json::from_slice(content).map_err(malformed)?;
            Self {
                name: info.artifact_name,
                device_types: info.device_types_compatible,
                payloads: info.updates.into_iter().map(|payload| payload.kind).collect(),
                group: None,
                depends_name: Vec::new(),
                depends_group: Vec::new(),
            }
        } else {
            let info: HeaderInfo3 = serde_json::from_slice(content).map_err(malformed)?;
            Self {
                name: info.artifact_provides.artifact_name,
                device_types: info.artifact_depends.device_type,
                payloads: info.payloads.into_iter().map(|payload| payload.kind).collect(),
                group: info.artifact_provides.artifact_group,
                depends_name: info.artifact_depends.artifact_name.unwrap_or_default(),
                depends_group: info.artifact_depends.artifact_group.unwrap_or_default(),
            }
        };
        this.check(limits)?;
        Ok(this)
    }

    fn check(&self, limits: &Limits) -> Result<(), Fault> {
        check_name(&self.name)?;
        if self.payloads.is_empty() {
            return Err(invalid("payloads", "there are none"));
        }
        if self.payloads.len() > limits.payloads {
            return Err(too_many("payloads", limits.payloads));
        }
        for kind in &self.payloads {
            match kind {
                Some(kind) => check_text("payload type", kind)?,
                None if self.payloads.len() > 1 => {
                    return Err(invalid("payload type", "only the one payload of a bootstrap artifact has none"));
                }
                None => {}
            }
        }
        if self.device_types.is_empty() {
            return Err(invalid("device types", "there are none"));
        }
        for (what, values) in
            [("device types", &self.device_types), ("names", &self.depends_name), ("groups", &self.depends_group)]
        {
            if values.len() > limits.values {
                return Err(too_many(what, limits.values));
            }
            values.iter().try_for_each(|value| check_text(what, value))?;
        }
        Ok(())
    }
}

/// Reads the `type-info` of payload `index`, which has to be of `kind`.
pub(super) fn read_type_info(
    content: &[u8],
    index: usize,
    kind: Option<&String>,
    limits: &Limits,
) -> Result<TypeInfo, Fault> {
    let member = format!("headers/{index:04}/type-info");
    let info: TypeInfo = serde_json::from_slice(content).map_err(|error| malformed(&member, &error))?;
    // The standard tool states no type for an image of a root file system, in some of its versions.
    let is_left_out = kind.is_some() && info.kind.as_deref() == Some("");
    if info.kind.as_ref() != kind && !is_left_out {
        let shown = |kind: Option<&String>| kind.map_or_else(|| "none".to_owned(), |kind| format!("{kind:?}"));
        let why = format!("its type is {}, but header-info says {}", shown(info.kind.as_ref()), shown(kind));
        return Err(invalid(&member, &why));
    }
    for (key, value) in info.artifact_provides.iter().flatten() {
        check_text("provides", key)?;
        if value.len() > TEXT_LIMIT {
            return Err(invalid("provides", &format!("the value of {key:?} is longer than {TEXT_LIMIT} bytes")));
        }
    }
    for (key, value) in info.artifact_depends.iter().flatten() {
        check_text("depends", key)?;
        if value.values().len() > limits.values {
            return Err(too_many("values of one key", limits.values));
        }
        if value.values().is_empty() {
            return Err(invalid("depends", &format!("{key:?} may have no value at all")));
        }
        if value.values().iter().any(|value| value.len() > TEXT_LIMIT) {
            return Err(invalid("depends", &format!("a value of {key:?} is longer than {TEXT_LIMIT} bytes")));
        }
    }
    for pattern in info.clears_artifact_provides.iter().flatten() {
        check_text("clears_artifact_provides", pattern)?;
    }
    Ok(info)
}

/// Reads a `meta-data`, which may be empty.
pub(super) fn read_meta_data(content: &[u8], member: &str) -> Result<Map<String, Value>, Fault> {
    if content.is_empty() {
        return Ok(Map::new());
    }
    let meta_data: Map<String, Value> = serde_json::from_slice(content).map_err(|error| malformed(member, &error))?;
    if meta_data.values().any(|value| is_deeper(value, NESTING_LIMIT - 1)) {
        return Err(invalid(member, &format!("it is nested deeper than {NESTING_LIMIT} levels")));
    }
    Ok(meta_data)
}

/// Whether more than `levels` objects and lists stand in one another. The reader of JSON bounds how far this goes down.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let Some(left) = levels.checked_sub(1) else { return value.is_array() || value.is_object() };
    match value {
        Value::Array(values) => values.iter().any(|value| is_deeper(value, left)),
        Value::Object(members) => members.values().any(|value| is_deeper(value, left)),
        _ => false,
    }
}

/// All that a device provides after an installation.
pub(super) fn provides(info: &HeaderInfo, payloads: &[PayloadHeader]) -> Result<BTreeMap<String, String>, Fault> {
    let mut all = BTreeMap::from([(ARTIFACT_NAME.to_owned(), info.name.clone())]);
    if let Some(group) = &info.group {
        all.insert(ARTIFACT_GROUP.to_owned(), group.clone());
    }
    for (key, value) in payloads.iter().filter_map(|payload| payload.info.artifact_provides.as_ref()).flatten() {
        if all.insert(key.clone(), value.clone()).is_some() {
            return Err(Fault::ConflictingKeys { kind: "provides", key: key.clone() });
        }
    }
    Ok(all)
}

/// All that a device has to provide for an installation.
pub(super) fn depends(info: &HeaderInfo, payloads: &[PayloadHeader]) -> Result<BTreeMap<String, OneOrMany>, Fault> {
    let mut all = BTreeMap::from([(DEVICE_TYPE.to_owned(), OneOrMany::Many(info.device_types.clone()))]);
    for (key, values) in [(ARTIFACT_NAME, &info.depends_name), (ARTIFACT_GROUP, &info.depends_group)] {
        if !values.is_empty() {
            all.insert(key.to_owned(), OneOrMany::Many(values.clone()));
        }
    }
    for (key, value) in payloads.iter().filter_map(|payload| payload.info.artifact_depends.as_ref()).flatten() {
        if all.insert(key.clone(), value.clone()).is_some() {
            return Err(Fault::ConflictingKeys { kind: "depends", key: key.clone() });
        }
    }
    Ok(all)
}

/// Whether an artifact may be called so: one line of printable text.
///
/// # Errors
/// What is wrong with the name.
pub fn check_name(name: &str) -> Result<(), Fault> {
    let is_line = |letter: char| !letter.is_control() && !matches!(letter, '\u{2028}' | '\u{2029}');
    if name.trim().is_empty() {
        return Err(invalid("artifact name", "it is empty"));
    }
    if name.len() > TEXT_LIMIT {
        return Err(invalid("artifact name", &format!("it is longer than {TEXT_LIMIT} bytes")));
    }
    if !name.chars().all(is_line) {
        return Err(invalid("artifact name", "it has to be one line of printable text"));
    }
    Ok(())
}

fn check_text(what: &str, text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Err(invalid(what, "one of them is empty"));
    }
    if text.len() > TEXT_LIMIT {
        return Err(invalid(what, &format!("one of them is longer than {TEXT_LIMIT} bytes")));
    }
    // One database cannot keep it.
    if text.contains('\0') {
        return Err(invalid(what, "one of them has the character NUL in it"));
    }
    Ok(())
}

pub(super) fn invalid(what: &str, why: &str) -> Fault {
    Fault::Invalid { what: what.to_owned(), why: why.to_owned() }
}

fn too_many(what: &str, limit: usize) -> Fault {
    Fault::TooLarge { what: format!("the number of {what}"), limit: limit.to_string() }
}

pub(super) fn malformed(member: &str, error: &serde_json::Error) -> Fault {
    Fault::Malformed { member: member.to_owned(), why: error.to_string() }
}
