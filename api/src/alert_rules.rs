//! Rules by which the hub raises alerts itself. Not part of the Mender API.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use storage::{Added, AlertLevel, AlertRule, Condition, RuleId, RuleState, Timestamp, clock};

use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::channels::ATTEMPTS;
use crate::error::ApiError;
use crate::state::ApiState;

/// Bytes of a name.
const NAME_LIMIT: usize = 256;

#[derive(Debug, Serialize)]
struct RuleBody {
    id: RuleId,
    name: String,
    enabled: bool,
    level: &'static str,
    condition: Condition,
    created: Timestamp,
    updated: Timestamp,
}

impl RuleBody {
    fn new(rule: AlertRule) -> Self {
        Self {
            id: rule.id,
            name: rule.name,
            enabled: rule.state == RuleState::Active,
            level: rule.level.as_str(),
            condition: rule.condition,
            created: rule.created,
            updated: rule.updated,
        }
    }
}

/// What a rule is to be. On a change, what is not mentioned stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
struct RuleWish {
    name: Option<String>,
    enabled: Option<bool>,
    level: Option<String>,
    condition: Option<Condition>,
}

/// `GET /alert-rules`.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let rules = state.storage.alert_rules.list().await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &rules.into_iter().map(RuleBody::new).collect::<Vec<_>>()))
}

/// `GET /alert-rules/{id}`.
///
/// # Errors
/// 404 for an unknown rule.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    Ok(answer_json(&mut HttpResponse::Ok(), &RuleBody::new(find(&state, &id).await?)))
}

/// `POST /alert-rules`: with a `name`, a `condition`, and a `level` unless it is `CRITICAL`.
///
/// # Errors
/// 400 for a wish against the rules, 409 for a name that is taken, 422 when there are as many as there may be.
pub async fn add(_: AuthenticatedUser, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    let wish: RuleWish = body.object("failed to decode rule")?;
    let rule = made(wish, clock::now())?;
    match state.storage.alert_rules.add(&rule).await? {
        Added::Added => {
            let location = format!("/api/management/v1/mooring/alert-rules/{}", rule.id);
            Ok(answer_json(HttpResponse::Created().insert_header(("Location", location)), &RuleBody::new(rule)))
        }
        Added::TooMany => Err(ApiError::Unprocessable("there are too many rules".into())),
    }
}

/// `PATCH /alert-rules/{id}`: all but the name, under which its alerts are known.
///
/// # Errors
/// 400 for a wish against the rules, 404 for an unknown rule, 409 if others change it all the time.
pub async fn change(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let wish: RuleWish = body.object("failed to decode rule")?;
    for _ in 0..ATTEMPTS {
        let rule = changed(find(&state, &id).await?, wish.clone())?;
        if state.storage.alert_rules.update(&rule, clock::now()).await? {
            return Ok(HttpResponse::NoContent().finish());
        }
    }
    Err(ApiError::Conflict("the rule is being changed by others".into()))
}

/// `DELETE /alert-rules/{id}`: its open alerts are closed.
///
/// # Errors
/// 404 for an unknown rule.
pub async fn remove(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let id: RuleId = id.parse().map_err(|_| not_found())?;
    if state.storage.alert_rules.remove(id, clock::now()).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(not_found())
    }
}

async fn find(state: &ApiState, id: &str) -> Result<AlertRule, ApiError> {
    let id: RuleId = id.parse().map_err(|_| not_found())?;
    state.storage.alert_rules.find(id).await?.ok_or_else(not_found)
}

fn not_found() -> ApiError {
    ApiError::unknown("rule not found")
}

fn made(wish: RuleWish, now: Timestamp) -> Result<AlertRule, ApiError> {
    let (Some(name), Some(condition)) = (wish.name, wish.condition.clone()) else {
        return Err(ApiError::bad_request("name and condition must be given"));
    };
    if name.is_empty() || name.len() > NAME_LIMIT {
        return Err(ApiError::bad_request("name must be 1 to 256 bytes long"));
    }
    let rule = AlertRule {
        id: RuleId::random(),
        name,
        state: RuleState::Active,
        level: AlertLevel::Critical,
        condition,
        evaluated: None,
        created: now,
        updated: now,
    };
    changed(rule, RuleWish { name: None, ..wish })
}

fn changed(mut rule: AlertRule, wish: RuleWish) -> Result<AlertRule, ApiError> {
    if wish.name.is_some_and(|name| name != rule.name) {
        return Err(ApiError::bad_request("name cannot be changed"));
    }
    if let Some(enabled) = wish.enabled {
        rule.state = if enabled { RuleState::Active } else { RuleState::Disabled };
    }
    if let Some(word) = wish.level {
        let level =
            AlertLevel::named(&word).filter(|level| matches!(level, AlertLevel::Warning | AlertLevel::Critical));
        rule.level = level.ok_or_else(|| ApiError::bad_request("level must be WARNING or CRITICAL"))?;
    }
    if let Some(condition) = wish.condition {
        rule.condition = condition;
    }
    match rule.condition.fault() {
        Some(fault) => Err(ApiError::bad_request(fault)),
        None => Ok(rule),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made_of(value: Value) -> Result<AlertRule, String> {
        let wish = serde_json::from_value(value).map_err(|error| error.to_string())?;
        made(wish, Timestamp(1)).map_err(|error| error.to_string())
    }

    #[test]
    fn rules_have_a_name_and_a_condition_that_makes_sense() {
        let offline = json!({"name": "away", "condition": {"kind": "offline", "for": "10m", "clear_after": "30s"}});
        let rule = made_of(offline).unwrap();
        assert_eq!((rule.level, rule.state), (AlertLevel::Critical, RuleState::Active));
        let shown = serde_json::to_value(RuleBody::new(rule)).unwrap();
        assert_eq!(shown["condition"], json!({"kind": "offline", "for": "10m", "clear_after": "30s"}));
        let hot = json!({"kind": "attribute", "attribute": "t", "comparison": "above", "threshold": 80, "clear": 70});
        assert!(made_of(json!({"name": "hot", "level": "WARNING", "condition": hot})).is_ok());
        for wrong in [
            json!({"name": "x"}),
            json!({"condition": hot}),
            json!({"name": "", "condition": hot}),
            json!({"name": "x", "condition": hot, "level": "OK"}),
            json!({"name": "x", "condition": {"kind": "offline"}}),
            json!({"name": "x", "condition": {"kind": "offline", "for": "soon"}}),
            json!({"name": "x", "condition": {"kind": "offline", "for": "0"}}),
            json!({"name": "x", "condition": {"kind": "attribute", "attribute": "t", "comparison": "above",
                "threshold": 80, "clear": 90}}),
        ] {
            assert!(made_of(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_stays() {
        let rule = made_of(json!({"name": "away", "condition": {"kind": "offline", "for": "10m"}})).unwrap();
        let wish = |value| serde_json::from_value::<RuleWish>(value).unwrap();
        assert!(changed(rule.clone(), wish(json!({"name": "other"}))).is_err());
        let off = changed(rule, wish(json!({"name": "away", "enabled": false}))).unwrap();
        assert_eq!(off.state, RuleState::Disabled);
    }
}
