//! `GET /devices`: the fleet page by page, with filters and order in the query. (Mender API: inventory, management v1.)

use actix_web::{HttpRequest, HttpResponse, web};
use storage::inventory::filter::{Condition, Filter};
use storage::inventory::order::SortKey;
use storage::inventory::search::Search;
use storage::inventory::{INVENTORY, SYSTEM};

use super::DeviceBody;
use super::search::{SORT_KEYS, refused};
use crate::auth::AuthenticatedUser;
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Where lists say their pages are, whichever alias was asked.
const DEVICES: &str = "/api/management/v1/inventory/devices";

/// A page of devices, those that are equal in the order by their ids so that paging meets every device once.
///
/// # Errors
/// 400 for a query against the grammar.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let search = Search {
        filter: filter(&query)?,
        order: order(&query)?,
        offset: u64::from(page.offset()),
        limit: page.size,
        ..Search::default()
    };
    let found = state.storage.inventory.search(&search).await?;
    Ok(answer_page(
        DEVICES,
        &query,
        page,
        Extent::Total(found.total),
        &found.devices.into_iter().map(DeviceBody::from).collect::<Vec<_>>(),
    ))
}

fn filter(query: &Query) -> Result<Filter, ApiError> {
    let mut conditions = Vec::new();
    for (name, value) in query.pairs() {
        conditions.push(match name {
            "page" | "per_page" | "sort" => continue,
            "group" => Condition::equals(SYSTEM, "group", value),
            "has_group" => match value {
                "true" => Condition::exists(SYSTEM, "group", true),
                "false" => Condition::exists(SYSTEM, "group", false),
                _ => return Err(ApiError::bad_request("invalid has_group query: expected true or false")),
            },
            name => {
                let (scope, name) = attribute(name)?;
                // No other operator is known here, so any other text before a colon is part of the value.
                Condition::loosely_equal(scope, name, value.strip_prefix("eq:").unwrap_or(value))
            }
        });
    }
    Filter::new(conditions).map_err(refused)
}

fn order(query: &Query) -> Result<Vec<SortKey>, ApiError> {
    let mut keys = Vec::new();
    for key in query.all("sort").flat_map(|keys| keys.split(',')) {
        let (name, descending) = match key.rsplit_once(':') {
            Some((name, "asc")) => (name, false),
            Some((name, "desc")) => (name, true),
            Some(_) => return Err(ApiError::bad_request("invalid sort query: the order must be asc or desc")),
            None => (key, true),
        };
        let (scope, name) = attribute(name)?;
        keys.push(SortKey { scope: scope.to_owned(), name: name.to_owned(), descending });
    }
    if keys.len() > SORT_KEYS {
        return Err(ApiError::bad_request(format!("invalid sort query: at most {SORT_KEYS} keys are taken")));
    }
    Ok(keys)
}

/// `[scope/]name`.
fn attribute(text: &str) -> Result<(&str, &str), ApiError> {
    let (scope, name) = text.split_once('/').unwrap_or((INVENTORY, text));
    if scope.is_empty() || name.is_empty() {
        return Err(ApiError::bad_request("invalid query: expected [scope/]name"));
    }
    Ok((scope, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(query: &str) -> Result<Vec<(String, String, bool)>, String> {
        let order = order(&Query::parse(query)).map_err(|error| error.to_string())?;
        Ok(order.into_iter().map(|key| (key.scope, key.name, key.descending)).collect())
    }

    #[test]
    fn an_order_is_descending_unless_it_says_otherwise() {
        let key = |scope: &str, name: &str, descending| (scope.to_owned(), name.to_owned(), descending);
        assert_eq!(keys("sort=a").unwrap(), [key("inventory", "a", true)]);
        assert_eq!(keys("sort=tags/a:asc,b:desc").unwrap(), [key("tags", "a", false), key("inventory", "b", true)]);
        for wrong in ["sort=a:up", "sort=a:asc:x", "sort=/a", "sort=a/", "sort=:asc"] {
            assert!(keys(wrong).is_err(), "{wrong}");
        }
        assert!(keys(&format!("sort={}", ["a"; SORT_KEYS + 1].join(","))).is_err());
    }

    #[test]
    fn everything_else_is_a_filter() {
        let conditions = |query: &str| filter(&Query::parse(query)).unwrap().conditions().to_vec();
        assert_eq!(conditions("page=2&sort=a&mac=de:ad"), [Condition::loosely_equal("inventory", "mac", "de:ad")]);
        assert_eq!(conditions("x/idx=eq:5"), [Condition::loosely_equal("x", "idx", "5")]);
        assert!(filter(&Query::parse("has_group=maybe")).is_err());
    }
}
