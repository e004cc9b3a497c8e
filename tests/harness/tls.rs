//! A certificate of the tests' own.

use std::path::PathBuf;

use crate::workspace::temporary_directory;

/// A self-signed certificate for the loopback address, and its key, as files.
#[derive(Clone)]
pub struct Certificate {
    directory: PathBuf,
    pem: String,
}

impl Certificate {
    /// A new one.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn new() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("the names are fine");
        let directory = temporary_directory();
        let pem = made.cert.pem();
        std::fs::write(directory.join("cert.pem"), &pem).expect("the file can be written");
        std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).expect("the file can be written");
        Self { directory, pem }
    }

    /// File with the certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.join("cert.pem")
    }

    /// File with the key.
    pub fn key_file(&self) -> PathBuf {
        self.directory.join("key.pem")
    }

    pub(crate) fn for_reqwest(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_pem(self.pem.as_bytes()).expect("it is a certificate")
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}
