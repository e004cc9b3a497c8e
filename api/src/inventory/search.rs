//! Searches whose question is in the body. (Mender API: inventory, management v2.)

use std::collections::HashSet;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use storage::DeviceId;
use storage::inventory::filter::{BadFilter, Condition, Filter, Grammar, check_attribute};
use storage::inventory::order::SortKey;
use storage::inventory::search::{FreeText, Search};

use super::{Projection, project};
use crate::auth::AuthenticatedUser;
use crate::body::RawJson;
use crate::error::ApiError;
use crate::paging::{Extent, MAX_PER_PAGE, Page, Query, answer_page};
use crate::state::ApiState;

/// Keys in one order.
pub const SORT_KEYS: usize = 10;

/// Attributes in one projection.
const PROJECTED: usize = 1_000;

/// Devices that a search may be restricted to by their ids.
const DEVICES: usize = 10_000;

/// Bytes of a free text.
const TEXT: usize = 1024;

/// `POST /filters/search`.
///
/// # Errors
/// 400 for a question against the rules, 422 for one that would take too long.
pub async fn search(_: AuthenticatedUser, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    answer(&state, &body).await
}

/// Answers the search in a body, whoever asks.
///
/// # Errors
/// As [`search`].
pub async fn answer(state: &ApiState, body: &RawJson) -> Result<HttpResponse, ApiError> {
    let asked: SearchBody = if body.is_empty() {
        return Err(ApiError::bad_request("failed to decode search: the body is empty"));
    } else {
        body.object("failed to decode search")?
    };
    let wanted = asked.read(Grammar::Inventory)?;
    answer_search(state, &wanted.search, &wanted.projection, wanted.page, "/api/management/v2/inventory/filters/search")
        .await
}

/// How long parts of an answer took, in milliseconds. (W3C Server Timing)
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Answers a search, and says how long the exact number took that is part of it.
pub(crate) async fn answer_search(
    state: &ApiState,
    search: &Search,
    projection: &Projection,
    page: Page,
    path: &str,
) -> Result<HttpResponse, ApiError> {
    let found = state.storage.inventory.search(search).await?;
    let devices: Vec<_> = found.devices.into_iter().map(|device| project(device, projection)).collect();
    let mut answer = answer_page(path, &Query::default(), page, Extent::Total(found.total), &devices);
    let counting = format!("total;dur={:.3}", found.counting.as_secs_f64() * 1e3);
    let counting = HeaderValue::try_from(counting).expect("a number is printable");
    answer.headers_mut().insert(SERVER_TIMING, counting);
    Ok(answer)
}

/// A search as it is sent. All members may be missing, or null.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct SearchBody {
    page: Option<i64>,
    per_page: Option<i64>,
    filters: Option<Vec<PredicateBody>>,
    sort: Option<Vec<SortBody>>,
    attributes: Option<Vec<AttributeName>>,
    device_ids: Option<Vec<String>>,
    text: Option<String>,
}

/// One condition as it is sent, and sent back.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct PredicateBody {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    pub(crate) attribute: String,
    #[serde(default, rename = "type")]
    pub(crate) operator: String,
    #[serde(default)]
    pub(crate) value: Value,
}

/// A key of an order as it is sent.
#[derive(Debug, Deserialize)]
pub(crate) struct SortBody {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    pub(crate) attribute: String,
    #[serde(default)]
    order: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AttributeName {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    pub(crate) attribute: String,
}

/// A search that makes sense.
pub(crate) struct Wanted {
    pub search: Search,
    pub projection: Projection,
    pub page: Page,
}

impl SearchBody {
    /// The same without free text.
    pub(crate) fn without_text(self) -> Self {
        Self { text: None, ..self }
    }

    pub(crate) fn read(self, grammar: Grammar) -> Result<Wanted, ApiError> {
        let page = page(self.page, self.per_page)?;
        let text = match self.text {
            Some(text) if text.len() > TEXT => {
                return Err(ApiError::bad_request(format!("text: the length must be no more than {TEXT}.")));
            }
            text => text.as_deref().and_then(FreeText::new),
        };
        let search = Search {
            filter: conditions(self.filters.as_deref().unwrap_or_default(), grammar)?,
            after: None,
            devices: device_ids(self.device_ids.as_deref().unwrap_or_default())?,
            text,
            areas: Vec::new(),
            order: self.sort.unwrap_or_default().into_iter().map(SortBody::read).collect::<Result<_, _>>()?,
            offset: u64::from(page.offset()),
            limit: page.size,
        };
        if search.order.len() > SORT_KEYS {
            return Err(ApiError::bad_request(format!("sort: at most {SORT_KEYS} keys are taken")));
        }
        Ok(Wanted { search, projection: projection(self.attributes.unwrap_or_default())?, page })
    }
}

impl SortBody {
    fn read(self) -> Result<SortKey, ApiError> {
        check_attribute(&self.scope, &self.attribute).map_err(refused)?;
        let descending = self.is_descending()?;
        Ok(SortKey { scope: self.scope, name: self.attribute, descending })
    }

    /// Whether the largest comes first.
    pub(crate) fn is_descending(&self) -> Result<bool, ApiError> {
        match self.order.as_str() {
            "asc" => Ok(false),
            "desc" => Ok(true),
            _ => Err(ApiError::bad_request("order: must be a valid value.")),
        }
    }
}

/// The 400 of a question that is none.
pub(crate) fn refused(bad: BadFilter) -> ApiError {
    ApiError::bad_request(bad.0)
}

/// Numbers below 1 ask for nothing in particular.
pub(crate) fn page(number: Option<i64>, size: Option<i64>) -> Result<Page, ApiError> {
    let or_default = |number: Option<i64>, default: u32| match number {
        Some(number) if number >= 1 => u32::try_from(number).unwrap_or(u32::MAX),
        _ => default,
    };
    let page = Page { number: or_default(number, 1), size: or_default(size, 20) };
    if page.size > MAX_PER_PAGE {
        return Err(ApiError::bad_request(format!("parameter \"per_page\" above limit (max: {MAX_PER_PAGE})")));
    }
    Ok(page)
}

pub(crate) fn conditions(predicates: &[PredicateBody], grammar: Grammar) -> Result<Filter, ApiError> {
    let conditions = predicates.iter().map(|predicate| {
        let PredicateBody { scope, attribute, operator, value } = predicate;
        Condition::parse(grammar, scope, attribute, operator, value)
    });
    Filter::of_each(conditions).map_err(refused)
}

/// An empty list asks for no restriction. Ids that cannot be ours are no device's.
fn device_ids(ids: &[String]) -> Result<Option<Vec<DeviceId>>, ApiError> {
    if ids.len() > DEVICES {
        return Err(ApiError::bad_request(format!("device_ids: at most {DEVICES} are taken")));
    }
    Ok((!ids.is_empty()).then(|| ids.iter().filter_map(|id| id.parse().ok()).collect()))
}

pub(crate) fn projection(attributes: Vec<AttributeName>) -> Result<Projection, ApiError> {
    if attributes.len() > PROJECTED {
        return Err(ApiError::bad_request(format!("attributes: at most {PROJECTED} are taken")));
    }
    let mut wanted = HashSet::new();
    for AttributeName { scope, attribute } in attributes {
        check_attribute(&scope, &attribute).map_err(refused)?;
        wanted.insert((scope, attribute));
    }
    Ok((!wanted.is_empty()).then_some(wanted))
}

/// `POST /identities/search` of v2alpha1: devices whose id, identity attribute or name begins so.
///
/// # Errors
/// 400 for a question against the rules.
pub async fn search_identities(
    _: AuthenticatedUser,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let asked: IdentitiesBody = body.object("failed to decode search")?;
    let is_name = match asked.scope.as_str() {
        "identity" => !asked.name.is_empty(),
        "tags" => asked.name == "name",
        _ => false,
    };
    if !is_name || asked.value_prefix.is_empty() {
        return Err(ApiError::bad_request(
            "scope, name and value_prefix are required: an identity attribute, or tag \"name\"",
        ));
    }
    let page = page(asked.page, asked.per_page)?;
    let condition = Condition::begins_with(&asked.scope, &asked.name, &asked.value_prefix);
    let search = Search {
        filter: Filter::new(vec![condition]).map_err(refused)?,
        offset: u64::from(page.offset()),
        limit: page.size,
        ..Search::default()
    };
    let projection = projection(asked.attributes.unwrap_or_default())?;
    answer_search(&state, &search, &projection, page, "/api/management/v2alpha1/inventory/identities/search").await
}

#[derive(Debug, Deserialize)]
struct IdentitiesBody {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    value_prefix: String,
    attributes: Option<Vec<AttributeName>>,
    page: Option<i64>,
    per_page: Option<i64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use storage::inventory::filter::EXPRESSIONS_LIMIT;

    use super::*;

    fn read(body: Value) -> Result<Wanted, String> {
        let body: SearchBody = serde_json::from_value(body).map_err(|error| error.to_string())?;
        body.read(Grammar::Inventory).map_err(|error| error.to_string())
    }

    #[test]
    fn a_search_may_ask_for_nothing() {
        for body in [json!({}), json!({"filters": null, "text": null, "device_ids": [], "attributes": []})] {
            let wanted = read(body).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((wanted.page.number, wanted.page.size, wanted.search.offset), (1, 20, 0));
            assert!(wanted.projection.is_none() && wanted.search.devices.is_none() && wanted.search.text.is_none());
        }
        let wanted = read(json!({"page": 0, "per_page": -3})).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((wanted.page.number, wanted.page.size), (1, 20));
    }

    #[test]
    fn a_search_against_the_rules_is_refused() {
        for body in [
            json!({"per_page": 501}),
            json!({"filters": [{"scope": "inventory", "attribute": "a", "value": 1}]}),
            json!({"filters": [{"scope": "inventory", "attribute": "a", "type": "$eq"}]}),
            json!({"sort": [{"scope": "inventory", "attribute": "a"}]}),
            json!({"sort": [{"scope": "inventory", "attribute": "a", "order": "up"}]}),
            json!({"sort": [{"scope": "x", "attribute": "a", "order": "asc"}]}),
            json!({"attributes": [{"scope": "../x", "attribute": "a"}]}),
            json!({"text": "x".repeat(TEXT + 1)}),
            json!({"filters": vec![
                json!({"scope": "inventory", "attribute": "a", "type": "$regex", "value": "v"});
                EXPRESSIONS_LIMIT + 1
            ]}),
            json!({"device_ids": vec!["x"; DEVICES + 1]}),
            json!({"sort": vec![json!({"scope": "tags", "attribute": "a", "order": "asc"}); SORT_KEYS + 1]}),
        ] {
            assert!(read(body.clone()).is_err(), "{:.80}", body.to_string());
        }
    }

    #[test]
    fn ids_that_cannot_be_ours_restrict_to_nothing() {
        let wanted = read(json!({"device_ids": ["x"]})).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(wanted.search.devices, Some(vec![]));
    }
}
