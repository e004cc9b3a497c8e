//! Links by which somebody who holds nothing else may fetch or bring one object for a while.

use std::time::Duration;

use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions};
use url::Url;

use super::{Objects, failure};
use crate::StorageError;

/// Shortest and longest life of a link. (Amazon S3: signature version 4 in queries)
const LIFETIMES: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(7 * 24));

/// What a link allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTo {
    /// Fetching the object.
    Fetch {
        /// The media type it is to be served as.
        media_type: String,
        /// The name it is to be saved under.
        file_name: String,
    },
    /// Bringing the object.
    Bring,
}

impl Objects {
    /// A link to the object with this path, for `lifetime` (a minute to a week). `None` if the store has no server of its
    /// own: then the hub has to serve the object itself.
    ///
    /// # Errors
    /// `Unavailable` if no credentials can be had, `Other`.
    pub async fn link(&self, path: &str, to: &LinkTo, lifetime: Duration) -> Result<Option<Url>, StorageError> {
        let Some(remote) = &self.remote else { return Ok(None) };
        let lifetime = lifetime.clamp(LIFETIMES.0, LIFETIMES.1);
        let (method, options) = match to {
            LinkTo::Bring => (Method::PUT, SignedUrlOptions::new()),
            LinkTo::Fetch { media_type, file_name } => {
                let options = SignedUrlOptions::new().with_query([
                    ("response-content-type", media_type.clone()),
                    ("response-content-disposition", attachment(file_name)),
                ]);
                (Method::GET, options)
            }
        };
        let signed = remote.signer.signed_url_opts(method, &Path::from(path), lifetime, &options).await;
        signed.map(Some).map_err(|error| failure(format!("cannot make a link to object {path}"), error))
    }
}

/// The value of `Content-Disposition` that saves a file under this name. (RFC 6266; what a quoted text cannot hold is
/// replaced.)
pub fn attachment(file_name: &str) -> String {
    let plain =
        |letter: char| if letter.is_ascii_graphic() && !matches!(letter, '"' | '\\' | '/') { letter } else { '_' };
    let plain: String = file_name.chars().map(|letter| if letter == ' ' { ' ' } else { plain(letter) }).collect();
    format!("attachment; filename=\"{plain}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_quotes() {
        assert_eq!(attachment("app-2.1.mender"), "attachment; filename=\"app-2.1.mender\"");
        assert_eq!(attachment("a\"; b\\c/é\r\n.mender"), "attachment; filename=\"a_; b_c____.mender\"");
    }
}
