-- Filters that somebody gave a name: groups whose members are whoever passes now. `terms` is JSON, kept as text.
CREATE TABLE saved_filters (
    id         UUID PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL UNIQUE,
    terms      TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
