-- Sessions between an operator and a device: who, when, how long, why it ended. `generation` counts how often a session
-- moved to another node: a write of an older one is late. `people` is a JSON array, kept as text.
CREATE TABLE sessions (
    id                UUID PRIMARY KEY,
    device            UUID NOT NULL,
    user_id           TEXT COLLATE "C" NOT NULL,
    node              UUID NOT NULL,
    generation        INTEGER NOT NULL DEFAULT 0,
    kind              TEXT NOT NULL,
    address           TEXT,
    kept              BOOLEAN NOT NULL,
    recorded          BOOLEAN NOT NULL,
    opened_at         BIGINT NOT NULL,
    ended_at          BIGINT,
    reason            TEXT,
    bytes_to_device   BIGINT NOT NULL DEFAULT 0,
    bytes_to_operator BIGINT NOT NULL DEFAULT 0,
    recorded_bytes    BIGINT NOT NULL DEFAULT 0,
    truncated         BOOLEAN NOT NULL DEFAULT FALSE,
    people            TEXT NOT NULL DEFAULT '[]'
-- Room on each page, so that figures rewrite a row next to its old version without touching an index.
) WITH (fillfactor = 85);

-- The orders in which sessions are listed (read backwards: newest first).
CREATE INDEX sessions_by_time ON sessions (opened_at, id);
CREATE INDEX sessions_by_device ON sessions (device, opened_at, id);
CREATE INDEX sessions_by_user ON sessions (user_id, opened_at, id);
-- What a node that died has left behind.
CREATE INDEX sessions_open ON sessions (node) WHERE ended_at IS NULL;
-- What retention removes.
CREATE INDEX sessions_by_end ON sessions (ended_at, id) WHERE ended_at IS NOT NULL;
