//! Where something is copied from or to.

use anyhow::bail;
use std::path::{Path, PathBuf};

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file on this machine.
    Local(PathBuf),
    /// Standard input or output.
    Standard,
    /// A file on a device.
    Device(Remote),
}

/// A file on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The device, in the person's words.
    pub device: String,
    /// The file's absolute path there.
    pub path: String,
}

impl Remote {
    /// The last part of the path; `None` if the path ends with a slash.
    pub fn base_name(&self) -> Option<&str> {
        self.path.rsplit('/').next().filter(|name| !name.is_empty())
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copying {
    /// From here (`None` is standard input) to a device.
    Up(Option<PathBuf>, Remote),
    /// From a device to here (`None` is standard output).
    Down(Remote, Option<PathBuf>),
}

impl Place {
    /// Reads a side as it was typed. A device's name may have colons in it, as MAC addresses have.
    pub fn of(text: &str) -> Self {
        if text == "-" {
            return Self::Standard;
        }
        match text.split_once(":/") {
            Some((device, path)) if !device.is_empty() && !device.contains('/') => {
                Self::Device(Remote { device: device.to_owned(), path: format!("/{path}") })
            }
            _ => Self::Local(PathBuf::from(text)),
        }
    }
}

impl Copying {
    /// What the two sides mean together.
    pub fn between(source: &str, destination: &str) -> anyhow::Result<Self> {
        let local = |path: PathBuf| Some(path);
        match (Place::of(source), Place::of(destination)) {
            (Place::Local(path), Place::Device(remote)) => Ok(Self::Up(local(path), remote)),
            (Place::Standard, Place::Device(remote)) => Ok(Self::Up(None, remote)),
            (Place::Device(remote), Place::Local(path)) => Ok(Self::Down(remote, local(path))),
            (Place::Device(remote), Place::Standard) => Ok(Self::Down(remote, None)),
            (Place::Device(_), Place::Device(_)) => bail!("both sides are on devices: copy through this machine"),
            _ => {
                let relative =
                    [source, destination].into_iter().find(|side| side.contains(':') && !Path::new(side).exists());
                match relative {
                    Some(side) => bail!("{side:?} is no DEVICE:/path: the path on a device starts with a slash"),
                    None => bail!("neither side is on a device: expected DEVICE:/path for one of them"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(device: &str, path: &str) -> Remote {
        Remote { device: device.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn one_side_is_on_a_device() {
        let up = Copying::between("a.txt", "demo:/tmp/").expect("understood");
        assert_eq!(up, Copying::Up(Some("a.txt".into()), remote("demo", "/tmp/")));
        let down = Copying::between("02:00:00:00:00:01:/etc/hosts", "-").expect("understood");
        assert_eq!(down, Copying::Down(remote("02:00:00:00:00:01", "/etc/hosts"), None));
        let strange = Copying::between("./x:/y", "demo:/a:/b").expect("understood");
        assert_eq!(strange, Copying::Up(Some("./x:/y".into()), remote("demo", "/a:/b")));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (source, destination, reason) in [
            ("a", "b", "neither side"),
            ("-", "b", "neither side"),
            ("a:/x", "b:/y", "both sides"),
            ("demo:hosts", ".", "starts with a slash"),
            (":/x", ".", "starts with a slash"),
        ] {
            let error = Copying::between(source, destination).expect_err(source).to_string();
            assert!(error.contains(reason), "{source} {destination}: {error}");
        }
    }

    #[test]
    fn a_path_has_a_base_name_unless_it_is_a_directory() {
        assert_eq!(remote("d", "/etc/hosts").base_name(), Some("hosts"));
        assert_eq!(remote("d", "/").base_name(), None);
        assert_eq!(remote("d", "/tmp/").base_name(), None);
    }
}
