-- Every connection of every device, not only the last one. A beginning that was never written (a node of the version
-- before, a full queue) leaves `since_at` empty.
CREATE TABLE connection_log (
    device     BLOB NOT NULL,
    epoch      INTEGER NOT NULL,
    node       BLOB NOT NULL,
    address    TEXT,
    since_at   INTEGER,
    until_at   INTEGER,
    reason     TEXT,
    bytes_in   INTEGER NOT NULL,
    bytes_out  INTEGER NOT NULL,
    -- Microseconds.
    round_trip INTEGER,
    -- Epochs grow with time: read backwards, this is a device's history, newest first.
    PRIMARY KEY (device, epoch)
) STRICT, WITHOUT ROWID;

-- What a node that died has left behind.
CREATE INDEX connection_log_open ON connection_log (node, device) WHERE until_at IS NULL;
-- What retention removes.
CREATE INDEX connection_log_by_end ON connection_log (until_at) WHERE until_at IS NOT NULL;
