//! Files that hold a secret: readable for their owner only, never half written.

use crate::config::create_private_directory;
use anyhow::Context;
use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// Writes `content` so that at no time anybody else can read it, or anybody finds half of it.
pub fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        create_private_directory(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        // The draft may not even exist; what counts is the first error.
        let _ = std::fs::remove_file(&draft);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// What the file holds, without blanks at its ends; `None` if there is no such file.
pub fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(content) => Ok(Some(content.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_owner_can_read_what_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/token");

        write(&path, "one").expect("written");
        write(&path, "two\n").expect("written again");

        assert_eq!(read(&path).expect("readable").as_deref(), Some("two"));
        assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().expect("a parent")).expect("a directory").count(), 1);
    }

    #[test]
    fn a_file_that_is_not_there_is_none() {
        assert_eq!(read(Path::new("/nowhere/at/all")).expect("no error"), None);
    }
}
