//! A file that is there whole or not at all.

use anyhow::Context;
use std::{
    ffi::OsString,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncSeekExt, AsyncWriteExt, SeekFrom},
};

/// What is written before it has its name. Dropping it removes it.
#[derive(Debug)]
pub struct Draft {
    file: File,
    /// `None` once it has its name, and for what has no draft: devices, pipes.
    unnamed: Option<PathBuf>,
    path: PathBuf,
}

impl Draft {
    /// Starts one for this path. `mode` is what a new file gets, less the umask; an existing one keeps its own.
    pub async fn of(path: &Path, mode: u32) -> anyhow::Result<Self> {
        // A link stays a link.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let context = || format!("cannot write {}", path.display());
        let existing = match std::fs::metadata(&path) {
            Ok(existing) => Some(existing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(context),
        };
        if existing.as_ref().is_some_and(|existing| !existing.is_file()) {
            let file = OpenOptions::new().write(true).open(&path).await.with_context(context)?;
            return Ok(Self { file, unnamed: None, path });
        }
        let draft = beside(&path);
        let mode = existing.map_or(mode, |existing| existing.permissions().mode());
        let mut options = OpenOptions::new();
        // Nobody else reads what may only be readable for few, not even for the moment before it is whole.
        let file = options.write(true).create_new(true).mode(mode & 0o777).open(&draft).await.with_context(context)?;
        Ok(Self { file, unnamed: Some(draft), path })
    }

    /// Adds bytes at the end.
    pub async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).await.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Forgets what was written; `false` if it has gone where nothing can be taken back.
    pub async fn start_again(&mut self) -> anyhow::Result<bool> {
        if self.unnamed.is_none() {
            return Ok(false);
        }
        self.file.seek(SeekFrom::Start(0)).await.context("cannot start the file again")?;
        self.file.set_len(0).await.context("cannot start the file again")?;
        Ok(true)
    }

    /// Gives it its name. Mode and owner, if given, are set before.
    pub async fn finish(mut self, mode: Option<u32>, owner: (Option<u32>, Option<u32>)) -> anyhow::Result<()> {
        let context = || format!("cannot write {}", self.path.display());
        self.file.flush().await.with_context(context)?;
        let Some(draft) = &self.unnamed else { return Ok(()) };
        if owner != (None, None) {
            std::os::unix::fs::chown(draft, owner.0, owner.1)
                .with_context(|| format!("cannot change the owner of {}", self.path.display()))?;
        }
        if let Some(mode) = mode {
            // After the owner, since changing that takes some bits away.
            std::fs::set_permissions(draft, std::fs::Permissions::from_mode(mode))
                .with_context(|| format!("cannot change the mode of {}", self.path.display()))?;
        }
        // Otherwise a crash of this machine could leave the name without the content.
        self.file.sync_all().await.with_context(context)?;
        std::fs::rename(draft, &self.path).with_context(context)?;
        self.unnamed = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = &self.unnamed {
            // Somebody else may have cleaned up; what counts is that it is not there.
            let _ = std::fs::remove_file(draft);
        }
    }
}

/// A hidden name in the same directory, since a rename works only within one file system.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect()
    }

    #[tokio::test]
    async fn a_file_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mut draft = Draft::of(&path, 0o600).await.expect("a draft");
        draft.write(b"half").await.expect("written");
        assert!(!path.exists());
        drop(draft);
        assert_eq!(names(directory.path()), Vec::<OsString>::new());

        let mut draft = Draft::of(&path, 0o640).await.expect("a draft");
        draft.write(b"old").await.expect("written");
        assert!(draft.start_again().await.expect("started again"));
        draft.write(b"whole").await.expect("written");
        draft.finish(Some(0o750), (None, None)).await.expect("finished");
        assert_eq!(std::fs::read(&path).expect("readable"), b"whole");
        assert_eq!(names(directory.path()), ["file"]);
        assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o750);
    }

    #[tokio::test]
    async fn an_existing_file_keeps_its_mode_and_a_link_stays_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&path, b"before").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).expect("changed");
        std::os::unix::fs::symlink(&path, &link).expect("a link");

        let mut draft = Draft::of(&link, 0o777).await.expect("a draft");
        draft.write(b"after").await.expect("written");
        draft.finish(None, (None, None)).await.expect("finished");

        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&path).expect("readable"), b"after");
        assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o604);
    }

    #[tokio::test]
    async fn what_is_no_file_is_written_as_it_is() {
        let mut draft = Draft::of(Path::new("/dev/null"), 0o600).await.expect("open");
        draft.write(b"gone").await.expect("written");
        assert!(!draft.start_again().await.expect("no error"));
        draft.finish(None, (None, None)).await.expect("finished");
        assert!(Path::new("/dev/null").exists());
    }
}
