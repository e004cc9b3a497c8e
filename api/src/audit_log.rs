//! Who changed what, when, and from where. Not part of the Mender API.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;
use serde_json::Value;
use storage::{AuditEntry, AuditFilter, AuditLog, StorageError, Timestamp};

use crate::auth::AuthenticatedUser;
use crate::error::ApiError;
use crate::monitoring::management::time;
use crate::paging::{Extent, Page, Query, answer_page};
use crate::state::ApiState;

/// Entries of an export read at once.
const READ: u32 = 500;

#[derive(Debug, Serialize)]
struct EntryBody {
    id: i64,
    time: Timestamp,
    actor: ActorBody,
    action: String,
    path: Option<String>,
    /// What it is about: the id of a device, a user, …
    object: Option<String>,
    address: Option<String>,
    request_id: Option<String>,
    /// With which status it was answered; `null`: a session, or nobody lived to tell.
    status: Option<i64>,
    details: Option<Value>,
}

#[derive(Debug, Serialize)]
struct ActorBody {
    kind: String,
    id: Option<String>,
    email: Option<String>,
}

impl From<AuditEntry> for EntryBody {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            time: entry.at,
            actor: ActorBody { kind: entry.actor_kind, id: entry.actor, email: entry.actor_email },
            action: entry.action,
            path: entry.path,
            object: entry.object,
            address: entry.address,
            request_id: entry.request,
            status: entry.status,
            details: entry.details,
        }
    }
}

/// `GET /auditlog`: newest first; filters `actor` (id or address), `object`, `action` (its beginning), `since`, `until`.
///
/// # Errors
/// 400 for paging and for times that are none.
pub async fn list(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let page = Page::from_query(&query)?;
    let (entries, total) = state.storage.audit.list(&filter(&query)?, page.offset(), page.size).await?;
    Ok(answer_page(
        request.path(),
        &query,
        page,
        Extent::Total(total),
        &entries.into_iter().map(EntryBody::from).collect::<Vec<_>>(),
    ))
}

/// `GET /auditlog/export`: everything the same filters let pass, oldest first, as it is read; `format` is `ndjson` or
/// `csv`.
///
/// # Errors
/// 400 for filters and formats that are none.
pub async fn export(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let query = Query::parse(request.query_string());
    let filter = filter(&query)?;
    let format = match query.first("format") {
        None | Some("ndjson") => Format::Lines,
        Some("csv") => Format::Table,
        Some(_) => return Err(ApiError::bad_request("format must be ndjson or csv")),
    };
    let log = state.storage.audit.clone();
    // Whether the database answers has to be known before the answer begins.
    let first = log.after(&filter, 0, READ).await?;
    let (kind, name) = match format {
        Format::Lines => ("application/x-ndjson", "auditlog.ndjson"),
        Format::Table => ("text/csv; charset=utf-8", "auditlog.csv"),
    };
    Ok(HttpResponse::Ok()
        .content_type(kind)
        .insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .streaming(pieces(log, filter, format, first)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Lines,
    Table,
}

/// What an export still has to say.
enum Left {
    Start(Vec<AuditEntry>),
    After(i64),
    Nothing,
}

/// Pulled by the connection when it has room, so a client that does not read costs one piece.
fn pieces(
    log: AuditLog,
    filter: AuditFilter,
    format: Format,
    first: Vec<AuditEntry>,
) -> impl Stream<Item = Result<Bytes, StorageError>> {
    stream::unfold(Left::Start(first), move |left| {
        let (log, filter) = (log.clone(), filter.clone());
        async move {
            let mut text = String::new();
            let entries = match left {
                Left::Nothing => return None,
                Left::Start(entries) => {
                    if format == Format::Table {
                        text.push_str(HEAD);
                    }
                    entries
                }
                Left::After(id) => match log.after(&filter, id, READ).await {
                    Ok(entries) => entries,
                    // An answer that breaks off is the only way left to say that the rest cannot be read.
                    Err(error) => return Some((Err(error), Left::Nothing)),
                },
            };
            let next = match entries.last() {
                Some(last) if entries.len() == READ as usize => Left::After(last.id),
                _ => Left::Nothing,
            };
            for entry in entries {
                match format {
                    Format::Lines => {
                        let line = serde_json::to_string(&EntryBody::from(entry)).unwrap_or_default();
                        text.push_str(&line);
                        text.push('\n');
                    }
                    Format::Table => write_row(&mut text, &entry),
                }
            }
            Some((Ok(Bytes::from(text)), next))
        }
    })
}

/// The first line of a table.
const HEAD: &str = "id,time,actor_kind,actor_id,actor_email,action,path,object,address,request_id,status,details\r\n";

/// One line of a table. (RFC 4180.)
fn write_row(text: &mut String, entry: &AuditEntry) {
    let details = entry.details.as_ref().map(ToString::to_string);
    let fields = [
        Some(entry.id.to_string()),
        Some(entry.at.rfc3339()),
        Some(entry.actor_kind.clone()),
        entry.actor.clone(),
        entry.actor_email.clone(),
        Some(entry.action.clone()),
        entry.path.clone(),
        entry.object.clone(),
        entry.address.clone(),
        entry.request.clone(),
        entry.status.map(|status| status.to_string()),
        details,
    ];
    for (number, field) in fields.iter().enumerate() {
        if number > 0 {
            text.push(',');
        }
        write_field(text, field.as_deref().unwrap_or_default());
    }
    text.push_str("\r\n");
}

fn write_field(text: &mut String, field: &str) {
    // A spreadsheet would take it for a formula, and paths come from whoever asks.
    let is_formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !is_formula && !field.contains([',', '"', '\n', '\r']) {
        text.push_str(field);
        return;
    }
    text.push('"');
    if is_formula {
        text.push('\'');
    }
    text.push_str(&field.replace('"', "\"\""));
    text.push('"');
}

fn filter(query: &Query) -> Result<AuditFilter, ApiError> {
    let text = |name| query.first(name).map(str::to_owned);
    Ok(AuditFilter {
        actor: text("actor"),
        object: text("object"),
        action: text("action"),
        since: time(query, "since")?,
        until: time(query, "until")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_table_are_quoted_and_never_formulas() {
        let written = |field: &str| {
            let mut text = String::new();
            write_field(&mut text, field);
            text
        };
        assert_eq!(written("plain"), "plain");
        assert_eq!(written(r#"a "b", c"#), r#""a ""b"", c""#);
        assert_eq!(written("two\nlines"), "\"two\nlines\"");
        assert_eq!(written("=1+1"), "\"'=1+1\"");
        assert_eq!(written("@x"), "\"'@x\"");
    }

    #[test]
    fn filters_add_up() {
        let asked = filter(&Query::parse("actor=a&object=o&action=PUT&since=1970-01-01T00:00:01Z")).unwrap();
        assert_eq!((asked.actor.as_deref(), asked.object.as_deref()), (Some("a"), Some("o")));
        assert_eq!((asked.since, asked.until), (Some(Timestamp(1_000_000)), None));
        assert!(filter(&Query::parse("until=now")).is_err());
    }
}
