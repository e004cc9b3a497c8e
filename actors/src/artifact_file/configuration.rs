//! Artifacts that bring a device its configuration. (Mender artifact format: payload type `mender-configure`.)

use std::collections::BTreeMap;
use std::io;

use serde_json::{Map, Value};

use super::compression::WrittenCompression;
use super::writer::{NewArtifact, write as write_artifact};

/// What installs it.
pub const CONFIGURATION: &str = "mender-configure";

/// The artifact called `name` that gives a device of this type a configuration. The same arguments make the same bytes.
///
/// # Errors
/// When there is no memory left for a temporary file.
pub fn write(name: &str, device_type: &str, configuration: Map<String, Value>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let artifact = NewArtifact {
        name: name.to_owned(),
        device_types: vec![device_type.to_owned()],
        kind: CONFIGURATION.to_owned(),
        provides: BTreeMap::from([(format!("data-partition.{CONFIGURATION}.version"), name.to_owned())]),
        clears: vec![format!("data-partition.{CONFIGURATION}.*")],
        meta_data: Some(configuration),
        files: Vec::new(),
        compression: WrittenCompression::None,
    };
    write_artifact(artifact, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifact_file::reader::read;
    use crate::artifact_file::{OneOrMany, Rules};

    #[test]
    fn it_carries_the_configuration_and_no_file() {
        let Value::Object(configuration) = json!({"timezone": "UTC", "mooring": {"lamp": "on"}}) else { panic!() };
        let bytes = write("configuration-1", "toaster", configuration.clone()).unwrap();
        assert_eq!(bytes, write("configuration-1", "toaster", configuration.clone()).unwrap());
        let artifact = read(&*bytes, &Rules::default()).unwrap();
        assert_eq!(artifact.name, "configuration-1");
        assert_eq!(artifact.updates[0].kind.as_deref(), Some(CONFIGURATION));
        assert_eq!(artifact.updates[0].meta_data, configuration);
        assert!(artifact.updates[0].files.is_empty());
        assert_eq!(artifact.provides["data-partition.mender-configure.version"], "configuration-1");
        assert_eq!(artifact.depends["device_type"], OneOrMany::Many(vec!["toaster".into()]));
        assert_eq!(artifact.clears, ["data-partition.mender-configure.*"]);
    }
}
