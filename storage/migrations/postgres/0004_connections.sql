-- The last known connection of each device. `epoch` numbers a device's connections: a write with an older one is late.
CREATE TABLE connections (
    device     UUID PRIMARY KEY,
    connected  BOOLEAN NOT NULL,
    node       UUID,
    epoch      BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    reason     TEXT
);

-- What a node that died has left behind.
CREATE INDEX connections_by_node ON connections (node, device) WHERE connected;
