//! What a device offers beside shells.

use crate::message::{FILE_TRANSFER, PORT_FORWARD, SHELL, UPDATE_CLIENT};
use std::{path::PathBuf, time::Duration};

/// What a device offers beside shells, and its clocks.
#[derive(Debug, Clone)]
pub struct Services {
    /// Whether and which files may be read and written.
    pub files: Option<FileService>,
    /// Whether ports that this machine reaches may be connected to.
    pub ports: bool,
    /// Whether the update client takes commands.
    pub update_client: bool,
    /// After so long without a message a session ends; after four fifths of it the device asks whether anybody is there.
    pub session_timeout: Duration,
    /// After so long without data from its far end a forwarded connection is closed.
    pub port_timeout: Duration,
}

/// Which files may be read and written.
#[derive(Debug, Clone, Default)]
pub struct FileService {
    /// Only those in this folder; all, if there is none.
    pub chroot: Option<PathBuf>,
}

impl Services {
    /// Shells only. What most devices of a load test need, and nothing of this machine is within reach.
    pub fn none() -> Self {
        Self {
            files: None,
            ports: false,
            update_client: false,
            session_timeout: Duration::from_mins(1),
            port_timeout: Duration::from_mins(10),
        }
    }

    /// All that the agent offers: files and ports of this machine, with the rights of this process.
    pub fn of_this_machine() -> Self {
        Self { files: Some(FileService::default()), ports: true, update_client: true, ..Self::none() }
    }

    /// The protocols on offer.
    pub(super) fn protocols(&self) -> impl Iterator<Item = u16> {
        let offered = [
            (SHELL, true),
            (FILE_TRANSFER, self.files.is_some()),
            (PORT_FORWARD, self.ports),
            (UPDATE_CLIENT, self.update_client),
        ];
        offered.into_iter().filter(|(_, offered)| *offered).map(|(protocol, _)| protocol)
    }
}
