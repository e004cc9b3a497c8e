//! Who changed what, when, and from where: appended, never altered.
//!
//! An entry is written before the change it speaks of, and what came of it afterwards, in a row of its own. An entry
//! without an outcome speaks of a change that was begun by a node that did not live to tell.

use serde_json::Value;
use sqlx::QueryBuilder;

use crate::database::{Database, ROWS_PER_REMOVAL, ROWS_PER_STATEMENT, on_reader, on_writer, repeating_after_deadlock};
use crate::dialect::without_nul;
use crate::{StorageError, Timestamp, UserId};

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A user.
    User(UserId),
    /// Somebody who claims this address: who logs in.
    Address(String),
    /// Another service of the installation.
    Service,
}

/// Something that is about to be done, or was.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAuditEntry {
    /// Names the happening: of two entries with one key the second is not appended.
    pub key: Option<String>,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: Actor,
    /// What is done: a method and the pattern of a route, or a word.
    pub action: String,
    /// To which path.
    pub path: Option<String>,
    /// To what: the id of a device, a user, …
    pub object: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// The name of the request.
    pub request: Option<String>,
    /// Whatever else there is to say.
    pub details: Option<Value>,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Its number; later ones are larger.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// What kind of somebody did it: `user`, `address`, `service`.
    pub actor_kind: String,
    /// Which user.
    pub actor: Option<String>,
    /// The user's address at that time.
    pub actor_email: Option<String>,
    /// What was done.
    pub action: String,
    /// To which path.
    pub path: Option<String>,
    /// To what.
    pub object: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// The name of the request.
    pub request: Option<String>,
    /// Whatever else there is to say.
    pub details: Option<Value>,
    /// The status it was answered with; `None`: nobody lived to tell, or it has none.
    pub status: Option<i64>,
}

/// Which entries are asked for; `None` asks for no filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// By this user: id or address.
    pub actor: Option<String>,
    /// To this.
    pub object: Option<String>,
    /// Of an action that begins so.
    pub action: Option<String>,
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

/// The columns of an [`AuditRow`].
macro_rules! audit_columns {
    () => {
        "l.id, l.at, l.actor_kind, l.actor, l.actor_email, l.action, l.path, l.object, l.address, l.request, \
         COALESCE(o.details, l.details) AS details, o.status"
    };
}

/// Adds what a filter asks for to a query of either database.
macro_rules! restrict {
    ($query:ident, $filter:ident) => {
        if let Some(actor) = &$filter.actor {
            $query.push(" AND (l.actor = ").push_bind(without_nul(actor));
            $query.push(" OR l.actor_email = ").push_bind(without_nul(actor)).push(")");
        }
        if let Some(object) = &$filter.object {
            $query.push(" AND l.object = ").push_bind(without_nul(object));
        }
        if let Some(action) = &$filter.action {
            $query.push(" AND substr(l.action, 1, ").push_bind(characters(action));
            $query.push(") = ").push_bind(without_nul(action));
        }
        if let Some(since) = $filter.since {
            $query.push(" AND l.at >= ").push_bind(since);
        }
        if let Some(until) = $filter.until {
            $query.push(" AND l.at < ").push_bind(until);
        }
    };
}

/// The log of changes.
#[derive(Debug, Clone)]
pub struct AuditLog {
    db: Database,
}

impl AuditLog {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Appends what is about to be done; returns its number.
    ///
    /// # Errors
    /// `Unavailable`, `Other`: then it must not be done.
    pub async fn begin(&self, entry: &NewAuditEntry) -> Result<i64, StorageError> {
        let (kind, actor, address) = parts(&entry.actor);
        on_writer!(self.db, |pool| {
            sqlx::query_scalar(
                "INSERT INTO audit_log (key, at, actor_kind, actor, actor_email, action, path, object, address, request, \
                 details) VALUES ($1, $2, $3, $4, COALESCE((SELECT email FROM users WHERE users.id = $4), $5), $6, $7, $8, \
                 $9, $10, $11) RETURNING id",
            )
            .bind(entry.key.as_deref().map(without_nul))
            .bind(entry.at)
            .bind(kind)
            .bind(actor)
            .bind(address.map(without_nul))
            .bind(without_nul(&entry.action))
            .bind(entry.path.as_deref().map(without_nul))
            .bind(entry.object.as_deref().map(without_nul))
            .bind(entry.address.as_deref().map(without_nul))
            .bind(entry.request.as_deref().map(without_nul))
            .bind(entry.details.as_ref().map(ToString::to_string))
            .fetch_one(pool)
            .await
        })
    }

    /// Appends with which status an entry's change was answered, and what there is to say of it by then; the first word
    /// counts.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn conclude(
        &self,
        entry: i64,
        status: u16,
        details: Option<&Value>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        on_writer!(self.db, |pool| {
            sqlx::query(
                "INSERT INTO audit_outcomes (entry, at, status, details) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (entry) DO NOTHING",
            )
            .bind(entry)
            .bind(now)
            .bind(i64::from(status))
            .bind(details.map(ToString::to_string))
            .execute(pool)
            .await
            .map(drop)
        })
    }

    /// Appends what has happened, each once however often this is called.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be appended then; repeating the call is safe.
    pub async fn append(&self, entries: &[NewAuditEntry]) -> Result<(), StorageError> {
        for entries in entries.chunks(ROWS_PER_STATEMENT) {
            repeating_after_deadlock(|| self.append_rows(entries)).await?;
        }
        Ok(())
    }

    async fn append_rows(&self, entries: &[NewAuditEntry]) -> Result<(), StorageError> {
        let mut entries: Vec<&NewAuditEntry> = entries.iter().collect();
        // In one order on all nodes.
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        on_writer!(self.db, |pool| {
            let mut query = QueryBuilder::new(
                "INSERT INTO audit_log (key, at, actor_kind, actor, actor_email, action, path, object, address, request, \
                 details) SELECT column1, column2, column3, column4, \
                 COALESCE((SELECT email FROM users WHERE users.id = column4), column5), column6, column7, column8, column9, \
                 column10, column11 FROM (",
            );
            query.push_values(&entries, |mut row, entry| {
                let (kind, actor, address) = parts(&entry.actor);
                row.push_bind(entry.key.as_deref().map(without_nul))
                    .push_bind(entry.at)
                    .push_bind(kind)
                    .push_bind(actor)
                    .push_bind(address.map(without_nul))
                    .push_bind(without_nul(&entry.action))
                    .push_bind(entry.path.as_deref().map(without_nul))
                    .push_bind(entry.object.as_deref().map(without_nul))
                    .push_bind(entry.address.as_deref().map(without_nul))
                    .push_bind(entry.request.as_deref().map(without_nul))
                    .push_bind(entry.details.as_ref().map(ToString::to_string));
            });
            query.push(") AS entries WHERE TRUE ON CONFLICT (key) DO NOTHING");
            query.build().execute(pool).await.map(drop)
        })
    }

    /// A page of the entries a filter asks for, newest first, and how many there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(
        &self,
        filter: &AuditFilter,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<AuditEntry>, u64), StorageError> {
        let rows: Vec<AuditRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!(
                "SELECT ",
                audit_columns!(),
                " FROM audit_log l LEFT JOIN audit_outcomes o ON o.entry = l.id WHERE TRUE"
            ));
            restrict!(query, filter);
            query.push(" ORDER BY l.id DESC LIMIT ").push_bind(i64::from(limit));
            query.push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().fetch_all(pool).await
        })?;
        let total: i64 = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM audit_log l WHERE TRUE");
            restrict!(query, filter);
            query.build_query_scalar().fetch_one(pool).await
        })?;
        Ok((entries(rows)?, total.unsigned_abs()))
    }

    /// The entries a filter asks for after this number, oldest first; up to `limit` of them.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn after(&self, filter: &AuditFilter, id: i64, limit: u32) -> Result<Vec<AuditEntry>, StorageError> {
        let rows: Vec<AuditRow> = on_reader!(self.db, |pool| {
            let mut query = QueryBuilder::new(concat!(
                "SELECT ",
                audit_columns!(),
                " FROM audit_log l LEFT JOIN audit_outcomes o ON o.entry = l.id WHERE l.id > "
            ));
            query.push_bind(id);
            restrict!(query, filter);
            query.push(" ORDER BY l.id LIMIT ").push_bind(i64::from(limit));
            query.build_query_as().fetch_all(pool).await
        })?;
        entries(rows)
    }

    /// Removes entries from before this time, in slices; says how many.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be removed then; repeating the call is safe.
    pub async fn expire(&self, before: Timestamp) -> Result<u64, StorageError> {
        let mut removed = 0;
        loop {
            let slice = on_writer!(self.db, |pool| {
                sqlx::query(
                    "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE at < $1 ORDER BY at LIMIT $2)",
                )
                .bind(before)
                .bind(i64::from(ROWS_PER_REMOVAL))
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
            })?;
            removed += slice;
            if slice < u64::from(ROWS_PER_REMOVAL) {
                return Ok(removed);
            }
        }
    }
}

fn parts(actor: &Actor) -> (&'static str, Option<&str>, Option<&str>) {
    match actor {
        Actor::User(user) => ("user", Some(user.as_str()), None),
        Actor::Address(address) => ("address", None, Some(address)),
        Actor::Service => ("service", None, None),
    }
}

/// How long a text is to a database.
fn characters(text: &str) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(i32::MAX)
}

/// An entry as the database returns it.
#[derive(sqlx::FromRow)]
struct AuditRow {
    id: i64,
    at: Timestamp,
    actor_kind: String,
    actor: Option<String>,
    actor_email: Option<String>,
    action: String,
    path: Option<String>,
    object: Option<String>,
    address: Option<String>,
    request: Option<String>,
    details: Option<String>,
    status: Option<i64>,
}

fn entries(rows: Vec<AuditRow>) -> Result<Vec<AuditEntry>, StorageError> {
    rows.into_iter().map(TryInto::try_into).collect()
}

impl TryFrom<AuditRow> for AuditEntry {
    type Error = StorageError;

    fn try_from(row: AuditRow) -> Result<Self, StorageError> {
        let details = row.details.as_deref().map(serde_json::from_str).transpose();
        Ok(Self {
            details: details.map_err(|_| StorageError::Corrupt(format!("details of audit entry {}", row.id)))?,
            id: row.id,
            at: row.at,
            actor_kind: row.actor_kind,
            actor: row.actor,
            actor_email: row.actor_email,
            action: row.action,
            path: row.path,
            object: row.object,
            address: row.address,
            request: row.request,
            status: row.status,
        })
    }
}
