-- Artifacts on their way in. A row is here before the first byte of its object is written, and goes in the transaction that
-- makes the artifact known; so whatever the object store has is named by one of the two tables. `touched` is renewed while
-- somebody works on it.
CREATE TABLE uploads (
    id       UUID PRIMARY KEY,
    artifact UUID NOT NULL,
    kind     TEXT NOT NULL,
    state    TEXT NOT NULL,
    object   TEXT NOT NULL,
    parts    TEXT,
    request  TEXT NOT NULL,
    created  BIGINT NOT NULL,
    expires  BIGINT NOT NULL,
    touched  BIGINT NOT NULL,
    reason   TEXT
);

CREATE INDEX uploads_by_state ON uploads (state, touched);
CREATE INDEX uploads_by_artifact ON uploads (artifact);
