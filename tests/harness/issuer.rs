//! Tokens that no hub would issue, signed with the hub's own key: the story gives the hub its keys.

use std::path::PathBuf;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::key::Key;
use crate::user::part;

/// A signing key, as a file for the hub and ready to sign.
pub struct Issuer {
    file: PathBuf,
    pair: Ed25519KeyPair,
}

impl Issuer {
    /// A new key.
    ///
    /// # Panics
    /// When `openssl` is not installed.
    pub fn new() -> Self {
        let Key::File { private, .. } = Key::file(&["ED25519"]) else { unreachable!("it was made as a file") };
        let text = std::fs::read(&private).expect("openssl has written it");
        let der = pem::parse(text).expect("openssl writes PEM");
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.contents()).expect("openssl writes PKCS#8");
        Self { file: private, pair }
    }

    /// The file that makes a hub sign with this key.
    pub fn file(&self) -> PathBuf {
        self.file.clone()
    }

    /// A token like `token`, with changed header and claims, signed.
    pub fn reissue(&self, token: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let (mut header, mut claims) = (part(token, 0), part(token, 1));
        change(&mut header, &mut claims);
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

fn encode(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}
