//! Links by which somebody who holds nothing else may fetch or bring one file for a while: those of the object store or, where
//! it has none, of the hub itself.
//!
//! A link of the hub names its end and carries a signature over everything in it. (Mender API: signed links to
//! configurations; HMAC-SHA256 with a secret that all nodes share.)

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::DateTime;
use storage::{LinkTo, StorageError, StoredArtifact, Timestamp, UploadId, clock};
use url::Url;

use super::{Artifacts, after, raw_path};
use crate::artifact_file::MEDIA_TYPE;

/// Query member with the end of a link's life: RFC 3339, whole seconds, UTC.
pub const EXPIRE: &str = "x-men-expire";

/// Query member with the signature.
pub const SIGNATURE: &str = "x-men-signature";

/// Query member with the name that a file is to be saved under.
const NAME: &str = "name";

/// Where the hub serves files by link.
const FILES: &str = "/api/devices/v1/deployments/download/objects/";

/// Where it takes them.
const UPLOADS: &str = "/api/devices/v1/deployments/download/uploads/";

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The whole of it.
    pub url: String,
    /// Until when it is valid.
    pub expires: Timestamp,
}

/// What a link of the hub is for, once it was found to be genuine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This object may be fetched.
    Fetch {
        /// Path in the object store.
        object: String,
        /// What to save it as.
        file_name: String,
    },
    /// This upload may be brought.
    Bring(UploadId),
}

/// Why a link opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkRefusal {
    /// Something is missing or cannot be read.
    #[error("missing or malformed parameter")]
    Malformed,
    /// It has run out.
    #[error("URL expired")]
    Expired,
    /// We did not make it, or not so.
    #[error("signature invalid")]
    Forged,
}

/// Signs links with a secret that all nodes share.
#[derive(Clone)]
pub struct LinkSigner(Key);

impl std::fmt::Debug for LinkSigner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LinkSigner(***)")
    }
}

impl LinkSigner {
    /// Signs with this secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(Key::new(HMAC_SHA256, secret))
    }

    /// The signature of a link: over method, path and query members, all of them as they are before they are escaped, in this
    /// order, each with a line feed behind it.
    pub fn sign(&self, method: &str, path: &str, members: &[(&str, &str)]) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.tag(method, path, members))
    }

    /// Whether a link with these members, the end of its life first, may be followed now.
    ///
    /// # Errors
    /// See [`LinkRefusal`].
    pub fn check(
        &self,
        method: &str,
        path: &str,
        members: &[(&str, &str)],
        signature: &str,
        now: Timestamp,
    ) -> Result<(), LinkRefusal> {
        let expire = members.iter().find(|(name, _)| *name == EXPIRE).ok_or(LinkRefusal::Malformed)?.1;
        let expire = DateTime::parse_from_rfc3339(expire).map_err(|_| LinkRefusal::Malformed)?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| LinkRefusal::Forged)?;
        verify_slices_are_equal(&self.tag(method, path, members), &signature).map_err(|_| LinkRefusal::Forged)?;
        // In this order, since the time in a forged link says nothing.
        if expire.timestamp_micros() <= now.0 { Err(LinkRefusal::Expired) } else { Ok(()) }
    }

    fn tag(&self, method: &str, path: &str, members: &[(&str, &str)]) -> Vec<u8> {
        let mut text = format!("{method}\n{path}\n");
        for (name, value) in members {
            text.extend([name, "=", value, "\n"]);
        }
        sign(&self.0, text.as_bytes()).as_ref().to_vec()
    }
}

/// The end of a link's life as a link says it.
pub fn expire_text(at: Timestamp) -> String {
    let text = Timestamp::from_seconds(at.seconds()).rfc3339();
    text.replace(".000Z", "Z")
}

impl Artifacts {
    /// A link to the file of an artifact, for `lifetime`. `base` is how the hub was asked: `https://hub.example.com`.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn download_link(
        &self,
        artifact: &StoredArtifact,
        lifetime: Duration,
        base: &str,
    ) -> Result<Link, StorageError> {
        let file_name = format!("{}.mender", artifact.name);
        let to = LinkTo::Fetch { media_type: MEDIA_TYPE.to_owned(), file_name: file_name.clone() };
        let expires = after(lifetime);
        if let Some(url) = self.storage.objects.link(&artifact.object, &to, lifetime).await? {
            return Ok(Link { url: url.into(), expires });
        }
        let number = artifact.object.rsplit('/').next().unwrap_or_default();
        Ok(Link { url: self.own_link("GET", base, &format!("{FILES}{number}"), Some(&file_name), expires), expires })
    }

    /// A link by which the file of an announced upload may be brought.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn upload_link(&self, number: UploadId, expires: Timestamp, base: &str) -> Result<Link, StorageError> {
        let lifetime = expires.since(clock::now());
        if let Some(url) = self.storage.objects.link(&raw_path(number), &LinkTo::Bring, lifetime).await? {
            return Ok(Link { url: url.into(), expires });
        }
        Ok(Link { url: self.own_link("PUT", base, &format!("{UPLOADS}{number}"), None, expires), expires })
    }

    fn own_link(&self, method: &str, base: &str, path: &str, name: Option<&str>, expires: Timestamp) -> String {
        let expire = expire_text(expires);
        let mut members = vec![(EXPIRE, expire.as_str())];
        members.extend(name.map(|name| (NAME, name)));
        let signature = self.links.sign(method, path, &members);
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&members).append_pair(SIGNATURE, &signature);
        format!("{base}{path}?{}", query.finish())
    }

    /// What a link of the hub is for. HEAD is answered wherever GET is.
    ///
    /// # Errors
    /// See [`LinkRefusal`].
    pub fn open_link(&self, method: &str, path: &str, query: &str, now: Timestamp) -> Result<Target, LinkRefusal> {
        let members: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let find = |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let expire = find(EXPIRE).ok_or(LinkRefusal::Malformed)?;
        let signature = find(SIGNATURE).ok_or(LinkRefusal::Malformed)?;
        if let Some(number) = path.strip_prefix(UPLOADS) {
            self.links.check(method, path, &[(EXPIRE, expire)], signature, now)?;
            return number.parse().map(Target::Bring).map_err(|_| LinkRefusal::Malformed);
        }
        let number: UploadId =
            path.strip_prefix(FILES).and_then(|number| number.parse().ok()).ok_or(LinkRefusal::Malformed)?;
        let name = find(NAME).ok_or(LinkRefusal::Malformed)?;
        self.links.check("GET", path, &[(EXPIRE, expire), (NAME, name)], signature, now)?;
        Ok(Target::Fetch { object: super::object_path(number), file_name: name.to_owned() })
    }
}

/// A base that links of the hub can be made with.
pub fn is_base(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/api/devices/v1/deployments/download/configuration/00000000-0000-4000-8000-000000000001/qemux86-64/00000000-0000-4000-8000-000000000002";

    #[test]
    fn signatures_are_those_of_the_mender_server() {
        let signer = LinkSigner::new(b"0123456789abcdef0123456789abcdef");
        let sign = |tenant: &str| signer.sign("GET", PATH, &[(EXPIRE, "2030-01-02T03:04:05Z"), ("tenant_id", tenant)]);
        assert_eq!(sign("123456789012345678901234"), "-Ceh6gfR-lNaALoSKCP2c3UukmhQjtGfaw9evMLaZv4");
        assert_eq!(sign(""), "a5Ypw0qrTRac8koztlMIZLfaZvB0T-F2zF-IX2qoVws");
    }

    #[test]
    fn a_link_is_for_one_thing_and_one_time() {
        let signer = LinkSigner::new(b"secret");
        let at = Timestamp::from_seconds(1_893_553_445);
        assert_eq!(expire_text(Timestamp(at.0 + 999_999)), "2030-01-02T03:04:05Z");
        let expire = expire_text(at);
        let members = [(EXPIRE, expire.as_str()), ("name", "a")];
        let signature = signer.sign("GET", "/x", &members);
        let check = |method, path, members: &[(&str, &str)], signature: &str, now| {
            signer.check(method, path, members, signature, now)
        };
        let before = Timestamp(at.0 - 1);
        assert_eq!(check("GET", "/x", &members, &signature, before), Ok(()));
        assert_eq!(check("GET", "/x", &members, &signature, at), Err(LinkRefusal::Expired));
        assert_eq!(check("PUT", "/x", &members, &signature, before), Err(LinkRefusal::Forged));
        assert_eq!(check("GET", "/y", &members, &signature, before), Err(LinkRefusal::Forged));
        assert_eq!(check("GET", "/x", &members[..1], &signature, before), Err(LinkRefusal::Forged));
        assert_eq!(check("GET", "/x", &members, "", before), Err(LinkRefusal::Forged));
        assert_eq!(check("GET", "/x", &members, "?", before), Err(LinkRefusal::Forged));
        let later = [(EXPIRE, "2040-01-02T03:04:05Z"), ("name", "a")];
        assert_eq!(check("GET", "/x", &later, &signature, before), Err(LinkRefusal::Forged));
        assert_eq!(check("GET", "/x", &[(EXPIRE, "soon")], &signature, before), Err(LinkRefusal::Malformed));
        assert_eq!(check("GET", "/x", &[("name", "a")], &signature, before), Err(LinkRefusal::Malformed));
    }
}
