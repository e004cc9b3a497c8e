//! An empty handler of actix-web behind the same check of the token as the hub's: a poll for an update cannot cost less.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, http::header, web};
use anyhow::{Context, ensure};
use aws_lc_rs::{
    digest,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Tokens that are remembered; beyond that all are forgotten, which no measurement here comes to.
const REMEMBERED: usize = 200_000;

/// Checks the tokens that a key has signed, each signature once.
pub struct TokenCheck {
    key: UnparsedPublicKey<Vec<u8>>,
    /// Until when a token is good, by its digest.
    known: Mutex<HashMap<[u8; 32], u64>>,
}

impl std::fmt::Debug for TokenCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenCheck")
    }
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
}

impl TokenCheck {
    /// For the key that the hub signs devices' tokens with: its private half as PEM, as the hub is given it.
    ///
    /// # Errors
    /// When that is no Ed25519 key.
    pub fn from_pem(text: &str) -> anyhow::Result<Self> {
        let parsed = pem::parse(text).context("the key is no PEM")?;
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(parsed.contents()).ok().context("the key is no Ed25519 key")?;
        Ok(Self::new(pair.public_key().as_ref()))
    }

    fn new(public: &[u8]) -> Self {
        Self { key: UnparsedPublicKey::new(&ED25519, public.to_vec()), known: Mutex::default() }
    }

    /// Whether a token is good now.
    pub fn is_good(&self, token: &str) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if let Some(expires) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return *expires > now;
        }
        let Some(expires) = self.verify(token).filter(|expires| *expires > now) else { return false };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(hash, expires);
        true
    }

    /// Until when a token is good that the key has signed.
    fn verify(&self, token: &str) -> Option<u64> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (_, claims) = signed.split_once('.')?;
        self.key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        Some(claims.exp)
    }
}

/// Serves until the process ends.
///
/// # Errors
/// When the address is taken, or the key is none.
pub fn serve(listen: SocketAddr, key_pem: &str) -> anyhow::Result<()> {
    let check = web::Data::from(Arc::new(TokenCheck::from_pem(key_pem)?));
    let serving = async move {
        let app = move || App::new().app_data(check.clone()).default_service(web::to(answer));
        HttpServer::new(app).disable_signals().bind(listen)?.run().await
    };
    let served: io::Result<()> = actix_web::rt::System::new().block_on(serving);
    served.with_context(|| format!("cannot serve on {listen}"))?;
    ensure!(false, "the server has ended");
    Ok(())
}

async fn answer(request: HttpRequest, check: web::Data<TokenCheck>) -> HttpResponse {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) if check.is_good(token) => HttpResponse::NoContent().finish(),
        _ => HttpResponse::Unauthorized().finish(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceKey;

    fn token(key: &DeviceKey, claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", part(r#"{"alg":"EdDSA","typ":"JWT"}"#), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn check_of(key: &DeviceKey) -> TokenCheck {
        let public = pem::parse(key.public_pem()).expect("PEM");
        TokenCheck::new(&public.contents()[12..])
    }

    #[test]
    fn only_a_token_that_the_key_has_signed_and_whose_time_is_not_over_is_good() {
        let (key, other) = (DeviceKey::random(), DeviceKey::random());
        let check = check_of(&key);
        let good = token(&key, r#"{"sub":"d","exp":99999999999}"#);
        // Once verified, once remembered.
        assert!(check.is_good(&good) && check.is_good(&good));
        assert!(!check.is_good(&token(&other, r#"{"exp":99999999999}"#)));
        assert!(!check.is_good(&token(&key, r#"{"exp":1}"#)));
        for wrong in ["", "a.b.c", "a", &good[..good.len() - 4]] {
            assert!(!check.is_good(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        assert!(TokenCheck::from_pem("x").is_err());
        assert!(TokenCheck::from_pem(&DeviceKey::random().public_pem()).is_err());
    }
}
