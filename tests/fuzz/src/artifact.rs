//! The reader of artifacts, whatever bytes arrive, and what it makes of what the writer wrote.

use actors::artifact_file::reader::read;
use actors::artifact_file::{Artifact, Limits, ReadError, Rules, configuration, is_file_name};

/// Small, so that inputs of a fuzzer's size meet them.
const LIMITS: Limits =
    Limits { manifest: 4 * 1024, documents: 4 * 1024, header: 16 * 1024, unpacked: 64 * 1024, payloads: 4, values: 8 };

/// Nothing panics, a file is read as one whatever pieces it comes in, and what is read keeps the limits.
///
/// The first byte chooses between reading the rest as a file and making it the value of a configuration.
pub fn run(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    if choice & 1 == 1 {
        write_and_read(rest);
        return;
    }
    let rules = Rules { limits: LIMITS, ..Rules::default() };
    let whole = outcome(read(rest, &rules));
    // Of several faults either may be met first.
    assert_eq!(outcome(read(Slow(rest), &rules)).ok(), whole.as_ref().ok().cloned(), "read byte by byte");
    if let Ok(artifact) = whole {
        check(&artifact);
    }
}

fn outcome(read: Result<Artifact, ReadError>) -> Result<Artifact, String> {
    read.map_err(|error| match error {
        ReadError::Fault(fault) => fault.to_string(),
        ReadError::Source(error) => panic!("bytes cannot fail: {error}"),
    })
}

fn check(artifact: &Artifact) {
    assert!(matches!(artifact.version, 2 | 3));
    assert!(!artifact.name.is_empty() && !artifact.name.chars().any(char::is_control));
    assert!((1..=LIMITS.payloads).contains(&artifact.updates.len()));
    assert!((1..=LIMITS.values).contains(&artifact.device_types.len()));
    assert!(artifact.depends.contains_key("device_type") && artifact.provides.contains_key("artifact_name"));
    let files = artifact.updates.iter().flat_map(|update| &update.files);
    let size: u64 = files.clone().map(|file| file.size).sum();
    assert!(size <= LIMITS.unpacked, "{size} bytes unpacked");
    for file in files {
        assert!(is_file_name(&file.name) && file.checksum.len() == 64, "{file:?}");
    }
    let text = serde_json::to_string(artifact).expect("an artifact has a JSON form");
    let read: Artifact = serde_json::from_str(&text).expect("its own form can be read");
    assert_eq!(&read, artifact);
}

fn write_and_read(value: &[u8]) {
    let text = String::from_utf8_lossy(value).into_owned();
    let map = serde_json::Map::from_iter([("value".to_owned(), serde_json::Value::String(text))]);
    let bytes = configuration::write("configuration-1", "toaster", map.clone()).expect("it is written");
    let artifact = read(&*bytes, &Rules::default()).expect("what was written can be read");
    assert_eq!(artifact.updates[0].meta_data, map);
}

/// Gives one byte at a time.
struct Slow<'a>(&'a [u8]);

impl std::io::Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let end = buffer.len().min(1);
        self.0.read(&mut buffer[..end])
    }
}
