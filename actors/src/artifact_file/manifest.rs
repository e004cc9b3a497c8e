//! The manifest: a line with a digest for everything in the file.

use std::collections::BTreeMap;

use super::fault::Fault;

/// A longer line makes devices refuse the file.
const DEVICE_LINE_LIMIT: usize = 166;

/// Characters of a SHA-256 digest in hexadecimal.
const DIGEST: usize = 64;

/// What a manifest vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Digest by path, and whether something with that path was found.
    lines: BTreeMap<String, (String, bool)>,
    has_long_lines: bool,
}

impl Manifest {
    /// Reads the content of `member`.
    pub(super) fn read(content: &[u8], member: &str) -> Result<Self, Fault> {
        let malformed = |why: &str| Fault::Malformed { member: member.to_owned(), why: why.to_owned() };
        let text = std::str::from_utf8(content).map_err(|_| malformed("it is not text"))?;
        let text = text.strip_suffix('\n').ok_or_else(|| malformed("its last line does not end"))?;
        let mut lines = BTreeMap::new();
        let mut has_long_lines = false;
        for line in text.split('\n') {
            let (digest, path) = line.split_once("  ").ok_or_else(|| malformed("a line is not a digest and a path"))?;
            let is_digest =
                digest.len() == DIGEST && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            if !is_digest || path.is_empty() {
                return Err(malformed("a line is not a digest and a path"));
            }
            has_long_lines |= line.len() > DEVICE_LINE_LIMIT;
            if lines.insert(path.to_owned(), (digest.to_owned(), false)).is_some() {
                return Err(Fault::Duplicate(format!("{path} in {member}")));
            }
        }
        Ok(Self { lines, has_long_lines })
    }

    /// Something was found in the file: looks whether it is what the manifest says.
    pub(super) fn check(&mut self, path: &str, digest: &str) -> Result<(), Fault> {
        let (wanted, found) = self.lines.get_mut(path).ok_or_else(|| Fault::NotInManifest(path.to_owned()))?;
        if std::mem::replace(found, true) {
            return Err(Fault::Duplicate(path.to_owned()));
        }
        if wanted == digest { Ok(()) } else { Err(Fault::WrongChecksum(path.to_owned())) }
    }

    /// Whether there is a line for this path.
    pub(super) fn lists(&self, path: &str) -> bool {
        self.lines.contains_key(path)
    }

    /// Whether something with this path is, or is not known to be, other than the manifest says.
    pub(super) fn contradicts(&self, path: &str, digest: &str) -> bool {
        self.lines.get(path).is_some_and(|(wanted, _)| wanted != digest)
    }

    /// At the end of the file: everything that is listed has to have been found.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        match self.lines.iter().find(|(_, (_, found))| !found) {
            Some((path, _)) => Err(Fault::Missing(path.clone())),
            None => Ok(()),
        }
    }

    /// What devices will not like.
    pub(super) fn warning(&self) -> Option<String> {
        self.has_long_lines.then(|| {
            format!("lines of the manifest are longer than {DEVICE_LINE_LIMIT} bytes: devices refuse them, use shorter names")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(digit: &str, path: &str) -> String {
        format!("{}  {path}\n", digit.repeat(64))
    }

    fn read(text: &str) -> Result<Manifest, Fault> {
        Manifest::read(text.as_bytes(), "manifest")
    }

    #[test]
    fn everything_is_found_once_and_as_stated() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let mut manifest = read(&(line("a", "version") + &line("b", "header.tar"))).unwrap();
        assert_eq!(manifest.check("version", &b), Err(Fault::WrongChecksum("version".into())));
        let mut manifest_again = read(&(line("a", "version") + &line("b", "header.tar"))).unwrap();
        assert_eq!(manifest_again.check("version", &a), Ok(()));
        assert_eq!(manifest_again.finish(), Err(Fault::Missing("header.tar".into())));
        assert_eq!(manifest_again.check("version", &a), Err(Fault::Duplicate("version".into())));
        assert_eq!(manifest_again.check("data/0000/x", &a), Err(Fault::NotInManifest("data/0000/x".into())));
        assert_eq!(manifest_again.check("header.tar", &b), Ok(()));
        assert_eq!(manifest_again.finish(), Ok(()));
        assert_eq!(manifest_again.warning(), None);
    }

    #[test]
    fn other_texts_are_no_manifest() {
        for text in [
            String::new(),
            "\n".to_owned(),
            line("a", "version").trim_end().to_owned(),
            line("A", "version"),
            line("g", "version"),
            line("a", ""),
            line("a", "version").replace("  ", " "),
            line("a", "version") + "\n",
            line("a", "version")[1..].to_owned(),
        ] {
            assert!(matches!(read(&text), Err(Fault::Malformed { .. })), "{text:?}");
        }
        assert!(matches!(Manifest::read(b"\xff\n", "manifest"), Err(Fault::Malformed { .. })));
        let twice = line("a", "version").repeat(2);
        assert_eq!(read(&twice), Err(Fault::Duplicate("version in manifest".into())));
    }

    #[test]
    fn long_lines_are_worth_a_warning() {
        let exactly = line("a", &"p".repeat(DEVICE_LINE_LIMIT - DIGEST - 2));
        assert_eq!(read(&exactly).unwrap().warning(), None);
        let longer = line("a", &"p".repeat(DEVICE_LINE_LIMIT - DIGEST - 1));
        assert!(read(&longer).unwrap().warning().is_some());
    }
}
