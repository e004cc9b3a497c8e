//! Deployments in the words of reporting: one row for each device that was told of a deployment, as it stands now. (Mender
//! API: reporting, deployments.)

use std::collections::HashSet;

use actix_web::{HttpResponse, web};
use actors::artifacts::document;
use actors::rollout::terms_for_all;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use storage::deployments::parts::{Part, PartAggregation, PartField, PartSearch};
use storage::inventory::filter::Filter;
use storage::{DeploymentId, StorageError};

use super::{AggregationBody, MALFORMED, Term, aggregations, answer_buckets};
use crate::auth::AuthenticatedUser;
use crate::body::RawJson;
use crate::error::ApiError;
use crate::inventory::search::{AttributeName, PredicateBody, SORT_KEYS, SortBody, page, refused};
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Devices and deployments, together, that a search may be restricted to by their ids.
const IDS: usize = 10_000;

/// Fields in one projection.
const PROJECTED: usize = 1_000;

const SEARCH: &str = "/api/management/v1/reporting/deployments/devices/search";

/// `POST /deployments/devices/search`.
///
/// # Errors
/// 400 for a question against the rules, 422 for one that would take too long.
pub async fn search(_: AuthenticatedUser, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    let asked: PartsBody = body.object(MALFORMED)?;
    let (search, shown, page) = asked.read()?;
    let (parts, total) = state.storage.deployments.search_parts(&search).await?;
    let rows: Vec<Map<String, Value>> =
        parts.into_iter().map(|part| row(part, shown.as_ref())).collect::<Result<_, StorageError>>()?;
    Ok(answer_page(SEARCH, &Query::default(), page, Extent::Total(total), &rows))
}

/// `POST /deployments/devices/aggregate`: how many rows of a search there are by the values of their fields.
///
/// # Errors
/// As [`search`].
pub async fn aggregate(
    _: AuthenticatedUser,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    // Two views of one body.
    let asked: AggregateBody = body.object(MALFORMED)?;
    let rows: PartsBody = body.object(MALFORMED)?;
    let aggregations = aggregations(asked.aggregations, &of_parts)?;
    let (search, ..) = PartsBody { page: None, per_page: None, sort: None, attributes: None, ..rows }.read()?;
    let buckets = state.storage.deployments.aggregate_parts(&search, &aggregations).await?;
    Ok(answer_buckets(&buckets))
}

#[derive(Debug, Deserialize)]
struct AggregateBody {
    aggregations: Option<Vec<AggregationBody>>,
}

/// A term about rows, whose fields have no scope.
fn of_parts(term: Term<PartAggregation>) -> Result<PartAggregation, ApiError> {
    let field = PartField::named(&term.attribute).map_err(refused)?;
    let Term { name, limit, within, .. } = term;
    Ok(PartAggregation { name, field, limit, within })
}

/// A search as it is sent. All members may be missing, or null; fields of parts have no scope.
#[derive(Debug, Default, Deserialize)]
struct PartsBody {
    page: Option<i64>,
    per_page: Option<i64>,
    filters: Option<Vec<PredicateBody>>,
    sort: Option<Vec<SortBody>>,
    attributes: Option<Vec<AttributeName>>,
    device_ids: Option<Vec<String>>,
    deployment_ids: Option<Vec<String>>,
}

/// The fields to show; `None`: all.
type Shown = Option<HashSet<String>>;

impl PartsBody {
    fn read(self) -> Result<(PartSearch, Shown, Page), ApiError> {
        let page = page(self.page, self.per_page)?;
        let predicates = self.filters.unwrap_or_default();
        let conditions =
            predicates.iter().map(|asked| PartField::condition(&asked.attribute, &asked.operator, &asked.value));
        let (devices, deployments) = (self.device_ids.unwrap_or_default(), self.deployment_ids.unwrap_or_default());
        if devices.len() + deployments.len() > IDS {
            return Err(ApiError::bad_request(format!("device_ids, deployment_ids: at most {IDS} are taken")));
        }
        // Ids that cannot be ours are no deployment's.
        let ours = |ids: &[String]| -> Vec<DeploymentId> { ids.iter().filter_map(|id| id.parse().ok()).collect() };
        let search = PartSearch {
            filter: Filter::of_each(conditions).map_err(refused)?,
            deployments: (!deployments.is_empty()).then(|| ours(&deployments)),
            devices: (!devices.is_empty()).then_some(devices),
            order: self.sort.unwrap_or_default().iter().map(order).collect::<Result<_, _>>()?,
            offset: u64::from(page.offset()),
            limit: page.size,
        };
        if search.order.len() > SORT_KEYS {
            return Err(ApiError::bad_request(format!("sort: at most {SORT_KEYS} keys are taken")));
        }
        if !search.is_sortable() {
            return Err(ApiError::bad_request("sort: a list has no order"));
        }
        let names = self.attributes.unwrap_or_default();
        if names.len() > PROJECTED {
            return Err(ApiError::bad_request(format!("attributes: at most {PROJECTED} are taken")));
        }
        if names.iter().any(|name| name.attribute.is_empty()) {
            return Err(ApiError::bad_request("attribute: cannot be blank."));
        }
        let shown = (!names.is_empty()).then(|| names.into_iter().map(|name| name.attribute).collect());
        Ok((search, shown, page))
    }
}

fn order(key: &SortBody) -> Result<(PartField, bool), ApiError> {
    Ok((PartField::named(&key.attribute).map_err(refused)?, key.is_descending()?))
}

/// What is said about a part: all of it, or what was asked for beside its id. What there is not is left out.
fn row(part: Part, shown: Option<&HashSet<String>>) -> Result<Map<String, Value>, StorageError> {
    let elapsed = part.finished.map(|finished| (finished.0 - part.created.0) / 1_000_000);
    let mut row = Map::new();
    let mut put = |name: &str, value: Value| {
        let is_shown = name == "id" || shown.is_none_or(|shown| shown.contains(name));
        if is_shown && !value.is_null() {
            row.insert(name.to_owned(), value);
        }
    };
    put("id", json!(part.id));
    // The only tenant has no name, and what makes differences between artifacts is not a part of this hub.
    put("tenant_id", json!(""));
    put("device_id", json!(part.device));
    put("deployment_id", json!(part.deployment));
    put("deployment_name", json!(part.deployment_name));
    put("deployment_artifact_name", json!(part.artifact_name));
    put("deployment_type", json!(part.kind.as_str()));
    put("deployment_created", json!(part.deployment_created));
    put("deployment_filter_id", json!(""));
    put("deployment_all_devices", json!(!part.is_dynamic && is_for_all(&part.chosen_by)));
    put("deployment_force_installation", json!(part.forced));
    put("deployment_groups", json!(part.groups));
    put("deployment_phased", json!(part.is_phased));
    put("deployment_phase_id", json!(part.phase.filter(|_| part.is_phased)));
    put("deployment_retries", json!(part.retries));
    put("deployment_max_devices", json!(part.max_devices));
    // The name as it always was, and as it was meant.
    put("deployment_autogenerate_deta", json!(false));
    put("deployment_autogenerate_delta", json!(false));
    put("device_created", json!(part.created));
    put("device_finished", json!(part.finished));
    put("device_elapsed_seconds", json!(elapsed));
    put("device_deleted", json!(part.deleted));
    put("device_status", json!(part.state.as_str()));
    put("device_is_log_available", json!(part.has_log));
    put("device_retries", json!(part.retries));
    put("device_attempts", json!(part.attempts));
    if let Some(stored) = part.artifact {
        let artifact = document(&stored)?;
        put("image_id", json!(stored.id));
        put("image_description", json!(stored.description));
        put("image_artifact_name", json!(stored.name));
        put("image_device_types", json!(artifact.device_types));
        put("image_signed", json!(artifact.signature.is_there()));
        put("image_artifact_info_format", json!("mender"));
        put("image_artifact_info_version", json!(artifact.version));
        put("image_provides", json!(artifact.provides));
        put("image_depends", json!(artifact.depends));
        put("image_clears_provides", json!(artifact.clears));
        put("image_size", json!(stored.size));
    }
    Ok(row)
}

/// Whether a deployment was made for all accepted devices: that is how it was chosen then.
fn is_for_all(chosen_by: &str) -> bool {
    serde_json::from_str::<Value>(chosen_by).is_ok_and(|terms| terms == terms_for_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<PartSearch, String> {
        let body: PartsBody = serde_json::from_value(body).map_err(|error| error.to_string())?;
        body.read().map(|(search, ..)| search).map_err(|error| error.to_string())
    }

    #[test]
    fn a_search_of_parts_may_ask_for_nothing() {
        for body in [json!({}), json!({"filters": null, "device_ids": [], "deployment_ids": []})] {
            let search = read(body).unwrap();
            assert!(search.devices.is_none() && search.deployments.is_none() && search.order.is_empty());
            assert_eq!((search.offset, search.limit), (0, 20));
        }
        assert_eq!(read(json!({"deployment_ids": ["x"]})).unwrap().deployments, Some(vec![]));
    }

    #[test]
    fn a_search_of_parts_against_the_rules_is_refused() {
        let condition = |name: &str, operator: &str, value: Value| json!({"filters": [{"attribute": name, "type": operator, "value": value}]});
        for body in [
            json!({"per_page": 501}),
            json!({"filters": 1}),
            condition("device_status", "$eq", json!(["success"])),
            condition("device_status", "$in", json!("success")),
            condition("device_status", "$exists", json!("true")),
            condition("device_status", "$ltne", json!("success")),
            condition("device_status", "", json!("success")),
            condition("device_status", "$eq", json!(null)),
            condition("", "$eq", json!("success")),
            condition("no_such_field", "$eq", json!("success")),
            condition("deployment_created", "$gt", json!("yesterday")),
            condition("deployment_id", "$gt", json!("x")),
            condition("deployment_phased", "$lt", json!("x")),
            json!({"sort": [{"attribute": "device_status"}]}),
            json!({"sort": [{"attribute": "image_device_types", "order": "asc"}]}),
            json!({"sort": vec![json!({"attribute": "id", "order": "asc"}); SORT_KEYS + 1]}),
            json!({"attributes": [{}]}),
            json!({"device_ids": vec!["x"; IDS], "deployment_ids": ["x"]}),
        ] {
            assert!(read(body.clone()).is_err(), "{:.80}", body.to_string());
        }
    }

    #[test]
    fn a_deployment_for_all_is_known_by_how_it_was_chosen() {
        assert!(is_for_all(r#"[{"attribute":"status","scope":"identity","type":"$eq","value":"accepted"}]"#));
        assert!(!is_for_all("[]"));
    }
}
