-- Sessions between an operator and a device: who, when, how long, why it ended. `generation` counts how often a session
-- moved to another node: a write of an older one is late. `people` is a JSON array, kept as text.
CREATE TABLE sessions (
    id                BLOB NOT NULL PRIMARY KEY,
    device            BLOB NOT NULL,
    user_id           TEXT NOT NULL,
    node              BLOB NOT NULL,
    generation        INTEGER NOT NULL DEFAULT 0,
    kind              TEXT NOT NULL,
    address           TEXT,
    kept              INTEGER NOT NULL,
    recorded          INTEGER NOT NULL,
    opened_at         INTEGER NOT NULL,
    ended_at          INTEGER,
    reason            TEXT,
    bytes_to_device   INTEGER NOT NULL DEFAULT 0,
    bytes_to_operator INTEGER NOT NULL DEFAULT 0,
    recorded_bytes    INTEGER NOT NULL DEFAULT 0,
    truncated         INTEGER NOT NULL DEFAULT 0,
    people            TEXT NOT NULL DEFAULT '[]'
) STRICT;

-- The orders in which sessions are listed (read backwards: newest first).
CREATE INDEX sessions_by_time ON sessions (opened_at, id);
CREATE INDEX sessions_by_device ON sessions (device, opened_at, id);
CREATE INDEX sessions_by_user ON sessions (user_id, opened_at, id);
-- What a node that died has left behind.
CREATE INDEX sessions_open ON sessions (node) WHERE ended_at IS NULL;
-- What retention removes.
CREATE INDEX sessions_by_end ON sessions (ended_at, id) WHERE ended_at IS NOT NULL;
