//! Artifacts and releases in JSON.

use std::collections::BTreeMap;

use actors::artifact_file::{OneOrMany, PayloadFile, Update};
use actors::artifacts::document;
use serde::Serialize;
use serde_json::{Map, Value};
use storage::{ArtifactId, Release, StorageError, StoredArtifact, Timestamp};

/// An artifact. (Mender API: artifact object.)
#[derive(Debug, Serialize)]
pub struct ArtifactBody {
    id: ArtifactId,
    name: String,
    description: String,
    device_types_compatible: Vec<String>,
    info: Info,
    signed: bool,
    updates: Vec<UpdateBody>,
    artifact_provides: BTreeMap<String, String>,
    artifact_depends: BTreeMap<String, OneOrMany>,
    clears_artifact_provides: Vec<String>,
    size: i64,
    modified: Timestamp,
}

#[derive(Debug, Serialize)]
struct Info {
    format: &'static str,
    version: u8,
}

#[derive(Debug, Serialize)]
struct UpdateBody {
    type_info: TypeInfo,
    /// `null` for an artifact without payload, which clients tell by it.
    files: Option<Vec<FileBody>>,
    metadata: Map<String, Value>,
    /// The same as a list: `mender-cli` fails on anything else.
    meta_data: Vec<Pair>,
}

#[derive(Debug, Serialize)]
struct TypeInfo {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Serialize)]
struct Pair {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value")]
    value: Value,
}

#[derive(Debug, Serialize)]
struct FileBody {
    name: String,
    checksum: String,
    size: u64,
    date: String,
}

impl ArtifactBody {
    /// What is said about a stored artifact.
    pub fn of(stored: StoredArtifact) -> Result<Self, StorageError> {
        let artifact = document(&stored)?;
        Ok(Self {
            id: stored.id,
            name: stored.name,
            description: stored.description,
            device_types_compatible: artifact.device_types,
            info: Info { format: "mender", version: artifact.version },
            signed: artifact.signature.is_there(),
            updates: artifact.updates.into_iter().map(UpdateBody::of).collect(),
            artifact_provides: artifact.provides,
            artifact_depends: artifact.depends,
            clears_artifact_provides: artifact.clears,
            size: stored.size,
            modified: stored.modified,
        })
    }

    /// The same for many.
    pub fn all(stored: Vec<StoredArtifact>) -> Result<Vec<Self>, StorageError> {
        stored.into_iter().map(Self::of).collect()
    }
}

impl UpdateBody {
    fn of(update: Update) -> Self {
        let pair = |(key, value): (&String, &Value)| Pair { key: key.clone(), value: value.clone() };
        let meta_data = update.meta_data.iter().map(pair).collect();
        let files = update.kind.is_some().then(|| update.files.into_iter().map(FileBody::of).collect());
        Self { type_info: TypeInfo { kind: update.kind }, files, metadata: update.meta_data, meta_data }
    }
}

impl FileBody {
    fn of(file: PayloadFile) -> Self {
        let date = Timestamp::from_seconds(file.modified).rfc3339().replace(".000Z", "Z");
        Self { name: file.name, checksum: file.checksum, size: file.size, date }
    }
}

/// A release as version 2 of the API says it.
#[derive(Debug, Serialize)]
pub struct ReleaseBody {
    name: String,
    modified: Timestamp,
    tags: Vec<String>,
    notes: String,
    artifacts: Vec<ArtifactBody>,
    artifacts_count: usize,
}

/// A release as version 1 says it: some of its keys begin in upper case.
#[derive(Debug, Serialize)]
pub struct OldReleaseBody {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Modified")]
    modified: Timestamp,
    #[serde(rename = "Artifacts")]
    artifacts: Vec<ArtifactBody>,
    #[serde(rename = "ArtifactsCount")]
    artifacts_count: usize,
    tags: Vec<String>,
    notes: String,
}

/// A release as a kind of software.
#[derive(Debug, Serialize)]
pub struct SoftwareBody {
    name: String,
    modified: Timestamp,
    tags: Vec<String>,
    notes: String,
    kind: &'static str,
    compatible_types: Vec<String>,
}

impl ReleaseBody {
    /// What is said about a release.
    pub fn of(release: Release) -> Result<Self, StorageError> {
        let artifacts = ArtifactBody::all(release.artifacts)?;
        let Release { name, modified, notes, tags, .. } = release;
        Ok(Self { name, modified, tags, notes, artifacts_count: artifacts.len(), artifacts })
    }
}

impl From<ReleaseBody> for OldReleaseBody {
    fn from(release: ReleaseBody) -> Self {
        let ReleaseBody { name, modified, tags, notes, artifacts, artifacts_count } = release;
        Self { name, modified, artifacts, artifacts_count, tags, notes }
    }
}

impl From<ReleaseBody> for SoftwareBody {
    fn from(release: ReleaseBody) -> Self {
        let mut compatible_types: Vec<String> =
            release.artifacts.into_iter().flat_map(|artifact| artifact.device_types_compatible).collect();
        compatible_types.sort_unstable();
        compatible_types.dedup();
        let ReleaseBody { name, modified, tags, notes, .. } = release;
        Self { name, modified, tags, notes, kind: "release", compatible_types }
    }
}
