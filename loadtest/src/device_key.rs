//! The key a simulated device signs with: Ed25519, because ten thousand RSA keys take an hour to make.

use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair},
};

/// The fixed start of an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410 §4); the 32 bytes of the key follow.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A device's private key.
///
/// Only the seed is kept: a fleet signs rarely, and a ready key pair is twenty times as large.
#[derive(Clone)]
pub struct DeviceKey {
    seed: [u8; 32],
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceKey(***)")
    }
}

impl DeviceKey {
    /// A new random key.
    pub fn random() -> Self {
        Self { seed: rand::random() }
    }

    /// The key with this seed, for a device that has to be the same after a restart.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed }
    }

    /// The key of one device of a named fleet; the same names give the same key, so a fleet can return.
    pub fn of_fleet(fleet: &str, index: usize) -> Self {
        let digest = digest::digest(&digest::SHA256, format!("mooring load test/{fleet}/{index}").as_bytes());
        let mut seed = [0; 32];
        seed.copy_from_slice(digest.as_ref());
        Self { seed }
    }

    /// The secret seed, to be kept by whoever wants the same device again.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public key as PEM, block label `PUBLIC KEY`.
    pub fn public_pem(&self) -> String {
        let mut der = SPKI_PREFIX.to_vec();
        der.extend_from_slice(self.pair().public_key().as_ref());
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("PUBLIC KEY", der), config)
    }

    /// The signature over `message`, 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair().sign(message).as_ref().to_vec()
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.seed).expect("every 32 bytes are a seed of an Ed25519 key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn the_public_key_verifies_the_signature() {
        let key = DeviceKey::random();

        let parsed = pem::parse(key.public_pem()).expect("PEM");
        assert_eq!((parsed.tag(), parsed.contents().len()), ("PUBLIC KEY", 44));
        let public = UnparsedPublicKey::new(&ED25519, &parsed.contents()[12..]);
        public.verify(b"hello", &key.sign(b"hello")).expect("a good signature");
    }

    #[test]
    fn a_fleet_returns_with_the_keys_it_had() {
        assert_eq!(DeviceKey::of_fleet("a", 1).seed(), DeviceKey::of_fleet("a", 1).seed());
        assert_ne!(DeviceKey::of_fleet("a", 1).seed(), DeviceKey::of_fleet("a", 2).seed());
    }

    #[test]
    fn a_key_never_shows_in_debug_output() {
        assert_eq!(format!("{:?}", DeviceKey::random()), "DeviceKey(***)");
    }
}
