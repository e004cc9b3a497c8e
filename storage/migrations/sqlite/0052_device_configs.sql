-- What devices are told to be and what they say they are: two JSON objects of texts, kept as text. A device that nobody has
-- said anything about has no row. `deployment` is the last one that was asked for.
CREATE TABLE device_configs (
    device      BLOB NOT NULL PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    configured  TEXT NOT NULL,
    reported    TEXT NOT NULL,
    deployment  BLOB,
    updated_at  INTEGER NOT NULL,
    reported_at INTEGER
) STRICT, WITHOUT ROWID;
