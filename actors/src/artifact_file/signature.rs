//! Signatures of manifests, and with them of everything that a manifest vouches for.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use spki::ObjectIdentifier;
use spki::SubjectPublicKeyInfoRef;
use spki::der::Decode;

use crate::credentials::public_key::{KeyError, PublicKey, TEXT_LIMIT};

/// Bytes of a signature's text: more than the largest RSA key makes.
pub(super) const SIGNATURE_LIMIT: u64 = 4096;

/// Bytes of one of the two numbers of an ECDSA P-256 signature.
const P256_NUMBER: usize = 32;

const ELLIPTIC_CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// What is known of who made a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signature {
    /// It is not signed.
    None,
    /// It is signed; no key was there to check that with.
    Unchecked,
    /// One of our keys made the signature.
    Verified,
}

impl Signature {
    /// Whether there is one.
    pub const fn is_there(self) -> bool {
        !matches!(self, Self::None)
    }
}

/// A public key whose owner may sign artifacts: RSA of at least 2048 bits, or ECDSA P-256.
#[derive(Clone)]
pub struct ArtifactKey(Arc<Key>);

enum Key {
    Rsa(PublicKey),
    P256 { fixed: ParsedPublicKey, asn1: ParsedPublicKey },
}

impl ArtifactKey {
    /// Reads a `PUBLIC KEY` in PEM.
    ///
    /// # Errors
    /// See [`KeyError`]: no such text, or a kind of key that artifacts are not signed with.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() > TEXT_LIMIT {
            return Err(KeyError::Undecodable);
        }
        let block = pem::parse(text).map_err(|_| KeyError::Undecodable)?;
        let info = SubjectPublicKeyInfoRef::from_der(block.contents()).map_err(|_| KeyError::Undecodable)?;
        let key = match info.algorithm.oid {
            RSA => Key::Rsa(PublicKey::parse(text, 2048)?),
            ELLIPTIC_CURVE => {
                let curve: Option<ObjectIdentifier> =
                    info.algorithm.parameters.and_then(|parameters| parameters.decode_as().ok());
                if curve != Some(P256) {
                    return Err(KeyError::Unsupported);
                }
                let point = info.subject_public_key.as_bytes().ok_or(KeyError::Undecodable)?;
                let parse = |algorithm: &'static dyn VerificationAlgorithm| {
                    ParsedPublicKey::new(algorithm, point).map_err(|_| KeyError::Undecodable)
                };
                Key::P256 { fixed: parse(&ECDSA_P256_SHA256_FIXED)?, asn1: parse(&ECDSA_P256_SHA256_ASN1)? }
            }
            _ => return Err(KeyError::Unsupported),
        };
        Ok(Self(Arc::new(key)))
    }

    /// Whether this key made `signature` over `manifest`. An ECDSA signature may be in ASN.1, or two plain numbers of 32
    /// bytes, big-endian or, as old tools wrote them, little-endian.
    fn made(&self, signature: &[u8], manifest: &[u8]) -> bool {
        match &*self.0 {
            Key::Rsa(key) => key.verify(manifest, signature),
            Key::P256 { fixed, asn1 } => {
                asn1.verify_sig(manifest, signature).is_ok()
                    || fixed.verify_sig(manifest, signature).is_ok()
                    || swapped(signature).is_some_and(|signature| fixed.verify_sig(manifest, &signature).is_ok())
            }
        }
    }
}

impl fmt::Debug for ArtifactKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match &*self.0 {
            Key::Rsa(_) => "ArtifactKey(RSA)",
            Key::P256 { .. } => "ArtifactKey(ECDSA P-256)",
        })
    }
}

/// The signature with both numbers the other way round.
fn swapped(signature: &[u8]) -> Option<Vec<u8>> {
    if signature.len() != 2 * P256_NUMBER {
        return None;
    }
    let (r, s) = signature.split_at(P256_NUMBER);
    Some(r.iter().rev().chain(s.iter().rev()).copied().collect())
}

/// The bytes of a signature in the text of a `manifest.sig`; `None` if it is no such text.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok().filter(|signature| !signature.is_empty())
}

/// Whether one of `keys` made `signature` over `manifest`.
pub(super) fn is_by_one_of(keys: &[ArtifactKey], signature: &[u8], manifest: &[u8]) -> bool {
    keys.iter().any(|key| key.made(signature, manifest))
}
