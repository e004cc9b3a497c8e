-- Where alerts are sent. `recipients` is a JSON array of e-mail addresses, kept as text; an empty one means all users.
CREATE TABLE channels (
    id         UUID PRIMARY KEY,
    kind       TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL UNIQUE,
    enabled    BOOLEAN NOT NULL,
    builtin    BOOLEAN NOT NULL,
    url        TEXT,
    secret     TEXT,
    recipients TEXT NOT NULL DEFAULT '[]',
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- E-mail to all users is always there, and can be switched off.
INSERT INTO channels (id, kind, name, enabled, builtin, created_at, updated_at)
VALUES ('00000000-0000-4000-8000-000000000001', 'email', 'email', TRUE, TRUE, 0, 0);

-- What is kept from being sent. A column that is NULL stands for any.
CREATE TABLE mutes (
    id           UUID PRIMARY KEY,
    device       UUID,
    subject_type TEXT COLLATE "C",
    subject_name TEXT COLLATE "C",
    channel      UUID REFERENCES channels (id) ON DELETE CASCADE,
    until        BIGINT,
    comment      TEXT,
    created_by   TEXT NOT NULL,
    created_at   BIGINT NOT NULL
);

CREATE INDEX mutes_by_time ON mutes (created_at, id);
