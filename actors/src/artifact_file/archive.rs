//! Tar archives, member by member and in a bounded amount of memory. (POSIX.1-1988 ustar, with the extensions for long names
//! and large files of POSIX.1-2001 pax and of GNU tar.)

use std::fmt::Display;
use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

use super::fault::{Fault, ReadError};

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;

/// Bytes of what stands in front of a member that needs more than its header can say.
const EXTENSION_LIMIT: u64 = 64 * 1024;

/// Bytes of a name.
const NAME_LIMIT: usize = 4096;

/// The last second of the year 9999: later ones have no text that others read.
const LATEST: i64 = 253_402_300_799;

/// Writers may fill an archive up to a multiple of this many blocks with zeros.
const RECORD: usize = 20;

/// The members of an archive, in their order.
pub(super) struct Members<R> {
    source: R,
    /// What to call the archive in errors.
    name: String,
    /// Bytes of the current member that were not read yet.
    left: u64,
    /// Zeros after them, up to the next block.
    padding: u64,
    /// Blocks read so far, as far as their number matters.
    blocks: u64,
    is_first: bool,
}

/// A member: a regular file, since nothing else belongs into an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its whole path.
    pub name: String,
    /// Bytes of its content.
    pub size: u64,
    /// When it was last changed, in seconds since the Unix epoch.
    pub modified: i64,
}

/// What an extension said about the next member.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> Members<R> {
    /// The archive in these bytes.
    pub(super) fn new(source: R, name: impl Into<String>) -> Self {
        Self { source, name: name.into(), left: 0, padding: 0, blocks: 0, is_first: true }
    }

    /// The next member, `None` at the end of the archive: two blocks of zeros, and nothing but zeros up to the end of a
    /// record. What was not read of the last member is passed over.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, ReadError> {
        let mut extension = Extension::default();
        loop {
            self.pass_over()?;
            let Some(block) = self.block()? else {
                return self.finish().map(|()| None);
            };
            let header = Header::from_byte_slice(&block);
            self.check(header)?;
            self.is_first = false;
            let announced = header.entry_size().map_err(|error| self.malformed(&error))?;
            match header.entry_type() {
                EntryType::Regular => {
                    let size = extension.size.unwrap_or(announced);
                    self.expect(size)?;
                    let name = extension.name.unwrap_or_else(|| header.path_bytes().into_owned());
                    let modified = header.mtime().map_err(|error| self.malformed(&error))?;
                    let modified = i64::try_from(modified).map_or(LATEST, |modified| modified.min(LATEST));
                    return Ok(Some(Member { name: readable(&name)?, size, modified }));
                }
                EntryType::XHeader => {
                    let content = self.extension(announced)?;
                    self.read_pax(&content, &mut extension)?;
                }
                EntryType::GNULongName => {
                    let mut name = self.extension(announced)?;
                    while name.last() == Some(&0) {
                        name.pop();
                    }
                    set(&mut extension.name, name).map_err(|()| self.malformed(&"two names for one member"))?;
                }
                other => {
                    let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
                    let found = format!("{name:?} of type {:?}", char::from(other.as_byte()));
                    return Err(Fault::Unexpected { found, expected: "a regular file".into() }.into());
                }
            }
        }
    }

    /// Reads the content of the current member.
    pub(super) const fn content(&mut self) -> Content<'_, R> {
        Content { members: self }
    }

    /// Reads the content of the current member at once.
    pub(super) fn read(&mut self, member: &Member, limit: u64) -> Result<Vec<u8>, ReadError> {
        if member.size > limit {
            return Err(too_large(&member.name, limit));
        }
        let mut content = Vec::new();
        self.content().read_to_end(&mut content).map_err(|error| ReadError::from_io(error, &member.name))?;
        Ok(content)
    }

    /// Whether all of the current member was read.
    pub(super) const fn is_at_end(&self) -> bool {
        self.left == 0
    }

    /// Reads all that is left, and to the end of the bytes behind it.
    pub(super) fn pass_over(&mut self) -> Result<(), ReadError> {
        io::copy(&mut self.content(), &mut io::sink()).map_err(|error| self.failed(error))?;
        let padding = std::mem::take(&mut self.padding);
        let read = io::copy(&mut self.source.by_ref().take(padding), &mut io::sink());
        if read.map_err(|error| self.failed(error))? < padding {
            return Err(self.truncated());
        }
        Ok(())
    }

    /// The next block, `None` if it is all zeros.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ReadError> {
        let mut block = [0; BLOCK];
        self.source.read_exact(&mut block).map_err(|error| {
            if self.is_first && error.kind() == io::ErrorKind::UnexpectedEof {
                return Fault::NotAnArtifact("too short for an archive").into();
            }
            self.failed(error)
        })?;
        self.blocks += 1;
        Ok(block.iter().any(|&byte| byte != 0).then_some(block))
    }

    fn finish(&mut self) -> Result<(), ReadError> {
        if self.block()?.is_some() {
            return Err(self.malformed(&"one block of zeros where two should be"));
        }
        let used = usize::try_from(self.blocks % RECORD as u64).expect("less than a record");
        let allowed = if used == 0 { 0 } else { (RECORD - used) * BLOCK };
        let mut rest = Vec::new();
        let read = self.source.by_ref().take(allowed as u64 + 1).read_to_end(&mut rest);
        read.map_err(|error| self.failed(error))?;
        if rest.len() > allowed || rest.iter().any(|&byte| byte != 0) {
            return Err(Fault::Trailing(self.name.clone()).into());
        }
        Ok(())
    }

    fn check(&self, header: &Header) -> Result<(), ReadError> {
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|&byte| u32::from(byte)).sum::<u32>() + 8 * 32;
        if header.cksum().is_ok_and(|stated| stated == sum) {
            return Ok(());
        }
        if self.is_first {
            return Err(Fault::NotAnArtifact("the bytes are no archive").into());
        }
        Err(self.malformed(&"a header of the archive is damaged"))
    }

    /// Notes how long the content that follows is.
    fn expect(&mut self, size: u64) -> Result<(), ReadError> {
        // Far beyond what fits on any disk, and close to where sums wrap around.
        if size > i64::MAX as u64 {
            return Err(self.malformed(&"a member has an impossible size"));
        }
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        self.blocks += size.div_ceil(BLOCK as u64);
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ReadError> {
        if size > EXTENSION_LIMIT {
            return Err(too_large(&format!("an extended header in {}", self.name), EXTENSION_LIMIT));
        }
        self.expect(size)?;
        let mut content = Vec::new();
        self.content().read_to_end(&mut content).map_err(|error| self.failed(error))?;
        Ok(content)
    }

    fn read_pax(&self, content: &[u8], extension: &mut Extension) -> Result<(), ReadError> {
        for record in PaxExtensions::new(content) {
            let record = record.map_err(|error| self.malformed(&error))?;
            let twice = || self.malformed(&"an extended header says one thing twice");
            match record.key_bytes() {
                b"path" => set(&mut extension.name, record.value_bytes().to_vec()).map_err(|()| twice())?,
                b"size" => {
                    let size = record.value().ok().and_then(|size| size.parse().ok());
                    let size = size.ok_or_else(|| self.malformed(&"an extended header has no readable size"))?;
                    set(&mut extension.size, size).map_err(|()| twice())?;
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(self.malformed(&"files with holes are not supported"));
                }
                // Owners, times and the like.
                _ => {}
            }
        }
        Ok(())
    }

    fn malformed(&self, why: &dyn Display) -> ReadError {
        Fault::Malformed { member: self.name.clone(), why: why.to_string() }.into()
    }

    fn truncated(&self) -> ReadError {
        Fault::Truncated(self.name.clone()).into()
    }

    fn failed(&self, error: io::Error) -> ReadError {
        ReadError::from_io(error, &self.name)
    }
}

/// The content of a member. It ends with an error if the archive does.
pub(super) struct Content<'a, R> {
    members: &'a mut Members<R>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.members.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.members.source.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(self.members.truncated().into_io());
        }
        self.members.left -= read as u64;
        Ok(read)
    }
}

pub(super) fn too_large(what: &str, limit: u64) -> ReadError {
    Fault::TooLarge { what: what.to_owned(), limit: format!("{limit} bytes") }.into()
}

fn set<T>(place: &mut Option<T>, value: T) -> Result<(), ()> {
    if place.replace(value).is_some() { Err(()) } else { Ok(()) }
}

fn readable(name: &[u8]) -> Result<String, ReadError> {
    let text = std::str::from_utf8(name).ok().filter(|name| name.len() <= NAME_LIMIT && !name.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned();
        Fault::InvalidName(shown).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mtime(7);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn list(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        let mut members = Members::new(bytes, "it");
        let mut found = Vec::new();
        let mut read = || -> Result<(), ReadError> {
            while let Some(member) = members.next_member()? {
                let content = members.read(&member, 100_000)?;
                found.push((member.name, content));
            }
            Ok(())
        };
        match read() {
            Ok(()) => Ok(found),
            Err(ReadError::Fault(fault)) => Err(fault),
            Err(ReadError::Source(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn members_come_as_they_were_written() {
        let long = "n".repeat(300);
        let files: [(&str, &[u8]); 4] = [("a", b""), ("b/c", &[7; 512]), (&long, &[8; 513]), ("d", b"x")];
        let bytes = archive(&files);
        let found = list(&bytes).unwrap();
        let wanted: Vec<_> = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        assert_eq!(found, wanted);
        // Filled up to a record, as GNU tar does it.
        let mut padded = bytes.clone();
        padded.resize(bytes.len().next_multiple_of(RECORD * BLOCK), 0);
        assert_eq!(list(&padded).unwrap(), wanted);
        padded.push(0);
        assert_eq!(list(&padded), Err(Fault::Trailing("it".into())));
        let mut more = bytes;
        more.push(1);
        assert_eq!(list(&more), Err(Fault::Trailing("it".into())));
    }

    #[test]
    fn names_and_sizes_of_pax_are_read() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "p".repeat(200);
        builder.append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1.5")]).unwrap();
        let mut header = Header::new_ustar();
        header.set_path("short").unwrap();
        header.set_size(3);
        header.set_cksum();
        builder.append(&header, &b"abc"[..]).unwrap();
        assert_eq!(list(&builder.into_inner().unwrap()).unwrap(), [(long, b"abc".to_vec())]);
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = archive(&[("a", b"hello"), ("b", &[1; 600])]);
        for end in 0..bytes.len() {
            assert!(list(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn only_regular_files_are_members() {
        for kind in [EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::GNUSparse] {
            let mut header = Header::new_gnu();
            header.set_path("a").unwrap();
            header.set_size(0);
            header.set_entry_type(kind);
            header.set_cksum();
            let mut builder = tar::Builder::new(Vec::new());
            builder.append(&header, &b""[..]).unwrap();
            let fault = list(&builder.into_inner().unwrap()).unwrap_err();
            assert!(matches!(fault, Fault::Unexpected { .. }), "{fault}");
        }
    }

    #[test]
    fn a_long_extension_is_not_read() {
        let mut header = Header::new_ustar();
        header.set_path("x").unwrap();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(EXTENSION_LIMIT + 1);
        header.set_cksum();
        let fault = list(header.as_bytes()).unwrap_err();
        assert!(matches!(fault, Fault::TooLarge { .. }), "{fault}");
    }
}
