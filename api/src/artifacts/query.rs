//! What is asked about artifacts and releases.

use storage::{ArtifactFilter, ArtifactSort, Direction, ReleaseFilter, ReleaseSort, TextMatch};

use crate::error::ApiError;
use crate::paging::Query;

/// Bytes of a text to look for: more than any name has.
const TEXT_LIMIT: usize = 4096;

/// Names that one question may have.
const NAMES_LIMIT: usize = 100;

/// Tags that one question may have.
const TAGS_LIMIT: usize = 100;

fn contains(query: &Query, name: &str) -> Result<Option<TextMatch>, ApiError> {
    text(query, name).map(|text| text.map(|text| TextMatch::Contains(text.to_owned())))
}

fn text<'a>(query: &'a Query, name: &str) -> Result<Option<&'a str>, ApiError> {
    query.first(name).map(|text| checked(name, text)).transpose()
}

fn checked<'a>(name: &str, text: &'a str) -> Result<&'a str, ApiError> {
    // Neither is in any text that is kept.
    if text.len() > TEXT_LIMIT || text.contains('\0') {
        return Err(ApiError::bad_request(format!(
            "invalid filter: {name} is too long or has the character NUL in it"
        )));
    }
    Ok(text)
}

/// What version 1 asks of artifacts: parts of texts.
pub fn artifacts_v1(query: &Query) -> Result<ArtifactFilter, ApiError> {
    Ok(ArtifactFilter {
        name: contains(query, "name")?,
        description: contains(query, "description")?,
        device_type: contains(query, "device_type")?,
    })
}

/// What version 2 asks of artifacts: whole texts, or how they begin (`app*`).
pub fn artifacts_v2(query: &Query) -> Result<ArtifactFilter, ApiError> {
    let invalid = |why: &str| ApiError::bad_request(format!("invalid filter: {why}"));
    let names: Vec<TextMatch> = query
        .all("name")
        .take(NAMES_LIMIT + 1)
        .map(|text| checked("name", text).map(whole_or_prefix))
        .collect::<Result<_, _>>()?;
    if names.len() > NAMES_LIMIT {
        return Err(invalid("at most 100 names are allowed"));
    }
    let prefixes = names.iter().filter(|name| matches!(name, TextMatch::StartsWith(_))).count();
    let name = match (names.len(), prefixes) {
        (0, _) => None,
        (1, _) => names.into_iter().next(),
        (_, 0) => {
            let all = names.into_iter().flat_map(|name| match name {
                TextMatch::OneOf(values) => values,
                TextMatch::Contains(_) | TextMatch::StartsWith(_) | TextMatch::StartsExactlyWith(_) => Vec::new(),
            });
            Some(TextMatch::OneOf(all.collect()))
        }
        _ => return Err(invalid("a prefix stands alone")),
    };
    let one = |member: &str| Ok::<_, ApiError>(text(query, member)?.map(whole_or_prefix));
    Ok(ArtifactFilter { name, description: one("description")?, device_type: one("device_type")? })
}

/// A star at the end stands for anything, one behind a backslash for itself.
fn whole_or_prefix(text: &str) -> TextMatch {
    let literal = |text: &str| text.replace("\\*", "*");
    match text.strip_suffix('*') {
        Some(prefix) if !prefix.ends_with('\\') => TextMatch::StartsWith(literal(prefix)),
        _ => TextMatch::OneOf(vec![literal(text)]),
    }
}

/// What version 1 asks of releases.
pub fn releases_v1(query: &Query) -> Result<ReleaseFilter, ApiError> {
    let exactly = |text: &str| TextMatch::OneOf(vec![text.to_owned()]);
    Ok(ReleaseFilter {
        name: contains(query, "name")?,
        description: contains(query, "description")?,
        device_type: text(query, "device_type")?.map(exactly),
        kind: text(query, "update_type")?.map(str::to_owned),
        tags: Vec::new(),
    })
}

/// What version 2 asks of releases.
pub fn releases_v2(query: &Query) -> Result<ReleaseFilter, ApiError> {
    Ok(ReleaseFilter {
        name: contains(query, "name")?,
        kind: text(query, "update_type")?.map(str::to_owned),
        tags: tags(query)?,
        ..ReleaseFilter::default()
    })
}

/// What is asked of software: whole names, or how they begin, both in the same upper and lower case.
pub fn software(query: &Query) -> Result<ReleaseFilter, ApiError> {
    let names: Vec<String> = query
        .all("name")
        .take(NAMES_LIMIT + 1)
        .map(|name| checked("name", name).map(str::to_owned))
        .collect::<Result<_, _>>()?;
    if names.len() > NAMES_LIMIT {
        return Err(ApiError::bad_request("invalid filter: at most 100 names are allowed"));
    }
    let prefix = text(query, "name_prefix")?;
    let name = match (names.is_empty(), prefix) {
        (false, Some(_)) => {
            return Err(ApiError::bad_request("parameters name and name_prefix are mutually exclusive"));
        }
        (true, None) => None,
        (true, Some(prefix)) => Some(TextMatch::StartsExactlyWith(prefix.to_owned())),
        (false, None) => Some(TextMatch::OneOf(names)),
    };
    Ok(ReleaseFilter {
        name,
        kind: text(query, "update_type")?.map(str::to_owned),
        tags: tags(query)?,
        ..ReleaseFilter::default()
    })
}

fn tags(query: &Query) -> Result<Vec<String>, ApiError> {
    let tags: Vec<String> = query
        .all("tag")
        .take(TAGS_LIMIT + 1)
        .map(|tag| checked("tag", tag).map(str::to_lowercase))
        .collect::<Result<_, _>>()?;
    if tags.len() > TAGS_LIMIT {
        return Err(ApiError::bad_request("invalid filter: at most 100 tags are allowed"));
    }
    Ok(tags)
}

/// The order of a list, `None` if none is asked for that there is.
fn order(query: &Query) -> Option<(&str, Direction)> {
    let (field, direction) = query.first("sort")?.split_once(':')?;
    match direction {
        "asc" => Some((field, Direction::Ascending)),
        "desc" => Some((field, Direction::Descending)),
        _ => None,
    }
}

/// The order of artifacts. What makes no sense is passed over.
pub fn artifact_order(query: &Query) -> (ArtifactSort, Direction) {
    match order(query) {
        Some(("name", direction)) => (ArtifactSort::Name, direction),
        Some(("modified", direction)) => (ArtifactSort::Modified, direction),
        _ => (ArtifactSort::Name, Direction::Ascending),
    }
}

fn known_release_order(query: &Query) -> Option<(ReleaseSort, Direction)> {
    let (field, direction) = order(query)?;
    let sort = match field {
        "name" => ReleaseSort::Name,
        "modified" => ReleaseSort::Modified,
        "artifacts_count" => ReleaseSort::Artifacts,
        "tags" => ReleaseSort::Tags,
        _ => return None,
    };
    Some((sort, direction))
}

/// The order of releases. What makes no sense is passed over.
pub fn release_order(query: &Query) -> (ReleaseSort, Direction) {
    known_release_order(query).unwrap_or_default()
}

/// The order of software.
///
/// # Errors
/// A 400 for one that makes no sense.
pub fn software_order(query: &Query) -> Result<(ReleaseSort, Direction), ApiError> {
    match (query.first("sort"), known_release_order(query)) {
        (None, _) => Ok((ReleaseSort::Name, Direction::Ascending)),
        (Some(_), Some(order)) if order.0 != ReleaseSort::Artifacts => Ok(order),
        (Some(_), _) => Err(ApiError::bad_request("invalid sort query")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(query: &str) -> Result<Option<TextMatch>, String> {
        artifacts_v2(&Query::parse(query)).map(|filter| filter.name).map_err(|error| error.to_string())
    }

    #[test]
    fn a_star_at_the_end_is_a_prefix_unless_it_is_escaped() {
        let whole = |texts: &[&str]| Some(TextMatch::OneOf(texts.iter().map(|&text| text.to_owned()).collect()));
        let prefix = |text: &str| Some(TextMatch::StartsWith(text.to_owned()));
        assert_eq!(name(""), Ok(None));
        assert_eq!(name("name=a&name=b"), Ok(whole(&["a", "b"])));
        assert_eq!(name("name=app*"), Ok(prefix("app")));
        assert_eq!(name("name=app\\*"), Ok(whole(&["app*"])));
        assert_eq!(name("name=a\\*b*"), Ok(prefix("a*b")));
        assert_eq!(name("name=a*b"), Ok(whole(&["a*b"])));
        for query in ["name=a*&name=b", "name=a*&name=b*", &format!("name={}", "a&name=".repeat(100) + "b")] {
            assert!(name(query).unwrap_err().starts_with("invalid filter: "), "{query}");
        }
        assert!(name(&format!("name={}", "a".repeat(5000))).is_err());
        assert!(name("name=a%00").is_err());
    }

    #[test]
    fn an_order_without_sense_is_passed_over_or_refused() {
        let of = |query: &str| release_order(&Query::parse(query));
        assert_eq!(of("sort=modified:desc"), (ReleaseSort::Modified, Direction::Descending));
        for query in ["", "sort=modified", "sort=modified:down", "sort=colour:asc", "sort=:"] {
            assert_eq!(of(query), (ReleaseSort::Name, Direction::Ascending), "{query}");
        }
        let software = |query: &str| software_order(&Query::parse(query)).is_ok();
        assert!(software("") && software("sort=tags:asc"));
        assert!(!software("sort=modified") && !software("sort=colour:asc"));
    }

    #[test]
    fn names_and_their_beginning_exclude_one_another() {
        assert!(software(&Query::parse("name=a&name_prefix=b")).is_err());
        let filter = software(&Query::parse("name=a&tag=BLUE")).unwrap();
        assert_eq!((filter.name, filter.tags), (Some(TextMatch::OneOf(vec!["a".into()])), vec!["blue".to_owned()]));
    }
}
