//! Settings of artifacts: the `[actors.artifacts]` section.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::units;

/// The header that the hub writes in front of a file in an archive has room for smaller sizes only.
const GENERATE_LIMIT: u64 = 8 * 1024 * 1024 * 1024;

/// Those who work on an upload say so several times in this.
const ABANDONED_AFTER: Duration = Duration::from_mins(2);

/// Files read at the same time. Each takes a thread, and others have to be left for what they wait for.
const AT_ONCE: usize = 256;

/// How large artifacts may be, who may sign them, and how long links to them live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Largest file of an artifact.
    #[serde(with = "units::size")]
    pub size_limit: u64,
    /// Most that the payloads of one artifact may be unpacked.
    #[serde(with = "units::size")]
    pub unpacked_limit: u64,
    /// Largest file that the hub makes an artifact of.
    #[serde(with = "units::size")]
    pub generate_limit: u64,
    /// Most that all artifacts may have together; 0: any amount.
    #[serde(with = "units::size")]
    pub storage_limit: u64,
    /// Files that one node reads at the same time; others wait.
    pub at_once: usize,
    /// How long whoever sends a file may do nothing before it is given up.
    #[serde(with = "units::duration")]
    pub deadline: Duration,
    /// Whether clients may bring files to the object store by themselves.
    pub direct_upload: bool,
    /// Public keys (PEM: RSA or ECDSA P-256) whose owners may sign artifacts. Empty: signatures are not checked.
    pub signed_by: Vec<PathBuf>,
    /// Whether artifacts have to be signed.
    pub must_be_signed: bool,
    /// How long a user's link to a file is valid.
    #[serde(with = "units::duration")]
    pub download_link: Duration,
    /// How long a link is valid by which a device fetches its configuration.
    #[serde(with = "units::duration")]
    pub configuration_link: Duration,
    /// How long a link is valid by which a client brings a file.
    #[serde(with = "units::duration")]
    pub upload_link: Duration,
    /// How long an upload may do nothing before what is left of it is removed.
    #[serde(with = "units::duration")]
    pub abandoned_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            size_limit: 10 * 1024 * 1024 * 1024,
            unpacked_limit: 64 * 1024 * 1024 * 1024,
            generate_limit: 256 * 1024 * 1024,
            storage_limit: 0,
            at_once: 8,
            deadline: Duration::from_mins(1),
            direct_upload: false,
            signed_by: Vec::new(),
            must_be_signed: false,
            download_link: Duration::from_mins(15),
            configuration_link: Duration::from_mins(15),
            upload_link: Duration::from_hours(1),
            abandoned_after: Duration::from_hours(1),
        }
    }
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        for (key, size) in [
            ("size_limit", self.size_limit),
            ("unpacked_limit", self.unpacked_limit),
            ("generate_limit", self.generate_limit),
        ] {
            if size == 0 {
                return Some(format!("{key} is 0: expected a size such as \"1 GiB\""));
            }
        }
        if self.generate_limit >= GENERATE_LIMIT {
            let size = units::format_size(self.generate_limit);
            return Some(format!(
                "generate_limit is {size}: expected less than {}",
                units::format_size(GENERATE_LIMIT)
            ));
        }
        if self.at_once == 0 || self.at_once > AT_ONCE {
            return Some(format!("at_once is {}: expected 1 to {AT_ONCE}", self.at_once));
        }
        for (key, time) in [
            ("deadline", self.deadline),
            ("download_link", self.download_link),
            ("configuration_link", self.configuration_link),
            ("upload_link", self.upload_link),
            ("abandoned_after", self.abandoned_after),
        ] {
            if time < Duration::from_secs(1) {
                return Some(format!("{key} is {time:?}: expected at least \"1s\""));
            }
        }
        if self.abandoned_after < ABANDONED_AFTER || self.abandoned_after <= self.deadline {
            return Some(format!(
                "abandoned_after is {}: expected at least {}, and more than deadline",
                units::format_duration(self.abandoned_after),
                units::format_duration(ABANDONED_AFTER)
            ));
        }
        if self.must_be_signed && self.signed_by.is_empty() {
            return Some("must_be_signed is true, but signed_by names no key: expected at least one".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(change: impl FnOnce(&mut Config)) -> Option<String> {
        let mut config = Config::default();
        change(&mut config);
        config.fault()
    }

    #[test]
    fn the_hub_makes_no_file_that_it_could_not_write_down() {
        assert_eq!(fault(|_| {}), None);
        assert_eq!(fault(|config| config.generate_limit = GENERATE_LIMIT - 1), None);
        let said = fault(|config| config.generate_limit = GENERATE_LIMIT);
        assert_eq!(said.unwrap(), "generate_limit is 8 GiB: expected less than 8 GiB");
    }

    #[test]
    fn nobody_is_given_up_who_may_still_be_at_work() {
        assert_eq!(fault(|config| config.abandoned_after = ABANDONED_AFTER), None);
        let said = fault(|config| config.abandoned_after = Duration::from_secs(119));
        assert_eq!(said.unwrap(), "abandoned_after is 119s: expected at least 2m, and more than deadline");
        let patient =
            |deadline| fault(|config| (config.deadline, config.abandoned_after) = (deadline, ABANDONED_AFTER));
        assert_eq!(patient(Duration::from_secs(119)), None);
        assert!(patient(ABANDONED_AFTER).is_some());
        assert_eq!(fault(|config| config.at_once = AT_ONCE), None);
        assert!(fault(|config| config.at_once = AT_ONCE + 1).is_some());
    }
}
