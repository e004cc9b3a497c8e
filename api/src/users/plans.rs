//! The one plan of the open edition, which web UIs read to know what to offer.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::auth::AuthenticatedUser;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::paging::{Extent, Page, Query, answer_page};

fn plan() -> Value {
    json!({
        "name": "Mender_Open_Source",
        "display_name": "Mender",
        "features": {
            "rbac": false,
            "audit_logs": false,
            "dynamic_groups": false,
            "terminal": false,
            "file_transfer": false,
            "configuration": true,
            "monitoring": false,
            "reporting": false,
        },
    })
}

/// `GET /plans`.
///
/// # Errors
/// 400 for paging.
pub async fn list(_: AuthenticatedUser, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let plans: Vec<Value> = if page.number == 1 { vec![plan()] } else { vec![] };
    Ok(answer_page(request.path(), &query, page, Extent::More(false), &plans))
}

/// `GET /plan_binding`: the plan that this installation has.
pub async fn binding(_: AuthenticatedUser) -> HttpResponse {
    answer_json(&mut HttpResponse::Ok(), &json!({ "plan": plan() }))
}
