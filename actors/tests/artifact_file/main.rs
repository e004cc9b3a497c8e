//! Whatever the standard tool makes and takes, the hub takes and makes. (Debian's `mender-artifact`.)

#![expect(clippy::unwrap_used, reason = "a test that is surprised has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use actors::artifact_file::reader::read;
use actors::artifact_file::single_file::SingleFile;
use actors::artifact_file::{Artifact, ArtifactKey, Fault, ReadError, Rules, Signature, configuration};
use tempfile::TempDir;

/// A folder with files, and the tool.
struct Tool {
    directory: TempDir,
}

impl Tool {
    fn new() -> Self {
        let this = Self { directory: TempDir::new().unwrap() };
        this.file("hello.txt", b"hello\n");
        this.file("large.bin", &(0..400_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let run = Command::new(program).args(arguments).current_dir(self.directory.path()).output();
        run.unwrap_or_else(|error| panic!("{program} is needed (tests/setup.sh): {error}"))
    }

    /// The bytes it makes of these arguments.
    fn write(&self, arguments: &[&str]) -> Vec<u8> {
        let mut all = vec!["write"];
        all.extend(arguments);
        all.extend(["-o", "made.mender"]);
        // Left by the last call.
        let _ = fs::remove_file(self.path("made.mender"));
        let run = self.run("mender-artifact", &all);
        let made = fs::read(self.path("made.mender"));
        made.unwrap_or_else(|_| panic!("{all:?} makes nothing: {}", String::from_utf8_lossy(&run.stderr)))
    }

    fn takes(&self, file: &Path, arguments: &[&str]) -> bool {
        let mut all = vec!["validate"];
        all.extend(arguments);
        all.push(file.to_str().unwrap());
        self.run("mender-artifact", &all).status.success()
    }

    /// Makes a key pair; the names of its private and its public half.
    fn key(&self, name: &str, arguments: &[&str]) -> (String, String) {
        let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
        let mut all = arguments.to_vec();
        // What follows the name of a command has to come after its options.
        all.splice(1..1, ["-out", private.as_str()]);
        assert!(self.run("openssl", &all).status.success(), "openssl makes a key");
        assert!(self.run("openssl", &["pkey", "-in", &private, "-pubout", "-out", &public]).status.success());
        (private, public)
    }

    fn artifact_key(&self, public: &str) -> ArtifactKey {
        ArtifactKey::parse(&fs::read_to_string(self.path(public)).unwrap()).unwrap()
    }
}

fn taken(bytes: &[u8]) -> Artifact {
    read(bytes, &Rules::default()).unwrap_or_else(|error| panic!("refused: {error}"))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one paragraph for each kind of artifact")]
fn every_kind_of_artifact_is_taken_in_every_compression() {
    let tool = Tool::new();
    tool.file("meta.json", br#"{"a":{"b":[1,2,{"c":null}]}}"#);
    tool.file("scripts/ArtifactInstall_Enter_00", b"#!/bin/sh\n");
    tool.file("scripts/ArtifactCommit_Leave_99_last", b"#!/bin/sh\n");
    tool.file("aug.bin", b"augmented");
    let long = format!("{}.bin", "n".repeat(150));
    tool.file(&long, b"long");
    let names = ["-n", "r-1", "-t", "rpi4", "-t", "rpi5"];
    for compression in ["none", "gzip", "lzma"] {
        let write = |arguments: &[&str]| {
            let mut all = arguments.to_vec();
            all.extend(names);
            all.extend(["--compression", compression]);
            taken(&tool.write(&all))
        };
        let image = write(&["rootfs-image", "-f", "large.bin"]);
        assert_eq!((image.name.as_str(), image.version), ("r-1", 3));
        assert_eq!(image.device_types, ["rpi4", "rpi5"]);
        assert_eq!(image.provides["rootfs-image.version"], "r-1");
        assert_eq!(image.provides["rootfs-image.checksum"], image.updates[0].files[0].checksum);
        assert_eq!(image.clears, ["artifact_group", "rootfs_image_checksum", "rootfs-image.*"]);
        assert_eq!(
            (image.updates[0].kind.as_deref(), image.updates[0].files[0].size),
            (Some("rootfs-image"), 1_600_000)
        );
        assert!(image.updates[0].meta_data.is_empty());

        let old = write(&["rootfs-image", "-v", "2", "-f", "large.bin"]);
        assert_eq!((old.version, old.updates[0].kind.as_deref()), (2, Some("rootfs-image")));
        assert_eq!(old.device_types, ["rpi4", "rpi5"]);

        let many = write(&[
            "module-image",
            "-T",
            "demo",
            "-f",
            "hello.txt",
            "-f",
            "large.bin",
            "-m",
            "meta.json",
            "-s",
            "scripts/ArtifactInstall_Enter_00",
            "-s",
            "scripts/ArtifactCommit_Leave_99_last",
            "-N",
            "r-0",
            "-N",
            "r-00",
            "-G",
            "group-0",
            "-g",
            "group-1",
            "-d",
            "a:b",
            "-p",
            "c:d",
            "--clears-provides",
            "c.*",
            "--software-filesystem",
            "data",
            "--software-name",
            "app",
            "--software-version",
            "7",
        ]);
        assert_eq!(many.updates[0].files.len(), 2);
        assert_eq!(many.updates[0].meta_data["a"]["b"][1], 2);
        let mut scripts = many.scripts.clone();
        scripts.sort();
        assert_eq!(scripts, ["ArtifactCommit_Leave_99_last", "ArtifactInstall_Enter_00"]);
        assert_eq!(many.depends["artifact_name"].values(), ["r-0", "r-00"]);
        assert_eq!(many.depends["artifact_group"].values(), ["group-0"]);
        assert_eq!(many.depends["a"].values(), ["b"]);
        assert_eq!(many.provides["artifact_group"], "group-1");
        assert_eq!((many.provides["c"].as_str(), many.provides["data.app.version"].as_str()), ("d", "7"));
        assert!(many.clears.contains(&"c.*".to_owned()));

        let empty =
            write(&["module-image", "-T", "demo", "--no-default-software-version", "--no-default-clears-provides"]);
        assert!(empty.updates[0].files.is_empty() && empty.clears.is_empty());
        assert_eq!(empty.provides.len(), 1);

        let bootstrap = write(&["bootstrap-artifact", "-p", "a:b"]);
        assert_eq!((bootstrap.updates[0].kind.as_deref(), bootstrap.provides["a"].as_str()), (None, "b"));

        let augmented = write(&[
            "module-image",
            "-T",
            "demo",
            "-f",
            "hello.txt",
            "--augment-type",
            "demo",
            "--augment-file",
            "aug.bin",
            "--augment-provides",
            "a:b",
            "--augment-depends",
            "c:d",
            "--augment-meta-data",
            "meta.json",
        ]);
        let files: Vec<_> = augmented.updates[0].files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(files, ["hello.txt", "aug.bin"]);
        assert_eq!((augmented.provides["a"].as_str(), augmented.depends["c"].values()), ("b", &["d".to_owned()][..]));

        // Devices refuse the line that such a name makes.
        let long_named = write(&["module-image", "-T", "demo", "-f", &long]);
        assert_eq!(long_named.updates[0].files[0].name, long);
        assert!(long_named.warnings[0].contains("longer than 166"));

        let legacy = write(&["rootfs-image", "-f", "hello.txt", "--legacy-rootfs-image-checksum"]);
        assert!(legacy.provides.contains_key("rootfs_image_checksum"));
    }
}

#[test]
fn signatures_of_the_tool_are_checked() {
    let tool = Tool::new();
    let (rsa, rsa_public) = tool.key("rsa", &["genrsa", "-traditional", "2048"]);
    let (ec, ec_public) = tool.key("ec", &["ecparam", "-name", "prime256v1", "-genkey", "-noout"]);
    let (_, other_public) = tool.key("other", &["ecparam", "-name", "prime256v1", "-genkey", "-noout"]);
    let (_, unsupported) = tool.key("ed", &["genpkey", "-algorithm", "ed25519"]);
    assert!(ArtifactKey::parse(&fs::read_to_string(tool.path(&unsupported)).unwrap()).is_err());
    for (private, public) in [(rsa, rsa_public), (ec, ec_public)] {
        let arguments = ["module-image", "-T", "demo", "-n", "s-1", "-t", "rpi4", "-f", "hello.txt", "-k", &private];
        let mut signed = tool.write(&arguments);
        assert_eq!(taken(&signed).signature, Signature::Unchecked);
        let rules = |keys: &[&str]| Rules {
            keys: keys.iter().map(|key| tool.artifact_key(key)).collect(),
            must_be_signed: true,
            ..Rules::default()
        };
        let verified = read(&*signed, &rules(&[&other_public, &public])).unwrap();
        assert_eq!(verified.signature, Signature::Verified);
        let error = read(&*signed, &rules(&[&other_public])).unwrap_err();
        assert!(matches!(error, ReadError::Fault(Fault::WrongSignature)), "{error}");

        // The same signature as ASN.1, which other signers write.
        if private == "ec.pem" {
            let (manifest, _) = member(&signed, "manifest");
            tool.file("manifest", &manifest);
            let sign = tool.run("openssl", &["dgst", "-sha256", "-sign", &private, "-out", "asn1", "manifest"]);
            assert!(sign.status.success());
            let encode = tool.run("openssl", &["base64", "-A", "-in", "asn1"]);
            let (text, at) = member(&signed, "manifest.sig");
            assert!(encode.stdout.len() >= text.len() && encode.stdout.len() <= 512);
            let size = format!("{:011o}", encode.stdout.len());
            signed[at..at + encode.stdout.len()].copy_from_slice(&encode.stdout);
            signed[at - 512 + 124..at - 512 + 135].copy_from_slice(size.as_bytes());
            repair_checksum(&mut signed[at - 512..at]);
            assert_eq!(read(&*signed, &rules(&[&public])).unwrap().signature, Signature::Verified);
        }
    }
    let unsigned = tool.write(&["module-image", "-T", "demo", "-n", "s-1", "-t", "rpi4", "-f", "hello.txt"]);
    let rules = Rules { must_be_signed: true, ..Rules::default() };
    assert!(matches!(read(&*unsigned, &rules), Err(ReadError::Fault(Fault::NotSigned))));
}

/// The content of a member of an archive with plain headers, and where it begins.
fn member(archive: &[u8], name: &str) -> (Vec<u8>, usize) {
    let mut at = 0;
    loop {
        let header = &archive[at..at + 512];
        let size = std::str::from_utf8(&header[124..135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap();
        if header.starts_with(name.as_bytes()) && header[name.len()] == 0 {
            return (archive[at + 512..at + 512 + size].to_vec(), at + 512);
        }
        at += 512 + size.next_multiple_of(512);
    }
}

fn repair_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn what_the_tool_refuses_is_refused() {
    let tool = Tool::new();
    let made = tool.write(&[
        "module-image",
        "-T",
        "demo",
        "-n",
        "d-1",
        "-t",
        "rpi4",
        "-f",
        "hello.txt",
        "--compression",
        "none",
    ]);
    let path = tool.path("changed.mender");
    let mut refused = 0;
    for at in (0..made.len()).step_by(101) {
        let mut changed = made.clone();
        changed[at] ^= 0x21;
        fs::write(&path, &changed).unwrap();
        if !tool.takes(&path, &[]) {
            refused += 1;
            assert!(read(&*changed, &Rules::default()).is_err(), "byte {at}: the tool refuses it");
        }
    }
    assert!(refused > 10, "{refused}");
    for end in [0, 100, 512, 1500, 4000, made.len() / 2] {
        fs::write(&path, &made[..end]).unwrap();
        assert!(!tool.takes(&path, &[]));
        assert!(read(&made[..end], &Rules::default()).is_err(), "cut at {end}");
    }
}

#[test]
fn the_tool_takes_what_the_hub_makes() {
    let tool = Tool::new();
    let args = r#"{"filename":"app.bin","dest_dir":"/opt/app","software_name":"app"}"#;
    let single = SingleFile::parse("app-2.1", vec!["rpi4".into(), "rpi5".into()], args).unwrap();
    let content = fs::read(tool.path("large.bin")).unwrap();
    let mut bytes = Vec::new();
    single.write(content.len() as u64, &*content, &mut bytes).unwrap();
    let path = tool.file("single.mender", &bytes);
    assert!(tool.takes(&path, &[]));
    let shown = tool.run("mender-artifact", &["read", "single.mender"]);
    assert!(shown.status.success());
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in
        ["Name: app-2.1", "Version: 3", "[rpi4 rpi5]", "rootfs-image.app.version: app-2.1", "single-file", "dest_dir"]
    {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }

    let serde_json::Value::Object(map) = serde_json::json!({"timezone": "UTC"}) else { unreachable!() };
    let bytes = configuration::write("configuration-7", "rpi4", map).unwrap();
    let path = tool.file("configuration.mender", &bytes);
    assert!(tool.takes(&path, &[]));
    let shown = tool.run("mender-artifact", &["read", "configuration.mender"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("mender-configure") && shown.contains("timezone"), "{shown}");
}
