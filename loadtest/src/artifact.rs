//! An artifact made on the fly: the smallest that Mender's tools accept, around a payload of any size.
//!
//! (Mender artifact format, version 3: an uncompressed tar of `version`, `manifest`, `header.tar` and `data/0000.tar`.)

use std::fmt::Write;

use aws_lc_rs::digest;
use serde_json::json;

/// What the version member holds, to the byte.
const VERSION: &[u8] = br#"{"format":"mender","version":3}"#;

/// A block of a tar.
const BLOCK: usize = 512;

/// The type of update that simulated devices say they can install.
const PAYLOAD_TYPE: &str = "demo";

/// An artifact of this name for this type of device, with one file.
pub fn make(name: &str, device_type: &str, file_name: &str, payload: &[u8]) -> Vec<u8> {
    let header_info = json_in_order(&[
        ("payloads", json!([{"type": PAYLOAD_TYPE}])),
        ("artifact_provides", json!({"artifact_name": name})),
        ("artifact_depends", json!({"device_type": [device_type]})),
    ]);
    let type_info = json_in_order(&[
        ("type", json!(PAYLOAD_TYPE)),
        ("artifact_provides", json!({format!("rootfs-image.{PAYLOAD_TYPE}.version"): name})),
        ("clears_artifact_provides", json!([format!("rootfs-image.{PAYLOAD_TYPE}.*")])),
    ]);
    let header = tar(&[("header-info", header_info.as_bytes()), ("headers/0000/type-info", type_info.as_bytes())]);
    let data = tar(&[(file_name, payload)]);
    let manifest = format!(
        "{}  data/0000/{file_name}\n{}  header.tar\n{}  version\n",
        sha256(payload),
        sha256(&header),
        sha256(VERSION)
    );
    tar(&[("version", VERSION), ("manifest", manifest.as_bytes()), ("header.tar", &header), ("data/0000.tar", &data)])
}

/// An object whose members stand in this order, as the tools write it.
fn json_in_order(members: &[(&str, serde_json::Value)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{{}}}", members.join(","))
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// A plain USTAR archive, the only kind that every client reads.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in members {
        archive.extend_from_slice(&tar_header(name, content.len()));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn tar_header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    // Names here are a few characters; a field of a hundred holds them.
    put(0, &name.chars().take(100).collect::<String>());
    for (at, field) in [(100, "0000600"), (108, "0000000"), (116, "0000000"), (329, "0000000"), (337, "0000000")] {
        put(at, field);
    }
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    // The checksum is taken with blanks in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\u{0}00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\u{0} ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_artifact_is_the_one_that_the_tools_are_known_to_accept() {
        let artifact = make("demo-1", "qemux86-64", "hello.txt", b"hello\n");
        assert_eq!(artifact.len(), 9216);
        assert_eq!(sha256(&artifact), "ed089f362631e1e845d3bf420f5305ea6bf28a3cb3411219b998b7c4da6859b7");
    }

    #[test]
    fn a_large_payload_stands_in_whole_blocks() {
        let artifact = make("a", "t", "f", &vec![7; 100_000]);
        assert_eq!(artifact.len() % BLOCK, 0);
        assert!(artifact.windows(100_000).any(|window| window.iter().all(|byte| *byte == 7)));
    }
}
