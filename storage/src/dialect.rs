//! The few things the two databases say differently.
//!
//! Statement texts are not here: they are the same for both. What differs is how a transaction takes a lock before it
//! reads, which error codes mean what, and which characters text may hold.

use sqlx::error::DatabaseError;

use crate::DeviceId;

/// First key of our advisory locks in Postgres: the rest of the number space belongs to whoever shares the server.
const LOCK_SPACE: i32 = 0x4d_4f_4f_52;

/// Takes the lock of one identity until the end of the transaction. Advisory rather than `FOR UPDATE`, because the
/// device may not exist yet, and because a transaction that only took advisory locks and then changes nothing (a
/// pending device asking again) ends without a disk write. `SQLite` needs none: a writing transaction there is alone.
pub(crate) const LOCK_IDENTITY: &str = "SELECT pg_advisory_xact_lock($1)";

/// Takes a lock that all share until the end of the transaction; bind [`fleet_lock`], [`events_lock`] or [`users_lock`].
pub(crate) const LOCK_SHARED: &str = "SELECT pg_advisory_xact_lock($1, $2)";

/// Takes the rows of devices in one order; bind an array of ids.
pub(crate) const HOLD_DEVICES: &str = "SELECT 1 FROM devices WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// The same for their documents.
pub(crate) const HOLD_INVENTORIES: &str =
    "SELECT 1 FROM inventory WHERE device = ANY($1) ORDER BY device FOR NO KEY UPDATE";

/// How a transaction begins in `SQLite`: at once as the writer. A transaction that reads first and writes later would
/// fail with "busy" whenever another connection had written in between, whatever the busy timeout.
pub(crate) const BEGIN_WRITING: &str = "BEGIN IMMEDIATE";

/// After the choice of rows that one of many takes for itself: in Postgres, rows that another is about to take are passed
/// over instead of waited for. `SQLite` has one writer, which needs nothing.
pub(crate) const SKIP_LOCKED: &str = " FOR UPDATE SKIP LOCKED";

/// After the choice of rows that must not be removed before the end of the transaction. What is not their key may change.
pub(crate) const KEEP: &str = " FOR KEY SHARE";

/// Takes the row of a device until the end of the transaction; see [`crate::database::Transaction::lock_device`].
pub(crate) const LOCK_DEVICE: &str = "SELECT 1 FROM devices WHERE id = $1 FOR UPDATE";

/// Takes the row of a deployment until the end of the transaction. Rows may begin to name it meanwhile.
pub(crate) const LOCK_DEPLOYMENT: &str = "SELECT 1 FROM deployments WHERE id = $1 FOR NO KEY UPDATE";

/// Lock number of an identity: a prefix of its hash. Two identities with the same prefix only wait for one another.
pub(crate) fn identity_lock(hash: &[u8; 32]) -> i64 {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(prefix)
}

/// Lock number of a device that asks what to do.
pub(crate) const fn poll_lock(device: DeviceId) -> i64 {
    let (high, low) = device.uuid().as_u64_pair();
    (high ^ low).cast_signed()
}

/// The two halves of the fleet's lock number; the two-key locks of Postgres never meet the one-key ones.
pub(crate) const fn fleet_lock() -> (i32, i32) {
    (LOCK_SPACE, 1)
}

/// The two halves of the lock number of whoever appends events.
pub(crate) const fn events_lock() -> (i32, i32) {
    (LOCK_SPACE, 2)
}

/// The two halves of the lock number of whoever removes users.
pub(crate) const fn users_lock() -> (i32, i32) {
    (LOCK_SPACE, 10)
}

/// The two halves of the lock number of whoever changes artifacts.
pub(crate) const fn artifacts_lock() -> (i32, i32) {
    (LOCK_SPACE, 40)
}

/// Which of the two a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Postgres,
    Sqlite,
}

impl Dialect {
    /// Ends a query of documents `i` that are to stay as they are until the end of the transaction. A transaction of
    /// `SQLite` that may write is alone anyway.
    pub(crate) const fn hold_documents(self) -> &'static str {
        match self {
            Self::Postgres => " FOR UPDATE OF i",
            Self::Sqlite => "",
        }
    }

    /// Words as [`words`] writes them, in `column2`, as their column keeps them.
    pub(crate) const fn words_column(self) -> &'static str {
        match self {
            Self::Postgres => "CAST(column2 AS tsvector)",
            Self::Sqlite => "column2",
        }
    }

    /// What has a text compare by its bytes, whatever its column is.
    pub(crate) const fn by_bytes(self) -> &'static str {
        match self {
            Self::Postgres => " COLLATE \"C\"",
            Self::Sqlite => "",
        }
    }

    /// A table of this name with the texts in a list, each in its column `value`: `document` is a column of JSON text, and the
    /// list all of it or its member of that name.
    pub(crate) fn elements(self, table: &str, document: &str, member: Option<&str>) -> String {
        match (self, member) {
            (Self::Postgres, None) => {
                format!("jsonb_array_elements_text(CAST({document} AS jsonb)) AS {table}(value)")
            }
            (Self::Postgres, Some(member)) => {
                format!("jsonb_array_elements_text(CAST({document} AS jsonb) -> '{member}') AS {table}(value)")
            }
            (Self::Sqlite, None) => format!("json_each({document}) AS {table}"),
            (Self::Sqlite, Some(member)) => format!("json_each({document}, '$.{member}') AS {table}"),
        }
    }

    /// Whether a word begins so: what comes before the placeholder, what after it, and what to bind there. Words have
    /// letters and digits only, so there is nothing to escape.
    pub(crate) fn word_begins(self, beginning: &str) -> (&'static str, &'static str, String) {
        match self {
            Self::Postgres => ("x.words @@ CAST(", " AS tsquery)", format!("'{beginning}':*")),
            Self::Sqlite => ("x.words LIKE ", "", format!("% {beginning}%")),
        }
    }
}

/// Words as either database takes them.
pub(crate) fn words(words: &std::collections::BTreeSet<String>) -> String {
    let mut text = String::from(" ");
    for word in words {
        text.push_str(word);
        text.push(' ');
    }
    text
}

/// A text as a part of a pattern for `LIKE … ESCAPE '!'` that stands for itself.
pub(crate) fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern
}

/// How a transaction begins in Postgres that reads several times and is to see one state, with a bound for each statement.
pub(crate) fn begin_reading(limit: std::time::Duration) -> String {
    let millis = limit.as_millis().max(1);
    format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {millis}")
}

/// What a database's refusal means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A unique value exists already.
    Duplicate,
    /// Two transactions wanted each other's rows; the same statement will work when repeated.
    Deadlock,
    /// The statement took longer than it may.
    TooSlow,
    /// The server is shutting down, full, read-only during a fail-over, or out of some resource.
    Outage,
    /// Our mistake.
    Defect,
}

/// Whether another process has the file of `SQLite` to itself for a moment.
pub(crate) fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code.len() < 5 && code.parse::<u32>().is_ok_and(|number| number & 0xff == 5))
}

/// Classifies an error code: SQLSTATE in Postgres, a result code number in `SQLite`.
pub(crate) fn fault(error: &dyn DatabaseError) -> Fault {
    if error.is_unique_violation() {
        return Fault::Duplicate;
    }
    let code = error.code().unwrap_or_default();
    match code.parse::<u32>() {
        // SQLite numbers have one to four digits, the low byte naming the family; SQLSTATE always has five characters.
        Ok(number) if code.len() < 5 => match number & 0xff {
            // interrupted, which only our own limit does
            9 => Fault::TooSlow,
            // busy, locked, out of memory, read-only, I/O error, disk full, cannot open
            5 | 6 | 7 | 8 | 10 | 13 | 14 => Fault::Outage,
            _ => Fault::Defect,
        },
        _ => match (&*code, code.get(..2).unwrap_or_default()) {
            ("40001" | "40P01", _) => Fault::Deadlock,
            ("57014", _) => Fault::TooSlow,
            // lock not available, read-only transaction (a demoted primary); in classes: connection trouble, out of
            // resources, stopped or starting or cancelled, a system (disk) error
            ("55P03" | "25006", _) | (_, "08" | "53" | "57" | "58") => Fault::Outage,
            _ => Fault::Defect,
        },
    }
}

/// Text both databases can keep: Postgres refuses the character NUL in text and in JSON, and a device that sends one
/// must not be able to fail a whole write.
pub(crate) fn without_nul(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// Whether a text can be one that is kept as it came: one with a NUL is in no table, and Postgres refuses to look for it.
pub(crate) fn may_be_kept(text: &str) -> bool {
    !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_nul_is_left_alone() {
        assert!(matches!(without_nul("kitchen"), std::borrow::Cow::Borrowed("kitchen")));
        assert_eq!(without_nul("a\0b"), "a\u{fffd}b");
    }

    #[test]
    fn an_identity_lock_is_a_prefix_of_the_hash() {
        let mut hash = [0; 32];
        hash[7] = 1;
        assert_eq!(identity_lock(&hash), 1);
    }
}
