//! Tokens: JSON Web Tokens (RFC 7519) signed by this hub, for devices and for users.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use storage::{AuthSetId, DeviceId, Timestamp, TokenId, UserId};

use super::signing::SigningKey;

/// Longest token that is looked at. Ours have less than a tenth of it, with RSA signatures too.
pub const LENGTH_LIMIT: usize = 8 * 1024;

/// The scope of every user token. (Mender API: full rights.)
pub const USER_SCOPE: &str = "mender.*";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claims {
    /// Of a device.
    Device(DeviceClaims),
    /// Of a user.
    User(UserClaims),
}

/// What a device's token says. (Mender API: device token.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceClaims {
    /// `jti`: the set it was issued for.
    pub auth_set: AuthSetId,
    /// `sub`.
    pub device: DeviceId,
    /// `iss`.
    pub issuer: String,
    /// `iat`, Unix seconds.
    pub issued: i64,
    /// `exp`, Unix seconds.
    pub expires: i64,
}

/// What a user's token says. (Mender API: user token.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserClaims {
    /// `jti`.
    pub token: TokenId,
    /// `sub`.
    pub user: UserId,
    /// `iss`.
    pub issuer: String,
    /// `iat` and `nbf`, Unix seconds.
    pub issued: i64,
    /// `exp`, Unix seconds; `None`: never.
    pub expires: Option<i64>,
}

impl DeviceClaims {
    /// The signed token. Its header names no key.
    pub fn sign(&self, key: &SigningKey) -> String {
        let enabled = |name| json!({ "name": name, "enabled": true });
        let claims = json!({
            "jti": self.auth_set,
            "sub": self.device,
            "iss": self.issuer,
            "iat": self.issued,
            "exp": self.expires,
            "mender.device": true,
            "mender.plan": "enterprise",
            "mender.addons": [enabled("configure"), enabled("troubleshoot"), enabled("monitor")],
            "mender.trial": false,
        });
        sign(&json!({ "alg": key.algorithm(), "typ": "JWT" }), &claims, key)
    }
}

impl DeviceClaims {
    /// The device that a token names, of which nothing is verified: good for guesses only.
    pub fn device_named_in(token: &str) -> Option<DeviceId> {
        if token.len() > LENGTH_LIMIT {
            return None;
        }
        let payload = token.split('.').nth(1)?;
        let claims: WireClaims = serde_json::from_slice(&decode(payload).ok()?).ok()?;
        claims.sub?.parse().ok()
    }
}

impl UserClaims {
    /// The signed token. Its header names the key by number.
    pub fn sign(&self, key: &SigningKey, key_id: u32) -> String {
        let mut claims = json!({
            "jti": self.token,
            "sub": self.user,
            "iss": self.issuer,
            "iat": self.issued,
            "nbf": self.issued,
            "scp": USER_SCOPE,
            "mender.user": true,
        });
        if let Some(expires) = self.expires {
            claims["exp"] = expires.into();
        }
        sign(&json!({ "alg": key.algorithm(), "typ": "JWT", "kid": key_id }), &claims, key)
    }
}

fn sign(header: &Value, claims: &Value, key: &SigningKey) -> String {
    let encode = |part: &Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
    let mut token = format!("{}.{}", encode(header), encode(claims));
    let signature = key.sign(token.as_bytes());
    token.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    token
}

/// A token taken apart; nothing in it is believed yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    header: Header,
    payload: &'a str,
}

/// What may be wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of which the first is a header and the second JSON with a `sub`.
    #[error("identity: incorrect token format")]
    Malformed,
    /// Not signed by a key of ours, or it does not say what it has to.
    #[error("invalid jwt")]
    Invalid,
    /// A user's, but not for what this hub does.
    #[error("unauthorized")]
    OutOfScope,
    /// Its time is over, or has not come.
    #[error("invalid jwt")]
    OutOfTime,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: KeyId,
    /// Extensions that must be understood (RFC 7515 section 4.1.11); we understand none.
    crit: Option<Value>,
}

/// The standard says text, the Mender server writes a number, and devices' tokens have none.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum KeyId {
    #[default]
    None,
    Number(u32),
    Text(String),
}

/// What any token may say. Unknown members are ignored.
#[derive(Deserialize)]
struct WireClaims {
    jti: Option<String>,
    sub: Option<String>,
    iss: Option<String>,
    iat: Option<i64>,
    exp: Option<i64>,
    nbf: Option<i64>,
    scp: Option<String>,
    #[serde(rename = "mender.tenant", default)]
    tenant: Option<String>,
    #[serde(rename = "mender.device", default)]
    device: bool,
    #[serde(rename = "mender.user", default)]
    user: bool,
}

/// How far the clocks of two nodes may be apart before one refuses what the other has just issued, in seconds.
const CLOCK_SKEW: i64 = 60;

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > LENGTH_LIMIT {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        Ok(Self { signed, signature: decode(signature)?, header, payload })
    }

    /// The number of the key it claims to be signed with: 0 if it names none, `None` if that cannot be one of ours.
    pub fn key_id(&self) -> Option<u32> {
        match &self.header.kid {
            KeyId::None => Some(0),
            KeyId::Number(number) => Some(*number),
            KeyId::Text(text) => text.parse().ok(),
        }
    }

    /// Whether `key` signed it, by the algorithm of that key: what the header says never chooses the algorithm.
    pub fn is_signed_by(&self, key: &SigningKey) -> bool {
        self.header.alg == key.algorithm()
            && self.header.crit.is_none()
            && key.verify(self.signed.as_bytes(), &self.signature)
    }

    /// What it says, checked for form and time. Call only after [`Self::is_signed_by`] was true.
    ///
    /// # Errors
    /// `Malformed` if it is no JSON with a `sub`, `Invalid` if something is missing or it is of neither kind or both,
    /// `OutOfScope`, `OutOfTime`.
    pub fn claims(&self, now: Timestamp) -> Result<Claims, TokenError> {
        let claims: WireClaims = serde_json::from_slice(&decode(self.payload)?).map_err(|_| TokenError::Malformed)?;
        let subject = claims.sub.filter(|subject| !subject.is_empty()).ok_or(TokenError::Malformed)?;
        let issuer = claims.iss.filter(|issuer| !issuer.is_empty()).ok_or(TokenError::Invalid)?;
        let jti = claims.jti.ok_or(TokenError::Invalid)?;
        // One tenant per hub: a token of a named one is somebody else's.
        if claims.tenant.is_some_and(|tenant| !tenant.is_empty()) {
            return Err(TokenError::Invalid);
        }
        let now = now.seconds();
        let is_over = claims.exp.is_some_and(|expires| expires <= now);
        // A Mender server writes the year 1 into `nbf` of devices' tokens.
        let is_early = claims.nbf.is_some_and(|begins| begins > now.saturating_add(CLOCK_SKEW));
        if is_over || is_early {
            return Err(TokenError::OutOfTime);
        }
        let issued_at = claims.iat.unwrap_or_default();
        match (claims.device, claims.user) {
            (true, false) => Ok(Claims::Device(DeviceClaims {
                auth_set: jti.parse().map_err(|_| TokenError::Invalid)?,
                device: subject.parse().map_err(|_| TokenError::Invalid)?,
                issuer,
                issued: issued_at,
                expires: claims.exp.ok_or(TokenError::Invalid)?,
            })),
            (false, true) => match claims.scp.as_deref().unwrap_or_default() {
                "" => Err(TokenError::Invalid),
                USER_SCOPE => Ok(Claims::User(UserClaims {
                    token: jti.parse().map_err(|_| TokenError::Invalid)?,
                    user: UserId::new(subject),
                    issuer,
                    issued: issued_at,
                    expires: claims.exp,
                })),
                _ => Err(TokenError::OutOfScope),
            },
            _ => Err(TokenError::Invalid),
        }
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::super::signing;
    use super::*;

    const NOW: Timestamp = Timestamp(1_900_000_000_000_000);

    fn key() -> SigningKey {
        SigningKey::from_pem(&SigningKey::generate()).unwrap()
    }

    fn device_claims() -> DeviceClaims {
        DeviceClaims {
            auth_set: AuthSetId::random(),
            device: DeviceId::random(),
            issuer: "Mender".into(),
            issued: NOW.seconds(),
            expires: NOW.seconds() + 10,
        }
    }

    fn user_claims(expires: Option<i64>) -> UserClaims {
        UserClaims {
            token: TokenId::random(),
            user: "u-1".into(),
            issuer: "mender.useradm".into(),
            issued: NOW.seconds(),
            expires,
        }
    }

    fn part(token: &str, index: usize) -> Value {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
    }

    fn open(token: &str, key: &SigningKey, now: Timestamp) -> Result<Claims, TokenError> {
        let token = Unverified::parse(token)?;
        if token.is_signed_by(key) { token.claims(now) } else { Err(TokenError::Invalid) }
    }

    #[test]
    fn a_device_token_has_exactly_these_members() {
        let claims = device_claims();
        let token = claims.sign(&key());
        assert_eq!(part(&token, 0), json!({ "alg": "EdDSA", "typ": "JWT" }));
        assert_eq!(
            part(&token, 1),
            json!({
                "jti": claims.auth_set.to_string(), "sub": claims.device.to_string(), "iss": "Mender",
                "iat": 1_900_000_000, "exp": 1_900_000_010, "mender.device": true, "mender.plan": "enterprise",
                "mender.addons": [
                    { "name": "configure", "enabled": true },
                    { "name": "troubleshoot", "enabled": true },
                    { "name": "monitor", "enabled": true },
                ],
                "mender.trial": false,
            })
        );
    }

    #[test]
    fn a_user_token_has_exactly_these_members() {
        let claims = user_claims(Some(1_900_000_010));
        let token = claims.sign(&key(), 7);
        assert_eq!(part(&token, 0), json!({ "alg": "EdDSA", "typ": "JWT", "kid": 7 }));
        assert_eq!(
            part(&token, 1),
            json!({
                "jti": claims.token.to_string(), "sub": "u-1", "iss": "mender.useradm", "iat": 1_900_000_000,
                "nbf": 1_900_000_000, "exp": 1_900_000_010, "scp": "mender.*", "mender.user": true,
            })
        );
        assert_eq!(part(&user_claims(None).sign(&key(), 0), 1).get("exp"), None);
    }

    #[test]
    fn what_was_signed_is_read_back_by_both_kinds_of_key() {
        for key in [key(), SigningKey::from_pem(signing::tests::RSA_PKCS1).unwrap()] {
            let claims = device_claims();
            assert_eq!(open(&claims.sign(&key), &key, NOW), Ok(Claims::Device(claims)));
            let claims = user_claims(None);
            assert_eq!(open(&claims.sign(&key, 0), &key, NOW), Ok(Claims::User(claims)));
        }
    }

    #[test]
    fn a_token_ends_in_the_second_it_names() {
        let (key, claims) = (key(), device_claims());
        let token = claims.sign(&key);
        assert!(open(&token, &key, Timestamp::from_seconds(claims.expires - 1)).is_ok());
        assert_eq!(open(&token, &key, Timestamp::from_seconds(claims.expires)), Err(TokenError::OutOfTime));
    }

    #[test]
    fn altered_tokens_are_refused() {
        let key = key();
        let token = device_claims().sign(&key);
        let parts: Vec<&str> = token.split('.').collect();
        let other = device_claims().sign(&key);
        let other: Vec<&str> = other.split('.').collect();
        let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let hmac = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        for altered in [
            format!("{}.{}.{}", parts[0], other[1], parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{hmac}.{}.{}", parts[1], parts[2]),
        ] {
            assert_eq!(open(&altered, &key, NOW), Err(TokenError::Invalid), "{altered}");
        }
        for cut in 1..token.len() {
            assert!(open(&token[..cut], &key, NOW).is_err(), "the first {cut} characters");
        }
        assert_eq!(open(&token, &self::key(), NOW), Err(TokenError::Invalid), "another hub's key");
    }

    #[test]
    fn an_rsa_token_is_not_accepted_under_another_algorithm() {
        let rsa = SigningKey::from_pem(signing::tests::RSA_PKCS8).unwrap();
        let claims = json!({ "sub": "x" });
        let token = sign(&json!({ "alg": "RS512" }), &claims, &rsa);
        assert_eq!(open(&token, &rsa, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn what_is_no_token_is_malformed() {
        let token = device_claims().sign(&key());
        let long = format!("{token}{}", "A".repeat(LENGTH_LIMIT));
        let padded = format!("{token}==");
        for text in ["", "a", "a.b", "a.b.c", "..", "....", &token.replacen('.', "", 1), &long, &padded] {
            assert_eq!(Unverified::parse(text).unwrap_err(), TokenError::Malformed, "{text}");
        }
    }

    #[test]
    fn tokens_that_do_not_say_enough_are_refused() {
        let key = key();
        let (id, set) = (DeviceId::random().to_string(), AuthSetId::random().to_string());
        let whole = json!({ "jti": set, "sub": id, "iss": "Mender", "exp": NOW.seconds() + 10, "mender.device": true });
        let opened = |claims: &Value| open(&sign(&json!({ "alg": "EdDSA" }), claims, &key), &key, NOW);
        assert!(opened(&whole).is_ok());
        for (member, value) in [
            ("jti", Value::Null),
            ("jti", "x".into()),
            ("sub", "x".into()),
            ("iss", Value::Null),
            ("iss", "".into()),
            ("exp", Value::Null),
            ("mender.device", false.into()),
            ("mender.user", true.into()),
            ("mender.tenant", "acme".into()),
        ] {
            let mut claims = whole.clone();
            claims[member] = value;
            assert_eq!(opened(&claims), Err(TokenError::Invalid), "{claims}");
        }
        for (member, value) in [("sub", Value::Null), ("sub", "".into()), ("exp", "soon".into())] {
            let mut claims = whole.clone();
            claims[member] = value;
            assert_eq!(opened(&claims), Err(TokenError::Malformed), "{claims}");
        }
        let mut claims = whole.clone();
        claims["nbf"] = (NOW.seconds() + 3600).into();
        assert_eq!(opened(&claims), Err(TokenError::OutOfTime));
        claims["nbf"] = (-62_135_596_800_i64).into();
        claims["mender.tenant"] = "".into();
        assert!(opened(&claims).is_ok(), "as a Mender server issues it");
    }

    #[test]
    fn a_key_may_be_named_by_number_by_text_or_not_at_all() {
        let key = key();
        let named = |header: Value| {
            let token = sign(&header, &json!({}), &key);
            Unverified::parse(&token).map(|token| token.key_id())
        };
        assert_eq!(named(json!({ "alg": "EdDSA" })), Ok(Some(0)));
        assert_eq!(named(json!({ "alg": "EdDSA", "kid": 3 })), Ok(Some(3)));
        assert_eq!(named(json!({ "alg": "EdDSA", "kid": "3" })), Ok(Some(3)));
        assert_eq!(named(json!({ "alg": "EdDSA", "kid": "main" })), Ok(None));
        assert_eq!(named(json!({ "alg": "EdDSA", "kid": [] })), Err(TokenError::Malformed));
    }

    #[test]
    fn extensions_that_must_be_understood_are_not() {
        let key = key();
        let token = sign(&json!({ "alg": "EdDSA", "crit": ["b64"], "b64": false }), &json!({ "sub": "x" }), &key);
        assert!(!Unverified::parse(&token).unwrap().is_signed_by(&key));
    }
}
