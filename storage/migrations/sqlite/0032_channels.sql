-- Where alerts are sent. `recipients` is a JSON array of e-mail addresses, kept as text; an empty one means all users.
CREATE TABLE channels (
    id         BLOB NOT NULL PRIMARY KEY,
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL UNIQUE,
    enabled    INTEGER NOT NULL,
    builtin    INTEGER NOT NULL,
    url        TEXT,
    secret     TEXT,
    recipients TEXT NOT NULL DEFAULT '[]',
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- E-mail to all users is always there, and can be switched off.
INSERT INTO channels (id, kind, name, enabled, builtin, created_at, updated_at)
VALUES (x'00000000000040008000000000000001', 'email', 'email', TRUE, TRUE, 0, 0);

-- What is kept from being sent. A column that is NULL stands for any.
CREATE TABLE mutes (
    id           BLOB NOT NULL PRIMARY KEY,
    device       BLOB,
    subject_type TEXT,
    subject_name TEXT,
    channel      BLOB REFERENCES channels (id) ON DELETE CASCADE,
    until        INTEGER,
    comment      TEXT,
    created_by   TEXT NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;

CREATE INDEX mutes_by_time ON mutes (created_at, id);
