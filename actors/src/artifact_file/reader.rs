//! Reads a file, member by member, and looks whether it is what it says.

use std::io::{self, Read};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Deserialize;

use super::archive::{Member, Members, too_large};
use super::compression::{Bounded, Compression, Unpacker};
use super::fault::{Fault, ReadError};
use super::header::{self, HeaderInfo, PayloadHeader, malformed, read_meta_data, read_type_info};
use super::manifest::Manifest;
use super::signature::{self, Signature};
use super::{Artifact, Limits, PayloadFile, Rules, Update, data_archive, hex, is_file_name};

/// Bytes of the first member.
const VERSION_LIMIT: u64 = 1024;

const HEADER: &str = "header.tar";
const AUGMENTED_HEADER: &str = "header-augment.tar";
const SIGNATURE: &str = "manifest.sig";
const AUGMENTED_MANIFEST: &str = "manifest-augment";

/// The first member.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    format: String,
    version: u64,
}

/// Reads a whole file, and to the end of its bytes.
///
/// # Errors
/// `Fault` if it is no artifact, or not one that the rules allow; `Source` if reading from `source` failed.
pub fn read(source: impl Read, rules: &Rules) -> Result<Artifact, ReadError> {
    let mut file = File {
        members: Members::new(Source(source), "the artifact"),
        rules,
        warnings: Vec::new(),
        unpacked: rules.limits.unpacked,
    };
    file.read()
}

/// A file that is being read.
struct File<'a, R> {
    members: Members<Source<R>>,
    rules: &'a Rules,
    warnings: Vec<String>,
    /// Bytes that payloads may still take.
    unpacked: u64,
}

/// What stands in front of the header.
struct Front {
    version: u8,
    manifest: Manifest,
    augmented: Option<Manifest>,
    signature: Signature,
    /// The member after it.
    next: Option<Member>,
}

/// What a header archive says.
struct Header {
    info: HeaderInfo,
    payloads: Vec<PayloadHeader>,
    scripts: Vec<String>,
}

impl<R: Read> File<'_, R> {
    fn read(&mut self) -> Result<Artifact, ReadError> {
        let Front { version, mut manifest, mut augmented, signature, next } = self.front()?;
        let member = next.ok_or_else(|| unexpected(None, HEADER))?;
        let mut header = self.header(&member, HEADER, version, &mut manifest)?;
        let mut next = self.members.next_member()?;
        if let Some(augmented) = &mut augmented {
            let member = next.ok_or_else(|| unexpected(None, AUGMENTED_HEADER))?;
            let more = self.header(&member, AUGMENTED_HEADER, version, augmented)?;
            if more.payloads.len() != header.payloads.len() {
                return Err(header::invalid(AUGMENTED_HEADER, "it has another number of payloads").into());
            }
            for (payload, more) in header.payloads.iter_mut().zip(more.payloads) {
                payload.augment(more);
            }
            self.warnings.push("it has augmented parts, which devices refuse".to_owned());
            next = self.members.next_member()?;
        }
        let mut files = Vec::with_capacity(header.payloads.len());
        for (index, kind) in header.info.payloads.iter().enumerate() {
            let Some(member) = next else {
                // A file that only states what a device provides may leave its empty archive out.
                if kind.is_none() {
                    files.push(Vec::new());
                    continue;
                }
                return Err(unexpected(None, &data_archive(index)));
            };
            let found = self.payload(&member, index, &mut manifest, augmented.as_mut())?;
            if kind.is_none() && !found.is_empty() {
                return Err(header::invalid("payload type", "there is none, but there are files").into());
            }
            files.push(found);
            next = self.members.next_member()?;
        }
        if let Some(member) = next {
            return Err(unexpected(Some(member), "the end of the artifact"));
        }
        manifest.finish()?;
        augmented.iter().try_for_each(Manifest::finish)?;
        self.warnings.extend(manifest.warning());
        self.summary(version, signature, header, files)
    }

    fn front(&mut self) -> Result<Front, ReadError> {
        let member = self.members.next_member()?;
        let member = member.filter(|member| member.name == "version");
        let member = member.ok_or(Fault::NotAnArtifact("it does not begin with its version"))?;
        let content = self.members.read(&member, VERSION_LIMIT)?;
        let digest = digest(&content);
        let version = match read_version(&content) {
            Ok(version) => version,
            Err(fault) => return Err(self.blame(fault, &digest)),
        };
        let member = called("manifest", self.members.next_member()?)?;
        let content = self.members.read(&member, self.rules.limits.manifest)?;
        let mut manifest = Manifest::read(&content, "manifest")?;
        manifest.check("version", &digest)?;

        let mut next = self.members.next_member()?;
        let signature = match &next {
            Some(member) if member.name == SIGNATURE => {
                let text = self.members.read(member, signature::SIGNATURE_LIMIT)?;
                let why = || "it is not the base64 text of a signature".to_owned();
                let made = signature::decode(&text)
                    .ok_or_else(|| Fault::Malformed { member: SIGNATURE.to_owned(), why: why() })?;
                next = self.members.next_member()?;
                self.check_signature(&made, &content)?
            }
            _ if self.rules.must_be_signed => return Err(Fault::NotSigned.into()),
            _ => Signature::None,
        };
        let mut augmented = None;
        if let Some(member) = next.as_ref().filter(|member| version > 2 && member.name == AUGMENTED_MANIFEST) {
            // No signature covers these parts, and they count more than those that one does.
            if signature == Signature::Verified {
                return Err(Fault::WrongSignature.into());
            }
            let content = self.members.read(member, self.rules.limits.manifest)?;
            augmented = Some(Manifest::read(&content, AUGMENTED_MANIFEST)?);
            next = self.members.next_member()?;
        }
        Ok(Front { version, manifest, augmented, signature, next })
    }

    /// A version that cannot be read may be one that was altered.
    fn blame(&mut self, fault: Fault, digest: &str) -> ReadError {
        let Ok(Some(member)) = self.members.next_member() else { return fault.into() };
        if member.name != "manifest" {
            return fault.into();
        }
        let Ok(content) = self.members.read(&member, self.rules.limits.manifest) else { return fault.into() };
        match Manifest::read(&content, "manifest") {
            Ok(manifest) if manifest.contradicts("version", digest) => Fault::WrongChecksum("version".into()).into(),
            _ => fault.into(),
        }
    }

    fn check_signature(&self, made: &[u8], manifest: &[u8]) -> Result<Signature, Fault> {
        if self.rules.keys.is_empty() {
            return if self.rules.must_be_signed { Err(Fault::WrongSignature) } else { Ok(Signature::Unchecked) };
        }
        if signature::is_by_one_of(&self.rules.keys, made, manifest) {
            Ok(Signature::Verified)
        } else {
            Err(Fault::WrongSignature)
        }
    }

    fn header(
        &mut self,
        member: &Member,
        stem: &str,
        version: u8,
        manifest: &mut Manifest,
    ) -> Result<Header, ReadError> {
        let compression = compression_of(member, stem)?;
        let limits = self.rules.limits;
        let mut left = limits.header;
        let mut stored = Hashing::new(self.members.content());
        let outcome = unpack(&mut stored, compression, &member.name).and_then(|unpacked| {
            let bounded = Bounded::new(unpacked, &mut left, "the header", limits.header);
            read_header(Members::new(bounded, member.name.as_str()), version, limits)
        });
        let digest = match stored.finish() {
            Ok(digest) => digest,
            // That the rest cannot be read explains less than what was wrong before.
            Err(error) => return Err(outcome.err().unwrap_or_else(|| ReadError::from_io(error, &member.name))),
        };
        match outcome {
            Ok(header) => {
                manifest.check(&member.name, &digest)?;
                Ok(header)
            }
            // Damaged bytes are no statement of the file's maker.
            Err(ReadError::Fault(_)) if manifest.contradicts(&member.name, &digest) => {
                Err(Fault::WrongChecksum(member.name.clone()).into())
            }
            Err(error) => Err(error),
        }
    }

    fn payload(
        &mut self,
        member: &Member,
        index: usize,
        manifest: &mut Manifest,
        mut augmented: Option<&mut Manifest>,
    ) -> Result<Vec<PayloadFile>, ReadError> {
        let compression = compression_of(member, &data_archive(index))?;
        let limit = self.rules.limits.unpacked;
        let unpacked = unpack(self.members.content(), compression, &member.name)?;
        let bounded = Bounded::new(unpacked, &mut self.unpacked, "the payload", limit);
        let mut members = Members::new(bounded, member.name.as_str());
        let mut files = Vec::new();
        while let Some(file) = members.next_member()? {
            if !is_file_name(&file.name) {
                return Err(Fault::InvalidName(file.name).into());
            }
            let path = format!("data/{index:04}/{}", file.name);
            let manifest = match &mut augmented {
                Some(augmented) if !manifest.lists(&path) => &mut **augmented,
                _ => &mut *manifest,
            };
            if !manifest.lists(&path) {
                return Err(Fault::NotInManifest(path).into());
            }
            let checksum = Hashing::new(members.content()).finish();
            let checksum = checksum.map_err(|error| ReadError::from_io(error, &member.name))?;
            manifest.check(&path, &checksum)?;
            files.push(PayloadFile { name: file.name, checksum, size: file.size, modified: file.modified });
        }
        drop(members);
        if !self.members.is_at_end() {
            return Err(Fault::Trailing(member.name.clone()).into());
        }
        Ok(files)
    }

    fn summary(
        &mut self,
        version: u8,
        signature: Signature,
        header: Header,
        files: Vec<Vec<PayloadFile>>,
    ) -> Result<Artifact, ReadError> {
        let Header { info, payloads, scripts } = header;
        let (provides, depends) = (header::provides(&info, &payloads)?, header::depends(&info, &payloads)?);
        let has_list = |payload: &PayloadHeader| {
            let depends = payload.info.artifact_depends.as_ref();
            depends.is_some_and(|depends| depends.values().any(|value| matches!(value, super::OneOrMany::Many(_))))
        };
        if payloads.iter().any(has_list) {
            self.warnings.push("a payload depends on one of several values, which devices cannot read".to_owned());
        }
        if payloads.len() > 1 {
            self.warnings.push("it has several payloads, which devices refuse".to_owned());
        }
        let clears = payloads.iter().filter_map(|payload| payload.info.clears_artifact_provides.as_ref());
        let clears = clears.flatten().cloned().collect();
        let updates = payloads
            .into_iter()
            .zip(info.payloads)
            .zip(files)
            .map(|((payload, kind), files)| Update { kind, files, meta_data: payload.meta_data })
            .collect();
        Ok(Artifact {
            version,
            name: info.name,
            device_types: info.device_types,
            signature,
            updates,
            provides,
            depends,
            clears,
            scripts,
            warnings: std::mem::take(&mut self.warnings),
        })
    }
}

fn read_version(content: &[u8]) -> Result<u8, Fault> {
    let stated: Version = serde_json::from_slice(content).map_err(|error| malformed("version", &error))?;
    if stated.format != "mender" {
        return Err(Fault::UnsupportedFormat(stated.format.chars().take(100).collect()));
    }
    match stated.version {
        2 => Ok(2),
        3 => Ok(3),
        other => Err(Fault::UnsupportedVersion(other.to_string())),
    }
}

fn read_header<R: Read>(mut members: Members<R>, version: u8, limits: Limits) -> Result<Header, ReadError> {
    let mut documents = limits.documents;
    let mut document = |members: &mut Members<R>, member: &Member| {
        let content = members.read(member, limits.documents)?;
        documents = documents
            .checked_sub(content.len() as u64)
            .ok_or_else(|| too_large("all that the header says", limits.documents))?;
        Ok::<_, ReadError>(content)
    };
    let first = called("header-info", members.next_member()?)?;
    let info = HeaderInfo::read(&document(&mut members, &first)?, version, &limits)?;

    let mut scripts: Vec<String> = Vec::new();
    let mut next = members.next_member()?;
    while let Some(script) = next.as_ref().and_then(|member| member.name.strip_prefix("scripts/")) {
        check_script(script, &scripts, limits)?;
        scripts.push(script.to_owned());
        next = members.next_member()?;
    }
    let mut payloads = Vec::with_capacity(info.payloads.len());
    for (index, kind) in info.payloads.iter().enumerate() {
        if version == 2 {
            // Names of the files, which the manifest has as well.
            if let Some(member) = next.as_ref().filter(|member| member.name == format!("headers/{index:04}/files")) {
                document(&mut members, member)?;
                next = members.next_member()?;
            }
        }
        let member = called(&format!("headers/{index:04}/type-info"), next)?;
        let content = document(&mut members, &member)?;
        let info = read_type_info(&content, index, kind.as_ref(), &limits)?;
        next = members.next_member()?;
        let mut payload = PayloadHeader { info, ..PayloadHeader::default() };
        let wanted = format!("headers/{index:04}/meta-data");
        if let Some(member) = next.as_ref().filter(|member| member.name == wanted) {
            payload.meta_data = read_meta_data(&document(&mut members, member)?, &wanted)?;
            next = members.next_member()?;
        }
        payloads.push(payload);
    }
    match next {
        Some(member) => Err(unexpected(Some(member), "the end of the header")),
        None => Ok(Header { info, payloads, scripts }),
    }
}

fn check_script(name: &str, before: &[String], limits: Limits) -> Result<(), ReadError> {
    let is_plain = !name.is_empty() && !name.contains('/') && !matches!(name, "." | "..");
    if !is_plain || name.chars().any(char::is_control) {
        return Err(Fault::InvalidName(format!("scripts/{name}")).into());
    }
    if before.iter().any(|other| other == name) {
        return Err(Fault::Duplicate(format!("scripts/{name}")).into());
    }
    if before.len() >= limits.payloads {
        return Err(too_large("the list of state scripts", limits.documents));
    }
    Ok(())
}

fn compression_of(member: &Member, stem: &str) -> Result<Compression, ReadError> {
    Compression::of(&member.name, stem).ok_or_else(|| {
        Fault::Unexpected { found: member.name.clone(), expected: format!("{stem}, compressed or not") }.into()
    })
}

fn unpack<R: Read>(source: R, compression: Compression, member: &str) -> Result<Unpacker<R>, ReadError> {
    Unpacker::new(source, compression).map_err(|error| ReadError::from_io(error, member))
}

/// The member that has to come now, if it did.
fn called(name: &str, found: Option<Member>) -> Result<Member, ReadError> {
    match found {
        Some(member) if member.name == name => Ok(member),
        other => Err(unexpected(other, name)),
    }
}

fn unexpected(found: Option<Member>, expected: &str) -> ReadError {
    let found = found.map_or_else(|| "end of the archive".to_owned(), |member| member.name);
    Fault::Unexpected { found, expected: expected.to_owned() }.into()
}

pub(super) fn digest(content: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&SHA256, content).as_ref())
}

/// Takes the digest of what is read.
struct Hashing<R> {
    source: R,
    context: Context,
}

impl<R: Read> Hashing<R> {
    fn new(source: R) -> Self {
        Self { source, context: Context::new(&SHA256) }
    }

    /// Reads what is left; the digest of all of it.
    fn finish(mut self) -> io::Result<String> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(hex(self.context.finish().as_ref())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.context.update(&buffer[..read]);
        Ok(read)
    }
}

/// Marks its own failures, so that nobody takes them for the file's.
struct Source<R>(R);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted { error } else { ReadError::Source(error).into_io() }
        })
    }
}

#[cfg(test)]
mod tests;
