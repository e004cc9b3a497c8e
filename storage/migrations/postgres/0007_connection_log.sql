-- Every connection of every device, not only the last one. A beginning that was never written (a node of the version
-- before, a full queue) leaves `since_at` empty.
CREATE TABLE connection_log (
    device     UUID NOT NULL,
    epoch      BIGINT NOT NULL,
    node       UUID NOT NULL,
    address    TEXT,
    since_at   BIGINT,
    until_at   BIGINT,
    reason     TEXT,
    bytes_in   BIGINT NOT NULL,
    bytes_out  BIGINT NOT NULL,
    -- Microseconds.
    round_trip BIGINT,
    -- Epochs grow with time: read backwards, this is a device's history, newest first.
    PRIMARY KEY (device, epoch)
);

-- What a node that died has left behind.
CREATE INDEX connection_log_open ON connection_log (node, device) WHERE until_at IS NULL;
-- What retention removes.
CREATE INDEX connection_log_by_end ON connection_log (until_at) WHERE until_at IS NOT NULL;
