//! What clients keep for users: opaque to the hub, and bounded.

use std::collections::BTreeMap;

use serde_json::Value;
use storage::{SettingsDocument, SettingsOwner, TokenId};

use super::{AccountError, Accounts};

/// Most members of a document.
const MEMBERS_LIMIT: usize = 1024;

/// Longest name of a member, in characters.
const LONGEST_NAME: usize = 128;

/// Longest text of a member, in characters. Deeper values are bounded by the size of a request.
const LONGEST_TEXT: usize = 4096;

impl Accounts {
    /// The settings of an owner; `None` if nothing was ever stored.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn settings(&self, owner: SettingsOwner<'_>) -> Result<Option<SettingsDocument>, AccountError> {
        Ok(self.0.users.settings(owner).await?)
    }

    /// Replaces the settings of an owner by `document`, the text of a JSON object. With `expected` only if that is still
    /// their etag, or if there are none yet.
    ///
    /// # Errors
    /// `Invalid` for what is no object or too large, `Outdated`, `Unavailable`.
    pub async fn replace_settings(
        &self,
        owner: SettingsOwner<'_>,
        document: &str,
        expected: Option<&str>,
    ) -> Result<(), AccountError> {
        check(document)?;
        let settings = SettingsDocument { document: document.to_owned(), etag: TokenId::random().to_string() };
        if self.0.users.replace_settings(owner, &settings, expected).await? {
            Ok(())
        } else {
            Err(AccountError::Outdated)
        }
    }
}

fn check(document: &str) -> Result<(), AccountError> {
    let invalid = |text: &'static str| Err(AccountError::Invalid(text.into()));
    let Ok(members) = serde_json::from_str::<BTreeMap<String, Value>>(document) else {
        return invalid("cannot parse request body as json");
    };
    if members.len() > MEMBERS_LIMIT {
        return invalid("too many settings: expected at most 1024");
    }
    if members.keys().any(|name| name.chars().count() > LONGEST_NAME) {
        return invalid("the name of a setting is too long: expected at most 128 characters");
    }
    if members.values().any(|value| value.as_str().is_some_and(|text| text.chars().count() > LONGEST_TEXT)) {
        return invalid("the text of a setting is too long: expected at most 4096 characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_within_bounds_are_settings() {
        let text = |length: usize| "ü".repeat(length);
        let members = |count: usize| {
            let members: Vec<String> = (0..count).map(|number| format!("\"{number}\":{number}")).collect();
            format!("{{{}}}", members.join(","))
        };
        for good in [
            "{}".to_owned(),
            r#" {"_id":1,"deep":{"etag":[null]}} "#.to_owned(),
            members(MEMBERS_LIMIT),
            format!(r#"{{"{}":"{}"}}"#, text(LONGEST_NAME), text(LONGEST_TEXT)),
            format!(r#"{{"list":["{}"]}}"#, text(LONGEST_TEXT + 1)),
        ] {
            check(&good).unwrap();
        }
        for bad in [
            String::new(),
            "null".to_owned(),
            "[]".to_owned(),
            "\"text\"".to_owned(),
            "{".to_owned(),
            "{} {}".to_owned(),
            members(MEMBERS_LIMIT + 1),
            format!(r#"{{"{}":1}}"#, text(LONGEST_NAME + 1)),
            format!(r#"{{"a":"{}"}}"#, text(LONGEST_TEXT + 1)),
        ] {
            assert!(matches!(check(&bad), Err(AccountError::Invalid(_))), "{bad:.40}");
        }
    }
}
