-- Stores of artifacts beside the hub's own. An object that is in one has its id and a colon in front of its path; one without
-- is in the hub's own. A store stays as long as anything may be in it. `place` is what makes it another store: `settings`
-- without who asks.
CREATE TABLE artifact_stores (
    id         UUID NOT NULL PRIMARY KEY,
    place      TEXT NOT NULL UNIQUE,
    settings   TEXT NOT NULL,
    is_current BOOLEAN NOT NULL,
    changed    BIGINT NOT NULL
);

CREATE UNIQUE INDEX artifact_stores_current ON artifact_stores (is_current) WHERE is_current;
