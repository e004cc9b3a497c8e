//! What can be wrong with a file, in words for whoever uploaded it.

use std::io;

/// Why a file is no artifact that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not even begin like one.
    #[error("not an artifact: {0}")]
    NotAnArtifact(&'static str),
    /// It stops where more has to follow.
    #[error("the artifact ends early, in {0}")]
    Truncated(String),
    /// Something follows where it should end.
    #[error("unexpected data after the end of {0}")]
    Trailing(String),
    /// A version of the format that is not read here.
    #[error("unsupported version {0}; supported versions are 2 and 3")]
    UnsupportedVersion(String),
    /// Another format that looks like this one.
    #[error("unsupported format {0:?}; expected \"mender\"")]
    UnsupportedFormat(String),
    /// A member that cannot be read.
    #[error("cannot read {member}: {why}")]
    Malformed {
        /// Which.
        member: String,
        /// Why.
        why: String,
    },
    /// Something other than what has to come here.
    #[error("unexpected {found}, expected {expected}")]
    Unexpected {
        /// What came.
        found: String,
        /// What should have.
        expected: String,
    },
    /// Content that is not what the manifest says.
    #[error("invalid checksum of {0}")]
    WrongChecksum(String),
    /// Content that the manifest does not vouch for.
    #[error("{0} is not in the manifest")]
    NotInManifest(String),
    /// The manifest speaks of something that is not there.
    #[error("{0} is in the manifest but not in the artifact")]
    Missing(String),
    /// The same thing twice.
    #[error("{0} stands there twice")]
    Duplicate(String),
    /// A name that leads elsewhere, or that no file may have.
    #[error("invalid name {0:?}")]
    InvalidName(String),
    /// More than is taken.
    #[error("{what} is too large: at most {limit} are allowed")]
    TooLarge {
        /// Of what.
        what: String,
        /// How much is taken, with its unit.
        limit: String,
    },
    /// A statement in the header that makes no sense.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// A key that header and payloads, or two payloads, both state. (Mender API: this text.)
    #[error("Conflicting keys not allowed in the {kind} parameters. key: {key}")]
    ConflictingKeys {
        /// `provides` or `depends`.
        kind: &'static str,
        /// Which.
        key: String,
    },
    /// No key of ours made its signature.
    #[error("the signature is not by any of the configured keys")]
    WrongSignature,
    /// It has to be signed and is not.
    #[error("the artifact is not signed")]
    NotSigned,
}

/// Why a file was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is no artifact that we take.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Its bytes did not arrive, which says nothing about the file.
    #[error("cannot read the artifact")]
    Source(#[source] io::Error),
}

impl ReadError {
    /// As an error of a stream of bytes, which is how it gets through the decompressors.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// What an error that came out of reading `member` means.
    pub(super) fn from_io(error: io::Error, member: &str) -> Self {
        if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Self>) {
            let inner = error.into_inner().expect("it has an inner error");
            return *inner.downcast().expect("of this type");
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Fault::Truncated(member.to_owned()).into();
        }
        Fault::Malformed { member: member.to_owned(), why: error.to_string() }.into()
    }
}
