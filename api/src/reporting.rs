//! The fleet in the words of reporting: searches with places, and counts by the values of attributes, over the same live
//! data as the inventory. (Mender API: reporting.)

pub mod deployments;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use storage::inventory::aggregate::{Aggregation, Bucket, Buckets};
use storage::inventory::filter::{Grammar, check_attribute};
use storage::inventory::place::{Area, distance};
use storage::inventory::search::Search;

use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::internal::ours;
use crate::inventory::search::{PredicateBody, SearchBody, answer_search, conditions, refused};
use crate::state::ApiState;

/// Values that an aggregation tells apart if it does not say.
const DEFAULT_LIMIT: u32 = 10;

/// Aggregations beside one another.
const TERMS: usize = 100;

/// Levels below the top.
const DEPTH: usize = 5;

/// Aggregations in one request, on all levels.
const AGGREGATIONS: usize = 500;

/// Attributes that are named.
const KNOWN: u32 = 500;

const SEARCH: &str = "/api/management/v1/reporting/devices/search";

/// `POST /devices/search`.
///
/// # Errors
/// 400 for a question against the rules, 422 for one that would take too long.
pub async fn search(_: AuthenticatedUser, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    answer(&state, &body).await
}

/// The same for other services of an installation.
///
/// # Errors
/// As [`search`], and 404 for another tenant.
pub async fn search_internally(
    tenant: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    ours(&tenant)?;
    answer(&state, &body).await
}

async fn answer(state: &ApiState, body: &RawJson) -> Result<HttpResponse, ApiError> {
    // Two views of one body: free text is no member of this one.
    let asked: SearchBody = body.object(MALFORMED)?;
    let places: PlacesBody = body.object(MALFORMED)?;
    let mut wanted = asked.without_text().read(Grammar::Reporting)?;
    wanted.search.areas = places.read()?;
    answer_search(state, &wanted.search, &wanted.projection, wanted.page, SEARCH).await
}

/// `POST /devices/aggregate`: how many devices there are by the values of attributes.
///
/// # Errors
/// As [`search`].
pub async fn aggregate(
    _: AuthenticatedUser,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let asked: AggregateBody = body.object(MALFORMED)?;
    let places: PlacesBody = body.object(MALFORMED)?;
    let aggregations = aggregations(asked.aggregations, &of_devices)?;
    let search = Search {
        filter: conditions(asked.filters.as_deref().unwrap_or_default(), Grammar::Reporting)?,
        areas: places.read()?,
        ..Search::default()
    };
    let buckets = state.storage.inventory.aggregate(&search, &aggregations).await?;
    Ok(answer_buckets(&buckets))
}

/// `GET /devices/attributes`: how many attributes there are, and how many can be searched for. All can, so the budget that
/// clients ask about is only what is named here.
///
/// # Errors
/// When the database cannot be asked.
pub async fn attributes(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let known = state.storage.inventory.known_attributes(KNOWN).await?;
    let attributes: Vec<Value> = known.iter().map(|known| json!({"name": known.name, "scope": known.scope})).collect();
    let body = json!({"limit": KNOWN, "count": attributes.len(), "attributes": attributes});
    Ok(answer_json(&mut HttpResponse::Ok(), &body))
}

/// `GET /devices/search/attributes`: what can be asked about, in order of scope and name.
///
/// # Errors
/// When the database cannot be asked.
pub async fn search_attributes(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let mut known = state.storage.inventory.known_attributes(KNOWN).await?;
    known.sort_by(|one, other| (&one.scope, &one.name).cmp(&(&other.scope, &other.name)));
    let body: Vec<Value> =
        known.iter().map(|known| json!({"name": known.name, "scope": known.scope, "count": known.devices})).collect();
    Ok(answer_json(&mut HttpResponse::Ok(), &body))
}

/// How every refusal of a body begins. (Mender API: reporting.)
const MALFORMED: &str = "malformed request body";

#[derive(Debug, Default, Deserialize)]
struct PlacesBody {
    geo_distance_filter: Option<DistanceFilter>,
    geo_bounding_box_filter: Option<BoxFilter>,
}

#[derive(Debug, Deserialize)]
struct DistanceFilter {
    geo_distance: Distance,
}

#[derive(Debug, Deserialize)]
struct Distance {
    distance: String,
    location: Location,
}

#[derive(Debug, Deserialize)]
struct BoxFilter {
    geo_bounding_box: BoundingBox,
}

#[derive(Debug, Deserialize)]
struct BoundingBox {
    location: Corners,
}

#[derive(Debug, Deserialize)]
struct Corners {
    top_left: Location,
    bottom_right: Location,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Location {
    lat: f64,
    lon: f64,
}

impl PlacesBody {
    fn read(self) -> Result<Vec<Area>, ApiError> {
        let no_place = || ApiError::bad_request("location: lat must be -90 to 90 and lon -180 to 180.");
        let mut areas = Vec::new();
        if let Some(DistanceFilter { geo_distance: Distance { distance: text, location } }) = self.geo_distance_filter {
            let metres = distance(&text)
                .ok_or_else(|| ApiError::bad_request("distance: must be a number with a unit, such as 10km."))?;
            areas.push(Area::around(location.lat, location.lon, metres).ok_or_else(no_place)?);
        }
        if let Some(BoxFilter { geo_bounding_box: BoundingBox { location } }) = self.geo_bounding_box_filter {
            let Corners { top_left, bottom_right } = location;
            let area = Area::between((top_left.lat, top_left.lon), (bottom_right.lat, bottom_right.lon));
            areas.push(area.ok_or_else(no_place)?);
        }
        Ok(areas)
    }
}

#[derive(Debug, Deserialize)]
struct AggregateBody {
    aggregations: Option<Vec<AggregationBody>>,
    filters: Option<Vec<PredicateBody>>,
}

#[derive(Debug, Deserialize)]
struct AggregationBody {
    #[serde(default)]
    name: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    attribute: String,
    limit: Option<i64>,
    aggregations: Option<Vec<AggregationBody>>,
}

/// An aggregation without what it is about.
struct Term<A> {
    name: String,
    scope: String,
    attribute: String,
    limit: u32,
    within: Vec<A>,
}

/// A term about devices.
fn of_devices(term: Term<Aggregation>) -> Result<Aggregation, ApiError> {
    check_attribute(&term.scope, &term.attribute).map_err(refused)?;
    let Term { name, scope, attribute, limit, within } = term;
    Ok(Aggregation { name, scope, attribute, limit, within })
}

/// Reads all aggregations of a request.
fn aggregations<A>(
    bodies: Option<Vec<AggregationBody>>,
    make: &impl Fn(Term<A>) -> Result<A, ApiError>,
) -> Result<Vec<A>, ApiError> {
    read_aggregations(bodies.unwrap_or_default(), 0, &mut AGGREGATIONS.clone(), make)
}

/// Reads aggregations of one level and those within; `left` counts down how many there may be.
fn read_aggregations<A>(
    bodies: Vec<AggregationBody>,
    depth: usize,
    left: &mut usize,
    make: &impl Fn(Term<A>) -> Result<A, ApiError>,
) -> Result<Vec<A>, ApiError> {
    if depth > DEPTH && !bodies.is_empty() {
        return Err(ApiError::bad_request(format!("aggregations: at most {DEPTH} levels below the top")));
    }
    if bodies.is_empty() && depth == 0 {
        return Err(ApiError::bad_request("aggregations: cannot be blank."));
    }
    if bodies.len() > TERMS {
        return Err(ApiError::bad_request(format!("aggregations: the length must be between 1 and {TERMS}.")));
    }
    let mut aggregations = Vec::new();
    for body in bodies {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| ApiError::bad_request(format!("aggregations: at most {AGGREGATIONS} in all")))?;
        if body.name.is_empty() {
            return Err(ApiError::bad_request("name: cannot be blank."));
        }
        let limit = match body.limit {
            None | Some(0) => DEFAULT_LIMIT,
            Some(limit) => u32::try_from(limit).map_err(|_| ApiError::bad_request("limit: must be no less than 0."))?,
        };
        let AggregationBody { name, scope, attribute, aggregations: within, .. } = body;
        let within = read_aggregations(within.unwrap_or_default(), depth + 1, left, make)?;
        aggregations.push(make(Term { name, scope, attribute, limit, within })?);
    }
    Ok(aggregations)
}

fn answer_buckets(buckets: &[Buckets]) -> HttpResponse {
    answer_json(&mut HttpResponse::Ok(), &buckets.iter().map(buckets_body).collect::<Vec<_>>())
}

fn buckets_body(buckets: &Buckets) -> Value {
    let items: Vec<Value> = buckets.items.iter().map(bucket_body).collect();
    json!({"name": buckets.name, "items": items, "other_count": buckets.other})
}

fn bucket_body(bucket: &Bucket) -> Value {
    let mut body = json!({"key": bucket.key, "count": bucket.count});
    if !bucket.within.is_empty() {
        body["aggregations"] = bucket.within.iter().map(buckets_body).collect();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Value {
        let mut body = json!({"name": "a", "scope": "inventory", "attribute": "a"});
        if depth > 0 {
            body["aggregations"] = json!([nested(depth - 1)]);
        }
        body
    }

    fn read(body: Value) -> Result<Vec<Aggregation>, String> {
        let bodies: Vec<AggregationBody> = serde_json::from_value(body).map_err(|error| error.to_string())?;
        aggregations(Some(bodies), &of_devices).map_err(|error| error.to_string())
    }

    #[test]
    fn aggregations_are_bounded_in_depth_and_number() {
        assert_eq!(read(json!([nested(0)])).unwrap()[0].limit, 10);
        assert!(read(json!([nested(5)])).is_ok());
        assert!(read(json!([nested(6)])).is_err());
        assert!(read(json!([])).is_err());
        assert!(read(json!(vec![nested(0); TERMS])).is_ok());
        assert!(read(json!(vec![nested(0); TERMS + 1])).is_err());
        assert!(read(json!(vec![nested(5); TERMS])).is_err());
        for wrong in [
            json!([{"name": "a", "scope": "inventory"}]),
            json!([{"scope": "inventory", "attribute": "a"}]),
            json!([{"name": "a", "scope": "x", "attribute": "a"}]),
            json!([{"name": "a", "scope": "inventory", "attribute": "a", "limit": -1}]),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_are_on_earth() {
        let read = |body: Value| {
            let places: PlacesBody = serde_json::from_value(body).map_err(|error| error.to_string())?;
            places.read().map_err(|error| error.to_string())
        };
        let around = |distance: &str, lat: f64| {
            let location = json!({"lat": lat, "lon": 10.7});
            json!({"geo_distance_filter": {"geo_distance": {"distance": distance, "location": location}}})
        };
        assert_eq!(read(around("10km", 59.9)).unwrap().len(), 1);
        assert!(read(around("far", 59.9)).is_err());
        assert!(read(around("10km", 91.0)).is_err());
        assert!(read(json!({"geo_bounding_box_filter": {"geo_bounding_box": {"location": {}}}})).is_err());
        assert_eq!(read(json!({})).unwrap(), []);
    }
}
