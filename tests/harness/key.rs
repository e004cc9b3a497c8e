//! Devices' keys, of every kind that devices have.

use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::workspace::temporary_directory;

/// The fixed start of an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410 §4).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A private key.
pub enum Key {
    /// Quick to make: for all devices whose kind of key does not matter.
    Ed25519(Ed25519KeyPair),
    /// A key file that the `openssl` program signs with, so that the hub's verdict is compared with somebody else's work.
    File {
        /// Private key, PEM.
        private: PathBuf,
        /// Public key, PEM.
        public: String,
    },
}

impl Key {
    /// A new Ed25519 key.
    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().expect("the system has random numbers"))
    }

    /// A new RSA key.
    pub fn rsa(bits: u32) -> Self {
        Self::file(&["RSA", "-pkeyopt", &format!("rsa_keygen_bits:{bits}")])
    }

    /// A new key on a curve, by its name in OpenSSL: `secp224r1`, `prime256v1`, `secp384r1`, `secp521r1`.
    pub fn ec(curve: &str) -> Self {
        let curve = format!("ec_paramgen_curve:{curve}");
        Self::file(&["EC", "-pkeyopt", &curve, "-pkeyopt", "ec_param_enc:named_curve"])
    }

    /// A new key of a kind that only `openssl` knows how to make: algorithm, then options.
    pub fn file(kind: &[&str]) -> Self {
        let private = temporary_directory().join("key.pem");
        let file = private.display().to_string();
        openssl(&[&["genpkey", "-quiet", "-out", &file, "-algorithm"], kind].concat());
        let public = String::from_utf8(openssl(&["pkey", "-in", &file, "-pubout"])).expect("PEM is text");
        Self::File { private, public }
    }

    /// Writes a key that is a file to another place.
    ///
    /// # Panics
    /// When it is none, or that place cannot be written to.
    pub fn save(&self, place: &Path) {
        let Self::File { private, .. } = self else { panic!("only a key in a file can be copied") };
        std::fs::copy(private, place).expect("a file can be copied");
    }

    /// The public key, PEM.
    pub fn public_pem(&self) -> String {
        match self {
            Self::Ed25519(pair) => {
                let mut der = ED25519_PREFIX.to_vec();
                der.extend(pair.public_key().as_ref());
                let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
                pem::encode_config(&pem::Pem::new("PUBLIC KEY", der), lines)
            }
            Self::File { public, .. } => public.clone(),
        }
    }

    /// The signature over `message`, as devices write it into the header.
    pub fn sign(&self, message: &[u8]) -> String {
        let signature = match self {
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::File { private, .. } => {
                let directory = temporary_directory();
                let file = directory.join("message");
                std::fs::write(&file, message).expect("the file can be written");
                let (key, file) = (private.display().to_string(), file.display().to_string());
                openssl(&["dgst", "-sha256", "-sign", &key, &file])
            }
        };
        BASE64_STANDARD.encode(signature)
    }
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is installed (tests/setup.sh)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {errors}");
    output.stdout
}
