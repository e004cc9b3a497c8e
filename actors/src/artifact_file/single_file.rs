//! Artifacts that put one file at its place. (Mender: update module `single-file`.)

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::compression::WrittenCompression;
use super::fault::Fault;
use super::header::{check_name, invalid};
use super::writer::{NewArtifact, NewFile, write as write_artifact};
use super::{TEXT_LIMIT, is_file_name};

/// What installs it.
pub const SINGLE_FILE: &str = "single-file";

/// Names of the files that tell the installer where to put the other one.
const RESERVED: [&str; 3] = ["dest_dir", "filename", "permissions"];

/// Permissions of what is installed.
const PERMISSIONS: &str = "644\n";

/// An artifact with one file, but for the file's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SingleFile {
    name: String,
    device_types: Vec<String>,
    file_name: String,
    folder: String,
    /// First parts of the key under which a device provides the version.
    software: String,
    version: String,
}

/// What a web UI sends as `args`.
#[derive(Debug, Deserialize)]
struct Arguments {
    filename: String,
    dest_dir: String,
    #[serde(default)]
    software_filesystem: Option<String>,
    #[serde(default)]
    software_name: Option<String>,
    #[serde(default)]
    software_version: Option<String>,
}

impl SingleFile {
    /// Reads the JSON text `args` and looks whether it makes an artifact that devices install.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(name: &str, device_types: Vec<String>, args: &str) -> Result<Self, Fault> {
        let arguments: Arguments = serde_json::from_str(args).map_err(|error| invalid("args", &error.to_string()))?;
        let or = |given: Option<String>, otherwise: &str| {
            given.filter(|given| !given.is_empty()).unwrap_or_else(|| otherwise.to_owned())
        };
        let file_system = or(arguments.software_filesystem, "rootfs-image");
        let software_name = or(arguments.software_name, SINGLE_FILE);
        let version = or(arguments.software_version, name);
        let file_name = arguments.filename.rsplit('/').next().unwrap_or_default().to_owned();
        check_name(name)?;
        for (what, text) in [
            ("name", name),
            ("filename", &file_name),
            ("dest_dir", &arguments.dest_dir),
            ("software_filesystem", &file_system),
            ("software_name", &software_name),
            ("software_version", &version),
        ] {
            check(what, text)?;
        }
        for device_type in &device_types {
            check("device_types_compatible", device_type)?;
        }
        if !is_file_name(&file_name) {
            return Err(invalid("filename", "only letters, digits and \".,_-\" are allowed, at most 255"));
        }
        if RESERVED.contains(&file_name.as_str()) {
            return Err(invalid("filename", "this name has another meaning in an artifact with a single file"));
        }
        if !arguments.dest_dir.starts_with('/') || arguments.dest_dir.split('/').any(|part| part == "..") {
            return Err(invalid("dest_dir", "an absolute path without \"..\" is expected"));
        }
        Ok(Self {
            name: name.to_owned(),
            device_types,
            file_name,
            folder: arguments.dest_dir,
            software: format!("{file_system}.{software_name}"),
            version,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kinds of device it is for.
    pub fn device_types(&self) -> &[String] {
        &self.device_types
    }

    /// Writes it around `size` bytes of `content`.
    ///
    /// # Errors
    /// As [`write`](super::writer::write).
    pub fn write(&self, size: u64, content: impl Read, sink: &mut dyn Write) -> io::Result<()> {
        let artifact = NewArtifact {
            name: self.name.clone(),
            device_types: self.device_types.clone(),
            kind: SINGLE_FILE.to_owned(),
            provides: BTreeMap::from([(format!("{}.version", self.software), self.version.clone())]),
            clears: vec![format!("{}.*", self.software)],
            meta_data: None,
            files: vec![
                NewFile::text("dest_dir", format!("{}\n", self.folder)),
                NewFile::text("filename", format!("{}\n", self.file_name)),
                NewFile::text("permissions", PERMISSIONS.to_owned()),
                NewFile { name: self.file_name.clone(), size, content: Box::new(content) },
            ],
            compression: WrittenCompression::Gzip,
        };
        write_artifact(artifact, sink)
    }
}

/// The text becomes a line of a file that a shell script reads, or an argument.
fn check(what: &str, text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Err(invalid(what, "it is empty"));
    }
    if text.len() > TEXT_LIMIT {
        return Err(invalid(what, &format!("it is longer than {TEXT_LIMIT} bytes")));
    }
    if text.starts_with('-') {
        return Err(invalid(what, "it begins with a hyphen"));
    }
    if text.contains(['\n', '\r', '\0']) {
        return Err(invalid(what, "it has to be one line"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact_file::Rules;
    use crate::artifact_file::reader::{digest, read};

    fn parse(args: &str) -> Result<SingleFile, Fault> {
        SingleFile::parse("app-2.1", vec!["rpi4".into(), "rpi5".into()], args)
    }

    #[test]
    fn the_file_comes_last_and_the_version_has_its_key() {
        let args = r#"{"filename":"/home/me/app.bin","dest_dir":"/opt/app","software_filesystem":"data-partition",
            "software_name":"app","software_version":"2.1","more":1}"#;
        let mut bytes = Vec::new();
        parse(args).unwrap().write(5, &b"12345"[..], &mut bytes).unwrap();
        let artifact = read(&*bytes, &Rules::default()).unwrap();
        let files: Vec<_> =
            artifact.updates[0].files.iter().map(|file| (file.name.as_str(), file.checksum.clone())).collect();
        assert_eq!(
            files,
            [
                ("dest_dir", digest(b"/opt/app\n")),
                ("filename", digest(b"app.bin\n")),
                ("permissions", digest(b"644\n")),
                ("app.bin", digest(b"12345")),
            ]
        );
        assert_eq!(artifact.provides["data-partition.app.version"], "2.1");
        assert_eq!(artifact.clears, ["data-partition.app.*"]);
        assert_eq!(artifact.device_types, ["rpi4", "rpi5"]);
        assert_eq!(artifact.updates.len(), 1);

        let mut bytes = Vec::new();
        parse(r#"{"filename":"a","dest_dir":"/","software_name":""}"#).unwrap().write(0, &b""[..], &mut bytes).unwrap();
        let artifact = read(&*bytes, &Rules::default()).unwrap();
        assert_eq!(artifact.provides["rootfs-image.single-file.version"], "app-2.1");
    }

    #[test]
    fn what_devices_would_not_install_is_not_made() {
        for (args, what) in [
            ("", "args"),
            ("[]", "args"),
            (r#"{"filename":"a"}"#, "args"),
            (r#"{"filename":"","dest_dir":"/"}"#, "filename"),
            (r#"{"filename":"a/","dest_dir":"/"}"#, "filename"),
            (r#"{"filename":"a b","dest_dir":"/"}"#, "filename"),
            (r#"{"filename":"..","dest_dir":"/"}"#, "filename"),
            (r#"{"filename":"dest_dir","dest_dir":"/"}"#, "filename"),
            (r#"{"filename":"-a","dest_dir":"/"}"#, "filename"),
            (r#"{"filename":"a","dest_dir":"opt"}"#, "dest_dir"),
            (r#"{"filename":"a","dest_dir":"/opt/../etc"}"#, "dest_dir"),
            (r#"{"filename":"a","dest_dir":"/opt\n/etc"}"#, "dest_dir"),
            (r#"{"filename":"a","dest_dir":"/","software_version":"-1"}"#, "software_version"),
        ] {
            let fault = parse(args).unwrap_err();
            assert!(fault.to_string().starts_with(&format!("invalid {what}: ")), "{args}: {fault}");
        }
        let args = r#"{"filename":"a","dest_dir":"/"}"#;
        assert!(SingleFile::parse("a\nb", vec!["t".into()], args).is_err());
        assert!(SingleFile::parse("a", vec!["-t".into()], args).is_err());
    }
}
