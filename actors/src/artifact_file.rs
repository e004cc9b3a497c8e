//! Artifacts as files: what an update is shipped in. (Mender artifact format, version 3; version 2 is read as well.)
//!
//! ```text
//! version  manifest  [manifest.sig]  [manifest-augment]  header.tar[.ext]  [header-augment.tar[.ext]]  data/0000.tar[.ext] …
//!          └─ SHA-256 of everything below ──────────────▶ header as stored ──────────────────────────▶ files as unpacked
//! ```
//!
//! | module | for |
//! |---|---|
//! | [`stream`] | reading a file while it arrives |
//! | [`reader`] | what a file must look like, member by member |
//! | [`archive`], [`compression`], [`manifest`], [`header`] | the layers it is made of |
//! | [`signature`] | who vouches for a file |
//! | [`writer`], [`single_file`], [`configuration`] | files that the hub makes itself |
//! | [`fault`] | what can be wrong with a file |
//!
//! Reading takes a bounded amount of memory whatever the file says about itself ([`Limits`]), and believes nothing that no
//! digest vouches for.

pub mod archive;
pub mod compression;
pub mod configuration;
pub mod fault;
pub mod header;
pub mod manifest;
pub mod reader;
pub mod signature;
pub mod single_file;
pub mod stream;
pub mod writer;

use std::collections::BTreeMap;

pub use fault::{Fault, ReadError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
pub use signature::{ArtifactKey, Signature};

/// The media type of these files.
pub const MEDIA_TYPE: &str = "application/vnd.mender-artifact";

/// What a file says about itself. Everything in it was covered by a digest that was right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Version of the format: 2 or 3.
    pub version: u8,
    /// Its name, which is that of the release it belongs to.
    pub name: String,
    /// Kinds of device it is for, at least one.
    pub device_types: Vec<String>,
    /// Whether it is signed, and whether that was checked.
    pub signature: Signature,
    /// Its payloads by index.
    pub updates: Vec<Update>,
    /// What a device provides once it is installed, the payloads' keys among them.
    pub provides: BTreeMap<String, String>,
    /// What a device has to provide before, the payloads' keys and `device_type` among them.
    pub depends: BTreeMap<String, OneOrMany>,
    /// Patterns of keys that a device no longer provides once it is installed.
    pub clears: Vec<String>,
    /// State scripts it brings.
    pub scripts: Vec<String>,
    /// What devices will not like about it, though it is valid.
    pub warnings: Vec<String>,
}

/// One payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// What it is, which is the name of what installs it. `None`: the artifact only states what a device provides.
    pub kind: Option<String>,
    /// Its files in the order of the file.
    pub files: Vec<PayloadFile>,
    /// Whatever its maker wants to tell its installer.
    pub meta_data: Map<String, Value>,
}

/// A file of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadFile {
    /// Its name, without folders.
    pub name: String,
    /// SHA-256 of its bytes in lower-case hexadecimal.
    pub checksum: String,
    /// Its bytes.
    pub size: u64,
    /// When it was last changed, in seconds since the Unix epoch.
    pub modified: i64,
}

/// What a key has to be: this, or one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// Exactly this.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The values that will do.
    pub fn values(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// How much of anything a file may hold, in bytes unless it says otherwise. A file beyond one of them is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The manifest, which bounds the number of files too.
    pub manifest: u64,
    /// All JSON documents of the header together.
    pub documents: u64,
    /// The header unpacked, state scripts among it.
    pub header: u64,
    /// All payloads unpacked.
    pub unpacked: u64,
    /// Payloads.
    pub payloads: usize,
    /// Values of one key, device types among them.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: 1024 * 1024,
            documents: 1024 * 1024,
            header: 64 * 1024 * 1024,
            unpacked: 64 * 1024 * 1024 * 1024,
            payloads: 1024,
            values: 200,
        }
    }
}

/// What is asked of a file beyond its form.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// How large it may be.
    pub limits: Limits,
    /// Whoever holds one of these may sign. Empty: signatures are not checked.
    pub keys: Vec<ArtifactKey>,
    /// Whether it has to be signed.
    pub must_be_signed: bool,
}

/// Bytes of a name, a device type, a key or a value. (Mender API: artifacts.)
pub const TEXT_LIMIT: usize = 4096;

/// Name of the archive of a payload, without the ending that tells its compression.
pub(crate) fn data_archive(index: usize) -> String {
    format!("data/{index:04}.tar")
}

/// Whether a payload's file may have this name: letters, digits and `.,_-`, and no way into another folder.
pub fn is_file_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b',' | b'_' | b'-');
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && name.bytes().all(is_plain)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes what is written to it");
        text
    })
}
