-- What happened, for those who watch. Numbers are given in the order of commits and without a hole, from `event_log`;
-- `key` makes an event that is appended twice appear once. `body` is JSON, kept as text.
CREATE TABLE events (
    id     BIGINT PRIMARY KEY,
    key    TEXT COLLATE "C" NOT NULL UNIQUE,
    at     BIGINT NOT NULL,
    kind   TEXT NOT NULL,
    device UUID,
    body   TEXT NOT NULL
);

-- What retention removes.
CREATE INDEX events_by_time ON events (at);

-- One row: the last number given, and the largest one that retention has removed.
CREATE TABLE event_log (
    only_row BIGINT PRIMARY KEY CHECK (only_row = 1),
    newest   BIGINT NOT NULL DEFAULT 0,
    expired  BIGINT NOT NULL DEFAULT 0
);

INSERT INTO event_log (only_row) VALUES (1);
