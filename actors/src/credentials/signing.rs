//! The private keys that sign tokens.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
};
use pem::{EncodeConfig, LineEnding, Pem};

/// A key that signs tokens, with its public half ready to verify them. Its Debug form shows nothing secret.
pub struct SigningKey {
    pair: Pair,
    public: ParsedPublicKey,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

/// The text is no private key that can sign tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a private key: expected PEM with RSA of 2048 to 8192 bits (PKCS#1 or PKCS#8) or Ed25519 (PKCS#8)")]
pub struct InvalidKey;

impl SigningKey {
    /// A new Ed25519 key, as PEM (PKCS#8).
    pub fn generate() -> String {
        let pair = Ed25519KeyPair::generate().expect("the system gives random bytes");
        let document = pair.to_pkcs8v1().expect("a fresh key has a PKCS#8 form");
        let block = Pem::new("PRIVATE KEY", document.as_ref());
        pem::encode_config(&block, EncodeConfig::new().set_line_ending(LineEnding::LF))
    }

    /// Reads a key from PEM.
    ///
    /// # Errors
    /// [`InvalidKey`], which says what is read.
    pub fn from_pem(text: &str) -> Result<Self, InvalidKey> {
        let block = pem::parse(text).map_err(|_| InvalidKey)?;
        let der = block.contents();
        let pair = match block.tag() {
            "RSA PRIVATE KEY" => Pair::Rsa(Box::new(RsaKeyPair::from_der(der).map_err(|_| InvalidKey)?)),
            "PRIVATE KEY" => match Ed25519KeyPair::from_pkcs8(der) {
                Ok(pair) => Pair::Ed25519(pair),
                Err(_) => Pair::Rsa(Box::new(RsaKeyPair::from_pkcs8(der).map_err(|_| InvalidKey)?)),
            },
            _ => return Err(InvalidKey),
        };
        let public = match &pair {
            Pair::Ed25519(pair) => ParsedPublicKey::new(&ED25519, pair.public_key().as_ref()),
            Pair::Rsa(pair) => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref()),
        };
        Ok(Self { pair, public: public.map_err(|_| InvalidKey)? })
    }

    /// The `alg` of tokens signed by this key (RFC 7518 section 3.1, RFC 8037 section 3.1).
    pub const fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ed25519(_) => "EdDSA",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .expect("a key of at least 2048 bits has room for a SHA-256 signature");
                signature
            }
        }
    }

    /// Whether this key made `signature` over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Made by `openssl genpkey -algorithm ed25519` for this test.
    const OPENSSL_ED25519: &str = "-----BEGIN PRIVATE KEY-----\n\
MC4CAQAwBQYDK2VwBCIEIIJjOS1Z/cY6/iEANgqPA2a293QJyvGUVpmsLCItrirt\n\
-----END PRIVATE KEY-----\n";

    /// Made by `openssl genrsa 2048` for tests.
    pub(crate) const RSA_PKCS8: &str = "-----BEGIN PRIVATE KEY-----\n\
MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQCf+hL+ZHQOtdZF\n\
7SifDzacBTgrkW0J9/VkDBw2psejPwnvmsgUYbqfLw56fFOhlYHTQlO7csPGeg22\n\
hmt+XPMM6nanKgEn2WBfKG739wv4g7L9aDSapjL7XVWgVZIEQ25MdrQCeuqgIsyh\n\
VnOoMlPiBynqaEGzJ8Fkrzz3SxVYe4LUwG8cwiuNJj7TFvzTB29FDZIInc7nylmf\n\
tgbFCGeH+7K0gCT0spQ9c5ZuT/7AvxrY3xleM/YYSKcfR6oED8d7wrJ2zlpDP42M\n\
gN4LtxLs4P6FqUSmK2bsPrCPViYDkSl6JAWLtdiYLctMjOCSIsvDqZ3DmUJOc9Nj\n\
da1HeNAbAgMBAAECggEAAgKss+CDo1Ba64LTws4xMeNQda0KzdEZwafzv+2h3PtI\n\
N71eLDkthta3KggfZn5lrAC4OFU7uZ78uFpWqZq1xMuBwB24vo1K9wj1Nyo2QLCN\n\
rwVAgqd574tRWHCK3CvbNrjmD+aVcF8zJCSWDEl32djVT73GdENRlXu69wW+7VEc\n\
SFq5aqe/U215MR75U6ufrN+qw2tDI6f7TlYkUDXrJU1SxHFhilCRn7d9/il4elPv\n\
+3l6+uw4DJsf87YaemhJ+vSDtpIcgoXkGYB05ihTUsasxhtPTeU/vUffjkPpJfr9\n\
nnI9Tnbh1gwTlob6+fK/ukBJWFtDO+FGOtf8vzj0cQKBgQDYFWQrHOk+Xc9AA40n\n\
2WSx1d17aJQ35SZBtEJUvPOO9wfPZWAw/hQqPOv+4sReWQcg2H7Ft/KlfAWeYtDH\n\
xQ3UxlrYp3yeJKIeF/O80QCfUCSMOwcu2wUIjFxe3fU0krbMtngc6kJDf58pSUAG\n\
78tgexFrA4ZdChAOXW+wquQriwKBgQC9h2RrFIA52lJ37z4yTI4rd7crO9tqABl6\n\
BlHxBQ53hRTzvBM7SfkBJcaFXZs19T1y+Yy4TQmz9OEsxh4IO46qm3ziBS5p6oNo\n\
ohZN2Wf05tWOWd9GydsAznxm0g9242I/uMARgpG5ufANWpYrYuopKfTdFyhz3/Sq\n\
uNYgOO6/sQKBgHRgEPKnP3c3TsdLIlqz2mdspzwvtqPj5ha83nyExyfYI3yvPH8m\n\
V/XnmbJMrzWg/RXTg3M4/pXhlaUX0xnEJw7RRVwp2BPT5vwOKlcmuQ8UOprLr7Ks\n\
gql37sepAsatvYXDQC1SfR2dPjseGD2kKARuQ5M+8r5pDPyvldewMfLBAoGAdOUd\n\
zWGOmKAMP0bC4LkQ8sRaqAK6GI3JKNbfET2iJ5tgSdgVMHs2ZjvLTpRmV4hThydd\n\
YIq7Uk/V1gy3lzJMkvNlue2iK9dlh1J5WTifApCg5LSPnpR/S+cPGUe0HAqwnUaw\n\
x9v1T0zcPxBBEK9oZ00mZnqTC6z0tZtdDfCvaHECgYAng5nGUsA8xyP9LdCHc0O/\n\
l0o18cbYeN43G50xxvGwB1HwkH4UM/5EfH0rl21szxa5i7K1ZwC9bTR9c4xYH3GK\n\
FwZz3L3pcl7qm7+BefpXVl26Wj4+O3GUDYn1nukUsJKZ9nZOfb5l+ceTQc2nDa7N\n\
98WAcar0afDvTrhUhPmPFg==\n\
-----END PRIVATE KEY-----\n";

    /// The same key as [`RSA_PKCS8`], as `openssl rsa -traditional` writes it.
    pub(crate) const RSA_PKCS1: &str = "-----BEGIN RSA PRIVATE KEY-----\n\
MIIEogIBAAKCAQEAn/oS/mR0DrXWRe0onw82nAU4K5FtCff1ZAwcNqbHoz8J75rI\n\
FGG6ny8OenxToZWB00JTu3LDxnoNtoZrflzzDOp2pyoBJ9lgXyhu9/cL+IOy/Wg0\n\
mqYy+11VoFWSBENuTHa0AnrqoCLMoVZzqDJT4gcp6mhBsyfBZK8890sVWHuC1MBv\n\
HMIrjSY+0xb80wdvRQ2SCJ3O58pZn7YGxQhnh/uytIAk9LKUPXOWbk/+wL8a2N8Z\n\
XjP2GEinH0eqBA/He8Kyds5aQz+NjIDeC7cS7OD+halEpitm7D6wj1YmA5EpeiQF\n\
i7XYmC3LTIzgkiLLw6mdw5lCTnPTY3WtR3jQGwIDAQABAoIBAAICrLPgg6NQWuuC\n\
08LOMTHjUHWtCs3RGcGn87/todz7SDe9Xiw5LYbWtyoIH2Z+ZawAuDhVO7me/Lha\n\
VqmatcTLgcAduL6NSvcI9TcqNkCwja8FQIKnee+LUVhwitwr2za45g/mlXBfMyQk\n\
lgxJd9nY1U+9xnRDUZV7uvcFvu1RHEhauWqnv1NteTEe+VOrn6zfqsNrQyOn+05W\n\
JFA16yVNUsRxYYpQkZ+3ff4peHpT7/t5evrsOAybH/O2GnpoSfr0g7aSHIKF5BmA\n\
dOYoU1LGrMYbT03lP71H345D6SX6/Z5yPU524dYME5aG+vnyv7pASVhbQzvhRjrX\n\
/L849HECgYEA2BVkKxzpPl3PQAONJ9lksdXde2iUN+UmQbRCVLzzjvcHz2VgMP4U\n\
Kjzr/uLEXlkHINh+xbfypXwFnmLQx8UN1MZa2Kd8niSiHhfzvNEAn1AkjDsHLtsF\n\
CIxcXt31NJK2zLZ4HOpCQ3+fKUlABu/LYHsRawOGXQoQDl1vsKrkK4sCgYEAvYdk\n\
axSAOdpSd+8+MkyOK3e3KzvbagAZegZR8QUOd4UU87wTO0n5ASXGhV2bNfU9cvmM\n\
uE0Js/ThLMYeCDuOqpt84gUuaeqDaKIWTdln9ObVjlnfRsnbAM58ZtIPduNiP7jA\n\
EYKRubnwDVqWK2LqKSn03Rcoc9/0qrjWIDjuv7ECgYB0YBDypz93N07HSyJas9pn\n\
bKc8L7aj4+YWvN58hMcn2CN8rzx/Jlf155myTK81oP0V04NzOP6V4ZWlF9MZxCcO\n\
0UVcKdgT0+b8DipXJrkPFDqay6+yrIKpd+7HqQLGrb2Fw0AtUn0dnT47Hhg9pCgE\n\
bkOTPvK+aQz8r5XXsDHywQKBgHTlHc1hjpigDD9GwuC5EPLEWqgCuhiNySjW3xE9\n\
oiebYEnYFTB7NmY7y06UZleIU4cnXWCKu1JP1dYMt5cyTJLzZbntoivXZYdSeVk4\n\
nwKQoOS0j56Uf0vnDxlHtBwKsJ1GsMfb9U9M3D8QQRCvaGdNJmZ6kwus9LWbXQ3w\n\
r2hxAoGAJ4OZxlLAPMcj/S3Qh3NDv5dKNfHG2HjeNxudMcbxsAdR8JB+FDP+RHx9\n\
K5dtbM8WuYuytWcAvW00fXOMWB9xihcGc9y96XJe6pu/gXn6V1Zdulo+PjtxlA2J\n\
9Z7pFLCSmfZ2Tn2+ZfnHk0HNpw2uzffFgHGq9Gnw7064VIT5jxY=\n\
-----END RSA PRIVATE KEY-----\n";

    #[test]
    fn a_generated_key_can_be_read_back() {
        let pem = SigningKey::generate();
        let key = SigningKey::from_pem(&pem).unwrap();
        assert_eq!(key.algorithm(), "EdDSA");
        let signature = key.sign(b"message");
        assert!(SigningKey::from_pem(&pem).unwrap().verify(b"message", &signature));
        assert!(!key.verify(b"massage", &signature));
        assert!(!SigningKey::from_pem(&SigningKey::generate()).unwrap().verify(b"message", &signature));
    }

    #[test]
    fn keys_made_by_openssl_can_be_read() {
        assert_eq!(SigningKey::from_pem(OPENSSL_ED25519).unwrap().algorithm(), "EdDSA");
        let (first, second) = (SigningKey::from_pem(RSA_PKCS8).unwrap(), SigningKey::from_pem(RSA_PKCS1).unwrap());
        assert_eq!(first.algorithm(), "RS256");
        assert!(second.verify(b"message", &first.sign(b"message")), "both forms hold the same key");
    }

    #[test]
    fn what_cannot_sign_is_refused() {
        let public = crate::credentials::public_key::fixtures::pem_of("Ed25519");
        for text in ["", "garbage", public, &RSA_PKCS8.replace("PRIVATE", "ENCRYPTED PRIVATE"), &RSA_PKCS8[..200]] {
            assert_eq!(SigningKey::from_pem(text).unwrap_err(), InvalidKey);
        }
    }

    #[test]
    fn its_debug_form_shows_no_secret() {
        let key = SigningKey::from_pem(&SigningKey::generate()).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey { algorithm: \"EdDSA\", .. }");
    }
}
