-- Who changed what, when, from where: one row before the change, one row after it with what came of it. Nothing is ever
-- changed here; retention removes what is old. `key` makes an entry that is appended twice appear once.
CREATE TABLE audit_log (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    key         TEXT UNIQUE,
    at          INTEGER NOT NULL,
    actor_kind  TEXT NOT NULL,
    actor       TEXT,
    actor_email TEXT,
    action      TEXT NOT NULL,
    path        TEXT,
    object      TEXT,
    address     TEXT,
    request     TEXT,
    details     TEXT
) STRICT;

CREATE TABLE audit_outcomes (
    entry  INTEGER NOT NULL PRIMARY KEY REFERENCES audit_log (id) ON DELETE CASCADE,
    at     INTEGER NOT NULL,
    status INTEGER NOT NULL
) STRICT;

CREATE INDEX audit_log_by_time ON audit_log (at);
CREATE INDEX audit_log_by_actor ON audit_log (actor, id);
CREATE INDEX audit_log_by_object ON audit_log (object, id);

CREATE TRIGGER audit_log_stays BEFORE UPDATE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only appended to');
END;

CREATE TRIGGER audit_outcomes_stay BEFORE UPDATE ON audit_outcomes
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only appended to');
END;
