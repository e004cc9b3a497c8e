//! What is asked about deployments.

use storage::{DeploymentFilter, DeploymentState, DeviceState, Direction, Timestamp};

use super::DEVICE_LIMIT;
use crate::error::ApiError;
use crate::paging::Query;

/// Bytes of a text to look for.
const TEXT_LIMIT: usize = 4096;

/// Values of one name that one question may have.
const VALUES_LIMIT: usize = 100;

/// Which deployments a list of version 1 is to have.
///
/// # Errors
/// A 400 that names the parameter.
pub fn deployments_v1(query: &Query) -> Result<(DeploymentFilter, Direction), ApiError> {
    let (mut filter, direction) = common(query)?;
    filter.text = query.first("search").map(|text| checked("search", text)).transpose()?;
    Ok((filter, direction))
}

/// Which deployments a list of version 2 is to have.
///
/// # Errors
/// A 400 that names the parameter.
pub fn deployments_v2(query: &Query) -> Result<(DeploymentFilter, Direction), ApiError> {
    let (mut filter, direction) = common(query)?;
    filter.names = values(query, "name")?;
    for id in values(query, "id")? {
        filter.ids.push(super::deployment_id(&id)?);
    }
    Ok((filter, direction))
}

fn common(query: &Query) -> Result<(DeploymentFilter, Direction), ApiError> {
    let invalid = |name: &str| ApiError::bad_request(format!("invalid {name} query"));
    let state = match query.first("status") {
        None => None,
        // It is how some of those that are over ended.
        Some("aborted") => Some(DeploymentState::Finished),
        Some(word) => Some(word.parse().map_err(|_| invalid("status"))?),
    };
    let kind = query.first("type").map(str::parse).transpose().map_err(|_| invalid("type"))?;
    let seconds = |name: &str| -> Result<Option<Timestamp>, ApiError> {
        query.first(name).map(|text| text.parse().map(Timestamp::from_seconds).map_err(|_| invalid(name))).transpose()
    };
    let direction = match query.first("sort") {
        None | Some("desc") => Direction::Descending,
        Some("asc") => Direction::Ascending,
        Some(_) => return Err(invalid("sort")),
    };
    // A deployment of that second is before its end.
    let until = seconds("created_before")?.map(|second| Timestamp(second.0.saturating_add(999_999)));
    let filter =
        DeploymentFilter { state, kind, from: seconds("created_after")?, until, ..DeploymentFilter::default() };
    Ok((filter, direction))
}

/// How a name may be an attribute of a device instead.
#[derive(Debug, PartialEq, Eq)]
pub struct ByAttribute {
    /// Its scope.
    pub scope: &'static str,
    /// Its name.
    pub attribute: String,
    /// Its values, any of them.
    pub values: Vec<String>,
}

/// The attribute by which names are looked for if no deployment has them, if one is named. (Mender API: `id_attribute`.)
///
/// # Errors
/// A 400 for a scope without an attribute, or another than there are.
pub fn by_attribute(query: &Query, names: &[String]) -> Result<Option<ByAttribute>, ApiError> {
    let (attribute, scope) = (query.first("id_attribute"), query.first("id_scope"));
    let Some(attribute) = attribute else {
        return if scope.is_some() { Err(ApiError::bad_request("id_scope without id_attribute")) } else { Ok(None) };
    };
    let scope = match (scope, attribute) {
        (None | Some("tags"), "name") => "tags",
        (None | Some("identity"), _) => "identity",
        (Some("tags"), _) => return Err(ApiError::bad_request("id_scope: tags goes with the attribute name only")),
        (Some(_), _) => return Err(ApiError::bad_request("id_scope: must be identity or tags")),
    };
    let attribute = checked("id_attribute", attribute)?;
    Ok((!names.is_empty()).then(|| ByAttribute { scope, attribute, values: names.to_vec() }))
}

fn values(query: &Query, name: &str) -> Result<Vec<String>, ApiError> {
    let values: Vec<String> =
        query.all(name).take(VALUES_LIMIT + 1).map(|value| checked(name, value)).collect::<Result<_, _>>()?;
    if values.len() > VALUES_LIMIT {
        return Err(ApiError::bad_request(format!("{name}: at most {VALUES_LIMIT} values are taken")));
    }
    Ok(values)
}

fn checked(name: &str, text: &str) -> Result<String, ApiError> {
    if text.len() > TEXT_LIMIT || text.contains('\0') {
        return Err(ApiError::bad_request(format!("{name} is too long or has the character NUL in it")));
    }
    Ok(text.to_owned())
}

/// At which statuses devices are to stand; none: at any.
///
/// # Errors
/// A 400 for what is no status.
pub fn states(query: &Query) -> Result<Vec<DeviceState>, ApiError> {
    let all = DeviceState::ALL.into_iter();
    Ok(match query.first("status") {
        None => vec![],
        Some("pause") => vec![
            DeviceState::PauseBeforeInstalling,
            DeviceState::PauseBeforeCommitting,
            DeviceState::PauseBeforeRebooting,
        ],
        Some("active") => all.filter(|state| state.is_active()).collect(),
        Some("finished") => all.filter(|state| !state.is_active()).collect(),
        Some(word) => vec![word.parse().map_err(|_| ApiError::bad_request("invalid status query"))?],
    })
}

/// Whether something may be the id of a device.
pub fn may_be_device(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0') && text.chars().count() <= DEVICE_LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(query: &str) -> Result<(DeploymentFilter, Direction), String> {
        deployments_v1(&Query::parse(query)).map_err(|error| error.to_string())
    }

    #[test]
    fn times_are_whole_seconds_that_count_in() {
        let (filter, direction) = v1("created_after=10&created_before=12&sort=asc").unwrap();
        assert_eq!((filter.from, filter.until), (Some(Timestamp(10_000_000)), Some(Timestamp(12_999_999))));
        assert_eq!(direction, Direction::Ascending);
        for query in ["created_after=x", "created_before=1.5", "sort=up", "status=over", "type=hardware"] {
            assert!(v1(query).is_err(), "{query}");
        }
        assert_eq!(v1("status=aborted").unwrap().0.state, Some(DeploymentState::Finished));
    }

    #[test]
    fn values_of_one_question_are_bounded() {
        let names = |count: usize| "name=a&".repeat(count);
        assert!(deployments_v2(&Query::parse(&names(VALUES_LIMIT))).is_ok());
        assert!(deployments_v2(&Query::parse(&names(VALUES_LIMIT + 1))).is_err());
        assert!(v1(&format!("search={}", "x".repeat(TEXT_LIMIT + 1))).is_err());
        assert!(may_be_device(&"ä".repeat(DEVICE_LIMIT)) && !may_be_device(&"ä".repeat(DEVICE_LIMIT + 1)));
        assert!(!may_be_device(""));
    }

    #[test]
    fn a_name_may_be_an_attribute_of_a_device() {
        let names = ["a".to_owned()];
        let scope = |query| by_attribute(&Query::parse(query), &names).map(|by| by.map(|by| by.scope));
        assert_eq!(scope("").unwrap(), None);
        assert_eq!(scope("id_attribute=name").unwrap(), Some("tags"));
        assert_eq!(scope("id_attribute=mac").unwrap(), Some("identity"));
        assert_eq!(scope("id_attribute=name&id_scope=identity").unwrap(), Some("identity"));
        for query in ["id_scope=tags", "id_attribute=mac&id_scope=tags", "id_attribute=mac&id_scope=system"] {
            assert!(scope(query).is_err(), "{query}");
        }
    }
}
