//! What says where a store of artifacts is.

use serde::{Deserialize, Serialize};

use crate::objects::is_bucket;

/// Where a store is, and how to get in. (Mender API: `StorageSettings`) Its members are what a client sent: what it left out
/// is left out again.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreSettings {
    /// The kind of server: `s3`, also if nothing is said.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Amazon's region, or what the server takes for one.
    pub region: String,
    /// The bucket, which has to be there.
    pub bucket: String,
    /// Id of the access key.
    pub key: String,
    /// The secret that belongs to it.
    pub secret: String,
    /// Session token of temporary credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Address of the server; without one it is Amazon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Address that links are made with, if devices and browsers reach the server elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_uri: Option<String>,
    /// Address of a proxy for links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_uri: Option<String>,
    /// Whether the bucket is in the path of an address; true if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_path_style: Option<bool>,
    /// Whether `uri` is the address of the bucket itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literal_bucket_uri: Option<bool>,
    /// Whether Amazon's accelerated addresses are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_accelerate: Option<bool>,
}

/// The secrets stay out of logs.
impl std::fmt::Debug for StoreSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StoreSettings")
            .field("bucket", &self.bucket)
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

/// What is wrong with settings, in a sentence that begins with the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {why}")]
pub struct SettingsFault {
    member: &'static str,
    why: &'static str,
}

impl SettingsFault {
    pub(super) const fn new(member: &'static str, why: &'static str) -> Self {
        Self { member, why }
    }
}

impl StoreSettings {
    /// Whether every member is one that we can follow, and as long as it has to be. (Mender API: this text.)
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), SettingsFault> {
        let fault = |member, why| Err(SettingsFault::new(member, why));
        match self.kind.as_deref() {
            None | Some("" | "s3") => {}
            Some("azure") => return fault("type", "Azure is not supported by this hub: expected s3"),
            Some(_) => return fault("type", "must be a valid value."),
        }
        if self.proxy_uri.as_ref().is_some_and(|uri| !uri.is_empty()) {
            return fault("proxy_uri", "is not supported by this hub: set external_uri");
        }
        for (member, text) in
            [("region", &self.region), ("bucket", &self.bucket), ("key", &self.key), ("secret", &self.secret)]
        {
            if text.is_empty() {
                return fault(member, "cannot be blank.");
            }
        }
        if !self.region.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-') {
            return fault("region", "must be letters, digits and hyphens.");
        }
        // They go into headers.
        let texts = [("key", Some(&self.key)), ("secret", Some(&self.secret)), ("token", self.token.as_ref())];
        for (member, text) in texts {
            if text.is_some_and(|text| !text.chars().all(|letter| letter.is_ascii_graphic())) {
                return fault(member, "must be printable ASCII.");
            }
        }
        let is_between = |text: &str, from: usize, to: usize| (from..=to).contains(&text.chars().count());
        if !is_between(&self.region, 5, 20) {
            return fault("region", "the length must be between 5 and 20.");
        }
        if !is_between(&self.bucket, 5, 100) {
            return fault("bucket", "the length must be between 5 and 100.");
        }
        if !is_bucket(&self.bucket) {
            return fault("bucket", "must be lower-case letters, digits, hyphens and dots.");
        }
        if !is_between(&self.key, 5, 50) {
            return fault("key", "the length must be between 5 and 50.");
        }
        if !is_between(&self.secret, 5, 100) {
            return fault("secret", "the length must be between 5 and 100.");
        }
        if self.token.as_ref().is_some_and(|token| !is_between(token, 5, 100)) {
            return fault("token", "the length must be between 5 and 100.");
        }
        for (member, uri) in [("uri", &self.uri), ("external_uri", &self.external_uri)] {
            if uri.as_ref().is_some_and(|uri| !is_between(uri, 3, 2000)) {
                return fault(member, "the length must be between 3 and 2000.");
            }
        }
        Ok(())
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts have a JSON form")
    }

    pub(super) fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Members that are there without saying anything are as good as left out.
    #[must_use]
    pub fn without_blanks(mut self) -> Self {
        for text in [&mut self.kind, &mut self.token, &mut self.uri, &mut self.external_uri, &mut self.proxy_uri] {
            if text.as_ref().is_some_and(String::is_empty) {
                *text = None;
            }
        }
        self
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Good ones, changed.
    pub(in crate::artifact_stores) fn settings(change: impl FnOnce(&mut StoreSettings)) -> StoreSettings {
        let mut settings = StoreSettings {
            region: "eu-west-1".to_owned(),
            bucket: "fleet".to_owned(),
            key: "mooring".to_owned(),
            secret: "hunter2".to_owned(),
            ..StoreSettings::default()
        };
        change(&mut settings);
        settings
    }

    fn said(change: impl FnOnce(&mut StoreSettings)) -> String {
        settings(change).check().map_or_else(|fault| fault.to_string(), |()| String::new())
    }

    #[test]
    fn every_member_has_bounds() {
        assert_eq!(said(|_| ()), "");
        assert_eq!(said(|it| it.kind = Some("s3".to_owned())), "");
        assert!(said(|it| it.kind = Some("azure".to_owned())).starts_with("type: Azure is not supported"));
        assert_eq!(said(|it| it.kind = Some("ftp".to_owned())), "type: must be a valid value.");
        assert_eq!(said(|it| it.bucket = String::new()), "bucket: cannot be blank.");
        assert_eq!(
            said(|it| it.bucket = "Fleet".to_owned()),
            "bucket: must be lower-case letters, digits, hyphens and dots."
        );
        assert_eq!(said(|it| it.key = "four".to_owned()), "key: the length must be between 5 and 50.");
        assert_eq!(said(|it| it.key = "k".repeat(51)), "key: the length must be between 5 and 50.");
        assert_eq!(said(|it| it.secret = "s".repeat(101)), "secret: the length must be between 5 and 100.");
        assert_eq!(said(|it| it.key = "mooring\n".to_owned()), "key: must be printable ASCII.");
        assert_eq!(said(|it| it.token = Some("tökens".to_owned())), "token: must be printable ASCII.");
        assert_eq!(said(|it| it.region = "a.example".to_owned()), "region: must be letters, digits and hyphens.");
        assert_eq!(said(|it| it.region = String::new()), "region: cannot be blank.");
        assert_eq!(said(|it| it.region = "r".repeat(21)), "region: the length must be between 5 and 20.");
        assert_eq!(said(|it| it.token = Some("four".to_owned())), "token: the length must be between 5 and 100.");
        assert_eq!(said(|it| it.uri = Some("ab".to_owned())), "uri: the length must be between 3 and 2000.");
        assert_eq!(
            said(|it| it.external_uri = Some("u".repeat(2001))),
            "external_uri: the length must be between 3 and 2000."
        );
        assert!(said(|it| it.proxy_uri = Some("https://proxy".to_owned())).starts_with("proxy_uri: is not supported"));
    }

    #[test]
    fn what_was_left_out_stays_out() {
        let text = r#"{"region":"eu-west-1","bucket":"fleet","key":"mooring","secret":"hunter2","uri":"","force_path_style":true}"#;
        let settings = StoreSettings::from_json(text).unwrap().without_blanks();
        assert_eq!(settings.to_json(), text.replace(r#""uri":"","#, ""));
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
