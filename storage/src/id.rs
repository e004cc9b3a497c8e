//! Identifiers: one type for each kind of thing, so that two swapped arguments do not compile.

use serde::{Deserialize, Serialize};

/// The text was not an identifier in the one form we accept: 36 characters, lower-case hexadecimal with hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: expected 36 characters like 0c5b8a0e-8d6e-4d1f-9c55-1a8f7c1d2e3f")]
pub struct InvalidId;

/// Declares identifiers over [`uuid::Uuid`]: text on the wire, `UUID` in Postgres, a 16-byte `BLOB` in `SQLite`.
macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// A new random identifier (UUID version 4).
            #[must_use]
            pub fn random() -> Self {
                Self(uuid::Uuid::new_v4())
            }

            /// The identifier with this value.
            #[must_use]
            pub const fn from_uuid(value: uuid::Uuid) -> Self {
                Self(value)
            }

            /// The bare value.
            #[must_use]
            pub const fn uuid(self) -> uuid::Uuid {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self.0.as_hyphenated(), formatter)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

id! {
    /// A device. Chosen by the hub at first contact; a device that was removed and returns gets another one.
    DeviceId,
    /// A key a device has asked to join with. Also the `jti` of the device's tokens.
    AuthSetId,
    /// A user's token: the `jti` of a session or personal access token.
    TokenId,
    /// A session between an operator and a device (terminal, transfer, forward).
    SessionId,
    /// One socket's part in a session: an operator's who types or watches.
    AttachmentId,
    /// A saved filter.
    FilterId,
    /// A piece of background work.
    JobId,
    /// An alert a device sent, or the hub raised for it.
    AlertId,
    /// A place alerts are sent to.
    ChannelId,
    /// A reason not to send some of them.
    MuteId,
    /// A rule by which the hub raises alerts itself.
    RuleId,
    /// An artifact: one file that devices install.
    ArtifactId,
    /// An artifact on its way into the hub.
    UploadId,
    /// A store of artifacts beside the hub's own.
    StoreId,
    /// An order to install a release on devices.
    DeploymentId,
    /// A device's part in one.
    DeviceDeploymentId,
    /// A phase of a deployment.
    PhaseId,
    /// One running hub process; a restarted process has another one.
    NodeId,
}

/// Only the form we print: `Uuid::parse_str` would also take braces, URNs, upper case and text without hyphens, and one
/// thing must not have two names.
fn parse(text: &str) -> Result<uuid::Uuid, InvalidId> {
    let bytes = text.as_bytes();
    if bytes.len() != uuid::fmt::Hyphenated::LENGTH || bytes.iter().any(u8::is_ascii_uppercase) {
        return Err(InvalidId);
    }
    uuid::Uuid::try_parse(text).map_err(|_| InvalidId)
}

/// A user: opaque text, since whoever creates a user on the command line may choose it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct UserId(String);

impl UserId {
    /// A new random identifier (the text of a UUID version 4).
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    /// The identifier with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for UserId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<&str> for UserId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for UserId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Number of one connection of a device. Later connections of the same device have larger numbers, on every node, so a
/// write that carries an older one is late and must change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Epoch(pub i64);

impl std::fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_after_text_and_json() {
        let id = DeviceId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).expect("ids are serialisable");
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<DeviceId>(&json).expect("own output is readable"), id);
    }

    #[test]
    fn only_the_printed_form_is_an_id() {
        let id = DeviceId::random();
        let simple = id.uuid().simple().to_string();
        let spellings = [
            simple.clone(),
            format!("{{{id}}}"),
            format!("urn:uuid:{id}"),
            "0C5B8A0E-8D6E-4D1F-9C55-1A8F7C1D2E3F".to_owned(),
            String::new(),
            "é".repeat(18),
        ];
        for spelling in spellings {
            assert_eq!(spelling.parse::<DeviceId>(), Err(InvalidId), "{spelling}");
        }
    }
}
