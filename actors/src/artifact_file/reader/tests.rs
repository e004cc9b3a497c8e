use std::io::Write;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::artifact_file::{ArtifactKey, OneOrMany};

type Files = Vec<(String, Vec<u8>)>;

/// A file in the making: valid unless somebody changes something.
#[derive(Clone)]
struct Parts {
    version: Vec<u8>,
    header: Files,
    data: Vec<Files>,
    compression: Compression,
    /// Lines beside those of what is there.
    more_lines: String,
    /// Paths whose lines are left out.
    no_lines: Vec<&'static str>,
    signature: Option<Vec<u8>>,
}

fn file(name: &str, content: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.to_owned(), content.as_ref().to_vec())
}

const INFO: &str = r#"{"payloads":[{"type":"demo"}],"artifact_provides":{"artifact_name":"demo-1"},"artifact_depends":{"device_type":["toaster"]}}"#;

fn demo() -> Parts {
    Parts {
        version: br#"{"format":"mender","version":3}"#.to_vec(),
        header: vec![
            file("header-info", INFO),
            file("headers/0000/type-info", r#"{"type":"demo","artifact_provides":{"demo.version":"1"},"more":1}"#),
            file("headers/0000/meta-data", r#"{"a":{"b":[1,null]}}"#),
        ],
        data: vec![vec![file("one", b"first"), file("two", [7; 2000])]],
        compression: Compression::None,
        more_lines: String::new(),
        no_lines: Vec::new(),
        signature: None,
    }
}

fn pack(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
        Compression::Lzma => {
            let mut packer = liblzma::write::XzEncoder::new(Vec::new(), 1);
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 3).unwrap(),
    }
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        // Some names are ones that no honest writer would let through.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        header.set_mode(0o600);
        header.set_cksum();
        builder.append(&header, &**content).unwrap();
    }
    builder.into_inner().unwrap()
}

impl Parts {
    fn members(&self) -> Files {
        let suffix = self.compression.suffix();
        let header = (format!("header.tar{suffix}"), pack(&archive(&self.header), self.compression));
        let mut manifest = String::new();
        let mut add = |path: &str, digest: String| {
            if !self.no_lines.contains(&path) {
                manifest.extend([&digest, "  ", path, "\n"]);
            }
        };
        let mut data = Vec::new();
        for (index, files) in self.data.iter().enumerate() {
            for (name, content) in files {
                add(&format!("data/{index:04}/{name}"), digest(content));
            }
            data.push((format!("{}{suffix}", data_archive(index)), pack(&archive(files), self.compression)));
        }
        add(&header.0, digest(&header.1));
        add("version", digest(&self.version));
        manifest.push_str(&self.more_lines);
        let mut members = vec![("version".to_owned(), self.version.clone()), file("manifest", manifest)];
        members.extend(self.signature.iter().map(|signature| file("manifest.sig", signature)));
        members.push(header);
        members.extend(data);
        members
    }

    fn bytes(&self) -> Vec<u8> {
        archive(&self.members())
    }

    fn read(&self) -> Result<Artifact, Fault> {
        read_bytes(&self.bytes())
    }

    fn fault(&self) -> String {
        self.read().expect_err("it is refused").to_string()
    }

    fn with_info(info: &str) -> Self {
        let mut parts = demo();
        parts.header[0].1 = info.as_bytes().to_vec();
        parts
    }

    fn with_type_info(info: &str) -> Self {
        let mut parts = demo();
        parts.header[1].1 = info.as_bytes().to_vec();
        parts
    }
}

fn read_bytes(bytes: &[u8]) -> Result<Artifact, Fault> {
    read_with(bytes, &Rules::default())
}

fn read_with(bytes: &[u8], rules: &Rules) -> Result<Artifact, Fault> {
    match read(bytes, rules) {
        Ok(artifact) => Ok(artifact),
        Err(ReadError::Fault(fault)) => Err(fault),
        Err(ReadError::Source(error)) => panic!("a slice cannot fail: {error}"),
    }
}

fn fault_of(bytes: &[u8]) -> String {
    read_bytes(bytes).expect_err("it is refused").to_string()
}

#[test]
fn all_that_a_file_says_is_read() {
    for compression in Compression::ALL {
        let artifact = Parts { compression, ..demo() }.read().unwrap();
        assert_eq!((artifact.version, artifact.name.as_str()), (3, "demo-1"));
        assert_eq!(artifact.signature, Signature::None);
        let update = &artifact.updates[0];
        assert_eq!(update.kind.as_deref(), Some("demo"));
        let files: Vec<_> = update.files.iter().map(|file| (file.name.as_str(), file.size, file.modified)).collect();
        assert_eq!(files, [("one", 5, 1_700_000_000), ("two", 2000, 1_700_000_000)]);
        assert_eq!(update.files[0].checksum, digest(b"first"));
        assert_eq!(update.meta_data["a"]["b"][0], 1);
        assert_eq!(artifact.provides["artifact_name"], "demo-1");
        assert_eq!(artifact.provides["demo.version"], "1");
        assert_eq!(artifact.depends["device_type"], OneOrMany::Many(vec!["toaster".into()]));
        assert!(artifact.warnings.is_empty());
    }
}

#[test]
fn other_versions_and_formats_are_refused() {
    let with = |version: &str| Parts { version: version.as_bytes().to_vec(), ..demo() };
    assert_eq!(
        with(r#"{"format":"mender","version":1}"#).fault(),
        "unsupported version 1; supported versions are 2 and 3"
    );
    assert!(with(r#"{"format":"mender","version":4}"#).fault().starts_with("unsupported version 4"));
    assert!(with(r#"{"format":"other","version":3}"#).fault().starts_with("unsupported format \"other\""));
    assert!(with(r#"{"format":"mender","version":3,"more":1}"#).fault().starts_with("cannot read version"));
    assert!(with(r#"{"format":"mender","version":"3"}"#).fault().starts_with("cannot read version"));
    assert!(with("").fault().starts_with("cannot read version"));
    assert!(with(" { \"format\" : \"mender\", \"version\" : 3 }\n").read().is_ok(), "white space is no matter");
    let mut members = demo().members();
    members.remove(0);
    assert_eq!(fault_of(&archive(&members)), "not an artifact: it does not begin with its version");
}

#[test]
fn version_2_is_read() {
    let mut parts = demo();
    parts.version = br#"{"format":"mender","version":2}"#.to_vec();
    parts.header = vec![
        file(
            "header-info",
            r#"{"artifact_name":"r-1","updates":[{"type":"rootfs-image"}],"device_types_compatible":["a","b"]}"#,
        ),
        file("scripts/ArtifactInstall_Enter_00", "#!/bin/sh\n"),
        file("headers/0000/files", r#"{"files":["one","two"]}"#),
        file("headers/0000/type-info", r#"{"type":"rootfs-image"}"#),
        file("headers/0000/meta-data", ""),
    ];
    let artifact = parts.read().unwrap();
    assert_eq!((artifact.version, artifact.name.as_str()), (2, "r-1"));
    assert_eq!(artifact.device_types, ["a", "b"]);
    assert_eq!(artifact.scripts, ["ArtifactInstall_Enter_00"]);
    assert_eq!(artifact.depends["device_type"].values(), ["a", "b"]);
    // The members of one version are no members of the other.
    parts.version = demo().version;
    assert!(parts.fault().starts_with("cannot read header-info"));
}

#[test]
fn members_come_in_one_order() {
    let members = demo().members();
    for from in 0..members.len() {
        for to in 0..members.len() {
            let mut changed = members.clone();
            let moved = changed.remove(from);
            changed.insert(to, moved);
            assert_eq!(read_bytes(&archive(&changed)).is_ok(), from == to, "{from} to {to}");
        }
        let mut without = members.clone();
        without.remove(from);
        assert!(read_bytes(&archive(&without)).is_err(), "without {}", members[from].0);
        let mut twice = members.clone();
        twice.insert(from, members[from].clone());
        assert!(read_bytes(&archive(&twice)).is_err(), "{} twice", members[from].0);
        for name in
            ["other", "../version", "data/0001.tar", "manifest.sig", "header.tar.bz2", "data/0000.tar/", "/version"]
        {
            let mut more = members.clone();
            more.insert(from + 1, file(name, b"x"));
            assert!(read_bytes(&archive(&more)).is_err(), "{name} after {}", members[from].0);
        }
    }
}

#[test]
fn the_header_has_one_order_too() {
    let parts = demo();
    for from in 0..parts.header.len() {
        for to in 0..parts.header.len() {
            let mut changed = parts.clone();
            let moved = changed.header.remove(from);
            changed.header.insert(to, moved);
            assert_eq!(changed.read().is_ok(), from == to, "{from} to {to}");
        }
        let mut twice = parts.clone();
        twice.header.insert(from, parts.header[from].clone());
        assert!(twice.read().is_err(), "{} twice", parts.header[from].0);
        let mut more = parts.clone();
        more.header.insert(from + 1, file("other", b""));
        assert!(more.read().is_err());
    }
    let mut without = parts.clone();
    without.header.remove(1);
    assert_eq!(without.fault(), "unexpected headers/0000/meta-data, expected headers/0000/type-info");
    let mut scripts = parts;
    scripts.header.insert(1, file("scripts/Any_Name", b"x"));
    assert_eq!(scripts.read().unwrap().scripts, ["Any_Name"]);
    for name in ["scripts/", "scripts/../x", "scripts/..", "scripts/a/b", "scripts/Any_Name"] {
        let mut bad = scripts.clone();
        bad.header.insert(2, file(name, b"x"));
        assert!(bad.read().is_err(), "{name}");
    }
}

#[test]
fn every_digest_counts() {
    let bytes = demo().bytes();
    let members = demo().members();
    // Content of the members in the whole file.
    let at = |name: &str, within: &[u8]| {
        let content = &members.iter().find(|(found, _)| found == name).unwrap().1;
        let start = bytes.windows(content.len()).position(|window| window == content).unwrap();
        let inner = content.windows(within.len()).position(|window| window == within).unwrap();
        start + inner..start + inner + within.len()
    };
    for (range, what) in [
        (at("version", &demo().version), "version"),
        (at("header.tar", INFO.as_bytes()), "header.tar"),
        (at("header.tar", &members[2].1), "header.tar"),
        (at("data/0000.tar", b"first"), "data/0000/one"),
        (at("data/0000.tar", &[7; 2000]), "data/0000/two"),
    ] {
        for position in range {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            let fault = fault_of(&changed);
            assert_eq!(fault, format!("invalid checksum of {what}"), "byte {position}");
        }
    }
    for compression in Compression::ALL {
        let parts = Parts { compression, ..demo() };
        let (bytes, header) = (parts.bytes(), &parts.members()[2]);
        let start = bytes.windows(header.1.len()).position(|window| window == header.1).unwrap();
        for position in start..start + header.1.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            assert_eq!(fault_of(&changed), format!("invalid checksum of {}", header.0), "byte {position}");
        }
    }
}

#[test]
fn manifest_and_content_agree_in_both_directions() {
    let zeros = "0".repeat(64);
    let more = |path: &str| Parts { more_lines: format!("{zeros}  {path}\n"), ..demo() };
    for path in ["data/0000/three", "data/0001/one", "header.tar.gz", "anything"] {
        assert_eq!(more(path).fault(), format!("{path} is in the manifest but not in the artifact"));
    }
    assert_eq!(more("data/0000/one").fault(), "data/0000/one in manifest stands there twice");
    for path in ["data/0000/one", "header.tar", "version"] {
        let parts = Parts { no_lines: vec![path], ..demo() };
        assert_eq!(parts.fault(), format!("{path} is not in the manifest"));
    }
    let unterminated = Parts { more_lines: format!("{zeros}  data/0000/three"), ..demo() };
    assert_eq!(unterminated.fault(), "cannot read manifest: its last line does not end");
    let mut twice = demo();
    twice.data[0].push(file("one", b"first"));
    assert!(twice.read().is_err());
}

#[test]
fn a_time_is_one_that_can_be_shown() {
    let latest = 253_402_300_799;
    for (seconds, modified) in
        [(7, 7), (latest, 253_402_300_799), (latest + 1, 253_402_300_799), (u64::MAX, 253_402_300_799)]
    {
        let mut header = tar::Header::new_ustar();
        header.set_path("one").unwrap();
        header.set_size(0);
        header.set_mtime(seconds);
        header.set_cksum();
        let bytes = [header.as_bytes().as_slice(), &[0; 10_240 - 512]].concat();
        let mut members = Members::new(&bytes[..], "it");
        assert_eq!(members.next_member().unwrap().unwrap().modified, modified);
    }
}

#[test]
fn files_stay_in_their_folder() {
    for name in ["../one", "/etc/passwd", "a/b", "..", ".", "a b", "a\\b", "ä", "a\nb"] {
        let mut parts = demo();
        parts.data[0].push(file(name, b"x"));
        assert!(parts.read().is_err(), "{name}");
    }
    let mut parts = demo();
    parts.data[0].extend([file("-a", b"x"), file(".hidden", b"x"), file("A_1,2-3.x", b"x")]);
    parts.read().unwrap();
}

#[test]
fn statements_without_sense_are_refused() {
    for (info, why) in [
        (INFO.replace("demo-1", ""), "invalid artifact name: it is empty"),
        (INFO.replace("demo-1", " "), "invalid artifact name: it is empty"),
        (INFO.replace("demo-1", r"a\nb"), "invalid artifact name: it has to be one line of printable text"),
        (INFO.replace("demo-1", r"a\u0007b"), "invalid artifact name: it has to be one line of printable text"),
        (INFO.replace("demo-1", &"n".repeat(4097)), "invalid artifact name: it is longer than 4096 bytes"),
        (INFO.replace(r#"{"type":"demo"}"#, ""), "invalid payloads: there are none"),
        (INFO.replace(r#""type":"demo""#, r#""type":"""#), "invalid payload type: one of them is empty"),
        (INFO.replace(r#"["toaster"]"#, "[]"), "invalid device types: there are none"),
        (INFO.replace(r#""device_type":["toaster"]"#, ""), "invalid device types: there are none"),
        (INFO.replace("toaster", ""), "invalid device types: one of them is empty"),
        (INFO.replace("{\"payloads\"", "{\"more\":1,\"payloads\""), "cannot read header-info: unknown field `more`"),
        (INFO.replace("\"device_type\"", "\"device_types\""), "cannot read header-info: unknown field `device_types`"),
        ("[]".to_owned(), "cannot read header-info: "),
        (String::new(), "cannot read header-info: "),
        (
            INFO.replace(r#"[{"type":"demo"}]"#, r#"[{"type":"demo"},{"type":null}]"#),
            "invalid payload type: only the one payload of a bootstrap artifact has none",
        ),
    ] {
        let fault = Parts::with_info(&info).fault();
        assert!(fault.starts_with(why), "{info}: {fault}");
    }
    for (info, why) in [
        (r#"{"type":null}"#, "invalid headers/0000/type-info: its type is none"),
        ("{}", "invalid headers/0000/type-info: its type is none"),
        (r#"{"type":"other"}"#, "invalid headers/0000/type-info: its type is \"other\""),
        (r#"{"type":"demo","artifact_provides":{"a":["b"]}}"#, "cannot read headers/0000/type-info"),
        (r#"{"type":"demo","artifact_provides":{"a":1}}"#, "cannot read headers/0000/type-info"),
        (r#"{"type":"demo","artifact_depends":{"a":[1]}}"#, "cannot read headers/0000/type-info"),
        (r#"{"type":"demo","artifact_depends":{"a":[]}}"#, "invalid depends"),
        (
            r#"{"type":"demo","artifact_provides":{"artifact_name":"x"}}"#,
            "Conflicting keys not allowed in the provides parameters. key: artifact_name",
        ),
        (
            r#"{"type":"demo","artifact_depends":{"device_type":"x"}}"#,
            "Conflicting keys not allowed in the depends parameters. key: device_type",
        ),
    ] {
        let fault = Parts::with_type_info(info).fault();
        assert!(fault.starts_with(why), "{info}: {fault}");
    }
    for meta_data in ["[]", "1", "null", "\"a\"", "{", "{} {}"] {
        let mut parts = demo();
        parts.header[2].1 = meta_data.as_bytes().to_vec();
        assert!(parts.fault().starts_with("cannot read headers/0000/meta-data"), "{meta_data}");
    }
    let mut parts = demo();
    parts.header[2].1 = Vec::new();
    assert!(parts.read().unwrap().updates[0].meta_data.is_empty());
}

#[test]
fn a_type_may_be_left_to_the_header() {
    let artifact = Parts::with_type_info(r#"{"type":""}"#).read().unwrap();
    assert_eq!(artifact.updates[0].kind.as_deref(), Some("demo"));
}

#[test]
fn a_list_to_depend_on_is_worth_a_warning() {
    let artifact =
        Parts::with_type_info(r#"{"type":"demo","artifact_depends":{"a":["b","c"],"d":"e"}}"#).read().unwrap();
    assert_eq!(artifact.depends["a"].values(), ["b", "c"]);
    assert_eq!(artifact.depends["d"], OneOrMany::One("e".into()));
    assert_eq!(artifact.warnings.len(), 1);
}

#[test]
fn payloads_are_counted() {
    let two = INFO.replace(r#"{"type":"demo"}"#, r#"{"type":"demo"},{"type":"more"}"#);
    let mut parts = Parts::with_info(&two);
    assert_eq!(parts.fault(), "unexpected end of the archive, expected headers/0001/type-info");
    parts.header.push(file("headers/0001/type-info", r#"{"type":"more"}"#));
    assert_eq!(parts.fault(), "unexpected end of the archive, expected data/0001.tar");
    parts.data.push(vec![file("three", b"x")]);
    let artifact = parts.read().unwrap();
    let kinds: Vec<_> = artifact.updates.iter().map(|update| update.kind.as_deref().unwrap()).collect();
    assert_eq!(kinds, ["demo", "more"]);
    assert_eq!(artifact.updates[1].files[0].name, "three");
    assert!(artifact.warnings.iter().any(|warning| warning.contains("several payloads")));
    // One more than is spoken of, whatever is in it.
    parts.data.push(Vec::new());
    assert_eq!(parts.fault(), "unexpected data/0002.tar, expected the end of the artifact");

    let mut without = demo();
    without.data = vec![];
    assert_eq!(without.fault(), "unexpected end of the archive, expected data/0000.tar");
    without.data = vec![vec![]];
    assert!(without.read().unwrap().updates[0].files.is_empty());
}

#[test]
fn a_bootstrap_artifact_has_no_payload() {
    let mut parts = Parts::with_info(&INFO.replace(r#""demo""#, "null"));
    parts.header[1].1 = br#"{"type":null,"artifact_provides":{"a":"b"}}"#.to_vec();
    parts.header.truncate(2);
    assert_eq!(parts.fault(), "invalid payload type: there is none, but there are files");
    for data in [vec![], vec![vec![]]] {
        parts.data = data;
        let artifact = parts.read().unwrap();
        assert_eq!(artifact.updates[0].kind, None);
        assert!(artifact.updates[0].files.is_empty());
        assert_eq!(artifact.provides["a"], "b");
    }
}

#[test]
fn meta_data_is_nested_64_levels_at_most() {
    for (levels, is_taken) in [(64, true), (65, false), (127, false)] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let mut parts = demo();
            let inner = levels - 1;
            parts.header[2].1 = format!("{{\"a\":{}1{}}}", open.repeat(inner), close.repeat(inner)).into_bytes();
            match parts.read() {
                Ok(artifact) => {
                    assert!(is_taken, "{levels}");
                    let document = serde_json::to_string(&artifact).unwrap();
                    assert_eq!(serde_json::from_str::<Artifact>(&document).unwrap(), artifact);
                }
                Err(fault) => {
                    assert!(!is_taken, "{levels}: {fault}");
                    assert!(fault.to_string().ends_with("nested deeper than 64 levels"), "{fault}");
                }
            }
        }
    }
}

/// Version, manifest, the augmented manifest, header, augmented header, payload.
fn augmented(compression: Compression) -> Files {
    let mut parts = Parts { compression, ..demo() };
    parts.data[0].push(file("more", b"augmented"));
    parts.no_lines = vec!["data/0000/more"];
    let mut members = parts.members();
    let header = archive(&[
        file("header-info", INFO),
        file("headers/0000/type-info", r#"{"type":"demo","artifact_provides":{"demo.version":"2","x":"y"}}"#),
        file("headers/0000/meta-data", r#"{"c":1}"#),
    ]);
    let (name, header) = (format!("header-augment.tar{}", compression.suffix()), pack(&header, compression));
    let lines = format!("{}  data/0000/more\n{}  {name}\n", digest(b"augmented"), digest(&header));
    members.insert(2, file("manifest-augment", &lines));
    members.insert(4, (name, header));
    members
}

#[test]
fn augmented_parts_are_merged_whatever_the_compression() {
    for compression in Compression::ALL {
        let mut members = augmented(compression);
        let artifact = read_bytes(&archive(&members)).unwrap();
        assert_eq!(artifact.provides["demo.version"], "2");
        assert_eq!(artifact.provides["x"], "y");
        assert_eq!(artifact.updates[0].files[2].name, "more");
        assert_eq!(artifact.updates[0].meta_data.len(), 2);
        assert!(artifact.warnings.iter().any(|warning| warning.contains("augmented")));

        members[2].1.extend(format!("{}  data/0000/none\n", "0".repeat(64)).into_bytes());
        assert_eq!(fault_of(&archive(&members)), "data/0000/none is in the manifest but not in the artifact");
        members.remove(2);
        assert!(read_bytes(&archive(&members)).is_err(), "nothing vouches for the rest");
    }
}

#[test]
fn what_is_no_artifact_is_refused() {
    assert_eq!(fault_of(b""), "not an artifact: too short for an archive");
    assert_eq!(fault_of(&[7; 5000]), "not an artifact: the bytes are no archive");
    assert_eq!(fault_of(&[0; 1024]), "not an artifact: it does not begin with its version");
    assert!(fault_of(&archive(&[file("a", b"b")])).starts_with("not an artifact"));
    let bytes = demo().bytes();
    for end in (0..bytes.len()).step_by(37).chain([bytes.len() - 1, bytes.len() - 512, bytes.len() - 1024]) {
        assert!(read_bytes(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut longer = bytes;
    longer.extend(b"more");
    assert_eq!(fault_of(&longer), "unexpected data after the end of the artifact");
}

#[test]
fn nothing_hides_behind_a_payload() {
    for compression in Compression::ALL {
        let mut members = Parts { compression, ..demo() }.members();
        members[3].1.extend([1; 3000]);
        assert!(read_bytes(&archive(&members)).is_err(), "{compression:?}");
    }
}

#[test]
fn bombs_are_defused() {
    let limits =
        Limits { unpacked: 1024 * 1024, header: 100_000, manifest: 2000, documents: 5000, ..Limits::default() };
    let rules = Rules { limits, ..Rules::default() };
    let refused = |parts: &Parts| read_with(&parts.bytes(), &rules).unwrap_err().to_string();
    for compression in Compression::ALL {
        let mut parts = Parts { compression, ..demo() };
        parts.data[0][1].1 = vec![0; 1024 * 1024];
        assert_eq!(refused(&parts), "the payload is too large: at most 1048576 bytes are allowed");
        let mut parts = Parts { compression, ..demo() };
        parts.header.insert(1, file("scripts/a", vec![0; 200_000]));
        assert_eq!(refused(&parts), "the header is too large: at most 100000 bytes are allowed");
    }
    let mut parts = demo();
    parts.header[2].1 = vec![b' '; 6000];
    assert_eq!(refused(&parts), "headers/0000/meta-data is too large: at most 5000 bytes are allowed");
    parts.header[2].1 = vec![b' '; 4990];
    assert_eq!(refused(&parts), "all that the header says is too large: at most 5000 bytes are allowed");
    let long = Parts { more_lines: "x".repeat(3000), ..demo() };
    assert_eq!(refused(&long), "manifest is too large: at most 2000 bytes are allowed");
    let many = INFO.replace(r#"{"type":"demo"}"#, &vec![r#"{"type":"demo"}"#; 1025].join(","));
    assert!(Parts::with_info(&many).fault().starts_with("the number of payloads is too large"));
    let many = INFO.replace(r#""toaster""#, &vec![r#""toaster""#; 201].join(","));
    assert!(Parts::with_info(&many).fault().starts_with("the number of device types is too large"));
}

#[test]
fn memory_for_unpacking_is_bounded() {
    // A stream that wants a window of 1 GiB before it says anything.
    let mut options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    options.dict_size(1 << 30);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream = liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc64).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(b"x").unwrap();
    let bytes = encoder.finish().unwrap();
    let mut unpacker = Unpacker::new(&*bytes, Compression::Lzma).unwrap();
    assert!(unpacker.read(&mut [0; 10]).is_err());
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&vec![1; 100_000]).unwrap();
    let bytes = encoder.finish().unwrap();
    let mut unpacker = Unpacker::new(&*bytes, Compression::Zstd).unwrap();
    assert!(unpacker.read(&mut [0; 10]).is_err());
}

#[test]
fn signatures_have_to_be_signatures() {
    let signed = |text: &[u8]| Parts { signature: Some(text.to_vec()), ..demo() };
    assert_eq!(signed(b"AAAA").read().unwrap().signature, Signature::Unchecked);
    for text in [&b""[..], b"A", b"AAAA\n", b"????"] {
        assert!(signed(text).fault().starts_with("cannot read manifest.sig"), "{text:?}");
    }
    let must = Rules { must_be_signed: true, ..Rules::default() };
    assert_eq!(read_with(&demo().bytes(), &must), Err(Fault::NotSigned));
}

#[test]
fn a_good_signature_does_not_vouch_for_augmented_parts() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    let key = ArtifactKey::parse(&pem::encode(&pem::Pem::new("PUBLIC KEY", public.as_ref()))).unwrap();
    let signed = |mut members: Files| {
        let made = pair.sign(&SystemRandom::new(), &members[1].1).unwrap();
        members.insert(2, file("manifest.sig", BASE64_STANDARD.encode(made)));
        archive(&members)
    };
    let (plain, augmented) = (demo().members(), augmented(Compression::None));
    for must_be_signed in [true, false] {
        let rules = Rules { keys: vec![key.clone()], must_be_signed, ..Rules::default() };
        assert_eq!(read_with(&signed(plain.clone()), &rules).unwrap().signature, Signature::Verified);
        assert_eq!(read_with(&signed(augmented.clone()), &rules), Err(Fault::WrongSignature));
    }
    // Nobody checks it here, and nobody says so.
    assert_eq!(read_bytes(&signed(augmented)).unwrap().signature, Signature::Unchecked);
}

#[test]
fn no_change_of_a_byte_goes_unnoticed_or_breaks_the_reader() {
    let mut random = StdRng::seed_from_u64(0x6d6f_6f72);
    for compression in Compression::ALL {
        let parts = Parts { compression, ..demo() };
        let (bytes, original) = (parts.bytes(), parts.read().unwrap());
        for _ in 0..3000 {
            let mut changed = bytes.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..changed.len());
                match random.random_range(0..4) {
                    0 => changed[at] = random.random(),
                    1 => changed[at] ^= 1 << random.random_range(0..8),
                    2 => {
                        changed.truncate(at);
                        break;
                    }
                    _ => {
                        let end = (at + random.random_range(0..600)).min(changed.len());
                        changed.drain(at..end);
                    }
                }
                if changed.is_empty() {
                    break;
                }
            }
            // What the manifest vouches for stays as it was; owners and times of an archive are nobody's concern.
            if let Ok(read) = read_bytes(&changed) {
                assert_eq!(
                    (&read.name, &read.provides, &read.depends),
                    (&original.name, &original.provides, &original.depends)
                );
                let checksums = |artifact: &Artifact| -> Vec<String> {
                    artifact.updates[0].files.iter().map(|file| file.checksum.clone()).collect()
                };
                assert_eq!(checksums(&read), checksums(&original));
            }
        }
    }
}
