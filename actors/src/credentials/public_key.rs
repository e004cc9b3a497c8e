//! The public key with which a device proves that a request is its own.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P521_SHA256_ASN1, ED25519, ParsedPublicKey,
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, VerificationAlgorithm,
};
use p224::ecdsa::signature::hazmat::PrehashVerifier;
use pem::{EncodeConfig, LineEnding, Pem};
use sha2::{Digest, Sha256};
use spki::der::asn1::{AnyRef, UintRef};
use spki::der::{Decode, Reader, SliceReader, Tag, Tagged};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

#[cfg(test)]
pub(crate) mod fixtures;

/// Longest PEM text that is looked at. The largest key that is accepted takes a tenth of it; the rest is for text in front.
pub const TEXT_LIMIT: usize = 16 * 1024;

/// Smallest RSA modulus, in bits. (Mender API: keys down to this size have to work.)
const SMALLEST_RSA: usize = 1024;

/// Largest RSA modulus, in bits.
const LARGEST_RSA: usize = 8192;

const LABEL: &str = "PUBLIC KEY";

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED25519_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ELLIPTIC_CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P224: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.33");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// First byte of an elliptic-curve point that is not compressed: the only form, so that one key has one text.
const UNCOMPRESSED: u8 = 4;

/// A device's key: RSA (1024 to 8192 bits), P-224, P-256, P-384, P-521 or Ed25519.
///
/// Signatures are over the bytes of a request: RSA with PKCS#1 v1.5 and SHA-256, the curves with SHA-256 (whatever their
/// size) as ASN.1 DER, Ed25519 over the bytes themselves. (Mender API: keys and signatures of authentication requests.)
pub struct PublicKey {
    pem: String,
    verifier: Verifier,
}

enum Verifier {
    Library(ParsedPublicKey),
    // The cryptographic library does not have this curve.
    P224(Box<p224::ecdsa::VerifyingKey>),
}

/// Why a text is no key of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No `PUBLIC KEY` block, or damaged.
    #[error("cannot decode public key")]
    Undecodable,
    /// A key of a kind or size that is not accepted.
    #[error("unrecognized public key type")]
    Unsupported,
}

impl PublicKey {
    /// Reads the first PEM block of a text, which has to be a `SubjectPublicKeyInfo` (RFC 5280); what stands in front of it
    /// is ignored. An RSA key needs at least `minimum_rsa_bits`, and never less than 1024.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(text: &str, minimum_rsa_bits: usize) -> Result<Self, KeyError> {
        if text.len() > TEXT_LIMIT {
            return Err(KeyError::Undecodable);
        }
        let block = pem::parse(text).map_err(|_| KeyError::Undecodable)?;
        if block.tag() != LABEL {
            return Err(KeyError::Undecodable);
        }
        let info = SubjectPublicKeyInfoRef::from_der(block.contents()).map_err(|_| KeyError::Undecodable)?;
        let key = info.subject_public_key.as_bytes().ok_or(KeyError::Undecodable)?;
        let parameters = info.algorithm.parameters;
        let verifier = match info.algorithm.oid {
            RSA => rsa(parameters, key, minimum_rsa_bits)?,
            ELLIPTIC_CURVE => elliptic_curve(parameters, key)?,
            ED25519_KEY if parameters.is_none() => library(&ED25519, key)?,
            ED25519_KEY => return Err(KeyError::Undecodable),
            _ => return Err(KeyError::Unsupported),
        };
        Ok(Self { pem: normalised(block.contents()), verifier })
    }

    /// The key as PEM with 64 columns and a final newline: equal for equal keys.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Whether this key made `signature` over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Library(key) => key.verify_sig(message, signature).is_ok(),
            Verifier::P224(key) => p224::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(&Sha256::digest(message), &signature).is_ok()),
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PublicKey").field("pem", &self.pem).finish_non_exhaustive()
    }
}

fn rsa(parameters: Option<AnyRef<'_>>, key: &[u8], minimum_bits: usize) -> Result<Verifier, KeyError> {
    // RFC 3279 section 2.3.1: the parameters are NULL, not absent.
    if parameters.is_none_or(|parameters| parameters.tag() != Tag::Null) {
        return Err(KeyError::Undecodable);
    }
    let bits = modulus_bits(key).ok_or(KeyError::Undecodable)?;
    if bits < minimum_bits.max(SMALLEST_RSA) || bits > LARGEST_RSA {
        return Err(KeyError::Unsupported);
    }
    library(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, key)
}

fn modulus_bits(key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(key).ok()?;
    let modulus = reader
        .sequence(|sequence| {
            let modulus = UintRef::decode(sequence)?;
            UintRef::decode(sequence)?;
            Ok(modulus)
        })
        .ok()?;
    let bytes = reader.finish(modulus).ok()?.as_bytes();
    let unused = bytes.first()?.leading_zeros() as usize;
    Some(bytes.len() * 8 - unused)
}

fn elliptic_curve(parameters: Option<AnyRef<'_>>, point: &[u8]) -> Result<Verifier, KeyError> {
    // Curves spelt out in the parameters instead of named could be anything.
    let curve = parameters.ok_or(KeyError::Undecodable)?.decode_as().map_err(|_| KeyError::Undecodable)?;
    let algorithm: &'static dyn VerificationAlgorithm = match curve {
        P224 => return p224(point),
        P256 => &ECDSA_P256_SHA256_ASN1,
        P384 => &ECDSA_P384_SHA256_ASN1,
        P521 => &ECDSA_P521_SHA256_ASN1,
        _ => return Err(KeyError::Unsupported),
    };
    if point.first() != Some(&UNCOMPRESSED) {
        return Err(KeyError::Undecodable);
    }
    library(algorithm, point)
}

fn p224(point: &[u8]) -> Result<Verifier, KeyError> {
    if point.first() != Some(&UNCOMPRESSED) {
        return Err(KeyError::Undecodable);
    }
    let key = p224::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| KeyError::Undecodable)?;
    Ok(Verifier::P224(Box::new(key)))
}

fn library(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> Result<Verifier, KeyError> {
    ParsedPublicKey::new(algorithm, key).map(Verifier::Library).map_err(|_| KeyError::Undecodable)
}

fn normalised(der: &[u8]) -> String {
    pem::encode_config(&Pem::new(LABEL, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::fixtures::{self, MESSAGE, SIGNED};
    use super::*;

    fn parse(text: &str) -> Result<PublicKey, KeyError> {
        PublicKey::parse(text, 1024)
    }

    #[test]
    fn every_kind_of_key_verifies_what_openssl_signed() {
        for (kind, pem, signature) in SIGNED {
            let key = parse(pem).unwrap_or_else(|error| panic!("{kind}: {error}"));
            let signature = BASE64_STANDARD.decode(signature).unwrap();
            assert!(key.verify(MESSAGE, &signature), "{kind}");
            assert!(!key.verify(&MESSAGE[..MESSAGE.len() - 1], &signature), "{kind} without the final newline");
            assert!(!key.verify(MESSAGE, &signature[1..]), "{kind} with a cut signature");
            assert!(!key.verify(MESSAGE, &[]), "{kind} without a signature");
            let mut altered = signature.clone();
            *altered.last_mut().unwrap() ^= 1;
            assert!(!key.verify(MESSAGE, &altered), "{kind} with an altered signature");
        }
    }

    #[test]
    fn a_key_does_not_verify_what_another_signed() {
        for (kind, pem, _) in SIGNED {
            let key = parse(pem).unwrap();
            for (other, _, signature) in SIGNED.iter().filter(|(other, ..)| other != kind) {
                assert!(!key.verify(MESSAGE, &BASE64_STANDARD.decode(signature).unwrap()), "{kind} and {other}");
            }
        }
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        for (kind, pem) in fixtures::REFUSED {
            assert!(matches!(parse(pem), Err(KeyError::Unsupported)), "{kind}");
        }
        for (kind, pem) in fixtures::UNDECODABLE {
            assert!(matches!(parse(pem), Err(KeyError::Undecodable)), "{kind}");
        }
    }

    #[test]
    fn what_is_no_key_is_undecodable() {
        let p256 = fixtures::pem_of("P-256");
        let long = format!("{}{p256}", " ".repeat(TEXT_LIMIT));
        let cut = p256.replace("-----END PUBLIC KEY-----", "");
        for text in ["", "garbage", &long, &cut, &p256.replace("PUBLIC", "PRIVATE"), &p256.replacen("MF", "ME", 1)] {
            assert!(matches!(parse(text), Err(KeyError::Undecodable)), "{text}");
        }
    }

    #[test]
    fn a_point_that_is_not_on_its_curve_is_refused() {
        for kind in ["P-224", "P-256", "P-384", "P-521"] {
            let mut der = pem::parse(fixtures::pem_of(kind)).unwrap().into_contents();
            *der.last_mut().unwrap() ^= 1;
            assert!(matches!(parse(&normalised(&der)), Err(KeyError::Undecodable)), "{kind}");
        }
    }

    #[test]
    fn two_spellings_of_a_key_are_one_key() {
        for (kind, pem, _) in SIGNED {
            let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            let spelling = format!("a comment\r\n-----BEGIN PUBLIC KEY-----\r\n{base64}\r\n-----END PUBLIC KEY-----");
            assert_eq!(parse(&spelling).unwrap().pem(), *pem, "{kind}");
            assert_eq!(parse(pem).unwrap().pem(), *pem, "{kind}");
        }
    }

    #[test]
    fn bytes_behind_a_key_are_refused() {
        for (kind, pem, _) in SIGNED {
            let mut der = pem::parse(pem).unwrap().into_contents();
            der.push(0);
            assert!(matches!(parse(&normalised(&der)), Err(KeyError::Undecodable)), "{kind}");
        }
    }

    #[test]
    fn the_smallest_rsa_key_can_be_set_but_not_below_1024() {
        assert!(matches!(PublicKey::parse(fixtures::pem_of("RSA 1024"), 2048), Err(KeyError::Unsupported)));
        assert!(PublicKey::parse(fixtures::pem_of("RSA 2048"), 2048).is_ok());
        assert!(matches!(PublicKey::parse(fixtures::RSA_512, 0), Err(KeyError::Unsupported)));
    }
}
