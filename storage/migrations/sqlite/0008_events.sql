-- What happened, for those who watch. Numbers are given in the order of commits and without a hole, from `event_log`;
-- `key` makes an event that is appended twice appear once. `body` is JSON, kept as text.
CREATE TABLE events (
    id     INTEGER NOT NULL PRIMARY KEY,
    key    TEXT NOT NULL UNIQUE,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    device BLOB,
    body   TEXT NOT NULL
) STRICT;

-- What retention removes.
CREATE INDEX events_by_time ON events (at);

-- One row: the last number given, and the largest one that retention has removed.
CREATE TABLE event_log (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    newest   INTEGER NOT NULL DEFAULT 0,
    expired  INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO event_log (only_row) VALUES (1);
