-- What is known about each device, as one document: {scope: {name: {"value": …, "description": …, "timestamp": …}}}.
CREATE TABLE inventory (
    device      BLOB NOT NULL PRIMARY KEY,
    document    TEXT NOT NULL,
    -- When the device last reported; NULL if it never has.
    reported_at INTEGER,
    revision    INTEGER NOT NULL DEFAULT 0,
    tags_etag   TEXT
) STRICT;
