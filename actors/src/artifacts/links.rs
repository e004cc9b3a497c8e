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
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use storage::{DeploymentId, DeviceId, LinkTo, StorageError, StoredArtifact, Timestamp, UploadId, clock};
use url::Url;

use super::{Announced, Artifacts, after};
use crate::artifact_file::MEDIA_TYPE;

/// Query member with the end of a link's life: RFC 3339, whole seconds, UTC.
pub const EXPIRE: &str = "x-men-expire";

/// Query member with the signature.
pub const SIGNATURE: &str = "x-men-signature";

/// Query member with the tenant; that of this hub has no name, and no link of its own says one.
const TENANT: &str = "tenant_id";

/// Query member with the name that a file is to be saved under.
const NAME: &str = "name";

/// Where the hub serves files by link.
const FILES: &str = "/api/devices/v1/deployments/download/objects/";

/// Where it takes them.
const UPLOADS: &str = "/api/devices/v1/deployments/download/uploads/";

/// Where it serves configurations.
const CONFIGURATIONS: &str = "/api/devices/v1/deployments/download/configuration";

/// What each segment of a path is escaped but for. (RFC 3986: unreserved.)
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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

    /// The query of a link to a configuration.
    fn configuration_query(
        &self,
        deployment: DeploymentId,
        device_type: &str,
        device: DeviceId,
        expires: Timestamp,
    ) -> String {
        let path = configuration_path(&deployment.to_string(), device_type, &device.to_string());
        let expire = expire_text(expires);
        let signature = self.sign("GET", &path, &[(EXPIRE, &expire), (TENANT, "")]);
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair(EXPIRE, &expire).append_pair(SIGNATURE, &signature).finish()
    }

    fn check_configuration(&self, path: &str, query: &str, now: Timestamp) -> Result<(), LinkRefusal> {
        let members = Members::of(query);
        let (expire, signature) = (members.find(EXPIRE)?, members.find(SIGNATURE)?);
        let tenant = members.find(TENANT).unwrap_or_default();
        self.check("GET", path, &[(EXPIRE, expire), (TENANT, tenant)], signature, now)
    }

    fn tag(&self, method: &str, path: &str, members: &[(&str, &str)]) -> Vec<u8> {
        let mut text = format!("{method}\n{path}\n");
        for (name, value) in members {
            text.extend([name, "=", value, "\n"]);
        }
        sign(&self.0, text.as_bytes()).as_ref().to_vec()
    }
}

/// The members of a link's query.
struct Members(Vec<(String, String)>);

impl Members {
    fn of(query: &str) -> Self {
        Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn find(&self, wanted: &str) -> Result<&str, LinkRefusal> {
        let found = self.0.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str()).ok_or(LinkRefusal::Malformed)
    }
}

/// The path of a configuration before it is escaped, as it is signed.
fn configuration_path(deployment: &str, device_type: &str, device: &str) -> String {
    format!("{CONFIGURATIONS}/{deployment}/{device_type}/{device}")
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
        let (objects, path) = self.storage.artifact_stores.at(&artifact.object).await?;
        if let Some(url) = objects.link(path, &to, lifetime).await? {
            return Ok(Link { url: url.into(), expires });
        }
        let number = artifact.object.rsplit('/').next().unwrap_or_default();
        Ok(Link { url: self.own_link("GET", base, &format!("{FILES}{number}"), Some(&file_name), expires), expires })
    }

    /// A link by which the file of an announced upload may be brought.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn upload_link(&self, announced: &Announced, base: &str) -> Result<Link, StorageError> {
        let expires = announced.expires;
        let (objects, path) = self.storage.artifact_stores.at(&announced.object).await?;
        if let Some(url) = objects.link(path, &LinkTo::Bring, expires.since(clock::now())).await? {
            return Ok(Link { url: url.into(), expires });
        }
        let path = format!("{UPLOADS}{}", UploadId::from_uuid(announced.id.uuid()));
        Ok(Link { url: self.own_link("PUT", base, &path, None, expires), expires })
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

    /// A link to the configuration that a deployment brings to a device of this type. (Mender API: configuration artifact
    /// download.)
    pub fn configuration_link(
        &self,
        deployment: DeploymentId,
        device_type: &str,
        device: DeviceId,
        base: &str,
    ) -> Link {
        let expires = after(self.config.configuration_link);
        let query = self.links.configuration_query(deployment, device_type, device, expires);
        let device_type = utf8_percent_encode(device_type, SEGMENT);
        Link { url: format!("{base}{CONFIGURATIONS}/{deployment}/{device_type}/{device}?{query}"), expires }
    }

    /// Whether a link to a configuration may be followed; `deployment`, `device_type` and `device` are those in its path, no
    /// longer escaped.
    ///
    /// # Errors
    /// See [`LinkRefusal`].
    pub fn open_configuration_link(
        &self,
        [deployment, device_type, device]: [&str; 3],
        query: &str,
        now: Timestamp,
    ) -> Result<(), LinkRefusal> {
        let path = configuration_path(deployment, device_type, device);
        self.links.check_configuration(&path, query, now)
    }

    /// What a link of the hub is for. HEAD is answered wherever GET is.
    ///
    /// # Errors
    /// See [`LinkRefusal`].
    pub fn open_link(&self, method: &str, path: &str, query: &str, now: Timestamp) -> Result<Target, LinkRefusal> {
        let members = Members::of(query);
        let (expire, signature) = (members.find(EXPIRE)?, members.find(SIGNATURE)?);
        if let Some(number) = path.strip_prefix(UPLOADS) {
            self.links.check(method, path, &[(EXPIRE, expire)], signature, now)?;
            return number.parse().map(Target::Bring).map_err(|_| LinkRefusal::Malformed);
        }
        let number: UploadId =
            path.strip_prefix(FILES).and_then(|number| number.parse().ok()).ok_or(LinkRefusal::Malformed)?;
        let name = members.find(NAME)?;
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
    fn a_link_to_a_configuration_is_for_one_device_of_one_type() {
        let signer = LinkSigner::new(b"0123456789abcdef0123456789abcdef");
        let (deployment, device) = ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002");
        let at = Timestamp::from_seconds(1_893_553_445);
        let query = |device_type: &str| {
            signer.configuration_query(deployment.parse().unwrap(), device_type, device.parse().unwrap(), at)
        };
        let genuine = query("qemux86-64");
        assert_eq!(
            genuine,
            "x-men-expire=2030-01-02T03%3A04%3A05Z&x-men-signature=a5Ypw0qrTRac8koztlMIZLfaZvB0T-F2zF-IX2qoVws"
        );
        let before = Timestamp(at.0 - 1);
        let check = |path: &str, query: &str| signer.check_configuration(path, query, before);
        assert_eq!(check(PATH, &genuine), Ok(()));
        assert_eq!(check(PATH, &format!("tenant_id=&{genuine}")), Ok(()));
        assert_eq!(signer.check_configuration(PATH, &genuine, at), Err(LinkRefusal::Expired));

        let forged = [
            (PATH.to_owned(), format!("tenant_id=acme&{genuine}")),
            (PATH.to_owned(), genuine.replace("2030", "2031")),
            (PATH.to_owned(), genuine.replace("a5Y", "b5Y")),
            (PATH.replace("qemux86-64", "rpi4"), genuine.clone()),
            (PATH.replace("000001", "000003"), genuine.clone()),
            (PATH.replace("000002", "000003"), genuine.clone()),
        ];
        for (path, query) in forged {
            assert_eq!(check(&path, &query), Err(LinkRefusal::Forged), "{path}?{query}");
        }
        let (expire, signature) = genuine.split_once('&').unwrap();
        for query in [expire, signature, "", &genuine.replace("2030-", "soon-")] {
            assert_eq!(check(PATH, query), Err(LinkRefusal::Malformed), "{query}");
        }
        // What is signed is not escaped: two spellings of one type are one.
        let strange = configuration_path(deployment, "a/b c%2F\u{e9}", device);
        assert_eq!(check(&strange, &query("a/b c%2F\u{e9}")), Ok(()));
        assert_eq!(utf8_percent_encode("a/b c%2F\u{e9}", SEGMENT).to_string(), "a%2Fb%20c%252F%C3%A9");
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
