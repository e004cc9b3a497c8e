-- The last known connection of each device. `epoch` numbers a device's connections: a write with an older one is late.
CREATE TABLE connections (
    device     BLOB NOT NULL PRIMARY KEY,
    connected  INTEGER NOT NULL,
    node       BLOB,
    epoch      INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    reason     TEXT
) STRICT, WITHOUT ROWID;

-- What a node that died has left behind.
CREATE INDEX connections_by_node ON connections (node, device) WHERE connected;
