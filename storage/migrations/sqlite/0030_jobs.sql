-- Background work that has to be done at least once. `due_at` is when a waiting job may be taken, and for one that runs
-- when its lease ends, so that one index finds both; it is NULL for work that is over. `claim` grows with every taker and
-- with every word of an operator: who holds an older number has lost the job. `input` is JSON, kept as text.
CREATE TABLE jobs (
    id           BLOB NOT NULL PRIMARY KEY,
    key          TEXT UNIQUE,
    kind         TEXT NOT NULL,
    input        TEXT NOT NULL,
    state        TEXT NOT NULL,
    due_at       INTEGER,
    attempts     INTEGER NOT NULL DEFAULT 0,
    claim        INTEGER NOT NULL DEFAULT 0,
    node         BLOB,
    error        TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;

CREATE INDEX jobs_due ON jobs (due_at, id) WHERE due_at IS NOT NULL;
-- The orders in which jobs are listed (read backwards: newest first).
CREATE INDEX jobs_by_time ON jobs (created_at, id);
CREATE INDEX jobs_by_state ON jobs (state, created_at, id);
-- What retention removes.
CREATE INDEX jobs_over ON jobs (state, updated_at) WHERE due_at IS NULL;
-- What a service that starts again finds of its former life.
CREATE INDEX jobs_by_node ON jobs (node) WHERE state = 'running';
