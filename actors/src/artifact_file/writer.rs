//! Writes files, in the order and with the bytes that every reader takes: plain ustar headers, nothing of this machine in
//! them, so that the same contents are the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;
use serde_json::{Map, Value};
use tar::Header;

use super::archive::BLOCK;
use super::compression::{Packer, WrittenCompression};
use super::header::{HeaderDepends, HeaderInfo3, HeaderProvides, PayloadType, TypeInfo};
use super::reader::digest;
use super::{data_archive, hex, is_file_name};

/// The first member.
const VERSION: &[u8] = br#"{"format":"mender","version":3}"#;

/// Bytes of a payload that are kept in memory; what is more goes to a temporary file.
const KEPT_IN_MEMORY: usize = 1024 * 1024;

/// Where plain headers end: larger members need an extension that some devices cannot read.
const MEMBER_LIMIT: u64 = 8 * 1024 * 1024 * 1024;

/// An artifact with one payload.
pub struct NewArtifact<'a> {
    /// Its name.
    pub name: String,
    /// Kinds of device it is for.
    pub device_types: Vec<String>,
    /// What installs its payload.
    pub kind: String,
    /// What a device provides once it is installed, beside its name.
    pub provides: BTreeMap<String, String>,
    /// Patterns of keys that a device no longer provides then.
    pub clears: Vec<String>,
    /// For whoever installs it; `None` leaves the member out.
    pub meta_data: Option<Map<String, Value>>,
    /// Its files.
    pub files: Vec<NewFile<'a>>,
    /// How its archives are packed.
    pub compression: WrittenCompression,
}

/// A file of a payload.
pub struct NewFile<'a> {
    /// Its name: see [`is_file_name`].
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// They come from here.
    pub content: Box<dyn Read + 'a>,
}

impl NewFile<'_> {
    /// A file with this text.
    pub fn text(name: &str, text: String) -> Self {
        Self { name: name.to_owned(), size: text.len() as u64, content: Box::new(io::Cursor::new(text)) }
    }
}

/// Writes the file.
///
/// # Errors
/// When a file cannot be read, is not as long as it said or has a name that no file may have, when there is no room for it, or
/// when `sink` fails.
pub fn write(artifact: NewArtifact<'_>, sink: &mut dyn Write) -> io::Result<()> {
    let suffix = artifact.compression.suffix();
    let mut manifest = String::new();
    let mut packer = Packer::new(tempfile::spooled_tempfile(KEPT_IN_MEMORY), artifact.compression);
    for mut file in artifact.files {
        if !is_file_name(&file.name) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no file may be called {:?}", file.name)));
        }
        let checksum = append(&mut packer, &file.name, file.size, &mut file.content)?;
        manifest.push_str(&line(&checksum, &format!("data/0000/{}", file.name)));
    }
    end(&mut packer)?;
    let mut data = packer.finish()?;

    let mut packer = Packer::new(Vec::new(), artifact.compression);
    let info = HeaderInfo3 {
        payloads: vec![PayloadType { kind: Some(artifact.kind.clone()) }],
        artifact_provides: HeaderProvides { artifact_name: artifact.name, artifact_group: None },
        artifact_depends: HeaderDepends {
            artifact_name: None,
            device_type: artifact.device_types,
            artifact_group: None,
        },
    };
    append_json(&mut packer, "header-info", &info)?;
    let type_info = TypeInfo {
        kind: Some(artifact.kind),
        artifact_depends: None,
        artifact_provides: Some(artifact.provides),
        clears_artifact_provides: Some(artifact.clears),
    };
    append_json(&mut packer, "headers/0000/type-info", &type_info)?;
    if let Some(meta_data) = &artifact.meta_data {
        append_json(&mut packer, "headers/0000/meta-data", meta_data)?;
    }
    end(&mut packer)?;
    let header = packer.finish()?;

    let header_name = format!("header.tar{suffix}");
    manifest.push_str(&line(&digest(&header), &header_name));
    manifest.push_str(&line(&digest(VERSION), "version"));
    append_bytes(sink, "version", VERSION)?;
    append_bytes(sink, "manifest", manifest.as_bytes())?;
    append_bytes(sink, &header_name, &header)?;
    let size = data.stream_position()?;
    data.rewind()?;
    append(sink, &format!("{}{suffix}", data_archive(0)), size, &mut data)?;
    end(sink)?;
    sink.flush()
}

fn line(digest: &str, path: &str) -> String {
    format!("{digest}  {path}\n")
}

fn append_json(sink: &mut dyn Write, name: &str, document: &impl Serialize) -> io::Result<()> {
    append_bytes(sink, name, &serde_json::to_vec(document)?)
}

fn append_bytes(sink: &mut dyn Write, name: &str, mut bytes: &[u8]) -> io::Result<()> {
    append(sink, name, bytes.len() as u64, &mut bytes).map(drop)
}

/// Writes a member and returns the digest of its content.
fn append(sink: &mut dyn Write, name: &str, size: u64, content: &mut dyn Read) -> io::Result<String> {
    if size >= MEMBER_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is too large for a plain archive")));
    }
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_device_major(0)?;
    header.set_device_minor(0)?;
    write_checksum(&mut header);
    sink.write_all(header.as_bytes())?;

    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = content.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} ends early")));
        }
        hash.update(&buffer[..read]);
        sink.write_all(&buffer[..read])?;
        left -= read as u64;
    }
    let padding = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).expect("less than a block");
    sink.write_all(&[0; BLOCK][..padding])?;
    Ok(hex(hash.finish().as_ref()))
}

/// As the standard tool writes it: six digits, NUL, space.
fn write_checksum(header: &mut Header) {
    header.as_old_mut().cksum = *b"        ";
    let sum: u32 = header.as_bytes().iter().map(|&byte| u32::from(byte)).sum();
    let digits = format!("{sum:06o}\0 ");
    header.as_old_mut().cksum.copy_from_slice(digits.as_bytes());
}

fn end(sink: &mut dyn Write) -> io::Result<()> {
    sink.write_all(&[0; 2 * BLOCK])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact_file::reader::read;
    use crate::artifact_file::{Rules, Signature};

    fn demo(files: Vec<NewFile<'_>>, compression: WrittenCompression) -> io::Result<Vec<u8>> {
        let artifact = NewArtifact {
            name: "demo-1".into(),
            device_types: vec!["qemux86-64".into()],
            kind: "demo".into(),
            provides: BTreeMap::from([("rootfs-image.demo.version".into(), "demo-1".into())]),
            clears: vec!["rootfs-image.demo.*".into()],
            meta_data: None,
            files,
            compression,
        };
        let mut bytes = Vec::new();
        write(artifact, &mut bytes)?;
        Ok(bytes)
    }

    /// The test vector of the wire contract, which the standard tool takes.
    #[test]
    fn the_smallest_artifact_is_this_one_bit_for_bit() {
        let bytes = demo(vec![NewFile::text("hello.txt", "hello\n".into())], WrittenCompression::None).unwrap();
        assert_eq!(bytes.len(), 9216);
        assert_eq!(digest(&bytes), "ed089f362631e1e845d3bf420f5305ea6bf28a3cb3411219b998b7c4da6859b7");
        assert_eq!(digest(VERSION), "96bcd965947569404798bcbdb614f103db5a004eb6e364cfc162c146890ea35b");
        let manifest = &bytes[1536..1536 + 237];
        assert_eq!(digest(manifest), "bc64c47e86e1bbf315d3c32a1f110c2cb0c7627157115f417f77b5a1cb23763a");
    }

    #[test]
    fn what_is_written_can_be_read() {
        for compression in [WrittenCompression::None, WrittenCompression::Gzip] {
            let large: Vec<u8> =
                (0..3_000_000_u32).map(|number| number.wrapping_mul(number).to_be_bytes()[2]).collect();
            let large =
                NewFile { name: "b".into(), size: large.len() as u64, content: Box::new(io::Cursor::new(large)) };
            let bytes = demo(vec![NewFile::text("a", String::new()), large], compression).unwrap();
            let artifact = read(&*bytes, &Rules::default()).unwrap();
            assert_eq!((artifact.name.as_str(), artifact.signature), ("demo-1", Signature::None));
            let files: Vec<_> = artifact.updates[0].files.iter().map(|file| (file.name.as_str(), file.size)).collect();
            assert_eq!(files, [("a", 0), ("b", 3_000_000)]);
            assert!(artifact.warnings.is_empty());
        }
    }

    #[test]
    fn a_file_that_lies_about_itself_is_not_written() {
        let short = NewFile { name: "a".into(), size: 7, content: Box::new(&b"short"[..]) };
        assert!(demo(vec![short], WrittenCompression::None).is_err());
        let elsewhere = NewFile::text("../a", String::new());
        assert!(demo(vec![elsewhere], WrittenCompression::None).is_err());
    }
}
