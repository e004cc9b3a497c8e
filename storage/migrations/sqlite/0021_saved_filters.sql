-- Filters that somebody gave a name: groups whose members are whoever passes now. `terms` is JSON, kept as text.
CREATE TABLE saved_filters (
    id         BLOB NOT NULL PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    terms      TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
